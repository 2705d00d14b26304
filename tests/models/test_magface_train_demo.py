"""source_code/train_demo.py: two minutes of it, all of it in the long tests."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch")

pytestmark = [pytest.mark.torch, pytest.mark.shared]

REPOSITORY = Path(__file__).parent.parent.parent
SCRIPT = REPOSITORY / "face_recognition/magface/source_code/train_demo.py"


def demo(shared, to, *more):
    spec = importlib.util.spec_from_file_location("magface_train_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folders = ["--att_dir", str(shared / "assets" / "att_faces"), "--save_dir", str(to)]
    return module.main([*folders, *map(str, more)])


def rows(text):
    table = text.split("seed  untrained  trained  minutes\n")[1]
    return [tuple(map(float, line.split())) for line in table.splitlines()]


def test_a_third_of_it_learns(shared, tmp_path, capsys):
    assert demo(shared, tmp_path, "--seeds", 0, "--epochs", 1) == 0
    ((seed, untrained, trained, _),) = rows(capsys.readouterr().out)
    assert seed == 0
    assert trained - untrained >= 0.05
    train = (tmp_path / "train.list").read_text().splitlines()
    pairs = [line.split() for line in (tmp_path / "pairs.list").read_text().splitlines()]
    assert len(train) == 25 * 10 * 5 and train[-1].endswith(".png 24")
    assert [pair[2] for pair in pairs] == ["1", "0"] * 225
    people = {Path(path).parent.name for pair in pairs for path in pair[:2]}
    assert people == {f"s{number}" for number in range(26, 31)}
    assert (tmp_path / "seed_0" / "weights" / "00001.pth").exists()


@pytest.mark.long
def test_it_learns_to_tell_people_apart(shared, tmp_path, capsys):
    assert demo(shared, tmp_path, "--seeds", 0) == 0
    ((_, untrained, trained, _),) = rows(capsys.readouterr().out)
    assert trained >= 0.92
    assert trained - untrained >= 0.10
