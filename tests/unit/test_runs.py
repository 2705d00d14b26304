"""The run folder: resumed, refused, locked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from facezoo import runs
from facezoo.errors import ImageError, InputError, RunFolderError
from facezoo.files import write_bytes
from facezoo.runs import JOURNAL_FILE, RUN_FILE, Inputs, RunFolder, fingerprint_files
from facezoo.written import LIST_FILE, LOCK_FILE

NOTHING = Inputs([], [])
NAMES = [f"e/{index}.jpg" for index in range(5)]


class Number:
    def __init__(self, value):
        self.value = value

    def to_dict(self):
        return {"value": self.value}


def open_run(folder, command="test", overwrite=False, inputs=NOTHING, **settings):
    return RunFolder(
        folder,
        command=command,
        settings=settings,
        inputs=inputs,
        overwrite=overwrite,
    )


def work(run, names, files_of=lambda name: (), stop_after=None):
    done = run.completed(names, files_of)
    for index, name in enumerate(names[done:], done):
        if index == stop_after:
            return done
        for file in files_of(name):
            write_bytes(file, name.encode())
        run.record(name, ImageError(f"{name!r} is empty") if index == 3 else Number(index))
    if not run.finished:
        run.write_items("results.json", schema="test/1", key="items")
        run.finish()
    return done


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path):
    with open_run(tmp_path / "whole") as run:
        assert work(run, NAMES) == 0
    with open_run(tmp_path / "parts") as run:
        work(run, NAMES, stop_after=2)
    with open_run(tmp_path / "parts") as run:
        assert work(run, NAMES, stop_after=4) == 2
    with open_run(tmp_path / "parts") as run:
        assert work(run, NAMES) == 4
        assert run.refused == 1
    whole = (tmp_path / "whole" / "results.json").read_bytes()
    assert (tmp_path / "parts" / "results.json").read_bytes() == whole
    assert json.loads(whole)["items"][3] == {"path": "e/3.jpg", "error": "is empty"}
    assert sorted(file.name for file in (tmp_path / "parts").iterdir()) == [
        LIST_FILE,
        "results.json",
        RUN_FILE,
    ]
    assert (tmp_path / "parts" / LIST_FILE).read_bytes() == (
        tmp_path / "whole" / LIST_FILE
    ).read_bytes()


def test_a_finished_run_is_not_done_again(tmp_path):
    with open_run(tmp_path) as run:
        work(run, NAMES)
    with open_run(tmp_path) as run:
        assert run.finished
        assert run.refused == 1
        assert work(run, NAMES) == 5


def test_a_torn_line_is_done_again(tmp_path):
    with open_run(tmp_path) as run:
        work(run, NAMES, stop_after=3)
    journal = tmp_path / JOURNAL_FILE
    journal.write_bytes(journal.read_bytes()[:-4])
    with open_run(tmp_path) as run:
        assert work(run, NAMES) == 2
    assert len(json.loads((tmp_path / "results.json").read_text())["items"]) == 5


def test_an_item_whose_file_is_gone_is_done_again(tmp_path):
    def files_of(name):
        return [tmp_path / "txt" / f"{name}.txt"]

    with open_run(tmp_path) as run:
        work(run, NAMES, files_of, stop_after=3)
    files_of(NAMES[1])[0].unlink()
    with open_run(tmp_path) as run:
        assert work(run, NAMES, files_of) == 1
    assert all(files_of(name)[0].exists() for name in NAMES if name != NAMES[3])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"command": "other"}, "command was 'test'"),
        ({"inputs": Inputs([Path("none")], ["none"])}, "inputs have changed"),
        ({"threshold": 0.5}, "threshold was None, is 0.5"),
    ],
)
def test_another_run_is_refused_and_says_why(tmp_path, change, word):
    with open_run(tmp_path) as run:
        work(run, NAMES, stop_after=2)
    with pytest.raises(RunFolderError, match=word), open_run(tmp_path, **change):
        pass
    with open_run(tmp_path, overwrite=True, **change) as run:
        assert work(run, NAMES) == 0


def test_unknown_files_are_refused_and_kept(tmp_path):
    (tmp_path / "thesis.doc").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match=r"'thesis\.doc'"):
            open_run(tmp_path, overwrite=overwrite).__enter__()
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.doc"]


def test_results_without_a_run_file_are_refused(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(RunFolderError, match="not created by facezoo"), open_run(tmp_path):
        pass


@pytest.mark.parametrize("text", ["{", "[]", '{"refused": []}', '{"refused": 1e999}'])
def test_a_broken_run_file_is_refused(tmp_path, text):
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(RunFolderError, match="cannot be read"), open_run(tmp_path):
        pass


def test_two_runs_at_once_are_refused(tmp_path):
    with open_run(tmp_path):
        code = (
            "from facezoo.runs import Inputs, RunFolder\n"
            f"RunFolder({str(tmp_path)!r}, command='test', settings={{}}, inputs=Inputs([], []))"
            ".__enter__()"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "in use by another run" in other.stderr
    with open_run(tmp_path):
        pass


def test_a_lock_that_its_owner_takes_away_meanwhile_is_no_lock(tmp_path, monkeypatch):
    flock, calls = runs.fcntl.flock, []

    def slow(file, how):
        if not calls:
            # Between opening and locking, the run before ends.
            (tmp_path / LOCK_FILE).unlink()
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(runs.fcntl, "flock", slow)
    with open_run(tmp_path):
        assert calls[:2] == [runs.fcntl.LOCK_EX | runs.fcntl.LOCK_NB] * 2
        with pytest.raises(RunFolderError, match="in use by another run"), open_run(tmp_path):
            pass


def test_a_lock_left_by_a_killed_run_does_not_block(tmp_path):
    code = (
        "import os\nfrom facezoo.runs import Inputs, RunFolder\n"
        f"RunFolder({str(tmp_path)!r}, command='test', settings={{}}, inputs=Inputs([], []))"
        ".__enter__()\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code])
    with open_run(tmp_path) as run:
        work(run, NAMES)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(InputError, match=r"file' cannot be made: .*; name another"):
        open_run(path).__enter__()


def test_the_fingerprint_follows_name_size_and_change(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1")
    first = fingerprint_files([path], ["a.jpg"])
    assert fingerprint_files([path], ["b.jpg"]) != first
    path.write_bytes(b"12")
    assert fingerprint_files([path], ["a.jpg"]) != first
    assert fingerprint_files([tmp_path / "none"], ["a.jpg"]) != first
