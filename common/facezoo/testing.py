"""Test helpers: deterministic weights, and tiny networks with the contracts of the models."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

import numpy as np

from .card import ModelCard, OutputSpec
from .contract import Contract
from .errors import InputError
from .files import write_bytes
from .models import find_card
from .models.pipnet.decode import load_meanface

__all__ = [
    "fill_from_names",
    "tiny_magface",
    "tiny_pfld",
    "tiny_pipnet",
    "tiny_scrfd",
    "tiny_sdd_fiqa",
]

Weights = Tuple[np.ndarray, np.ndarray]  # kernel and bias of a convolution

RULES = {
    "he": lambda x, fan_in: x * math.sqrt(2.0 / fan_in),
    "bias": lambda x, fan_in: 0.05 * x,
    "norm_weight": lambda x, fan_in: 1 + 0.1 * x,
    "norm_weight_branch_end": lambda x, fan_in: 0.25 * (1 + 0.1 * x),
    "prelu": lambda x, fan_in: 0.25 + 0.05 * x,
    "running_mean": lambda x, fan_in: 0.1 * x,
    "running_var": lambda x, fan_in: np.exp(0.2 * x),
    "other": lambda x, fan_in: 1 + 0.1 * x,
}


def fill_from_names(manifest: Mapping[str, Any]) -> Dict[str, np.ndarray]:
    """Fill every entry of a network's state dict with values derived from its name.

    The golden outputs of the networks were made with these weights, so any implementation with the
    same names, shapes and arithmetic gives the same outputs.

    Parameters
    ----------
    manifest
        A golden manifest; ``manifest["tensors"]`` lists name, shape, dtype and filling rule.

    Returns
    -------
    dict of str to numpy.ndarray
        Entries in the manifest's order, float32; int64 where the rule is ``zero_int``.

    Raises
    ------
    InputError
        If the manifest names an unknown rule.
    """
    return {name: _fill(name, shape, rule) for name, shape, _, rule in manifest["tensors"]}


def _fill(name: str, shape: Sequence[int], rule: str) -> np.ndarray:
    size = math.prod(shape)
    if rule == "zero_int":
        return np.zeros(shape, np.int64)
    if rule == "arange":
        return np.arange(size, dtype=np.float32).reshape(shape)
    if rule not in RULES:
        known = ", ".join(["arange", *RULES, "zero_int"])
        raise InputError(f"{name}: filling rule {rule!r} is not known; expected one of {known}")
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(size)
    fan_in = size // shape[0] if shape else 1
    return np.asarray(RULES[rule](normal, fan_in), np.float32).reshape(shape)


def tiny_scrfd(
    path: Path,
    *,
    input_hw: Tuple[int, int] = (64, 64),
    card_id: str = "scrfd_500m_bnkps",
) -> Path:
    """Write a graph with SCRFD's contract and outputs, made of one convolution per head.

    Bright cells are faces, so that synthetic images contain some; all of its outputs differ, so
    that a test notices swapped outputs or images.

    Parameters
    ----------
    path
        The .onnx file to write; its folder is created if needed.
    input_hw
        Height and width, multiples of 32.
    card_id
        The card whose contract it carries, with or without landmarks.

    Returns
    -------
    Path
        The file.
    """
    card = find_card(card_id)
    rng = np.random.default_rng(2026)

    def weights_of(output: OutputSpec) -> Weights:
        stride = output.stride
        kernel = rng.normal(0.0, 0.1 / stride, (output.channels, 3, stride, stride))
        bias = rng.uniform(0.5, 1.5, output.channels)
        if output.name.startswith("score"):
            # The logit of a cell rises from about -14 for black to 8 for white.
            kernel += 11.0 / (3 * stride * stride)
            bias = np.full(output.channels, -3.0)
        return kernel, bias

    return _write_heads(path, card, input_hw, weights_of)


def tiny_pipnet(path: Path, *, card_id: str = "pip_resnet18") -> Path:
    """Write a graph with PIPNet's contract and outputs, made of one convolution per head.

    It places WFLW's mean face in the brightest of the 8 x 8 cells, so a bright square in a test
    image decides where the landmarks are.

    Parameters
    ----------
    path
        The .onnx file to write; its folder is created if needed.
    card_id
        The card whose contract it carries.

    Returns
    -------
    Path
        The file.
    """
    card = find_card(card_id)
    meanface = load_meanface(**card.decode)
    x, y = meanface.points_xy.T
    offsets = {"x": x, "y": y, "nb_x": x[meanface.neighbors], "nb_y": y[meanface.neighbors]}

    def weights_of(output: OutputSpec) -> Weights:
        kernel = np.zeros((output.channels, 3, output.stride, output.stride))
        if output.name == "cls":
            return kernel + 1.0 / kernel[0].size, np.linspace(0.0, 0.1, output.channels)
        return kernel, offsets[output.name].ravel()

    return _write_heads(path, card, card.preprocess.input_hw, weights_of)


def tiny_pfld(path: Path, *, card_id: str = "pfld_ghostone") -> Path:
    """Write a graph with PFLD's contract whose points scatter about the middle of the crop.

    A coarse image decides where they are, so another crop or another order of colours moves them.

    Parameters
    ----------
    path
        The .onnx file to write; its folder is created if needed.
    card_id
        The card whose contract it carries.

    Returns
    -------
    Path
        The file.
    """
    return _write_of_cells(path, find_card(card_id), 0.02, 0.5)


def tiny_magface(path: Path, *, card_id: str = "w600k_mbf") -> Path:
    """Write a graph with a recogniser's contract that multiplies a coarse grey image by a matrix.

    Similar images get similar embeddings, mirrored images different ones.

    Parameters
    ----------
    path
        The .onnx file to write; its folder is created if needed.
    card_id
        The card whose contract it carries.

    Returns
    -------
    Path
        The file.
    """
    return _write_of_cells(path, find_card(card_id), 1.0, 0.0)


def tiny_sdd_fiqa(path: Path, *, card_id: str = "sdd_fiqa_r50") -> Path:
    """Write a graph with SDD-FIQA's contract whose score is the difference of neighbouring pixels.

    A uniform image scores 0, black and white stripes one pixel wide score 100; blur lowers
    the score.

    Parameters
    ----------
    path
        The .onnx file to write; its folder is created if needed.
    card_id
        The card whose contract it carries.

    Returns
    -------
    Path
        The file.
    """
    from onnx import helper, numpy_helper

    card = find_card(card_id)
    kernel = np.zeros((1, 3, 1, 2), np.float32)
    kernel[..., 0], kernel[..., 1] = 50.0 / 3.0, -50.0 / 3.0
    nodes = [
        helper.make_node("Conv", [card.input_name, "kernel"], ["differences"]),
        helper.make_node("Abs", ["differences"], ["sizes"]),
        helper.make_node("ReduceMean", ["sizes"], ["quality"], axes=[2, 3], keepdims=0),
    ]
    weights = [numpy_helper.from_array(kernel, "kernel")]
    return _write_graph(path, Contract.from_card(card), nodes, weights, {"quality": (1,)})


def _write_of_cells(path: Path, card: ModelCard, scale: float, offset: float) -> Path:
    """Write a graph that multiplies a coarse image by a matrix and adds a number."""
    from onnx import helper, numpy_helper

    (output,), (height, width) = card.outputs, card.preprocess.input_hw
    side = 16
    cells = 3 * (height // side) * (width // side)
    matrix = np.random.default_rng(2026).normal(0.0, scale, (cells, output.channels))
    weights = [
        numpy_helper.from_array(matrix.astype(np.float32), "weight"),
        numpy_helper.from_array(np.array(offset, np.float32), "offset"),
        numpy_helper.from_array(np.array([-1, cells], np.int64), "shape"),
    ]
    nodes = [
        helper.make_node(
            "AveragePool", [card.input_name], ["cells"], kernel_shape=[side] * 2, strides=[side] * 2
        ),
        helper.make_node("Reshape", ["cells", "shape"], ["row"]),
        helper.make_node("MatMul", ["row", "weight"], ["products"]),
        helper.make_node("Add", ["products", "offset"], [output.name]),
    ]
    outputs = {output.name: (output.channels,)}
    return _write_graph(path, Contract.from_card(card), nodes, weights, outputs)


def _write_heads(
    path: Path,
    card: ModelCard,
    input_hw: Tuple[int, int],
    weights_of: Callable[[OutputSpec], Weights],
) -> Path:
    """Write a graph of one convolution per head, with kernel and stride of the cell size."""
    from onnx import helper, numpy_helper

    nodes, weights, outputs = [], [], {}
    for output in card.outputs:
        stride = output.stride
        for suffix, array in zip(("weight", "bias"), weights_of(output)):
            weights.append(
                numpy_helper.from_array(array.astype(np.float32), f"{output.name}.{suffix}")
            )
        inputs = [card.input_name, f"{output.name}.weight", f"{output.name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [output.name], strides=[stride, stride]))
        outputs[output.name] = (output.channels, input_hw[0] // stride, input_hw[1] // stride)
    contract = Contract.from_card(card, input_hw=input_hw)
    return _write_graph(path, contract, nodes, weights, outputs)


def _write_graph(
    path: Path,
    contract: Contract,
    nodes: Sequence[Any],
    weights: Sequence[Any],
    outputs: Mapping[str, Tuple[int, ...]],
) -> Path:
    """Write nodes as a self-describing graph; ``outputs`` maps names to shapes without batch."""
    from onnx import TensorProto, helper

    shapes = {contract.input_name: (3, *contract.preprocess.input_hw), **outputs}
    image, *found = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in shapes.items()
    )
    graph = helper.make_graph(nodes, f"tiny_{contract.model}", [image], found, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    helper.set_model_props(model, contract.to_metadata())
    write_bytes(Path(path), model.SerializeToString())
    return Path(path)
