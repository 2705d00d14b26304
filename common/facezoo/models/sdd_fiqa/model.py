"""SDD-FIQA: from an aligned face to a quality score."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

from ...results import QualityScore
from ..base import FaceModel
from . import decode as sdd_fiqa

__all__ = [
    "MODEL",
    "FaceQuality",
]


class FaceQuality(FaceModel[QualityScore]):
    """SDD-FIQA on any runtime: ``quality = model(face_rgb)``, an aligned face, 112x112."""

    def batch(
        self, images_rgb: Sequence[np.ndarray], *, shared: bool = False
    ) -> List[QualityScore]:
        """Score several faces; see :meth:`FaceModel.batch`."""
        return sdd_fiqa.decode(self._infer(images_rgb, shared))


MODEL = FaceQuality
