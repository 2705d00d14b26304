"""ONNX Runtime backend: vdsp operation on the CPU, normalisation in the graph, then the model."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Union

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..card import Preprocess
from ..contract import Contract, load_graph
from ..errors import BackendUnavailable, GraphError, InputError
from .base import HostBackend, first_line

__all__ = [
    "PROVIDERS",
    "OrtBackend",
    "available_providers",
    "channel_slopes",
    "normalise_inside",
    "open_session",
    "prelu_in_blocks",
    "replace_nodes",
    "run_graph",
]


try:
    import onnxruntime
except ImportError as error:  # pragma: no cover (tests run with it)
    onnxruntime = None
    _IMPORT_ERROR: Optional[ImportError] = error

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}

# The packages that hold them; each brings the same module.
PACKAGES = {
    "cpu": "onnxruntime",
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "openvino": "onnxruntime-openvino",
    "directml": "onnxruntime-directml",
    "coreml": "onnxruntime for macOS",
}

# Machines with ONNX Runtime kernels for channels in blocks, and the largest block.
# source: onnxruntime onnxruntime/core/mlas/lib/platform.cpp, NchwcBlockSize
BLOCKED_MACHINES = ("x86_64", "amd64")
LARGEST_BLOCK = 16


def available_providers() -> List[str]:
    """List the execution providers of the installed ONNX Runtime; none if it is missing."""
    return list(onnxruntime.get_available_providers()) if onnxruntime is not None else []


def open_session(
    model: Union[Path, bytes],
    threads: int,
    provider: str = "cpu",
    name: str = "",
    exact: bool = False,
) -> Any:
    """Load a graph into ONNX Runtime.

    Parameters
    ----------
    model
        A file, or a serialised graph.
    threads
        Threads of one run.
    provider
        One of ``PROVIDERS``.
    name
        Name of a serialised graph in errors.
    exact
        Compute quantised layers on their quantised values in float32, which no CPU's 8-bit
        arithmetic saturates; as slow as float.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    BackendUnavailable
        If onnxruntime is not installed, or the provider is missing or not used.
    GraphError
        If the graph cannot be loaded.
    """
    if onnxruntime is None:  # pragma: no cover (tests run with it)
        raise BackendUnavailable(
            f"engine 'ort' needs the package onnxruntime ({_IMPORT_ERROR}); "
            "install it with: pip install onnxruntime"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads that spin would block the core for another session, the JPEG decoder or the
    # resizing; within a run of several threads they may spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "1" if exact else "0")
    source = model if isinstance(model, bytes) else str(model)
    wanted = _find_provider(provider)
    # The CPU runs the operations that a provider lacks.
    providers = list(dict.fromkeys([wanted, PROVIDERS["cpu"]]))
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # ONNX Runtime has no public base class.
        name = name or ("" if isinstance(model, bytes) else str(model))
        what = repr(name) if name else "the graph"
        raise GraphError(f"{what} cannot be loaded by ONNX Runtime: {first_line(error)}") from error
    used = session.get_providers()[0]
    if used != wanted:
        raise BackendUnavailable(
            f"provider {provider!r} was requested, but ONNX Runtime runs on {used}; fix the "
            "provider's installation, or use --provider cpu"
        )
    return session


def _find_provider(provider: str) -> str:
    wanted = PROVIDERS.get(provider)
    if wanted is None:
        raise InputError(f"provider {provider!r} is not known; expected one of {list(PROVIDERS)}")
    here = onnxruntime.get_available_providers()
    if wanted not in here:
        names = [key for key, name in PROVIDERS.items() if name in here]
        raise BackendUnavailable(
            f"provider {provider!r} is not in this onnxruntime, which has {', '.join(names)}; "
            f"it is in the package {PACKAGES[provider]}, which replaces onnxruntime: pip uninstall "
            f"onnxruntime, then pip install {PACKAGES[provider]}"
        )
    return wanted


def run_graph(
    model: Union[Path, bytes, Any], feeds: Mapping[str, np.ndarray]
) -> Dict[str, np.ndarray]:
    """Run a graph once on prepared tensors; for checks, not for speed.

    Parameters
    ----------
    model
        A file, a serialised graph, or an ``onnx.ModelProto``.
    feeds
        Input name to array.

    Returns
    -------
    dict
        Output name to array, in the order of the graph.

    Raises
    ------
    GraphError
        If the graph cannot be loaded or rejects these feeds.
    """
    if not isinstance(model, (bytes, Path)):
        model = model.SerializeToString()
    session = open_session(model, threads=1)
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds))))
    except Exception as error:  # ONNX Runtime has no public base class.
        raise GraphError(f"the graph does not run on these inputs: {first_line(error)}") from error


class _OrtGraph:
    """A session behind the common graph interface."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.device = str(session.get_providers()[0])
        self.inputs = {entry.name: entry.shape for entry in session.get_inputs()}
        self.outputs = [output.name for output in session.get_outputs()]

    def run(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        """Run the network on (B, 3, H, W)."""
        found: Sequence[np.ndarray] = self._session.run(None, {next(iter(self.inputs)): tensor})
        return found


class OrtBackend(HostBackend):
    """A raw-head graph on ONNX Runtime; see :class:`~facezoo.backends.base.HostBackend`.

    Parameters
    ----------
    model, contract, preprocess, half_input, threads
        As for that class.
    provider
        One of ``PROVIDERS``; an error if ONNX Runtime uses another one.
    exact
        See :func:`open_session`.
    multiple
        As for that class.
    """

    name = "ort"

    def __init__(
        self,
        model: Path,
        contract: Contract,
        preprocess: Optional[Preprocess] = None,
        half_input: bool = False,
        threads: Optional[int] = None,
        provider: str = "cpu",
        exact: bool = False,
        multiple: int = 0,
    ) -> None:
        self.provider = provider
        self.exact = exact
        super().__init__(model, contract, preprocess, half_input, threads, multiple)
        self.version = str(onnxruntime.__version__)

    def _load(self, many: bool, pixels: bool) -> _OrtGraph:
        graph = load_graph(self.model)
        if self.provider == "cpu" and platform.machine().lower() in BLOCKED_MACHINES:
            prelu_in_blocks(graph)
        if pixels and self.normalisation:
            normalise_inside(graph, *self.normalisation)
        session = open_session(
            graph.SerializeToString(),
            1 if many else self.threads,
            provider=self.provider,
            name=str(self.model),
            exact=self.exact,
        )
        return _OrtGraph(session)


def normalise_inside(model: onnx.ModelProto, scale: float, shift: float) -> None:
    """Make the graph accept pixels: its input becomes uint8, its first nodes normalise.

    Parameters
    ----------
    model
        Graph with one float32 input, which keeps its name and shape.
    scale, shift
        Result of :func:`~facezoo.image.preprocess.affine_normalisation`.
    """
    (entry,) = model.graph.input
    entry.type.tensor_type.elem_type = TensorProto.UINT8
    name = entry.name
    tensor, scaled = f"{name}_tensor", f"{name}_scaled"
    for node in model.graph.node:
        node.input[:] = [tensor if one == name else one for one in node.input]
    constants = {f"{name}_scale": scale, f"{name}_shift": shift}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), one)
        for one, value in constants.items()
    )
    # One pass over the memory for cast and scale; Cast and Mul would need two.
    first = [
        helper.make_node("DequantizeLinear", [name, f"{name}_scale"], [scaled], name=scaled),
        helper.make_node("Sub", [scaled, f"{name}_shift"], [tensor], name=tensor),
    ]
    replace_nodes(model.graph, [*first, *model.graph.node])


def prelu_in_blocks(model: onnx.ModelProto) -> int:
    """Replace PRelu by operators with kernels for ONNX Runtime's blocked layout; bit-identical.

    ``prelu(x) = relu(x) + s * (x - relu(x))``: one of the two terms is zero, and only the product
    rounds, as in PRelu itself. The sums are fused into depthwise 1x1 convolutions. PRelu itself has
    no kernel for that layout: it needs two reorderings and runs on one core.

    Parameters
    ----------
    model
        Changed in place. A PRelu is replaced if it has one slope per channel, the channels fill
        whole blocks and only convolutions follow: a normalisation rounds differently in the blocked
        layout.

    Returns
    -------
    int
        Number of replaced nodes.
    """
    slopes_of = channel_slopes(model)
    elsewhere = {entry.name for entry in model.graph.output}
    for node in model.graph.node:
        elsewhere.update(node.input if node.op_type != "Conv" else ())
    nodes: List[onnx.NodeProto] = []
    replaced = 0
    for node in model.graph.node:
        slopes = slopes_of.get(node.output[0]) if node.op_type == "PRelu" else None
        if slopes is None or len(slopes) % LARGEST_BLOCK or node.output[0] in elsewhere:
            nodes.append(node)
            continue
        x, y = node.input[0], node.output[0]
        above, minus, below, part = (
            f"{y}_prelu_{name}" for name in "above minus below part".split()
        )
        kernel = {"group": len(slopes), "kernel_shape": [1, 1]}
        factors = {f"{minus}_weight": -np.ones_like(slopes), f"{part}_weight": slopes}
        model.graph.initializer.extend(
            numpy_helper.from_array(values.reshape(-1, 1, 1, 1), name)
            for name, values in factors.items()
        )
        nodes += [
            helper.make_node("Relu", [x], [above], name=above),
            helper.make_node("Conv", [above, f"{minus}_weight"], [minus], name=minus, **kernel),
            helper.make_node("Add", [minus, x], [below], name=below),
            helper.make_node("Conv", [below, f"{part}_weight"], [part], name=part, **kernel),
            helper.make_node("Add", [part, above], [y], name=f"{y}_prelu"),
        ]
        replaced += 1
    replace_nodes(model.graph, nodes)
    return replaced


def channel_slopes(model: onnx.ModelProto) -> Dict[str, np.ndarray]:
    """Find the PRelu nodes on images with one constant slope per channel.

    Returns
    -------
    dict of str to numpy.ndarray
        Name of the output to slopes (C,), float32; C > 1.
    """
    constants = {entry.name: entry for entry in model.graph.initializer}
    found = {}
    pictures: Optional[Set[str]] = None
    for node in model.graph.node:
        slope = constants.get(node.input[1]) if node.op_type == "PRelu" else None
        if slope is None or slope.data_type != TensorProto.FLOAT:
            continue
        slopes: np.ndarray = numpy_helper.to_array(slope)
        channels = slopes.size
        if channels == 1 or slopes.shape not in ((channels, 1, 1), (1, channels, 1, 1)):
            continue
        pictures = _names_with_four_axes(model) if pictures is None else pictures
        if node.input[0] in pictures:
            found[node.output[0]] = slopes.ravel()
    return found


def _names_with_four_axes(model: onnx.ModelProto) -> Set[str]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    entries = [*inferred.input, *inferred.value_info, *inferred.output]
    return {entry.name for entry in entries if len(entry.type.tensor_type.shape.dim) == 4}


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replace all nodes of a graph in place."""
    nodes = list(nodes)
    del graph.node[:]
    graph.node.extend(nodes)
