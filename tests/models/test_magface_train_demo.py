"""source_code/train_demo.py: a minute of it always, all of it in the long tests."""

import csv
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch")

pytestmark = [pytest.mark.torch, pytest.mark.shared]

REPOSITORY = Path(__file__).parent.parent.parent
SCRIPT = REPOSITORY / "face_recognition/magface/source_code/train_demo.py"


def demo(shared, to, *more, squares=5):
    spec = importlib.util.spec_from_file_location("magface_train_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
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
    train = (tmp_path / "train.list").read_text().splitlines()
    pairs = [line.split() for line in (tmp_path / "pairs.list").read_text().splitlines()]
    assert len(train) == 25 * 10 and train[-1].endswith(".png 24")
    assert [pair[2] for pair in pairs] == ["1", "0"] * 225
    people = {Path(path).parent.name for pair in pairs for path in pair[:2]}
    assert people == {f"s{number}" for number in range(26, 31)}
    assert (tmp_path / "seed_0" / "weights" / "00002.pth").exists()


@pytest.mark.long
def test_it_learns_to_tell_people_apart(shared, tmp_path, capsys):
    assert demo(shared, tmp_path, "--seeds", 0) == 0
    ((_, untrained, trained, _),) = rows(capsys.readouterr().out)
    assert trained >= 0.92
    assert trained - untrained >= 0.10
