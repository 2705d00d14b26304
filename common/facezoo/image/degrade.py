"""Image degradations of known strength, to test quality scores."""

from __future__ import annotations

import zlib
from typing import Callable, Mapping, Tuple

import numpy as np

from ..errors import InputError
from ..fields import Number, check, number

__all__ = ["DEGRADATIONS", "LEVEL", "LEVELS", "check_level", "degrade", "is_neutral"]

# Of red, green and blue in brightness. source: ITU-R BT.601
LUMA = np.array([0.299, 0.587, 0.114])


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    import cv2

    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))


def _shrink(image: np.ndarray, factor: float) -> np.ndarray:
    import cv2

    height, width = image.shape[:2]
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def _compress(image: np.ndarray, loss: float) -> np.ndarray:
    import cv2

    quality = [cv2.IMWRITE_JPEG_QUALITY, round(100 - loss)]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    decoded = cv2.imdecode(cv2.imencode(".jpg", bgr, quality)[1], cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def _lighten(image: np.ndarray, stops: float) -> np.ndarray:
    return _pixels(image * 2.0**stops)


def _flatten(image: np.ndarray, share: float) -> np.ndarray:
    mean = float((image @ LUMA).mean())
    return _pixels(mean + (1.0 - share) * (image - mean))


def _roughen(image: np.ndarray, sigma: float) -> np.ndarray:
    # An image always has the same noise.
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    return _pixels(image + sigma * rng.standard_normal(image.shape))


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


def _cover(image: np.ndarray, share: float) -> np.ndarray:
    covered = image.copy()
    height = image.shape[0]
    covered[height - round(share * height) :] = 0
    return covered


_FUNCTIONS: Mapping[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "blur": _blur,
    "shrink": _shrink,
    "jpeg": _compress,
    "brightness": _lighten,
    "contrast": _flatten,
    "noise": _roughen,
    "occlusion": _cover,
}

# Meaning of the level of each degradation.
DEGRADATIONS: Mapping[str, str] = {
    "blur": "sigma of a Gaussian in pixels",
    "shrink": "times smaller, then enlarged again",
    "jpeg": "100 minus the JPEG quality",
    "brightness": "doublings of the pixel values",
    "contrast": "share of the contrast taken away",
    "noise": "sigma of Gaussian noise in grey levels, 0 to 255",
    "occlusion": "share of the height covered from below",
}

_RANGES: Mapping[str, Number] = {
    "blur": number(0, 100),
    "shrink": number(1, 1000),
    "jpeg": number(0, 100),
    "brightness": number(-16, 16),
    "contrast": number(0, 1),
    "noise": number(0, 255),
    "occlusion": number(0, 1),
}
# Level of any degradation.
LEVEL = number(-16, 1000)

LEVELS: Mapping[str, Tuple[float, ...]] = {
    "blur": (0.0, 0.5, 1.0, 2.0, 3.5, 5.0),
    "shrink": (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
    "jpeg": (0.0, 20.0, 50.0, 70.0, 80.0, 90.0, 95.0),
    "brightness": (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0),
    "contrast": (0.0, 0.2, 0.4, 0.6, 0.8, 0.9),
    "noise": (0.0, 5.0, 10.0, 20.0, 40.0, 60.0),
    "occlusion": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
}


def degrade(image_rgb: np.ndarray, kind: str, level: float) -> np.ndarray:
    """Degrade an image.

    Parameters
    ----------
    image_rgb
        Shape (H, W, 3), uint8, RGB; not changed.
    kind
        A key of ``DEGRADATIONS``.
    level
        Strength in the unit given by ``DEGRADATIONS``; the neutral level (0, and 1 for ``shrink``)
        returns the image unchanged.

    Returns
    -------
    numpy.ndarray
        Same shape, uint8, RGB.

    Raises
    ------
    InputError
        If the kind is unknown, or the level is out of range.
    """
    check_level(kind, level)
    if is_neutral(kind, level):
        return image_rgb.copy()
    return _FUNCTIONS[kind](image_rgb, level)


def is_neutral(kind: str, level: float) -> bool:
    """Return whether a degradation of this level changes nothing."""
    return level == (1.0 if kind == "shrink" else 0.0)


def check_level(kind: str, level: float) -> None:
    """Refuse a level that :func:`degrade` cannot apply.

    Raises
    ------
    InputError
        If the kind is unknown, or the level is out of range.
    """
    if kind not in _FUNCTIONS:
        raise InputError(f"degradation {kind!r} is not known; expected {', '.join(_FUNCTIONS)}")
    try:
        check(level, _RANGES[kind], f"level of {kind}")
    except ValueError as error:
        raise InputError(f"{error}: {DEGRADATIONS[kind]}") from error
