"""Box overlap and matching."""

from __future__ import annotations

import numpy as np

__all__ = ["iou_matrix", "match_boxes"]


def iou_matrix(boxes_a_xyxy: np.ndarray, boxes_b_xyxy: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of all pairs of boxes.

    Parameters
    ----------
    boxes_a_xyxy, boxes_b_xyxy
        Shapes (N, 4) and (M, 4); left, top, right, bottom as continuous coordinates.

    Returns
    -------
    numpy.ndarray
        Shape (N, M), float32, 0 to 1; 0 for boxes without area.
    """
    a, b = boxes_a_xyxy[:, None].astype(np.float64), boxes_b_xyxy[None].astype(np.float64)
    corner = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(corner, 0.0), axis=-1)
    area_a = np.prod(np.maximum(a[..., 2:] - a[..., :2], 0.0), axis=-1)
    area_b = np.prod(np.maximum(b[..., 2:] - b[..., :2], 0.0), axis=-1)
    union = area_a + area_b - shared
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return np.asarray(iou, np.float32)


def match_boxes(
    boxes_a_xyxy: np.ndarray, boxes_b_xyxy: np.ndarray, iou_threshold: float = 0.5
) -> np.ndarray:
    """Match two sets of boxes greedily by overlap, each box at most once.

    Parameters
    ----------
    boxes_a_xyxy, boxes_b_xyxy
        Shapes (N, 4) and (M, 4).
    iou_threshold
        Smallest intersection over union of a pair.

    Returns
    -------
    numpy.ndarray
        Shape (K, 2), int64: rows of a and of b.
    """
    iou = iou_matrix(boxes_a_xyxy, boxes_b_xyxy)
    pairs = []
    while iou.size and iou.max() >= iou_threshold:
        row, column = np.unravel_index(int(np.argmax(iou)), iou.shape)
        pairs.append((row, column))
        iou[row, :] = -1.0
        iou[:, column] = -1.0
    return np.array(pairs, np.int64).reshape(-1, 2)
