"""Shells complete verbs, flags and values; old names of flags work and are not shown."""

import os
import runpy
import shutil
import subprocess
import sys

import pytest
from facezoo.cli import completion
from facezoo.cli.main import VERBS, build_parser, main


def complete(line, folder, tmp_path):
    """Answer as a shell is answered that completes the last word of a line; return the words."""
    answer = tmp_path / "answer"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    command = [sys.executable, "-m", "facezoo.cli.main"]
    subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
    return [word.strip() for word in answer.read_text().split("\v")]


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("facezoo pre", {"predict", "prepare"}, {"list"}),
        ("facezoo evaluate s", {"scrfd"}, {"landmarks"}),
        ("facezoo predict p --emb", {"--embedder", "--embed-refused"}, {"--embed_refused"}),
        ("facezoo match a b --rec", {""}, {"--recogniser"}),
        ("facezoo predict p --engine ", {"ort", "openvino", "vsx"}, set()),
        ("facezoo predict p --detector scrfd_2", {"scrfd_2.5g", "scrfd_2.5g_bnkps"}, set()),
        ("facezoo predict p --embedder ", {"w600k_mbf", "mine.onnx"}, {"scrfd_34g"}),
        ("facezoo predict p --landmarks pip", {"pip_resnet18"}, {"pfld_ghostone"}),
        ("facezoo predict mi", {"mine.onnx"}, {"magface_iresnet18"}),
        ("facezoo download yao", {"yaoming"}, set()),
        ("facezoo export pf", {"pfld_ghostone"}, set()),
        ("facezoo recipe mag", {"magface", "magface_iresnet18"}, set()),
        ("facezoo completion z", {"zsh"}, {"bash"}),
    ],
)
def test_values_are_completed(line, offered, not_offered, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "mine.onnx").touch()
    words = complete(line, folder, tmp_path)
    assert offered <= set(words)
    assert not not_offered & set(words)


def test_an_engine_is_completed_after_a_model():
    parser = build_parser("predict")
    completion.complete_values(parser)
    predict = parser._subparsers._group_actions[0].choices["predict"]
    detector = next(one for one in predict._actions if one.dest == "detector")
    assert "scrfd_34g@openvino" in detector.completer("scrfd_34g@o")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_gets_a_script(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "facezoo" in script and "_ARGCOMPLETE" in script
    if shutil.which(shell) and shell != "zsh":  # zsh reads it with its own completion loaded.
        subprocess.run([shell, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("verbs", "former", "present"),
    [
        (("calibrate",), "looks", "appearance"),
        (("predict",), "--looks", "--appearance"),
        (("predict",), "--max-turn", "--max-yaw"),
        (("predict",), "--max_cut_off", "--max-truncation"),
        (("predict",), "--far", "--fmr"),
        (("match",), "--far", "--fmr"),
    ],
)
def test_former_names_work_and_are_not_shown(verbs, former, present, capsys):
    parser = build_parser()
    with pytest.raises(SystemExit):
        main([*verbs, "--help"])
    said = capsys.readouterr().out
    assert present in said and former not in said
    more = {"calibrate": ("--images", "p", "--embedder", "m", "--output", "o")}
    files = {"predict": ("photos", "--output", "o"), "match": ("a.jpg", "b.jpg")}
    value = () if verbs == ("calibrate",) else ("0.25",)
    args = [
        (*verbs, *files.get(verbs[0], ()), name, *value, *more.get(verbs[0], ()))
        for name in (former, present)
    ]
    found = [vars(parser.parse_args(words)) for words in args]
    for one in found:
        one.pop("kind", None)
        one.pop("old_spellings")
    assert found[0] == found[1]


def test_the_module_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["facezoo", "completion", "bash"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("facezoo", run_name="__main__")
    assert end.value.code == 0
    assert main(["completion", "bash"]) == 0
    said = capsys.readouterr().out
    assert said[: len(said) // 2] == said[len(said) // 2 :]


def test_verbs_are_completed(tmp_path):
    assert set(complete("facezoo ", tmp_path, tmp_path)) >= set(VERBS)
