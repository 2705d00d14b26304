"""How a command reads images: whether damaged ones, and what it met that its results must say."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Set

__all__ = ["Reading", "current_reading", "reading"]

_log = logging.getLogger(__name__)

# Why the files of a folder with these suffixes are no images of it; any other: _UNKNOWN.
_KINDS = {
    "video": ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv",
    "raw photo of a camera": ".arw .cr2 .cr3 .dng .nef .orf .raf .rw2",
    "document": ".doc .docx .htm .html .pdf .ppt .pptx .ps .svg",
    "archive": ".7z .bz2 .gz .rar .tar .tgz .xz .zip",
}
_KIND_OF = {suffix: kind for kind, suffixes in _KINDS.items() for suffix in suffixes.split()}
_UNKNOWN = "not an image format that is read"


class Reading:
    """What the images of one command are read with, and what was found.

    Attributes
    ----------
    allow_damaged
        Read damaged images, with wrong pixels, and mark them instead of refusing them.
    damaged
        What is damaged in each image that was read nevertheless, by its path.
    passed_over
        For each folder that was searched, its files that are no images, counted by suffix.
    """

    def __init__(self, allow_damaged: bool = False) -> None:
        self.allow_damaged = allow_damaged
        self.damaged: Dict[str, str] = {}
        self.passed_over: Dict[Path, Counter[str]] = {}
        self._said: Set[str] = set()

    @property
    def passed_over_count(self) -> int:
        """Number of files that were passed over in all folders."""
        return sum(sum(kinds.values()) for kinds in self.passed_over.values())

    def pass_over(self, folder: Path, suffixes: Counter[str]) -> None:
        """Count the files of a folder that are no images, and say once what they are."""
        if suffixes:
            self.passed_over[folder] = suffixes
            self.say(f"{str(folder)!r}: {describe_passed_over(suffixes)}")

    def mark_damaged(self, path: str, problem: str) -> None:
        """Remember and say that a damaged image was read."""
        self.damaged[path] = problem
        self.say(f"damaged, but read: {path!r}: {problem}")

    def say(self, text: str) -> None:
        """Log a warning, once."""
        # Outside a command a process may live for ever.
        if self is not _default:
            if text in self._said:
                return
            self._said.add(text)
        _log.warning("%s", text)


def describe_passed_over(suffixes: Counter[str]) -> str:
    """Return such as "3 files passed over: 2 .mp4 (video), 1 .dng (raw photo of a camera)"."""
    parts = []
    for suffix, number in sorted(suffixes.items(), key=lambda item: (-item[1], item[0])):
        name = suffix or "without a suffix"
        parts.append(f"{number} {name} ({_KIND_OF.get(suffix, _UNKNOWN)})")
    count = sum(suffixes.values())
    shown = parts[:8] + ([f"{len(parts) - 8} other suffixes"] if len(parts) > 8 else [])
    return f"{count} file{'s' if count > 1 else ''} passed over: {', '.join(shown)}"


_default = Reading()
_current = _default


def current_reading() -> Reading:
    """Return how the running command reads; outside a command, strictly."""
    return _current


@contextmanager
def reading(allow_damaged: bool = False) -> Iterator[Reading]:
    """Read images in this way in the whole process, and collect what is found.

    Parameters
    ----------
    allow_damaged
        See :class:`Reading`.

    Yields
    ------
    Reading
        What was found up to now.
    """
    global _current
    before, _current = _current, Reading(allow_damaged)
    try:
        yield _current
    finally:
        _current = before
