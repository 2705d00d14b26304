"""Quality metrics: the authors' curve, hand-made cases, what a random score must give."""

import math

import numpy as np
import pytest
import scipy.stats
from facezoo.errors import InputError
from facezoo.metrics.quality import (
    error_versus_discard,
    error_versus_reject,
    pair_quality,
    spearman,
)
from facezoo.metrics.verification import angular_distance, threshold_at_fmr
from hypothesis import given, settings
from hypothesis import strategies as st

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def recorded(golden):
    return np.load(golden / "magface" / "error_versus_reject.npz")


def check_curve(found, recorded):
    expected = recorded["fnmr"]
    np.testing.assert_allclose(found.fnmr, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.thresholds, recorded["threshold_printed"], rtol=0, atol=1e-8)
    assert np.array_equal(found.rates, recorded["unconsidered_rates"][: len(expected)])


def test_error_versus_reject_equals_the_authors(recorded):
    found = error_versus_reject(recorded["distances"], recorded["issame"], recorded["quality"])
    check_curve(found, recorded)
    # The last of the 20 rates leaves too few impostors, and the original drops it without a word.
    assert len(found.fnmr) == 19


@pytest.mark.shared
def test_error_versus_reject_of_embeddings_equals_the_authors(shared):
    golden = np.load(shared / "golden" / "numerics" / "evrc.npz")
    first, second = golden["emb1"].astype(np.float64), golden["emb2"].astype(np.float64)
    quality = pair_quality(first, second)
    np.testing.assert_allclose(quality, golden["quality"], rtol=0, atol=TOLERANCE)
    distances = angular_distance(first, second)
    check_curve(error_versus_reject(distances, golden["issame"], quality), golden)


def test_error_versus_reject_by_hand():
    # 2,001 impostors at 0.5, 0.5005, …: index 2000 // 1000 = 2 is 0.501. Of the ten genuine pairs
    # three are not nearer; they have the lowest qualities, the other seven the highest.
    impostors = 0.5 + 0.0005 * np.arange(2001)
    genuine = np.array([0.9, 0.8, impostors[2], 0.4999, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])
    quality = np.concatenate([np.arange(3.0), np.arange(7.0) + 9999, np.arange(2001) + 10.0])
    distances, is_same = np.concatenate([genuine, impostors]), np.arange(2011) < 10
    found = error_versus_reject(distances, is_same, quality)
    assert found.thresholds[0] == pytest.approx(0.501)
    assert found.fnmr[0] == pytest.approx(0.3)  # at the threshold itself a pair is rejected
    # int(0.05 * 2011) = 100 pairs go: those three and 97 impostors, 1,904 are left, index 1.
    assert found.thresholds[1] == pytest.approx(impostors[97 + 1])
    assert found.fnmr[1] == 0.0


def test_without_genuine_pairs_left_there_is_no_rate():
    distances, is_same = np.linspace(0, 1, 1000), np.arange(1000) < 10
    with pytest.raises(
        InputError, match="no genuine pair is left after discarding 5% of the pairs"
    ):
        error_versus_reject(distances, is_same, np.arange(1000.0))


@pytest.mark.parametrize(("impostors", "points"), [(100, 0), (101, 1)])
def test_a_hundred_impostors_are_too_few_for_the_authors_rule(impostors, points):
    is_same = np.arange(100 + impostors) < 100
    distances = np.linspace(0, 1, len(is_same))
    assert len(error_versus_reject(distances, is_same, is_same + 0.0).fnmr) == points


def pairs_of(genuine, impostors, quality):
    is_same = np.arange(len(genuine) + len(impostors)) < len(genuine)
    quality = np.concatenate([quality, np.zeros(len(impostors))])
    return np.concatenate([genuine, impostors]), is_same, quality


def test_error_versus_discard_by_hand():
    # FMR 0.1 of 110 impostors 0.4, 0.41, …: 11 may match, the twelfth, 0.51, is the threshold.
    impostors = 0.4 + 0.01 * np.arange(110)
    genuine = np.array([0.9, 0.9, 0.2, 0.3, 0.51, 0.1, 0.1, 0.1, 0.1, 0.1])
    curve = error_versus_discard(*pairs_of(genuine, impostors, np.arange(10.0)), 0.1, resamples=50)
    assert curve.threshold == pytest.approx(0.51)
    at = dict(zip(np.round(curve.discards, 2), curve.fnmr))
    assert at[0.0] == pytest.approx(0.3)
    assert at[0.1] == pytest.approx(2 / 9)
    assert at[0.15] == pytest.approx(1.5 / 8.5)  # half of the second pair, in proportion
    assert at[0.2] == pytest.approx(1 / 8)
    assert at[0.4] == pytest.approx(1 / 6)
    assert at[0.5] == 0.0
    middles = (curve.fnmr[1:] + curve.fnmr[:-1]) / 2.0  # trapezoids of width 0.01
    assert curve.auc.value == pytest.approx(middles.sum() / 100.0)
    assert curve.partial_auc.value == pytest.approx(middles[:30].sum() / 100.0)
    assert curve.relative_auc.value == pytest.approx(curve.auc.value / (0.95 * 0.3))
    assert curve.aoc.value == pytest.approx(1.0 - curve.auc.value / 0.3)


def test_the_threshold_is_the_nearest_impostor_that_may_not_match():
    impostors = np.repeat([0.5, 0.6, 0.7, 0.8], 10)
    for fmr, threshold in ((0.25, 0.6), (0.49, 0.6), (0.5, 0.7)):
        pairs = pairs_of([0.55, 0.9], impostors, [1.0, 2.0])
        curve = error_versus_discard(*pairs, fmr, resamples=10)
        assert curve.threshold == -threshold_at_fmr(-impostors, fmr).similarity == threshold
        assert np.mean(impostors < threshold) <= fmr


def test_pairs_of_equal_quality_leave_in_proportion(rng):
    genuine, impostors = rng.normal(0.4, 0.1, 500), rng.normal(0.6, 0.1, 1000)
    curve = error_versus_discard(*pairs_of(genuine, impostors, np.ones(500)), 0.01, resamples=50)
    np.testing.assert_allclose(curve.fnmr, curve.fnmr[0], rtol=1e-12)
    for interval in (curve.relative_auc, curve.aoc):
        assert interval.low == pytest.approx(interval.high)
    assert curve.relative_auc.value == pytest.approx(1.0)
    assert curve.aoc.value == pytest.approx(0.05)


def test_a_good_score_beats_random_discard_and_a_random_one_does_not(rng):
    quality = rng.uniform(0, 1, 1000)
    genuine = rng.normal(0.5, 0.02, 1000) - 0.2 * quality
    impostors = rng.normal(0.5, 0.05, 1000)
    good = error_versus_discard(*pairs_of(genuine, impostors, quality), 0.01, resamples=200)
    assert good.relative_auc.high < 1.0
    assert good.relative_auc.low <= good.relative_auc.value <= good.relative_auc.high
    assert good.partial_auc.low <= good.partial_auc.value <= good.partial_auc.high < good.auc.high
    assert (good.low <= good.fnmr + 1e-12).all()
    assert (good.fnmr <= good.high + 1e-12).all()
    assert good.aoc.low == pytest.approx(1.0 - 0.95 * good.relative_auc.high)
    shuffled = pairs_of(genuine, impostors, rng.permutation(quality))
    chance = error_versus_discard(*shuffled, 0.01, resamples=200)
    assert chance.relative_auc.low < 1.0 < chance.relative_auc.high
    backward = error_versus_discard(*pairs_of(genuine, impostors, -quality), 0.01, resamples=200)
    assert backward.relative_auc.low > 1.0


def test_few_impostors_widen_the_band(rng):
    genuine, impostors = rng.normal(0.4, 0.1, 500), rng.normal(0.7, 0.1, 2000)
    few, many = (
        error_versus_discard(*pairs_of(genuine, drawn, np.arange(500)), 0.05, resamples=200)
        for drawn in (impostors[:200], impostors)
    )
    assert (few.high - few.low).mean() > 1.5 * (many.high - many.low).mean()


def test_the_band_is_the_same_for_the_same_seed(rng):
    pairs = pairs_of(rng.normal(0.4, 0.1, 200), rng.normal(0.6, 0.1, 200), rng.random(200))
    first, again, other = (
        error_versus_discard(*pairs, 0.05, resamples=50, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.low, again.low)
    assert not np.array_equal(first.low, other.low)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_only_the_order_of_the_qualities_counts(seed):
    rng = np.random.default_rng(seed)
    genuine = np.append(rng.random(20), 1.0)
    quality = rng.integers(0, 5, 21) + 0.0
    impostors = rng.random(100) * 0.9
    curves = [
        error_versus_discard(*pairs_of(genuine, impostors, q), 0.1, resamples=1).fnmr
        for q in (quality, np.exp(quality))
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fmr": 1e-3}, "FMR 0.001 needs at least 10000 impostor pairs, there are 100"),
        ({"fmr": 0.0}, "must be between 0 and 1, got 0"),
        ({"distances": np.linspace(0, 0.01, 200)}, "all 100 genuine pairs match at FMR 0.1"),
        ({"is_same": np.ones(200)}, "200 genuine and 0 impostor pairs"),
        ({"quality": np.full(200, np.nan)}, "pair 0 has a non-finite distance or quality"),
        ({"quality": np.zeros(3)}, r"got \(200,\), \(200,\) and \(3,\)"),
    ],
)
def test_what_has_no_curve_is_refused(change, message):
    arguments = {
        "distances": np.tile([0.1, 0.9], 100),
        "is_same": np.arange(200) < 100,
        "quality": np.arange(200.0),
        "fmr": 0.1,
        **change,
    }
    with pytest.raises(InputError, match=message):
        error_versus_discard(**arguments)


def test_the_quality_of_a_pair_is_that_of_its_worse_face():
    first, second = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[0.0, 6.0], [0.0, 0.5]])
    assert pair_quality(first, second).tolist() == [5.0, 0.5]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=40))
def test_rank_correlation_equals_scipys(values):
    first, second = np.array(values, dtype=float).T
    found = spearman(first, second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(scipy.stats.spearmanr(first, second)[0], abs=1e-12)


def test_rank_correlation_by_hand():
    assert spearman(np.array([1.0, 5.0, 9.0]), np.array([0.1, 0.2, 7.0])) == 1.0
    assert spearman(np.array([1.0, 5.0, 9.0]), np.array([3.0, 2.0, 1.0])) == -1.0


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0], [1.0], "N >= 2"),
        ([1.0, 2.0], [1.0], r"\(2,\), \(1,\)"),
        ([1.0, np.inf], [1.0, 2.0], "finite"),
    ],
)
def test_what_has_no_rank_correlation_is_refused(first, second, message):
    with pytest.raises(InputError, match=message):
        spearman(np.array(first), np.array(second))


def pairs_of_people(rng, people=15, pictures=4):
    """All pairs of some people's faces: distances, people, quality of each pair."""
    person = np.repeat(np.arange(people), pictures)
    centre = rng.standard_normal((people, 8))
    # A person's pictures are as good as each other, so that a person's pairs fail together.
    quality = rng.uniform(0.0, 1.0, people)[person]
    faces = centre[person] + (1.5 - quality)[:, None] * rng.standard_normal((len(person), 8))
    first, second = np.triu_indices(len(person), k=1)
    distances = np.linalg.norm(faces[first] - faces[second], axis=1)
    owners = np.stack([person[first], person[second]], axis=1)
    return distances, owners, np.minimum(quality[first], quality[second])


def test_drawing_people_gives_the_same_curve_and_wider_bands(rng):
    distances, owners, quality = pairs_of_people(rng)
    same = owners[:, 0] == owners[:, 1]
    by_pairs = error_versus_discard(distances, same, quality, 0.05, resamples=300)
    by_people = error_versus_discard(distances, same, quality, 0.05, people=owners, resamples=300)
    assert np.array_equal(by_pairs.fnmr, by_people.fnmr)
    assert by_pairs.threshold == by_people.threshold
    widths = [one.auc.high - one.auc.low for one in (by_pairs, by_people)]
    assert widths[1] > 1.2 * widths[0]
    again = error_versus_discard(
        distances, same, quality, 0.05, people=owners * 7 - 3, resamples=300
    )
    assert by_people.auc == again.auc


def test_people_drawn_once_each_leave_everything_as_it_is(rng, monkeypatch):
    distances, owners, quality = pairs_of_people(rng)
    same = owners[:, 0] == owners[:, 1]

    class Everyone:
        def integers(self, count, size):
            return np.arange(size) % count

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Everyone())
    found = error_versus_discard(distances, same, quality, 0.03, people=owners, resamples=2)
    np.testing.assert_allclose(found.low, found.fnmr, atol=1e-12)
    np.testing.assert_allclose(found.high, found.fnmr, atol=1e-12)


def test_people_must_fit_the_pairs(rng):
    distances, owners, quality = pairs_of_people(rng)
    same = owners[:, 0] == owners[:, 1]
    for wrong in (owners[:, :1], owners[::-1]):
        with pytest.raises(InputError, match="people must be two numbers"):
            error_versus_discard(distances, same, quality, 0.05, people=wrong, resamples=2)


def test_a_pair_counts_as_often_as_both_its_people_are_drawn(rng, monkeypatch):
    distances, owners, quality = pairs_of_people(rng)
    same = owners[:, 0] == owners[:, 1]
    drawn = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 12])
    times = np.bincount(drawn, minlength=15)

    class Fixed:
        def integers(self, count, size):
            return drawn

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Fixed())
    found = error_versus_discard(distances, same, quality, 0.03, people=owners, resamples=1)
    counts = times[owners[:, 0]] * times[owners[:, 1]]
    impostors = np.sort(np.repeat(distances[~same], counts[~same]))
    threshold = impostors[int(0.03 * len(impostors))]
    genuine = np.repeat(distances[same], times[owners[same, 0]])
    assert found.low[0] == pytest.approx((genuine >= threshold).mean(), abs=1e-12)
