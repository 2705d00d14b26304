"""Reader of insightface's training sets (``train.rec`` with ``train.idx``) without MXNet.

A ``.rec`` file is a sequence of records; the ``.idx`` beside it gives the start byte of each key.
Without it the file is searched for its records, which are numbered in their order, as insightface
writes them. Record 0 contains no image but the key ranges of images and people.

References
----------
.. [1] dmlc-core@5295de9, ``include/dmlc/recordio.h`` and ``src/recordio.cc``: the records.
.. [2] insightface@7fadd42, ``recognition/arcface_mxnet/common/rec2image.py``: what they hold.
"""

from __future__ import annotations

import logging
import os
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Dict, Iterator, Optional, Sequence, Tuple, Type, Union

import numpy as np

from ..errors import DatasetError, ImageError
from ..files import open_file, write_bytes
from .image_list import read_lines

__all__ = ["FaceRecord", "RecordFile", "UnpackedFace", "file_name_of"]

_log = logging.getLogger(__name__)

MAGIC = 0xCED7230A  # source: dmlc-core@5295de9 include/dmlc/recordio.h kMagic
LARGEST_RECORDS = 1 << 50  # bytes; it is read record by record
LENGTH_BITS = 29  # source: same file, EncodeLRec
WHOLE, FIRST, MIDDLE, LAST = range(4)  # source: same file, cflag
_WORD = 4  # source: same file; bytes to whose multiples parts are padded

_SUFFIX_OF = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png"}

_PART = struct.Struct("<II")
# source: mxnet@f0e201a python/mxnet/recordio.py IRHeader: flag, label, id, id2
_HEADER = struct.Struct("<IfQQ")


@dataclass(frozen=True)
class FaceRecord:
    """One image of a training set.

    Attributes
    ----------
    key
        Its number in the set.
    label
        Number of the person.
    image
        The encoded image, usually a JPEG.
    """

    key: int
    label: int
    image: bytes


@dataclass(frozen=True)
class UnpackedFace:
    """The file that an image of a training set was written to.

    Attributes
    ----------
    label
        Number of the person.
    file
        Path relative to the image folder, with forward slashes.
    """

    label: int
    file: str

    def to_dict(self) -> Dict[str, Any]:
        """Return it as JSON values."""
        return {"label": self.label, "file": self.file}


def file_name_of(record: FaceRecord) -> str:
    """Return the file name for a record's image: ``<label>/<key>.jpg``.

    Raises
    ------
    DatasetError
        If the record contains neither a JPEG nor a PNG.
    """
    for magic, suffix in _SUFFIX_OF.items():
        if record.image.startswith(magic):
            return f"{record.label}/{record.key}{suffix}"
    raise DatasetError(f"record {record.key} contains neither a JPEG nor a PNG")


class RecordFile:
    """A training set, open for reading; a context manager.

    Parameters
    ----------
    path
        The ``.rec`` file; its ``.idx`` lies beside it, or is missing.

    Attributes
    ----------
    keys
        Keys of the images, in order.

    Raises
    ------
    DatasetError
        If the file is missing, or one is malformed; names the line, or the byte.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        index = self._path.with_suffix(".idx")
        is_indexed = os.path.lexists(index)
        if is_indexed:
            self._keys, self._starts = _read_index(index)
        try:
            self._file: BinaryIO = open_file(self._path, LARGEST_RECORDS)
        except OSError as error:
            raise DatasetError(f"{str(path)!r}: cannot be read ({error.strerror})") from error
        try:
            if not is_indexed:
                self._starts = self._scan()
                self._keys = np.arange(len(self._starts))
                _log.warning(
                    "%s does not exist; %s has %d records, numbered in their order",
                    index,
                    self._path,
                    len(self._keys),
                )
            self.keys, self._people = self._contents()
        except DatasetError:
            self._file.close()
            raise

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.keys)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __iter__(self) -> Iterator[FaceRecord]:
        return map(self.read, self.keys)

    def read(self, key: int) -> FaceRecord:
        """Read one image.

        Parameters
        ----------
        key
            One of ``keys``.

        Raises
        ------
        DatasetError
            If there is no such key, or its record is malformed or contains no image.
        """
        labels, image = self._unpack(key)
        label = labels[0]
        if not image or not label >= 0 or not label.is_integer():
            raise DatasetError(
                f"{str(self._path)!r}: record {key} has {len(image)} bytes of image and label "
                f"{label}; expected an image and an integer label"
            )
        return FaceRecord(key, int(label), image)

    def unpack(self, key: int, folder: Path) -> Union[UnpackedFace, ImageError]:
        """Write one image as it is in the set, to ``<label>/<key>.jpg``.

        Parameters
        ----------
        key
            One of ``keys``.
        folder
            Where to.

        Returns
        -------
        UnpackedFace or ImageError
            The error if the record is malformed.
        """
        try:
            record = self.read(key)
            name = file_name_of(record)
        except DatasetError as error:
            return ImageError(str(error))
        write_bytes(folder / name, record.image)
        return UnpackedFace(record.label, name)

    def people(self) -> Iterator[Tuple[int, range]]:
        """Yield the key of each person and the keys of the person's images.

        Yields
        ------
        tuple of int and range
            Nothing if the set does not record the images of each person.

        Raises
        ------
        DatasetError
            If the record of a person is malformed or refers to images that do not exist.
        """
        for key in self._people:
            labels, _ = self._unpack(key)
            if len(labels) < 2 or not 1 <= labels[0] <= labels[1] <= len(self.keys) + 1:
                raise DatasetError(
                    f"{str(self._path)!r}: record {key} must give a range of the images 1 to "
                    f"{len(self.keys)}, got {labels}"
                )
            yield key, range(int(labels[0]), int(labels[1]))

    def _scan(self) -> np.ndarray:
        """Return the start bytes of all records."""
        end = self._file.seek(0, os.SEEK_END)
        starts, place, is_first = array("q"), 0, True
        while place < end:
            self._file.seek(place)
            kind, length = self._read_head(place, (WHOLE, FIRST) if is_first else (MIDDLE, LAST))
            if is_first:
                starts.append(place)
            is_first = kind in (WHOLE, LAST)
            place += _PART.size + length + -length % _WORD
        if not len(starts):
            raise DatasetError(f"{str(self._path)!r}: is empty; expected records")
        return np.array(starts, dtype=np.int64)

    def _read_head(self, start: int, expected: Tuple[int, ...]) -> Tuple[int, int]:
        """Return kind and length of the part that begins here, of the record that starts there."""
        head = self._file.read(_PART.size)
        magic, word = _PART.unpack(head) if len(head) == _PART.size else (0, 0)
        kind, length = word >> LENGTH_BITS, word & ((1 << LENGTH_BITS) - 1)
        if magic != MAGIC or kind not in expected:
            raise DatasetError(
                f"{str(self._path)!r}: no record starts at byte {start}; the file is damaged, "
                "or the .idx belongs to another .rec"
            )
        return kind, length

    def _contents(self) -> Tuple[Sequence[int], range]:
        """Return the keys of images and of people."""
        first, last = int(self._keys[0]), int(self._keys[-1])
        labels, image = self._unpack(first)
        if image or len(labels) < 2:
            return self._keys.tolist(), range(0)
        if first != 0 or not 1 <= labels[0] <= labels[1] <= last + 1:
            raise DatasetError(
                f"{str(self._path)!r}: record {first} says that images end before {labels[0]:g} "
                f"and people before {labels[1]:g}, but keys go up to {last}; the file is cut "
                "short, or the .idx belongs to another .rec"
            )
        return range(1, int(labels[0])), range(int(labels[0]), int(labels[1]))

    def _unpack(self, key: int) -> Tuple[Tuple[float, ...], bytes]:
        """Return the labels of a record and its remaining bytes."""
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            raise DatasetError(f"{str(self._path)!r}: the .idx has no key {key}")
        record = self._record(int(self._starts[place]))
        if len(record) < _HEADER.size:
            raise DatasetError(
                f"{str(self._path)!r}: record {key} has {len(record)} bytes, expected at least "
                f"{_HEADER.size}; it contains no image"
            )
        count, label, _, _ = _HEADER.unpack_from(record)
        body = record[_HEADER.size :]
        if not count:
            return (label,), body
        if 4 * count > len(body):
            raise DatasetError(
                f"{str(self._path)!r}: record {key} claims {count} labels in {len(body)} bytes"
            )
        return struct.unpack_from(f"<{count}f", body), body[4 * count :]

    def _record(self, start: int) -> bytes:
        """Read a record, which is split into parts where its data contains the magic number."""
        self._file.seek(start)
        parts = []
        expected: Tuple[int, ...] = (WHOLE, FIRST)
        while True:
            kind, length = self._read_head(start, expected)
            data = self._file.read(length)
            if len(data) != length:
                raise DatasetError(
                    f"{str(self._path)!r}: the record at byte {start} is cut short: {len(data)} of "
                    f"{length} bytes; download the file again"
                )
            parts.append(data)
            if kind in (WHOLE, LAST):
                return struct.pack("<I", MAGIC).join(parts)
            # Only the last part is padded to whole words; the others need no padding.
            expected = (MIDDLE, LAST)


def _read_index(path: Path) -> Tuple[np.ndarray, np.ndarray]:
    """Return the keys, ascending, and the start bytes of their records."""
    numbers = array("q")
    for number, line in read_lines(path):
        fields = line.split()
        if len(fields) != 2 or not all(f.isascii() and f.isdigit() and len(f) < 19 for f in fields):
            raise DatasetError(
                f"{str(path)!r}: line {number} is {line[:80]!r}; expected a key and its start byte"
            )
        numbers.extend(map(int, fields))
    keys, starts = np.array(numbers, dtype=np.int64).reshape(-1, 2).T
    order = np.argsort(keys, kind="stable")
    keys, starts = keys[order], starts[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        raise DatasetError(f"{str(path)!r}: key {keys[twice[0]]} has two records; expected one")
    return keys, starts
