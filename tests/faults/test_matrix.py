"""Every command with every fault of every file: named, refused, nothing half-written, mendable."""

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from facezoo.cli.main import VERBS, main
from fault_table import (
    COMMANDS,
    FAULTS,
    NAMES,
    OUTPUT_FAULTS,
    PHOTO,
    REPOSITORY,
    TABLE,
    answers,
    broken_inputs,
    leave,
    render,
    scrfd,
    without_roots_powers,
    wrong_types,
)
from limits import bounds


def cell(command, *more, marks=()):
    """Return one test of a command: marked if it needs PyTorch, or is rare."""
    marks = [*marks, *[pytest.mark.torch] * command.torch, *[pytest.mark.long] * command.rare]
    return pytest.param(command.name, *more, id="-".join([command.name, *more]), marks=marks)


def answering(fault):
    """Return one test of each command that a fault can reach."""
    writing = [command for command in COMMANDS.values() if command.writes]
    return [cell(command) for command in writing if fault in answers(command)]


class Place:
    """Where one command is run: its inputs as they were, and its undisturbed results."""

    def __init__(self, command, folder, inputs):
        self.command, self.folder, self.inputs = command, folder, inputs
        folder.mkdir()
        os.chdir(folder)
        command.inputs(folder)
        for step in command.prepare:
            assert COMMANDS[step].run() == 0
        shutil.copytree(folder, inputs)
        assert command.run() == 0
        self.results = command.results()

    def restore(self):
        # Lists, manifests and records name the folder they were made in, so it stays the same one.
        os.chdir(self.inputs)
        shutil.rmtree(self.folder)
        shutil.copytree(self.inputs, self.folder)
        os.chdir(self.folder)


@pytest.fixture(scope="session")
def places():
    return {}


@pytest.fixture
def start(places, tmp_path_factory):
    """Return a command and its undisturbed results; its inputs are the current folder."""
    before = Path.cwd()

    def begin(name):
        if name not in places:
            base = tmp_path_factory.mktemp("place")
            places[name] = Place(COMMANDS[name], base / "work", base / "inputs")
        places[name].restore()
        return COMMANDS[name], places[name].results

    yield begin
    os.chdir(before)


def check_nothing_half_written(results, expected):
    for name, data in results.items():
        assert name in expected, f"{name} is left behind"
        assert data == expected[name], f"{name} is half-written"


def cells():
    """Return the matrix; one fault of each file, another one each time, is not for long runs."""
    rows = {}
    for command, path, fault in broken_inputs():
        # Root's powers come back with the new programs that vamp starts.
        if not (fault == "not readable" and command.spawns and os.geteuid() == 0):
            rows.setdefault((command.name, path), []).append(fault)
    for number, ((name, path), faults) in enumerate(rows.items()):
        for index, fault in enumerate(faults):
            often = index == number % len(faults)
            yield cell(COMMANDS[name], path, fault, marks=[] if often else [pytest.mark.long])


def test_the_table_on_the_page_is_the_one_that_is_tested():
    assert TABLE.read_text() == render()


@pytest.fixture
def said(capfd, caplog):
    """Return what was printed as errors and warnings since the last call."""

    def read():
        text = caplog.text + capfd.readouterr().err
        caplog.clear()
        return text

    return read


@pytest.mark.parametrize(("name", "path", "fault"), list(cells()))
def test_a_broken_input_is_named_and_mending_it_is_enough(start, said, name, path, fault):
    command, expected = start(name)
    kept = Path("kept") / Path(path).name
    kept.parent.mkdir()
    shutil.copytree(path, kept) if Path(path).is_dir() else shutil.copy2(path, kept)
    FAULTS[fault](Path(path))
    said()
    with without_roots_powers():
        code = command.run()
    text = said()
    assert code == (1 if path in command.skips else 2), text
    assert "Traceback" not in text
    assert Path(path).name in text
    if path in command.needs:
        check_nothing_half_written(command.results(), expected)
    if Path(path).is_dir() and not Path(path).is_symlink():
        Path(path).chmod(0o755)
        shutil.rmtree(path)
    elif os.path.lexists(path):
        Path(path).unlink()
    shutil.copytree(kept, path) if kept.is_dir() else shutil.copy2(kept, path)
    again = command.run()
    if again == 4 and command.resumes:
        # Other inputs than it began with make it another run, and it says what to do.
        assert "--overwrite" in said()
        again = command.run("--overwrite")
    elif again == 1 and fault == "not readable":
        # Nothing in the picture has changed, so what was said about it stands until asked anew.
        again = command.run("--overwrite")
    assert again == 0, said()
    assert command.results() == expected


# The others write what they wrote without the fault, which takes as long.
OFTEN = ("another kind", "closed folder", "full at 700 B")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        cell(command, fault, marks=[] if fault in OFTEN else [pytest.mark.long])
        for command in COMMANDS.values()
        if command.writes
        for fault in OUTPUT_FAULTS
    ],
)
def test_an_output_that_cannot_be_written_is_named_and_mending_it_is_enough(
    start, said, name, fault
):
    command, expected = start(name)
    with OUTPUT_FAULTS[fault](Path(command.writes[0])):
        code = command.run()
        text = said()
    assert code == answers(command)[fault], text
    assert "Traceback" not in text
    check_nothing_half_written(command.results(), expected)
    if code != 0:
        # Where ONNX Runtime writes for us, it does not say what.
        assert any(Path(path).name in text for path in command.writes) or "ONNX" in text, text
        assert command.run() == 0
    assert command.results() == expected


@pytest.mark.parametrize("place", ["beside", "in place"])
@pytest.mark.parametrize("name", answering("a file put beside"))
def test_a_file_that_somebody_put_among_the_results_stays(start, said, name, place):
    command, expected = start(name)
    assert command.run() == 0
    run = next(Path(command.writes[0]).rglob("run.json")).parent
    own = [path for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")]
    deepest = max((path for path in own if path.name != "run.json"), default=None, key=depth)
    mine = deepest if deepest and place == "in place" else run / "mine.jpg"
    kept = mine.read_bytes() if mine.exists() else b""
    mine.write_bytes(b"precious")
    for more in ([], ["--overwrite"]):
        said()
        assert command.run(*more) == answers(command)["a file put beside"]
        assert mine.name in said()
        assert mine.read_bytes() == b"precious"
    mine.write_bytes(kept) if kept else mine.unlink()
    assert command.run() == 0
    assert command.results() == expected


@pytest.mark.parametrize("name", answering("someone else's, --overwrite"))
def test_nothing_of_somebody_elses_is_removed_to_start_again(start, said, name):
    command, expected = start(name)
    mine = leave(Path(command.writes[0]), bool(Path(command.writes[0]).suffix))
    assert command.run("--overwrite") == answers(command)["someone else's, --overwrite"], said()
    assert mine.read_text() == "mine"
    mine.unlink()
    assert command.run() == 0
    assert command.results() == expected


@pytest.mark.parametrize("name", answering("run.json of wrong types"))
def test_a_run_file_of_wrong_types_is_named_and_nothing_removed(start, said, name):
    command, _ = start(name)
    assert command.run() == 0
    path = next(Path(command.writes[0]).rglob("run.json"))
    wrong_types(path)
    before = everything()
    for more in ([], ["--overwrite"]):
        said()
        assert command.run(*more) == answers(command)["run.json of wrong types"]
        assert "run.json" in said()
        assert everything() == before


def depth(path):
    return len(path.parts), path.parts


@pytest.mark.parametrize("name", answering("another photo"))
def test_another_photo_of_equal_name_size_and_time_is_another_run(start, said, name):
    command, _ = start(name)
    assert command.run() == 0
    before, status = Path(PHOTO).read_bytes(), os.stat(PHOTO)  # noqa: PTH116
    Path(PHOTO).write_bytes(before[:-30] + b"another one" + before[-19:])
    os.utime(PHOTO, ns=(status.st_atime_ns, status.st_mtime_ns))
    results = command.results()
    said()
    assert command.run() == answers(command)["another photo"]
    assert "the inputs have changed" in said()
    assert command.results() == results


def results_of(command):
    """Return a command's run folder, and the files of a finished run, by path."""
    run = next(Path(command.writes[0]).rglob("run.json")).parent
    lines = (run / ".files.jsonl").read_text().splitlines()
    return run, [run / json.loads(line)["path"] for line in lines]


@pytest.mark.parametrize("name", answering("emptied results"))
def test_results_that_a_power_failure_emptied_are_made_again(start, said, name):
    command, expected = start(name)
    assert command.run() == 0
    _, results = results_of(command)
    for index, path in enumerate(results):
        path.write_bytes(b"" if index % 2 else bytes(path.stat().st_size))
    said()
    assert command.run() == answers(command)["emptied results"]
    assert f"removed {len(results)} damaged files" in said()
    assert command.results() == expected


@pytest.mark.torch
def test_emptied_weights_are_made_again_from_their_checkpoints(start, said):
    command, _ = start("train.py, MagFace")
    Path("twice.list").write_text(2 * Path("pairs.list").read_text())
    pairs = ("--val_pairs", "twice.list", "--val_folds", "2")
    assert command.run(*pairs) == 0
    expected = command.results()
    for name in ("weights/best.pth", "weights/00001.pth", "weights/00002.pth", "epochs.csv"):
        assert f"run/{name}" in expected
        Path("run", name).write_bytes(b"")
    assert command.run(*pairs) == 0
    assert command.results() == expected
    Path("run/weights/00001.pth").write_bytes(b"")
    for path in Path("run/checkpoints").glob("*.pth"):
        if path.stem != "00000004":
            path.unlink()
    said()
    assert command.run(*pairs) == 0
    assert "has no checkpoint: run/weights/00001.pth" in said()


@pytest.mark.parametrize("name", answering("a changed result"))
def test_a_result_changed_within_its_size_is_named(start, said, name):
    command, expected = start(name)
    assert command.run() == 0
    run, _ = results_of(command)
    for result in json.loads((run / "run.json").read_text())["results"]:
        path = run / result
        whole = path.read_bytes()
        path.write_bytes(whole[:-2] + b"\1\1")
        said()
        assert command.run() == answers(command)["a changed result"]
        assert path.name in said()
        path.write_bytes(whole)
    assert command.run() == 0
    assert command.results() == expected


@pytest.mark.parametrize("name", answering("holds the input"))
def test_a_folder_that_holds_the_input_is_refused_before_anything(start, said, name):
    command, _ = start(name)
    inside = {command.writes[0]: ".", "feat/feat.list": "img.list"}
    odd = replace(command, arguments=tuple(inside.get(a, a) for a in command.arguments))
    before = everything()
    for more in ([], ["--overwrite"]):
        said()
        assert odd.run(*more) == answers(command)["holds the input"]
        assert "--overwrite" not in said()
        assert everything() == before


def everything():
    return {path: path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


@pytest.mark.long
@pytest.mark.parametrize("name", answering("50,000 files"))
def test_pictures_among_50_000_files_are_found_and_done(start, said, name):
    command, expected = start(name)
    Path("note").write_text("no picture")
    for index in range(50_000):
        os.link("note", f"photos/0--Event/{index}.txt")
    with bounds():
        assert command.run() == answers(command)["50,000 files"], said()
    assert command.results() == expected


@pytest.mark.parametrize("name", answering("odd names"))
def test_pictures_of_any_name_are_done(start, said, name):
    command, _ = start(name)
    sources = sorted(Path("photos").rglob("*.png"))
    for index, picture in enumerate(NAMES.values()):
        # The longest name leaves no room for a longer suffix, or for a temporary one.
        source = sources[index % len(sources)]
        shutil.copy(source, source.with_name(picture))
    assert command.run() == answers(command)["odd names"], said()


@pytest.mark.parametrize("file", ["two\nlines.png", os.fsdecode(b"caf\xe9.png")])
@pytest.mark.parametrize("name", answering("line break in a name"))
def test_names_that_are_no_line_of_text_are_refused(start, said, name, file):
    command, _ = start(name)
    shutil.copy(PHOTO, Path("photos", file))
    assert command.run() == answers(command)["line break in a name"]
    assert ascii(file)[1:-1] in said()
    assert command.results() == {}


# Quiet --------------------------------------------------------------------------------------------


def quietly(run):
    """Run a command as a program logs: to the standard error, from the level that it asks for."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        return run("--quiet")
    finally:
        root.handlers = handlers
        root.setLevel(level)


@pytest.mark.parametrize("name", [cell(command) for command in COMMANDS.values()])
def test_quiet_prints_nothing(start, capfd, name):
    command, _ = start(name)
    capfd.readouterr()
    assert quietly(command.run) == 0
    assert capfd.readouterr() == ("", "")


# Verbs that are not among the commands above. The demonstration, the shims and the self-test of the
# device take minutes, or change what is outside their folder.
OTHERS = (
    ("bench", "--model", "net.onnx", "--engine", "ort", "--seconds", "0.01"),
    ("completion", "bash"),
    ("docs", "--check", "--root", str(REPOSITORY)),
    ("image2npz", "--dataset_path", "photos", "--target_path", "npz", "--text_path", "list.txt"),
    ("licences",),
    ("list",),
    ("render", "--check", "--root", str(REPOSITORY)),
    ("vamp", "-m", "net.onnx", "--engine", "ort", "-t", "0.01"),
)


@pytest.mark.parametrize("words", OTHERS, ids=lambda words: words[0])
def test_quiet_prints_nothing_in_other_verbs(tmp_path, monkeypatch, capfd, words):
    scrfd(tmp_path)
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    assert quietly(lambda quiet: main([*words, quiet])) == 0
    assert capfd.readouterr() == ("", "")


def test_quiet_is_tried_with_every_verb():
    tried = {command.arguments[0] for command in COMMANDS.values() if not command.script}
    assert tried | {words[0] for words in OTHERS} | {"demo", "shims", "vacc"} == set(VERBS)
