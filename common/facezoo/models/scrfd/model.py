"""SCRFD face detector: from a photo to faces."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, Tuple, Union

import cv2
import numpy as np

from ...backends.base import Backend, Infer
from ...contract import Contract
from ...errors import InputError
from ...image.files import read_reduced_rgb
from ...results import FaceDetections
from ..base import FaceModel
from . import decode as scrfd
from .decode import PROFILES, Profile

__all__ = [
    "FaceDetector",
]


class FaceDetector(FaceModel[FaceDetections]):
    """SCRFD on any runtime: ``faces = detector(image_rgb)``.

    Parameters
    ----------
    backend, contract
        See :class:`FaceModel`.
    profile
        A name in ``facezoo.models.scrfd.decode.PROFILES``, or custom thresholds.
    fast_decode
        In :meth:`stream`, decode JPEGs much larger than the network's input at 1/2, 1/4 or 1/8 of
        their size: faster, with slightly different faces.

    Raises
    ------
    InputError
        If the profile is unknown.
    """

    def __init__(
        self,
        backend: Backend,
        contract: Contract,
        profile: Union[str, Profile] = "demo",
        fast_decode: bool = False,
    ) -> None:
        super().__init__(backend, contract)
        self.fast_decode = fast_decode
        if isinstance(profile, str):
            if profile not in PROFILES:
                raise InputError(
                    f"profile {profile!r} is not known; expected one of {list(PROFILES)}"
                )
            profile = PROFILES[profile]
        self.profile = profile

    def settings(self) -> Dict[str, Any]:
        """Return what determines the results, as JSON values for the fingerprint of a run."""
        settings = {**super().settings(), "profile": dataclasses.asdict(self.profile)}
        return {**settings, "fast_decode": True} if self.fast_decode else settings

    def _apply_to_file(self, infer: Infer, path: Path) -> Tuple[np.ndarray, FaceDetections]:
        if not self.fast_decode:
            return super()._apply_to_file(infer, path)
        image, image_hw = read_reduced_rgb(path, self.backend.preprocess.input_hw)
        return image, self._apply(infer, image).resized(image_hw)

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> FaceDetections:
        faces = self._detect(infer, image_rgb)
        if len(faces) or not self.profile.retry_border:
            return faces
        return self._detect_with_border(infer, image_rgb)

    def _detect(self, infer: Infer, image_rgb: np.ndarray) -> FaceDetections:
        return scrfd.decode(infer(image_rgb), profile=self.profile, **self.contract.decode)[0]

    def _detect_with_border(self, infer: Infer, image_rgb: np.ndarray) -> FaceDetections:
        """Retry with a border, since SCRFD misses faces that fill the image."""
        share = self.profile.retry_border
        height, width = image_rgb.shape[:2]
        top, left = round(height * share), round(width * share)
        framed = cv2.copyMakeBorder(image_rgb, top, top, left, left, cv2.BORDER_CONSTANT)
        faces = self._detect(infer, framed)
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
