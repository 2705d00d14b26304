"""SCRFD graphs: from released files to the vendor's raw-head contract.

Released files end in Transpose, Reshape and, for scores, Sigmoid; their names and shapes differ.
Heads are identified by structure, not by name: from an output back over layout operations to the
map, whose channels and size are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterable, List, Optional, Set, Tuple, cast

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...backends.ort import run_graph
from ...card import ModelCard
from ...contract import Contract, load_graph, metadata_of
from ...errors import GraphError, InputError
from ...files import sha256_of, write_bytes
from .. import describe_export
from .card import ANCHORS_PER_CELL, CARDS, STRIDES

__all__ = ["Size", "compare_with_source", "export_released", "recognise_heads", "to_raw_heads"]

# Height and width, or None for free ones.
Size = Optional[Tuple[int, int]]

# Operations that change only the layout of a map, or apply the sigmoid.
_LAYOUT_OPS = {"Transpose", "Reshape", "Sigmoid", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
_HEAD_OF_CHANNELS = {1 * ANCHORS_PER_CELL: "score", 4 * ANCHORS_PER_CELL: "bbox"}
_HEAD_OF_CHANNELS[10 * ANCHORS_PER_CELL] = "kps"

# source: insightface@7fadd42 configs/scrfd/scrfd_*.py, feat_channels of the head, and whether the
# backbone is MobileNet: these identify the variant of a graph without names
_SIZE_OF_FEATURES = {
    (64, True): "scrfd_500m",
    (96, True): "scrfd_1g",
    (64, False): "scrfd_2.5g",
    (80, False): "scrfd_10g",
    (256, False): "scrfd_34g",
}
# Every input side must be a multiple of the largest stride, or the maps of the neck do not match.
_GRID = max(STRIDES)
_PROBE_HW = (640, 640)
TOLERANCE = 1e-4  # largest difference of an output from the released graph


def recognise_heads(model: onnx.ModelProto) -> Dict[str, str]:
    """Find the raw map behind each output.

    Parameters
    ----------
    model
        A released or raw-head SCRFD graph.

    Returns
    -------
    dict
        Contract name (``score_8`` ...) to the tensor's name in the graph.

    Raises
    ------
    GraphError
        If a head is missing or duplicated; the message names it.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    maps: List[str] = []
    for output in model.graph.output:
        name = output.name
        while name in producers and producers[name].op_type in _LAYOUT_OPS:
            name = producers[name].input[0]
        maps.append(name)
    shapes = _shapes_at(model, maps)
    heads: Dict[str, str] = {}
    for name in maps:
        shape = shapes.get(name)
        if shape is None or len(shape) != 4 or shape[1] not in _HEAD_OF_CHANNELS:
            continue
        head = f"{_HEAD_OF_CHANNELS[shape[1]]}_{_PROBE_HW[0] // max(1, shape[2])}"
        if head in heads:
            raise GraphError(f"the graph has {head} twice: {heads[head]!r} and {name!r}")
        heads[head] = name
    kinds = ["score", "bbox"] + (["kps"] if any(h.startswith("kps") for h in heads) else [])
    wanted = [f"{kind}_{stride}" for kind in kinds for stride in STRIDES]
    missing = [head for head in wanted if head not in heads]
    if missing:
        outputs = [output.name for output in model.graph.output]
        raise GraphError(
            f"this is not an SCRFD graph with two anchors per cell: no output leads back to a map "
            f"for {missing[0]!r} (outputs: {outputs})"
        )
    return {head: heads[head] for head in wanted}


def _shapes_at(model: onnx.ModelProto, names: Iterable[str]) -> Dict[str, Tuple[int, ...]]:
    """Infer the shapes of tensors at a known input size."""
    wanted = set(names)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    _free_resizes(probe)
    _set_input(probe, 1, _PROBE_HW)
    del probe.graph.value_info[:]
    # Stale output shapes of released files would conflict with the inferred ones.
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
    del probe.graph.output[:]
    probe.graph.output.extend(outputs)
    _prune(probe)
    try:
        inferred = onnx.shape_inference.infer_shapes(probe, data_prop=True)
    except Exception as error:  # onnx raises its own errors and RuntimeError.
        raise GraphError(f"the graph's shapes cannot be inferred: {error}") from error
    found = {}
    for info in [*inferred.graph.value_info, *inferred.graph.output]:
        if info.name in wanted and info.type.tensor_type.HasField("shape"):
            found[info.name] = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
    return found


def _free_resizes(model: onnx.ModelProto) -> None:
    """Make the neck's upsampling double its input instead of using a stored or computed size.

    For inputs that are multiples of 32 this is equivalent; a file exported at one fixed size
    becomes correct at every size, and the shape arithmetic around the operation is removed.
    """
    scales = "facezoo_upsample_scales"
    found = False
    for node in model.graph.node:
        if node.op_type != "Resize" or len(node.input) < 4:
            continue
        mode = {a.name: a.s for a in node.attribute}.get("mode", b"nearest")
        if mode != b"nearest":
            raise GraphError(f"Resize {node.output[0]!r} has mode {mode!r}; expected nearest")
        del node.input[2:]
        node.input.append(scales)
        found = True
    if found:
        double = np.array([1.0, 1.0, 2.0, 2.0], np.float32)
        model.graph.initializer.append(numpy_helper.from_array(double, scales))


def _set_input(model: onnx.ModelProto, batch: Optional[int], size: Size) -> None:
    dims = [batch or "batch", 3, *(size if size is not None else ("height", "width"))]
    entry = model.graph.input[0]
    entry.CopyFrom(helper.make_tensor_value_info(entry.name, onnx.TensorProto.FLOAT, dims))


def _prune(model: onnx.ModelProto) -> None:
    """Remove nodes and initialisers that no output needs."""
    needed: Set[str] = {output.name for output in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    nodes.reverse()
    del model.graph.node[:]
    del model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)


def recognise_variant(model: onnx.ModelProto, heads: Dict[str, str]) -> ModelCard:
    """Identify the variant of a graph from its convolutions, since file names are unreliable.

    Raises
    ------
    GraphError
        If it is not one of the eight variants.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    conv = producers[heads[f"score_{STRIDES[0]}"]]
    while conv.op_type != "Conv":
        conv = producers[conv.input[0]]
    features = weights[conv.input[1]].dims[1]
    grouped = any(
        attribute.name == "group" and attribute.i > 1
        for node in model.graph.node
        if node.op_type == "Conv"
        for attribute in node.attribute
    )
    size = _SIZE_OF_FEATURES.get((features, grouped))
    if size is None:
        raise GraphError(
            f"this is not one of the eight SCRFD variants: its head has {features} channels "
            f"{'with' if grouped else 'without'} depthwise convolutions"
        )
    landmarks = any(head.startswith("kps") for head in heads)
    if landmarks and f"{size}_bnkps" not in CARDS:
        raise GraphError(f"{size} with landmarks is not a released variant")
    return CARDS[f"{size}_bnkps" if landmarks else size]


def to_raw_heads(
    model: onnx.ModelProto,
    *,
    batch: Optional[int] = None,
    size: Size = None,
    source_sha256: str = "",
) -> onnx.ModelProto:
    """Cut a released graph back to its raw maps.

    Parameters
    ----------
    model
        A released SCRFD graph: 6 or 9 outputs, any names, fixed or free shape.
    batch
        Fixed batch size; None for a free one.
    size
        Fixed height and width, multiples of 32; None for free ones.
    source_sha256
        Hash of the file for the contract.

    Returns
    -------
    onnx.ModelProto
        Outputs ``score_8`` ... as (B, C, H, W) logits and distances; the contract in the metadata.

    Raises
    ------
    GraphError
        If the graph is not an SCRFD.
    InputError
        If the size is not a multiple of 32.
    """
    if size is not None and any(side <= 0 or side % _GRID for side in size):
        raise InputError(f"size {size[0]} {size[1]} must be two positive multiples of {_GRID}")
    heads = recognise_heads(model)
    card = recognise_variant(model, heads)
    raw = onnx.ModelProto()
    raw.CopyFrom(model)
    _free_resizes(raw)
    del raw.graph.value_info[:]
    del raw.graph.output[:]
    names = {tensor: head for head, tensor in heads.items()}
    for node in raw.graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                # A released file may already use a name of the contract for another tensor.
                values[index] = names.get(value, f"{value}_released" if value in heads else value)
    shapes = {spec.name: spec for spec in card.outputs}
    for head in heads:
        spec = shapes[head]
        cells = (
            [f"height_{spec.stride}", f"width_{spec.stride}"]
            if size is None
            else [side // spec.stride for side in size]
        )
        raw.graph.output.append(
            helper.make_tensor_value_info(
                head, onnx.TensorProto.FLOAT, [batch or "batch", spec.channels, *cells]
            )
        )
    raw.graph.input[0].name = card.input_name
    for node in raw.graph.node:
        for index, value in enumerate(node.input):
            if value == model.graph.input[0].name:
                node.input[index] = card.input_name
    _set_input(raw, batch, size)
    _prune(raw)
    contract = Contract.from_card(card, source_sha256, size)
    del raw.metadata_props[:]
    helper.set_model_props(raw, describe_export(contract))
    raw.ir_version = 8
    raw.producer_name = "facezoo"
    onnx.checker.check_model(raw)
    return raw


def compare_with_source(
    source: onnx.ModelProto, raw: onnx.ModelProto, hw: Tuple[int, int]
) -> float:
    """Run a released graph and its raw heads on the same random input.

    Parameters
    ----------
    source
        The released graph, outputs decoded to rows.
    raw
        The raw-head graph derived from it.
    hw
        Height and width of the input, which the source must accept.

    Returns
    -------
    float
        Largest absolute difference over all outputs, after applying the sigmoid and the row order
        to the raw maps.
    """
    rng = np.random.default_rng(2026)
    tensor = rng.uniform(-1.0, 1.0, (1, 3, *hw)).astype(np.float32)
    behind = {head: _output_behind(source, name) for head, name in recognise_heads(source).items()}
    expected = run_graph(source, {source.graph.input[0].name: tensor})
    got = run_graph(raw, {raw.graph.input[0].name: tensor})
    worst = 0.0
    for head, output in behind.items():
        rows = as_rows(head, got[head])
        reference = expected[output].reshape(rows.shape)
        worst = max(worst, float(np.max(np.abs(rows - reference))))
    return worst


def as_rows(head: str, maps: np.ndarray) -> np.ndarray:
    """Convert a raw map (B, A * n, H, W) to the authors' rows (B, H * W * A, n), with sigmoid."""
    size = {"score": 1, "bbox": 4, "kps": 10}[head.split("_")[0]]
    rows = maps.transpose(0, 2, 3, 1).reshape(len(maps), -1, size)
    return 1.0 / (1.0 + np.exp(-rows)) if size == 1 else rows


def _output_behind(model: onnx.ModelProto, tensor: str) -> str:
    """Find the graph output of a raw map, which was found from the outputs."""
    producers = {name: node for node in model.graph.node for name in node.output}

    def leads_back(name: str) -> bool:
        while name != tensor and name in producers and producers[name].op_type in _LAYOUT_OPS:
            name = producers[name].input[0]
        return name == tensor

    return next(str(output.name) for output in model.graph.output if leads_back(output.name))


def export_released(
    source: Path,
    target: Path,
    *,
    batch: Optional[int] = None,
    size: Size = None,
) -> Tuple[ModelCard, float]:
    """Write the raw-head graph of a released file after comparing both.

    Parameters
    ----------
    source
        A released SCRFD .onnx.
    target
        Target ``.onnx``.
    batch, size
        As for :func:`to_raw_heads`.

    Returns
    -------
    card : ModelCard
        The variant that was recognised.
    worst : float
        The largest difference.

    Raises
    ------
    GraphError
        If the file cannot be read, is not an SCRFD, or the two graphs differ.
    """
    model = load_graph(source, check=True)
    raw = to_raw_heads(model, batch=batch, size=size, source_sha256=sha256_of(source))
    contract = cast(Contract, Contract.from_metadata(metadata_of(raw)))  # written just before
    fixed = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    hw = (fixed[2], fixed[3]) if fixed[2] and fixed[3] else (size or _PROBE_HW)
    # The comparison needs a raw graph for the source's size and one image.
    free = to_raw_heads(model)
    worst = compare_with_source(model, free, hw)
    if not worst <= TOLERANCE:
        raise GraphError(
            f"{str(source)!r}: its raw heads differ from it by {worst:.3g}, more than "
            f"{TOLERANCE:g}; nothing was written"
        )
    write_bytes(target, raw.SerializeToString())
    return CARDS[contract.card_id], worst
