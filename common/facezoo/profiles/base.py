"""The common form of all profiles: a JSON document with one writer, reader and model check.

A profile holds ``schema``, ``facezoo`` (the version), ``card`` and ``model_sha256`` of the model it
was measured with, its numbers, and ``settings``: data and options of the measurement.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Callable, Mapping, Protocol, Sequence, TypeVar

from .. import __version__
from ..errors import UNREADABLE, InputError
from ..files import read_text, write_json

__all__ = [
    "MeasuredWith",
    "ModelProfile",
    "check_model",
    "hash_of",
    "number",
    "read_document",
    "write_document",
]


Parsed = TypeVar("Parsed")


class MeasuredWith(Protocol):
    """A measurement with one model.

    Attributes
    ----------
    card, model_sha256
        The model: its card and the hash of its file, or of a build's three files by name.
    """

    @property
    def card(self) -> str: ...  # noqa: D102

    @property
    def model_sha256(self) -> Any: ...  # noqa: D102


class ModelProfile(MeasuredWith, Protocol):
    """Fields that every profile has.

    Attributes
    ----------
    settings
        Data and options of the measurement; JSON values.
    """

    @property
    def settings(self) -> Mapping[str, Any]: ...  # noqa: D102


def write_document(
    path: Path, schema: str, profile: ModelProfile, numbers: Mapping[str, Any]
) -> None:
    """Write a profile as JSON, completely or not at all.

    Parameters
    ----------
    path
        The file.
    schema
        Such as ``facezoo.quality_profile/1``.
    profile
        The profile: its model and settings.
    numbers
        The measured numbers; JSON values.
    """
    content = {
        "schema": schema,
        "facezoo": __version__,
        "card": profile.card,
        "model_sha256": profile.model_sha256,
        **numbers,
        "settings": dict(profile.settings),
    }
    write_json(Path(path), content)


def read_document(
    path: Path, kind: str, schemas: Sequence[str], parse: Callable[[Mapping[str, Any]], Parsed]
) -> Parsed:
    """Read a profile.

    Parameters
    ----------
    path
        A file of ``facezoo calibrate KIND``.
    kind
        ``similarity``, ``quality`` or ``appearance``.
    schemas
        Schemas that ``parse`` understands.
    parse
        Converts the document to the profile; raises one of :data:`~facezoo.errors.UNREADABLE` if a
        part is missing or out of range.

    Raises
    ------
    InputError
        If the file cannot be read, has another schema, or ``parse`` rejects it.
    """
    try:
        content = json.loads(read_text(Path(path)))
        if content["schema"] not in schemas:
            raise ValueError(f"its schema is {content['schema']!r}")
        return parse(content)
    except UNREADABLE as error:
        raise InputError(
            f"{str(path)!r} is not a profile of {kind} ({error}); make one with facezoo calibrate "
            f"{kind}"
        ) from error


def number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a number of a document, if it is finite and in range.

    Raises
    ------
    ValueError
        If it is not; the message names it.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}, which is not a number")
    if not math.isfinite(value):
        raise ValueError(f"{name} is not finite")
    if not low <= value <= high:
        raise ValueError(f"{name} is {value:g}, expected {low:g} to {high:g}")
    return float(value)


def hash_of(value: Any) -> Any:
    """Return a document's ``model_sha256``: a text, or texts by the names of a build's files.

    Raises
    ------
    ValueError
        If it is neither.
    """
    texts = list(value.values()) if isinstance(value, dict) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"model_sha256 is {value!r}, expected the hash of a model's file")
    return value


def check_model(source: str, kind: str, profile: MeasuredWith, model_sha256: Any) -> None:
    """Refuse a profile that was measured with another model.

    Parameters
    ----------
    source
        Name of the profile in the message, such as its quoted path.
    kind
        ``similarity``, ``quality`` or ``appearance``.
    profile
        The profile, or a limit of one.
    model_sha256
        Hash of the model to be used.

    Raises
    ------
    InputError
        If the hashes differ.
    """
    if profile.model_sha256 != model_sha256:
        raise InputError(
            f"{source} was made for {profile.card} with sha256 {str(profile.model_sha256)[:12]}…, "
            f"this model has {str(model_sha256)[:12]}…: a profile belongs to one model file; "
            f"calibrate again with facezoo calibrate {kind}"
        )
