"""The whole chain on photos: detect, landmarks, align, quality, embed; and why a face is refused.

Any stage but the first may be left out. A refused face is not embedded unless that is asked for.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from . import weights
from .backends import ENGINES
from .backends.base import Infer
from .contract import sha256_of
from .errors import InputError
from .image.align import align_face
from .looks import Limits, default_limits, measure_face
from .models import CARDS, find_card, find_weights
from .pipeline import FaceDetector, FaceModel, load
from .quality_profile import read_any_profile
from .results import FaceDetections, Landmarks

__all__ = [
    "REASONS",
    "FacePredictor",
    "Gate",
    "PredictedFace",
    "PredictedPhoto",
    "ScoreLimit",
    "find_model",
    "number_people",
    "published_graph",
    "read_score_limit",
]

REASONS = ("too_small", "blurred", "turned", "cut_off", "low_quality")


@dataclass(frozen=True)
class ScoreLimit:
    """From where on a face is refused by a network's score, from a calibrated profile.

    Attributes
    ----------
    card
        Of the network; one of SDD-FIQA scores quality, one of MagFace by magnitude.
    model_sha256
        Of its file.
    threshold
        Faces that score less are refused.
    """

    card: str
    model_sha256: Any
    threshold: float


@dataclass(frozen=True)
class PredictedFace:
    """One face.

    Attributes
    ----------
    box_xyxy, score, landmarks_xy
        The detector's, in the photo's pixels.
    looks
        ``size``, ``sharpness``, ``turn`` and ``cut_off``, see :mod:`facezoo.looks`.
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
    looks: Mapping[str, float]
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
            **{name: round(value, 4) for name, value in self.looks.items()},
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


@dataclass(frozen=True)
class Gate:
    """What refuses a face.

    Attributes
    ----------
    looks
        Limits of size, sharpness, turn and cut; by default those that come with the package.
    scores
        Limits of networks' scores.
    embed_refused
        Embed refused faces, too.
    """

    looks: Limits = dataclasses.field(default_factory=default_limits)
    scores: Tuple[ScoreLimit, ...] = ()
    embed_refused: bool = False

    def by_looks(self, looks: Mapping[str, float]) -> List[str]:
        """Return the reasons that the looks give."""
        refused = {
            "too_small": looks["size"] < self.looks.min_size,
            "blurred": looks["sharpness"] < self.looks.min_sharpness,
            "turned": looks["turn"] > self.looks.max_turn,
            "cut_off": looks["cut_off"] > self.looks.max_cut_off,
        }
        return [name for name, is_so in refused.items() if is_so]

    def is_low(self, card: str, score: Optional[float]) -> bool:
        """Tell whether a network's score is below its limit."""
        limits = [limit.threshold for limit in self.scores if limit.card == card]
        return score is not None and any(score < limit for limit in limits)


class FacePredictor(FaceModel[PredictedPhoto]):
    """Detector, then whatever stages are given, on every face: ``photo = predictor(image_rgb)``.

    Parameters
    ----------
    detector
        A variant with five landmarks, which the alignment needs.
    landmarks, quality, embedder
        The other stages; None leaves one out. Load them with ``threads=1`` for :meth:`stream`.
    gate
        What refuses a face.

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
        gate: Optional[Gate] = None,
    ) -> None:
        super().__init__(detector.backend, detector.contract)
        if not any(name.startswith("kps") for name in detector.contract.output_names):
            raise InputError(
                f"{detector.contract.card_id} finds no landmarks, which the alignment needs; take "
                "a variant whose name ends in _bnkps"
            )
        self.detector, self.landmarks = detector, landmarks
        self.quality, self.embedder = quality, embedder
        self.gate = gate or Gate()
        for limit in self.gate.scores:
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
        return {**stages, "gate": dataclasses.asdict(self.gate)}

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
        looks = measure_face(image_rgb, box.tolist(), marks, crop)
        reasons = self.gate.by_looks(looks)
        quality = magnitude = vector = None
        if self.quality is not None:
            quality = float(self.quality(crop).value)
            if self.gate.is_low(self.quality.contract.card_id, quality):
                reasons.append("low_quality")
        if self.embedder is not None and (not reasons or self.gate.embed_refused):
            embedding = self.embedder(crop)
            magnitude, vector = embedding.norm, embedding.vector
            if self.gate.is_low(self.embedder.contract.card_id, magnitude):
                reasons.append("low_quality")
                vector = vector if self.gate.embed_refused else None
        return PredictedFace(
            box_xyxy=tuple(box.tolist()),
            score=float(faces.scores[index]),
            landmarks_xy=marks,
            looks=looks,
            points=points,
            quality=quality,
            magnitude=magnitude,
            reasons=tuple(dict.fromkeys(reasons)),
            vector=vector,
        )


def _check_limit(limit: ScoreLimit, stages: Sequence[FaceModel[Any]]) -> None:
    for stage in stages:
        if stage.contract.card_id == limit.card:
            if stage.settings().get("model_sha256") != limit.model_sha256:
                raise InputError(
                    f"the profile of {limit.card} was made with another file (sha256 "
                    f"{str(limit.model_sha256)[:12]}…); calibrate again with this one"
                )
            return
    raise InputError(f"a profile is of {limit.card}, which is no stage here; leave it out")


def read_score_limit(path: Path, name: str) -> ScoreLimit:
    """Read a threshold from a profile of ``facezoo calibrate quality``.

    Parameters
    ----------
    path
        The profile.
    name
        Of one of its thresholds, such as ``drop 5 %``.

    Raises
    ------
    InputError
        If it is no such profile, or has no threshold of that name.
    """
    profile = read_any_profile(path)
    if name not in profile.thresholds:
        known = sorted(profile.thresholds)
        raise InputError(f"{str(path)!r} has no threshold {name!r}; it has {known}")
    return ScoreLimit(profile.card, profile.model_sha256, profile.thresholds[name])


def number_people(vectors: Sequence[np.ndarray], alike: float) -> List[int]:
    """Give a number to each person among faces, in the order they are first seen.

    Parameters
    ----------
    vectors
        Embeddings, (D,) each.
    alike
        Two faces are one person's where their cosine is above this. A face joins the person of the
        most similar face before it.

    Returns
    -------
    list of int
        One a face, from 0.
    """
    people: List[int] = []
    units = np.array([v / np.linalg.norm(v.astype(np.float64)) for v in vectors], np.float64)
    for index in range(len(vectors)):
        cosines = units[:index] @ units[index]
        nearest = int(np.argmax(cosines)) if index else 0
        known = index and cosines[nearest] > alike
        people.append(people[nearest] if known else max(people, default=-1) + 1)
    return people


def find_model(text: str, model: str, **options: Any) -> FaceModel[Any]:
    """Open a stage by name or by file.

    Parameters
    ----------
    text
        A card's id, whose published weights are taken from this machine; or an artifact prefix or
        .onnx; either with ``@ort``, ``@openvino`` or ``@vsx`` behind it for an engine of its own.
    model
        Which recipe it must be of.
    options
        For :func:`facezoo.load`.

    Raises
    ------
    InputError
        If there is neither such a card nor such a file.
    """
    source, at, engine = text.rpartition("@")
    if at and engine in ENGINES:
        options["engine"] = engine
    else:
        source = text
    path = published_graph(source, model) if source in CARDS else Path(source)
    return load(model, path, **options)


def published_graph(card_id: str, model: str) -> Path:
    """Return the raw-head graph of published weights, made once and kept beside them.

    Parameters
    ----------
    card_id
        Whose weights.
    model
        Which recipe the card must be of.

    Raises
    ------
    InputError
        If it is of another, or its weights are not published as ONNX.
    WeightsMissing
        If they are not on this machine; says how to get them.
    """
    card = find_card(card_id)
    if card.model != model:
        raise InputError(f"{card_id} is a model of {card.model}; expected one of {model}")
    if not card.weights or not find_weights(card.weights).file.endswith(".onnx"):
        raise InputError(
            f"{card_id} has no published .onnx; export its checkpoint with the recipe's "
            "source_code/export_onnx.py and give the file"
        )
    released = weights.find(card.weights)
    path = weights.home() / "graphs" / f"{card_id}-{sha256_of(released)[:12]}.onnx"
    if not path.exists():
        room = importlib.import_module(f"{__package__}.models.{model}.graph")
        room.export_released(released, path)
    return path
