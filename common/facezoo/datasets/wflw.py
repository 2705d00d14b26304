"""WFLW data set: the official lists, PIPNet's face crops, and its normalised lists.

An official list has one face per line, in pixels of the image::

    x0 y0 … x97 y97 left top right bottom pose expression illumination make-up occlusion blur image

The lists of the six subsets have the points and the image only. A normalised list, of WFLW or of
any other data, has one crop per line, in [0, 1] of the crop::

    crop.jpg x0 y0 x1 y1 …
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..errors import UNREADABLE, DatasetError
from ..files import LARGEST_READ, read_text, walk, write_bytes
from ..image.resize import resize_image
from ..results import Landmarks

__all__ = [
    "ATTRIBUTES",
    "CROP_SIZE",
    "FACES_ON_WIDER_SHA256",
    "LANDMARKS",
    "LISTS",
    "PHOTOS",
    "SUBSETS",
    "TEST_FACES",
    "NormalisedList",
    "WflwCrop",
    "WflwFace",
    "find_lists",
    "match_faces",
    "name_crops",
    "read_annotations",
    "read_normalised_list",
    "read_rectangles",
    "read_subsets",
    "write_crop_lists",
    "write_normalised_list",
]

LANDMARKS = 98
TEST_FACES = 2500
# Of the images of the faces that facezoo prepare wflw-wider finds on WIDER FACE's validation set;
# hashed as in facezoo.evaluation.measured.
FACES_ON_WIDER_SHA256 = "e72434bd1162317b6011d9721df41a4321b68f300a7a15d2167621de1320d09c"
PHOTOS = "WFLW_images"  # as in WFLW's archive
ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
CROP_SCALE = 1.2  # source: PIPNet@b9eab58 lib/preprocess.py process_wflw
CROP_SIZE = 256  # source: same file, gen_data's target_size
# Distance from the crop's centre, in sides of the crop, up to which a coordinate can be a share of
# it. WFLW's furthest landmarks lie 0.8 away; of coordinates in pixels nearly all lie further.
FURTHEST_SHARE = 2.5

# Subset to the file name ending of the authors' list for it.
# source: PIPNet@b9eab58 lib/preprocess.py gen_data
SUBSETS: Mapping[str, str] = {
    "largepose": "pose",
    "expression": "expr",
    "illumination": "illu",
    "makeup": "mu",
    "occlusion": "occu",
    "blur": "blur",
}

# Official file names by content.
LISTS: Mapping[str, str] = {
    "train": "list_98pt_rect_attr_train.txt",
    "test": "list_98pt_rect_attr_test.txt",
    **{subset: f"list_98pt_test_{subset}.txt" for subset in SUBSETS},
}

Box = Tuple[float, float, float, float]


@dataclass(frozen=True)
class WflwFace:
    """One line of an official list.

    Attributes
    ----------
    image
        Path below WFLW_images, with forward slashes.
    points_xy
        Shape (98, 2), float64, pixels; some lie outside the image.
    rect_xyxy
        The annotated rectangle in pixels; None in the lists of the subsets.
    attributes
        Six of 0 and 1, in the order of ``ATTRIBUTES``; None in the lists of the subsets.
    source
        File name and line number, for messages.
    """

    image: str
    points_xy: np.ndarray
    rect_xyxy: Optional[Box]
    attributes: Optional[Tuple[int, ...]]
    source: str


@dataclass(frozen=True)
class WflwCrop:
    """A face as the authors crop it: the rectangle 1.2 times as large, within the image.

    Attributes
    ----------
    face
        The annotation.
    image_hw
        Size of the image in pixels; None if unknown, then nothing is clipped at the right and at
        the bottom.
    box_xyxy
        The crop in pixels, not rounded.
    """

    face: WflwFace
    image_hw: Optional[Tuple[int, int]]
    box_xyxy: Box

    @classmethod
    def of(cls, face: WflwFace, image_hw: Optional[Tuple[int, int]]) -> WflwCrop:
        """Apply the authors' crop rule.

        Raises
        ------
        DatasetError
            If the face has no rectangle, or the rectangle lies outside the image.

        References
        ----------
        .. [1] PIPNet@b9eab58, ``lib/preprocess.py``, ``process_wflw``.
        """
        if face.rect_xyxy is None:
            raise DatasetError(
                f"{face.source}: no rectangle; use {LISTS['test']}, and the size of the "
                "image if its border clips the crop"
            )
        left, top, right, bottom = face.rect_xyxy
        margin_x = (right - left) * (CROP_SCALE - 1) / 2
        margin_y = (bottom - top) * (CROP_SCALE - 1) / 2
        left, top = max(left - margin_x, 0.0), max(top - margin_y, 0.0)
        right, bottom = right + margin_x, bottom + margin_y
        if image_hw is not None:
            right, bottom = min(right, image_hw[1] - 1.0), min(bottom, image_hw[0] - 1.0)
        if int(left) >= int(right) or int(top) >= int(bottom):
            raise DatasetError(
                f"{face.source}: the rectangle {face.rect_xyxy} contains no pixel of the image; "
                "expected left, top, right, bottom inside it"
            )
        return cls(face, image_hw, (left, top, right, bottom))

    def normalised_points(self) -> np.ndarray:
        """Return the landmarks in [0, 1] of the crop, (98, 2) float64.

        Points outside the image are moved to its border first; the right and lower borders are at
        width and height, as in the authors' code. Points may lie outside the crop.
        """
        points = np.maximum(self.face.points_xy, 0.0)
        if self.image_hw is not None:
            points = np.minimum(points, self.image_hw[::-1])
        return self.to_unit(points)

    def to_photo(self, landmarks: Landmarks) -> Landmarks:
        """Map landmarks from the pixels of :meth:`cut` to those of the image."""
        left, top, right, bottom = self.box_xyxy
        size = np.array((right - left, bottom - top)) / CROP_SIZE
        points_xy = (landmarks.points_xy * size + (left, top)).astype(np.float32)
        image_hw = landmarks.image_hw if self.image_hw is None else self.image_hw
        return replace(landmarks, points_xy=points_xy, image_hw=image_hw)

    def to_unit(self, points_xy: np.ndarray) -> np.ndarray:
        """Map points (N, 2) from the image's pixels to [0, 1] of the crop, float64."""
        left, top, right, bottom = self.box_xyxy
        # As in the authors' code, the box is not rounded although crops are cut at whole pixels.
        return np.asarray((points_xy - (left, top)) / (right - left, bottom - top))

    def cut(self, image_rgb: np.ndarray) -> np.ndarray:
        """Cut the crop out of the image and stretch it to (256, 256, 3)."""
        left, top, right, bottom = (int(side) for side in self.box_xyxy)
        inside = image_rgb[top:bottom, left:right]
        return resize_image(inside, (CROP_SIZE, CROP_SIZE), "BILINEAR_CV")

    def to_dict(self) -> Dict[str, Any]:
        """Return the source of the crop as JSON values."""
        return {
            "image": self.face.image,
            "annotation": self.face.source,
            "image_hw": None if self.image_hw is None else list(self.image_hw),
            "box_xyxy": list(self.box_xyxy),
        }


@dataclass(frozen=True)
class NormalisedList:
    """Crops and their landmarks.

    Attributes
    ----------
    names
        File names of the crops.
    points_xy
        Shape (M, N, 2), float64, in [0, 1] of the crop.
    """

    names: Tuple[str, ...]
    points_xy: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def find_lists(folder: Path) -> Dict[str, Path]:
    """Find the official lists below a folder, at any depth.

    Parameters
    ----------
    folder
        Folder such as the unpacked WFLW_annotations.tar.gz.

    Returns
    -------
    dict of str to Path
        Keys of ``LISTS`` that were found, in their order, to their paths.

    Raises
    ------
    DatasetError
        If there is no list, or one twice, or a folder cannot be read.
    """
    try:
        files, left_out = walk(Path(folder))
        closed = [error for error in left_out if error.errno != errno.ELOOP]
        if closed:
            raise closed[0]
    except OSError as error:
        raise DatasetError(f"{error.filename!r} cannot be read: {error.strerror}") from error
    paths = sorted(path for path in files if path.match("list_98pt_*.txt"))
    path_of = {path.name: path for path in paths}
    for path in paths:
        if path.name in LISTS.values() and path_of[path.name] != path:
            raise DatasetError(
                f"{path.name} exists twice: {str(path)!r} and {str(path_of[path.name])!r}"
            )
    found = {key: path_of[name] for key, name in LISTS.items() if name in path_of}
    if not found:
        raise DatasetError(
            f"{str(folder)!r} contains none of WFLW's lists; expected {LISTS['test']} and others "
            "from WFLW_annotations.tar.gz"
        )
    return found


def read_annotations(path: Path) -> List[WflwFace]:
    """Read an official list, with or without rectangles and attributes.

    Raises
    ------
    DatasetError
        If the file cannot be read or is empty, or a line is not such an annotation; names the
        line.
    """
    faces = [_parse_face(fields, f"{path.name}:{line}") for line, fields in _lines(path)]
    if not faces:
        raise DatasetError(f"{str(path)!r} contains no face")
    return faces


def _parse_face(fields: Sequence[str], source: str) -> WflwFace:
    points = 2 * LANDMARKS
    short, long = points + 1, points + 4 + len(ATTRIBUTES) + 1
    if len(fields) not in (short, long):
        raise DatasetError(
            f"{source}: {len(fields)} fields; expected {long} (98 points, rectangle, "
            f"6 attributes, image) or {short} (98 points, image)"
        )
    values = _numbers(fields[:-1], source)
    attributes = rect = None
    if len(fields) == long:
        left, top, right, bottom = values[points : points + 4].tolist()
        rect = _checked_rectangle((left, top, right, bottom), source)
        if not set(values[points + 4 :].tolist()) <= {0.0, 1.0}:
            raise DatasetError(f"{source}: the six attributes must be 0 or 1")
        attributes = tuple(int(value) for value in values[points + 4 :])
    return WflwFace(fields[-1], values[:points].reshape(-1, 2), rect, attributes, source)


def read_rectangles(path: Path) -> Dict[str, List[Optional[Box]]]:
    """Read face rectangles for lists without rectangles.

    Parameters
    ----------
    path
        JSON, ``{"rects": {file name of the list: [[left, top, right, bottom] or null, …]}}``, one
        entry per line of the list.

    Raises
    ------
    DatasetError
        If the file has other content.
    """
    try:
        lists = json.loads(read_text(path))["rects"].items()
        return {
            name: [
                None if entry is None else _checked_rectangle(entry, f"{path.name}, {name}:{line}")
                for line, entry in enumerate(entries, 1)
            ]
            for name, entries in lists
        }
    except UNREADABLE as error:
        raise DatasetError(
            f'{str(path)!r} cannot be read ({error}); expected JSON like {{"rects": {{"'
            f'{LISTS["blur"]}": [[left, top, right, bottom], null]}}}}'
        ) from error


def _checked_rectangle(rect: Sequence[float], source: str) -> Box:
    left, top, right, bottom = (float(side) for side in rect)
    if not (left < right and top < bottom):
        raise DatasetError(
            f"{source}: rectangle {left:g} {top:g} {right:g} {bottom:g} has no area; expected "
            "left < right and top < bottom"
        )
    return left, top, right, bottom


def match_faces(subset: Sequence[WflwFace], full: Sequence[WflwFace]) -> List[int]:
    """Match the faces of a subset with the full list.

    Parameters
    ----------
    subset
        Faces of a list without rectangles.
    full
        Faces of the list with rectangles.

    Returns
    -------
    list of int
        Index into ``full`` for each face, matched by image and first coordinate as in the
        authors' code.

    Raises
    ------
    DatasetError
        If a face is not in the full list; names its line.
    """
    index_of = {_identity(face): index for index, face in enumerate(full)}
    missing = [face for face in subset if _identity(face) not in index_of]
    if missing:
        raise DatasetError(
            f"{missing[0].source}: the full list has no such face of {missing[0].image!r}; use "
            "both lists from one WFLW_annotations.tar.gz"
        )
    return [index_of[_identity(face)] for face in subset]


def _identity(face: WflwFace) -> Tuple[str, float]:
    return face.image, float(face.points_xy[0, 0])


def name_crops(
    lists: Mapping[str, Path], rectangles: Mapping[str, Sequence[Optional[Box]]]
) -> Tuple[Dict[str, WflwFace], Dict[str, List[str]]]:
    """Name the crops of all lists as in the authors' code.

    Parameters
    ----------
    lists
        Result of :func:`find_lists`.
    rectangles
        Result of :func:`read_rectangles`, for lists without rectangles.

    Returns
    -------
    faces : dict of str to WflwFace
        File name of each crop, in the order of the lists. Without the full test list each subset
        has crops of its own.
    members : dict of str to list of str
        Name of each normalised list (``train``, ``test``, ``test_pose``, …) to its crops.

    Raises
    ------
    DatasetError
        If a list cannot be read, or does not match the full list or its rectangles.
    """
    faces: Dict[str, WflwFace] = {}
    members: Dict[str, List[str]] = {}
    test: List[WflwFace] = []
    for key, path in lists.items():
        name = f"test_{SUBSETS[key]}" if key in SUBSETS else key
        found = read_annotations(path)
        if key in SUBSETS and test:
            members[name] = [members["test"][index] for index in match_faces(found, test)]
            continue
        if path.name in rectangles:
            found = _with_rectangles(found, rectangles[path.name])
        members[name] = [f"wflw_{name}_{number:04d}.jpg" for number in range(1, len(found) + 1)]
        faces.update(zip(members[name], found))
        test = found if key == "test" else test
    return faces, members


def _with_rectangles(
    faces: Sequence[WflwFace], rectangles: Sequence[Optional[Box]]
) -> List[WflwFace]:
    if len(faces) != len(rectangles):
        raise DatasetError(
            f"{faces[0].source.rpartition(':')[0]} has {len(faces)} faces, but there are "
            f"{len(rectangles)} rectangles for it"
        )
    return [replace(face, rect_xyxy=rect) for face, rect in zip(faces, rectangles)]


def read_normalised_list(path: Path) -> NormalisedList:
    """Read a normalised list, with any number of landmarks.

    Raises
    ------
    DatasetError
        If the file cannot be read or is empty, a line is malformed or has another number of
        landmarks than the first, its coordinates are not shares of the crop, or a crop occurs
        twice; names the line.
    """
    rows: Dict[str, np.ndarray] = {}
    expected = 0
    for line, (name, *fields) in _lines(path):
        source = f"{path.name}:{line}"
        expected = expected or len(fields)
        if len(fields) != expected or not fields or len(fields) % 2:
            raise DatasetError(
                f"{source}: {len(fields)} numbers after the name; expected x and y per landmark, "
                "as many as in the first line"
            )
        if name in rows:
            raise DatasetError(f"{source}: {name!r} occurs twice")
        values = _numbers(fields, source)
        furthest = float(values[np.argmax(np.abs(values - 0.5))])
        if abs(furthest - 0.5) > FURTHEST_SHARE:
            raise DatasetError(
                f"{source}: coordinate {furthest:g}; expected shares of the crop, 0 to 1 or a "
                "little outside; if these are pixels, divide x by its width and y by its height"
            )
        rows[name] = values.reshape(-1, 2)
    if not rows:
        raise DatasetError(f"{str(path)!r} contains no face")
    return NormalisedList(tuple(rows), np.stack(list(rows.values())))


def write_normalised_list(path: Path, content: NormalisedList) -> None:
    """Write a normalised list, all or nothing, byte for byte like the authors' script."""
    lines = [
        " ".join([name, *map(repr, points.ravel().tolist())]) + " \n"
        for name, points in zip(content.names, content.points_xy)
    ]
    write_bytes(path, "".join(lines).encode("utf-8"))


def write_crop_lists(
    folder: Path,
    faces: Mapping[str, WflwFace],
    members: Mapping[str, Sequence[str]],
    sizes: Mapping[str, Optional[Tuple[int, int]]],
) -> None:
    """Write the normalised lists of a data set.

    Parameters
    ----------
    folder
        Output folder for ``train.txt`` and the others; a list without crops is left out.
    faces, members
        Results of :func:`name_crops`.
    sizes
        Crop to height and width of its image, None if unknown; crops missing here are left out.
    """
    points = {
        crop: WflwCrop.of(faces[crop], image_hw).normalised_points()
        for crop, image_hw in sizes.items()
    }
    for name, crops in members.items():
        kept = tuple(crop for crop in crops if crop in points)
        if kept:
            content = NormalisedList(kept, np.stack([points[crop] for crop in kept]))
            write_normalised_list(Path(folder, f"{name}.txt"), content)


def read_subsets(folder: Path, full: NormalisedList) -> Dict[str, List[int]]:
    """Read which crops of the test list belong to which subset.

    Parameters
    ----------
    folder
        Folder with ``test_pose.txt`` and the others; missing lists are left out.
    full
        Content of ``test.txt``.

    Returns
    -------
    dict of str to list of int
        Subset to indices into ``full``, in the order of ``SUBSETS``.

    Raises
    ------
    DatasetError
        If a list names a crop that is not in ``full``.
    """
    index_of = {name: index for index, name in enumerate(full.names)}
    subsets: Dict[str, List[int]] = {}
    for subset, ending in SUBSETS.items():
        path = Path(folder, f"test_{ending}.txt")
        if not path.exists():
            continue
        names = read_normalised_list(path).names
        unknown = [name for name in names if name not in index_of]
        if unknown:
            raise DatasetError(
                f"{str(path)!r} names {unknown[0]!r}, which is not in the test list; create "
                "both lists in one run"
            )
        subsets[subset] = [index_of[name] for name in names]
    return subsets


def _lines(path: Path) -> Iterator[Tuple[int, List[str]]]:
    """Yield line number and fields of the lines that are not blank."""
    try:
        text = read_text(Path(path), LARGEST_READ)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{str(path)!r} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if fields:
            yield number, fields


def _numbers(fields: Sequence[str], source: str) -> np.ndarray:
    try:
        values = np.array(fields, np.float64)
    except ValueError as error:
        raise DatasetError(f"{source}: {error}; expected numbers") from error
    if not np.isfinite(values).all():
        raise DatasetError(f"{source}: a number is not finite")
    return values
