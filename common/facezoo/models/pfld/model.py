"""PFLD landmark detector: from the square crop of a face to its landmarks."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from ...image.crop import SquareCrop
from ...results import Landmarks
from ..base import LandmarkModel
from .decode import decode

__all__ = ["MODEL", "PfldDetector"]


# source: PFLD_GhostOne@7061b56 onnx_inference.py cut_resize_letterbox: a square as long as the
# longer side of the box
BOX_SCALE = 1.0


class PfldDetector(LandmarkModel):
    """PFLD on any runtime: ``landmarks = model(crop_rgb)``, a square crop of one face."""

    def batch(self, images_rgb: Sequence[np.ndarray], *, shared: bool = False) -> List[Landmarks]:
        """Find the landmarks of several crops; see :meth:`FaceModel.batch`."""
        return decode(self._infer(images_rgb, shared))

    def crop_of(self, box_xyxy: Sequence[float], image_hw: Tuple[int, int]) -> SquareCrop:
        """Return a square around the box; see :meth:`LandmarkModel.crop_of`."""
        return SquareCrop.around(box_xyxy, image_hw, BOX_SCALE)


MODEL = PfldDetector
