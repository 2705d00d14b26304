"""Plots show every curve that was given, whole, and recorded ones are of the code as it is.

``python tests/unit/test_plots.py images/...`` records a plot or drawing that was made anew.
"""

import hashlib
import importlib
import inspect
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from facezoo.reports import plots

REPOSITORY = Path(__file__).parents[2]
DRAWN = REPOSITORY / "images" / "drawn.json"


def curve(start, seed):
    shares = np.linspace(0, 0.95, 20)
    fnmr = start * (1 - shares)
    area = SimpleNamespace(value=0.5, low=0.4, high=0.6)
    return SimpleNamespace(
        discards=shares,
        fnmr=fnmr,
        low=0.9 * fnmr,
        high=1.1 * fnmr + 0.001 * seed,
        relative_auc=area,
    )


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are finished, instead of files."""
    figures = []
    monkeypatch.setattr(plots, "_finish", lambda figure, path, grid="both": figures.append(figure))
    return figures


def test_no_panel_clips_its_curves_and_no_score_is_left_out(drawn):
    names = [f"score {index}" for index in range(5)]
    # A lower false match rate starts with more errors, as real scores do.
    starts = {1e-2: 0.153, 1e-3: 0.207, 1e-4: 0.313}
    curves = {
        name: {rate: curve(start, index) for rate, start in starts.items()}
        for index, name in enumerate(names)
    }
    del curves["score 4"][1e-4]
    plots.plot_discard_curves(curves, Path("x.png"))
    (figure,) = drawn
    assert len(figure.axes) == 3
    for axes, rate in zip(figure.axes, starts):
        lines = [line for line in axes.get_lines() if line.get_label().startswith("score")]
        expected = [name for name in names if rate in curves[name]]
        assert [line.get_label().partition(":")[0] for line in lines] == expected
        low, high = axes.get_ylim()
        assert low == 0
        assert all(line.get_ydata().max() <= high for line in lines)
        assert max(100 * curves[name][rate].high.max() for name in expected) <= high
        looks = {(line.get_color(), line.get_linestyle()) for line in lines}
        assert len(looks) == len(lines)


def test_more_curves_than_three_are_drawn(drawn):
    shares = np.linspace(0, 1, 5)
    plots.plot_losses({f"{index}": shares for index in range(9)}, Path("x.png"))
    plots.plot_reject_curves({f"{i}": (shares, shares) for i in range(9)}, Path("x.png"), 0.1)
    plots.plot_cumulative_errors({f"{i}": shares for i in range(9)}, Path("x.png"))
    for figure in drawn:
        (axes,) = figure.axes
        named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
        assert len({(one.get_color(), one.get_linestyle()) for one in named}) == len(named) >= 9


# Recorded plots and drawings ----------------------------------------------------------------------

# What all drawings of a module share.
SHARED = {
    "facezoo.reports.plots": ("_styled", "_new_figure", "_finish", "_kind_of", "COLOURS", "DASHES"),
    "facezoo.image.draw": (
        *("draw_predicted", "_contours", "_label", "_thickness", "_overlap", "BOX_COLOR"),
        *("LABEL_COLOR", "POINT_COLOR", "LANDMARK_COLORS", "CONTOURS", "CONTOUR_POINTS", "PUPILS"),
    ),
}


def source_of(thing):
    return inspect.getsource(thing) if callable(thing) else repr(thing)


def code_of(name):
    """Hash a function, as module.function or as path.py:function, and what its module shares."""
    path, in_script, function = name.partition(":")
    if in_script:
        space = runpy.run_path(str(REPOSITORY / path))
        return hashlib.sha256(source_of(space[function]).encode()).hexdigest()
    module, _, function = name.rpartition(".")
    space = vars(importlib.import_module(module))
    source = "".join(source_of(space[one]) for one in (function, *SHARED[module]))
    return hashlib.sha256(source.encode()).hexdigest()


def entry_of(name, function):
    """Return what is recorded of a file that has just been drawn."""
    content = (REPOSITORY / name).read_bytes()
    code = code_of(function)
    return {
        "function": function,
        "code_sha256": code,
        "file_sha256": hashlib.sha256(content).hexdigest(),
    }


def check_drawn(entries):
    """Recorded plots and drawings are the files that were drawn, by the code as it is."""
    problems = []
    for name, entry in entries.items():
        found = entry_of(name, entry["function"])
        if found["file_sha256"] != entry["file_sha256"]:
            problems.append(f"{name} is not the file that was recorded")
        if found["code_sha256"] != entry["code_sha256"]:
            problems.append(
                f"{name}: {entry['function']} has changed; draw it again, then run "
                f"python tests/unit/test_plots.py {name}"
            )
    return problems


def test_recorded_plots_are_drawn_by_the_code_as_it_is():
    entries = json.loads(DRAWN.read_text("utf-8"))
    paths = [path for kind in ("png", "jpg") for path in DRAWN.parent.rglob(f"*.{kind}")]
    assert set(entries) == {path.relative_to(REPOSITORY).as_posix() for path in paths}
    assert check_drawn(entries) == []


@pytest.mark.parametrize("field", ["file_sha256", "code_sha256"])
def test_a_plot_of_other_code_or_another_file_is_noticed(field):
    entries = json.loads(DRAWN.read_text("utf-8"))
    name = next(iter(entries))
    assert check_drawn({name: {**entries[name], field: "0" * 64}})


def record(names):
    """Record files that have just been drawn again."""
    entries = json.loads(DRAWN.read_text("utf-8"))
    for name in names:
        entries[name] = entry_of(name, entries[name]["function"])
    DRAWN.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    record(sys.argv[1:])
