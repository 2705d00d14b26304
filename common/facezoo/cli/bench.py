"""Measure the speed of a model in the three scenarios of MLPerf.

  single-stream  one image at a time; result: 90th percentile of the latency
  multi-stream   eight images at a time; result: 99th percentile of the latency
  offline        all images at once; result: images per second

With --sweep, only offline, over instances, threads and batch sizes. The time of a call is split
into pre-processing, network and decoding; each row runs in a new process, warmed up before the
measurement. MLPerf's rules on data sets and durations are not followed: these are not MLPerf
results.

With --advise, the builds of the same source in the workspace are compared on each installed engine
for about a minute, and the fastest one whose recorded accuracy loss is within limits is named.

  facezoo bench -m deploy_weights/official_scrfd_fp16/mod --json bench.json
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Dict, Iterator, List, Optional

from .. import __version__
from ..contract import Contract
from ..errors import BackendRunError, BackendUnavailable, InputError
from ..evaluation.speed import Job, Synthetic, Timings, Workers, parse_report
from ..files import write_json
from ..machine import describe_machine, usable_cores
from ..pipeline.load import resolve
from ..results import RawOutputs
from .options import add_output
from .vamp import SECONDS, add_job_options, job_from

__all__ = ["configure", "decode_outputs", "run"]

SCHEMA = "facezoo.bench/1"

ADVICE_SCHEMA = "facezoo.advice/1"

ROW_SECONDS, ADVICE_SECONDS = 5.0, 1.0
SWEEP_BATCHES = (1, 2, 4, 8)

# The vendor's vamp gets a number of calls, since the meaning of its -t is not documented.
VENDOR_ITERATIONS = 256


@dataclass(frozen=True)
class Scenario:
    """Settings of a scenario, and its result metric."""

    name: str
    counts: str
    instances: int
    threads: int
    batch: int


def scenarios() -> List[Scenario]:
    """Return the three scenarios with settings for this machine."""
    cores = usable_cores()
    # source: mlcommons/inference_policies@848b9ab inference_rules.adoc, section Scenarios
    return [
        Scenario("single-stream", "p90", 1, cores, 1),
        Scenario("multi-stream", "p99", 1, cores, 8),
        Scenario("offline", "images_per_s", cores, 1, 1),
    ]


def sweep() -> Iterator[Scenario]:
    """Yield offline scenarios over instances and threads that fit the cores, and batch sizes."""
    cores = usable_cores()
    counts = sorted({1 << power for power in range(cores.bit_length())} | {cores})
    for instances in counts:
        for threads in counts:
            for batch in SWEEP_BATCHES:
                if instances * threads <= cores:
                    yield Scenario("offline", "images_per_s", instances, threads, batch)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_job_options(parser)
    group = parser.add_argument_group("work")
    what = group.add_mutually_exclusive_group()
    what.add_argument(
        "--sweep", action="store_true", help="sweep instances, threads and batch sizes"
    )
    what.add_argument(
        "--advise",
        action="store_true",
        help="compare the builds beside PREFIX and name the one to choose on this machine",
    )
    group.add_argument(
        "-t",
        type=SECONDS,
        metavar="SECONDS",
        help="duration of each row in seconds (default: 5; 1 with --advise)",
    )
    add_output(group, "--json", metavar="F", help="also write the numbers to this JSON file")
    group.add_argument(
        "--vamp", metavar="COMMAND", help="vendor's vamp command to measure with, instead of ours"
    )


def run(args: argparse.Namespace) -> int:
    """Measure row by row, print each row when it is finished, and write the JSON."""
    # The vendor's vamp accepts only prefixes; here any model can be measured.
    args.model, engine = resolve(args.model)
    args.engine = engine or args.engine
    job = job_from(args, decode=decode_outputs)
    if args.advise:
        return _advise(args, job)
    seconds = args.t or ROW_SECONDS
    rows: List[Dict[str, Any]] = []
    report: Dict[str, Any] = {"schema": SCHEMA, "tool": args.vamp or f"facezoo {__version__}"}
    print(_HEADER)
    for scenario in sweep() if args.sweep else scenarios():
        if args.vamp:
            row = _measure_theirs(args.vamp, job, scenario)
        else:
            # Messages of the engine are shown only once.
            prog = "" if rows else "facezoo bench"
            row = _measure_ours(job, scenario, seconds, prog, report)
        rows.append(row)
        print(_format_row(row), flush=True)
    if args.sweep:
        best = max(rows, key=lambda row: float(row["images_per_s"]))
        print(
            f"fastest: {best['instances']} instances, {best['threads']} threads each, batch "
            f"{best['batch']}: {best['images_per_s']:.1f} images/s"
        )
    if args.json:
        content = {**report, "machine": describe_machine(), "model": str(args.model), "rows": rows}
        write_json(args.json, content, indent=2)
    return 0


def _advise(args: argparse.Namespace, job: Job) -> int:
    """Compare builds, print each with its speed, and name the fastest."""
    # Imported here because it takes most of the command's start.
    from ..compiler.advice import find_candidates, measure_candidates

    if args.vamp:
        raise InputError("--advise measures the engines of this machine; omit --vamp")
    candidates, left_out = find_candidates(args.model, args.engine)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    if not candidates:
        raise InputError(f"no build beside {str(args.model)!r} can be chosen; see above")
    speeds = measure_candidates(job, candidates, args.t or ADVICE_SECONDS)
    rows: List[Dict[str, Any]] = [
        {
            "build": one.artifact.name,
            "engine": one.engine,
            "gate": one.gate,
            "ms": speed.milliseconds,
            "images_per_s": speed.images_per_s,
        }
        for one, speed in zip(candidates, speeds)
    ]
    width = max(len(one.artifact.name) for one in candidates)
    for row in rows:
        print(
            f"{row['build']:{width}}  {row['engine']:8}  {row['ms']:8.2f} ms"
            f"{row['images_per_s']:10.1f} images/s  {row['gate']}"
        )
    if args.json:
        content = {"machine": describe_machine(), "rows": rows, "left_out": left_out}
        write_json(args.json, {"schema": ADVICE_SCHEMA, **content}, indent=2)
    quickest = min(rows, key=lambda row: row["ms"])
    busiest = max(rows, key=lambda row: row["images_per_s"])
    for row, work in ((quickest, "one image at a time"), (busiest, "many images")):
        print(f"fastest for {work}: {row['build']} with --engine {row['engine']}")
    return 0


def decode_outputs(contract: Contract, raw: RawOutputs) -> Any:
    """Decode with the decoder of the model and the constants of the contract."""
    decoder = import_module(f"facezoo.models.{contract.model}.decode")
    return decoder.decode(raw, **contract.decode)


def _measure_ours(
    job: Job, scenario: Scenario, seconds: float, prog: str, report: Dict[str, Any]
) -> Dict[str, Any]:
    job = replace(job, instances=scenario.instances, threads=scenario.threads, batch=scenario.batch)
    with Workers(job, prog) as workers:
        measured = Timings.of(workers.run_synthetic(Synthetic(seconds=seconds)))
        facts = workers.facts
        report.update(facts.settings, card=facts.contract.card_id, dtype=facts.dtype)
    latency = {name: float(value) for name, value in measured.latency_us().items()}
    per_picture = measured.pictures * 1000
    stages = {
        "pre": measured.pre / per_picture if facts.splits else None,
        "infer": measured.infer / per_picture,
        "post": measured.post / per_picture,
        "total": sum(measured.latencies) / per_picture,
    }
    return _row(
        scenario,
        measured.rate,
        latency,
        stages,
        cpu=workers.cpu * 1e6 / measured.pictures,
        peak=workers.peak / 1e6 if workers.peak else None,
    )


def _measure_theirs(vamp: str, job: Job, scenario: Scenario) -> Dict[str, Any]:
    try:
        command = [*shlex.split(vamp), "-m", str(job.model)]
    except ValueError as error:
        raise InputError(f"--vamp {vamp!r} is not a valid shell command: {error}") from error
    if job.vdsp is not None:
        command += ["--vdsp_params", str(job.vdsp)]
    if job.picture_hw is not None:
        command += ["-s", "[3,{},{}]".format(*job.picture_hw)]
    command += ["-i", str(scenario.instances), "-p", "1", "-b", str(scenario.batch)]
    command += ["-d", str(job.device_id), "--iterations", str(VENDOR_ITERATIONS)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BackendUnavailable(f"{vamp!r} cannot be started: {error.strerror}") from error
    if ran.returncode:
        raise BackendRunError(
            f"{shlex.join(command)!r} ended with {ran.returncode}: {ran.stderr.strip()[-300:]!r}"
        )
    numbers = parse_report(ran.stdout)
    # The number of threads of another tool is unknown.
    scenario = replace(scenario, threads=0)
    rate = numbers.pop("qps")
    return _row(scenario, rate, numbers, dict.fromkeys(("pre", "infer", "post", "total")))


def _row(
    scenario: Scenario,
    rate: float,
    latency_us: Dict[str, float],
    stages_us: Dict[str, Optional[float]],
    cpu: Optional[float] = None,
    peak: Optional[float] = None,
) -> Dict[str, Any]:
    return {
        "scenario": scenario.name,
        "instances": scenario.instances,
        "threads": scenario.threads or None,
        "batch": scenario.batch,
        "metric": scenario.counts,
        "images_per_s": rate,
        "latency_us": latency_us,
        "stages_us_per_image": stages_us,
        "cpu_us_per_image": cpu,
        "peak_mb": peak,
    }


# Latency of a call; times of the stages and of the CPU per image.
_HEADER = (
    f"{'':23}{'call, ms':>25}{'one image, ms':>32}\n"
    f"{'scenario':13} inst thr bat"
    + "".join(f"{name:>8}" for name in ("p50", "p90", "p99", "pre", "infer", "post", "cpu", "MB"))
    + f"{'images/s':>10}"
)


def _format_row(row: Dict[str, Any]) -> str:
    latency, stages = row["latency_us"], row["stages_us_per_image"]
    times = [latency.get(name) for name in ("p50", "p90", "p99")]
    times += [stages[name] for name in ("pre", "infer", "post")] + [row["cpu_us_per_image"]]
    shown = "".join(_cell(None if value is None else value / 1000, 2) for value in times)
    counts = f"{row['instances']:4} {row['threads'] or '-':>3} {row['batch']:3}"
    rate = f"{row['images_per_s']:10.1f}"
    return f"{row['scenario']:13} {counts}{shown}{_cell(row['peak_mb'], 0)}{rate}"


def _cell(value: Optional[float], digits: int) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.{digits}f}"
