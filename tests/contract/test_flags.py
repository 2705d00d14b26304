"""One spelling per meaning: every verb of ours takes its flags from one table.

Every check takes a parser and returns what is wrong with it, so that a mutation can show that it
sees.
"""

import argparse
import re
import shlex

import pytest
from facezoo.cli import flags
from facezoo.cli.evaluate import flags as evaluate
from facezoo.cli.main import VERBS, build_parser, main
from facezoo.cli.options import CommandParser, make_parser
from facezoo.cli.outputs import OutputFile, name_of
from facezoo.evaluation import landmarks, protocol, verification_report
from facezoo.image.degrade import DEGRADATIONS
from facezoo.metrics.landmarks import NORMALIZERS
from facezoo.models.magface.model import FLIPS
from facezoo.models.scrfd.decode import PROFILES
from facezoo.reports.chinese import CHINESE

# Their flags are the vendor's.
VENDORS = ("vamc", "vamp", "image2npz", "decode")
# What decides how a flag is read; its help, default and need may differ from verb to verb.
READ_AS = ("type", "metavar", "choices")


def walk(parser, verbs=()):
    """Yield the verbs and the parser of everything that can be run."""
    inner = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    for action in inner:
        for name, sub in action.choices.items():
            yield from walk(sub, (*verbs, name))
    if not inner:
        yield " ".join(verbs), parser


ALL = dict(walk(build_parser()))
OURS = {verb: parser for verb, parser in ALL.items() if verb.split()[0] not in VENDORS}


def shown(parser):
    return [
        action
        for action in parser._actions
        if action.option_strings and not isinstance(action, argparse._HelpAction)
    ]


def verbs_of(name):
    return [verb for verb, p in OURS.items() if name in map(name_of, shown(p))]


def check_shared(verb, parser):
    """A flag of several verbs is in the table, and is read as the table says."""
    problems = []
    for action in shown(parser):
        name = name_of(action)
        if name not in flags.SHARED:
            if len({other.split()[0] for other in verbs_of(name)} | {verb.split()[0]}) > 1:
                problems.append(f"{verb}: {name} is not in SHARED, but several verbs have it")
            continue
        how = flags.SHARED[name].how
        problems += [
            f"{verb}: {name} has {key} {getattr(action, key)!r}, the table {how[key]!r}"
            for key in READ_AS
            if key in how and getattr(action, key) != how[key]
        ]
        short = flags.SHORT.get(name)
        if set(action.option_strings) != {name, *([short] if short else [])}:
            problems.append(f"{verb}: {name} is spelled {action.option_strings}")
    return problems


def check_spellings(verb, parser):
    """Flags have dashes; an old spelling is no flag of the same verb, nor one without a meaning."""
    problems = []
    for action in shown(parser):
        problems += [
            f"{verb}: {name} is not spelled with dashes"
            for name in action.option_strings
            if "_" in name or (len(name) == 2 and name not in flags.SHORT.values())
        ]
        if not action.help or action.help == argparse.SUPPRESS:
            problems.append(f"{verb}: {name_of(action)} has no help")
    for old, new in flags.old_spellings(parser).items():
        if old in parser._option_string_actions:
            problems.append(f"{verb}: {old} is both a flag and an old spelling of {new}")
        if verbs_of(old) and old not in flags.SHARED:
            problems.append(f"{verb}: {old} was {new}, and is a flag of {verbs_of(old)}")
    return problems


def check_defaults(verb, parser):
    """The help says what holds if a flag is left out."""
    problems = []
    formatter = parser._get_formatter()
    for action in shown(parser):
        is_switch, is_output = action.nargs == 0, isinstance(action, OutputFile)
        repeats = isinstance(action, argparse._AppendAction)
        if is_switch or is_output or repeats or action.required:
            continue
        text = formatter._expand_help(action)
        if "default" not in text:
            problems.append(f"{verb}: {name_of(action)} does not say its default")
        elif action.default is not None and "(default: " not in text:
            problems.append(f"{verb}: {name_of(action)} does not show {action.default!r}")
    return problems


def check_outputs(verb, parser):
    """No command writes a file that it was not asked for."""
    return [
        f"{verb}: {name_of(action)} is written unasked"
        for action in shown(parser)
        if isinstance(action, OutputFile) and action.default is not None
    ]


def check_models(verb, parser):
    """A model is given as text, which may name an engine after an @."""
    return [
        f"{verb}: {name_of(action)} cannot name an engine"
        for action in shown(parser)
        if action.metavar == "MODEL" and action.type is not None
    ]


CHECKS = (check_shared, check_spellings, check_defaults, check_outputs, check_models)


@pytest.mark.parametrize("check", CHECKS)
def test_every_parser(check):
    assert len(OURS) > 25
    assert [problem for item in OURS.items() for problem in check(*item)] == []


def test_the_table_has_one_meaning_per_spelling():
    meanings = [flag.meaning for flag in flags.SHARED.values()]
    assert sorted(set(meanings)) == sorted(meanings)
    assert [name for name in flags.SHARED if not verbs_of(name)] == []


def test_no_two_flags_say_the_same():
    """Two spellings of one meaning would have one help."""
    names = {}
    for parser in OURS.values():
        for action in shown(parser):
            text = re.sub(r" \(default: .*\)$", "", action.help)
            names.setdefault(text, set()).add(name_of(action))
    assert {text: found for text, found in names.items() if len(found) > 1} == {}


def test_the_table_is_translated():
    table = flags.spellings_table(lambda text: CHINESE[text])
    assert table.count("\n") == flags.spellings_table().count("\n") == len(flags.SHARED) + 1


def test_every_verb_has_quiet_and_verbose():
    for verb, parser in ALL.items():
        assert {"--quiet", "--verbose"} <= set(map(name_of, shown(parser))), verb


def test_choices_are_those_of_the_code():
    """The help does not import the code for them."""
    assert evaluate.CROPS == landmarks.MEASURED_CROPS
    assert evaluate.FLIPS == FLIPS
    assert tuple(PROFILES) == evaluate.PRESETS
    assert evaluate.FACES == protocol.CHOICES
    assert evaluate.PROTOCOLS == verification_report.PROTOCOLS
    assert tuple(DEGRADATIONS) == evaluate.DEGRADATIONS
    landmark = next(a for a in ALL["evaluate landmarks"]._actions if a.dest == "normalizer")
    assert ", ".join(NORMALIZERS) in landmark.help


# Examples -----------------------------------------------------------------------------------------


def examples(doc):
    """Return the commands of a help text, each as its words."""
    lines = re.sub(r" \\\n\s+", " ", doc or "").splitlines()
    found = [re.match(r"\s*(?:eval \"\$\()?(facezoo [^)]+)", line) for line in lines]
    return [shlex.split(re.split(r"  +\w|\)| > ", one[1])[0]) for one in found if one]


def check_example(words):
    """An example is accepted, and has no old spelling."""
    said = []

    def fail(self, message):
        said.append(message)
        raise SystemExit(2)

    original, argparse.ArgumentParser.error = argparse.ArgumentParser.error, fail
    try:
        return list(build_parser(words[1]).parse_args(words[1:]).old_spellings)
    except SystemExit as end:
        return said if end.code else []
    finally:
        argparse.ArgumentParser.error = original


@pytest.mark.parametrize("verb", VERBS)
def test_examples_are_accepted(verb):
    parser = build_parser(verb)._subparsers._group_actions[0].choices[verb]
    found = [words for words in examples(parser.description) if "--help" not in words]
    assert found
    assert {shlex.join(words): p for words in found for p in [check_example(words)] if p} == {}


# Answers ------------------------------------------------------------------------------------------


def answer(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "usage", "meant"),
    [
        (["lst"], "usage: facezoo [-h]", "list"),
        (["list", "--jsn"], "usage: facezoo list", "--json"),
        (["--jsn", "list"], "usage: facezoo list", "--json"),
        (["predict", "--savedir", "x", "photos"], "usage: facezoo predict", "--output"),
        (["match", "a", "b", "--recognizr", "m"], "usage: facezoo match", "--embedder"),
        (["evaluate", "scrdf"], "usage: facezoo evaluate", "scrfd"),
        (["evaluate", "scrfd", "--bootstrp=3"], "usage: facezoo evaluate scrfd", "--bootstrap"),
        (["predict", "x", "--engine", "openvno"], "usage: facezoo predict", "openvino"),
    ],
)
def test_a_wrong_word_is_answered_by_the_verb(words, usage, meant, capsys):
    said = answer(capsys, *words)
    assert said.startswith(usage)
    assert f"did you mean {meant}" in said.splitlines()[-1]


def test_a_word_like_no_other_is_answered_too(capsys):
    assert "did you mean" not in answer(capsys, "list", "--zzzzzzz")
    assert "unrecognized arguments: more" in answer(capsys, "list", "more")


def test_the_command_alone_shows_its_help(capsys):
    assert main([]) == 0
    assert "facezoo VERB --help" in capsys.readouterr().out
    assert main(["--verbose"]) == 2


# What the checks must notice ----------------------------------------------------------------------


def made(add):
    parser = make_parser("x")
    add(parser)
    return parser


@pytest.mark.parametrize(
    ("check", "add"),
    [
        (check_shared, lambda p: flags.add(p, "--bootstrap", "x", type=int)),
        (check_shared, lambda p: flags.add(p, "--fmr", type=float)),
        (check_shared, lambda p: p.add_argument("--output", "-x", metavar="PATH", help="x")),
        (check_spellings, lambda p: p.add_argument("--save_dir", help="x")),
        (check_spellings, lambda p: p.add_argument("-x", help="x")),
        (check_spellings, lambda p: p.add_argument("--far", help=argparse.SUPPRESS)),
        (check_spellings, lambda p: flags.add(p, "--to", old=("--quiet",))),
        (check_spellings, lambda p: flags.add(p, "--to", old=("--bootstrap",))),
        (check_defaults, lambda p: flags.add(p, "--model")),
        (check_defaults, lambda p: p.add_argument("--x", default=3, help="%(default)s of them")),
        (check_outputs, lambda p: flags.add(p, "--html", default="x.html")),
        (check_models, lambda p: flags.add(p, "--model", type=int)),
    ],
)
def test_mutations_are_noticed(check, add):
    assert check("x", make_parser("x")) == []
    assert check("x", made(add)) != []


def test_a_wrong_example_is_noticed():
    assert examples("  facezoo list    x\n  facezoo info A \\\n      --size 640\n") == [
        ["facezoo", "list"],
        ["facezoo", "info", "A", "--size", "640"],
    ]
    assert check_example(["facezoo", "list"]) == []
    assert check_example(["facezoo", "list", "--jsn"])
    assert check_example(["facezoo", "predict", "x", "--save_dir", "y"])


def test_old_spellings_are_replaced_and_said():
    parser = make_parser("x")
    flags.add(parser, "--output", old=("--save_dir",))
    flags.add(parser, "--size", pair=True)
    args = parser.parse_args(["--save-dir=a", "--size", "480", "640"])
    assert (args.output, args.size) == ("a", (480, 640))
    assert [said.split(": ")[1] for said in args.old_spellings] == [
        "--save-dir is spelled --output now",
        "--size 480 640 is spelled --size 480x640 now",
    ]
    assert parser.parse_args(["--output", "a", "--size", "64"]).old_spellings == []
    assert isinstance(parser, CommandParser)
