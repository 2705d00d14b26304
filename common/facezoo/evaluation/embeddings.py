"""Embeddings of image folders with any recognition network, for quality evaluation."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Mapping, Tuple, Union

import numpy as np

from ..backends.base import Backend, Infer, naming
from ..datasets.embeddings import Embeddings
from ..errors import DatasetError, ImageError
from ..image.files import read_image_rgb
from ..models.magface.decode import decode
from ..results import Embedding

__all__ = [
    "PackedEmbedding",
    "embed_pictures",
    "unpack_embeddings",
    "unpack_vector",
]


@dataclass(frozen=True)
class PackedEmbedding:
    """An embedding as compact text, since JSON numbers take longer than inference."""

    vector: np.ndarray

    def to_dict(self) -> Dict[str, Any]:
        """Encode the vector as text."""
        return {"vector": base64.b64encode(self.vector.astype("<f4").tobytes()).decode("ascii")}


def unpack_embeddings(entries: Iterable[Mapping[str, Any]]) -> Embeddings:
    """Collect the embeddings of :class:`PackedEmbedding` entries, without unreadable images.

    Raises
    ------
    DatasetError
        If there is no embedding.
    """
    names, vectors = [], []
    for entry in entries:
        if "vector" in entry:
            names.append(entry["path"])
            vectors.append(unpack_vector(entry))
    if not names:
        raise DatasetError("none of the images can be read; fix those named above")
    return Embeddings(tuple(names), np.stack(vectors))


def unpack_vector(entry: Mapping[str, Any]) -> np.ndarray:
    """Decode the vector of a :class:`PackedEmbedding` entry, shape (D,), float32."""
    return np.frombuffer(base64.b64decode(entry["vector"]), "<f4")


def embed_pictures(
    backend: Backend, paths: Iterable[Path]
) -> Iterator[Tuple[Path, Union[Embedding, ImageError]]]:
    """Embed aligned faces.

    Parameters
    ----------
    backend
        Backend of a recogniser.
    paths
        The images.

    Yields
    ------
    path : Path
        In the given order.
    result : Embedding or ImageError
        The error if the file cannot be read.
    """

    def one(infer: Infer, path: Path) -> Tuple[Path, Union[Embedding, ImageError]]:
        try:
            image = read_image_rgb(path)
        except ImageError as error:
            return path, error
        with naming(path):
            return path, decode(infer(image))[0]

    return backend.map(one, paths)
