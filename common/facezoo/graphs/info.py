"""Parameters, MACs, inputs and outputs of an ONNX graph.

MACs are multiply-accumulates of convolutions, matrix products and linear layers for one image;
FLOPs in papers are this number or twice it. Other operations (activations, additions, resizing,
normalisation that is not folded) are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import onnx
from onnx import helper

from ..backends.ort import run_graph
from ..contract import LARGEST_INPUT, Contract, metadata_of
from ..errors import GraphError, InputError

__all__ = [
    "GraphInfo",
    "Shape",
    "count_node_macs",
    "describe_graph",
    "shapes_at",
    "zeros",
]


Shape = Tuple[int, ...]

# Inputs of an operation that are learnt if they are stored in the graph. Running means and
# variances of batch norms are not counted, as in PyTorch.
_LEARNT = {
    "Add": (0, 1),
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvInteger": (1,),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
}

# Operations that only quantise, cast or rearrange stored weights.
_SAME_WEIGHTS = {"Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose", "Unsqueeze"}

# Input index of a convolution's kernel; operators that multiply matrices.
_KERNEL = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3}
_PRODUCTS = {"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"}


@dataclass(frozen=True)
class GraphInfo:
    """Facts about a graph at one input size.

    Attributes
    ----------
    parameters
        Learnt numbers stored in the graph. With batch norms folded into convolutions this is one
        number less per channel than during training.
    macs
        Multiply-accumulates for one image, see the module.
    inputs, outputs
        Name and shape of each, at the counted size; batch 1.
    opset, ir_version
        Versions of the default operator set and of the file format.
    contract
        Contract in the metadata of the file; None if it has none.
    """

    parameters: int
    macs: int
    inputs: Tuple[Tuple[str, Shape], ...]
    outputs: Tuple[Tuple[str, Shape], ...]
    opset: int
    ir_version: int
    contract: Optional[Contract]


def describe_graph(model: onnx.ModelProto, input_hw: Optional[Tuple[int, int]] = None) -> GraphInfo:
    """Count the parameters and MACs of a graph, and read its inputs, outputs and contract.

    Shapes come from one run in ONNX Runtime, since many files compute shapes inside the graph.

    Parameters
    ----------
    model
        Any ONNX model with its weights inside and the batch as first axis.
    input_hw
        Height and width to count at, for inputs (B, C, H, W); if None, those of the graph, else
        those of the contract.

    Returns
    -------
    GraphInfo
        Facts for one image of that size.

    Raises
    ------
    InputError
        If the size of the graph is free and none is given, or it is fixed to another size.
    GraphError
        If the graph does not run at this size.
    """
    contract = Contract.from_metadata(metadata_of(model))
    if input_hw is None and contract is not None:
        input_hw = contract.preprocess.input_hw
    stored = {tensor.name for tensor in model.graph.initializer}
    feeds = {
        entry.name: _zeros(entry, input_hw)
        for entry in model.graph.input
        if entry.name not in stored
    }
    outputs = [entry.name for entry in model.graph.output]
    wanted = {name for node in model.graph.node for name in _shapes_needed(node)}
    shapes = shapes_at(model, feeds, sorted(wanted.union(outputs)))
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    batch = len(next(iter(feeds.values())))
    return GraphInfo(
        parameters=_count_parameters(model),
        macs=sum(_count_macs(node, shapes) for node in model.graph.node) // batch,
        inputs=tuple((name, array.shape) for name, array in feeds.items()),
        outputs=tuple((name, shapes[name]) for name in outputs),
        opset=int(opsets.get("", opsets.get("ai.onnx", 0))),
        ir_version=int(model.ir_version),
        contract=contract,
    )


def _zeros(entry: onnx.ValueInfoProto, input_hw: Optional[Tuple[int, int]]) -> np.ndarray:
    """Return an input of one image of a size; fixed axes are kept."""
    tensor = entry.type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    shape[:1] = [size or 1 for size in shape[:1]]
    if input_hw is not None and len(shape) == 4:
        if any(have not in (0, want) for have, want in zip(shape[2:], input_hw)):
            raise InputError(
                f"input {entry.name!r} is fixed to {shape[2]}x{shape[3]}, so it cannot be counted "
                f"at {input_hw[0]}x{input_hw[1]}; omit the size"
            )
        shape[2:] = input_hw
    if 0 in shape:
        raise InputError(
            f"axis {shape.index(0)} of input {entry.name!r} is free; give the height and width to "
            "count at, such as --size 640 640"
        )
    return zeros(shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def zeros(shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """Return an input for a graph; GraphError if it would not fit in memory."""
    if math.prod(shape) > LARGEST_INPUT:
        raise GraphError(
            f"an input of {'x'.join(map(str, shape))} is more than {LARGEST_INPUT} values; "
            "expected an image: export the model again"
        )
    return np.zeros(shape, dtype)


def _shapes_needed(node: onnx.NodeProto) -> List[str]:
    if node.op_type in _KERNEL:
        return [node.input[0], node.input[_KERNEL[node.op_type]], node.output[0]]
    return [node.input[0], node.output[0]] if node.op_type in _PRODUCTS else []


def shapes_at(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], names: Sequence[str]
) -> Dict[str, Shape]:
    """Run a graph and return the shapes of its tensors.

    Parameters
    ----------
    model
        The graph.
    feeds
        Input name to array.
    names
        Names of tensors, including inner ones.

    Returns
    -------
    dict
        Name to shape.

    Raises
    ------
    GraphError
        If the graph rejects these feeds.
    """
    if not names:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for index, name in enumerate(names):
        shape = f"facezoo_shape_{index}"
        probe.graph.node.append(helper.make_node("Shape", [name], [shape]))
        info = helper.make_tensor_value_info(shape, onnx.TensorProto.INT64, None)
        probe.graph.output.append(info)
    found = run_graph(probe, feeds)
    return {name: tuple(map(int, shape)) for name, shape in zip(names, found.values())}


def count_node_macs(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> List[int]:
    """Count the MACs of every node in one run; parameters and errors as for :func:`shapes_at`."""
    wanted = sorted({name for node in model.graph.node for name in _shapes_needed(node)})
    shapes = shapes_at(model, feeds, wanted)
    return [_count_macs(node, shapes) for node in model.graph.node]


def _count_macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Count the products of one operation: number of outputs times products per output."""
    if node.op_type in _KERNEL:
        # (outputs, inputs / groups, ...); for transposed ones (inputs, outputs / groups, ...).
        kernel = shapes[node.input[_KERNEL[node.op_type]]]
        places = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        return math.prod(shapes[places]) * math.prod(kernel[1:])
    if node.op_type in _PRODUCTS:
        factor = shapes[node.input[0]]
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(shapes[node.output[0]]) * factor[0 if transposed else -1]
    return 0


def _count_parameters(model: onnx.ModelProto) -> int:
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    origin = {name: name for name in sizes}
    learnt = set()
    for node in model.graph.node:
        if node.op_type in _SAME_WEIGHTS and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        for index in _LEARNT.get(node.op_type, ()):
            if index < len(node.input) and node.input[index] in origin:
                learnt.add(origin[node.input[index]])
    return sum(sizes[name] for name in learnt)
