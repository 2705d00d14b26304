"""The photos that a command is given: files, folders, patterns, or a list on the standard input."""

from __future__ import annotations

import argparse
import glob
import os
import re
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

from ..errors import InputError

__all__ = ["LONGEST_LINE", "add_inputs", "find_inputs", "local_path", "named", "stdin_lines"]

LONGEST_LINE = 1 << 16  # characters; a path may have 4,096
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument that :func:`find_inputs` reads."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="PHOTOS",
        help="photos, folders of them, patterns such as 'a/*.jpg', or - for a list on the standard "
        "input, one per line",
    )


def find_inputs(words: Sequence[str]) -> Tuple[List[Path], Tuple[str, ...]]:
    """Find the photos that the words of a command line name.

    Parameters
    ----------
    words
        As given for :func:`add_inputs`.

    Returns
    -------
    paths : list of Path
        Each photo once, in the order of the words; those of a folder sorted.
    names : tuple of str
        Their names in the results: relative to the folder, if one is given, else to the folder that
        contains everything.

    Raises
    ------
    InputError
        If a word is an address, or names nothing that exists, or a folder without photos.
    """
    # Imported here, since the help needs none of it.
    from ..image.files import find_images, relative_names

    if len(words) == 1 and words[0] != "-" and Path(words[0]).exists():
        paths = find_images(Path(words[0]))
        return paths, relative_names(paths, Path(words[0]))
    found: Dict[Path, None] = {}
    folders = []
    for path, listed in _expanded(words):
        # A file that a list names is refused by name, like an unreadable one; the others are read.
        images = [path] if listed and not path.is_dir() else find_images(path)
        folders.append(_plain(path if path.is_dir() else path.parent))
        found.update(dict.fromkeys(_plain(image) for image in images))
    if not found:
        raise InputError("the list on the standard input is empty; expected a path per line")
    root = Path(os.path.commonpath(folders))
    return list(found), tuple(path.relative_to(root).as_posix() for path in found)


def _plain(path: Path) -> Path:
    """Return an absolute path without "..", in which links stay links."""
    return Path(os.path.normpath(path.absolute()))


def _expanded(words: Sequence[str]) -> Iterator[Tuple[Path, bool]]:
    """Yield the files and folders that words name, and whether the standard input lists them."""
    for word in words:
        if word == "-":
            for line in filter(None, stdin_lines()):
                yield local_path(line), True
        elif not os.path.lexists(word) and glob.has_magic(word):
            matches = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 (it may be absolute)
            if not matches:
                raise InputError(f"{word!r} matches no file; expected photos or folders of them")
            for match in matches:
                yield Path(match), False
        else:
            yield local_path(word), False


def stdin_lines() -> Iterator[str]:
    """Yield the lines of the standard input; InputError for one that does not end, or has a NUL."""
    binary = getattr(sys.stdin, "buffer", None)
    while True:
        # Decoded like the names of files, which need not be UTF-8.
        line = os.fsdecode((binary or sys.stdin).readline(LONGEST_LINE + 1))
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise InputError(
                f"a line of the standard input has more than {LONGEST_LINE} characters; expected a "
                "path per line"
            )
        if "\0" in line:
            raise InputError(
                "the standard input contains a NUL character; expected a path per line"
            )
        yield line.rstrip("\r\n")


def local_path(word: str) -> Path:
    """Return the path that a word is, unless it is an address, which is an InputError."""
    if _ADDRESS.match(word):
        raise InputError(
            f"{word!r} is an address; facezoo reads files: download it, and give the file"
        )
    return Path(word)


def named(words: Sequence[str]) -> str:
    """Return what the photos are called in a title."""
    if len(words) == 1 and words[0] != "-":
        return Path(words[0]).name
    return "photos"
