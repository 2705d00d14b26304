"""Results drawn on the image that they were found in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ImageError
from ..results import Landmarks
from .draw import draw_faces, draw_landmarks
from .inputs import AnyImage, as_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw_result"]


def draw_result(result: Any, image: AnyImage, bgr: bool = False) -> Image:
    """Draw a result; see :meth:`facezoo.results.Shown.draw`.

    Parameters
    ----------
    result
        Faces or landmarks; where it holds ``detections``, these are drawn, and the ``points`` of
        its faces if it has any.
    image
        Its image: a path, a PIL image or an array (H, W, 3), uint8.
    bgr
        An array is in OpenCV's order.

    Raises
    ------
    ImageError
        If the image cannot be read, or its size is another one.
    """
    from PIL import Image

    drawn = as_rgb(image, bgr)
    if drawn.shape[:2] != tuple(result.image_hw):
        height, width = result.image_hw
        raise ImageError(
            f"the image has {drawn.shape[1]}x{drawn.shape[0]} pixels, the result is of one with "
            f"{width}x{height}; give the image that the model was given"
        )
    if isinstance(result, Landmarks):
        return Image.fromarray(draw_landmarks(drawn, [result]))
    drawn = draw_faces(drawn, getattr(result, "detections", result))
    points = [face.points for face in getattr(result, "faces", ()) if face.points is not None]
    return Image.fromarray(draw_landmarks(drawn, points) if points else drawn)
