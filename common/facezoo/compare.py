"""How far two builds of one model drift apart, in terms of the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Tuple

import numpy as np

from .image.boxes import iou_matrix, match_boxes
from .results import FaceDetections

__all__ = ["DetectionDrift", "compare_detections"]


@dataclass(frozen=True)
class DetectionDrift:
    """What changed from a reference to another build, over a set of pictures.

    Attributes
    ----------
    faces
        Faces of the reference.
    missed, extra
        Faces that only the reference has, and that only the other has.
    mean_iou
        Of the paired faces; 1 if there are none.
    worst_corner
        Largest distance of a corner coordinate of paired faces, in picture pixels.
    worst_score
        Largest difference of a score of paired faces.
    """

    faces: int
    missed: int
    extra: int
    mean_iou: float
    worst_corner: float
    worst_score: float


def compare_detections(
    pairs: Iterable[Tuple[FaceDetections, FaceDetections]],
) -> DetectionDrift:
    """Compare the faces two builds found in the same pictures.

    Parameters
    ----------
    pairs
        Reference and other, one pair a picture.

    Returns
    -------
    DetectionDrift
        Faces are paired by overlap, at least 0.5.
    """
    faces = missed = extra = 0
    overlaps, corners, scores = [], [0.0], [0.0]
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
    return DetectionDrift(faces, missed, extra, mean_iou, max(corners), max(scores))
