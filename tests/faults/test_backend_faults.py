"""Networks that fail amid a folder: the run ends, names the picture, and goes on later."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from facezoo.arrays import write_npz
from facezoo.backends import ort
from facezoo.errors import FaceZooError
from facezoo.evaluation import speed as profiler
from facezoo.image.files import write_image_rgb
from facezoo.testing import tiny_magface
from facezoo.vacc.outputs import output_name
from fault_table import COMMANDS, MAGFACE, PHOTO, SDD_FIQA, entry_point


def raises(outputs):
    raise RuntimeError("device lost")


def gives_nan(outputs):
    return [np.full_like(array, np.nan) for array in outputs]


def gives_other_shapes(outputs):
    return [array[..., :-1] for array in outputs]


def gives_a_row_too_many(outputs):
    return [np.concatenate([array, array]) for array in outputs]


def spoken(command):
    """Return a command that says what it kept."""
    arguments = tuple(word for word in command.arguments if word != "--quiet")
    return dataclasses.replace(command, arguments=arguments)


FAULTS = (raises, gives_nan, gives_other_shapes, gives_a_row_too_many)
RUNNERS = ("scrfd_vsx.py", "vsx_infer.py", "magface_vsx.py", "sdd_fiqa_vsx.py")
# Each fault with each network is the same code in the backend or in one decoder.
CASES = [*zip(itertools.cycle(RUNNERS), FAULTS), *((name, gives_nan) for name in RUNNERS[2:])]
CASES += [("vsx_infer.py", raises), ("scrfd_vsx.py", gives_nan), ("vsx_infer.py", gives_nan)]


@pytest.mark.parametrize(("name", "fault"), sorted({*CASES}, key=str))
def test_a_failing_network_ends_the_run_at_its_picture(
    tmp_path, monkeypatch, capfd, caplog, name, fault
):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS[name]
    command.inputs(tmp_path)
    run, calls = ort._OrtGraph.run, itertools.count()

    def fails_from_the_third(graph, tensor):
        outputs = run(graph, tensor)
        return fault(outputs) if next(calls) >= 2 else outputs

    monkeypatch.setattr(ort._OrtGraph, "run", fails_from_the_third)
    monkeypatch.setattr("facezoo.backends.base.usable_cores", lambda: 1)
    assert command.run() == 2
    said = capfd.readouterr().err + caplog.text
    assert "Traceback" not in said
    done = len(Path("out/.items.jsonl").read_text().splitlines())
    assert 0 < done < 3  # A network may be asked twice about a picture.
    assert str(sorted(Path("photos").rglob("*.png"))[done]) in said
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert spoken(command).run() == 0
    assert f"{done} kept from an earlier run" in capfd.readouterr().out


def breaks(monkeypatch, fault, when):
    """Let a fault reach every call of a network whose input is so."""
    run = ort._OrtGraph.run

    def breaking(graph, tensor):
        outputs = run(graph, tensor)
        return fault(outputs) if when(tensor) else outputs

    monkeypatch.setattr(ort._OrtGraph, "run", breaking)


def has_a_blank(tensor):
    return (np.ptp(tensor, axis=(2, 3)) == 0).all(axis=1).any()


def has_many(tensor):
    return len(tensor) > 1


@pytest.mark.parametrize(
    ("fault", "when", "named"),
    [(fault, has_a_blank, [PHOTO]) for fault in FAULTS]
    + [(raises, has_many, ["photos/1--Event/photo_1.png", PHOTO])],
)
def test_of_several_pictures_in_a_call_the_one_that_fails_alone_is_named_else_all(
    tmp_path, monkeypatch, capfd, fault, when, named
):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS["gen_feat.py"]
    command.inputs(tmp_path)
    write_image_rgb(Path(PHOTO), np.full((50, 50, 3), 90, np.uint8))
    with monkeypatch.context() as patch:
        # The first call has the three pictures of one folder, the second the two of the other.
        breaks(patch, fault, lambda tensor: when(tensor) and len(tensor) < 3)
        assert command.run("--batch_size", "3") == 2
    said = capfd.readouterr().err
    # Behind the name of the program, which is another one under xdist.
    assert said.partition(": ")[2].startswith(f"{', '.join(map(repr, named))}: "), said
    assert spoken(command).run("--batch_size", "3") == 0
    assert "3 kept from an earlier run" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("fault", "when", "named"),
    [(fault, has_a_blank, "[^,]*1.npz'") for fault in FAULTS]
    + [(raises, has_many, ".*0.npz', .*")],
)
def test_vamp_names_the_input_that_a_call_of_several_fails_on(
    tmp_path, monkeypatch, rng, fault, when, named
):
    monkeypatch.setattr(profiler.logging, "disable", lambda level: None)
    lines = []
    for index in range(3):
        image = rng.integers(0, 256, (3, 112, 112), np.uint8)
        image[:] = 90 if index == 1 else image
        path = tmp_path / f"{index}.npz"
        sha256 = write_npz(path, {"input_0": image})
        lines.append(profiler.Line(path, sha256, tmp_path / output_name(index)))
    model = tiny_magface(tmp_path / "net.onnx")
    instances = profiler._Instances(profiler.Job(model, engine="ort", batch=3))
    instances.warm_up([])
    breaks(monkeypatch, fault, when)
    with pytest.raises(FaceZooError, match=f"^{named}: "):
        list(instances.run([lines]))
    assert not list(tmp_path.glob("output_*"))
    instances.close()


@pytest.mark.parametrize(
    ("script", "size", "flags"),
    [
        (f"{SDD_FIQA}/build_in/decode/decode_vamp.py", 1, ["list.txt", "output"]),
        (
            f"{MAGFACE}/build_in/decode/decode_vamp.py",
            512,
            ["--vamp_datalist_path", "list.txt", "--vamp_output_dir", "output"],
        ),
    ],
)
def test_a_decoder_names_the_picture_of_an_output_that_is_no_number(
    tmp_path, monkeypatch, capfd, script, size, flags
):
    monkeypatch.chdir(tmp_path)
    COMMANDS["image2npz.py"].inputs(tmp_path)
    assert COMMANDS["image2npz.py"].run() == 0
    for index in range(5):
        array = np.full((1, size), np.nan if index == 4 else 1.0, np.float16)
        write_npz(Path("output", output_name(index)), {"output_0": array})
    assert entry_point(script)([*flags, "--save_dir", "decoded", "--quiet"]) == 2
    assert "'1--Event/photo_3.png': output '" in capfd.readouterr().err
