"""Names of files as others give them: what is drawn, printed and put into a table of them."""

import csv
import io
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from facezoo.cli.options import make_parser, run_command
from facezoo.datasets.degraded import write_degraded
from facezoo.datasets.scores import read_scores
from facezoo.evaluation.features import ranking_csv
from facezoo.evaluation.recognition import Similarities
from facezoo.files import csv_cell, csv_name, fitting_name, printable
from facezoo.image.draw import contact_sheet, draw_predicted
from facezoo.image.files import write_image_rgb
from facezoo.pipeline.calibrate import read_pairs
from fault_table import COMMANDS, PHOTO
from hypothesis import given
from hypothesis import strategies as st

# A byte that is not UTF-8, a line break, a command to a terminal, and a mark that turns text round.
ODD = ["caf\udce9.png", "a\nb.png", "\x1b[31mred\x1b[0m.png", "\u202egnp.exe", "名 é 🙂.png"]
FORMULAS = ["=cmd|'x'!A0.png", "+1.png", "-1.png", "@SUM(A1).png", "\t=1.png", "\uff1d1.png"]


@given(st.text())
def test_what_is_shown_is_one_valid_line(text):
    shown = printable(text)
    shown.encode()
    assert shown.splitlines() in ([], [shown])
    assert "\x1b" not in shown


def test_plain_names_are_shown_as_they_are():
    assert printable("名 é 👨‍👩‍👧 (1).png") == "名 é 👨‍👩‍👧 (1).png"
    assert printable(ODD[0]) == r"caf\udce9.png"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize("name", ODD)
def test_every_name_can_be_drawn(name):
    image = np.zeros((60, 80, 3), np.uint8)
    sheet = contact_sheet([image], [name])
    assert sheet.max() > 200
    # As text is drawn: an image and its question marks.
    plain = printable(name).encode("ascii", "replace").decode()
    assert (sheet == contact_sheet([image], [plain])).all()
    box = np.array([[10.0, 20.0, 40.0, 50.0]])
    assert draw_predicted(image, box, [name], [False], [np.zeros((0, 2))]).any()


@pytest.mark.parametrize("name", ODD)
def test_photos_of_every_name_are_matched(tmp_path, monkeypatch, capsys, name):
    command = COMMANDS["match"]
    monkeypatch.chdir(tmp_path)
    command.inputs(tmp_path)
    shutil.copy(PHOTO, name)
    arguments = [name if word == PHOTO else word for word in command.arguments]
    assert name in arguments
    command = replace(command, arguments=tuple(arguments))
    assert command.run() == 0
    said = capsys.readouterr().out
    assert printable(name) in said
    assert not set(said) & set("\x1b\udce9\u202e")


def test_what_is_printed_cannot_command_a_terminal(capsys):
    def run(args):
        print(ODD[2], ODD[0], "two\nlines")
        print(ODD[2], file=sys.stderr)
        sys.stderr.write("\rbar 50 %\r")
        return 0

    assert run_command(run, make_parser("Print."), []) == 0
    said = capsys.readouterr()
    assert said.out == "\\x1b[31mred\\x1b[0m.png caf\\udce9.png two\nlines\n"
    assert said.err.startswith("\\x1b[31mred")
    assert "\rbar" in said.err


def test_a_terminal_of_ascii_gets_escapes(tmp_path):
    program = (
        "from facezoo.cli.options import make_parser, run_command as r\n"
        "r(lambda args: print('\\u540d \\x1b[m') or 0, make_parser('Print.'), [])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert done.stdout == b"\\u540d \\x1b[m\n", done.stderr.decode()


@given(st.text() | st.sampled_from(FORMULAS) | st.sampled_from([f"'{one}" for one in FORMULAS]))
def test_a_cell_is_no_formula_and_gives_the_name_back(name):
    cell = csv_cell(name)
    assert cell[:1] not in tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")
    assert csv_name(cell) == name


def first_cells(text):
    return [row[0] for row in csv.reader(io.StringIO(text))][1:]


def test_tables_hold_no_formula(tmp_path):
    expected = [csv_cell(name) for name in FORMULAS]
    assert first_cells(ranking_csv([(name, -1.5) for name in FORMULAS], "magnitude")) == expected
    # A number that is negative stays one.
    assert ranking_csv([("a", -1.5)], "magnitude").endswith("a,-1.5\n")
    pairs = Similarities(
        tuple((name, "=b") for name in FORMULAS), np.full(len(FORMULAS), -0.5), None
    )
    rows = list(csv.reader(io.StringIO(pairs.to_csv())))[1:]
    assert rows == [[cell, "'=b", "-0.500000"] for cell in expected]


@pytest.mark.parametrize(
    ("name", "table"), [("predict", "out/faces.csv"), ("sdd_fiqa_vsx.py", "out/scores.csv")]
)
def test_a_runs_table_holds_no_formula(tmp_path, monkeypatch, name, table):
    command = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    command.inputs(tmp_path)
    photo = Path(PHOTO)
    for formula in ("=1.png", "-2.png", "@3.png", "+4.png"):
        shutil.copy(photo, Path("photos", formula))
    assert command.run(*(["--csv"] if name == "predict" else [])) == 0
    names = first_cells(Path(table).read_text(encoding="utf-8"))
    assert not any(name[:1] in "=+-@" for name in names)
    if name != "predict":
        assert {"=1.png", "-2.png", "@3.png", "+4.png"} <= set(read_scores(Path(table)).names)
        assert read_scores(Path(table)).names == read_scores(Path("out/results.json")).names
    else:
        assert {"'=1.png", "'-2.png", "'@3.png", "'+4.png"} <= set(names)


# One image, several names -------------------------------------------------------------------------

SPELLINGS = [
    "./photos//1--Event/photo_3.png",
    "photos/x/../1--Event/photo_3.png",
    "linked/photo_3.png",
]


@pytest.mark.parametrize("name", ["magface_vsx.py", "gen_feat.py"])
def test_an_image_under_several_spellings_has_one_name(tmp_path, monkeypatch, caplog, name):
    command = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    command.inputs(tmp_path)
    Path("photos/x").mkdir()
    Path("linked").symlink_to("photos/1--Event")
    other = next(path.as_posix() for path in Path("photos").rglob("*.png") if path != Path(PHOTO))
    Path("several.list").write_text("\n".join([other, PHOTO, *SPELLINGS, other]) + "\n")
    left_out = ("--root", "--pairs", "pairs.list", "photos")
    words = [word for word in command.arguments if word not in left_out]
    flag = "--file_path" if name == "magface_vsx.py" else "--inf_list"
    words = [word for word in words if word not in (flag, "img.list")]
    command = replace(command, arguments=(flag, "several.list", *words))
    assert command.run() == 0
    (written,) = Path().rglob("feat.list")
    names = [line.split()[0] for line in written.read_text().splitlines()]
    assert names == [other, *[PHOTO] * 4, other]
    assert "several names" in caplog.text
    assert SPELLINGS[0] in caplog.text


def test_pairs_know_an_image_by_any_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    COMMANDS["match"].inputs(tmp_path)
    shutil.copy(PHOTO, "b.png")
    Path("pairs.list").write_text(f"{PHOTO} b.png 0\n./b.png ./{PHOTO} 1\n")
    pairs = read_pairs(Path("pairs.list"))
    assert pairs.names == (PHOTO, "b.png")
    assert pairs.listed[0].tolist() == [[0, 1], [1, 0]]


# Long names ---------------------------------------------------------------------------------------


@given(st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=300))
def test_a_name_is_cut_between_characters(name):
    name = name.encode("utf-8", "replace").decode()
    fitted = fitting_name(f"event/{name}.txt")
    assert fitted.startswith("event/")
    assert fitted.endswith(".txt")
    assert len(fitted.encode()) <= len("event/") + 255
    if len(name.encode()) <= 251:
        assert fitted == f"event/{name}.txt"
    else:
        assert fitted != fitting_name(f"event/{name[:-1]}?.txt")


LONG = ["名" * 83 + ".png", "n" * 251 + ".png", "n" * 251 + ".jpg", "é" * 125 + ".png"]
CUTTING = ["scrfd_vsx.py", "image2npz.py", "vsx_infer.py", "predict", "sdd_fiqa_vsx.py"]


@pytest.mark.parametrize("name", CUTTING)
def test_long_names_that_differ_in_their_suffix_have_results(tmp_path, monkeypatch, name):
    command = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    command.inputs(tmp_path)
    before = len(list(Path("photos").rglob("*.png")))
    for long in LONG:
        shutil.copy(PHOTO, Path("photos", long))
    assert command.run(*(["--draw"] if name == "predict" else [])) == 0
    written = [path for path in Path(command.writes[0]).rglob("*") if path.is_file()]
    kinds = [path.suffix for path in written if path.suffix in (".txt", ".npz", ".jpg")]
    if name not in ("sdd_fiqa_vsx.py",):
        assert max(map(kinds.count, kinds)) >= before + len(LONG)
    assert command.run(*(["--draw"] if name == "predict" else [])) == 0


def test_long_names_have_room_for_what_is_appended(tmp_path):
    write_image_rgb(tmp_path / "a.png", np.zeros((20, 20, 3), np.uint8))
    copies = [("blur", 1), ("blur", 2.5)]
    made = write_degraded(tmp_path / "a.png", tmp_path, "s1/" + "名" * 83, 0, copies)
    assert len(made.files) == 3
    assert all(len(file.encode()) <= len("s1/") + 255 for file in made.files)
    assert all((tmp_path / "images" / file).is_file() for file in made.files)
