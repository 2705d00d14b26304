"""ONNX Runtime: the vdsp operation on the CPU, then the session."""

from __future__ import annotations

import dataclasses
import threading
from functools import partial
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

from ..card import Preprocess
from ..contract import Contract, sha256_of
from ..errors import BackendRunError, BackendUnavailable, GraphError
from ..results import Placement, RawOutputs
from ..vacc.vdsp import VdspOperation
from .base import Backend, Infer, Item, Result, map_in_order, usable_cores

try:
    import onnxruntime
except ImportError as error:  # pragma: no cover (tests run with it)
    onnxruntime = None
    _IMPORT_ERROR: Optional[ImportError] = error

__all__ = ["OrtBackend", "open_session", "run_graph"]


def open_session(model: Union[Path, bytes], threads: int, batch: Optional[int] = None) -> Any:
    """Load a graph into ONNX Runtime on the CPU.

    Parameters
    ----------
    model
        A file, or a serialised graph.
    threads
        Threads one run may use.
    batch
        Fix a free batch axis named ``batch`` to this size, which lets the runtime plan memory.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    BackendUnavailable
        If onnxruntime is not installed.
    GraphError
        If it cannot load the graph.
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
    # Idle threads that spin take the core another session or the JPEG decoder needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    if batch is not None:
        options.add_free_dimension_override_by_name("batch", batch)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base.
        name = "the graph" if isinstance(model, bytes) else repr(str(model))
        raise GraphError(
            f"{name} cannot be loaded by ONNX Runtime: {_first_line(error)}"
        ) from error


def run_graph(
    model: Union[Path, bytes, Any], feeds: Mapping[str, np.ndarray], *, threads: int = 1
) -> Dict[str, np.ndarray]:
    """Run a graph once on ready tensors; for checks, not for speed.

    Parameters
    ----------
    model
        A file, a serialised graph, or an ``onnx.ModelProto``.
    feeds
        Input name to array.
    threads
        Threads the run may use.

    Returns
    -------
    dict
        Output name to array, in the graph's order.

    Raises
    ------
    GraphError
        If the graph cannot be loaded or does not take these feeds.
    """
    if not isinstance(model, (bytes, Path)):
        model = model.SerializeToString()
    session = open_session(model, threads)
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds))))
    except Exception as error:  # ONNX Runtime's exceptions share no public base.
        raise GraphError(f"the graph does not run on these inputs: {_first_line(error)}") from error


class OrtBackend(Backend):
    """A raw-head graph on ONNX Runtime.

    Parameters
    ----------
    model
        The .onnx file.
    contract
        Output names and pre-processing, from the file's metadata.
    preprocess
        Obeyed instead of the contract's, if given; its ``input_hw`` must suit the graph.
    half_input
        Round the pre-processed tensor to float16, as a card does for fp16 and int8 builds.
    threads
        Cores to use; all usable ones if None. One picture is run on all of them; many pictures
        are run one a core.
    """

    name = "ort"

    def __init__(
        self,
        model: Path,
        contract: Contract,
        preprocess: Optional[Preprocess] = None,
        half_input: bool = False,
        threads: Optional[int] = None,
    ) -> None:
        self.model = Path(model)
        self.contract = contract
        self.threads = threads or usable_cores()
        self.operation = VdspOperation(preprocess or contract.preprocess, half_input)
        self._sessions: Dict[int, Any] = {}
        self._lock = threading.Lock()
        self._local = threading.local()
        session = self._session(self.threads)
        self.version = str(onnxruntime.__version__)
        self.device = session.get_providers()[0]
        self._check_interface(session)

    def _session(self, threads: int) -> Any:
        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads] = open_session(self.model, threads)
            return self._sessions[threads]

    def _check_interface(self, session: Any) -> None:
        have = [output.name for output in session.get_outputs()]
        missing = [name for name in self.contract.output_names if name not in have]
        if missing:
            raise GraphError(
                f"{str(self.model)!r}: output {missing[0]!r} not found; the model has {have}; "
                "export it again with the recipe's source_code/export_onnx.py"
            )
        inputs = {entry.name: entry.shape for entry in session.get_inputs()}
        if list(inputs) != [self.contract.input_name]:
            raise GraphError(
                f"{str(self.model)!r}: inputs {list(inputs)} found, the contract says "
                f"{self.contract.input_name!r}; export the model again"
            )
        shape = inputs[self.contract.input_name]
        wanted = self.operation.preprocess.input_hw
        for axis, size, want in zip(("height", "width"), shape[2:], wanted):
            if isinstance(size, int) and size != want:
                raise GraphError(
                    f"{str(self.model)!r} takes a {axis} of {size}, the pre-processing makes "
                    f"{want}; give a vdsp JSON with OimageWidth and OimageHeight of the model"
                )

    @property
    def preprocess(self) -> Preprocess:
        """What is done to a picture before the network: the vdsp JSON's word, if there is one."""
        return self.operation.preprocess

    def infer_batch(self, images_rgb: Sequence[np.ndarray]) -> RawOutputs:
        """Run the network once on several pictures, on all threads."""
        return self._run(self._session(self.threads), images_rgb)

    def _run(self, session: Any, images_rgb: Sequence[np.ndarray]) -> RawOutputs:
        return self.run_tensor(*self.prepare(images_rgb), session)

    def prepare(self, images_rgb: Sequence[np.ndarray]) -> Tuple[np.ndarray, Tuple[Placement, ...]]:
        """Make the network's input from several pictures.

        Parameters
        ----------
        images_rgb
            Each (H, W, 3), uint8, RGB.

        Returns
        -------
        tensor : numpy.ndarray
            Shape (B, 3, H, W), float32; the calling thread's next call overwrites it.
        placements : tuple of Placement
            One a picture.
        """
        shape = (len(images_rgb), 3, *self.operation.preprocess.input_hw)
        # One buffer a thread: a new one of 5 MB each time costs page faults.
        buffer = getattr(self._local, "buffer", None)
        if buffer is None or buffer.shape != shape:
            buffer = self._local.buffer = np.empty(shape, np.float32)
        placements = tuple(
            self.operation(image, out=buffer[index])[1] for index, image in enumerate(images_rgb)
        )
        return buffer, placements

    def run_tensor(
        self, tensor: np.ndarray, placements: Sequence[Any], session: Optional[Any] = None
    ) -> RawOutputs:
        """Run the network on a pre-processed tensor (B, 3, H, W), float32."""
        names = list(self.contract.output_names)
        try:
            outputs: List[np.ndarray] = (session or self._session(self.threads)).run(
                names, {self.contract.input_name: tensor}
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base.
            raise BackendRunError(
                f"ONNX Runtime failed on {str(self.model)!r}: {_first_line(error)}"
            ) from error
        for name, array in zip(names, outputs):
            if array.shape[0] != len(tensor):
                raise GraphError(
                    f"{str(self.model)!r}: output {name!r} has a batch of {array.shape[0]} for "
                    f"{len(tensor)} pictures; export the model again with --batch dynamic"
                )
        arrays = {name: array.astype(np.float32, copy=False) for name, array in zip(names, outputs)}
        return RawOutputs(arrays, tuple(placements))

    def map(
        self, function: Callable[[Infer, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Apply a function that uses the network to many items, each in one thread on one core."""
        # Threads that each run a picture on their own core beat threads that share one picture.
        session = self._session(1)

        def infer(image_rgb: np.ndarray) -> RawOutputs:
            return self._run(session, [image_rgb])

        return map_in_order(partial(function, infer), items, self.threads)

    def settings(self) -> Dict[str, Any]:
        """Return what decides the outputs: the runtime, the file and the pre-processing."""
        return {
            **super().settings(),
            "model_sha256": sha256_of(self.model),
            "preprocess": dataclasses.asdict(self.operation.preprocess),
        }

    def close(self) -> None:
        """Drop the sessions and their memory."""
        self._sessions.clear()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
