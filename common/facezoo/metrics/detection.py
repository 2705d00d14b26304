"""Average precision of face detections by the WIDER FACE protocol.

The protocol of all published WIDER FACE numbers, with definitions for the cases it leaves open:

- Boxes are ``x y width height``; both ends count as pixels, so sides are one pixel longer than
  their difference and a box of size zero covers one pixel.
- A detection belongs to the face that it overlaps most (the first of equals), if the intersection
  over union reaches ``iou_threshold``. A face is found by any detection that belongs to it; further
  ones are not counted as false.
- Each level (easy, medium, hard) counts some of the faces. Detections that belong to another face
  are ignored at that level; those that belong to none are false positives.
- Scores are stretched to 0 to 1 over the whole set (the range always holds 1 as an upper bound of
  the lowest and 0 as a lower bound of the highest score), and the curve is taken at 1000 equal
  steps. Only scores decide, not the order of the boxes. If all scores are equal, all boxes reach
  every step.
- Average precision is the area under the falling envelope of the curve (VOC 2010). Precision
  before the first detection is 1. A level without faces has no average precision: it is NaN.
- An image without predictions has no detections; an image without faces is left out. Predictions
  for images that are not in the ground truth only affect the range of scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Collection, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..errors import InputError

try:
    from ._detection_kernel import match_boxes as _match_compiled
except ImportError:  # Installed without a C compiler; the NumPy kernel gives the same numbers.
    _match_compiled = None

__all__ = [
    "KERNEL",
    "KERNELS",
    "DetectionReport",
    "GroundTruth",
    "LevelReport",
    "Predictions",
    "average_precision",
    "evaluate_detections",
]

STEPS = 1000  # source: VastModelZOO@43aff36 cv/face_detection/common/eval/evaluation.py thresh_num
USUAL_LOWEST_SCORE = 0.05  # Above the 0.02 of all published SCRFD numbers, with a margin.
MOST_PIXELS = 1e8  # Larger coordinates are not pixels, and their overlaps would be rounding noise.
PAIRS_AT_ONCE = 1 << 17  # Bounds the working memory of the NumPy kernel to about ten megabytes.
IMAGES_AT_ONCE = 4096  # Images whose curves are added at a time; 32 MB.
ROUNDS_AT_ONCE = 200  # Bounds the memory of the resampling.


@dataclass(frozen=True)
class Predictions:
    """The detections of a set of images, as flat arrays.

    Attributes
    ----------
    images
        Names as ``event/image``, without file suffix, unique.
    starts
        Shape (len(images) + 1,), int64; image ``i`` owns the rows ``starts[i]:starts[i + 1]``.
    boxes_xywh
        Shape (N, 4), float64: left, top, width, height in original pixels.
    scores
        Shape (N,), float64; higher means more confident.
    """

    images: Tuple[str, ...]
    starts: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray

    @classmethod
    def from_rows(cls, rows: Mapping[str, np.ndarray]) -> Predictions:
        """Join one (n, 5) array of ``left top width height score`` per image; n may be 0.

        Examples
        --------
        >>> one = Predictions.from_rows({"0--Parade/a": np.array([[1, 2, 30, 40, 0.9]])})
        >>> one.starts.tolist(), one.scores.tolist()
        ([0, 1], [0.9])
        """
        starts, joined = _joined(rows, columns=5)
        return cls(tuple(rows), starts, joined[:, :4].copy(), joined[:, 4].copy())


@dataclass(frozen=True)
class GroundTruth:
    """The annotated faces of a set of images, as flat arrays.

    Attributes
    ----------
    images, starts, boxes_xywh
        As in :class:`Predictions`.
    levels
        Level name to shape (N,), bool: whether a face counts at this level.
    """

    images: Tuple[str, ...]
    starts: np.ndarray
    boxes_xywh: np.ndarray
    levels: Mapping[str, np.ndarray]

    @classmethod
    def from_rows(
        cls, boxes_xywh: Mapping[str, np.ndarray], levels: Mapping[str, Mapping[str, np.ndarray]]
    ) -> GroundTruth:
        """Join one (n, 4) array of boxes per image, and per level and image one (n,) mask."""
        starts, boxes = _joined(boxes_xywh, columns=4)
        joined_levels = {}
        for level, masks in levels.items():
            columns = {image: np.reshape(masks[image], (-1, 1)) for image in boxes_xywh}
            level_starts, mask = _joined(columns, columns=1)
            if not np.array_equal(level_starts, starts):
                raise InputError(f"level {level!r} must have one entry per box of each image")
            joined_levels[level] = mask[:, 0].astype(bool)
        return cls(tuple(boxes_xywh), starts, boxes, joined_levels)

    def only(self, images: Collection[str]) -> GroundTruth:
        """Return the ground truth of those of its images that are among the given ones."""
        kept = np.array([image in images for image in self.images], bool)
        counts = np.diff(self.starts)
        rows = np.repeat(kept, counts)
        return GroundTruth(
            tuple(image for image, keep in zip(self.images, kept) if keep),
            np.concatenate([[0], np.cumsum(counts[kept])]),
            self.boxes_xywh[rows],
            {level: mask[rows] for level, mask in self.levels.items()},
        )


@dataclass(frozen=True)
class LevelReport:
    """Precision-recall curve of one level and the numbers derived from it.

    Attributes
    ----------
    ap
        Average precision in [0, 1], higher is better; NaN if no face counts at this level.
    faces
        Number of faces that count.
    recall, precision
        Shape (1000,), float64 in [0, 1], from the highest score step to the lowest.
    event_ap
        Event to its average precision (NaN where no face counts); empty unless requested.
    ap_interval
        95 % interval of ``ap`` over resampled images; None unless requested.
    """

    ap: float
    faces: int
    recall: np.ndarray
    precision: np.ndarray
    event_ap: Mapping[str, float] = field(default_factory=dict)
    ap_interval: Optional[Tuple[float, float]] = None


@dataclass(frozen=True)
class DetectionReport:
    """Result of :func:`evaluate_detections` with its settings.

    Attributes
    ----------
    levels
        Level name to its :class:`LevelReport`, in the ground truth's order.
    images, faces, detections
        Counts in the ground truth and the predictions.
    score_range
        Lowest and highest score as given; None without detections.
    missing_images
        Images of the ground truth without predictions, counted as empty.
    unknown_images
        Images of the predictions that are not in the ground truth.
    warnings
        Sentences about predictions that are probably wrong.
    iou_threshold, kernel, bootstrap, seed
        The settings.
    """

    levels: Mapping[str, LevelReport]
    images: int
    faces: int
    detections: int
    score_range: Optional[Tuple[float, float]]
    missing_images: Tuple[str, ...]
    unknown_images: Tuple[str, ...]
    warnings: Tuple[str, ...]
    iou_threshold: float
    kernel: str
    bootstrap: int
    seed: int


@dataclass(frozen=True)
class _Tally:
    """Data of the curves: one entry per detection and one per found face.

    ``*_image`` is the index of the image in the ground truth, ``*_step`` the first step of the
    score at which the entry counts, and the masks select the levels at which it counts.
    """

    box_image: np.ndarray
    box_step: np.ndarray
    box_counts: Dict[str, np.ndarray]
    face_image: np.ndarray
    face_step: np.ndarray
    face_counts: Dict[str, np.ndarray]
    faces_of_image: Dict[str, np.ndarray]


def evaluate_detections(
    predictions: Predictions,
    ground_truth: GroundTruth,
    *,
    iou_threshold: float = 0.5,
    per_event: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
    kernel: str = "",
) -> DetectionReport:
    """Compute average precision at each level by the WIDER FACE protocol (see the module).

    Parameters
    ----------
    predictions, ground_truth
        Matched by image name; the order of images and of boxes does not matter.
    iou_threshold
        Smallest intersection over union of a hit, in (0, 1].
    per_event
        Also compute the average precision per event, with the score range of the whole set.
    bootstrap
        Number of resampled image lists for the 95 % intervals; 0 for none. The score range stays
        that of the whole set.
    seed
        Seed of the resampling.
    kernel
        Key of :data:`KERNELS`; :data:`KERNEL` by default. All give the same numbers.

    Returns
    -------
    DetectionReport
        Average precision and curves; higher is better.

    Raises
    ------
    InputError
        If arrays do not fit together, an image is named twice, a number is not finite, a box has
        a negative size, or a setting is out of range.

    References
    ----------
    .. [1] Yang et al., *WIDER FACE: A Face Detection Benchmark*, arXiv:1511.06523.
    .. [2] VastModelZOO@43aff36, ``cv/face_detection/common/eval/evaluation.py``.
    """
    kernel = kernel or KERNEL
    _check_settings(iou_threshold, bootstrap, kernel)
    _check_arrays("predictions", predictions.images, predictions.starts, predictions.boxes_xywh)
    _check_arrays("ground truth", ground_truth.images, ground_truth.starts, ground_truth.boxes_xywh)
    _check_columns(predictions, ground_truth)

    tally = _tally(predictions, ground_truth, iou_threshold, KERNELS[kernel])
    levels = {}
    for level in ground_truth.levels:
        (recall,), (precision,) = _curves(tally, level)
        levels[level] = LevelReport(
            ap=average_precision(recall, precision),
            faces=int(tally.faces_of_image[level].sum()),
            recall=recall,
            precision=precision,
            event_ap=_event_aps(tally, level, ground_truth.images) if per_event else {},
            ap_interval=_interval(tally, level, bootstrap, seed) if bootstrap else None,
        )
    scores = predictions.scores
    score_range = (float(scores.min()), float(scores.max())) if len(scores) else None
    known, given = set(ground_truth.images), set(predictions.images)
    return DetectionReport(
        levels=levels,
        images=len(ground_truth.images),
        faces=len(ground_truth.boxes_xywh),
        detections=len(scores),
        score_range=score_range,
        missing_images=tuple(name for name in ground_truth.images if name not in given),
        unknown_images=tuple(name for name in predictions.images if name not in known),
        warnings=tuple(_warnings(levels, score_range, len(given & known) / max(len(known), 1))),
        iou_threshold=iou_threshold,
        kernel=kernel,
        bootstrap=bootstrap,
        seed=seed,
    )


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Return the area under the falling envelope of a precision-recall curve.

    Parameters
    ----------
    recall, precision
        Shape (T,), float64 in [0, 1]; ``recall`` never falls.

    Returns
    -------
    float
        In [0, 1], higher is better; NaN if ``recall`` is.

    Examples
    --------
    >>> average_precision(np.array([0.5, 1.0]), np.array([1.0, 0.5]))
    0.75
    """
    if np.isnan(recall).any():
        return float("nan")
    recalls = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]
    rises = np.flatnonzero(recalls[1:] != recalls[:-1])
    return float(np.sum((recalls[rises + 1] - recalls[rises]) * envelope[rises]))


# From boxes to steps ---------------------------------------------------------------------------


def _tally(
    predictions: Predictions,
    ground_truth: GroundTruth,
    iou_threshold: float,
    match: Callable[..., np.ndarray],
) -> _Tally:
    face_image = _image_of_row(ground_truth.starts)
    index_of = {name: index for index, name in enumerate(ground_truth.images)}
    index = np.array([index_of.get(name, -1) for name in predictions.images], np.int64)
    # An image without annotated faces is left out like an unknown one (the last entry).
    index[np.append(np.diff(ground_truth.starts), 0)[index] == 0] = -1
    image = index[_image_of_row(predictions.starts)]
    step = _first_steps(predictions.scores)

    known = image >= 0
    image, step = image[known], step[known]
    faces = _corners(ground_truth.boxes_xywh)
    boxes = _corners(predictions.boxes_xywh[known])
    matched = _match_sorted(boxes, image, faces, ground_truth.starts, iou_threshold, match)

    hit = matched >= 0
    found_at = np.full(len(faces), STEPS)
    np.minimum.at(found_at, matched[hit], step[hit])
    found = found_at < STEPS
    levels = ground_truth.levels
    return _Tally(
        box_image=image,
        box_step=step,
        box_counts={name: ~hit | _taken(counts, matched) for name, counts in levels.items()},
        face_image=face_image[found],
        face_step=found_at[found],
        face_counts={name: counts[found] for name, counts in levels.items()},
        faces_of_image={
            name: np.bincount(face_image[counts], minlength=len(ground_truth.images))
            for name, counts in levels.items()
        },
    )


def _taken(counts: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """Return ``counts[matched]``; arbitrary where nothing matched; allows empty ``counts``."""
    return np.asarray(np.append(counts, False)[matched])


def _first_steps(scores: np.ndarray) -> np.ndarray:
    """Return for each score the first of the descending steps that it reaches, 0 to 999."""
    scores = np.asarray(scores, np.float64)
    lowest, highest = scores.min(initial=1.0), scores.max(initial=0.0)
    if highest == lowest:
        return np.zeros(len(scores), np.int64)
    steps = 1 - np.arange(1, STEPS + 1) / STEPS
    normalised = (scores - lowest) / (highest - lowest)
    return np.asarray(STEPS - np.searchsorted(steps[::-1], normalised, side="right"))


def _match_sorted(
    boxes: np.ndarray,
    image: np.ndarray,
    faces: np.ndarray,
    starts: np.ndarray,
    iou_threshold: float,
    match: Callable[..., np.ndarray],
) -> np.ndarray:
    """Sort the faces of each image by left edge, as the kernels expect, and match."""
    order = np.lexsort((faces[:, 0], _image_of_row(starts)))
    starts = np.ascontiguousarray(starts, np.int64)
    return match(boxes, image, np.ascontiguousarray(faces[order]), starts, order, iou_threshold)


def match_boxes_numpy(
    boxes: np.ndarray,
    image_of_box: np.ndarray,
    faces: np.ndarray,
    starts: np.ndarray,
    original: np.ndarray,
    iou_threshold: float,
) -> np.ndarray:
    """Find for each box the face of the same image that it overlaps most.

    A face can only reach the threshold ``t`` if it covers the share ``t`` of the box's width and
    the box that of the face's. For a box ``w`` wide, the face's left edge is therefore at most
    ``w / t - w`` to the left and ``w - t * w`` to the right of the box's (one pixel is added for
    rounding). Faces outside this window are skipped.

    Parameters
    ----------
    boxes
        Shape (N, 4), float64: left, top, right, bottom.
    image_of_box
        Shape (N,), int64.
    faces
        Shape (G, 4), float64, as ``boxes``; image after image, each sorted by its left edge.
    starts
        Shape (images + 1,), int64; image ``i`` owns the faces ``starts[i]:starts[i + 1]``.
    original
        Shape (G,), int64: each face's row before sorting, which decides between equals.
    iou_threshold
        In (0, 1].

    Returns
    -------
    numpy.ndarray
        Shape (N,), int64: the original row of the face, or -1 where none reaches the threshold.
    """
    left, width = boxes[:, 0], boxes[:, 2] - boxes[:, 0] + 1
    window_start = left - (width / iou_threshold - width) - 1
    window_end = left + (width - iou_threshold * width) + 1
    # Complex numbers sort by their real part, then by their imaginary part.
    keys = _complex(_image_of_row(starts), faces[:, 0])
    low = np.searchsorted(keys, _complex(image_of_box, window_start), side="left")
    high = np.searchsorted(keys, _complex(image_of_box, window_end), side="right")

    matched = np.full(len(boxes), -1, np.int64)
    for block in _blocks(high - low):
        box, face = _pairs(block, low, high)
        overlap = _overlaps(boxes[box], faces[face])
        hit = overlap >= iou_threshold
        box, face, overlap = box[hit], original[face[hit]], overlap[hit]
        order = np.lexsort((face, -overlap, box))
        box, first = np.unique(box[order], return_index=True)
        matched[box] = face[order][first]
    return matched


def _match_boxes_cython(
    boxes: np.ndarray,
    image_of_box: np.ndarray,
    faces: np.ndarray,
    starts: np.ndarray,
    original: np.ndarray,
    iou_threshold: float,
) -> np.ndarray:
    matched = np.empty(len(boxes), np.int64)
    _match_compiled(boxes, image_of_box, faces, starts, original, iou_threshold, matched)
    return matched


KERNELS: Dict[str, Callable[..., np.ndarray]] = {"numpy": match_boxes_numpy}
"""Available kernels by name; ``cython`` is missing if it could not be built."""
if _match_compiled is not None:
    KERNELS["cython"] = _match_boxes_cython

KERNEL: str = "cython" if "cython" in KERNELS else "numpy"
"""The default kernel."""


def _complex(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    joined = np.empty(len(real), np.complex128)
    joined.real, joined.imag = real, imaginary
    return joined


def _blocks(counts: np.ndarray) -> Iterator[slice]:
    """Cut the boxes into runs of at most ``PAIRS_AT_ONCE`` pairs (or of one box)."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")))
        yield slice(start, stop)
        start = stop


def _pairs(block: slice, low: np.ndarray, high: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """List all pairs of a box in ``block`` and a face in ``low[box]:high[box]``."""
    counts = high[block] - low[block]
    box = np.repeat(np.arange(block.start, block.stop), counts)
    before = np.cumsum(counts) - counts
    return box, np.arange(len(box)) + np.repeat(low[block] - before, counts)


def _overlaps(boxes: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each pair of rows (left, top, right, bottom)."""
    width = np.minimum(boxes[:, 2], faces[:, 2]) - np.maximum(boxes[:, 0], faces[:, 0]) + 1
    height = np.minimum(boxes[:, 3], faces[:, 3]) - np.maximum(boxes[:, 1], faces[:, 1]) + 1
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # An annotated size may be negative.
        return np.asarray(overlap / (_areas(boxes) + _areas(faces) - overlap))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1))


# From steps to numbers -------------------------------------------------------------------------


def _curves(
    tally: _Tally, level: str, weights: Optional[np.ndarray] = None
) -> Tuple[np.ndarray, np.ndarray]:
    """Return recall and precision at each step, one row for each row of ``weights``.

    ``weights`` has shape (R, images) and says how often an image counts; by default once.
    """
    boxes, faces = tally.box_counts[level], tally.face_counts[level]
    proposed = _reached(tally.box_image[boxes], tally.box_step[boxes], weights)
    found = _reached(tally.face_image[faces], tally.face_step[faces], weights)
    faces_of_image = tally.faces_of_image[level]
    total = faces_of_image.sum() if weights is None else weights @ faces_of_image
    with np.errstate(invalid="ignore"):
        recall = found / np.reshape(total, (-1, 1))
    return recall, np.where(proposed > 0, found / np.maximum(proposed, 1), 1.0)


def _reached(image: np.ndarray, step: np.ndarray, weights: Optional[np.ndarray]) -> np.ndarray:
    """Count the entries that have appeared by each step, one row for each row of ``weights``."""
    if weights is None:
        return np.cumsum(np.bincount(step, minlength=STEPS))[None]
    reached = np.zeros((len(weights), STEPS))
    for first in range(0, weights.shape[1], IMAGES_AT_ONCE):
        some = weights[:, first : first + IMAGES_AT_ONCE]
        inside = (image >= first) & (image < first + IMAGES_AT_ONCE)
        cells = (image[inside] - first) * STEPS + step[inside]
        counts = np.bincount(cells, minlength=some.shape[1] * STEPS).reshape(-1, STEPS)
        reached += some @ counts.astype(np.float64)
    return np.cumsum(reached, axis=1)


def _average_precisions(
    tally: _Tally, level: str, weights: Optional[np.ndarray] = None
) -> List[float]:
    return [average_precision(*curve) for curve in zip(*_curves(tally, level, weights))]


def _event_aps(tally: _Tally, level: str, images: Sequence[str]) -> Dict[str, float]:
    event_of_image = np.array([name.rpartition("/")[0] for name in images])
    events = list(dict.fromkeys(event_of_image.tolist()))
    weights = np.array([event_of_image == event for event in events], float)
    return dict(zip(events, _average_precisions(tally, level, weights)))


def _interval(tally: _Tally, level: str, rounds: int, seed: int) -> Tuple[float, float]:
    # The same seed for each level: all use the same resampled lists, so intervals are comparable.
    generator = np.random.default_rng(seed)
    images = len(tally.faces_of_image[level])
    aps: List[float] = []
    for done in range(0, rounds, ROUNDS_AT_ONCE):
        drawn = generator.integers(0, images, (min(ROUNDS_AT_ONCE, rounds - done), images))
        weights = np.array([np.bincount(row, minlength=images) for row in drawn], float)
        aps += _average_precisions(tally, level, weights)
    if np.isnan(aps).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(aps, [2.5, 97.5])
    return float(low), float(high)


def _warnings(
    levels: Mapping[str, LevelReport], score_range: Optional[Tuple[float, float]], share: float
) -> Iterator[str]:
    """Yield what is probably wrong with predictions for a share of the images."""
    if score_range is None:
        yield "there are no detections"
    elif all(report.ap < 0.01 * share for report in levels.values()):
        yield (
            "few boxes overlap a face; boxes must be left, top, width, height (not two corners) "
            "in pixels of the original photo"
        )
    elif score_range[0] > USUAL_LOWEST_SCORE:
        ends = ", ".join(f"{report.recall[-1]:.3f} {name}" for name, report in levels.items())
        costs = ", ".join(f"{_lost(report):.1f} {name}" for name, report in levels.items())
        yield (
            f"the lowest score is {score_range[0]:.4g}, so the curves end at recall {ends}; "
            f"this can cost up to {costs} points; run the detector with a score threshold of 0.02"
        )


def _lost(report: LevelReport) -> float:
    """Points of AP lost after the end of a curve, assuming constant precision from there."""
    return float(100 * (1 - report.recall[-1]) * report.precision[-1])


# Checks and small helpers ----------------------------------------------------------------------


def _check_settings(iou_threshold: float, bootstrap: int, kernel: str) -> None:
    if not 0 < iou_threshold <= 1:
        raise InputError(f"iou_threshold is {iou_threshold}; expected more than 0 and at most 1")
    if bootstrap < 0:
        raise InputError(f"bootstrap is {bootstrap}; expected the number of resamplings, or 0")
    if kernel not in KERNELS:
        raise InputError(f"kernel {kernel!r} is not available; choose one of {', '.join(KERNELS)}")


def _check_arrays(what: str, images: Sequence[str], starts: np.ndarray, boxes: np.ndarray) -> None:
    rows = len(boxes)
    if boxes.shape != (rows, 4):
        raise InputError(f"{what}: boxes_xywh must have shape (N, 4), got {boxes.shape}")
    sizes = np.diff(starts)
    if len(sizes) != len(images) or starts[0] != 0 or starts[-1] != rows or (sizes < 0).any():
        raise InputError(
            f"{what}: starts must rise from 0 to {rows} in {len(images)} steps, one per image"
        )
    if len(set(images)) != len(images):
        twice = next(name for index, name in enumerate(images) if name in images[:index])
        raise InputError(f"{what}: image {twice!r} occurs twice; expected each image once")
    good = (np.abs(boxes) < MOST_PIXELS).all(axis=1)
    if what == "predictions":
        good &= (boxes[:, 2:] >= 0).all(axis=1)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"{what}: image {_name_of_row(images, starts, row)!r} has the box "
            f"{boxes[row].tolist()}; expected finite x, y, width (not negative), height in pixels"
        )


def _check_columns(predictions: Predictions, ground_truth: GroundTruth) -> None:
    if not ground_truth.images:
        raise InputError("the ground truth has no images; expected at least one")
    scores = predictions.scores
    if scores.shape != (len(predictions.boxes_xywh),):
        raise InputError(
            f"predictions: scores must have shape ({len(predictions.boxes_xywh)},), "
            f"one per box, got {scores.shape}"
        )
    finite = np.isfinite(scores)
    if not finite.all():
        row = int(np.argmin(finite))
        name = _name_of_row(predictions.images, predictions.starts, row)
        raise InputError(
            f"predictions: image {name!r} has the score {scores[row]}; expected finite"
        )
    for level, mask in ground_truth.levels.items():
        if mask.shape != (len(ground_truth.boxes_xywh),) or mask.dtype != bool:
            raise InputError(
                f"ground truth: level {level!r} must be a mask of shape "
                f"({len(ground_truth.boxes_xywh)},), got {mask.dtype} {mask.shape}"
            )


def _name_of_row(images: Sequence[str], starts: np.ndarray, row: int) -> str:
    return images[int(np.searchsorted(starts, row, side="right")) - 1]


def _image_of_row(starts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _corners(boxes_xywh: np.ndarray) -> np.ndarray:
    corners = np.array(boxes_xywh, np.float64, order="C")
    corners[:, 2:] += corners[:, :2]
    return corners


def _joined(rows: Mapping[str, np.ndarray], columns: int) -> Tuple[np.ndarray, np.ndarray]:
    for image, array in rows.items():
        if np.size(array) and (np.ndim(array) != 2 or np.shape(array)[1] != columns):
            raise InputError(
                f"image {image!r}: expected an array of shape (n, {columns}), got {np.shape(array)}"
            )
    arrays = [np.reshape(array, (-1, columns)) for array in rows.values()]
    starts = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
    return starts, np.concatenate([np.zeros((0, columns)), *arrays])
