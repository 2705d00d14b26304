"""Contents of many input files: hashed before a run, and compared again if a file may have changed.

Names, sizes and times do not identify a content: archives unpacked with fixed times, or images of
one size, have all of them in common. Reading everything again at each start takes long, so a hash
is kept as long as every file has the device, inode, size and times that it had. Programs can set
the time of the content, not that of the inode, so this is safe where the latter is fine enough.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from array import array
from pathlib import Path
from typing import IO, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .files import LARGEST_FILE
from .machine import usable_cores
from .system import HAS_CHANGE_TIME, OPEN_AT_ONCE
from .workers import map_in_order
from .written import CHUNK_BYTES

__all__ = [
    "Contents",
]

DIGEST_BYTES = 16
# Of larger files, which no image is, only the ends and the time of the content count.
WHOLE_BYTES, END_BYTES = 1 << 30, 1 << 24
# Files per task of a thread.
SHARE = 64
# Inode times that are multiples of this come from a file system with coarse times, such as FAT,
# where a file may change without a new time, or where a program can set it.
FINE_NS = 10_000_000
# A file that changed just before it was read may have changed once more at the same tick.
SETTLED_NS = 1_000_000_000

_NO_FILE = bytes(DIGEST_BYTES)
_OPEN = os.O_RDONLY | OPEN_AT_ONCE


class _File(NamedTuple):
    digest: bytes
    identity: int
    is_trusted: bool


class Contents:
    """Hashes of the contents of a list of files.

    Parameters
    ----------
    paths, names
        The files, and the names they go by in the hash of all.

    Attributes
    ----------
    sha256
        Hash of all names and contents, lower-case hex; set by :meth:`read`. Files that cannot be
        read count by name.
    state
        Hash of all names, devices, inodes, sizes and times, lower-case hex; None if these do not
        show every change of a content.
    """

    def __init__(self, paths: Sequence[Path], names: Sequence[str]) -> None:
        self._paths, self._names = paths, names
        self._digests = bytearray()
        # 8 bytes per file; a training may have millions.
        self._identities = array("q")
        self.sha256 = ""
        self.state: Optional[str] = None

    def read(self, known_state: Optional[str] = None, known_sha256: str = "") -> None:
        """Hash the contents, or use an earlier hash if no file has changed since.

        Parameters
        ----------
        known_state, known_sha256
            :attr:`state` and :attr:`sha256` of an earlier time.
        """
        if known_state is not None:
            found = (_identity_of(path) for path in self._paths)
            self._identities = array("q", (0 if one is None else hash(one) for one in found))
            if self._hash_of(self._identities.tobytes(), 8) == known_state:
                self.state, self.sha256 = known_state, known_sha256
                return
        self._digests, self._identities, is_trusted = bytearray(), array("q"), True
        for file in self._read_all():
            self._digests += file.digest
            self._identities.append(file.identity)
            is_trusted = is_trusted and file.is_trusted
        self.sha256 = self._hash_of(bytes(self._digests), DIGEST_BYTES)
        self.state = self._hash_of(self._identities.tobytes(), 8) if is_trusted else None

    def _read_all(self) -> Iterator[_File]:
        shares = (self._paths[start : start + SHARE] for start in range(0, len(self._paths), SHARE))
        for files in map_in_order(_read_share, shares, usable_cores()):
            yield from files

    def _hash_of(self, values: bytes, size: int) -> str:
        digest = hashlib.sha256()
        for index, name in enumerate(self._names):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
            digest.update(values[index * size : (index + 1) * size])
        return digest.hexdigest()

    def has_changed(self, index: int) -> bool:
        """Return whether a file has another content now; one that is gone has not."""
        identity = _identity_of(self._paths[index])
        if identity is None or hash(identity) == self._identities[index]:
            return False
        if not self._digests:
            # A known hash was used, so that the contents are not known one by one.
            now = Contents(self._paths, self._names)
            now.read()
            if now.sha256 != self.sha256:
                return True
            self._digests, self._identities = now._digests, now._identities
            return False
        file = _read(self._paths[index])
        if file.digest != self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]:
            return True
        self._identities[index] = file.identity
        return False

    def digest(self, index: int) -> str:
        """Return the hash of the content of one file, lower-case hex."""
        if not self._digests:  # A known hash of all was used.
            return _read(self._paths[index]).digest.hex()
        start = index * DIGEST_BYTES
        return bytes(self._digests[start : start + DIGEST_BYTES]).hex()

    def changed(self) -> List[int]:
        """Return the indices of the files that have another content now."""
        return [index for index in range(len(self._paths)) if self.has_changed(index)]


def _read_share(paths: Sequence[Path]) -> List[_File]:
    return [_read(path) for path in paths]


def _read(path: Path) -> _File:
    """Hash a file; one that changes meanwhile is read again, and has changed if it still does."""
    try:
        number = os.open(path, _OPEN)
    except (OSError, ValueError):
        return _File(_NO_FILE, 0, True)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)  # A folder can be opened, but is no file to Python.
        return _File(_NO_FILE, 0, True)
    with os.fdopen(number, "rb", buffering=0) as file:
        for _ in range(3):
            began, status = time.time_ns(), os.fstat(number)
            if status.st_size > LARGEST_FILE:
                return _File(_NO_FILE, 0, True)
            try:
                digest = _digest(file, status)
            except OSError:
                return _File(_NO_FILE, 0, True)
            if _identity(os.fstat(number)) == _identity(status):
                break
    is_fine = HAS_CHANGE_TIME and status.st_ctime_ns % FINE_NS != 0
    is_trusted = is_fine and status.st_ctime_ns + SETTLED_NS < began
    return _File(digest, hash(_identity(status)), is_trusted)


def _digest(file: IO[bytes], status: os.stat_result) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    size = status.st_size
    ends = [(0, size)]
    if size > WHOLE_BYTES:
        digest.update(f"{size} {status.st_mtime_ns}".encode())
        ends = [(0, END_BYTES), (size - END_BYTES, size)]
    for start, end in ends:
        file.seek(start)
        while start < end:
            chunk = file.read(min(CHUNK_BYTES, end - start))
            if not chunk:
                break  # It was cut meanwhile.
            digest.update(chunk)
            start += len(chunk)
    return digest.digest()


def _identity(status: os.stat_result) -> Tuple[int, ...]:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_size, *times)


def _identity_of(path: Path) -> Optional[Tuple[int, ...]]:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return _identity(status) if stat.S_ISREG(status.st_mode) else None
