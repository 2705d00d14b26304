"""The catalogue of the zoo: all cards and weight files, collected lazily from the model packages.

Every folder with a ``card.py`` is a model; there is no other list of them.

Attributes
----------
MODELS
    Names of the model packages, in the order of their tasks.
CARDS
    Card id to :class:`~facezoo.card.ModelCard`.
WEIGHTS
    Name to :class:`~facezoo.card.WeightFile`, the sample photos last.
VENDOR_FILES
    Model to :class:`~facezoo.card.VendorFiles`.
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Collection, Dict, Tuple, Type

from ..card import GATE_LIMITS, ModelCard, VendorFiles, WeightFile
from ..errors import CardError

if TYPE_CHECKING:
    from ..contract import Contract
    from .base import FaceModel

__all__ = [
    "CARDS",
    "MODELS",
    "VENDOR_FILES",
    "WEIGHTS",
    "describe_export",
    "find_card",
    "find_class",
    "find_weights",
    "has_part",
    "import_part",
]

MODELS: Tuple[str, ...]
CARDS: Dict[str, ModelCard]
WEIGHTS: Dict[str, WeightFile]
VENDOR_FILES: Dict[str, VendorFiles]


@lru_cache(maxsize=None)
def _catalogue() -> Dict[str, Any]:
    names = sorted(path.parent.name for path in Path(__file__).parent.glob("*/card.py"))
    cards_of = {name: import_part(name, "card") for name in names}
    models = tuple(sorted(names, key=lambda name: _place(cards_of[name].CARDS)))
    parts = [cards_of[model] for model in models]
    photos = import_module(f"{__name__}.photos")
    return {
        "MODELS": models,
        "CARDS": {card_id: card for part in parts for card_id, card in part.CARDS.items()},
        "WEIGHTS": {file.name: file for part in (*parts, photos) for file in part.WEIGHTS},
        "VENDOR_FILES": {
            model: getattr(cards_of[model], "VENDOR_FILES", VendorFiles()) for model in models
        },
    }


def _place(cards: Dict[str, ModelCard]) -> int:
    """Return the position of a model in the catalogue: that of its task, with a new task last."""
    tasks = [*GATE_LIMITS]
    return min((tasks.index(c.task) for c in cards.values() if c.task in tasks), default=len(tasks))


def __getattr__(name: str) -> Any:
    # A decoder or network of one model must not import the cards of all others.
    if name in ("CARDS", "MODELS", "VENDOR_FILES", "WEIGHTS"):
        return _catalogue()[name]
    raise AttributeError(f'module "{__name__}" has no attribute "{name}"')


def import_part(model: str, part: str) -> ModuleType:
    """Import a module of one model, such as its ``decode`` or ``graph``.

    Parameters
    ----------
    model
        One of ``MODELS``.
    part
        Name of the module.
    """
    return import_module(f"{__name__}.{model}.{part}")


def has_part(model: str, part: str) -> bool:
    """Tell whether a model has a module, without importing it.

    Parameters
    ----------
    model
        One of ``MODELS``.
    part
        Name of the module, such as ``graph``: its weights are published as ONNX.
    """
    return (Path(__file__).parent / model / f"{part}.py").is_file()


def find_class(model: str) -> Type[FaceModel[Any]]:
    """Return the class of a model: ``MODEL`` in its ``model.py``.

    Parameters
    ----------
    model
        One of ``MODELS``.
    """
    found: Type[FaceModel[Any]] = import_part(model, "model").MODEL
    return found


def find_card(card_id: str) -> ModelCard:
    """Look up the card of a variant.

    Parameters
    ----------
    card_id
        Card id such as ``scrfd_500m_bnkps``.

    Returns
    -------
    ModelCard
        The card itself, not a copy.

    Raises
    ------
    CardError
        If there is none; suggests similar names.
    """
    cards: Dict[str, ModelCard] = _catalogue()["CARDS"]
    if card_id not in cards:
        raise CardError(_unknown("card", card_id, cards))
    return cards[card_id]


def find_weights(name: str) -> WeightFile:
    """Look up a downloadable file.

    Parameters
    ----------
    name
        A name that ``facezoo list`` prints.

    Returns
    -------
    WeightFile
        Its sources, size and hash.

    Raises
    ------
    CardError
        If there is none; suggests similar names.
    """
    files: Dict[str, WeightFile] = _catalogue()["WEIGHTS"]
    if name not in files:
        raise CardError(_unknown("file", name, files))
    return files[name]


def describe_export(contract: Contract) -> Dict[str, str]:
    """Return the metadata of an exported graph: the contract, and for viewers card and licence.

    Parameters
    ----------
    contract
        With the sha256 of the weights, by which their licence is known.
    """
    files: Dict[str, WeightFile] = _catalogue()["WEIGHTS"]
    own = (file for file in files.values() if file.sha256 == contract.source_sha256 != "")
    file = next(own, None)
    licence = f"{file.licence}; commercial use: {file.commercial}" if file else "its checkpoint's"
    facts = {"card": contract.card_id, "dtype": "fp32", "licence of the weights": licence}
    return {**facts, **contract.to_metadata()}


def _unknown(kind: str, name: str, names: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name.lower(), names, cutoff=0.6)
    nearest = nearest or [other for other in names if name.lower() in other][:3]
    hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    return f'the zoo has no {kind} "{name}"; {hint}"facezoo list" shows all'
