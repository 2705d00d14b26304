"""Recognition networks that others publish as ONNX: the contract for them, and a free batch.

An ArcFace network has the same layers as a MagFace one and eats other colours, so that a graph
cannot tell which it is. A file whose sha256 is known says it; for any other its card is named.
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
from .card import CARDS, WEIGHTS

__all__ = ["export_released"]

_PROBE_BATCH = 2
# Two runs of one graph in batches of other sizes differ by some 1e-6 of the values' size.
_TOLERANCE = 1e-4


def export_released(
    source: Path, target: Path, *, card_id: Optional[str] = None, batch: Optional[int] = None
) -> Tuple[ModelCard, float]:
    """Give a released recogniser the contract and a free batch, once both graphs give the same.

    Parameters
    ----------
    source
        An .onnx that takes (B, 3, 112, 112) and gives (B, 512).
    target
        The .onnx to write.
    card_id
        Which network it holds and so what it eats; None for a file whose sha256 a card states.
    batch
        Fixed batch size; None for a free one.

    Returns
    -------
    card : ModelCard
        The network's.
    worst : float
        The largest difference found, in units of the output's root mean square.

    Raises
    ------
    InputError
        If the card is not named and the file not known.
    GraphError
        If the file cannot be read or is no such network, or its output changes with the batch;
        nothing is written then.
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
                f"{str(source)!r} is no file known by its sha256, and its layers do not say which "
                f"colours it eats; name its card: --card {' or '.join(CARDS)}"
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
    # The file may use a contract's name for something else.
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
    helper.set_model_props(named, contract.to_metadata())
    # Without weights among the inputs, which older files list there, version 4 is the least.
    named.ir_version = min(max(named.ir_version, 4), 8)
    onnx.checker.check_model(named)
    return named


def _channels_of(output: onnx.ValueInfoProto) -> int:
    """Return how many numbers an embedding has, by the file; 0 if it does not say."""
    shape = output.type.tensor_type.shape.dim
    return int(shape[-1].dim_value) if len(shape) else 0


def _compare(model: onnx.ModelProto, named: onnx.ModelProto, shape: Tuple[int, ...]) -> float:
    """Run both graphs on noise, the old one picture by picture."""
    rng = np.random.default_rng(2026)
    images = rng.uniform(-1.0, 1.0, shape).astype(np.float32)
    (found,) = run_graph(named, {named.graph.input[0].name: images}).values()
    stored = {tensor.name for tensor in model.graph.initializer}
    name = next(entry.name for entry in model.graph.input if entry.name not in stored)
    rows = [run_graph(model, {name: images[i : i + 1]}) for i in range(len(images))]
    expected = np.concatenate([next(iter(row.values())) for row in rows])
    if found.shape != expected.shape:
        raise GraphError(
            f"the graph gives {found.shape} for a batch and {expected.shape} picture by picture; "
            "expected one row of the card's size a picture; give --batch 1, as the file has it"
        )
    scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    worst = float(np.max(np.abs(found - expected))) / max(scale, 1e-12)
    if not worst <= _TOLERANCE:
        raise GraphError(
            f"the output changes with the batch by {worst:.3g} of its root mean square, expected "
            f"at most {_TOLERANCE:g}; give --batch 1, as the file has it"
        )
    return worst
