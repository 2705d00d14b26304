"""PIPNet landmark detector: from the crop of a face to its landmarks."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from ...backends.base import Backend
from ...contract import Contract
from ...results import Landmarks
from ..base import FaceModel
from . import decode as pipnet

__all__ = [
    "MODEL",
    "LandmarkDetector",
]


class LandmarkDetector(FaceModel[Landmarks]):
    """PIPNet on any runtime: ``landmarks = model(crop_rgb)``, the crop of one face.

    The result depends on the crop: that of the training data (``datasets.wflw.WflwCrop``), or that
    of a detector's box (:class:`~facezoo.models.pipnet.crop.DetectorCrop`).

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

    def settings(self) -> Dict[str, Any]:
        """Return what determines the results, as JSON values for the fingerprint of a run."""
        decode = dict(self.contract.decode)
        if not isinstance(decode["meanface"], str):
            points = np.asarray(decode["meanface"], np.float64)
            decode["meanface"] = hashlib.sha256(points.tobytes()).hexdigest()
        return {**super().settings(), "decode": decode}

    def batch(self, images_rgb: Sequence[np.ndarray], *, shared: bool = False) -> List[Landmarks]:
        """Find the landmarks of several crops; see :meth:`FaceModel.batch`."""
        return pipnet.decode(self._infer(images_rgb, shared), **self.contract.decode)


MODEL = LandmarkDetector
