"""Decoder of quality networks: from the output to quality scores."""

from __future__ import annotations

from typing import List

import numpy as np

from ...errors import DecodeError
from ...results import QualityScore, RawOutputs

__all__ = ["decode"]


def decode(raw: RawOutputs) -> List[QualityScore]:
    """Convert the output of a batch to scores.

    Parameters
    ----------
    raw
        One array (B, 1) of any name.

    Returns
    -------
    list of QualityScore
        One per image, neither scaled nor clipped, as in the authors' code.

    Raises
    ------
    DecodeError
        If there is not exactly one output of shape (B, 1), or a score is not finite.

    References
    ----------
    .. [1] TFace@171ec14, ``quality/eval.py``.
    """
    if len(raw.arrays) != 1:
        raise DecodeError(f"expected one output of a quality network, got {sorted(raw.arrays)}")
    (name, scores), *_ = raw.arrays.items()
    if scores.shape != (len(raw.placements), 1):
        expected = f"({len(raw.placements)}, 1)"
        raise DecodeError(f"output {name!r} must have shape {expected}, got {scores.shape}")
    finite = np.isfinite(scores[:, 0])
    if not finite.all():
        raise DecodeError(
            f"output {name!r}: the score of image {int(np.argmin(finite))} of the batch is "
            "not finite; check the weights and the input's normalisation"
        )
    return [QualityScore(float(score)) for score in scores[:, 0]]
