"""Threads and supervised worker processes: ordered results, lost processes reported.

concurrent.futures does not say which process was lost or why; and if the parent is killed, its
processes go on or wait for ever, and keep inherited resources such as the lock of a run folder.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
)

from .errors import BackendRunError, FaceZooError
from .system import SIGKILL, end_with_parent
from .written import work_for_caller, work_for_parent

__all__ = [
    "Last",
    "Team",
    "Worker",
    "map_in_order",
    "map_in_processes",
    "name_exit",
    "start_process",
]


Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Last:
    """The last message of a process, with its final value."""

    value: Any = None


@dataclass(frozen=True)
class _Failed:
    """The last message of a process that failed; an error may also be a regular result."""

    error: Exception


def start_process(context: Any, target: Callable[..., None], arguments: Tuple[Any, ...]) -> Any:
    """Start a process that ends when this one does, even if this one is killed.

    Parameters
    ----------
    context
        Of ``multiprocessing``.
    target, arguments
        Module-level function that the process calls, and its arguments.

    Returns
    -------
    multiprocessing.Process
    """
    lives_as_long = threading.current_thread() is threading.main_thread()
    process = context.Process(target=_bound, args=(lives_as_long, target, arguments), daemon=True)
    process.start()
    return process


def _bound(by_main_thread: bool, target: Callable[..., None], arguments: Tuple[Any, ...]) -> None:
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    if by_main_thread:
        # A runtime that hangs may keep the thread below from running. The kernel sends the signal
        # when the thread that started this process ends, which must therefore be the main one.
        end_with_parent()
    threading.Thread(target=follow, daemon=True, name="facezoo-parent").start()
    target(*arguments)


def _run(
    work: Callable[..., None],
    arguments: Tuple[Any, ...],
    connection: Connection,
    inherited: Sequence[Connection],
) -> None:
    work_for_parent()
    # A terminal or service sends these to every process; only the parent reacts, in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Connections left open by a fork would keep a sender waiting for a parent that has ended.
    for other in inherited:
        other.close()
    try:
        work(connection, *arguments)
    except (EOFError, ConnectionError):
        return  # The parent has ended.
    except (FaceZooError, OSError) as error:
        connection.send(_Failed(error))


class Worker:
    """The parent's handle of one process of a team.

    Attributes
    ----------
    label
        Description of the process for messages.
    process
        The process.
    connection
        Connection to the process.
    """

    def __init__(self, label: str, process: Any, connection: Connection) -> None:
        self.label = label
        self.process = process
        self.connection = connection

    def send(self, message: Any) -> None:
        """Send a message; BackendRunError if the process is lost."""
        try:
            self.connection.send(message)
        except OSError as error:
            raise self.lost() from error

    def receive(self) -> Any:
        """Receive the next message; raise the process's error, or BackendRunError if it is lost."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self.lost() from error
        if isinstance(message, _Failed):
            raise message.error
        return message

    def lost(self) -> BackendRunError:
        """Describe which process was lost and how it ended."""
        self.process.join(5)
        reason = name_exit(self.process.exitcode)
        if self.process.exitcode == -SIGKILL:
            reason += ", perhaps out of memory"
        return BackendRunError(f"{self.label} (pid {self.process.pid}) was lost: {reason}")


def name_exit(code: Optional[int]) -> str:
    """Describe an exit code of ``multiprocessing``."""
    if code is None or code >= 0:
        return f"exit code {code}"
    # Most real-time signals have no name.
    names = {one.value: f", {one.name}" for one in signal.Signals}
    return f"signal {-code}{names.get(-code, '')}"


class Team:
    """Processes that run one function on their shares of the work; ended by the context manager.

    Parameters
    ----------
    work
        Module-level function, called in each process as ``work(connection, *arguments)``. It
        sends results through the connection and :class:`Last` at the end; a FaceZooError or
        OSError is passed to the parent.
    arguments
        One tuple per process.
    method
        Start method of the processes; the system's default if None.

    Attributes
    ----------
    workers
        One per process.
    last
        Final value of each process that has ended.
    """

    def __init__(
        self,
        work: Callable[..., None],
        arguments: Sequence[Tuple[Any, ...]],
        method: Optional[str] = None,
    ) -> None:
        self._work = work
        self._arguments = arguments
        self._context: Any = multiprocessing.get_context(method)
        self.workers: List[Worker] = []
        self.last: Dict[int, Any] = {}

    def __enter__(self) -> Team:
        try:
            for arguments in self._arguments:
                self._start(arguments)
        except BaseException:
            self._end()
            raise
        return self

    def _start(self, arguments: Tuple[Any, ...]) -> None:
        ours, theirs = self._context.Pipe()
        inherited: List[Connection] = []
        if self._context.get_start_method() == "fork":
            inherited = [ours, *(worker.connection for worker in self.workers)]
        process = start_process(self._context, _run, (self._work, arguments, theirs, inherited))
        theirs.close()
        label = f"worker process {len(self.workers) + 1} of {len(self._arguments)}"
        self.workers.append(Worker(label, process, ours))

    def replace(self, worker: Worker) -> Worker:
        """Start a new process with the arguments of one that was lost; return its handle."""
        rank = self.workers.index(worker)
        worker.connection.close()
        self._start(self._arguments[rank])
        # The handles stay in the order of the arguments.
        started = self.workers[rank] = self.workers.pop()
        started.label = worker.label
        return started

    def hear(self, worker: Worker) -> Any:
        """Wait for a process's next message.

        Raises
        ------
        FaceZooError
            The error of the process; BackendRunError if this or another process is lost.
        """
        while True:
            running = []
            for each in self.workers:
                if each.process.exitcode is None:
                    running.append(each.process.sentinel)
                elif each.process.exitcode != 0:
                    raise each.lost()
            if worker.connection in wait([worker.connection, *running]):
                return worker.receive()

    def in_turn(self) -> Iterator[Any]:
        """Receive one message per process in turn until all have ended.

        If item k goes to process k modulo their number, this is the order of the items.
        """
        waiting: Deque[int] = deque(range(len(self.workers)))
        while waiting:
            rank = waiting.popleft()
            message = self.hear(self.workers[rank])
            if isinstance(message, Last):
                self.last[rank] = message.value
            else:
                yield message
                waiting.append(rank)

    def _end(self) -> None:
        for worker in self.workers:
            worker.connection.close()
            # A file being written has a temporary name and is no longer needed.
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._end()


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Iterator[Result]:
    """Apply a function in processes, yield results in the order of the items.

    Parameters
    ----------
    function
        Module-level function, or a partial of one.
    items
        Items, distributed over the processes.
    processes
        Maximum number of processes.

    Raises
    ------
    FaceZooError
        The error of the function; BackendRunError if a process is lost.
    """
    count = max(1, min(processes, len(items)))
    shares = [(function, items[rank::count]) for rank in range(count)]
    with Team(_map_share, shares) as team:
        yield from team.in_turn()


def _map_share(
    connection: Connection, function: Callable[[Item], Result], items: Sequence[Item]
) -> None:
    for item in items:
        connection.send(function(item))
    connection.send(Last())


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Apply a function in threads, yield results in the order of the items.

    At most three items per worker are in progress, so memory does not grow with their number. The
    first error is raised in place of its result; then, as on an early stop by the caller, waiting
    items are dropped and running ones are finished.

    Parameters
    ----------
    function
        Thread-safe function.
    items
        Items, consumed one by one in the caller's thread.
    workers
        Number of threads.
    """
    pool = ThreadPoolExecutor(workers, "facezoo", initializer=work_for_caller)
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
