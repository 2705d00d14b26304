"""PIPNet landmark detector: from the crop of a face to its landmarks."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ...backends.base import Backend
from ...contract import Contract
from ...results import Landmarks
from ..base import LandmarkModel
from . import decode as pipnet
from .crop import DetectorCrop

__all__ = [
    "MODEL",
    "LandmarkDetector",
    "with_meanface",
]

_log = logging.getLogger(__name__)


def with_meanface(decode: Mapping[str, Any], meanface: np.ndarray) -> Dict[str, Any]:
    """Return a contract's decode constants with another mean face.

    A warning is logged if the mean face gives other neighbours than the contract's: unless the
    network was trained with it, neighbour predictions are then averaged into wrong landmarks.

    Parameters
    ----------
    decode
        Constants of the contract.
    meanface
        N points (N, 2) in [0, 1] of the crop.

    Raises
    ------
    InputError
        If the mean face cannot be used.
    """
    replaced = {**decode, "meanface": np.asarray(meanface, np.float64).tolist()}
    own, given = (pipnet.load_meanface(**one).neighbors for one in (decode, replaced))
    if own.shape != given.shape:
        _log.warning(
            "warning: the given mean face has %d landmarks, the model's own has %d",
            len(given),
            len(own),
        )
    elif (own != given).any():
        _log.warning(
            "warning: the given mean face differs from the model's own in the neighbours of %d of "
            "%d landmarks; landmarks are wrong unless the network was trained with it",
            int((own != given).any(axis=1).sum()),
            len(own),
        )
    return replaced


class LandmarkDetector(LandmarkModel):
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
            decode = with_meanface(contract.decode, meanface)
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

    def crop_of(self, box_xyxy: Sequence[float], image_hw: Tuple[int, int]) -> DetectorCrop:
        """Return the crop of the authors' demo; see :meth:`LandmarkModel.crop_of`."""
        return DetectorCrop.of(box_xyxy, image_hw)


MODEL = LandmarkDetector
