"""The two tables of scored photos: faces and photos, as Parquet files.

Both are written by ``facezoo predict --parquet`` and, shard by shard, by ``facezoo score run``. The
version of a table is in the metadata of its file, under ``facezoo.schema``.

Faces, ``facezoo.faces/1``, one row per face, in the order of the photos, highest score first:

=============  ======================  ==========================================================
column         type                    content
=============  ======================  ==========================================================
photo          string                  name of the photo, as in the other table
face           int32                   index of the face in its photo, from 0
box            float32[4]              left, top, right, bottom in pixels of the photo
score          float32                 of the detector, 0 to 1
points         float32[10]             x, y of eyes, nose, mouth corners; NaN if not detected
size           float32                 shorter side of the box in pixels
sharpness      float32                 variance of the Laplacian of the aligned face
yaw            float32                 offset of the nose, in distances of the eyes
truncation     float32                 share of the aligned face outside the photo
quality        float32                 of the quality network; null without that stage
magnitude      float32                 length of the embedding; null without that stage
reasons        list of string          why the face is refused; empty if it is accepted
landmarks      float32[2 N]            x, y of N landmarks (98); only with that stage
embedding      float32[D], float16[D]  of the network; only with that stage, NaN if refused
=============  ======================  ==========================================================

Photos, ``facezoo.photos/1``, one row per photo:

=============  ========  ========================================================================
column         type      content
=============  ========  ========================================================================
photo          string    name of the photo: below the folder that was given, or its address
size           int64     bytes of the file; null if it cannot be read
width, height  int32     in pixels, upright; null if it cannot be read
faces          int32     number of its rows in the other table
status         string    one of ``STATUSES``
error          string    why it was not scored, or what is damaged; null otherwise
=============  ========  ========================================================================

Neither contains times, so the tables do not depend on who made them, nor on where.
"""

from __future__ import annotations

import base64
import io
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UNREADABLE, InputError
from ..files import open_file
from ..pipeline.photo import Predictor
from ..written import writing

__all__ = [
    "DTYPES",
    "FACES",
    "PHOTOS",
    "STATUSES",
    "Columns",
    "ParquetFile",
    "Sink",
    "TableWriter",
    "columns_of",
    "matrix_of",
    "open_parquet",
    "open_table",
]

FACES, PHOTOS = "facezoo.faces/1", "facezoo.photos/1"
SCHEMA_KEY, SETTINGS_KEY = b"facezoo.schema", b"facezoo.settings"
# Scored; scored, but read with damage; not an image that can be read; another file than when it was
# listed; ended its process each time it was tried.
STATUSES = ("scored", "damaged", "unreadable", "changed", "killed")
DTYPES = ("float32", "float16")

# Rows of a row group: 16 MiB of embeddings of 512 float32 values.
FACES_PER_GROUP, PHOTOS_PER_GROUP = 8192, 65536
MEASURES = ("size", "sharpness", "yaw", "truncation", "quality", "magnitude")
# Their values repeat; those of the other columns do not.
REPEATING = ["photo", "status", "error", "reasons.list.element"]


@dataclass(frozen=True)
class Columns:
    """Columns of the table of faces that depend on the stages.

    Attributes
    ----------
    landmarks
        Landmarks per face; 0 without that stage.
    embedding
        Values per embedding; 0 without that stage.
    dtype
        One of ``DTYPES``, of the embeddings.
    """

    landmarks: int = 0
    embedding: int = 0
    dtype: str = "float32"

    def faces(self, settings: Mapping[str, Any]) -> pa.Schema:
        """Return the schema of the table of faces, with the settings that it was made with."""
        fields = [
            pa.field("photo", pa.string(), nullable=False),
            pa.field("face", pa.int32(), nullable=False),
            pa.field("box", pa.list_(pa.float32(), 4)),
            pa.field("score", pa.float32()),
            pa.field("points", pa.list_(pa.float32(), 10)),
            *(pa.field(name, pa.float32()) for name in MEASURES),
            pa.field("reasons", pa.list_(pa.string())),
        ]
        if self.landmarks:
            fields.append(pa.field("landmarks", pa.list_(pa.float32(), 2 * self.landmarks)))
        if self.embedding:
            kind = pa.float16() if self.dtype == "float16" else pa.float32()
            fields.append(pa.field("embedding", pa.list_(kind, self.embedding)))
        return pa.schema(fields, _metadata(FACES, settings))

    @staticmethod
    def photos(settings: Mapping[str, Any]) -> pa.Schema:
        """Return the schema of the table of photos, with the settings that it was made with."""
        fields = [
            pa.field("photo", pa.string(), nullable=False),
            pa.field("size", pa.int64()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("faces", pa.int32(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string()),
        ]
        return pa.schema(fields, _metadata(PHOTOS, settings))


def _metadata(schema: str, settings: Mapping[str, Any]) -> Dict[bytes, bytes]:
    said = json.dumps(settings, sort_keys=True, allow_nan=False)
    return {SCHEMA_KEY: schema.encode(), SETTINGS_KEY: said.encode()}


def columns_of(model: Predictor, dtype: str = "float32") -> Columns:
    """Return the columns of a chain; its later stages are run once on a made-up face."""
    ramp = np.arange(112, dtype=np.uint8)
    face = np.stack([np.add.outer(ramp, ramp), *2 * [np.tile(ramp, (112, 1))]], axis=-1)
    landmarks = embedding = 0
    if model.landmarks is not None:
        landmarks = len(model.landmarks.batch([face])[0])
    if model.embedder is not None:
        embedding = model.embedder.batch([face])[0].vector.size
    return Columns(landmarks, embedding, dtype)


class ParquetFile:
    """A Parquet file that is written completely or not at all; a context manager.

    Parameters
    ----------
    path
        Where to.
    schema
        Of its rows; also a file without rows has it.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self.schema = schema
        self._open = ExitStack()

    def __enter__(self) -> ParquetFile:
        with ExitStack() as stack:
            sink = Sink(stack.enter_context(writing(self._path)))
            repeating = [name for name in REPEATING if name.split(".")[0] in self.schema.names]
            writer = pq.ParquetWriter(
                sink, self.schema, compression="zstd", use_dictionary=repeating
            )
            self._writer = stack.enter_context(writer)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def write(self, table: pa.Table) -> None:
        """Write a table as one row group."""
        self._writer.write_table(table, row_group_size=max(1, len(table)))


class Sink(io.RawIOBase):
    """What pyarrow asks of a file, for one that can only be written to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = 0

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes."""
        self._size += self._file.write(data)
        return len(data)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._size


class TableWriter:
    """Writes both tables photo by photo; neither is held in memory. A context manager.

    Parameters
    ----------
    faces, photos
        Files to write, each completely or not at all.
    columns
        Columns of the table of faces.
    settings
        What the results depend on, for the files' metadata; JSON values.

    Attributes
    ----------
    counts
        Number of photos by status.
    faces
        Number of faces.
    """

    def __init__(
        self, faces: Path, photos: Path, columns: Columns, settings: Mapping[str, Any]
    ) -> None:
        self._tables = (
            ParquetFile(faces, columns.faces(settings)),
            ParquetFile(photos, Columns.photos(settings)),
        )
        self._waiting: Tuple[List[Dict[str, Any]], ...] = ([], [])
        self._open = ExitStack()
        self.counts = dict.fromkeys(STATUSES, 0)
        self.faces = 0

    def __enter__(self) -> TableWriter:
        with ExitStack() as stack:
            for table in self._tables:
                stack.enter_context(table)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            self._open.__exit__(*error)
            return
        with self._open:
            self._flush(0)
            self._flush(1)

    def add(
        self, entry: Mapping[str, Any], size: Optional[int], status: Optional[str] = None
    ) -> None:
        """Add a photo with its faces.

        Parameters
        ----------
        entry
            ``path`` with the values of :meth:`PredictedPhoto.to_dict`, or with an ``error``.
        size
            Bytes of the file; None if it cannot be read.
        status
            One of ``STATUSES``; by default what the entry says.
        """
        faces, error = entry.get("faces", ()), entry.get("error", entry.get("damaged"))
        if status is None:
            is_read = "damaged" if "damaged" in entry else "scored"
            status = "unreadable" if "error" in entry else is_read
        photo = {"photo": entry["path"], "size": size, "status": status, "error": error}
        for name in ("width", "height"):
            photo[name] = entry.get(name)
        self._waiting[1].append({**photo, "faces": len(faces)})
        self._waiting[0].extend(
            {**face, "photo": entry["path"], "face": index} for index, face in enumerate(faces)
        )
        self.counts[status] += 1
        self.faces += len(faces)
        for index, most in enumerate((FACES_PER_GROUP, PHOTOS_PER_GROUP)):
            while len(self._waiting[index]) >= most:
                self._flush(index, most)

    def _flush(self, index: int, most: Optional[int] = None) -> None:
        rows = self._waiting[index][:most]
        del self._waiting[index][:most]
        table = self._tables[index]
        columns = [_column(field, rows) for field in table.schema]
        table.write(pa.Table.from_arrays(columns, schema=table.schema))


# Older versions of pyarrow need pandas to say so.
_DTYPES = {pa.float16(): np.float16, pa.float32(): np.float32}


def _column(field: pa.Field, rows: List[Dict[str, Any]]) -> pa.Array:
    if not pa.types.is_fixed_size_list(field.type):
        return pa.array([row.get(field.name) for row in rows], field.type)
    # NaN and not null: pyarrow before 26 cannot read a list of fixed size that is null.
    values = np.full((len(rows), field.type.list_size), np.nan, _DTYPES[field.type.value_type])
    for index, row in enumerate(rows):
        found = _VALUES[field.name](row)
        if found is not None and len(found):
            values[index] = np.reshape(found, -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=field.type)


def _embedding(row: Mapping[str, Any]) -> Optional[np.ndarray]:
    text = row.get("vector")
    return None if text is None else np.frombuffer(base64.b64decode(text), "<f4")


# Of the columns with several values: where a face has them.
_VALUES: Dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "box": lambda row: row["box_xyxy"],
    "points": lambda row: row["landmarks_xy"],
    "landmarks": lambda row: row.get("points_xy"),
    "embedding": _embedding,
}


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file; OSError if it is not a regular file, ArrowException if it is damaged."""
    # pyarrow would wait for a writer of a pipe.
    open_file(path).close()
    return pq.ParquetFile(path)


def matrix_of(column: pa.FixedSizeListArray) -> np.ndarray:
    """Return a column of lists of one size, none of which is null, as an array (N, size)."""
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values).reshape(len(column), column.type.list_size)


def open_table(path: Path, schema: str) -> pq.ParquetFile:
    """Open a table for reading; InputError if it is damaged or of another schema."""
    try:
        file = open_parquet(path)
        found = (file.schema_arrow.metadata or {}).get(SCHEMA_KEY, b"").decode()
    except (pa.ArrowException, *UNREADABLE) as error:
        raise InputError(f"{str(path)!r} cannot be read as Parquet ({error})") from error
    if found != schema:
        file.close()
        raise InputError(f"{str(path)!r} has schema {found!r}; expected {schema!r}")
    return file
