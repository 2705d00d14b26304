"""Int8 quantisation for ONNX Runtime: calibration, lint, bias correction, QDQ insertion.

ONNX Runtime's own calibrators store every tensor of every image unless only minima and maxima are
needed, so ranges come from ``ranges``; ONNX Runtime's static quantiser rewrites the graph.
"""

from __future__ import annotations

import copy
import itertools
import logging
import platform
from dataclasses import dataclass
from typing import Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Set

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from ..artifact import FULL, PORTABLE
from ..backends.int8 import saturates
from ..backends.ort import OrtBackend
from ..errors import ConfigError, GraphError
from ..graphs.info import count_node_macs
from ..vacc.build_config import Quantize
from .ranges import LEVELS, Feeds, Range, TensorStats, collect_stats, estimate_range, open_probe

__all__ = [
    "Arithmetic",
    "Calibrated",
    "Layer",
    "Quantized",
    "calibrate",
    "choose_arithmetic",
    "excluded_layers",
    "insert_qdq",
    "lint_graph",
    "list_layers",
    "quantize_graph",
]


OLDEST_OPSET = 13  # the first with one scale per channel in DequantizeLinear
ARM = ("arm64", "aarch64")

# Operators that ONNX Runtime computes in 8 bits on a CPU, and those that only pass 8 bits through.
COMPUTING = (
    "Add AveragePool Concat Conv Gemm GlobalAveragePool LeakyRelu MatMul Mul Sigmoid Softmax"
).split()
PASSING = "Clip Flatten MaxPool Relu Reshape Resize Slice Split Squeeze Transpose Unsqueeze".split()
QUANTISED = (*COMPUTING, *PASSING)
PRODUCTS = ("Gemm", "MatMul")  # the operators counted by skip_matmul_layers
# A tensor that uses fewer than this many of the 255 steps of a common range is practically lost.
FEWEST_STEPS = 16
BIAS_PICTURES = 32  # mean errors converge early
LOWEST = "facezoo_lowest"  # an initializer of quantised graphs, see _shield_float_layers

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arithmetic:
    """The fastest 8-bit types for a CPU.

    Attributes
    ----------
    activations, weights
        ``uint8`` or ``int8``.
    reduce_range
        Use 7 bits for weights, since products of 8 bits overflow the 16-bit sums of some CPUs.
    reason
        Reason, in words.
    """

    activations: str
    weights: str
    reduce_range: bool
    reason: str

    @property
    def int8_weights(self) -> str:
        """``portable`` or ``full``, as in :class:`~facezoo.artifact.BuildInfo`."""
        return PORTABLE if self.reduce_range else FULL

    def __str__(self) -> str:
        bits = "7-bit " if self.reduce_range else ""
        return f"{self.activations} activations, {bits}{self.weights} weights ({self.reason})"


def choose_arithmetic(
    weights: str = "auto", machine: Optional[str] = None, saturating: Optional[bool] = None
) -> Arithmetic:
    """Choose the 8-bit types for a CPU.

    Parameters
    ----------
    weights
        ``portable`` for weights of 7 bits, ``full`` for 8, ``auto`` for those that this CPU
        computes without saturation.
    machine
        Value of ``platform.machine()``; this machine if None.
    saturating
        Whether sums of 8-bit products saturate; measured on this CPU if None.

    Returns
    -------
    Arithmetic
        On x86 unsigned activations, which took 0.46 of the fp32 time of scrfd_2.5g, while signed
        ones took 1.2. On ARM signed ones.

    References
    ----------
    .. [1] ONNX Runtime, ``quantize_static``, "Choosing parameters for CPU inference".
    """
    machine = (platform.machine() if machine is None else machine).lower()
    activations = "int8" if machine in ARM else "uint8"
    if weights != "auto":
        return Arithmetic(activations, "int8", weights == PORTABLE, f"{weights}, as requested")
    if saturates(OrtBackend) if saturating is None else saturating:
        return Arithmetic(activations, "int8", True, "8-bit sums saturate on this CPU")
    return Arithmetic(activations, "int8", False, "8-bit sums are exact on this CPU")


@dataclass(frozen=True)
class Layer:
    """An operator of the graph that can be quantised.

    Attributes
    ----------
    number
        Index among all operators of the folded graph, from 0, as used by ``exclude_layers``.
    kind_number
        Index among the convolutions or the matrix products, from 0, as used by
        ``skip_conv_layers`` and ``skip_matmul_layers``; -1 for other operators.
    op_type
        ONNX operator.
    name
        Name of its first output, which is also the node name during quantisation.
    macs
        Multiply-accumulates for one image.
    """

    number: int
    kind_number: int
    op_type: str
    name: str
    macs: int

    @property
    def key(self) -> str:
        """The YAML key that excludes this layer."""
        kind = {"Conv": "conv", **dict.fromkeys(PRODUCTS, "matmul")}.get(self.op_type)
        return f"skip_{kind}_layers" if kind else "exclude_layers"

    @property
    def key_number(self) -> int:
        """Its index under :attr:`key`."""
        return self.number if self.kind_number < 0 else self.kind_number


def list_layers(model: onnx.ModelProto, feeds: Feeds) -> List[Layer]:
    """List the operators that can be quantised.

    Parameters
    ----------
    model
        Folded graph.
    feeds
        Feeds of one image, for the sizes.

    Returns
    -------
    list of Layer
        Layers in graph order.
    """
    layers = []
    counts = {"Conv": 0, "product": 0}
    for number, (node, macs) in enumerate(zip(model.graph.node, count_node_macs(model, feeds))):
        kind_number = -1
        if node.op_type in ("Conv", *PRODUCTS):
            kind = "Conv" if node.op_type == "Conv" else "product"
            kind_number = counts[kind]
            counts[kind] += 1
        if node.op_type in QUANTISED:
            layers.append(Layer(number, kind_number, node.op_type, node.output[0], macs))
    return layers


def excluded_layers(layers: Sequence[Layer], settings: Quantize, where: str) -> Set[str]:
    """Return the names of the layers that a YAML leaves unquantised.

    Raises
    ------
    ConfigError
        If a number does not belong to a layer.
    """
    names = set()
    for key in ("skip_conv_layers", "skip_matmul_layers", "exclude_layers"):
        if key == "exclude_layers":
            by_number = {layer.number: layer.name for layer in layers}
        else:
            by_number = {layer.kind_number: layer.name for layer in layers if layer.key == key}
        for number in getattr(settings, key):
            if number not in by_number:
                known = f"there are {sorted(by_number)}" if by_number else "there are none"
                raise ConfigError(
                    f"{where}: backend.quantize.{key} has {number}, which is not such a layer; "
                    f"{known}; see: facezoo sensitivity"
                )
            names.add(by_number[number])
    return names


def lint_graph(model: onnx.ModelProto, stats: Mapping[str, TensorStats]) -> List[str]:
    """Find parts of a graph that are likely to fail in 8 bits.

    Parameters
    ----------
    model
        Folded graph.
    stats
        Statistics of its tensors on calibration data.

    Returns
    -------
    list of str
        One sentence per finding: concatenated tensors of different ranges, sigmoids inside the
        graph, constant channels.
    """
    findings: List[str] = []
    for number, node in enumerate(model.graph.node):
        if node.op_type == "Concat":
            findings += _lint_concat(number, node, stats)
        elif node.op_type == "Sigmoid" and not _is_swish(model, node):
            findings.append(
                f"Sigmoid {number} ({node.output[0]!r}) is inside the graph, so scores below 1/255 "
                "become 0; export raw heads and apply it after decoding"
            )
        elif node.op_type == "Conv" and node.output[0] in stats:
            constant = stats[node.output[0]].constant_channels
            if constant:
                findings.append(
                    f"Conv {number} ({node.output[0]!r}): {constant} of "
                    f"{len(stats[node.output[0]].low)} channels are constant on the calibration "
                    "data; they are dead, or the data is too uniform"
                )
    return findings


def _lint_concat(
    number: int, node: onnx.NodeProto, stats: Mapping[str, TensorStats]
) -> Iterable[str]:
    ranges = {name: stats[name].range for name in node.input if name in stats}
    spans = {name: high - low for name, (low, high) in ranges.items()}
    if len(spans) < 2:
        return
    joint = max(high for _, high in ranges.values()) - min(low for low, _ in ranges.values())
    name = min(spans, key=spans.__getitem__)
    steps = LEVELS * spans[name] / joint if joint else LEVELS
    if spans[name] > 0 and steps < FEWEST_STEPS:
        low, high = ranges[name]
        yield (
            f"Concat {number} ({node.output[0]!r}) concatenates tensors of different ranges: "
            f"{name!r} in [{low:.3g}, {high:.3g}] keeps {steps:.1f} of 255 steps; export the "
            f"tensors separately, or set exclude_layers: [{number}]"
        )


def _is_swish(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Return whether a sigmoid only scales its own input: an activation (SiLU), not a score."""
    return any(
        other.op_type == "Mul" and {node.input[0], node.output[0]} == set(other.input)
        for other in model.graph.node
    )


@dataclass(frozen=True)
class Calibrated:
    """A calibrated graph, ready to be quantised.

    Attributes
    ----------
    model
        Graph at an opset with per-channel scales, with nodes named after their outputs.
    stats
        Calibration statistics, by tensor.
    ranges
        Range covered by 8 bits, by tensor.
    layers
        Layers that can be quantised.
    """

    model: onnx.ModelProto
    stats: Mapping[str, TensorStats]
    ranges: Mapping[str, Range]
    layers: Sequence[Layer]


@dataclass(frozen=True)
class Quantized:
    """A graph with QDQ nodes, with facts about it.

    Attributes
    ----------
    model
        The graph.
    arithmetic
        The types.
    layers, excluded
        Number of layers with weights, and how many of them stay in float.
    excluded_macs
        Their share of the multiply-accumulates.
    findings
        Findings of the lint.
    """

    model: onnx.ModelProto
    arithmetic: Arithmetic
    layers: int
    excluded: int
    excluded_macs: float
    findings: Sequence[str]


def calibrate(model: onnx.ModelProto, settings: Quantize, data: Iterable[Feeds]) -> Calibrated:
    """Find the range of every tensor.

    Parameters
    ----------
    model
        Folded graph, float32; not changed.
    settings
        ``calibrate_mode`` (``max`` if the YAML has none) and ``calibrate_range`` are used.
    data
        Feeds of one image each; iterated more than once.

    Returns
    -------
    Calibrated

    Raises
    ------
    GraphError
        If the graph cannot be converted to the opset, or rejects the data.
    """
    model = _prepare(model)
    mode = settings.calibrate_mode or "max"
    stats = collect_stats(model, data, histograms=mode != "max")
    ranges = {n: estimate_range(s, mode, settings.calibrate_range) for n, s in stats.items()}
    for entry in model.graph.input:
        # Pixels have 256 values, so a range that covers all of them is exact.
        ranges[entry.name] = estimate_range(stats[entry.name], "max")
    return Calibrated(model, stats, ranges, list_layers(model, next(iter(data))))


def _prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next((entry.version for entry in model.opset_import if entry.domain == ""), 0)
    if opset >= OLDEST_OPSET:
        prepared = copy.deepcopy(model)
    else:
        try:
            prepared = onnx.version_converter.convert_version(model, OLDEST_OPSET)
        except Exception as error:  # The converter has no common base class.
            reason = " ".join(str(error).split())[:200]
            raise GraphError(
                f"the graph cannot be converted from opset {opset} to {OLDEST_OPSET}, which int8 "
                f"needs ({reason}); export it with opset {OLDEST_OPSET}"
            ) from error
        prepared.ir_version = model.ir_version
        del prepared.metadata_props[:]
        prepared.metadata_props.extend(model.metadata_props)
    for node in prepared.graph.node:
        node.name = node.output[0]
    return prepared


def quantize_graph(
    model: onnx.ModelProto,
    settings: Quantize,
    data: Iterable[Feeds],
    *,
    where: str = "the build YAML",
    arithmetic: Optional[Arithmetic] = None,
) -> Quantized:
    """Quantise a graph with the settings of a build YAML.

    Parameters
    ----------
    model
        Folded graph, float32; not changed.
    settings
        Settings of the YAML.
    data
        Feeds of one image each; iterated more than once.
    where
        Name of the YAML, for messages.
    arithmetic
        The 8-bit types; those for this CPU if None.

    Returns
    -------
    Quantized

    Raises
    ------
    ConfigError
        If an excluded layer does not exist.
    GraphError
        If the graph or its tensors cannot be quantised.
    """
    arithmetic = arithmetic or choose_arithmetic()
    calibrated = calibrate(model, settings, data)
    excluded = excluded_layers(calibrated.layers, settings, where)
    findings = lint_graph(calibrated.model, calibrated.stats)
    quantised = insert_qdq(
        calibrated, excluded, arithmetic, settings.quantize_per_channel, data=data
    )
    weighted = [layer for layer in calibrated.layers if layer.kind_number >= 0]
    left_out = [layer for layer in weighted if layer.name in excluded]
    return Quantized(
        quantised,
        arithmetic,
        layers=len(weighted),
        excluded=len(left_out),
        excluded_macs=sum(layer.macs for layer in left_out)
        / max(sum(layer.macs for layer in weighted), 1),
        findings=findings,
    )


def insert_qdq(
    calibrated: Calibrated,
    excluded: Collection[str],
    arithmetic: Arithmetic,
    per_channel: bool = True,
    data: Optional[Iterable[Feeds]] = None,
) -> onnx.ModelProto:
    """Insert QuantizeLinear and DequantizeLinear around every layer that is not excluded.

    Parameters
    ----------
    calibrated
        The graph and its ranges; not changed.
    excluded
        Names of layers; operators that only pass their outputs through are excluded with them.
    arithmetic
        The types.
    per_channel
        One weight scale per output channel.
    data
        If given, biases of convolutions are corrected so that the mean error on it is zero.

    Returns
    -------
    onnx.ModelProto
    """
    model = copy.deepcopy(calibrated.model)
    excluded = _with_followers(model.graph, excluded)
    if data is not None:
        _cancel_mean_errors(model, calibrated, excluded, arithmetic, per_channel, data)
    ends = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in calibrated.ranges.items()
    }
    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    quantiser = QDQQuantizer(
        onnx.shape_inference.infer_shapes(model),
        per_channel,
        arithmetic.reduce_range,
        types[arithmetic.weights],
        types[arithmetic.activations],
        TensorsData(CalibrationMethod.MinMax, ends),
        [],
        sorted(excluded),
        list(QUANTISED),
        {},
    )
    try:
        quantiser.quantize_model()
        quantiser.model.topological_sort()
    except Exception as error:  # The quantiser has no common base class.
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"ONNX Runtime's quantiser rejects the graph ({reason}); exclude layers with "
            "backend.quantize.exclude_layers, or compile with dtype fp16"
        ) from error
    quantised: onnx.ModelProto = quantiser.model.model
    _shield_float_layers(quantised.graph, excluded)
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(model.metadata_props)
    return quantised


def _with_followers(graph: onnx.GraphProto, excluded: Collection[str]) -> Set[str]:
    """Add the operators that only pass the output of an excluded layer through.

    A ReLU in 8 bits after a float layer would waste half of the range on values it discards.
    """
    names, in_float = set(excluded), set()
    for node in graph.node:
        if node.op_type in PASSING and node.input[0] in in_float:
            names.add(node.name)
        if node.name in names:
            in_float.update(node.output)
    return names


def _shield_float_layers(graph: onnx.GraphProto, excluded: Collection[str]) -> None:
    """Keep the runtime from quantising an excluded layer at load time.

    For such a layer between two quantised ones, ONNX Runtime's WeightBiasQuantization creates
    8-bit weights with one scale for all channels when it loads the graph. An operator at the
    layer's input that changes no value hides the pattern.
    """
    fed_by_dequantize = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    nodes = []
    for node in graph.node:
        bare = node.op_type in ("Conv", *PRODUCTS) and node.name in excluded
        if bare and node.input[0] in fed_by_dequantize:
            shielded = f"{node.name}_shielded"
            nodes.append(helper.make_node("Clip", [node.input[0], LOWEST], [shielded]))
            node.input[0] = shielded
        nodes.append(node)
    if len(nodes) > len(graph.node):
        graph.initializer.append(
            numpy_helper.from_array(np.array(np.finfo(np.float32).min, np.float32), LOWEST)
        )
        # Extending a repeated field copies its nodes, so the old ones are deleted afterwards.
        before = len(graph.node)
        graph.node.extend(nodes)
        del graph.node[:before]


def _cancel_mean_errors(
    model: onnx.ModelProto,
    calibrated: Calibrated,
    excluded: Collection[str],
    arithmetic: Arithmetic,
    per_channel: bool,
    data: Iterable[Feeds],
) -> None:
    """Correct the biases of convolutions by the mean change of their outputs from quantisation.

    Each convolution is measured alone, on the quantised input that the float network has there. One
    that stays in float also has a mean error if its input comes from a quantised layer.

    References
    ----------
    .. [1] Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*,
       arXiv:1906.04721, section 4.2; here with data, as its appendix D describes.
    """
    weights = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    quantised = [n for n in model.graph.node if n.op_type in QUANTISED and n.name not in excluded]
    rounded = {name for node in quantised for name in (*node.input, *node.output)}
    probe = copy.deepcopy(model)
    names: Dict[str, str] = {}
    for node in model.graph.node:
        parameters = [weights.get(name) for name in node.input[1:]]
        if node.op_type != "Conv" or node.input[0] not in rounded or len(parameters) < 2:
            continue
        kernel = parameters[0]
        if kernel is not None and parameters[1] is not None:
            if node.name not in excluded:
                kernel = _rounded(kernel, arithmetic, per_channel)
            ends = calibrated.ranges[node.input[0]]
            names[node.name] = _add_mean_error(probe.graph, node, kernel, ends)
    run = open_probe(probe, names.values())
    sums: Dict[str, np.ndarray] = {}
    count = 0
    for feeds in itertools.islice(data, BIAS_PICTURES):
        found = run(feeds)
        sums = {name: sums.get(name, 0.0) + found[name].astype(np.float64) for name in found}
        count += 1
    for node in model.graph.node:
        if node.name in names:
            bias = weights[node.input[2]] + sums[names[node.name]] / count
            node.input[2] = f"{node.name}_bias"
            entry = numpy_helper.from_array(bias.astype(np.float32), node.input[2])
            model.graph.initializer.append(entry)
    used = {name for node in model.graph.node for name in node.input}
    for entry in [e for e in model.graph.initializer if e.name not in used]:
        model.graph.initializer.remove(entry)


def _rounded(kernel: np.ndarray, arithmetic: Arithmetic, per_channel: bool) -> np.ndarray:
    """Return a kernel after quantisation and dequantisation."""
    axes = tuple(range(1, kernel.ndim)) if per_channel else None
    largest = np.abs(kernel).max(axis=axes, keepdims=True)
    step = np.where(largest > 0, largest, 1.0) / (64 if arithmetic.reduce_range else 127)
    return np.asarray(np.rint(kernel / step) * step, np.float32)


def _add_mean_error(
    graph: onnx.GraphProto, node: onnx.NodeProto, kernel: np.ndarray, ends: Range
) -> str:
    """Add a quantised copy of a convolution; return the name of its mean error, shape (C,)."""
    base = f"{node.name}_twin"
    step = max((ends[1] - ends[0]) / LEVELS, 1e-12)
    constants = {
        f"{base}_step": np.array(step, np.float32),
        f"{base}_zero": np.array(np.clip(np.rint(-ends[0] / step), 0, LEVELS), np.uint8),
        f"{base}_kernel": kernel,
    }
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items())
    scale = [f"{base}_step", f"{base}_zero"]
    twin = copy.deepcopy(node)
    twin.name = base
    twin.input[:] = [f"{base}_x", f"{base}_kernel", node.input[2]]
    twin.output[:] = [f"{base}_y"]
    graph.node.extend(
        [
            helper.make_node("QuantizeLinear", [node.input[0], *scale], [f"{base}_q"]),
            helper.make_node("DequantizeLinear", [f"{base}_q", *scale], [f"{base}_x"]),
            twin,
            helper.make_node("Sub", [node.output[0], f"{base}_y"], [f"{base}_error"]),
            helper.make_node(
                "ReduceMean",
                [f"{base}_error"],
                [f"{base}_mean"],
                axes=[0, *range(2, kernel.ndim)],
                keepdims=0,
            ),
        ]
    )
    return f"{base}_mean"
