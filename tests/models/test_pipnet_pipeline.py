"""PIPNet behind facezoo.load: crops, photos with faces, files, and another mean face."""

import json

import facezoo
import numpy as np
import pytest
from facezoo import FaceDetector, LandmarkDetector, load
from facezoo.contract import Contract
from facezoo.errors import DecodeError, ImageError, InputError
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.models import CARDS
from facezoo.models.pipnet.crop import DetectorCrop
from facezoo.models.pipnet.decode import load_meanface
from facezoo.pipeline.photo import Predictor, in_recipe_form
from facezoo.results import FaceDetections, Landmarks
from facezoo.testing import tiny_pipnet, tiny_scrfd

MEANFACE = load_meanface("WFLW", 10).points_xy


@pytest.fixture
def model(tmp_path):
    return tiny_pipnet(tmp_path / "pipnet.onnx")


def bright_at(column, row, image_hw=(256, 256)):
    """A picture that is white in one of 8 x 8 cells."""
    height, width = (side // 8 for side in image_hw)
    image = np.full((*image_hw, 3), 8, np.uint8)
    image[row * height : (row + 1) * height, column * width : (column + 1) * width] = 255
    return image


def faces_of(boxes, image_hw):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    return FaceDetections(
        boxes, np.ones(count, np.float32), np.zeros((count, 5, 2), np.float32), image_hw
    )


class Finds:
    """Stands in for a detector, of a variant without landmarks."""

    contract = Contract.from_card(CARDS["scrfd_1g"])

    def __init__(self, faces, backend):
        self.faces, self.backend = faces, backend

    def batch(self, images, *, shared):
        return [self.faces] * len(images)


def on_faces(landmarks, photo, faces):
    return Predictor(Finds(faces, landmarks.backend), landmarks)(photo)


def marks_of(photo):
    return [face.points for face in photo.faces]


@pytest.mark.parametrize("image_hw", [(256, 256), (512, 128), (200, 320)])
def test_landmarks_of_a_crop_come_back_in_its_pixels(model, image_hw):
    with load(model) as landmarks:
        found = landmarks(bright_at(2, 5, image_hw))
    cell = np.array(image_hw[::-1]) / 8
    assert len(found) == 98
    assert found.image_hw == image_hw
    np.testing.assert_allclose(found.points_xy, (MEANFACE + [2, 5]) * cell, atol=1e-3)
    assert found.scores.argmax() == 97


def test_landmarks_of_a_photo_come_back_in_the_photos_pixels(model):
    photo = np.full((300, 500, 3), 8, np.uint8)
    faces = faces_of([[60, 40, 160, 160], [301.7, 55.2, 420.4, 201.9]], (300, 500))
    for box, (column, row) in zip(faces.boxes_xyxy, [(1, 2), (6, 3)]):
        cut = DetectorCrop.of(box, (300, 500)).cut(photo)
        cut[:] = bright_at(column, row, (cut.shape[0] // 8 * 8, cut.shape[1] // 8 * 8))[
            np.ix_(
                np.linspace(0, cut.shape[0] // 8 * 8 - 1, cut.shape[0]).round().astype(int),
                np.linspace(0, cut.shape[1] // 8 * 8 - 1, cut.shape[1]).round().astype(int),
            )
        ]
    with facezoo.load(model) as landmarks:
        found = on_faces(landmarks, photo, faces)
    assert len(found) == 2
    for face, box, cell in zip(marks_of(found), faces.boxes_xyxy, [(1, 2), (6, 3)]):
        left, top, right, bottom = DetectorCrop.of(box, (300, 500)).box_xyxy
        size = np.array([right - left + 1, bottom - top + 1])
        expected = (MEANFACE + cell) / 8 * size + [left, top]
        np.testing.assert_allclose(face.points_xy, expected, atol=0.01)
        assert face.image_hw == (300, 500)


def test_no_face_is_no_landmarks(model):
    with facezoo.load(model) as landmarks:
        found = on_faces(landmarks, np.zeros((20, 30, 3), np.uint8), faces_of([], (20, 30)))
    assert len(found) == 0
    assert in_recipe_form(found).to_dict() == {"width": 30, "height": 20, "faces": []}


def test_a_stream_of_photos_equals_single_photos(model, tmp_path):
    rng = np.random.default_rng(5)
    for index in range(5):
        photo = np.full((90, 120, 3), 10, np.uint8)
        top, left = rng.integers(0, 60), rng.integers(0, 90)
        photo[top : top + 25, left : left + 25] = rng.integers(200, 256, (25, 25, 3))
        write_image_rgb(tmp_path / "photos" / f"{index}.png", photo)
    paths = sorted((tmp_path / "photos").iterdir())
    paths[3].write_bytes(b"")
    detector = facezoo.load(tiny_scrfd(tmp_path / "scrfd.onnx"), profile="eval")
    with Predictor(detector, facezoo.load(model)) as photos:
        seen = []
        found = photos.stream(paths, visit=lambda path, image, found: seen.append(path))
        results = {result.source: result for result in found}
        assert list(results) == paths
        assert isinstance(results[paths[3]], ImageError)
        assert sorted(seen) == [path for path in paths if path != paths[3]]
        for path in seen:
            alone = photos(read_image_rgb(path))
            assert len(alone) > 0
            assert len(alone) == len(results[path])
            for one, other in zip(marks_of(alone), marks_of(results[path])):
                np.testing.assert_allclose(one.points_xy, other.points_xy, atol=1e-3)
        settings = photos.settings()
    assert settings["landmarks"]["model"] == "pip_resnet18"
    assert settings["detector"]["profile"]["score_threshold"] == 0.02
    json.dumps(settings)


def test_results_survive_json(model):
    with load(model) as landmarks:
        crop = landmarks(bright_at(3, 3))
        photo = on_faces(landmarks, bright_at(3, 3), faces_of([[0, 0, 250, 250]], (256, 256)))
    again = Landmarks.from_dict(json.loads(json.dumps(crop.to_dict())))
    np.testing.assert_array_equal(again.points_xy, crop.points_xy)
    np.testing.assert_array_equal(again.scores, crop.scores)
    assert again.image_hw == crop.image_hw
    entry = json.loads(json.dumps(in_recipe_form(photo).to_dict()))
    again = Landmarks.from_dict({**entry, **entry["faces"][0]})
    np.testing.assert_array_equal(again.points_xy, photo.faces[0].points.points_xy)
    boxes = FaceDetections.from_dict(entry).boxes_xyxy
    np.testing.assert_array_equal(boxes, photo.detections.boxes_xyxy)


def test_another_mean_face_replaces_the_contracts(model):
    shuffled = MEANFACE[np.random.default_rng(1).permutation(98)]
    image = bright_at(2, 5)
    with load(model) as right, load(model, meanface=shuffled) as wrong:
        gap = np.abs(right(image).points_xy - wrong(image).points_xy)
        assert gap.max() > 3.0
        assert right.settings() != wrong.settings()
    refused = pytest.raises(DecodeError, match="mean face of 68 landmarks")
    with load(model, meanface=MEANFACE[:68]) as other, refused:
        other(image)
    with pytest.raises(InputError, match="mean face"):
        load(model, meanface=MEANFACE[:5])


def test_each_model_takes_its_own_files(model, tmp_path):
    scrfd = tiny_scrfd(tmp_path / "scrfd.onnx")
    with pytest.raises(InputError, match="a LandmarkDetector; expected a FaceDetector, a model"):
        load(model, kind=FaceDetector)
    with pytest.raises(InputError, match="a FaceDetector; expected a LandmarkDetector, a model"):
        load(scrfd, kind=LandmarkDetector)
