"""Lists of pictures as text, one a line, in every form that the seeds' projects write.

::

    path                    inference
    path label              training; also what verification lists look like
    path 0 label 0          MagFace's training
    path;label              EQFace's training

Labels are whole numbers from 0. Paths may hold spaces, since what follows them is counted from the
end of the line; the authors' own programs split at the first space, so writing refuses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import DatasetError, InputError
from ..files import write_bytes
from ..image.files import find_images, relative_names

__all__ = [
    "ImageList",
    "check_image_list",
    "check_some_exist",
    "inside",
    "list_people",
    "read_image_list",
    "read_lines",
    "read_paths",
    "renumbered",
    "resolve_names",
    "write_image_list",
]


# Longest line that is read; a feature of 512 numbers takes about 10,000 bytes.
MAX_LINE = 1 << 20
BYTE_ORDER_MARK = "\ufeff"
MAX_LABEL_DIGITS = 9
FORMS = ("path label", "path 0 label 0", "path;label")


@dataclass(frozen=True)
class ImageList:
    """Pictures with the number of the person in each.

    Attributes
    ----------
    paths
        As the list has them, not resolved.
    labels
        Shape (N,), int64, at least 0.
    """

    paths: Tuple[str, ...]
    labels: np.ndarray

    @property
    def classes(self) -> int:
        """Number of different labels."""
        return len(np.unique(self.labels))

    def __len__(self) -> int:
        return len(self.paths)


def read_lines(path: Path) -> Iterator[Tuple[int, str]]:
    """Read a text file line by line, whatever its size.

    Parameters
    ----------
    path
        UTF-8, with or without a byte order mark, lines ended as on any system.

    Yields
    ------
    tuple of int and str
        Line number from 1 and the line without white space around it. Empty lines at the end are
        left out.

    Raises
    ------
    DatasetError
        If the file cannot be read, or a line is empty, longer than a megabyte, not UTF-8, or
        holds NUL bytes; names the line.
    """
    number = empty = 0
    for text in _texts(Path(path)):
        for line in map(str.strip, text.split("\n")):
            number += 1
            if not line:
                empty = empty or number
            elif empty:
                raise DatasetError(f"{str(path)!r}: line {empty} is empty; remove it")
            else:
                yield number, line
    if not number or empty == 1:
        raise DatasetError(f"{str(path)!r}: holds no line; expected a list, one picture a line")


def _texts(path: Path) -> Iterator[str]:
    """Give a file as texts of many whole lines each."""
    for first, block in _blocks(path):
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError as error:
            number = first + block.count(b"\n", 0, error.start)
            raise DatasetError(
                f"{str(path)!r}: line {number} is not UTF-8; convert the file"
            ) from error
        if "\0" in text:
            number = first + text.count("\n", 0, text.index("\0"))
            raise DatasetError(
                f"{str(path)!r}: line {number} holds NUL bytes; this is no text file"
            )
        yield text[1:] if first == 1 and text.startswith(BYTE_ORDER_MARK) else text


def _blocks(path: Path) -> Iterator[Tuple[int, bytes]]:
    """Give many whole lines at a time, which costs less than each alone, and the first's number."""
    number, rest = 1, b""
    try:
        with path.open("rb") as file:
            while True:
                data = rest + file.read(MAX_LINE + 1 - len(rest))
                block, end_of_line, rest = data.rpartition(b"\n")
                if end_of_line:
                    yield number, block
                    number += block.count(b"\n") + 1
                elif len(rest) > MAX_LINE:
                    raise DatasetError(
                        f"{str(path)!r}: line {number} is longer than {MAX_LINE} bytes; "
                        "expected a list, one picture a line"
                    )
                else:
                    break
    except OSError as error:
        raise DatasetError(f"{str(path)!r}: cannot be read ({error.strerror})") from error
    if rest:
        yield number, rest


def _split(line: str) -> Optional[Tuple[str, str, str]]:
    """Return path, label and form of a line; None if it ends in no label."""
    head, semicolon, label = line.rpartition(";")
    if semicolon and _is_label(label.strip()):
        return head.strip(), label.strip(), FORMS[2]
    parts = line.rsplit(None, 3)
    if len(parts) == 4 and all(map(_is_label, parts[1:])):
        return parts[0], parts[2], FORMS[1]
    parts = line.rsplit(None, 1)
    if len(parts) == 2 and _is_label(parts[1]):
        return parts[0], parts[1], FORMS[0]
    return None


def _is_label(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_LABEL_DIGITS


def read_image_list(path: Path) -> ImageList:
    """Read a list of pictures with labels, in any of its three forms.

    Parameters
    ----------
    path
        The list; its first line tells the form, which all others must have.

    Returns
    -------
    ImageList
        In the list's order.

    Raises
    ------
    DatasetError
        If the list cannot be read, or a line has no label or another form than the first; names
        the line.
    """
    paths, labels, form = [], [], ""
    for number, line in read_lines(path):
        found = _split(line)
        if found is None:
            raise DatasetError(
                f"{str(path)!r}: line {number} ends in no label: {line[:80]!r}; "
                f"expected {' or '.join(map(repr, FORMS))} with labels from 0"
            )
        name, label, form_here = found
        form = form or form_here
        if form_here != form:
            raise DatasetError(
                f"{str(path)!r}: line {number} has the form {form_here!r}, the first {form!r}: "
                f"{line[:80]!r}; write all lines in one form"
            )
        paths.append(name)
        labels.append(int(label))
    return ImageList(tuple(paths), np.array(labels, dtype=np.int64))


def read_paths(path: Path) -> Tuple[str, ...]:
    """Read a list of pictures, leaving out what stands behind the paths.

    Parameters
    ----------
    path
        The list, with or without labels.

    Raises
    ------
    DatasetError
        If the list cannot be read; names the line.
    """
    return tuple((_split(line) or (line,))[0] for _, line in read_lines(path))


def inside(root: Path, name: str) -> Path:
    """Join a path out of a file that someone else wrote to a folder it may not leave.

    Parameters
    ----------
    root
        The folder.
    name
        Relative, with forward slashes, without ``..``.

    Raises
    ------
    DatasetError
        If the name is absolute, empty, or would lead out of the folder.
    """
    parts = PurePosixPath(name).parts
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if not parts or absolute or ".." in PureWindowsPath(name).parts or "\0" in name:
        raise DatasetError(
            f"path {name[:200]!r} leads out of {str(root)!r}; expected a relative path without '..'"
        )
    return Path(root, *parts)


def check_image_list(images: ImageList, root: Optional[Path] = None) -> None:
    """Check that a training list can be used: labels without gaps, files that are there.

    Parameters
    ----------
    images
        The list.
    root
        Folder that relative paths start from, and that all must stay in; if None, paths are taken
        as they are.

    Raises
    ------
    DatasetError
        If a label is missing between 0 and the highest, or a file is; names the first and says
        how many.
    """
    highest = int(images.labels.max())
    if images.classes != highest + 1:
        # The first gap lies where the labels in order stop equalling their index.
        present = np.unique(images.labels)
        gap = int(np.argmax(present != np.arange(len(present))))
        raise DatasetError(
            f"labels must run from 0 without gaps: {gap} is missing, the highest is {highest}, "
            f"{images.classes} are used; number the people anew"
        )
    located = [Path(name) if root is None else inside(root, name) for name in images.paths]
    missing = [str(path) for path in located if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(located)} pictures do not exist, the first is {missing[0]!r}; "
            "correct the list or the folder it starts from"
        )


def list_people(root: Path) -> ImageList:
    """List the pictures of a folder that holds one folder a person.

    Parameters
    ----------
    root
        The folder; people are numbered from 0 in the order of their folders' names.

    Returns
    -------
    ImageList
        Paths below the root, with forward slashes.

    Raises
    ------
    InputError
        If there is no such folder, or no picture in it.
    DatasetError
        If a picture lies in no person's folder.
    """
    paths = find_images(root)
    names = relative_names(paths, root)
    people = [name.rpartition("/")[0] for name in names]
    if not all(people):
        raise DatasetError(
            f"{str(root / names[people.index('')])!r} lies in no person's folder; expected "
            f"{str(root)!r} to hold one folder a person"
        )
    return ImageList(names, np.unique(people, return_inverse=True)[1].astype(np.int64).ravel())


def renumbered(images: ImageList) -> ImageList:
    """Give the people new numbers, from 0 without gaps, in the order of their old ones."""
    labels = np.unique(images.labels, return_inverse=True)[1].astype(np.int64).ravel()
    return ImageList(images.paths, labels)


def write_image_list(path: Path, paths: Sequence[str], labels: Sequence[int], form: str) -> None:
    """Write a list that the authors' programs read, all or nothing.

    Parameters
    ----------
    path
        Where to.
    paths, labels
        One of each a picture.
    form
        ``path label`` or ``path 0 label 0``.

    Raises
    ------
    InputError
        If the form is neither.
    DatasetError
        If a path holds white space, at which the authors split.
    """
    if form not in FORMS[:2]:
        raise InputError(f"a list is written as {FORMS[0]!r} or {FORMS[1]!r}, got {form!r}")
    spaced = [name for name in paths if len(name.split()) != 1]
    if spaced:
        raise DatasetError(
            f"{len(spaced)} paths hold white space, at which MagFace's programs split them; "
            f"rename the first: {spaced[0]!r}"
        )
    line = "{0} 0 {1} 0\n" if form == FORMS[1] else "{0} {1}\n"
    text = "".join(line.format(name, label) for name, label in zip(paths, labels))
    write_bytes(Path(path), text.encode())


def resolve_names(names: Sequence[str], listed_in: Path) -> List[Path]:
    """Find the pictures of a list whose paths start from no one says where.

    Parameters
    ----------
    names
        As the list has them.
    listed_in
        The list. Relative paths are tried from the working folder, as the authors do, then from the
        list's folder and the two above; where the first picture is found, all are taken from.

    Returns
    -------
    list of Path
        One a name, existing or not.

    Raises
    ------
    DatasetError
        If there is none of them.
    """
    folder = Path(listed_in).parent
    bases = [Path(), folder, folder / "..", folder / ".." / ".."]
    base = next((base for base in bases if _is_there(base / names[0])), bases[0])
    paths = [base / name for name in names]
    check_some_exist(paths, listed_in)
    return paths


def check_some_exist(paths: Sequence[Path], listed_in: Path) -> None:
    """Refuse a list of which no picture is there: it is another file, or starts elsewhere.

    Parameters
    ----------
    paths
        Of the list.
    listed_in
        The list.

    Raises
    ------
    DatasetError
        If none exists.
    """
    if not any(map(_is_there, paths)):
        raise DatasetError(
            f"{str(listed_in)!r}: not one of its {len(paths)} pictures exists, such as "
            f"{str(paths[0])[:200]!r}; correct the list or the folder it starts from"
        )


def _is_there(path: Path) -> bool:
    """Tell whether a file is there; a line of a text that is no list may be no name at all."""
    try:
        return path.is_file()
    except OSError:
        return False
