"""The run folder: resumed, refused, locked."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from facezoo import contents, system, written
from facezoo.contents import Contents
from facezoo.errors import ImageError, InputError, RunFolderError
from facezoo.files import write_bytes
from facezoo.image.reading import current_reading, reading
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


def test_a_setting_may_grow_and_a_finished_run_then_goes_on(tmp_path, caplog):
    def start(**settings):
        return RunFolder(tmp_path, "test", settings, NOTHING, may_grow=["epochs"])

    with start(epochs=2, seed=0) as run:
        work(run, NAMES)
    with start(epochs=2, seed=0) as run:
        assert run.finished
    for wrong, says in (({"epochs": 1, "seed": 0}, "epochs was 2, is 1"),) + (
        ({"epochs": 3, "seed": 1}, "seed was 0, is 1"),
    ):
        with pytest.raises(RunFolderError, match=rf"another run \({says}\);"), start(**wrong):
            pass
    with start(epochs=3, seed=0) as run:
        assert not run.finished
        assert "goes on with epochs 3 instead of 2" in caplog.text
        assert work(run, NAMES) == 0
    entry = json.loads((tmp_path / RUN_FILE).read_text())
    assert (entry["finished"], entry["settings"]) == (True, {"epochs": 3, "seed": 0})
    assert entry["earlier_settings"] == [{"epochs": 2}]
    assert len(json.loads((tmp_path / "results.json").read_text())["items"]) == len(NAMES)


def test_damaged_images_are_marked_and_counted(tmp_path):
    photos = [tmp_path / name for name in ("a.jpg", "b.jpg")]
    for photo in photos:
        photo.write_bytes(b"x")
    (tmp_path / "c.mp4").write_bytes(b"x")
    inputs = Inputs(photos, ["a.jpg", "b.jpg"])

    def results(left):
        for path in left:
            if path.name == "b.jpg":
                current_reading().mark_damaged(str(path), "damaged: a hole")
            yield Number(1)

    with reading(allow_damaged=True) as found, open_run(tmp_path / "out", inputs=inputs) as run:
        found.pass_over(tmp_path, Counter([".mp4"]))
        counts = run.process(
            inputs.names,
            photos,
            results,
            finish=lambda run: run.write_items("results.json", "test/1", "items"),
        )
    assert (counts.damaged, counts.refused) == (1, 0)
    entry = json.loads((tmp_path / "out" / RUN_FILE).read_text())
    assert (entry["damaged"], entry["passed_over"], entry["refused"]) == (1, 1, 0)
    assert entry["settings"] == {"allow_damaged": True}
    assert json.loads((tmp_path / "out" / "results.json").read_text())["items"] == [
        {"path": "a.jpg", "value": 1},
        {"path": "b.jpg", "value": 1, "damaged": "damaged: a hole"},
    ]
    # Without the flag it is another run.
    with pytest.raises(RunFolderError, match=r"\(allow_damaged was True, is None\)"):
        open_run(tmp_path / "out", inputs=inputs).__enter__()


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
    flock, calls = system.fcntl.flock, []

    def slow(file, how):
        if not calls:
            # Between opening and locking, the run before ends.
            (tmp_path / LOCK_FILE).unlink()
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(system.fcntl, "flock", slow)
    with open_run(tmp_path):
        assert calls[:2] == [system.fcntl.LOCK_EX | system.fcntl.LOCK_NB] * 2
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


# Damaged files ------------------------------------------------------------------------------------


def files_in(folder):
    return lambda name: [folder / "txt" / f"{name}.txt"]


def process(run, names, act=lambda index: None):
    """Write a text per item; ``act`` is called after each."""

    def results(left):
        for index, name in enumerate(left, len(names) - len(left)):
            write_bytes(files_in(run.folder)(name)[0], name.encode())
            act(index)
            yield Number(index)

    return run.process(
        names,
        names,
        results,
        finish=lambda run: (
            write_bytes(run.folder / "all.csv", b"1,2,3\n"),
            run.write_items("results.json", "test/1", "items"),
        ),
        files_of=files_in(run.folder),
    )


class Stop(Exception):
    pass


def stop_at(last):
    def act(index):
        if index == last:
            raise Stop

    return act


@pytest.mark.parametrize("left", [b"", bytes(7)])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_text_that_a_power_failure_emptied_is_made_again(tmp_path, caplog, left, stopped):
    try:
        with open_run(tmp_path) as run:
            process(run, NAMES, act=stop_at(4 if stopped else None))
    except Stop:
        assert stopped
    files_in(tmp_path)(NAMES[1])[0].write_bytes(left)
    with open_run(tmp_path) as run:
        assert process(run, NAMES).kept == (1 if stopped else 0)
    assert "removed 1 damaged files" in caplog.text and "txt/e/1.jpg.txt" in caplog.text
    assert all(files_in(tmp_path)(name)[0].read_text() == name for name in NAMES)
    with open_run(tmp_path) as run:
        assert process(run, NAMES).kept == len(NAMES)


@pytest.mark.parametrize("file", ["all.csv", "results.json", "txt/e/0.jpg.txt"])
def test_a_result_changed_within_its_size_is_refused_by_name(tmp_path, file):
    with open_run(tmp_path) as run:
        process(run, NAMES)
    path = tmp_path / file
    whole = path.read_bytes()
    path.write_bytes(whole.replace(whole[1:2], b"9"))
    with pytest.raises(RunFolderError, match=rf"holds '{file}'.*move it away and run the same"):
        open_run(tmp_path).__enter__()
    path.unlink()
    with open_run(tmp_path) as run:
        process(run, NAMES)
    assert path.read_bytes() == whole


def test_a_large_result_is_compared_by_content_and_a_large_text_by_size(tmp_path):
    size = written.SMALL_BYTES + 1
    with open_run(tmp_path) as run:
        write_bytes(tmp_path / "item", b"i" * size)
        write_bytes(tmp_path / "result", b"r" * size)
        run.finish("result")
    (tmp_path / "item").write_bytes(b"j" * size)
    with open_run(tmp_path) as run:
        assert run.finished
    (tmp_path / "item").write_bytes(bytes(size))
    with open_run(tmp_path):
        assert not (tmp_path / "item").exists()
    (tmp_path / "result").write_bytes(b"R" * size)
    with pytest.raises(RunFolderError, match="holds 'result'"):
        open_run(tmp_path).__enter__()


@pytest.mark.parametrize("name", ["all.csv", "results.json"])
def test_a_final_file_that_is_gone_is_made_again(tmp_path, name):
    for _ in range(2):
        with open_run(tmp_path) as run:
            process(run, NAMES)
        (tmp_path / name).unlink()
    with open_run(tmp_path) as run:
        assert process(run, NAMES).kept == 0
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("size", [0, 30, 45])
def test_a_journal_cut_while_the_run_works_does_not_lose_results(tmp_path, size):
    def cut(index):
        if index == 4:
            os.truncate(tmp_path / JOURNAL_FILE, size)

    with pytest.raises(RunFolderError, match=r"items\.jsonl' was changed while"), open_run(
        tmp_path
    ) as run:
        process(run, NAMES, act=cut)
    with open_run(tmp_path) as run:
        process(run, NAMES)
    assert len(json.loads((tmp_path / "results.json").read_text())["items"]) == len(NAMES)


def test_everything_is_on_the_disk_before_a_run_is_finished(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(written.os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    monkeypatch.setattr(written, "SYNC_SHARE", 1e-9)  # Only the first file has its own sync.
    seen = []
    write_run_file = RunFolder._write_run_file

    def look(run, finished):
        seen.append(list(synced))
        write_run_file(run, finished)

    monkeypatch.setattr(RunFolder, "_write_run_file", look)
    with open_run(tmp_path) as run:
        process(run, NAMES)
    for file in ["all.csv", "results.json", *(f"txt/{name}.txt" for name in NAMES)]:
        assert (tmp_path / file).stat().st_ino in seen[-1], f"{file} may be lost"
    assert (tmp_path / RUN_FILE).stat().st_ino in synced


def test_a_file_outside_of_a_run_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    def fsync(file):
        seen.append((tmp_path / "report.json").read_bytes())

    seen = []
    (tmp_path / "report.json").write_bytes(b"old")
    monkeypatch.setattr(written.os, "fsync", fsync)
    write_bytes(tmp_path / "report.json", b"new")
    assert seen[0] == b"old" and (tmp_path / "report.json").read_bytes() == b"new"


def test_syncs_take_a_small_part_of_the_time(tmp_path, monkeypatch):
    now = [0.0]

    def slow(file):
        now[0] += 0.2

    monkeypatch.setattr(written.os, "fsync", slow)
    monkeypatch.setattr(written.time, "monotonic", lambda: now[0])
    files = written.FileList(tmp_path)
    for index in range(1000):
        now[0] += 0.1
        (tmp_path / str(index % 5)).touch()
        files.sync_in_group(tmp_path / str(index % 5))
    # 100 s of work; each sync is of a folder and of many files, one after the other here.
    assert now[0] < 100 * 1.4


# The run file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("settings", [], "an object"),
        ("command", None, "a text"),
        ("inputs_sha256", "00", "64 hexadecimal digits"),
        ("inputs_state", 5, "null or 64 hexadecimal digits"),
        ("finished", "false", "true or false"),
        ("refused", -1, "a whole number"),
        ("refused", True, "a whole number"),
        ("results", {"a": "5"}, "a whole number"),
        ("seconds", [], "null or a number"),
        ("more", 1, "no such field"),
    ],
)
def test_a_field_of_another_type_in_the_run_file_is_named(tmp_path, field, value, expected):
    with open_run(tmp_path) as run:
        work(run, NAMES)
    entry = json.loads((tmp_path / RUN_FILE).read_text())
    text = json.dumps({**entry, field: value})
    (tmp_path / RUN_FILE).write_text(text)
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match=rf"run\.json\.{field}.*expected {expected}"):
            open_run(tmp_path, overwrite=overwrite).__enter__()
    assert (tmp_path / RUN_FILE).read_text() == text


@pytest.mark.parametrize("line", [b"7\n", b'{"path": 3}\n', b'{"path": "e/0.jpg", "error": {}}\n'])
def test_a_line_of_another_type_in_the_journal_is_done_again(tmp_path, line):
    with open_run(tmp_path) as run:
        work(run, NAMES, stop_after=1)
    (tmp_path / JOURNAL_FILE).write_bytes(line)
    with open_run(tmp_path) as run:
        assert work(run, NAMES) == 0
        assert run.refused == 1


def test_a_list_names_only_temporary_files_of_ours_for_removal(tmp_path):
    (tmp_path / "mine.tmp").write_text("precious")
    with open_run(tmp_path / "run") as run:
        work(run, NAMES, stop_after=1)
    lines = [{"temporary": name} for name in ("../mine.tmp", "a\0b", "x" * 9999, 5)]
    with (tmp_path / "run" / LIST_FILE).open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    with open_run(tmp_path / "run") as run:
        assert work(run, NAMES) == 1
    assert (tmp_path / "mine.tmp").read_text() == "precious"


# Inputs -------------------------------------------------------------------------------------------


def put(path, text, seconds=1000):
    """Write a file with a fixed time, as an archive is unpacked that anyone can build again."""
    path.write_text(text)
    os.utime(path, (seconds, seconds))


def test_the_fingerprint_follows_name_and_content(tmp_path):
    path = tmp_path / "a.jpg"
    put(path, "one")
    first = fingerprint_files([path], ["a.jpg"])
    assert fingerprint_files([path], ["b.jpg"]) != first
    put(path, "two")
    assert fingerprint_files([path], ["a.jpg"]) != first
    put(path, "one", seconds=2000)
    assert fingerprint_files([path], ["a.jpg"]) == first
    assert fingerprint_files([tmp_path / "none"], ["a.jpg"]) != first
    os.mkfifo(tmp_path / "pipe")
    fingerprint_files([tmp_path / "pipe"], ["a.jpg"])


def inputs_in(folder, texts=("one", "two", "six")):
    paths = [folder / f"{index}.pgm" for index in range(len(texts))]
    for path, text in zip(paths, texts):
        if not path.exists():
            put(path, text)
    return Inputs(paths, [path.name for path in paths])


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("stopped", [False, True])
def test_another_content_of_equal_name_size_and_time_is_another_run(
    tmp_path, monkeypatch, settled, stopped, in_place
):
    monkeypatch.setattr(contents, "SETTLED_NS", -(10**12) if settled else 10**12)
    inputs = inputs_in(tmp_path)
    try:
        with open_run(tmp_path / "run", inputs=inputs) as run:
            process(run, inputs.names, act=stop_at(1 if stopped else None))
    except Stop:
        assert stopped
    state = json.loads((tmp_path / "run" / RUN_FILE).read_text())["inputs_state"]
    assert (state is not None) == settled
    if not in_place:
        (tmp_path / "0.pgm").unlink()
    put(tmp_path / "0.pgm", "ten")
    with pytest.raises(RunFolderError, match="the inputs have changed"):
        open_run(tmp_path / "run", inputs=inputs_in(tmp_path)).__enter__()
    put(tmp_path / "0.pgm", "one")
    with open_run(tmp_path / "run", inputs=inputs_in(tmp_path)) as run:
        process(run, inputs.names)


def test_unchanged_inputs_are_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    inputs = inputs_in(tmp_path)
    time.sleep(0.05)  # More than a tick of the system's clock.
    with open_run(tmp_path / "run", inputs=inputs) as run:
        process(run, inputs.names)
    read = []
    monkeypatch.setattr(contents, "_read", lambda path: read.append(path))
    with open_run(tmp_path / "run", inputs=inputs_in(tmp_path)) as run:
        process(run, inputs.names)
    assert not read


def test_coarse_times_are_not_trusted(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("one")
    fstat = os.fstat

    def coarse(file):
        real = fstat(file)
        fields = {name: getattr(real, name) for name in dir(real) if name.startswith("st_")}
        return type("Status", (), {**fields, "st_ctime_ns": 10**9})

    monkeypatch.setattr(contents.os, "fstat", coarse)
    found = Contents([tmp_path / "a"], ["a"])
    found.read()
    assert found.sha256 and found.state is None


def test_a_photo_replaced_while_it_is_processed_is_refused_by_name(tmp_path, caplog):
    inputs = inputs_in(tmp_path)

    def act(index):
        if index == 1:
            put(tmp_path / "1.pgm", "ten")
        if index == 2:
            put(tmp_path / "2.pgm", "six", seconds=5)  # The same content.

    with open_run(tmp_path / "run", inputs=inputs) as run:
        counts = process(run, inputs.names, act)
    assert counts.refused == 1 and "1.pgm' was changed or replaced" in caplog.text
    items = json.loads((tmp_path / "run" / "results.json").read_text())["items"]
    assert ["error" in item for item in items] == [False, True, False]
    assert not files_in(tmp_path / "run")("1.pgm")[0].exists()
    with pytest.raises(RunFolderError, match="the inputs have changed"):
        open_run(tmp_path / "run", inputs=inputs_in(tmp_path)).__enter__()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_photo_replaced_after_it_was_processed_is_named_at_the_end(
    tmp_path, monkeypatch, resumed
):
    monkeypatch.setattr(contents, "SETTLED_NS", -(10**12))
    inputs = inputs_in(tmp_path)
    if resumed:
        with pytest.raises(Stop), open_run(tmp_path / "run", inputs=inputs) as run:
            process(run, inputs.names, act=stop_at(1))

    def act(index):
        if index == 2:
            put(tmp_path / "0.pgm", "ten")

    with pytest.raises(InputError, match=r"0\.pgm' changed while.*--overwrite"), open_run(
        tmp_path / "run", inputs=inputs_in(tmp_path)
    ) as run:
        process(run, inputs.names, act)
    assert not json.loads((tmp_path / "run" / RUN_FILE).read_text())["finished"]
