"""Every flag that names a file to write is known as one, and never lets an input be replaced."""

import argparse
import importlib.util
import os
import re
from pathlib import Path

import pytest
from facezoo.cli.main import build_parser
from facezoo.cli.outputs import OutputFile, refuse_over_inputs
from facezoo.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = [
    path
    for pattern in ("face_*/**/*.py", "common/utils/*.py")
    for path in sorted(REPOSITORY.glob(pattern))
    if "def build_parser" in path.read_text(encoding="utf-8")
]
# Folders that are written, whose commands look after what is in them.
FOLDERS = {"save_dir", "to", "path_output", "target_path", "txt", "pth_save_fold", "repository"}
FOLDERS |= {"root", "workspace"}
WRITES = re.compile(r"\b(write|writes|draw|draws|plot|plots|record)\b|to write$")


def verbs_of(parser, name):
    """Yield a name and the parsers of a command, from the first to the one of its last verb."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in inner:
        for verb, sub in action.choices.items():
            for found, chain in verbs_of(sub, f"{name} {verb}"):
                yield found, [(action.dest, verb), *chain]
    if not inner:
        yield name, [parser]


def commands():
    """Yield name, parser and the values that choose each command, of the package and scripts."""
    parser = build_parser()
    for name, chain in verbs_of(parser, "facezoo"):
        yield name, parser, chain
    for path in SCRIPTS:
        spec = importlib.util.spec_from_file_location(f"outputs_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parser = module.build_parser()
        yield path.relative_to(REPOSITORY).as_posix(), parser, [parser]


COMMANDS = {name: (parser, chain) for name, parser, chain in commands()}


def unknown_outputs(parser):
    """Return the flags of paths whose help says that they are written, but which are inputs."""
    return [
        action.option_strings[0]
        for action in parser._actions
        if action.type is Path
        and action.option_strings
        and not isinstance(action, OutputFile)
        and action.dest not in FOLDERS
        and action.metavar != "DIR"
        and (action.dest in ("json", "csv", "html", "plot", "output", "out") or says_so(action))
    ]


def says_so(action):
    # "a graph written by export_onnx.py" is read.
    return bool(WRITES.search(action.help or ""))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_of_a_file_to_write_is_known_as_one(name):
    assert unknown_outputs(COMMANDS[name][1][-1]) == []


def test_a_flag_that_is_not_known_as_one_is_seen():
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", type=Path, help="write a report")
    parser.add_argument("--csv", type=Path, help="a table")
    parser.add_argument("--graph", type=Path, help="written by export_onnx.py")
    assert unknown_outputs(parser) == ["--report", "--csv"]


def names_a_path(action):
    """Tell whether an input may be a path: not a number, a switch or a choice."""
    is_text = action.type in (None, Path) and action.choices is None and action.nargs != 0
    return is_text and not isinstance(action, (OutputFile, argparse._SubParsersAction))


def pairs():
    for name, (_, chain) in COMMANDS.items():
        actions = chain[-1]._actions
        outputs = [action.dest for action in actions if isinstance(action, OutputFile)]
        for output in outputs:
            yield name, output


def parsed(name, **values):
    """Return a command's parser, and what it would have parsed."""
    parser, chain = COMMANDS[name]
    args = argparse.Namespace(**dict(chain[:-1]))
    for action in chain[-1]._actions:
        if action.dest != "help":
            setattr(args, action.dest, None)
    for dest, value in values.items():
        setattr(args, dest, value)
    return parser, args


@pytest.mark.parametrize(("name", "output"), list(pairs()))
def test_no_input_of_any_command_is_replaced(tmp_path, name, output):
    chain = COMMANDS[name][1]
    inputs = [action for action in chain[-1]._actions if names_a_path(action)]
    folder = tmp_path / "in"
    folder.mkdir()
    file, link, twin = folder / "a.jpg", tmp_path / "link", tmp_path / "twin"
    file.write_bytes(b"mine")
    link.symlink_to(file)
    os.link(file, twin)  # Python 3.8 has no Path.hardlink_to
    around = tmp_path / "in" / ".." / "in" / "a.jpg"
    for action in inputs:
        many = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
        for value in (file, folder, link, twin):
            value = value if action.type is Path else str(value)
            for target in (file, link, around):
                parser, args = parsed(
                    name, **{action.dest: [value] if many else value, output: target}
                )
                with pytest.raises(InputError, match="is a file that this command reads"):
                    refuse_over_inputs(parser, args)
    # A report of an earlier start is replaced, wherever it lies.
    report = folder / "report.html"
    report.write_text("old")
    read = {inputs[0].dest: str(folder)} if inputs else {}
    parser, args = parsed(name, **read, **{output: report})
    refuse_over_inputs(parser, args)


@pytest.mark.parametrize(
    "value",
    ["net/mod", "net/mod@ort", "a=net/mod", "net/mod.onnx@openvino", "net/mod.onnx", "a=net"],
)
def test_the_files_of_a_model_are_inputs(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    Path("net").mkdir()
    for name in ("mod.onnx", "mod.build.json"):
        Path("net", name).write_text("mine")
    parser, args = parsed("facezoo compare", reference=value, json=Path("net/mod.onnx"))
    with pytest.raises(InputError, match="this command reads"):
        refuse_over_inputs(parser, args)


def test_what_a_run_wrote_is_an_input_and_a_report_beside_it_is_not(tmp_path):
    from facezoo.files import write_bytes
    from facezoo.runs import Inputs, RunFolder

    with RunFolder(tmp_path / "out", "test", {}, Inputs([], [])) as run:
        write_bytes(tmp_path / "out/txt/a.txt", b"1")
        write_bytes(tmp_path / "out/results.json", b"{}")
        run.finish("results.json")
    (tmp_path / "out/ap.png").write_bytes(b"old plot")
    for pred in (tmp_path / "out", tmp_path / "out/txt"):
        for name in ("txt/a.txt", "results.json", "run.json"):
            output = tmp_path / "out" / name
            if pred in output.parents:
                parser, args = parsed("facezoo evaluate scrfd", pred=pred, json=output)
                with pytest.raises(InputError, match="this command reads"):
                    refuse_over_inputs(parser, args)
        parser, args = parsed("facezoo evaluate scrfd", pred=pred, plot=tmp_path / "out/ap.png")
        refuse_over_inputs(parser, args)


def test_downloaded_weights_devices_and_a_second_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path))
    (tmp_path / "det_500m.onnx").write_text("mine")
    (tmp_path / "mine.onnx").write_text("mine")
    from facezoo.models import WEIGHTS

    weights = tmp_path / WEIGHTS["scrfd_500m_bnkps"].file
    weights.write_text("published")
    for output, said in ((weights, "is a downloaded file"), (Path("/dev/null"), "a device")):
        parser, args = parsed("facezoo bench", json=output)
        with pytest.raises(InputError, match=said):
            refuse_over_inputs(parser, args)
    parser, args = parsed("facezoo bench", json=tmp_path / "mine.onnx")
    refuse_over_inputs(parser, args)
    parser, args = parsed(
        "facezoo compare", json=tmp_path / "new", html=tmp_path / ".." / tmp_path.name / "new"
    )
    with pytest.raises(InputError, match="--json and --html both name"):
        refuse_over_inputs(parser, args)
