"""Decoder of recognition networks: from the output to embeddings."""

from __future__ import annotations

from typing import List

import numpy as np

from ...errors import DecodeError
from ...results import Embedding, RawOutputs

__all__ = ["decode"]


def decode(raw: RawOutputs) -> List[Embedding]:
    """Convert the output of a batch to embeddings.

    Parameters
    ----------
    raw
        One array (B, D) of any name, since other projects number their outputs.

    Returns
    -------
    list of Embedding
        One per image; float32, not normalised.

    Raises
    ------
    DecodeError
        If there is not exactly one output of shape (B, D), or a vector is not finite or all zero.
    """
    if len(raw.arrays) != 1:
        raise DecodeError(f"expected one output of a recognition network, got {sorted(raw.arrays)}")
    (name, vectors), *_ = raw.arrays.items()
    if vectors.ndim != 2 or len(vectors) != len(raw.placements):
        expected = f"({len(raw.placements)}, D)"
        raise DecodeError(f"output {name!r} must have shape {expected}, got {vectors.shape}")
    vectors = np.asarray(vectors, dtype=np.float32)
    usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    if not usable.all():
        raise DecodeError(
            f"output {name!r}: the embedding of image {int(np.argmin(usable))} of the batch is "
            "not finite or all zero; check the weights and the input's normalisation"
        )
    return [Embedding(vector) for vector in vectors]
