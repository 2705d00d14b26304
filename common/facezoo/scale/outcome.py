"""What became of a bulk run: how far it is, whether every photo is there once, all in one table."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError, RunFolderError
from ..files import sha256_of
from ..runs import RUN_FILE
from ..written import is_temporary
from .tables import (
    FACES,
    FACES_PER_GROUP,
    PHOTOS,
    PHOTOS_PER_GROUP,
    SETTINGS_KEY,
    STATUSES,
    Columns,
    ParquetFile,
    open_table,
)
from .work import TABLES, Part, Receipt, Scores

__all__ = ["Progress", "check", "failures", "merge", "progress_of"]

# The rate is that of the last minutes, since machines come and go.
RECENT_SECONDS = 600.0
SCHEMAS = dict(zip(TABLES, (FACES, PHOTOS)))


@dataclass
class Progress:
    """How far scores are.

    Attributes
    ----------
    photos, done
        Number of photos, and of those that are done.
    parts_left
        Number of parts that are not.
    counts
        Photos done, by status.
    faces
        Faces found.
    seconds
        Of all processes together, for the photos that are done.
    rate
        Photos per second in the last minutes; 0 if none was finished.
    lost
        Number of processes that were lost.
    hosts
        Photos done, by machine.
    """

    photos: int = 0
    done: int = 0
    parts_left: int = 0
    counts: Dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    faces: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    lost: int = 0
    hosts: Counter[str] = field(default_factory=Counter)

    @property
    def eta(self) -> Optional[float]:
        """Seconds until all is done at the present rate; None if there is none."""
        left = self.photos - self.done
        return left / self.rate if self.rate else None


def progress_of(scores: Scores) -> Progress:
    """Return how far scores are; also while a run is at work."""
    found, now = Progress(), time.time()
    deaths = scores.deaths()
    found.lost = sum(deaths.values())
    recent, since = 0, now
    for part, receipt in scores.leaves(deaths):
        found.photos += part.photos
        if receipt is None:
            found.parts_left += 1
            continue
        found.done += part.photos
        found.faces += receipt["faces"]
        found.seconds += receipt["seconds"]["spent"]
        found.hosts[receipt["host"]] += part.photos
        for status, count in receipt["counts"].items():
            found.counts[status] += count
        ended = receipt["seconds"]["ended"]
        if ended > now - RECENT_SECONDS:
            recent += part.photos
            since = min(since, ended - receipt["seconds"]["spent"])
    found.rate = recent / max(1e-3, min(now - since, RECENT_SECONDS)) if recent else 0.0
    return found


def failures(scores: Scores) -> Iterator[Tuple[str, str]]:
    """Yield name and error of the photos that are done without a result."""
    for part, receipt in scores.leaves(scores.deaths()):
        if receipt is not None and receipt["counts"]["scored"] < part.photos:
            with open_table(scores.path_of("photos", part.name), PHOTOS) as file:
                for row in file.read(["photo", "error"]).to_pylist():
                    if row["error"] is not None:
                        yield row["photo"], row["error"]


def check(scores: Scores) -> Iterator[str]:
    """Yield what is wrong with scores: every photo is there once, and every part is as written.

    Yields
    ------
    str
        A problem; nothing if there is none.
    """
    for part, receipt in scores.leaves(scores.deaths()):
        where = f"shard {part.shard}, photos {part.start} to {part.stop - 1}"
        if receipt is None:
            yield f"{where}: not scored"
            continue
        try:
            yield from (f"{where}: {problem}" for problem in _problems(scores, part, receipt))
        except (InputError, pa.ArrowException, OSError) as error:
            yield f"{where}: {error}"


def _problems(scores: Scores, part: Part, receipt: Receipt) -> Iterator[str]:
    tables = {}
    for name in TABLES:
        path = scores.path_of(name, part.name)
        if sha256_of(path) != receipt["sha256"][name]:
            yield f"{str(path)!r} is not as it was written"
            return
        with open_table(path, SCHEMAS[name]) as file:
            made_with = json.loads((file.schema_arrow.metadata or {})[SETTINGS_KEY])
            columns = ["photo", "faces" if name == "photos" else "face"]
            tables[name] = file.read(columns).to_pydict()
        if made_with != scores.settings:
            yield f"{str(path)!r} was made by other models or settings"
    photos, faces = tables["photos"], tables["faces"]
    if photos["photo"] != [row.photo for row in scores.rows(part)]:
        yield "its photos are not those of the manifest"
    of_photos = [
        (photo, face)
        for photo, count in zip(photos["photo"], photos["faces"])
        for face in range(count)
    ]
    if of_photos != list(zip(faces["photo"], faces["face"])):
        yield "its faces are not those of its photos"


def merge(scores: Scores, folder: Path, photos_per_file: Optional[int] = None) -> Tuple[int, int]:
    """Write all parts as one table each of faces and photos, in the order of the manifest.

    Parameters
    ----------
    scores
        The scores; all photos must be done.
    folder
        Where faces.parquet and photos.parquet are written; with ``photos_per_file`` they are
        folders of numbered files, each with that many photos and their faces.
    photos_per_file
        Photos per file.

    Returns
    -------
    photos, faces : int
        Number of rows.

    Raises
    ------
    InputError
        If photos are not done, a part is not as it was written, or the folder has other files where
        the tables go.
    RunFolderError
        If the folder holds the results of a run.
    """
    leaves = list(scores.leaves(scores.deaths()))
    left = sum(part.photos for part, receipt in leaves if receipt is None)
    if left:
        raise InputError(
            f"{left} photos of {str(scores.run)!r} are not scored; run facezoo score run again"
        )
    _check_target(folder, scores.manifest.photos, photos_per_file)
    merged = _Merged(scores, folder, photos_per_file)
    with merged:
        for part, receipt in leaves:
            for name, sha256 in receipt["sha256"].items() if receipt else ():
                path = scores.path_of(name, part.name)
                if sha256_of(path) != sha256:
                    raise InputError(
                        f"{str(path)!r} is not as it was written; delete it, and run facezoo score "
                        "run again"
                    )
            with ExitStack() as stack:
                photos, faces = (
                    stack.enter_context(
                        open_table(scores.path_of(name, part.name), SCHEMAS[name])
                    ).read()
                    for name in ("photos", "faces")
                )
            merged.add(photos, faces)
    return merged.photos, merged.faces


def _check_target(folder: Path, photos: int, photos_per_file: Optional[int]) -> None:
    """Refuse a folder where the tables would replace, or be read together with, other files."""
    if (folder / RUN_FILE).exists():
        raise RunFolderError(f"{str(folder)!r} holds the results of a run; name another folder")
    for name, schema in SCHEMAS.items():
        if photos_per_file is None:
            names = {f"{name}.parquet"}
            there = [folder / one for one in names if os.path.lexists(folder / one)]
        else:
            numbers = range(-(-photos // photos_per_file))
            names = {f"{number:05d}.parquet" for number in numbers}
            there = sorted((folder / name).iterdir()) if (folder / name).is_dir() else []
        for path in there:
            if not is_temporary(path) and not (path.name in names and _is_table(path, schema)):
                raise InputError(
                    f"{str(path)!r} is not a table that this command writes, and stays; name a new "
                    "folder"
                )


def _is_table(path: Path, schema: str) -> bool:
    try:
        open_table(path, schema).close()
    except InputError:
        return False
    return True


class _Merged:
    """The merged tables, in groups of rows that do not depend on the parts."""

    def __init__(self, scores: Scores, folder: Path, photos_per_file: Optional[int]) -> None:
        self._schemas = (
            Columns.photos(scores.settings),
            scores.columns.faces(scores.settings),
        )
        self._folder, self._most = folder, photos_per_file
        self._files: Tuple[_Grouped, ...] = ()
        self._open = ExitStack()
        self._in_file = 0
        self.photos = self.faces = 0

    def __enter__(self) -> _Merged:
        self._begin(0)
        return self

    def _begin(self, number: int) -> None:
        self._open.close()
        with ExitStack() as stack:
            files = []
            for name, schema, size in zip(
                ("photos", "faces"), self._schemas, (PHOTOS_PER_GROUP, FACES_PER_GROUP)
            ):
                path = self._folder / f"{name}.parquet"
                if self._most is not None:
                    path = path.with_suffix("") / f"{number:05d}.parquet"
                files.append(stack.enter_context(_Grouped(path, schema, size)))
            self._files = tuple(files)
            self._open = stack.pop_all()
        self._in_file = 0

    def add(self, photos: pa.Table, faces: pa.Table) -> None:
        """Add the tables of a part."""
        while len(photos):
            if self._in_file == self._most:
                self._begin(self.photos // self._most)
            room = len(photos) if self._most is None else self._most - self._in_file
            some, photos = photos.slice(0, room), photos.slice(room)
            count = pc.sum(some.column("faces")).as_py() or 0
            theirs, faces = faces.slice(0, count), faces.slice(count)
            self._files[0].add(some)
            self._files[1].add(theirs)
            self._in_file += len(some)
            self.photos += len(some)
            self.faces += len(theirs)

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # type: ignore[arg-type]


class _Grouped:
    """A Parquet file whose groups have a fixed number of rows."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        self._file, self._size = ParquetFile(path, schema), rows
        self._waiting: List[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> _Grouped:
        self._file.__enter__()
        return self

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._rows += len(table)
        while self._rows >= self._size:
            self._write(self._size)

    def _write(self, rows: int) -> None:
        schema = self._file.schema
        table = (
            pa.concat_tables(
                [one.replace_schema_metadata(schema.metadata) for one in self._waiting]
            )
            if self._waiting
            else schema.empty_table()
        )
        self._file.write(table.slice(0, rows).combine_chunks())
        self._waiting = [table.slice(rows)]
        self._rows = len(table) - min(rows, len(table))

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self._write(self._rows)
        finally:
            self._file.__exit__(*error)
