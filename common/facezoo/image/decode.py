"""Encoded images to upright RGB; damaged ones are recognised and refused.

Decoders fill what they cannot decode with grey, or go on with wrong pixels, and most say nothing.
So each format has the decoder that recognises most damage, and the checks of :func:`_problem_of`.
What no decoder can see is a change within data that has no checksum and stays decodable: in the
pixels of BMP, PPM and uncompressed TIFF, in some bytes of JPEG 2000 and of TIFF with LZW or runs,
and in WebP, AVIF and HEIC if other bytes than zeros were written over theirs.
"""

from __future__ import annotations

import importlib
import io
import logging
import re
import warnings
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

from ..arrays import MAX_PIXELS
from ..errors import ImageError
from ..machine import SharedSetting
from .reading import current_reading

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGE_SUFFIXES", "decode_image_rgb", "decode_reduced_rgb", "is_image", "name_address"]


# Formats that are read, under Pillow's names, and the suffixes they have.
FORMATS: Dict[str, Tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "WEBP": (".webp",),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "MPO": (".mpo",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
    "SUN": (".ras", ".sr"),
}
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# Formats with a signature that nothing else begins with, whatever the name says. Not TIFF: raw
# photos begin like it.
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|\0\0\0\x0cjP  "
    rb"|....ftyp(hei|hev|mif1|avi[fs])",
    re.DOTALL,
)
SIGNATURE_BYTES = 16

# Packages that add a format to Pillow, and how they are installed.
_PLUGINS = {
    "AVIF": ("pillow_avif", "pillow-avif-plugin"),
    "HEIF": ("pillow_heif", "pillow-heif"),
}
_HEIF_BRAND = re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL)
_AVIF_BRAND = re.compile(rb"....ftypavi[fs]", re.DOTALL)

# What is not an image, and what to do with it.
_OTHERS = (
    (
        # MP4 and QuickTime, AVI, Matroska, MPEG, ASF, Flash, Ogg
        rb"....(ftyp|moov|mdat)|RIFF....AVI |\x1aE\xdf\xa3|\0\0\x01[\xba\xb3]|0&\xb2u|FLV\x01|OggS",
        "a video",
        ": give the frames that cv2.VideoCapture reads, with bgr=True",
    ),
    (rb"\s*%PDF", "a PDF document", ": save its pages as images"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document", ": save its pages as images"),
    (rb"\s*(<!doctype html|<html)", "a web page", ": download the image itself"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg", "an SVG drawing", ""),
    (rb"PK\x03\x04|\x1f\x8b|BZh|7z\xbc\xaf|Rar!|\xfd7zXZ", "an archive", ": unpack it"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image, which is not read", ": save it as PNG"),
)

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)

# OpenCV's flags to decode the 8 x 8 blocks of a JPEG to 4, 2 or 1 pixels per side.
_REDUCED = {8: 64, 4: 32, 2: 16}  # source: opencv@4.10.0 imgcodecs.hpp IMREAD_REDUCED_GRAYSCALE
_IGNORE_ORIENTATION = 128  # source: as above, IMREAD_IGNORE_ORIENTATION

# Modes that Pillow converts to RGB as OpenCV does; deeper ones it would cut off.
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")

_END_OF_IMAGE = b"\xff\xd9"
_START_OF_SCAN = b"\xff\xda"

# Markers with a length; the others are escaped and fill bytes, TEM, and restarts within a scan.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]", re.DOTALL)
# source: ITU-T T.81 table B.1, the frames that Huffman coding codes
_FRAMES = (0xC0, 0xC1, 0xC2)
_PROGRESSIVE = 0xC2
_SCAN = 0xDA

# A progressive JPEG has 10 scans, one optimised for size up to 70; the time is in proportion.
MOST_SCANS = 100

_ORIENTATION = 0x0112  # source: Exif 2.32, tag Orientation; 1 is upright
# Of TIFF, in strips and in tiles. source: TIFF 6.0, sections 3, 15 and 22, and Technical Note 2
_COMPRESSION, _TABLES, _PLACES, _SIZES = 259, 347, (273, 324), (279, 325)
_DEFLATE, _JPEG_IN_TIFF = (8, 32946), 7
_FILL_ORDER, _CHANNELS, _PLANES, _SEPARATE = 266, 277, 284, 2
# Of four channels of 32 bits; an image smaller than its tiles has more bytes.
_BYTES_PER_PIXEL, _SMALL = 16, 1 << 20
_SUBFILE_TYPE = 0x00FE  # source: TIFF 6.0, tag NewSubfileType; bit 0 is a reduced version

# What the pixels of a PNG are computed from. source: PNG, third edition, 11.2 and 11.3.1
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

_CHECKED = 1 << 20  # bytes decompressed at a time

# Zero bytes in a row that make a WebP suspicious. Photos have up to 50 in a row, a plain area up
# to 300; so this only decides which files are tried without their end.
SUSPICIOUS_ZEROS = 16
# A file may consist of millions of empty ones; an animation has a few per frame.
MOST_CHUNKS = 100_000
# The decoder of WebP notices that its input is missing up to this many bytes late.
WEBP_MARGIN = 8

_log = logging.getLogger(__name__)


class _Header(NamedTuple):
    kind: str
    width: int
    height: int
    mode: str
    orientation: int  # as in Exif, 1 to 8
    animated: bool


def is_image(name: str, start: bytes) -> bool:
    """Return whether a file is read as an image, by its name, or else by how it begins.

    Parameters
    ----------
    name
        Name of the file.
    start
        Its first ``SIGNATURE_BYTES``.
    """
    return Path(name).suffix.lower() in IMAGE_SUFFIXES or bool(_SIGNATURE.match(start))


def name_address(path: Union[str, Path]) -> str:
    """Return what is wrong with a path that is the address of an image elsewhere, or ""."""
    found = _ADDRESS.match(str(path))
    if found is None:
        return ""
    # A Path has one of two slashes.
    return f"it is a {found[1]} address; download it, and give the file"


def decode_image_rgb(data: bytes, path: Union[str, Path]) -> np.ndarray:
    """Decode an encoded image like :func:`facezoo.image.files.read_image_rgb`.

    Parameters
    ----------
    data
        The encoded image.
    path
        Its name in errors.

    Returns
    -------
    numpy.ndarray
        Shape (H, W, 3), uint8, RGB, contiguous.

    Raises
    ------
    ImageError
        If it is empty, not an image, damaged or truncated, or larger than 178 megapixels.
    """
    return _decode(data, path, _check_header(data, path))


def decode_reduced_rgb(
    data: bytes, path: Union[str, Path], fit_hw: Tuple[int, int]
) -> Tuple[np.ndarray, Tuple[int, int]]:
    """Decode an encoded image like :func:`facezoo.image.files.read_reduced_rgb`."""
    header = _check_header(data, path)
    size = header.height, header.width
    turned = header.orientation > 4
    reduction = 1
    if header.kind in ("JPEG", "MPO"):
        box = fit_hw[::-1] if turned else fit_hw
        share = max(size[0] / box[0], size[1] / box[1])
        reduction = next((factor for factor in _REDUCED if factor <= share), 1)
    image = _decode(data, path, header, reduction)
    if reduction == 1:
        return image, (image.shape[0], image.shape[1])
    return image, (size[1], size[0]) if turned else size


def _decode(data: bytes, path: Union[str, Path], header: _Header, reduction: int = 1) -> np.ndarray:
    reading = current_reading()
    if header.animated:
        reading.say(f"{str(path)!r} has several images; only the first is read")
    problem = _problem_of(data, header)
    if not problem:
        try:
            return np.ascontiguousarray(_decode_strictly(data, header, reduction))
        except _Damaged as error:
            problem = str(error)
    if not reading.allow_damaged:
        raise ImageError(
            f"{str(path)!r} is {problem}; replace it by an intact copy, or read it nevertheless "
            "with --allow-damaged"
        )
    try:
        image = np.ascontiguousarray(_decode_by_opencv(data, header, reduction))
    except _Damaged as error:
        raise ImageError(f"{str(path)!r} is {problem}, and not even read in part") from error
    reading.mark_damaged(str(path), problem)
    return image


class _Damaged(Exception):
    """An image that its decoder cannot decode completely; says how it is, such as "truncated"."""


def _decode_strictly(data: bytes, header: _Header, reduction: int) -> np.ndarray:
    """Decode an image as upright RGB; _Damaged if a part is missing or wrong."""
    if header.kind in ("JPEG", "MPO"):
        return _decode_jpeg(data, header, reduction)
    if header.kind == "TIFF":
        _check_tiff(data, header.width * header.height)
    by_pillow = header.kind in ("DIB", "GIF", "HEIF") or (header.animated and header.kind != "AVIF")
    # OpenCV reads damaged ones in part.
    by_pillow |= header.kind in ("TIFF", "JPEG2000") and header.mode in _EIGHT_BITS
    by_pillow |= header.kind == "AVIF" and not _opencv_has(".avif")
    return _decode_by_pillow(data) if by_pillow else _decode_by_opencv(data, header)


def _decode_jpeg(data: bytes, header: _Header, reduction: int) -> np.ndarray:
    """Decode a JPEG with libjpeg-turbo directly, since OpenCV, which has it, drops its warnings."""
    simplejpeg = _simplejpeg()
    if simplejpeg is None:
        return _decode_by_opencv(data, header, reduction)
    rgb = header.mode in ("L", "RGB")
    try:
        # The same pixels as OpenCV's, in less time.
        image = simplejpeg.decode_jpeg(
            data,
            colorspace="RGB" if rgb else "CMYK",
            # It takes the smallest size that is allowed.
            min_height=-(-header.height // reduction),
            min_width=-(-header.width // reduction),
            min_factor=reduction,
        )
    except ValueError as error:
        # A scan that is there twice; that none is missing was checked.
        if "progression" in str(error):
            return _decode_by_opencv(data, header, reduction)
        raise _Damaged(f"damaged: {str(error).strip()}") from error
    # OpenCV has its own conversion from CMYK.
    return (
        _upright(image, header.orientation) if rgb else _decode_by_opencv(data, header, reduction)
    )


@lru_cache(maxsize=None)
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except (ImportError, ValueError) as error:  # The second if built for another NumPy.
        _log.warning(
            "JPEGs are read by OpenCV (%s), more slowly, and a damaged one is recognised only if "
            "its end is missing: pip install simplejpeg",
            error,
        )
        return None
    return simplejpeg


def _opencv_has(suffix: str) -> bool:
    """Return whether OpenCV was built with a format, which it can then also write."""
    import cv2

    return bool(cv2.haveImageWriter(f"image{suffix}"))


def _decode_by_opencv(data: bytes, header: _Header, reduction: int = 1) -> np.ndarray:
    import cv2

    if header.kind == "PNG":
        chunks = (data[start - 8 : end + 4] for name, start, end in _chunks_of_png(data))
        data = data[:8] + b"".join(chunks)
    buffer = np.frombuffer(data, np.uint8)
    flags = _REDUCED.get(reduction, 0) | _IGNORE_ORIENTATION
    try:
        # Older OpenCV builds have no flag that decodes straight to RGB.
        decode_rgb = getattr(cv2, "IMREAD_COLOR_RGB", None)
        if decode_rgb is not None:
            image = cv2.imdecode(buffer, decode_rgb | flags)
        else:
            image = cv2.imdecode(buffer, cv2.IMREAD_COLOR | flags)
            image = None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except cv2.error as error:
        raise _Damaged(f"damaged: {error.err}") from error
    if image is None:
        raise _Damaged("damaged: it cannot be decoded")
    # Its decoder turns a TIFF by itself.
    return image if header.kind == "TIFF" else _upright(image, header.orientation)


def _check_tiff(data: bytes, pixels: int) -> None:
    """Raise _Damaged if a strip or tile of a TIFF is damaged; libtiff drops what is found then."""
    from PIL import Image

    # Tags may name a part many times, or parts far larger than the image: the rest goes unchecked.
    left = _BYTES_PER_PIXEL * max(pixels, _SMALL)
    try:
        with _without_warnings(), Image.open(io.BytesIO(data)) as image:
            tags = dict(image.getexif())
        check = _part_checker(tags, pixels)
        places, sizes = (_numbers(tags, names) for names in (_PLACES, _SIZES))
        for place, size in zip(places, sizes):
            if check is None:
                break
            left -= check(data[place : place + size], left)
            if left <= 0:
                break
    except Exception as error:  # Pillow raises anything on malformed bytes.
        raise _Damaged(f"damaged: {error}") from error


def _part_checker(tags: Dict[int, Any], pixels: int) -> Optional[Callable[[bytes, int], int]]:
    """Return what checks a part and says how many bytes that took; None if nothing can."""
    if tags.get(_COMPRESSION) in _DEFLATE:
        # Of reversed bits, only libtiff makes sense.
        return _check_deflated if tags.get(_FILL_ORDER, 1) == 1 else None
    planes = tags.get(_PLANES, 1) == _SEPARATE
    channels = 1 if planes else tags.get(_CHANNELS, 1)
    # The decoder knows no JPEG of two channels.
    if tags.get(_COMPRESSION) != _JPEG_IN_TIFF or channels == 2 or _simplejpeg() is None:
        return None
    tables = tags.get(_TABLES, b"")
    if tables.endswith(_END_OF_IMAGE):
        tables = tables[:-2]

    def check(part: bytes, most: int) -> int:
        # The tables and each part begin with a start of image; a part may lack its end.
        stream = (tables + part[2:] if tables else part) + _END_OF_IMAGE
        height, width, *_ = _simplejpeg().decode_jpeg_header(stream)
        if height * width > max(pixels, _SMALL) or _has_many_scans(stream):
            raise ValueError(f"a part of {width}x{height} pixels, or of over {MOST_SCANS} scans")
        _simplejpeg().decode_jpeg(stream, "GRAY")
        return len(stream) + int(height * width)

    return check


def _numbers(tags: Dict[int, Any], names: Tuple[int, int]) -> Tuple[int, ...]:
    found = next((tags[name] for name in names if name in tags), ())
    return found if isinstance(found, tuple) else (found,)


def _check_deflated(part: bytes, most: int) -> int:
    checker = zlib.decompressobj()
    done = len(part) + len(checker.decompress(part, _CHECKED))
    while checker.unconsumed_tail and done < most:
        done += len(checker.decompress(checker.unconsumed_tail, _CHECKED))
    return done


def _decode_by_pillow(data: bytes) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with _without_warnings(), Image.open(io.BytesIO(data)) as image:
            # Turned while it is loaded, though old versions keep the orientation that it had.
            upright = image if image.format == "TIFF" else ImageOps.exif_transpose(image)
            return np.array(upright.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise anything on malformed bytes.
        raise _Damaged(f"damaged: {error}") from error


def _set_filters(filters: Sequence[Any]) -> None:
    warnings.filters = filters  # type: ignore[misc]


# Images are read in threads; of overlapping contexts of ``warnings.catch_warnings``, one ends the
# other.
_filters: SharedSetting[Sequence[Any]] = SharedSetting(lambda: warnings.filters, _set_filters)
_PILLOWS = ("ignore", None, Warning, re.compile(r"PIL\b|pillow_"), 0)


def _without_warnings() -> ContextManager[None]:
    """Silence Pillow's warnings of metadata; what matters to the pixels is refused by name."""
    now = warnings.filters
    return _filters.changed(now if _PILLOWS in now else [_PILLOWS, *now])


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image as its Exif orientation says."""
    if orientation == 1:
        return image
    import cv2

    if orientation in (5, 7):
        image = np.asarray(cv2.transpose(image))
    turn = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 7: cv2.ROTATE_180}.get(orientation)
    turn = cv2.ROTATE_90_COUNTERCLOCKWISE if orientation == 8 else turn
    if turn is not None:
        return np.asarray(cv2.rotate(image, turn))
    flip = {2: 1, 4: 0}.get(orientation)
    return image if flip is None else np.asarray(cv2.flip(image, flip))


# Headers ------------------------------------------------------------------------------------------


def _check_header(data: bytes, path: Union[str, Path]) -> _Header:
    """Reject what is not an image, and files that decoders hang on or report without a name."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageError(f"{str(path)!r} is empty (0 bytes); expected an image")
    try:
        # Opening reads only the header.
        with _without_warnings(), _open(data) as opened:
            header = _header_of(opened, data)
    except UnidentifiedImageError as error:
        size = _size_of_avif(data)
        if size is None:
            raise ImageError(f"{str(path)!r} is {_name_content(data)}") from error
        header = _Header("AVIF", *size, "RGB", 1, False)
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except Exception as error:  # Pillow's parsers raise anything on malformed bytes.
        raise ImageError(
            f"{str(path)!r} is damaged: its header cannot be read ({error}); replace it by an "
            "intact copy"
        ) from error
    if header.kind not in FORMATS:
        raise ImageError(
            f"{str(path)!r} is a {header.kind} file, which is not read; save it as PNG"
        )
    if header.width * header.height > MAX_PIXELS:
        raise _too_large(path)
    if header.kind in ("JPEG", "MPO") and _has_many_scans(data):
        raise ImageError(
            f"{str(path)!r} has more than {MOST_SCANS} scans, which take minutes to decode; "
            "expected a JPEG as cameras and programs write it: save it again"
        )
    return header


def _open(data: bytes) -> Image.Image:
    """Open an image with Pillow, and with a plug-in for its format if there is one."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        kind = _plugin_format(data)
        if not kind or not _plug_in(kind):
            raise
        return Image.open(io.BytesIO(data))


def _plugin_format(data: bytes) -> str:
    if _AVIF_BRAND.match(data):
        return "AVIF"
    return "HEIF" if _HEIF_BRAND.match(data) else ""


@lru_cache(maxsize=None)
def _plug_in(kind: str) -> bool:
    """Add a format to Pillow; return whether the package for it is installed."""
    try:
        plugin = importlib.import_module(_PLUGINS[kind][0])
    except ImportError:
        return False
    # The other registers itself.
    with suppress(AttributeError):
        plugin.register_heif_opener()
    return True


def _header_of(opened: Image.Image, data: bytes) -> _Header:
    kind = opened.format or ""
    # The second image of an MPO is of the same photo: smaller, brighter, or from the other eye.
    animated = kind != "MPO" and bool(getattr(opened, "is_animated", False))
    if kind == "TIFF" and opened.getexif().get(_SUBFILE_TYPE, 0) & 1:
        raise ValueError(
            "its first image is only a preview, as in raw photos; convert it with a raw converter"
        )
    orientation = 1
    # For a PNG without it, Pillow would decode all of it.
    if kind == "WEBP":
        orientation = _orientation_of_webp(data)
    elif kind != "PNG" or b"eXIf" in data:
        # Broken metadata does not make an image unreadable.
        with suppress(Exception):
            orientation = int(opened.getexif().get(_ORIENTATION, 1))
    return _Header(kind, *opened.size, opened.mode, orientation, animated)


def _orientation_of_webp(data: bytes) -> int:
    """Return the Exif orientation of a WebP image, 1 to 8; 1 if it has none."""
    found = (data[start:end] for name, start, end in _chunks_of_webp(data) if name == b"EXIF")
    exif = next(found, b"")
    if exif[:6] == b"Exif\0\0":  # The prefix of JPEGs, which some programs keep.
        exif = exif[6:]
    order: Any = "big" if exif[:2] == b"MM" else "little"
    directory = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[directory : directory + 2], order)
    for index in range(count):
        # source: TIFF 6.0, section 2; Exif 2.32, tag Orientation
        entry = exif[directory + 2 + 12 * index :][:12]
        if int.from_bytes(entry[:2], order) == _ORIENTATION:
            value = int.from_bytes(entry[8:10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def _size_of_avif(data: bytes) -> Optional[Tuple[int, int]]:
    """Return width and height of an AVIF that OpenCV reads and Pillow does not know."""
    if not _AVIF_BRAND.match(data) or not _opencv_has(".avif"):
        return None
    # Image spatial extents: version and flags, width, height. source: ISO/IEC 23008-12, 6.5.3
    at = data.find(b"ispe") + 8
    sides = [int.from_bytes(data[start : start + 4], "big") for start in (at, at + 4)]
    return (sides[0], sides[1]) if at > 8 and all(sides) else None


def _name_content(data: bytes) -> str:
    """Say what a file is that Pillow does not know."""
    kind = _plugin_format(data)
    if kind:
        package = _PLUGINS[kind][1]
        return f"a photo in {kind}, which needs a plug-in here: pip install {package}"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return (
            "not a readable TIFF: it is damaged, or a raw photo of a camera; replace it by an "
            "intact copy, or convert it with a raw converter"
        )
    for pattern, name, advice in _OTHERS:
        if re.match(pattern, data[:4096], re.DOTALL | re.IGNORECASE):
            return f"{name}; expected an image{advice}"
    if _SIGNATURE.match(data):
        return "damaged: it begins like an image and cannot be read; replace it by an intact copy"
    return "not a readable image"


def _too_large(path: Union[str, Path]) -> ImageError:
    most = MAX_PIXELS // 10**6
    return ImageError(f"{str(path)!r} has more than {most} megapixels; reduce it")


# Damage -------------------------------------------------------------------------------------------


def _problem_of(data: bytes, header: _Header) -> str:
    """Return how an image is that its decoder would complete in silence, or ""."""
    if _is_cut_short(data, header.kind, header.width, header.height):
        return "truncated: the end of the image is missing"
    if header.kind in ("JPEG", "MPO") and _lacks_scans(data):
        return "truncated: some of its scans are missing, so it is blurred or has wrong colours"
    if header.kind == "PNG" and _has_wrong_checksum(data):
        return "damaged: the checksum of a part is wrong"
    if header.kind == "WEBP" and _is_webp_damaged(data):
        return "damaged: its pixels take less data than there is, since zeros are written over it"
    return ""


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
    # Some of them may be in a thumbnail, or behind the end of the image.
    return (
        not _has_one_scan(data)
        and data.count(_START_OF_SCAN) > MOST_SCANS
        and sum(1 for marker, _ in _segments(data) if marker == _SCAN) > MOST_SCANS
    )


def _has_one_scan(data: bytes) -> bool:
    """Return whether the first scan of a JPEG holds all its pixels' data, as in most photos."""
    components = 0
    for marker, segment in _segments(data):
        if marker in _FRAMES and len(segment) > 5 and marker != _PROGRESSIVE:
            components = segment[5]
        elif marker == _SCAN:
            return bool(segment) and segment[0] == components
    return False


def _lacks_scans(data: bytes) -> bool:
    """Return whether the scans of a JPEG leave out a part of its pixels' data.

    A progressive JPEG that is cut between two scans and closed by an end marker is decoded without
    a warning.
    """
    if _has_one_scan(data):
        return False
    frame = 0
    # Of each component, for each coefficient: bits that are still missing, -1 for all of them.
    missing: Dict[int, List[int]] = {}
    for marker, segment in _segments(data):
        if marker in _FRAMES and len(segment) > 5:
            frame = marker
            missing = {number: [-1] * 64 for number in segment[6 : 6 + 3 * segment[5] : 3]}
        elif marker == _SCAN and segment:
            end = 1 + 2 * segment[0]
            first, last, had, bits = 0, 63, 0, 0
            if frame == _PROGRESSIVE and len(segment) >= end + 3:
                first, last = segment[end], min(segment[end + 1], 63)
                had, bits = segment[end + 2] >> 4, segment[end + 2] & 15
            for number in segment[1:end:2]:
                before = missing.get(number, [-1] * 64)[first : last + 1]
                if had and any(one < 0 or one > had for one in before):
                    return True
                if number in missing:
                    missing[number][first : last + 1] = [bits] * len(before)
    return any(map(any, missing.values()))


def _segments(data: bytes) -> Iterator[Tuple[int, bytes]]:
    """Yield marker and content of the segments of a JPEG, up to the end of its image."""
    position = 2
    while True:
        # In the pixels behind the header of a scan every 0xff is escaped.
        found = _MARKER.search(data, position)
        if found is None or found.group() == _END_OF_IMAGE:
            return
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        yield found.group()[1], data[found.end() + 2 : position]


def _chunks_of_png(data: bytes) -> Iterator[Tuple[bytes, int, int]]:
    """Yield name, start and end of the chunks that a PNG's pixels are computed from.

    OpenCV's decoder prints a warning without a name for odd colour profiles among the others.
    """
    position = 8
    while position < len(data):
        name = data[position + 4 : position + 8]
        start = position + 8
        end = start + int.from_bytes(data[position : position + 4], "big")
        if name in PIXEL_CHUNKS:
            yield name, start, end
        if name == b"IEND":
            return
        position = end + 4


def _has_wrong_checksum(data: bytes) -> bool:
    """Return whether a PNG's pixels are damaged, which its decoder would print without a name."""
    return any(
        zlib.crc32(data[start:end], zlib.crc32(name)) != int.from_bytes(data[end : end + 4], "big")
        for name, start, end in _chunks_of_png(data)
    )


def _is_webp_damaged(data: bytes) -> bool:
    """Return whether the pixels of a WebP use less data than there is."""
    shorter = _shorter_webp(data)
    with suppress(_Damaged):
        if shorter:
            _decode_by_opencv(shorter, _Header("WEBP", 0, 0, "RGB", 1, False))
            return True
    return False


def _shorter_webp(data: bytes) -> bytes:
    """Return a suspicious WebP without the end of its pixels' data, or b"" for all others.

    WebP has no checksum, and its decoder takes zeros for pixels; but after damage it almost never
    needs exactly the bytes that there are. It refuses a file with too few, so a file that can be
    decoded without its last bytes is damaged. That costs a second decoding, so only files with
    zeros in a row are tried.
    """
    for name, start, end in _chunks_of_webp(data):
        if name not in (b"VP8 ", b"VP8L"):
            continue
        if data.find(bytes(SUSPICIOUS_ZEROS), start, end) < 0:
            break
        # Even, since the decoder would also take the zero that fills an odd chunk up.
        size = max(0, end - start - WEBP_MARGIN) // 2 * 2
        # The chunk alone is a file of one image.
        chunk = name + size.to_bytes(4, "little") + data[start : start + size]
        return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
    return b""


def _chunks_of_webp(data: bytes) -> Iterator[Tuple[bytes, int, int]]:
    """Yield name, start and end of the chunks of a WebP, those within the first frame too."""
    position = 12
    for _ in range(MOST_CHUNKS):
        if position + 8 > len(data):
            return
        name = data[position : position + 4]
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        start = position + 8
        yield name, start, min(start + size, len(data))
        # A frame is 16 bytes of position and duration, then chunks. source: WebP container, ANMF
        position = start + (16 if name == b"ANMF" else size + size % 2)
