"""Networks that fail amid a folder: the run ends, names the picture, and goes on later."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from facezoo.backends import ort
from fault_table import COMMANDS


def raises(outputs):
    raise RuntimeError("device lost")


def gives_nan(outputs):
    return [np.full_like(array, np.nan) for array in outputs]


def gives_other_shapes(outputs):
    return [array[..., :-1] for array in outputs]


def gives_a_row_too_many(outputs):
    return [np.concatenate([array, array]) for array in outputs]


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
    assert command.run() == 0
    assert f"{done} kept from before" in capfd.readouterr().out
