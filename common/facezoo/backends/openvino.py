"""OpenVINO backend: vdsp operation on the CPU, normalisation in the graph, then the model."""

from __future__ import annotations

import logging
import threading
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

from ..card import Preprocess
from ..contract import Contract
from ..errors import BackendUnavailable, GraphError
from ..machine import usable_cores
from .base import HostBackend, first_line

try:
    import openvino
except ImportError as error:
    openvino = None
    _IMPORT_ERROR: Optional[ImportError] = error

__all__ = ["PRECISIONS", "OpenVinoBackend"]

# Arithmetic of the runtime; bf16 is faster on CPUs with AMX or AVX-512-BF16, and less exact.
PRECISIONS = ("f32", "bf16")

_log = logging.getLogger(__name__)


class _OpenVinoGraph:
    """A model behind the common graph interface; each run borrows a request that no other has."""

    def __init__(self, model: Any, compile_model: Callable[[Any], Any]) -> None:
        self._model = model
        self._compile = compile_model
        self._compiled: Dict[bool, Any] = {}
        self._lock = threading.Lock()
        self._free: Dict[bool, List[Any]] = {True: [], False: []}
        # On its first array OpenVINO imports NumPy, and two threads that do so at once deadlock.
        openvino.Tensor(np.zeros(1, np.uint8), shared_memory=True)
        self.precision = str(self.property("INFERENCE_PRECISION_HINT").to_string())
        self.device = f"CPU {self.precision}"
        self.inputs = {
            port.get_any_name(): [
                size.get_length() if size.is_static else "free" for size in port.get_partial_shape()
            ]
            for port in model.inputs
        }
        self.outputs = [port.get_any_name() for port in model.outputs]

    def _compiled_for(self, single: bool) -> Any:
        with self._lock:
            if single not in self._compiled:
                model = self._model
                if single and model.is_dynamic():
                    # With fixed sizes, memory and kernels are planned once: a tenth faster.
                    model = model.clone()
                    sizes = {
                        port: [1, *list(port.get_partial_shape())[1:]] for port in model.inputs
                    }
                    model.reshape(sizes)
                self._compiled[single] = self._compile(model)
            return self._compiled[single]

    def property(self, name: str) -> Any:
        """Return a property of the compiled model: what the runtime made of a setting."""
        return self._compiled_for(True).get_property(name)

    def run(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        """Run the network on (B, 3, H, W)."""
        single = len(tensor) == 1
        free = self._free[single]
        try:
            request = free.pop()
        except IndexError:
            request = self._compiled_for(single).create_infer_request()
        request.infer({0: tensor}, share_inputs=True)
        # The next run overwrites the memory of the request.
        found = [np.array(output.data) for output in request.output_tensors]
        free.append(request)
        return found


class OpenVinoBackend(HostBackend):
    """A raw-head graph on OpenVINO; see :class:`~facezoo.backends.base.HostBackend`.

    Parameters
    ----------
    model, contract, preprocess, half_input, threads
        As for that class.
    precision
        One of ``PRECISIONS``.
    multiple
        As for that class.

    Attributes
    ----------
    precision
        The one that runs: OpenVINO computes in ``f32`` on a CPU without bf16.
    """

    name = "openvino"

    def __init__(
        self,
        model: Path,
        contract: Contract,
        preprocess: Optional[Preprocess] = None,
        half_input: bool = False,
        threads: Optional[int] = None,
        precision: str = "f32",
        multiple: int = 0,
    ) -> None:
        if openvino is None:
            raise BackendUnavailable(
                f"engine 'openvino' needs the package openvino ({_IMPORT_ERROR}); "
                "install it with: pip install openvino"
            )
        self.precision = precision
        super().__init__(model, contract, preprocess, half_input, threads, multiple)
        self.version = str(openvino.__version__).split("-")[0]

    @property
    def workers(self) -> int:
        """One more than the cores if all are used, since the runtime has its own threads."""
        return self.threads + (self.threads >= usable_cores())

    def _load(self, many: bool, pixels: bool) -> _OpenVinoGraph:
        config = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": self.threads if many else 1,
        }
        try:
            core = openvino.Core()
            model = core.read_model(str(self.model))
            if pixels and self.normalisation:
                model = _normalise_inside(model, *self.normalisation)
            graph = _OpenVinoGraph(
                model, partial(core.compile_model, device_name="CPU", config=config)
            )
            threads = int(graph.property("INFERENCE_NUM_THREADS"))
        except Exception as error:  # OpenVINO raises plain RuntimeErrors.
            raise GraphError(
                f"{str(self.model)!r} cannot be loaded by OpenVINO: {first_line(error)}"
            ) from error
        # From here on, what runs is what is asked for.
        if graph.precision != self.precision:
            _log.warning(
                "precision %s: this CPU does not have it, so OpenVINO computes in %s",
                self.precision,
                graph.precision,
            )
            self.precision = graph.precision
        if threads != self.threads:
            _log.warning("threads %d: OpenVINO uses %d", self.threads, threads)
            self.threads = threads
        return graph


def _normalise_inside(model: Any, scale: float, shift: float) -> Any:
    """Make a model accept pixels as uint8."""
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8)
    # OpenVINO subtracts the mean first and divides by the scale.
    first = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    first.mean(shift / scale).scale(1 / scale)
    return steps.build()
