"""The commands that evaluate and prepare: what they print, write, and end with."""

import csv
import importlib.util
import json
import math
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from facezoo.cli import main as facezoo_main
from facezoo.datasets import widerface
from facezoo.datasets.widerface import GROUND_TRUTH
from scipy.io import savemat

FACES = {
    "0--Parade/a": [[10, 10, 19, 19], [100, 10, 9, 9]],
    "0--Parade/b": [[10, 10, 19, 19]],
    "1--Handshaking/c": [[10, 10, 19, 19]],
}
COUNTED = {"easy": [[1], [1], []], "medium": [[1, 2], [1], []], "hard": [[1, 2], [1], [1]]}
TEXTS = {
    "0--Parade/a": "a\n2\n10 10 19 19 0.9\n100 10 9 9 0.02\n",
    "0--Parade/b": "b\n2\n300 10 19 19 0.6\n10 10 19 19 0.5\n",
    "1--Handshaking/c": "c\n0\n",
}
# By hand, precision over the recall that is gained at it (a later, higher one counts before it):
# easy 1 over 1/2, 2/3 over 1/2; medium 1 over 1/3, 3/4 over 2/3; hard 1 over 1/4, 3/4 over 1/2.
AP = [0.8333333333333333, 0.8333333333333333, 0.625]
BLOCK = """\
==================== Results ====================
Easy   Val AP: 0.8333333333333333
Medium Val AP: 0.8333333333333333
Hard   Val AP: 0.625
=================================================
"""


def cells(values):
    column = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        column[index, 0] = value
    return column


def save_ground_truth(folder):
    folder.mkdir(parents=True)
    events = list(dict.fromkeys(name.partition("/")[0] for name in FACES))

    def by_event(values):
        pairs = list(zip(FACES, values))
        return cells(
            [cells([v for name, v in pairs if name.partition("/")[0] == e]) for e in events]
        )

    content = {
        "event_list": cells(events),
        "file_list": by_event([name.partition("/")[2] for name in FACES]),
        "face_bbx_list": by_event([np.array(rows, np.int16) for rows in FACES.values()]),
    }
    savemat(folder / GROUND_TRUTH[0], content)
    for level, numbers in COUNTED.items():
        columns = [np.array(n, np.uint8).reshape(-1, 1) for n in numbers]
        savemat(folder / f"wider_{level}_val.mat", {"gt_list": by_event(columns)})


def write_texts(folder, texts=TEXTS):
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder to work in, with ``preds`` and ``gt``."""
    monkeypatch.chdir(tmp_path)
    save_ground_truth(tmp_path / "gt")
    write_texts(tmp_path / "preds")
    return tmp_path


@pytest.fixture(scope="module")
def script(repository_file):
    spec = importlib.util.spec_from_file_location("evaluation", repository_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def repository_file(repository):
    return repository / "common" / "eval" / "evaluation.py"


@pytest.fixture(params=["facezoo", "script"])
def command(request, script):
    """The two spellings of the same command."""
    if request.param == "script":
        return script.main
    return lambda argv: facezoo_main.main(["evaluate", "scrfd", *argv])


def exit_code(command, argv):
    try:
        return command(argv)
    except SystemExit as stopped:  # argparse's way of refusing.
        return stopped.code


def test_prints_the_seeds_block(command, data, capsys):
    assert command(["-p", "preds", "-g", "gt"]) == 0
    assert capsys.readouterr().out == BLOCK


def test_predictions_are_evaluated_without_a_network(data):
    code = "import sys; from facezoo.cli.main import main; main(sys.argv[1:]);"
    code += "print([m for m in ('cv2', 'onnx', 'onnxruntime', 'scipy') if m in sys.modules])"
    words = ["evaluate", "scrfd", "-p", "preds", "-g", "gt"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout == BLOCK + "[]\n"


def test_long_flags_and_the_script_of_one_page(command, data, capsys, repository_file):
    assert command(["--pred", "preds/", "--gt", "gt/"]) == 0
    assert capsys.readouterr().out == BLOCK
    assert len(repository_file.read_text().splitlines()) <= 100


def test_per_event_and_bootstrap_are_printed_below(command, data, capsys):
    assert command(["-p", "preds", "-g", "gt", "--per-event", "--bootstrap", "50"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(BLOCK)
    intervals = re.findall(r"(\w+) +95 % interval: ([\d.]+|nan) to ([\d.]+|nan)\n", out)
    assert [level for level, _, _ in intervals] == ["Easy", "Medium", "Hard"]
    assert out.splitlines()[-3:] == [
        "event             easy  medium    hard",
        "0--Parade       0.8333  0.8333  0.8333",
        "1--Handshaking       -       -  0.0000",
    ]


def test_seed_is_obeyed(command, data):
    argv = ["-p", "preds", "-g", "gt", "--bootstrap", "3", "--json", "ap.json"]
    intervals = set()
    for seed in "0123":
        command([*argv, "--seed", seed])
        entry = json.loads((data / "ap.json").read_text())
        assert entry["settings"]["seed"] == int(seed)
        intervals.add(tuple(entry["levels"]["hard"]["ap_interval_95"]))
    assert len(intervals) > 1


def test_iou_is_obeyed(command, data, capsys):
    write_texts(data / "preds", {"0--Parade/a": "a\n1\n10 10 19 9 0.9\n"})
    command(["-p", "preds", "-g", "gt", "--iou", "0.5"])
    half = capsys.readouterr().out
    command(["-p", "preds", "-g", "gt", "--iou", "0.51"])
    assert capsys.readouterr().out != half


def test_json_holds_everything(command, data, capsys):
    argv = ["-p", "preds", "-g", "gt", "--json", "new/ap.json", "--per-event", "--bootstrap", "9"]
    assert command(argv) == 0
    entry = json.loads((data / "new" / "ap.json").read_text())
    assert {level: value["ap"] for level, value in entry["levels"].items()} == {
        "easy": 0.8333333333333333,
        "medium": 0.8333333333333333,
        "hard": 0.625,
    }
    assert entry["levels"]["easy"]["event_ap"]["1--Handshaking"] is None
    assert entry["levels"]["hard"]["faces"] == 4
    assert len(entry["levels"]["hard"]["ap_interval_95"]) == 2
    assert entry["settings"]["iou_threshold"] == 0.5
    assert entry["settings"]["score_range"] == [0.02, 0.9]
    assert entry["counts"] == {
        "photos": 3,
        "photos_with_predictions": 3,
        "faces": 4,
        "boxes": 4,
    }
    assert entry["missing_photos"] == entry["unknown_photos"] == entry["warnings"] == []
    assert (entry["pred"], entry["gt"]) == ("preds", "gt")
    assert all(value > 0 for value in entry["seconds"].values())


def test_csv_is_a_table(command, data, capsys):
    argv = ["-p", "preds", "-g", "gt", "--csv", "ap.csv", "--per-event"]
    assert command(argv) == 0
    with (data / "ap.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert [float(row["ap"]) for row in rows if row["event"] == "all"] == AP
    assert [row["ap"] for row in rows if row["event"] == "1--Handshaking"] == ["", "", "0.0"]


@pytest.mark.parametrize("name", ["pr.png", "pr.svg"])
def test_plot_is_drawn(command, data, capsys, name):
    pytest.importorskip("matplotlib")
    assert command(["-p", "preds", "-g", "gt", "--plot", f"plots/{name}"]) == 0
    content = (data / "plots" / name).read_bytes()
    if name.endswith("png"):
        assert content.startswith(b"\x89PNG")
    else:
        assert b"Easy: AP 83.33 %" in content or b"<svg" in content
    assert [path.name for path in (data / "plots").iterdir()] == [name]


def test_plot_of_another_kind_is_refused(command, data, capsys):
    pytest.importorskip("matplotlib")
    assert command(["-p", "preds", "-g", "gt", "--plot", "pr.doc"]) == 2
    assert "'pr.doc' has no image suffix; expected one such as .png" in one_line(capsys)


def test_plot_without_matplotlib_names_the_extra(command, data, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert command(["-p", "preds", "-g", "gt", "--plot", "pr.png"]) == 2
    assert "pip install matplotlib" in one_line(capsys)
    assert not (data / "pr.png").exists()


def one_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


# Missing and foreign photos --------------------------------------------------------------------


def test_missing_photos_are_named_and_strict_ends_with_3(command, data, capsys, caplog):
    (data / "preds" / "0--Parade" / "b.txt").unlink()
    (data / "preds" / "1--Handshaking" / "c.txt").unlink()
    write_texts(data / "preds", {"9--X/y": "y\n0\n"})
    argv = ["-p", "preds", "-g", "gt", "--json", "ap.json"]
    assert command(argv) == 0
    first, second = (record.getMessage() for record in caplog.records if record.levelname != "INFO")
    assert "2 photos have no predictions" in first
    assert first.endswith("all 1 of 1--Handshaking, 0--Parade/b")
    assert second.endswith("1 photos of the predictions are not in the ground truth: 9--X/y")
    entry = json.loads((data / "ap.json").read_text())
    assert entry["missing_photos"] == ["0--Parade/b", "1--Handshaking/c"]
    assert entry["unknown_photos"] == ["9--X/y"]

    capsys.readouterr()
    (data / "ap.json").unlink()
    assert command([*argv, "--strict"]) == 3
    out, err = capsys.readouterr()
    assert out.startswith("==================== Results")
    assert "--strict: 2 photos have no predictions" in err.splitlines()[-1]
    assert (data / "ap.json").exists()


def test_strict_is_content_with_complete_predictions(command, data):
    assert command(["-p", "preds", "-g", "gt", "--strict"]) == 0


def test_many_missing_photos_are_named_in_short():
    from facezoo.cli.evaluate.detection import _listed

    names = [f"e/{index}" for index in range(12)]
    assert (
        _listed(names, [*names, "e/x"]) == ", ".join(names[:10]) + " and 2 more (--json lists all)"
    )
    assert _listed(names, names) == "all 12 of e"


def test_predictions_of_other_photos_are_refused(command, data, capsys):
    write_texts(data / "other", {"5--Y/z": "z\n0\n"})
    assert command(["-p", "other", "-g", "gt"]) == 2
    message = one_line(capsys)
    assert "'other' has other photos, such as '5--Y/z'" in message
    assert "'0--Parade/a'" in message


def test_a_cut_off_curve_is_warned_about(command, data, caplog):
    write_texts(data / "preds", {"0--Parade/a": "a\n1\n10 10 19 19 0.9\n"})
    assert command(["-p", "preds", "-g", "gt"]) == 0
    (warning,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert "the lowest score is 0.5, so the curves end at recall" in warning


# What cannot be used ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-p", "nowhere"], "'nowhere' does not exist"),
        (["-g", "nowhere"], "nowhere/wider_face_val.mat' is missing"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(command, data, capsys, argv, said):
    options = ["--json", "out.json", "--csv", "out.csv"]
    assert exit_code(command, ["-p", "preds", "-g", "gt", *options, *argv]) == 2
    assert said in one_line(capsys)
    assert sorted(path.name for path in data.iterdir()) == ["gt", "preds"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--iou", "0"], "--iou: is '0'; expected a number above 0 and at most 1"),
        (["--iou", "nan"], "--iou: is 'nan'; expected a number above 0 and at most 1"),
        (["--bootstrap", "-3"], "--bootstrap: is '-3'; expected a whole number from 0 to 1000000"),
        (["--seed", "-1"], "--seed: is '-1'; expected a whole number from 0 to 4294967295"),
    ],
)
def test_numbers_out_of_range_are_refused_and_nothing_is_written(command, data, capsys, argv, said):
    assert exit_code(command, ["-p", "preds", "-g", "gt", "--json", "out.json", *argv]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert sorted(path.name for path in data.iterdir()) == ["gt", "preds"]


@pytest.mark.parametrize("where", ["text", "mat", "archive"])
def test_hostile_input_ends_with_2_and_writes_nothing(command, data, capsys, where):
    pred = "preds"
    if where == "text":
        write_texts(data / "preds", {"0--Parade/b": "b\n2\n1 2 3 4 0.5\n1 2 -3 4 0.5\n"})
        said = "b.txt' line 4 is '1 2 -3 4 0.5'"
    elif where == "mat":
        (data / "gt" / "wider_hard_val.mat").write_bytes(b"MATLAB 5.0 MAT-file" * 50)
        said = "wider_hard_val.mat' is not the ground truth"
    else:
        pred, said = "p.zip", "p.zip: ../../x/y.txt' is a path that leads outside"
        with zipfile.ZipFile(data / pred, "w") as archive:
            archive.writestr("../../x/y.txt", "y\n0\n")
    before = sorted(data.rglob("*"))
    assert command(["-p", pred, "-g", "gt", "--json", "out.json", "--plot", "pr.png"]) == 2
    assert said in one_line(capsys)
    assert sorted(data.rglob("*")) == before


def test_usage(command, capsys):
    assert exit_code(command, ["--predictions", "x"]) == 2
    assert exit_code(command, ["--help"]) == 0
    assert "wider_*_val.mat" in capsys.readouterr().out


# facezoo prepare -------------------------------------------------------------------------------


def prepare(*argv):
    return facezoo_main.main(["prepare", "widerface", *map(str, argv)])


@pytest.fixture
def archives(data, monkeypatch):
    monkeypatch.setattr(widerface, "EVENTS", 2)
    monkeypatch.setattr(widerface, "PHOTOS", 3)
    monkeypatch.setattr(widerface, "FACES", 4)
    with zipfile.ZipFile(data / "WIDER_val.zip", "w") as archive:
        for name in FACES:
            archive.writestr(f"WIDER_val/images/{name}.jpg", b"jpeg")
    with zipfile.ZipFile(data / "eval_tools.zip", "w") as archive:
        for name in GROUND_TRUTH:
            archive.write(data / "gt" / name, f"eval_tools/ground_truth/{name}")


def test_prepare_unpacks_and_checks(archives, capsys):
    zips = ("--images-zip", "WIDER_val.zip", "--ground-truth-zip", "eval_tools.zip")
    assert prepare("--to", "wider", *zips) == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 photos from WIDER_val.zip",
        "4 files from eval_tools.zip",
        "complete: 2 events, 3 photos, 4 faces",
        "photos:       wider/WIDER_val/images",
        "ground truth: wider/eval_tools/ground_truth",
    ]
    assert prepare("--to", "wider") == 0
    argv = ["evaluate", "scrfd", "-p", "preds", "-g", "wider/eval_tools/ground_truth"]
    assert facezoo_main.main(argv) == 0
    assert BLOCK in capsys.readouterr().out


def test_prepare_says_where_to_get_what_is_missing(archives, capsys):
    assert prepare("--to", "wider") == 2
    out, err = capsys.readouterr()
    assert "WIDER_val.zip" in out and "eval_tools.zip" in out and "https://" in out
    assert "wider_face_val.mat' is missing" in err
    assert prepare("--to", "wider", "--ground-truth-zip", "eval_tools.zip") == 2
    assert "3 of 3 photos in 'wider/WIDER_val/images' are missing" in capsys.readouterr().err


def test_prepare_refuses_a_hostile_archive(archives, data, capsys):
    with zipfile.ZipFile(data / "evil.zip", "w") as archive:
        archive.writestr("images/0--Parade/../../../a.jpg", b"jpeg")
    assert prepare("--to", "wider", "--images-zip", "evil.zip") == 2
    assert "leads outside" in one_line(capsys)
    assert not (data / "wider").exists()


# The plot itself -------------------------------------------------------------------------------


def test_plot_of_curves_without_points(data):
    pytest.importorskip("matplotlib")
    from facezoo.metrics.detection import GroundTruth, Predictions, evaluate_detections
    from facezoo.reports.plots import plot_precision_recall

    truth = GroundTruth.from_rows(
        {"e/a": np.zeros((1, 4))}, {"easy": {"e/a": [False]}, "hard": {"e/a": [True]}}
    )
    report = evaluate_detections(Predictions.from_rows({}), truth)
    assert math.isnan(report.levels["easy"].ap)
    plot_precision_recall(report, data / "empty.png")
    assert (data / "empty.png").stat().st_size > 1000
