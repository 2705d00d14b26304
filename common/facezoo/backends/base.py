"""Backend interface between recipes and runtimes: from an RGB image to named arrays.

A backend does its own pre-processing, because a device does it in hardware. Code outside this
folder does not depend on which backend runs.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

import numpy as np

from ..card import Preprocess
from ..contract import Contract
from ..errors import BackendRunError, DecodeError, GraphError, InputError
from ..files import sha256_of
from ..image.preprocess import VdspOperation, affine_normalisation
from ..machine import opencv_threads, usable_cores
from ..results import Placement, RawOutputs
from ..workers import map_in_order

__all__ = [
    "NETWORK_ERRORS",
    "Backend",
    "HostBackend",
    "Infer",
    "call_naming",
    "first_line",
    "naming",
]


Item = TypeVar("Item")
Result = TypeVar("Result")
Infer = Callable[[np.ndarray], RawOutputs]

# Errors of a running network and of its decoder.
NETWORK_ERRORS = (BackendRunError, DecodeError, GraphError)


@contextmanager
def naming(*pictures: Union[str, Path]) -> Iterator[None]:
    """Add the image, or the images of one call, to the message of a network's error."""
    try:
        yield
    except NETWORK_ERRORS as error:
        names = ", ".join(repr(str(picture)) for picture in pictures)
        raise type(error)(f"{names}: {error}") from error


def call_naming(
    call: Callable[[Sequence[np.ndarray]], Result],
    images_rgb: Sequence[np.ndarray],
    pictures: Sequence[Union[str, Path]],
) -> Result:
    """Run a network once on several images; on failure, name the image.

    Parameters
    ----------
    call
        Runs the network on images. After a failure it is called with one image at a time, to find
        the cause.
    images_rgb
        The images, each (H, W, 3), uint8, RGB.
    pictures
        Their names in errors.

    Raises
    ------
    BackendRunError, DecodeError, GraphError
        If the network fails; names the first image that fails alone, else all images.
    """
    try:
        return call(images_rgb)
    except NETWORK_ERRORS:
        for image, picture in zip(images_rgb, pictures) if len(images_rgb) > 1 else ():
            with naming(picture):
                call([image])
        with naming(*pictures):
            raise


class Backend(ABC):
    """One loaded network on one runtime.

    Attributes
    ----------
    name, version, device
        Runtime, its version, and the processor or device it runs on; for reports.
    contract
        Contract of the loaded graph.
    """

    name: str
    version: str
    device: str
    contract: Contract

    @abstractmethod
    def infer_batch(self, images_rgb: Sequence[np.ndarray]) -> RawOutputs:
        """Run the network once on several images.

        Parameters
        ----------
        images_rgb
            Images of any sizes, each (H, W, 3), uint8, RGB.

        Returns
        -------
        RawOutputs
            One row and one placement per image, in their order.
        """

    def infer(self, image_rgb: np.ndarray) -> RawOutputs:
        """Run the network on one image with the lowest latency.

        Parameters
        ----------
        image_rgb
            Shape (H, W, 3), uint8, RGB.

        Returns
        -------
        RawOutputs
            Arrays with a first axis of 1, and one placement.
        """
        return self.infer_batch([image_rgb])

    def infer_shared(self, images_rgb: Sequence[np.ndarray]) -> RawOutputs:
        """Run the network once on several images while other threads do the same.

        Like :meth:`infer_batch`, but a runtime that computes on the CPU uses one core.
        """
        return self.infer_batch(images_rgb)

    @property
    def workers(self) -> int:
        """Number of threads to process many images with."""
        return 1

    @property
    def takes_batches(self) -> bool:
        """Whether :meth:`infer_batch` accepts any number of images."""
        return True

    @abstractmethod
    def map(
        self, function: Callable[[Infer, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Apply a function that uses the network to many items in parallel.

        Parameters
        ----------
        function
            Called in several threads as ``function(infer, item)``; ``infer`` takes an image
            (H, W, 3), uint8, RGB, and returns its ``RawOutputs``. Reading, decoding and writing
            belong in it, so that they overlap with the network.
        items
            Items, consumed one by one in the caller's thread.

        Yields
        ------
        object
            Result of the function, in the order of the items.
        """

    @property
    def preprocess(self) -> Preprocess:
        """Pre-processing of an image before the network."""
        return self.contract.preprocess

    def settings(self) -> Dict[str, Any]:
        """Return what determines the outputs, as JSON values for the fingerprint of a run."""
        return {"engine": self.name, "engine_version": self.version, "device": self.device}

    def close(self) -> None:  # noqa: B027 (a backend may have nothing to free)
        """Free the runtime's resources."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


class Graph(Protocol):
    """A network loaded into a runtime of this machine."""

    @property
    def device(self) -> str:
        """The processor or device it runs on."""

    @property
    def inputs(self) -> Mapping[str, Sequence[Any]]:
        """Name to shape; free axes are not numbers."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names, in the order of the graph."""

    def run(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        """Run the network on (B, 3, H, W) and return its outputs in their order."""


class HostBackend(Backend):
    """A raw-head graph on a runtime of this machine, with the vdsp operation on the CPU.

    Parameters
    ----------
    model
        The .onnx file.
    contract
        Output names and pre-processing, from the file's metadata.
    preprocess
        Replaces the contract's, if given; its ``input_hw`` must fit the graph.
    half_input
        Round the pre-processed tensor to float16, as a device does for fp16 and int8 builds.
    threads
        Cores to use; all usable ones if None. One image is run on all of them; many images
        are run one per core.
    multiple
        Let the size of the input follow the image; see
        :class:`~facezoo.image.preprocess.VdspOperation`. A run then takes one image.
    """

    def __init__(
        self,
        model: Path,
        contract: Contract,
        preprocess: Optional[Preprocess] = None,
        half_input: bool = False,
        threads: Optional[int] = None,
        multiple: int = 0,
    ) -> None:
        self.model = Path(model)
        self.contract = contract
        self.threads = threads or usable_cores()
        self.operation = VdspOperation(preprocess or contract.preprocess, half_input, multiple)
        # If the graph can normalise bit-identically it takes pixels, a quarter of the memory.
        self.normalisation = affine_normalisation(self.operation.table)
        self._graphs: Dict[Tuple[bool, bool], Graph] = {}
        self._lock = threading.Lock()
        self._local = threading.local()
        graph = self._graph(False, self.normalisation is not None)
        self.device = graph.device
        size = next(iter(next(iter(graph.inputs.values()), ())), None)
        self._batch_is_free = not isinstance(size, int) and not multiple
        self._order = self._check_interface(graph)

    @abstractmethod
    def _load(self, many: bool, pixels: bool) -> Graph:
        """Load the model for one image on all cores, or for many images with one core each.

        With ``pixels`` it takes uint8 and normalises with ``self.normalisation``; else float32.
        """

    def _graph(self, many: bool, pixels: bool) -> Graph:
        with self._lock:
            if (many, pixels) not in self._graphs:
                self._graphs[many, pixels] = self._load(many, pixels)
            return self._graphs[many, pixels]

    def _check_interface(self, graph: Graph) -> List[int]:
        """Check the graph against the contract; return the indices of the contract's outputs."""
        have, names = list(graph.outputs), self.contract.output_names
        missing = [name for name in names if name not in have]
        if missing:
            raise GraphError(
                f"{str(self.model)!r}: output {missing[0]!r} not found; the model has {have}; "
                "export it again with the recipe's source_code/export_onnx.py"
            )
        if list(graph.inputs) != [self.contract.input_name]:
            raise GraphError(
                f"{str(self.model)!r}: found inputs {list(graph.inputs)}, the contract says "
                f"{self.contract.input_name!r}; export the model again"
            )
        shape = graph.inputs[self.contract.input_name]
        for axis, size, want in zip(("height", "width"), shape[2:], self.preprocess.input_hw):
            if isinstance(size, int) and self.operation.multiple:
                raise GraphError(
                    f"{str(self.model)!r} has a fixed {axis} of {size}, so its input cannot follow "
                    "the photo; leave the size auto out, or export the model again without a size"
                )
            if isinstance(size, int) and size != want:
                raise GraphError(
                    f"{str(self.model)!r} expects a {axis} of {size}, the pre-processing gives "
                    f"{want}; give a vdsp JSON with OimageWidth and OimageHeight of the model"
                )
        return [have.index(name) for name in names]

    @property
    def preprocess(self) -> Preprocess:
        """Pre-processing of an image before the network: that of the vdsp JSON, if there is one."""
        return self.operation.preprocess

    @property
    def workers(self) -> int:
        """Number of images in progress at a time during a bulk run."""
        return self.threads

    @property
    def takes_batches(self) -> bool:
        """Whether a run takes any number of images: if all have one size, which is free."""
        return self._batch_is_free

    def infer_batch(self, images_rgb: Sequence[np.ndarray]) -> RawOutputs:
        """Run the network once on several images, on all cores."""
        return self.run_tensor(*self.prepare(images_rgb))

    def infer_shared(self, images_rgb: Sequence[np.ndarray]) -> RawOutputs:
        """Run the network once on several images, on one core."""
        return self.run_tensor(*self.prepare(images_rgb), many=True)

    def prepare(self, images_rgb: Sequence[np.ndarray]) -> Tuple[np.ndarray, Tuple[Placement, ...]]:
        """Pre-process several images to the network's input.

        Parameters
        ----------
        images_rgb
            Each (H, W, 3), uint8, RGB.

        Returns
        -------
        tensor : numpy.ndarray
            Shape (B, 3, H, W), uint8 if the graph normalises, else float32; the next call of the
            same thread overwrites it.
        placements : tuple of Placement
            One per image.
        """
        hw = self.preprocess.input_hw
        if self.operation.multiple:
            if len(images_rgb) != 1:
                raise InputError(
                    f"the input follows the photo, so a run takes one image, not {len(images_rgb)}"
                )
            hw = self.operation.of_image((images_rgb[0].shape[0], images_rgb[0].shape[1])).input_hw
        shape = (len(images_rgb), 3, *hw)
        inside = self.normalisation is not None
        prepare = self.operation.planes if inside else self.operation
        # One buffer per thread, since new memory costs page faults.
        memory = getattr(self._local, "memory", None)
        if memory is None or memory.size < math.prod(shape):
            values = math.prod(shape)
            memory = self._local.memory = np.empty(values, np.uint8 if inside else np.float32)
        buffer = memory[: math.prod(shape)].reshape(shape)
        placements = tuple(
            prepare(image, out=buffer[index])[1] for index, image in enumerate(images_rgb)
        )
        return buffer, placements

    def run_tensor(
        self, tensor: np.ndarray, placements: Sequence[Placement], many: bool = False
    ) -> RawOutputs:
        """Run the network on a pre-processed tensor.

        Parameters
        ----------
        tensor
            Shape (B, 3, H, W): from :meth:`prepare`, or normalised float32.
        placements
            One per image.
        many
            Use one core, since other threads do the same; else all cores.

        Raises
        ------
        BackendRunError
            If the runtime fails.
        GraphError
            If the graph returns another number of results than images.
        """
        try:
            outputs = self._graph(many, tensor.dtype == np.uint8).run(tensor)
        except Exception as error:  # Each runtime has its own classes, without a common base.
            raise BackendRunError(
                f"{self.name} failed on {str(self.model)!r}: {first_line(error)}"
            ) from error
        arrays = {}
        for name, index in zip(self.contract.output_names, self._order):
            if outputs[index].shape[0] != len(tensor):
                raise GraphError(
                    f"{str(self.model)!r}: output {name!r} has a batch of "
                    f"{outputs[index].shape[0]} for {len(tensor)} images; export the model "
                    "again with --batch dynamic"
                )
            arrays[name] = outputs[index].astype(np.float32, copy=False)
        return RawOutputs(arrays, tuple(placements))

    def map(
        self, function: Callable[[Infer, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Apply a function that uses the network to many items, with one thread and core each."""
        # One image per core is faster than all cores sharing one image.
        self._graph(True, self.normalisation is not None)

        def infer(image_rgb: np.ndarray) -> RawOutputs:
            return self.infer_shared([image_rgb])

        # OpenCV must not start threads while every core already runs one of ours.
        with opencv_threads(1):
            yield from map_in_order(partial(function, infer), items, self.workers)

    def settings(self) -> Dict[str, Any]:
        """Return what determines the outputs: the runtime, the file and the pre-processing."""
        return {
            **super().settings(),
            "model_sha256": sha256_of(self.model),
            "preprocess": dataclasses.asdict(self.preprocess),
            **({"size": "auto"} if self.operation.multiple else {}),
        }

    def close(self) -> None:
        """Free the loaded graphs."""
        self._graphs.clear()


def first_line(error: Exception) -> str:
    """Return the first line of an error message, or the error's class."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
