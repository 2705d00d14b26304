"""Which build to choose on this machine: the fastest whose recorded loss is within its limits.

The accuracy gate recorded with a build counts only for the arithmetic it was measured with: an int8
build with full-range weights is left out where 8-bit sums saturate. The fp32 build is the
reference of every gate, so it has no loss.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from ..artifact import PORTABLE, Artifact, BuildInfo, read_artifact
from ..backends import HOSTS
from ..backends.int8 import saturates
from ..errors import UNREADABLE, InputError
from ..evaluation.speed import Job, Synthetic, Timings, Workers
from ..files import counted
from ..machine import usable_cores
from .gate import Check

__all__ = ["Candidate", "Speed", "find_candidates", "measure_candidates"]

# Further rounds are begun while one fits into this time.
BUDGET_SECONDS = 60.0


@dataclass(frozen=True)
class Candidate:
    """A build on an engine of this machine.

    Attributes
    ----------
    artifact, engine
        The build and the engine.
    gate
        What the record says about its loss, in words.
    """

    artifact: Artifact
    engine: str
    gate: str


@dataclass(frozen=True)
class Speed:
    """The best of all rounds.

    Attributes
    ----------
    milliseconds
        Median time for one image, one at a time on all cores.
    images_per_s
        With one instance per core.
    """

    milliseconds: float
    images_per_s: float


def find_candidates(prefix: Path, engine: str = "auto") -> Tuple[List[Candidate], Dict[str, str]]:
    """Find the builds of one source in a workspace, and judge their recorded losses.

    Parameters
    ----------
    prefix
        Prefix of one build; the others are those beside it made from the same file.
    engine
        The only engine to consider; all installed ones of the host if ``auto``.

    Returns
    -------
    candidates : list of Candidate
        In the order of names; each build on each engine.
    left_out : dict of str to str
        Name, with the engine where it matters, to the reason.

    Raises
    ------
    InputError
        If the prefix is not a build of ours, or the engine is not one of the host.
    """
    if prefix.suffix == ".onnx":
        raise InputError(
            f"{str(prefix)!r} is not a build: give the prefix of one, such as "
            "deploy_weights/NAME/mod, so that it is compared with those beside it"
        )
    first = read_artifact(prefix)
    if first.build is None:
        raise InputError(f"{str(prefix)!r} was built for the device only; nothing to compare here")
    if engine not in ("auto", *HOSTS):
        raise InputError(f"engine {engine!r} is not compared; expected one of {', '.join(HOSTS)}")
    engines = [name for name in HOSTS if engine in ("auto", name)]
    installed = [name for name in engines if find_spec(HOSTS[name].package) is not None]
    left_out = {name: "not installed" for name in engines if name not in installed}
    found = []
    for artifact in _beside(first):
        build = artifact.build
        if build is None or build.source_sha256 != first.build.source_sha256:
            continue
        passed, gate = _judge(build)
        if not passed:
            left_out[artifact.name] = gate
            continue
        for name in installed:
            if _has_other_sums(build, name):
                left_out[f"{artifact.name} on {name}"] = (
                    "full-range int8 weights, whose loss was not recorded for a CPU where 8-bit "
                    "sums saturate; compile with --arithmetic portable"
                )
            else:
                found.append(Candidate(artifact, name, gate))
    return found, left_out


def _beside(first: Artifact) -> Sequence[Artifact]:
    """Return all builds of ours in the workspace of one, by name."""
    workspace = first.prefix.parent.parent
    names = sorted(workspace.glob(f"*/{first.prefix.name}.build.json"))
    return [read_artifact(path.with_name(first.prefix.name)) for path in names]


def _judge(build: BuildInfo) -> Tuple[bool, str]:
    """Return whether the recorded loss is within the limits, and what to say about it."""
    if build.dtype == "fp32":
        return True, "the reference"
    if build.gate is None:
        return False, "no loss recorded; compile it with images: facezoo compile --images DIR"
    try:
        measured, limits = build.gate["measured"], build.gate["limits"]
        checks = [Check(name, measured[name], limit) for name, limit in limits.items()]
        failed = [str(check) for check in checks if not check.passed]
        seen = counted(build.gate["pictures"], "image")
        seen += "" if build.gate["held_out"] else ", also calibrated on"
    except UNREADABLE as error:
        return False, f"its recorded loss cannot be read ({error!r}); compile it again"
    if failed or not checks:
        return False, f"recorded loss beyond its limits: {'; '.join(failed) or 'no limits'}"
    return True, f"within limits on {seen}"


def _has_other_sums(build: BuildInfo, engine: str) -> bool:
    """Return whether the engine would add int8 products otherwise than the recorded gate did."""
    if build.dtype != "int8" or build.int8_weights == PORTABLE:
        return False
    return saturates(getattr(import_module(f"facezoo.backends.{engine}"), HOSTS[engine].backend))


def measure_candidates(
    job: Job, candidates: Sequence[Candidate], seconds: float = 1.0
) -> List[Speed]:
    """Measure candidates in turns for about a minute, each row in new processes.

    Parameters
    ----------
    job
        Settings of the runs but model, engine, instances and threads.
    candidates
        See :func:`find_candidates`.
    seconds
        Duration of a measurement; every candidate is measured at least once in both ways.

    Returns
    -------
    list of Speed
        One per candidate: the best of the rounds, which other programs have disturbed least.
    """
    cores = usable_cores()
    started = time.monotonic()
    best = [Speed(float("inf"), 0.0) for _ in candidates]
    while True:
        round_began = time.monotonic()
        for index, one in enumerate(candidates):
            its = replace(job, model=one.artifact.prefix, engine=one.engine)
            alone = _measure(replace(its, instances=1, threads=cores), seconds)
            many = _measure(replace(its, instances=cores, threads=1), seconds)
            milliseconds = float(alone.latency_us()["p50"]) / 1000
            best[index] = Speed(
                min(best[index].milliseconds, milliseconds),
                max(best[index].images_per_s, many.rate),
            )
        now = time.monotonic()
        if 2 * now - round_began - started > BUDGET_SECONDS:
            return best


def _measure(job: Job, seconds: float) -> Any:
    with Workers(job, prog="") as workers:
        return Timings.of(workers.run_synthetic(Synthetic(seconds=seconds)))
