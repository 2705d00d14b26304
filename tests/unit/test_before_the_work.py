"""What can be known before the work is refused before the work: files to write, room, folds."""

import collections
import pickle
import shutil
import sys
from unittest import mock

import cv2
import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.errors import InputError
from facezoo.files import check_room
from facezoo.image.files import write_image_rgb
from facezoo.models.base import FaceModel
from facezoo.testing import tiny_magface, tiny_scrfd


@pytest.fixture
def no_work(monkeypatch):
    """No network is run, or the test fails."""

    def work(*_, **__):
        raise AssertionError("the work was begun")

    monkeypatch.setattr(FaceModel, "_infer", work)


@pytest.fixture
def people(tmp_path, rng):
    for person in range(4):
        for index in range(4):
            face = rng.integers(0, 256, (112, 112, 3), np.uint8)
            write_image_rgb(tmp_path / "people" / f"p{person}" / f"{index}.png", face)
    return tmp_path / "people"


@pytest.fixture
def verification(tmp_path, people):
    model = tiny_magface(tmp_path / "net.onnx")
    words = ["evaluate", "verification", "--images", people, "--embedder", model]
    return lambda *more: main([str(word) for word in (*words, *more)])


@pytest.mark.parametrize(
    ("flag", "place", "message"),
    [
        ("--plot", "roc", "roc' has no image suffix; expected one such as .png, .svg or .pdf"),
        ("--plot", "roc.xyz", "roc.xyz' has no image suffix"),
        ("--json", "people", "people' is a folder; name a file"),
        ("--json", "net.onnx/report.json", "net.onnx' is a file, not a folder"),
    ],
)
def test_a_file_that_cannot_be_written(
    verification, no_work, tmp_path, capsys, flag, place, message
):
    assert verification(flag, tmp_path / place) == 2
    assert message in capsys.readouterr().err


def test_a_plot_without_matplotlib(verification, no_work, tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert verification("--plot", tmp_path / "roc.png") == 2
    assert "plots need the package matplotlib, which is missing" in capsys.readouterr().err


def test_too_few_pairs_for_the_folds(verification, no_work, people, capsys):
    for folder in sorted(people.iterdir())[2:]:
        shutil.rmtree(folder)
    for path in (people / "p0").glob("[23].png"):
        path.unlink()
    for path in (people / "p1").glob("[23].png"):
        path.unlink()
    assert verification() == 2
    assert "4 pairs cannot be split into 10 folds; expected at least 10" in capsys.readouterr().err
    assert verification("--folds", "2") == 70
    assert "the work was begun" in capsys.readouterr().err


def test_too_few_pairs_of_a_packed_set(tmp_path, no_work, run_here):
    jpeg = cv2.imencode(".jpg", np.zeros((112, 112, 3), np.uint8))[1].tobytes()
    (tmp_path / "six.bin").write_bytes(pickle.dumps(([jpeg] * 12, [True, False] * 3)))
    model = tiny_magface(tmp_path / "net.onnx")
    script = "face_recognition/magface/source_code/eval_recognition.py"
    code, _, error = run_here(script, "--onnx", model, "--bin", tmp_path / "six.bin")
    assert code == 2
    assert "6 pairs cannot be split into 10 folds; expected at least 10 pairs" in error


def test_room_on_the_disk(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2_000_000))
    check_room(tmp_path / "new" / "folder", 2_000_000, "files")
    with pytest.raises(InputError, match=r"new' has 0.00 GB free, and 3 files need 5.00 GB"):
        check_room(tmp_path / "new", 5_000_000_000, "3 files")


def test_pictures_to_draw_need_room(tmp_path, people, no_work, capsys, monkeypatch):
    usage = collections.namedtuple("usage", "free")
    needed = sum(path.stat().st_size for path in people.rglob("*.png"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(needed - 1))
    model = tiny_scrfd(tmp_path / "scrfd.onnx")
    words = ["predict", people, "--save_dir", tmp_path / "out", "--detector", model, "--draw"]
    assert main([str(word) for word in words]) == 2
    assert "the results of 16 items need" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["info", "scrfd_500m_bnkps"],
        ["evaluate", "scrfd", "--pred", "none", "--gt", "none"],
        ["evaluate", "landmarks", "--pred", "none", "--gt", "none"],
        ["evaluate", "verification", "--images", "none", "--embedder", "none.onnx"],
        ["evaluate", "quality", "--scores", "a=none", "--embeddings", "none", "--dataset", "a"],
    ],
)
def test_numbers_are_recorded_in_no_file_of_something_else(tmp_path, no_work, capsys, words):
    path = tmp_path / "package.json"
    path.write_text('{"name": "mine"}')
    with mock.patch("facezoo.cli.info._count", side_effect=AssertionError("the work has begun")):
        assert main([*words, "--record", str(path)]) == 2
    assert "package.json" in capsys.readouterr().err
    assert path.read_text() == '{"name": "mine"}'
