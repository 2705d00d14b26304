"""The engine of several machines: Ray places the actors, restarts them and moves the messages.

An actor has one core and opens the models once; photos are read where they are scored and never
pass through Ray, whose messages are names of parts and receipts.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Dict, Generator, Iterator, List, Optional, Set, Tuple, Union

from ..backends.base import first_line
from ..errors import BackendRunError, BackendUnavailable, FaceZooError
from ..machine import usable_cores
from .scorer import BulkJob
from .work import Part, Receipt, Work

__all__ = ["connected", "score_on_ray"]

LOOPBACK = "127.0.0.1"
# Without it Ray 2.60 replaces 127.0.0.1 by the address of another interface and listens on all.
# source: ray@2.60.0 python/ray/_private/services.py get_node_ip_address
STAY_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Otherwise Ray reports its use to its authors.
KEEP_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
# One part that an actor scores, and one that waits, so that it does not wait for the driver.
IN_FLIGHT = 2
# How often the driver looks for nodes that have joined.
LOOK_SECONDS = 10.0
CONNECT_SECONDS = 10.0
# About the smallest that Ray takes; photos do not go there.
STORE_BYTES = 80 << 20
# An actor that is lost so often before it has opened the models will not open them.
MOST_LOST = 5


def score_on_ray(
    work: Work, job: BulkJob, address: str = "", gpus: float = 0.0
) -> Generator[Receipt, None, None]:
    """Score what is left of the work; yield the receipts as parts are done.

    Parameters
    ----------
    work, job
        What to do, and with what.
    address
        HOST:PORT of a running cluster; "" starts Ray on this machine alone.
    gpus
        GPUs of each actor.

    Raises
    ------
    BackendUnavailable
        If Ray is missing, cannot be reached or has no core.
    FaceZooError, OSError
        Of an actor, where the next photo would fail too; or if the cluster is lost.
    """
    with connected(address) as ray:
        try:
            yield from _score(ray, work, job, gpus)
        except (ray.exceptions.RayError, RuntimeError) as error:
            said = first_line(error)
            raise BackendRunError(f"Ray: {said}; run the same command again") from error


@contextmanager
def connected(address: str = "") -> Iterator[Any]:
    """Connect to Ray, and make sure that it is the one that was asked for.

    Parameters
    ----------
    address
        HOST:PORT of a running cluster; "" starts Ray on this machine, reachable from it alone.

    Yields
    ------
    module
        ``ray``.

    Raises
    ------
    BackendUnavailable
        If there is none, or Ray uses another address than it was told.
    """
    options: Dict[str, Any] = {"address": address}
    if not address:
        options = {
            "address": "local",
            "num_cpus": usable_cores(),
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_node_ip_address": LOOPBACK,
        }
    # Read when Ray is imported, and by the processes that it starts.
    os.environ.update({**KEEP_QUIET, **({} if address else STAY_LOCAL)})
    try:
        import ray
    except ImportError as error:
        raise BackendUnavailable(
            f"--on ray needs Ray ({error}); install it with: pip install ray"
        ) from error
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            # Ray would try for minutes.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(log_to_driver=False, logging_level="error", **options)
        if threading.current_thread() is threading.main_thread():
            # Ray exits with a code of its own.
            signal.signal(signal.SIGTERM, handler)
    except Exception as error:  # Ray raises the base class if a process of it does not start.
        where = f"at {address}" if address else "on this machine"
        said = first_line(error)
        raise BackendUnavailable(f"Ray {where} cannot be reached ({said})") from error
    try:
        _check_address(ray, address)
        yield ray
    finally:
        ray.shutdown()


def _check_address(ray: Any, address: str) -> None:
    found = ray.get_runtime_context().gcs_address
    if address and found != address:
        raise BackendUnavailable(f"Ray connected to {found}, not to {address} as it was told")
    if not address:
        nodes = {node["NodeManagerAddress"] for node in ray.nodes()}
        places = {found.rpartition(":")[0], *nodes}
        if places != {LOOPBACK}:
            raise BackendUnavailable(
                f"Ray listens on {', '.join(sorted(places))}, although it was told {LOOPBACK}; "
                "set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before ray is imported, or use --on local"
            )


class _Actor:
    """Scores parts on one core of a node."""

    def __init__(self, job: BulkJob) -> None:
        self._error: Optional[Exception] = None
        try:
            self._scorer = job.open()
        except (FaceZooError, OSError) as error:
            # Raised here, Ray would take it for an actor that was lost, and start another.
            self._error = error

    def ready(self) -> Optional[Exception]:
        """Return what keeps it from scoring; None if the models are open."""
        return self._error

    def score(self, part: Part) -> Union[Receipt, Exception]:
        """Score a part; return its receipt, or the error that ends the run."""
        return self._scorer.score(part)


@dataclass
class _Member:
    """An actor, and what it was asked, in the order it answers; None is the call of ready."""

    actor: Any
    asked: List[Tuple[Any, Optional[Part]]] = field(default_factory=list)
    # Whether it was lost, and has answered nothing since.
    is_lost: bool = False

    def open(self) -> None:
        """Ask for its models; it gets parts once it has answered."""
        # Repeated by Ray while it starts a lost actor anew; parts are not.
        ready = self.actor.ready.options(max_task_retries=MOST_LOST)
        self.asked.append((ready.remote(), None))

    @property
    def is_open(self) -> bool:
        return all(part is not None for _, part in self.asked)


def _score(ray: Any, work: Work, job: BulkJob, gpus: float) -> Iterator[Receipt]:
    # Ray starts a lost actor again, also on another node; its parts are this loop's to give again.
    kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=0)(_Actor)
    crew: List[_Member] = []
    look = 0.0
    while work.done < work.photos:
        if time.monotonic() >= look:
            for _ in range(len(crew), _room(ray, gpus)):
                crew.append(_Member(kind.remote(job)))
                crew[-1].open()
            look = time.monotonic() + LOOK_SECONDS
        waiting = [reference for member in crew for reference, _ in member.asked]
        ready = set(ray.wait(waiting, timeout=LOOK_SECONDS)[0])
        for member in crew:
            yield from _take_answers(ray, work, member, ready)
        for member in crew:
            while member.is_open and len(member.asked) < IN_FLIGHT:
                part = work.take()
                if part is None:
                    break
                member.asked.append((member.actor.score.remote(part), part))


def _room(ray: Any, gpus: float) -> int:
    """Return how many actors the nodes have room for."""
    found = ray.cluster_resources()
    cores = int(found.get("CPU", 0))
    room = min(cores, int(found.get("GPU", 0) / gpus)) if gpus else cores
    if not room:
        wanted = f"a core and {gpus:g} GPUs" if gpus else "a core"
        raise BackendUnavailable(f"no node of Ray has {wanted}; start one, then the same command")
    return room


def _take_answers(ray: Any, work: Work, member: _Member, ready: Set[Any]) -> Iterator[Receipt]:
    """Take the answers of an actor that are there; some may say that it was lost."""
    while True:
        answered = [n for n, (reference, _) in enumerate(member.asked) if reference in ready]
        if not answered:
            return
        # It answers in order: what comes before was lost with it, and Ray does not say so.
        for _, part in member.asked[: answered[0]]:
            yield from _again(work, part, "" if member.is_lost else "the actor was started anew")
            member.is_lost = True
        reference, part = member.asked[answered[0]]
        del member.asked[: answered[0] + 1]
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            if part is None:
                raise
            # Of what is lost at once, it was at the first; the rest waited.
            why = "" if member.is_lost else first_line(error)
            yield from _again(work, part, why)
            member.is_lost = True
            if member.is_open:
                member.open()
            continue
        if isinstance(answer, Exception):
            raise answer
        member.is_lost = False
        if part is not None:
            work.finished(answer)
            yield answer


def _again(work: Work, part: Optional[Part], why: str) -> Iterator[Receipt]:
    """Give a part of a lost actor again, unless it was lost after it wrote the part."""
    receipt = part and work.scores.receipt_of(part)
    if receipt:
        work.finished(receipt)
        yield receipt
    elif part is not None and why:
        work.lost(part, why)
    elif part is not None:
        work.give_back(part)
