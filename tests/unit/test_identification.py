"""Thresholds for strangers, rates of identification, and their intervals."""

import numpy as np
import pytest
from facezoo.errors import InputError
from facezoo.metrics.identification import (
    MatedProbes,
    StrangerScores,
    fnir_interval,
    highest_to_others,
    share_of_people,
    threshold_at_fpir,
)
from hypothesis import given
from hypothesis import strategies as st


def strangers(count, size, seed=0, dimensions=64):
    """Return the highest of ``size`` cosines of drawn directions for each of ``count`` probes."""
    rng = np.random.default_rng(seed)

    def draw(rows):
        drawn = rng.standard_normal((rows, dimensions)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    _, best = highest_to_others(draw(count), np.full(count, -1), draw(size))
    return StrangerScores(best, np.arange(count), size)


def test_a_threshold_is_read_off_by_hand():
    # 1000 strangers score 0.000 to 0.999: ten may be above, so the eleventh from above it is.
    found = StrangerScores(np.arange(1000) / 1000, np.arange(1000), 50)
    point = threshold_at_fpir(found, 0.01)
    assert (point.cosine, point.how) == (0.989, "direct")
    assert point.low <= 0.989 <= point.high and point.used == 0.989
    assert (found.scores > point.cosine).sum() == 10
    assert "FPIR 0.01, 50 people: cosine 0.9890 (95 % 0.98" in point.line()


def test_a_larger_gallery_has_the_threshold_of_a_smaller_share():
    found = StrangerScores(np.arange(1000) / 1000, np.arange(1000), 50)
    # 1 - (1 - 0.02) ** (50 / 100) is 0.01005, a little above ten of a thousand.
    point = threshold_at_fpir(found, 0.02, 100)
    assert point.cosine == 0.989 and point.size == 100


def test_a_tiny_gallery_may_name_almost_every_stranger():
    found = StrangerScores(np.arange(1000) / 1000, np.arange(1000), 50)
    assert threshold_at_fpir(found, 0.5, 1).cosine == 0.0


def test_beyond_the_scores_a_gumbel_is_fitted_by_hand():
    # L-moments by hand: of 0, 1, ..., 29 the mean is 14.5 and the second half of 31 / 3.
    found = StrangerScores(np.arange(30) / 100, np.arange(30), 10)
    scale = (31 / 6) / 100 / np.log(2)
    expected = 0.145 - 0.57721566 * scale - scale * np.log(-np.log(0.99))
    point = threshold_at_fpir(found, 0.01)
    assert point.how == "extreme values" and point.cosine == pytest.approx(expected, abs=1e-8)
    assert point.used == point.high > point.cosine
    assert "beyond the scores seen: the upper end is used" in point.line()


def test_a_rarer_rate_never_has_a_lower_threshold():
    # One in a hundred scores like one person under two names, which no Gumbel distribution fits.
    scores = np.where(np.arange(2000) % 100, 0.1, 0.9)
    found = StrangerScores(scores, np.arange(2000), 50)
    points = [threshold_at_fpir(found, fpir) for fpir in (0.1, 0.008, 0.004, 0.001)]
    assert [point.how for point in points] == ["direct", "direct", *2 * ["extreme values"]]
    used = [point.used for point in points]
    assert used == sorted(used) and used[1] == 0.9


def test_too_few_strangers_are_refused_with_how_many_are_needed():
    few = StrangerScores(np.arange(19) / 100, np.arange(19), 10)
    assert "only 19 strangers were compared, at least 20" in threshold_at_fpir(few, 0.1).line()
    rare = StrangerScores(np.arange(30) / 100, np.arange(30), 10)
    point = threshold_at_fpir(rare, 0.001)
    assert point.refusal == "only 30 strangers were compared, at least 100 are needed"
    assert point.to_dict()["refusal"] == point.refusal
    with pytest.raises(InputError, match=r"no threshold at FPIR 0.001 is known for 10 people"):
        _ = point.used
    nobody = threshold_at_fpir(StrangerScores(np.zeros(0), np.zeros(0, int), 0), 0.1)
    assert nobody.refusal == "there is nobody to be taken for"
    with pytest.raises(InputError, match="rate must be between 0 and 1"):
        threshold_at_fpir(few, 0.0)


def test_many_photos_of_few_people_count_as_few():
    found = StrangerScores(np.arange(1000) / 1000, np.arange(1000) % 10, 10)
    assert "only 10 strangers" in threshold_at_fpir(found, 0.1).refusal


@pytest.mark.parametrize("count", [40, 2000])
@pytest.mark.parametrize("fpir", [0.02, 0.05])
def test_other_strangers_are_named_at_most_that_often(count, fpir):
    point = threshold_at_fpir(strangers(count, 200, seed=1), fpir, 200)
    share = (strangers(20000, 200, seed=2).scores > point.used).mean()
    assert share <= (fpir if count == 40 else 1.5 * fpir)
    assert share > 0 or count == 40


def test_a_threshold_of_a_small_gallery_holds_in_a_large_one():
    small = strangers(3000, 100, seed=3)
    point = threshold_at_fpir(small, 0.1, 400)
    share = (strangers(5000, 400, seed=4).scores > point.used).mean()
    assert 0.07 < share < 0.13


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=20, max_size=300),
    st.floats(0.001, 0.5),
    st.integers(1, 1000),
)
def test_a_threshold_is_within_its_interval_and_rises_with_the_gallery(scores, fpir, size):
    found = StrangerScores(np.array(scores), np.arange(len(scores)), 50)
    point, larger = (threshold_at_fpir(found, fpir, one) for one in (size, 2 * size))
    if not point.refusal:
        assert point.low <= point.cosine <= point.high <= 1.0
        if point.how == "direct":
            share = -np.expm1(np.log1p(-fpir) * 50 / size)
            assert (found.scores > point.cosine).mean() <= share + 1e-9
        if larger.how == point.how:
            assert larger.cosine >= point.cosine - 1e-9


def test_misses_by_hand():
    mated = MatedProbes(
        own=np.array([0.8, 0.6, 0.3, 0.5]),
        other=np.array([0.2, 0.7, 0.1, 0.5]),
        people=np.array([0, 0, 1, 2]),
    )
    # The second is another's first, the third is below, the fourth is a tie.
    assert mated.is_missed(0.4).tolist() == [False, True, True, True]
    assert mated.is_missed(-2).tolist() == [False, True, False, True]
    found = fnir_interval(mated, 0.4)
    assert found.rate == 0.75 and found.low <= 0.75 <= found.high
    everybody = share_of_people(np.ones(4, bool), mated.people)
    assert (everybody.low, everybody.rate, everybody.high) == (1.0, 1.0, 1.0)


def test_probes_are_compared_with_their_own_and_all_others():
    templates = np.eye(3, dtype=np.float32)
    probes = np.array([[0.6, 0.8, 0], [0, 0, 1]], np.float32)
    own, other = highest_to_others(probes, np.array([0, -1]), templates)
    np.testing.assert_allclose(own, [0.6, -1])
    np.testing.assert_allclose(other, [0.8, 1.0])
    own, other = highest_to_others(probes, np.array([-1, -1]), templates[:0])
    assert other.tolist() == [-1.0, -1.0]
