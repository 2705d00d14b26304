"""Face crop from a detector's box, as in the demo of PIPNet's authors.

The crop of WFLW's annotated rectangles is :class:`facezoo.datasets.wflw.WflwCrop`. The two give
different landmarks, since the network was trained on the latter.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from ...results import Landmarks

__all__ = ["DetectorCrop"]

BOX_SCALE = 1.2  # source: PIPNet@b9eab58 lib/demo.py demo_image det_box_scale


@dataclass(frozen=True)
class DetectorCrop:
    """A detector's box, extended by a tenth left, right and below, and reduced by a tenth above.

    Attributes
    ----------
    box_xyxy
        Left, top, right, bottom in whole pixels of the photo. As in the authors' code, the crop
        excludes the right and the lower side, while width and height include them.
    image_hw
        Height and width of the photo in pixels.

    References
    ----------
    .. [1] PIPNet@b9eab58, ``lib/demo.py``, ``demo_image``; ``FaceBoxesV2/faceboxes_detector.py``,
       ``FaceBoxesDetector.detect``.
    """

    box_xyxy: Tuple[int, int, int, int]
    image_hw: Tuple[int, int]

    @classmethod
    def of(cls, box_xyxy: Sequence[float], image_hw: Tuple[int, int]) -> DetectorCrop:
        """Apply the authors' rule to a box in pixels of the photo."""
        height, width = image_hw
        left, top, right, bottom = (int(side) for side in box_xyxy)
        # Not exactly a tenth: the margin of 100 pixels is 9, because 1.2 - 1 is slightly less than
        # 0.2.
        margin_x = int((right - left) * (BOX_SCALE - 1) / 2)
        margin_y = int((bottom - top) * (BOX_SCALE - 1) / 2)
        # The limits keep a pixel of boxes at the edge of the photo, where the authors' crop is
        # empty.
        left = min(max(left - margin_x, 0), max(width - 2, 0))
        top = min(max(top + margin_y, 0), max(height - 2, 0))
        right = max(min(right - 1 + margin_x, width - 1), left + 1)
        bottom = max(min(bottom - 1 + margin_y, height - 1), top + 1)
        return cls((left, top, right, bottom), image_hw)

    def cut(self, image_rgb: np.ndarray) -> np.ndarray:
        """Cut the crop out of the photo; a view (h, w, 3)."""
        left, top, right, bottom = self.box_xyxy
        return image_rgb[top:bottom, left:right]

    def to_photo(self, landmarks: Landmarks) -> Landmarks:
        """Map landmarks from the pixels of :meth:`cut` to those of the photo."""
        left, top, right, bottom = self.box_xyxy
        cut_wh = np.array((right - left, bottom - top), np.float32)
        points_xy = landmarks.points_xy * ((cut_wh + 1) / cut_wh) + np.array(
            (left, top), np.float32
        )
        return dataclasses.replace(landmarks, points_xy=points_xy, image_hw=self.image_hw)
