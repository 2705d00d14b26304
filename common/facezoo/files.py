"""Folders walked, regular files read within bounds, atomic writes, hashes, names to show."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import logging
import math
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, Optional, Tuple, Union

from .errors import InputError
from .system import OPEN_AT_ONCE
from .written import writing

__all__ = [
    "check_room",
    "counted",
    "csv_cell",
    "csv_name",
    "find_hashed",
    "finite",
    "fitting_name",
    "is_there",
    "is_web_page",
    "open_file",
    "printable",
    "read_file",
    "read_text",
    "sha256_of",
    "walk",
    "walking",
    "write_bytes",
    "write_hashed",
    "write_json",
    "write_missing",
]

DIGITS = 12  # of a sha256 in a file's name


# In bytes, far above what is in use; a file that claims more is sparse or damaged.
LARGEST_FILE = 16 << 30  # read in pieces, such as a checkpoint
LARGEST_READ = 2 << 30  # read at once: results, lists, verification sets
LARGEST_DOCUMENT = 64 << 20  # settings and measurements: profiles, records, contracts

LINKED = "it is a link to a folder that contains it, which would never end; remove the link"

_log = logging.getLogger(__name__)

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_web_page(path: Path) -> bool:
    """Return whether a file starts as a web page does; False if it cannot be read."""
    try:
        with open_file(path) as file:
            return file.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))
    except OSError:
        return False


def check_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to start if the disk has less space than the files to write take.

    Parameters
    ----------
    folder
        Where to; it need not exist yet.
    needed
        Bytes.
    what
        The files, for the error.

    Raises
    ------
    InputError
        If there is less space.
    """
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InputError(
            f"{str(folder)!r} has {free / 1e9:.2f} GB free, and {what} need {needed / 1e9:.2f} "
            "GB; choose a folder on a larger disk, or free space there"
        )


def open_file(path: Path, most: int = LARGEST_FILE) -> BinaryIO:
    """Open a regular file of limited size for reading; every file of a user is opened here.

    Parameters
    ----------
    path
        The file.
    most
        Largest size in bytes.

    Returns
    -------
    file object
        Binary, buffered.

    Raises
    ------
    OSError
        If it cannot be opened, is a folder, a pipe, a socket or a device, which may never end, or
        is larger. ``strerror`` says which.
    """
    # Before it is opened, which waits for a writer of a pipe and can change a device.
    _check_regular(path, Path(path).stat(), most)
    # The file may have been exchanged in between.
    descriptor = os.open(path, os.O_RDONLY | OPEN_AT_ONCE)
    try:
        _check_regular(path, os.fstat(descriptor), most)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(path: Path, found: os.stat_result, most: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "a special file")
        raise OSError(errno.EINVAL, f"it is {kind}; expected a regular file", str(path))
    if found.st_size > most:
        reason = f"it has {found.st_size} bytes; expected at most {most}"
        raise OSError(errno.EINVAL, reason, str(path))


def read_file(path: Path, most: int = LARGEST_READ) -> bytes:
    """Read a regular file of limited size at once; errors as for :func:`open_file`."""
    with open_file(path, most) as file:
        return file.read()


def read_text(path: Path, most: int = LARGEST_DOCUMENT) -> str:
    """Read UTF-8 text like :func:`read_file`; UnicodeDecodeError if it is not."""
    return read_file(path, most).decode("utf-8")


def walk(folder: Path, *, runs: bool = True) -> Tuple[List[Path], List[OSError]]:
    """List the files below a folder at any depth.

    Hidden files and folders are left out. Links to folders are followed, but each folder is listed
    once, so that loops end.

    Parameters
    ----------
    folder
        The folder.
    runs
        Also list results of facezoo: folders below this one that a run wrote.

    Returns
    -------
    files : list of Path
        In the order of the file system.
    left_out : list of OSError
        One per folder that was not listed: it cannot be read, its path is too long, or it is a
        link to a folder that contains the given one. ``filename`` names it, ``strerror`` says why.

    Raises
    ------
    OSError
        If the folder itself cannot be read.
    """
    left_out: List[OSError] = []
    return list(walking(folder, left_out, runs=runs)), left_out


def walking(folder: Path, left_out: List[OSError], *, runs: bool = True) -> Iterator[Path]:
    """Yield the files of :func:`walk` one by one; what is left out is added to the list."""
    listed: Dict[str, Path] = {}
    top = os.path.realpath(folder)
    waiting = [Path(folder)]
    while waiting:
        links: List[Path] = []
        for start in waiting:
            yield from _list_below(start, runs, left_out, links, listed)
        # Only now, so that a folder goes by its own name rather than by that of a link to it.
        waiting = []
        for path in sorted(links):
            target = os.path.realpath(path)
            if os.path.commonpath([top, target]) == target != top:
                left_out.append(OSError(errno.ELOOP, LINKED, str(path)))
            else:
                waiting.append(path)
    if left_out and left_out[0].filename == str(folder):
        raise left_out[0]


def _list_below(
    start: Path,
    runs: bool,
    left_out: List[OSError],
    links: List[Path],
    listed: Dict[str, Path],
) -> Iterator[Path]:
    """Yield what is below a folder, but for folders that are listed elsewhere."""
    for root, folders, files in os.walk(start, onerror=left_out.append):
        place = os.path.realpath(root)
        if place in listed:
            if not runs:
                _log.warning("left out: %r is %r, which is listed", root, str(listed[place]))
            folders.clear()
            continue
        listed[place] = Path(root)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in list(folders):
            path = Path(root, name)
            try:
                if not runs and _is_run(path):
                    _log.warning("left out: %r holds results of facezoo", str(path))
                elif path.is_symlink():
                    links.append(path)
                else:
                    continue
            except OSError as error:
                left_out.append(error)
            folders.remove(name)
        for name in files:
            if not name.startswith("."):
                yield Path(root, name)


def _is_run(folder: Path) -> bool:
    try:
        with open_file(folder / "run.json") as file:
            # Its first field, which is also there if the file was cut.
            return b'"schema": "facezoo.run/' in file.read(100)
    except OSError:
        return False


# Control characters, halves of surrogate pairs (which stand for bytes that are not UTF-8), line
# separators, and marks that reverse what follows.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str, keep: str = "") -> str:
    """Escape what a terminal, a picture or a line of text cannot show, or would take for a command.

    Parameters
    ----------
    text
        Such as a file name.
    keep
        Characters that stay, such as line breaks between names.

    Returns
    -------
    str
        One line of valid text, unless ``keep`` has a line break.
    """
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text
    )


# source: OWASP "CSV Injection": what a spreadsheet takes for a formula, also in full width.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def csv_cell(name: str) -> str:
    """Return a name as a cell of a CSV that no spreadsheet takes for a formula.

    A name that begins like one gets a ``'`` in front; :func:`csv_name` removes it.
    """
    return f"'{name}" if _FORMULA.match(name) else name


def csv_name(cell: str) -> str:
    """Return the name in a cell of :func:`csv_cell`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


LONGEST_NAME = 255  # bytes; source: limits(5) of Linux, NAME_MAX


def fitting_name(name: str) -> str:
    """Return a file name that is not too long for a file system.

    Parameters
    ----------
    name
        Such as ``event/photo.jpg.txt``, with forward slashes.

    Returns
    -------
    str
        The name itself if it fits; otherwise it is cut between two characters, and a hash of the
        whole name keeps it apart from others that begin like it.
    """
    folder, slash, last = name.rpartition("/")
    data = os.fsencode(last)
    if len(data) <= LONGEST_NAME:
        return name
    stem, dot, suffix = last.rpartition(".")
    end = f"~{hashlib.sha256(data).hexdigest()[:8]}{dot}{suffix}"
    cut = os.fsencode(stem)[: LONGEST_NAME - len(os.fsencode(end))].decode("utf-8", "ignore")
    return f"{folder}{slash}{cut}{end}"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a regular file, lower-case hex, reading it in pieces."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, entry: Mapping[str, Any], *, indent: int = 1) -> None:
    """Write a JSON file, all or nothing, as :func:`write_bytes`; NaN and infinity are an error."""
    write_bytes(path, (json.dumps(entry, indent=indent, allow_nan=False) + "\n").encode())


def counted(count: int, noun: str) -> str:
    """Return a number and a noun in singular or plural.

    Examples
    --------
    >>> counted(1, "image"), counted(0, "face"), counted(2000, "photo")
    ('1 image', '0 faces', '2000 photos')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


def finite(value: Any) -> Any:
    """Return JSON values with null in place of NaN and infinity, which JSON does not have.

    Examples
    --------
    >>> finite({"snr_db": [float("inf"), 3.0]})
    {'snr_db': [None, 3.0]}
    """
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_bytes(path: Path, *pieces: Union[bytes, memoryview], sync: bool = True) -> None:
    """Write a file completely or not at all; see :func:`facezoo.written.writing`."""
    with writing(path, sync) as file:
        for piece in pieces:
            file.write(piece)


def write_missing(path: Path, content: bytes) -> None:
    """Write one of many files that are unpacked, unless it is there; not synced.

    Parameters
    ----------
    path
        Target file.
    content
        What it must hold. A file with only the beginning of it, or full of zero bytes, is what a
        full disk or a power failure left, and is completed.

    Raises
    ------
    InputError
        If a file with another content is there; it stays.
    """
    if not is_there(path, content):
        write_bytes(path, content, sync=False)


def is_there(path: Path, content: bytes) -> bool:
    """Return whether a file has a content; InputError if :func:`write_missing` would replace it."""
    if not os.path.lexists(path):
        return False
    try:
        found = read_file(path)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if not content.startswith(found) and found.strip(b"\0"):
        raise InputError(
            f"{str(path)!r} exists with another content, and stays; move it away, or name another "
            "folder"
        )
    return found == content


def write_hashed(folder: Path, stem: str, suffix: str, content: bytes) -> Path:
    """Write a file, all or nothing, whose name ends in the hash of its content; return its path."""
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{stem}-{digest[:DIGITS]}{suffix}"
    write_bytes(path, content)
    return path


def find_hashed(folder: Path, stem: str, suffix: str) -> Optional[Path]:
    """Find a file of :func:`write_hashed` that is as it was written.

    Parameters
    ----------
    folder, stem, suffix
        As it was written. Whatever the content depends on should be in the stem.

    Returns
    -------
    pathlib.Path or None
        None if there is none; one that is damaged is named in a warning.
    """
    for path in sorted(folder.glob(f"{glob.escape(stem)}-{'?' * DIGITS}{suffix}")):
        try:
            if sha256_of(path).startswith(path.stem[-DIGITS:]):
                return path
        except OSError:
            pass  # It cannot be read, so it is as good as damaged.
        _log.warning("%s is damaged and is made again", path)
    return None
