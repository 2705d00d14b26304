"""Images as a caller has them: a path, a PIL image or an array, all made upright RGB."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union

import numpy as np

from ..errors import ImageError
from .files import read_image_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["AnyImage", "AnyImageT", "as_rgb", "check_image"]

AnyImage = Union[str, "os.PathLike[str]", np.ndarray, "Image"]
AnyImageT = TypeVar("AnyImageT", bound=AnyImage)

# PIL's modes of 8 bits per channel; others would be cut off instead of scaled.
_PIL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def as_rgb(image: AnyImage, bgr: bool = False) -> np.ndarray:
    """Return an image as upright RGB.

    Parameters
    ----------
    image
        A path, read by :func:`~facezoo.image.files.read_image_rgb`; a PIL image, turned upright by
        its EXIF orientation; or an array (H, W, 3), uint8.
    bgr
        The channels of an array are in OpenCV's order; no effect on a path or a PIL image.

    Returns
    -------
    numpy.ndarray
        Shape (H, W, 3), uint8, RGB; an array in this order is returned as it is.

    Raises
    ------
    ImageError
        If it cannot be read, or is not such an image.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image_rgb(Path(image))
    if not isinstance(image, np.ndarray):
        return _from_pil(image)
    check_image(image)
    return np.ascontiguousarray(image[..., ::-1]) if bgr else image


def check_image(image: Any, grey: bool = False) -> None:
    """Check that an image is an array (H, W, 3), uint8, with at least one pixel.

    Parameters
    ----------
    image
        Anything.
    grey
        Accept (H, W) too.

    Raises
    ------
    ImageError
        If it is not; says what it is, and how to convert it.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"an image cannot be of type {type(image).__name__}; expected a path, a PIL image or "
            "an array (H, W, 3), uint8" + _HINTS.get(type(image), "")
        )
    problem = f"an image has shape {image.shape} and type {image.dtype}; expected (H, W, 3), uint8"
    if not image.size:
        raise ImageError(f"{problem}, with at least one pixel: is the crop outside the photo?")
    if image.ndim == 2 and not grey:
        raise ImageError(f"{problem}: repeat a grey image with np.stack([image] * 3, axis=-1)")
    if image.ndim == 4:
        raise ImageError(f"{problem}: give several images as a list")
    if image.ndim != 2 and (image.ndim != 3 or image.shape[2] != 3):
        raise ImageError(f"{problem}: an alpha channel is cut off with image[..., :3]")
    if image.dtype != np.uint8:
        raise ImageError(f"{problem}: values from 0 to 1 become (image * 255).astype(np.uint8)")


_HINTS = {
    type(None): "; cv2.imread and VideoCapture.read return None for what they cannot read",
    list: "; a list of images is not nested",
    bytes: "; write encoded bytes to a file, or open them with PIL.Image.open(io.BytesIO(data))",
}


def _from_pil(image: Any) -> np.ndarray:
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        check_image(image)
    if image.mode not in _PIL_MODES:
        raise ImageError(
            f"a PIL image has mode {image.mode!r}; expected 8 bits per channel, such as 'RGB'"
        )
    try:
        upright = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        name = getattr(image, "filename", "") or "a PIL image"
        raise ImageError(f"{str(name)!r} cannot be decoded: {error}") from error
    check_image(upright)
    return upright
