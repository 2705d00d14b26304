"""Degraded copies of aligned faces, their lists and their labels."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..errors import DatasetError, InputError
from ..files import fitting_name, write_bytes
from ..image.align import TEMPLATE_SIZE
from ..image.degrade import degrade
from ..image.files import read_image_rgb
from .image_list import read_lines, read_paths, write_image_list

__all__ = [
    "LISTS",
    "DegradedFaces",
    "choose_people",
    "degraded_faces",
    "read_copies",
    "read_labels",
    "read_references",
    "write_labels",
    "write_lists",
]


_log = logging.getLogger(__name__)

LISTS = ("faces.txt", "references.txt", "copies.txt")


def choose_people(people: Iterable[str], first: int = 1, last: Optional[int] = None) -> List[str]:
    """List people in natural order (s2 before s10) and select a range.

    Parameters
    ----------
    people
        Names of people; each may occur several times.
    first, last
        Range of people, counted from 1; up to the end if None.

    Raises
    ------
    InputError
        If there are fewer people.
    """

    def in_order(person: str) -> List[Tuple[int, str]]:
        parts = re.split(r"(\d+)", person)
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    ordered = sorted(set(people), key=in_order)
    last = len(ordered) if last is None else last
    if not 1 <= first <= last <= len(ordered):
        raise InputError(f"people {first} to {last} were requested, there are 1 to {len(ordered)}")
    return ordered[first - 1 : last]


@dataclass(frozen=True)
class DegradedFaces:
    """A face and its degraded copies.

    Attributes
    ----------
    person
        Number of the person.
    images
        File name to image, (112, 112, 3), uint8, RGB; the original first.
    """

    person: int
    images: Mapping[str, np.ndarray]

    def to_dict(self) -> Dict[str, Any]:
        """Return the entry that a run records."""
        return {"person": self.person, "files": list(self.images)}


def degraded_faces(
    path: Path, stem: str, person: int, kind: str, levels: Sequence[float]
) -> DegradedFaces:
    """Read a roughly centred face and make degraded copies of it.

    Parameters
    ----------
    path
        The image; its central square is resized to 112x112.
    stem
        Stem of the copies' names, with the folder.
    person
        Number of the person.
    kind, levels
        As for :func:`~facezoo.image.degrade.degrade`.

    Raises
    ------
    ImageError
        If the image cannot be read.
    """
    import cv2

    image = read_image_rgb(path)
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    middle = image[top : top + side, left : left + side]
    face = np.asarray(cv2.resize(middle, (TEMPLATE_SIZE, TEMPLATE_SIZE)))
    images = {fitting_name(f"{stem}.png"): face}
    for level in levels:
        images[fitting_name(f"{stem}_{kind}{level:g}.png")] = degrade(face, kind, level)
    return DegradedFaces(person, images)


def write_lists(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write faces.txt (path and person), references.txt and copies.txt (copy and original).

    Parameters
    ----------
    folder
        Output folder.
    entries
        Values of :meth:`DegradedFaces.to_dict`; entries of unreadable images are left out.
    """
    made = [(entry["person"], entry["files"]) for entry in entries if "files" in entry]
    rows = [(name, person) for person, files in made for name in files]
    names, people = zip(*rows) if rows else ((), ())
    write_image_list(folder / LISTS[0], names, people, "path label")
    write_bytes(folder / LISTS[1], "".join(f"{files[0]}\n" for _, files in made).encode())
    copies = (f"{name} {files[0]}\n" for _, files in made for name in files[1:])
    write_bytes(folder / LISTS[2], "".join(copies).encode())


def read_copies(path: Path, names: Sequence[str]) -> np.ndarray:
    """Read which images are copies of which originals.

    Parameters
    ----------
    path
        One ``copy original`` per line, as :func:`write_lists` writes copies.txt.
    names
        The images.

    Returns
    -------
    numpy.ndarray
        Shape (N,), int64: index of each image's original; its own if it is not a copy.

    Raises
    ------
    DatasetError
        If a line does not name two of the images; names the line.
    """
    index_of = {name: index for index, name in enumerate(names)}
    originals = np.arange(len(names))
    for number, line in read_lines(path):
        pair = line.split()
        if len(pair) != 2 or not set(pair) <= set(index_of):
            raise DatasetError(
                f"{str(path)!r}: line {number} is not a copy and its original: {line[:80]!r}; "
                f"expected two images such as {names[0]!r}"
            )
        originals[index_of[pair[0]]] = index_of[pair[1]]
    return originals


def read_references(path: Path, names: Sequence[str]) -> np.ndarray:
    """Read which images are references; listed images that are not there are counted in a warning.

    Parameters
    ----------
    path
        One image per line.
    names
        The images.

    Returns
    -------
    numpy.ndarray
        Shape (N,), bool.

    Raises
    ------
    DatasetError
        If none of the listed images is there.
    """
    listed = dict.fromkeys(read_paths(path))
    known = set(names)
    unknown = [name for name in listed if name not in known]
    if len(unknown) == len(listed):
        raise DatasetError(f"{str(path)!r} names none of the images, such as {names[0]!r}")
    if unknown:
        _log.warning(
            "%s: %d of %d references are not among the images, such as %r",
            path,
            len(unknown),
            len(listed),
            unknown[0],
        )
    return np.array([name in listed for name in names])


def write_labels(path: Path, names: Sequence[str], labels: np.ndarray) -> None:
    """Write one ``path label`` per line, in the authors' format."""
    lines = (f"{name} {label:.6f}\n" for name, label in zip(names, labels.tolist()))
    write_bytes(path, "".join(lines).encode())


def read_labels(path: Path) -> Tuple[Tuple[str, ...], np.ndarray]:
    """Read pseudo-labels in the authors' format, one ``path label`` per line.

    Returns
    -------
    names : tuple of str
        Paths as listed.
    labels : numpy.ndarray
        Shape (N,), float64.

    Raises
    ------
    DatasetError
        If a line does not end with a finite number; names the line.
    """
    names, labels = [], []
    for number, line in read_lines(path):
        name, _, label = line.rpartition(" ")
        try:
            labels.append(float(label))
        except ValueError:
            labels.append(np.nan)
        if not name or not np.isfinite(labels[-1]):
            raise DatasetError(
                f"{str(path)!r}: line {number} is not a path and a number: {line[:80]!r}; "
                "create the list with make_pseudo_labels.py"
            )
        names.append(name.strip())
    return tuple(names), np.array(labels)
