"""The whole chain on photos: detect, landmarks, align, quality, embed; and why a face is refused.

Any stage but the first is optional. A refused face is not embedded unless that is requested. The
faces of several photos go through each later stage in batches. A network computes each row of a
batch alike whatever the other rows are, so the result of a photo depends neither on the other
photos nor on where an interrupted run was resumed.
"""

from __future__ import annotations

import base64
import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union

import numpy as np

from ..backends.base import NETWORK_ERRORS, call_naming
from ..errors import ImageError, InputError
from ..files import counted
from ..image.align import align_face
from ..image.appearance import measure_face
from ..image.inputs import AnyImage, as_rgb
from ..models.base import FaceModel, LandmarkModel
from ..models.magface.model import FaceEmbedder
from ..models.scrfd.model import FaceDetector
from ..models.sdd_fiqa.model import FaceQuality
from ..results import Compared, Embedding, FaceDetections, Landmarks, Result, Shown
from ..workers import map_in_order
from .acceptance import Acceptance, _check_limit
from .load import load

__all__ = [
    "PredictedFace",
    "PredictedPhoto",
    "Predictor",
    "RecipePhoto",
    "in_recipe_form",
]


Outcome = TypeVar("Outcome")

# Largest number of faces in one run of a later stage. For photos with 22 to 29 faces, a stream with
# w600k_mbf on ONNX Runtime (1 MiB of second-level cache per core) took 1 : 0.97 : 1.04 : 1.05 :
# 1.07 of the processor time in batches of 1, 2, 4, 8 and 16: the tensors of two faces fit into the
# cache.
FACES_PER_BATCH = 2

# Photos of a stream that a worker takes at a time: photos with one face each fill a batch, and the
# memory for photos is at most doubled.
PHOTOS_AT_A_TIME = 2

# A photo whose best face scores less may be the wrong way up. On 78 photos of LFW and the 40 people
# of AT&T, SCRFD-500M gave 0.69 to 0.87 to upright ones and 0.50 to 0.73 to the same ones turned by
# 90, 180 or 270 degrees; turned by 180 degrees the five points look like those of an upright face.
SURE_SCORE = 0.75
# The right way up scores at least this much more.
CLEARLY_HIGHER = 0.05
# Degrees between the line from the eyes to the mouth and the vertical: at most 7 in these photos
# when upright, above 45 in five of six that lay on their side.
LARGEST_ROLL = 45.0


@dataclass(frozen=True, eq=False)
class PredictedFace(Compared):
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

    @property
    def embedding(self) -> Embedding:
        """The embedding, for :meth:`Embedding.cosine`; an InputError says why there is none."""
        if self.vector is None:
            why = (
                f"it was refused: {', '.join(self.reasons)}" if self.reasons else "no embedder ran"
            )
            raise InputError(f"this face has no embedding, since {why}")
        return Embedding(self.vector)

    def __repr__(self) -> str:
        left, top, right, bottom = self.box_xyxy
        parts = [f"box {left:.0f},{top:.0f},{right:.0f},{bottom:.0f}", f"score {self.score:.3f}"]
        parts += [f"{len(self.points)} points"] if self.points is not None else []
        parts += [f"quality {self.quality:.2f}"] if self.quality is not None else []
        parts += [f"magnitude {self.magnitude:.2f}"] if self.magnitude is not None else []
        parts += [f"refused: {', '.join(self.reasons)}"] if self.reasons else []
        return f"PredictedFace({', '.join(parts)})"

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


@dataclass(frozen=True, eq=False)
class PredictedPhoto(Shown, Compared, Result):
    """The faces of one photo, highest score first; ``photo[0]`` is a :class:`PredictedFace`.

    Attributes
    ----------
    faces
        Each with the results of all stages.
    detections
        The same faces as the detector gave them, as arrays.
    rotation
        Degrees, counter-clockwise, by which the photo was turned to find them; all coordinates are
        of the photo as given.
    """

    faces: Tuple[PredictedFace, ...]
    detections: FaceDetections
    rotation: int = 0

    @property
    def image_hw(self) -> Tuple[int, int]:
        """Height and width of the photo in pixels."""
        return self.detections.image_hw

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> PredictedFace:
        return self.faces[index]

    def __iter__(self) -> Iterator[PredictedFace]:
        return iter(self.faces)

    def __repr__(self) -> str:
        height, width = self.image_hw
        best = f", best score {self.faces[0].score:.3f}" if self.faces else ""
        return f"PredictedPhoto({counted(len(self), 'face')} in {width}x{height}{best})"

    def _rows(self) -> List[Dict[str, Any]]:
        rows = self.detections._rows()
        for row, face in zip(rows, self.faces):
            row.update(face.appearance)
            row["quality"], row["magnitude"] = face.quality, face.magnitude
            row["reasons"] = ", ".join(face.reasons)
        return rows

    def to_supervision(self) -> Any:
        """Return the boxes and scores as :meth:`FaceDetections.to_supervision` does."""
        return self.detections.to_supervision()

    def to_dict(self) -> Dict[str, Any]:
        """Return the photo as JSON values."""
        height, width = self.image_hw
        turned = {"rotation": self.rotation} if self.rotation else {}
        faces = [face.to_dict() for face in self.faces]
        return {"width": width, "height": height, **turned, "faces": faces}

    def _turned_back(self, turns: int) -> PredictedPhoto:
        """Return the result for the photo before it was turned by quarters, counter-clockwise."""
        hw = self.image_hw if turns == 2 else self.image_hw[::-1]
        found = dataclasses.replace(
            self.detections,
            boxes_xyxy=_turn_back(self.detections.boxes_xyxy.reshape(-1, 2, 2), turns, hw),
            landmarks_xy=_turn_back(self.detections.landmarks_xy, turns, hw),
            image_hw=hw,
        )
        corners = found.boxes_xyxy
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        faces = tuple(
            dataclasses.replace(
                face,
                box_xyxy=tuple(box),
                landmarks_xy=marks,
                points=face.points
                and dataclasses.replace(
                    face.points, points_xy=_turn_back(face.points.points_xy, turns, hw), image_hw=hw
                ),
            )
            for face, box, marks in zip(self.faces, boxes.tolist(), found.landmarks_xy)
        )
        return PredictedPhoto(faces, dataclasses.replace(found, boxes_xyxy=boxes), 90 * turns)


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


def in_recipe_form(result: Outcome) -> Union[Outcome, RecipePhoto]:
    """Convert a photo to the form of a recipe's results.json; return other results unchanged."""
    return RecipePhoto(result) if isinstance(result, PredictedPhoto) else result


class Predictor(FaceModel[PredictedPhoto]):
    """Detector, then the given stages on every face: ``photo = predictor("photo.jpg")``.

    Each stage is an opened model, or what :func:`facezoo.load` opens, such as a card's id.

    A single photo uses all cores; the photos of a :meth:`stream` use one each, however many threads
    the stages were loaded with.

    Parameters
    ----------
    detector
        A variant with five landmarks, unless only ``landmarks`` follows.
    landmarks, quality, embedder
        The other stages; None leaves one out.
    acceptance
        Limits of a face. None: every face is accepted, and its appearance is not measured.
    try_rotations
        Turn a photo without a sure face by 90, 180 and 270 degrees too, which takes three more
        detections, and use the way up whose best face has the highest score.

    Raises
    ------
    InputError
        If the detector has no landmarks, a stage is not a model of its kind, or a limit belongs to
        another file than a stage's.
    """

    _at_a_time = PHOTOS_AT_A_TIME

    def __init__(
        self,
        detector: Union[FaceDetector, str, Path],
        landmarks: Union[LandmarkModel, str, Path, None] = None,
        quality: Union[FaceQuality, str, Path, None] = None,
        embedder: Union[FaceEmbedder, str, Path, None] = None,
        acceptance: Optional[Acceptance] = None,
        try_rotations: bool = False,
    ) -> None:
        if detector is None:
            raise InputError("a Predictor needs a detector, such as 'scrfd_500m_bnkps'; got None")
        with ExitStack() as opened:
            self.detector: FaceDetector = _open(opened, detector, FaceDetector)
            self.landmarks: Optional[LandmarkModel] = _open(opened, landmarks, LandmarkModel)
            self.quality: Optional[FaceQuality] = _open(opened, quality, FaceQuality)
            self.embedder: Optional[FaceEmbedder] = _open(opened, embedder, FaceEmbedder)
            self.acceptance = acceptance
            self.try_rotations = try_rotations
            self._aligns = any(part is not None for part in (quality, embedder, acceptance))
            # The stages' own threads share the cores: a stream has those of the busiest stage.
            backends = [stage.backend for stage in self.stages.values()]
            super().__init__(max(backends, key=lambda one: one.workers), self.detector.contract)
            names = self.detector.contract.output_names
            if self._aligns and not any(name.startswith("kps") for name in names):
                raise InputError(
                    f"{self.detector.contract.card_id} finds no landmarks, which the alignment "
                    "needs; use a variant whose name ends in _bnkps"
                )
            for limit in acceptance.scores if acceptance else ():
                _check_limit(limit, [s for s in (self.quality, self.embedder) if s is not None])
            opened.pop_all()

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
        limits = self.acceptance and dataclasses.asdict(self.acceptance)
        turned = {"try_rotations": True} if self.try_rotations else {}
        return {**stages, "acceptance": limits, **turned}

    def close(self) -> None:
        """Free the resources of all stages, those given opened too."""
        self._closed = True
        for stage in self.stages.values():
            stage.close()

    def __reduce__(self) -> Tuple[Any, ...]:
        self._check_usable()
        stages = (self.detector, self.landmarks, self.quality, self.embedder)
        return type(self), (*stages, self.acceptance, self.try_rotations)

    def batch(
        self, images_rgb: Sequence[np.ndarray], *, shared: bool = False
    ) -> List[PredictedPhoto]:
        """Run the chain on several photos; see :meth:`FaceModel.batch`.

        The detector takes one photo after the other, the later stages the faces of all photos.
        """
        photos = [self._detect(image, shared) for image in images_rgb]
        faces = [_Face(photo, index) for photo in photos for index in range(len(photo.faces))]
        self._follow(faces, shared)
        done = iter(faces)
        return [photo.predicted(list(islice(done, len(photo.faces)))) for photo in photos]

    def _apply_to_some(
        self, images: Sequence[AnyImage], names: Sequence[str], bgr: bool
    ) -> List[Union[Tuple[np.ndarray, PredictedPhoto], ImageError]]:
        try:
            read = [as_rgb(image, bgr) for image in images]
            return list(zip(read, self.batch(read, shared=True)))
        except (ImageError, *NETWORK_ERRORS):
            # One by one, the photo at fault is named and the others keep their results.
            return super()._apply_to_some(images, names, bgr)

    def _detect(self, image_rgb: np.ndarray, shared: bool) -> _Photo:
        (faces,) = self.detector.batch([image_rgb], shared=shared)
        turns, upright, found = self._way_up(image_rgb, faces, shared)
        if turns and self.try_rotations:
            return _Photo(upright, found, turns=turns)
        return _Photo(image_rgb, faces, is_upside_down=turns == 2)

    def _way_up(
        self, image_rgb: np.ndarray, faces: FaceDetections, shared: bool
    ) -> Tuple[int, np.ndarray, FaceDetections]:
        """Return the quarter turns that make a photo upright, the turned photo, and its faces."""
        turns: Tuple[int, ...] = (1, 2, 3)
        if not self.try_rotations:
            turns = (2,) if self.acceptance is not None and len(faces) else ()
        best, limit = (0, image_rgb, faces), _best_score(faces) + CLEARLY_HIGHER
        if _best_score(faces) < SURE_SCORE:
            for number in turns:
                turned = np.ascontiguousarray(np.rot90(image_rgb, number))
                (found,) = self.detector.batch([turned], shared=shared)
                if _best_score(found) >= limit:
                    best, limit = (number, turned, found), _best_score(found)
        return best

    def _follow(self, faces: Sequence[_Face], shared: bool) -> None:
        """Run the stages after the detector on the faces of several photos."""
        if self.landmarks is not None:
            cuts = [self.landmarks.crop_of(face.box, face.photo.faces.image_hw) for face in faces]
            crops = [cut.cut(face.photo.image_rgb) for cut, face in zip(cuts, faces)]
            found = _in_batches(self.landmarks, crops, faces, shared)
            for face, cut, points in zip(faces, cuts, found):
                face.points = cut.to_photo(points)
        crops = []
        if self._aligns:
            crops = [align_face(face.photo.image_rgb, face.landmarks_xy) for face in faces]
        if self.acceptance is not None:
            for face, crop in zip(faces, crops):
                face.judge_appearance(self.acceptance, crop)
        if self.quality is not None:
            for face, quality in zip(faces, _in_batches(self.quality, crops, faces, shared)):
                face.quality = float(quality.value)
                self._refuse_low(self.quality, face, face.quality)
        if self.embedder is not None:
            wanted = [index for index, face in enumerate(faces) if self._embeds(face)]
            crops, faces = [crops[index] for index in wanted], [faces[index] for index in wanted]
            for face, embedding in zip(faces, _in_batches(self.embedder, crops, faces, shared)):
                face.magnitude = embedding.norm
                self._refuse_low(self.embedder, face, embedding.norm)
                face.vector = embedding.vector if self._embeds(face) else None

    def _embeds(self, face: _Face) -> bool:
        accepted = not face.reasons
        return accepted or (self.acceptance is not None and self.acceptance.embed_refused)

    def _refuse_low(self, stage: FaceModel[Any], face: _Face, score: float) -> None:
        if self.acceptance and self.acceptance.is_low(stage.contract.card_id, score):
            face.reasons.append("low_quality")


@dataclass(frozen=True, eq=False)
class _Photo:
    """A photo after the detector: turned the right way up, if asked for, and its faces."""

    image_rgb: np.ndarray
    faces: FaceDetections
    turns: int = 0  # Quarters, counter-clockwise.
    is_upside_down: bool = False

    def predicted(self, faces: Sequence[_Face]) -> PredictedPhoto:
        """Return the result for the photo as given."""
        photo = PredictedPhoto(tuple(face.predicted() for face in faces), self.faces)
        return photo._turned_back(self.turns) if self.turns else photo


@dataclass(eq=False)
class _Face:
    """A face on its way through the stages; see :class:`PredictedFace`."""

    photo: _Photo
    index: int
    appearance: Dict[str, float] = field(default_factory=dict)
    points: Optional[Landmarks] = None
    quality: Optional[float] = None
    magnitude: Optional[float] = None
    reasons: List[str] = field(default_factory=list)
    vector: Optional[np.ndarray] = None

    @property
    def box(self) -> List[float]:
        box: List[float] = self.photo.faces.boxes_xyxy[self.index].tolist()
        return box

    @property
    def landmarks_xy(self) -> np.ndarray:
        points: np.ndarray = self.photo.faces.landmarks_xy[self.index]
        return points

    def judge_appearance(self, acceptance: Acceptance, crop: np.ndarray) -> None:
        """Measure the face, and add the reasons to refuse it."""
        self.appearance = measure_face(self.photo.image_rgb, self.box, self.landmarks_xy, crop)
        self.reasons += acceptance.reasons_of(self.appearance)
        if self.photo.is_upside_down or abs(_roll_of(self.landmarks_xy)) > LARGEST_ROLL:
            self.reasons.append("upside_down")

    def predicted(self) -> PredictedFace:
        return PredictedFace(
            box_xyxy=tuple(self.box),
            score=float(self.photo.faces.scores[self.index]),
            landmarks_xy=self.landmarks_xy,
            appearance=self.appearance,
            points=self.points,
            quality=self.quality,
            magnitude=self.magnitude,
            reasons=tuple(dict.fromkeys(self.reasons)),
            vector=self.vector,
        )


def _best_score(faces: FaceDetections) -> float:
    return float(faces.scores[0]) if len(faces) else 0.0


def _roll_of(landmarks_xy: np.ndarray) -> float:
    """Return the degrees by which five points (5, 2) are turned against an upright face."""
    x, y = landmarks_xy[3:].mean(axis=0) - landmarks_xy[:2].mean(axis=0)
    return float(np.degrees(np.arctan2(x, y)))


def _turn_back(points_xy: np.ndarray, turns: int, image_hw: Tuple[int, int]) -> np.ndarray:
    """Map points of a photo that was turned by quarters to the photo of this size before it."""
    height, width = image_hw
    x, y = points_xy[..., 0], points_xy[..., 1]
    pair = {1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[turns]
    return np.stack(pair, axis=-1)


def _open(opened: ExitStack, stage: Any, kind: Any) -> Any:
    """Open a stage that is given by name; it is closed with the stack."""
    if isinstance(stage, (str, Path)):
        return opened.enter_context(load(stage, kind=kind))
    other = isinstance(stage, FaceModel) and not isinstance(stage, kind)
    if stage is not None and (other or not hasattr(stage, "batch")):
        raise InputError(
            f"expected a {kind.__name__}, or its name or file, got {type(stage).__name__}"
        )
    return stage


def _in_batches(
    stage: FaceModel[Outcome], crops: Sequence[np.ndarray], faces: Sequence[_Face], shared: bool
) -> List[Outcome]:
    """Apply a stage to the crops of faces; a face it fails on is named."""
    starts = range(0, len(faces), FACES_PER_BATCH)
    # One core per batch is faster than one batch after the other on all cores.
    spread = not shared and len(starts) > 1

    def run(start: int) -> List[Outcome]:
        part = slice(start, start + FACES_PER_BATCH)
        return call_naming(
            partial(stage.batch, shared=shared or spread),
            crops[part],
            [f"face {face.index}" for face in faces[part]],
        )

    results = map_in_order(run, starts, stage.backend.workers) if spread else map(run, starts)
    return list(chain.from_iterable(results))
