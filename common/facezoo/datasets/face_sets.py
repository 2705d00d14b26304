"""LFW, CFP-FP and AgeDB-30 as packed by MagFace's authors: ``lfw_cfp_agedb.tar``.

Each set is a folder with ``img.list`` (one image per line) and ``pair.list`` (the last column
is 1 if images 2i and 2i + 1 show one person, 0 if two).
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Dict, List, Tuple, cast

import numpy as np

from ..errors import DatasetError
from ..files import check_room, open_file, write_missing
from ..runs import Progress
from .image_list import inside, read_paths
from .pairs import IMAGE_LIST, read_pair_labels

__all__ = ["SETS", "FaceSet", "check_sets", "read_set", "unpack_sets"]

# Pairs per protocol: LFW view 2, CFP frontal to profile, AgeDB with 30 years between the images.
SETS: Dict[str, int] = {"lfw": 6000, "cfp": 7000, "agedb": 6000}

PAIR_LIST = "pair.list"

LARGEST_MEMBER = 16 << 20  # bytes; the longest of the three lists is under a megabyte.
LARGEST_ARCHIVE = 2 << 30  # bytes unpacked; 38,000 faces of 112 x 112 take a quarter of it.


@dataclass(frozen=True)
class FaceSet:
    """One verification set on disk.

    Attributes
    ----------
    names
        Names of its images as listed; 2i and 2i + 1 are pair i.
    paths
        Paths of its images.
    is_same
        Shape (N,), bool.
    """

    names: Tuple[str, ...]
    paths: Tuple[Path, ...]
    is_same: np.ndarray


def read_set(folder: Path) -> FaceSet:
    """Read the lists of one set and locate its images.

    Parameters
    ----------
    folder
        Folder of the set. Its list may use paths relative to it or to one of the three folders
        above, wherever the first image is found; no path may lead outside.

    Raises
    ------
    DatasetError
        If a list cannot be read, does not match the other, a path leads outside the folder, or an
        image is missing; names the first.
    """
    folder = Path(folder)
    is_same = read_pair_labels(folder / PAIR_LIST)
    names = read_paths(folder / IMAGE_LIST)
    if len(names) != 2 * len(is_same):
        raise DatasetError(
            f"{str(folder)!r}: {len(names)} images for {len(is_same)} pairs; expected two per pair"
        )
    bases = [folder, *list(folder.absolute().parents)[:3]]
    base = next((one for one in bases if inside(one, names[0]).is_file()), folder)
    paths = tuple(inside(base, name) for name in names)
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(paths)} images of {str(folder / IMAGE_LIST)!r} are missing, "
            f"the first is {missing[0]!r}"
        )
    return FaceSet(names, paths, is_same)


def check_sets(root: Path) -> Dict[str, int]:
    """Check that all sets are complete.

    Parameters
    ----------
    root
        Folder with one folder per set.

    Returns
    -------
    dict
        Set to its number of pairs.

    Raises
    ------
    DatasetError
        If a set cannot be read or its number of pairs differs from the protocol's.
    """
    found = {name: len(read_set(Path(root) / name).is_same) for name in SETS}
    for name, pairs in found.items():
        if pairs != SETS[name]:
            raise DatasetError(
                f"{str(Path(root) / name)!r} has {pairs} pairs, expected {SETS[name]}; "
                "unpack the archive again"
            )
    return found


def unpack_sets(
    archive: Path,
    root: Path,
    progress: Progress = lambda items, total: items,
) -> int:
    """Unpack the three sets.

    Parameters
    ----------
    archive
        ``lfw_cfp_agedb.tar``.
    root
        Target folder; each set becomes a folder in it, wherever it lies in the archive.
    progress
        Wraps the loop over the files.

    Returns
    -------
    int
        Number of files written.

    Raises
    ------
    DatasetError
        If the archive cannot be read, contains links, paths that lead outside, or none of the
        sets; nothing is written outside the folder.
    InputError
        If a file of that name with another content is there; it stays.
    """
    if not archive.exists():
        raise DatasetError(
            f"{str(archive)!r} does not exist; facezoo prepare lfw_cfp_agedb --help says where it "
            "lies"
        )
    try:
        with open_file(archive) as file, tarfile.open(fileobj=file) as tar:
            members = [(target, one) for one in tar for target in _targets(one, archive)]
            if not members:
                raise DatasetError(
                    f"{str(archive)!r} holds none of the folders {', '.join(SETS)}; expected "
                    "lfw_cfp_agedb.tar"
                )
            if sum(member.size for _, member in members) > LARGEST_ARCHIVE:
                raise DatasetError(
                    f"{str(archive)!r} unpacks to more than {LARGEST_ARCHIVE >> 30} GiB; expected "
                    "lfw_cfp_agedb.tar"
                )
            needed = sum(member.size for _, member in members)
            check_room(root, needed, f"{len(members)} files of {archive.name}")
            for name, member in progress(members, len(members)):
                with cast("IO[bytes]", tar.extractfile(member)) as source:
                    write_missing(inside(root, name), source.read())
    except (OSError, tarfile.TarError, EOFError) as error:
        if getattr(error, "filename", None) not in (None, str(archive)):
            raise  # A file that is unpacked could not be written.
        reason = " ".join(str(error).split())
        raise DatasetError(f"{str(archive)!r} cannot be unpacked: {reason}") from error
    return len(members)


def _targets(member: tarfile.TarInfo, archive: Path) -> List[str]:
    """Return the target of a member below its set, or nothing if it belongs to no set."""
    inside(archive, member.name)
    parts = PurePosixPath(member.name).parts
    found = [index for index, part in enumerate(parts[:-1]) if part in SETS]
    if not found or member.isdir():
        return []
    if not member.isreg():
        raise DatasetError(f"{str(archive)!r}: {member.name!r} is not a regular file; rejected")
    if member.size > LARGEST_MEMBER:
        raise DatasetError(
            f"{str(archive)!r}: {member.name!r} is {member.size} bytes; expected a face or a list, "
            f"at most {LARGEST_MEMBER >> 20} MiB"
        )
    return ["/".join(parts[found[0] :])]
