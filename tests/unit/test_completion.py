"""The scripts that make shells complete do complete."""

import runpy
import shutil
import subprocess

import pytest
from facezoo.cli.completion import words_after
from facezoo.cli.main import VERBS, build_parser, main


def complete(script, *words):
    """Ask bash what it would offer for the last of the words."""
    line = " ".join(f"'{word}'" for word in words)
    code = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _facezoo\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_verbs_flags_and_choices(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert set(complete(script, "facezoo", "")) >= set(VERBS)
    assert set(complete(script, "facezoo", "doc")) == {"doctor", "docs"}
    assert "--embedder" in complete(script, "facezoo", "predict", "photos", "--em")
    assert set(complete(script, "facezoo", "evaluate", "s")) == {"scrfd"}
    assert complete(script, "facezoo", "evaluate", "scrfd", "--html") == ["--html"]
    assert complete(script, "facezoo", "completion", "z") == ["zsh"]
    assert complete(script, "facezoo", "predict", "no_such") == []


def test_words_follow_the_parser():
    words = words_after(build_parser())
    assert set(words[()]) >= set(VERBS)
    assert "--identities" in words[("calibrate", "similarity")]
    assert all(
        not word.startswith("-") or word.startswith("--") for w in words.values() for word in w
    )


@pytest.mark.parametrize(
    ("verbs", "former", "present"),
    [
        (("calibrate",), "looks", "appearance"),
        (("predict",), "--looks", "--appearance"),
        (("predict",), "--max-turn", "--max-yaw"),
        (("predict",), "--max_cut_off", "--max_truncation"),
        (("predict",), "--far", "--fmr"),
        (("match",), "--far", "--fmr"),
    ],
)
def test_former_names_work_and_are_not_shown(verbs, former, present, capsys):
    parser = build_parser()
    words = words_after(parser)[verbs]
    assert present in words and former not in words
    with pytest.raises(SystemExit):
        main([*verbs, "--help"])
    said = capsys.readouterr().out
    assert present in said and former not in said
    more = {"calibrate": ("--identities", "p", "--model", "m", "--output", "o")}
    files = {"predict": ("photos", "--save_dir", "o"), "match": ("a.jpg", "b.jpg")}
    value = () if verbs == ("calibrate",) else ("0.25",)
    args = [
        (*verbs, *files.get(verbs[0], ()), name, *value, *more.get(verbs[0], ()))
        for name in (former, present)
    ]
    found = [vars(parser.parse_args(words)) for words in args]
    for one in found:
        one.pop("kind", None)
    assert found[0] == found[1]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_verb(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for verb in VERBS:
        assert verb in script
    assert ("bashcompinit" in script) == (shell == "zsh")
    if shutil.which(shell):
        subprocess.run([shell, "-c", script], check=True, capture_output=True)


def test_the_module_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["facezoo", "completion", "bash"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("facezoo", run_name="__main__")
    assert end.value.code == 0
    assert main(["completion", "bash"]) == 0
    said = capsys.readouterr().out
    assert said[: len(said) // 2] == said[len(said) // 2 :]
