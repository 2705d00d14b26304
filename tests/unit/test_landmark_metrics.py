"""Landmark metrics against the authors' numbers, hand-made cases, and general properties."""

import dataclasses
import json

import numpy as np
import pytest
import scipy
from facezoo.errors import InputError
from facezoo.metrics import landmarks
from facezoo.metrics.landmarks import (
    FAILURE_THRESHOLD,
    bootstrap_interval,
    cumulative_error_distribution,
    evaluate_landmarks,
    evaluate_subsets,
    normalized_mean_error,
)
from hypothesis import given
from hypothesis import strategies as st

TOLERANCE = 1e-9
SCIPY = tuple(int(part) for part in scipy.__version__.split(".")[:2])

errors_of_faces = st.lists(st.floats(0, 0.3), min_size=1, max_size=40).map(np.array)


@pytest.fixture(scope="module")
def recorded(golden):
    return np.load(golden / "pipnet" / "pipnet_metrics.npz")


def test_failure_rate_and_area_equal_the_authors(recorded):
    curve = cumulative_error_distribution(recorded["nmes"])
    assert len(curve.errors) == recorded["num_xs"] == 1001
    assert curve.errors[-1] == recorded["last_x"]
    assert abs(curve.failure_rate - recorded["fr"]) <= TOLERANCE
    assert abs(curve.area(FAILURE_THRESHOLD) - recorded["auc"]) <= TOLERANCE


@pytest.mark.skipif(SCIPY < (1, 11), reason="SciPy's rule for an even number of points was another")
def test_other_thresholds_and_steps_equal_the_authors(recorded, monkeypatch):
    for index, (threshold, step) in enumerate(recorded["alt_thres_step"]):
        monkeypatch.setattr(landmarks, "STEP", step)
        curve = cumulative_error_distribution(recorded["nmes"], threshold)
        found = (curve.failure_rate, curve.area(threshold))
        assert len(curve.errors) == recorded["alt_num_xs"][index]
        np.testing.assert_allclose(found, recorded["alt_fr_auc"][index], rtol=0, atol=TOLERANCE)


def test_normalized_mean_errors_equal_the_authors(recorded):
    predicted = recorded["lms_pred"].reshape(6, 98, 2)
    truth = recorded["lms_gt"].reshape(6, 98, 2)
    # The recorded distances are not those of a data set: divide the error in boxes by them.
    errors = normalized_mean_error(predicted, truth, "AFLW") / recorded["norm"]
    np.testing.assert_allclose(errors, recorded["nme"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("dataset", "count", "pair"),
    [("WFLW", 98, (60, 72)), ("300W", 68, (36, 45)), ("COFW", 29, (8, 9))],
)
def test_each_data_set_has_its_own_normaliser(dataset, count, pair):
    truth = np.zeros((1, count, 2))
    truth[0, pair[0]], truth[0, pair[1]] = (1.0, 1.0), (4.0, 5.0)  # 5 apart
    predicted = truth + (0.3, 0.4)  # every point 0.5 off
    assert normalized_mean_error(predicted, truth, dataset) == pytest.approx([0.1])
    assert normalized_mean_error(predicted, truth, pair) == pytest.approx([0.1])


@pytest.mark.parametrize("dataset", ["WFLW", "COFW"])
def test_a_face_without_extent_cannot_be_normalised(dataset):
    truth = np.ones((2, 98, 2))
    truth[0, 60], truth[0, 8] = 0.0, 0.0
    with pytest.raises(InputError, match=r"face 1: landmarks \(\d+, \d+\) coincide"):
        normalized_mean_error(truth, truth, dataset)


def test_aflw_is_normalised_by_the_box():
    truth = np.full((2, 19, 2), 0.5)
    predicted = truth + [[[0.03, 0.04]], [[0.0, 0.0]]]
    assert normalized_mean_error(predicted, truth, "AFLW") == pytest.approx([0.05, 0.0])


def test_no_face_is_no_error():
    nothing = np.zeros((0, 98, 2))
    assert normalized_mean_error(nothing, nothing, "WFLW").shape == (0,)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_errors_do_not_depend_on_scale_or_place(seed, scale):
    rng = np.random.default_rng(seed)
    predicted, truth = rng.uniform(0, 1, (2, 3, 98, 2))
    truth[:, 72] = truth[:, 60] + [0.3, 0.1]  # random eyes may coincide, which is refused
    moved = normalized_mean_error(predicted * scale + 7, truth * scale + 7, "WFLW")
    np.testing.assert_allclose(moved, normalized_mean_error(predicted, truth, "WFLW"), rtol=1e-6)


def test_the_mean_over_landmarks_is_a_loop():
    rng = np.random.default_rng(3)
    predicted, truth = rng.uniform(0, 1, (2, 4, 98, 2))
    for face, error in enumerate(normalized_mean_error(predicted, truth, "WFLW")):
        distances = [
            ((px - tx) ** 2 + (py - ty) ** 2) ** 0.5
            for (px, py), (tx, ty) in zip(predicted[face], truth[face])
        ]
        (ax, ay), (bx, by) = truth[face, 60], truth[face, 72]
        expected = sum(distances) / 98 / ((ax - bx) ** 2 + (ay - by) ** 2) ** 0.5
        assert error == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("predicted", "truth", "normalizer", "message"),
    [
        ((2, 98, 2), (3, 98, 2), "WFLW", r"both have shape .* got \(2, 98, 2\) and \(3, 98, 2\)"),
        ((98, 2), (98, 2), "WFLW", "both have shape"),
        ((1, 68, 2), (1, 68, 2), "WFLW", r"\(60, 72\) do not exist among 68.* --normalizer 0,67$"),
        ((1, 98, 2), (1, 98, 2), "wflw", r"'wflw' is not known; expected one of \['WFLW', '300W'"),
        ((1, 98, 2), (1, 98, 2), (-1, 3), r"landmarks \(-1, 3\) do not exist among 98"),
    ],
)
def test_landmarks_that_do_not_fit_are_refused(predicted, truth, normalizer, message):
    with pytest.raises(InputError, match=message):
        normalized_mean_error(np.ones(predicted), np.ones(truth), normalizer)


def test_rates_of_a_few_faces_by_hand():
    curve = cumulative_error_distribution(np.array([0.02, 0.05, 0.1, 0.2]))
    # At most 10 %: three of four; an error on the threshold is no failure.
    assert curve.failure_rate == pytest.approx(0.25)
    # The curve steps to 1/4, 2/4 and, in its last point, 3/4.
    expected = 0.03 / 4 / 0.1 + 0.05 * 2 / 4 / 0.1
    assert curve.area(FAILURE_THRESHOLD) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("error", "rate", "area"), [(0.0, 0.0, 1.0), (0.11, 1.0, 0.0)])
def test_perfect_and_hopeless_faces(error, rate, area):
    curve = cumulative_error_distribution(np.full(7, error))
    assert curve.failure_rate == pytest.approx(rate)
    assert curve.area(FAILURE_THRESHOLD) == pytest.approx(area)


@given(errors_of_faces)
def test_the_curve_rises_from_at_least_0_to_at_most_1(errors):
    curve = cumulative_error_distribution(errors)
    assert (np.diff(curve.shares) >= 0).all()
    assert 0 <= curve.shares[0] <= curve.shares[-1] <= 1
    assert curve.failure_rate == pytest.approx((errors > curve.errors[-1]).mean())
    assert -1e-12 <= curve.area(FAILURE_THRESHOLD) <= 1 + 1e-12


@given(errors_of_faces, st.randoms(use_true_random=False))
def test_the_order_of_faces_does_not_matter(errors, random):
    shuffled = errors.tolist()
    random.shuffle(shuffled)
    areas = [
        cumulative_error_distribution(np.array(some)).area(FAILURE_THRESHOLD)
        for some in (shuffled, errors)
    ]
    assert areas[0] == areas[1]


def test_intervals_cover_the_value_and_shrink_with_more_faces():
    rng = np.random.default_rng(0)
    few, many = rng.gamma(4, 0.012, 50), rng.gamma(4, 0.012, 2500)
    for errors in (few, many):
        metrics = evaluate_landmarks(errors)
        for name in ("nme", "failure_rate", "auc"):
            low, high = getattr(metrics, f"{name}_interval")
            assert low <= getattr(metrics, name) <= high

    def width(errors):
        low, high = evaluate_landmarks(errors).nme_interval
        return high - low

    # Errors of the mean fall with the square root of the number of faces.
    assert 5 < width(few) / width(many) < 10


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(1).gamma(4, 0.012, 400)
    low, high = bootstrap_interval(values, np.mean)
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose((low, high), (values.mean() - half, values.mean() + half), rtol=0.02)


def test_intervals_are_the_same_in_every_run():
    errors = np.random.default_rng(2).gamma(4, 0.012, 60)
    assert evaluate_landmarks(errors) == evaluate_landmarks(errors)


def test_a_table_has_all_faces_first_and_survives_json():
    errors = np.array([0.02, 0.04, 0.12, 0.06])
    table = evaluate_subsets(errors, {"pose": [2], "makeup": [0, 1]})
    assert list(table) == ["full", "pose", "makeup"]
    assert [row.faces for row in table.values()] == [4, 1, 2]
    assert table["full"].nme == pytest.approx(0.06)
    assert table["pose"].failure_rate == pytest.approx(1.0)
    assert table["makeup"].nme == pytest.approx(0.03)
    assert table["pose"].nme_interval == (0.12, 0.12)
    row = json.loads(json.dumps(dataclasses.asdict(table["full"])))
    assert row["faces"] == 4
    assert row["threshold"] == 0.1


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ([], r"at least one face, got \(0,\)"),
        ([[0.1]], "at least one face"),
        ([0.1, np.nan], "finite"),
        ([-0.1], "not negative"),
    ],
)
def test_errors_that_are_none_are_refused(errors, message):
    for metric in (cumulative_error_distribution, evaluate_landmarks):
        with pytest.raises(InputError, match=message):
            metric(np.array(errors, float))


@pytest.mark.parametrize("indices", [[], [4], [-1]])
def test_subsets_that_do_not_fit_are_named(indices):
    with pytest.raises(InputError, match="subset 'blur' must hold indices from 0 to 3"):
        evaluate_subsets(np.full(4, 0.05), {"blur": indices})
