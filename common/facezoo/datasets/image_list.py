"""Image lists: text files with one image per line, in the formats of the original projects.

::

    path                    inference
    path label              training; verification lists have this form too
    path 0 label 0          MagFace's training
    path;label              EQFace's training

Labels are integers from 0. Paths may contain spaces, since lines are split from the right; the
authors' own programs split at the first space, so lists with such paths are not written.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import DatasetError, InputError
from ..files import open_file, write_bytes
from ..image.decode import IMAGE_SUFFIXES
from ..image.files import find_images, relative_names

__all__ = [
    "ImageList",
    "check_image_list",
    "check_names",
    "check_some_exist",
    "find_listed",
    "inside",
    "list_people",
    "one_name_each",
    "people_listed",
    "people_of",
    "read_image_list",
    "read_lines",
    "read_paths",
    "renumbered",
    "resolve_names",
    "without_suffix",
    "write_image_list",
]


# Longest line accepted; a feature of 512 numbers takes about 10,000 bytes.
MAX_LINE = 1 << 20
BYTE_ORDER_MARK = "\ufeff"
MAX_LABEL_DIGITS = 9
LOOSE_SHOWN = 3

_log = logging.getLogger(__name__)

FORMS = ("path label", "path 0 label 0", "path;label")


@dataclass(frozen=True)
class ImageList:
    """Images, each with the number of its person.

    Attributes
    ----------
    paths
        Paths as listed, not resolved.
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
        UTF-8, with or without a byte order mark, any line endings.

    Yields
    ------
    tuple of int and str
        Line number from 1 and the stripped line. Empty lines at the end are left out.

    Raises
    ------
    DatasetError
        If the file cannot be read, or a line is empty, longer than a megabyte, not UTF-8, or
        contains NUL bytes; names the line.
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
        raise DatasetError(f"{str(path)!r}: is empty; expected a list with one image per line")


def _texts(path: Path) -> Iterator[str]:
    """Yield a file as text blocks of many complete lines."""
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
                f"{str(path)!r}: line {number} contains NUL bytes; expected a text file"
            )
        yield text[1:] if first == 1 and text.startswith(BYTE_ORDER_MARK) else text


def _blocks(path: Path) -> Iterator[Tuple[int, bytes]]:
    """Yield blocks of complete lines, each with its first line number; faster than single lines."""
    number, rest = 1, b""
    try:
        with open_file(path) as file:
            while True:
                data = rest + file.read(MAX_LINE + 1 - len(rest))
                block, end_of_line, rest = data.rpartition(b"\n")
                if end_of_line:
                    yield number, block
                    number += block.count(b"\n") + 1
                elif len(rest) > MAX_LINE:
                    raise DatasetError(
                        f"{str(path)!r}: line {number} is longer than {MAX_LINE} bytes; "
                        "expected a list with one image per line"
                    )
                else:
                    break
    except OSError as error:
        raise DatasetError(f"{str(path)!r}: cannot be read ({error.strerror})") from error
    if rest:
        yield number, rest


def _split(line: str) -> Optional[Tuple[str, str, str]]:
    """Return path, label and form of a line; None if it does not end with a label."""
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
    """Read a list of images with labels, in any of its three forms.

    Parameters
    ----------
    path
        The list; its first line decides the form, which all others must have.

    Returns
    -------
    ImageList
        Images in the order of the list.

    Raises
    ------
    DatasetError
        If the list cannot be read, or a line has no label or not the form of the first; names the
        line.
    """
    paths, labels, form = [], [], ""
    for number, line in read_lines(path):
        found = _split(line)
        if found is None:
            raise DatasetError(
                f"{str(path)!r}: line {number} does not end with a label: {line[:80]!r}; "
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
    """Read the paths of an image list, ignoring labels.

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
    """Join an untrusted relative path to a folder that it must not leave.

    Parameters
    ----------
    root
        The folder.
    name
        Relative, with forward slashes, without ``..``.

    Raises
    ------
    DatasetError
        If the name is absolute, empty, or leads outside the folder.
    """
    parts = PurePosixPath(name).parts
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if not parts or absolute or ".." in PureWindowsPath(name).parts or "\0" in name:
        raise DatasetError(
            f"path {name[:200]!r} leads outside {str(root)!r}; expected a path without '..'"
        )
    return Path(root, *parts)


def check_image_list(images: ImageList, root: Optional[Path] = None) -> None:
    """Check a training list: labels without gaps, all files exist.

    Parameters
    ----------
    images
        The list.
    root
        Root folder of relative paths, which none may leave; if None, paths are used as they are.

    Raises
    ------
    DatasetError
        If a file, or a label between 0 and the highest, is missing; names the first and counts
        them.
    """
    highest = int(images.labels.max())
    if images.classes != highest + 1:
        # The first gap is where the sorted labels stop equalling their index.
        present = np.unique(images.labels)
        gap = int(np.argmax(present != np.arange(len(present))))
        raise DatasetError(
            f"labels must run from 0 without gaps: {gap} is missing, the highest is {highest}, "
            f"{images.classes} are used; renumber the people"
        )
    located = [Path(name) if root is None else inside(root, name) for name in images.paths]
    missing = [str(path) for path in located if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(located)} images do not exist, the first is {missing[0]!r}; "
            "correct the list or its root folder"
        )


def list_people(root: Path) -> ImageList:
    """List the images of a folder with one sub-folder per person.

    Parameters
    ----------
    root
        The folder; people are numbered from 0 in the order of their folder names.

    Returns
    -------
    ImageList
        Paths relative to the root, with forward slashes.

    Raises
    ------
    InputError
        If the folder does not exist or contains no image.
    DatasetError
        If an image is not in the folder of a person.
    """
    paths = find_images(root)
    names = relative_names(paths, root)
    people = people_of(names, str(root))
    return ImageList(names, np.unique(people, return_inverse=True)[1].astype(np.int64).ravel())


def people_of(names: Sequence[str], source: str) -> List[str]:
    """Return who is in each image below a folder: the first folder of its name.

    Sub-folders of a person, such as videos or views, do not make other people.

    Parameters
    ----------
    names
        Paths of the images below the folder, with forward slashes.
    source
        What holds them, for the error.

    Raises
    ------
    DatasetError
        If an image is in no person's folder; names it.
    """
    people = [name.partition("/")[0] if "/" in name else "" for name in names]
    loose = [name for name, person in zip(names, people) if not person]
    if loose:
        shown = ", ".join(map(repr, loose[:LOOSE_SHOWN]))
        more = f" and {len(loose) - LOOSE_SHOWN} more" if len(loose) > LOOSE_SHOWN else ""
        raise DatasetError(
            f"{source!r}: {len(loose)} of {len(names)} images are not in the folder of a person: "
            f"{shown}{more}; expected one folder per person: move or remove them"
        )
    return people


def people_listed(names: Sequence[str], source: str) -> List[str]:
    """Return who is in each image of a list whose root is unknown.

    Folders that all images share are the root, as long as a folder is left; the next one is the
    person, as in :func:`people_of`.
    """
    folders = [name.split("/")[:-1] for name in names]
    depth = 0
    while folders and all(len(parts) > depth + 1 for parts in folders):
        if len({parts[depth] for parts in folders}) > 1:
            break
        depth += 1
    return people_of(["/".join(name.split("/")[depth:]) for name in names], source)


def renumbered(images: ImageList) -> ImageList:
    """Renumber the people from 0 without gaps, keeping their order."""
    labels = np.unique(images.labels, return_inverse=True)[1].astype(np.int64).ravel()
    return ImageList(images.paths, labels)


def write_image_list(path: Path, paths: Sequence[str], labels: Sequence[int], form: str) -> None:
    """Write a list in the authors' format, all or nothing.

    Parameters
    ----------
    path
        Target file.
    paths, labels
        One path and one label per image.
    form
        ``path label`` or ``path 0 label 0``.

    Raises
    ------
    InputError
        If the form is neither.
    DatasetError
        If a path contains white space, at which the authors' programs split.
    """
    if form not in FORMS[:2]:
        raise InputError(f"a list is written as {FORMS[0]!r} or {FORMS[1]!r}, got {form!r}")
    spaced = [name for name in paths if len(name.split()) != 1]
    if spaced:
        raise DatasetError(
            f"{len(spaced)} paths contain white space, at which MagFace's programs split; "
            f"rename the first: {spaced[0]!r}"
        )
    line = "{0} 0 {1} 0\n" if form == FORMS[1] else "{0} {1}\n"
    text = "".join(line.format(name, label) for name, label in zip(paths, labels))
    write_bytes(Path(path), text.encode())


def check_names(
    names: Sequence[str], listed: Sequence[str], names_in: Path, listed_in: Path
) -> None:
    """Compare the names of features with those of a protocol, line by line.

    Names agree if their last folder and file name do; image suffixes are ignored, since aligned
    faces have their own, and a folder that only one of the names has.

    Parameters
    ----------
    names, listed
        Names of the features, and of the protocol's images in their order; as many.
    names_in, listed_in
        The files that hold them.

    Raises
    ------
    DatasetError
        If a name differs; names the first line.
    """
    wrong = [row for row, pair in enumerate(zip(names, listed)) if not _is_same_image(*pair)]
    if wrong:
        row = wrong[0]
        raise DatasetError(
            f"{str(names_in)!r}: line {row + 1} holds the features of {names[row][:200]!r}, but "
            f"image {row + 1} of {str(listed_in)!r} is {listed[row][:200]!r} ({len(wrong)} of "
            f"{len(names)} names differ); extract the features in the order of that list"
        )


def _is_same_image(one: str, other: str) -> bool:
    ends = [PureWindowsPath(without_suffix(name)).parts[-2:] for name in (one, other)]
    depth = min(map(len, ends))
    return ends[0][-depth:] == ends[1][-depth:]


def without_suffix(name: str) -> str:
    """Remove the suffix of an image from a name; other dots belong to the name."""
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in IMAGE_SUFFIXES else name


def resolve_names(names: Sequence[str], listed_in: Path) -> List[Path]:
    """Find the images of a list whose root folder is unknown.

    Parameters
    ----------
    names
        Names as listed.
    listed_in
        The list. Relative paths are tried from the working folder, as in the authors' programs,
        then from the list's folder and the two above; the folder of the first image applies to all.

    Returns
    -------
    list of Path
        One path per name, existing or not.

    Raises
    ------
    DatasetError
        If no image of the list is found.
    """
    folder = Path(listed_in).parent
    bases = [Path(), folder, folder / "..", folder / ".." / ".."]
    base = next((base for base in bases if _is_there(base / names[0])), bases[0])
    paths = [base / name for name in names]
    check_some_exist(paths, listed_in)
    return paths


def find_listed(path: Path, root: Optional[Path] = None) -> Tuple[List[Path], Tuple[str, ...]]:
    """Read an image list, with or without labels, and find its images.

    Parameters
    ----------
    path
        The list.
    root
        Root folder of its paths, which none may leave; if None, see :func:`resolve_names`.

    Returns
    -------
    paths : list of Path
        One per line, existing or not.
    names : tuple of str
        One per line, as listed; see :func:`one_name_each`.

    Raises
    ------
    DatasetError
        If the list cannot be read, a path leads outside the root, or no image of it is found.
    """
    names = read_paths(path)
    if root is None:
        paths = resolve_names(names, path)
    else:
        paths = [inside(root, name) for name in names]
        check_some_exist(paths, path)
    return paths, one_name_each(names, paths, path)


def one_name_each(names: Sequence[str], paths: Sequence[Path], listed_in: Path) -> Tuple[str, ...]:
    """Give images that a list names in several ways the first of their names.

    Parameters
    ----------
    names, paths
        Names as listed, and where the images are.
    listed_in
        The list; a warning says which of its names were replaced.

    Returns
    -------
    tuple of str
        One name per line. ``a.jpg``, ``./a.jpg``, ``x/../a.jpg`` and a link to one of them are one
        image.
    """
    folders: Dict[Path, str] = {}
    first: Dict[str, str] = {}
    found: List[str] = []
    replaced: List[Tuple[int, str]] = []
    for number, (name, path) in enumerate(zip(names, paths), 1):
        folder = path.parent
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        place = os.path.join(folders[folder], path.name)  # noqa: PTH118 (a Path costs three times)
        found.append(first.setdefault(_end_of(place), name))
        if found[-1] != name:
            replaced.append((number, name))
    if replaced:
        number, name = replaced[0]
        _log.warning(
            "%s: %d images have several names, such as %r in line %d, which is %r; each has the "
            "first one in the results",
            listed_in,
            len(replaced),
            name,
            number,
            found[number - 1],
        )
    return tuple(found)


def _end_of(link: str) -> str:
    """Return what a link leads to; the path itself if it is none, or leads nowhere."""
    try:
        return os.path.realpath(link) if stat.S_ISLNK(os.lstat(link).st_mode) else link
    except (OSError, ValueError):
        return link


def check_some_exist(paths: Sequence[Path], listed_in: Path) -> None:
    """Reject a list if none of its images exists: wrong file, or wrong root folder.

    Parameters
    ----------
    paths
        Paths of the list.
    listed_in
        The list.

    Raises
    ------
    DatasetError
        If no image exists.
    """
    if not any(map(_is_there, paths)):
        raise DatasetError(
            f"{str(listed_in)!r}: none of its {len(paths)} images exists, such as "
            f"{str(paths[0])[:200]!r}; correct the list or its root folder"
        )


def _is_there(path: Path) -> bool:
    """Return whether a file exists; False for text that is not a valid file name."""
    try:
        return path.is_file()
    except OSError:
        return False
