"""Networks with their decoders: a picture in, results out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Tuple, Type, Union

import cv2
import numpy as np

from .backends import open_backend
from .backends.base import Backend, Infer
from .card import Preprocess
from .contract import Contract
from .errors import ImageError, InputError
from .image.files import read_image_rgb
from .models.scrfd.decode import PROFILES, Profile, decode
from .results import FaceDetections

__all__ = ["FaceDetector", "load"]


def load(
    model: str,
    source: Union[str, Path],
    *,
    engine: str = "auto",
    vdsp: Optional[Path] = None,
    preprocess: Optional[Preprocess] = None,
    profile: Union[str, Profile] = "demo",
    device_id: int = 0,
    threads: Optional[int] = None,
) -> FaceDetector:
    """Open a model, ready for pictures.

    Parameters
    ----------
    model
        ``scrfd``.
    source
        An artifact prefix (``deploy_weights/<name>/mod``) or a self-describing .onnx file.
    engine, vdsp, preprocess, device_id, threads
        See :func:`facezoo.backends.open_backend`.
    profile
        Name of one of ``facezoo.models.scrfd.decode.PROFILES``, or thresholds of your own.

    Returns
    -------
    FaceDetector

    Raises
    ------
    InputError
        If the model or profile is not known, or the file is another model's.
    """
    if model != "scrfd":
        raise InputError(f"model {model!r} is not known; expected scrfd")
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise InputError(f"profile {profile!r} is not known; expected one of {list(PROFILES)}")
        profile = PROFILES[profile]
    backend = open_backend(
        Path(source),
        engine=engine,
        vdsp=vdsp,
        preprocess=preprocess,
        device_id=device_id,
        threads=threads,
    )
    if backend.contract.model != model:
        raise InputError(
            f"{str(source)!r} holds {backend.contract.card_id}, a model of the recipe "
            f"{backend.contract.model}; expected one of {model}"
        )
    return FaceDetector(backend, backend.contract, profile)


class FaceDetector:
    """SCRFD on some runtime: ``faces = detector(image_rgb)``.

    Parameters
    ----------
    backend
        The network.
    contract
        Its decode constants.
    profile
        Thresholds.
    """

    def __init__(self, backend: Backend, contract: Contract, profile: Profile) -> None:
        self.backend = backend
        self.contract = contract
        self.profile = profile

    def __call__(self, image_rgb: np.ndarray) -> FaceDetections:
        """Find the faces of one picture.

        Parameters
        ----------
        image_rgb
            Shape (H, W, 3), uint8, RGB.

        Returns
        -------
        FaceDetections
            In the picture's pixels.
        """
        return self._detect(self.backend.infer, image_rgb)

    def stream(
        self,
        paths: Iterable[Path],
        visit: Optional[Callable[[Path, np.ndarray, FaceDetections], None]] = None,
    ) -> Iterator[Tuple[Path, Union[FaceDetections, ImageError]]]:
        """Find the faces of many files, as many at a time as pays.

        Parameters
        ----------
        paths
            Picture files.
        visit
            Called with path, picture and faces while the picture is at hand, in a worker; to
            draw, for instance.

        Yields
        ------
        path : Path
            In the order given.
        faces : FaceDetections or ImageError
            The error if the file cannot be read; the stream goes on.
        """

        def one(infer: Infer, path: Path) -> Tuple[Path, Union[FaceDetections, ImageError]]:
            try:
                image = read_image_rgb(path)
            except ImageError as error:
                return path, error
            faces = self._detect(infer, image)
            if visit is not None:
                visit(path, image, faces)
            return path, faces

        return self.backend.map(one, paths)

    def settings(self) -> Dict[str, Any]:
        """Return what decides the results, as JSON values for a run's fingerprint."""
        return {
            "model": self.contract.card_id,
            "profile": dataclasses.asdict(self.profile),
            **self.backend.settings(),
        }

    def _detect(self, infer: Infer, image_rgb: np.ndarray) -> FaceDetections:
        faces = decode(infer(image_rgb), profile=self.profile, **self.contract.decode)[0]
        if len(faces) or not self.profile.retry_border:
            return faces
        return self._detect_with_border(infer, image_rgb)

    def _detect_with_border(self, infer: Infer, image_rgb: np.ndarray) -> FaceDetections:
        """Try again with the face smaller: SCRFD misses faces that fill the picture."""
        share = self.profile.retry_border
        height, width = image_rgb.shape[:2]
        top, left = round(height * share), round(width * share)
        framed = cv2.copyMakeBorder(image_rgb, top, top, left, left, cv2.BORDER_CONSTANT)
        faces = decode(infer(framed), profile=self.profile, **self.contract.decode)[0]
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

    def close(self) -> None:
        """Free the runtime's resources."""
        self.backend.close()

    def __enter__(self) -> FaceDetector:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()
