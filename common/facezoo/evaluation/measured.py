"""What a report was measured on: a name, counts, and the hash of the list."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Optional, Sequence

__all__ = ["MeasuredList"]

SHOWN_DIGITS = 12


@dataclass(frozen=True)
class MeasuredList:
    """The items that a report was measured on.

    Attributes
    ----------
    name
        Of the data set.
    unit
        What was counted, such as ``photos``.
    count
        Number of items that were measured.
    total
        Number of items of the whole list; larger than ``count`` for a subset.
    sha256
        Of the measured items' names, sorted, each ending with a line feed: the same for the same
        items in any order.
    """

    name: str
    unit: str
    count: int
    total: int
    sha256: str

    @classmethod
    def of(
        cls, name: str, unit: str, items: Iterable[str], total: Optional[int] = None
    ) -> MeasuredList:
        """Count and hash the measured items; ``total`` is their number unless it is given."""
        lines = sorted(items)
        digest = hashlib.sha256()
        for line in lines:
            digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
        count = len(lines)
        return cls(name, unit, count, count if total is None else total, digest.hexdigest())

    @classmethod
    def of_pairs(cls, name: str, images: Sequence[str], is_same: Iterable[bool]) -> MeasuredList:
        """Count and hash pairs: images 2i and 2i + 1, and whether both show one person."""
        sides = zip(images[0::2], images[1::2], is_same)
        return cls.of(name, "pairs", (f"{one} {other} {int(same)}" for one, other, same in sides))

    @classmethod
    def of_files(cls, paths: Sequence[Path], total: Optional[int] = None) -> MeasuredList:
        """Count and hash image files, each named by its folder and its own name."""
        folders = {path.absolute().parent.name for path in paths}
        name = folders.pop() if len(folders) == 1 else f"{len(folders)} folders"
        names = ("/".join(path.absolute().parts[-2:]) for path in paths)
        return cls.of(name, "images", names, total)

    @property
    def short_hash(self) -> str:
        """The first digits of the hash, as printed and recorded."""
        return self.sha256[:SHOWN_DIGITS]

    def __str__(self) -> str:
        of = f" of {self.total:,}" if self.count != self.total else ""
        return f"{self.name}, {self.count:,}{of} {self.unit}"

    def line(self) -> str:
        """Return the line that a report prints."""
        subset = ", a subset" if self.count != self.total else ""
        return f"measured on: {self}{subset}; sha256 of their list {self.short_hash}"

    def to_dict(self) -> Dict[str, Any]:
        """Return all fields as JSON values."""
        return {
            "dataset": self.name,
            "unit": self.unit,
            "count": self.count,
            "total": self.total,
            "sha256": self.sha256,
        }
