"""The list of files that a run wrote, by which alone a file is ever removed or replaced.

While a run is at work in a folder, every file that goes there is listed in ``.files.jsonl`` before
it gets its name: path, size and hash. So a file that is not listed, or has other content than was
written, is somebody else's, even after a kill. The list is found through the file system, since a
run's files are also written by its worker processes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import threading
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union, cast

from .errors import RunFolderError

try:
    import fcntl
except ImportError:  # pragma: no cover (Windows has no fcntl; the lock is then by existence only)
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileList", "about_file", "list_in", "remove_own", "write_beside", "writing"]

LIST_FILE, LOCK_FILE = ".files.jsonl", ".lock"
RESERVED = frozenset({"run.json", ".items.jsonl", LIST_FILE, LOCK_FILE})
CHUNK_BYTES = 1 << 20


class Version(NamedTuple):
    """What a file was when it was written: size in bytes, and BLAKE2b of 16 bytes, in hex."""

    size: int
    blake2b: str


class FileList:
    """The list of one run folder.

    Parameters
    ----------
    folder
        The run's; resolved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LIST_FILE
        self._read = 0
        # A file that is written again and again has its last two: a kill may come in between.
        self._versions: Dict[str, Tuple[Version, ...]] = {}
        self._temporary: Set[str] = set()
        self._guard = threading.Lock()

    def append(self, **entry: Any) -> None:
        """Add one line, at once: what is listed is listed whatever happens next."""
        # A line that a full disk cut short must not take the next one with it.
        line = f"\n{json.dumps(entry)}\n".encode("ascii")
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)

    def add(self, path: Path, version: Version) -> None:
        """List a file that is about to get its name."""
        self.append(path=self.name_of(path), **version._asdict())

    def name_of(self, path: Path) -> str:
        """Return how the list calls a file, whose folder is resolved."""
        return Path(os.path.relpath(path, self.folder)).as_posix()

    def _refresh(self) -> None:
        """Read what was added since, by any process."""
        with self._guard, self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if "temporary" in entry:
                self._temporary.add(str(entry["temporary"]))
            else:
                version = Version(int(entry["size"]), str(entry["blake2b"]))
                name = str(entry["path"])
                self._versions[name] = (*self._versions.get(name, ())[-1:], version)
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # A line that a full disk cut short lists nothing; its file never got its name.

    def versions(self) -> Dict[str, Tuple[Version, ...]]:
        """Return what was written, by path below the folder."""
        self._refresh()
        return self._versions

    def temporary(self) -> Set[str]:
        """Return the temporary names that were given."""
        self._refresh()
        return self._temporary

    def holds(self, path: Path, content: bool = True) -> bool:
        """Tell whether a file is as the run wrote it, by its size or by its content, too."""
        if path.is_symlink() or not path.is_file():
            return False
        found = self.versions().get(self.name_of(path), ())
        size = path.stat().st_size
        fitting = [version.blake2b for version in found if version.size == size]
        return bool(fitting) and (not content or _hash_of(path) in fitting)

    def compact(self) -> None:
        """Leave one line a file that is there, by name, so that equal runs have equal lists."""
        self.remove_temporary()
        versions = self.versions()
        names = sorted(name for name in versions if os.path.lexists(self.folder / name))
        temporary = self.folder / _temporary_name()
        self.append(temporary=temporary.name)
        with temporary.open("x", encoding="ascii") as file:
            for name in names:
                file.write(json.dumps({"path": name, **versions[name][-1]._asdict()}) + "\n")
        temporary.replace(self.path)

    def remove_temporary(self) -> None:
        """Remove what a killed process left under a temporary name."""
        for name in self.temporary():
            (self.folder / name).unlink(missing_ok=True)


def _hash_of(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


class _Hashing:
    """Writes a file and hashes what goes through."""

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


# Files outside a run's folder that it writes all the same, to the folder.
_beside: Dict[Path, Path] = {}


@contextmanager
def write_beside(folder: Path, paths: List[Path]) -> Iterator[None]:
    """Let files outside a run folder count as its own while it is at work."""
    real = {_real(path): folder for path in paths}
    _beside.update(real)
    try:
        yield
    finally:
        for path in real:
            _beside.pop(path, None)


def _real(path: Path) -> Path:
    """Resolve a file's folder; a link in the file's own place stays one."""
    return Path(os.path.realpath(path.parent), path.name)


@lru_cache(maxsize=16)
def list_in(folder: Path) -> FileList:
    """Return the list of a resolved run folder; one object, until another run takes the folder."""
    return FileList(folder)


def _run_of(path: Path) -> Optional[FileList]:
    """Find the list of the run at work in a folder above a file, whose folder is resolved."""
    if path in _beside:
        return list_in(_beside[path])
    for folder in path.parents:
        try:
            if is_locked(folder / LOCK_FILE) and (folder / LIST_FILE).exists():
                return list_in(folder)
        except OSError:
            continue
    return None


def is_locked(path: Path) -> bool:
    """Tell whether a run holds a lock."""
    with path.open("rb") as file:
        if fcntl is None:  # pragma: no cover (Windows)
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _temporary_name() -> str:
    # Drawn, so that whoever has this name has it from us; short, so that any name leaves room.
    return f".facezoo.{secrets.token_hex(8)}.tmp"


@contextmanager
def about_file(path: Path) -> Iterator[None]:
    """Let an error of the system name a file: a full disk's says none, others a temporary one."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file under a temporary name and rename it, so that it is never half there.

    Where a run is at work the file is listed as its own.

    Parameters
    ----------
    path
        Where to; its folder is made if needed.

    Raises
    ------
    RunFolderError
        If a run is at work there, and what stands under the name is not what it wrote.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    real = _real(path)
    temporary = real.with_name(_temporary_name())
    run = _run_of(real)
    is_bookkeeping = run is not None and real.parent == run.folder and real.name in RESERVED
    if run is not None:
        if not is_bookkeeping and os.path.lexists(real) and not run.holds(real):
            raise not_ours(path)
        with about_file(path):
            run.append(temporary=run.name_of(temporary))
    with about_file(path):
        try:
            with temporary.open("xb") as file:
                hashing = _Hashing(file)
                yield cast("IO[bytes]", hashing)
            if run is not None and not is_bookkeeping:
                run.add(real, hashing.version())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def not_ours(path: Path) -> RunFolderError:
    """Say that a file stands where a run would write."""
    return RunFolderError(
        f"{str(path)!r} is not what this run wrote there, and stays; move it away, or name "
        "another folder"
    )


def remove_own(path: Path) -> bool:
    """Remove a file that the run at work in its folder wrote; leave anybody else's.

    Returns
    -------
    bool
        Whether it was removed.
    """
    real = _real(path)
    run = _run_of(real)
    if run is None or not run.holds(real):
        return False
    real.unlink()
    return True
