"""The WIDER FACE metric against cases done by hand and against a slow, literal reference."""

import bisect
import math

import numpy as np
import pytest
from facezoo.errors import InputError
from facezoo.metrics import detection
from facezoo.metrics.detection import (
    KERNEL,
    KERNELS,
    GroundTruth,
    Predictions,
    average_precision,
    evaluate_detections,
)
from hypothesis import given, settings
from hypothesis import strategies as st

LEVELS = ("easy", "medium", "hard")


@pytest.fixture(params=["numpy", "cython"])
def kernel(request):
    if request.param not in KERNELS:
        pytest.skip("the Cython kernel is not built here: pip install -e . with a C compiler")
    return request.param


def truth_of(boxes, counted=None):
    """All faces count at all levels unless ``counted[image]`` says which do."""
    boxes = {name: np.reshape(rows, (-1, 4)).astype(float) for name, rows in boxes.items()}
    counted = counted or {name: np.ones(len(rows), bool) for name, rows in boxes.items()}
    return GroundTruth.from_rows(boxes, {level: counted for level in LEVELS})


def predictions_of(rows):
    return Predictions.from_rows({n: np.reshape(r, (-1, 5)).astype(float) for n, r in rows.items()})


def ap_of(rows, boxes, counted=None, **options):
    report = evaluate_detections(predictions_of(rows), truth_of(boxes, counted), **options)
    return report.levels["easy"].ap


# Cases done by hand ----------------------------------------------------------------------------


def test_one_face_one_box(kernel):
    assert ap_of({"e/a": [10, 10, 20, 20, 0.9]}, {"e/a": [10, 10, 20, 20]}, kernel=kernel) == 1


def test_no_detection_at_all(kernel):
    report = evaluate_detections(
        predictions_of({"e/a": []}), truth_of({"e/a": [1, 1, 5, 5]}), kernel=kernel
    )
    assert report.levels["hard"].ap == 0
    assert report.score_range is None
    assert report.warnings == ("there are no detections",)


def test_no_face_at_all(kernel):
    report = evaluate_detections(
        predictions_of({}), truth_of({"e/a": []}), kernel=kernel, per_event=True, bootstrap=2
    )
    assert math.isnan(report.levels["easy"].ap)
    assert all(map(math.isnan, report.levels["easy"].ap_interval))
    assert math.isnan(report.levels["easy"].event_ap["e"])


def test_both_ends_of_a_box_are_pixels(kernel):
    # 10 x 10 and 5 x 10 pixels: exactly half. Without the extra pixel it were 4 / 9.
    face, box = [0, 0, 9, 9], [0, 0, 4, 9, 0.9]
    assert ap_of({"e/a": box}, {"e/a": face}, kernel=kernel) == 1
    assert ap_of({"e/a": box}, {"e/a": face}, kernel=kernel, iou_threshold=0.5001) == 0


def test_a_box_of_size_zero_covers_one_pixel(kernel):
    assert ap_of({"e/a": [7, 7, 0, 0, 0.9]}, {"e/a": [7, 7, 0, 0]}, kernel=kernel) == 1
    assert ap_of({"e/a": [7, 7, 0, 0, 0.9]}, {"e/a": [7, 7, 1, 0]}, kernel=kernel) == 1
    assert ap_of({"e/a": [7, 7, 0, 0, 0.9]}, {"e/a": [7, 7, 2, 0]}, kernel=kernel) == 0


def test_an_annotated_negative_size_is_a_face_that_nobody_finds(kernel):
    faces = [[10, 10, -2, 20], [50, 50, 9, 9]]
    assert ap_of({"e/a": [50, 50, 9, 9, 0.9]}, {"e/a": faces}, kernel=kernel) == 0.5


def test_false_detection_above_and_below(kernel):
    faces = {"e/a": [[0, 0, 9, 9], [50, 0, 9, 9]]}
    hit_0, hit_1, miss = [0, 0, 9, 9], [50, 0, 9, 9], [100, 0, 9, 9]
    # Precision is 1, 1/2, 2/3 at recalls 1/2, 1/2, 1; the envelope is 1 up to 1/2, then 2/3.
    rows = {"e/a": [[*hit_0, 0.9], [*miss, 0.5], [*hit_1, 0.1]]}
    assert ap_of(rows, faces, kernel=kernel) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3, abs=1e-15)
    # Precision is 0, 1/2, 2/3: the envelope is 2/3 all along.
    rows = {"e/a": [[*miss, 0.9], [*hit_0, 0.5], [*hit_1, 0.1]]}
    assert ap_of(rows, faces, kernel=kernel) == pytest.approx(2 / 3, abs=1e-15)


def test_a_second_box_on_a_face_costs_nothing_to_recall_and_is_no_face(kernel):
    rows = {"e/a": [[0, 0, 9, 9, 0.9], [0, 0, 9, 8, 0.5]]}
    report = evaluate_detections(
        predictions_of(rows), truth_of({"e/a": [0, 0, 9, 9]}), kernel=kernel
    )
    level = report.levels["easy"]
    assert level.recall[-1] == 1
    assert level.precision[0] == 1
    assert level.precision[-1] == 0.5  # It is proposed and finds nothing new, as in the original.
    assert level.ap == 1


def test_boxes_on_faces_that_do_not_count_are_ignored(kernel):
    faces = {"e/a": [[0, 0, 9, 9], [50, 0, 9, 9]]}
    rows = {"e/a": [[50, 0, 9, 9, 0.9], [0, 0, 9, 9, 0.2]]}
    assert ap_of(rows, faces, {"e/a": np.array([True, False])}, kernel=kernel) == 1
    assert ap_of(rows, faces, {"e/a": np.array([True, True])}, kernel=kernel) == 1
    rows["e/a"][0][0] = 150
    assert ap_of(rows, faces, {"e/a": np.array([True, False])}, kernel=kernel) == 0.5


def test_a_box_belongs_to_the_face_it_overlaps_most(kernel):
    faces = {"e/a": [[0, 0, 9, 9], [2, 0, 9, 9]]}
    counted = {"e/a": np.array([True, False])}
    assert ap_of({"e/a": [2, 0, 9, 9, 0.9]}, faces, counted, kernel=kernel) == 0
    assert ap_of({"e/a": [0, 0, 9, 9, 0.9]}, faces, counted, kernel=kernel) == 1


@pytest.mark.parametrize("lefts", [(0, 2), (2, 0)])
def test_the_first_of_two_equally_overlapped_faces_counts(kernel, lefts):
    faces = {"e/a": [[lefts[0], 0, 9, 9], [lefts[1], 0, 9, 9]]}
    box = {"e/a": [1, 0, 9, 9, 0.9]}
    assert ap_of(box, faces, {"e/a": np.array([True, False])}, kernel=kernel) == 1
    assert ap_of(box, faces, {"e/a": np.array([False, True])}, kernel=kernel) == 0


def test_an_image_without_faces_is_left_out(kernel):
    boxes = {"e/a": [0, 0, 9, 9], "e/b": []}
    rows = {"e/a": [0, 0, 9, 9, 0.1], "e/b": [0, 0, 9, 9, 0.9]}
    assert ap_of(rows, boxes, kernel=kernel) == 1


def test_scores_are_stretched_over_the_set_and_cut_into_steps(kernel):
    faces = {"e/a": [[0, 0, 9, 9]]}
    # 0.5 and 0.50004 fall into one of the thousand steps of 0..1, so the miss counts too.
    ends = [[80, 0, 9, 9, 0.0], [120, 0, 9, 9, 1.0]]
    rows = {"e/a": [[0, 0, 9, 9, 0.50004], [50, 0, 9, 9, 0.5], *ends]}
    assert ap_of(rows, faces, kernel=kernel) == pytest.approx(1 / 3, abs=1e-15)
    # Alone in the set they are its two ends.
    assert ap_of({"e/a": rows["e/a"][:2]}, faces, kernel=kernel) == 1


@pytest.mark.parametrize("scores", [(2.0005, 2.0), (-1.0, -1.0005)])
def test_the_range_of_scores_reaches_from_1_down_and_from_0_up(kernel, scores):
    # Stretched over 1..2.0005 and -1.0005..0, two scores that differ by 0.0005 share a step.
    rows = {"e/a": [[0, 0, 9, 9, scores[0]], [50, 0, 9, 9, scores[1]]]}
    assert ap_of(rows, {"e/a": [0, 0, 9, 9]}, kernel=kernel) == 0.5


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0, 7.0, -7.0])
def test_all_scores_equal_reach_every_step(kernel, score):
    rows = {"e/a": [[0, 0, 9, 9, score], [50, 0, 9, 9, score]]}
    report = evaluate_detections(
        predictions_of(rows), truth_of({"e/a": [0, 0, 9, 9]}), kernel=kernel
    )
    assert report.levels["easy"].ap == 0.5
    if 0 <= score <= 1:
        assert set(report.levels["easy"].precision) == {0.5}


def test_a_level_without_faces_has_no_average_precision(kernel):
    counted = {"e/a": np.array([False])}
    assert math.isnan(
        ap_of({"e/a": [0, 0, 9, 9, 0.9]}, {"e/a": [0, 0, 9, 9]}, counted, kernel=kernel)
    )


def test_average_precision_of_a_curve():
    assert average_precision(np.array([0.0, 0.5, 0.5]), np.array([1.0, 0.5, 0.4])) == 0.25
    assert average_precision(np.zeros(3), np.ones(3)) == 0
    assert math.isnan(average_precision(np.full(3, np.nan), np.ones(3)))


def test_missing_and_unknown_images_are_named(kernel):
    report = evaluate_detections(
        predictions_of({"e/b": [0, 0, 9, 9, 0.5], "e/x": [0, 0, 9, 9, 0.9], "e/y": []}),
        truth_of({"e/a": [0, 0, 9, 9], "e/b": [0, 0, 9, 9]}),
        kernel=kernel,
    )
    assert report.missing_images == ("e/a",)
    assert report.unknown_images == ("e/x", "e/y")
    assert (report.images, report.faces, report.detections) == (2, 2, 2)
    assert report.levels["easy"].ap == 0.5
    assert report.score_range == (0.5, 0.9)
    # The unknown image's score stretches the range, so the only known box is at its lower end.
    assert report.levels["easy"].recall[-2:].tolist() == [0, 0.5]


# Warnings --------------------------------------------------------------------------------------


def test_a_cut_off_curve_draws_a_warning_with_its_cost():
    rows = {"e/a": [[0, 0, 9, 9, 0.9], [100, 0, 9, 9, 0.051]]}
    truth = truth_of({"e/a": [[0, 0, 9, 9], [50, 0, 9, 9]]})
    (warning,) = evaluate_detections(predictions_of(rows), truth).warnings
    assert "lowest score is 0.051" in warning
    assert "recall 0.500 easy" in warning
    assert "up to 25.0 easy" in warning  # Half of the faces at a precision of one half.
    rows["e/a"][1][4] = 0.05
    assert evaluate_detections(predictions_of(rows), truth).warnings == ()


def test_corners_in_place_of_sizes_draw_a_warning():
    faces = {f"e/{i}": [100 + 10 * i, 100, 20, 20] for i in range(5)}
    rows = {name: [x, y, x + w, y + h, 0.02 + x / 1e3] for name, (x, y, w, h) in faces.items()}
    (warning,) = evaluate_detections(predictions_of(rows), truth_of(faces)).warnings
    assert "not two corners" in warning


# Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0, 0, -1, 5, 0.5], "'e/b' has the box"),
        ([0, np.nan, 1, 5, 0.5], "'e/b' has the box"),
        ([np.inf, 0, 1, 5, 0.5], "'e/b' has the box"),
        ([1e9, 0, 1, 5, 0.5], "'e/b' has the box"),
        ([0, 0, 1, 5, np.nan], "'e/b' has the score nan"),
    ],
)
def test_bad_numbers_are_refused_by_image(row, said):
    good = [0, 0, 9, 9, 0.5]
    rows = predictions_of({"e/a": [good, good], "e/none": [], "e/b": [good, row], "e/c": good})
    with pytest.raises(InputError, match=said):
        evaluate_detections(rows, truth_of({"e/a": [0, 0, 9, 9]}))


@pytest.mark.parametrize(
    "options",
    [{"iou_threshold": 0}, {"iou_threshold": 1.1}, {"iou_threshold": math.nan}, {"bootstrap": -1}],
)
def test_bad_settings_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        ap_of({"e/a": [0, 0, 9, 9, 0.9]}, {"e/a": [0, 0, 9, 9]}, **options)


def test_an_unknown_kernel_is_refused():
    with pytest.raises(InputError, match=r"'fortran'.*numpy"):
        ap_of({"e/a": [0, 0, 9, 9, 0.9]}, {"e/a": [0, 0, 9, 9]}, kernel="fortran")


def test_arrays_that_do_not_fit_are_refused():
    truth = truth_of({"e/a": [0, 0, 9, 9]})
    box, score = np.zeros((1, 4)), np.ones(1)
    for images, starts, boxes, scores, said in (
        (("e/a", "e/a"), [0, 0, 1], box, score, "'e/a' occurs twice"),
        (("e/a",), [0, 2], box, score, "starts must rise"),
        (("e/a", "e/b"), [0, 1], box, score, "starts must rise"),
        (("e/a", "e/b", "e/c"), [0, 1, 0, 1], box, score, "starts must rise"),
        (("e/a",), [0, 1], np.zeros((1, 5)), score, r"shape \(N, 4\)"),
        (("e/a",), [0, 1], box, np.ones(2), r"shape \(1,\)"),
    ):
        with pytest.raises(InputError, match=said):
            evaluate_detections(Predictions(images, np.array(starts), boxes, scores), truth)
    with pytest.raises(InputError, match="no images"):
        evaluate_detections(predictions_of({}), truth_of({}))
    with pytest.raises(InputError, match="mask"):
        levels = {"easy": np.ones(1)}
        evaluate_detections(
            predictions_of({}), GroundTruth(truth.images, truth.starts, truth.boxes_xywh, levels)
        )


def test_rows_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"'e/a'.*\(n, 5\), got \(5, 4\)"):
        Predictions.from_rows({"e/a": np.zeros((5, 4))})
    with pytest.raises(InputError, match="level 'easy'"):
        GroundTruth.from_rows({"e/a": np.zeros((2, 4))}, {"easy": {"e/a": np.ones(3, bool)}})


# The literal reference -------------------------------------------------------------------------


def overlap(box, face):
    """Intersection over union of two (left, top, right, bottom), ends included."""
    width = min(box[2], face[2]) - max(box[0], face[0]) + 1
    height = min(box[3], face[3]) - max(box[1], face[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area_box = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
    area_face = (face[2] - face[0] + 1) * (face[3] - face[1] + 1)
    return width * height / (area_box + area_face - width * height)


def corners(row):
    return (row[0], row[1], row[0] + row[2], row[1] + row[3])


def reference(rows, boxes, counted, iou_threshold, steps):
    """Walk through the protocol as it is described: sorted boxes, one after the other, by step."""
    scores = [row[4] for image in rows.values() for row in image]
    lowest, highest = min([1.0, *scores]), max([0.0, *scores])

    def stretched(score):
        return (score - lowest) / (highest - lowest) if highest > lowest else 1.0

    proposed, found, faces = [0] * steps, [0] * steps, 0
    for name, annotated in boxes.items():
        faces += sum(counted[name])
        detected = sorted(rows.get(name, []), key=lambda row: -row[4])
        if not len(annotated) or not detected:
            continue
        falling, proposals, recalled, seen = [], [], [], set()
        for row in detected:
            overlaps = [overlap(corners(row), corners(face)) for face in annotated]
            best = overlaps.index(max(overlaps))
            is_proposal = True
            if overlaps[best] >= iou_threshold:
                if counted[name][best]:
                    seen.add(best)
                else:
                    is_proposal = False
            falling.append(-stretched(row[4]))
            proposals.append((proposals[-1] if proposals else 0) + is_proposal)
            recalled.append(len(seen))
        for step in range(steps):
            reached = bisect.bisect_right(falling, -(1 - (step + 1) / steps))
            if reached:
                proposed[step] += proposals[reached - 1]
                found[step] += recalled[reached - 1]
    if not faces:
        return math.nan
    recall = [0.0, *(count / faces for count in found), 1.0]
    precision = [0.0, *(f / p if p else 0.0 for f, p in zip(found, proposed)), 0.0]
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    return math.fsum((recall[i + 1] - recall[i]) * precision[i + 1] for i in range(len(recall) - 1))


def random_set(rng):
    """A few images with small whole boxes, so that ties and exact thresholds are common."""
    names = [f"{rng.integers(3)}--e/{index}" for index in range(rng.integers(1, 5))]
    whole = rng.random() < 0.7
    boxes, rows, counted = {}, {}, {level: {} for level in LEVELS}
    score_kind = rng.integers(5)
    for name in names:
        count = rng.integers(0, 6)
        faces = rng.uniform(0, 12, (count, 4)) * [1, 1, 0.7, 0.7]
        boxes[name] = np.floor(faces) if whole else faces
        if count and rng.random() < 0.05:
            boxes[name][0, 2] = -2
        for level in LEVELS:
            counted[level][name] = rng.random(count) < rng.choice([0.0, 0.6, 1.0])
        if rng.random() < 0.85:
            rows[name] = random_rows(rng, boxes[name], score_kind, whole)
    if rng.random() < 0.1:
        rows["9--e/unknown"] = random_rows(rng, np.zeros((0, 4)), score_kind, whole)
    return rows, boxes, counted


def random_rows(rng, faces, score_kind, whole):
    count = rng.integers(0, 9)
    found = rng.uniform(0, 12, (count, 4)) * [1, 1, 0.7, 0.7]
    near = rng.random(count) < 0.7
    if len(faces):
        chosen = faces[rng.integers(len(faces), size=count)]
        found[near] = (chosen + rng.uniform(-2, 2, (count, 4)))[near]
    found = np.floor(found) if whole else found
    found[:, 2:] = np.maximum(found[:, 2:], 0)
    scores = [
        rng.random(count),
        rng.integers(1, 4, count) / 4,
        np.full(count, 0.25),
        rng.integers(0, 1001, count) / 1000,
        rng.uniform(-3, 5, count),
    ][score_kind]
    return np.column_stack([found, scores])


def check_against_reference(seed, steps):
    rng = np.random.default_rng(seed)
    rows, boxes, counted = random_set(rng)
    predictions, truth = Predictions.from_rows(rows), GroundTruth.from_rows(boxes, counted)
    threshold = float(rng.choice([0.5, 0.5, 0.3, 1 / 3, 0.7, 1.0, 0.01]))
    rows = {name: found.tolist() for name, found in rows.items()}
    boxes = {name: faces.tolist() for name, faces in boxes.items()}
    expected = [reference(rows, boxes, counted[level], threshold, steps) for level in LEVELS]
    for kernel in KERNELS:
        report = evaluate_detections(predictions, truth, iou_threshold=threshold, kernel=kernel)
        found = [report.levels[level].ap for level in LEVELS]
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True), (seed, kernel)


def test_equals_the_reference_on_thousands_of_random_sets(monkeypatch):
    # Few steps make the reference fast; the real number has its turn below.
    monkeypatch.setattr(detection, "STEPS", 16)
    for seed in range(2000):
        check_against_reference(seed, steps=16)


def test_equals_the_reference_at_a_thousand_steps():
    for seed in range(10_000, 10_100):
        check_against_reference(seed, steps=detection.STEPS)


# Kernels ---------------------------------------------------------------------------------------


def test_the_kernel_in_use_is_named():
    assert ("cython" if "cython" in KERNELS else "numpy") == KERNEL
    report = evaluate_detections(predictions_of({}), truth_of({"e/a": []}))
    assert report.kernel == KERNEL


def crowd(rng, images=6, faces=300, boxes=900):
    """Photos full of faces of all sizes, and boxes of which half are near a face."""
    truth, found = {}, {}
    for index in range(images):
        sizes = rng.lognormal(3, 1, (faces, 2))
        truth[f"e/{index}"] = np.column_stack([rng.uniform(0, 1000, (faces, 2)), sizes]).round()
        near = truth[f"e/{index}"][rng.integers(faces, size=boxes)]
        near = near + rng.normal(0, 0.15, near.shape) * near[:, [2, 3, 2, 3]]
        far = np.column_stack([rng.uniform(0, 1000, (boxes, 2)), rng.lognormal(3, 1, (boxes, 2))])
        rows = np.where(rng.random((boxes, 1)) < 0.5, near, far)
        rows[:, 2:] = np.maximum(rows[:, 2:], 0)
        found[f"e/{index}"] = np.column_stack([rows, rng.random(boxes)])
    counted = {name: rng.random(faces) < 0.8 for name in truth}
    return found, GroundTruth.from_rows(truth, {level: counted for level in LEVELS})


@pytest.mark.parametrize("pairs_at_once", [1, 7, 1000, detection.PAIRS_AT_ONCE])
def test_both_kernels_are_identical(rng, monkeypatch, pairs_at_once):
    if "cython" not in KERNELS:
        pytest.skip("the Cython kernel is not built here: pip install -e . with a C compiler")
    found, truth = crowd(rng, images=2, faces=60, boxes=150) if pairs_at_once < 9 else crowd(rng)
    monkeypatch.setattr(detection, "PAIRS_AT_ONCE", pairs_at_once)
    reports = [
        evaluate_detections(Predictions.from_rows(found), truth, kernel=name) for name in KERNELS
    ]
    for level in LEVELS:
        numpy_level, cython_level = (report.levels[level] for report in reports)
        assert 0.1 < numpy_level.ap == cython_level.ap
        np.testing.assert_array_equal(numpy_level.recall, cython_level.recall)
        np.testing.assert_array_equal(numpy_level.precision, cython_level.precision)


# Properties ------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


def same(report, other):
    for level in LEVELS:
        np.testing.assert_array_equal(report.levels[level].recall, other.levels[level].recall)
        np.testing.assert_array_equal(report.levels[level].precision, other.levels[level].precision)
        assert report.levels[level].event_ap == pytest.approx(
            other.levels[level].event_ap, abs=0, nan_ok=True
        )


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_permuting_images_events_and_boxes_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    rows, boxes, counted = random_set(rng)
    report = evaluate_detections(
        Predictions.from_rows(rows), GroundTruth.from_rows(boxes, counted), per_event=True
    )
    # Events are groups of names, so another order of images is another order of events as well.
    rows = {name: rng.permutation(rows[name]) for name in rng.permutation(list(rows))}
    boxes = {name: boxes[name] for name in rng.permutation(list(boxes))}
    shuffled = evaluate_detections(
        Predictions.from_rows(rows), GroundTruth.from_rows(boxes, counted), per_event=True
    )
    same(report, shuffled)


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_an_empty_entry_for_a_missing_image_changes_nothing(seed):
    rows, boxes, counted = random_set(np.random.default_rng(seed))
    truth = GroundTruth.from_rows(boxes, counted)
    report = evaluate_detections(Predictions.from_rows(rows), truth, per_event=True)
    padded = {**{name: np.zeros((0, 5)) for name in boxes}, **rows}
    completed = evaluate_detections(Predictions.from_rows(padded), truth, per_event=True)
    same(report, completed)
    assert set(report.missing_images) == set(boxes) - set(rows)
    assert completed.missing_images == ()


@settings(max_examples=50, deadline=None)
@given(seed=seeds)
def test_a_monotone_change_of_coordinates_changes_nothing(seed):
    rows, boxes, counted = random_set(np.random.default_rng(seed))
    shift = np.array([1000.0, -500.0, 0, 0, 0])
    moved = evaluate_detections(
        Predictions.from_rows({name: np.round(found) + shift for name, found in rows.items()}),
        GroundTruth.from_rows({n: np.round(b) + shift[:4] for n, b in boxes.items()}, counted),
    )
    still = evaluate_detections(
        Predictions.from_rows({name: np.round(found) for name, found in rows.items()}),
        GroundTruth.from_rows({name: np.round(faces) for name, faces in boxes.items()}, counted),
    )
    same(still, moved)


# Events and intervals --------------------------------------------------------------------------


def test_an_events_average_precision_is_that_of_its_images_alone(rng):
    found, truth = crowd(rng, images=4, faces=20, boxes=40)
    rename = {f"e/{index}": f"{index % 2}--e/{index}" for index in range(4)}
    for rows in found.values():
        rows[:2, 4] = 0, 1  # Both events have the score range of the whole set.
    found = {rename[name]: rows for name, rows in found.items()}
    images = tuple(rename[name] for name in truth.images)
    truth = GroundTruth(images, truth.starts, truth.boxes_xywh, truth.levels)
    whole = evaluate_detections(Predictions.from_rows(found), truth, per_event=True)
    assert list(whole.levels["easy"].event_ap) == ["0--e", "1--e"]
    for event, ap in whole.levels["easy"].event_ap.items():
        names = [name for name in images if name.startswith(event)]
        part = evaluate_detections(
            Predictions.from_rows({name: found[name] for name in names}),
            GroundTruth.from_rows(*parts_of(truth, names)),
        )
        assert ap == part.levels["easy"].ap


def parts_of(truth, names):
    boxes, counted = {}, {level: {} for level in truth.levels}
    for name in names:
        index = truth.images.index(name)
        rows = slice(truth.starts[index], truth.starts[index + 1])
        boxes[name] = truth.boxes_xywh[rows]
        for level, mask in truth.levels.items():
            counted[level][name] = mask[rows]
    return boxes, counted


def test_a_weight_counts_an_image_that_often(rng):
    found, truth = crowd(rng, images=3, faces=20, boxes=40)
    weights = [2, 1, 3]
    boxes, counted = parts_of(truth, truth.images)
    names = [(name, copy) for name, times in zip(truth.images, weights) for copy in range(times)]
    copies = evaluate_detections(
        Predictions.from_rows({f"{name}_{copy}": found[name] for name, copy in names}),
        GroundTruth.from_rows(
            {f"{name}_{copy}": boxes[name] for name, copy in names},
            {
                level: {f"{name}_{copy}": masks[name] for name, copy in names}
                for level, masks in counted.items()
            },
        ),
    )
    tally = detection._tally(Predictions.from_rows(found), truth, 0.5, KERNELS[KERNEL])
    (recall,), (precision,) = detection._curves(tally, "easy", np.array([weights], float))
    np.testing.assert_array_equal(recall, copies.levels["easy"].recall)
    np.testing.assert_array_equal(precision, copies.levels["easy"].precision)


def test_intervals_are_seeded_and_hold_the_value(rng):
    found, truth = crowd(rng, images=30, faces=5, boxes=10)
    predictions = Predictions.from_rows(found)
    first = evaluate_detections(predictions, truth, bootstrap=250, seed=3).levels["easy"]
    again = evaluate_detections(predictions, truth, bootstrap=250, seed=3).levels["easy"]
    other = evaluate_detections(predictions, truth, bootstrap=250, seed=4).levels["easy"]
    assert first.ap_interval == again.ap_interval != other.ap_interval
    low, high = first.ap_interval
    assert low < first.ap < high
    assert 0.01 < high - low < 0.3
    assert evaluate_detections(predictions, truth).levels["easy"].ap_interval is None


def test_a_single_image_has_no_spread(rng):
    found, truth = crowd(rng, images=1, faces=20, boxes=40)
    level = evaluate_detections(Predictions.from_rows(found), truth, bootstrap=5).levels["hard"]
    assert level.ap_interval == (level.ap, level.ap)


def test_few_predictions_are_not_taken_for_wrong_boxes():
    """Of a hundred images one has predictions, all of them right."""
    boxes = {f"e/{index}": np.array([[10.0, 10, 20, 20]] * 2) for index in range(200)}
    masks = {name: np.array([True, True]) for name in boxes}
    truth = GroundTruth.from_rows(boxes, {"easy": masks})
    right = np.column_stack([boxes["e/0"][:1], [0.9]])
    report = evaluate_detections(Predictions.from_rows({"e/0": right}), truth)
    assert report.levels["easy"].ap < 0.01
    assert "few boxes" not in " ".join(report.warnings)
    corners = np.array([[200.0, 200, 20, 20, 0.9]])
    report = evaluate_detections(Predictions.from_rows({"e/0": corners}), truth)
    assert any("few boxes overlap a face" in warning for warning in report.warnings)
