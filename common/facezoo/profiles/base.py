"""The common form of all profiles: a JSON document with one writer, reader and model check.

A profile holds ``schema``, ``facezoo`` (the version), ``card`` and ``model_sha256`` of the model it
was measured with, its numbers, and ``settings``: data and options of the measurement.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Protocol, TypeVar

from .. import __version__
from ..errors import UNREADABLE, InputError
from ..fields import (
    CARD_ID,
    OBJECT,
    SHA256,
    Kind,
    check,
    either,
    mapping,
    number,
    one_of,
    record,
    text,
    whole,
)
from ..files import read_text, write_json

__all__ = [
    "COUNT",
    "MODEL_SHA256",
    "SHARE",
    "MeasuredWith",
    "ModelProfile",
    "check_model",
    "document",
    "read_document",
    "write_document",
]


LARGEST_FILE = 1 << 20  # bytes; a profile has a few kilobytes

COUNT = whole(0, 10**12)
SHARE = number(0, 1)
# A build for a device has a hash for each of its files.
MODEL_SHA256 = either(SHA256, mapping(SHA256, 1, 16))

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


def document(
    schema: str, numbers: Mapping[str, Kind], model: Optional[Mapping[str, Kind]] = None
) -> Kind:
    """Return the kind of a profile's document.

    Parameters
    ----------
    schema
        The only value of ``schema``.
    numbers
        Kinds of the measured numbers.
    model
        Kinds of the fields that name the model; by default ``card`` and ``model_sha256``.
    """
    model = {"card": CARD_ID, "model_sha256": MODEL_SHA256} if model is None else model
    return record(
        {"schema": one_of(schema), **model, **numbers}, {"facezoo": text(40), "settings": OBJECT}
    )


def read_document(
    path: Path,
    kind: str,
    documents: Mapping[str, Kind],
    parse: Callable[[Mapping[str, Any]], Parsed],
) -> Parsed:
    """Read a profile.

    Parameters
    ----------
    path
        A file of ``facezoo calibrate KIND``.
    kind
        ``similarity``, ``quality`` or ``appearance``.
    documents
        Schema to the kind of its document, see :func:`document`.
    parse
        Converts a document of one of these kinds to the profile; raises ``ValueError`` if fields
        contradict each other.

    Raises
    ------
    InputError
        If the file cannot be read, has another schema, a field is missing, unknown or not of its
        kind, or fields contradict each other; the message names the field.
    """
    try:
        content = json.loads(read_text(Path(path), LARGEST_FILE))
        check(content, OBJECT, "profile")
        schema = content.get("schema")
        known = documents.get(schema) if isinstance(schema, str) else None
        check(content, known or record({"schema": one_of(*documents)}), "profile")
        return parse(content)
    except UNREADABLE as error:
        raise InputError(
            f"{str(path)!r} is not a profile of {kind} ({error}); make one with facezoo calibrate "
            f"{kind}"
        ) from error


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
