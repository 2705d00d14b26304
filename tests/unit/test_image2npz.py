"""image2npz.py as a user starts it: arrays, names, refusals, interruptions."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from facezoo.vacc.npz import read_pictures


@pytest.fixture
def script(repository):
    return repository / "common/utils/image2npz.py"


@pytest.fixture
def convert(script, tmp_path):
    def run(photos, *arguments, target="npz", datalist="list.txt"):
        command = [
            sys.executable, script, "--dataset_path", photos, "--target_path", tmp_path / target,
            "--text_path", tmp_path / datalist, *arguments,
        ]  # fmt: skip
        return subprocess.run(list(map(str, command)), capture_output=True, text=True)

    return run


def make_photos(folder, names, size=(40, 30)):
    rng = np.random.default_rng(7)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (*size, 3), np.uint8))
    return folder


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


NAMES = [
    "z.png", "0--A/p 1.png", "0--A/deep/er/p.JPG", "1--B/p 1.png", "a.png", "a.jpg", "a.jpg.png",
]  # fmt: skip


def test_every_depth_keeps_its_folders_and_no_two_names_meet(tmp_path, convert):
    photos = make_photos(tmp_path / "photos", NAMES)
    ran = convert(photos)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("7 images")
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert [str(Path(line).relative_to(tmp_path / "npz")) for line in lines] == [
        "0--A/deep/er/p.npz",
        "0--A/p 1.npz",
        "1--B/p 1.npz",
        "a.jpg.npz",
        "a.jpg.png.npz",
        "a.png.npz",
        "z.npz",
    ]
    pictures = read_pictures(tmp_path / "list.txt")
    assert [picture.name for picture in pictures] == sorted(NAMES, key=lambda n: Path(n).parts)
    assert {picture.image_hw for picture in pictures} == {(40, 30)}
    for line, picture in zip(lines, pictures):
        expected = cv2.cvtColor(cv2.imread(str(photos / picture.name)), cv2.COLOR_BGR2RGB)
        with np.load(line, allow_pickle=False) as loaded:
            assert list(loaded) == ["input_0"]
            np.testing.assert_array_equal(loaded["input_0"], expected.transpose(2, 0, 1))
    manifest = json.loads((tmp_path / "list.txt.manifest.json").read_text())
    assert manifest["root"] == str(photos)


def test_the_same_command_again_does_nothing_and_mends_a_lost_list(tmp_path, convert):
    photos = make_photos(tmp_path / "photos", NAMES)
    assert convert(photos).returncode == 0
    before = files_below(tmp_path)
    (tmp_path / "list.txt").unlink()
    ran = convert(photos)
    assert ran.returncode == 0
    assert "7 kept from an earlier run" in ran.stdout
    assert files_below(tmp_path) == before
    assert convert(photos, datalist="npz/list.txt").returncode == 0
    assert convert(photos, datalist="npz/list.txt").returncode == 0


def test_unreadable_pictures_are_named_and_skipped(tmp_path, convert):
    photos = make_photos(tmp_path / "photos", ["a.png", "b.png", "c.png"])
    (photos / "b.png").write_bytes(b"")
    ran = convert(photos)
    assert ran.returncode == 1
    assert "b.png' is empty (0 bytes)" in ran.stderr
    assert "1 refused" in ran.stdout
    pictures = read_pictures(tmp_path / "list.txt")
    assert [(picture.name, picture.line) for picture in pictures] == [
        ("a.png", 0),
        ("b.png", -1),
        ("c.png", 1),
    ]
    assert pictures[1].error == "is empty (0 bytes); expected an image"
    assert convert(photos).returncode == 1


def test_no_picture_is_an_error(tmp_path, convert):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    ran = convert(tmp_path / "photos")
    assert ran.returncode == 2
    assert "contains no image" in ran.stderr
    assert not (tmp_path / "list.txt").exists()


def test_the_folder_of_another_run_and_the_pictures_own_are_refused(tmp_path, convert):
    photos = make_photos(tmp_path / "photos", ["sub/a.png"])
    assert convert(photos).returncode == 0
    more = make_photos(tmp_path / "more", ["sub/a.png"])
    ran = convert(more)
    assert ran.returncode == 4
    assert "belongs to another run" in ran.stderr
    assert convert(more, "--overwrite").returncode == 0
    for target in ("more", "."):
        ran = convert(more, "--overwrite", target=target)
        assert ran.returncode == 2
        assert "holds the images" in ran.stderr
    assert (more / "sub/a.png").exists()


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(tmp_path, script):
    photos = make_photos(tmp_path / "photos", ["a.png"], size=(2000, 3000))
    code = (
        "import runpy, shutil, sys, collections\n"
        "shutil.disk_usage = lambda folder: collections.namedtuple('usage', 'free')(10**6)\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    flags = ("--dataset_path", photos, "--target_path", tmp_path / "npz")
    command = [sys.executable, "-c", code, script, *flags, "--text_path", tmp_path / "list.txt"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert ran.returncode == 2
    assert "0.00 GB free, and 1 images as npz need 0.02 GB" in ran.stderr
    assert list((tmp_path / "npz").rglob("*.npz")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_goes_on_and_equals_an_uninterrupted_one(
    tmp_path, script, convert, number
):
    photos = make_photos(tmp_path / "photos", [f"{i:03}.jpg" for i in range(48)], size=(600, 500))
    flags = ("--dataset_path", photos, "--target_path", tmp_path / "npz")
    command = [sys.executable, script, *flags, "--text_path", tmp_path / "list.txt"]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, start_new_session=True
    )
    journal = tmp_path / "npz" / ".items.jsonl"
    end = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes()) and time.monotonic() < end:
        time.sleep(0.002)
    if number == signal.SIGKILL:
        process.kill()
    else:
        # As a terminal does it: every process of the group is told.
        os.killpg(process.pid, number)
    # Ends when the last worker has gone, which held the same stderr.
    stderr = process.communicate(timeout=60)[1].decode()
    assert process.returncode == {2: 130, 15: 143, 9: -9}[number]
    last_words = {2: "interrupted", 15: "terminated"}.get(number)
    if last_words:
        assert stderr == f"image2npz.py: {last_words}; run the same command again to resume\n"
    assert not (tmp_path / "list.txt").exists()
    done = len(list((tmp_path / "npz").glob("*.npz")))
    assert 1 <= done < 48
    ran = convert(photos)
    assert ran.returncode == 0
    assert "kept from an earlier run" in ran.stdout
    assert convert(photos, target="whole", datalist="whole.txt").returncode == 0
    assert files_below(tmp_path / "npz").keys() == files_below(tmp_path / "whole").keys()
    for name, data in files_below(tmp_path / "npz").items():
        if name.endswith(".npz"):
            assert data == (tmp_path / "whole" / name).read_bytes()


def test_a_killed_worker_is_noticed(tmp_path, script):
    photos = make_photos(tmp_path / "photos", [f"{i:03}.jpg" for i in range(40)])
    code = (
        "import os, runpy, sys\n"
        "from facezoo.vacc import npz\n"
        "whole = npz.write_npz\n"
        "npz.write_npz = lambda path, arrays: (\n"
        "    os.kill(os.getpid(), 9) if path.name == '020.npz' else whole(path, arrays))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    flags = ("--dataset_path", photos, "--target_path", tmp_path / "npz")
    command = [sys.executable, "-c", code, script, *flags, "--text_path", tmp_path / "list.txt"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    message = r"worker process [12] of \d+ \(pid \d+\) was lost: signal 9, SIGKILL"
    assert re.search(message, ran.stderr)
    assert not (tmp_path / "list.txt").exists()


def test_damaged_images_and_other_files_are_said_counted_and_marked(tmp_path, convert):
    photos = make_photos(tmp_path / "photos", ["a.png", "b.jpg"], (200, 300))
    data = (photos / "b.jpg").read_bytes()
    (photos / "b.jpg").write_bytes(data[: len(data) // 3] + b"\xff\xd9")
    (photos / "c.mp4").write_bytes(b"film")
    ran = convert(photos)
    assert ran.returncode == 1
    assert "b.jpg' is damaged: Corrupt JPEG data" in ran.stderr
    assert ran.stderr.count("1 file passed over: 1 .mp4 (video)") == 1
    entry = json.loads((tmp_path / "npz/run.json").read_text())
    assert (entry["refused"], entry["damaged"], entry["passed_over"]) == (1, 0, 1)
    ran = convert(photos, "--allow-damaged", target="marked", datalist="marked.txt")
    assert ran.returncode == 0
    assert "2 images, 1 damaged" in ran.stdout
    entry = json.loads((tmp_path / "marked/run.json").read_text())
    assert (entry["refused"], entry["damaged"]) == (0, 1)
    whole, damaged = json.loads((tmp_path / "marked.txt.manifest.json").read_text())["items"]
    assert "damaged" not in whole
    assert damaged["damaged"].startswith("damaged: Corrupt JPEG data")
    assert len(read_pictures(tmp_path / "marked.txt")) == 2
    # The same, finished run; and a folder without other files.
    assert convert(photos, "--allow-damaged", "--strict", target="marked").returncode == 1
    (photos / "c.mp4").unlink()
    assert convert(photos, "--allow-damaged", "--strict", target="strict").returncode == 0
