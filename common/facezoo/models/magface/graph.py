"""Released recognition networks in ONNX: add the contract and a free batch axis.

An ArcFace network has the same layers as a MagFace one but expects another colour order, so the
graph does not identify it. A file with a known sha256 does; for others the card must be given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import onnx
from onnx import helper

from ...backends.ort import run_graph
from ...card import ModelCard
from ...contract import Contract, load_graph
from ...errors import GraphError, InputError
from ...files import sha256_of, write_bytes
from .. import describe_export
from .card import CARDS, WEIGHTS

__all__ = ["export_released"]

_PROBE_BATCH = 2
# Two runs of one graph with other batch sizes differ by about 1e-6 of the values.
_TOLERANCE = 1e-4


def export_released(
    source: Path, target: Path, *, card_id: Optional[str] = None, batch: Optional[int] = None
) -> Tuple[ModelCard, float]:
    """Add the contract and a free batch axis to a released recogniser, after comparing both graphs.

    Parameters
    ----------
    source
        An ``.onnx`` from (B, 3, 112, 112) to (B, 512).
    target
        Target ``.onnx``.
    card_id
        Card of the network, which gives its input format; None for a file with the sha256 of a
        card.
    batch
        Fixed batch size; None for a free one.

    Returns
    -------
    card : ModelCard
        Card of the network.
    worst : float
        The largest difference, in units of the output's root mean square.

    Raises
    ------
    InputError
        If no card is given and the file is unknown.
    GraphError
        If the file cannot be read or is not such a network, or its output changes with the batch
        size; nothing is written then.
    """
    model = load_graph(source, check=True)
    sha256 = sha256_of(source)
    card = _card_of(source, sha256, card_id)
    size = card.preprocess.input_hw
    named = _with_contract(model, card, Contract.from_card(card, sha256), batch, source)
    worst = _compare(model, named, (batch or _PROBE_BATCH, 3, *size))
    write_bytes(Path(target), named.SerializeToString())
    return card, worst


def _card_of(source: Path, sha256: str, card_id: Optional[str]) -> ModelCard:
    if card_id is None:
        names = {file.sha256: file.name for file in WEIGHTS if file.sha256}
        if sha256 not in names:
            raise InputError(
                f"{str(source)!r} has no known sha256, and its layers do not show which colour "
                f"order it expects; give its card: --card {' or '.join(CARDS)}"
            )
        card_id = next(card.id for card in CARDS.values() if card.weights == names[sha256])
    return CARDS[card_id]


def _with_contract(
    model: onnx.ModelProto,
    card: ModelCard,
    contract: Contract,
    batch: Optional[int],
    source: Path,
) -> onnx.ModelProto:
    """Rename input and output, set the batch, write the contract."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    graph = named.graph
    stored = {tensor.name for tensor in graph.initializer}
    images = [entry for entry in graph.input if entry.name not in stored]
    if len(images) != 1 or len(graph.output) != 1:
        raise GraphError(
            f"{str(source)!r} has {len(images)} inputs and {len(graph.output)} outputs; expected a "
            "recognition network with one of each"
        )
    names = {images[0].name: card.input_name, graph.output[0].name: card.outputs[0].name}
    # The file may use a name of the contract for another tensor.
    names = {**{name: f"{name}_released" for name in names.values() if name not in names}, **names}
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = names.get(value, value)
    free = batch or "batch"
    size = card.preprocess.input_hw
    channels = _channels_of(graph.output[0]) or card.outputs[0].channels
    shapes = ((card.input_name, [free, 3, *size]), (card.outputs[0].name, [free, channels]))
    for field, (name, shape) in zip((graph.input, graph.output), shapes):
        del field[:]
        field.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    del graph.value_info[:]
    del named.metadata_props[:]
    helper.set_model_props(named, describe_export(contract))
    # Version 4 is the oldest that does not list weights among the inputs.
    named.ir_version = min(max(named.ir_version, 4), 8)
    onnx.checker.check_model(named)
    return named


def _channels_of(output: onnx.ValueInfoProto) -> int:
    """Return the length of an embedding according to the file; 0 if unknown."""
    shape = output.type.tensor_type.shape.dim
    return int(shape[-1].dim_value) if len(shape) else 0


def _compare(model: onnx.ModelProto, named: onnx.ModelProto, shape: Tuple[int, ...]) -> float:
    """Run both graphs on noise, the old one image by image."""
    rng = np.random.default_rng(2026)
    images = rng.uniform(-1.0, 1.0, shape).astype(np.float32)
    (found,) = run_graph(named, {named.graph.input[0].name: images}).values()
    stored = {tensor.name for tensor in model.graph.initializer}
    name = next(entry.name for entry in model.graph.input if entry.name not in stored)
    rows = [run_graph(model, {name: images[i : i + 1]}) for i in range(len(images))]
    expected = np.concatenate([next(iter(row.values())) for row in rows])
    if found.shape != expected.shape:
        raise GraphError(
            f"the graph gives {found.shape} for a batch and {expected.shape} image by image; "
            "expected one row of the card's size per image; give --batch 1, as in the file"
        )
    scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    worst = float(np.max(np.abs(found - expected))) / max(scale, 1e-12)
    if not worst <= _TOLERANCE:
        raise GraphError(
            f"the output changes with the batch size by {worst:.3g} of its root mean square, "
            f"expected at most {_TOLERANCE:g}; give --batch 1, as in the file"
        )
    return worst
