"""Folders of pictures as they come: the same name in many folders, and very many of them."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from facezoo.arrays import read_npz
from facezoo.cli.main import main
from facezoo.datasets.wflw import find_lists
from facezoo.datasets.widerface import read_predictions
from facezoo.errors import DatasetError
from facezoo.image.files import find_images, names_with_suffix, relative_names, write_image_rgb
from facezoo.runs import fingerprint_files
from facezoo.vacc import toolchain
from fault_table import (
    COMMANDS,
    LEFT_OUT,
    OF_EQUAL_NAMES,
    PHOTO,
    REPOSITORY,
    answers,
    walks,
    without_roots_powers,
    write_lists,
)
from limits import bounds

DRAWING = ["scrfd_vsx.py", "vsx_infer.py", "predict"]
ALIKE = ["a/x.png", "a/x.jpg", "a/x.png.jpg", "b/x.png", "b/c/x.png", "b/c/X.PNG", "x.png"]


def entries_of(command):
    for name in ("out/results.json", "npz/manifest.json", "out/faces.jsonl"):
        if Path(name).exists():
            text = Path(name).read_text()
            if name.endswith("jsonl"):
                return [json.loads(line) for line in text.splitlines()]
            content = json.loads(text)
            return content.get("images") or content["items"]
    raise AssertionError(f"{command.name} left no results")


@pytest.mark.parametrize("name", OF_EQUAL_NAMES)
def test_pictures_of_one_name_stay_apart(tmp_path, monkeypatch, name):
    command = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    command.inputs(tmp_path)
    for path in Path("photos").rglob("*.png"):
        path.unlink()
    for index, file in enumerate(ALIKE):
        write_image_rgb(Path("photos", file), np.full((20 + index, 30, 3), 9, np.uint8))
    write_lists(tmp_path)
    assert command.run() == answers(command)["equal names"]
    entries = entries_of(command)
    assert sorted(entry["path"] for entry in entries) == sorted(ALIKE)
    if name == "image2npz.py":
        assert len({entry["npz"] for entry in entries}) == len(ALIKE)
        for entry in entries:
            planes = read_npz(Path("npz", entry["npz"]))["input_0"]
            assert planes.shape[1] == 20 + ALIKE.index(entry["path"])
    elif name in DRAWING:
        drawn = [path for path in command.results() if path.startswith("out/pictures/")]
        assert len(drawn) == len(ALIKE)


# Folders that are not entered ---------------------------------------------------------------------

WALKING = [
    pytest.param(command.name, marks=[pytest.mark.torch] if command.torch else [])
    for command in COMMANDS.values()
    if walks(command)
]


def closed(folder: Path) -> Path:
    (folder / "closed" / "deep").mkdir(parents=True)
    shutil.copy(PHOTO, folder / "closed" / "deep")
    (folder / "closed").chmod(0)
    return folder / "closed"


def linked(folder: Path) -> Path:
    """Link to a folder around the photos, which is not entered."""
    (folder / "linked").symlink_to(Path.cwd())
    return folder / "linked"


def too_deep(folder: Path) -> Path:
    """Make folders below one another, down to a path of over 4,096 bytes; the last has a photo."""
    name, here = "n" * 250, Path.cwd()
    os.chdir(folder)
    try:
        for _ in range(17):
            Path(name).mkdir()
            os.chdir(name)
        shutil.copy(here / PHOTO, "1.png")
    finally:
        os.chdir(here)
    return folder / name


@pytest.mark.parametrize("make", [closed, linked, too_deep], ids=LEFT_OUT)
@pytest.mark.parametrize("name", WALKING)
def test_a_folder_that_is_not_entered_is_named_and_counted(
    tmp_path, monkeypatch, capfd, caplog, name, make
):
    command = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    command.inputs(tmp_path)
    for step in command.prepare:
        assert COMMANDS[step].run() == 0
    left_out = make(Path("photos", "1--Event"))
    with without_roots_powers():
        assert command.run() == 1
        first = capfd.readouterr().err + caplog.text
        assert left_out.name in first
        assert "Traceback" not in first
        if command.resumes:
            # It is the same run, whatever happens in a folder that is not read.
            assert command.run() == 1
    assert "cannot be read" in first


def test_a_closed_folder_of_predictions_or_lists_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read in (lambda: read_predictions(Path("in")), lambda: find_lists(Path("in"))):
        Path("in/closed").mkdir(parents=True, exist_ok=True)
        Path("in/0--Event").mkdir(exist_ok=True)
        Path("in/0--Event/a.txt").write_text("a\n0\n")
        Path("in/list_98pt_rect_attr_test.txt").write_text("")
        Path("in/closed").chmod(0)
        with without_roots_powers(), pytest.raises(DatasetError, match="closed' cannot be read"):
            read()
        shutil.rmtree("in")


def test_a_link_to_a_folder_that_is_listed_loses_nothing(tmp_path, caplog):
    write_image_rgb(tmp_path / "a" / "1.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert find_images(tmp_path) == [tmp_path / "a" / "1.png"]
    assert "loop" in caplog.text
    # Its link gives a hidden folder a name that is not.
    write_image_rgb(tmp_path / ".hidden" / "2.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "b").symlink_to(tmp_path / ".hidden")
    assert find_images(tmp_path)[-1] == tmp_path / "b" / "2.png"


def test_a_closed_folder_on_the_path_holds_no_tool(tmp_path, monkeypatch):
    (tmp_path / "closed" / "inside").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    (tmp_path / "opt").mkdir()
    tool = tmp_path / "opt" / "vamc"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    folders = ["closed", "closed/inside", "n" * 300, "opt"]
    monkeypatch.setenv("PATH", os.pathsep.join(str(tmp_path / name) for name in folders))
    monkeypatch.setattr(toolchain, "scripts_folder", lambda: tmp_path / "closed")
    with without_roots_powers():
        assert toolchain.find_tool("vamc").command == (str(tool),)
        assert toolchain.find_tool("vamp") is None
        assert main(["doctor"]) == 0
        assert main(["shims", "status"]) == 0


# Results inside the inputs ------------------------------------------------------------------------

INSIDE = {
    "scrfd_vsx.py": "--save_dir",
    "vsx_infer.py": "--save_dir",
    "magface_vsx.py": "--save_dir",
    "sdd_fiqa_vsx.py": "--save_dir",
    "predict": "--save_dir",
    "image2npz.py": "--target_path",
}


@pytest.mark.parametrize("name", INSIDE)
def test_results_inside_the_inputs_are_no_inputs(tmp_path, monkeypatch, capfd, caplog, name):
    command = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    command.inputs(tmp_path)
    arguments = list(command.arguments)
    arguments[arguments.index(INSIDE[name]) + 1] = "photos/1--Event/out"
    arguments += ["--contact_sheet"] if name == "sdd_fiqa_vsx.py" else []
    command = replace(command, arguments=tuple(arguments), writes=("photos/1--Event/out",))
    assert command.run() == 0
    expected = command.results()
    capfd.readouterr()
    assert command.run() == 0
    said = capfd.readouterr()
    assert "photos/1--Event/out' holds results" in said.err + caplog.text
    assert command.results() == expected
    assert command.run("--overwrite") == 0
    assert command.results() == expected
    # Named itself, it is a folder of images like any other.
    if any(path.endswith(".jpg") for path in expected):
        assert find_images(Path("photos/1--Event/out"))


@pytest.mark.parametrize("name", [*DRAWING, "image2npz.py"])
def test_a_photo_whose_result_would_have_too_long_a_path_is_refused_alone(
    tmp_path, monkeypatch, caplog, name
):
    command = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    command.inputs(tmp_path)
    assert command.run() == 0
    for path in command.writes:
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
    depth = len("photos/1--Event")
    os.chdir("photos/1--Event")
    while depth < 4060:
        folder = "n" * min(250, 4060 - depth - 1)
        Path(folder).mkdir()
        os.chdir(folder)
        depth += len(folder) + 1
    shutil.copy(tmp_path / PHOTO, "1.png")
    os.chdir(tmp_path)
    for _ in range(2):
        caplog.clear()
        assert command.run() == 1
        results = command.results()
        entries = entries_of(command)
        assert [Path(entry["path"]).name for entry in entries if "error" in entry] == ["1.png"]
        assert len(entries) == 6
        assert not [path for path in results if Path(path).stem == "1"]


def fill(folder: Path, count: int) -> None:
    """Make so many names of one picture, in ten folders."""
    (folder / "0").mkdir(parents=True)
    write_image_rgb(folder / "0" / "first.png", np.zeros((8, 8, 3), np.uint8))
    for index in range(1, count):
        target = folder / f"{index % 10}" / f"{index}.png"
        target.parent.mkdir(exist_ok=True)
        os.link(folder / "0" / "first.png", target)


def test_a_folder_of_5_000_is_listed_quickly(tmp_path):
    fill(tmp_path, 5000)
    started = time.process_time()
    with bounds():
        paths = find_images(tmp_path)
        names = relative_names(paths, tmp_path)
        made = names_with_suffix(names, ".npz")
        fingerprint_files(paths, names)
    assert len(set(made.values())) == len(paths) == 5000
    # A quarter of a second here; what grows with the square of the number takes minutes.
    assert time.process_time() - started < 10


def test_a_folder_in_the_place_of_an_input_counts_by_name(tmp_path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.png").write_bytes(b"b")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (their number is asked for)
    found = fingerprint_files(paths, ["a.png", "b.png"])
    assert found == fingerprint_files([tmp_path / "none", paths[1]], ["a.png", "b.png"])
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# A program counts as its own what the one that started it had, here the memory of all tests before;
# so a small program starts the command, and reports what it and its workers took.
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def measured(*command, cwd):
    """Run a command; return its exit code, seconds of processor time, and peak memory in MiB."""
    words = [sys.executable, "-c", MEASURED, *map(str, command)]
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_memory_of_these_tests_is_not_that_of_the_command(tmp_path):
    held = bytearray(b"1") * (300 << 20)
    code, _, peak = measured(sys.executable, "-c", "pass", cwd=tmp_path)
    assert (code, len(held)) == (0, 300 << 20)
    assert peak < 100


@pytest.mark.long
def test_a_folder_of_50_000_is_converted_and_found_done(tmp_path):
    fill(tmp_path / "photos", 50_000)
    command = [sys.executable, str(REPOSITORY / "common/utils/image2npz.py"), "--quiet"]
    command += ["--dataset_path", "photos", "--target_path", "npz", "--text_path", "list.txt"]
    for limit in (900, 60):
        code, seconds, peak = measured(*command, cwd=tmp_path)
        print(f"50,000 pictures: {seconds:.0f} s of processor time, {peak:.0f} MiB")
        assert code == 0
        assert seconds < limit
        # The names of that many take 80 MiB; one sync of all files at a time took as much again.
        assert peak < 200
    assert len((tmp_path / "list.txt").read_text().splitlines()) == 50_000
