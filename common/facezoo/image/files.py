"""Image files: find, read as upright RGB, write; unreadable files are reported by name."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Dict, List, Sequence, Tuple

import numpy as np

from ..arrays import LARGEST_IMAGE
from ..errors import ImageError, InputError
from ..files import LINKED, fitting_name, open_file, read_file, walk, write_bytes
from .decode import (
    SIGNATURE_BYTES,
    decode_image_rgb,
    decode_reduced_rgb,
    is_image,
    name_address,
)
from .reading import current_reading, describe_passed_over

__all__ = [
    "check_name",
    "find_images",
    "is_image_file",
    "names_with_suffix",
    "read_encoded",
    "read_image_rgb",
    "read_reduced_rgb",
    "relative_names",
    "write_image_rgb",
]


# Formats that are written.
_WRITTEN = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".pgm", ".ppm")

# Name that stands for the images of a folder that cannot be listed.
WHOLE_FOLDER = "*"


def read_image_rgb(path: Path) -> np.ndarray:
    """Read an image as upright RGB.

    Grey, palette, 16-bit, CMYK and transparent images are converted to 8-bit RGB as in OpenCV
    (transparency is dropped); the EXIF orientation is applied. Of an animated image the first
    frame is read, with a warning. A damaged image is refused, as far as its format shows damage:
    see :mod:`facezoo.image.decode`; within :func:`facezoo.image.reading.reading` it may be read.

    Parameters
    ----------
    path
        A JPEG, PNG, BMP, WebP, TIFF, GIF, PGM, PPM, JPEG 2000 or AVIF file, or HEIC with a plug-in.

    Returns
    -------
    numpy.ndarray
        Shape (H, W, 3), uint8, RGB, contiguous.

    Raises
    ------
    ImageError
        If the file is missing, empty, not an image, damaged or truncated, or larger than 178
        megapixels.
    """
    return decode_image_rgb(read_encoded(Path(path)), path)


def read_reduced_rgb(path: Path, fit_hw: Tuple[int, int]) -> Tuple[np.ndarray, Tuple[int, int]]:
    """Read an image as upright RGB, decoding a large JPEG at 1/2, 1/4 or 1/8 of its size.

    Reduced decoding takes a fraction of the time and averages pixels that a resize would skip.

    Parameters
    ----------
    path
        As for :func:`read_image_rgb`.
    fit_hw
        Height and width of the box that the image will be fitted into; it is never read smaller
        than that.

    Returns
    -------
    image_rgb : numpy.ndarray
        Shape (H, W, 3), uint8, RGB, contiguous.
    image_hw : tuple of int
        Height and width of the full image.

    Raises
    ------
    ImageError
        As for :func:`read_image_rgb`.
    """
    return decode_reduced_rgb(read_encoded(Path(path)), path, fit_hw)


def read_encoded(path: Path) -> bytes:
    """Read the encoded bytes of an image file; ImageError if it is missing or not a file."""
    if path.name == WHOLE_FOLDER:
        raise ImageError(f"{str(path)!r} cannot be read: {_why_left_out(path.parent)}")
    if path.is_dir():
        raise ImageError(
            f"{str(path)!r} cannot be read: it is a folder; expected an image, or a list of them"
        )
    try:
        return read_file(path, LARGEST_IMAGE)
    except OSError as error:
        reason = name_address(path) or error.strerror
        raise ImageError(f"{str(path)!r} cannot be read: {reason}") from error


def _why_left_out(folder: Path) -> str:
    try:
        os.scandir(folder).close()
        if folder.is_symlink():
            return LINKED
    except OSError as error:
        return f"{error.strerror}, so the images of this folder are missing"
    return "this folder was not readable when the images were listed; run the command again"


def find_images(folder: Path) -> List[Path]:
    """List the images below a folder at any depth, in the same order on every machine.

    Parameters
    ----------
    folder
        A folder, or a single image.

    Returns
    -------
    list of Path
        Sorted by path components: the files whose name ends like an image's, or that begin like
        one. Links to folders are followed, each folder once. A folder that cannot be listed, or
        links to one that contains it, has one entry, ``folder/*``: reading it fails with the
        reason, so that the folder is refused by name and counted like an unreadable image. The
        other files are passed over, and counted in a warning and in ``run.json``. Hidden files and
        folders are left out; so are folders that a run of facezoo wrote, with a warning.

    Raises
    ------
    InputError
        If the file or folder does not exist, cannot be read, contains no image, or a name is not a
        line of UTF-8 text, as results list images line by line.
    """
    folder = Path(folder)
    if folder.is_file():
        check_name(folder.name, folder)
        return [folder]
    if not folder.exists():
        reason = name_address(folder) or "it does not exist; expected an image or a folder of them"
        raise InputError(f"{str(folder)!r} cannot be read: {reason}")
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a special file, not an image or a folder of images")
    try:
        files, left_out = walk(folder, runs=False)
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be read: {error.strerror}") from error
    found = [path for path in files if is_image_file(path)]
    others = Counter(path.suffix.lower() for path in files)
    others -= Counter(path.suffix.lower() for path in found)
    if not found:
        reasons = [f"; {describe_passed_over(others)}"] if others else []
        reasons += [
            f"; {error.filename!r} was left out: {error.strerror}" for error in left_out[:1]
        ]
        raise InputError(f"{str(folder)!r} contains no image, at any depth" + "".join(reasons))
    current_reading().pass_over(folder, others)
    found += [Path(error.filename, WHOLE_FOLDER) for error in left_out]
    for path in found:
        check_name(str(path.relative_to(folder)), path)
    return sorted(found, key=lambda path: path.parts)


def is_image_file(path: Path) -> bool:
    """Return whether a file is an image by its suffix, or else by its first bytes."""
    if is_image(path.name, b""):
        return True
    try:
        with open_file(path) as file:
            return is_image("", file.read(SIGNATURE_BYTES))
    except OSError:
        return False


def check_name(name: str, path: Path) -> None:
    """Raise InputError if the name of an image is not a line of UTF-8 text."""
    problem = "" if name.splitlines() == [name] else "has a line break"
    try:
        name.encode()
    except UnicodeEncodeError:
        problem = "is not UTF-8"
    if problem:
        raise InputError(f"{str(path)!r}: the name {problem}, so results cannot list it; rename it")


def write_image_rgb(path: Path, image_rgb: np.ndarray) -> None:
    """Write an image, all or nothing; the suffix selects the format.

    Parameters
    ----------
    path
        Where to; its folder is made if needed.
    image_rgb
        Shape (H, W, 3), uint8, RGB.
    """
    import cv2

    suffix = path.suffix.lower() if path.suffix.lower() in _WRITTEN else ".jpg"
    try:
        done, encoded = cv2.imencode(suffix, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
    except cv2.error:  # OpenCV 4.9 raises, later ones return false
        done = False
    if not done:
        height, width = image_rgb.shape[:2]
        raise InputError(
            f"{str(path)!r}: the image of {width}x{height} pixels cannot be encoded as {suffix}; "
            "reduce it, or write a .png"
        )
    write_bytes(path, encoded.tobytes())


def relative_names(paths: Sequence[Path], root: Path) -> Tuple[str, ...]:
    """Return the paths relative to a root, with forward slashes; a single file keeps its name."""
    base = root.parent if root.is_file() else root
    return tuple(path.relative_to(base).as_posix() for path in paths)


def names_with_suffix(names: Sequence[str], suffix: str) -> Dict[str, str]:
    """Return a unique file name per image, with another suffix.

    Parameters
    ----------
    names
        Relative names such as ``event/photo.jpg``.
    suffix
        New suffix such as ``.txt``.

    Returns
    -------
    dict
        ``event/photo.jpg`` to ``event/photo.txt``; images that differ only in their suffix keep
        it: ``event/photo.png.txt``. Too long names are cut, see
        :func:`facezoo.files.fitting_name`.
    """
    stems = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    count = Counter(stems.values())
    return {
        # A stem may itself be the name of an image: a.png.jpg beside a.png.
        name: fitting_name((stem if count[stem] == 1 and stem not in stems else name) + suffix)
        for name, stem in stems.items()
    }
