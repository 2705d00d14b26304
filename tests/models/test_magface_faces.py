"""The faces a training sees: read as the network takes them, drawn from (seed, epoch, face)."""

from pathlib import Path

import numpy as np
import pytest
from facezoo.datasets.image_list import ImageList
from facezoo.errors import DatasetError
from facezoo.image.files import write_image_rgb
from facezoo.models.magface.faces import TrainingFaces, read_face, read_face_pairs


@pytest.fixture
def folder(tmp_path, rng):
    for index in range(40):
        write_image_rgb(
            tmp_path / f"{index}.png", rng.integers(0, 256, (112, 112, 3)).astype(np.uint8)
        )
    return tmp_path


def face_set(folder, seed=0):
    names = tuple(f"{index}.png" for index in range(40))
    return TrainingFaces(ImageList(names, np.arange(40) % 4), seed, folder)


def test_a_face_is_bgr_and_planar(tmp_path):
    image = np.zeros((112, 112, 3), np.uint8)
    image[5, 7] = (10, 20, 30)
    write_image_rgb(tmp_path / "a.png", image)
    face = read_face(tmp_path / "a.png")
    assert (face.shape, face.dtype) == ((3, 112, 112), np.uint8)
    assert face[:, 5, 7].tolist() == [30, 20, 10]
    write_image_rgb(tmp_path / "b.png", np.zeros((60, 50, 3), np.uint8))
    assert read_face(tmp_path / "b.png").shape == (3, 112, 112)


def test_half_of_the_faces_are_mirrored_and_others_in_the_next_epoch(folder):
    faces = face_set(folder)
    mirrored = []
    for epoch in (0, 1):
        for index in range(40):
            plain = read_face(folder / f"{index}.png")
            face, label, chances = faces[epoch, index]
            assert label == index % 4
            is_plain, is_mirrored = (
                np.array_equal(face, plain),
                np.array_equal(face, plain[..., ::-1]),
            )
            assert is_plain != is_mirrored
            mirrored.append(is_mirrored)
            assert chances.shape == (512,) and 0.0 <= chances.min() <= chances.max() < 1.0
    assert 25 <= sum(mirrored) <= 55
    assert mirrored[:40] != mirrored[40:]


def test_what_is_drawn_follows_from_seed_epoch_and_face(folder):
    first, again, other = face_set(folder), face_set(folder), face_set(folder, seed=1)
    again[0, 5]
    assert np.array_equal(first[2, 3][2], again[2, 3][2])
    assert np.array_equal(first[2, 3][0], again[2, 3][0])
    drawn = [first[2, 3][2], first[2, 4][2], first[3, 3][2], other[2, 3][2]]
    assert all(not np.array_equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_paths_may_not_leave_their_folder(folder):
    faces = TrainingFaces(ImageList(("../0.png",), np.zeros(1, np.int64)), 0, folder / "x")
    with pytest.raises(DatasetError, match="leads out"):
        faces[0, 0]


def test_pairs_name_each_face_once(tmp_path):
    (tmp_path / "pairs").write_text("a.png b.png 1\na.png c.png 0\nb.png a.png 1\n")
    pairs = read_face_pairs(tmp_path / "pairs")
    assert pairs.paths == (Path("a.png"), Path("b.png"), Path("c.png"))
    assert pairs.pairs.tolist() == [[0, 1], [0, 2], [1, 0]]
    assert pairs.is_same.tolist() == [True, False, True]
    assert read_face_pairs(tmp_path / "pairs", tmp_path).paths[0] == tmp_path / "a.png"


@pytest.mark.parametrize("line", ["a.png b.png", "a.png b.png 2", "a.png b.png c.png 1"])
def test_other_pairs_are_refused_by_line(tmp_path, line):
    (tmp_path / "pairs").write_text(f"a.png b.png 1\n{line}\n")
    with pytest.raises(DatasetError, match="line 2"):
        read_face_pairs(tmp_path / "pairs")
