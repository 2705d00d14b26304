"""The work of a bulk run: which slices of the manifest are done, which are left, which died.

::

    RUN/settings/ID.json                        settings of the scores; ID is their hash
    RUN/faces/settings=ID/SLICE.parquet         one part per slice; see tables.py
    RUN/photos/settings=ID/SLICE.parquet
    RUN/receipts/ID/SLICE.json                  written last: counts, hashes of the parts, times
    RUN/deaths/ID/SHARE.jsonl                   slices whose process was lost

The name of a slice is the hash of its rows and of the settings, so other models or limits write
beside, never over. All is found again from the files: a start that was killed needs no clean-up.

A slice is a shard, or a half of a slice that was lost: a shard is halved when its process was lost
twice, a half when it was lost once, down to one photo, which is given up when it was lost twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import (
    Any,
    Deque,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
)

from .. import __version__
from ..errors import UNREADABLE, InputError, RunFolderError
from ..fields import OBJECT, STRING, check, matching, number, one_of, record, whole
from ..files import LARGEST_DOCUMENT, read_file, read_text, sha256_of, write_json
from ..system import lock, sync_path
from ..written import is_regular, is_temporary
from .addresses import Found
from .manifest import Manifest, sha256_of_rows
from .tables import DTYPES, STATUSES, Columns, TableWriter

__all__ = ["Part", "Receipt", "Scores", "Share", "Work", "find_scores", "holding"]

SETTINGS, RECEIPT = "facezoo.score/1", "facezoo.receipt/1"
LOCK_FILE = ".lock"
TABLES = ("faces", "photos")
# A process may be lost by chance, such as with its machine.
DEATHS = 2
DIGITS = 16

_SHA256 = matching("[0-9a-f]{64}", "64 hexadecimal digits")
_SETTINGS = record(
    {
        "schema": one_of(SETTINGS),
        "facezoo": STRING,
        "model": OBJECT,
        "landmarks": whole(0, 10000),
        "embedding": whole(0, 65536),
        "dtype": one_of(*DTYPES),
    }
)
_RECEIPT = record(
    {
        "schema": one_of(RECEIPT),
        "shard": whole(0, 1 << 40),
        "start": whole(0, 1 << 40),
        "stop": whole(1, 1 << 40),
        "counts": record({name: whole(0, 1 << 40) for name in STATUSES}),
        "faces": whole(0, 1 << 53),
        "sha256": record({name: _SHA256 for name in TABLES}),
        "size": record({name: whole(0, 1 << 53) for name in TABLES}),
        # Apart from these two, a receipt depends on nothing but the part.
        "seconds": record({"spent": number(0, 1e9), "ended": number(0, 1e12)}),
        "host": STRING,
    }
)

Receipt = Dict[str, Any]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """One of several equal parts of the shards: those with ``shard % count == index``."""

    index: int = 0
    count: int = 1


_EVERYTHING = Share()


@dataclass(frozen=True)
class Part:
    """Consecutive photos of a shard, scored by one process; a slice.

    Attributes
    ----------
    name
        Hash of its rows and of the settings.
    shard
        Number of the shard.
    start, stop
        Its first photo in the shard, and the one after its last.
    whole
        Whether it is a whole shard.
    """

    name: str
    shard: int
    start: int
    stop: int
    whole: bool = True

    @property
    def photos(self) -> int:
        """Number of its photos."""
        return self.stop - self.start


class Scores:
    """The scores of a run's photos with some settings.

    Parameters
    ----------
    run
        Folder of the run.
    identity
        Hash of the settings, as :meth:`create` returns it in ``identity``.

    Attributes
    ----------
    manifest
        The photos.
    settings
        Settings of the chain: models and limits.
    columns
        Of the table of faces.

    Raises
    ------
    InputError
        If the run has no such settings, or they cannot be read.
    """

    def __init__(self, run: Path, identity: str) -> None:
        self.run, self.identity = Path(run), identity
        path = self.run / "settings" / f"{identity}.json"
        try:
            document = json.loads(read_text(path, LARGEST_DOCUMENT))
            check(document, _SETTINGS, path.name)
            if _identity(document) != identity:
                raise ValueError("its content is not what its name is the hash of")
        except UNREADABLE as error:
            raise InputError(
                f"{str(path)!r} cannot be read ({error}); run facezoo score run again"
            ) from error
        self.manifest = Manifest(self.run)
        self.settings: Dict[str, Any] = document["model"]
        self.columns = Columns(document["landmarks"], document["embedding"], document["dtype"])
        self._rows = lru_cache(maxsize=2)(self.manifest.rows)

    @classmethod
    def create(cls, run: Path, settings: Mapping[str, Any], columns: Columns) -> Scores:
        """Write the settings into a run, if they are not there."""
        Manifest(run)  # Refuses a folder that is not a run.
        document = _document(settings, columns)
        path = Path(run) / "settings" / f"{_identity(document)}.json"
        if path.exists():
            try:
                return cls(run, path.stem)
            except InputError:
                pass  # It is damaged; its name says what it must hold.
        write_json(path, document)
        return cls(run, path.stem)

    def is_for(self, settings: Mapping[str, Any]) -> bool:
        """Return whether a chain with these settings gives these scores."""
        return _identity(_document(settings, self.columns)) == self.identity

    def path_of(self, table: str, name: str) -> Path:
        """Return where a table of a part is."""
        return self.run / table / f"settings={self.identity}" / f"{name}.parquet"

    def _receipt(self, name: str) -> Path:
        return self.run / "receipts" / self.identity / f"{name}.json"

    def receipt_of(self, part: Part) -> Optional[Receipt]:
        """Return the receipt of a part; None if it is not done, or its tables are not there."""
        try:
            receipt: Receipt = json.loads(read_text(self._receipt(part.name), LARGEST_DOCUMENT))
            check(receipt, _RECEIPT, "receipt")
            sizes = {name: self.path_of(name, part.name).stat().st_size for name in TABLES}
        except UNREADABLE:
            return None
        where = (receipt["shard"], receipt["start"], receipt["stop"])
        is_its = where == (part.shard, part.start, part.stop)
        return receipt if is_its and sizes == receipt["size"] else None

    def rows(self, part: Part) -> List[Found]:
        """Return the photos of a part."""
        return self._rows(part.shard)[part.start : part.stop]

    def part(self, shard: int, start: int = 0, stop: Optional[int] = None) -> Part:
        """Return a slice of a shard; all of it by default."""
        if stop is None:
            found, stop = self.manifest.hashes[shard], self.manifest.counts[shard]
        else:
            found = sha256_of_rows(self._rows(shard)[start:stop])
        is_whole = (start, stop) == (0, self.manifest.counts[shard])
        name = hashlib.sha256(f"{found} {self.identity}".encode()).hexdigest()[:DIGITS]
        return Part(name, shard, start, stop, is_whole)

    def halves(self, part: Part) -> Tuple[Part, Part]:
        """Return the two halves of a part of several photos."""
        middle = (part.start + part.stop) // 2
        first = self.part(part.shard, part.start, middle)
        return first, self.part(part.shard, middle, part.stop)

    def deaths(self) -> Counter[str]:
        """Count how often a process was lost with each part, by the part's name."""
        found: Counter[str] = Counter()
        for path in (self.run / "deaths" / self.identity).glob("*.jsonl"):
            for line in read_file(path, LARGEST_DOCUMENT).decode("utf-8", "replace").splitlines():
                try:
                    found[json.loads(line)["part"]] += 1
                except UNREADABLE:
                    continue  # Cut by the loss of the machine.
        return found

    def record_death(self, part: Part, share: Share, why: str) -> None:
        """Note that a process was lost with a part."""
        path = self.run / "deaths" / self.identity / f"{share.index}-of-{share.count}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        where = {"shard": part.shard, "start": part.start, "stop": part.stop}
        with path.open("a", encoding="utf-8") as file:
            # On a line of its own, whatever became of the line before.
            file.write(f"\n{json.dumps({'part': part.name, **where, 'why': why})}\n")
        sync_path(path)

    def leaves(
        self, deaths: Mapping[str, int], share: Share = _EVERYTHING
    ) -> Iterator[Tuple[Part, Optional[Receipt]]]:
        """Yield the parts that the photos of a share are in, in their order, with receipts."""
        for shard in range(share.index, len(self.manifest), share.count):
            yield from self._leaves(self.part(shard), deaths)

    def _leaves(
        self, part: Part, deaths: Mapping[str, int]
    ) -> Iterator[Tuple[Part, Optional[Receipt]]]:
        receipt = self.receipt_of(part)
        if receipt is None and part.photos > 1 and is_given_up(part, deaths):
            for half in self.halves(part):
                yield from self._leaves(half, deaths)
        else:
            yield part, receipt

    def write(
        self, part: Part, photos: Iterable[Tuple[Mapping[str, Any], Optional[int], Optional[str]]]
    ) -> Receipt:
        """Write the tables of a part, then its receipt.

        Parameters
        ----------
        part
            The part.
        photos
            Arguments of :meth:`TableWriter.add`, a photo each, in the order of the manifest.

        Returns
        -------
        dict
            The receipt.
        """
        started = time.monotonic()
        paths = {name: self.path_of(name, part.name) for name in TABLES}
        faces, rest = paths["faces"], paths["photos"]
        with TableWriter(faces, rest, self.columns, self.settings) as tables:
            for photo in photos:
                tables.add(*photo)
        receipt = {
            **{"schema": RECEIPT, "shard": part.shard, "start": part.start, "stop": part.stop},
            **{"counts": tables.counts, "faces": tables.faces},
            "sha256": {name: sha256_of(path) for name, path in paths.items()},
            "size": {name: path.stat().st_size for name, path in paths.items()},
            "seconds": {
                "spent": round(time.monotonic() - started, 3),
                "ended": round(time.time(), 3),
            },
            "host": socket.gethostname(),
        }
        write_json(self._receipt(part.name), receipt)
        return receipt

    def clean(self) -> List[Path]:
        """Remove what belongs to no part that is done: of killed processes, or replaced by halves.

        Only the start that holds the run alone may call it.

        Returns
        -------
        list of Path
            What was removed.
        """
        done = {part.name for part, receipt in self.leaves(self.deaths()) if receipt is not None}
        folders = [self.path_of(table, "x").parent for table in TABLES]
        folders.append(self._receipt("x").parent)
        files = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
        removed = [path for path in files if _is_part(path) and path.stem not in done]
        for path in removed:
            path.unlink()
        return removed + self.remove_temporary()

    def remove_temporary(self) -> List[Path]:
        """Remove, and return, the files that killed processes were writing; as :meth:`clean`."""
        files = self.run.rglob(".facezoo.*.tmp")
        found = [path for path in files if path.is_file() and is_temporary(path)]
        for path in found:
            path.unlink()
        return found


def _is_part(path: Path) -> bool:
    is_hash = len(path.stem) == DIGITS and not set(path.stem) - set("0123456789abcdef")
    return is_hash and path.suffix in (".json", ".parquet")


def _document(settings: Mapping[str, Any], columns: Columns) -> Dict[str, Any]:
    # As it is read back: JSON has no tuples.
    model = json.loads(json.dumps(settings))
    return {"schema": SETTINGS, "facezoo": __version__, "model": model, **vars(columns)}


def _identity(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def is_given_up(part: Part, deaths: Mapping[str, int]) -> bool:
    """Return whether a part is not tried again as it is: it is halved, or its photo is named."""
    return deaths.get(part.name, 0) >= (DEATHS if part.whole or part.photos == 1 else 1)


def find_scores(run: Path, identity: str = "") -> List[Scores]:
    """Return the scores of a run, those with the given settings (or their beginning), or all.

    Raises
    ------
    InputError
        If the run has no such settings.
    """
    Manifest(run)
    names = sorted(path.stem for path in (Path(run) / "settings").glob(f"{identity}*.json"))
    if not names and identity:
        raise InputError(
            f"{str(run)!r} has no settings {identity!r}; facezoo score status lists what it has"
        )
    return [Scores(run, name) for name in names]


class Work:
    """What is left to do of a share, in the order of the manifest; every engine takes from it.

    Parameters
    ----------
    scores
        The scores.
    share
        The share.
    again
        Also score the parts again that have photos without a result.

    Attributes
    ----------
    photos
        Number of photos of the share.
    kept
        Of these, the ones that earlier starts have done.
    counts
        Photos done, by status.
    """

    def __init__(self, scores: Scores, share: Share = _EVERYTHING, again: bool = False) -> None:
        self.scores, self._share = scores, share
        self._deaths = scores.deaths()
        self._waiting: Deque[Part] = deque()
        self.photos = self.kept = 0
        self.counts = dict.fromkeys(STATUSES, 0)
        for part, receipt in scores.leaves(self._deaths, share):
            self.photos += part.photos
            if receipt is None or (again and receipt["counts"]["scored"] < part.photos):
                self._waiting.append(part)
            else:
                self.kept += part.photos
                self.finished(receipt)

    @property
    def done(self) -> int:
        """Number of photos that are done, also by earlier starts."""
        return sum(self.counts.values())

    def take(self) -> Optional[Part]:
        """Return the next part to score; None if there is none (a lost one may come back)."""
        while self._waiting:
            part = self._waiting.popleft()
            if not is_given_up(part, self._deaths):
                return part
            self.finished(self._name_culprit(part))
        return None

    def finished(self, receipt: Receipt) -> None:
        """Count a part that is done."""
        for status, count in receipt["counts"].items():
            self.counts[status] += count

    def give_back(self, part: Part) -> None:
        """Return a part that no process has begun."""
        self._waiting.appendleft(part)

    def lost(self, part: Part, why: str) -> None:
        """Note that a process was lost with a part, and try it again, whole or in halves."""
        self.scores.record_death(part, self._share, why)
        self._deaths[part.name] += 1
        _log.warning("shard %d, photos %d to %d: %s", part.shard, part.start, part.stop - 1, why)
        if part.photos > 1 and is_given_up(part, self._deaths):
            self._waiting.extendleft(reversed(self.scores.halves(part)))
        else:
            self._waiting.append(part)

    def _name_culprit(self, part: Part) -> Receipt:
        (row,) = self.scores.rows(part)
        error = f"the process that scored it was lost {DEATHS} times"
        _log.warning("refused: %r: %s", row.photo, error)
        return self.scores.write(part, [({"path": row.photo, "error": error}, row.size, "killed")])


@contextmanager
def holding(run: Path, share: Share = _EVERYTHING) -> Iterator[None]:
    """Keep other starts out of a run while this one works on it.

    Shares of one run go side by side; a share and the whole run do not, nor one share twice.

    Raises
    ------
    RunFolderError
        If another start is at work.
    InputError
        If the folder cannot be written.
    """
    alone = share.count == 1
    locks = [(LOCK_FILE, not alone)]
    if not alone:
        locks.append((f"{LOCK_FILE}.{share.index}-of-{share.count}", False))
    files = []
    try:
        for name, shared in locks:
            path = Path(run) / name
            if os.path.lexists(path) and not is_regular(path):
                raise RunFolderError(f"{str(path)!r} is not the lock of a run; move it away")
            try:
                files.append(path.open("a"))
                lock(files[-1], shared)
            except BlockingIOError as error:
                raise RunFolderError(
                    f"{str(run)!r} is in use by another start; wait for its end"
                ) from error
            except OSError as error:
                raise InputError(f"{str(run)!r} cannot be written: {error.strerror}") from error
        yield
    finally:
        for file in files:
            file.close()
