"""Arrays in .npz files: no pickle is read, and a file is written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import tempfile
import threading
import zipfile
import zlib
from itertools import chain
from pathlib import Path
from typing import IO, Any, Dict, Iterator, Mapping, Tuple, Union

import numpy as np

from .errors import UNREADABLE, InputError
from .files import open_file, read_file, read_text
from .written import about_file, writing

__all__ = [
    "StoredRows",
    "load_json",
    "read_arrays",
    "read_npz",
    "write_npz",
]


# An image of more pixels than this is a decompression bomb rather than a photo (16,000 x 11,125);
# Pillow opens none of 178,956,971 or more.
MAX_PIXELS = 178_000_000

# NumPy parses headers with ast, which fails now and then if two threads do so at once.
# source: cpython issue 106905, "AST constructor recursion depth mismatch"
_PARSING = threading.Lock()

# Three bytes per pixel of the largest image that is read; an array that claims more is damaged.
LARGEST_ARRAY = 3 * MAX_PIXELS

# Largest file of one image in bytes: 16 bits per channel, uncompressed.
LARGEST_IMAGE = 2 * LARGEST_ARRAY

STORED_ROWS = 1024  # read at a time


class StoredRows:
    """The rows of an array, kept in a file without a name instead of in memory.

    Parameters
    ----------
    folder
        Where the file is; the system removes it when it is closed, or when the process ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with about_file(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (see close)
        self.shape: Tuple[int, ...] = (0, 0)
        self.dtype = np.dtype(np.float32)

    def append(self, row: np.ndarray) -> None:
        """Add a row; the first decides shape and dtype of all."""
        if not self.shape[0]:
            self.shape, self.dtype = (0, *row.shape), row.dtype
        if (row.shape, row.dtype) != (self.shape[1:], self.dtype):
            raise ValueError(f"a row is {row.dtype} {row.shape} after others of {self.shape[1:]}")
        with about_file(self._folder):
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(row).data)
        self.shape = (self.shape[0] + 1, *self.shape[1:])

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the rows in their order, some at a time: read-only arrays (B, ...)."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        for start in range(0, self.shape[0], STORED_ROWS):
            self._file.seek(start * size)
            rows = np.frombuffer(self._file.read(STORED_ROWS * size), self.dtype)
            yield rows.reshape(-1, *self.shape[1:])

    def whole(self) -> np.ndarray:
        """Return all rows in memory, (N, ...)."""
        rows: np.ndarray = np.empty(self.shape, self.dtype)
        for index, block in enumerate(self.blocks()):
            rows[index * STORED_ROWS :][: len(block)] = block
        return rows

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def write_npz(path: Path, arrays: Mapping[str, Union[np.ndarray, StoredRows]]) -> str:
    """Write arrays as ``numpy.savez`` lays them out, uncompressed, all or nothing.

    Parameters
    ----------
    path
        Target file; its folder is created if needed.
    arrays
        Key to array, of any dtype but object.

    Returns
    -------
    str
        sha256 of the file, lower-case hex; the file holds no time stamp, so the hash depends on
        the arrays alone.
    """
    digest = hashlib.sha256()
    directory = b""
    offset = 0
    with writing(path) as file:
        for key, array in arrays.items():
            member, entry = _stored_member(f"{key}.npy".encode(), array, offset)
            directory += entry
            for piece in member:
                digest.update(piece)
                file.write(piece)
                offset += memoryview(piece).nbytes
        end = (len(arrays), len(arrays), len(directory), offset, 0)
        last = directory + struct.pack("<4s4x2H2LH", b"PK\5\6", *end)
        digest.update(last)
        file.write(last)
    return digest.hexdigest()


def _stored_member(
    name: bytes, array: Union[np.ndarray, StoredRows], offset: int
) -> Tuple[Iterator[Union[bytes, memoryview]], bytes]:
    """Return a zip member in pieces, and its entry for the directory at the end.

    zipfile writes the checksum after the data, which needs a file or a copy to go back in; here
    the array's own memory goes to the file and to the hash. The layout is numpy.savez's.
    """
    text = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(array.dtype)
    facts = {"descr": descr, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(text, facts)
    header = text.getvalue()
    size, crc = len(header), zlib.crc32(header)
    for data in _data_of(array):
        size, crc = size + data.nbytes, zlib.crc32(data, crc)
    # source: PKWARE APPNOTE 6.3.9, 4.3.7 and 4.3.12; stored, of 1980-01-01, with ZIP64 sizes first
    common = (45, 0, 0, 0, 0x21, crc)
    unknown = 0xFFFFFFFF
    local = struct.pack("<4s5H3L2H", b"PK\3\4", *common, unknown, unknown, len(name), 20)
    local += name + struct.pack("<2H2Q", 1, 16, size, size)
    made_by_unix, user_reads_and_writes = 3 << 8 | 45, 0o600 << 16
    entry = struct.pack(
        "<4s6H3L5H2L",
        b"PK\1\2",
        *(made_by_unix, *common, size, size, len(name), 0, 0, 0, 0, user_reads_and_writes, offset),
    )
    return chain([local, header], _data_of(array)), entry + name


def _data_of(array: Union[np.ndarray, StoredRows]) -> Iterator[memoryview]:
    for block in array.blocks() if isinstance(array, StoredRows) else [array]:
        yield np.ascontiguousarray(block).reshape(-1).data


def read_npz(path: Path, sha256: str = "") -> Dict[str, np.ndarray]:
    """Read the arrays of an npz file; nothing in it is ever unpickled.

    Parameters
    ----------
    path
        The file.
    sha256
        Expected hash of the file, if given.

    Returns
    -------
    dict of str to numpy.ndarray
        Key to read-only array, in the file's order.

    Raises
    ------
    InputError
        If the file is missing or damaged, does not match the hash, or claims to be larger than it
        is or than an image can be.
    """
    try:
        data = read_file(path, 2 * LARGEST_ARRAY)
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error.strerror}; expected an image"
        ) from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{str(path)!r} is not the file that was recorded (its sha256 differs)")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {
                info.filename[: -len(".npy")]: _read_member(archive, info, LARGEST_ARRAY)
                for info in archive.infolist()
            }
    except Exception as error:  # zipfile, zlib and numpy raise anything on malformed bytes.
        raise InputError(f"{str(path)!r} is not an intact npz file: {error}") from error


def read_arrays(path: Path) -> Dict[str, np.ndarray]:
    """Read an npz or npy file of any size, such as embeddings; nothing in it is ever unpickled.

    Parameters
    ----------
    path
        The file; compressed arrays may not unpack to more than the largest image or the file size.

    Returns
    -------
    dict of str to numpy.ndarray
        Key to read-only array, in the file's order; the key of an npy file is ``array``.

    Raises
    ------
    InputError
        If the file is missing, damaged, or claims to be larger than it is.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if not zipfile.is_zipfile(file):
                file.seek(0)
                return {"array": _read_array(file, path.name, size, size)}
            with zipfile.ZipFile(file) as archive:
                largest = max(LARGEST_ARRAY, size)
                return {
                    info.filename[: -len(".npy")]: _read_member(archive, info, largest)
                    for info in archive.infolist()
                }
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except Exception as error:  # As above.
        raise InputError(f"{str(path)!r} is not an intact npz or npy file: {error}") from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, largest: int) -> np.ndarray:
    if not info.filename.endswith(".npy"):
        raise ValueError(f"its member {info.filename!r} is not an array")
    with archive.open(info) as member:
        return _read_array(member, info.filename, info.file_size, largest)


def _read_array(file: IO[bytes], name: str, file_size: int, largest: int) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    with _PARSING:
        shape, fortran_order, dtype = read_header(file)
    size = math.prod(shape) * dtype.itemsize
    # Before anything of that size is allocated.
    if dtype.hasobject or size != file_size - file.tell() or size > largest:
        raise ValueError(f"{name!r} claims to be {dtype} {shape} in {file_size} bytes")
    return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran_order else "C")


def load_json(path: Path, schema: str) -> Dict[str, Any]:
    """Read a JSON object of a schema; InputError if it cannot be read or has another schema."""
    try:
        entry = json.loads(read_text(path))
        found = entry.get("schema")
    except UNREADABLE as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); write it again") from error
    if found != schema:
        raise InputError(f"{str(path)!r} has schema {found!r}; expected {schema!r}: write it again")
    content: Dict[str, Any] = entry
    return content
