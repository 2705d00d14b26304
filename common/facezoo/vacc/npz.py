"""Inputs of the npz route: images as npz files, the datalist, and the manifest.

::

    image ──▶ input npz, a line of the datalist, an item of <datalist>.manifest.json
    line i of the datalist ──vamp──▶ output_<i>.npz, entry i of vamp.json (see ``outputs``)
    item i of the manifest and output i ──▶ RawOutputs

The vendor's tools only know the datalist; the manifest is ours. For a list made by the vendor's
script the images are found by name if the names are unambiguous.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ..arrays import MAX_PIXELS, load_json, read_npz, write_npz
from ..errors import ImageError, InputError
from ..files import check_room, open_file, read_file, write_bytes
from ..image.files import find_images, read_image_rgb, relative_names
from ..image.reading import current_reading

__all__ = [
    "MANIFEST_FILE",
    "MANIFEST_SCHEMA",
    "Converted",
    "Picture",
    "check_disk_space",
    "check_names",
    "convert_picture",
    "manifest_of",
    "read_datalist",
    "read_input",
    "read_pictures",
    "recorded_hashes",
    "write_datalist",
]


MANIFEST_FILE, MANIFEST_SCHEMA = "manifest.json", "facezoo.npz/1"

INPUT_KEY = "input_0"  # source: VastModelZOO@43aff36 cv/face_detection/common/utils/image2npz.py

# vamp numbers its outputs with six digits.
LONGEST_LIST = 1_000_000


@dataclass(frozen=True)
class Converted:
    """An image that was written as npz.

    Attributes
    ----------
    npz
        File name relative to the npz folder, with forward slashes.
    image_hw
        Height and width of the image in pixels.
    sha256
        Hash of the npz file.
    damaged
        What is damaged in the image, if it was read nevertheless.
    """

    npz: str
    image_hw: Tuple[int, int]
    sha256: str
    damaged: str = ""

    def to_dict(self) -> Dict[str, Any]:
        """Return the manifest entry without the name of the image."""
        height, width = self.image_hw
        entry = {"width": width, "height": height, "npz": self.npz, "sha256": self.sha256}
        return {**entry, "damaged": self.damaged} if self.damaged else entry


def convert_picture(work: Tuple[Path, str], folder: Path) -> Union[Converted, ImageError]:
    """Write an image as npz input of vamp: ``input_0``, uint8, (3, H, W), RGB, upright.

    Parameters
    ----------
    work
        The image and the name of the output file.
    folder
        The npz folder, root of the name.

    Returns
    -------
    Converted or ImageError
        An error if the image cannot be read, or the file not be written.
    """
    import cv2

    image, npz = work
    try:
        picture = read_image_rgb(image)
        planes = np.empty((3, *picture.shape[:2]), np.uint8)
        cv2.split(picture, list(planes))
        sha256 = write_npz(folder / npz, {INPUT_KEY: planes})
    except ImageError as error:
        return error
    damaged = current_reading().damaged.get(str(image), "")
    return Converted(npz, (picture.shape[0], picture.shape[1]), sha256, damaged)


def check_disk_space(images: Sequence[Path], folder: Path) -> None:
    """Refuse to start if the disk is too small for the npz files.

    Parameters
    ----------
    images
        The npz sizes are computed from the image headers; unreadable images count as 0.
    folder
        Folder of the npz files.

    Raises
    ------
    InputError
        If the files need more than the free space.
    """
    from PIL import Image

    total = 0
    for path in images:
        try:
            with open_file(path) as file, Image.open(file) as header:
                total += 3 * header.width * header.height + 512
        except Exception:  # The conversion reports unreadable images.
            continue
    check_room(folder, total, f"{len(images)} images as npz")


def check_names(names: Iterable[str]) -> None:
    """Reject names that cannot be stored in a list of lines.

    Raises
    ------
    InputError
        If a name has a line break.
    """
    for name in names:
        if "\n" in name or "\r" in name:
            raise InputError(f"{name!r} has a line break, which a datalist cannot store; rename it")


def write_datalist(datalist: Path, folder: Path) -> int:
    """Write the datalist for vamp, and the manifest beside it.

    Parameters
    ----------
    datalist
        Target text file, one absolute path per line.
    folder
        The npz folder; its manifest is copied.

    Returns
    -------
    int
        The number of lines.
    """
    manifest = read_file(folder / MANIFEST_FILE)
    lines = [str(path) for path in _npz_paths(json.loads(manifest))]
    write_bytes(datalist, os.fsencode("".join(f"{line}\n" for line in lines)))
    write_bytes(manifest_of(datalist), manifest)
    return len(lines)


def manifest_of(datalist: Path) -> Path:
    """Return the path of a list's manifest."""
    return datalist.with_name(f"{datalist.name}.{MANIFEST_FILE}")


def _npz_paths(manifest: Mapping[str, Any]) -> List[Path]:
    folder = manifest["npz_folder"]
    return [Path(folder, item["npz"]) for item in manifest["items"] if "npz" in item]


def read_datalist(path: Path) -> List[Path]:
    """Read a datalist: one npz path per line, absolute or relative to the working directory.

    Raises
    ------
    InputError
        If it cannot be read, is empty, or has an empty line or more than a million lines.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({error.strerror}); expected a list of npz files, "
            "created with image2npz.py"
        ) from error
    count = data.count(b"\n")
    if count > LONGEST_LIST:
        raise InputError(
            f"{str(path)!r} has {count} lines; expected at most {LONGEST_LIST}, "
            "since vamp numbers its outputs with six digits: split the list"
        )
    text = os.fsdecode(data)
    lines = text[:-1].split("\n") if text.endswith("\n") else text.split("\n")
    paths = []
    for number, line in enumerate(lines, 1):
        # No system supports a longer path.
        if not line.strip() or "\0" in line or len(line) > 4096:
            raise InputError(
                f"{str(path)!r}, line {number}: {line[:40]!r} is not the path of an npz file"
            )
        paths.append(Path(line.rstrip("\r")))
    return paths


def read_input(path: Path, sha256: str = "") -> np.ndarray:
    """Read an image back from its npz.

    Parameters
    ----------
    path
        File with ``input_0``, uint8, (3, H, W), RGB.
    sha256
        Expected hash of the file, if given.

    Returns
    -------
    numpy.ndarray
        Shape (H, W, 3), uint8, RGB.

    Raises
    ------
    InputError
        If the file is not such an npz.
    """
    import cv2

    arrays = read_npz(path, sha256)
    planes = arrays.get(INPUT_KEY)
    if planes is None or planes.dtype != np.uint8 or planes.ndim != 3 or len(planes) != 3:
        have = {key: f"{array.dtype} {array.shape}" for key, array in arrays.items()}
        raise InputError(
            f"{str(path)!r} contains {have}; expected {INPUT_KEY}, uint8, (3, height, width): "
            "create it with image2npz.py"
        )
    if not planes.size:
        raise InputError(f"{str(path)!r} contains an empty image {planes.shape}")
    return np.asarray(cv2.merge(list(planes)))


@dataclass(frozen=True)
class Picture:
    """An image of the data set with its npz file or the reason why there is none.

    Attributes
    ----------
    name
        Path relative to the data set folder, with forward slashes.
    image_hw
        Height and width in pixels; (0, 0) if it could not be read.
    sha256
        Hash of its npz; "" if unknown.
    line
        Its line in the datalist, from 0; -1 if it has none.
    error
        Why it has no npz; "" if it has.
    """

    name: str
    image_hw: Tuple[int, int]
    sha256: str = ""
    line: int = -1
    error: str = ""


def read_pictures(datalist: Path, image_dir: Optional[Path] = None) -> List[Picture]:
    """Return the image of each line of a datalist.

    Parameters
    ----------
    datalist
        A list with ``<datalist>.manifest.json`` beside it, or one made by the vendor's script.
    image_dir
        Folder of the data set; needed only without a manifest. Lines are then matched by file
        name, and by folder names if several images have the same name.

    Returns
    -------
    list of Picture
        Images in the order of the lines; images with an error, between them, have no line.

    Raises
    ------
    InputError
        If the manifest belongs to another list, or the image of a line is missing or ambiguous.
    """
    lines = read_datalist(datalist)
    manifest_file = manifest_of(datalist)
    if not manifest_file.exists():
        return _pictures_by_name(datalist, lines, image_dir)
    manifest = load_json(manifest_file, MANIFEST_SCHEMA)
    try:
        named = _npz_paths(manifest)
        count = itertools.count()
        pictures = [_picture_from(item, count) for item in manifest["items"]]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(
            f"{str(manifest_file)!r} cannot be parsed ({error!r}); create it with image2npz.py"
        ) from error
    for number, (line, expected) in enumerate(zip(lines, named), 1):
        if line != expected:
            raise InputError(
                f"{str(datalist)!r}, line {number}: found {str(line)!r}, but the manifest says "
                f"{str(expected)!r}; create both again with image2npz.py"
            )
    if len(lines) != len(named):
        raise InputError(
            f"{str(datalist)!r} has {len(lines)} lines, its manifest {len(named)}; create both "
            "again with image2npz.py"
        )
    return pictures


def recorded_hashes(datalist: Path) -> List[str]:
    """Return the expected npz hash of each line; "" for all lines without a manifest.

    Raises
    ------
    InputError
        If the manifest belongs to another list.
    """
    if not manifest_of(datalist).exists():
        return [""] * len(read_datalist(datalist))
    return [picture.sha256 for picture in read_pictures(datalist) if not picture.error]


def _picture_from(item: Mapping[str, Any], lines: Iterator[int]) -> Picture:
    if "error" in item:
        return Picture(str(item["path"]), (0, 0), error=str(item["error"]))
    height, width = int(item["height"]), int(item["width"])
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"{item['path']!r} has the size {width}x{height}")
    return Picture(str(item["path"]), (height, width), str(item["sha256"]), next(lines))


def _pictures_by_name(
    datalist: Path, lines: Sequence[Path], image_dir: Optional[Path]
) -> List[Picture]:
    if image_dir is None:
        raise InputError(
            f"{str(datalist)!r} has no {manifest_of(datalist).name} beside it; create both with "
            "image2npz.py, or give the folder of the images with --input_image_dir"
        )
    paths = find_images(image_dir)
    names = relative_names(paths, image_dir)
    path_of = dict(zip(names, paths))
    named_alike = defaultdict(list)
    for name in names:
        named_alike[PurePosixPath(name).stem].append(name)
        named_alike[PurePosixPath(name).name].append(name)
    line_of: Dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        found = _same_folders(named_alike[line.stem], line)
        where = f"{str(datalist)!r}, line {number}: {str(line)!r}"
        if not found:
            raise InputError(f"{where} matches no image in {str(image_dir)!r}")
        if len(found) > 1:
            raise InputError(
                f"{where} matches {found[0]!r} and {found[1]!r}; create the list with "
                "image2npz.py, whose manifest distinguishes them"
            )
        if found[0] in line_of:
            raise InputError(
                f"{where} and line {line_of[found[0]]} both match {found[0]!r}; create the list "
                "with image2npz.py"
            )
        line_of[found[0]] = number
    pictures = []
    for name in line_of:
        height, width = read_image_rgb(path_of[name]).shape[:2]
        pictures.append(Picture(name, (height, width), line=line_of[name] - 1))
    return pictures


def _same_folders(candidates: Sequence[str], line: Path) -> List[str]:
    """Of the images with the line's name, keep those with the most matching parent folders."""

    def shared(name: str) -> int:
        pairs = zip(reversed(PurePosixPath(name).parts[:-1]), reversed(line.parts[:-1]))
        return next((i for i, (mine, its) in enumerate(pairs) if mine != its), len(line.parts))

    ranks = [shared(name) for name in candidates]
    return [name for name, rank in zip(candidates, ranks) if rank == max(ranks)]
