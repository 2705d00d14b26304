"""Atomic file writes and file hashes."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

__all__ = [
    "about_file",
    "sha256_of",
    "write_bytes",
]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, lower-case hex, reading it in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def about_file(path: Path) -> Iterator[None]:
    """Make an OSError name the file; it may name none (full disk) or a temporary one."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def write_bytes(path: Path, *pieces: Union[bytes, memoryview]) -> None:
    """Write a file under a temporary name and rename it, so that it is never incomplete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    with about_file(path):
        try:
            with temporary.open("wb") as file:
                file.writelines(pieces)
            temporary.replace(path)
        finally:
            if temporary.exists():
                temporary.unlink()
