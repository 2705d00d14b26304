"""The npz route's way in: pictures as npz, the list of them, and which line is which picture.

::

    picture ──▶ input npz, a line of the datalist, an item of <datalist>.manifest.json
    line i of the datalist ──vamp──▶ output_<i>.npz, entry i of vamp.json (see ``outputs``)
    item i of the manifest and output i ──▶ RawOutputs

The vendor's tools know the datalist alone; the manifest is ours. Of a list that the vendor's script
made, the pictures are found again by their names where that leaves no doubt.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from PIL import Image

from ..arrays import MAX_PIXELS, load_json, read_npz, write_npz
from ..errors import ImageError, InputError
from ..files import write_bytes
from ..image.files import find_images, read_image_rgb, relative_names

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
    """A picture that was written as npz.

    Attributes
    ----------
    npz
        Name of the file below the npz folder, with forward slashes.
    image_hw
        Height and width of the picture in pixels.
    sha256
        Of the npz file.
    """

    npz: str
    image_hw: Tuple[int, int]
    sha256: str

    def to_dict(self) -> Dict[str, Any]:
        """Return the manifest's entry but for the picture's name."""
        height, width = self.image_hw
        return {"width": width, "height": height, "npz": self.npz, "sha256": self.sha256}


def convert_picture(work: Tuple[Path, str], folder: Path) -> Union[Converted, ImageError]:
    """Write a picture as the npz that vamp takes: ``input_0``, uint8, (3, H, W), RGB, upright.

    Parameters
    ----------
    work
        The picture, and the name of the file to write.
    folder
        The npz folder, which the name is relative to.

    Returns
    -------
    Converted or ImageError
        The error if the picture cannot be read.
    """
    image, npz = work
    try:
        picture = read_image_rgb(image)
    except ImageError as error:
        return error
    planes = np.empty((3, *picture.shape[:2]), np.uint8)
    cv2.split(picture, list(planes))
    sha256 = write_npz(folder / npz, {INPUT_KEY: planes})
    return Converted(npz, (picture.shape[0], picture.shape[1]), sha256)


def check_disk_space(images: Sequence[Path], folder: Path) -> None:
    """Refuse to start what the disk cannot hold.

    Parameters
    ----------
    images
        Their npz files' sizes follow from their headers; broken pictures count nothing.
    folder
        Where the npz files go.

    Raises
    ------
    InputError
        If they need more than is free.
    """
    total = 0
    for path in images:
        try:
            with Image.open(path) as header:
                total += 3 * header.width * header.height + 512
        except Exception:  # Whoever converts the picture names what is wrong with it.
            continue
    free = shutil.disk_usage(folder).free
    if total > free:
        raise InputError(
            f"{str(folder)!r} has {free / 1e9:.2f} GB free, and {len(images)} pictures as npz take "
            f"{total / 1e9:.2f} GB; name a folder on a larger disk"
        )


def check_names(names: Iterable[str]) -> None:
    """Refuse names that a list of lines cannot hold.

    Raises
    ------
    InputError
        If a name has a line break.
    """
    for name in names:
        if "\n" in name or "\r" in name:
            raise InputError(f"{name!r} has a line break, and a datalist is read by lines; rename")


def write_datalist(datalist: Path, folder: Path) -> int:
    """Write the list that vamp takes, and the manifest beside it.

    Parameters
    ----------
    datalist
        The text file: one absolute path a line.
    folder
        The npz folder; holds the manifest, which is copied.

    Returns
    -------
    int
        The number of lines.
    """
    manifest = (folder / MANIFEST_FILE).read_bytes()
    lines = [str(path) for path in _npz_paths(json.loads(manifest))]
    write_bytes(datalist, os.fsencode("".join(f"{line}\n" for line in lines)))
    write_bytes(manifest_of(datalist), manifest)
    return len(lines)


def manifest_of(datalist: Path) -> Path:
    """Return where a list's manifest lies."""
    return datalist.with_name(f"{datalist.name}.{MANIFEST_FILE}")


def _npz_paths(manifest: Mapping[str, Any]) -> List[Path]:
    folder = manifest["npz_folder"]
    return [Path(folder, item["npz"]) for item in manifest["items"] if "npz" in item]


def read_datalist(path: Path) -> List[Path]:
    """Read a list of npz files: one path a line, absolute or relative to the working directory.

    Raises
    ------
    InputError
        If it cannot be read, is empty, has an empty line or more than a million.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({error.strerror}); expected a list of npz files, "
            "made with image2npz.py"
        ) from error
    count = data.count(b"\n")
    if count > LONGEST_LIST:
        raise InputError(
            f"{str(path)!r} has {count} lines; expected at most {LONGEST_LIST}, "
            "which is what vamp's outputs are numbered for: split the list"
        )
    text = os.fsdecode(data)
    lines = text[:-1].split("\n") if text.endswith("\n") else text.split("\n")
    paths = []
    for number, line in enumerate(lines, 1):
        # No system takes a longer path.
        if not line.strip() or "\0" in line or len(line) > 4096:
            raise InputError(f"{str(path)!r}, line {number}: {line[:40]!r} is no path of an npz")
        paths.append(Path(line.rstrip("\r")))
    return paths


def read_input(path: Path, sha256: str = "") -> np.ndarray:
    """Read a picture back from its npz.

    Parameters
    ----------
    path
        Holds ``input_0``, uint8, (3, H, W), RGB.
    sha256
        What the file must hash to, if given.

    Returns
    -------
    numpy.ndarray
        Shape (H, W, 3), uint8, RGB.

    Raises
    ------
    InputError
        If the file is no such npz.
    """
    arrays = read_npz(path, sha256)
    planes = arrays.get(INPUT_KEY)
    if planes is None or planes.dtype != np.uint8 or planes.ndim != 3 or len(planes) != 3:
        have = {key: f"{array.dtype} {array.shape}" for key, array in arrays.items()}
        raise InputError(
            f"{str(path)!r} holds {have}; expected {INPUT_KEY}, uint8, (3, height, width): "
            "make it with image2npz.py"
        )
    if not planes.size:
        raise InputError(f"{str(path)!r} holds an empty picture {planes.shape}")
    return np.asarray(cv2.merge(list(planes)))


@dataclass(frozen=True)
class Picture:
    """A picture of the data set, and what became of it.

    Attributes
    ----------
    name
        Relative to the data set's folder, with forward slashes.
    image_hw
        Height and width in pixels; (0, 0) if it could not be read.
    sha256
        Of its npz; "" if that is not known.
    line
        Its line of the datalist, from 0; -1 if it has none.
    error
        Why it has no npz; "" if it has.
    """

    name: str
    image_hw: Tuple[int, int]
    sha256: str = ""
    line: int = -1
    error: str = ""


def read_pictures(datalist: Path, image_dir: Optional[Path] = None) -> List[Picture]:
    """Say which picture each line of a datalist is.

    Parameters
    ----------
    datalist
        With ``<datalist>.manifest.json`` beside it, or made by the vendor's script.
    image_dir
        The data set's folder; needed only without a manifest. Lines are then found again by their
        names, and by their folders' names where pictures in several folders share one.

    Returns
    -------
    list of Picture
        In the order of the lines; those with an error, between them, have no line.

    Raises
    ------
    InputError
        If the manifest is not this list's, or a line's picture is missing or not the only one.
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
            f"{str(manifest_file)!r} cannot be understood ({error!r}); make it with image2npz.py"
        ) from error
    for number, (line, expected) in enumerate(zip(lines, named), 1):
        if line != expected:
            raise InputError(
                f"{str(datalist)!r}, line {number}: {str(line)!r} found, its manifest says "
                f"{str(expected)!r}; make both again with image2npz.py"
            )
    if len(lines) != len(named):
        raise InputError(
            f"{str(datalist)!r} has {len(lines)} lines, its manifest {len(named)}; make both again "
            "with image2npz.py"
        )
    return pictures


def recorded_hashes(datalist: Path) -> List[str]:
    """Return what each line's npz must hash to; "" for all of them without a manifest.

    Raises
    ------
    InputError
        If the manifest is not this list's.
    """
    if not manifest_of(datalist).exists():
        return [""] * len(read_datalist(datalist))
    return [picture.sha256 for picture in read_pictures(datalist) if not picture.error]


def _picture_from(item: Mapping[str, Any], lines: Iterator[int]) -> Picture:
    if "error" in item:
        return Picture(str(item["path"]), (0, 0), error=str(item["error"]))
    height, width = int(item["height"]), int(item["width"])
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"{item['path']!r} of {width}x{height}")
    return Picture(str(item["path"]), (height, width), str(item["sha256"]), next(lines))


def _pictures_by_name(
    datalist: Path, lines: Sequence[Path], image_dir: Optional[Path]
) -> List[Picture]:
    if image_dir is None:
        raise InputError(
            f"{str(datalist)!r} has no {manifest_of(datalist).name} beside it; make both with "
            "image2npz.py, or give the pictures' folder with --input_image_dir"
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
            raise InputError(f"{where} has no picture of its name in {str(image_dir)!r}")
        if len(found) > 1:
            raise InputError(
                f"{where} may be {found[0]!r} or {found[1]!r}; make the list with image2npz.py, "
                "whose manifest tells them apart"
            )
        if found[0] in line_of:
            raise InputError(
                f"{where} and line {line_of[found[0]]} are both {found[0]!r}; make the list with "
                "image2npz.py"
            )
        line_of[found[0]] = number
    pictures = []
    for name in line_of:
        height, width = read_image_rgb(path_of[name]).shape[:2]
        pictures.append(Picture(name, (height, width), line=line_of[name] - 1))
    return pictures


def _same_folders(candidates: Sequence[str], line: Path) -> List[str]:
    """Of pictures with the line's name, keep those whose folders' names agree the longest."""

    def shared(name: str) -> int:
        pairs = zip(reversed(PurePosixPath(name).parts[:-1]), reversed(line.parts[:-1]))
        return next((i for i, (mine, its) in enumerate(pairs) if mine != its), len(line.parts))

    ranks = [shared(name) for name in candidates]
    return [name for name, rank in zip(candidates, ranks) if rank == max(ranks)]
