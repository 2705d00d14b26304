"""The list of files that a run wrote; only listed files are ever removed or replaced.

While a run works in a folder, every file written there is listed in ``.files.jsonl`` before it gets
its name: path, size and hash. A file that is not listed, or whose content differs from what was
written, does not belong to the run, even after a kill. The list is found through the file system,
since a run's files are also written by its worker processes.

A run's files are synced to the disk in groups, together with the list, about once per second and at
the end: syncing each alone would take longer than writing it. A power failure may therefore leave
the last files of a run empty or full of zero bytes; the list shows which. A file outside of a run,
and one that replaces another, is synced before it gets its name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import (
    IO,
    Any,
    Dict,
    FrozenSet,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
    cast,
)

from .errors import ImageError, InputError, RunFolderError
from .fields import STRING, check, matching, record, whole
from .system import lock, sync_path

__all__ = [
    "FileList",
    "about_file",
    "asked_for",
    "forget_list",
    "is_listed",
    "is_regular",
    "is_temporary",
    "list_in",
    "remove_own",
    "work_for_caller",
    "work_for_parent",
    "write_beside",
    "writing",
]

LIST_FILE, LOCK_FILE = ".files.jsonl", ".lock"
RESERVED = frozenset({"run.json", ".items.jsonl", LIST_FILE, LOCK_FILE})
CHUNK_BYTES = 1 << 20
# In bytes; a path has at most 4,095, each of which may become six in JSON.
LONGEST_LINE = 1 << 16
LONGEST_PATH = 4095  # bytes; source: limits(5) of Linux, PATH_MAX, which counts a final NUL
# On resume, files up to this size are compared by content, larger ones by size.
SMALL_BYTES = 1 << 16
# Calls at the same time share one flush of the disk.
SYNC_THREADS = 8
# Syncs of a run are a second apart, and further if they would take more than this part of the time.
SYNC_SHARE = 0.05

# Lines of the list.
_FILE = record(
    {
        "path": STRING,
        "size": whole(0, 1 << 63),
        "blake2b": matching("[0-9a-f]{32}", "32 hexadecimal digits"),
    }
)
_TEMPORARY = record({"temporary": matching(r"(.*/)?\.facezoo\.[0-9a-f]+\.tmp", "a temporary name")})


class Version(NamedTuple):
    """Size in bytes and hash (BLAKE2b, 16 bytes, hex) of a file when it was written."""

    size: int
    blake2b: str


class FileList:
    """The list of one run folder.

    Parameters
    ----------
    folder
        The run folder, resolved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LIST_FILE
        self._read = 0
        # A file that is written repeatedly has its last two: a kill may happen in between.
        self._versions: Dict[str, Tuple[Version, ...]] = {}
        self._temporary: Set[str] = set()
        # Results of a finished run and its books, which nothing else may replace.
        self.final: FrozenSet[str] = frozenset()
        self._guard = threading.Lock()
        # Files of this process; those of worker processes are only in the list.
        self._mine: Set[str] = set()
        self._unsynced: List[Path] = []
        self._syncing = threading.Lock()
        self._next_sync = 0.0

    def append(self, **entry: Any) -> None:
        """Append one line in a single write, so that it survives whatever happens next."""
        # A line truncated by a full disk must not corrupt the next one.
        line = f"\n{json.dumps(entry)}\n".encode("ascii")
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)

    def add(self, path: Path, version: Version) -> None:
        """List a file that is about to get its name."""
        name = self.name_of(path)
        self.append(path=name, **version._asdict())
        self._mine.add(name)

    def mine(self) -> Set[str]:
        """Return the names of the files that this process wrote."""
        return set(self._mine)

    def sync_in_group(self, path: Path) -> None:
        """Sync a file with the next group, which may be now."""
        with self._guard:
            self._unsynced.append(path)
        if time.monotonic() >= self._next_sync:
            self.sync()

    def sync(self, everything: bool = False) -> None:
        """Sync the list and the files that this process, or any, wrote since the last time."""
        with self._syncing:
            with self._guard:
                paths, self._unsynced = self._unsynced, []
            if everything:
                others = set(self.versions()) - self._mine
                paths += [self.folder / name for name in sorted(others)]
            started = time.monotonic()
            # The list first: a file that is not in it would be a stranger.
            _sync_files([self.path])
            _sync_files(paths)
            _sync_files(sorted({path.parent for path in [self.path, *paths]}))
            ended = time.monotonic()
            self._next_sync = ended + max(1.0, (ended - started) / SYNC_SHARE)

    def name_of(self, path: Path) -> str:
        """Return the name in the list of a file whose folder is resolved."""
        return Path(os.path.relpath(path, self.folder)).as_posix()

    def _refresh(self) -> None:
        """Read the lines added since by any process."""
        with self._guard, self.path.open("rb") as file:
            file.seek(self._read)
            # Not line by line without a limit: of somebody else's file one may have no end.
            for line in iter(lambda: file.readline(LONGEST_LINE), b""):
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            is_temporary = isinstance(entry, dict) and "temporary" in entry
            check(entry, _TEMPORARY if is_temporary else _FILE, "line")
        except (ValueError, RecursionError):
            return  # A line truncated by a full disk lists nothing; its file never got its name.
        if is_temporary:
            self._temporary.add(entry["temporary"])
        else:
            version = Version(entry["size"], entry["blake2b"])
            name = entry["path"]
            self._versions[name] = (*self._versions.get(name, ())[-1:], version)

    def versions(self) -> Dict[str, Tuple[Version, ...]]:
        """Return the written files, by path below the folder."""
        self._refresh()
        return self._versions

    def temporary(self) -> Set[str]:
        """Return the temporary names that were used."""
        self._refresh()
        return self._temporary

    def holds(self, path: Path, thorough: bool = True) -> bool:
        """Return whether a file is as the run wrote it.

        Without ``thorough``, only small files are compared by content, and larger ones that begin
        with zero bytes, as a power failure leaves them.
        """
        if path.is_symlink() or not path.is_file():
            return False
        found = self.versions().get(self.name_of(path), ())
        size = path.stat().st_size
        fitting = [version.blake2b for version in found if version.size == size]
        if not fitting:
            return False
        return (
            not (thorough or size <= SMALL_BYTES or not _first_bytes(path).strip(b"\0"))
            or _hash_of(path) in fitting
        )

    def is_emptied(self, path: Path) -> bool:
        """Return whether a file of the run is empty or full of zero bytes, but was not written so.

        A power failure leaves such a file; nobody loses anything with it.
        """
        if path.is_symlink() or not path.is_file() or not self.versions().get(self.name_of(path)):
            return False
        return _is_blank(path) and not self.holds(path)

    def compact(self) -> None:
        """Keep one line per existing file, sorted by name: equal runs have equal lists."""
        self.remove_temporary()
        versions = self.versions()
        names = sorted(name for name in versions if os.path.lexists(self.folder / name))
        temporary = self.folder / _temporary_name()
        self.append(temporary=temporary.name)
        with temporary.open("x", encoding="ascii") as file:
            for name in names:
                file.write(json.dumps({"path": name, **versions[name][-1]._asdict()}) + "\n")
            _sync_open(file)
        temporary.replace(self.path)

    def remove_temporary(self) -> None:
        """Remove temporary files of a killed process."""
        for name in self.temporary():
            # What cannot be removed is no name that a run wrote.
            with suppress(OSError, ValueError):
                (self.folder / name).unlink()


def _hash_of(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _is_blank(path: Path) -> bool:
    if _first_bytes(path).strip(b"\0"):
        return False
    with path.open("rb") as file:
        return not any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(CHUNK_BYTES), b""))


def _sync_files(paths: Sequence[Path]) -> None:
    if len(paths) == 1:
        sync_path(paths[0])
    elif paths:
        # One task per thread: one per file would take more memory than all the names.
        shares = [paths[rank::SYNC_THREADS] for rank in range(SYNC_THREADS)]
        with ThreadPoolExecutor(SYNC_THREADS) as pool:
            list(pool.map(_sync_share, shares))


def _sync_share(paths: Sequence[Path]) -> None:
    for path in paths:
        sync_path(path)


def _sync_open(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Hashing:
    """Writes a file and hashes the content."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.blake2b(digest_size=16)
        self._size = 0

    def write(self, data: Union[bytes, memoryview]) -> int:
        self._digest.update(data)
        self._size += memoryview(data).nbytes
        return self._file.write(data)

    def version(self) -> Version:
        return Version(self._size, self._digest.hexdigest())


class _Helper(threading.local):
    """Whether this thread works for another one, whose run it is."""

    is_one = False


# Whether this process works for another one, whose run it is.
_is_worker = False
_helper = _Helper()


def work_for_parent() -> None:
    """Let this process write into a run folder only as long as its parent's run holds it.

    A worker outlives a killed parent by a moment: what it wrote then would be in no list.
    """
    global _is_worker
    _is_worker = True


def work_for_caller() -> None:
    """Let this thread write into a run folder only as long as the run holds it.

    After Ctrl-C a thread outlives the run by a moment: what it wrote then would be in no list.
    """
    _helper.is_one = True


# Files that a run writes outside its folder, to the folder.
_beside: Dict[Path, Path] = {}


@contextmanager
def write_beside(folder: Path, paths: List[Path]) -> Iterator[None]:
    """Treat files outside a run folder as its own while it runs."""
    real = {_real(path): folder for path in paths}
    _beside.update(real)
    try:
        yield
    finally:
        for path in real:
            _beside.pop(path, None)


# Files that a command was told to write, besides its results.
_asked_for: Set[Path] = set()


@contextmanager
def asked_for(paths: Sequence[Path]) -> Iterator[None]:
    """Treat files as asked for by name while a command runs: they replace no result of a run."""
    real = {_real(path) for path in paths}
    _asked_for.update(real)
    try:
        yield
    finally:
        _asked_for.difference_update(real)


def _real(path: Path) -> Path:
    """Resolve a file's folder; if the file itself is a link, it stays one."""
    return Path(os.path.realpath(path.parent), path.name)


# Of every run that this program writes to; several may work at once, each in a thread.
_lists: Dict[Path, FileList] = {}


def list_in(folder: Path) -> FileList:
    """Return the list of a resolved run folder; one object, until another run takes the folder."""
    found = _lists.get(folder)
    return _lists.setdefault(folder, FileList(folder)) if found is None else found


def forget_list(folder: Path) -> None:
    """Let the next call of :func:`list_in` read the list anew."""
    _lists.pop(folder, None)


def _run_of(path: Path) -> Optional[FileList]:
    """Find the list of the run that works in a folder above a file, whose folder is resolved."""
    if path in _beside:
        return list_in(_beside[path])
    for folder in path.parents:
        if _has_list(folder):
            if _is_held(folder):
                return list_in(folder)
            if _is_worker or _helper.is_one:
                raise ConnectionError(f"the run in {str(folder)!r} has ended")
    return None


def is_listed(path: Path) -> Optional[bool]:
    """Return whether a run wrote a file or keeps its books in it; None outside of run folders."""
    real = _real(path)
    for folder in real.parents:
        if _has_list(folder):
            files = FileList(folder)
            return files.name_of(real) in {*RESERVED, *files.versions()}
    return None


def _has_list(folder: Path) -> bool:
    return is_regular(folder / LIST_FILE)


def _is_held(folder: Path) -> bool:
    try:
        return is_regular(folder / LOCK_FILE) and is_locked(folder / LOCK_FILE)
    except OSError:
        return False


def is_regular(path: Path) -> bool:
    """Return whether there is a file that a run can have made; opening a pipe would not end."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def is_locked(path: Path) -> bool:
    """Tell whether a run holds a lock."""
    with path.open("rb") as file:
        try:
            lock(file, shared=True)
        except BlockingIOError:
            return True
    return False


def _temporary_name() -> str:
    # Random, so that only facezoo creates such a name; short, so that it always fits.
    return f".facezoo.{secrets.token_hex(8)}.tmp"


def is_temporary(path: Path) -> bool:
    """Return whether a file has a name that :func:`writing` gives to unfinished files."""
    return re.fullmatch(r"\.facezoo\.[0-9a-f]+\.tmp", path.name) is not None


@contextmanager
def about_file(path: Path) -> Iterator[None]:
    """Make an OSError name the file; it may name none (full disk) or a temporary one."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def writing(path: Path, sync: bool = True) -> Iterator[IO[bytes]]:
    """Write a file under a temporary name and rename it, so that it is never incomplete.

    If a run works in the folder, the file is listed as its own, and synced to the disk with others;
    otherwise, or if it replaces another file, it is synced before it gets its name.

    Parameters
    ----------
    path
        Target file; its folder is created if necessary.
    sync
        Sync the file as described, unless it is one of many that are easily made again.

    Raises
    ------
    RunFolderError
        If a run works there and the existing file is not as the run wrote it.
    InputError
        If it was asked for by name, and is a result of a finished run or one of its own files.
    ImageError
        If its path is too long, as one of many images may have it.
    """
    real = _real(path)
    temporary = real.with_name(_temporary_name())
    if max(len(os.fsencode(each)) for each in (path, real, temporary)) > LONGEST_PATH:
        raise ImageError(
            f"{str(path)!r} would be longer than a path may be, {LONGEST_PATH} bytes; name a "
            "folder with a shorter path for the results"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    run = _run_of(real)
    is_bookkeeping = run is not None and real.parent == run.folder and real.name in RESERVED
    replaces = os.path.lexists(real)
    if run is not None:
        if real in _asked_for and run.name_of(real) in run.final:
            raise _stays(path)
        if not is_bookkeeping and replaces and not run.holds(real):
            raise not_ours(path)
        with about_file(path):
            run.append(temporary=run.name_of(temporary))
    elif real in _asked_for and is_listed(real):
        raise _stays(path)
    with about_file(path):
        try:
            with temporary.open("xb") as file:
                hashing = _Hashing(file)
                yield cast("IO[bytes]", hashing)
                if sync and (run is None or is_bookkeeping or replaces):
                    _sync_open(file)
            if run is not None and not is_bookkeeping:
                run.add(real, hashing.version())
            temporary.replace(path)
            if run is not None:
                run.sync_in_group(real)
        finally:
            temporary.unlink(missing_ok=True)


def _stays(path: Path) -> InputError:
    return InputError(
        f"{str(path)!r} belongs to the run in its folder, and stays; name another file"
    )


def not_ours(path: Path) -> RunFolderError:
    """Say that an existing file blocks a run."""
    return RunFolderError(
        f"{str(path)!r} is not what this run wrote there, and stays; move it away, or name "
        "another folder"
    )


def remove_own(path: Path) -> bool:
    """Remove a file that the run in its folder wrote; leave any other file.

    Returns
    -------
    bool
        Whether it was removed.
    """
    real = _real(path)
    run = _run_of(real) if os.path.lexists(real) else None
    if run is None or not run.holds(real):
        return False
    # What takes its place is on the disk before it is gone.
    run.sync()
    real.unlink()
    return True
