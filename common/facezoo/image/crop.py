"""Square crops around a box, as landmark networks trained on square crops expect them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from ..results import Landmarks

__all__ = ["SquareCrop"]


@dataclass(frozen=True)
class SquareCrop:
    """A square of whole pixels around a box; black where it lies outside the photo.

    Attributes
    ----------
    left, top, side
        In pixels of the photo; left and top may be negative.
    image_hw
        Height and width of the photo in pixels.
    """

    left: int
    top: int
    side: int
    image_hw: Tuple[int, int]

    @classmethod
    def around(
        cls, box_xyxy: Sequence[float], image_hw: Tuple[int, int], scale: float = 1.0
    ) -> SquareCrop:
        """Make the square whose side is ``scale`` times the longer side of a box.

        Parameters
        ----------
        box_xyxy
            Left, top, right, bottom in pixels of the photo.
        image_hw
            Height and width of the photo.
        scale
            Size of the square in longer sides of the box.
        """
        left, top, right, bottom = box_xyxy
        side = max(1, int(scale * max(right - left, bottom - top)))
        corner = ((left + right - side) / 2, (top + bottom - side) / 2)
        return cls(round(corner[0]), round(corner[1]), side, image_hw)

    @property
    def box_xyxy(self) -> Tuple[int, int, int, int]:
        """Left, top, right, bottom; right and bottom are excluded."""
        return self.left, self.top, self.left + self.side, self.top + self.side

    def cut(self, image_rgb: np.ndarray) -> np.ndarray:
        """Cut the square out of the photo, (side, side, 3)."""
        import cv2

        height, width = image_rgb.shape[:2]
        left, top, right, bottom = self.box_xyxy
        inside = image_rgb[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if inside.shape[:2] == (self.side, self.side):
            return inside
        if not inside.size:
            return np.zeros((self.side, self.side, 3), np.uint8)
        above, before = max(-top, 0), max(-left, 0)
        below, after = max(bottom - height, 0), max(right - width, 0)
        return np.asarray(
            cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_CONSTANT)
        )

    def to_photo(self, landmarks: Landmarks) -> Landmarks:
        """Map landmarks from the pixels of :meth:`cut` to those of the photo."""
        points_xy = landmarks.points_xy + np.array((self.left, self.top), np.float32)
        return dataclasses.replace(landmarks, points_xy=points_xy, image_hw=self.image_hw)

    def to_unit(self, points_xy: np.ndarray) -> np.ndarray:
        """Map points (N, 2) from the photo's pixels to [0, 1] of the square, float64."""
        return np.asarray((points_xy - np.array((self.left, self.top))) / self.side)
