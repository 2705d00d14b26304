"""Resize, pad and crop an image to a network's input, in uint8, and record the placement.

As in the vendor's vdsp, 8-bit pixels are resized, padded and cropped before the normalisation.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Optional, Tuple

import numpy as np

from ..card import FITS, Preprocess
from ..errors import ConfigError
from ..results import Placement

__all__ = ["auto_hw", "fit_image", "letterbox_size", "placement_of", "resize_image"]

# Names in OpenCV and Pillow, which are imported where they are used.
_CV_INTERPOLATION = {
    "BILINEAR_CV": "INTER_LINEAR",
    # The vendor does not document the arithmetic of plain BILINEAR; OpenCV's is assumed.
    "BILINEAR": "INTER_LINEAR",
    "NEAREST": "INTER_NEAREST",
}
_PILLOW_INTERPOLATION = {
    "BILINEAR_PILLOW": "BILINEAR",
    "BICUBIC_PILLOW": "BICUBIC",
}


def resize_image(
    image: np.ndarray, hw: Tuple[int, int], resize: str, out: Optional[np.ndarray] = None
) -> np.ndarray:
    """Stretch an image to a size.

    Parameters
    ----------
    image
        Shape (H, W, 3), uint8.
    hw
        Target height and width, in pixels.
    resize
        One of the vendor's ResizeTypes.
    out
        Buffer for the result; a view into a larger image is allowed.

    Returns
    -------
    numpy.ndarray
        Shape (hw[0], hw[1], 3), uint8; ``out`` if it was given.
    """
    if resize in _CV_INTERPOLATION and image.shape[:2] != hw:
        import cv2

        # Written in place; a view of complete pixels is a valid destination.
        interpolation = getattr(cv2, _CV_INTERPOLATION[resize])
        return np.asarray(cv2.resize(image, (hw[1], hw[0]), out, interpolation=interpolation))
    if image.shape[:2] == hw:
        resized = image
    elif resize in _PILLOW_INTERPOLATION:
        from PIL import Image

        method = Image.Resampling[_PILLOW_INTERPOLATION[resize]]
        picture = Image.fromarray(image).resize((hw[1], hw[0]), method)
        resized = np.asarray(picture)
    else:
        known = sorted({**_CV_INTERPOLATION, **_PILLOW_INTERPOLATION})
        raise ConfigError(f"ResizeType {resize!r} is not known; expected one of {known}")
    if out is None:
        return resized
    out[...] = resized
    return out


def letterbox_size(
    image_hw: Tuple[int, int], input_hw: Tuple[int, int], rounding: str
) -> Tuple[int, int]:
    """Return the largest size of an image, in pixels, that fits the input and keeps the aspect.

    Parameters
    ----------
    image_hw, input_hw
        Heights and widths in pixels.
    rounding
        ``floor`` or ``round``, for the side with a fractional size.
    """
    height, width = image_hw
    input_height, input_width = input_hw
    # One division each, so that the side that fits exactly is exact.
    if height * input_width > width * input_height:
        exact = input_height / (height / width)
        return input_height, _whole(exact, rounding)
    exact = input_width * (height / width)
    return _whole(exact, rounding), input_width


def auto_hw(image_hw: Tuple[int, int], preprocess: Preprocess, multiple: int) -> Tuple[int, int]:
    """Return as much of a letterbox's input as an image fills, and hardly enlarge the image.

    Parameters
    ----------
    image_hw
        Height and width in pixels.
    preprocess
        With the fit ``letterbox``; its ``input_hw`` is the largest input.
    multiple
        Of which both sides are.

    Returns
    -------
    tuple of int
        Height and width of the input.
    """
    # A photo that is smaller than the input is enlarged to the next multiple, no more.
    most = -(-max(image_hw) // multiple) * multiple
    height, width = (min(side, most) for side in preprocess.input_hw)
    scale = min(height / image_hw[0], width / image_hw[1])
    # Less than a thousandth of a pixel is the rounding of the scale.
    rows, columns = (math.ceil((side * scale - 1e-3) / multiple) for side in image_hw)
    return rows * multiple, columns * multiple


def _whole(exact: float, rounding: str) -> int:
    return max(1, int(exact) if rounding == "floor" else round(exact))


def fit_image(
    image: np.ndarray, preprocess: Preprocess, out: Optional[np.ndarray] = None
) -> Tuple[np.ndarray, Placement]:
    """Fit an image to the network's input size according to a pre-processing.

    Parameters
    ----------
    image
        Shape (H, W, 3), uint8, any channel order.
    preprocess
        Only its geometry is applied, not colour and normalisation.
    out
        Buffer for the result, shape (input_hw[0], input_hw[1], 3), uint8.

    Returns
    -------
    fitted : numpy.ndarray
        Shape (input_hw[0], input_hw[1], 3), uint8, same channel order.
    placement : Placement
        Mapping back to the image.
    """
    height, width = image.shape[:2]
    input_hw = preprocess.input_hw
    if preprocess.fit == "letterbox":
        return _letterbox(image, preprocess, out)
    if preprocess.fit == "letterbox_pads":
        return _letterbox_pads(image, preprocess, out)
    left = top = 0
    if preprocess.fit == "stretch":
        fitted = resize_image(image, input_hw, preprocess.resize, out)
        resized_hw = input_hw
    elif preprocess.fit == "stretch_crop":
        resized_hw = preprocess.resize_hw or input_hw
        resized = resize_image(image, resized_hw, preprocess.resize)
        left, top = preprocess.crop_xy
        fitted = _crop(resized, (left, top), input_hw)
    elif preprocess.fit == "crop_stretch":
        crop_hw = preprocess.crop_hw or (height, width)
        crop = _crop(image, preprocess.crop_xy, crop_hw)
        fitted = resize_image(crop, input_hw, preprocess.resize, out)
        scale_x, scale_y = input_hw[1] / crop_hw[1], input_hw[0] / crop_hw[0]
        left, top = preprocess.crop_xy
        pads = (-left * scale_x, -top * scale_y)
        return fitted, Placement((scale_x, scale_y), *pads, input_hw, (height, width))
    elif preprocess.fit == "none":
        if (height, width) != input_hw:
            raise ConfigError(
                f"the pre-processing does not resize, but the image is {width}x{height} and the "
                f"network expects {input_hw[1]}x{input_hw[0]}"
            )
        fitted, resized_hw = image, input_hw
    else:
        raise ConfigError(f"fit {preprocess.fit!r} is not known; expected one of {', '.join(FITS)}")
    if out is not None and fitted is not out:
        out[...] = fitted
        fitted = out
    scale = (resized_hw[1] / width, resized_hw[0] / height)
    return fitted, Placement(scale, -left, -top, input_hw, (height, width))


def _crop(image: np.ndarray, crop_xy: Tuple[int, int], hw: Tuple[int, int]) -> np.ndarray:
    left, top = crop_xy
    if left + hw[1] > image.shape[1] or top + hw[0] > image.shape[0]:
        raise ConfigError(
            f"a crop of {hw[1]}x{hw[0]} at ({left}, {top}) does not fit into an image of "
            f"{image.shape[1]}x{image.shape[0]}"
        )
    return image[top : top + hw[0], left : left + hw[1]]


def _letterbox(
    image: np.ndarray, preprocess: Preprocess, out: Optional[np.ndarray]
) -> Tuple[np.ndarray, Placement]:
    image_hw = (image.shape[0], image.shape[1])
    input_hw = preprocess.input_hw
    resized_hw = letterbox_size(image_hw, input_hw, preprocess.rounding)
    centred = preprocess.anchor == "center"
    top = (input_hw[0] - resized_hw[0]) // 2 if centred else 0
    left = (input_hw[1] - resized_hw[1]) // 2 if centred else 0
    fitted = _pad_around(image, resized_hw, (left, top), preprocess, out)
    scale_y = resized_hw[0] / image_hw[0]
    scale_x = resized_hw[1] / image_hw[1] if preprocess.axis_scale == "per_axis" else scale_y
    return fitted, Placement((scale_x, scale_y), left, top, input_hw, image_hw)


def _letterbox_pads(
    image: np.ndarray, preprocess: Preprocess, out: Optional[np.ndarray]
) -> Tuple[np.ndarray, Placement]:
    image_hw = (image.shape[0], image.shape[1])
    input_hw = preprocess.input_hw
    top, bottom, left, right = preprocess.pads
    resized_hw = preprocess.resize_hw or (input_hw[0] - top - bottom, input_hw[1] - left - right)
    if (resized_hw[0] + top + bottom, resized_hw[1] + left + right) != input_hw:
        raise ConfigError(
            f"an image of {resized_hw[1]}x{resized_hw[0]} with pads top {top}, bottom {bottom}, "
            f"left {left}, right {right} does not fill the input {input_hw[1]}x{input_hw[0]}"
        )
    fitted = _pad_around(image, resized_hw, (left, top), preprocess, out)
    scale = (resized_hw[1] / image_hw[1], resized_hw[0] / image_hw[0])
    return fitted, Placement(scale, left, top, input_hw, image_hw)


def _pad_around(
    image: np.ndarray,
    resized_hw: Tuple[int, int],
    left_top: Tuple[int, int],
    preprocess: Preprocess,
    out: Optional[np.ndarray],
) -> np.ndarray:
    left, top = left_top
    fitted = np.empty((*preprocess.input_hw, 3), np.uint8) if out is None else out
    color = preprocess.pad_value
    # Filling with one number is many times faster than with three.
    value = color[0] if color.count(color[0]) == 3 else color
    fitted[:top] = value
    fitted[top + resized_hw[0] :] = value
    rows = fitted[top : top + resized_hw[0]]
    rows[:, :left] = value
    rows[:, left + resized_hw[1] :] = value
    resize_image(image, resized_hw, preprocess.resize, rows[:, left : left + resized_hw[1]])
    return fitted


@lru_cache(maxsize=4096)
def placement_of(image_hw: Tuple[int, int], preprocess: Preprocess) -> Placement:
    """Return the placement of an image of a given size, by fitting an empty one.

    Parameters
    ----------
    image_hw
        Height and width in pixels.
    preprocess
        The pre-processing of a card or of a vdsp JSON.

    Returns
    -------
    Placement
        The placement that :func:`fit_image` returns for an image of that size.

    Raises
    ------
    ConfigError
        If an image of that size cannot be fitted.
    """
    return fit_image(np.zeros((*image_hw, 3), np.uint8), preprocess)[1]
