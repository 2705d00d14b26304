"""A model is whole: every row of CONTRIBUTING's table of a fifth model was thought of.

The other contract tests look at what is there; these name what is not.
"""

import ast
import fnmatch
import re
from pathlib import Path

import facezoo
import pytest
from facezoo.card import GATE_LIMITS
from facezoo.cli.recipes import RECIPES
from facezoo.models import CARDS, MODELS, WEIGHTS
from facezoo.pipeline import load as pipeline

PACKAGE = Path(facezoo.__file__).parent
REPOSITORY = PACKAGE.parent.parent
WHERE = ("common/facezoo", "face_*", "tests/models", "tests/golden")
FILES = {
    path.relative_to(REPOSITORY).as_posix()
    for pattern in WHERE
    for folder in REPOSITORY.glob(pattern)
    for path in folder.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
ROOMS = {name.split("/")[3] for name in FILES if re.match(r"common/facezoo/models/\w+/", name)}
TEXTS = {
    name: (REPOSITORY / name).read_text(encoding="utf-8")
    for name in (
        *("NOTICE", "CHANGELOG.md", "CONTRIBUTING.md", "common/facezoo/pipeline/load.py"),
        *(name for name in FILES if re.fullmatch(r"face_\w+/(\w+/)?README(\.zh-CN)?\.md", name)),
    )
}


def forgotten(room, files=FILES, texts=TEXTS, models=MODELS, recipes=RECIPES, loads=None):
    """Name what a model lacks, as sentences."""
    loads = pipeline.MODELS if loads is None else loads
    if room not in models:
        return [f"common/facezoo/models/__init__.py: MODELS does not name {room}"]
    wanted = {
        f"common/facezoo/models/{room}/__init__.py": "an empty file, so that it is a package",
        f"common/facezoo/models/{room}/card.py": "CARDS and WEIGHTS",
        f"common/facezoo/models/{room}/decode.py": "raw outputs to results",
        f"tests/models/test_{room}_*.py": "its tests",
        f"tests/golden/{room}/*": "what the authors' code gives for made-up input",
    }
    if any(at_hand(card) for card in CARDS.values() if card.model == room):
        how = "what the weights say to drawn pictures: facezoo doctor CARD --onnx F --record"
        wanted[f"common/facezoo/models/{room}/data/reference.json"] = how
    problems = []
    if room not in loads:
        problems.append(
            f"common/facezoo/pipeline/load.py: MODELS does not name {room}; load() needs it"
        )
    else:
        typed = typed_cards(texts["common/facezoo/pipeline/load.py"]).get(loads[room].__name__, [])
        cards = [card.id for card in CARDS.values() if card.model == room]
        problems += [
            f"common/facezoo/pipeline/load.py: the overload of load() that returns a "
            f"{loads[room].__name__} {what} {card_id}"
            for what, found, wanted in (("lacks", typed, cards), ("has too much:", cards, typed))
            for card_id in wanted
            if card_id not in found
        ]
    for task in {card.task for card in CARDS.values() if card.model == room} - set(GATE_LIMITS):
        problems.append(f"common/facezoo/card.py: GATE_LIMITS has no task {task}")
    if room in recipes:
        wanted.update(recipe_files(recipes[room][0]))
        problems += unmentioned(recipes[room][0], texts)
    else:
        problems.append(f"common/facezoo/cli/recipes.py: RECIPES does not name {room}")
    missing = [name for name in wanted if not fnmatch.filter(files, name)]
    return problems + [f"{name} is not there: {wanted[name]}" for name in missing]


def typed_cards(source):
    """Return class name to the card ids of which load() is typed to return it."""
    tree = ast.parse(source)
    literals = {
        node.targets[0].id: ast.literal_eval(node.value.slice)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal[")
    }
    return {
        node.returns.id: literals[node.args.args[0].annotation.id]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and node.name == "load"
        and getattr(node.args.args[0].annotation, "id", "") in literals
    }


def at_hand(card):
    """Whether the weights can be fetched, and a card states them whole."""
    file = WEIGHTS.get(card.weights)
    return file is not None and bool(file.sources and file.sha256 and file.size)


def recipe_files(folder):
    return {
        f"{folder}/README.md": "the recipe",
        f"{folder}/README.zh-CN.md": "the recipe in Chinese",
        f"{folder}/Makefile": "a target for each step",
        f"{folder}/expected/*": "what the commands print, such as info.txt of facezoo info",
        f"{folder}/source_code/export_onnx.py": "weights to the ONNX that vamc takes",
        f"{folder}/source_code/UPSTREAM.md": "what was taken from where",
        f"{folder}/build_in/vsx/python/*.py": "the runner",
        f"{folder}/build_in/decode/*.py": "the decoder of the npz route",
        f"{folder}/workspace/.gitkeep": "an empty file, so that a clone has the folder",
    }


def unmentioned(folder, texts):
    """Name the pages that should speak of a recipe and do not."""
    task, model = folder.split("/")
    problems = [
        f"{task}/{page} has no row of {model}"
        for page in ("README.md", "README.zh-CN.md")
        if f"({model}/{page})" not in texts.get(f"{task}/{page}", "")
    ]
    title = re.match(r"# (.+)\n", texts.get(f"{folder}/README.md", ""))
    return problems + [
        f"{page} does not name {title[1]}"
        for page in ("NOTICE", "CHANGELOG.md")
        if title and title[1] not in texts[page]
    ]


@pytest.mark.parametrize("room", sorted(ROOMS | set(MODELS)))
def test_nothing_was_forgotten(room):
    problems = forgotten(room)
    assert not problems, "\n".join(["see CONTRIBUTING.md, A fifth model:", *problems])


def test_every_missing_file_is_noticed():
    room = "scrfd"
    names = {**recipe_files(RECIPES[room][0]), f"tests/golden/{room}/*": "", "*reference.json": ""}
    names[f"tests/models/test_{room}_*.py"] = names[f"common/facezoo/models/{room}/decode.py"] = ""
    for name in names:
        left = FILES - set(fnmatch.filter(FILES, name))
        assert len(forgotten(room, files=left)) == 1, name


def test_every_missing_entry_is_noticed():
    others = {name: value for name, value in RECIPES.items() if name != "scrfd"}
    assert "MODELS" in forgotten("scrfd", models=tuple(others))[0]
    assert "RECIPES" in forgotten("scrfd", recipes=others)[0]
    assert "load()" in forgotten("scrfd", loads=others)[0]
    for name, word in (
        ("NOTICE", "SCRFD"),
        ("CHANGELOG.md", "SCRFD"),
        ("common/facezoo/pipeline/load.py", '    "scrfd_34g",\n'),
        ("face_detection/README.md", "(scrfd/"),
        ("face_detection/README.zh-CN.md", "(scrfd/"),
    ):
        changed = {**TEXTS, name: TEXTS[name].replace(word, "x" if name[-3:] != ".py" else "")}
        assert len(forgotten("scrfd", texts=changed)) == 1, name
    name = "common/facezoo/pipeline/load.py"
    changed = {**TEXTS, name: TEXTS[name].replace('"scrfd_34g"', '"scrfd_34g", "scrfd_99g"')}
    assert forgotten("scrfd", texts=changed)[0].endswith("has too much: scrfd_99g")


def test_the_page_names_what_is_looked_for():
    """CONTRIBUTING's table and this test speak of the same files."""
    table = TEXTS["CONTRIBUTING.md"].split("\n## A fifth model\n")[1].split("\n## ")[0]
    names = [name.rpartition("/")[2] for name in recipe_files("face_task/model")]
    names += ["card.py", "decode.py", "reference.json", "pipeline.py", "recipes.py", "NOTICE"]
    names += ["CHANGELOG.md", "tests/golden/<model>/", "tests/models/test_<model>_*.py"]
    assert [n for n in names if n.replace("*", "").replace(".py", "") not in table] == []
