"""Readers and writers of quality scores: results of runners and lists of other programs."""

from __future__ import annotations

import csv
import io
import json
import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Tuple, Type

import numpy as np

from ..errors import UNREADABLE, DatasetError
from ..files import csv_cell, csv_name, open_file, read_file, write_bytes
from ..results import Embedding
from ..runs import RunFolder
from .embeddings import read_embeddings
from .image_list import read_lines

__all__ = [
    "CSV_FILE",
    "RESULTS_FILE",
    "RESULTS_SCHEMA",
    "SORTED_FILE",
    "QualityScores",
    "finish_scores",
    "read_scores",
]

RESULTS_FILE, CSV_FILE, SORTED_FILE = "results.json", "scores.csv", "sorted.txt"
RESULTS_SCHEMA = "facezoo.quality/1"

_UNREADABLE: Tuple[Type[Exception], ...] = (csv.Error, *UNREADABLE)


@dataclass(frozen=True)
class QualityScores:
    """Quality scores of a set of faces.

    Attributes
    ----------
    names
        Names of the images; ``photo.jpg#2`` for the third face of a photo.
    values
        Shape (N,), float64; higher is better.
    made_by
        The network as recorded by a runner: ``card``, ``build``, ``engine``, ``model_sha256``;
        empty for other files.
    """

    names: Tuple[str, ...]
    values: np.ndarray
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def of(self, names: Iterable[str]) -> np.ndarray:
        """Return the scores of the given names, in their order.

        Parameters
        ----------
        names
            Names of images or of faces in them; a face without a score has that of its image.

        Raises
        ------
        DatasetError
            If a name has no score.
        """
        value_of = dict(zip(self.names, self.values.tolist()))
        wanted = [name if name in value_of else re.sub(r"#[0-9]+$", "", name) for name in names]
        missing = [name for name in wanted if name not in value_of]
        if missing:
            raise DatasetError(
                f"{len(missing)} of {len(wanted)} images have no score, such as {missing[0]!r}; "
                f"scored images are such as {self.names[0]!r}: score the same folder"
            )
        return np.array([value_of[name] for name in wanted])


def finish_scores(
    folder: RunFolder,
    head: Mapping[str, Any],
    percentile_of: Optional[Callable[[np.ndarray], np.ndarray]] = None,
) -> QualityScores:
    """Write the results of a runner or decoder: results.json, scores.csv and sorted.txt.

    Parameters
    ----------
    folder
        Run folder with one entry per image; it is finished here.
    head
        Fields that precede the images in results.json: the network that gave the scores.
    percentile_of
        Maps scores to percentiles, 0 to 100, for a column of scores.csv.

    Returns
    -------
    QualityScores
        Scores in the order of the images.
    """
    rows = list(_rows(folder.entries()))
    scores = _scores(rows, head)
    lines = [f"{name} {value:.9g}\n" for name, value in sorted(rows, key=lambda row: row[1])]
    write_bytes(folder.folder / SORTED_FILE, "".join(lines).encode())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "quality", *(["percentile"] if percentile_of else [])])
    shares = percentile_of(scores.values).tolist() if percentile_of else None
    for index, (name, value) in enumerate(rows):
        more = [f"{shares[index]:.2f}"] if shares else []
        writer.writerow([csv_cell(name), f"{value:.9g}", *more])
    write_bytes(folder.folder / CSV_FILE, text.getvalue().encode())
    folder.write_items(RESULTS_FILE, RESULTS_SCHEMA, "images", head)
    folder.finish(SORTED_FILE, CSV_FILE)
    return scores


def _rows(entries: Iterable[Mapping[str, Any]]) -> Iterator[Tuple[str, float]]:
    """Yield name and score of every face; unreadable images have none."""
    for entry in entries:
        name = entry["path"]
        if "quality" in entry:
            yield name, float(entry["quality"])
        elif "norm" in entry:
            yield name, float(entry["norm"])
        for index, face in enumerate(entry.get("faces", ())):
            yield f"{name}#{index}", float(face.get("quality", face.get("norm")))


def _scores(rows: Iterable[Tuple[str, float]], made_by: Mapping[str, Any]) -> QualityScores:
    names, values = [], array("d")
    for name, value in rows:
        names.append(name)
        values.append(value)
    return QualityScores(tuple(names), np.array(values, dtype=np.float64), made_by)


def read_scores(path: Path) -> QualityScores:
    """Read quality scores in any supported format.

    Parameters
    ----------
    path
        A results.json of SDD-FIQA's runner, or of MagFace's, where the norms are the qualities; a
        .csv with the columns ``path`` and ``quality`` (or ``score``); an embeddings.npz or
        MagFace's feature list with one ``path v0 v1 …`` per line, where the norms are the
        qualities; else text with one ``path score`` per line.

    Returns
    -------
    QualityScores
        Scores in the order of the file.

    Raises
    ------
    DatasetError
        If the file cannot be read, or has no score, a non-finite score, or an image twice.
    """
    path = Path(path)
    readers = {".json": _read_json, ".csv": _read_csv, ".npz": _read_npz}
    try:
        scores = readers.get(path.suffix.lower(), _read_text)(path)
        named_twice = not _all_differ(scores.names)
    except OSError as error:
        raise DatasetError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except _UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(
            f"{str(path)!r} holds no quality scores ({reason}); expected results.json of a runner, "
            "a .csv with path and quality, or lines of path and score"
        ) from error
    if not len(scores) or not np.isfinite(scores.values).all():
        raise DatasetError(f"{str(path)!r} has no score, or one that is not finite")
    if named_twice:
        raise DatasetError(f"{str(path)!r} lists an image twice; expected one score per image")
    return scores


def _all_differ(names: Tuple[str, ...]) -> bool:
    # A set of ten million names would take another half gigabyte.
    hashes = np.fromiter(map(hash, names), np.int64, len(names))
    hashes.sort()
    return bool((hashes[1:] != hashes[:-1]).all()) or len(set(names)) == len(names)


def _read_json(path: Path) -> QualityScores:
    content: Dict[str, Any] = json.loads(read_file(path))
    head = {key: value for key, value in content.items() if key not in ("schema", "images")}
    return _scores(_rows(content["images"]), head)


def _read_csv(path: Path) -> QualityScores:
    with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        column = "quality" if "quality" in (rows.fieldnames or ()) else "score"
        return _scores(((csv_name(row["path"]), float(row[column])) for row in rows), {})


def _read_npz(path: Path) -> QualityScores:
    found = read_embeddings(path)
    lengths = [Embedding(vector).norm for vector in found.vectors]
    return _scores(zip(found.face_names, lengths), {})


def _read_text(path: Path) -> QualityScores:
    return _scores((_parse(line) for _, line in read_lines(path)), {})


def _parse(line: str) -> Tuple[str, float]:
    """Parse a line: path and score, or path and embedding, whose norm is the score."""
    name, *words = line.split()
    if len(words) == 1:
        return name, float(words[0])
    if len(words) > 1 and all(map(_is_number, words)):
        return name, float(np.linalg.norm(np.array(words, dtype=np.float64)))
    name, value = line.rsplit(None, 1)
    return name, float(value)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
