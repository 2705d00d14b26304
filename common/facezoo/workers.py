"""Worker processes that are watched: results in order, and a lost process noticed and named.

concurrent.futures does not say which process was lost, or why; and where the parent is killed, its
processes wait for ever and keep what they inherited, a run folder's lock among it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
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

__all__ = [
    "Last",
    "Team",
    "map_in_order",
    "map_in_processes",
    "name_exit",
    "usable_cores",
]


Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Last:
    """A process's last message, and what it has to say at the end."""

    value: Any = None


@dataclass(frozen=True)
class _Failed:
    """A process's last message if it met an error; an error may also be a result."""

    error: Exception


def _run(
    work: Callable[..., None],
    arguments: Tuple[Any, ...],
    connection: Connection,
    inherited: Sequence[Connection],
) -> None:
    # These go to every process of a terminal or a service; the parent ends the others in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What a fork leaves open here would keep a sender waiting for a parent that is gone.
    for other in inherited:
        other.close()
    try:
        work(connection, *arguments)
    except (EOFError, ConnectionError):
        return  # The parent is gone.
    except (FaceZooError, OSError) as error:
        connection.send(_Failed(error))


class Worker:
    """A process of a team, as its parent sees it.

    Attributes
    ----------
    label
        Which one it is, in words.
    process
        The process.
    connection
        The way to it and from it.
    """

    def __init__(self, label: str, process: Any, connection: Connection) -> None:
        self.label = label
        self.process = process
        self.connection = connection

    def send(self, message: Any) -> None:
        """Send it something; BackendRunError if it is lost."""
        try:
            self.connection.send(message)
        except OSError as error:
            raise self.lost() from error

    def receive(self) -> Any:
        """Take its next message; raise the error it met, or BackendRunError if it is lost."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self.lost() from error
        if isinstance(message, _Failed):
            raise message.error
        return message

    def lost(self) -> BackendRunError:
        """Say which process was lost, and how it ended."""
        self.process.join(5)
        reason = name_exit(self.process.exitcode)
        if self.process.exitcode == -signal.SIGKILL:
            reason += ", perhaps for want of memory"
        return BackendRunError(f"{self.label} (pid {self.process.pid}) was lost: {reason}")


def name_exit(code: Optional[int]) -> str:
    """Say how a process ended, as ``multiprocessing`` notes it."""
    if code is None or code >= 0:
        return f"exit code {code}"
    # Not every signal has a name: most of the real-time ones have none.
    names = {one.value: f", {one.name}" for one in signal.Signals}
    return f"signal {-code}{names.get(-code, '')}"


class Team:
    """Processes that do the same on their own shares; a context manager that ends them.

    Parameters
    ----------
    work
        A function of a module, called in each process as ``work(connection, *arguments)``. It
        sends results through the connection and :class:`Last` at the end; an error of facezoo's
        or of the system's is handed to the parent.
    arguments
        One tuple a process.
    method
        How processes are started; the system's way if None.

    Attributes
    ----------
    workers
        One a process.
    last
        What each process had to say at the end, as far as it has ended.
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
        process = self._context.Process(
            target=_run, args=(self._work, arguments, theirs, inherited), daemon=True
        )
        process.start()
        theirs.close()
        label = f"worker process {len(self.workers) + 1} of {len(self._arguments)}"
        self.workers.append(Worker(label, process, ours))

    def hear(self, worker: Worker) -> Any:
        """Wait for a process's next message.

        Raises
        ------
        FaceZooError
            The error the process met; BackendRunError if this or another process is lost.
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
        """Take one message of each process in turn until all have ended.

        Where item k of the work is process k's, modulo their number, that is the items' order.
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
            # What it was writing has a temporary name, and nobody waits for it any more.
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
        A function of a module, or a partial one.
    items
        Shared out among the processes.
    processes
        How many there are at most.

    Raises
    ------
    FaceZooError
        The error the function met; BackendRunError if a process is lost.
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


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
