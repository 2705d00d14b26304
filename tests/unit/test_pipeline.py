"""The detector: one picture, many, and the border for faces that fill the picture."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from facezoo import RuntimeOptions, load
from facezoo.cli.predict.work import _drawn_entry
from facezoo.contract import Contract
from facezoo.errors import ImageError, InputError
from facezoo.evaluation.drift import compare_detections
from facezoo.image.boxes import iou_matrix, match_boxes
from facezoo.image.draw import BOX_COLOR, contact_sheet, draw_faces
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.image.preprocess import VdspOperation
from facezoo.models import CARDS
from facezoo.models.scrfd.decode import PROFILES, Profile
from facezoo.models.scrfd.graph import export_released
from facezoo.models.scrfd.model import FaceDetector
from facezoo.pipeline.photo import PredictedFace, PredictedPhoto
from facezoo.results import FaceDetections, RawOutputs
from facezoo.testing import tiny_scrfd


@pytest.fixture
def model(tmp_path):
    return tiny_scrfd(tmp_path / "tiny.onnx")


@pytest.fixture
def folder(tmp_path):
    for index in range(5):
        image = np.full((40 + index, 60, 3), 10, np.uint8)
        image[8 * index : 8 * index + 8, 8:16] = 255
        write_image_rgb(tmp_path / "photos" / f"{index}.png", image)
    (tmp_path / "photos" / "2.png").write_bytes(b"")
    return tmp_path / "photos"


def test_a_stream_equals_single_calls_and_passes_over_what_cannot_be_read(model, folder):
    paths = sorted(folder.iterdir())
    visited = []
    with load(model, profile="eval") as detector:
        results = list(detector.stream(paths, visit=lambda p, image, faces: visited.append(p)))
        assert [result.source for result in results] == paths
        assert isinstance(results[2], ImageError)
        for faces in results:
            if faces.source != paths[2]:
                alone = detector(read_image_rgb(faces.source))
                assert len(faces) > 0
                np.testing.assert_allclose(faces.boxes_xyxy, alone.boxes_xyxy, atol=1e-4)
    assert sorted(visited) == [path for path in paths if path != paths[2]]


def test_an_error_in_a_visit_ends_the_stream(model, folder):
    def fail(path, image, faces):
        raise OSError(28, "No space left on device")

    with load(model) as detector, pytest.raises(OSError, match="No space"):
        list(detector.stream(sorted(folder.iterdir()), visit=fail))


def test_unknown_names_are_refused(model):
    with pytest.raises(InputError, match="profile 'best'"):
        load(model, profile="best")


class MissesLargeFaces:
    """Sees the white square of a picture, but only if it covers little of the input."""

    def __init__(self):
        self.contract = Contract.from_card(CARDS["scrfd_500m_bnkps"])
        self.operation = VdspOperation(self.contract.preprocess)

    def infer_batch(self, images_rgb):
        (image_rgb,) = images_rgb
        tensor, placement = self.operation(image_rgb)
        arrays = {}
        for spec in CARDS["scrfd_500m_bnkps"].outputs:
            cells = 640 // spec.stride
            value = -20.0 if spec.name.startswith("score") else 0.0
            arrays[spec.name] = np.full((1, spec.channels, cells, cells), value, np.float32)
        rows, columns = np.nonzero(tensor[0] > 0.9)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        if height * width < 0.5 * placement.input_hw[0] * placement.input_hw[1]:
            x, y = columns.min() // 8, rows.min() // 8
            arrays["score_8"][0, 0, y, x] = 3.0
            box = (
                x - columns.min() / 8,
                y - rows.min() / 8,
                (columns.max() + 1) / 8 - x,
                (rows.max() + 1) / 8 - y,
            )
            arrays["bbox_8"][0, :4, y, x] = box
        return RawOutputs(arrays, (placement,))


def white_square_in(side, border):
    image = np.zeros((side, side, 3), np.uint8)
    image[border : side - border, border : side - border] = 255
    return image


def test_a_face_that_fills_the_picture_is_found_with_a_border():
    backend = MissesLargeFaces()
    plain = dataclasses.replace(PROFILES["demo"], retry_border=0.0)
    image = white_square_in(400, 10)
    assert len(FaceDetector(backend, backend.contract, plain)(image)) == 0
    faces = FaceDetector(backend, backend.contract, PROFILES["demo"])(image)
    assert faces.border == 0.25
    assert faces.image_hw == (400, 400)
    np.testing.assert_allclose(faces.boxes_xyxy, [[10, 10, 390, 390]], atol=1.0)


def test_a_face_that_is_found_at_once_has_no_border():
    backend = MissesLargeFaces()
    faces = FaceDetector(backend, backend.contract, PROFILES["demo"])(white_square_in(400, 150))
    assert faces.border == 0.0
    np.testing.assert_allclose(faces.boxes_xyxy, [[150, 150, 250, 250]], atol=1.0)


def test_the_border_is_off_in_an_evaluation():
    assert PROFILES["eval"].retry_border == 0.0
    assert PROFILES["demo"].retry_border == 0.25


def detections(*boxes, scores=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    scores = np.full(len(boxes), 0.9, np.float32) if scores is None else np.float32(scores)
    return FaceDetections(boxes, scores, np.zeros((len(boxes), 5, 2), np.float32), (100, 100))


def test_iou_by_hand():
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 9]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(iou_matrix(a, b), [[1, 1 / 3, 0], [0, 0, 0]], rtol=1e-6)
    assert iou_matrix(a[:0], b).shape == (0, 3)


def test_the_best_pair_is_matched_first():
    a = np.array([[0, 0, 10, 10], [1, 0, 11, 10]], np.float32)
    b = np.array([[1, 0, 11, 10]], np.float32)
    assert match_boxes(a, b).tolist() == [[1, 0]]
    assert match_boxes(a, b[:0]).shape == (0, 2)


def test_drift_by_hand():
    reference = detections([0, 0, 10, 10], [50, 50, 60, 60])
    other = detections([0, 0, 10, 9], [80, 80, 90, 90], scores=[0.8, 0.9])
    drift = compare_detections([(reference, other), (detections(), detections())])
    assert (drift.faces, drift.missed, drift.extra) == (2, 1, 1)
    assert drift.mean_iou == pytest.approx(0.9)
    assert drift.worst_corner == 1.0
    assert drift.worst_score == pytest.approx(0.1)
    assert compare_detections([]).mean_iou == 1.0


def test_detections_survive_json():
    faces = dataclasses.replace(detections([0.1, 0.2, 30.3, 40.4]), border=0.25)
    again = FaceDetections.from_dict(faces.to_dict())
    np.testing.assert_array_equal(again.boxes_xyxy, faces.boxes_xyxy)
    np.testing.assert_array_equal(again.landmarks_xy, faces.landmarks_xy)
    assert (again.border, again.image_hw) == (0.25, (100, 100))
    assert FaceDetections.from_dict(detections().to_dict()).boxes_xyxy.shape == (0, 4)
    assert repr(faces).startswith("FaceDetections(1 face in 100x100, best score 0.9")


def test_drawing_leaves_the_picture_and_marks_the_face():
    image = np.zeros((100, 100, 3), np.uint8)
    drawn = draw_faces(image, detections([20, 0, 60, 60]))
    assert image.max() == 0
    assert drawn[60, 40].tolist() == list(BOX_COLOR)
    assert drawn.shape == image.shape


def test_lines_and_captions_follow_the_size_of_the_face():
    image = np.zeros((2000, 2000, 3), np.uint8)
    small, large = (
        (draw_faces(image, detections([800, 800, 800 + side, 800 + side])) == BOX_COLOR).all(2)
        for side in (40, 900)
    )
    assert small[820, 780:860].sum() == 2
    assert large[1250, 700:1800].sum() >= 12
    # The caption above it.
    assert (
        np.flatnonzero(large[:790].any(axis=1)).size
        > np.flatnonzero(small[:790].any(axis=1)).size * 3
    )


def test_captions_cover_no_other_face_and_no_other_caption(rng):
    image = np.zeros((600, 600, 3), np.uint8)
    boxes = [[x, y, x + 40, y + 50] for y in range(20, 540, 58) for x in range(10, 540, 60)]
    found = detections(*boxes)
    drawn = draw_faces(image, dataclasses.replace(found, landmarks_xy=found.landmarks_xy * 0))
    for left, top, right, bottom in boxes:
        inside = drawn[top + 3 : bottom - 14, left + 3 : right - 2]
        # No filled caption of a neighbour; the first pixel has all the landmarks.
        assert (inside == BOX_COLOR).all(2).mean() < 0.02, (left, top)
    # Faces without any gap: the captions lie within their own boxes, or are left out.
    assert draw_faces(image, detections([0, 0, 20, 600], [21, 0, 599, 600])).any()


def test_predict_and_the_runner_draw_the_same(rng):
    image = rng.integers(0, 256, (300, 400, 3), np.uint8)
    found = detections([20, 30, 90, 120], [200, 100, 380, 290])
    photo = PredictedPhoto(
        tuple(
            PredictedFace(tuple(box), float(score), marks, {})
            for box, score, marks in zip(
                found.boxes_xyxy.tolist(), found.scores, found.landmarks_xy
            )
        ),
        found,
    )
    np.testing.assert_array_equal(
        _drawn_entry(image, json.loads(json.dumps(photo.to_dict()))), draw_faces(image, found)
    )


def test_a_contact_sheet_holds_every_picture():
    images = [np.full((50, 80, 3), value, np.uint8) for value in (100, 150, 200)]
    sheet = contact_sheet(images, ["a", "b", "c"], columns=2, cell_wh=(80, 60))
    assert sheet.shape == (2 * (60 + 24 + 8) + 8, 2 * 88 + 8, 3)
    assert {100, 150, 200} <= set(np.unique(sheet))


@pytest.fixture(scope="module")
def raw_heads(shared, tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "raw.onnx"
    export_released(shared / "assets" / "scrfd" / "scrfd_500m_bnkps.onnx", path)
    return path


GOLDEN_PHOTOS = (
    "t1.jpg",
    "src_meeting.jpg",
    "crowd_test.jpg",
    "left_face.jpeg",
    "rot_r90.jpg",
    "view_noface.jpg",
)


@pytest.mark.shared
@pytest.mark.parametrize("axis_scale", ["height", "per_axis"])
@pytest.mark.parametrize("name", GOLDEN_PHOTOS)
def test_the_authors_detections_on_the_golden_photos(shared, golden, raw_heads, name, axis_scale):
    expected = np.load(golden / "scrfd" / "detect.npz")
    key = name.replace(".", "_")
    authors = dataclasses.replace(
        CARDS["scrfd_500m_bnkps"].preprocess, anchor="top_left", axis_scale=axis_scale
    )
    image = read_image_rgb(shared / "assets" / "photos" / name)
    limit = [image.shape[1], image.shape[0]] * 2
    tolerance = 0.05 if axis_scale == "height" else 2.5
    with load(raw_heads, preprocess=authors, profile=Profile(0.5, 0.4)) as detector:
        faces = detector(image)
        boxes = np.clip(expected[f"{key}.t0.5.boxes"], 0, limit)
        assert len(faces) == len(boxes)
        np.testing.assert_allclose(faces.boxes_xyxy, boxes, atol=tolerance)
        np.testing.assert_allclose(faces.landmarks_xy, expected[f"{key}.t0.5.kps"], atol=tolerance)
        np.testing.assert_allclose(faces.scores, expected[f"{key}.t0.5.scores"], atol=1e-4)
        detector.profile = Profile(0.02, 0.4)
        many = detector(image)
    boxes = np.clip(expected[f"{key}.t0.02.boxes"], 0, limit)
    assert abs(len(many) - len(boxes)) <= 0.02 * len(boxes)
    gap = np.abs(many.boxes_xyxy[:, None] - boxes[None]).max(-1).min(0)
    assert np.mean(gap <= tolerance) >= 0.98


ODD_TWINS = {
    "t1.jpg": ["progressive.jpg", "cmyk.jpg"],
    "src_meeting.jpg": ["palette.png", "gray16.png", "alpha.png"],
    "exif_1.jpg": [f"exif_{index}.jpg" for index in range(2, 9)],
}


@pytest.mark.shared
@pytest.mark.parametrize("upright", ODD_TWINS)
def test_odd_files_give_the_faces_of_their_upright_original(shared, raw_heads, upright):
    folder = "photos_odd" if upright.startswith("exif") else "photos"
    with load(raw_heads) as detector:
        original = read_image_rgb(shared / "assets" / folder / upright)
        expected = detector(original)
        for name in ODD_TWINS[upright]:
            image = read_image_rgb(shared / "assets" / "photos_odd" / name)
            faces = detector(image)
            scale = image.shape[1] / original.shape[1]
            assert len(faces) == len(expected), name
            pairs = match_boxes(expected.boxes_xyxy * scale, faces.boxes_xyxy)
            assert len(pairs) == len(expected), name
            for row, column in pairs:
                gap = expected.boxes_xyxy[row] * scale - faces.boxes_xyxy[column]
                assert np.abs(gap).max() <= 2.0, name


@pytest.mark.shared
def test_a_grey_file_gives_the_faces_of_the_picture_turned_grey(shared, raw_heads):
    grey = read_image_rgb(shared / "assets" / "photos_odd" / "gray.jpg")
    colour = read_image_rgb(shared / "assets" / "photos" / "t1.jpg")
    turned = cv2.cvtColor(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    with load(raw_heads) as detector:
        faces, twin, original = detector(grey), detector(turned), detector(colour)
    drift = compare_detections([(twin, faces)])
    assert (drift.faces, drift.missed, drift.extra) == (6, 0, 0)
    assert drift.worst_corner <= 2.0
    # Without its colours the network itself answers a little differently.
    drift = compare_detections([(original, faces)])
    assert (drift.missed, drift.extra) == (0, 0)
    assert drift.worst_corner <= 2.5


@pytest.mark.shared
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.long)])
def test_a_border_finds_every_face_of_the_close_portraits(shared, raw_heads, step):
    every = sorted((shared / "assets" / "att_faces").glob("s*/*.pgm"))
    paths = every[::step]
    plain = dataclasses.replace(PROFILES["demo"], retry_border=0.0)
    with load(raw_heads) as detector:
        found = list(detector.stream(paths))
        assert sum(len(faces) > 0 for faces in found) == len(paths) == 300 // step
        assert all(faces.border == 0.25 for faces in found)
        detector.profile = plain
        assert sum(len(faces) > 0 for faces in detector.stream(every[:40:step])) == 0


# Reading at a part of the size --------------------------------------------------------------------


def test_faces_of_a_reduced_picture_come_back_in_the_files_pixels(model, tmp_path):
    """A square lies where it lies, whatever was read; the picture visited is the small one."""
    image = np.full((320, 256, 3), 10, np.uint8)
    image[80:120, 160:200] = 255
    path = tmp_path / "a.jpg"
    write_image_rgb(path, image)
    visited = []
    with load(model) as plain, load(model, fast_decode=True) as fast:
        (expected,) = plain.stream([path])
        (found,) = fast.stream([path], visit=lambda p, image, faces: visited.append(image))
        assert plain.settings() != fast.settings()
    assert visited[0].shape == (80, 64, 3)
    assert found.image_hw == expected.image_hw == (320, 256)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=6)
    np.testing.assert_allclose(found.landmarks_xy, expected.landmarks_xy, atol=6)


@pytest.mark.shared
def test_large_photos_keep_their_faces_when_read_in_part(shared, raw_heads, tmp_path):
    paths = []
    for name in ("t1.jpg", "src_meeting.jpg", "players.jpg", "left_face.jpeg", "crowd_test.jpg"):
        photo = read_image_rgb(shared / "assets" / "photos" / name)
        scale = (5e6 / photo[..., 0].size) ** 0.5
        paths.append((tmp_path / name).with_suffix(".jpg"))
        write_image_rgb(paths[-1], cv2.resize(photo, None, fx=scale, fy=scale))
    with load(raw_heads) as plain, load(raw_heads, fast_decode=True) as fast:
        drift = compare_detections(zip(plain.stream(paths), fast.stream(paths)))
    assert drift.faces > 20
    assert drift.missed <= 0.02 * drift.faces
    assert drift.mean_iou > 0.95


@pytest.mark.shared
@pytest.mark.parametrize(
    ("precision", "iou", "score"), [("f32", 0.9999, 1e-5), ("bf16", 0.985, 0.05)]
)
def test_openvino_finds_the_same_faces(shared, raw_heads, precision, iou, score):
    pytest.importorskip("openvino")
    paths = [shared / "assets" / "photos" / name for name in GOLDEN_PHOTOS]
    other = RuntimeOptions(engine="openvino", precision=precision)
    with load(raw_heads) as ort, load(raw_heads, runtime=other) as openvino:
        drift = compare_detections(zip(ort.stream(paths), openvino.stream(paths)))
    assert drift.faces > 20
    assert max(drift.missed, drift.extra) <= 0.03 * drift.faces
    assert drift.mean_iou >= iou
    assert drift.mean_score <= score
