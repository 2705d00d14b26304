"""The catalogue of the zoo: all cards and weight files, collected lazily from the model packages.

Attributes
----------
MODELS
    Names of the model packages.
CARDS
    Card id to :class:`~facezoo.card.ModelCard`.
WEIGHTS
    Name to :class:`~facezoo.card.WeightFile`, the sample photos last.
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any, Collection, Dict

from ..card import ModelCard, WeightFile
from ..errors import CardError

__all__ = ["CARDS", "MODELS", "WEIGHTS", "find_card", "find_weights", "import_part"]

MODELS = ("scrfd", "pipnet", "sdd_fiqa", "magface")

CARDS: Dict[str, ModelCard]
WEIGHTS: Dict[str, WeightFile]


@lru_cache(maxsize=None)
def _catalogue() -> Dict[str, Any]:
    rooms = [import_module(f"{__name__}.{model}.card") for model in MODELS]
    photos = import_module(f"{__name__}.photos")
    return {
        "CARDS": {card_id: card for room in rooms for card_id, card in room.CARDS.items()},
        "WEIGHTS": {file.name: file for module in (*rooms, photos) for file in module.WEIGHTS},
    }


def __getattr__(name: str) -> Any:
    # A decoder or network of one model must not import the cards of all others.
    if name in ("CARDS", "WEIGHTS"):
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


def _unknown(kind: str, name: str, names: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name.lower(), names, cutoff=0.6)
    nearest = nearest or [other for other in names if name.lower() in other][:3]
    hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    return f'the zoo has no {kind} "{name}"; {hint}"facezoo list" shows all'
