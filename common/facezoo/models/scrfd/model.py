"""SCRFD face detector: from a photo to faces."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from ...backends.base import Backend
from ...contract import Contract
from ...errors import InputError
from ...fields import check_settings, number
from ...image.files import read_reduced_rgb
from ...image.inputs import AnyImage
from ...results import FaceDetections
from ..base import FaceModel
from . import decode as scrfd
from .decode import PROFILES, Profile

__all__ = [
    "MODEL",
    "FaceDetector",
]


_SHARES = dict.fromkeys(("score_threshold", "nms_iou", "retry_border"), number(0, 1))


class FaceDetector(FaceModel[FaceDetections]):
    """SCRFD on any runtime: ``faces = detector(image)``.

    Parameters
    ----------
    backend, contract
        See :class:`FaceModel`.
    profile
        A name in ``facezoo.models.scrfd.decode.PROFILES``, or custom thresholds.
    fast_decode
        In :meth:`stream`, decode JPEGs much larger than the network's input at 1/2, 1/4 or 1/8 of
        their size: faster, with slightly different faces.
    score, nms
        Lowest score of a face and largest overlap (IoU) of two, both from 0 to 1; the profile's if
        None.

    Raises
    ------
    InputError
        If the profile is unknown, or one of its thresholds or shares is not from 0 to 1.
    """

    def __init__(
        self,
        backend: Backend,
        contract: Contract,
        profile: Union[str, Profile] = "demo",
        fast_decode: bool = False,
        score: Optional[float] = None,
        nms: Optional[float] = None,
    ) -> None:
        super().__init__(backend, contract)
        self.fast_decode = fast_decode
        if isinstance(profile, str):
            if profile not in PROFILES:
                raise InputError(
                    f"profile {profile!r} is not known; expected one of {list(PROFILES)}"
                )
            profile = PROFILES[profile]
        if score is not None:
            profile = dataclasses.replace(profile, score_threshold=score)
        if nms is not None:
            profile = dataclasses.replace(profile, nms_iou=nms)
        check_settings(profile, _SHARES)
        self.profile = profile

    def settings(self) -> Dict[str, Any]:
        """Return what determines the results, as JSON values for the fingerprint of a run."""
        settings = {**super().settings(), "profile": dataclasses.asdict(self.profile)}
        return {**settings, "fast_decode": True} if self.fast_decode else settings

    def _apply_to(self, image: AnyImage, bgr: bool) -> Tuple[np.ndarray, FaceDetections]:
        if not self.fast_decode or not isinstance(image, (str, os.PathLike)):
            return super()._apply_to(image, bgr)
        read, image_hw = read_reduced_rgb(Path(image), self.backend.preprocess.input_hw)
        return read, self.batch([read], shared=True)[0].resized(image_hw)

    def batch(
        self, images_rgb: Sequence[np.ndarray], *, shared: bool = False
    ) -> List[FaceDetections]:
        """Find the faces of several images; see :meth:`FaceModel.batch`."""
        return [
            faces
            if len(faces) or not self.profile.retry_border
            else self._detect_with_border(image, shared)
            for image, faces in zip(images_rgb, self._detect(images_rgb, shared))
        ]

    def _detect(self, images_rgb: Sequence[np.ndarray], shared: bool) -> List[FaceDetections]:
        raw = self._infer(images_rgb, shared)
        return scrfd.decode(raw, profile=self.profile, **self.contract.decode)

    def _detect_with_border(self, image_rgb: np.ndarray, shared: bool) -> FaceDetections:
        """Retry with a border, since SCRFD misses faces that fill the image."""
        import cv2

        share = self.profile.retry_border
        height, width = image_rgb.shape[:2]
        top, left = round(height * share), round(width * share)
        framed = cv2.copyMakeBorder(image_rgb, top, top, left, left, cv2.BORDER_CONSTANT)
        (faces,) = self._detect([framed], shared)
        offset = np.array([left, top], np.float32)
        limit = np.array([width, height], np.float32)
        corners = np.clip(faces.boxes_xyxy.reshape(-1, 2, 2) - offset, 0.0, limit)
        return dataclasses.replace(
            faces,
            boxes_xyxy=corners.reshape(-1, 4),
            landmarks_xy=faces.landmarks_xy - offset,
            image_hw=(height, width),
            border=share if len(faces) else 0.0,
        )


MODEL = FaceDetector
