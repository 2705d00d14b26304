"""Embeddings of faces in one .npz file; all commands write the same form.

=========  =====================  ================================================================
key        shape and type         content
=========  =====================  ================================================================
names      (N,), text             the image, below the folder that was given, forward slashes
faces      (N,), int64            index of the face in its image; -1 if the image is an aligned face
vectors    (N, D), float32        the embedding as the network gives it, not normalised
norms      (N,), float64          length of the embedding, MagFace's quality
=========  =====================  ================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple, Union

import numpy as np

from ..arrays import StoredRows, read_arrays, write_npz
from ..errors import UNREADABLE, DatasetError
from ..results import Embedding
from .image_list import people_listed

__all__ = [
    "ALIGNED",
    "EmbeddingFile",
    "Embeddings",
    "read_embeddings",
    "write_embeddings",
]


# Index of a face that is a whole image.
ALIGNED = -1


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of faces.

    Attributes
    ----------
    names
        Names of their images.
    vectors
        Shape (N, D), float32, not normalised.
    faces
        Shape (N,), int64: which face of its image each is; None if all images are aligned faces.
    """

    names: Tuple[str, ...]
    vectors: np.ndarray
    faces: Optional[np.ndarray] = None

    @property
    def face_names(self) -> Tuple[str, ...]:
        """Name of each face, as files of scores have it: ``photo.jpg#2`` for a photo's third."""
        if self.faces is None:
            return self.names
        return tuple(
            name if face == ALIGNED else f"{name}#{face}"
            for name, face in zip(self.names, self.faces.tolist())
        )

    @property
    def people(self) -> np.ndarray:
        """Shape (N,), int64: person of each image, numbered by folder; see ``people_listed``."""
        people = people_listed(self.names, "embeddings")
        return np.asarray(np.unique(people, return_inverse=True)[1].ravel())


class EmbeddingFile:
    """Embeddings on their way to an embeddings.npz; their vectors are not held in memory.

    Parameters
    ----------
    folder
        Where they are kept until the context ends.

    Attributes
    ----------
    vectors
        The vectors, float32, in the order they were added.
    """

    def __init__(self, folder: Path) -> None:
        self.vectors = StoredRows(folder)
        self._names: List[str] = []
        self._faces: List[int] = []
        self._norms: List[float] = []

    def __len__(self) -> int:
        return len(self._names)

    def __enter__(self) -> EmbeddingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.vectors.close()

    def add(self, name: str, vector: np.ndarray, face: int = ALIGNED) -> None:
        """Add the embedding (D,) of a face of an image, or of an image that is an aligned face."""
        vector = np.asarray(vector, np.float32)
        self.vectors.append(vector)
        self._names.append(name)
        self._faces.append(face)
        self._norms.append(Embedding(vector).norm)

    def write(self, path: Path) -> None:
        """Write the file with the keys above."""
        arrays: Dict[str, Union[np.ndarray, StoredRows]] = {
            "names": np.array(self._names, dtype=np.str_),
            "faces": np.array(self._faces, np.int64),
            "vectors": self.vectors,
            "norms": np.array(self._norms, np.float64),
        }
        write_npz(path, arrays)


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write an embeddings.npz with the keys above."""
    faces = embeddings.faces
    arrays = {
        "names": np.array(embeddings.names, dtype=np.str_),
        "faces": np.full(len(embeddings.names), ALIGNED, np.int64) if faces is None else faces,
        "vectors": np.asarray(embeddings.vectors, np.float32),
        "norms": np.array([Embedding(vector).norm for vector in embeddings.vectors], np.float64),
    }
    write_npz(Path(path), arrays)


def read_embeddings(path: Path) -> Embeddings:
    """Read an embeddings.npz of the current form or of one of the two older ones.

    The older forms are ``names``, ``vectors`` and ``norms`` of the runners, and ``photos``,
    ``faces`` and ``embeddings`` of ``facezoo predict``.

    Raises
    ------
    DatasetError
        If the file is not of this form, its arrays do not match, or a number is not finite.
    """
    try:
        arrays = read_arrays(Path(path))
        is_old = "photos" in arrays
        names = tuple(str(name) for name in arrays["photos" if is_old else "names"].tolist())
        vectors = arrays["embeddings" if is_old else "vectors"].astype(np.float32)
        faces = arrays["faces"].astype(np.int64) if "faces" in arrays else None
        if vectors.ndim != 2 or len(names) != len(vectors):
            raise ValueError(f"{len(names)} names, vectors of shape {vectors.shape}")
        if faces is not None and (faces.shape != (len(names),) or (faces < ALIGNED).any()):
            raise ValueError(f"{len(names)} names, faces of shape {faces.shape} or below {ALIGNED}")
        norms = arrays.get("norms", np.zeros(len(names)))
        if norms.shape != (len(names),):
            raise ValueError(f"{len(names)} names, norms of shape {norms.shape}")
        if not np.isfinite(vectors).all() or not np.isfinite(norms.astype(np.float64)).all():
            raise ValueError("a vector or a norm is not finite")
    except UNREADABLE as error:
        raise DatasetError(
            f"{str(path)!r} contains no embeddings ({error}); expected the embeddings.npz of a "
            "runner or of facezoo predict, with names, faces, vectors and norms"
        ) from error
    if faces is not None and (faces == ALIGNED).all():
        faces = None
    return Embeddings(names, vectors, faces)
