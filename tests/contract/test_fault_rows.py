"""Every verb and every script of a recipe has a row in the fault table, or a reason not to."""

import argparse

from facezoo.cli.main import build_parser
from fault_table import COMMANDS, REPOSITORY

# What stands for it: the row of the same code, or where else it is tested.
NO_ROW = {
    "completion": "prints a script",
    "docs": "writes the pages of the repository",
    "render": "writes the build files of the repository",
    "shims": "writes two launchers to the environment: tests/unit/test_toolchain.py",
    "vamc build": "vamc compile",
    "image2npz": "image2npz.py",
    "evaluate pipnet": "evaluate landmarks",
    "evaluate clusters": "reads only: tests/unit/test_cluster.py",
    "evaluate identification": "reads only: tests/unit/test_identify.py",
    "calibrate identification": "writes the report of evaluate identification, by size",
    "calibrate looks": "calibrate appearance",
    "prepare lfw": "reads only: tests/unit/test_protocols.py",
    "prepare cfp": "reads only: tests/unit/test_protocols.py",
    "prepare agedb": "reads only: tests/unit/test_protocols.py",
    "common/eval/evaluation.py": "evaluate --pred",
    "common/utils/export_onnx.py": "export",
    "common/utils/npz_decode.py": "decode",
    "face_recognition/magface/source_code/train_demo.py": "train.py, MagFace",
}
SCRIPTS = ("common/utils/*.py", "common/eval/*.py", "face_*/*/source_code/*.py")
SCRIPTS += ("face_*/*/build_in/decode/*.py", "face_*/*/build_in/vsx/python/*.py")


def verbs_of(parser, words=()):
    """Yield the words of everything that can be run."""
    inner = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    for action in inner:
        for name, sub in action.choices.items():
            yield from verbs_of(sub, (*words, name))
    if not inner:
        yield words


def scripts():
    return [
        path.relative_to(REPOSITORY).as_posix()
        for pattern in SCRIPTS
        for path in sorted(REPOSITORY.glob(pattern))
    ]


def check_rows(commands, reasons):
    """What can be run has either a row or a reason; a reason that is a row's name is one."""
    rows = [command for command in commands.values() if not command.script]
    have = {
        " ".join(words)
        for words in verbs_of(build_parser())
        if any(command.arguments[: len(words)] == words for command in rows)
    }
    have |= {command.script for command in commands.values()}
    every = {*map(" ".join, verbs_of(build_parser())), *scripts()}
    problems = [f"{name} has no row in the fault table" for name in every - have - {*reasons}]
    problems += [f"{name} has a row, and a reason to have none" for name in have & {*reasons}]
    problems += [f"{name} is neither a verb nor a script" for name in {*reasons} - every]
    for name, reason in reasons.items():
        is_told = reason.startswith(("prints ", "writes ", "reads only: "))
        if not is_told and reason not in commands:
            problems.append(f"{name}: {reason!r} is not a row of the fault table")
    return sorted(problems)


def test_every_verb_and_script_has_a_row():
    assert check_rows(COMMANDS, NO_ROW) == []


def test_a_missing_row_is_noticed():
    for name, missing in (("bench", "bench"), ("score merge", "score merge")):
        fewer = {each: command for each, command in COMMANDS.items() if each != name}
        assert check_rows(fewer, NO_ROW) == [f"{missing} has no row in the fault table"]
    fewer = {each: command for each, command in COMMANDS.items() if each != "gen_feat.py"}
    script = "face_recognition/magface/source_code/gen_feat.py"
    assert check_rows(fewer, NO_ROW) == [f"{script} has no row in the fault table"]


def test_a_reason_must_hold():
    assert check_rows(COMMANDS, {**NO_ROW, "bench": "prints only"}) == [
        "bench has a row, and a reason to have none"
    ]
    assert check_rows(COMMANDS, {**NO_ROW, "gone.py": "prints it"}) == [
        "gone.py is neither a verb nor a script"
    ]
    assert check_rows(COMMANDS, {**NO_ROW, "vamc build": "vamc built"}) == [
        "vamc build: 'vamc built' is not a row of the fault table"
    ]
