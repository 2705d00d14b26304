"""ONNX Runtime backend: vdsp operation on the CPU, normalisation in the graph, then the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

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
    "normalise_inside",
    "open_session",
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


def available_providers() -> List[str]:
    """List the execution providers of the installed ONNX Runtime; none if it is missing."""
    return list(onnxruntime.get_available_providers()) if onnxruntime is not None else []


def open_session(
    model: Union[Path, bytes],
    threads: int,
    batch: Optional[int] = None,
    provider: str = "cpu",
    name: str = "",
) -> Any:
    """Load a graph into ONNX Runtime.

    Parameters
    ----------
    model
        A file, or a serialised graph.
    threads
        Threads of one run.
    batch
        Fix a free batch axis named ``batch`` to this size, so that the runtime can plan memory.
    provider
        One of ``PROVIDERS``.
    name
        Name of a serialised graph in errors.

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
            'install it with: pip install "facezoo[ort]"'
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads that spin would block the core for another session, the JPEG decoder or the
    # resizing; within a run of several threads they may spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if batch is not None:
        options.add_free_dimension_override_by_name("batch", batch)
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
            "install the onnxruntime package that includes it"
        )
    return wanted


def run_graph(
    model: Union[Path, bytes, Any], feeds: Mapping[str, np.ndarray], *, threads: int = 1
) -> Dict[str, np.ndarray]:
    """Run a graph once on prepared tensors; for checks, not for speed.

    Parameters
    ----------
    model
        A file, a serialised graph, or an ``onnx.ModelProto``.
    feeds
        Input name to array.
    threads
        Threads of the run.

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
    session = open_session(model, threads)
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
    ) -> None:
        self.provider = provider
        super().__init__(model, contract, preprocess, half_input, threads)
        self.version = str(onnxruntime.__version__)

    def _load(self, many: bool, pixels: bool) -> _OrtGraph:
        threads = 1 if many else self.threads
        model: Union[Path, bytes] = self.model
        if pixels and self.normalisation:
            # A local import, as wherever a graph is read: the help must not wait for onnx.
            pass

            graph = load_graph(self.model)
            normalise_inside(graph, *self.normalisation)
            model = graph.SerializeToString()
        return _OrtGraph(open_session(model, threads, provider=self.provider, name=str(self.model)))


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


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replace all nodes of a graph in place."""
    nodes = list(nodes)
    del graph.node[:]
    graph.node.extend(nodes)
