"""Reader of pickles with images and labels that executes nothing of them.

A pickle can call any function when it is loaded. Only the instructions that lists of bytes, numbers
and NumPy arrays need are interpreted here, and the few functions that they name are replaced with
inert stand-ins.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any, Callable, ClassVar, Dict, List, Sequence, Tuple

import numpy as np

from ..errors import DatasetError

__all__ = ["bytes_of", "items_of", "load_inert"]

# Kinds of numbers that a label may have; byte orders are stored beside them.
_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
_LONGEST_NUMBER = 20  # digits and sign of the largest in 64 bits
_BOOLEANS = {b"00": False, b"01": True}  # as integers of protocols 0 and 1


def load_inert(content: bytes) -> Any:
    """Read a pickle of any protocol without executing anything of it.

    Parameters
    ----------
    content
        The file's bytes.

    Returns
    -------
    object
        Lists, tuples, ``bytes``, text, numbers, and stand-ins for NumPy's arrays, for
        :func:`items_of` and :func:`bytes_of`.

    Raises
    ------
    DatasetError
        If the pickle refers to anything else.
    Exception
        Any, for a broken pickle.
    """
    return _Reader(io.BytesIO(content)).load()


def items_of(value: Any) -> Sequence[Any]:
    """Return the items of a list, tuple or array; nothing for any other value."""
    if isinstance(value, _Array):
        return value.items()
    return value if isinstance(value, (list, tuple)) else ()


def bytes_of(value: Any) -> bytes:
    """Return the content of bytes or an array of bytes; nothing for any other value."""
    if isinstance(value, _Array):
        return value.bytes()
    return value if isinstance(value, bytes) else b""


class _Type:
    """Stand-in for ``numpy.dtype`` that keeps its name and byte order."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = _text(name).lstrip("|<>=")
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and _text(state[1]) == ">":
            self.order = ">"

    def numbers(self, content: Any) -> Sequence[Any]:
        """Return the numbers in a buffer as Python's; nothing for other types."""
        if self.name not in _NUMBERS or not isinstance(content, bytes):
            return ()
        values: Sequence[Any] = np.frombuffer(content, self.order + self.name).tolist()
        return values


class _Array:
    """Stand-in for ``numpy.ndarray`` that keeps the state from the pickle."""

    def __init__(self, *_: Any) -> None:
        self.kind: Any = None
        self.content: Any = None

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 5:
            _, _, self.kind, _, self.content = state

    def bytes(self) -> bytes:
        """Return the bytes of a byte array; empty for any other array."""
        is_bytes = isinstance(self.kind, _Type) and self.kind.name == "u1"
        return self.content if is_bytes and isinstance(self.content, bytes) else b""

    def items(self) -> Sequence[Any]:
        """Return the objects, or the numbers, of an array."""
        if not isinstance(self.kind, _Type):
            return ()
        if self.kind.name[:1] == "O":
            return self.content if isinstance(self.content, list) else ()
        return self.kind.numbers(self.content)


def _text(value: Any) -> str:
    # Python 2's texts are read as bytes.
    value = value.decode("latin-1") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else ""


def _from_buffer(content: Any, kind: Any, *_: Any) -> _Array:
    array = _Array()
    array.kind, array.content = kind, content
    return array


def _scalar(kind: Any, content: Any = b"") -> Any:
    numbers = kind.numbers(content) if isinstance(kind, _Type) else ()
    if len(numbers) != 1:
        raise DatasetError("rejected: a NumPy number that is neither an integer nor a boolean")
    return numbers[0]


def _encoded(value: Any, *_: Any) -> bytes:
    """Return text, which is how protocols before 3 write bytes, or bytes, as bytes."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, bytes):
        raise DatasetError("rejected: bytes that are made of neither text nor bytes")
    return value


def _no_bytes(*given: Any) -> bytes:
    return _encoded(*given) if given else b""


_STAND_INS: Dict[Tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
    ("builtins", "bytearray"): _no_bytes,
    ("__builtin__", "bytearray"): _no_bytes,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}

# Instructions for numbers, bytes, text, lists, tuples, references, and the construction of arrays.
# The reader knows no others.
_INSTRUCTIONS: Sequence[bytes] = (
    pickle.PROTO,
    pickle.FRAME,
    pickle.STOP,
    pickle.MARK,
    pickle.NONE,
    pickle.NEWTRUE,
    pickle.NEWFALSE,
    pickle.INT,
    pickle.BININT,
    pickle.BININT1,
    pickle.BININT2,
    pickle.STRING,
    pickle.BINSTRING,
    pickle.SHORT_BINSTRING,
    pickle.BINBYTES,
    pickle.SHORT_BINBYTES,
    pickle.BYTEARRAY8,
    pickle.UNICODE,
    pickle.BINUNICODE,
    pickle.SHORT_BINUNICODE,
    pickle.LIST,
    pickle.EMPTY_LIST,
    pickle.APPEND,
    pickle.APPENDS,
    pickle.EMPTY_TUPLE,
    pickle.TUPLE,
    pickle.TUPLE1,
    pickle.TUPLE2,
    pickle.TUPLE3,
    pickle.PUT,
    pickle.BINPUT,
    pickle.LONG_BINPUT,
    pickle.MEMOIZE,
    pickle.GET,
    pickle.BINGET,
    pickle.LONG_BINGET,
    pickle.GLOBAL,
    pickle.STACK_GLOBAL,
    pickle.REDUCE,
    pickle.BUILD,
)


# The unpickler written in Python: the one in C lets a file of 20 bytes allocate 32 GB, and its
# instructions cannot be restricted.
class _Reader(pickle._Unpickler):
    dispatch: ClassVar[Dict[int, Callable[[Any], None]]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]] for code in _INSTRUCTIONS
    }

    # Set by Python's reader.
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    append: Callable[[Any], None]
    memo: Dict[int, Any]
    stack: List[Any]

    def __init__(self, file: io.BytesIO) -> None:
        # Sets written by Python 2 store images as strings.
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise DatasetError(
                f"rejected: it refers to {module[:80]}.{name[:80]}, which no verification set "
                "needs; no code was executed"
            )
        return _STAND_INS[module, name]

    def _line(self) -> bytes:
        # Python's own converts a line of any length, in a time that grows with its square.
        digits: bytes = self.readline()[:-1]
        if len(digits) > _LONGEST_NUMBER:
            raise DatasetError(f"rejected: a number of {len(digits)} digits")
        return digits

    def _load_short_int(self) -> None:
        digits = self._line()
        self.append(_BOOLEANS[digits] if digits in _BOOLEANS else int(digits))

    def _load_get(self) -> None:
        self.append(self.memo[int(self._line())])

    def _load_put(self) -> None:
        self.memo[int(self._line())] = self.stack[-1]

    def _load_bytearray(self) -> None:
        # Python's own allocates what the file claims before it reads.
        (size,) = struct.unpack("<Q", self.read(8))
        content = self.read(size)
        if len(content) != size:
            raise DatasetError(f"cut short: {len(content)} of {size} bytes")
        self.append(content)

    dispatch[pickle.INT[0]] = _load_short_int
    dispatch[pickle.GET[0]] = _load_get
    dispatch[pickle.PUT[0]] = _load_put
    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray
