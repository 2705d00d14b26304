"""The whole chain on photos: detect, landmarks, align, quality, embed; and why a face is refused.

Any stage but the first is optional. A refused face is not embedded unless that is requested. The
faces of a photo go through each stage in batches that hold faces of this photo only, so its result
depends neither on the other photos nor on where an interrupted run was resumed.
"""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union

import numpy as np

from ..backends.base import call_naming
from ..errors import InputError
from ..image.align import align_face
from ..image.appearance import measure_face
from ..models.base import FaceModel, LandmarkModel
from ..models.magface.model import FaceEmbedder
from ..models.scrfd.model import FaceDetector
from ..models.sdd_fiqa.model import FaceQuality
from ..results import Embedding, FaceDetections, Landmarks
from ..workers import map_in_order
from .acceptance import Acceptance, _check_limit

__all__ = [
    "PredictedFace",
    "PredictedPhoto",
    "Predictor",
    "RecipePhoto",
    "in_recipe_form",
]


Result = TypeVar("Result")

# Largest number of faces in one run of a later stage. For photos with 22 to 29 faces, a stream with
# w600k_mbf on ONNX Runtime (1 MiB of second-level cache per core) took 1 : 0.97 : 1.04 : 1.05 :
# 1.07 of the processor time in batches of 1, 2, 4, 8 and 16: the tensors of two faces fit into the
# cache.
FACES_PER_BATCH = 2


@dataclass(frozen=True)
class PredictedFace:
    """One face.

    Attributes
    ----------
    box_xyxy, score, landmarks_xy
        Result of the detector, in pixels of the photo.
    appearance
        ``size``, ``sharpness``, ``yaw`` and ``truncation``, see :mod:`facezoo.profiles.appearance`;
        empty if no limits are given.
    points
        98 landmarks; None without that stage.
    quality, magnitude
        Score of the quality network, length of the embedding; None without that stage.
    reasons
        Reasons to refuse the face; empty if it is accepted.
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
    """The faces of one photo, highest score first.

    Attributes
    ----------
    faces
        Each with the results of all stages.
    detections
        The same faces as the detector gave them, as arrays.
    """

    faces: Tuple[PredictedFace, ...]
    detections: FaceDetections

    @property
    def image_hw(self) -> Tuple[int, int]:
        """Height and width of the photo in pixels."""
        return self.detections.image_hw

    def __len__(self) -> int:
        return len(self.faces)

    def to_dict(self) -> Dict[str, Any]:
        """Return the photo as JSON values."""
        height, width = self.image_hw
        return {"width": width, "height": height, "faces": [face.to_dict() for face in self.faces]}


@dataclass(frozen=True)
class RecipePhoto:
    """A photo as the runners of the recipes write it into results.json.

    Attributes
    ----------
    photo
        Result of the chain.
    """

    photo: PredictedPhoto

    def to_dict(self) -> Dict[str, Any]:
        """Return the photo as JSON values; every float32 keeps its exact value."""
        entry = self.photo.detections.to_dict()
        for face, found in zip(entry["faces"], self.photo.faces):
            if found.points is not None:
                face["points_xy"] = found.points.points_xy.tolist()
                face["point_scores"] = found.points.scores.tolist()
            if found.quality is not None:
                face["quality"] = found.quality
            if found.vector is not None:
                face.update(Embedding(found.vector).to_dict())
        return entry


def in_recipe_form(result: Result) -> Union[Result, RecipePhoto]:
    """Convert a photo to the form of a recipe's results.json; return other results unchanged."""
    return RecipePhoto(result) if isinstance(result, PredictedPhoto) else result


class Predictor(FaceModel[PredictedPhoto]):
    """Detector, then the given stages on every face: ``photo = predictor(image_rgb)``.

    A single photo uses all cores; each photo of a :meth:`stream` uses one, however many threads
    the stages were loaded with.

    Parameters
    ----------
    detector
        A variant with five landmarks, unless only ``landmarks`` follows.
    landmarks, quality, embedder
        The other stages; None leaves one out.
    acceptance
        Limits of a face. None: every face is accepted, and its appearance is not measured.

    Raises
    ------
    InputError
        If the detector has no landmarks, or a limit belongs to another file than a stage's.
    """

    def __init__(
        self,
        detector: FaceDetector,
        landmarks: Optional[LandmarkModel] = None,
        quality: Optional[FaceQuality] = None,
        embedder: Optional[FaceEmbedder] = None,
        acceptance: Optional[Acceptance] = None,
    ) -> None:
        self.detector, self.landmarks = detector, landmarks
        self.quality, self.embedder = quality, embedder
        self.acceptance = acceptance
        self._aligns = any(part is not None for part in (quality, embedder, acceptance))
        # The stages' own threads share the cores, so the stream has as many as the busiest stage.
        backends = [stage.backend for stage in self.stages.values()]
        super().__init__(max(backends, key=lambda one: one.workers), detector.contract)
        names = detector.contract.output_names
        if self._aligns and not any(name.startswith("kps") for name in names):
            raise InputError(
                f"{detector.contract.card_id} finds no landmarks, which the alignment needs; use "
                "a variant whose name ends in _bnkps"
            )
        for limit in acceptance.scores if acceptance else ():
            _check_limit(limit, [stage for stage in (quality, embedder) if stage is not None])

    @property
    def stages(self) -> Dict[str, FaceModel[Any]]:
        """The given stages, by name."""
        named: Dict[str, Optional[FaceModel[Any]]] = {
            "detector": self.detector,
            "landmarks": self.landmarks,
            "quality": self.quality,
            "embedder": self.embedder,
        }
        return {name: stage for name, stage in named.items() if stage is not None}

    def settings(self) -> Dict[str, Any]:
        """Return what determines the results, as JSON values for the fingerprint of a run."""
        stages = {name: stage.settings() for name, stage in self.stages.items()}
        return {**stages, "acceptance": self.acceptance and dataclasses.asdict(self.acceptance)}

    def close(self) -> None:
        """Free the resources of all stages."""
        for stage in self.stages.values():
            stage.close()

    def batch(
        self, images_rgb: Sequence[np.ndarray], *, shared: bool = False
    ) -> List[PredictedPhoto]:
        """Run the chain on several photos, one after the other; see :meth:`FaceModel.batch`."""
        return [self._predict(image, shared) for image in images_rgb]

    def _predict(self, image_rgb: np.ndarray, shared: bool) -> PredictedPhoto:
        (faces,) = self.detector.batch([image_rgb], shared=shared)
        boxes, everyone = faces.boxes_xyxy.tolist(), range(len(faces))
        points: Dict[int, Landmarks] = {}
        if self.landmarks is not None:
            cuts = [self.landmarks.crop_of(box, faces.image_hw) for box in boxes]
            found = _in_batches(
                self.landmarks, [cut.cut(image_rgb) for cut in cuts], everyone, shared
            )
            points = {face: cuts[face].to_photo(marks) for face, marks in found.items()}
        crops: List[np.ndarray] = []
        if self._aligns:
            crops = [align_face(image_rgb, marks) for marks in faces.landmarks_xy]
        appearance: List[Dict[str, float]] = [{} for _ in everyone]
        reasons: List[List[str]] = [[] for _ in everyone]
        if self.acceptance is not None:
            rows = zip(boxes, faces.landmarks_xy, crops)
            appearance = [measure_face(image_rgb, *row) for row in rows]
            reasons = [self.acceptance.reasons_of(one) for one in appearance]
        scores: Dict[int, float] = {}
        if self.quality is not None:
            qualities = _in_batches(self.quality, crops, everyone, shared)
            scores = {face: float(quality.value) for face, quality in qualities.items()}
            self._refuse_low(self.quality, scores, reasons)
        embeddings: Dict[int, Embedding] = {}
        if self.embedder is not None:
            wanted = [face for face in everyone if self._embeds(reasons[face])]
            embeddings = _in_batches(self.embedder, crops, wanted, shared)
            norms = {face: embedding.norm for face, embedding in embeddings.items()}
            self._refuse_low(self.embedder, norms, reasons)
        predicted = (
            PredictedFace(
                box_xyxy=tuple(boxes[face]),
                score=float(faces.scores[face]),
                landmarks_xy=faces.landmarks_xy[face],
                appearance=appearance[face],
                points=points.get(face),
                quality=scores.get(face),
                magnitude=embeddings[face].norm if face in embeddings else None,
                reasons=tuple(dict.fromkeys(reasons[face])),
                vector=embeddings[face].vector
                if face in embeddings and self._embeds(reasons[face])
                else None,
            )
            for face in everyone
        )
        return PredictedPhoto(tuple(predicted), faces)

    def _embeds(self, reasons: Sequence[str]) -> bool:
        return not reasons or (self.acceptance is not None and self.acceptance.embed_refused)

    def _refuse_low(
        self, stage: FaceModel[Any], scores: Mapping[int, float], reasons: Sequence[List[str]]
    ) -> None:
        """Add a reason to the faces that a stage scores too low."""
        for face, score in scores.items():
            if self.acceptance and self.acceptance.is_low(stage.contract.card_id, score):
                reasons[face].append("low_quality")


def _in_batches(
    stage: FaceModel[Result], crops: Sequence[np.ndarray], faces: Sequence[int], shared: bool
) -> Dict[int, Result]:
    """Apply a stage to the crops of some faces of a photo; a face it fails on is named."""
    parts = [
        faces[start : start + FACES_PER_BATCH] for start in range(0, len(faces), FACES_PER_BATCH)
    ]
    # One core per batch is faster than one batch after the other on all cores.
    spread = not shared and len(parts) > 1

    def run(part: Sequence[int]) -> List[Result]:
        return call_naming(
            partial(stage.batch, shared=shared or spread),
            [crops[face] for face in part],
            [f"face {face}" for face in part],
        )

    results = map_in_order(run, parts, stage.backend.workers) if spread else map(run, parts)
    return dict(zip(faces, chain.from_iterable(results)))
