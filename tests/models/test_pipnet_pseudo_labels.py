"""Pseudo-labels of a teacher: mirrored points, means over views, crops, and the script's lists."""

import runpy

import numpy as np
import pytest
from facezoo.datasets.wflw import LISTS, read_normalised_list
from facezoo.errors import InputError
from facezoo.image.crop import SquareCrop
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.models.pipnet.decode import load_meanface
from facezoo.models.pipnet.pseudo_labels import (
    MIRRORED,
    TaughtFaces,
    keep_agreed,
    plain_crop,
    teach,
    turned_crops,
)
from facezoo.results import Landmarks
from facezoo.testing import tiny_pfld, tiny_scrfd

MEANFACE = load_meanface("WFLW", 10).points_xy
SCRIPT = "face_alignment/pipnet/source_code/pseudo_labels.py"
BOX = (60.0, 50.0, 160.0, 170.0)
TRUTH = MEANFACE * [100, 120] + [60, 50]


def test_a_mirrored_face_has_the_landmarks_of_the_other_side():
    np.testing.assert_array_equal(MIRRORED[MIRRORED], np.arange(98))
    mirrored = MEANFACE[MIRRORED] * (-1, 1) + (1, 0)
    gaps = np.linalg.norm(mirrored - MEANFACE, axis=1)
    assert gaps.max() < 0.05
    # Of each landmark no other one is nearer to where its partner is seen in the mirror.
    others = np.linalg.norm(mirrored[:, None] - MEANFACE[None], axis=2)
    assert (others.argmin(axis=1) == np.arange(98)).mean() > 0.95


class Teacher:
    """Finds the landmarks of a photo whose pixels hold their own position, with a known error."""

    def __init__(self, error=0.0, count=98):
        self.error, self.count, self.cuts = error, count, []

    def crop_of(self, box_xyxy, image_hw):
        return SquareCrop.around(box_xyxy, image_hw)

    def batch(self, images_rgb, *, shared=False):
        return [self._find(image) for image in images_rgb]

    def _find(self, image):
        self.cuts.append(image.shape)
        y, x = np.argwhere(image.any(axis=2))[0]
        left, top = (int(v) for v in image[y, x, :2] - np.array([x, y]).astype(np.uint8))
        points, along = TRUTH, image[y, min(x + 1, image.shape[1] - 1), 0]
        if int(along) < int(image[y, x, 0]):  # mirrored: the columns fall
            points = TRUTH[MIRRORED] * (-1, 1)
            # What lay at the right side of this pixel lies at its left side now.
            left = -(int(image[y, x, 0]) + 1) - x
        found = points - (left, top) + (self.error, 0.0)
        return Landmarks(found[: self.count].astype(np.float32), np.zeros(0), image.shape[:2])


@pytest.fixture
def photo():
    """Red is the column and green the row."""
    rows, columns = np.mgrid[:240, :240]
    return np.stack([columns, rows, np.full_like(rows, 7)], axis=2).astype(np.uint8)


def test_views_are_mapped_back_and_averaged(photo):
    teacher = Teacher()
    points, disagreement = teach(photo, BOX, teacher)
    np.testing.assert_allclose(points, TRUTH, atol=1e-4)
    assert disagreement == pytest.approx(0.0, abs=1e-6)
    assert len(teacher.cuts) == 1 + 6
    # An error to the right in each view is one to the left in the mirrored ones.
    points, disagreement = teach(photo, BOX, Teacher(error=3.0))
    np.testing.assert_allclose(points, TRUTH, atol=1e-4)
    assert disagreement == pytest.approx(3.0 / np.linalg.norm(TRUTH[60] - TRUTH[72]), rel=1e-4)


def test_a_teacher_of_other_landmarks_is_refused(photo):
    with pytest.raises(InputError, match="the teacher has 68 landmarks, expected the 98 of WFLW"):
        teach(photo, BOX, Teacher(count=68))


def test_training_crops_hold_their_landmarks():
    """Dots at the corners of the eyes are found where the crop's landmarks say, mirrored or not."""
    photo = np.zeros((240, 240, 3), np.uint8)
    for (x, y), colour in zip(TRUTH[[60, 72]].round().astype(int), ((255, 0, 0), (0, 255, 0))):
        photo[y - 1 : y + 2, x - 1 : x + 2] = colour
    mirrored = []
    for crop, points in turned_crops(photo, TRUTH, 128, 12, np.random.default_rng(0)):
        assert crop.shape == (128, 128, 3)
        assert -0.25 < points.min() < points.max() < 1.25
        found = [np.argwhere(crop[..., i] > 60).mean(axis=0)[::-1] for i in range(2)]
        gaps = [
            np.abs(np.array(found) - points[order] * 128).max() for order in ([60, 72], [72, 60])
        ]
        assert min(gaps) < 2.5
        mirrored.append(gaps[1] < gaps[0])
    assert 0 < sum(mirrored) < 12
    crop, points = plain_crop(photo, TRUTH)
    assert crop.shape[0] == crop.shape[1] == int(1.2 * np.ptp(TRUTH, axis=0).max())
    assert points.min() >= 0.0
    assert points.max() <= 1.0


def test_the_faces_of_least_agreement_are_left_out():
    faces = [
        TaughtFaces(split, [{f"{split}{n}.jpg": TRUTH / 240}], [0.01 * n]).to_dict()
        for split in ("train", "test")
        for n in range(5)
    ]
    lists, most = keep_agreed([*faces, {"error": "unreadable"}], 0.6)
    assert most == pytest.approx(0.02)
    assert lists["train"].names == ("train0.jpg", "train1.jpg", "train2.jpg")
    assert len(lists["test"]) == 3
    np.testing.assert_allclose(lists["test"].points_xy[0], TRUTH / 240)
    with pytest.raises(InputError, match=r"no face for test\.txt was found"):
        keep_agreed(faces[:5], 1.0)


def test_the_script_labels_photos_that_wflw_does_not_list(repository, tmp_path, rng, capsys):
    photos, lists = tmp_path / "photos", tmp_path / "lists"
    for number in range(8):
        image = np.full((120, 120, 3), 20, np.uint8)
        face = rng.integers(190, 256, (4, 4, 3))  # as the tiny detector finds it
        image[30:78, 30:78] = np.kron(face, np.ones((12, 12, 1)))
        write_image_rgb(photos / f"{number}.png", image)
    lists.mkdir()
    points = " ".join(map(str, TRUTH.ravel().tolist()))
    (lists / LISTS["blur"]).write_text(f"{points} 0--Parade/3.png\n")
    main = runpy.run_path(str(repository / SCRIPT))["main"]
    words = ["--photos", photos, "--exclude", lists, "--save_dir", tmp_path / "taught"]
    words += ["--detector", tiny_scrfd(tmp_path / "scrfd.onnx")]
    words += ["--teacher", tiny_pfld(tmp_path / "pfld.onnx"), "--least_height", 1, "--size", 32]
    words += ["--crops", 2, "--seed", 2, "--keep", 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(main.__globals__, "TRAIN_SHARE", 0.5)
        assert main([str(word) for word in words]) == 0
        said = capsys.readouterr().out
        assert main([str(word) for word in words]) == 0
    assert "7 images" in said
    train, test = (
        read_normalised_list(tmp_path / "taught" / f"{s}.txt") for s in ("train", "test")
    )
    assert f"train.txt: {len(train)} crops; largest disagreement " in said
    stems = {name.rpartition("_")[0] for name in train.names}
    assert len(train) == 2 * len(stems) > 0
    assert not stems & {name.rpartition("_")[0] for name in test.names}
    for split, content in (("train", train), ("test", test)):
        for name in content.names:
            crop = read_image_rgb(tmp_path / "taught" / f"images_{split}" / name)
            assert split == "test" or crop.shape == (32, 32, 3)
