"""Degraded copies of aligned faces, their lists and their labels."""

from __future__ import annotations

import logging
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import DatasetError, ImageError, InputError
from ..files import fitting_name, write_bytes
from ..image.align import TEMPLATE_SIZE
from ..image.degrade import LEVELS, check_level, degrade, is_neutral
from ..image.files import read_image_rgb, write_image_rgb
from .image_list import read_lines, read_paths, write_image_list

__all__ = [
    "LISTS",
    "DegradedFaces",
    "choose_people",
    "copier",
    "drawn_copies",
    "first_images",
    "read_copies",
    "read_labels",
    "read_references",
    "write_degraded",
    "write_labels",
    "write_lists",
]


_log = logging.getLogger(__name__)

LISTS = ("faces.txt", "references.txt", "copies.txt")


def choose_people(
    people: Iterable[str],
    first: int = 1,
    last: Optional[int] = None,
    *,
    least: int = 1,
    among: Optional[Iterable[str]] = None,
) -> List[str]:
    """List people in natural order (s2 before s10) and select a range.

    Parameters
    ----------
    people
        Name of the person of each image.
    first, last
        Range of people, counted from 1; up to the end if None.
    least
        Number of images of a person; people with fewer do not count.
    among
        People who count; all if None.

    Raises
    ------
    InputError
        If there are fewer people.
    """

    def in_order(person: str) -> List[Tuple[int, str]]:
        parts = re.split(r"(\d+)", person)
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    images = Counter(people)
    known = set(images if among is None else among).intersection(images)
    ordered = sorted((name for name in known if images[name] >= least), key=in_order)
    if not ordered:
        raise InputError(
            f"none of the {len(images)} people is wanted: {len(known)} of them are in the list, "
            f"none of these has {least} images; name another list, or fewer images"
        )
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
    files
        Names of the images, 112x112; the original first.
    """

    person: int
    files: Tuple[str, ...]

    def to_dict(self) -> Dict[str, Any]:
        """Return the entry that a run records."""
        return {"person": self.person, "files": list(self.files)}


def copier(
    kinds: Sequence[str],
    levels: Optional[Sequence[float]] = None,
    draws: int = 0,
    seed: int = 0,
) -> Callable[[str], List[Tuple[str, float]]]:
    """Return what says how an image is degraded.

    Parameters
    ----------
    kinds
        Keys of :data:`~facezoo.image.degrade.DEGRADATIONS`; several need ``draws``.
    levels
        Those of the one kind; all of :data:`~facezoo.image.degrade.LEVELS` but the neutral one if
        None.
    draws, seed
        Instead, so many copies as in :func:`drawn_copies`.

    Returns
    -------
    callable
        Maps the name of an image to kind and level of each copy.

    Raises
    ------
    InputError
        If these contradict each other, or there is no such level.
    """
    if draws:
        if levels is not None:
            raise InputError("--levels and --draws contradict each other; give one of them")
        return lambda name: drawn_copies(name, kinds, draws, seed)
    if len(kinds) > 1:
        raise InputError("several --kind need --draws, the number of copies of each image")
    (kind,) = kinds
    if levels is None:
        levels = [level for level in LEVELS[kind] if not is_neutral(kind, level)]
    copies = [(kind, level) for level in levels]
    for copy in copies:
        check_level(*copy)
    return lambda name: copies


def drawn_copies(
    name: str, kinds: Sequence[str], count: int, seed: int = 0
) -> List[Tuple[str, float]]:
    """Draw degradations of an image, the same each time.

    Parameters
    ----------
    name
        Name of the image.
    kinds
        Keys of :data:`~facezoo.image.degrade.DEGRADATIONS`, of which each is drawn once before one
        is drawn again.
    count, seed
        Number of copies, and the seed.

    Returns
    -------
    list of (str, float)
        Kind and level, uniform between the ends of :data:`~facezoo.image.degrade.LEVELS`, with
        three digits.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])
    drawn: List[Tuple[str, float]] = []
    while len(drawn) < count:
        for kind in rng.permutation(np.array(kinds)).tolist():
            level = rng.uniform(min(LEVELS[kind]), max(LEVELS[kind]))
            drawn.append((kind, float(f"{level:.3g}")))
    return drawn[:count]


def first_images(person_of: Mapping[str, str], people: Iterable[str], most: int) -> List[str]:
    """List the images of some people, of each no more than the first ones.

    Parameters
    ----------
    person_of
        Name of each image to its person.
    people
        The people.
    most
        Number of images of a person.

    Returns
    -------
    list of str
        Names of images, in the order given.
    """
    left = dict.fromkeys(people, most)
    kept = []
    for name, person in person_of.items():
        if left.get(person, 0) > 0:
            left[person] -= 1
            kept.append(name)
    return kept


def write_degraded(
    path: Path, folder: Path, stem: str, person: int, copies: Iterable[Tuple[str, float]]
) -> Union[DegradedFaces, ImageError]:
    """Read a roughly centred face, and write it and degraded copies of it.

    Parameters
    ----------
    path
        The image; its central square is resized to 112x112.
    folder, stem
        Folder of the set, whose ``images`` gets them, and the stem of their names, with the
        person's folder.
    person
        Number of the person.
    copies
        Kind and level of each, as for :func:`~facezoo.image.degrade.degrade`.

    Returns
    -------
    DegradedFaces or ImageError
        What was written; the error if the image cannot be read.
    """
    import cv2

    try:
        image = read_image_rgb(path)
    except ImageError as error:
        return error
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    middle = image[top : top + side, left : left + side]
    face = np.asarray(cv2.resize(middle, (TEMPLATE_SIZE, TEMPLATE_SIZE)))
    files = {fitting_name(f"{stem}.png"): face}
    for kind, level in copies:
        files[fitting_name(f"{stem}_{kind}{level:g}.png")] = degrade(face, kind, level)
    for name, made in files.items():
        write_image_rgb(folder / "images" / name, made)
    return DegradedFaces(person, tuple(files))


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
