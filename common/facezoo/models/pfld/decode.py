"""Decoder of PFLD: from shares of the crop to landmarks."""

from __future__ import annotations

from typing import List

import numpy as np

from ...errors import DecodeError
from ...results import Landmarks, RawOutputs

__all__ = ["decode"]


def decode(raw: RawOutputs) -> List[Landmarks]:
    """Convert the output of a batch to landmarks in pixels of the images.

    Parameters
    ----------
    raw
        One array (B, 2 N) of any name: x0 y0 x1 y1 … in [0, 1] of the crop.

    Returns
    -------
    list of Landmarks
        One per image, not clipped to the crop; without confidences, since the network has none.

    Raises
    ------
    DecodeError
        If there is not exactly one output of shape (B, 2 N), or a number is not finite.

    References
    ----------
    .. [1] PFLD_GhostOne@7061b56, ``test.py``, ``validate``; ``onnx_inference.py``.
    """
    if len(raw.arrays) != 1:
        raise DecodeError(f"expected one output of a PFLD network, got {sorted(raw.arrays)}")
    ((name, values),) = raw.arrays.items()
    if values.ndim != 2 or len(values) != len(raw.placements) or values.shape[1] % 2:
        expected = f"({len(raw.placements)}, x and y per landmark)"
        raise DecodeError(f"output {name!r} must have shape {expected}, got {values.shape}")
    if not np.isfinite(values).all():
        raise DecodeError(
            f"output {name!r} is not finite; check the weights and the input's normalisation"
        )
    nothing = np.zeros(0, np.float32)
    return [
        Landmarks(
            placement.undo(points * np.array(placement.input_hw[::-1], np.float32)),
            nothing,
            placement.image_hw,
        )
        for points, placement in zip(
            values.astype(np.float32).reshape(len(values), -1, 2), raw.placements
        )
    ]
