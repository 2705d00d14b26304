"""A model is whole: every file that CONTRIBUTING asks for is there.

The other contract tests look at what is there; these name what is not.
"""

import ast
import fnmatch
import re
from pathlib import Path

import facezoo
import pytest
from facezoo.card import GATE_LIMITS
from facezoo.models import CARDS, MODELS, WEIGHTS, find_class
from facezoo.models.base import FaceModel

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
FOLDERS = {name.split("/")[3] for name in FILES if re.match(r"common/facezoo/models/\w+/", name)}
CHANGES = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def forgotten(model, files=FILES, changes=CHANGES):
    """Name what a model lacks, as sentences."""
    if f"common/facezoo/models/{model}/card.py" not in files:
        return [f"common/facezoo/models/{model}/card.py is not there: CARDS and WEIGHTS"]
    cards = [card for card in CARDS.values() if card.model == model]
    wanted = wanted_files(model, cards[0].task)
    if any(map(at_hand, cards)):
        how = "facezoo doctor CARD --model F --print-reference, with the file as published"
        wanted[f"common/facezoo/models/{model}/data/reference.json"] = how
    missing = [
        names for names in wanted if not any(fnmatch.filter(files, n) for n in names.split())
    ]
    problems = [f"{names} is not there: {wanted[names]}" for names in missing]
    for task in {card.task for card in cards} - set(GATE_LIMITS):
        problems.append(f"common/facezoo/card.py: GATE_LIMITS has no task {task}")
    page = REPOSITORY / cards[0].task / model / "README.md"
    title = re.match(r"# (.+)\n", page.read_text(encoding="utf-8")) if page.exists() else None
    if title and title[1] not in changes:
        problems.append(f"CHANGELOG.md does not name {title[1]}")
    return problems


def at_hand(card):
    """Whether the weights can be fetched, and a card states them whole."""
    file = WEIGHTS.get(card.weights)
    return file is not None and bool(file.sources and file.sha256 and file.size)


def wanted_files(model, task):
    """Return what a model needs, to what it is; of several names one will do."""
    code, recipe = f"common/facezoo/models/{model}", f"{task}/{model}"
    return {
        f"{code}/__init__.py": "an empty file: facezoo render",
        f"{code}/decode.py": "raw outputs to results",
        f"{code}/model.py": "its class, as MODEL",
        f"{code}/graph.py {code}/checkpoint.py": "weights to the ONNX that vamc takes",
        f"{recipe}/README.md": "the recipe",
        f"{recipe}/README.zh-CN.md": "the recipe in Chinese",
        f"{recipe}/expected/*": "what the commands print, such as info.txt of facezoo info",
        f"{recipe}/workspace/.gitkeep": "an empty file: facezoo render",
        f"tests/models/test_{model}_*.py": "its tests",
        f"tests/golden/{model}/*": "what the authors' code gives for made-up input",
    }


@pytest.mark.parametrize("model", sorted(FOLDERS | set(MODELS)))
def test_nothing_was_forgotten(model):
    problems = forgotten(model)
    assert not problems, "\n".join(["see CONTRIBUTING.md, Adding a model:", *problems])


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_class(model):
    assert issubclass(find_class(model), FaceModel)


def test_every_missing_file_is_noticed():
    wanted = wanted_files("scrfd", "face_detection")
    names = [*wanted, "common/facezoo/models/scrfd/card.py", "common/facezoo/models/scrfd/data/*"]
    for name in names:
        gone = {file for one in name.split() for file in fnmatch.filter(FILES, one)}
        assert gone
        assert len(forgotten("scrfd", files=FILES - gone)) == 1, name


def test_a_missing_entry_is_noticed():
    assert forgotten("scrfd", changes=CHANGES.replace("SCRFD", "x")) == [
        "CHANGELOG.md does not name SCRFD"
    ]


def typed_cards(source):
    """Return class name to the card ids of which load() is typed to return it."""
    tree = ast.parse(source)
    values = {
        node.targets[0].id: ast.get_source_segment(source, node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    # Their brackets read as a list, whatever the tree of a Python looks like.
    literals = {
        name: tuple(ast.literal_eval(value[len("Literal") :]))
        for name, value in values.items()
        if value.startswith("Literal[")
    }
    return {
        node.returns.id: literals[node.args.args[0].annotation.id]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and node.name == "load"
        and getattr(node.args.args[0].annotation, "id", "") in literals
    }


def differing_ids(source):
    """Name the cards whose class load() does not tell an editor, or tells wrongly."""
    cards = {}
    for card in CARDS.values():
        cards.setdefault(find_class(card.model).__name__, set()).add(card.id)
    return sorted(
        card_id for name, typed in typed_cards(source).items() for card_id in {*typed} ^ cards[name]
    )


def test_load_is_typed_for_the_cards_of_its_overloads():
    source = (REPOSITORY / "common/facezoo/pipeline/load.py").read_text(encoding="utf-8")
    assert len(typed_cards(source)) >= 4
    assert differing_ids(source) == []
    assert differing_ids(source.replace('    "scrfd_34g",\n', "")) == ["scrfd_34g"]
    assert differing_ids(source.replace('"scrfd_34g"', '"scrfd_34g", "x"')) == ["x"]
