"""Released recognition networks in ONNX: add the contract and a free batch axis.

An ArcFace network has the same layers as a MagFace one but expects another colour order, so the
graph does not identify it. A file with a known sha256 does; for others the card must be given.
Graphs of other exporters are brought into the same form: float16 becomes float32, an input whose
channels are last gets a transposition, and MXNet's batch norms lose an attribute without effect.
"""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...backends.ort import run_graph
from ...card import ModelCard
from ...contract import Contract, load_graph
from ...errors import GraphError, InputError
from ...files import sha256_of, write_bytes
from .. import describe_export
from .card import CARDS, WEIGHTS

__all__ = ["export_released"]

_PROBE_BATCH = 2
# Two runs of one graph with other batch sizes differ by about 1e-6 of the values; a graph in
# float16 from the same one in float32 by up to some hundredths.
_TOLERANCE, _TOLERANCE_HALF = 1e-4, 0.05
_HALF, _FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
_LARGEST_BATCH = 1024


def export_released(
    source: Path, target: Path, *, card_id: Optional[str] = None, batch: Optional[int] = None
) -> Tuple[ModelCard, float]:
    """Add the contract and a free batch axis to a released recogniser, after comparing both graphs.

    Parameters
    ----------
    source
        An ``.onnx`` from (B, 3, 112, 112) or (B, 112, 112, 3) to (B, D), float32 or float16.
    target
        Target ``.onnx``: from (B, 3, 112, 112) to (B, D), float32.
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
        If the file cannot be read or is not such a network, or only works with its own batch size;
        nothing is written then.
    """
    model = load_graph(source)
    sha256 = sha256_of(source)
    card = _card_of(source, sha256, card_id)
    _drop_spatial(model, source)
    _check(model, source)
    released = _Released(model, card.preprocess.input_hw, source)
    named = _with_contract(model, card, Contract.from_card(card, sha256), batch, released)
    worst = released.compare(named, batch)
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


def _check(model: onnx.ModelProto, source: Path) -> None:
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf raises unrelated classes.
        reason = " ".join(str(error).split())[:200]
        raise GraphError(f"{str(source)!r} is not a valid ONNX graph: {reason}") from error


def _drop_spatial(model: onnx.ModelProto, source: Path) -> None:
    """Drop ``spatial=0`` of batch norms with one value per channel, where it has no effect.

    MXNet's exporter writes it to all of them. It asks for one value per place of the map, which no
    runtime here computes.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        odd = [a for a in node.attribute if a.name == "spatial" and not a.i]
        if node.op_type != "BatchNormalization" or not odd:
            continue
        shape = shapes.get(node.input[1] if len(node.input) > 1 else "", ())
        if len(shape) != 1:
            raise GraphError(
                f"{str(source)!r}: batch norm {node.name or node.output[0]!r} has spatial=0 and "
                f"weights of shape {shape}; expected one value per channel: export it again with "
                "an opset of 9 or more"
            )
        node.attribute.remove(odd[0])


class _Released:
    """A recogniser as published: its input and output, and what it computes.

    Parameters
    ----------
    model
        The graph.
    input_hw
        Height and width that the card expects.
    source
        Its file, for messages.

    Attributes
    ----------
    input, output
        Name of each.
    is_half
        Whether it computes in float16.
    channels_last
        Whether the input is (B, H, W, 3).
    batch
        Its fixed batch size; 0 if it is free.
    """

    def __init__(self, model: onnx.ModelProto, input_hw: Tuple[int, int], source: Path) -> None:
        self._model, self._hw = model, input_hw
        graph = model.graph
        stored = {tensor.name for tensor in graph.initializer}
        images = [entry for entry in graph.input if entry.name not in stored]
        if len(images) != 1 or len(graph.output) != 1:
            raise GraphError(
                f"{str(source)!r} has {len(images)} inputs and {len(graph.output)} outputs; "
                "expected a recognition network with one of each"
            )
        self.input, self.output = images[0].name, graph.output[0].name
        kind = images[0].type.tensor_type
        self.is_half = kind.elem_type == _HALF
        sizes = [dim.dim_value for dim in kind.shape.dim]
        self.channels_last = sizes[1:] == [*input_hw, 3]
        fits = self.channels_last or [size or 0 for size in sizes[1:]] == [3, *input_hw]
        if (
            kind.elem_type not in (_FLOAT, _HALF)
            or len(sizes) != 4
            or (all(sizes[1:]) and not fits)
        ):
            raise GraphError(
                f"{str(source)!r}: the input {self.input!r} is "
                f"{onnx.TensorProto.DataType.Name(kind.elem_type)} of shape {sizes}; expected "
                f"float32 or float16, [batch, 3, {input_hw[0]}, {input_hw[1]}] or the channels "
                "last"
            )
        self.batch = sizes[0]
        if self.batch > _LARGEST_BATCH:
            raise GraphError(f"{str(source)!r} has a batch of {self.batch}; export it with another")

    def rows(self, images: np.ndarray) -> np.ndarray:
        """Return the embeddings (N, D) of images (N, 3, H, W), at the batch size of the file."""
        if self.channels_last:
            images = images.transpose(0, 2, 3, 1)
        images = np.ascontiguousarray(images, np.float16 if self.is_half else np.float32)
        step = self.batch or 1
        parts = [
            next(iter(run_graph(self._model, {self.input: images[start : start + step]}).values()))
            for start in range(0, len(images), step)
        ]
        if any(part.ndim != 2 or len(part) != step for part in parts):
            raise GraphError(
                f"the graph gives {parts[0].shape} for {step} images; expected one row per image"
            )
        return np.concatenate(parts).astype(np.float32)

    def compare(self, named: onnx.ModelProto, batch: Optional[int]) -> float:
        """Run both graphs on noise; return the largest difference."""
        step = batch or _PROBE_BATCH * max(self.batch, 1)
        count = int(np.lcm(step, max(self.batch, 1)))
        rng = np.random.default_rng(2026)
        images = rng.uniform(-1.0, 1.0, (count, 3, *self._hw)).astype(np.float32)
        expected = self.rows(images)
        advice = f"give --batch {max(self.batch, 1)}, as in the file"
        name = named.graph.input[0].name
        try:
            parts = [
                next(iter(run_graph(named, {name: images[start : start + step]}).values()))
                for start in range(0, count, step)
            ]
        except GraphError as error:
            raise GraphError(
                f"the graph does not run with a batch of {step} ({error}); {advice}"
            ) from error
        found = np.concatenate(parts)
        if found.shape != expected.shape:
            raise GraphError(
                f"the graph gives {found.shape} for a batch and {expected.shape} image by image; "
                f"expected one row per image; {advice}"
            )
        scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
        worst = float(np.max(np.abs(found - expected))) / max(scale, 1e-12)
        tolerance = _TOLERANCE_HALF if self.is_half else _TOLERANCE
        if not worst <= tolerance:
            raise GraphError(
                f"the output changes with the batch size by {worst:.3g} of its root mean square, "
                f"expected at most {tolerance:g}; {advice}"
            )
        return worst


def _with_contract(
    model: onnx.ModelProto,
    card: ModelCard,
    contract: Contract,
    batch: Optional[int],
    released: _Released,
) -> onnx.ModelProto:
    """Rename input and output, set the batch, write the contract."""
    size = card.preprocess.input_hw
    named = onnx.ModelProto()
    named.CopyFrom(model)
    graph = named.graph
    if released.is_half:
        _widen(graph)
    names = {released.input: card.input_name, released.output: card.outputs[0].name}
    # The file may use a name of the contract for another tensor.
    names = {**{name: f"{name}_released" for name in names.values() if name not in names}, **names}
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = names.get(value, value)
    if released.channels_last:
        _transpose_input(graph, card.input_name)
    free = batch or "batch"
    count = max(released.batch, 1)
    channels = released.rows(np.zeros((count, 3, *size), np.float32)).shape[1]
    shapes = ((card.input_name, [free, 3, *size]), (card.outputs[0].name, [free, channels]))
    for field, (name, shape) in zip((graph.input, graph.output), shapes):
        del field[:]
        field.append(helper.make_tensor_value_info(name, _FLOAT, shape))
    del graph.value_info[:]
    del named.metadata_props[:]
    helper.set_model_props(named, describe_export(contract))
    # Version 4 is the oldest that does not list weights among the inputs.
    named.ir_version = min(max(named.ir_version, 4), 8)
    onnx.checker.check_model(named)
    return named


def _widen(graph: onnx.GraphProto) -> None:
    """Turn a graph in float16 into the same one in float32; every weight keeps its value."""
    constants = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    tensors: List[onnx.TensorProto] = [*graph.initializer, *constants]
    for tensor in tensors:
        if tensor.data_type == _HALF:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _HALF:
                attribute.i = _FLOAT


def _transpose_input(graph: onnx.GraphProto, name: str) -> None:
    """Let a graph whose input has the channels last take them first."""
    inside = f"{name}_channels_last"
    for node in graph.node:
        for index, value in enumerate(node.input):
            node.input[index] = inside if value == name else value
    turned = helper.make_node("Transpose", [name], [inside], inside, perm=[0, 2, 3, 1])
    graph.node.insert(0, turned)
