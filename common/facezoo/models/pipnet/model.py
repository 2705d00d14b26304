"""PIPNet landmark detector: from the crop of a face to its landmarks."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Dict, Optional

import numpy as np

from ...backends.base import Backend, Infer
from ...contract import Contract
from ...results import FaceDetections, FaceLandmarks, Landmarks
from ..base import FaceModel
from . import decode as pipnet
from .crop import DetectorCrop

__all__ = [
    "LandmarkDetector",
]


class LandmarkDetector(FaceModel[Landmarks]):
    """PIPNet on any runtime: ``landmarks = model(crop_rgb)``, the crop of one face.

    The result depends on the crop: that of the training data (``datasets.wflw.WflwCrop``), or that
    of a detector's box (:meth:`on_faces`).

    Parameters
    ----------
    backend, contract
        See :class:`FaceModel`.
    meanface
        Replaces the contract's mean face: N points (N, 2) in [0, 1] of the crop.

    Raises
    ------
    InputError
        If the mean face cannot be used.
    """

    def __init__(
        self, backend: Backend, contract: Contract, meanface: Optional[np.ndarray] = None
    ) -> None:
        if meanface is not None:
            decode = {**contract.decode, "meanface": np.asarray(meanface).tolist()}
            contract = dataclasses.replace(contract, decode=decode)
        super().__init__(backend, contract)
        pipnet.load_meanface(**contract.decode)

    def on_faces(self, image_rgb: np.ndarray, faces: FaceDetections) -> FaceLandmarks:
        """Find the landmarks of the faces that a detector found in a photo.

        Parameters
        ----------
        image_rgb
            The photo, shape (H, W, 3), uint8, RGB.
        faces
            Its faces.

        Returns
        -------
        FaceLandmarks
            In the photo's pixels, one entry per face.
        """
        return self._on_faces(self.backend.infer, image_rgb, faces)

    def settings(self) -> Dict[str, Any]:
        """Return what determines the results, as JSON values for the fingerprint of a run."""
        decode = dict(self.contract.decode)
        if not isinstance(decode["meanface"], str):
            points = np.asarray(decode["meanface"], np.float64)
            decode["meanface"] = hashlib.sha256(points.tobytes()).hexdigest()
        return {**super().settings(), "decode": decode}

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> Landmarks:
        return pipnet.decode(infer(image_rgb), **self.contract.decode)[0]

    def _on_faces(
        self, infer: Infer, image_rgb: np.ndarray, faces: FaceDetections
    ) -> FaceLandmarks:
        crops = [DetectorCrop.of(box, faces.image_hw) for box in faces.boxes_xyxy.tolist()]
        found = [self._apply(infer, crop.cut(image_rgb)) for crop in crops]
        return FaceLandmarks(faces, tuple(map(DetectorCrop.to_photo, crops, found)))
