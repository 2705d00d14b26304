"""Alignment: from five face landmarks to the upright crop of recognition and quality networks."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .inputs import check_image

__all__ = ["TEMPLATE_XY", "align_face", "similarity_matrix"]

# Positions of eyes, nose and mouth corners in a crop of 112x112, in pixels; the left one in the
# image comes first.
# source: insightface@7fadd42 python-package/insightface/utils/face_align.py arcface_dst
TEMPLATE_XY = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)
TEMPLATE_SIZE = 112  # source: same file, estimate_norm
# Crops with a size that is a multiple of 128 have a margin of 8 on the left and right.
# source: same function
WIDE_SIZE = 128
WIDE_MARGIN = np.array([8.0, 0.0], dtype=np.float32)


def similarity_matrix(landmarks_xy: np.ndarray, size: int = TEMPLATE_SIZE) -> np.ndarray:
    """Fit rotation, scale and shift of five landmarks to the template by least squares.

    Parameters
    ----------
    landmarks_xy
        Shape (5, 2), float, pixels: left eye, right eye, nose, left and right mouth corner as seen
        in the image.
    size
        Side of the crop in pixels; a multiple of 112 or of 128.

    Returns
    -------
    numpy.ndarray
        Shape (2, 3), float64: from image pixels to crop pixels.

    Raises
    ------
    InputError
        If there are not five finite, distinct points, or the size is not such a multiple.

    References
    ----------
    .. [1] S. Umeyama, *Least-Squares Estimation of Transformation Parameters Between Two Point
       Patterns*, PAMI 1991. In the plane a similarity is a complex factor and a complex shift, for
       which least squares has a closed form.
    .. [2] insightface@7fadd42, ``python-package/insightface/utils/face_align.py``.
    """
    try:
        points = np.asarray(landmarks_xy, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"landmarks must be five finite points (5, 2): {error}") from error
    if points.shape != TEMPLATE_XY.shape or not np.isfinite(points).all():
        raise InputError(f"landmarks must be five finite points (5, 2), got {points.tolist()}")
    template = _template(size)
    # The original centres in float32, and its rounding can move a crop by 1e-4 pixels.
    source_centre, target_centre = points.mean(axis=0), template.mean(axis=0)
    source = _complex(points - source_centre)
    target = _complex(template - target_centre)
    spread = np.vdot(source, source).real
    if spread == 0.0:
        raise InputError(
            f"all five landmarks are at {points[0].tolist()}; expected those of a face"
        )
    factor = np.vdot(source, target) / spread
    shift = _complex(target_centre) - factor * _complex(source_centre)
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    )


def _complex(points_xy: np.ndarray) -> np.ndarray:
    return np.asarray(points_xy[..., 0] + 1j * points_xy[..., 1].astype(np.float64))


def _template(size: int) -> np.ndarray:
    if size > 0 and size % TEMPLATE_SIZE == 0:
        return np.asarray(TEMPLATE_XY * np.float32(size / TEMPLATE_SIZE))
    if size > 0 and size % WIDE_SIZE == 0:
        return np.asarray((TEMPLATE_XY + WIDE_MARGIN) * np.float32(size / WIDE_SIZE))
    raise InputError(
        f"size of an aligned crop must be a multiple of {TEMPLATE_SIZE} or {WIDE_SIZE}, got {size}"
    )


def align_face(
    image: np.ndarray, landmarks_xy: np.ndarray, size: int = TEMPLATE_SIZE
) -> np.ndarray:
    """Crop a face from an image, upright and at the scale of the template.

    Parameters
    ----------
    image
        Shape (H, W, 3) or (H, W), uint8; the channel order is kept.
    landmarks_xy, size
        As for :func:`similarity_matrix`.

    Returns
    -------
    numpy.ndarray
        Shape (size, size, 3) or (size, size), uint8; black outside the image.

    Raises
    ------
    ImageError
        If the image is something else.
    InputError
        As for :func:`similarity_matrix`.
    """
    import cv2

    check_image(image, grey=True)

    crop: np.ndarray = cv2.warpAffine(image, similarity_matrix(landmarks_xy, size), (size, size))
    return crop
