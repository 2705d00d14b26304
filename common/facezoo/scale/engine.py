"""Score what is left of a bulk run, on any engine; what the command ``facezoo score run`` does."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import Callable, Generator

from ..machine import usable_cores
from .local import score_locally
from .scorer import BulkJob
from .work import Receipt, Scores, Share, Work, holding

__all__ = ["Engine", "score_run"]


@dataclass(frozen=True)
class Engine:
    """Where parts are scored.

    Attributes
    ----------
    name
        ``local``: processes of this machine, one per usable core; or ``ray``.
    address
        HOST:PORT of a cluster of Ray; "" starts one on this machine.
    share
        Shards to score.
    gpus
        GPUs of each actor of Ray.
    """

    name: str = "local"
    address: str = ""
    share: Share = field(default_factory=Share)
    gpus: float = 0.0


def score_run(
    job: BulkJob,
    engine: Engine,
    *,
    again: bool = False,
    visit: Callable[[Work], None] = lambda work: None,
) -> Work:
    """Score what is left of a run.

    Parameters
    ----------
    job
        The run and the chain.
    engine
        Where.
    again
        Also score the parts again that have photos without a result.
    visit
        Called at the start and after each part, to show progress.

    Returns
    -------
    Work
        With the counts of what is done.

    Raises
    ------
    RunFolderError
        If another start is at work on the run.
    FaceZooError, OSError
        Where the next photo would fail too; the same call finishes the rest.
    """
    with holding(job.run, engine.share):
        scores = Scores(job.run, job.identity)
        alone = engine.share.count == 1
        if alone:
            scores.clean()
        work = Work(scores, engine.share, again)
        visit(work)
        try:
            # Closed here, so that an interruption ends the processes before the run is free.
            with closing(_receipts(work, job, engine)) as receipts:
                for _ in receipts:
                    visit(work)
        finally:
            if alone:
                scores.remove_temporary()
        if alone:
            scores.clean()
    return work


def _receipts(work: Work, job: BulkJob, engine: Engine) -> Generator[Receipt, None, None]:
    if work.kept == work.photos:
        return
    if engine.name == "ray":
        # Imported here, since other engines do not need Ray.
        from .on_ray import score_on_ray

        yield from score_on_ray(work, job, engine.address, engine.gpus)
    else:
        yield from score_locally(work, job, usable_cores())
