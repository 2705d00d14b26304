"""Comparison of two builds of a model: differences of outputs and task results, and time."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

import numpy as np

from ..backends.base import Backend, HostBackend, naming
from ..backends.replay import ReplayBackend
from ..contract import Contract
from ..datasets.widerface import photo_name, predictions_from_faces
from ..errors import ImageError, InputError
from ..files import finite
from ..image.boxes import iou_matrix, match_boxes
from ..image.files import read_image_rgb
from ..metrics.detection import GroundTruth, evaluate_detections
from ..metrics.drift import DriftSum, TensorDrift
from ..metrics.landmarks import DATASET_OF, normalized_mean_error
from ..metrics.quality import spearman
from ..models import MODELS, import_part
from ..models.scrfd.decode import PROFILES
from ..results import FaceDetections, RawOutputs
from .measured import MeasuredList

__all__ = [
    "Comparison",
    "DetectionDrift",
    "Pair",
    "compare_backends",
    "compare_detections",
    "decode_one",
    "task_drift",
    "time_in_turns",
]


SCHEMA = "facezoo.compare/1"

Found = TypeVar("Found")


@dataclass(frozen=True)
class DetectionDrift:
    """Differences of the detections of two builds over a set of images.

    Attributes
    ----------
    faces
        Number of faces of the reference.
    missed, extra
        Number of faces found only by the reference, and only by the other build.
    mean_iou
        Mean IoU of the paired faces; 1 if there are none.
    worst_corner
        Largest distance of a corner coordinate of paired faces, in image pixels.
    worst_score
        Largest difference of a score of paired faces.
    mean_score
        Mean absolute difference of their scores.
    """

    faces: int
    missed: int
    extra: int
    mean_iou: float
    worst_corner: float
    worst_score: float
    mean_score: float


def compare_detections(
    pairs: Iterable[Tuple[FaceDetections, FaceDetections]],
) -> DetectionDrift:
    """Compare the faces that two builds found in the same images.

    Parameters
    ----------
    pairs
        Faces of reference and other, one pair per image.

    Returns
    -------
    DetectionDrift
        Faces are paired by overlap of at least 0.5.
    """
    faces = missed = extra = 0
    overlaps: List[float] = []
    corners, scores = [0.0], [0.0]
    for reference, other in pairs:
        matches = match_boxes(reference.boxes_xyxy, other.boxes_xyxy)
        faces += len(reference)
        missed += len(reference) - len(matches)
        extra += len(other) - len(matches)
        for row, column in matches:
            box, found = reference.boxes_xyxy[row], other.boxes_xyxy[column]
            overlaps.append(float(iou_matrix(box[None], found[None])[0, 0]))
            corners.append(float(np.max(np.abs(box - found))))
            scores.append(float(abs(reference.scores[row] - other.scores[column])))
    mean_iou = float(np.mean(overlaps)) if overlaps else 1.0
    mean_score = sum(scores) / max(len(scores) - 1, 1)
    return DetectionDrift(faces, missed, extra, mean_iou, max(corners), max(scores), mean_score)


class Pair(NamedTuple):
    """The results of two builds for one image."""

    path: Path
    reference: Any
    other: Any

    @property
    def difference(self) -> float:
        """Amount of disagreement, to sort images; 0 if the results are equal."""
        drift = task_drift([self], {})
        grows = sum(drift.get(name, 0.0) for name in GROWS_WITH_DRIFT)
        return grows + 1.0 - drift.get("cosine_mean", 1.0)


# One of these is measured for each kind of result except embeddings.
GROWS_WITH_DRIFT = ("missed", "extra", "worst_score", "nme", "worst_change")


def decode_one(contract: Contract, raw: RawOutputs, **options: Any) -> Any:
    """Decode the outputs of one image with the decoder of the contract's model.

    Parameters
    ----------
    contract
        Gives the model and the constants of its decoder.
    raw
        Outputs of one image.
    options
        Options of the decoder, such as SCRFD's ``profile``.

    Returns
    -------
    object
        The result; None if the model is unknown.
    """
    if contract.model not in MODELS:
        return None
    decoder = import_part(contract.model, "decode")
    return decoder.decode(raw, **contract.decode, **options)[0]


def task_drift(pairs: Sequence[Pair], decode: Mapping[str, Any]) -> Dict[str, float]:
    """Compare the results of two builds with the measures of the task.

    Parameters
    ----------
    pairs
        Pairs of results of one kind.
    decode
        Constants of the contract; for landmarks they give the points that normalise errors.

    Returns
    -------
    dict
        Detections: ``faces``, ``missed``, ``extra`` and as ``missed_share``, ``extra_share`` of the
        reference's faces, ``mean_iou``, ``mean_score``, ``worst_score``, ``worst_corner``.
        Landmarks: ``nme``, ``worst_nme``. Embeddings: ``cosine_mean``, ``cosine_min``,
        ``norm_rank`` (Spearman). Qualities: ``rank`` (Spearman), ``worst_change``. Empty for
        results of other kinds.
    """
    results = [(pair.reference, pair.other) for pair in pairs]
    kind = type(results[0][0]).__name__ if results else ""
    if kind == "FaceDetections":
        drift = dataclasses.asdict(compare_detections(results))
        faces = max(drift["faces"], 1)
        shares = {f"{name}_share": drift[name] / faces for name in ("missed", "extra")}
        return {**{name: float(value) for name, value in drift.items()}, **shares}
    if kind == "Landmarks":
        return _landmark_drift(results, decode)
    if kind == "Embedding":
        cosines = [float(a.unit @ b.unit) for a, b in results]
        measured = {"cosine_mean": float(np.mean(cosines)), "cosine_min": min(cosines)}
        return {**measured, **_rank("norm_rank", [(a.norm, b.norm) for a, b in results])}
    if kind == "QualityScore":
        values = [(a.value, b.value) for a, b in results]
        return {
            "worst_change": max(abs(a - b) for a, b in values),
            **_rank("rank", values),
        }
    return {}


def _landmark_drift(
    results: Sequence[Tuple[Any, Any]], decode: Mapping[str, Any]
) -> Dict[str, float]:
    reference, other = (np.stack([pair[i].points_xy for pair in results]) for i in (0, 1))
    # A mean face of one's own says that the points are no published data set's, whatever their
    # number.
    own = not isinstance(decode.get("meanface", ""), str)
    dataset = None if own else DATASET_OF.get(reference.shape[1])
    if dataset is not None:
        errors = normalized_mean_error(other, reference, dataset)
    else:
        # Without known eye points, the diagonal of the face's points.
        size = np.linalg.norm(np.ptp(reference, axis=1), axis=1)
        errors = np.linalg.norm(other - reference, axis=2).mean(axis=1) / np.maximum(size, 1e-6)
    return {"nme": float(errors.mean()), "worst_nme": float(errors.max())}


def _rank(name: str, values: Sequence[Tuple[float, float]]) -> Dict[str, float]:
    first, second = np.array(values, np.float64).T
    return {name: spearman(first, second)} if len(values) > 1 else {}


def _ap_losses(
    faces: Sequence[Mapping[str, FaceDetections]], ground_truth: GroundTruth
) -> Dict[str, float]:
    """Return the AP points that the second set of faces loses against the first, by level."""
    truth = _part_of(ground_truth, faces[0])
    reports = [evaluate_detections(predictions_from_faces(found), truth) for found in faces]
    return {
        f"ap_{level}_loss": 100.0 * (result.ap - reports[1].levels[level].ap)
        for level, result in reports[0].levels.items()
        if result.faces
    }


def _part_of(ground_truth: GroundTruth, photos: Iterable[str]) -> GroundTruth:
    """Return the ground truth of a subset of photos."""
    row_of = {photo: row for row, photo in enumerate(ground_truth.images)}
    unknown = [photo for photo in photos if photo not in row_of]
    if unknown:
        raise InputError(
            f"the ground truth has no photo {unknown[0]!r} ({len(unknown)} such); expected "
            "images of that data set, in folders named after its events"
        )
    rows = {p: slice(*ground_truth.starts[row_of[p] : row_of[p] + 2]) for p in photos}
    return GroundTruth.from_rows(
        {photo: ground_truth.boxes_xywh[part] for photo, part in rows.items()},
        {
            level: {photo: mask[part] for photo, part in rows.items()}
            for level, mask in ground_truth.levels.items()
        },
    )


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two builds.

    Attributes
    ----------
    model
        Id of the card.
    builds
        Descriptions of the reference and the other build.
    pictures
        Number of compared images.
    refused
        Unreadable files, with the reason.
    outputs
        Output name to its drift.
    task
        See :func:`task_drift`; with ground truth also ``ap_<level>_loss`` in points.
    milliseconds
        Stage to the median of both, per image.
    pairs
        The results, in the order of the images.
    """

    model: str
    builds: Tuple[str, str]
    pictures: int
    refused: Mapping[str, str]
    outputs: Mapping[str, TensorDrift]
    task: Mapping[str, float]
    milliseconds: Mapping[str, Tuple[float, float]]
    pairs: Sequence[Pair] = field(repr=False, default=())

    @property
    def measured(self) -> MeasuredList:
        """The images that were compared."""
        paths = [pair.path for pair in self.pairs]
        return MeasuredList.of_files(paths, self.pictures + len(self.refused))

    def to_dict(self) -> Dict[str, Any]:
        """Return all fields except the results as JSON values; infinite numbers are null."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "reference": self.builds[0],
            "other": self.builds[1],
            "pictures": self.pictures,
            "measured": self.measured.to_dict(),
            "refused": dict(self.refused),
            "outputs": {
                name: finite(dataclasses.asdict(drift)) for name, drift in self.outputs.items()
            },
            "task": finite(self.task),
            "milliseconds": {stage: list(pair) for stage, pair in self.milliseconds.items()},
        }


def compare_backends(
    reference: Backend,
    other: Backend,
    paths: Iterable[Path],
    ground_truth: Optional[GroundTruth] = None,
) -> Comparison:
    """Run two builds of one model alternately over images.

    Parameters
    ----------
    reference, other
        Backends on any runtimes.
    paths
        Inputs of the model: photos for a detector, crops for the others.
    ground_truth
        Ground truth of WIDER FACE, for detectors, to measure the loss of AP on these images too.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If the two are not builds of the same model, or no image can be read.
    """
    _check_same_model(reference, other)
    runs = [_Run(reference, ground_truth is not None), _Run(other, ground_truth is not None)]
    drifts = {name: DriftSum() for name in reference.contract.output_names}
    pairs, refused = [], {}
    for path in paths:
        try:
            image = read_image_rgb(path)
        except ImageError as error:
            if ReplayBackend in map(type, (reference, other)):
                raise  # Recorded outputs are sequential; skipping one would shift the rest.
            refused[str(path)] = str(error)
            continue
        with naming(path):
            (raw_a, result_a), (raw_b, result_b) = (run(path, image) for run in runs)
        for name, drift in drifts.items():
            drift.add(raw_a.arrays[name], raw_b.arrays[name])
        pairs.append(Pair(path, result_a, result_b))
    if not pairs:
        raise InputError(f"none of {len(refused)} images can be read; expected at least one")
    task = task_drift(pairs, reference.contract.decode)
    if ground_truth is not None:
        task.update(_ap_losses([run.faces for run in runs], ground_truth))
    return Comparison(
        model=reference.contract.card_id,
        builds=(_describe(reference), _describe(other)),
        pictures=len(pairs),
        refused=refused,
        outputs={name: drift.result() for name, drift in drifts.items()},
        task=task,
        milliseconds=_median_times(runs),
        pairs=pairs,
    )


def _check_same_model(reference: Backend, other: Backend) -> None:
    a, b = reference.contract, other.contract
    if (a.model, a.output_names) != (b.model, b.output_names):
        raise InputError(
            f"{a.card_id} with outputs {', '.join(a.output_names)} and {b.card_id} with "
            f"{', '.join(b.output_names)} are not builds of the same model"
        )


def _describe(backend: Backend) -> str:
    file = getattr(backend, "model", None) or getattr(backend, "prefix", None)
    name = f"{file} on " if file else ""
    return f"{name}{backend.name} {backend.version} ({backend.device})"


class _Run:
    """One build run over the images, with the time of each stage."""

    def __init__(self, backend: Backend, evaluate: bool) -> None:
        self.backend = backend
        self.evaluate = evaluate
        self.faces: Dict[str, FaceDetections] = {}
        self.times: Dict[str, List[float]] = {}

    def __call__(self, path: Path, image_rgb: np.ndarray) -> Tuple[RawOutputs, Any]:
        if not self.times and not isinstance(self.backend, ReplayBackend):
            # The first run of a network also plans its memory, so it is not timed.
            self._infer(image_rgb)
            self.times.clear()
        raw = self._infer(image_rgb)
        contract = self.backend.contract
        result = self._timed("decode", lambda: decode_one(contract, raw))
        if self.evaluate:
            found = decode_one(contract, raw, profile=PROFILES["eval"])
            self.faces[photo_name(path.as_posix())] = found
        return raw, result

    def _infer(self, image_rgb: np.ndarray) -> RawOutputs:
        backend = self.backend
        if not isinstance(backend, HostBackend):
            return self._timed("network", lambda: backend.infer(image_rgb))
        prepared = self._timed("prepare", lambda: backend.prepare([image_rgb]))
        return self._timed("network", lambda: backend.run_tensor(*prepared))

    def _timed(self, stage: str, call: Callable[[], Found]) -> Found:
        started = time.perf_counter()
        found = call()
        self.times.setdefault(stage, []).append(time.perf_counter() - started)
        return found


def _median_times(runs: Sequence[_Run]) -> Dict[str, Tuple[float, float]]:
    stages = [stage for stage in runs[0].times if stage in runs[1].times]
    a, b = ({stage: 1e3 * statistics.median(run.times[stage]) for stage in stages} for run in runs)
    return {stage: (round(a[stage], 3), round(b[stage], 3)) for stage in stages}


def time_in_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int = 15,
    clock: Callable[[], float] = time.perf_counter,
) -> Dict[str, float]:
    """Time calls in alternation, so that other load on the machine affects all of them.

    Parameters
    ----------
    calls
        Name to the function to time.
    rounds
        Calls of each, after two warm-up calls.
    clock
        Returns seconds; ``time.process_time`` does not count what other programs take.

    Returns
    -------
    dict
        Name to the median in milliseconds.
    """
    times: Dict[str, List[float]] = {name: [] for name in calls}
    for _ in range(rounds + 2):
        for name, call in calls.items():
            started = clock()
            call()
            times[name].append(clock() - started)
    return {name: 1e3 * statistics.median(values[2:]) for name, values in times.items()}
