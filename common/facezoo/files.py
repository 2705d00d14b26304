"""Atomic file writes, file hashes, and files whose name holds their hash."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Mapping, Optional, Union

from .written import writing

__all__ = [
    "find_hashed",
    "sha256_of",
    "write_bytes",
    "write_hashed",
    "write_json",
]

DIGITS = 12  # of a sha256 in a file's name

_log = logging.getLogger(__name__)


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


def write_bytes(path: Path, *pieces: Union[bytes, memoryview]) -> None:
    """Write a file completely or not at all; see :func:`facezoo.written.writing`."""
    with writing(path) as file:
        for piece in pieces:
            file.write(piece)


def write_hashed(folder: Path, stem: str, suffix: str, content: bytes) -> Path:
    """Write a file, all or nothing, whose name ends in the hash of its content; return its path."""
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{stem}-{digest[:DIGITS]}{suffix}"
    write_bytes(path, content)
    return path


def find_hashed(folder: Path, stem: str, suffix: str) -> Optional[Path]:
    """Find a file of :func:`write_hashed` that is as it was written.

    Parameters
    ----------
    folder, stem, suffix
        As it was written. Whatever the content depends on should be in the stem.

    Returns
    -------
    pathlib.Path or None
        None if there is none; one that is damaged is named in a warning.
    """
    for path in sorted(folder.glob(f"{glob.escape(stem)}-{'?' * DIGITS}{suffix}")):
        try:
            if sha256_of(path).startswith(path.stem[-DIGITS:]):
                return path
        except OSError:
            pass  # It cannot be read, so it is as good as damaged.
        _log.warning("%s is damaged and is made again", path)
    return None
