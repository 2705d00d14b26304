"""Our ``vamp``: run a network on synthetic images or a datalist, and measure the speed.

As in the vendor's tool, several processes run several instances of the network each, with a batch
of images per call. Processes are supervised: a lost one is reported with the reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import queue
import re
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

import numpy as np

from ..arrays import write_npz
from ..backends import RuntimeOptions, open_backend
from ..backends.base import Backend, call_naming
from ..card import ModelCard
from ..contract import Contract
from ..errors import DecodeError, InputError
from ..machine import usable_cores
from ..results import RawOutputs
from ..system import peak_memory
from ..vacc.npz import read_input
from ..workers import Last, Team, map_in_order

__all__ = [
    "Batch",
    "Job",
    "Line",
    "LoadedNetwork",
    "Synthetic",
    "Timings",
    "Workers",
    "format_report",
    "parse_report",
]


PERCENTILES = (50, 90, 95, 99)  # source: VastStreamX-Samples@0643263 common/model_profiler.py

Decode = Callable[[Contract, RawOutputs], Any]

# Messages from a process that is loaded and warm, and to it.
_READY = "ready"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Settings of a run; the same for every process.

    Attributes
    ----------
    model
        An artifact prefix or a self-describing .onnx file.
    vdsp, engine, device_id, cards
        See :func:`facezoo.backends.open_backend`.
    processes, instances, batch
        Worker processes, instances of the network per process, images per call.
    threads
        CPU cores per instance; by default the usable cores are shared evenly.
    picture_hw
        Height and width of synthetic images; the network's input size if None.
    decode
        Module-level function that decodes the outputs, if decoding is to be timed.
    allow_saturation
        See :class:`~facezoo.backends.base.RuntimeOptions`.
    """

    model: Path
    vdsp: Optional[Path] = None
    engine: str = "auto"
    device_id: int = 0
    cards: Tuple[ModelCard, ...] = ()
    processes: int = 1
    instances: int = 1
    batch: int = 1
    threads: Optional[int] = None
    picture_hw: Optional[Tuple[int, int]] = None
    decode: Optional[Decode] = None
    allow_saturation: bool = False

    def open(self) -> Backend:
        """Load one instance of the network."""
        share = max(1, usable_cores() // (self.processes * self.instances))
        return open_backend(
            self.model,
            RuntimeOptions(
                self.engine,
                self.device_id,
                self.threads or share,
                allow_saturation=self.allow_saturation,
            ),
            vdsp=self.vdsp,
            batch=self.batch,
            cards=self.cards,
        )


@dataclass(frozen=True)
class Line:
    """A line of a datalist with the target file of its outputs.

    Attributes
    ----------
    npz, sha256
        The input, and its expected hash if known.
    output
        Target file.
    """

    npz: Path
    sha256: str
    output: Path


@dataclass(frozen=True)
class Synthetic:
    """Batches of synthetic images, limited by number or time.

    Attributes
    ----------
    batches
        Number over all instances of a process; None for no limit.
    seconds
        Duration; None for no limit.
    """

    batches: Optional[int] = None
    seconds: Optional[float] = None

    def share(self, rank: int, processes: int) -> Synthetic:
        """Return the share of one of several processes."""
        if self.batches is None:
            return self
        return Synthetic(len(range(rank, self.batches, processes)), self.seconds)


@dataclass(frozen=True)
class LoadedNetwork:
    """Facts about the network that a process has loaded.

    Attributes
    ----------
    contract
        Contract of the network, with the pre-processing that is used.
    settings
        See :meth:`facezoo.backends.base.Backend.settings`.
    dtype
        Type of the outputs in npz files.
    splits
        Whether pre-processing and network are timed separately.
    """

    contract: Contract
    settings: Dict[str, Any]
    dtype: str
    splits: bool


@dataclass(frozen=True)
class Batch:
    """One call of an instance; times in ns of the monotonic clock.

    Attributes
    ----------
    pictures
        Number of images.
    began, ended
        Start and end, including reading and writing.
    latency, pre, infer, post
        Time of the call without reading and writing, and of its parts: pre-processing, network,
        decoding. Engines that do the first two in one step count both as ``infer``.
    outputs
        Name and sha256 of each file written.
    """

    pictures: int
    began: int
    ended: int
    latency: int
    pre: int
    infer: int
    post: int
    outputs: Tuple[Tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Usage:
    """Final message of a process: CPU seconds since the start, peak memory in bytes."""

    cpu: float
    peak: int


_Work = Union[Synthetic, Sequence[Sequence[Line]]]


class _Instances:
    """The instances of one process, used by one thread at a time."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.idle: queue.SimpleQueue[Backend] = queue.SimpleQueue()
        self.first = job.open()
        # The messages of the first instance are the same for the others.
        logging.disable(logging.CRITICAL)
        self.backends = [self.first, *(job.open() for _ in range(job.instances - 1))]
        for backend in self.backends:
            self.idle.put(backend)
        height, width = job.picture_hw or self.first.preprocess.input_hw
        rng = np.random.default_rng(2026)
        self.pictures = [
            rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(job.batch)
        ]
        self.dtype = _output_dtype(job, self.first)
        self.shapes: Dict[str, Tuple[int, ...]] = {}

    def facts(self) -> LoadedNetwork:
        contract = self.first.contract
        return LoadedNetwork(
            contract=dataclasses.replace(contract, preprocess=self.first.preprocess),
            settings=self.first.settings(),
            dtype=self.dtype,
            splits=hasattr(self.first, "prepare"),
        )

    def warm_up(self, work: _Work) -> None:
        """Make every instance allocate its memory, with a full batch when speed is measured."""
        pictures = self.pictures if isinstance(work, Synthetic) else self.pictures[:1]
        count = len(self.backends)
        for _, raw in map_in_order(self._call, [pictures] * count, count):
            self.shapes = {name: array.shape[1:] for name, array in raw.arrays.items()}

    def run(self, work: _Work) -> Iterator[Batch]:
        """Process this process's share of the work; lines in order."""
        if isinstance(work, Synthetic):
            return self._run_synthetic(work)
        # One thread more than instances, so that files are read while the network runs.
        return map_in_order(self._run_lines, work, len(self.backends) + 1)

    def _run_synthetic(self, work: Synthetic) -> Iterator[Batch]:
        ticks = _ticks(work)
        lock = threading.Lock()

        def loop(_: int) -> List[Batch]:
            batches: List[Batch] = []
            while True:
                with lock:
                    if next(ticks, None) is None:
                        return batches
                began = time.perf_counter_ns()
                times, _raw = self._call(self.pictures)
                batches.append(Batch(self.job.batch, began, time.perf_counter_ns(), *times))

        count = len(self.backends)
        for batches in map_in_order(loop, range(count), count):
            yield from batches

    def _run_lines(self, lines: Sequence[Line]) -> Batch:
        began = time.perf_counter_ns()
        pictures = [read_input(line.npz, line.sha256) for line in lines]
        times, raw = call_naming(self._checked_call, pictures, [line.npz for line in lines])
        outputs = tuple(
            (line.output.name, self._write(line.output, raw, row)) for row, line in enumerate(lines)
        )
        return Batch(len(lines), began, time.perf_counter_ns(), *times, outputs=outputs)

    def _checked_call(
        self, pictures: Sequence[np.ndarray]
    ) -> Tuple[Tuple[int, int, int, int], RawOutputs]:
        times, raw = self._call(pictures)
        for name, array in raw.arrays.items():
            if array.shape[1:] != self.shapes[name]:
                raise DecodeError(
                    f"output {name!r} has shape {array.shape[1:]} per image, but had "
                    f"{self.shapes[name]} before; export the model again"
                )
            if np.isnan(array).any():
                raise DecodeError(f"output {name!r} holds NaN; check the weights and the input")
        return times, raw

    def _call(self, pictures: Sequence[np.ndarray]) -> Tuple[Tuple[int, int, int, int], RawOutputs]:
        """Run an instance; return latency, pre, infer and post in ns, and the outputs."""
        backend: Any = self.idle.get()
        try:
            started = prepared = time.perf_counter_ns()
            if hasattr(backend, "prepare"):
                tensor, placements = backend.prepare(pictures)
                prepared = time.perf_counter_ns()
                raw = backend.run_tensor(tensor, placements)
            else:
                raw = backend.infer_batch(pictures)
            inferred = time.perf_counter_ns()
            if self.job.decode is not None:
                self.job.decode(backend.contract, raw)
            ended = time.perf_counter_ns()
        finally:
            self.idle.put(backend)
        times = (ended - started, prepared - started, inferred - prepared, ended - inferred)
        return times, raw

    def _write(self, path: Path, raw: RawOutputs, row: int) -> str:
        arrays = {
            f"output_{number}": raw.arrays[name][row : row + 1].astype(self.dtype)
            for number, name in enumerate(self.first.contract.output_names)
        }
        return write_npz(path, arrays)

    def close(self) -> None:
        for backend in self.backends:
            backend.close()


def _ticks(work: Synthetic) -> Iterator[int]:
    """Yield batch numbers until the limit."""
    end = None if work.seconds is None else time.perf_counter() + work.seconds
    for tick in itertools.count():
        if tick == work.batches or (end is not None and time.perf_counter() >= end):
            return
        yield tick


def _output_dtype(job: Job, backend: Backend) -> str:
    """Return float32 for fp32 builds, which only our compiler makes, else float16."""
    from ..artifact import read_artifact

    if backend.name == "vsx":
        return "float16"
    if job.model.suffix == ".onnx":
        return "float32"
    return "float32" if read_artifact(job.model).dtype == "fp32" else "float16"


def _work(connection: Connection, job: Job, rank: int, prog: str, level: int) -> None:
    """Run a worker process: load, receive the work, warm up, run on command."""
    if rank or not prog:
        logging.disable(logging.CRITICAL)
    logging.basicConfig(format=f"{prog}: %(message)s")
    logging.getLogger("facezoo").setLevel(level)
    instances = _Instances(job)
    connection.send(instances.facts())
    work = connection.recv()
    instances.warm_up(work)
    connection.send(_READY)
    connection.recv()
    cpu = time.process_time()
    for batch in instances.run(work):
        connection.send(batch)
    connection.send(Last(_Usage(time.process_time() - cpu, peak_memory() or 0)))
    instances.close()


class Workers:
    """The processes of a job; a context manager that ends them.

    Parameters
    ----------
    job
        Settings of the run.
    prog
        Name of the command in messages of the engine; "" for no messages.

    Attributes
    ----------
    facts
        Facts about the loaded network.
    cpu
        CPU seconds of all processes, after the work.
    peak
        Sum of their peak resident memory in bytes, after the work; 0 if unknown.

    Raises
    ------
    FaceZooError
        If the network cannot be loaded.
    """

    facts: LoadedNetwork

    def __init__(self, job: Job, prog: str = "facezoo vamp") -> None:
        self.job = job
        self.cpu = 0.0
        self.peak = 0
        # Not forked, since the threads of a runtime do not survive a fork.
        level = logging.getLogger("facezoo").getEffectiveLevel()
        shares = [(job, rank, prog, level) for rank in range(job.processes)]
        self._team = Team(_work, shares, method="spawn")

    def __enter__(self) -> Workers:
        with contextlib.ExitStack() as stack:
            team = stack.enter_context(self._team)
            self.facts, *_ = [team.hear(worker) for worker in team.workers]
            stack.pop_all()
        return self

    def run_synthetic(self, work: Synthetic) -> Iterator[Batch]:
        """Run synthetic images.

        Yields
        ------
        Batch
            In arbitrary order.
        """
        shares = [work.share(rank, self.job.processes) for rank in range(self.job.processes)]
        return self._run(shares)

    def run_lines(self, lines: Sequence[Line], first: int = 0) -> Iterator[Batch]:
        """Run a datalist and write its outputs.

        Parameters
        ----------
        lines
            All lines, split into batches from the first one; the last batch may be smaller.
        first
            The first line to run, if an earlier run has done the others.

        Yields
        ------
        Batch
            In the order of the lines.

        Raises
        ------
        InputError
            If an npz cannot be read.
        BackendRunError
            If a process is lost.
        """
        size = self.job.batch
        starts = range(first // size * size, len(lines), size)
        batches = [lines[max(start, first) : start + size] for start in starts]
        processes = self.job.processes
        return self._run([batches[rank::processes] for rank in range(processes)])

    def _run(self, shares: Sequence[Any]) -> Iterator[Batch]:
        workers = self._team.workers
        for worker, share in zip(workers, shares):
            worker.send(share)
        for worker in workers:
            self._team.hear(worker)
        # All processes are warm now and start together.
        for worker in workers:
            worker.send(_READY)
        yield from self._team.in_turn()
        self.cpu = sum(usage.cpu for usage in self._team.last.values())
        self.peak = sum(usage.peak for usage in self._team.last.values())

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._team.__exit__(kind, error, trace)


@dataclass
class Timings:
    """Sums over batches.

    Attributes
    ----------
    pictures
        Number of images.
    latencies
        Time of each batch call in ns, without reading and writing.
    pre, infer, post
        Times of all calls together, in ns.
    """

    pictures: int = 0
    latencies: List[int] = field(default_factory=list)
    pre: int = 0
    infer: int = 0
    post: int = 0
    _began: int = 0
    _ended: int = 0

    def add(self, batch: Batch) -> None:
        """Add one batch."""
        self._began = min(self._began or batch.began, batch.began)
        self._ended = max(self._ended, batch.ended)
        self.pictures += batch.pictures
        self.latencies.append(batch.latency)
        self.pre += batch.pre
        self.infer += batch.infer
        self.post += batch.post

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> Timings:
        """Sum up batches."""
        measured = cls()
        for batch in batches:
            measured.add(batch)
        return measured

    @property
    def rate(self) -> float:
        """Images per second, from the start of the first to the end of the last batch."""
        return self.pictures * 1e9 / max(self._ended - self._began, 1)

    def latency_us(self) -> Dict[str, int]:
        """Return avg, min, max and percentiles of a batch call in integer microseconds."""
        if not self.latencies:
            raise InputError("no batch was measured; give more --iterations or a longer -t")
        values = np.array(self.latencies) / 1000.0
        named = {"avg": values.mean(), "min": values.min(), "max": values.max()}
        named.update({f"p{q}": np.percentile(values, q) for q in PERCENTILES})
        return {name: round(float(value)) for name, value in named.items()}


def format_report(job: Job, measured: Timings) -> str:
    """Format a measurement in the layout of the vendor's profilers.

    Parameters
    ----------
    job
        Settings; instances are counted over all processes. Calls wait for their outputs without
        queueing, which the vendor calls a queue size of 0.
    measured
        The measurement.

    References
    ----------
    .. [1] VastStreamX-Samples@0643263, ``common/model_profiler.py``.
    """
    lines = [
        f"- number of instances: {job.instances * job.processes}",
        f"  devices: [ {job.device_id} ]",
        "  queue size: 0",
        f"  batch size: {job.batch}",
        f"  throughput (qps): {measured.rate:.2f}",
        "  latency (us):",
    ]
    lines += [f"    {name} latency: {value}" for name, value in measured.latency_us().items()]
    return "\n".join(lines)


def parse_report(text: str) -> Dict[str, float]:
    """Parse a report in the vendor's layout, from our tool or the vendor's.

    Parameters
    ----------
    text
        Output of a profiler, possibly with other lines.

    Returns
    -------
    dict of str to float
        ``qps``, and of a batch call in microseconds ``avg``, ``min``, ``max``, ``p50`` and other
        percentiles, as far as present.

    Raises
    ------
    InputError
        If it contains no throughput.

    Examples
    --------
    >>> parse_report("throughput (qps): 863.92 latency (us): p99 latency: 1291")
    {'qps': 863.92, 'p99': 1291.0}
    """
    rate = re.search(r"\(qps\):\s*(\d+(?:\.\d+)?)", text)
    if rate is None:
        raise InputError(
            f"the profiler printed no line '(qps): number': {text.strip()[-200:]!r}; expected a "
            "report of vamp"
        )
    found = re.findall(r"\b(avg|min|max|p\d+) latency:\s*(\d+(?:\.\d+)?)", text)
    return {"qps": float(rate[1]), **{name: float(value) for name, value in found}}
