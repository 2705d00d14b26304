"""Faces with embeddings, from the tables of bulk scoring or from photos, and what made them.

Embeddings can be compared only within one *space*: one file of a network, one pre-processing, one
alignment. Every collection carries its space, and refuses another one by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UNREADABLE, FaceZooError, ImageError, InputError
from ..fields import CARD_ID, OBJECT, check, one_of, record
from ..image.align import TEMPLATE_SIZE
from ..models.magface.model import FLIPS
from ..pipeline.clusters import face_weights, weighted_by
from ..pipeline.photo import PredictedFace, PredictedPhoto, Predictor
from ..profiles.base import MODEL_SHA256
from ..runs import reason_of
from ..scale.manifest import MANIFEST_FILE
from ..scale.tables import FACES, PHOTOS, SETTINGS_KEY, matrix_of, open_table
from ..scale.work import find_scores

__all__ = [
    "NO_FACE",
    "EmbeddedFaces",
    "FacesBuilder",
    "LeftOut",
    "Space",
    "faces_of_photos",
    "find_tables",
    "read_faces",
    "settings_of",
]

# How faces are aligned before they are embedded; see facezoo.image.align.
ALIGNMENT = f"five points, {TEMPLATE_SIZE}x{TEMPLATE_SIZE}"
NO_FACE = "no face was found"
NOT_EMBEDDED = "it was not embedded"
# Rows of a table that are held at a time, besides the result.
ROWS = 8192
SPACE = record(
    {
        "model": CARD_ID,
        "model_sha256": MODEL_SHA256,
        "preprocess": OBJECT,
        "flip": one_of(*FLIPS),
        "alignment": one_of(ALIGNMENT),
    }
)


@dataclass(frozen=True)
class Space:
    """What two embeddings must share to be compared.

    Attributes
    ----------
    model
        Card of the network.
    model_sha256
        Hash of its file, or of a build's three files by name.
    preprocess
        Pre-processing, as JSON values.
    flip
        Whether the embedding of the mirrored face is added: ``none`` or ``sum``.
    alignment
        How faces are aligned.
    """

    model: str
    model_sha256: Any
    preprocess: Mapping[str, Any]
    flip: str = "none"
    alignment: str = ALIGNMENT

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Space:
        """Return the space of :meth:`Predictor.settings`; InputError without an embedder."""
        embedder = settings.get("embedder")
        if not isinstance(embedder, Mapping):
            raise InputError("there are no embeddings: no embedder ran; name one: --embedder MODEL")
        # As it is read back: JSON has no tuples.
        preprocess = json.loads(json.dumps(embedder.get("preprocess", {})))
        found = {"preprocess": preprocess, "alignment": ALIGNMENT}
        found.update({name: embedder.get(name) for name in ("model", "model_sha256", "flip")})
        return cls.from_dict(found)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Space:
        """Read the values of :meth:`to_dict`; InputError names a value that none can have."""
        try:
            check(entry, SPACE, "space")
        except ValueError as error:
            raise InputError(f"the embeddings do not say what made them: {error}") from error
        return cls(**entry)

    def to_dict(self) -> Dict[str, Any]:
        """Return the space as JSON values."""
        return {**vars(self), "preprocess": dict(self.preprocess)}

    def refuse_other(self, other: Space, name: str, other_name: str) -> None:
        """Refuse embeddings that cannot be compared with these.

        Parameters
        ----------
        other
            Their space.
        name, other_name
            What the two collections are called.

        Raises
        ------
        InputError
            If it is another space; says in what they differ.
        """
        ours, theirs = self.to_dict(), other.to_dict()
        differences = [one for one in ours if ours[one] != theirs[one]]
        if not differences:
            return
        shown = "; ".join(
            f"{one.replace('_', ' ')} {_short(ours[one])} against {_short(theirs[one])}"
            for one in differences
        )
        raise InputError(
            f"{name} and {other_name} cannot be compared, since their embeddings were made "
            f"differently: {shown}; embed both with one model"
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}..."


class LeftOut(NamedTuple):
    """A face or a photo without an embedding: name of the photo, index of the face, and why.

    The index is None if the whole photo has no face or cannot be read.
    """

    photo: str
    face: Optional[int]
    why: str


@dataclass(frozen=True, eq=False)
class EmbeddedFaces:
    """Faces that have an embedding.

    Attributes
    ----------
    photos
        Name of the photo of each face, N names.
    index
        Shape (N,), int32: index of the face in its photo, from 0.
    vectors
        Shape (N, D), float32: embeddings as the network gave them, not normalised.
    boxes
        Shape (N, 4), float32: left, top, right, bottom in pixels of the photo.
    scores
        Shape (N,), float32: of the detector, 0 to 1.
    magnitude, quality
        Shape (N,), float32: length of the embedding; score of the quality network, NaN without it.
    sides
        Shape (N, 2), int32: width and height of the photo in pixels.
    space
        What made the embeddings.
    left_out
        Faces and photos without an embedding, by name.
    """

    photos: Tuple[str, ...]
    index: np.ndarray
    vectors: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    magnitude: np.ndarray
    quality: np.ndarray
    sides: np.ndarray
    space: Space
    left_out: Tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, rows: np.ndarray) -> EmbeddedFaces:
        """Return some of the faces, by their rows or by a mask, without what was left out."""
        chosen = np.arange(len(self))[rows]
        return replace(
            self,
            photos=tuple(self.photos[row] for row in chosen),
            left_out=(),
            **{name: getattr(self, name)[chosen] for name in ARRAYS},
        )

    @property
    def units(self) -> np.ndarray:
        """Directions of the embeddings, shape (N, D), float32, length 1."""
        lengths = np.linalg.norm(self.vectors.astype(np.float64), axis=1, keepdims=True)
        return np.asarray(self.vectors / lengths, np.float32)

    @property
    def weights(self) -> np.ndarray:
        """Weight of each face, shape (N,), float64, above 0; see :func:`face_weights`."""
        return face_weights(self.quality, self.magnitude)

    @property
    def weighted_by(self) -> str:
        """What :attr:`weights` are: ``quality`` or ``magnitude``."""
        return weighted_by(self.quality)

    def one_per_photo(self, choice: str) -> EmbeddedFaces:
        """Keep one face of each photo, in the order of the photos.

        Parameters
        ----------
        choice
            ``central``: the face nearest to the middle of its photo; ``largest``: the largest box.
        """
        if choice == "central":
            centres = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2.0
            worse = np.square(centres - self.sides / 2.0).sum(axis=1)
        else:
            worse = -(self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)
        best: Dict[str, int] = {}
        for row, photo in enumerate(self.photos):
            if photo not in best or worse[row] < worse[best[photo]]:
                best[photo] = row
        return self[np.array(sorted(best.values()), int)]


# Arrays of faces that have a row per face: name, type, and length of a row (0 for one number).
ARRAYS: Dict[str, Tuple[Any, int]] = {
    "index": (np.int32, 0),
    "vectors": (np.float32, -1),
    "boxes": (np.float32, 4),
    "scores": (np.float32, 0),
    "magnitude": (np.float32, 0),
    "quality": (np.float32, 0),
    "sides": (np.int32, 2),
}


@dataclass
class FacesBuilder:
    """Collects faces block by block.

    Attributes
    ----------
    space
        What makes the embeddings.
    """

    space: Space
    _photos: List[str] = field(default_factory=list)
    _blocks: Dict[str, List[np.ndarray]] = field(default_factory=lambda: {n: [] for n in ARRAYS})
    _left_out: List[LeftOut] = field(default_factory=list)

    def add(self, photos: Sequence[str], arrays: Mapping[str, np.ndarray]) -> None:
        """Add faces: the name of each one's photo, and arrays of :class:`EmbeddedFaces` by name."""
        self._photos.extend(photos)
        for name, blocks in self._blocks.items():
            blocks.append(arrays[name])

    def leave_out(self, photo: str, face: Optional[int], why: str) -> None:
        """Note a face, or a photo (None), without an embedding."""
        self._left_out.append(LeftOut(photo, face, why))

    def photo(self, name: str, found: PredictedPhoto) -> None:
        """Add the faces of a photo."""
        if not len(found):
            self.leave_out(name, None, NO_FACE)
        for index, face in enumerate(found.faces):
            if face.vector is None:
                self.leave_out(name, index, ", ".join(face.reasons) or NOT_EMBEDDED)
            else:
                self.face(name, index, found)

    def face(self, name: str, index: int, found: PredictedPhoto) -> None:
        """Add one face of a photo, which has an embedding."""
        height, width = found.image_hw
        self.add([name], _row(index, found[index], width, height))

    def faces(self) -> EmbeddedFaces:
        """Return what was collected."""
        arrays = {}
        for name, (kind, length) in ARRAYS.items():
            # Without a face there is no length of an embedding.
            empty = np.zeros((0, max(length, 0)) if length else 0, kind)
            blocks = self._blocks[name]
            arrays[name] = np.concatenate(blocks).astype(kind, copy=False) if blocks else empty
            blocks.clear()
        _refuse_unusable(arrays["vectors"], self._photos)
        # In one order, whether photos and faces come together or from two tables.
        left_out = sorted(self._left_out, key=lambda one: (one.photo, one.face or 0))
        return EmbeddedFaces(
            tuple(self._photos), space=self.space, left_out=tuple(left_out), **arrays
        )


def _row(index: int, face: PredictedFace, width: int, height: int) -> Dict[str, np.ndarray]:
    quality = np.nan if face.quality is None else face.quality
    vector = np.asarray(face.vector, np.float32)
    return {
        "index": np.array([index], np.int32),
        "vectors": vector[None],
        "boxes": np.array([face.box_xyxy], np.float32),
        "scores": np.array([face.score], np.float32),
        "magnitude": np.array([face.magnitude], np.float32),
        "quality": np.array([quality], np.float32),
        "sides": np.array([[width, height]], np.int32),
    }


def _refuse_unusable(vectors: np.ndarray, photos: Sequence[str]) -> None:
    bad = ~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1)
    if bad.any():
        name = photos[int(np.argmax(bad))]
        raise InputError(
            f"{name!r} has an embedding that is zero or not finite; embed it again, or check the "
            "network with facezoo doctor"
        )


def faces_of_photos(model: Predictor, paths: Sequence[Path], names: Sequence[str]) -> EmbeddedFaces:
    """Find and embed the faces of photos, as ``facezoo predict`` does.

    Parameters
    ----------
    model
        The chain, with an embedder.
    paths, names
        The photos, and what they are called.

    Raises
    ------
    InputError
        If the chain has no embedder. A photo that cannot be read is left out, by name.
    """
    builder = FacesBuilder(Space.of(model.settings()))
    for name, found in zip(names, model.stream(list(paths))):
        if isinstance(found, ImageError):
            builder.leave_out(name, None, reason_of(found))
        else:
            builder.photo(name, found)
    return builder.faces()


# Tables -------------------------------------------------------------------------------------------


class Tables(NamedTuple):
    """A table of faces, and the table of their photos."""

    faces: Path
    photos: Path


def find_tables(path: Path, settings: str = "") -> List[Tables]:
    """Find the tables of faces that bulk scoring or ``predict --parquet`` wrote.

    Parameters
    ----------
    path
        Folder of a run of ``facezoo score``, of its merged tables, or of ``facezoo predict``; or a
        ``faces.parquet``, beside which is its ``photos.parquet``.
    settings
        Of a run with scores of several settings: beginning of the name of those to read.

    Returns
    -------
    list of Tables
        In the order of the photos; empty if there are none at this path.

    Raises
    ------
    InputError
        If a run is not finished, or has scores of several settings.
    """
    path = Path(path)
    if path.is_file():
        return [Tables(path, path.with_name("photos.parquet"))] if path.name == FACES_FILE else []
    if (path / FACES_FILE).is_file():
        return [Tables(path / FACES_FILE, path / "photos.parquet")]
    if (path / MANIFEST_FILE).exists():
        return _tables_of_run(path, settings)
    files = sorted((path / "faces").glob("*.parquet"))
    return [Tables(one, path / "photos" / one.name) for one in files]


FACES_FILE = "faces.parquet"


def _tables_of_run(run: Path, settings: str) -> List[Tables]:
    found = find_scores(run, settings)
    if len(found) != 1:
        names = ", ".join(scores.identity for scores in found) or "none; run facezoo score run"
        raise InputError(f"{str(run)!r} has scores of these settings: {names}; expected one")
    (scores,) = found
    tables = []
    for part, receipt in scores.leaves(scores.deaths()):
        if receipt is None:
            raise InputError(
                f"{str(run)!r} is not finished: shard {part.shard} is not scored; run facezoo "
                "score run again"
            )
        paths = (scores.path_of(name, part.name) for name in ("faces", "photos"))
        tables.append(Tables(*paths))
    return tables


def read_faces(path: Path, settings: str = "") -> EmbeddedFaces:
    """Read the faces of the tables that :func:`find_tables` finds.

    Parameters
    ----------
    path, settings
        As for :func:`find_tables`.

    Raises
    ------
    InputError
        If there are no tables, one cannot be read, has no embeddings, or was made by another model
        than the first one.
    """
    tables = find_tables(path, settings)
    if not tables:
        raise InputError(
            f"{str(path)!r} holds no scores; expected the folder of facezoo score, of its "
            f"merged tables, or of facezoo predict --parquet, or a {FACES_FILE}"
        )
    first = tables[0].faces
    with open_table(first, FACES) as faces:
        builder = FacesBuilder(_space_of(first, faces))
    for one in tables:
        try:
            with open_table(one.faces, FACES) as faces, open_table(one.photos, PHOTOS) as photos:
                space = _space_of(one.faces, faces)
                builder.space.refuse_other(space, repr(str(first)), repr(str(one.faces)))
                _read_table(builder, faces, _read_photos(builder, photos))
        except FaceZooError:
            raise
        except (pa.ArrowException, *UNREADABLE) as error:
            raise InputError(
                f"{str(one.faces)!r} has other columns than facezoo score writes ({error}); score "
                "the photos again"
            ) from error
    return builder.faces()


def settings_of(path: Path, settings: str = "") -> Dict[str, Any]:
    """Return the settings that the tables found by :func:`find_tables` were made with."""
    first, *_ = find_tables(path, settings)
    with open_table(first.faces, FACES) as file:
        _space_of(first.faces, file)
        found: Dict[str, Any] = json.loads(file.schema_arrow.metadata[SETTINGS_KEY])
    return found


def _space_of(path: Path, file: pq.ParquetFile) -> Space:
    schema = file.schema_arrow
    try:
        settings = json.loads((schema.metadata or {})[SETTINGS_KEY])
        if "embedding" not in schema.names:
            raise ValueError("it has no embeddings; score the photos with --embedder MODEL")
        return Space.of(settings)
    except UNREADABLE as error:
        raise InputError(f"{str(path)!r}: {error}") from error


def _read_photos(builder: FacesBuilder, file: pq.ParquetFile) -> Dict[str, Tuple[int, int]]:
    """Return width and height of the photos with faces; leave the other ones out."""
    sides = {}
    for batch in file.iter_batches(ROWS, columns=["photo", "width", "height", "faces", "error"]):
        for row in batch.to_pylist():
            if row["faces"]:
                sides[row["photo"]] = (row["width"], row["height"])
            else:
                builder.leave_out(row["photo"], None, row["error"] or NO_FACE)
    return sides


COLUMNS = ["photo", "face", "box", "score", "magnitude", "quality", "reasons", "embedding"]


def _read_table(
    builder: FacesBuilder, file: pq.ParquetFile, sides: Mapping[str, Tuple[int, int]]
) -> None:
    for batch in _batches(file):
        columns = {name: batch.column(name) for name in COLUMNS}
        photos = columns["photo"].to_pylist()
        # Without an embedding all its values are NaN; null in tables that others have made.
        has = np.asarray(columns["embedding"].is_valid())
        first = matrix_of(columns["embedding"].take(pa.array(np.flatnonzero(has))))[:, :1]
        has[has] = ~np.isnan(first.astype(np.float32)).any(axis=1)
        for row in np.flatnonzero(~has):
            reasons = columns["reasons"][row].as_py()
            why = ", ".join(reasons or ()) or NOT_EMBEDDED
            builder.leave_out(photos[row], columns["face"][row].as_py(), why)
        missing = sorted({photo for photo in photos if photo not in sides})
        if missing:
            raise InputError(f"the table of photos lacks {missing[0]!r}; score the photos again")
        kept = np.flatnonzero(has)
        taken = {name: column.take(pa.array(kept)) for name, column in columns.items()}
        names = [photos[row] for row in kept]
        arrays = {
            "index": np.asarray(taken["face"]),
            "vectors": matrix_of(taken["embedding"]).astype(np.float32, copy=False),
            "boxes": matrix_of(taken["box"]),
            "scores": np.asarray(taken["score"]),
            "magnitude": _numbers(taken["magnitude"]),
            "quality": _numbers(taken["quality"]),
            "sides": np.array([sides[name] for name in names], np.int32).reshape(-1, 2),
        }
        builder.add(names, arrays)


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    return iter(file.iter_batches(ROWS, columns=COLUMNS))


def _numbers(column: pa.Array) -> np.ndarray:
    """Return a column of numbers, NaN where there is none."""
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float32)
