"""Pseudo-labels: the authors' distances, SciPy's, draws that are fair, and what is refused."""

import numpy as np
import pytest
import scipy.stats
from facezoo.errors import InputError
from facezoo.models.sdd_fiqa import pseudo_labels as module
from facezoo.models.sdd_fiqa.pseudo_labels import pseudo_labels, wasserstein_distance
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def recorded(golden):
    content = np.load(golden / "sdd_fiqa" / "pseudo_labels.npz")
    embeddings = np.zeros((180, 180))
    embeddings[np.tril_indices(180)] = content["lower"]
    return {**content, "embeddings": embeddings}


@pytest.fixture
def faces(rng):
    """Return 60 embeddings of 8 people with 3 to 14 pictures, and who they are."""
    people = np.repeat(np.arange(8), [3, 4, 5, 6, 7, 9, 12, 14])
    centres = rng.standard_normal((8, 32))
    return centres[people] + rng.standard_normal((60, 32)), people


def literal_distances(embeddings, people, references):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = []
    for index, person in enumerate(people):
        partners = [k for k in np.flatnonzero(references) if k != index]
        same = [unit[index] @ unit[k] for k in partners if people[k] == person]
        other = [unit[index] @ unit[k] for k in partners if people[k] != person]
        distances.append(scipy.stats.wasserstein_distance(same, other))
    return np.array(distances)


def check(found, recorded):
    np.testing.assert_allclose(found.distances, recorded["wasserstein"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.labels, recorded["label_0_100"], rtol=0, atol=1e-6)


def test_labels_of_all_pairs_equal_the_authors(recorded):
    check(pseudo_labels(recorded["embeddings"], recorded["identity"], pairs=None), recorded)


@pytest.mark.shared
def test_labels_of_the_original_embeddings_equal_the_authors(shared):
    golden = np.load(shared / "golden" / "numerics" / "sddfiqa_pseudo_labels.npz")
    check(pseudo_labels(golden["embeddings"], golden["identity"], pairs=None), golden)


def test_labels_of_drawn_pairs_are_near_those_of_all(recorded):
    drawn = pseudo_labels(recorded["embeddings"], recorded["identity"])
    assert np.corrcoef(drawn.labels, recorded["label_0_100"])[0, 1] > 0.999
    assert drawn.labels.min() >= 0.0
    assert drawn.labels.max() <= 100.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_wasserstein_equals_scipys(seed, first_size, second_size):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 7, (2, 3, 9)) / 7.0
    first, second = first[:, :first_size], second[:, :second_size]
    expected = [scipy.stats.wasserstein_distance(a, b) for a, b in zip(first, second)]
    np.testing.assert_allclose(wasserstein_distance(first, second), expected, atol=1e-12)


def test_people_in_any_order_and_of_any_size(faces, rng):
    embeddings, people = faces
    order = rng.permutation(60)
    found = pseudo_labels(embeddings[order], people[order] * 7 - 3, pairs=None)
    expected = literal_distances(embeddings, people, np.ones(60, bool))
    np.testing.assert_allclose(found.distances, expected[order], atol=1e-12)


@pytest.mark.parametrize("block", [1, 50, 1 << 20])
def test_blocks_change_nothing_where_nothing_is_drawn(faces, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    found = pseudo_labels(*faces, pairs=None)
    expected = literal_distances(*faces, np.ones(60, bool))
    np.testing.assert_allclose(found.distances, expected, atol=1e-12)


def test_only_references_are_partners(faces, rng):
    embeddings, people = faces
    # Two references a person: each has one partner, the person's other pictures have two.
    references = np.zeros(60, bool)
    references[np.flatnonzero(np.diff(people, prepend=-1))] = True
    references[np.flatnonzero(np.diff(people, prepend=-1)) + 1] = True
    found = pseudo_labels(embeddings, people, pairs=None, references=references)
    np.testing.assert_allclose(
        found.distances, literal_distances(embeddings, people, references), atol=1e-12
    )


def test_labels_are_the_same_for_the_same_seed(faces):
    first, again, other = (
        pseudo_labels(*faces, pairs=2, rounds=3, seed=seed).labels for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_draw_takes_different_partners_of_the_right_person(faces, monkeypatch):
    embeddings, people = faces
    drawn = []
    monkeypatch.setattr(
        module, "wasserstein_distance", lambda a, b: drawn.append((a, b)) or a.sum(axis=1)
    )
    # With these similarities every value names the partner, and the person's own are above 1,000.
    monkeypatch.setattr(
        module._Gallery,
        "similarities",
        lambda gallery, rows: np.arange(60.0) + 1000.0 * (people[rows][:, None] == people),
    )
    pseudo_labels(embeddings, people, pairs=5, rounds=4)
    for same, other in drawn:
        assert same.shape[1] in (2, 3, 4, 5)  # as many as there are, 5 at most
        assert other.shape[1] == 5
        assert (same >= 1000).all()
        assert (other < 1000).all()
        assert all(len(set(row)) == len(row) for row in [*same, *other])
    assert len({tuple(row) for _, other in drawn for row in other}) > 200


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_number_is_drawn_as_often_as_any(seed):
    available = np.repeat([3, 5, 8], 2000)
    drawn = module._draw(available, 3, np.random.default_rng(seed))
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    assert (drawn < available[:, None]).all()
    for size in (5, 8):
        counts = np.bincount(drawn[available == size].ravel(), minlength=size)
        assert np.abs(counts / 2000 - 3 / size).max() < 0.06  # more than five standard deviations


def test_blurred_copies_get_lower_labels_against_sharp_references(rng):
    # Each person's pictures in four strengths; a blurred one is further from every sharp one.
    people = np.repeat(np.arange(20), 12)
    strength = np.tile([0.0, 1.0, 2.0, 4.0], 60)
    picture = np.repeat(rng.standard_normal((60, 64)), 4, axis=0)
    # What blur does is common to all: blurred pictures resemble each other.
    haze = rng.standard_normal(64)
    who = np.repeat(rng.standard_normal((20, 64)), 12, axis=0)
    embeddings = 2.0 * who + 0.7 * picture + strength[:, None] * haze
    labels = pseudo_labels(embeddings, people, references=strength == 0.0).labels
    means = [labels[strength == value].mean() for value in (0.0, 1.0, 2.0, 4.0)]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": np.arange(60)}, r"image 0 has no partner of the same person \(60 such\)"),
        ({"identities": np.zeros(60)}, r"image 0 has no partner of another person \(60 such\)"),
        ({"references": np.arange(60) == 59}, "image 0 has no partner of the same person"),
        ({"identities": np.arange(3)}, r"got \(60, 32\), \(3,\) and \(60,\)"),
        ({"references": np.ones(3, bool)}, r"and \(3,\)"),
        (
            {"embeddings": np.zeros((60, 32))},
            r"embedding of image 0 is all zero or not finite \(60 such\)",
        ),
        (
            {"embeddings": np.full((60, 32), np.nan)},
            "embedding of image 0 is all zero or not finite",
        ),
        ({"embeddings": np.ones((60, 32))}, "all images have the same distance"),
        ({"embeddings": np.ones((0, 32)), "identities": np.ones(0)}, r"got \(0, 32\)"),
        ({"pairs": 0}, "must be at least 1"),
        ({"rounds": 0}, "must be at least 1"),
        ({"seed": -1}, "the seed at least 0, got 24, 12 and -1"),
    ],
)
def test_what_cannot_be_labelled_is_refused(faces, change, message):
    arguments = {"embeddings": faces[0], "identities": faces[1], **change}
    with pytest.raises(InputError, match=message):
        pseudo_labels(**arguments)


def test_an_original_is_no_partner_of_its_copies(faces, rng):
    embeddings, people = faces
    # Each picture and a noisy copy of it; only pictures are references.
    copies = embeddings + 0.3 * rng.standard_normal(embeddings.shape)
    both, who = np.concatenate([embeddings, copies]), np.concatenate([people, people])
    references = np.arange(120) < 60
    originals = np.arange(120) % 60
    found = pseudo_labels(both, who, pairs=None, references=references, originals=originals)
    unit = both / np.linalg.norm(both, axis=1, keepdims=True)
    for index in range(120):
        partners = references & (np.arange(120) != originals[index])
        same, other = partners & (who == who[index]), partners & (who != who[index])
        expected = scipy.stats.wasserstein_distance(
            unit[same] @ unit[index], unit[other] @ unit[index]
        )
        assert found.distances[index] == pytest.approx(expected, abs=1e-12)
    without = pseudo_labels(both, who, pairs=None, references=references)
    assert (without.distances[60:] > found.distances[60:]).all()
    assert np.array_equal(without.distances[:60], found.distances[:60])


@pytest.mark.parametrize(
    ("index", "original", "message"),
    [(0, 1, "also a reference"), (59, 0, "of another person"), (59, 60, "60 image indices")],
)
def test_originals_that_cannot_be_are_refused(faces, index, original, message):
    embeddings, people = faces
    originals = np.arange(60)
    originals[index] = original
    references = np.arange(60) < 50
    with pytest.raises(InputError, match=message):
        pseudo_labels(embeddings, people, references=references, originals=originals)
