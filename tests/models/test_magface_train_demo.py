"""source_code/train_demo.py: a minute of it always, all of it in the long tests."""

import csv
import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import pytest
from facezoo.image.files import write_image_rgb

pytest.importorskip("torch")

pytestmark = [pytest.mark.torch, pytest.mark.shared]

REPOSITORY = Path(__file__).parent.parent.parent
SCRIPT = REPOSITORY / "face_recognition/magface/source_code/train_demo.py"


def script():
    spec = importlib.util.spec_from_file_location("magface_train_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def demo(shared, to, *more, squares=5):
    module = script()
    module.SQUARES = module.SQUARES[:squares]
    folders = ["--att_dir", str(shared / "assets" / "att_faces"), "--save_dir", str(to)]
    return module.main([*folders, *map(str, more)])


def rows(text):
    table = text.split("seed  untrained  trained  minutes\n")[1]
    return [tuple(map(float, line.split())) for line in table.splitlines()]


def test_two_epochs_of_one_square_learn(shared, tmp_path, capsys, monkeypatch):
    # Two threads that share their cores with other tests wait for one another most of the time.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert demo(shared, tmp_path, "--seeds", 0, "--epochs", 2, squares=1) == 0
    ((seed, untrained, trained, _),) = rows(capsys.readouterr().out)
    assert seed == 0 and 0.5 < untrained < 1.0 and 0.5 < trained < 1.0
    with (tmp_path / "seed_0" / "epochs.csv").open() as file:
        first, last = (float(row["accuracy"]) for row in csv.DictReader(file))
    # One of 25 people by chance.
    assert last > 2 * first and last > 0.25
    faces = tmp_path / "faces"
    train = (faces / "train.list").read_text().splitlines()
    pairs = [line.split() for line in (faces / "pairs.list").read_text().splitlines()]
    assert len(train) == 25 * 10 and train[-1].endswith(".png 24")
    assert [pair[2] for pair in pairs] == ["1", "0"] * 225
    people = {Path(path).parent.name for pair in pairs for path in pair[:2]}
    assert people == {f"s{number}" for number in range(26, 31)}
    assert (tmp_path / "seed_0" / "weights" / "00002.pth").exists()


def test_somebody_elses_faces_and_lists_stay(tmp_path, capsys):
    """The folder of the demo may hold the images that it reads, as those of AT&T."""
    for person in range(1, 31):
        write_image_rgb(tmp_path / f"faces/s{person}/1_0.png", np.zeros((112, 92, 3), np.uint8))
    (tmp_path / "train.list").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    folders = ["--att_dir", str(tmp_path / "faces"), "--save_dir", str(tmp_path)]
    assert script().main(folders) == 2
    assert "is read by this run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_the_training_ends_with_is_passed_on(tmp_path, monkeypatch, capsys):
    for person in range(1, 31):
        for name in ("1_0", "1_1"):
            write_image_rgb(
                tmp_path / f"faces/s{person}/{name}.png", np.zeros((112, 92, 3), np.uint8)
            )
    monkeypatch.setattr(subprocess, "run", lambda command: subprocess.CompletedProcess(command, 4))
    folders = ["--att_dir", str(tmp_path / "faces"), "--save_dir", str(tmp_path / "demo")]
    assert script().main(folders) == 4
    assert "report" not in capsys.readouterr().err


@pytest.mark.long
def test_it_learns_to_tell_people_apart(shared, tmp_path, capsys):
    assert demo(shared, tmp_path, "--seeds", 0) == 0
    ((_, untrained, trained, _),) = rows(capsys.readouterr().out)
    assert trained >= 0.92
    assert trained - untrained >= 0.10
