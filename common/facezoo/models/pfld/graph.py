"""The published PFLD graph: add names, contract and a free batch axis."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...backends.ort import run_graph
from ...card import ModelCard
from ...contract import Contract, load_graph
from ...errors import GraphError
from ...files import sha256_of, write_bytes
from .card import CARDS

__all__ = ["export_released"]

PROBE_BATCH = 2
# Two runs of one graph with other batch sizes differ by about 1e-7 of the crop.
TOLERANCE = 1e-5


def export_released(
    source: Path, target: Path, *, batch: Optional[int] = None
) -> Tuple[ModelCard, float]:
    """Write the published graph with the contract and a free batch axis, after comparing both.

    Parameters
    ----------
    source
        An ``.onnx`` from (1, 3, 112, 112) to (1, 196).
    target
        Target ``.onnx``.
    batch
        Fixed batch size; None for a free one.

    Returns
    -------
    card : ModelCard
        The card of the network.
    worst : float
        The largest difference, as a share of the crop.

    Raises
    ------
    GraphError
        If the file cannot be read, is not such a network, or the two graphs differ; nothing is
        written then.
    """
    card = CARDS["pfld_ghostone"]
    model = load_graph(source, check=True)
    shapes = [
        [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        for entry in (*model.graph.input, *model.graph.output)
    ]
    expected = [[1, 3, *card.preprocess.input_hw], [1, card.outputs[0].channels]]
    if shapes != expected:
        raise GraphError(
            f"{str(source)!r} is not a PFLD of 98 landmarks: its input and output are {shapes}, "
            f"expected {expected}"
        )
    named = _with_contract(model, card, Contract.from_card(card, sha256_of(source)), batch)
    worst = _compare(model, named, (batch or PROBE_BATCH, 3, *card.preprocess.input_hw))
    if not worst <= TOLERANCE:
        raise GraphError(
            f"{str(source)!r} changes by {worst:.3g} of the crop with the batch size, more than "
            f"{TOLERANCE:g}; give --batch 1, as in the file"
        )
    write_bytes(Path(target), named.SerializeToString())
    return card, worst


def _with_contract(
    model: onnx.ModelProto, card: ModelCard, contract: Contract, batch: Optional[int]
) -> onnx.ModelProto:
    named = onnx.ModelProto()
    named.CopyFrom(model)
    graph = named.graph
    names = {graph.input[0].name: card.input_name, graph.output[0].name: card.output_names[0]}
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in shapes and numpy_helper.to_array(tensor).tolist() == [1, -1]:
            # Zero keeps the batch axis, which the file fixes to 1.
            tensor.CopyFrom(numpy_helper.from_array(np.array([0, -1]), tensor.name))
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = names.get(value, value)
    free = batch or "batch"
    entries = (
        (graph.input, card.input_name, [free, 3, *card.preprocess.input_hw]),
        (graph.output, card.output_names[0], [free, card.outputs[0].channels]),
    )
    for field, name, shape in entries:
        del field[:]
        field.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    del graph.value_info[:]
    del named.metadata_props[:]
    helper.set_model_props(named, contract.to_metadata())
    onnx.checker.check_model(named)
    return named


def _compare(model: onnx.ModelProto, named: onnx.ModelProto, shape: Tuple[int, ...]) -> float:
    """Run both graphs on noise, the published one image by image."""
    images = np.random.default_rng(2026).uniform(-1.0, 1.0, shape).astype(np.float32)
    (found,) = run_graph(named, {named.graph.input[0].name: images}).values()
    name = model.graph.input[0].name
    rows = [run_graph(model, {name: images[i : i + 1]}) for i in range(len(images))]
    expected = np.concatenate([next(iter(row.values())) for row in rows])
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
