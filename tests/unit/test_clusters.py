"""Groups of faces: by hand, against SciPy, and whatever the order."""

import numpy as np
import pytest
from facezoo.errors import InputError
from facezoo.metrics.clusters import score_clusters
from facezoo.pipeline.clusters import face_weights, find_people
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage


def at(*degrees):
    """Return unit vectors of two dimensions."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def partition(numbers):
    return {tuple(np.flatnonzero(numbers == one)) for one in np.unique(numbers)}


def cosine(*degrees):
    return float(np.cos(np.radians(degrees)).mean())


def test_the_average_decides_not_the_nearest_pair():
    # A chain: each face is 20 degrees from the next. Single linkage would join all.
    faces = at(0, 20, 40, 60)
    found = find_people(faces, np.arange(4), cosine(25))
    assert found.numbers.tolist() == [0, 0, 1, 1]
    # The average over the four pairs between both: 40, 60, 20, 40 degrees.
    between = cosine(40, 60, 20, 40)
    assert find_people(faces, np.arange(4), between - 1e-6).count == 1
    found = find_people(faces, np.arange(4), between + 1e-6)
    assert found.count == 2
    (join,) = found.joins
    assert (join.first, join.second, join.share_photo) == (0, 1, False)
    assert join.similarity == pytest.approx(between, abs=1e-6)


def test_a_weight_counts_as_so_many_faces():
    faces = at(0, 10, 50)
    repeated = find_people(at(0, 10, 10, 10, 50), np.arange(5), 0.7)
    weighted = find_people(faces, np.arange(3), 0.7, np.array([1, 3, 1]))
    assert weighted.splits[0].similarity == pytest.approx(repeated.splits[0].similarity, abs=1e-6)
    assert weighted.splits[0].similarity == pytest.approx(cosine(50, 40, 40, 40), abs=1e-6)
    assert weighted.similarity[0] == pytest.approx(repeated.similarity[0], abs=1e-6)


def test_two_faces_of_one_photo_are_two_people():
    faces, photos = at(0, 1, 2, 90), np.array([7, 7, 8, 8])
    found = find_people(faces, photos, 0.5)
    assert found.numbers[0] != found.numbers[1]
    assert found.count == 3
    join = found.joins[0]
    assert join.share_photo and join.similarity > 0.99


def test_what_was_joined_last_is_the_split_to_look_at():
    found = find_people(at(0, 2, 4, 40, 42), np.arange(5), 0.7)
    assert found.count == 1
    (split,) = found.splits
    assert split.faces == (3, 4)
    assert split.similarity == pytest.approx(cosine(40, 38, 36, 42, 40, 38), abs=1e-6)


def test_a_single_face_cannot_be_split():
    assert find_people(at(0, 90), np.arange(2), 0.95).splits == ()


def test_as_scipy_joins_all_pairs():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(12, 8))
    faces = (centres[rng.integers(12, size=150)] + rng.normal(0, 0.5, (150, 8))).astype(np.float32)
    units = faces / np.linalg.norm(faces, axis=1, keepdims=True)
    distances = (1 - units @ units.T)[np.triu_indices(150, 1)]
    for threshold in (0.3, 0.5, 0.7, 0.9):
        expected = fcluster(linkage(distances, "average"), 1 - threshold, "distance")
        for neighbours in (150, 64):
            found = find_people(faces, np.arange(150), threshold, neighbours=neighbours)
            assert partition(found.numbers) == partition(expected), threshold


def test_few_neighbours_leave_nobody_in_two():
    """Each of a hundred equal faces has all its neighbours within its own ten."""
    rng = np.random.default_rng(2)
    tens = rng.normal(size=(1, 16)) + 0.05 * rng.normal(size=(10, 16))
    faces = (tens.repeat(10, axis=0) + 1e-4 * rng.normal(size=(100, 16))).astype(np.float32)
    assert find_people(faces, np.arange(100), 0.5, neighbours=3).count == 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_order_gives_the_same_people_and_no_photo_twice(data):
    count = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    centres = rng.normal(size=(5, 6))
    faces = (centres[rng.integers(5, size=count)] + rng.normal(0, 0.6, (count, 6))).astype("f4")
    photos, weights = rng.integers(0, 15, count), rng.uniform(0.1, 9, count)
    threshold = data.draw(st.sampled_from([-1.0, 0.0, 0.4, 0.8]))
    neighbours = data.draw(st.sampled_from([2, 64]))
    found = find_people(faces, photos, threshold, weights, neighbours=neighbours)
    order = rng.permutation(count)
    again = find_people(
        faces[order], photos[order], threshold, weights[order], neighbours=neighbours
    )
    back = np.empty(count, int)
    back[order] = again.numbers
    assert partition(found.numbers) == partition(back)
    assert len({*zip(photos.tolist(), found.numbers.tolist())}) == count
    assert (np.unique(found.numbers) == np.arange(found.count)).all()


def test_numbers_follow_the_first_faces():
    assert find_people(at(90, 0, 91, 1, 180), np.arange(5), 0.9).numbers.tolist() == [0, 1, 0, 1, 2]
    assert find_people(np.empty((0, 2), np.float32), np.empty(0, int), 0.9).count == 0


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="an embedding is zero or not finite"):
        find_people(np.zeros((1, 2), np.float32), np.zeros(1, int), 0.5)
    with pytest.raises(InputError, match="a weight of a face is not a positive number"):
        find_people(at(0), np.zeros(1, int), 0.5, np.zeros(1))


def test_scores_by_hand():
    # Groups {a a b}, {a}, {b b}: the example of three people's counts written out.
    found = score_clusters(list("aababb"), [0, 0, 0, 1, 2, 2])
    assert (found.faces, found.people, found.groups, found.mixed) == (6, 2, 3, 1)
    assert found.b_cubed.precision == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 + 1 + 1) / 6)
    assert found.b_cubed.recall == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 / 3 + 2 / 3 * 2) / 6)
    # Pairs in one group: 3 + 1, of which 1 + 1 are of one person; pairs of one person: 3 + 3.
    assert found.pairwise.precision == pytest.approx(2 / 4)
    assert found.pairwise.recall == pytest.approx(2 / 6)
    assert found.pairwise.f == pytest.approx(0.4)


def test_scores_of_single_faces():
    alone = score_clusters(["a", "b"], [0, 1])
    assert (alone.b_cubed.f, alone.pairwise.f) == (1.0, 1.0)
    with pytest.raises(InputError, match="no face has both a person and a group"):
        score_clusters([], [])


def test_weights_are_of_one_scale():
    lengths = np.array([20.0, 10.0])
    assert face_weights(np.array([50.0, np.nan]), lengths).tolist() == [20.0, 10.0]
    assert face_weights(np.array([50.0, 0.0]), lengths).tolist() == [50.0, 0.5]
    assert face_weights(np.array([-1.0, 0.0]), lengths).tolist() == [1.0, 1.0]
    assert face_weights(np.empty(0), np.empty(0)).tolist() == []
