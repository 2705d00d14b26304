"""WFLW's test faces on photos of WIDER FACE, from the lists of the six subsets.

WFLW's photos are those of WIDER FACE, so a copy of WIDER FACE and the lists are enough for the
faces whose photos it holds. The lists of the subsets have no rectangle; WIDER's box takes its
place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Dict, List, Mapping, Sequence, Tuple

import numpy as np

from ..errors import DatasetError, InputError
from ..files import is_there, write_missing
from ..image.boxes import iou_matrix
from ..image.files import find_images
from ..metrics.detection import GroundTruth
from .wflw import ATTRIBUTES, LISTS, PHOTOS, SUBSETS, WflwFace, find_lists, read_annotations
from .widerface import GROUND_TRUTH_FOLDER, PHOTOS_FOLDER, read_ground_truth

__all__ = ["MISSING_FILE", "WiderFaces", "prepare_wflw_wider"]

MISSING_FILE = "missing.txt"
# A face's landmarks cover its box; on another photo of the same name they would not.
LEAST_OVERLAP = 0.5


@dataclass(frozen=True)
class WiderFaces:
    """Faces of WFLW's test set and what was found of them.

    Attributes
    ----------
    faces
        Number of faces with a photo.
    photos
        Number of their photos.
    listed
        Number of faces in the lists.
    subsets
        Subset to the number of its faces with a photo.
    least_overlap
        Smallest overlap (IoU) of a face's landmarks and its box; 1 if none was checked.
    unchecked
        Faces on photos that are not in the ground truth: their rectangle is that of the landmarks.
    missing
        Photos that were not found, or whose boxes do not match, with the reason.
    refused
        Number of faces whose landmarks match no box.
    """

    faces: int
    photos: int
    listed: int
    subsets: Mapping[str, int]
    least_overlap: float
    unchecked: int
    missing: Tuple[str, ...]
    refused: int


def prepare_wflw_wider(wider: Path, lists: Path, to: Path) -> WiderFaces:
    """Write WFLW's layout with links to the photos: ``WFLW_images``, the test list, its subsets.

    What is there already is kept, so that an interrupted call can be repeated.

    Parameters
    ----------
    wider
        Folder that ``facezoo prepare widerface`` made; the photos of other parts of WIDER FACE
        may lie in it too.
    lists
        Folder with WFLW's lists of subsets.
    to
        Target folder. ``missing.txt`` names each photo that was not found.

    Returns
    -------
    WiderFaces

    Raises
    ------
    DatasetError
        If a list or the ground truth cannot be read, or no face has a photo.
    InputError
        If there are no photos, or a file of the target folder is in the way; it stays.
    """
    found = find_lists(lists)
    named = {name: read_annotations(path) for name, path in found.items() if name in SUBSETS}
    if not named:
        raise DatasetError(f"{str(lists)!r} contains no list of a subset, such as {LISTS['blur']}")
    faces: Dict[Tuple[str, bytes], WflwFace] = {}
    members: Dict[Tuple[str, bytes], List[str]] = {}
    for name, listed in named.items():
        for face in listed:
            faces.setdefault(_identity(face), face)
            members.setdefault(_identity(face), []).append(name)
    root = wider / PHOTOS_FOLDER
    photos = {path.name: path for path in find_images(root if root.is_dir() else wider)}
    truth = read_ground_truth(wider / GROUND_TRUTH_FOLDER)
    boxes_of = _boxes_of(truth)
    kept: Dict[Tuple[str, bytes], Sequence[float]] = {}
    missing: Dict[str, str] = {}
    overlaps, unchecked, refused = [1.0], 0, 0
    for identity in sorted(faces):
        face, image = faces[identity], PurePosixPath(faces[identity].image).name
        extent = np.concatenate([face.points_xy.min(axis=0), face.points_xy.max(axis=0)])
        if image not in photos:
            missing[face.image] = "no such photo"
        elif image not in boxes_of:
            unchecked += 1
            kept[identity] = extent.tolist()
        else:
            overlap = iou_matrix(extent[None], boxes_of[image])[0]
            best = int(np.argmax(overlap)) if len(overlap) else -1
            if best < 0 or overlap[best] < LEAST_OVERLAP:
                refused += 1
                missing[face.image] = f"{face.source}: the landmarks match no box of WIDER FACE"
                continue
            overlaps.append(float(overlap[best]))
            kept[identity] = boxes_of[image][best].tolist()
    if not kept:
        raise DatasetError(
            f"{str(wider)!r} has no photo of the lists' {len(faces)} faces, such as "
            f"{next(iter(faces.values())).image}; expected the photos of WIDER FACE"
        )
    images = sorted({image for image, _ in kept})
    lines = tuple(f"{image}  {reason}" for image, reason in sorted(missing.items()))
    texts = {MISSING_FILE: [f"{line}\n" for line in lines], **_lists(faces, members, kept)}
    contents = {to / name: "".join(text).encode() for name, text in texts.items()}
    for path, content in contents.items():
        is_there(path, content)
    for image in images:
        _link(to / PHOTOS / image, photos[PurePosixPath(image).name])
    for path, content in contents.items():
        write_missing(path, content)
    counts = {name: sum(name in members[one] for one in kept) for name in named}
    return WiderFaces(
        faces=len(kept),
        photos=len(images),
        listed=len(faces),
        subsets=counts,
        least_overlap=min(overlaps),
        unchecked=unchecked,
        missing=lines,
        refused=refused,
    )


def _identity(face: WflwFace) -> Tuple[str, bytes]:
    return face.image, face.points_xy.tobytes()


def _boxes_of(truth: GroundTruth) -> Dict[str, np.ndarray]:
    """Return the boxes of each photo by its name without folder, as left, top, right, bottom."""
    corners = truth.boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    parts = np.split(corners, truth.starts[1:-1])
    # The ground truth names photos without their suffix.
    return {f"{PurePosixPath(name).name}.jpg": part for name, part in zip(truth.images, parts)}


def _link(path: Path, photo: Path) -> None:
    target = photo.resolve()
    if path.is_symlink() or path.exists():
        if path.resolve() == target:
            return
        raise InputError(f"{str(path)!r} exists and is not {str(target)!r}; choose a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _lists(
    faces: Mapping[Tuple[str, bytes], WflwFace],
    members: Mapping[Tuple[str, bytes], Sequence[str]],
    kept: Mapping[Tuple[str, bytes], Sequence[float]],
) -> Dict[str, List[str]]:
    """Return the lines of each list by its file; the list by which the set is found is the last."""
    # The subsets of WFLW's lists are in the order of the attributes.
    names = dict(zip(SUBSETS, ATTRIBUTES))
    full: List[str] = []
    short: Dict[str, List[str]] = {}
    for identity, rect in kept.items():
        face = faces[identity]
        points = " ".join(map(repr, face.points_xy.ravel().tolist()))
        flags = " ".join(str(int(name in members[identity])) for name in names)
        sides = " ".join(f"{side:g}" for side in rect)
        full.append(f"{points} {sides} {flags} {face.image}\n")
        for name in members[identity]:
            short.setdefault(name, []).append(f"{points} {face.image}\n")
    return {**{LISTS[name]: lines for name, lines in short.items()}, LISTS["test"]: full}
