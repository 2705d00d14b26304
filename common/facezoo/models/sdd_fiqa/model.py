"""SDD-FIQA: from an aligned face to a quality score."""

from __future__ import annotations

import numpy as np

from ...backends.base import Infer
from ...image.align import align_face
from ...results import FaceDetections, FaceQualities, QualityScore
from ..base import FaceModel
from . import decode as sdd_fiqa

__all__ = [
    "FaceQuality",
]


class FaceQuality(FaceModel[QualityScore]):
    """SDD-FIQA on any runtime: ``quality = model(face_rgb)``, an aligned face, 112x112."""

    def on_faces(self, image_rgb: np.ndarray, faces: FaceDetections) -> FaceQualities:
        """Align and score the faces that a detector with landmarks found in a photo.

        Parameters
        ----------
        image_rgb
            The photo, shape (H, W, 3), uint8, RGB.
        faces
            Its faces.

        Returns
        -------
        FaceQualities
            In the photo's pixels, one entry per face.
        """
        return self._on_faces(self.backend.infer, image_rgb, faces)

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> QualityScore:
        return sdd_fiqa.decode(infer(image_rgb))[0]

    def _on_faces(
        self, infer: Infer, image_rgb: np.ndarray, faces: FaceDetections
    ) -> FaceQualities:
        crops = (align_face(image_rgb, points) for points in faces.landmarks_xy)
        return FaceQualities(faces, tuple(self._apply(infer, crop) for crop in crops))
