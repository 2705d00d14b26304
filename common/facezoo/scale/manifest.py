"""The manifest of a bulk run: every photo once, sorted, cut into shards.

::

    RUN/manifest.json          schema, root of the names, numbers of photos, bytes, shards
    RUN/manifest/00000.parquet photo, size, mtime, etag; a row group per shard, sorted
    RUN/shards.parquet         photos, size, sha256 of each shard

Names are sorted by their parts, as ``facezoo predict`` sorts them. The photos may be more than fit
into memory: they are sorted in pieces on the disk, then merged.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ..errors import UNREADABLE, InputError, RunFolderError
from ..fields import STRING, check, one_of, record, whole
from ..files import LARGEST_DOCUMENT, open_file, read_text, walking, write_json
from ..image.decode import IMAGE_SUFFIXES
from ..image.files import WHOLE_FOLDER, check_name, is_image_file
from ..image.reading import current_reading
from ..runs import unpacking
from ..workers import map_in_order
from ..written import LOCK_FILE, is_temporary
from .addresses import Found, is_remote, list_remote, stat_of
from .tables import ParquetFile, open_parquet

__all__ = ["Cut", "Manifest", "Sources", "find_photos", "write_manifest"]

SCHEMA = "facezoo.manifest/1"
MANIFEST_FILE, SHARDS_FILE, FOLDER = "manifest.json", "shards.parquet", "manifest"

_ROWS = pa.schema(
    [
        pa.field("photo", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("mtime", pa.timestamp("ns", "UTC")),
        pa.field("etag", pa.string()),
    ]
)
_SHARDS = pa.schema([("photos", pa.int32()), ("size", pa.int64()), ("sha256", pa.string())])
_DOCUMENT = record(
    {
        "schema": one_of(SCHEMA),
        "root": STRING,
        "photos": whole(0, 1 << 53),
        "size": whole(0, 1 << 63),
        "shards": whole(0, 1 << 40),
        "duplicates": whole(0, 1 << 53),
    }
)

SORTED_AT_ONCE = 1 << 17
MERGED_AT_ONCE, READ_AT_ONCE = 1 << 10, 1 << 13
# A shard of photos of unknown size ends here; a file of the manifest holds so many shards.
MOST_PHOTOS, SHARDS_PER_FILE = 1 << 16, 1000
# Threads that ask an object store for sizes.
ASKING = 32
LONGEST_LINE = 1 << 16
# The folder that a start works in, until its manifest is complete.
SCRATCH = ".facezoo."
_SCRATCH_NAME = re.compile(re.escape(SCRATCH) + "[a-z0-9_]{8}")


@dataclass(frozen=True)
class Cut:
    """Where a shard ends.

    Attributes
    ----------
    size
        Bytes of photos with which a shard is full; None for no such limit.
    count
        Most photos of a shard.
    """

    size: Optional[int] = 128 << 20
    count: int = MOST_PHOTOS


@dataclass(frozen=True)
class Sources:
    """Where the photos of a manifest are named.

    Attributes
    ----------
    given
        Folders, photos, addresses, tables (.parquet, .csv), or ``-`` for a list.
    column
        Column of addresses in a table.
    lines
        The list that ``-`` stands for, one path or address per line.
    """

    given: Sequence[str]
    column: str = "path"
    lines: Iterable[str] = ()

    @property
    def root(self) -> str:
        """The folder or address that all names are below; "" if there are several sources."""
        if len(self.given) != 1 or _is_table(self.given[0]) or self.given[0] == "-":
            return ""
        (one,) = self.given
        if is_remote(one):
            return "" if _is_photo(one) else one
        return str(Path(one).absolute()) if Path(one).is_dir() else ""


def find_photos(sources: Sources) -> Iterator[Found]:
    """Yield every photo of the sources, unsorted, perhaps several times.

    Raises
    ------
    InputError
        If a source does not exist or cannot be read, or a name is not a line of text.
    """
    root = sources.root
    for one in sources.given:
        if one == "-":
            yield from _listed(line.rstrip("\n") for line in sources.lines)
        elif _is_table(one):
            yield from _of_table(one, sources.column)
        elif is_remote(one):
            yield from [stat_of(one)] if _is_photo(one) else _of_store(one, below=bool(root))
        else:
            yield from _of_path(Path(one).absolute(), below=bool(root))


def _is_table(one: str) -> bool:
    return one.lower().endswith((".parquet", ".csv"))


def _is_photo(one: str) -> bool:
    return one.partition("?")[0].lower().endswith(IMAGE_SUFFIXES)


def _of_path(path: Path, below: bool) -> Iterator[Found]:
    if not path.exists():
        raise InputError(f"{str(path)!r} does not exist; expected photos, a folder or a table")
    if not path.is_dir():
        check_name(path.name, path)
        yield stat_of(str(path))
        return
    left_out: List[OSError] = []
    is_empty = True
    others: Counter[str] = Counter()
    try:
        for file in walking(path, left_out, runs=False):
            if is_image_file(file):
                is_empty = False
                yield _named(file, path, below)
            else:
                others[file.suffix.lower()] += 1
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if is_empty and not left_out:
        raise InputError(f"{str(path)!r} contains no image, at any depth")
    current_reading().pass_over(path, others)
    for failed in left_out:
        # Reading it will say why.
        yield _named(Path(failed.filename, WHOLE_FOLDER), path, below)


def _named(file: Path, folder: Path, below: bool) -> Found:
    name = file.relative_to(folder).as_posix()
    check_name(name, file)
    found = stat_of(str(file))
    return found._replace(photo=name) if below else found


def _of_store(root: str, below: bool) -> Iterator[Found]:
    place, _, options = root.partition("?")
    if options and not below:
        raise InputError(f"{root!r}: options behind ? can be given for a single address only")
    for found in list_remote(root):
        if _is_photo(found.photo):
            name = found.photo if below else f"{place.rstrip('/')}/{found.photo}"
            yield found._replace(photo=name)


def _listed(names: Iterable[Optional[str]]) -> Iterator[Found]:
    """Find size and time of listed photos; only an object store is slow enough for threads."""
    for remote, group in _in_groups(_checked(name) for name in names if name):
        yield from map_in_order(stat_of, group, ASKING) if remote else map(stat_of, group)


def _checked(name: str) -> str:
    if len(name) > LONGEST_LINE or name.splitlines() != [name]:
        raise InputError(f"{name[:200]!r} is not a path or an address")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name!r} is not UTF-8, so results cannot list it; rename it") from error
    return name if is_remote(name) else str(Path(name).absolute())


def _in_groups(names: Iterator[str]) -> Iterator[Tuple[bool, List[str]]]:
    while True:
        group = list(islice(names, READ_AT_ONCE))
        if not group:
            return
        yield any(map(is_remote, group)), group


def _of_table(path: str, column: str) -> Iterator[Found]:
    try:
        for table in _batches(path, column):
            names = table.column(column).to_pylist()
            if "size" not in table.column_names:
                yield from _listed(names)
                continue
            rest = [_whole_numbers(table, name) for name in ("size", "mtime")]
            etags = table.column("etag").to_pylist() if "etag" in table.column_names else None
            for index, name in enumerate(names):
                if name:
                    known = [one and one[index] for one in (*rest, etags)]
                    yield Found._make([_checked(name), *known])
    except (pa.ArrowException, *UNREADABLE) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path!r} cannot be read as a table ({error})") from error


def _whole_numbers(table: pa.Table, name: str) -> Optional[List[Optional[int]]]:
    if name not in table.column_names:
        return None
    values = pc.cast(table.column(name), _ROWS.field(name).type)
    numbers: List[Optional[int]] = pc.cast(values, pa.int64()).to_pylist()
    return numbers


def _batches(path: str, column: str) -> Iterator[pa.Table]:
    """Yield a table of addresses piece by piece."""
    open_file(Path(path)).close()
    if path.lower().endswith(".csv"):
        text = pyarrow.csv.ConvertOptions(column_types={column: pa.string(), "etag": pa.string()})
        with pyarrow.csv.open_csv(path, convert_options=text) as reader:
            _check_column(path, column, reader.schema)
            for batch in reader:
                yield pa.Table.from_batches([batch])
        return
    with open_parquet(Path(path)) as file:
        _check_column(path, column, file.schema_arrow)
        wanted = [n for n in (column, "size", "mtime", "etag") if n in file.schema_arrow.names]
        for batch in file.iter_batches(READ_AT_ONCE, columns=wanted):
            yield pa.Table.from_batches([batch])


def _check_column(path: str, column: str, schema: pa.Schema) -> None:
    if column not in schema.names:
        raise InputError(
            f"{path!r} has no column {column!r}; it has {', '.join(schema.names)}: name one "
            "with --column"
        )
    kind = schema.field(column).type
    if not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
        raise InputError(f"{path!r}: column {column!r} is of type {kind}; expected texts")


# Writing ------------------------------------------------------------------------------------------


def write_manifest(run: Path, root: str, photos: Iterator[Found], cut: Cut) -> Dict[str, Any]:
    """Sort photos, cut them into shards, and write the manifest of a new run.

    Parameters
    ----------
    run
        New or empty folder; what a killed start left there is replaced, and nothing else.
    root
        What the names are below; "" if they are whole addresses.
    photos
        In any order; of several with one name one is kept.
    cut
        Where a shard ends.

    Returns
    -------
    dict
        The content of manifest.json, which is written last.

    Raises
    ------
    RunFolderError
        If the folder has a manifest, or other content, or is in use.
    InputError
        If there is no photo.
    """
    with unpacking(run):
        _check_new(run)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=run) as scratch:
            totals = _write_tables(Path(scratch), photos, cut)
            for name in (FOLDER, SHARDS_FILE):
                Path(scratch, name).rename(run / name)
        document = {"schema": SCHEMA, "root": root, **totals}
        write_json(run / MANIFEST_FILE, document)
    return document


def _write_tables(folder: Path, photos: Iterator[Found], cut: Cut) -> Dict[str, int]:
    """Write the tables of the photos and of the shards; return the totals."""
    (folder / FOLDER).mkdir()
    totals = {"photos": 0, "size": 0, "shards": 0, "duplicates": 0}
    with ExitStack() as stack:
        rows = _without_duplicates(_sorted(photos, folder), totals)
        shards: List[Tuple[int, int, str]] = []
        file: Optional[ParquetFile] = None
        for shard in _shards(rows, cut):
            if totals["shards"] % SHARDS_PER_FILE == 0:
                stack.close()
                number = totals["shards"] // SHARDS_PER_FILE
                path = folder / FOLDER / f"{number:05d}.parquet"
                file = stack.enter_context(ParquetFile(path, _ROWS))
            size = sum(one.size or 0 for one in shard)
            file.write(_table_of(shard))  # type: ignore[union-attr]
            shards.append((len(shard), size, sha256_of_rows(shard)))
            for name, value in (("photos", len(shard)), ("size", size), ("shards", 1)):
                totals[name] += value
    if not shards:
        raise InputError(f"no photo was found ({', '.join(IMAGE_SUFFIXES)}); name others")
    columns = [pa.array(list(values), kind) for values, kind in zip(zip(*shards), _SHARDS.types)]
    with ParquetFile(folder / SHARDS_FILE, _SHARDS) as table:
        table.write(pa.Table.from_arrays(columns, schema=_SHARDS))
    return totals


def _check_new(run: Path) -> None:
    """Remove what a killed start left; RunFolderError if there is anything else."""
    found = sorted(path for path in run.iterdir() if path.name != LOCK_FILE)
    if any(path.name == MANIFEST_FILE for path in found):
        raise RunFolderError(
            f"{str(run)!r} has a manifest, which other commands may be working on; name a new "
            "folder"
        )
    strangers = [path.name for path in found if not _is_own(path)]
    if strangers:
        raise RunFolderError(
            f"{str(run)!r} holds {strangers[0]!r} and no manifest, so it was not created by "
            "facezoo; name an empty or new folder"
        )
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_own(path: Path) -> bool:
    """Return whether a file or folder, with all that is in it, is what a start leaves if killed."""
    if path.is_symlink():
        return False
    if path.is_dir():
        has_name = path.name == FOLDER or _SCRATCH_NAME.fullmatch(path.name)
        return bool(has_name) and all(map(_is_own, path.iterdir()))
    if path.suffix == ".parquet":
        try:
            with open_parquet(path) as file:
                schema = _SHARDS if path.name == SHARDS_FILE else _ROWS
                return bool(file.schema_arrow.equals(schema))
        except (pa.ArrowException, *UNREADABLE):
            return False
    is_piece = path.suffix == ".arrow" and _SCRATCH_NAME.fullmatch(path.parent.name)
    return bool(is_piece) or is_temporary(path)


def _key(found: Found) -> str:
    # In the order of the parts: "a/b" comes before "a.b".
    return found.photo.replace("/", "\0")


def _sorted(photos: Iterator[Found], folder: Path) -> Iterator[Found]:
    pieces: List[Path] = []
    while True:
        rows = sorted(islice(photos, SORTED_AT_ONCE), key=_key)
        if len(rows) < SORTED_AT_ONCE and not pieces:
            yield from rows
            return
        if not rows:
            break
        pieces.append(folder / f"{len(pieces)}.arrow")
        table = _table_of(rows)
        with pa.ipc.new_file(str(pieces[-1]), _ROWS) as writer:
            writer.write_table(table, MERGED_AT_ONCE)
        del rows, table
    yield from heapq.merge(*map(_read_piece, pieces), key=_key)


def _read_piece(path: Path) -> Iterator[Found]:
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            yield from _rows_of(reader.get_batch(index))


def _without_duplicates(photos: Iterator[Found], totals: Dict[str, int]) -> Iterator[Found]:
    last = None
    for found in photos:
        if found.photo == last:
            totals["duplicates"] += 1
            continue
        last = found.photo
        yield found


def _shards(photos: Iterator[Found], cut: Cut) -> Iterator[List[Found]]:
    shard: List[Found] = []
    size = 0
    for found in photos:
        shard.append(found)
        size += found.size or 0
        if len(shard) >= cut.count or (cut.size is not None and size >= cut.size):
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _table_of(rows: Sequence[Found]) -> pa.Table:
    columns = [pa.array(list(values), field.type) for values, field in zip(zip(*rows), _ROWS)]
    return pa.Table.from_arrays(columns, schema=_ROWS)


def _rows_of(table: Union[pa.Table, pa.RecordBatch]) -> Iterator[Found]:
    columns = [table.column("photo"), table.column("size")]
    columns += [pc.cast(table.column("mtime"), pa.int64()), table.column("etag")]
    return map(Found._make, zip(*(column.to_pylist() for column in columns)))


def sha256_of_rows(rows: Sequence[Found]) -> str:
    """Return the hash of some rows of a manifest, which names the work on them."""
    text = "\n".join(f"{row.photo}\0{row.size}\0{row.mtime}\0{row.etag}" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()


# Reading ------------------------------------------------------------------------------------------


class Manifest:
    """The manifest of a run, read shard by shard.

    Parameters
    ----------
    run
        The run's folder.

    Attributes
    ----------
    root
        What the names are below; "" if they are whole addresses.
    photos, size
        Their number, and their bytes as far as known.
    counts, hashes
        Number of photos and hash of each shard.

    Raises
    ------
    InputError
        If the folder has no manifest, or one that cannot be read.
    """

    def __init__(self, run: Path) -> None:
        self.folder = Path(run)
        path = self.folder / MANIFEST_FILE
        try:
            document = json.loads(read_text(path, LARGEST_DOCUMENT))
            check(document, _DOCUMENT, MANIFEST_FILE)
            path = self.folder / SHARDS_FILE
            with open_parquet(path) as file:
                shards = file.read()
            if len(shards) != document["shards"]:
                raise ValueError(f"{SHARDS_FILE} lists {len(shards)} shards")
        except (pa.ArrowException, *UNREADABLE) as error:
            raise InputError(
                f"{str(path)!r} cannot be read ({error}); write it with facezoo score manifest"
            ) from error
        self.root: str = document["root"]
        self.photos: int = document["photos"]
        self.size: int = document["size"]
        self.counts: List[int] = shards.column("photos").to_pylist()
        self.hashes: List[str] = shards.column("sha256").to_pylist()

    def __len__(self) -> int:
        return len(self.counts)

    def rows(self, shard: int) -> List[Found]:
        """Return the photos of a shard; InputError if they are not those it was cut with."""
        path = self.folder / FOLDER / f"{shard // SHARDS_PER_FILE:05d}.parquet"
        try:
            with open_parquet(path) as file:
                rows = list(_rows_of(file.read_row_group(shard % SHARDS_PER_FILE)))
        except (pa.ArrowException, *UNREADABLE) as error:
            raise InputError(f"{str(path)!r} cannot be read ({error})") from error
        if sha256_of_rows(rows) != self.hashes[shard]:
            raise InputError(f"{str(path)!r}: shard {shard} has changed since it was written")
        return rows
