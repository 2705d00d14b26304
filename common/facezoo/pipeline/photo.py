"""The whole chain on photos: detect, landmarks, align, quality, embed; and why a face is refused.

Any stage but the first may be left out. A refused face is not embedded unless that is asked for.
"""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy as np

from ..backends.base import Infer
from ..errors import InputError
from ..image.align import align_face
from ..image.appearance import measure_face
from ..models.base import FaceModel
from ..models.scrfd.model import FaceDetector
from ..results import FaceDetections, FaceEmbeddings, FaceLandmarks, FaceQualities, Landmarks
from .acceptance import Acceptance, _check_limit

__all__ = [
    "FacePredictor",
    "PhotoEmbedder",
    "PhotoLandmarker",
    "PhotoQuality",
    "PredictedFace",
    "PredictedPhoto",
]


Result = TypeVar("Result")


@dataclass(frozen=True)
class PredictedFace:
    """One face.

    Attributes
    ----------
    box_xyxy, score, landmarks_xy
        The detector's, in the photo's pixels.
    appearance
        ``size``, ``sharpness``, ``yaw`` and ``truncation``, see :mod:`facezoo.profiles.appearance`.
    points
        98 landmarks; None without that stage.
    quality, magnitude
        Of the quality network, and the length of the embedding; None without that stage.
    reasons
        Why the face would be refused; empty if it is good.
    vector
        The embedding as the network gave it; None if there is none.
    """

    box_xyxy: Tuple[float, ...]
    score: float
    landmarks_xy: np.ndarray
    appearance: Mapping[str, float]
    points: Optional[Landmarks] = None
    quality: Optional[float] = None
    magnitude: Optional[float] = None
    reasons: Tuple[str, ...] = ()
    vector: Optional[np.ndarray] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return the face as JSON values; the embedding as text of its float32 bytes."""
        entry: Dict[str, Any] = {
            "box_xyxy": list(self.box_xyxy),
            "score": self.score,
            "landmarks_xy": self.landmarks_xy.tolist(),
            **{name: round(value, 4) for name, value in self.appearance.items()},
        }
        if self.points is not None:
            entry["points_xy"] = self.points.points_xy.tolist()
            entry["point_scores"] = self.points.scores.tolist()
        if self.quality is not None:
            entry["quality"] = self.quality
        if self.magnitude is not None:
            entry["magnitude"] = self.magnitude
        entry["reasons"] = list(self.reasons)
        if self.vector is not None:
            entry["vector"] = base64.b64encode(self.vector.astype("<f4").tobytes()).decode()
        return entry


@dataclass(frozen=True)
class PredictedPhoto:
    """The faces of one photo, highest score first."""

    faces: Tuple[PredictedFace, ...]
    image_hw: Tuple[int, int]

    def to_dict(self) -> Dict[str, Any]:
        """Return the photo as JSON values."""
        height, width = self.image_hw
        return {"width": width, "height": height, "faces": [face.to_dict() for face in self.faces]}


class FacePredictor(FaceModel[PredictedPhoto]):
    """Detector, then whatever stages are given, on every face: ``photo = predictor(image_rgb)``.

    Parameters
    ----------
    detector
        A variant with five landmarks, which the alignment needs.
    landmarks, quality, embedder
        The other stages; None leaves one out. Load them with ``threads=1`` for :meth:`stream`.
    acceptance
        The limits a face must keep.

    Raises
    ------
    InputError
        If the detector has no landmarks, or a limit belongs to another file than a stage's.
    """

    def __init__(
        self,
        detector: FaceDetector,
        landmarks: Optional[Any] = None,
        quality: Optional[FaceModel[Any]] = None,
        embedder: Optional[FaceModel[Any]] = None,
        acceptance: Optional[Acceptance] = None,
    ) -> None:
        super().__init__(detector.backend, detector.contract)
        if not any(name.startswith("kps") for name in detector.contract.output_names):
            raise InputError(
                f"{detector.contract.card_id} finds no landmarks, which the alignment needs; take "
                "a variant whose name ends in _bnkps"
            )
        self.detector, self.landmarks = detector, landmarks
        self.quality, self.embedder = quality, embedder
        self.acceptance = acceptance or Acceptance()
        for limit in self.acceptance.scores:
            _check_limit(limit, [stage for stage in (quality, embedder) if stage is not None])

    @property
    def stages(self) -> Dict[str, FaceModel[Any]]:
        """Name to the stages that are there."""
        named = {
            "detector": self.detector,
            "landmarks": self.landmarks,
            "quality": self.quality,
            "embedder": self.embedder,
        }
        return {name: stage for name, stage in named.items() if stage is not None}

    def settings(self) -> Dict[str, Any]:
        """Return what decides the results, as JSON values for a run's fingerprint."""
        stages = {name: stage.settings() for name, stage in self.stages.items()}
        return {**stages, "acceptance": dataclasses.asdict(self.acceptance)}

    def close(self) -> None:
        """Free the resources of all stages."""
        for stage in self.stages.values():
            stage.close()

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> PredictedPhoto:
        faces = self.detector._apply(infer, image_rgb)
        points: Sequence[Optional[Landmarks]] = [None] * len(faces)
        if self.landmarks is not None:
            points = self.landmarks.on_faces(image_rgb, faces).landmarks
        found = [self._face(image_rgb, faces, index, points[index]) for index in range(len(faces))]
        return PredictedPhoto(tuple(found), faces.image_hw)

    def _face(
        self,
        image_rgb: np.ndarray,
        faces: FaceDetections,
        index: int,
        points: Optional[Landmarks],
    ) -> PredictedFace:
        box, marks = faces.boxes_xyxy[index], faces.landmarks_xy[index]
        crop = align_face(image_rgb, marks)
        appearance = measure_face(image_rgb, box.tolist(), marks, crop)
        reasons = self.acceptance.reasons_of(appearance)
        quality = magnitude = vector = None
        if self.quality is not None:
            quality = float(self.quality(crop).value)
            if self.acceptance.is_low(self.quality.contract.card_id, quality):
                reasons.append("low_quality")
        if self.embedder is not None and (not reasons or self.acceptance.embed_refused):
            embedding = self.embedder(crop)
            magnitude, vector = embedding.norm, embedding.vector
            if self.acceptance.is_low(self.embedder.contract.card_id, magnitude):
                reasons.append("low_quality")
                vector = vector if self.acceptance.embed_refused else None
        return PredictedFace(
            box_xyxy=tuple(box.tolist()),
            score=float(faces.scores[index]),
            landmarks_xy=marks,
            appearance=appearance,
            points=points,
            quality=quality,
            magnitude=magnitude,
            reasons=tuple(dict.fromkeys(reasons)),
            vector=vector,
        )


class _PhotoModel(FaceModel[Result]):
    """A detector, then a network on every face that it finds."""

    def __init__(self, detector: FaceDetector, network: Any) -> None:
        super().__init__(network.backend, network.contract)
        self.detector = detector
        self.network = network

    def settings(self) -> Dict[str, Any]:
        """Return what decides the results, as JSON values for a run's fingerprint."""
        return {**self.network.settings(), "detector": self.detector.settings()}

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> Result:
        found: Result = self.network._on_faces(infer, image_rgb, self.detector(image_rgb))
        return found

    def close(self) -> None:
        """Free the resources of both."""
        self.detector.close()
        self.network.close()


class PhotoLandmarker(_PhotoModel[FaceLandmarks]):
    """SCRFD, then PIPNet on every face: ``faces = model(photo_rgb)``.

    Parameters
    ----------
    detector
        Finds the faces. Load it with ``threads=1`` for :meth:`stream`, which runs several photos
        at a time.
    network
        Finds their landmarks.
    """


class PhotoEmbedder(_PhotoModel[FaceEmbeddings]):
    """SCRFD, then a recogniser on every face: ``faces = model(photo_rgb)``.

    Parameters
    ----------
    detector
        Finds the faces; a variant with landmarks. Load it with ``threads=1`` for :meth:`stream`,
        which runs several photos at a time.
    network
        Embeds them.
    """


class PhotoQuality(_PhotoModel[FaceQualities]):
    """SCRFD, then SDD-FIQA on every face: ``faces = model(photo_rgb)``.

    Parameters
    ----------
    detector
        Finds the faces; a variant with landmarks, which the alignment needs. Load it with
        ``threads=1`` for :meth:`stream`, which runs several photos at a time.
    network
        Scores them.
    """
