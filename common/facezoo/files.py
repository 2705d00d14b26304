"""Atomic file writes and file hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Mapping, Union

from .written import writing

__all__ = [
    "sha256_of",
    "write_bytes",
    "write_json",
]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, lower-case hex, reading it in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, entry: Mapping[str, Any], *, indent: int = 1) -> None:
    """Write a JSON file, all or nothing, as :func:`write_bytes`; NaN and infinity are an error."""
    write_bytes(path, (json.dumps(entry, indent=indent, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, *pieces: Union[bytes, memoryview], sync: bool = True) -> None:
    """Write a file completely or not at all; see :func:`facezoo.written.writing`."""
    with writing(path, sync) as file:
        for piece in pieces:
            file.write(piece)
