"""Image files: find, read as upright RGB, write; unreadable files are reported by name."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

from ..arrays import LARGEST_IMAGE, MAX_PIXELS
from ..errors import ImageError, InputError
from ..files import LINKED, fitting_name, read_file, walk, write_bytes

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "check_name",
    "decode_image_rgb",
    "find_images",
    "names_with_suffix",
    "read_encoded",
    "read_image_rgb",
    "read_reduced_rgb",
    "relative_names",
    "write_image_rgb",
]


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".pgm", ".ppm")

# OpenCV's flags to decode the 8 x 8 blocks of a JPEG to 4, 2 or 1 pixels per side.
_REDUCED = {8: 64, 4: 32, 2: 16}  # source: opencv@4.10.0 imgcodecs.hpp IMREAD_REDUCED_GRAYSCALE

# Name that stands for the images of a folder that cannot be listed.
WHOLE_FOLDER = "*"

_END_OF_IMAGE = b"\xff\xd9"

_log = logging.getLogger(__name__)

_START_OF_SCAN = b"\xff\xda"

# Markers with a length; the others are escaped and fill bytes, TEM, and restarts within a scan.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]", re.DOTALL)

# A progressive JPEG has 10 scans, one optimised for size up to 70; the time is in proportion.
MOST_SCANS = 100

# MP4 and QuickTime (a HEIC or AVIF photo has the same box with another brand), AVI, Matroska.
_VIDEO = re.compile(rb"....ftyp(?!hei|hev|mif1|msf1|avi[fs])|RIFF....AVI |\x1aE\xdf\xa3", re.DOTALL)

_ORIENTATION = 0x0112  # source: Exif 2.32, tag Orientation; 1 is upright


class _Header(NamedTuple):
    kind: str
    width: int
    height: int
    plain: bool  # an upright JPEG, grey or with three channels


def read_image_rgb(path: Path) -> np.ndarray:
    """Read an image as upright RGB.

    Grey, palette, 16-bit, CMYK and transparent images are converted to 8-bit RGB as in OpenCV
    (transparency is dropped); the EXIF orientation is applied.

    Parameters
    ----------
    path
        A JPEG, PNG, BMP, WebP, PGM or PPM file.

    Returns
    -------
    numpy.ndarray
        Shape (H, W, 3), uint8, RGB, contiguous.

    Raises
    ------
    ImageError
        If the file is missing, empty, not an image, truncated, or larger than 178 megapixels.
    """
    return decode_image_rgb(read_encoded(Path(path)), path)


def decode_image_rgb(data: bytes, path: Union[str, Path]) -> np.ndarray:
    """Decode an encoded image like :func:`read_image_rgb`.

    Parameters
    ----------
    data
        The encoded image.
    path
        Its name in errors.

    Raises
    ------
    ImageError
        If it is empty, not an image, truncated, or larger than 178 megapixels.
    """
    return _decode(data, path, _check_header(data, path))


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
    data = read_encoded(Path(path))
    header = _check_header(data, path)
    height, width = header.height, header.width
    reduction = 1
    if header.kind == "JPEG":
        # The header does not give the orientation; the one that keeps more pixels is safe.
        share = min(
            max(height / box[0], width / box[1]) for box in (fit_hw, (fit_hw[1], fit_hw[0]))
        )
        reduction = next((factor for factor in _REDUCED if factor <= share), 1)
    image = _decode(data, path, header, _REDUCED.get(reduction, 0))
    if reduction == 1:
        return image, (image.shape[0], image.shape[1])
    upright = image.shape[:2] == (-(-height // reduction), -(-width // reduction))
    return image, (height, width) if upright else (width, height)


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
        raise ImageError(f"{str(path)!r} cannot be read: {error.strerror}") from error


def _why_left_out(folder: Path) -> str:
    try:
        if folder.is_symlink():
            return LINKED
        os.scandir(folder).close()
    except OSError as error:
        return f"{error.strerror}, so the images of this folder are missing"
    return "this folder was not readable when the images were listed; run the command again"


def _decode(data: bytes, path: Union[str, Path], header: _Header, reduced: int = 0) -> np.ndarray:
    import cv2

    if header.plain and not reduced:
        # Same pixels as OpenCV, whose decoder is the same library, in less time.
        with suppress(ValueError):
            image = _decode_fast(data)
            if image is not None:
                return image
        # This decoder is strict; OpenCV decides whether a damaged file is readable.
    buffer = np.frombuffer(data, np.uint8)
    try:
        # Older OpenCV builds have no flag that decodes straight to RGB.
        decode_rgb = getattr(cv2, "IMREAD_COLOR_RGB", None)
        if decode_rgb is not None:
            image = cv2.imdecode(buffer, decode_rgb | reduced)
        else:
            image = cv2.imdecode(buffer, cv2.IMREAD_COLOR | reduced)
            image = None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except cv2.error as error:
        raise ImageError(f"{str(path)!r} cannot be decoded: {error.err}") from error
    if image is None:
        raise ImageError(f"{str(path)!r} cannot be decoded; expected an intact image")
    return np.ascontiguousarray(image)


def _decode_fast(data: bytes) -> Optional[np.ndarray]:
    """Decode a JPEG with libjpeg-turbo directly; None where its package is missing."""
    simplejpeg = _simplejpeg()
    return simplejpeg and np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))


@lru_cache(maxsize=None)
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError as error:
        _log.info("JPEGs are read by OpenCV, more slowly (%s): pip install simplejpeg", error)
        return None
    return simplejpeg


def _check_header(data: bytes, path: Union[str, Path]) -> _Header:
    """Reject files that OpenCV would decode partly, hang on, or report without a name."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageError(f"{str(path)!r} is empty (0 bytes); expected an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Opening reads only the header.
            with Image.open(io.BytesIO(data)) as header:
                width, height = header.size
                kind = header.format or ""
                plain = kind == "JPEG" and header.mode in ("L", "RGB") and _is_upright(header)
    except UnidentifiedImageError as error:
        if _VIDEO.match(data):
            raise ImageError(
                f"{str(path)!r} is a video; expected an image: give the frames that "
                "cv2.VideoCapture reads, with bgr=True"
            ) from error
        raise ImageError(f"{str(path)!r} is not a readable image") from error
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except Exception as error:  # Pillow's parsers raise anything on malformed bytes.
        raise ImageError(f"{str(path)!r} has a header that cannot be read: {error}") from error
    if width * height > MAX_PIXELS:
        raise _too_large(path)
    if _is_cut_short(data, kind, width, height):
        raise ImageError(f"{str(path)!r} is truncated: the end of the image is missing")
    if kind in ("JPEG", "MPO") and _has_many_scans(data):
        raise ImageError(
            f"{str(path)!r} has more than {MOST_SCANS} scans, which take minutes to decode; "
            "expected a JPEG as cameras and programs write it: save it again"
        )
    return _Header(kind, width, height, plain)


def _is_upright(header: Image.Image) -> bool:
    try:
        return bool(header.getexif().get(_ORIENTATION, 1) == 1)
    except Exception:  # As above; broken metadata does not make an image unreadable.
        return False


def _too_large(path: Union[str, Path]) -> ImageError:
    most = MAX_PIXELS // 10**6
    return ImageError(f"{str(path)!r} has more than {most} megapixels; reduce it")


def _is_cut_short(data: bytes, kind: str, width: int, height: int) -> bool:
    """Return whether the end of an image is missing; decoders silently fill it with grey."""
    if kind in ("JPEG", "MPO"):
        return data.rfind(_END_OF_IMAGE) < _start_of_scan(data)
    if kind == "PNG":
        return data.rfind(b"IEND") < 0
    if kind == "PPM":
        binary = {b"P5": 1, b"P6": 3}.get(data[:2], 0)
        return len(data) < width * height * binary
    return False


def _start_of_scan(data: bytes) -> int:
    """Find the start of a JPEG's pixel data after its segments, which may contain a thumbnail."""
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    # In the pixel data every 0xff is escaped, so an end marker after this is that of the image.
    return position


def _has_many_scans(data: bytes) -> bool:
    """Return whether a JPEG consists of more than ``MOST_SCANS`` passes over all its pixels."""
    if data.count(_START_OF_SCAN) <= MOST_SCANS:
        return False
    # Some of them may be in a thumbnail, or behind the end of the image.
    scans, position = 0, 2
    while scans <= MOST_SCANS:
        found = _MARKER.search(data, position)
        if found is None or found.group() == _END_OF_IMAGE:
            return False
        scans += found.group() == _START_OF_SCAN
        # In the pixels behind the header of a scan every 0xff is escaped.
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return True


def find_images(folder: Path) -> List[Path]:
    """List the images below a folder at any depth, in the same order on every machine.

    Parameters
    ----------
    folder
        A folder, or a single image.

    Returns
    -------
    list of Path
        Sorted by path components. A folder that cannot be listed, or is a link, which is not
        followed so that loops end, has one entry, ``folder/*``: reading it fails with the reason,
        so that the folder is refused by name and counted like an unreadable image. Hidden files
        and folders are left out; so are folders that a run of facezoo wrote, with a warning.

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
        raise InputError(f"{str(folder)!r} does not exist; expected an image or a folder of them")
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is no image or folder of images, but a special file")
    try:
        files, left_out = walk(folder, runs=False)
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be read: {error.strerror}") from error
    found = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        reasons = [f"; {error.filename!r} was left out: {error.strerror}" for error in left_out[:1]]
        raise InputError(
            f"{str(folder)!r} contains no image ({', '.join(IMAGE_SUFFIXES)}, any depth)"
            + "".join(reasons)
        )
    found += [Path(error.filename, WHOLE_FOLDER) for error in left_out]
    for path in found:
        check_name(str(path.relative_to(folder)), path)
    return sorted(found, key=lambda path: path.parts)


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

    suffix = path.suffix.lower() if path.suffix.lower() in IMAGE_SUFFIXES else ".jpg"
    done, encoded = cv2.imencode(suffix, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise InputError(f"{str(path)!r}: the image cannot be encoded as {suffix}")
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
