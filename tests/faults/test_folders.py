"""Folders of pictures as they come: the same name in many folders, and very many of them."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from facezoo.arrays import read_npz
from facezoo.image.files import find_images, names_with_suffix, relative_names, write_image_rgb
from facezoo.runs import fingerprint_files
from fault_table import COMMANDS, OF_EQUAL_NAMES, REPOSITORY, answers, write_lists
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


@pytest.mark.long
def test_a_folder_of_50_000_is_converted_and_found_done(tmp_path):
    fill(tmp_path / "photos", 50_000)
    command = [sys.executable, str(REPOSITORY / "common/utils/image2npz.py"), "--quiet"]
    command += ["--dataset_path", "photos", "--target_path", "npz", "--text_path", "list.txt"]
    for limit in (900, 60):
        started = time.monotonic()
        subprocess.run(command, cwd=tmp_path, check=True)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"50,000 pictures: {seconds:.0f} s, {peak:.0f} MiB")
        assert seconds < limit
        assert peak < 600
    assert len((tmp_path / "list.txt").read_text().splitlines()) == 50_000
