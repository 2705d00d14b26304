"""Rewrites of an ONNX graph that keep its outputs or only round its weights.

Each function changes the model in place and returns the number of changes.
"""

from __future__ import annotations

from collections import Counter
from typing import Dict, Iterable, List, Mapping, Sequence, Set, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..backends.ort import channel_slopes, replace_nodes
from ..errors import GraphError

__all__ = [
    "BATCH_AXIS",
    "cast_outputs_to_half",
    "count_removed",
    "declare_outputs",
    "drop_initializer_inputs",
    "drop_unused_domains",
    "fix_input_shapes",
    "rewrite_prelu",
    "round_weights_to_half",
    "store_weights_as_half",
]


BATCH_AXIS = "batch"

# Float inputs of these operators are sizes and limits, not weights.
_NOT_WEIGHTS = ("Resize", "Upsample", "Clip")


def drop_initializer_inputs(model: onnx.ModelProto) -> None:
    """Make weights constant: before IR 4 they are also inputs, which a caller may replace."""
    constants = {entry.name for entry in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def fix_input_shapes(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[Tuple[int, ...]]]
) -> Dict[str, Tuple[object, ...]]:
    """Fix all input axes except the batch.

    Parameters
    ----------
    model
        Its recorded inner and output shapes, which may be stale, are dropped.
    shapes
        Input name to one or several shapes; an axis that differs among them stays free.

    Returns
    -------
    dict
        Input name to its new shape: sizes, and names of free axes; axis 0 is ``batch``.
    """
    fixed: Dict[str, Tuple[object, ...]] = {}
    for entry in model.graph.input:
        axes: List[object] = [BATCH_AXIS]
        for index, sizes in enumerate(zip(*shapes[entry.name])):
            if index:
                axes.append(sizes[0] if len(set(sizes)) == 1 else f"{entry.name}_axis_{index}")
        kind = entry.type.tensor_type.elem_type
        entry.CopyFrom(helper.make_tensor_value_info(entry.name, kind, axes))
        fixed[entry.name] = tuple(axes)
    del model.graph.value_info[:]
    for entry in model.graph.output:
        entry.type.tensor_type.ClearField("shape")
    return fixed


def declare_outputs(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[Tuple[int, ...]]]
) -> None:
    """Declare the observed output shapes, with a free batch axis."""
    for entry in model.graph.output:
        axes = [
            sizes[0] if len(set(sizes)) == 1 else f"{entry.name}_axis_{index}"
            for index, sizes in enumerate(zip(*shapes[entry.name]))
        ]
        kind = entry.type.tensor_type.elem_type
        entry.CopyFrom(helper.make_tensor_value_info(entry.name, kind, [BATCH_AXIS, *axes[1:]]))


def drop_unused_domains(model: onnx.ModelProto) -> None:
    """Keep only the operator sets that nodes use; ONNX Runtime declares all it knows."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def rewrite_prelu(model: onnx.ModelProto) -> int:
    """Replace PRelu with one slope per channel by depthwise 1x1 convolutions.

    ``prelu(x) = s * x + relu((1 - s) * x)`` for slopes up to 1, and ``s * x + (1 - s) * relu(x)``
    for any. ONNX Runtime fuses the ReLU into one convolution and the sum into the other, and keeps
    the whole network in its blocked layout, which PRelu would interrupt. Same values within float32
    rounding.

    Parameters
    ----------
    model
        Slopes must be initializers of shape (C, 1, 1) or (1, C, 1, 1), C > 1, and the input must
        have four axes; other PRelu nodes stay.

    Returns
    -------
    int
        Number of replaced nodes.
    """
    graph = model.graph
    constants = {entry.name: entry for entry in graph.initializer}
    slopes_of = channel_slopes(model)
    nodes: List[onnx.NodeProto] = []
    replaced = []
    for node in graph.node:
        slopes = slopes_of.get(node.output[0]) if node.op_type == "PRelu" else None
        if slopes is None:
            nodes.append(node)
            continue
        weights, convolutions = _prelu_as_convolutions(node, slopes)
        graph.initializer.extend(weights)
        nodes.extend(convolutions)
        replaced.append(node.input[1])
    replace_nodes(graph, nodes)
    still_used = {name for node in nodes for name in node.input}
    for name in set(replaced) - still_used:
        graph.initializer.remove(constants[name])
    return len(replaced)


def _prelu_as_convolutions(
    node: onnx.NodeProto, slopes: np.ndarray
) -> Tuple[List[onnx.TensorProto], List[onnx.NodeProto]]:
    source, target = node.input[0], node.output[0]
    weights = []

    def depthwise(x: str, factors: np.ndarray, y: str) -> onnx.NodeProto:
        values = factors.astype(np.float32).reshape(-1, 1, 1, 1)
        weights.append(numpy_helper.from_array(values, f"{y}_weight"))
        return helper.make_node(
            "Conv", [x, f"{y}_weight"], [y], name=y, group=len(values), kernel_shape=[1, 1]
        )

    linear, rest, relu = (f"{target}_prelu_{part}" for part in ("linear", "rest", "relu"))
    if slopes.max() <= 1:
        # The sign of the ReLU's argument is kept, so the factor may go before it: one pass less.
        rectify = [
            depthwise(source, 1 - slopes, rest),
            helper.make_node("Relu", [rest], [relu], name=relu),
        ]
        last = relu
    else:
        rectify = [
            helper.make_node("Relu", [source], [relu], name=relu),
            depthwise(relu, 1 - slopes, rest),
        ]
        last = rest
    add = helper.make_node("Add", [linear, last], [target], name=f"{target}_prelu")
    return weights, [*rectify, depthwise(source, slopes, linear), add]


def round_weights_to_half(model: onnx.ModelProto) -> int:
    """Round every float weight to the nearest float16, keeping it as float32.

    Returns
    -------
    int
        Number of rounded tensors.

    Raises
    ------
    GraphError
        If a weight exceeds the range of float16.
    """
    rounded = 0
    limits = _used_by(model.graph.node, _NOT_WEIGHTS)
    for entry in model.graph.initializer:
        if entry.data_type != TensorProto.FLOAT or entry.name in limits:
            continue
        values = numpy_helper.to_array(entry)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(np.isfinite(half), np.isfinite(values)):
            raise GraphError(
                f"weight {entry.name!r} reaches {np.abs(values).max():.3g}, but the largest "
                "float16 is 65504; compile with dtype fp32"
            )
        entry.CopyFrom(numpy_helper.from_array(half.astype(np.float32), entry.name))
        rounded += 1
    return rounded


def store_weights_as_half(model: onnx.ModelProto) -> int:
    """Store weights that are exact in float16 as float16, with a Cast that the runtime folds.

    Returns
    -------
    int
        Number of tensors stored that way.
    """
    graph = model.graph
    limits = _used_by(graph.node, _NOT_WEIGHTS)
    casts: List[onnx.NodeProto] = []
    for entry in graph.initializer:
        if entry.data_type != TensorProto.FLOAT or entry.name in limits:
            continue
        values = numpy_helper.to_array(entry)
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = entry.name
        entry.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    replace_nodes(graph, [*casts, *graph.node])
    return len(casts)


def cast_outputs_to_half(model: onnx.ModelProto) -> int:
    """Cast the graph's float32 outputs to float16 under their own names.

    Returns
    -------
    int
        Number of outputs cast.
    """
    graph = model.graph
    outputs = [o for o in graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT]
    full = {entry.name: f"{entry.name}_float" for entry in outputs}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [full.get(name, name) for name in names]
    for entry in outputs:
        node = helper.make_node("Cast", [full[entry.name]], [entry.name], to=TensorProto.FLOAT16)
        graph.node.append(node)
        entry.type.tensor_type.elem_type = TensorProto.FLOAT16
    return len(outputs)


def count_removed(before: onnx.ModelProto, after: onnx.ModelProto) -> Dict[str, int]:
    """Count the nodes removed by folding, by operator."""
    count = Counter(node.op_type for node in before.graph.node)
    count.subtract(node.op_type for node in after.graph.node)
    return {name: number for name, number in sorted(count.items()) if number > 0}


def _used_by(nodes: Iterable[onnx.NodeProto], operators: Sequence[str]) -> Set[str]:
    return {name for node in nodes if node.op_type in operators for name in node.input}
