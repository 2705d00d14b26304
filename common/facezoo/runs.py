"""The run folder: what makes a long command resumable and keeps two runs apart.

A command that writes a folder keeps ``run.json`` in it (command, settings, hash of the inputs,
versions, times), a lock while it works, a journal with one line per item, and the list of the
files it wrote; only listed files are ever removed or replaced. Run again with the same fingerprint,
it keeps the finished items; with another one it refuses the folder. Files other than ``run.json``
contain no times, so a resumed result equals an uninterrupted one.

Inputs are compared by content; one that changes while the run works is refused by name. Of its own
files, a start compares the sizes, and the content of small files and of the final results. It does
anew what is missing, empty or full of zero bytes, and refuses a folder with any other change.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import (
    IO,
    Any,
    Callable,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Set,
    Type,
    TypeVar,
    Union,
)

from . import __version__
from .contents import Contents
from .errors import UNREADABLE, ImageError, InputError, RunFolderError
from .fields import (
    BOOLEAN,
    NULL,
    OBJECT,
    STRING,
    check,
    either,
    matching,
    number,
    one_of,
    record,
    sequence,
    table,
    whole,
)
from .files import LARGEST_DOCUMENT, LARGEST_READ, read_text, write_bytes
from .image.reading import current_reading
from .system import lock, remove_locked
from .written import (
    LIST_FILE,
    LOCK_FILE,
    RESERVED,
    about_file,
    forget_list,
    list_in,
    remove_own,
    write_beside,
    writing,
)

__all__ = [
    "Inputs",
    "ItemCounts",
    "Outcome",
    "Progress",
    "RunFolder",
    "fingerprint_files",
    "locked",
    "reason_of",
    "unpacking",
]

RUN_FILE = "run.json"
JOURNAL_FILE = ".items.jsonl"
SCHEMA = "facezoo.run/1"
_HASH = matching("[0-9a-f]{64}", "64 hexadecimal digits")
_RUN = record(
    {
        "schema": one_of(SCHEMA),
        "command": STRING,
        "settings": OBJECT,
        "inputs_sha256": _HASH,
        "facezoo": STRING,
        "finished": BOOLEAN,
    },
    {
        "inputs_state": either(NULL, _HASH),
        "ended_at": either(NULL, STRING),
        "seconds": either(NULL, number(0, 1e12)),
        "refused": whole(0, 1 << 53),
        "damaged": whole(0, 1 << 53),
        "passed_over": whole(0, 1 << 53),
        "results": table(whole(-1, 1 << 63)),
        "earlier_settings": sequence(OBJECT, 1),
    },
)

_log = logging.getLogger(__name__)

Item = TypeVar("Item")

# Wraps a stream of results to show progress; called with it and with its length.
Progress = Callable[[Iterable[Any], int], Iterable[Any]]


class SupportsToDict(Protocol):
    """A result that can be written as JSON values."""

    def to_dict(self) -> Dict[str, Any]:
        """Return the result as JSON values."""


# Outcome of one item: a result, or the reason why it was refused.
Outcome = Union[ImageError, SupportsToDict]


@dataclass(frozen=True)
class ItemCounts:
    """Counts and time of one start of a run.

    Attributes
    ----------
    total, kept, refused
        Number of items, of items done by an earlier start, and of unreadable items.
    seconds
        Time for the items of this start.
    damaged
        Number of images that were read although they are damaged.
    """

    total: int
    kept: int
    refused: int
    seconds: float
    damaged: int = 0


def fingerprint_files(paths: Sequence[Path], names: Sequence[str]) -> str:
    """Hash a list of input files by name and content.

    Parameters
    ----------
    paths, names
        The files, and the names they go by in the run.

    Returns
    -------
    str
        sha256, lower-case hex; files that cannot be read count by name.
    """
    contents = Contents(paths, names)
    contents.read()
    return contents.sha256


class Inputs:
    """Inputs of a run.

    Parameters
    ----------
    paths, names
        Its items and their names in the run, which identify the run together with their contents.
        Available as attributes.
    *others
        Further files, prefixes and folders that are read: models, lists, the items' folder. None
        and names without a file are ignored.

    Attributes
    ----------
    contents
        Hash of the items; a run reads it.
    """

    def __init__(
        self, paths: Sequence[Path], names: Sequence[str], *others: Union[Path, str, None]
    ) -> None:
        self.paths, self.names = paths, names
        self.contents = Contents(paths, names)
        self._others = [Path(other) for other in others if other and _is_there(other)]

    def refuse_in(self, folder: Path) -> None:
        """Raise InputError if one of them is this folder or is in it, however it is spelled."""
        if not folder.exists():
            return
        within: Dict[Path, bool] = {}
        for path in chain(self.paths, self._others):
            is_link = _is(path.is_symlink)
            places = [path, Path(os.path.realpath(path))] if is_link else [path]
            if any(_is_in(place.parent, folder, within) for place in places) or (
                _is(path.is_dir) and path.samefile(folder)
            ):
                raise InputError(
                    f"{str(path)!r} is read by this run, which writes to {str(folder)!r}; name "
                    "another folder for the results"
                )

    def refuse_file(self, *outputs: Optional[Path]) -> None:
        """Raise InputError if a file to write is one of them."""
        for output in outputs:
            if output is not None and output.exists():
                for path in chain(self.paths, self._others):
                    if _is(path.exists) and path.samefile(output):
                        raise InputError(
                            f"{str(output)!r} is read by this command, and would be replaced by "
                            "what it writes; name another file"
                        )


def _is(question: Callable[[], bool]) -> bool:
    """Ask a path about itself; no if it is too long, or leads through a closed folder."""
    try:
        return question()
    except OSError:
        return False


def _is_there(path: Union[Path, str]) -> bool:
    # The prefix of an artifact is not itself a file.
    path = Path(path)
    return os.path.lexists(path) or any(path.parent.glob(f"{glob.escape(path.name)}*"))


def _is_in(place: Path, folder: Path, within: Dict[Path, bool]) -> bool:
    """Return whether a folder is another one or is in it, according to the file system."""
    if place not in within:
        real = Path(os.path.realpath(place))
        within[place] = any(
            _is(each.exists) and each.samefile(folder) for each in (real, *real.parents)
        )
    return within[place]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an existing folder, so that no run or other command writes there.

    Raises
    ------
    RunFolderError
        If another one holds it, or a file has the name of the lock.
    InputError
        If the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                raise _is_reserved(path)
        # Our lock file is empty; any other file of this name must not be truncated.
        file = path.open("a")
    except OSError as error:
        raise _not_writable(folder, error) from error
    with file:
        if os.fstat(file.fileno()).st_size:
            raise _is_reserved(path)
        try:
            lock(file)
        except BlockingIOError as error:
            raise RunFolderError(
                f"{str(folder)!r} is in use by another run; wait for it or name another folder"
            ) from error
        except OSError as error:
            raise _not_writable(folder, error) from error
        if _is_same_file(file, path):
            try:
                yield
            finally:
                remove_locked(file, path)
            return
    # A run that ended meanwhile removed its lock, and another may hold a new one.
    with locked(folder):
        yield


@contextmanager
def unpacking(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that is filled by a command without a run, made if necessary."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_made(folder, error) from error
    try:
        with locked(folder):
            if (folder / RUN_FILE).exists():
                raise RunFolderError(
                    f"{str(folder)!r} holds the results of a run; name another folder"
                )
            yield
    except BaseException:
        if is_new:
            # Only if it is empty: what was unpacked before stays.
            with suppress(OSError):
                folder.rmdir()
        raise


def _is_reserved(path: Path) -> RunFolderError:
    return RunFolderError(
        f"{str(path)!r} has a name that is reserved for runs, but no run created it; name an empty "
        "or new folder"
    )


def _not_writable(folder: Path, error: OSError) -> InputError:
    return InputError(f"{str(folder)!r} cannot be written: {error.strerror}; name another folder")


def _not_made(folder: Path, error: OSError) -> InputError:
    return InputError(f"{str(folder)!r} cannot be made: {error.strerror}; name another folder")


class RunFolder:
    """An output folder that belongs to one run; a context manager that holds its lock.

    Parameters
    ----------
    folder
        Created if it does not exist.
    command
        Name of the command, such as ``scrfd_vsx``.
    settings
        Everything that decides the result; JSON values.
    inputs
        Its inputs; none of them may be in the folder.
    overwrite
        Remove what the earlier run wrote there, and start again.
    beside
        Files outside the folder that the run also writes.
    may_change
        Names of settings that may differ from those of the earlier, unfinished starts; what they
        were is kept in ``run.json``.
    may_grow
        Names of settings that may be larger than in the earlier starts, such as a number of epochs;
        a finished run then goes on.

    Attributes
    ----------
    finished, refused
        Whether an earlier start finished the run; number of refused items.
    emptied
        Names of its files that a power failure had emptied, and that this start removed.

    Raises
    ------
    RunFolderError
        If the folder belongs to another run, contains files that no run wrote, or is in use.
    InputError
        If it cannot be made or written, or holds an input.
    """

    def __init__(
        self,
        folder: Path,
        command: str,
        settings: Mapping[str, Any],
        inputs: Inputs,
        overwrite: bool = False,
        beside: Sequence[Path] = (),
        may_change: Collection[str] = (),
        may_grow: Collection[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self._inputs = inputs
        self._beside = list(beside)
        # Only where it differs, so that folders of earlier versions go on.
        damaged = {"allow_damaged": True} if current_reading().allow_damaged else {}
        self._wanted: Dict[str, Any] = {
            "command": command,
            "settings": json.loads(json.dumps({**settings, **damaged}, allow_nan=False)),
            "facezoo": __version__,
        }
        self._may_change, self._may_grow = may_change, may_grow
        self._earlier: List[Dict[str, Any]] = []
        self._overwrite = overwrite
        self._journal: Optional[IO[bytes]] = None
        self._journal_bytes = 0
        self._index_of: Dict[str, int] = {}
        self._refused_now: Set[str] = set()
        # Files that this start wrote before the final results.
        self._before_results: Optional[Set[str]] = None
        self._started = time.monotonic()
        self._results: Dict[str, int] = {}
        self._open = ExitStack()
        self.finished = False
        self.refused = 0
        self.emptied: List[str] = []
        self.damaged = 0

    def __enter__(self) -> RunFolder:
        self._inputs.refuse_in(self.folder)
        self._inputs.refuse_file(*self._beside)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_made(self.folder, error) from error
        self._real = Path(os.path.realpath(self.folder))
        for name in RESERVED:
            path = self.folder / name
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise _is_reserved(path)
        self._open.enter_context(locked(self.folder))
        try:
            forget_list(self._real)
            self._open.enter_context(write_beside(self._real, self._beside))
            self._claim()
        except BaseException:
            self._open.close()
            raise
        return self

    def _claim(self) -> None:
        if not (self.folder / RUN_FILE).exists():
            self._claim_new()
        elif self._overwrite:
            self._empty()
            self._begin()
        else:
            self._check_same()
        self._listed = self._size_of(LIST_FILE)

    def _claim_new(self) -> None:
        """Start in an empty folder, or in one whose first start was killed before it began."""
        ours = {LOCK_FILE, LIST_FILE, *self._temporary()}
        strangers = sorted(e.name for e in self.folder.iterdir() if e.name not in ours)
        if not strangers and self._size_of(LIST_FILE) > 0 and not self._temporary():
            strangers = [LIST_FILE]
        if strangers:
            raise RunFolderError(
                f"{str(self.folder)!r} holds {strangers[0]!r} but no {RUN_FILE}, so it was "
                "not created by facezoo; name an empty or new folder"
            )
        for path in self._beside:
            if os.path.lexists(path):
                raise RunFolderError(
                    f"{str(path)!r} exists and was not written by this run; name another file"
                )
        self._begin()

    def _begin(self) -> None:
        (self.folder / LIST_FILE).touch()
        forget_list(self._real)
        list_in(self._real).remove_temporary()
        self._read_inputs()
        self._write_run_file(finished=False)

    def _read_inputs(self, state: Optional[str] = None, sha256: str = "") -> None:
        """Hash the inputs, unless the state of an earlier start shows that they are the same."""
        self._inputs.contents.read(state, sha256)
        self._wanted["inputs_sha256"] = self._inputs.contents.sha256

    def _has_list(self) -> bool:
        return (self.folder / LIST_FILE).exists()

    def _temporary(self) -> Iterable[str]:
        return list_in(self._real).temporary() if self._has_list() else ()

    def _files(self) -> Iterator[Path]:
        """Yield every file and link in the folder, except the bookkeeping files."""
        for root, folders, files in os.walk(self._real, onerror=_raise):
            links = [name for name in folders if Path(root, name).is_symlink()]
            for name in sorted([*files, *links]):
                path = Path(root, name)
                if path.parent != self._real or name not in RESERVED:
                    yield path
        for path in self._beside:
            if os.path.lexists(path):
                yield Path(os.path.realpath(path.parent), path.name)

    def _refuse_strangers(self, is_own: Callable[[Path], bool]) -> List[Path]:
        """Return the files if all belong to the run; otherwise raise and remove nothing."""
        files = list(self._files())
        strangers = [path for path in files if not is_own(path)]
        if strangers:
            name = os.path.relpath(strangers[0], self._real)
            more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
            reason = (
                "an earlier version of facezoo made it without a list of its files; delete it by "
                "hand, or name another folder"
                if not self._has_list()
                else "move it away and run the same command again, or name another folder"
            )
            raise RunFolderError(
                f"{str(self.folder)!r} holds {name!r}{more} that the run did not write, or "
                f"that has changed since: {reason}"
            )
        return files

    def _is_own(self, thorough: bool) -> Callable[[Path], bool]:
        """Return a test by the list, or by the results that an earlier version named."""
        sizes = self._read_run_file()["results"]
        if self._has_list():
            written = list_in(self._real)
            temporary = written.temporary()

            def is_own(path: Path) -> bool:
                name = written.name_of(path)
                return (
                    name in temporary
                    or written.holds(path, thorough or name in sizes)
                    or written.is_emptied(path)
                )

            return is_own
        return lambda path: (
            path.is_file()
            and not path.is_symlink()
            and sizes.get(os.path.relpath(path, self._real)) == path.stat().st_size
        )

    def _empty(self) -> None:
        self._read_run_file()
        # All are checked before the first is removed.
        files = self._refuse_strangers(self._is_own(thorough=True))
        for path in files:
            path.unlink()
        for folder in sorted({path.parent for path in files}, reverse=True):
            while self._real in folder.parents:
                try:
                    folder.rmdir()
                except OSError:
                    break  # It contains a folder of the user.
                folder = folder.parent
        (self.folder / JOURNAL_FILE).unlink(missing_ok=True)
        (self.folder / LIST_FILE).write_bytes(b"")

    def _read_run_file(self) -> Dict[str, Any]:
        path = self.folder / RUN_FILE
        try:
            found: Dict[str, Any] = json.loads(read_text(path, LARGEST_READ))
            check(found, _RUN, RUN_FILE)
            return {"inputs_state": None, "refused": 0, "damaged": 0, "results": {}, **found}
        except UNREADABLE as error:
            raise RunFolderError(
                f"{str(path)!r} cannot be read ({error}), so the run that the "
                "folder belongs to is unknown; delete it by hand, or name another folder"
            ) from error

    def _check_same(self) -> None:
        found = self._read_run_file()
        self.finished = found["finished"]
        self.refused, self.damaged = found["refused"], found["damaged"]
        files: List[Path] = []
        if self._has_list():
            list_in(self._real).remove_temporary()
            files = self._refuse_strangers(self._is_own(thorough=False))
        self._read_inputs(found["inputs_state"], found["inputs_sha256"])
        self._earlier = found.get("earlier_settings", [])
        replaced = self._replaced_settings(found["settings"])
        found["settings"].update({name: self._wanted["settings"][name] for name in replaced})
        differing = [key for key, value in self._wanted.items() if found[key] != value]
        if differing:
            parts = [self._describe(key, found[key]) for key in differing]
            raise RunFolderError(
                f"{str(self.folder)!r} belongs to another run ({'; '.join(parts)}); name another "
                "folder or use --overwrite to start again"
            )
        if not self.finished:
            self._refuse_unlisted()
        self._results = found["results"]
        if replaced:
            self._replace_settings(replaced)
            if self.finished:
                self._go_on()
        self._remove_emptied(files)
        changed = [name for name, size in self._results.items() if self._size_of(name) != size]
        if self.finished and changed:
            self._start_again(f"{changed[0]!r} is missing")
        elif self.finished and self._has_list():
            list_in(self._real).final = RESERVED.union(self._results)

    def _replaced_settings(self, found: Mapping[str, Any]) -> Dict[str, Any]:
        """Return the earlier values of the settings that may change and did."""
        wanted = self._wanted["settings"]
        may_change = () if self.finished else self._may_change
        names = [name for name in may_change if found.get(name) != wanted[name]]
        for name in self._may_grow:
            before = found.get(name)
            names += [name] * (isinstance(before, int) and before < wanted[name])
        return {name: found.get(name) for name in names}

    def _replace_settings(self, earlier: Dict[str, Any]) -> None:
        for name, value in earlier.items():
            now = self._wanted["settings"][name]
            _log.warning("%s goes on with %s %r instead of %r", self.folder, name, now, value)
        self._earlier.append(earlier)
        self._write_run_file(finished=False)

    def _remove_emptied(self, files: Sequence[Path]) -> None:
        """Remove files that a power failure emptied, so that they are made again."""
        emptied = [path for path in files if list_in(self._real).is_emptied(path)]
        for path in emptied:
            path.unlink()
        self.emptied = [list_in(self._real).name_of(path) for path in emptied]
        if emptied:
            _log.warning(
                "%s: removed %d damaged files, without content as after a power failure, the first "
                "is %r; what is missing is made again",
                self.folder,
                len(emptied),
                self.emptied[0],
            )

    def _refuse_unlisted(self) -> None:
        if not self._has_list():
            raise RunFolderError(
                f"{str(self.folder)!r} was started by an earlier version of facezoo, which did not "
                "list its files; delete it by hand, or name another folder"
            )

    def _size_of(self, name: str) -> int:
        path = self._real / name
        return path.stat().st_size if path.is_file() else -1

    def _start_again(self, reason: str) -> None:
        self._refuse_unlisted()
        _log.warning("%s was finished, but %s; the run is repeated", self.folder, reason)
        self._go_on()

    def _go_on(self) -> None:
        """Make a finished run an unfinished one, whose results are written again."""
        self._refuse_unlisted()
        list_in(self._real).final = frozenset()
        self.finished = False
        self.refused = self.damaged = 0
        self._results = {}
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
            "inputs_state": self._inputs.contents.state,
            "finished": finished,
            "ended_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) if finished else None,
            "seconds": round(time.monotonic() - self._started, 3) if finished else None,
            "refused": self.refused,
            # A training reads images, too, which are not its items.
            "damaged": self.damaged or len(current_reading().damaged),
            "passed_over": current_reading().passed_over_count,
            "results": self._results,
            **({"earlier_settings": self._earlier} if self._earlier else {}),
        }
        text = json.dumps(entry, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        # A name that is not UTF-8 becomes an escape of JSON.
        write_bytes(self.folder / RUN_FILE, text.encode("utf-8", "backslashreplace"))

    def process(
        self,
        names: Sequence[str],
        items: Sequence[Item],
        results: Callable[[Sequence[Item]], Iterable[Outcome]],
        *,
        finish: Callable[[RunFolder], object],
        files_of: Callable[[str], Iterable[Path]] = lambda name: (),
        progress: Progress = lambda stream, total: stream,
    ) -> ItemCounts:
        """Process the remaining items, record each, and finish the run.

        Parameters
        ----------
        names, items
            All items in the order of processing, and their names in the run.
        results
            Called with the remaining items; returns one result for each, in their order. Not called
            if none remains.
        finish
            Writes the result files once all items are recorded; not called again for a finished
            run that has them. The run is marked as finished after it, unless it did so itself.
        files_of
            The files that an item must have written.
        progress
            Wraps the stream of results.

        Returns
        -------
        ItemCounts
            Counts of this start.
        """
        kept = self.completed(names, files_of)
        started = time.perf_counter()
        if kept < len(names):
            self._index_of = {name: index for index, name in enumerate(self._inputs.names)}
            source = results(items[kept:])
            try:
                stream = progress(source, len(names) - kept)
                # In this order, so that the stream is read to its end.
                for result, name in zip(stream, names[kept:]):
                    result = self._unless_changed(name, result)
                    if isinstance(result, ImageError):
                        for made in files_of(name):
                            remove_own(made)
                    self.record(name, result)
            finally:
                # Interrupted, it ends its processes here and not while Python itself ends.
                getattr(source, "close", lambda: None)()
        seconds = time.perf_counter() - started
        if not self.finished:
            self._before_results = list_in(self._real).mine()
            finish(self)
        if not self.finished:
            self.finish()
        return ItemCounts(len(names), kept, self.refused, seconds, self.damaged)

    def _unless_changed(self, name: str, result: Outcome) -> Outcome:
        """Return a result, or a refusal if its input is not what it was when the run started."""
        index = self._index_of.get(name)
        if index is None or isinstance(result, ImageError):
            return result
        if not self._inputs.contents.has_changed(index):
            return result
        return ImageError(
            f"{str(self._inputs.paths[index])!r} was changed or replaced while the run was working"
        )

    def completed(
        self, names: Sequence[str], files_of: Callable[[str], Iterable[Path]] = lambda name: ()
    ) -> int:
        """Count the leading items that an earlier start of this run finished.

        Items after the first one that is incomplete, out of order or without its files are
        discarded and processed again. A finished run has no entries per item any more; if files of
        it are missing, all items are processed again.

        Parameters
        ----------
        names
            All items, in the order of processing.
        files_of
            The files that an item must have written.

        Returns
        -------
        int
            Items that need not be processed again.
        """
        if self.finished:
            lost = sum(not all(_is(made.exists) for made in files_of(name)) for name in names)
            # A refused item has no files.
            if lost <= self.refused:
                return len(names)
            self._start_again(f"files of {lost - self.refused} items are missing")
        path = self.folder / JOURNAL_FILE
        if not path.exists():
            return 0
        count = intact = 0
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(LARGEST_DOCUMENT), b"")
            for name, line in zip(names, lines):
                entry = _entry_of(line)
                if entry is None or entry.get("path") != name:
                    break
                self.damaged += "damaged" in entry
                if "error" in entry:
                    self.refused += 1
                elif not all(_is(made.exists) for made in files_of(name)):
                    break
                count += 1
                intact += len(line)
        with path.open("r+b") as journal:
            journal.truncate(intact)
        self._journal_bytes = intact
        return count

    def record(self, name: str, result: Outcome) -> None:
        """Append one finished item to the journal.

        Parameters
        ----------
        name
            The item's name.
        result
            The result, or why the item was refused; a refusal is logged and counted.
        """
        if isinstance(result, ImageError):
            _log.error("refused: %s", result)
            self.refused += 1
            self._refused_now.add(name)
            # Without the folder, so that the record is the same wherever the data set is stored.
            entry = {"path": name, "error": reason_of(result)}
        else:
            entry = {"path": name, **result.to_dict()}
            index = self._index_of.get(name)
            path = "" if index is None else str(self._inputs.paths[index])
            if path in current_reading().damaged:
                entry["damaged"] = current_reading().damaged[path]
            self.damaged += "damaged" in entry
        line = (json.dumps(entry, allow_nan=False) + "\n").encode("ascii")
        with about_file(self.folder / JOURNAL_FILE):
            if self._journal is None:
                self._journal = (self.folder / JOURNAL_FILE).open("ab")
            self._journal.write(line)
            self._journal.flush()
            list_in(self._real).sync_in_group(self._real / JOURNAL_FILE)
        self._journal_bytes += len(line)

    def entries(self) -> Iterator[Dict[str, Any]]:
        """Yield the recorded entries, item by item; RunFolderError if the journal was changed."""
        for line in self._lines():
            yield json.loads(line)

    def _lines(self) -> Iterator[bytes]:
        self._close_journal()
        path = self.folder / JOURNAL_FILE
        if self._size_of(JOURNAL_FILE) != self._journal_bytes:
            raise RunFolderError(
                f"{str(path)!r} was changed while the run was working; run the same command again"
            )
        with path.open("rb") as file:
            yield from file

    def write_items(
        self, name: str, schema: str, key: str, head: Optional[Mapping[str, Any]] = None
    ) -> Path:
        """Write the journal as one JSON file, without holding all of it in memory.

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
        target = self.folder / name
        opening = json.dumps({"schema": schema, **(head or {}), key: []}, allow_nan=False)[:-2]
        with writing(target) as file:
            file.write(opening.encode())
            for index, line in enumerate(self._lines()):
                file.write((b",\n" if index else b"\n") + line.rstrip(b"\n"))
            file.write(b"\n]}\n")
        self._results[name] = target.stat().st_size
        return target

    def finish(self, *results: str) -> None:
        """Mark the run as complete and drop the journal, whose content the result files hold.

        Parameters
        ----------
        *results
            Names of files without which the run is not complete, beside those of
            :meth:`write_items` and of ``finish`` of :meth:`process`.

        Raises
        ------
        InputError
            If an input has changed since the run started and its item is not refused.
        """
        self._close_journal()
        self._refuse_changed()
        written = list_in(self._real)
        if self._before_results is not None:
            results = (*results, *sorted(written.mine() - self._before_results))
        self._results.update({name: self._size_of(name) for name in results})
        written.sync(everything=True)
        self._write_run_file(finished=True)
        written.final = RESERVED.union(self._results, written.mine())
        self.finished = True
        # A run may have had no items.
        (self.folder / JOURNAL_FILE).unlink(missing_ok=True)

    def written(self) -> List[str]:
        """Return the names of the files that this start wrote."""
        return sorted(list_in(self._real).mine())

    def _refuse_changed(self) -> None:
        names = self._inputs.names
        changed = self._inputs.contents.changed()
        changed = [index for index in changed if names[index] not in self._refused_now]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise InputError(
                f"{str(self._inputs.paths[changed[0]])!r}{more} changed while the run was working, "
                "so some results may be of the old content and some of the new; run again with "
                "--overwrite"
            )

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
            # An entry for each start is also correct, only longer.
            with suppress(OSError):
                if self.finished and self._size_of(LIST_FILE) not in (-1, self._listed):
                    list_in(self._real).compact()
        finally:
            forget_list(self._real)
            self._open.close()


def _raise(error: OSError) -> None:
    raise error


def _is_same_file(opened: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _entry_of(line: bytes) -> Optional[Dict[str, Any]]:
    """Parse one line of a journal; None if it is incomplete."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry: Dict[str, Any] = json.loads(line)
        check(entry, OBJECT, "entry")
        check(entry.get("path"), STRING, "entry.path")
        if "error" in entry:
            check(entry["error"], STRING, "entry.error")
    except (ValueError, RecursionError):
        return None
    return entry


def reason_of(error: ImageError) -> str:
    """Return why an image was refused, without its path: "'some/path' is empty" is "is empty"."""
    text = str(error)
    return text[text.index("' ") + 2 :] if text.startswith("'") and "' " in text else text
