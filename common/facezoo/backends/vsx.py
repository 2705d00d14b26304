"""Device backend through ``vaststreamx``: pre-processing and network on the accelerator.

Only two internal threads use the runtime: one sends and one receives, since the runtime identifies
results only by their order. A call that never returns blocks neither the caller nor the end of the
process::

    caller ──submit──▶ queue ──▶ sender: create_image, run_async
    caller ◀──future── receiver: get_operator_output, as_numpy

Written from the documented use of the runtime; not yet run on a device.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import tempfile
import threading
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
)

import numpy as np

from ..artifact import VENDOR_SUFFIXES
from ..card import ModelCard, Preprocess
from ..contract import Contract
from ..errors import BackendRunError, BackendUnavailable, ConfigError, FaceZooError, GraphError
from ..files import read_text, sha256_of
from ..image.preprocess import check_picture
from ..image.resize import placement_of
from ..machine import usable_cores
from ..results import RawOutputs
from ..vacc.vdsp import render_vdsp
from ..workers import map_in_order
from .base import Backend, Infer, Item, Result

__all__ = [
    "TIMEOUT",
    "DeviceGraph",
    "DeviceResult",
    "DeviceStream",
    "ModelShapes",
    "VsxBackend",
    "build_graph",
    "check_device",
    "contract_from_cards",
    "import_runtime",
    "read_shapes",
    "runtime_version",
]

TIMEOUT = 60.0  # seconds for one step of the runtime: loading, or the results of one call
# source: VastModelZOO@43aff36 cv/face_detection/scrfd/build_in/vsx/python/scrfd_vsx.py, Queue(20)
IN_FLIGHT = 20
TENSOR_OUTPUT = "facezoo_tensor"

# IimageFormat -> the runtime's ImageFormat, whether it is planar, whether it is BGR
_FEEDS = {
    "RGB_PLANAR": ("RGB_PLANAR", True, False),
    "BGR_PLANAR": ("BGR_PLANAR", True, True),
    "RGB888": ("RGB_INTERLEAVE", False, False),
    "BGR888": ("BGR_INTERLEAVE", False, True),
}

Value = TypeVar("Value")

_log = logging.getLogger(__name__)


# The runtime -------------------------------------------------------------------------------------


def import_runtime() -> Any:
    """Return the module ``vaststreamx``.

    Raises
    ------
    BackendUnavailable
        If it, or a library it needs, is missing.
    """
    try:
        import vaststreamx
    except Exception as error:  # A missing driver raises OSError or other classes.
        raise BackendUnavailable(
            f"the vendor's package vaststreamx cannot be imported ({error}); install its SDK"
        ) from error
    return vaststreamx


def runtime_version() -> str:
    """Return the version of the installed ``vaststreamx``, or ``unknown``."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vaststreamx")
    except PackageNotFoundError:
        return "unknown"


def _use_die(device_id: int) -> Any:
    """Select a device for the calling thread; return the runtime."""
    runtime = import_runtime()
    try:
        status = runtime.set_device(device_id)
    except Exception as error:  # The runtime documents no exceptions.
        raise BackendUnavailable(
            f"device {device_id} cannot be used: {_describe(error)}"
        ) from error
    if status != 0:
        raise BackendUnavailable(
            f"device {device_id} does not answer (vaststreamx.set_device returned {status}, "
            "expected 0); check that the driver lists it"
        )
    return runtime


def check_device(device_id: int = 0) -> None:
    """Check that a device answers.

    Parameters
    ----------
    device_id
        Device number.

    Raises
    ------
    BackendUnavailable
        If the runtime is missing, or the device does not answer.
    BackendRunError
        If it takes longer than ``TIMEOUT`` seconds.
    """
    _within(TIMEOUT, partial(_use_die, device_id), f"vaststreamx.set_device({device_id})")


def _within(timeout: float, function: Callable[[], Value], what: str) -> Value:
    """Call a function in its own thread, which is abandoned if it does not return."""
    future: Future[Value] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="facezoo-vsx-step", daemon=True).start()
    try:
        return future.result(timeout)
    except futures.TimeoutError:
        raise BackendRunError(f"{what} did not return within {timeout:g} s") from None


def _describe(error: BaseException) -> str:
    """Describe an exception with its class, since the runtime's classes are undocumented."""
    if isinstance(error, FaceZooError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


@dataclass(frozen=True)
class DeviceGraph:
    """A loaded network and its pre-processing, ready to run.

    Attributes
    ----------
    runtime
        The module ``vaststreamx``.
    model, network, stream
        The runtime's Model, ModelOperator and Stream; the stream is built.
    """

    runtime: Any
    model: Any
    network: Any
    stream: Any


def build_graph(
    prefix: Path, vdsp: Path, *, device_id: int = 0, batch: int = 1, with_tensor: bool = False
) -> DeviceGraph:
    """Load a network on a device, in the order documented for the runtime.

    Parameters
    ----------
    prefix
        Prefix of the vendor's three files.
    vdsp
        A vdsp_params JSON.
    device_id, batch
        Device number, and maximum batch size.
    with_tensor
        Also register the pre-processed tensor, under ``TENSOR_OUTPUT``.

    Raises
    ------
    BackendUnavailable
        If the runtime or the device is missing.
    """
    runtime = _use_die(device_id)
    model = runtime.Model(str(prefix), batch)
    fusion = runtime.Operator.load_ops_from_json_file(str(vdsp))[0]
    network = runtime.ModelOperator(model)
    graph = runtime.Graph()
    graph.add_operators(fusion, network)
    stream = runtime.Stream(graph, runtime.StreamBalanceMode.ONCE)
    stream.register_operator_output(network)
    if with_tensor:
        shape = tuple(model.input_shape[0][1:])
        declared = [[shape, runtime.TypeFlag.FLOAT16]]
        stream.register_operator_output(TENSOR_OUTPUT, fusion, declared)
    stream.build()
    return DeviceGraph(runtime, model, network, stream)


# A stream of images ----------------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceResult:
    """Outputs of the device for one image.

    Attributes
    ----------
    outputs
        Outputs in the order of the network, each with a first axis of 1; float16, as on the
        device.
    tensor
        Shape (3, H, W), float16: the pre-processed image; None if not requested.
    """

    outputs: List[np.ndarray]
    tensor: Optional[np.ndarray]


class _Call:
    """One ``run_async`` call: its images, and the future of its results."""

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self.pictures = pictures
        self.future: Future[List[DeviceResult]] = Future()


class DeviceStream:
    """A network on one device, with a time limit on every call.

    Parameters
    ----------
    prefix, vdsp, device_id, batch, with_tensor
        See :func:`build_graph`.
    image_format
        The vdsp JSON's IimageFormat.
    timeout
        Limit in seconds for loading, and for results once they are awaited.

    Attributes
    ----------
    graph
        The loaded network.

    Raises
    ------
    BackendUnavailable
        If the runtime or the device is missing.
    BackendRunError
        If loading fails or takes too long.
    """

    graph: DeviceGraph

    def __init__(
        self,
        prefix: Path,
        vdsp: Path,
        *,
        device_id: int = 0,
        batch: int = 1,
        with_tensor: bool = False,
        image_format: str = "RGB_PLANAR",
        timeout: float = TIMEOUT,
    ) -> None:
        self.batch = batch
        self.timeout = timeout
        self._where = f"{str(prefix)!r} on device {device_id}"
        self._device_id = device_id
        self._with_tensor = with_tensor
        self._format, self._planar, self._bgr = _FEEDS[image_format]
        self._waiting: queue.Queue[Optional[_Call]] = queue.Queue()
        self._sent: queue.Queue[_Call] = queue.Queue(IN_FLIGHT)
        self._lock = threading.Lock()
        self._unsettled: Set[_Call] = set()
        self._broken = ""
        self._closing = False
        self._finished = threading.Event()
        loaded: Future[None] = Future()
        load = partial(
            build_graph,
            prefix,
            vdsp,
            device_id=device_id,
            batch=batch,
            with_tensor=with_tensor,
        )
        sender = partial(self._send_all, load, loaded)
        threading.Thread(target=sender, name="facezoo-vsx-send", daemon=True).start()
        try:
            loaded.result(timeout)
        except futures.TimeoutError:
            # If it ends later after all, the device must be freed.
            self._waiting.put(None)
            raise BackendRunError(
                f"{self._where}: loading did not finish within {timeout:g} s"
            ) from None

    def submit(self, images_rgb: Sequence[np.ndarray]) -> Future[List[DeviceResult]]:
        """Send images to the device in one call.

        Parameters
        ----------
        images_rgb
            At most ``batch`` images of any sizes, each (H, W, 3), uint8, RGB.

        Returns
        -------
        Future
            Argument for :meth:`result`.

        Raises
        ------
        BackendRunError
            If the stream is closed or broken.
        """
        call = _Call([self._as_fed(image) for image in images_rgb])
        with self._lock:
            if self._broken:
                raise BackendRunError(self._broken)
            self._unsettled.add(call)
        self._waiting.put(call)
        return call.future

    def result(self, future: Future[List[DeviceResult]]) -> List[DeviceResult]:
        """Wait for the results of :meth:`submit`.

        Returns
        -------
        list of DeviceResult
            One per image, in their order.

        Raises
        ------
        BackendRunError
            If the runtime rejects an image (the stream continues), or fails or gives no result in
            time (then every later call fails too, since results can no longer be assigned).
        """
        try:
            return future.result(self.timeout)
        except futures.TimeoutError:
            self._break(
                f"{self._where}: no result within {self.timeout:g} s; the device or its driver "
                "hangs or is overloaded"
            )
            raise BackendRunError(self._broken) from None

    def close(self) -> None:
        """Close the stream and wait for it, but no longer than the timeout."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            intact = not self._broken
        self._waiting.put(None)
        if intact and not self._finished.wait(self.timeout):
            _log.warning("%s: closing did not finish within %g s", self._where, self.timeout)
        self._break(f"{self._where}: the stream is closed")

    def _as_fed(self, image_rgb: np.ndarray) -> np.ndarray:
        check_picture(image_rgb)
        image = image_rgb[:, :, ::-1] if self._bgr else image_rgb
        return np.ascontiguousarray(image.transpose(2, 0, 1) if self._planar else image)

    # In the sending thread.

    def _send_all(self, load: Callable[[], DeviceGraph], loaded: Future[None]) -> None:
        try:
            self.graph = load()
        except BackendUnavailable as error:
            loaded.set_exception(error)
            return
        except Exception as error:  # The runtime documents no exceptions.
            reason = f"{self._where} cannot be loaded: {_describe(error)}"
            loaded.set_exception(BackendRunError(reason))
            return
        loaded.set_result(None)
        receiver = threading.Thread(
            target=self._receive_all, name="facezoo-vsx-receive", daemon=True
        )
        receiver.start()
        try:
            for call in iter(self._waiting.get, None):
                self._send(call)
        except Exception as error:
            self._break(f"{self._where}: the stream failed: {_describe(error)}")
        try:
            self.graph.stream.close_input()
            receiver.join()
            self.graph.stream.wait_until_done()
        except Exception as error:
            _log.warning("%s: closing failed: %s", self._where, _describe(error))
        self._finished.set()

    def _send(self, call: _Call) -> None:
        try:
            images = [self._create_image(picture) for picture in call.pictures]
        except Exception as error:
            # Nothing was sent, so results stay in order and other images are not affected.
            reason = f"{self._where}: an image was rejected: {_describe(error)}"
            self._settle(call, error=BackendRunError(reason))
            return
        if self._note_as_sent(call):
            self.graph.stream.run_async(images)

    def _create_image(self, picture: np.ndarray) -> Any:
        height, width = picture.shape[1:] if self._planar else picture.shape[:2]
        runtime = self.graph.runtime
        image_format = getattr(runtime.ImageFormat, self._format)
        return runtime.create_image(picture, image_format, width, height, self._device_id)

    def _note_as_sent(self, call: _Call) -> bool:
        """Queue a call for the receiver before the device can answer; False if it failed."""
        while not self._broken:
            try:
                self._sent.put(call, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    # In the receiving thread.

    def _receive_all(self) -> None:
        try:
            _use_die(self._device_id)
            while self._receive():
                pass
        except Exception as error:
            self._break(f"{self._where}: the stream failed: {_describe(error)}")
            return
        left = self._sent.qsize()
        if left or not self._closing:
            self._break(f"{self._where}: the stream ended by itself, {left} calls unanswered")

    def _receive(self) -> bool:
        """Receive the results of one call; False at the end of the stream."""
        stream = self.graph.stream
        try:
            outputs = stream.get_operator_output(self.graph.network)
            # Each registered output has its own queue, and a full one blocks the stream.
            tensors = stream.get_operator_output(TENSOR_OUTPUT) if self._with_tensor else None
        except ValueError:
            # The runtime raises this when it is closed and no result is left; keep the try minimal.
            return False
        if self._sent.empty():
            raise BackendRunError("received a result without a call")
        call = self._sent.get()
        if len(outputs) != len(call.pictures):
            raise BackendRunError(
                f"received {len(outputs)} results for a call of {len(call.pictures)} images"
            )
        try:
            results = self._read(outputs, tensors)
        except Exception as error:
            reason = f"{self._where}: a result cannot be read: {_describe(error)}"
            self._settle(call, error=BackendRunError(reason))
        else:
            self._settle(call, results)
        return True

    def _read(self, outputs: Any, tensors: Any) -> List[DeviceResult]:
        as_numpy = self.graph.runtime.as_numpy
        shape = tuple(self.graph.model.input_shape[0][1:])
        return [
            DeviceResult(
                [np.asarray(as_numpy(tensor)) for tensor in outputs_of_one],
                None if tensors is None else np.asarray(as_numpy(tensors[row][0])).reshape(shape),
            )
            for row, outputs_of_one in enumerate(outputs)
        ]

    # In any thread.

    def _settle(
        self,
        call: _Call,
        results: Optional[List[DeviceResult]] = None,
        error: Optional[Exception] = None,
    ) -> None:
        with self._lock:
            if call not in self._unsettled:
                return
            self._unsettled.remove(call)
        if error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(results or [])

    def _break(self, reason: str) -> None:
        """Fail: every waiting and every later call raises the reason."""
        with self._lock:
            self._broken = self._broken or reason
            calls, self._unsettled = self._unsettled, set()
        for call in calls:
            call.future.set_exception(BackendRunError(self._broken))


# What a network of the vendor's is ---------------------------------------------------------------


@dataclass(frozen=True)
class ModelShapes:
    """Shapes reported by the runtime for a network without a contract.

    Attributes
    ----------
    input_hw
        Height and width of its only input.
    outputs
        Shape of each output without the batch axis.
    """

    input_hw: Tuple[int, int]
    outputs: Tuple[Tuple[int, ...], ...]


def read_shapes(prefix: Path, device_id: int = 0, timeout: float = TIMEOUT) -> ModelShapes:
    """Load the vendor's files on a device to read the shapes of the network.

    Raises
    ------
    BackendUnavailable
        If the runtime or the device is missing.
    BackendRunError
        If loading fails or takes too long.
    """

    def read() -> ModelShapes:
        model = _use_die(device_id).Model(str(prefix), 1)
        height, width = model.input_shape[0][2:]
        outputs = tuple(tuple(map(int, shape[1:])) for shape in model.output_shape)
        return ModelShapes((int(height), int(width)), outputs)

    try:
        return _within(timeout, read, f"loading {str(prefix)!r}")
    except FaceZooError:
        raise
    except Exception as error:
        raise BackendRunError(f"{str(prefix)!r} cannot be loaded: {_describe(error)}") from error


def contract_from_cards(cards: Iterable[ModelCard], shapes: ModelShapes, prefix: Path) -> Contract:
    """Derive the contract of a network built by the vendor's compiler from its shapes.

    Parameters
    ----------
    cards
        Candidates.
    shapes
        Shapes of the network.
    prefix
        For messages.

    Returns
    -------
    Contract
        Has the id of the card if one card fits; the name of the model if several variants with
        the same pre-processing and decoding fit.

    Raises
    ------
    GraphError
        If no card fits, or several that differ in more than their ids.
    """
    fitting = [card for card in cards if _output_shapes(card, shapes.input_hw) == shapes.outputs]
    contracts = [Contract.from_card(card, input_hw=shapes.input_hw) for card in fitting]
    if len(contracts) == 1:
        return contracts[0]
    alike = [dataclasses.replace(one, card_id=one.model) for one in contracts]
    if alike and all(one == alike[0] for one in alike):
        return alike[0]
    fits = f"fits {', '.join(card.id for card in fitting)}" if fitting else "fits no card"
    raise GraphError(
        f"{str(prefix)!r} has only the vendor's files, which do not record the pre-processing, and "
        f"outputs {list(shapes.outputs)} at {shapes.input_hw} {fits}; keep mod.onnx and "
        "mod.build.json of 'facezoo compile' beside them, or name the card"
    )


def _output_shapes(card: ModelCard, input_hw: Tuple[int, int]) -> Tuple[Tuple[int, ...], ...]:
    height, width = input_hw
    return tuple(
        (output.channels, height // output.stride, width // output.stride)
        if output.stride
        else (output.channels,)
        for output in card.outputs
    )


# The backend -------------------------------------------------------------------------------------


class VsxBackend(Backend):
    """A build of the vendor's compiler on a device.

    Parameters
    ----------
    prefix
        Prefix of the three files.
    contract
        Output names, in the network's order, and pre-processing.
    preprocess
        Equals ``vdsp`` if that is given; the contract's pre-processing if None.
    vdsp
        A vdsp_params JSON, passed to the device unchanged; rendered from ``preprocess`` if None.
    device_id, batch
        Device number, and maximum batch size of the network.
    threads
        Cores for reading and decoding; all usable ones if None.
    timeout
        Limit in seconds for loading, and for each result.

    Raises
    ------
    BackendUnavailable
        If the runtime or the device is missing.
    BackendRunError
        If loading fails or takes too long.
    ConfigError
        If the device does not support this pre-processing.
    GraphError
        If the network does not match the contract.
    """

    name = "vsx"

    def __init__(
        self,
        prefix: Path,
        contract: Contract,
        preprocess: Optional[Preprocess] = None,
        *,
        vdsp: Optional[Path] = None,
        device_id: int = 0,
        batch: int = 1,
        threads: Optional[int] = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.prefix = Path(prefix)
        self.contract = contract
        self.batch = batch
        self.threads = threads or usable_cores()
        self.version = runtime_version()
        self.device = f"device {device_id}"
        self._preprocess = preprocess or contract.preprocess
        if self._preprocess.fit == "letterbox" and self._preprocess.anchor != "center":
            raise ConfigError(
                f"the device's letterbox is centred, the pre-processing needs anchor "
                f"{self._preprocess.anchor!r}; use fit letterbox_pads, or --engine ort"
            )
        with tempfile.TemporaryDirectory(prefix="facezoo-vdsp-") as folder:
            if vdsp is None:
                vdsp = Path(folder, "vdsp_params.json")
                vdsp.write_text(json.dumps(render_vdsp(self._preprocess)), encoding="utf-8")
            else:
                _warn_of_default_padding(vdsp, self._preprocess)
            self._stream = DeviceStream(
                self.prefix,
                vdsp,
                device_id=device_id,
                batch=batch,
                image_format=self._preprocess.image_format,
                timeout=timeout,
            )
        try:
            self._check_interface(self._stream.graph.model)
        except GraphError:
            self._stream.close()
            raise

    def _check_interface(self, model: Any) -> None:
        if model.output_count != len(self.contract.output_names):
            raise GraphError(
                f"{str(self.prefix)!r} has {model.output_count} outputs, its contract names "
                f"{list(self.contract.output_names)}; compile both from one .onnx"
            )
        size, wanted = tuple(model.input_shape[0][2:]), self._preprocess.input_hw
        if size != wanted:
            raise GraphError(
                f"{str(self.prefix)!r} expects {size[1]}x{size[0]} images, the pre-processing "
                f"gives {wanted[1]}x{wanted[0]}; give a vdsp JSON with OimageWidth and "
                "OimageHeight of the model"
            )

    @property
    def preprocess(self) -> Preprocess:
        """What is done to an image before the network: the vdsp JSON's word, if there is one."""
        return self._preprocess

    def infer_batch(self, images_rgb: Sequence[np.ndarray]) -> RawOutputs:
        """Run the network on several images, ``batch`` per call."""
        calls = [
            self._stream.submit(images_rgb[first : first + self.batch])
            for first in range(0, len(images_rgb), self.batch)
        ]
        results = [result for call in calls for result in self._stream.result(call)]
        arrays = {
            name: np.concatenate([result.outputs[index] for result in results]).astype(np.float32)
            for index, name in enumerate(self.contract.output_names)
        }
        sizes = [(image.shape[0], image.shape[1]) for image in images_rgb]
        return RawOutputs(arrays, tuple(placement_of(size, self._preprocess) for size in sizes))

    def map(
        self, function: Callable[[Infer, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Apply a function that uses the network to many items, enough at a time for the device."""
        return map_in_order(partial(function, self.infer), items, self.workers)

    @property
    def workers(self) -> int:
        """More threads than cores: a thread that waits for the device needs no core."""
        return self.threads + IN_FLIGHT

    def settings(self) -> Dict[str, Any]:
        """Return what determines the outputs: the runtime, the files and the pre-processing."""
        files = [self.prefix.with_name(self.prefix.name + suffix) for suffix in VENDOR_SUFFIXES]
        return {
            **super().settings(),
            "model_sha256": {file.name: sha256_of(file) for file in files},
            "preprocess": dataclasses.asdict(self._preprocess),
        }

    def close(self) -> None:
        """Close the stream and free the device."""
        self._stream.close()


def _warn_of_default_padding(vdsp: Path, preprocess: Preprocess) -> None:
    config = json.loads(read_text(vdsp))["OpConfig"]
    if preprocess.fit.startswith("letterbox") and "Padding" not in config:
        _log.warning(
            "%s: no Padding is given, so the device pads with its default colour, which the vendor "
            "does not document; on the CPU it is %s",
            vdsp,
            list(preprocess.pad_value),
        )
