"""The engine of one machine: a process per core, each replaced when it is lost."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Dict, Generator, List, Optional

from ..errors import BackendRunError, FaceZooError
from ..machine import limited_cores
from ..workers import Team, Worker
from .scorer import BulkJob
from .work import Part, Receipt, Work

__all__ = ["score_locally"]


def score_locally(work: Work, job: BulkJob, processes: int) -> Generator[Receipt, None, None]:
    """Score what is left of the work; yield the receipts as parts are done.

    Parameters
    ----------
    work, job
        What to do, and with what.
    processes
        Number of processes.

    Raises
    ------
    FaceZooError, OSError
        Of a process, where the next photo would fail too: a network that fails, a full disk.
    """
    with limited_cores(1), Team(_serve, [(job,)] * processes, "spawn") as team:
        # None while a process opens the models.
        doing: Dict[Worker, Optional[Part]] = dict.fromkeys(team.workers)
        idle: List[Worker] = []
        while doing:
            ready = wait([worker.connection for worker in doing])
            for worker in [one for one in doing if one.connection in ready]:
                part = doing.pop(worker)
                try:
                    answer = worker.receive()
                except BackendRunError as error:
                    if part is None:
                        raise
                    work.lost(part, str(error))
                    doing[team.replace(worker)] = None
                    continue
                if isinstance(answer, Exception):
                    raise answer
                idle.append(worker)
                if answer is not None:
                    work.finished(answer)
                    yield answer
            # Also those that waited: the halves of a lost part are new work.
            while idle:
                part = work.take()
                if part is None:
                    break
                worker = idle.pop()
                doing[worker] = part
                with suppress(BackendRunError):  # It is lost, which the next wait sees.
                    worker.send(part)


def _serve(connection: Connection, job: BulkJob) -> None:
    try:
        scorer = job.open()
    except (FaceZooError, OSError) as error:
        connection.send(error)
        return
    connection.send(None)
    while True:
        connection.send(scorer.score(connection.recv()))
