"""Networks with their decoders: a picture in, results out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Optional, Union, overload

from .. import weights
from ..backends import ENGINES, open_backend
from ..card import Preprocess
from ..errors import InputError
from ..files import sha256_of
from ..models import CARDS, MODELS, find_card, find_class, find_weights, import_part
from ..models.base import FaceModel
from ..models.magface.model import FaceEmbedder
from ..models.pipnet.model import LandmarkDetector
from ..models.scrfd.model import FaceDetector
from ..models.sdd_fiqa.model import FaceQuality

__all__ = [
    "find_model",
    "load",
    "published_graph",
]


@overload
def load(model: Literal["scrfd"], source: Union[str, Path], **options: Any) -> FaceDetector: ...


@overload
def load(
    model: Literal["pipnet"], source: Union[str, Path], **options: Any
) -> LandmarkDetector: ...


@overload
def load(model: Literal["sdd_fiqa"], source: Union[str, Path], **options: Any) -> FaceQuality: ...


@overload
def load(model: Literal["magface"], source: Union[str, Path], **options: Any) -> FaceEmbedder: ...


@overload
def load(model: str, source: Union[str, Path], **options: Any) -> FaceModel[Any]: ...


def load(
    model: str,
    source: Union[str, Path],
    *,
    engine: str = "auto",
    vdsp: Optional[Path] = None,
    preprocess: Optional[Preprocess] = None,
    device_id: int = 0,
    threads: Optional[int] = None,
    provider: str = "cpu",
    precision: str = "f32",
    **options: Any,
) -> FaceModel[Any]:
    """Open a model, ready for pictures.

    Parameters
    ----------
    model
        ``scrfd``, ``pipnet``, ``sdd_fiqa`` or ``magface``.
    source
        An artifact prefix (``deploy_weights/<name>/mod``) or a self-describing .onnx file.
    engine, vdsp, preprocess, device_id, threads, provider, precision
        See :func:`facezoo.backends.open_backend`.
    options
        The model's own: ``profile`` and ``fast_decode`` of :class:`FaceDetector`, ``meanface`` of
        :class:`LandmarkDetector`, ``flip`` of :class:`FaceEmbedder`.

    Returns
    -------
    FaceModel
        :class:`FaceDetector`, :class:`LandmarkDetector`, :class:`FaceQuality` or
        :class:`FaceEmbedder`.

    Raises
    ------
    InputError
        If the model or an option's value is not known, or the file is another model's.
    """
    if model not in MODELS:
        raise InputError(f"model {model!r} is not known; expected one of {list(MODELS)}")
    backend = open_backend(
        Path(source),
        engine=engine,
        vdsp=vdsp,
        preprocess=preprocess,
        device_id=device_id,
        threads=threads,
        provider=provider,
        precision=precision,
        cards=[card for card in CARDS.values() if card.model == model],
    )
    if backend.contract.model != model:
        raise InputError(
            f"{str(source)!r} holds {backend.contract.card_id}, a model of the recipe "
            f"{backend.contract.model}; expected one of {model}"
        )
    return find_class(model)(backend, backend.contract, **options)


def find_model(text: str, model: str, **options: Any) -> FaceModel[Any]:
    """Open a stage by name or by file.

    Parameters
    ----------
    text
        A card's id, whose published weights are taken from this machine; or an artifact prefix or
        .onnx; either with ``@ort``, ``@openvino`` or ``@vsx`` behind it for an engine of its own.
    model
        Which recipe it must be of.
    options
        For :func:`facezoo.load`.

    Raises
    ------
    InputError
        If there is neither such a card nor such a file.
    """
    source, at, engine = text.rpartition("@")
    if at and engine in ENGINES:
        options["engine"] = engine
    else:
        source = text
    path = published_graph(source, model) if source in CARDS else Path(source)
    return load(model, path, **options)


def published_graph(card_id: str, model: str) -> Path:
    """Return the raw-head graph of published weights, made once and kept beside them.

    Parameters
    ----------
    card_id
        Whose weights.
    model
        Which recipe the card must be of.

    Raises
    ------
    InputError
        If it is of another, or its weights are not published as ONNX.
    WeightsMissing
        If they are not on this machine; says how to get them.
    """
    card = find_card(card_id)
    if card.model != model:
        raise InputError(f"{card_id} is a model of {card.model}; expected one of {model}")
    if not card.weights or not find_weights(card.weights).file.endswith(".onnx"):
        raise InputError(
            f"{card_id} has no published .onnx; export its checkpoint with the recipe's "
            "source_code/export_onnx.py and give the file"
        )
    released = weights.find(card.weights)
    path = weights.home() / "graphs" / f"{card_id}-{sha256_of(released)[:12]}.onnx"
    if not path.exists():
        room = import_part(model, "graph")
        room.export_released(released, path)
    return path
