"""Size, sharpness, yaw and truncation of a face, and degraded copies of it."""

from __future__ import annotations

from typing import Dict, Iterator, Sequence, Tuple

import numpy as np

from .align import align_face
from .degrade import degrade

__all__ = [
    "degraded_versions",
    "face_sharpness",
    "measure_face",
]


SHRINKS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
BLURS = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
CUTS = (0.0, 0.1, 0.2, 0.3, 0.4)


def measure_face(
    image_rgb: np.ndarray, box_xyxy: Sequence[float], landmarks_xy: np.ndarray, crop: np.ndarray
) -> Dict[str, float]:
    """Measure the size, sharpness, yaw and truncation of a face.

    Parameters
    ----------
    image_rgb
        The photo, (H, W, 3), uint8.
    box_xyxy, landmarks_xy
        Box and five landmarks of the face, in pixels of the photo.
    crop
        The aligned face, (112, 112, 3), uint8.

    Returns
    -------
    dict
        ``size``, ``sharpness``, ``yaw`` and ``truncation``, see
        :class:`~facezoo.profiles.appearance.AppearanceLimits`.
    """
    left, top, right, bottom = box_xyxy
    eyes = landmarks_xy[1] - landmarks_xy[0]
    apart = float(np.hypot(*eyes))
    nose = landmarks_xy[2] - (landmarks_xy[0] + landmarks_xy[1]) / 2
    # Eyes at the same point: an exact profile.
    yaw = abs(float(nose @ eyes)) / apart**2 if apart else float("inf")
    return {
        "size": float(min(right - left, bottom - top)),
        "sharpness": face_sharpness(crop),
        "yaw": min(yaw, 10.0),
        "truncation": 1.0 - float(_inside(image_rgb, landmarks_xy).mean()) / 255.0,
    }


def face_sharpness(crop: np.ndarray) -> float:
    """Return the variance of the Laplacian of a face.

    Parameters
    ----------
    crop
        The aligned face, (112, 112, 3), uint8, RGB.
    """
    import cv2

    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def _inside(image_rgb: np.ndarray, landmarks_xy: np.ndarray) -> np.ndarray:
    return align_face(np.full(image_rgb.shape[:2], 255, np.uint8), landmarks_xy)


def degraded_versions(
    image_rgb: np.ndarray, box_xyxy: Sequence[float], landmarks_xy: np.ndarray
) -> Iterator[Tuple[str, float, np.ndarray]]:
    """Make a face smaller, blurrier or more truncated, one at a time.

    Its yaw cannot be changed; the unchanged face is yielded once.

    Parameters
    ----------
    image_rgb, box_xyxy, landmarks_xy
        As in :func:`measure_face`.

    Yields
    ------
    tuple
        Name of what was changed, its value, the aligned face (112, 112, 3).
    """
    import cv2

    crop = align_face(image_rgb, landmarks_xy)
    measured = measure_face(image_rgb, box_xyxy, landmarks_xy, crop)
    yield "yaw", measured["yaw"], crop
    for times in SHRINKS:
        height, width = (max(1, round(side / times)) for side in image_rgb.shape[:2])
        small = cv2.resize(image_rgb, (width, height), interpolation=cv2.INTER_AREA)
        yield "size", measured["size"] / times, align_face(small, landmarks_xy / times)
    for sigma in BLURS:
        soft = degrade(crop, "blur", sigma)
        yield "sharpness", face_sharpness(soft), soft
    inside = _inside(image_rgb, landmarks_xy)[:, :, None]
    for share in CUTS:
        for side in range(4 if share else 1):
            cut, rest = (_cut(picture, share, side) for picture in (crop, inside))
            yield "truncation", 1.0 - float(rest.mean()) / 255.0, cut


def _cut(picture: np.ndarray, share: float, side: int) -> np.ndarray:
    turned = degrade(np.ascontiguousarray(np.rot90(picture, side)), "occlusion", share)
    return np.ascontiguousarray(np.rot90(turned, -side))
