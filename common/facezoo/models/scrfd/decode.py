"""Decoder of SCRFD: from raw maps to faces in pixels of the image.

Scores are logits, distances are in strides, cells lie at multiples of the stride. Thresholds are
applied to the logits, so that the sigmoid and the boxes are computed only for the candidates left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Mapping, Sequence, Tuple

import numpy as np

from ...errors import DecodeError
from ...results import FaceDetections, Placement, RawOutputs

__all__ = ["PROFILES", "Profile", "decode", "non_maximum_suppression"]


@dataclass(frozen=True)
class Profile:
    """Thresholds and rounding of detections.

    Attributes
    ----------
    score_threshold
        Lowest score kept.
    nms_iou
        Of two boxes that overlap more than this the one with the lower score is dropped.
    rounded
        Round boxes to whole pixels before the suppression, as the vendor's runner does.
    retry_border
        An image without a face is tried again with a border of this share of its sides; 0 for no
        retry.
    """

    score_threshold: float
    nms_iou: float
    rounded: bool = False
    retry_border: float = 0.0


PROFILES: Mapping[str, Profile] = {
    # source: insightface@7fadd42 configs/scrfd/scrfd_500m.py test_cfg
    "eval": Profile(score_threshold=0.02, nms_iou=0.45),
    # source: insightface@7fadd42 detection/scrfd/tools/scrfd.py, SCRFD.detect and nms_thresh
    "demo": Profile(score_threshold=0.5, nms_iou=0.4, retry_border=0.25),
    # source: VastModelZOO@43aff36 cv/face_detection/scrfd/build_in/vsx/python/scrfd_vsx.py
    "vendor": Profile(score_threshold=0.5, nms_iou=0.45, rounded=True),
}


def decode(
    raw: RawOutputs,
    *,
    strides: Sequence[int],
    anchors_per_cell: int,
    profile: Profile = PROFILES["demo"],
) -> List[FaceDetections]:
    """Decode the raw maps of a batch to faces.

    Parameters
    ----------
    raw
        ``score_s`` (B, A, H/s, W/s), ``bbox_s`` (B, 4 A, H/s, W/s) and, if the network has them,
        ``kps_s`` (B, 10 A, H/s, W/s) for each stride s and A anchors per cell; logits and
        distances in strides.
    strides, anchors_per_cell
        Constants of the model's contract.
    profile
        Thresholds.

    Returns
    -------
    list of FaceDetections
        One per image, highest score first, clipped to the image.

    Raises
    ------
    DecodeError
        If a map is missing or its shape does not match its stride and the input size.

    References
    ----------
    .. [1] Guo et al., *Sample and Computation Redistribution for Efficient Face Detection*,
       arXiv:2105.04714.
    .. [2] insightface@7fadd42, ``detection/scrfd/tools/scrfd.py``.
    """
    landmarks = f"kps_{strides[0]}" in raw.arrays
    for name, stride, size in _heads(strides, anchors_per_cell, landmarks):
        _check_map(raw, name, stride, size)
    return [
        _decode_one(raw, index, placement, strides, anchors_per_cell, landmarks, profile)
        for index, placement in enumerate(raw.placements)
    ]


def _heads(strides: Sequence[int], anchors: int, landmarks: bool) -> List[Tuple[str, int, int]]:
    sizes = {"score": 1, "bbox": 4, **({"kps": 10} if landmarks else {})}
    return [(f"{h}_{s}", s, n * anchors) for h, n in sizes.items() for s in strides]


def _check_map(raw: RawOutputs, name: str, stride: int, channels: int) -> None:
    if name not in raw.arrays:
        raise DecodeError(f"output {name!r} not found; there are {sorted(raw.arrays)}")
    height, width = raw.placements[0].input_hw
    expected = (len(raw.placements), channels, height // stride, width // stride)
    if raw.arrays[name].shape != expected:
        raise DecodeError(
            f"output {name!r} must have shape {expected} for an input of {width}x{height}, got "
            f"{raw.arrays[name].shape}; run the network at that input size"
        )


def _decode_one(
    raw: RawOutputs,
    index: int,
    placement: Placement,
    strides: Sequence[int],
    anchors: int,
    landmarks: bool,
    profile: Profile,
) -> FaceDetections:
    # The threshold as a logit, slightly lower, since the exact comparison follows on the scores.
    threshold = profile.score_threshold
    cut = np.log(threshold / (1.0 - threshold)) - 1e-4 if 0.0 < threshold < 1.0 else -np.inf
    heads = [("bbox", 4), *([("kps", 10)] if landmarks else [])]
    logits, rows = [np.zeros(0, np.float32)], [np.zeros((0, 16 if landmarks else 6), np.float32)]
    for stride in strides:
        maps = raw.arrays[f"score_{stride}"][index]
        highest = maps.max()
        if not np.isfinite(highest):
            # All comparisons with NaN are false, so it would look like an image without faces.
            what = "NaN" if np.isnan(highest) else str(highest)
            raise DecodeError(f"output 'score_{stride}' holds {what}; check the weights and input")
        # The faces of an image are rarely found at all strides.
        if highest < cut:
            continue
        found = np.flatnonzero(maps >= cut)
        anchor, cell = np.divmod(found, maps[0].size)
        # Location first, anchor last: the authors' order of candidates.
        order = np.argsort(cell * anchors + anchor)
        anchor, cell = anchor[order], cell[order]
        logits.append(maps.reshape(anchors, -1)[anchor, cell])
        picked = [
            raw.arrays[f"{head}_{stride}"][index].reshape(anchors, size, -1)[anchor, :, cell]
            for head, size in heads
        ]
        y, x = np.divmod(cell[:, None], maps.shape[2])
        rows.append(np.concatenate([x, y, *picked], axis=1, dtype=np.float32) * stride)
    scores = 1.0 / (1.0 + np.exp(-np.concatenate(logits)))
    order = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= threshold)]
    scores, cells = scores[order], np.concatenate(rows)[order]
    centres = cells[:, :2]
    corners = np.concatenate([centres - cells[:, 2:4], centres + cells[:, 4:6]], axis=1)
    boxes = placement.undo(corners.reshape(-1, 2, 2)).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise DecodeError("outputs 'bbox_*' are not finite where faces are; check the weights")
    if profile.rounded:
        # The vendor's runner clips and rounds before the suppression.
        boxes = np.round(_clip(boxes, placement.image_hw))
    kept = non_maximum_suppression(boxes, profile.nms_iou)
    offsets = cells[kept][:, 6:].reshape(len(kept), 5 if landmarks else 0, 2)
    points = placement.undo(centres[kept][:, None] + offsets)
    if not np.isfinite(points).all():
        raise DecodeError("outputs 'kps_*' are not finite where faces are; check the weights")
    return FaceDetections(
        boxes_xyxy=_clip(boxes[kept], placement.image_hw),
        scores=scores[kept],
        landmarks_xy=points,
        image_hw=placement.image_hw,
    )


def _clip(boxes_xyxy: np.ndarray, image_hw: Tuple[int, int]) -> np.ndarray:
    height, width = image_hw
    limit = np.array([width, height, width, height], np.float32)
    return np.asarray(np.clip(boxes_xyxy, 0.0, limit))


def non_maximum_suppression(boxes_xyxy: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Non-maximum suppression: drop boxes that overlap a better one.

    Parameters
    ----------
    boxes_xyxy
        Shape (N, 4), float, best first; a box with corners a and b covers b - a + 1 pixels, as in
        the authors' code.
    iou_threshold
        Boxes that overlap an earlier kept box by more than this are dropped.

    Returns
    -------
    numpy.ndarray
        Indices of the kept boxes, ascending, int64.
    """
    left, top, right, bottom = np.ascontiguousarray(boxes_xyxy.T, dtype=np.float32)
    order = np.argsort(left, kind="stable")
    left, top, right, bottom = (side[order] for side in (left, top, right, bottom))
    # Sorted by left edge, the boxes that share a column with a box follow it without a gap.
    start = np.arange(1, len(order) + 1)
    count = np.maximum(np.searchsorted(left, right + 1.0) - start, 0)
    pairs = int(count.sum())
    sides = (left, top, right, bottom)
    if pairs > MOST_PAIRS:
        return _suppress_one_by_one(sides, np.argsort(order), order, iou_threshold)
    second = np.arange(pairs) + np.repeat(start - np.cumsum(count) + count, count)
    # Most of these pairs share no row; two comparisons exclude them without arithmetic.
    same_rows = np.repeat(bottom + 1.0, count) > top[second]
    same_rows &= bottom[second] + 1.0 > np.repeat(top, count)
    first, second = np.repeat(start - 1, count)[same_rows], second[same_rows]
    hit = _overlap(sides, first, second, iou_threshold)
    one, other = order[first[hit]], order[second[hit]]
    return _resolve(len(order), np.minimum(one, other), np.maximum(one, other))


# With more pairs of boxes in the same columns than this the boxes are dense, and a sequential pass
# is faster, since each kept box removes many.
MOST_PAIRS = 3_000_000

Sides = Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _overlap(sides: Sides, a: np.ndarray, b: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Return which boxes a overlap their boxes b by more than the threshold."""
    left, top, right, bottom = sides
    width = np.minimum(right[a], right[b]) - np.maximum(left[a], left[b]) + 1.0
    height = np.minimum(bottom[a], bottom[b]) - np.maximum(top[a], top[b]) + 1.0
    shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    area = (right - left + 1.0) * (bottom - top + 1.0)
    return np.asarray(shared > iou_threshold * (area[a] + area[b] - shared))


def _resolve(number: int, better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """Keep each box that no better kept box overlaps, given all overlapping pairs."""
    kept, open_ = np.zeros(number, bool), np.ones(number, bool)
    while True:
        blocked = np.zeros(number, bool)
        blocked[worse] = True
        kept |= open_ & ~blocked
        open_[worse[kept[better]]] = False
        open_ &= blocked
        live = open_[better] & open_[worse]
        better, worse = better[live], worse[live]
        if not open_.any():
            return np.flatnonzero(kept)


def _suppress_one_by_one(
    sides: Sides, waiting: np.ndarray, rank: np.ndarray, iou_threshold: float
) -> np.ndarray:
    """Process the boxes in the order of ``waiting``; ``rank`` maps a box to its position."""
    kept: List[int] = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(rank[best]))
        waiting = waiting[~_overlap(sides, best, waiting, iou_threshold)]
    return np.array(kept, np.int64)
