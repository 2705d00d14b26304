"""LFW, CFP-FP and AgeDB-30 as MagFace's authors pack them: ``lfw_cfp_agedb.tar``.

Each set is a folder with ``img.list`` (one picture a line) and ``pair.list`` (the last column is 1
if pictures 2i and 2i + 1 show one person, 0 if two).
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Dict, List, Tuple

import numpy as np

from ..errors import DatasetError
from ..files import write_bytes
from .image_list import inside, read_paths
from .pairs import read_pair_labels

__all__ = ["SETS", "FaceSet", "check_sets", "read_set", "unpack_sets"]

# Pairs of each protocol: LFW's view 2, CFP's frontal to profile, AgeDB's thirty years.
SETS: Dict[str, int] = {"lfw": 6000, "cfp": 7000, "agedb": 6000}

IMAGE_LIST, PAIR_LIST = "img.list", "pair.list"

LARGEST_MEMBER = 16 << 20  # bytes; the longest list of the three has under a megabyte.
LARGEST_ARCHIVE = 2 << 30  # unpacked; 38,000 faces of 112 x 112 take a quarter of it.


@dataclass(frozen=True)
class FaceSet:
    """One verification set on disk.

    Attributes
    ----------
    names
        Of its pictures, as its list has them; 2i and 2i + 1 are pair i.
    paths
        Where they are.
    is_same
        Shape (N,), bool.
    """

    names: Tuple[str, ...]
    paths: Tuple[Path, ...]
    is_same: np.ndarray


def read_set(folder: Path) -> FaceSet:
    """Read the lists of one set and find its pictures.

    Parameters
    ----------
    folder
        The set's folder. Paths of its list may start there or in one of the three folders above,
        wherever the first picture is found; none may lead out of it.

    Raises
    ------
    DatasetError
        If a list cannot be read, does not fit the other, leads out of the folder, or a picture is
        missing; names the first.
    """
    folder = Path(folder)
    is_same = read_pair_labels(folder / PAIR_LIST)
    names = read_paths(folder / IMAGE_LIST)
    if len(names) != 2 * len(is_same):
        raise DatasetError(
            f"{str(folder)!r}: {len(names)} pictures for {len(is_same)} pairs; expected two a pair"
        )
    bases = [folder, *list(folder.absolute().parents)[:3]]
    base = next((one for one in bases if inside(one, names[0]).is_file()), folder)
    paths = tuple(inside(base, name) for name in names)
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(paths)} pictures of {str(folder / IMAGE_LIST)!r} are missing, "
            f"the first is {missing[0]!r}"
        )
    return FaceSet(names, paths, is_same)


def check_sets(root: Path) -> Dict[str, int]:
    """Check that all sets are complete.

    Parameters
    ----------
    root
        Folder with one folder a set.

    Returns
    -------
    dict
        Set to its number of pairs.

    Raises
    ------
    DatasetError
        If a set cannot be read or has not as many pairs as its protocol.
    """
    found = {name: len(read_set(Path(root) / name).is_same) for name in SETS}
    for name, pairs in found.items():
        if pairs != SETS[name]:
            raise DatasetError(
                f"{str(Path(root) / name)!r} has {pairs} pairs, the protocol {SETS[name]}; "
                "unpack the archive again"
            )
    return found


def unpack_sets(archive: Path, root: Path) -> int:
    """Unpack the three sets.

    Parameters
    ----------
    archive
        ``lfw_cfp_agedb.tar``.
    root
        Folder to unpack to; each set becomes a folder in it, wherever the archive has it.

    Returns
    -------
    int
        Files written.

    Raises
    ------
    DatasetError
        If the archive cannot be read, holds links or paths that lead out of it, or none of the
        sets; nothing outside the folder is written.
    """
    if not archive.exists():
        raise DatasetError(
            f"{str(archive)!r} does not exist; facezoo prepare lfw_cfp_agedb --help says where it "
            "lies"
        )
    try:
        with tarfile.open(archive) as tar:
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
            for name, member in members:
                _write(tar, member, inside(root, name))
    except (OSError, tarfile.TarError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{str(archive)!r} cannot be unpacked: {reason}") from error
    return len(members)


def _targets(member: tarfile.TarInfo, archive: Path) -> List[str]:
    """Say where a member goes: nowhere, or below the set it belongs to."""
    inside(archive, member.name)
    parts = PurePosixPath(member.name).parts
    found = [index for index, part in enumerate(parts[:-1]) if part in SETS]
    if not found or member.isdir():
        return []
    if not member.isreg():
        raise DatasetError(f"{str(archive)!r}: {member.name!r} is no plain file; refused")
    if member.size > LARGEST_MEMBER:
        raise DatasetError(
            f"{str(archive)!r}: {member.name!r} is {member.size} bytes; expected a face or a list, "
            f"at most {LARGEST_MEMBER >> 20} MiB"
        )
    return ["/".join(parts[found[0] :])]


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise DatasetError(f"{member.name!r} of the archive cannot be read")
    with source:
        write_bytes(target, source.read())
