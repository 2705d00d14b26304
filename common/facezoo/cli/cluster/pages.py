"""What to look at after clustering: a contact sheet per person, and a page with what to check."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from ...errors import ImageError, InputError
from ...files import counted
from ...image.draw import contact_sheet, write_drawing
from ...image.files import read_image_rgb
from ...machine import usable_cores
from ...people.faces import EmbeddedFaces
from ...pipeline.clusters import People
from ...reports.html import (
    Facts,
    Linked,
    Part,
    Pictures,
    Section,
    Table,
    versions,
    write_html_report,
)
from ...runs import Progress
from ...workers import map_in_order

__all__ = ["PAGE", "ShownPeople", "write_pages"]

SHEETS, PAGE = "people", "people.html"
# Faces of a sheet; of a person with more, some from the most to the least similar to the others.
FACES_PER_SHEET = 48
COLUMNS, CELL = 8, (112, 112)
# Letters that fit below a cell.
LETTERS = 13
# Wider than the box, so that a person can be recognised; in sides of the box.
MARGIN = 0.25
# People whose sheets the page shows; the sheets of the others are in the folder.
MOST_SHOWN = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownPeople:
    """What the page and the sheets show.

    Attributes
    ----------
    title, summary
        Of the page.
    faces, people
        The faces, and who they are.
    path_of
        Where the photos are, by name; of the others nothing is drawn.
    settings
        JSON values.
    """

    title: str
    summary: str
    faces: EmbeddedFaces
    people: People
    path_of: Mapping[str, Path]
    settings: Mapping[str, Any]

    def name_of(self, row: int) -> str:
        """Return what a face is called."""
        return f"{self.faces.photos[row]} {self.faces.index[row]}"

    def crop(self, row: int) -> Optional[np.ndarray]:
        """Cut a face out of its photo; None if that is not there or cannot be read."""
        path = self.path_of.get(self.faces.photos[row])
        if path is None or not path.is_file():
            return None
        try:
            image = read_image_rgb(path)
        except (ImageError, InputError):
            return None
        left, top, right, bottom = self.faces.boxes[row].tolist()
        x, y, half = (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top) / 2
        reach = half * (1 + 2 * MARGIN)
        rows = slice(max(0, int(y - reach)), max(0, int(y + reach) + 1))
        found = image[rows, max(0, int(x - reach)) : max(0, int(x + reach) + 1)]
        return found if found.size else None


def write_pages(folder: Path, shown: ShownPeople, progress: Progress) -> None:
    """Write the contact sheets and the page.

    Parameters
    ----------
    folder
        Folder of the results.
    shown
        What they show.
    progress
        Wraps the loop over the people.
    """
    numbers, count = shown.people.numbers, shown.people.count
    # By person, and the most similar to the others first.
    order = np.lexsort([-shown.people.similarity, numbers])
    rows_of = np.split(order, np.cumsum(np.bincount(numbers, minlength=count))[:-1])[:count]
    digits = len(str(max(0, count - 1)))
    names = [f"{SHEETS}/{person:0{digits}}.jpg" for person in range(count)]

    def draw(person: int) -> bool:
        sheet = _sheet(shown, rows_of[person])
        if sheet is not None:
            write_drawing(folder / names[person], sheet)
        return sheet is not None

    drawn = [False] * count
    if shown.path_of:
        drawn = list(progress(map_in_order(draw, range(count), usable_cores()), count))
    if sum(drawn) < count:
        _log.warning(
            "%d of %d people have no contact sheet, since their photos are not there or cannot be "
            "read; --photos names their folder",
            count - sum(drawn),
            count,
        )
    largest = sorted(range(count), key=lambda person: -len(rows_of[person]))
    listed = [person for person in largest if drawn[person]][:MOST_SHOWN]
    sheets = Linked(
        "People",
        [names[person] for person in listed],
        [f"person {person}: {counted(len(rows_of[person]), 'face')}" for person in listed],
        f"The {len(listed)} people with most faces, of {count}; all sheets are in {SHEETS}/.",
    )
    parts: List[Part] = [
        Section("Result", shown.summary),
        *_joins(shown, rows_of),
        *_splits(shown, rows_of),
        sheets,
        Table("Left out", ["photo", "face", "why"], shown.faces.left_out),
        Facts("Settings", shown.settings),
        Facts("Versions", versions()),
    ]
    write_html_report(folder / PAGE, shown.title, parts)


def _sheet(shown: ShownPeople, rows: np.ndarray) -> Optional[np.ndarray]:
    """Draw some faces; None if no photo of theirs can be read."""
    some = np.unique(np.linspace(0, len(rows) - 1, min(FACES_PER_SHEET, len(rows))).astype(int))
    found = [(shown.crop(row), shown.name_of(row)) for row in rows[some].tolist()]
    cells = [(image, name) for image, name in found if image is not None]
    if not cells:
        return None
    captions = [name if len(name) <= LETTERS else f"..{name[2 - LETTERS :]}" for _, name in cells]
    return contact_sheet([image for image, _ in cells], captions, COLUMNS, CELL)


def _joins(shown: ShownPeople, rows_of: List[np.ndarray]) -> Iterator[Part]:
    """Show people who may be one."""
    rows: List[Tuple[Any, ...]] = []
    images, captions = [], []
    for join in shown.people.joins:
        why = "in one photo" if join.share_photo else "below the threshold"
        pair = (rows_of[join.first], rows_of[join.second])
        rows.append((join.first, join.second, *map(len, pair), join.similarity, why))
        sheet = _sheet(shown, np.array([pair[0][0], pair[1][0]]))
        if sheet is not None:
            images.append(sheet)
            captions.append(f"{join.first} and {join.second}: {join.similarity:.3f}, {why}")
    if rows:
        note = "Each pair by its most typical faces, the most similar pair first."
        yield Pictures("One person or two: to join", images, captions, note)
        headings = ["person", "other", "faces", "faces of the other", "similarity", "apart because"]
        yield Table("To join", headings, rows)


def _splits(shown: ShownPeople, rows_of: List[np.ndarray]) -> Iterator[Part]:
    """Show people who may be two."""
    rows: List[Tuple[Any, ...]] = []
    images, captions = [], []
    for split in shown.people.splits:
        part = np.array(split.faces)
        rest = rows_of[split.person][~np.isin(rows_of[split.person], part)]
        names = ", ".join(map(shown.name_of, part[:8].tolist()))
        rows.append((split.person, len(part), len(rest), split.similarity, names))
        sheet = _sheet(shown, np.array([rest[0], part[0]]))
        if sheet is not None:
            images.append(sheet)
            said = f"{len(part)} of {len(part) + len(rest)} faces"
            captions.append(f"{split.person}: {said}, {split.similarity:.3f}")
    if rows:
        note = "A face of each part, the parts least similar first."
        yield Pictures("One person or two: to split", images, captions, note)
        yield Table("To split", ["person", "faces", "others", "similarity", "photos"], rows)
