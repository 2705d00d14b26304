"""Verification protocols: which photos are compared, and in which folds, as their authors list it.

=============  =====================================================================================
layout         content
=============  =====================================================================================
``lfw``        ``pairs.txt``: a line with the number of folds and of pairs of each kind, then per
               fold lines ``person number number`` and ``person number person number``
``cfp``        a folder with ``Protocol/Pair_list_F.txt``, ``Pair_list_P.txt`` and
               ``Protocol/Split/FP/01/same.txt``, ``diff.txt``: two numbers of the lists a line
``agedb``      lines ``photo photo label``, photos named ``number_person_age_gender``
``calfw``      lines ``photo token``, two lines a pair; the token is the fold, 0 for two people
``pair.list``  lines ``photo photo label``, or labels and photos in ``img.list`` beside it; names
               may hold spaces if they end like images, or if tabs are between them
``csv``        a table with the columns first, second, same and, optionally, fold
=============  =====================================================================================

The folds are the file's. Lists without folds are split into ten runs, as in the authors' programs.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type

import numpy as np

from ..errors import UNREADABLE, DatasetError, InputError
from ..files import LARGEST_READ, open_file
from ..image.decode import IMAGE_SUFFIXES
from ..image.files import find_images
from .image_list import inside, people_of, read_lines, without_suffix
from .pairs import names_of_pairs

__all__ = [
    "LAYOUTS",
    "OFFICIAL",
    "Official",
    "PairProtocol",
    "check_official",
    "locate_photos",
    "people_in_folds",
    "read_protocol",
]

FOLDS = 10  # source: MagFace@99bae61 eval/eval_recognition/eval_1v1.py --test-folds

# Layout to whether it says whose photo each one is: then the central face of a photo is used, and
# the largest one otherwise.
LAYOUTS: Dict[str, bool] = {
    "lfw": True,
    "cfp": True,
    "agedb": True,
    "calfw": True,
    "pair.list": False,
    "csv": False,
}

AGEDB_NAME = re.compile(r"\d+_[^/]+_\d+_[a-z]", re.ASCII)
LABELS = {"1": True, "0": False, "-1": False, "true": True, "false": False}
# Columns of a table, each with the other names it has in lists that people write.
CSV_COLUMNS: Dict[str, Tuple[str, ...]] = {
    "first": ("first", "image1", "img1", "path1", "file1"),
    "second": ("second", "image2", "img2", "path2", "file2"),
    "same": ("same", "label", "is_same", "issame"),
}
CFP_LISTS = {"FP": ("F", "P"), "FF": ("F", "F")}
LONGEST_LINE = 1 << 16  # characters of a table
_UNREADABLE: Tuple[Type[Exception], ...] = (csv.Error, *UNREADABLE)
CFP_SPLIT = "FP"  # The published accuracies are of frontal against profile photos.


@dataclass(frozen=True)
class PairProtocol:
    """Pairs of photos in folds.

    Attributes
    ----------
    layout
        One of ``LAYOUTS``.
    first, second
        Names of the photos of each pair, fold after fold.
    is_same
        Shape (N,), bool: whether both photos show one person.
    edges
        Shape (folds + 1,), int64: fold k holds the pairs from ``edges[k]`` up to ``edges[k + 1]``.
    """

    layout: str
    first: Tuple[str, ...]
    second: Tuple[str, ...]
    is_same: np.ndarray
    edges: np.ndarray

    @property
    def photos(self) -> Tuple[str, ...]:
        """Names of all photos, each once, in the order of the pairs."""
        return tuple(dict.fromkeys(self.sides))

    @property
    def sides(self) -> Tuple[str, ...]:
        """Names of the photos of all pairs: 2i and 2i + 1 are pair i."""
        return tuple(name for pair in zip(self.first, self.second) for name in pair)

    def rows(self) -> np.ndarray:
        """Return the pairs as indices of :attr:`photos`, shape (N, 2), int64."""
        row_of = {name: row for row, name in enumerate(self.photos)}
        return np.array([[row_of[a], row_of[b]] for a, b in zip(self.first, self.second)])

    def __len__(self) -> int:
        return len(self.is_same)

    def __str__(self) -> str:
        genuine = int(np.count_nonzero(self.is_same))
        return (
            f"{self.layout}: {genuine} genuine and {len(self) - genuine} impostor pairs of "
            f"{len(self.photos)} photos in {len(self.edges) - 1} folds"
        )


class _Pair(NamedTuple):
    first: str
    second: str
    same: bool


def read_protocol(path: Path) -> PairProtocol:
    """Read a protocol in any of the layouts, which is recognised by its content.

    Parameters
    ----------
    path
        The list, or CFP's folder; its ``Protocol/Split/FF`` is frontal against frontal.

    Raises
    ------
    DatasetError
        If the file cannot be read or has none of the layouts, or a line, a fold or a count is
        wrong; names the line.
    """
    path = Path(path)
    try:
        return _read(path)
    except DatasetError as error:
        text = str(error)
        raise DatasetError(text if str(path) in text else f"{str(path)!r}: {text}") from error


def people_in_folds(path: Path, first: int = 1, last: Optional[int] = None) -> Tuple[str, ...]:
    """List the people whom some folds of a protocol show, each once.

    Parameters
    ----------
    path
        The protocol; the first folder of each photo is its person.
    first, last
        Range of folds, counted from 1; up to the end if None.

    Raises
    ------
    DatasetError
        As :func:`read_protocol`, or if a photo is in no person's folder.
    InputError
        If there are fewer folds.
    """
    protocol = read_protocol(path)
    folds = len(protocol.edges) - 1
    last = folds if last is None else last
    if not 1 <= first <= last <= folds:
        raise InputError(f"folds {first} to {last} were requested, {str(path)!r} has 1 to {folds}")
    start, end = protocol.edges[[first - 1, last]]
    names = protocol.sides[2 * start : 2 * end]
    return tuple(dict.fromkeys(people_of(names, str(path))))


def _read(path: Path) -> PairProtocol:
    if path.is_dir():
        return _read_cfp(path)
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    lines = [(number, _words(line)) for number, line in read_lines(path)]
    words = lines[0][1]
    if len(words) <= 2 and all(map(_is_count, words)) and len(lines) > 1 and len(lines[1][1]) > 2:
        return _read_lfw(path, lines)
    if len(words) == 2 and _is_photo(words[0]) and _is_count(words[1]):
        return _read_calfw(path, lines)
    return _read_pair_list(path)


def _words(line: str) -> List[str]:
    """Split a line at its tabs, or at white space if it has none.

    Of two photos and a label, the names of the photos may hold spaces.
    """
    if "\t" in line:
        return [word.strip() for word in line.split("\t")]
    words = line.split()
    ends = [index for index, word in enumerate(words) if _is_photo(word)]
    if len(words) > 3 and len(ends) == 2 and ends[1] == len(words) - 2:
        first = ends[0] + 1
        return [" ".join(words[:first]), " ".join(words[first:-1]), words[-1]]
    return words


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10


def _is_photo(word: str) -> bool:
    return PurePosixPath(word).suffix.lower() in IMAGE_SUFFIXES


def _error(path: Path, number: int, line: str, expected: str) -> DatasetError:
    return DatasetError(f"{str(path)!r}: line {number} is {line[:80]!r}; expected {expected}")


# LFW ----------------------------------------------------------------------------------------------


def _lfw_pair(words: Sequence[str]) -> Optional[_Pair]:
    if len(words) == 3 and _is_count(words[1]) and _is_count(words[2]):
        person, *numbers = words
        return _Pair(_lfw_name(person, numbers[0]), _lfw_name(person, numbers[1]), True)
    if len(words) == 4 and _is_count(words[1]) and _is_count(words[3]):
        return _Pair(_lfw_name(*words[:2]), _lfw_name(*words[2:]), False)
    return None


def _lfw_name(person: str, number: str) -> str:
    return f"{person}/{person}_{int(number):04d}.jpg"


def _read_lfw(path: Path, lines: Sequence[Tuple[int, List[str]]]) -> PairProtocol:
    head = [int(word) for word in lines[0][1]]
    folds, of_each = head if len(head) == 2 else (1, head[0])
    pairs: List[_Pair] = []
    for number, words in lines[1:]:
        pair = _lfw_pair(words)
        if pair is None:
            raise _error(
                path,
                number,
                "\t".join(words),
                "person number number, or person number person number",
            )
        index = len(pairs)
        if of_each and pair.same != (index // of_each % 2 == 0):
            fold = index // (2 * of_each) + 1
            raise DatasetError(
                f"{str(path)!r}: line {number} is a pair of "
                f"{'one person' if pair.same else 'two people'}; fold {fold} must have {of_each} "
                f"pairs of one person, then {of_each} of two"
            )
        pairs.append(pair)
    if not folds or len(pairs) != 2 * folds * of_each:
        raise DatasetError(
            f"{str(path)!r}: {len(pairs)} pairs; its first line says {folds} folds of {of_each} "
            f"pairs of each kind, {2 * folds * of_each}"
        )
    if folds == 1:
        # The lists of LFW's view 1 have one fold, but a threshold is chosen on other folds.
        return _in_folds("lfw", pairs, _runs_of_each_kind([pair.same for pair in pairs]))
    return _in_runs("lfw", pairs, folds)


# CFP ----------------------------------------------------------------------------------------------


def _read_cfp(folder: Path) -> PairProtocol:
    split = folder.name if folder.name in CFP_LISTS else CFP_SPLIT
    bases = [folder, folder / "Protocol", *list(folder.absolute().parents)[:2]]
    protocol = next((base for base in bases if (base / "Split" / split).is_dir()), None)
    if protocol is None:
        raise DatasetError(
            f"{str(folder)!r} is not a protocol: expected CFP's folder with "
            f"Protocol/Split/{split}, or a list of pairs"
        )
    photos = {which: _cfp_photos(protocol, which) for which in set(CFP_LISTS[split])}
    sides = [photos[which] for which in CFP_LISTS[split]]
    pairs: List[_Pair] = []
    folds: List[int] = []
    parts = sorted(part for part in (protocol / "Split" / split).iterdir() if part.is_dir())
    for fold, part in enumerate(parts):
        for name, same in (("same.txt", True), ("diff.txt", False)):
            for number, line in read_lines(part / name):
                numbers = [word.strip() for word in line.split(",")]
                if len(numbers) != 2 or not all(map(_is_count, numbers)):
                    raise _error(part / name, number, line, "two numbers such as 1,2")
                known = [side.get(int(word)) for side, word in zip(sides, numbers)]
                if known[0] is None or known[1] is None:
                    raise _error(
                        part / name, number, line, "numbers of Pair_list_F and Pair_list_P"
                    )
                pairs.append(_Pair(known[0], known[1], same))
                folds.append(fold)
    if not pairs:
        raise DatasetError(
            f"{str(protocol / 'Split' / split)!r} has no folders 01 to 10 with pairs"
        )
    return _in_folds("cfp", pairs, folds)


def _cfp_photos(protocol: Path, which: str) -> Dict[int, str]:
    path = next(
        (
            one
            for one in (protocol, protocol / "Split")
            if (one / f"Pair_list_{which}.txt").exists()
        ),
        protocol,
    )
    path = path / f"Pair_list_{which}.txt"
    photos: Dict[int, str] = {}
    for number, line in read_lines(path):
        words = line.split(None, 1)
        if len(words) != 2 or not _is_count(words[0]) or int(words[0]) in photos:
            raise _error(path, number, line, "a new number and a photo")
        # Paths are relative to the list: ../Data/Images/001/frontal/01.jpg
        parts = [part for part in PurePosixPath(words[1]).parts if part not in ("..", "/")]
        photos[int(words[0])] = str(PurePosixPath(*parts))
    return photos


# Lists of photos ----------------------------------------------------------------------------------


def _read_calfw(path: Path, lines: Sequence[Tuple[int, List[str]]]) -> PairProtocol:
    if len(lines) % 2:
        raise DatasetError(f"{str(path)!r}: {len(lines)} lines; expected two lines a pair")
    pairs: List[_Pair] = []
    tokens: List[int] = []
    for (_, one), (number, other) in zip(lines[::2], lines[1::2]):
        for words in (one, other):
            if len(words) != 2 or not _is_count(words[1]):
                raise _error(path, number, " ".join(words), "a photo and a fold")
        if one[1] != other[1]:
            raise _error(path, number, " ".join(other), f"{one[1]}, as in the line before")
        pairs.append(_Pair(one[0], other[0], one[1] != "0"))
        tokens.append(int(one[1]))
    numbers = sorted(set(tokens) - {0})
    if len(numbers) < 2:
        return _in_folds("calfw", pairs, _runs_of_each_kind([pair.same for pair in pairs]))
    # Only genuine pairs have their fold in the file; impostor pairs are in the order of the folds.
    impostors = _runs([pair for pair in pairs if not pair.same], len(numbers))
    folds = [numbers.index(token) if token else impostors.pop(0) for token in tokens]
    return _in_folds("calfw", pairs, folds)


def _read_pair_list(path: Path) -> PairProtocol:
    is_same: List[bool] = []
    words_of: List[str] = []
    for number, line in read_lines(path):
        words = _words(line)
        label = LABELS.get(words[-1].lower())
        if label is None or len(words) > 3:
            raise _error(
                path,
                number,
                line,
                "two photos and 1 or 0; or one of the lists of LFW, CFP, AgeDB or CALFW",
            )
        is_same.append(label)
        words_of += words[:2] if len(words) == 3 else []
    listed, listed_in = names_of_pairs(path)
    # Names without a folder or suffix look like numbers of pairs; they are names if no others are.
    names = listed or tuple(words_of)
    if len(names) != 2 * len(is_same):
        raise DatasetError(
            f"{str(path)!r}: {len(names)} photos in {str(listed_in)!r} for {len(is_same)} pairs; "
            "expected two per pair"
        )
    pairs = [_Pair(*row) for row in zip(names[::2], names[1::2], is_same)]
    is_agedb = all(AGEDB_NAME.fullmatch(PurePosixPath(name).stem) for name in names)
    return _in_runs("agedb" if is_agedb else "pair.list", pairs, min(FOLDS, len(pairs)))


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while True:
        line = text.readline(LONGEST_LINE)
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line has {LONGEST_LINE} characters or more")
        if not line:
            return
        yield line


def _read_csv(path: Path) -> PairProtocol:
    try:
        with open_file(path, LARGEST_READ) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            # A line without end would fill the memory before the table is refused.
            table = csv.DictReader(_lines(text), strict=True)
            columns = {name: _column(table.fieldnames or (), name) for name in CSV_COLUMNS}
            rows = list(table)
    except _UNREADABLE as error:
        raise DatasetError(
            f"{str(path)!r} is not a table of pairs ({error}); expected the columns "
            f"{', '.join(CSV_COLUMNS)} and, optionally, fold"
        ) from error
    pairs: List[_Pair] = []
    folds: List[int] = []
    for number, row in enumerate(rows, start=2):
        first, second, same = (str(row[column] or "").strip() for column in columns.values())
        label = LABELS.get(same.lower())
        fold = str(row.get("fold", "0")).strip()
        if label is None or not first or not second or not _is_count(fold):
            raise _error(path, number, ",".join(map(str, row.values())), "photo,photo,1 or 0")
        pairs.append(_Pair(first, second, label))
        folds.append(int(fold))
    if not pairs:
        raise DatasetError(f"{str(path)!r} has no pairs")
    if len(set(folds)) < 2:
        return _in_runs("csv", pairs, min(FOLDS, len(pairs)))
    return _in_folds("csv", pairs, folds)


def _column(names: Sequence[str], wanted: str) -> str:
    found = [name for name in names if name.strip().lower() in CSV_COLUMNS[wanted]]
    if not found:
        raise ValueError(f"there is no column {wanted!r}")
    return found[0]


# Folds --------------------------------------------------------------------------------------------


def _runs(items: Sequence[object], folds: int) -> List[int]:
    """Return the fold of each item: runs of nearly equal length, the longer ones first."""
    return [
        fold for fold, run in enumerate(np.array_split(np.arange(len(items)), folds)) for _ in run
    ]


def _runs_of_each_kind(is_same: Sequence[bool]) -> List[int]:
    """Return the fold of each pair: ten runs of the genuine and of the impostor pairs."""
    kinds = {kind: [same for same in is_same if same is kind] for kind in (True, False)}
    runs = {kind: iter(_runs(of_kind, FOLDS)) for kind, of_kind in kinds.items()}
    return [next(runs[same]) for same in is_same]


def _in_runs(layout: str, pairs: Sequence[_Pair], folds: int) -> PairProtocol:
    return _in_folds(layout, pairs, _runs(pairs, folds))


def _in_folds(layout: str, pairs: Sequence[_Pair], folds: Sequence[int]) -> PairProtocol:
    """Order the pairs by fold; pairs of one fold keep their order."""
    unnamed = [one for one in pairs if not all(PurePosixPath(name).parts for name in one[:2])]
    if unnamed:
        raise DatasetError(f"a pair names no photo: {unnamed[0].first!r}, {unnamed[0].second!r}")
    numbers, counts = np.unique(np.asarray(folds), return_counts=True)
    order = np.argsort(np.asarray(folds), kind="stable")
    if len(numbers) < 2:
        raise DatasetError(f"{len(pairs)} pairs in one fold; expected at least two folds")
    return PairProtocol(
        layout=layout,
        first=tuple(pairs[index].first for index in order),
        second=tuple(pairs[index].second for index in order),
        is_same=np.array([pairs[index].same for index in order]),
        edges=np.concatenate([[0], np.cumsum(counts)]),
    )


# Photos -------------------------------------------------------------------------------------------


def locate_photos(protocol: PairProtocol, root: Path) -> Tuple[Path, ...]:
    """Find the photos of a protocol below a folder.

    Parameters
    ----------
    protocol
        Its names are used with or without their leading folders, and with any image suffix, as the
        first photo is found.
    root
        The folder, which no name may leave.

    Returns
    -------
    tuple of Path
        One per photo of the protocol, in that order.

    Raises
    ------
    DatasetError
        If a photo is missing, which is named, or two names mean one file.
    """
    root, names = Path(root), protocol.photos
    if not root.is_dir():
        raise DatasetError(f"{str(root)!r} is not a folder; expected the photos of the pairs")
    parts = PurePosixPath(names[0]).parts
    ways = [
        (depth, suffix)
        for depth in range(len(parts))
        for suffix in (PurePosixPath(names[0]).suffix, *IMAGE_SUFFIXES)
    ]
    depth, suffix = next((way for way in ways if _path(root, names[0], *way).is_file()), ways[0])
    same = suffix == PurePosixPath(names[0]).suffix
    paths = tuple(
        _path(root, name, depth, PurePosixPath(name).suffix if same else suffix) for name in names
    )
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of the {len(paths)} photos of the pairs are not in {str(root)!r}, the "
            f"first is {str(missing[0])!r}"
        )
    if len(set(paths)) != len(paths):
        raise DatasetError(
            f"{len(paths)} photos of the pairs are only {len(set(paths))} files in {str(root)!r}; "
            "name the folder that holds the folders of the people"
        )
    return paths


def _path(root: Path, name: str, depth: int, suffix: str) -> Path:
    parts = PurePosixPath(name).parts
    # A name from a list may be absolute; "/" counts as a leading folder.
    tail = [part for part in parts[min(depth, len(parts) - 1) :] if part != "/"]
    stem = without_suffix(tail[-1]) if tail else ""
    return inside(root, "/".join([*tail[:-1], stem + suffix]))


@dataclass(frozen=True)
class Official:
    """Size of a data set as its authors publish it.

    Attributes
    ----------
    pairs, folds
        Of the protocol.
    photos
        Number of images in the folder.
    people
        Number of folders of people; None if the photos are not in such folders.
    """

    pairs: int
    folds: int
    photos: int
    people: Optional[int] = None


OFFICIAL: Dict[str, Official] = {
    "lfw": Official(pairs=6000, folds=10, photos=13233, people=5749),
    "cfp": Official(pairs=7000, folds=10, photos=7000, people=500),
    "agedb": Official(pairs=6000, folds=10, photos=16488),
}


def check_official(name: str, pairs: Path, photos: Path) -> PairProtocol:
    """Check layout and counts of a data set.

    Parameters
    ----------
    name
        One of ``OFFICIAL``.
    pairs, photos
        The list, or CFP's folder, and the folder of the photos.

    Returns
    -------
    PairProtocol
        The protocol, all photos of which were found.

    Raises
    ------
    DatasetError
        If anything cannot be read, is missing, or differs from the published count.
    """
    official, protocol = OFFICIAL[name], read_protocol(pairs)
    if protocol.layout != name:
        raise DatasetError(f"{str(pairs)!r} has the layout {protocol.layout}; expected {name}")
    locate_photos(protocol, photos)
    found = find_images(photos)
    genuine = int(np.count_nonzero(protocol.is_same))
    counts = {
        "pairs": (len(protocol), official.pairs, pairs),
        "pairs of one person": (genuine, official.pairs // 2, pairs),
        "folds": (len(protocol.edges) - 1, official.folds, pairs),
        "photos": (len(found), official.photos, photos),
    }
    if official.people is not None:
        # Frontal and profile photos of CFP are in folders of their own below a person's.
        above = 1 if name == "cfp" else 0
        people = {path.parents[above] for path in found}
        counts["people"] = (len(people), official.people, photos)
    for what, (count, expected, where) in counts.items():
        if count != expected:
            raise DatasetError(f"{str(where)!r} has {count} {what}; {name} has {expected}")
    return protocol
