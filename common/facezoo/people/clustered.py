"""``people.parquet``: faces with the people they were given to, and all that adding photos needs.

Schema ``facezoo.people/1``, one row per face, by photo and face; a photo without a face has a row
without ``face``:

==========  ===============  =====================================================================
column      type             content
==========  ===============  =====================================================================
photo       string           name of the photo
face        int32            index of the face in its photo, from 0
person      int32            number of the person, from 0; null if the face was left out
similarity  float32          cosine to the weighted mean of the person
weight      float64          how much the face counts: quality, or else length of the embedding
left_out    string           why it was left out; null otherwise
box         float32[4]       left, top, right, bottom in pixels of the photo; NaN if left out
score       float32          of the detector, 0 to 1
magnitude   float32          length of the embedding
quality     float32          of the quality network; NaN without it
sides       int32[2]         width and height of the photo in pixels; 0 if the face was left out
embedding   float32[D]       as the network gave it; NaN if the face was left out
content     string           hash of the photo's file; null for faces that were read from a table
==========  ===============  =====================================================================

It depends on nothing but the faces and the threshold.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence

import numpy as np
import pyarrow as pa

from ..errors import UNREADABLE, InputError
from ..fields import NULL, OBJECT, check, either
from ..pipeline.clusters import People
from ..scale.tables import SCHEMA_KEY, SETTINGS_KEY, ParquetFile, matrix_of, open_table
from .faces import ARRAYS, NO_FACE, EmbeddedFaces, FacesBuilder, LeftOut, Space

__all__ = [
    "PEOPLE_FILE",
    "SCHEMA",
    "Clustered",
    "add_entry",
    "entries_of",
    "read_people",
    "together",
    "write_people",
]

PEOPLE_FILE, SCHEMA = "people.parquet", "facezoo.people/1"
ROWS = 8192
# Numbers of a face, besides its embedding.
NUMBERS = [name for name in ARRAYS if name not in ("index", "vectors")]


@dataclass(frozen=True)
class Clustered:
    """Faces of a clustering.

    Attributes
    ----------
    faces
        All of them.
    contents
        Hash of the file of each photo that was read for it, by name.
    chain
        Settings that these photos were read with; None if none was.
    """

    faces: EmbeddedFaces
    contents: Mapping[str, str] = field(default_factory=dict)
    chain: Optional[Mapping[str, Any]] = None

    def without(self, names: Collection[str]) -> EmbeddedFaces:
        """Return its faces but those of some photos."""
        kept = self.faces[np.array([name not in names for name in self.faces.photos], bool)]
        left = tuple(one for one in self.faces.left_out if one.photo not in names)
        return replace(kept, left_out=left)


def entries_of(faces: EmbeddedFaces) -> Dict[str, List[Dict[str, Any]]]:
    """Return the faces of each photo as JSON values, which :func:`add_entry` reads."""
    found: Dict[str, List[Dict[str, Any]]] = {}
    for photo, index, why in faces.left_out:
        entries = found.setdefault(photo, [])
        if index is not None:
            entries.append({"face": index, "left_out": why})
        elif why != NO_FACE:
            entries.append({"left_out": why})
    for row, photo in enumerate(faces.photos):
        entry: Dict[str, Any] = {name: getattr(faces, name)[row].tolist() for name in NUMBERS}
        entry["quality"] = entry["quality"] if np.isfinite(entry["quality"]) else None
        entry["vector"] = base64.b64encode(faces.vectors[row].astype("<f4").tobytes()).decode()
        found.setdefault(photo, []).append({"face": int(faces.index[row]), **entry})
    for entries in found.values():
        entries.sort(key=lambda entry: entry.get("face", -1))
    return found


def add_entry(builder: FacesBuilder, photo: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Add the faces of a photo as :func:`entries_of` returned them."""
    if not entries:
        builder.leave_out(photo, None, NO_FACE)
    for entry in entries:
        if "left_out" in entry:
            builder.leave_out(photo, entry.get("face"), entry["left_out"])
            continue
        arrays = {name: np.array([entry[name]]) for name in NUMBERS if name != "quality"}
        arrays["quality"] = np.array([np.nan if entry["quality"] is None else entry["quality"]])
        arrays["index"] = np.array([entry["face"]])
        arrays["vectors"] = np.frombuffer(base64.b64decode(entry["vector"]), "<f4")[None]
        builder.add([photo], arrays)


def together(parts: Mapping[str, EmbeddedFaces], space: Space) -> EmbeddedFaces:
    """Put faces from several sources in one collection, in the order of photos and faces.

    Parameters
    ----------
    parts
        What each source is called, and its faces.
    space
        What made all embeddings.

    Raises
    ------
    InputError
        If the embeddings of a source were made otherwise, or two sources have a photo in common.
    """
    source_of: Dict[str, str] = {}
    first = next(iter(parts), "")
    for source, faces in parts.items():
        space.refuse_other(faces.space, repr(first), repr(source))
        for photo in dict.fromkeys([*faces.photos, *(one.photo for one in faces.left_out)]):
            if photo in source_of:
                raise InputError(
                    f"{photo!r} is in {source_of[photo]!r} and in {source!r}; expected each photo "
                    "once: leave one of them out, or give photos of one name by the folder above"
                )
            source_of[photo] = source
    builder = FacesBuilder(space)
    left: List[LeftOut] = []
    for faces in parts.values():
        left += faces.left_out
        if len(faces):  # Without one, the length of an embedding is not known.
            builder.add(faces.photos, {name: getattr(faces, name) for name in ARRAYS})
    found = builder.faces()
    order = sorted(range(len(found)), key=lambda row: (found.photos[row], found.index[row]))
    left.sort(key=lambda one: (one.photo, -1 if one.face is None else one.face))
    return replace(found[np.array(order, int)], left_out=tuple(left))


# The file -----------------------------------------------------------------------------------------


def write_people(path: Path, clustered: Clustered, people: People) -> None:
    """Write faces and people.

    Parameters
    ----------
    path
        Where to.
    clustered
        The faces, in the order of photos and faces.
    people
        Who they are.
    """
    faces, weights = clustered.faces, clustered.faces.weights
    rows: List[Dict[str, Any]] = [
        {"photo": photo, "face": face, "left_out": why} for photo, face, why in faces.left_out
    ]
    for row, photo in enumerate(faces.photos):
        entry = {name: getattr(faces, name)[row].tolist() for name in NUMBERS if name != "boxes"}
        entry.update(photo=photo, face=int(faces.index[row]), box=faces.boxes[row].tolist())
        entry.update(person=int(people.numbers[row]), similarity=float(people.similarity[row]))
        entry.update(weight=float(weights[row]), row=row)
        rows.append(entry)
    rows.sort(key=lambda entry: (entry["photo"], -1 if entry["face"] is None else entry["face"]))
    size = max(1, faces.vectors.shape[1])
    schema = _schema(size, {"space": faces.space.to_dict(), "chain": clustered.chain})
    with ParquetFile(path, schema) as file:
        for start in range(0, max(1, len(rows)), ROWS):
            block = rows[start : start + ROWS]
            for entry in block:
                entry["content"] = clustered.contents.get(entry["photo"])
                entry["score"] = entry.get("scores")
                found = entry.get("row")
                entry["embedding"] = None if found is None else faces.vectors[found]
            columns = [
                pa.array([_value(entry, one) for entry in block], one.type) for one in schema
            ]
            file.write(pa.Table.from_arrays(columns, schema=schema))


def _value(entry: Mapping[str, Any], field: pa.Field) -> Any:
    found = entry.get(field.name)
    if found is None and pa.types.is_fixed_size_list(field.type):
        # pyarrow before 26 cannot read such a list that is null.
        kind = field.type.value_type
        return [float("nan") if pa.types.is_floating(kind) else 0] * field.type.list_size
    return found


def _schema(size: int, settings: Mapping[str, Any]) -> pa.Schema:
    kinds = {
        "photo": pa.string(),
        "face": pa.int32(),
        "person": pa.int32(),
        "similarity": pa.float32(),
        "weight": pa.float64(),
        "left_out": pa.string(),
        "box": pa.list_(pa.float32(), 4),
        "score": pa.float32(),
        "magnitude": pa.float32(),
        "quality": pa.float32(),
        "sides": pa.list_(pa.int32(), 2),
        "embedding": pa.list_(pa.float32(), size),
        "content": pa.string(),
    }
    said = json.dumps(settings, sort_keys=True, allow_nan=False)
    metadata = {SCHEMA_KEY: SCHEMA.encode(), SETTINGS_KEY: said.encode()}
    return pa.schema(list(kinds.items()), metadata)


def read_people(path: Path) -> Clustered:
    """Read the faces of an earlier clustering.

    Parameters
    ----------
    path
        A ``people.parquet``.

    Raises
    ------
    InputError
        If it cannot be read as one.
    """
    with open_table(path, SCHEMA) as file:
        try:
            settings = json.loads(file.schema_arrow.metadata[SETTINGS_KEY])
            check(settings, OBJECT, "settings")
            chain = settings.get("chain")
            check(chain, either(NULL, OBJECT), "settings.chain")
            builder = FacesBuilder(Space.from_dict(settings.get("space", {})))
            contents: Dict[str, str] = {}
            for batch in file.iter_batches(ROWS):
                _read_rows(builder, batch, contents)
        except (pa.ArrowException, *UNREADABLE) as error:
            raise InputError(
                f"{str(path)!r} cannot be read as people of facezoo cluster ({error}); cluster "
                "the photos again"
            ) from error
    return Clustered(builder.faces(), contents, chain)


def _read_rows(builder: FacesBuilder, batch: pa.RecordBatch, contents: Dict[str, str]) -> None:
    columns = {name: batch.column(name) for name in batch.schema.names}
    photos, whys = columns["photo"].to_pylist(), columns["left_out"].to_pylist()
    indices = columns["face"].to_pylist()
    for photo, content in zip(photos, columns["content"].to_pylist()):
        if content is not None:
            contents[photo] = content
    for photo, index, why in zip(photos, indices, whys):
        if why is not None:
            builder.leave_out(photo, index, why)
    kept = [row for row, why in enumerate(whys) if why is None]
    taken = {name: column.take(pa.array(kept, pa.int64())) for name, column in columns.items()}
    arrays = {name: np.asarray(taken[name]) for name in ("magnitude", "quality")}
    arrays.update(index=np.asarray(taken["face"]), scores=np.asarray(taken["score"]))
    for name, column in (("boxes", "box"), ("sides", "sides"), ("vectors", "embedding")):
        arrays[name] = matrix_of(taken[column])
    builder.add([photos[row] for row in kept], arrays)
