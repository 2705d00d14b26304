"""Synthetic landmark annotations: WFLW's mean face fitted to a detector's five landmarks.

They are good enough to test training and a recipe end to end, not to measure accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterable, Mapping, Tuple

import cv2
import numpy as np

from ...datasets.wflw import NormalisedList
from ...errors import InputError

__all__ = [
    "ToyCrops",
    "cut_turned",
    "fit_meanface",
    "normalised_list",
    "random_crop",
    "random_turn",
]

# WFLW's landmarks that match a detector's five: pupils, tip of the nose, corners of the mouth; the
# left one in the image comes first.
# source: WFLW's scheme of 98 points, https://wywu.github.io/projects/LAB/WFLW.html
FIVE_OF_WFLW = (96, 97, 54, 76, 82)
MIRRORED_FIVE = (1, 0, 2, 4, 3)

MARGINS = (1.1, 1.5)  # ratio of the sides of a crop and of the landmarks' box
LARGEST_SHIFT = 0.12  # share of the sides of the crop
LARGEST_TURN = 30.0  # degrees; source: PIPNet@b9eab58 lib/data_utils.py random_rotate


def fit_meanface(five_xy: np.ndarray, meanface_xy: np.ndarray) -> np.ndarray:
    """Fit WFLW's mean face to five points with an affine map by least squares.

    Parameters
    ----------
    five_xy
        Shape (5, 2): left eye, right eye, nose, left and right mouth corner as seen in the image.
    meanface_xy
        Shape (98, 2), any unit.

    Returns
    -------
    numpy.ndarray
        Shape (98, 2), float64, in the unit of the five points.

    Raises
    ------
    InputError
        If a shape differs.
    """
    five, meanface = np.asarray(five_xy, np.float64), np.asarray(meanface_xy, np.float64)
    if five.shape != (5, 2) or meanface.shape != (98, 2):
        raise InputError(f"expected shapes (5, 2) and (98, 2), got {five.shape}, {meanface.shape}")
    padded = np.concatenate([meanface, np.ones((len(meanface), 1))], axis=1)
    affine = np.linalg.lstsq(padded[list(FIVE_OF_WFLW)], five, rcond=None)[0]
    return np.asarray(padded @ affine)


def random_crop(
    image_rgb: np.ndarray,
    five_xy: np.ndarray,
    meanface_xy: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> Tuple[np.ndarray, np.ndarray]:
    """Crop a face from a photo with random mirroring, rotation, scale and shift.

    Parameters
    ----------
    image_rgb
        Shape (H, W, 3), uint8, RGB.
    five_xy, meanface_xy
        As for :func:`fit_meanface`, in pixels of the photo.
    size
        Side of the crop in pixels.
    rng
        Random generator.

    Returns
    -------
    crop_rgb : numpy.ndarray
        Shape (size, size, 3), uint8; mirrored outside the photo.
    points_xy : numpy.ndarray
        Shape (98, 2), float64, in [0, 1] of the crop.
    """
    matrix, mirrored = random_turn(LARGEST_TURN, rng)
    five = np.asarray(five_xy, np.float64)
    if mirrored:
        five = five[list(MIRRORED_FIVE)]
    # The mean face is fitted to the mirrored points, so that no landmark changes its index.
    points = fit_meanface(five @ matrix.T, meanface_xy)
    extent = points.max(axis=0) - points.min(axis=0)
    sides = extent * rng.uniform(*MARGINS)
    return cut_turned(image_rgb, points, matrix, sides, LARGEST_SHIFT, size, rng)


def random_turn(largest: float, rng: np.random.Generator) -> Tuple[np.ndarray, bool]:
    """Draw a rotation of up to ``largest`` degrees, mirrored or not.

    Returns
    -------
    matrix : numpy.ndarray
        Shape (2, 2), of points as columns about the origin.
    mirrored : bool
        Whether it mirrors, so that left and right landmarks change places.
    """
    turn = np.deg2rad(rng.uniform(-largest, largest))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    mirrored = bool(rng.random() < 0.5)
    return matrix @ np.diag([-1.0, 1.0]) if mirrored else matrix, mirrored


def cut_turned(
    image_rgb: np.ndarray,
    turned_xy: np.ndarray,
    matrix: np.ndarray,
    sides: np.ndarray,
    largest_shift: float,
    size: int,
    rng: np.random.Generator,
) -> Tuple[np.ndarray, np.ndarray]:
    """Cut a shifted rectangle about landmarks out of a turned photo, stretched to a square.

    Parameters
    ----------
    image_rgb
        Shape (H, W, 3), uint8, RGB.
    turned_xy
        Shape (N, 2): landmarks after the turn by ``matrix``.
    matrix
        From :func:`random_turn`.
    sides
        Width and height of the rectangle in pixels of the photo.
    largest_shift
        Share of the sides by which its centre is moved at most.
    size
        Side of the crop in pixels.
    rng
        Random generator.

    Returns
    -------
    crop_rgb, points_xy
        As of :func:`random_crop`.
    """
    low, high = turned_xy.min(axis=0), turned_xy.max(axis=0)
    centre = (low + high) / 2 + sides * rng.uniform(-largest_shift, largest_shift, 2)
    corner = centre - sides / 2
    scale = np.diag(size / sides)
    placement = np.concatenate([scale @ matrix, -(scale @ corner)[:, None]], axis=1)
    # Mirrored outside the photo: black corners would reveal the rotation.
    crop = cv2.warpAffine(
        image_rgb,
        placement,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return crop, (turned_xy - corner) / sides


@dataclass(frozen=True)
class ToyCrops:
    """The crops of one photo, for the journal of a run.

    Attributes
    ----------
    split
        ``train`` or ``test``.
    points
        File name of each crop to its landmarks (98, 2), in [0, 1] of the crop.
    """

    split: str
    points: Mapping[str, np.ndarray]

    def to_dict(self) -> Dict[str, Any]:
        """Return the crops as JSON values."""
        points = {name: points.tolist() for name, points in self.points.items()}
        return {"split": self.split, "points": points}


def normalised_list(entries: Iterable[Mapping[str, Any]], split: str) -> NormalisedList:
    """Collect the crops of a split from the entries of a journal."""
    points: Dict[str, Any] = {}
    for entry in entries:
        if entry.get("split") == split:
            points.update(entry["points"])
    if not points:
        raise InputError(f"no face for {split}.txt was found; give more photos with faces")
    return NormalisedList(tuple(points), np.array(list(points.values())))
