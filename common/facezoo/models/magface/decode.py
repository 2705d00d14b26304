"""From a recognition network's output to embeddings; there is nothing to undo."""

from __future__ import annotations

from typing import List

import numpy as np

from ...errors import DecodeError
from ...results import Embedding, RawOutputs

__all__ = ["decode"]


def decode(raw: RawOutputs) -> List[Embedding]:
    """Turn the output of a batch into embeddings.

    Parameters
    ----------
    raw
        One array (B, D), whatever its name: networks of other projects number their output.

    Returns
    -------
    list of Embedding
        One a picture; float32, not normalised.

    Raises
    ------
    DecodeError
        If there is not exactly one output of shape (B, D), or a vector is not finite or all zero.
    """
    if len(raw.arrays) != 1:
        raise DecodeError(f"a recognition network has one output, got {sorted(raw.arrays)}")
    (name, vectors), *_ = raw.arrays.items()
    if vectors.ndim != 2 or len(vectors) != len(raw.placements):
        expected = f"({len(raw.placements)}, D)"
        raise DecodeError(f"output {name!r} must have shape {expected}, got {vectors.shape}")
    vectors = np.asarray(vectors, dtype=np.float32)
    usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    if not usable.all():
        raise DecodeError(
            f"output {name!r}: the embedding of picture {int(np.argmin(usable))} of the batch is "
            "not finite or all zero; check the weights and the input's normalisation"
        )
    return [Embedding(vector) for vector in vectors]
