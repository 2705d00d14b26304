"""Numbers are checked where they enter: every flag of every command has a range and names it."""

import argparse
import ast
import importlib.util
import math
from pathlib import Path

import pytest
from facezoo.cli.flags import Size
from facezoo.cli.main import build_parser, main
from facezoo.fields import Number, number, whole

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = sorted(
    path
    for folder in ("common/utils", "common/eval", "face_*/*/source_code", "face_*/*/build_in")
    for path in REPOSITORY.glob(f"{folder}/**/*.py")
)
TEXTS = ("nan", "inf", "-inf", "-1", "0", "1e9", "1000000000", "1e308", "9" * 400, "", "1,5")
# The largest seed. Larger counts and sizes would take more memory or time than any machine has.
LARGEST = 2**32 - 1


def parsers_of(parser, name):
    """Yield a parser and those of its sub-commands."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, inner in action.choices.items():
                yield from parsers_of(inner, f"{name} {verb}")


def parser_of(script):
    spec = importlib.util.spec_from_file_location(f"numbers_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_parser()


def all_parsers():
    yield from parsers_of(build_parser(), "facezoo")
    for script in SCRIPTS:
        yield from parsers_of(parser_of(script), script.relative_to(REPOSITORY).as_posix())


def is_numeric(action):
    is_text = action.type in (None, str) or isinstance(action.type, type)
    is_name = action.dest in ("normalizer", "on")  # a data set's, or two landmarks; an engine's
    return action.type in (int, float) or not (is_text or is_name) or isinstance(action, Size)


def result_of(parser, words):
    """Return the parsed values, or what the parser says against the words."""
    said = []

    def fail(self, message):
        said.append(message)
        raise SystemExit(2)

    original, argparse.ArgumentParser.error = argparse.ArgumentParser.error, fail
    try:
        return parser.parse_args(words), None
    except SystemExit:
        return None, said[-1]
    finally:
        argparse.ArgumentParser.error = original


def problem_with(parser, action, text):
    """Say what is wrong with the answer to one text of a flag; None if nothing is."""
    flag = action.option_strings[-1]
    single = action.nargs is None
    count = action.nargs if isinstance(action.nargs, int) else 1
    words = [f"{flag}={text}"] if single and flag.startswith("--") else [flag] + [text] * count
    values, said = result_of(parser, words)
    if said is not None:
        expected = getattr(action.type, "expected", "from 1 to")
        # Words that look like flags are refused before they are read as numbers.
        like_flag = words[1:] and text in ("-inf", "-1", "") and (flag in said or text in said)
        named = flag in said and expected in said
        return None if named or like_flag else f"{flag} {text!r}: says {said!r}"
    found = getattr(values, action.dest)
    for value in found if isinstance(found, (list, tuple)) else [found]:
        accepted = getattr(action.type, "accepts", lambda value: type(value) is int)
        if not accepted(value) or value is None or not abs(value) <= LARGEST:
            return f"{flag} {text!r}: gives {value!r}"
    return None


def check_numbers(name, parser):
    """Say what is wrong with the numeric flags of one parser."""
    problems = []
    for group in parser._mutually_exclusive_groups:
        group.required = False
    for action in parser._actions:
        action.required = False
    for action in filter(is_numeric, parser._actions):
        default = action.default
        if action.type in (int, float):
            problems.append(f"{name}: {action.option_strings[-1]} has no range")
            continue
        if isinstance(action.type, Number) and default not in (None, argparse.SUPPRESS):
            values = default if isinstance(default, (list, tuple)) else [default]
            if not all(map(action.type.accepts, values)):
                problems.append(f"{name}: {action.option_strings[-1]} has the default {default}")
        found = (problem_with(parser, action, text) for text in TEXTS)
        problems += [f"{name}: {problem}" for problem in found if problem]
    return problems


def test_every_number_has_a_range():
    found = list(all_parsers())
    assert sum(sum(map(is_numeric, parser._actions)) for _, parser in found) > 100
    assert [problem for name, parser in found for problem in check_numbers(name, parser)] == []


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"type": float}, "--x has no range"),
        ({"type": int, "nargs": 2}, "--x has no range"),
        ({"type": whole(1, 9), "default": 0}, "--x has the default 0"),
        ({"type": Number("a number", lambda value: True)}, "--x 'nan': gives nan"),
        ({"type": whole(0, 10**15)}, "--x '1000000000000': gives"),
    ],
)
def test_a_number_without_a_range_is_noticed(how, says, monkeypatch):
    monkeypatch.setitem(globals(), "TEXTS", (*TEXTS, "1000000000000"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--x", **how)
    assert any(says in problem for problem in check_numbers("it", parser))


@pytest.mark.parametrize("text", TEXTS)
def test_a_number_in_a_list_of_words_has_a_range(text, capsys):
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(main(["vamp", "-m", "none.onnx", "-i", text]))
    said = capsys.readouterr().err
    assert caught.value.code == 2 and ("-i" in said or "--instance" in said)
    assert "whole number from 1 to 1024" in said or "expected at least one argument" in said


def test_a_command_ends_with_2_and_the_range(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["predict", "photos", "--output", "out", "--min-size", "nan"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "argument --min-size: is 'nan'; expected a number from 0 to 65535" in said


def test_ranges_by_hand():
    share = number(0, 1, without_low=True)
    assert [share.accepts(value) for value in (0, 1e-9, 1, 1.1, math.nan, True)] == [
        False, True, True, False, False, False,
    ]  # fmt: skip
    assert share.expected == "a number above 0 and at most 1"
    assert whole(3, 3).expected == "3" and whole(0, 9)("07") == 7


def check_documents(name, source):
    """Say which JSON documents of a module may come to contain NaN or infinity."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("dump", "dumps"):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            strict = getattr(given.get("allow_nan"), "value", True) is False
            if "indent" in given and not strict:
                problems.append(f"{name}:{node.lineno}: use facezoo.files.write_json")
    return problems


def test_documents_are_strict_json():
    package = REPOSITORY / "common" / "facezoo"
    sources = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    sources.update({path.relative_to(REPOSITORY).as_posix(): path for path in SCRIPTS})
    found = [
        problem
        for name, path in sources.items()
        for problem in check_documents(name, path.read_text("utf-8"))
    ]
    assert found == []


def test_a_lax_document_is_noticed():
    assert check_documents("a.py", "json.dumps(x, indent=2)") == [
        "a.py:1: use facezoo.files.write_json"
    ]
    assert check_documents("a.py", "json.dumps(x, indent=2, allow_nan=False)") == []
