"""From a quality network's output to scores; there is nothing to undo."""

from __future__ import annotations

from typing import List

import numpy as np

from ...errors import DecodeError
from ...results import QualityScore, RawOutputs

__all__ = ["decode"]


def decode(raw: RawOutputs) -> List[QualityScore]:
    """Turn the output of a batch into scores.

    Parameters
    ----------
    raw
        One array (B, 1), whatever its name.

    Returns
    -------
    list of QualityScore
        One a picture, neither scaled nor clipped, as the authors use it.

    Raises
    ------
    DecodeError
        If there is not exactly one output of shape (B, 1), or a score is not finite.

    References
    ----------
    .. [1] TFace@171ec14, ``quality/eval.py``.
    """
    if len(raw.arrays) != 1:
        raise DecodeError(f"a quality network has one output, got {sorted(raw.arrays)}")
    (name, scores), *_ = raw.arrays.items()
    if scores.shape != (len(raw.placements), 1):
        expected = f"({len(raw.placements)}, 1)"
        raise DecodeError(f"output {name!r} must have shape {expected}, got {scores.shape}")
    finite = np.isfinite(scores[:, 0])
    if not finite.all():
        raise DecodeError(
            f"output {name!r}: the score of picture {int(np.argmin(finite))} of the batch is "
            "not finite; check the weights and the input's normalisation"
        )
    return [QualityScore(float(score)) for score in scores[:, 0]]
