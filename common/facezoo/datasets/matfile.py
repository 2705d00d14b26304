"""MATLAB files of level 5, as far as ground truth needs them: cells, text and real numbers.

SciPy has a reader too; importing it takes as long as a whole evaluation.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Collection, Dict, Tuple

import numpy as np

__all__ = ["read_mat"]

# source: MAT-File Format (R2024a), level 5: a header of 128 bytes, then elements that begin with
# type and size and are padded to multiples of 8 bytes. Types of elements, those of text apart:
NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
TEXTS = {2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
# Classes of a matrix, in the lowest byte of its flags; those of numbers begin with floats.
CELL, TEXT, DOUBLE, LAST_NUMBER = 1, 4, 6, 15
IS_COMPLEX = 0x0800
DEEPEST = 8  # Ground truth nests three levels: events, photos, boxes.
HEADER, TAG = 128, 8  # bytes


def read_mat(data: bytes, names: Collection[str], largest: int) -> Dict[str, Any]:
    """Read variables of a level 5 .mat file.

    Parameters
    ----------
    data
        The file.
    names
        Names of the variables.
    largest
        Bytes that its compressed variables may unpack to, all together.

    Returns
    -------
    dict
        Name to array, in the file's shape: numbers, doubles as float64; cells as objects; text as
        an array of one string. A variable that the file does not have is left out.

    Raises
    ------
    ValueError
        If it is not such a file, is damaged, or unpacks to more.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:HEADER])
    if order is None:
        raise ValueError("not a MATLAB file of level 5")
    reader = _MatReader(order)
    found: Dict[str, Any] = {}
    position, room = HEADER, largest
    try:
        while position + TAG <= len(data):
            kind, content, position = reader.element(data, position)
            if kind == COMPRESSED:
                unpacker = zlib.decompressobj()
                unpacked = unpacker.decompress(content, room)
                room -= len(unpacked)
                if room <= 0 or not unpacker.eof:
                    raise ValueError("a variable unpacks to too much, or is cut short")
                kind, content, _ = reader.element(unpacked, 0)
            if kind == MATRIX:
                name, value = reader.matrix(content, names)
                if name in names:
                    found[name] = value
    except (struct.error, zlib.error, LookupError, TypeError, OverflowError) as error:
        raise ValueError(f"damaged: {error}") from error
    return found


class _MatReader:
    """Takes elements apart; written for the tens of thousands of small ones of a ground truth."""

    def __init__(self, order: str) -> None:
        self._tag = struct.Struct(f"{order}II").unpack_from
        self._number = struct.Struct(f"{order}I").unpack_from
        self._shapes = {8 * n: struct.Struct(f"{order}{2 * n}i").unpack for n in (1, 2)}
        self._dtypes = {kind: np.dtype(order + name) for kind, name in NUMBERS.items()}
        end = "-le" if order == "<" else "-be"
        self._encodings = {k: t + end if t in ("utf-16", "utf-32") else t for k, t in TEXTS.items()}

    def element(self, data: bytes, position: int) -> Tuple[int, bytes, int]:
        """Return type and content of an element, and where the next one begins."""
        kind, size = self._tag(data, position)
        start = position + TAG
        if kind >> 16:  # A small element: the tag holds type, size and at most four bytes.
            kind, size, start = kind & 0xFFFF, min(kind >> 16, 4), position + 4
        end = start + size
        if end > len(data):
            raise ValueError("an element is cut short")
        # A compressed element is followed at once by the next one.
        return kind, data[start:end], end if kind == COMPRESSED else end + -end % 8

    def matrix(self, data: bytes, names: Collection[str] = (), depth: int = 0) -> Tuple[str, Any]:
        """Return name and value; no value of a variable (of depth 0) that is not in ``names``."""
        if depth > DEEPEST:
            raise ValueError("nested too deeply")
        if not data:
            return "", np.zeros((0, 0))  # An empty cell has nothing inside.
        _, head, position = self.element(data, 0)
        (flags,) = self._number(head)
        _, dimensions, position = self.element(data, position)
        shape = self._shapes[len(dimensions)](dimensions)
        _, label, position = self.element(data, position)
        name, kind = label.decode("latin-1"), flags & 0xFF
        if depth == 0 and name not in names:
            return name, None
        if kind == CELL:
            if not 0 <= shape[0] * shape[1] <= len(data) // TAG:
                raise ValueError("more cells than data")
            cells = np.empty(shape[0] * shape[1], dtype=object)
            for index in range(len(cells)):
                _, content, position = self.element(data, position)
                cells[index] = self.matrix(content, depth=depth + 1)[1]
            return name, cells.reshape(shape, order="F")
        code, content, _ = self.element(data, position)
        if kind == TEXT:
            return name, np.array([content.decode(self._encodings[code])])
        if not DOUBLE <= kind <= LAST_NUMBER or flags & IS_COMPLEX:
            raise ValueError(f"{name!r} is of a class that is not read")
        value = np.frombuffer(content, self._dtypes[code])
        # Whole doubles are stored as the smallest integers that hold them.
        value = value.astype(np.float64) if kind == DOUBLE else value
        return name, value.reshape(shape, order="F")
