"""Embeddings of a list of images in one .npz file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

import numpy as np

from ..arrays import read_arrays
from ..errors import DatasetError
from ..files import write_bytes
from .degraded import person_of

__all__ = [
    "Embeddings",
    "read_embeddings",
    "write_embeddings",
]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of images.

    Attributes
    ----------
    names
        Names of the images.
    vectors
        Shape (N, D), float32, not normalised.
    """

    names: Tuple[str, ...]
    vectors: np.ndarray

    @property
    def people(self) -> np.ndarray:
        """Shape (N,), int64: person of each image, numbered by folder."""
        people = [person_of(name) for name in self.names]
        return np.asarray(np.unique(people, return_inverse=True)[1].ravel())


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write an embeddings.npz: ``names``, ``vectors`` and ``norms``."""
    buffer = io.BytesIO()
    norms = np.linalg.norm(embeddings.vectors.astype(np.float64), axis=1)
    names = np.array(embeddings.names, dtype=np.str_)
    np.savez(buffer, names=names, vectors=embeddings.vectors, norms=norms)
    write_bytes(path, buffer.getvalue())


def read_embeddings(path: Path) -> Embeddings:
    """Read an embeddings.npz: ``names`` and ``vectors``.

    Raises
    ------
    DatasetError
        If the file is not of this form.
    """
    try:
        arrays = read_arrays(path)
        names, vectors = tuple(arrays["names"].tolist()), arrays["vectors"].astype(np.float32)
        if vectors.ndim != 2 or len(names) != len(vectors):
            raise ValueError(f"{len(names)} names, vectors of shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector is not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{str(path)!r} holds no embeddings ({error}); expected an .npz with names and vectors"
        ) from error
    return Embeddings(names, vectors)
