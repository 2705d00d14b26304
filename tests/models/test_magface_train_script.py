"""source_code/train.py from the command line: lists, classes, files, loaders, two processes."""

import csv
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from facezoo.datasets.image_list import write_image_list
from facezoo.image.files import write_image_rgb

torch = pytest.importorskip("torch")
from facezoo.models.magface.network import build, load_official  # noqa: E402
from facezoo.models.magface.train import Trainer  # noqa: E402

pytestmark = pytest.mark.torch

REPOSITORY = Path(__file__).parent.parent.parent
SCRIPT = REPOSITORY / "face_recognition/magface/source_code/train.py"
PEOPLE = 3
QUICK = "--epochs 1 --batch-size 6 --workers 0 --print-freq 1 --device cpu".split()


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("magface_train", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module.main
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve pictures of three people, in every form of list, and pairs."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(5)
    names = [f"{index}.png" for index in range(12)]
    for index, name in enumerate(names):
        image = rng.integers(0, 80, (112, 112, 3)).astype(np.uint8)
        image[:, :, index % PEOPLE] += 120
        write_image_rgb(folder / name, image)
    labels = [index % PEOPLE for index in range(12)]
    for form, name in (("path label", "two"), ("path 0 label 0", "four")):
        write_image_list(folder / f"{name}.list", names, labels, form)
    semicolons = "".join(f"{n};{label}\n" for n, label in zip(names, labels))
    (folder / "semicolon.list").write_text(semicolons)
    pairs = [(i, j) for i in range(4) for j in range(4, 8)]
    lines = [f"{names[i]} {names[j]} {int(i % PEOPLE == j % PEOPLE)}\n" for i, j in pairs]
    (folder / "pairs.list").write_text("".join(lines))
    return folder


def arguments(data, to, name="two", *more):
    given = ["--train_list", data / f"{name}.list", "--image_root", data, "--pth-save-fold", to]
    return [*map(str, [*given, *QUICK, *more])]


@pytest.fixture(scope="module")
def trained(main, data, tmp_path_factory):
    to = tmp_path_factory.mktemp("run")
    pairs = ("--val_pairs", data / "pairs.list", "--val_folds", 2)
    assert main(arguments(data, to, "two", *pairs)) == 0
    return to


def test_a_run_leaves_its_files(trained):
    found = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert found == {
        ".files.jsonl",
        "run.json",
        "steps.csv",
        "epochs.csv",
        "checkpoints/00000002.pth",
        "weights/00001.pth",
        "weights/best.pth",
        "vis/00001.png",
    }
    assert json.loads((trained / "run.json").read_text())["finished"]
    with (trained / "epochs.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["identity"]) + 35 * float(row["magnitude"]) == pytest.approx(
        float(row["loss"])
    )
    assert 0.0 <= float(row["verification"]) <= 1.0


def authors_tensors(path, network):
    """Take entries of a file as the authors' loader does (see the golden prefixes' rule)."""
    own, taken = network.state_dict(), {}
    for key, value in torch.load(path, weights_only=True)["state_dict"].items():
        parts = key.split(".")
        for name in ("features." + ".".join(parts[2:]), ".".join(parts[1:])):
            if name in own and own[name].shape == value.shape:
                taken[name] = value
    return taken


def test_weights_load_in_both_loaders(trained):
    ours, theirs = build("iresnet18"), build("iresnet18")
    load_official(ours, trained / "weights/00001.pth")
    taken = authors_tensors(trained / "weights/00001.pth", theirs)
    assert len(taken) == len(theirs.state_dict())
    theirs.load_state_dict(taken)
    checkpoint = torch.load(trained / "checkpoints/00000002.pth", weights_only=True)["network"]
    for name, value in checkpoint.items():
        assert torch.equal(ours.state_dict()[name], value)
        assert torch.equal(theirs.state_dict()[name], value)


def test_a_finished_run_has_nothing_to_do(main, data, trained, capsys):
    before = (trained / "steps.csv").read_bytes()
    pairs = ("--val_pairs", data / "pairs.list", "--val_folds", 2)
    assert main(arguments(data, trained, "two", *pairs)) == 0
    assert capsys.readouterr().out == f"done: 2 of 2 batches; in {trained}\n"
    assert (trained / "steps.csv").read_bytes() == before


def test_more_epochs_go_on_in_the_same_folder(main, data, trained, tmp_path, capsys, caplog):
    more = ["--epochs", 2]
    assert main(arguments(data, tmp_path / "parts")) == 0
    assert main(arguments(data, tmp_path / "parts", "two", *more)) == 0
    assert "goes on with epochs 2 instead of 1" in caplog.text
    assert main(arguments(data, tmp_path / "whole", "two", *more)) == 0
    parts, whole = ((tmp_path / name / "steps.csv").read_bytes() for name in ("parts", "whole"))
    assert parts == whole
    entry = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert (entry["finished"], entry["earlier_settings"]) == (True, [{"epochs": 1}])
    capsys.readouterr()
    assert main(arguments(data, tmp_path / "parts")) == 4
    assert "belongs to another run (epochs was 2, is 1);" in capsys.readouterr().err


def test_ctrl_c_ends_well_and_all_forms_of_lists_are_one(main, data, trained, tmp_path):
    """Stopped after a batch, the same command goes on; the list has another form."""
    learn = Trainer.learn

    def interrupted(self, *batch):
        os.kill(os.getpid(), signal.SIGINT)
        return learn(self, *batch)

    def stopped():
        Trainer.learn = interrupted
        sys.exit(main(arguments(data, tmp_path, "four")))

    # In a process of its own: a signal that goes astray must not end the other tests.
    process = multiprocessing.get_context("fork").Process(target=stopped)
    process.start()
    process.join()
    assert process.exitcode == 130
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000001.pth"]
    assert main(arguments(data, tmp_path, "four", "--quiet")) == 0
    assert (tmp_path / "steps.csv").read_bytes() == (trained / "steps.csv").read_bytes()


def test_the_advice_after_a_diverged_training_works(main, data, tmp_path, capsys, monkeypatch):
    """In the same folder, from the newest checkpoint or from the start."""
    learn = Trainer.learn

    def diverging(self, *batch):
        if self.settings.lr == 10.0 and self.step == stop_at:
            self.head.weight.data[0, 0] = float("nan")
        return learn(self, *batch)

    monkeypatch.setattr(Trainer, "learn", diverging)
    for stop_at, kept in ((0, []), (1, ["00000001.pth"])):
        to = tmp_path / str(stop_at)
        words = arguments(data, to, "two", "--save-every", 1, "--learning-rate")
        assert main([*words, "10"]) == 2
        error = capsys.readouterr().err
        assert f"step {stop_at + 1} (batch {stop_at + 1} of 2 of epoch 1): the loss is not" in error
        assert "--resume and a lower --learning-rate" in error
        assert [path.name for path in to.glob("*/*.pth")] == kept
        assert main([*words, "0.01"]) == 4
        assert "lr was 10.0, is 0.01" in capsys.readouterr().err
        assert main([*words, "0.01", "--resume"]) == 0
        assert capsys.readouterr().out.endswith(f"done: 2 of 2 batches; in {to}\n")
        assert json.loads((to / "run.json").read_text())["earlier_settings"] == [{"lr": 10.0}]
        assert main([*words, "0.01"]) == 0


def test_lengths_are_measured_and_bounds_proposed(main, data, trained, capsys, tmp_path):
    more = ("--measure-norms", 5, "--pretrained", trained / "weights/00001.pth")
    assert main(arguments(data, tmp_path / "none", "semicolon", *more)) == 0
    first, second = capsys.readouterr().out.splitlines()
    low, high = map(float, first.replace("lengths of 5 faces: ", "").split(" to "))
    _, _, l_a, _, u_a = second.split()
    assert float(l_a) < low <= high < float(u_a)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--last-fc-size", 85742), "--last-fc-size 85742, but 3 in the list"),
        (("--lambda_g", 20), "lambda_g 20 is below its bound 22.587"),
        (("--precision", "fp16"), "fp16 needs a GPU"),
        (("--batch-size", 13), "batch size 13 must be"),
        (("--measure-norms", 5), "--measure-norms needs --pretrained"),
    ],
)
def test_what_does_not_go_together_is_refused(main, data, tmp_path, capsys, more, message):
    assert main(arguments(data, tmp_path / "run", "two", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_interval_of_no_steps_is_refused(main, data, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments(data, tmp_path / "run", "two", "--print-freq", 0))
    assert end.value.code == 2
    assert "--print-freq/-p: is '0'; expected a whole number from 1" in capsys.readouterr().err


def test_torchrun_starts_it_on_two_processes(data, trained, tmp_path):
    """The first loss is that of one process; the second already differs in float32."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    more = ("--head", "sharded")
    subprocess.run(
        [*torchrun, "--standalone", str(SCRIPT), *arguments(data, tmp_path, "two", *more)],
        check=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    rows = [
        next(csv.DictReader((folder / "steps.csv").read_text().splitlines()))
        for folder in (tmp_path, trained)
    ]
    assert float(rows[0]["loss"]) == pytest.approx(float(rows[1]["loss"]), rel=1e-5)
