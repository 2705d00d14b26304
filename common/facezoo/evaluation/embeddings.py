"""Folders of people for quality work: degraded copies, embeddings, lists of labels."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional, Tuple, Union

import numpy as np

from ..backends.base import Backend, Infer, naming
from ..backends.ort import OrtBackend
from ..contract import Contract, load_graph, read_contract
from ..datasets.embeddings import Embeddings
from ..errors import DatasetError, GraphError, ImageError, InputError
from ..image.files import read_image_rgb
from ..models import CARDS
from ..models.magface.decode import decode
from ..results import Embedding
from ..weights import find

__all__ = [
    "PackedEmbedding",
    "embed_pictures",
    "open_recognizer",
    "unpack_embeddings",
]


@dataclass(frozen=True)
class PackedEmbedding:
    """An embedding as a short text, since JSON numbers cost more time than inference."""

    vector: np.ndarray

    def to_dict(self) -> Dict[str, Any]:
        """Return the vector as text."""
        return {"vector": base64.b64encode(self.vector.astype("<f4").tobytes()).decode("ascii")}


def unpack_embeddings(entries: Iterable[Mapping[str, Any]]) -> Embeddings:
    """Gather what :class:`PackedEmbedding` packed; pictures that were refused are left out.

    Raises
    ------
    DatasetError
        If there is none.
    """
    names, vectors = [], []
    for entry in entries:
        if "vector" in entry:
            names.append(entry["path"])
            vectors.append(np.frombuffer(base64.b64decode(entry["vector"]), "<f4"))
    if not names:
        raise DatasetError("there is no embedding: every picture was refused")
    return Embeddings(tuple(names), np.stack(vectors))


def open_recognizer(
    source: str, card_id: str = "w600k_mbf", threads: Optional[int] = None
) -> OrtBackend:
    """Open any recognition network of one picture in and one embedding out.

    Parameters
    ----------
    source
        An .onnx file, or the name ``facezoo download`` fetched it under.
    card_id
        Whose pre-processing a file gets that carries no contract of its own.
    threads
        Cores to use; all if None.

    Raises
    ------
    InputError
        If there is no such card.
    GraphError
        If the file is no graph of one input and one output.
    """
    path = Path(source) if source.endswith(".onnx") else find(source)
    if card_id not in CARDS or CARDS[card_id].task != "face_recognition":
        raise InputError(f"{card_id!r} is no card of a recognition network; see facezoo list")
    try:
        contract = read_contract(path)
    except GraphError as error:
        if "carries no contract" not in str(error):
            raise
        graph = load_graph(path).graph
        weights = {tensor.name for tensor in graph.initializer}
        (name,) = (entry.name for entry in graph.input if entry.name not in weights)
        outputs = tuple(entry.name for entry in graph.output)
        if len(outputs) != 1:
            raise GraphError(
                f"{str(path)!r} has outputs {list(outputs)}; expected one embedding"
            ) from error
        card = CARDS[card_id]
        contract = Contract(card.id, card.model, name, card.preprocess, outputs)
    return OrtBackend(path, contract, threads=threads)


def embed_pictures(
    backend: Backend, paths: Iterable[Path]
) -> Iterator[Tuple[Path, Union[Embedding, ImageError]]]:
    """Embed aligned faces.

    Parameters
    ----------
    backend
        From :func:`open_recognizer`.
    paths
        The pictures.

    Yields
    ------
    path : Path
        In the order given.
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
