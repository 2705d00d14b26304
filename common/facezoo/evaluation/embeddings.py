"""Embeddings of image folders with any recognition network, for quality evaluation."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional, Tuple, Union

import numpy as np

from ..backends.base import Backend, Infer, naming
from ..backends.ort import OrtBackend
from ..contract import Contract, read_contract
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
            vectors.append(np.frombuffer(base64.b64decode(entry["vector"]), "<f4"))
    if not names:
        raise DatasetError("there is no embedding: no image could be read")
    return Embeddings(tuple(names), np.stack(vectors))


def open_recognizer(
    source: str, card_id: str = "w600k_mbf", threads: Optional[int] = None
) -> OrtBackend:
    """Open any recognition network with one image input and one embedding output.

    Parameters
    ----------
    source
        An .onnx file, or its name for ``facezoo download``.
    card_id
        Card whose pre-processing is used for a file without a contract.
    threads
        Cores to use; all if None.

    Raises
    ------
    InputError
        If the card is unknown.
    GraphError
        If the file is not a graph with one input and one output.
    """
    import onnx

    path = Path(source) if source.endswith(".onnx") else find(source)
    if card_id not in CARDS or CARDS[card_id].task != "face_recognition":
        raise InputError(f"{card_id!r} is not the card of a recognition network; see facezoo list")
    try:
        contract = read_contract(path)
    except GraphError as error:
        if "carries no contract" not in str(error):
            raise
        graph = onnx.load(str(path), load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [entry.name for entry in graph.input if entry.name not in weights]
        outputs = tuple(entry.name for entry in graph.output)
        if len(inputs) != 1 or len(outputs) != 1:
            raise GraphError(
                f"{str(path)!r} has inputs {inputs} and outputs {list(outputs)}; expected one "
                "image and one embedding"
            ) from error
        card = CARDS[card_id]
        contract = Contract(card.id, card.model, inputs[0], card.preprocess, outputs)
    return OrtBackend(path, contract, threads=threads)


def embed_pictures(
    backend: Backend, paths: Iterable[Path]
) -> Iterator[Tuple[Path, Union[Embedding, ImageError]]]:
    """Embed aligned faces.

    Parameters
    ----------
    backend
        Result of :func:`open_recognizer`.
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
