"""SCRFD's decoder: hand-made maps, and recorded maps against the authors' own detections."""

import numpy as np
import pytest
from facezoo.card import Preprocess
from facezoo.contract import Contract
from facezoo.errors import DecodeError
from facezoo.image.resize import fit_image
from facezoo.models.scrfd import decode as decode_module
from facezoo.models.scrfd.card import CARDS
from facezoo.models.scrfd.decode import PROFILES, Profile, decode, non_maximum_suppression
from facezoo.results import Placement, RawOutputs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DECODE = Contract.from_card(CARDS["scrfd_500m_bnkps"]).decode
HEADS = {"score": 1, "bbox": 4, "kps": 10}


def empty_maps(input_hw=(64, 96), batch=1, heads=("score", "bbox", "kps")):
    arrays = {}
    for stride in (8, 16, 32):
        for head in heads:
            shape = (batch, 2 * HEADS[head], input_hw[0] // stride, input_hw[1] // stride)
            arrays[f"{head}_{stride}"] = np.full(
                shape, -20.0 if head == "score" else 0.0, np.float32
            )
    return arrays


def upright(input_hw=(64, 96)):
    return Placement((1.0, 1.0), 0, 0, input_hw, input_hw)


def test_no_face_is_a_valid_answer():
    faces = decode(RawOutputs(empty_maps(), (upright(),)), **DECODE)[0]
    assert len(faces) == 0
    assert faces.boxes_xyxy.shape == (0, 4)
    assert faces.landmarks_xy.shape == (0, 5, 2)


def test_one_face_by_hand():
    arrays = empty_maps()
    # Stride 16, row 2, column 3, second anchor: the cell sits at x 48, y 32.
    arrays["score_16"][0, 1, 2, 3] = 2.0
    arrays["bbox_16"][0, 4:8, 2, 3] = (1.0, 0.5, 2.0, 1.5)
    arrays["kps_16"][0, 10:20, 2, 3] = (-0.5, -0.25, 0.5, -0.25, 0, 0, -0.25, 0.5, 0.25, 0.5)
    faces = decode(RawOutputs(arrays, (upright(),)), **DECODE)[0]
    np.testing.assert_allclose(faces.boxes_xyxy, [[32, 24, 80, 56]])
    np.testing.assert_allclose(faces.scores, [1 / (1 + np.exp(-2.0))], rtol=1e-6)
    np.testing.assert_allclose(
        faces.landmarks_xy[0], [[40, 28], [56, 28], [48, 32], [44, 40], [52, 40]]
    )


@pytest.mark.parametrize("anchor", ["center", "top_left"])
def test_boxes_and_landmarks_come_back_to_the_picture_under_both_paddings(anchor):
    preprocess = Preprocess(input_hw=(64, 96), fit="letterbox", anchor=anchor)
    _, placement = fit_image(np.zeros((40, 40, 3), np.uint8), preprocess)
    arrays = empty_maps()
    arrays["score_8"][0, 0, 4, 6] = 3.0
    arrays["bbox_8"][0, :4, 4, 6] = 1.0
    faces = decode(RawOutputs(arrays, (placement,)), **DECODE)[0]
    left = 16 if anchor == "center" else 0
    # The picture is enlarged 64 / 40 = 1.6 times; the cell sits at x 48, y 32.
    np.testing.assert_allclose(faces.landmarks_xy[0, 0], [(48 - left) / 1.6, 32 / 1.6])
    np.testing.assert_allclose(
        faces.boxes_xyxy[0], [(40 - left) / 1.6, 24 / 1.6, min(40, (56 - left) / 1.6), 40 / 1.6]
    )


def test_networks_without_landmarks_have_none():
    arrays = empty_maps(heads=("score", "bbox"))
    arrays["score_8"][0, 0, 0, 0] = 3.0
    faces = decode(RawOutputs(arrays, (upright(),)), **DECODE)[0]
    assert faces.landmarks_xy.shape == (1, 0, 2)


def test_a_batch_equals_its_pictures_one_by_one(rng):
    arrays = empty_maps(batch=3)
    for name in arrays:
        arrays[name][:] = rng.normal(size=arrays[name].shape)
    placements = (upright(),) * 3
    together = decode(RawOutputs(arrays, placements), **DECODE)
    for index, faces in enumerate(together):
        single = {name: array[index : index + 1] for name, array in arrays.items()}
        alone = decode(RawOutputs(single, placements[:1]), **DECODE)[0]
        np.testing.assert_array_equal(faces.boxes_xyxy, alone.boxes_xyxy)
        np.testing.assert_array_equal(faces.landmarks_xy, alone.landmarks_xy)


def test_the_order_of_the_arrays_does_not_matter(rng):
    arrays = {name: rng.normal(size=a.shape).astype(np.float32) for name, a in empty_maps().items()}
    shuffled = {name: arrays[name] for name in rng.permutation(sorted(arrays))}
    one = decode(RawOutputs(arrays, (upright(),)), **DECODE)[0]
    other = decode(RawOutputs(shuffled, (upright(),)), **DECODE)[0]
    np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)


def test_a_score_on_the_threshold_is_kept():
    arrays = empty_maps()
    arrays["score_8"][0, 0, 1, 1] = 0.0
    assert (
        len(decode(RawOutputs(arrays, (upright(),)), **DECODE, profile=Profile(0.5, 0.4))[0]) == 1
    )
    arrays["score_8"][0, 0, 1, 1] = -1e-5
    assert (
        len(decode(RawOutputs(arrays, (upright(),)), **DECODE, profile=Profile(0.5, 0.4))[0]) == 0
    )


def test_the_vendor_profile_rounds_boxes():
    arrays = empty_maps()
    arrays["score_8"][0, 0, 2, 2] = 3.0
    arrays["bbox_8"][0, :4, 2, 2] = (0.3, 0.3, 0.7, 0.7)
    faces = decode(RawOutputs(arrays, (upright(),)), **DECODE, profile=PROFILES["vendor"])[0]
    np.testing.assert_array_equal(faces.boxes_xyxy, [[14, 14, 22, 22]])


def test_a_missing_head_is_named():
    arrays = empty_maps()
    del arrays["bbox_16"]
    with pytest.raises(DecodeError, match="'bbox_16' not found"):
        decode(RawOutputs(arrays, (upright(),)), **DECODE)


def test_maps_of_another_size_are_refused():
    with pytest.raises(DecodeError, match="at that input size"):
        decode(RawOutputs(empty_maps((64, 64)), (upright((64, 96)),)), **DECODE)


def test_overlap_counts_both_edge_pixels():
    # 10 and 11 pixels wide with the edge pixels; 10 shared: IoU 100/110 with +1, 81/90 without.
    boxes = np.array([[0, 0, 9, 9], [0, 0, 10, 9]], np.float32)
    assert list(non_maximum_suppression(boxes, 0.905)) == [0]
    assert list(non_maximum_suppression(boxes, 0.915)) == [0, 1]


boxes_strategy = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 30), st.just(4)), elements=st.floats(0, 100, width=32)
).map(lambda b: np.concatenate([np.minimum(b[:, :2], b[:, 2:]), np.maximum(b[:, :2], b[:, 2:])], 1))


@given(boxes_strategy, st.floats(0.1, 0.9))
def test_suppression_keeps_what_no_kept_box_covers(boxes, threshold):
    def iou(a, b):
        w = np.float64(min(a[2], b[2])) - max(a[0], b[0]) + 1
        h = np.float64(min(a[3], b[3])) - max(a[1], b[1]) + 1
        shared = max(w, 0) * max(h, 0)
        area = lambda c: (np.float64(c[2]) - c[0] + 1) * (np.float64(c[3]) - c[1] + 1)  # noqa: E731
        return shared / (area(a) + area(b) - shared)

    kept = list(non_maximum_suppression(boxes, threshold))
    assert kept == sorted(set(kept))
    for index in range(len(boxes)):
        covered = [iou(boxes[k], boxes[index]) for k in kept if k < index]
        if index in kept:
            assert all(value <= threshold + 1e-4 for value in covered)
        else:
            assert max(covered) > threshold - 1e-4


@given(boxes_strategy, st.floats(0.1, 0.9))
def test_both_ways_to_suppress_agree(boxes, threshold):
    sides = tuple(np.ascontiguousarray(boxes.T))
    number = np.arange(len(boxes))
    expected = decode_module._suppress_one_by_one(sides, number, number, threshold)
    assert list(non_maximum_suppression(boxes, threshold)) == list(expected)


def test_many_boxes_on_one_another_are_suppressed_in_bounded_memory():
    boxes = np.tile(np.array([[10, 10, 50, 50]], np.float32), (16800, 1))
    assert list(non_maximum_suppression(boxes, 0.4)) == [0]


def recorded_maps(golden):
    recorded = np.load(golden / "scrfd" / "t1_raw_maps.npz")
    arrays = empty_maps((640, 640))
    for stride in (8, 16, 32):
        rows, columns = recorded[f"cells_{stride}"].T
        for head in HEADS:
            arrays[f"{head}_{stride}"][0][:, rows, columns] = recorded[f"{head}_{stride}"]
    return arrays, tuple(recorded["image_hw"])


@pytest.mark.parametrize("threshold", [0.5, 0.02])
def test_recorded_maps_give_the_authors_detections(golden, threshold):
    arrays, image_hw = recorded_maps(golden)
    preprocess = Preprocess(
        input_hw=(640, 640), fit="letterbox", anchor="top_left", axis_scale="height"
    )
    _, placement = fit_image(np.zeros((*image_hw, 3), np.uint8), preprocess)
    faces = decode(RawOutputs(arrays, (placement,)), **DECODE, profile=Profile(threshold, 0.4))[0]
    expected = np.load(golden / "scrfd" / "detect.npz")
    key = f"t1_jpg.t{threshold}"
    # The authors do not clip to the picture.
    limit = [image_hw[1], image_hw[0]] * 2
    boxes = np.clip(expected[f"{key}.boxes"], 0, limit)
    assert len(faces) == len(boxes)
    np.testing.assert_allclose(faces.scores, expected[f"{key}.scores"], atol=1e-4)
    np.testing.assert_allclose(faces.boxes_xyxy, boxes, atol=0.05)
    np.testing.assert_allclose(faces.landmarks_xy, expected[f"{key}.kps"], atol=0.05)
