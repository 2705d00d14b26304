"""No run ever removes or changes a file that it did not write, whatever lies in its folder."""

import contextlib
import io
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from facezoo.cli.main import main
from facezoo.deploy.recipes import lay_out
from facezoo.errors import FaceZooError, ImageError
from facezoo.files import write_bytes
from facezoo.runs import JOURNAL_FILE, RUN_FILE, Inputs, RunFolder
from facezoo.written import LIST_FILE, remove_own
from fault_table import COMMANDS, OVER_INPUTS, endless, of_40_gb, pipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import bounds

IN_MAKE_TEST = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(IN_MAKE_TEST, max_examples=10_000)

FILES = ["a", "txt/a", "txt/deep/.a.9.tmp", "pictures/a.jpg"]
KEPT_NAMES = [JOURNAL_FILE, LIST_FILE, ".lock"]
STARTS = st.fixed_dictionaries(
    {
        "writes": st.lists(st.sampled_from(FILES), min_size=1, max_size=4),
        "drops": st.sampled_from([None, *FILES]),
        "reads": st.sampled_from([None] * 8 + FILES),
        "version": st.integers(0, 1),
        "overwrite": st.booleans(),
        "killed": st.none() | st.integers(0, 3),
    }
)
# What somebody does: puts a file there, of the run's own size or not, or takes one away.
DEEDS = st.tuples(
    st.sampled_from(["put", "put", "take"]),
    st.sampled_from(FILES),
    st.sampled_from(["precious", "0 of ours", "X of ours", "x"]),
)
HISTORIES = st.tuples(
    # Most begin in an empty folder, or every start would be refused.
    st.just({})
    | st.dictionaries(st.sampled_from([*FILES, *KEPT_NAMES, RUN_FILE]), st.just("mine")),
    st.lists(STARTS | DEEDS, min_size=3, max_size=8),
)


class Killed(BaseException):
    """The process is gone: nothing is tidied up but what the system does."""


def begin(folder, how):
    """Do one start of a run, as far as it comes."""
    reads = [folder / how["reads"]] if how["reads"] else []
    run = RunFolder(
        folder,
        "test",
        {"version": how["version"]},
        Inputs(reads, ["a"] * len(reads)),
        how["overwrite"],
    )
    with contextlib.suppress(FaceZooError, OSError, Killed), run:
        for index, file in enumerate(how["writes"]):
            write_bytes(folder / file, f"{how['version']} of ours".encode())
            if index == how["killed"]:
                raise Killed
        if how["drops"]:
            remove_own(folder / how["drops"])
        run.finish()


def check(history):
    """Follow who wrote which file last; what somebody wrote must be there as they wrote it."""
    first, events = history
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base, "run")
        theirs = {}
        for file, text in first.items():
            put(folder / file, text)
            theirs[file] = text.encode()
        for event in events:
            if isinstance(event, dict):
                begin(folder, event)
            else:
                deed, file, text = event
                if deed == "put" and not (folder / file).is_dir():
                    put(folder / file, text)
                    theirs[file] = text.encode()
                elif deed == "take" and (folder / file).is_file():
                    (folder / file).unlink()
                    theirs.pop(file, None)
            for file, data in theirs.items():
                assert is_whole(folder / file, data), f"{file!r} of somebody is gone or changed"


def is_whole(path, data):
    # What is the same as the run's own, byte by byte, cannot be told from it.
    return data == b"0 of ours" or (path.is_file() and path.read_bytes() == data)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    # As an editor does: the old file is not written into.
    if os.path.lexists(path):
        path.unlink()
    path.write_text(text)


@IN_MAKE_TEST
@given(HISTORIES)
def test_nothing_of_somebody_elses_is_removed_or_changed(history):
    check(history)


@pytest.mark.long
@LONG
@given(HISTORIES)
def test_nothing_of_somebody_elses_is_removed_or_changed_in_many_histories(history):
    check(history)


# Files to write ----------------------------------------------------------------------------------


def files_here():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def check_refused(command, capfd, said):
    before = files_here()
    assert command.run() == 2
    assert said in capfd.readouterr().err
    assert files_here() == before


@pytest.mark.parametrize(("name", "flag", "path"), OVER_INPUTS)
def test_a_file_to_write_is_no_input(tmp_path, monkeypatch, capfd, name, flag, path):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS[name]
    command.inputs(tmp_path)
    words = list(command.arguments)
    if flag in words:
        words[words.index(flag) + 1] = path
    else:
        words += [flag, path]
    check_refused(replace(command, arguments=tuple(words)), capfd, Path(path).name)


@pytest.mark.parametrize("flag", ["--html", "--json", "--csv"])
@pytest.mark.parametrize("given", ["photos/*/*.png", "-"])
def test_a_file_to_write_is_no_photo_of_a_pattern_or_a_list(
    tmp_path, monkeypatch, capfd, given, flag
):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS["predict"]
    command.inputs(tmp_path)
    listed = sorted(map(str, Path("photos").rglob("*.png")))
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{name}\n" for name in listed)))
    os.link(listed[1], "another.jpg")
    for path in (listed[0], "another.jpg"):
        words = [given if word == "photos" else word for word in command.arguments]
        words.remove("--csv")
        check_refused(replace(command, arguments=(*words, flag, path)), capfd, Path(path).name)
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{name}\n" for name in listed)))


@pytest.mark.parametrize(
    ("name", "flag", "path"),
    [
        ("predict", "--html", "out/faces.jsonl"),
        ("predict", "--html", "out/run.json"),
        ("evaluate --images", "--csv", "run/predictions.npz"),
        ("evaluate --images", "--json", "run/.files.jsonl"),
        ("image2npz.py", "--text_path", "npz/run.json"),
    ],
)
def test_a_file_to_write_is_no_result_of_the_run(tmp_path, monkeypatch, capfd, name, flag, path):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS[name]
    command.inputs(tmp_path)
    words = list(command.arguments)
    if flag in words:
        at = words.index(flag)
        del words[at : at + 2]
    assert replace(command, arguments=(*words, flag, path)).run() == 2
    assert Path(path).name in capfd.readouterr().err
    before = files_here()
    # Nothing is lost: with another name the same command is done at once.
    assert replace(command, arguments=(*words, flag, "other")).run() == 0
    # The run's list names what is written only then.
    for path in [path for path in before if path.name == ".files.jsonl"]:
        assert set(path.read_text().splitlines()) >= set(before.pop(path).decode().splitlines())
    assert files_here().items() >= before.items()


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_an_artifact_is_not_its_own_source(tmp_path, monkeypatch, capfd, dtype):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS["vamc compile"]
    command.inputs(tmp_path)
    source = Path("deploy_weights/official_scrfd_fp16/mod.onnx")
    source.parent.mkdir(parents=True)
    Path("net.onnx").rename(source)
    text = Path("build.yaml").read_text().replace("net.onnx", str(source))
    Path("build.yaml").write_text(text.replace("dtype: fp16", f"dtype: {dtype}"))
    check_refused(command, capfd, "mod.onnx' is read by this command")


def test_a_list_of_photos_makes_them_inputs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS["calibrate similarity"]
    command.inputs(tmp_path)
    names = Path("pairs.list").read_text().replace("0--", "photos/0--").replace("1--", "photos/1--")
    Path("pairs.list").write_text(names)
    words = [*command.arguments[:-1], names.split()[0]]
    start = words.index("--identities")
    words[start : start + 2] = ["--pairs", "pairs.list"]
    check_refused(replace(command, arguments=tuple(words)), capfd, "is read by this command")


@pytest.mark.parametrize("fault", [pipe, endless, of_40_gb])
@pytest.mark.parametrize("name", [LIST_FILE, ".lock"])
def test_books_of_somebody_elses_are_not_read_without_an_end(tmp_path, name, fault):
    """A file is written below a folder whose files only look like those of a run."""
    for file in (LIST_FILE, ".lock"):
        (tmp_path / file).touch()
    fault(tmp_path / name)
    output = tmp_path / "below" / "list.json"
    with bounds():
        for _ in range(2):  # It is new, then it is replaced.
            assert main(["list", "--json", str(output)]) == 0
    assert "facezoo.list/1" in output.read_text()


def test_a_journal_without_an_end_is_read_within_bounds(tmp_path):
    with RunFolder(tmp_path, "test", {}, Inputs([], [])) as run:
        run.record("a", ImageError("'a' is empty"))
    of_40_gb(tmp_path / JOURNAL_FILE)
    with bounds(), RunFolder(tmp_path, "test", {}, Inputs([], [])) as run:
        assert run.completed(["a", "b"]) == 1
    assert (tmp_path / JOURNAL_FILE).stat().st_size < 1000


@pytest.mark.parametrize(
    "kept", ["faces.png", "calibration/mine.jpg", "onnx/scrfd_500m_bnkps.onnx"]
)
def test_the_demo_works_in_a_folder_of_its_own(tmp_path, capsys, kept):
    put(tmp_path / kept, "mine")
    assert main(["demo", "--to", str(tmp_path)]) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / kept]


def test_a_recipe_replaces_no_link_and_reads_no_endless_file(tmp_path, capsys):
    for make in (lambda path: path.symlink_to("nowhere"), of_40_gb):
        lay_out("scrfd", tmp_path)
        path = tmp_path / "face_detection/scrfd/README.md"
        if make is not of_40_gb:
            path.unlink()
        make(path)
        with bounds():
            assert main(["recipe", "scrfd", "--to", str(tmp_path)]) == 2
        assert "README.md' is not as the recipe has it" in capsys.readouterr().err
        assert path.is_symlink() or path.stat().st_size == 40 << 30
        path.unlink()
