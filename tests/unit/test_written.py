"""What a run wrote is listed, and nothing else is ever removed or replaced."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from facezoo.errors import InputError, RunFolderError
from facezoo.files import write_bytes
from facezoo.runs import RUN_FILE, Inputs, RunFolder
from facezoo.workers import map_in_order
from facezoo.written import LIST_FILE, remove_own


def run_in(folder, *files, overwrite=False, inputs=(), finish=True, beside=()):
    reads = Inputs(list(inputs), [path.name for path in inputs])
    with RunFolder(folder, "test", {}, reads, overwrite, beside) as run:
        for file in files:
            write_bytes(folder / file, f"made {file}".encode())
        if finish:
            run.finish()


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_overwriting_removes_what_the_run_wrote_and_its_folders(tmp_path):
    run_in(tmp_path, "txt/a/1", "txt/2", "3")
    run_in(tmp_path, "4", overwrite=True)
    assert set(tree(tmp_path)) == {"4", RUN_FILE, LIST_FILE}
    assert not (tmp_path / "txt").exists()


@pytest.mark.parametrize("file", ["mine", "txt/mine", "txt/.mine.tmp", "notes.tmp", "txt/1"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_put_beside_or_in_place_of_ours_stays_and_is_named(tmp_path, file, overwrite):
    run_in(tmp_path, "txt/1", "txt/2")
    (tmp_path / file).write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(RunFolderError, match=f"holds '{file}'"):
        run_in(tmp_path, overwrite=overwrite)
    assert tree(tmp_path) == before


def test_a_file_of_equal_size_in_place_of_ours_is_not_removed_or_replaced(tmp_path):
    run_in(tmp_path, "txt/1", finish=False)
    (tmp_path / "txt/1").write_text("MADE txt/1")
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match="txt/1'"):
            run_in(tmp_path, "txt/1", overwrite=overwrite)
    assert (tmp_path / "txt/1").read_text() == "MADE txt/1"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["pictures/a.jpg", ".items.jsonl", ".files.jsonl", ".lock"])
def test_a_folder_without_a_run_file_is_refused(tmp_path, overwrite, name):
    write_bytes(tmp_path / name, b"precious")
    with pytest.raises(RunFolderError) as refused:
        run_in(tmp_path, overwrite=overwrite)
    assert "--overwrite" not in str(refused.value)
    assert tree(tmp_path) == {name: b"precious"}


@pytest.mark.parametrize("text", ["{", "{}", '{"schema": "other/1"}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_file_that_is_not_ours_protects_its_folder(tmp_path, text, overwrite):
    run_in(tmp_path, "1")
    (tmp_path / RUN_FILE).write_text(text)
    before = tree(tmp_path)
    with pytest.raises(RunFolderError, match="by hand") as refused:
        run_in(tmp_path, overwrite=overwrite)
    assert "--overwrite" not in str(refused.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_links_are_not_followed(tmp_path, overwrite):
    run_in(tmp_path / "run", "txt/1")
    write_bytes(tmp_path / "other/1", b"made txt/1")
    (tmp_path / "run/txt/1").unlink()
    (tmp_path / "run/txt").rmdir()
    (tmp_path / "run/txt").symlink_to(tmp_path / "other")
    with pytest.raises(RunFolderError, match="holds 'txt'"):
        run_in(tmp_path / "run", overwrite=overwrite)
    assert (tmp_path / "other/1").read_bytes() == b"made txt/1"


def test_an_old_folder_gives_up_only_the_results_it_names(tmp_path):
    with RunFolder(tmp_path, "test", {}, Inputs([], [])) as run:
        write_bytes(tmp_path / "result", b"12")
        run.finish("result")
    (tmp_path / LIST_FILE).unlink()
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt/1").write_text("whose?")
    with pytest.raises(RunFolderError, match=r"'txt/1'.*by hand, or name another"):
        run_in(tmp_path, overwrite=True)
    (tmp_path / "txt/1").unlink()
    (tmp_path / "result").write_text("123")
    with pytest.raises(RunFolderError, match=r"'result'.*by hand, or name another"):
        run_in(tmp_path, overwrite=True)
    (tmp_path / "result").write_text("12")
    run_in(tmp_path, overwrite=True)
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize("spelling", ["run/a.jpg", "run/../run/a.jpg", "link/a.jpg", "a link.jpg"])
def test_an_input_in_the_folder_is_refused_before_anything(tmp_path, spelling):
    run_in(tmp_path / "run", "a.jpg")
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "a link.jpg").symlink_to("run/a.jpg")
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is read by this run"):
            run_in(tmp_path / "run", overwrite=overwrite, inputs=[tmp_path / spelling])
    assert tree(tmp_path) == before


def test_the_folder_of_the_inputs_and_an_artifact_are_inputs(tmp_path):
    run_in(tmp_path / "run", "net/mod.onnx")
    for other in (tmp_path / "run", tmp_path / "run/net/mod", str(tmp_path / "run/net/mod.onnx")):
        with pytest.raises(InputError, match="is read by this run"):
            Inputs([], [], other).refuse_in(tmp_path / "run")
    Inputs([], [], tmp_path, None, "scrfd_500m_bnkps").refuse_in(tmp_path / "run")


def test_a_file_beside_the_folder_is_ours_only_if_we_wrote_it(tmp_path):
    feats = tmp_path / "feat.list"
    feats.write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match=r"feat\.list"):
            run_in(tmp_path / "run", overwrite=overwrite, beside=[feats])
    assert feats.read_text() == "precious"
    feats.unlink()
    run_in(tmp_path / "run", "../feat.list", beside=[feats])
    run_in(tmp_path / "run", "1", overwrite=True, beside=[feats])
    assert not feats.exists()


def test_only_files_of_the_run_at_work_are_removed_in_between(tmp_path):
    with RunFolder(tmp_path, "test", {}, Inputs([], [])):
        write_bytes(tmp_path / "state", b"1")
        write_bytes(tmp_path / "state", b"2")
        (tmp_path / "mine").write_text("precious")
        assert remove_own(tmp_path / "state")
        assert not remove_own(tmp_path / "mine")
        with pytest.raises(RunFolderError, match="mine' is not what this run wrote"):
            write_bytes(tmp_path / "mine", b"1")
    assert not (tmp_path / "state").exists()
    assert (tmp_path / "mine").read_text() == "precious"


KILLED = """
import os, sys
from pathlib import Path
from facezoo import written
from facezoo.runs import Inputs, RunFolder
folder = Path(sys.argv[1])
with RunFolder(folder, "test", {}, Inputs([], [])):
    for name in ("txt/1", "txt/2"):
        with written.writing(folder / name) as file:
            file.write(f"made {name}".encode())
            if name == sys.argv[2]:
                os.kill(os.getpid(), 9)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("at", ["txt/1", "txt/2", ""])
@pytest.mark.parametrize("overwrite", [False, True])
def test_after_a_kill_every_file_is_known(tmp_path, at, overwrite):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run"), at])
    assert len(list(tmp_path.rglob(".facezoo.*.tmp"))) == bool(at)
    run_in(tmp_path / "run", "txt/1", "txt/2", overwrite=overwrite)
    run_in(tmp_path / "whole", "txt/1", "txt/2")
    (tmp_path / "run" / RUN_FILE).unlink()
    (tmp_path / "whole" / RUN_FILE).unlink()
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_a_worker_process_lists_what_it_writes(tmp_path):
    code = (
        "import sys; from pathlib import Path; from facezoo.image.files import write_bytes\n"
        "write_bytes(Path(sys.argv[1]), b'1')"
    )
    with RunFolder(tmp_path, "test", {}, Inputs([], [])):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "txt/1")], check=True)
    # Nobody is at work now, so that it is somebody's own.
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "txt/2")], check=True)
    listed = [json.loads(line) for line in (tmp_path / LIST_FILE).read_text().split("\n") if line]
    assert [entry["path"] for entry in listed if "path" in entry] == ["txt/1"]
    assert listed[-1]["size"] == 1


def test_a_worker_process_that_outlives_its_run_writes_nothing(tmp_path):
    """Its file would be in no list, and the next start would have to refuse it."""
    run_in(tmp_path, "txt/1", finish=False)
    before = tree(tmp_path)
    code = (
        "import sys; from pathlib import Path; from facezoo import files, written\n"
        "written.work_for_parent()\n"
        "files.write_bytes(Path(sys.argv[1]), b'2')"
    )
    for file, said in (("txt/1", "has ended"), ("txt/2", "has ended"), ("../elsewhere", "")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / file)], capture_output=True, text=True
        )
        assert said in done.stderr
        assert (done.returncode != 0) == bool(said)
    assert tree(tmp_path) == before
    run_in(tmp_path, "txt/1", "txt/2")


def test_a_thread_that_outlives_its_run_writes_nothing(tmp_path):
    """As after Ctrl-C, which leaves the run before the threads have come to their end."""
    began, ended, said = threading.Event(), threading.Event(), []

    def write(name):
        if name != "txt/0":
            began.set()
            ended.wait(30)
        try:
            write_bytes(tmp_path / name, b"1")
        except ConnectionError as error:
            said.append(str(error))

    stream = map_in_order(write, ["txt/0", "txt/1"], 1)
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path, "test", {}, Inputs([], [])):
        next(stream)
        assert began.wait(30)
        raise KeyboardInterrupt
    ended.set()
    stream.close()
    assert said == [f"the run in {str(tmp_path)!r} has ended"]
    assert (tmp_path / "txt" / "0").exists() and not (tmp_path / "txt" / "1").exists()


def test_two_runs_at_once_in_one_program_keep_their_lists_apart(tmp_path):
    with RunFolder(tmp_path / "a", "test", {}, Inputs([], [])) as first:
        write_bytes(tmp_path / "a/1", b"1")
        with RunFolder(tmp_path / "b", "test", {}, Inputs([], [])) as second:
            write_bytes(tmp_path / "a/2", b"2")
            write_bytes(tmp_path / "b/3", b"3")
            assert first.written() == ["1", "2"]
            assert second.written() == ["3"]
            second.finish("3")
        write_bytes(tmp_path / "a/4", b"4")
        assert first.written() == ["1", "2", "4"]
        first.finish("1", "2", "4")
    run_in(tmp_path / "a")
    run_in(tmp_path / "b")


def test_a_name_of_any_length_can_be_written(tmp_path):
    name = "é" * 127
    run_in(tmp_path, name)
    assert os.path.exists(tmp_path / name)  # noqa: PTH110


def test_a_list_is_short_after_many_versions(tmp_path):
    with RunFolder(tmp_path, "test", {}, Inputs([], [])) as run:
        for index in range(50):
            write_bytes(Path(tmp_path, "table.csv"), b"x" * index)
        run.finish()
    assert len((tmp_path / LIST_FILE).read_text().splitlines()) == 1
