"""Photos by address: a path, or the address of an object store that pyarrow or fsspec can read."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional, Tuple

import pyarrow as pa
from pyarrow import fs

from ..arrays import LARGEST_IMAGE
from ..errors import ImageError, InputError
from ..image.files import read_encoded

__all__ = ["Found", "is_remote", "join", "list_remote", "read_bytes", "stat_of"]

_REMOTE = re.compile(r"([a-z][a-z0-9+.-]+)://([^/?]*)/?([^?]*)(\?.*)?", re.DOTALL)


class Found(NamedTuple):
    """A photo of a manifest.

    Attributes
    ----------
    photo
        Its name below the manifest's root, or its whole address.
    size
        Bytes; None if it is not known.
    mtime
        Time of its last change in nanoseconds since 1970; None if it is not known.
    etag
        Of an object store; None if it is not known.
    """

    photo: str
    size: Optional[int] = None
    mtime: Optional[int] = None
    etag: Optional[str] = None


def is_remote(text: str) -> bool:
    """Return whether a text is an address such as ``s3://bucket/photos``, not a path."""
    return _REMOTE.fullmatch(text) is not None


def join(root: str, name: str) -> str:
    """Return the address of a name below a root; the root's options stay at the end."""
    place, mark, options = root.partition("?") if is_remote(root) else (root, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{options}" if root else name


def stat_of(address: str) -> Found:
    """Return size and time of an address; without them if there is no such file."""
    if not is_remote(address):
        path = Path(address)
        try:
            if path.is_file():
                found = path.stat()
                return Found(address, found.st_size, found.st_mtime_ns)
        except (OSError, ValueError):
            pass  # Reading it will say why.
        return Found(address)
    filesystem, path_in = _open(address)
    info = filesystem.get_file_info(path_in)
    return Found(address, info.size, info.mtime_ns) if info.is_file else Found(address)


def read_bytes(address: str) -> bytes:
    """Read a file at once.

    Raises
    ------
    ImageError
        If it is missing, cannot be read or is too large.
    """
    if not is_remote(address):
        return read_encoded(Path(address))
    try:
        filesystem, path = _open(address)
        with filesystem.open_input_file(path) as file:
            if file.size() > LARGEST_IMAGE:
                raise OSError(f"it has {file.size()} bytes; expected at most {LARGEST_IMAGE}")
            return bytes(file.read())
    except (OSError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise ImageError(f"{address!r} cannot be read: {said}") from error


def list_remote(root: str) -> Iterator[Found]:
    """Yield the files below an address, folder by folder; names are relative to it.

    Raises
    ------
    InputError
        If it cannot be listed.
    """
    try:
        filesystem, base = _open(root)
        base = base.rstrip("/")
        waiting = [base]
        while waiting:
            for info in filesystem.get_file_info(fs.FileSelector(waiting.pop())):
                if info.base_name.startswith("."):
                    continue
                if info.type == fs.FileType.Directory:
                    waiting.append(info.path)
                elif info.is_file:
                    name = info.path[len(base) :].lstrip("/")
                    yield Found(name, info.size, info.mtime_ns)
    except (OSError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"{root!r} cannot be listed: {said}") from error


def _open(address: str) -> Tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    match = _REMOTE.fullmatch(address)
    scheme, server, path, options = match.groups()  # type: ignore[union-attr]
    filesystem, base = _file_system(scheme, server, options or "")
    # The path as it is: a key may have characters that an address would have escaped.
    return filesystem, f"{base.rstrip('/')}/{path}" if path else base


@lru_cache(maxsize=64)
def _file_system(scheme: str, server: str, options: str) -> Tuple[Any, str]:
    if "@" in server:
        raise InputError(
            f"an address of {scheme}:// holds a password, which the manifest would keep; give it "
            "in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    address = f"{scheme}://{server}{'/' * bool(server or options)}{options}"
    try:
        try:
            found: Tuple[Any, str] = fs.FileSystem.from_uri(address)
        except pa.ArrowInvalid:
            # What pyarrow does not know, fsspec may.
            found = fs.FileSystem.from_uri(f"fsspec+{address}")
    except (ImportError, OSError, ValueError, pa.ArrowException) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"addresses of {scheme}:// cannot be opened: {said}") from error
    return found
