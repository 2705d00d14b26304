"""The seam between recipes and runtimes: an RGB picture in, named arrays out.

A backend does its own pre-processing, because a card does it in hardware and a CPU does not.
Nobody outside this folder knows which backend ran.
"""

from __future__ import annotations

import os
import platform
import re
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, Optional, Sequence, Type, TypeVar

import numpy as np

from ..card import Preprocess
from ..contract import Contract
from ..results import RawOutputs

__all__ = ["Backend", "Infer", "describe_machine", "map_in_order", "usable_cores"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Infer = Callable[[np.ndarray], RawOutputs]


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> Dict[str, Any]:
    """Name the processor and count the cores this process may use, for reports."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(errors="replace"))
        name = match[1].strip() if match else name
    return {"cpu": name, "cores": usable_cores()}


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Apply a function in threads, yield results in the order of the items.

    At most three items a worker are under way, so memory does not grow with their number. The
    first error is raised where its result would have come; then, as on an early stop by the
    caller, waiting items are dropped and running ones are waited for.

    Parameters
    ----------
    function
        Must be safe to call from several threads.
    items
        Taken one by one, in the caller's thread.
    workers
        Number of threads.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="facezoo")
    waiting: Deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True)


class Backend(ABC):
    """One loaded network on one runtime.

    Attributes
    ----------
    name, version, device
        What runs, in which version, on what; for reports.
    contract
        What the loaded graph promises.
    """

    name: str
    version: str
    device: str
    contract: Contract

    @abstractmethod
    def infer_batch(self, images_rgb: Sequence[np.ndarray]) -> RawOutputs:
        """Run the network once on several pictures.

        Parameters
        ----------
        images_rgb
            Pictures of any sizes, each (H, W, 3), uint8, RGB.

        Returns
        -------
        RawOutputs
            One row and one placement a picture, in their order.
        """

    def infer(self, image_rgb: np.ndarray) -> RawOutputs:
        """Run the network on one picture, as fast as that one picture can be done.

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

    @abstractmethod
    def map(
        self, function: Callable[[Infer, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Apply a function that uses the network to many items, as many at a time as pays.

        Parameters
        ----------
        function
            Called in several threads as ``function(infer, item)``; ``infer`` takes a picture
            (H, W, 3), uint8, RGB, and returns its ``RawOutputs``. Reading, decoding and writing
            belong in it, so that they overlap with the network.
        items
            Taken one by one, in the caller's thread.

        Yields
        ------
        object
            What the function returned, in the order of the items.
        """

    def infer_many(self, images_rgb: Iterable[np.ndarray]) -> Iterator[RawOutputs]:
        """Run the network on many pictures; order is kept and memory bounded.

        Parameters
        ----------
        images_rgb
            Each (H, W, 3), uint8, RGB.

        Yields
        ------
        RawOutputs
            One a picture, in their order.
        """
        return self.map(lambda infer, image: infer(image), images_rgb)

    @property
    def preprocess(self) -> Preprocess:
        """What is done to a picture before the network."""
        return self.contract.preprocess

    def settings(self) -> Dict[str, Any]:
        """Return what decides the outputs, as JSON values for a run's fingerprint."""
        return {"engine": self.name, "engine_version": self.version, "device": self.device}

    def close(self) -> None:  # noqa: B027 (nothing to free is a valid way to close)
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
