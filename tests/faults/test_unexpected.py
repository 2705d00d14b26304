"""An error that no code foresaw: exit code 70, one line that asks for a report."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from facezoo.cli import list as verb
from facezoo.cli import options
from facezoo.cli.main import main

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = sorted(
    path
    for folder in ("common/utils", "common/eval", "face_*/*/source_code", "face_*/*/build_in")
    for path in REPOSITORY.glob(f"{folder}/**/*.py")
)


def crash(args):
    raise KeyError("a\nlong\x1b[2J" + "name" * 500)


def said_by(capsys, function, *args):
    assert function(*args) == 70
    found = capsys.readouterr()
    assert found.out == ""
    return found.err


def test_it_is_one_line_that_asks_for_a_report(monkeypatch, capsys):
    monkeypatch.setattr(verb, "run", crash)
    said = said_by(capsys, main, ["list"])
    assert said.count("\n") == 1 and said.strip().isprintable() and len(said) < 900
    assert said.startswith("facezoo: unexpected KeyError: 'a")
    assert "(test_unexpected.py:" in said
    assert "please report it with the command, this line and what facezoo doctor prints" in said


@pytest.mark.parametrize("words", [["list", "--verbose"], ["--verbose", "list"]])
def test_verbose_shows_the_traceback(words, monkeypatch, capsys):
    monkeypatch.setattr(verb, "run", crash)
    said = said_by(capsys, main, words)
    assert said.startswith("Traceback (most recent call last):")
    assert "in crash\n" in said
    assert "unexpected KeyError" in said.splitlines()[-1] and "--verbose" not in said


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: "/".join(path.parts[-4:]))
def test_every_script_ends_like_this(script, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location(f"unexpected_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "run", crash)
    monkeypatch.setattr(module, "build_parser", lambda: options.make_parser("A script."))
    assert said_by(capsys, module.main, []).count("\n") == 1
    assert said_by(capsys, module.main, ["--verbose"]).startswith("Traceback")


def test_a_verb_that_cannot_be_imported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "facezoo.cli.licences", None)
    assert "unexpected ModuleNotFoundError" in said_by(capsys, main, ["licences"])


def test_the_process_ends_with_70():
    code = "import facezoo.cli.list as verb; verb.run = None; from facezoo.cli.main import main; "
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}raise SystemExit(main(['list']))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 70
    assert "unexpected TypeError" in ran.stderr and "Traceback" not in ran.stderr
