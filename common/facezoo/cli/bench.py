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

  facezoo bench --model deploy_weights/official_scrfd_fp16/mod --json bench.json
"""

from __future__ import annotations

import argparse
import logging
import shlex
import subprocess
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Dict, Iterator, List, Optional

from .. import __version__, models
from ..contract import Contract
from ..errors import BackendRunError, BackendUnavailable, InputError
from ..evaluation.speed import Job, Synthetic, Timings, Workers, parse_report
from ..files import counted
from ..machine import describe_machine, usable_cores
from ..pipeline.load import resolve
from ..results import RawOutputs
from . import flags
from .outputs import write_report
from .vamp import SECONDS, picture_hw

__all__ = ["configure", "decode_outputs", "run"]

_log = logging.getLogger(__name__)

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
    group = parser.add_argument_group("model")
    flags.add(group, "--model", required=True, old=("-m",))
    flags.add(group, "--vdsp", old=("--vdsp_params",))
    flags.add(group, "--engine", "runtime; one after @ in the name of a model comes first")
    flags.add(group, "--device", old=("-d",))
    flags.add(group, "--allow-saturation")
    flags.add(group, "--threads")
    work = parser.add_argument_group("work")
    flags.add(
        work,
        "--shape",
        "shape of synthetic images (default: the model's input)",
        type=picture_hw,
        metavar="[C,H,W]",
        old=("-s",),
    )
    what = work.add_mutually_exclusive_group()
    flags.add(what, "--sweep", "sweep instances, threads and batch sizes", action="store_true")
    flags.add(
        what,
        "--advise",
        "compare the builds beside MODEL and name the one to choose on this machine",
        action="store_true",
    )
    flags.add(
        work,
        "--seconds",
        "duration of each row in seconds (default: 5; 1 with --advise)",
        type=SECONDS,
        metavar="SECONDS",
        old=("-t",),
    )
    flags.add(
        work,
        "--vamp",
        "vendor's vamp command to measure with (default: ours)",
        metavar="COMMAND",
    )
    flags.add(work, "--json", "write the numbers as JSON; - is the standard output")


def run(args: argparse.Namespace) -> int:
    """Measure row by row, print each row when it is finished, and write the JSON."""
    # The vendor's vamp accepts only prefixes; here any model can be measured.
    model, engine = resolve(args.model)
    job = Job(
        model=model,
        vdsp=args.vdsp,
        engine=engine or args.engine,
        device_id=args.device,
        cards=tuple(models.CARDS.values()),
        picture_hw=args.shape,
        allow_saturation=args.allow_saturation,
        decode=decode_outputs,
    )
    if args.advise:
        return _advise(args, job)
    seconds = args.seconds or ROW_SECONDS
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
        content = {**report, "machine": describe_machine(), "model": str(model), "rows": rows}
        write_report(args.json, content, indent=2)
    return 0


def _advise(args: argparse.Namespace, job: Job) -> int:
    """Compare builds, print each with its speed, and name the fastest."""
    # Imported here because it takes most of the command's start.
    from ..compiler.advice import find_candidates, measure_candidates

    if args.vamp:
        raise InputError("--advise measures the engines of this machine; omit --vamp")
    candidates, left_out = find_candidates(job.model, job.engine)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    if not candidates:
        raise InputError(f"no build beside {str(job.model)!r} can be chosen; see above")
    _log.info("measuring %s for about a minute", counted(len(candidates), "build"))
    speeds = measure_candidates(job, candidates, args.seconds or ADVICE_SECONDS)
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
        write_report(args.json, {"schema": ADVICE_SCHEMA, **content}, indent=2)
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
