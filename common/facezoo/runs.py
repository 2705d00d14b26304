"""The run folder: what makes a long command resumable and keeps two runs apart.

A command that writes a folder keeps ``run.json`` in it (command, settings, hash of the inputs,
versions, times), a lock while it works, and a journal with one line an item. Started again with
the same fingerprint it keeps what is done; with another it refuses. Files other than ``run.json``
contain no times, so a resumed result equals an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import (
    IO,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Type,
    Union,
)

from . import __version__
from .errors import UNREADABLE, ImageError, InputError, RunFolderError
from .files import about_file, write_bytes

try:
    import fcntl
except ImportError:  # pragma: no cover (Windows has no fcntl; the lock is then by existence only)
    fcntl = None  # type: ignore[assignment]

__all__ = ["RunFolder", "fingerprint_files"]

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
JOURNAL_FILE = ".items.jsonl"
SCHEMA = "facezoo.run/1"

_log = logging.getLogger(__name__)


class SupportsToDict(Protocol):
    """A result that can be written as JSON values."""

    def to_dict(self) -> Dict[str, Any]:
        """Return the result as JSON values."""


def fingerprint_files(paths: Sequence[Path], names: Sequence[str]) -> str:
    """Hash a list of input files by name, size and time of change.

    Parameters
    ----------
    paths, names
        The files, and the names they go by in the run.

    Returns
    -------
    str
        sha256, lower-case hex; files that cannot be looked at count by name.
    """
    digest = hashlib.sha256()
    for path, name in zip(paths, names):
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "unreadable"
        digest.update(f"{name}\0{state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class RunFolder:
    """An output folder that belongs to one run; a context manager that holds its lock.

    Parameters
    ----------
    folder
        Made if it is not there.
    command
        Name of the command, such as ``scrfd_vsx``.
    settings
        Everything that decides the result; JSON values.
    inputs_sha256
        From :func:`fingerprint_files`.
    owned
        Names of files and folders the command writes there; anything else makes it refuse.
    overwrite
        Empty the folder of what a run owns, and start anew.

    Raises
    ------
    RunFolderError
        If the folder belongs to another run, holds unknown files, or is in use.
    InputError
        If it cannot be made or written.
    """

    def __init__(
        self,
        folder: Path,
        command: str,
        settings: Mapping[str, Any],
        inputs_sha256: str,
        owned: Iterable[str],
        overwrite: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self._owned = {RUN_FILE, LOCK_FILE, JOURNAL_FILE, *owned}
        self._wanted: Dict[str, Any] = {
            "command": command,
            "settings": json.loads(json.dumps(settings)),
            "inputs_sha256": inputs_sha256,
            "facezoo": __version__,
        }
        self._overwrite = overwrite
        self._lock: Optional[IO[str]] = None
        self._journal: Optional[IO[bytes]] = None
        self._started = time.monotonic()
        self._results: Dict[str, int] = {}
        self.finished = False
        self.refused = 0

    def __enter__(self) -> RunFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{str(self.folder)!r} cannot be made: {error.strerror}; name another folder"
            ) from error
        self._take_lock()
        try:
            self._claim()
        except BaseException:
            self._release_lock()
            raise
        return self

    def _take_lock(self) -> None:
        try:
            self._lock = (self.folder / LOCK_FILE).open("w")
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_same_file(self._lock, self.folder / LOCK_FILE):
                    # A run that ended meanwhile took its lock away, and another may have its own.
                    self._lock.close()
                    self._take_lock()
        except BlockingIOError as error:
            if self._lock is not None:
                self._lock.close()
            raise RunFolderError(
                f"{str(self.folder)!r} is in use by another run; wait for it or name another folder"
            ) from error
        except OSError as error:
            raise InputError(
                f"{str(self.folder)!r} cannot be written: {error.strerror}; name another folder"
            ) from error

    def _release_lock(self) -> None:
        if self._lock is not None:
            (self.folder / LOCK_FILE).unlink()
            self._lock.close()
            self._lock = None

    def _claim(self) -> None:
        foreign = sorted(
            entry.name
            for entry in self.folder.iterdir()
            if entry.name not in self._owned and not entry.name.endswith(".tmp")
        )
        if foreign:
            raise RunFolderError(
                f"{str(self.folder)!r} holds {foreign[0]!r} and {len(foreign) - 1} more that no "
                "such run writes; name an empty or new folder"
            )
        if self._overwrite:
            self._empty()
        run_file = self.folder / RUN_FILE
        if run_file.exists():
            self._check_same(run_file)
        else:
            strangers = sorted(
                e.name for e in self.folder.iterdir() if e.name not in (LOCK_FILE, RUN_FILE)
            )
            if strangers:
                raise RunFolderError(
                    f"{str(self.folder)!r} holds {strangers[0]!r} but no {RUN_FILE}, so whose it "
                    "is cannot be told; use --overwrite to start anew"
                )
            self._write_run_file(finished=False)

    def _empty(self) -> None:
        for entry in list(self.folder.iterdir()):
            if entry.name == LOCK_FILE:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _check_same(self, run_file: Path) -> None:
        try:
            found = json.loads(run_file.read_text(encoding="utf-8"))
            differing = [key for key, value in self._wanted.items() if found.get(key) != value]
            self.finished = bool(found.get("finished"))
            self.refused = int(found.get("refused", 0))
            results = {str(name): int(size) for name, size in found.get("results", {}).items()}
        except UNREADABLE as error:
            raise RunFolderError(
                f"{str(run_file)!r} cannot be read ({error}); use --overwrite to start anew"
            ) from error
        if differing:
            parts = [self._describe(key, found.get(key)) for key in differing]
            raise RunFolderError(
                f"{str(self.folder)!r} belongs to another run ({'; '.join(parts)}); name another "
                "folder or use --overwrite to start anew"
            )
        changed = [name for name, size in results.items() if self._size_of(name) != size]
        if self.finished and changed:
            self._start_again(f"{changed[0]!r} is gone or has changed")

    def _size_of(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else -1

    def _start_again(self, reason: str) -> None:
        _log.warning("%s was finished, but %s; it is done again", self.folder, reason)
        self.finished = False
        self.refused = 0
        self._write_run_file(finished=False)

    def _describe(self, key: str, found: Any) -> str:
        if key == "settings" and isinstance(found, dict):
            wanted = self._wanted[key]
            names = [n for n in sorted({*found, *wanted}) if found.get(n) != wanted.get(n)]
            return ", ".join(f"{n} was {found.get(n)!r}, is {wanted.get(n)!r}" for n in names)
        if key == "inputs_sha256":
            return "the inputs have changed"
        return f"{key} was {found!r}, is {self._wanted[key]!r}"

    def _write_run_file(self, finished: bool) -> None:
        entry = {
            "schema": SCHEMA,
            **self._wanted,
            "finished": finished,
            "ended_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) if finished else None,
            "seconds": round(time.monotonic() - self._started, 3) if finished else None,
            "refused": self.refused,
            "results": self._results,
        }
        text = json.dumps(entry, indent=2, ensure_ascii=False) + "\n"
        write_bytes(self.folder / RUN_FILE, text.encode("utf-8"))

    def completed(
        self, names: Sequence[str], files_of: Callable[[str], Iterable[Path]] = lambda name: ()
    ) -> int:
        """Count the leading items that an earlier start of this run finished.

        What comes after the first item that is torn, out of order or without its files is
        forgotten, and done again. Of a finished run that lost files nothing is known item by item,
        so that all of it is done again.

        Parameters
        ----------
        names
            All items, in the order they are worked on.
        files_of
            The files an item must have left.

        Returns
        -------
        int
            Items that need not be done again.
        """
        if self.finished:
            lost = sum(not all(made.exists() for made in files_of(name)) for name in names)
            # A refused item left none.
            if lost <= self.refused:
                return len(names)
            self._start_again(f"{lost - self.refused} items have lost their files")
        path = self.folder / JOURNAL_FILE
        if not path.exists():
            return 0
        count = intact = 0
        with path.open("rb") as file:
            for name, line in zip(names, file):
                entry = _entry_of(line)
                if entry is None or entry.get("path") != name:
                    break
                if "error" in entry:
                    self.refused += 1
                elif not all(file_.exists() for file_ in files_of(name)):
                    break
                count += 1
                intact += len(line)
        with path.open("r+b") as journal:
            journal.truncate(intact)
        return count

    def record(self, name: str, result: Union[ImageError, SupportsToDict]) -> None:
        """Append one finished item to the journal.

        Parameters
        ----------
        name
            The item's name.
        result
            What was found, or why the item was refused; a refusal is logged and counted.
        """
        if isinstance(result, ImageError):
            _log.warning("refused: %s", result)
            self.refused += 1
            # Without the folder, so that the record is the same wherever the data set lies.
            entry = {"path": name, "error": _reason(result)}
        else:
            entry = {"path": name, **result.to_dict()}
        line = json.dumps(entry, allow_nan=False) + "\n"
        with about_file(self.folder / JOURNAL_FILE):
            if self._journal is None:
                self._journal = (self.folder / JOURNAL_FILE).open("ab")
            self._journal.write(line.encode("ascii"))
            self._journal.flush()

    def entries(self) -> Iterator[Dict[str, Any]]:
        """Give what was recorded, item by item."""
        self._close_journal()
        path = self.folder / JOURNAL_FILE
        with path.open("rb") as file:
            for line in file:
                yield json.loads(line)

    def write_items(
        self, name: str, schema: str, key: str, head: Optional[Mapping[str, Any]] = None
    ) -> Path:
        """Write the journal as one JSON file, without ever holding it whole.

        Parameters
        ----------
        name
            File name in the folder.
        schema
            Value of its ``schema`` entry.
        key
            Name of the list of items.
        head
            Further entries, in front of the list; JSON values.
        """
        self._close_journal()
        target = self.folder / name
        temporary = self.folder / f".{name}.tmp"
        opening = json.dumps({"schema": schema, **(head or {}), key: []})[:-2]
        with about_file(target):
            with temporary.open("wb") as file:
                file.write(opening.encode())
                with (self.folder / JOURNAL_FILE).open("rb") as journal:
                    for index, line in enumerate(journal):
                        file.write((b",\n" if index else b"\n") + line.rstrip(b"\n"))
                file.write(b"\n]}\n")
            temporary.replace(target)
        self._results[name] = target.stat().st_size
        return target

    def finish(self, *results: str) -> None:
        """Mark the run as complete and drop the journal, whose content the result files hold.

        Parameters
        ----------
        *results
            Names of files, beside those of :meth:`write_items`, without which the run is not
            complete.
        """
        self._close_journal()
        self._results.update({name: self._size_of(name) for name in results})
        self._write_run_file(finished=True)
        self.finished = True
        # A run may have had no items.
        (self.folder / JOURNAL_FILE).unlink(missing_ok=True)
        for leftover in self.folder.rglob(".*.tmp"):
            leftover.unlink()

    def _close_journal(self) -> None:
        if self._journal is not None:
            journal, self._journal = self._journal, None
            with about_file(self.folder / JOURNAL_FILE):
                journal.close()

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        try:
            self._close_journal()
        finally:
            self._release_lock()


def _is_same_file(opened: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _entry_of(line: bytes) -> Optional[Dict[str, Any]]:
    """Parse one line of a journal; None if it is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _reason(error: ImageError) -> str:
    """Take the path out of "'some/path' is empty"."""
    text = str(error)
    return text[text.index("' ") + 2 :] if text.startswith("'") and "' " in text else text
