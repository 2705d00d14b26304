"""A gallery: known people with their faces, on disk, and one template per person to search.

::

    GALLERY/gallery.json       what made the embeddings, the parts, strangers' scores, the index
    GALLERY/faces-*.arrow      faces: person, photo, weight, embedding; read in place
    GALLERY/index-*.faiss      an approximate index, if one was made and passed its gate

Every change writes new files, replaces ``gallery.json``, and then removes the files that it no
longer names: a kill at any moment leaves the gallery as it was, or as it was to be, and what is
left over is removed by the next change. Folder and files can be read by their owner only.
"""

from __future__ import annotations

import difflib
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import faiss
import numpy as np
import pyarrow as pa

from .. import __version__
from ..errors import UNREADABLE, FaceZooError, InputError
from ..fields import (
    NULL,
    SHA256,
    check,
    either,
    matching,
    number,
    one_of,
    record,
    sequence,
    text,
    whole,
)
from ..files import LARGEST_DOCUMENT, read_text, sha256_of, write_json
from ..metrics.identification import StrangerScores, highest_to_others
from ..scale.tables import Sink
from ..scale.work import LOCK_FILE, holding
from ..system import sync_path
from ..written import is_temporary, writing
from .faces import SPACE, EmbeddedFaces, LeftOut, Space
from .index import (
    KINDS,
    ExactIndex,
    Recall,
    build_approximate,
    check_recall,
    rank_again,
    read_index,
)

__all__ = [
    "GALLERY_FILE",
    "Added",
    "Change",
    "Enrolled",
    "Gallery",
    "Outlier",
    "change_gallery",
    "create_gallery",
    "discard_gallery",
]

SCHEMA = "facezoo.gallery/1"
GALLERY_FILE = "gallery.json"
# So many parts are read quickly; one more, and all of them become one.
MOST_PARTS = 16
LONGEST_NAME = 1000
# People whose templates are made at a time: 16 MiB of 512 numbers.
PEOPLE_AT_A_TIME = 8192
# With so many faces of a person, one that is half as similar to the others as usual is an outlier.
FACES_FOR_MEDIAN = 4
# People, and faces of each, that stand for strangers to all others.
MOST_STRANGERS, FACES_OF_STRANGER = 2000, 2
# Queries of the recall gate, and their cosine to the face they are made from, like another photo's.
GATE_QUERIES, GATE_COSINE = 2000, 0.6
READS = 5

_COUNT = whole(0, 1 << 40)
_PART = record(
    {
        "file": matching(r"faces-[0-9a-f]{16}\.arrow", "the name of a part"),
        "rows": _COUNT,
        "size": _COUNT,
        "sha256": SHA256,
    }
)
_INDEX = record(
    {
        "file": matching(r"index-[0-9a-f]{16}\.faiss", "the name of an index"),
        "kind": one_of(*KINDS),
        "sha256": SHA256,
        "recall": number(0, 1),
        "queries": _COUNT,
    }
)
_STRANGERS = record(
    {
        "size": _COUNT,
        "scores": sequence(number(-1.001, 1.001), 0, 1 << 20),
        "people": sequence(_COUNT, 0, 1 << 20),
    }
)
_DOCUMENT = record(
    {
        "schema": one_of(SCHEMA),
        "facezoo": text(40),
        "space": SPACE,
        "embedder": text(4096),
        "weights": one_of("", "quality", "magnitude"),
        "parts": sequence(_PART, 0, MOST_PARTS),
        "outliers": sequence(_COUNT, 0, 1 << 24),
        "strangers": _STRANGERS,
        "index": either(NULL, _INDEX),
    }
)


class Enrolled(NamedTuple):
    """Faces of known people, one per row.

    Attributes
    ----------
    people, photos
        Name of the person; path of the photo, or its name if its folder is not known.
    face
        Shape (N,), int32: index of the face in its photo.
    boxes
        Shape (N, 4), float32: left, top, right, bottom in pixels of the photo.
    weights
        Shape (N,), float64: see :attr:`EmbeddedFaces.weights`.
    vectors
        Shape (N, D), float32: embeddings as the network gave them.
    weighted_by
        What the weights are: ``quality`` or ``magnitude``.
    """

    people: Tuple[str, ...]
    photos: Tuple[str, ...]
    face: np.ndarray
    boxes: np.ndarray
    weights: np.ndarray
    vectors: np.ndarray
    weighted_by: str = "magnitude"

    @classmethod
    def of(cls, faces: EmbeddedFaces, people: Sequence[str], root: str = "") -> Enrolled:
        """Return faces with the name of each one's person; ``root`` is the photos' folder."""
        for name in sorted(set(people)):
            if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
                raise InputError(
                    f"{name!r} is no name of a person; expected 1 to {LONGEST_NAME} printable "
                    "characters"
                )
        photos = tuple(os.path.join(root, photo) for photo in faces.photos)  # noqa: PTH118
        return cls(
            tuple(people),
            photos,
            faces.index,
            faces.boxes,
            faces.weights,
            faces.vectors,
            faces.weighted_by,
        )

    def rows(self, chosen: Sequence[int]) -> Enrolled:
        """Return some of the faces."""
        numbers = np.asarray(chosen, int)
        return Enrolled(
            tuple(self.people[row] for row in numbers),
            tuple(self.photos[row] for row in numbers),
            self.face[numbers],
            self.boxes[numbers],
            self.weights[numbers],
            np.ascontiguousarray(self.vectors[numbers]),
            self.weighted_by,
        )

    @classmethod
    def joined(cls, several: Sequence[Enrolled]) -> Enrolled:
        """Return the faces of several as one."""
        return cls(
            tuple(name for one in several for name in one.people),
            tuple(name for one in several for name in one.photos),
            np.concatenate([one.face for one in several]),
            np.concatenate([one.boxes for one in several]),
            np.concatenate([one.weights for one in several]),
            np.concatenate([one.vectors for one in several]),
            several[0].weighted_by,
        )


class Outlier(NamedTuple):
    """A face that is left out of its person's template.

    Attributes
    ----------
    person, photo, face
        The face.
    own
        Cosine to the other faces of the person.
    nearest, cosine
        The most similar other person, and how similar; empty and -1 if there is none.
    """

    person: str
    photo: str
    face: int
    own: float
    nearest: str
    cosine: float

    def line(self) -> str:
        """Return the printed line."""
        other = f", to {self.nearest} {self.cosine:.2f}" if self.nearest else ""
        return (
            f"{self.photo!r}, face {self.face}: similarity to the other faces of {self.person} "
            f"{self.own:.2f}{other}"
        )


class Added(NamedTuple):
    """What was added: numbers of new faces, of faces that were there, and of new people.

    ``taken`` lists the faces that are somebody else's, which are left out.
    """

    faces: int
    already: int
    people: int
    taken: Tuple[LeftOut, ...] = ()


class Gallery:
    """An open gallery; what it reads does not change with the files.

    Parameters
    ----------
    folder
        The folder.

    Attributes
    ----------
    space
        What made the embeddings.
    embedder
        The network, as it was named when the gallery was made.
    names
        The people, sorted; a template's row is the position of its name.
    faces
        Number of faces.
    approximate
        Record of the approximate index; None if there is none, so that search is exact.

    Raises
    ------
    InputError
        If it is no gallery, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        for left in reversed(range(READS)):
            self._document = _read_document(self.folder)
            try:
                self._parts = [
                    _read_part(self.folder, one)._replace(weighted_by=self._document["weights"])
                    for one in self._document["parts"]
                ]
                break
            except InputError:
                # Another process may have replaced the parts in between.
                if not left or self._document == _read_document(self.folder):
                    raise
        self._set_up()

    @classmethod
    def _of_parts(cls, folder: Path, document: Dict[str, Any], parts: List[Enrolled]) -> Gallery:
        made = cls.__new__(cls)
        made.folder, made._document, made._parts = folder, document, parts
        made._set_up()
        return made

    def _set_up(self) -> None:
        document = self._document
        self.space = Space.from_dict(document["space"])
        self.embedder: str = document["embedder"]
        self.approximate: Optional[Mapping[str, Any]] = document["index"]
        self._index: Any = None
        self._exact: Optional[ExactIndex] = None
        self._weights = np.concatenate([np.zeros(0), *(part.weights for part in self._parts)])
        people = [name for part in self._parts for name in part.people]
        self.names = sorted(set(people))
        number_of = {name: row for row, name in enumerate(self.names)}
        self._people = np.array([number_of[name] for name in people], int)
        self._starts = np.cumsum([0, *(len(part.people) for part in self._parts)])
        self.faces = int(self._starts[-1])
        outliers = np.array(document["outliers"], int)
        if len(outliers) and outliers.max() >= self.faces:
            raise InputError(f"{str(self.folder)!r} is damaged: an outlier is no face of it")
        self._is_outlier = np.zeros(self.faces, bool)
        self._is_outlier[outliers] = True
        # If all faces of a person are outliers to each other, there is no better choice than all.
        has_used = np.bincount(self._people, ~self._is_outlier, len(self.names)) > 0
        self._is_used = ~(self._is_outlier & has_used[self._people])
        self._order = np.argsort(self._people, kind="stable")
        self._firsts = np.searchsorted(self._people[self._order], np.arange(len(self.names) + 1))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dimensions(self) -> int:
        """Numbers of an embedding; 0 if there is none."""
        return self._parts[0].vectors.shape[1] if self._parts else 0

    def enrolled(self) -> Enrolled:
        """Return all faces, in memory."""
        return Enrolled.joined(self._parts)

    def counts(self) -> Dict[str, int]:
        """Return the number of faces of each person."""
        return dict(zip(self.names, np.diff(self._firsts).tolist()))

    def units(self, rows: np.ndarray) -> np.ndarray:
        """Return the directions of some faces, shape (N, D), float32."""
        rows = np.asarray(rows, int)
        found = np.empty((len(rows), self.dimensions), np.float32)
        where = np.searchsorted(self._starts, rows, side="right") - 1
        for place, part in enumerate(self._parts):
            chosen = where == place
            found[chosen] = part.vectors[rows[chosen] - self._starts[place]]
        lengths = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
        return np.asarray(found / lengths, np.float32)

    def templates(self, numbers: np.ndarray) -> np.ndarray:
        """Return the templates of some people: the weighted mean of the directions of their faces.

        Parameters
        ----------
        numbers
            Shape (P,), int: positions of their names.

        Returns
        -------
        numpy.ndarray
            Shape (P, D), float32, length 1.
        """
        numbers = np.asarray(numbers, int)
        if not len(numbers):
            return np.zeros((0, self.dimensions), np.float32)
        sums, firsts = self._sums(numbers)
        # Opposite faces have no mean; the first one stands for all.
        flat = np.linalg.norm(sums, axis=1) < 1e-6
        sums[flat] = self.units(firsts[flat])
        return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)

    def _sums(self, numbers: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return the weighted sums of the directions of some people's faces, and a face of each."""
        rows = [self._order[self._firsts[one] : self._firsts[one + 1]] for one in numbers]
        rows = [one[self._is_used[one]] for one in rows]
        offsets = np.cumsum([0, *(len(one) for one in rows)])[:-1]
        every = np.concatenate(rows)
        weighted = self.units(every).astype(np.float64) * self._weights[every, None]
        return np.add.reduceat(weighted, offsets, axis=0), every[offsets]

    def all_templates(self) -> Iterator[np.ndarray]:
        """Yield all templates in blocks."""
        for start in range(0, len(self), PEOPLE_AT_A_TIME):
            yield self.templates(np.arange(start, min(len(self), start + PEOPLE_AT_A_TIME)))

    @property
    def exact(self) -> ExactIndex:
        """The exact index; made when it is first used."""
        if self._exact is None:
            self._exact = ExactIndex(self.all_templates(), self.dimensions, self.templates)
        return self._exact

    def search(
        self, vectors: np.ndarray, top: int = 5, *, exact: bool = False
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Find the most similar people.

        Parameters
        ----------
        vectors
            Shape (Q, D), float: embeddings of the gallery's space.
        top
            How many per face; fewer if the gallery has fewer.
        exact
            Do not use the approximate index.

        Returns
        -------
        cosines : numpy.ndarray
            Shape (Q, top), float32, descending.
        people : numpy.ndarray
            Shape (Q, top), int: positions in :attr:`names`.
        """
        vectors = np.asarray(vectors, np.float64)
        units = np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
        if not len(self) or not len(units):
            return np.zeros((len(units), 0), np.float32), np.zeros((len(units), 0), int)
        if self.approximate is None or exact:
            return self.exact.search(units, top)
        if self._index is None:
            self._index = read_index(self.folder / self.approximate["file"], len(self))
        top = min(top, len(self))
        _, rows = self._index.search(units, top)
        return rank_again(units, rows, top, self.templates)

    @property
    def strangers(self) -> StrangerScores:
        """Scores of enrolled people in the gallery of all others, as of strangers."""
        found = self._document["strangers"]
        return StrangerScores(
            np.array(found["scores"], float), np.array(found["people"], int), found["size"]
        )

    def outliers(self) -> List[Outlier]:
        """Return the faces that are left out of their person's template."""
        rows = np.flatnonzero(self._is_outlier)
        own, nearest, cosines = self._compare(rows)
        found = []
        for row, mine, other, cosine in zip(rows, own, nearest, cosines):
            part = int(np.searchsorted(self._starts, row, side="right")) - 1
            place = row - self._starts[part]
            one = self._parts[part]
            name = self.names[other] if other >= 0 else ""
            face = int(one.face[place])
            found.append(
                Outlier(
                    one.people[place], one.photos[place], face, float(mine), name, float(cosine)
                )
            )
        return found

    def _compare(self, rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return cosines of faces to the others of their person, and to the nearest other one."""
        own, nearest = np.ones(len(rows)), np.full(len(rows), -1)
        best = np.full(len(rows), -1.0)
        for start in range(0, len(rows), PEOPLE_AT_A_TIME):
            part = slice(start, start + PEOPLE_AT_A_TIME)
            some = rows[part]
            units, people = self.units(some), self._people[some]
            unique, which = np.unique(people, return_inverse=True)
            share = (self._weights[some] * self._is_used[some])[:, None]
            others = self._sums(unique)[0][which.ravel()] - share * units
            lengths = np.linalg.norm(others, axis=1)
            has = lengths > 1e-9
            own[part][has] = (others * units).sum(axis=1)[has] / lengths[has]
            first = 0
            for templates in self.all_templates():
                cosines = units @ templates.T
                inside = np.flatnonzero((people >= first) & (people < first + len(templates)))
                cosines[inside, people[inside] - first] = -1.0
                found = cosines.argmax(axis=1)
                highest = cosines[np.arange(len(some)), found]
                better = highest > best[part]
                best[part][better], nearest[part][better] = highest[better], found[better] + first
                first += len(templates)
        return own, nearest, best

    def _find_outliers(self) -> List[int]:
        """Return the faces that are nearer to others, or far less near to their own than usual."""
        counts = np.diff(self._firsts)
        rows = np.flatnonzero(counts[self._people] > 1)
        own, _, other = self._compare(rows)
        is_one = own < other
        order = np.argsort(self._people[rows], kind="stable")
        ends = np.flatnonzero(np.diff(self._people[rows][order])) + 1
        for mine in np.split(order, ends):
            if len(mine) >= FACES_FOR_MEDIAN:
                is_one[mine] |= own[mine] < 0.5 * np.median(own[mine])
        return [int(row) for row in rows[is_one]]

    def _find_strangers(self) -> Dict[str, Any]:
        """Let enrolled people stand for strangers to all others."""
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.permutation(len(self))[:MOST_STRANGERS])
        rows: List[int] = []
        for person in chosen if len(self) > 1 else ():
            mine = self._order[self._firsts[person] : self._firsts[person + 1]]
            rows.extend(mine[self._is_used[mine]][:FACES_OF_STRANGER].tolist())
        people = self._people[np.array(rows, int)]
        best = np.full(len(rows), -1.0)
        for start in range(0, len(self), PEOPLE_AT_A_TIME) if rows else ():
            numbers = np.arange(start, min(len(self), start + PEOPLE_AT_A_TIME))
            here = np.where((people >= start) & (people <= numbers[-1]), people - start, -1)
            _, other = highest_to_others(
                self.units(np.array(rows, int)), here, self.templates(numbers)
            )
            best = np.maximum(best, other)
        scores = [round(float(score), 6) for score in best]
        return {"size": max(0, len(self) - 1), "scores": scores, "people": people.tolist()}

    def check(self) -> None:
        """Check the files against their hashes; InputError names one that was changed."""
        files = [*self._document["parts"], *filter(None, [self.approximate])]
        for one in files:
            path = self.folder / one["file"]
            if sha256_of(path) != one["sha256"]:
                raise InputError(
                    f"{str(path)!r} is not as it was written; restore the gallery from a copy"
                )


# Files --------------------------------------------------------------------------------------------


def _read_document(folder: Path) -> Dict[str, Any]:
    path = folder / GALLERY_FILE
    if not os.path.lexists(path):
        raise InputError(
            f"{str(folder)!r} is not a gallery: it has no {GALLERY_FILE}; make one: facezoo "
            "gallery create"
        )
    try:
        document: Dict[str, Any] = json.loads(read_text(path, LARGEST_DOCUMENT))
        check(document, _DOCUMENT, "gallery")
        if len(document["strangers"]["scores"]) != len(document["strangers"]["people"]):
            raise ValueError("gallery.strangers has more scores than people, or fewer")
    except UNREADABLE as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({error}); restore the gallery from a copy"
        ) from error
    return document


def _schema(dimensions: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("person", pa.string(), nullable=False),
            pa.field("photo", pa.string(), nullable=False),
            pa.field("face", pa.int32(), nullable=False),
            pa.field("box", pa.list_(pa.float32(), 4), nullable=False),
            pa.field("weight", pa.float64(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dimensions), nullable=False),
        ]
    )


def _read_part(folder: Path, entry: Mapping[str, Any]) -> Enrolled:
    path = folder / entry["file"]
    try:
        if path.stat().st_size != entry["size"]:
            raise ValueError(f"it has {path.stat().st_size} bytes; expected {entry['size']}")
        with pa.memory_map(str(path)) as source:
            file = pa.ipc.open_file(source)
            batch = file.get_batch(0)
        length = batch.schema.field("embedding").type.list_size
        if not batch.schema.equals(_schema(length)) or len(batch) != entry["rows"]:
            raise ValueError("its columns or number of rows are not those it was written with")
        batch.validate(full=True)
        vectors = batch.column("embedding").flatten().to_numpy().reshape(-1, length)
        weights = batch.column("weight").to_numpy()
        if not (weights > 0).all():
            raise ValueError("a weight is not above 0")
        return Enrolled(
            tuple(batch.column("person").to_pylist()),
            tuple(batch.column("photo").to_pylist()),
            batch.column("face").to_numpy(),
            batch.column("box").flatten().to_numpy().reshape(-1, 4),
            weights,
            vectors,
        )
    except FaceZooError:
        raise
    except (pa.ArrowException, *UNREADABLE) as error:
        raise InputError(
            f"{str(path)!r} is damaged ({error}); restore the gallery from a copy"
        ) from error


def _write_part(folder: Path, rows: Enrolled) -> Dict[str, Any]:
    dimensions = rows.vectors.shape[1]
    schema = _schema(dimensions)
    boxes, values = (
        pa.array(np.ascontiguousarray(one, np.float32).ravel())
        for one in (rows.boxes, rows.vectors)
    )
    columns = [
        pa.array(rows.people, pa.string()),
        pa.array(rows.photos, pa.string()),
        pa.array(rows.face, pa.int32()),
        pa.FixedSizeListArray.from_arrays(boxes, 4),
        pa.array(rows.weights, pa.float64()),
        pa.FixedSizeListArray.from_arrays(values, dimensions),
    ]
    path = folder / f"faces-{secrets.token_hex(8)}.arrow"
    with writing(path) as file, pa.ipc.new_file(Sink(file), schema) as table:
        table.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    size = path.stat().st_size
    return {"file": path.name, "rows": len(rows.people), "size": size, "sha256": sha256_of(path)}


@contextmanager
def _private() -> Iterator[None]:
    """Let files and folders be read by their owner only."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def create_gallery(folder: Path, space: Space, embedder: str) -> None:
    """Make an empty gallery.

    Parameters
    ----------
    folder
        New, or empty.
    space
        What makes the embeddings.
    embedder
        The network, as named to :func:`facezoo.load`.

    Raises
    ------
    InputError
        If the folder holds anything.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file; name a new folder for the gallery")
    there = list(folder.iterdir()) if folder.is_dir() else []
    if any(path.name != LOCK_FILE and not is_temporary(path) for path in there):
        what = "is a gallery already; add to it: facezoo gallery add"
        what = what if (folder / GALLERY_FILE).exists() else "holds other files; name a new folder"
        raise InputError(f"{str(folder)!r} {what}")
    with _private():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        with holding(folder):
            document: Dict[str, Any] = {
                "schema": SCHEMA,
                "facezoo": __version__,
                "space": space.to_dict(),
                "embedder": embedder,
                "weights": "",
                "parts": [],
                "outliers": [],
                "strangers": {"size": 0, "scores": [], "people": []},
                "index": None,
            }
            write_json(folder / GALLERY_FILE, document)


def discard_gallery(folder: Path) -> None:
    """Remove a gallery that :func:`create_gallery` made, and that nothing was added to."""
    folder = Path(folder)
    for name in (GALLERY_FILE, LOCK_FILE):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


class Change:
    """A gallery that is being changed by this process alone; see :func:`change_gallery`.

    Attributes
    ----------
    gallery
        The gallery as it was read, or as the last change left it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self.gallery = Gallery(folder)

    def add(self, faces: Enrolled, space: Space, name: str) -> Added:
        """Add faces; those that are there already stay as they are, also as somebody else's.

        Parameters
        ----------
        faces
            The faces.
        space
            What made their embeddings.
        name
            What they are called in errors.

        Raises
        ------
        InputError
            If they were made differently, or are weighted differently.
        """
        gallery = self.gallery
        gallery.space.refuse_other(space, repr(str(self._folder)), name)
        if gallery.faces and len(faces.people):
            length = faces.vectors.shape[1]
            if length != gallery.dimensions:
                raise InputError(
                    f"{name} has embeddings of {length} numbers, {str(self._folder)!r} of "
                    f"{gallery.dimensions}; embed both with one model"
                )
        if gallery.faces and faces.weighted_by != gallery._document["weights"]:
            raise InputError(
                f"the faces in {str(self._folder)!r} are weighted by their "
                f"{gallery._document['weights']}, those of {name} by their {faces.weighted_by}; "
                "give the same --quality as before, or none as before"
            )
        known = {key: who for part in gallery._parts for key, who in _keys(part)}
        people, new = set(gallery.names), []
        taken: List[LeftOut] = []
        for row, (keys, who) in enumerate(zip(_pairs_of_keys(faces), faces.people)):
            owner = next((known[key] for key in keys if key in known), None)
            if owner is None:
                new.append(row)
                known.update(dict.fromkeys(keys, who))
            elif owner != who:
                why = f"it is to be {who}, but is {owner} already"
                taken.append(LeftOut(faces.photos[row], int(faces.face[row]), why))
        if new:
            self._commit([*gallery._parts, faces.rows(new)], kept=len(gallery._parts))
        added = len({faces.people[row] for row in new} - people)
        already = len(faces.people) - len(new) - len(taken)
        return Added(len(new), already, added, tuple(taken))

    def remove(self, names: Sequence[str]) -> int:
        """Erase people; return their number of faces. InputError names one who is not there."""
        gallery = self.gallery
        for name in names:
            if name not in gallery.names:
                near = difflib.get_close_matches(name, gallery.names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InputError(f"nobody in {str(self._folder)!r} is called {name!r}{hint}")
        gone = set(names)
        parts, entries, removed = [], [], 0
        for part, entry in zip(gallery._parts, gallery._document["parts"]):
            kept = [row for row, name in enumerate(part.people) if name not in gone]
            removed += len(part.people) - len(kept)
            if len(kept) == len(part.people):
                parts.append(part)
                entries.append(entry)
            elif kept:
                parts.append(part.rows(kept))
                entries.append(None)
        self._commit(parts, entries=entries)
        return removed

    def replace_all(self, faces: Optional[Enrolled], space: Space, embedder: str) -> None:
        """Put other embeddings in the place of all."""
        models = {"space": space.to_dict(), "embedder": embedder}
        self._commit([] if faces is None else [faces], changed=models)

    def make_index(self, kind: str) -> Recall:
        """Make an approximate index, and use it if it passes its gate; GateError if not."""
        gallery = self.gallery
        if not len(gallery):
            raise InputError(f"{str(self._folder)!r} is empty; add people before an index")
        index = build_approximate(np.concatenate(list(gallery.all_templates())), kind)
        recall = check_recall(index, gallery.exact, gate_queries(gallery))
        path = self._folder / f"index-{secrets.token_hex(8)}.faiss"
        with writing(path) as file:
            file.write(faiss.serialize_index(index).tobytes())
        entry = {
            **{"file": path.name, "kind": kind, "sha256": sha256_of(path)},
            **{"recall": recall.share, "queries": recall.queries},
        }
        self._write({**gallery._document, "index": entry})
        return recall

    def drop_index(self) -> None:
        """Search exactly again."""
        self._write({**self.gallery._document, "index": None})

    def _commit(
        self,
        parts: List[Enrolled],
        *,
        kept: int = 0,
        entries: Sequence[Optional[Dict[str, Any]]] = (),
        changed: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """Write parts; ``entries`` are of those on the disk, by default of the first ``kept``."""
        document = {**self.gallery._document, "facezoo": __version__, **(changed or {})}
        known = list(entries) or [*document["parts"][:kept]]
        known += [None] * (len(parts) - len(known))
        if len(parts) > MOST_PARTS:
            parts, known = [Enrolled.joined(parts)], [None]
        # Templates, and what stands for strangers, are others now; so is the index.
        document.update(outliers=[], index=None)
        document["weights"] = parts[0].weighted_by if parts else ""
        after = Gallery._of_parts(self._folder, document, parts)
        document["outliers"] = after._find_outliers()
        after = Gallery._of_parts(self._folder, document, parts)
        document["strangers"] = after._find_strangers()
        document["parts"] = [
            _write_part(self._folder, part) if entry is None else entry
            for part, entry in zip(parts, known)
        ]
        self._write(document)

    def _write(self, document: Mapping[str, Any]) -> None:
        write_json(self._folder / GALLERY_FILE, document)
        sync_path(self._folder)
        self.gallery = Gallery(self._folder)
        self.clean()

    def clean(self) -> None:
        """Erase what no gallery.json names: replaced parts, and what a killed change left."""
        document = self.gallery._document
        named = {one["file"] for one in document["parts"]}
        if document["index"]:
            named.add(document["index"]["file"])
        for path in sorted(self._folder.iterdir()):
            is_ours = path.name.startswith(("faces-", "index-")) or is_temporary(path)
            if is_ours and path.name not in named and (path.is_file() or path.is_symlink()):
                path.unlink()
        sync_path(self._folder)


def _pairs_of_keys(faces: Enrolled) -> Iterator[Tuple[Tuple[str, int], bytes]]:
    """Yield what tells a face from others: its place in a photo, and its embedding."""
    for photo, face, vector in zip(faces.photos, faces.face.tolist(), faces.vectors):
        yield (photo, face), vector.tobytes()


def _keys(faces: Enrolled) -> Iterator[Tuple[Any, str]]:
    for keys, who in zip(_pairs_of_keys(faces), faces.people):
        for key in keys:
            yield key, who


def gate_queries(gallery: Gallery) -> np.ndarray:
    """Make queries of the recall gate from enrolled faces.

    A face itself would be found too easily, so each is turned in a drawn direction as far as two
    photos of one person are apart.

    Returns
    -------
    numpy.ndarray
        Shape (Q, D), float32, length 1.
    """
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(gallery.faces)[:GATE_QUERIES])
    units = gallery.units(rows).astype(np.float64)
    drawn = rng.standard_normal(units.shape)
    drawn -= (drawn * units).sum(axis=1, keepdims=True) * units
    lengths = np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-12)
    turned = GATE_COSINE * units + np.sqrt(1.0 - GATE_COSINE**2) * drawn / lengths
    return np.asarray(turned, np.float32)


@contextmanager
def change_gallery(folder: Path) -> Iterator[Change]:
    """Change a gallery; no other process may at the same time.

    What a killed change left is erased first.

    Raises
    ------
    RunFolderError
        If another process changes it.
    InputError
        If it is no gallery.
    """
    _read_document(Path(folder))
    with _private(), holding(folder):
        change = Change(folder)
        change.clean()
        yield change
