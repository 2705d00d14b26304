"""Measure the speed of a compiled model, or run it over a list of npz files, like vamp.

Without --datalist it measures on synthetic images; with --datalist and --path_output it runs every
file and writes output_000000.npz and so on, one per line. Each of --processes runs --instance
instances of the model with batches of --batch_size images. The flags are the vendor's except
--engine, --threads, --allow-saturation, --overwrite and --verbose. Resumable: run the same
command again.

  facezoo vamp -m deploy_weights/official_scrfd_fp16/mod -i 2 -p 1 -b 4 -s [3,640,640]
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from .. import models
from ..backends import ENGINES
from ..errors import InputError
from ..evaluation.speed import Job, Line, Synthetic, Timings, Workers, format_report
from ..fields import DEVICE_ID, SIDE, number, whole
from ..files import check_room, counted
from ..pipeline.load import warn_of_differences
from ..runs import Inputs, RunFolder
from ..vacc import npz, outputs
from . import flags
from .options import (
    BATCH_SIZE,
    add_flag,
    add_saturation_option,
    add_threads_option,
    progress,
)

__all__ = ["SECONDS", "configure", "picture_hw", "run"]

DEFAULT_SECONDS = 10.0
SECONDS = number(0, 86400, without_low=True)
COUNT = whole(1, 1024)

# Flags that only the vendor's tool supports.
VENDORS_OWN = {
    "backend": "selects one of the vendor's runtimes; use --engine here",
    "hwconfig": "configures the device",
    "dtype": "is for inputs that are not images",
}

_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_job_options(parser)
    counts = parser.add_argument_group("work")
    # A list, since the vendor's documents contain "-i 1 p 1".
    counts.add_argument(
        "-i", "--instance", nargs="+", metavar="N", help="instances per process (default: 1)"
    )
    counts.add_argument(
        "-p", "--processes", type=COUNT, metavar="N", help="number of processes (default: 1)"
    )
    add_flag(
        counts,
        "-b",
        "--batch_size",
        type=BATCH_SIZE,
        default=1,
        metavar="N",
        help="images per call",
    )
    counts.add_argument(
        "--iterations",
        type=whole(1, 10**9),
        metavar="N",
        help="number of synthetic calls, over all instances",
    )
    counts.add_argument(
        "-t",
        type=SECONDS,
        metavar="SECONDS",
        help="duration of synthetic calls (default: 10)",
    )
    add_flag(
        counts,
        "--forward_mode",
        type=whole(0, 1),
        default=0,
        help="1: synchronous calls, for the lowest latency; always the case here",
    )
    files = parser.add_argument_group("list")
    files.add_argument(
        "--datalist", nargs="+", metavar="TXT", help="list of npz files, one per line"
    )
    add_flag(files, "--path_output", type=Path, metavar="DIR", help="output folder of npz files")
    flags.add(files, "--overwrite")
    card = parser.add_argument_group("only with the vendor's vamp")
    for name, why in VENDORS_OWN.items():
        card.add_argument(f"--{name}", metavar="X", help=why)


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the model and its runtime."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m",
        dest="model",
        required=True,
        type=Path,
        metavar="PREFIX",
        help="artifact prefix or .onnx of the model",
    )
    add_flag(
        group,
        "--vdsp_params",
        type=Path,
        metavar="JSON",
        help="vdsp_params file of the pre-processing (default: that of the model)",
    )
    group.add_argument(
        "--engine", choices=ENGINES, default="auto", help="runtime that executes the network"
    )
    add_saturation_option(group)
    add_threads_option(group)
    group.add_argument("-d", dest="device_id", type=DEVICE_ID, default=0, help="device number")
    group.add_argument(
        "-s",
        "--shape",
        type=picture_hw,
        metavar="[C,H,W]",
        help="shape of synthetic images (default: the model's input)",
    )


def job_from(args: argparse.Namespace, **counts: Any) -> Job:
    """Create a job from the flags of :func:`add_job_options`."""
    return Job(
        model=args.model,
        vdsp=args.vdsp_params,
        engine=args.engine,
        device_id=args.device_id,
        cards=tuple(models.CARDS.values()),
        picture_hw=args.shape,
        allow_saturation=args.allow_saturation,
        **counts,
    )


def run(args: argparse.Namespace) -> int:
    """Measure the speed, or run a list, and print the report."""
    for name, why in VENDORS_OWN.items():
        if getattr(args, name) is not None:
            raise InputError(f"--{name} {why}; it needs the vendor's vamp, so omit it")
    instances, processes = _instances_and_processes(args.instance or ["1"], args.processes)
    job = job_from(args, processes=processes, instances=instances, batch=args.batch_size)
    datalist = _datalist(args.datalist, args.path_output)
    if datalist is None:
        return _measure(job, args.iterations, args.t)
    return _run_list(job, datalist, args.path_output, args.overwrite)


def _measure(job: Job, iterations: Optional[int], seconds: Optional[float]) -> int:
    if iterations is None and seconds is None:
        seconds = DEFAULT_SECONDS
    much = counted(iterations or 0, "run") if seconds is None else f"{seconds:g} s"
    loaded = counted(job.instances * job.processes, "instance")
    _log.info("loading %s, then %s with batches of %d", loaded, much, job.batch)
    with Workers(job) as workers:
        batches = workers.run_synthetic(Synthetic(iterations, seconds))
        measured = Timings.of(progress(batches, iterations))
    print(format_report(job, measured))
    return 0


@dataclasses.dataclass(frozen=True)
class _Written:
    """An output file in the journal."""

    sha256: str

    def to_dict(self) -> Dict[str, Any]:
        return {"sha256": self.sha256}


def _run_list(job: Job, datalist: Path, output: Path, overwrite: bool) -> int:
    paths = npz.read_datalist(datalist)
    names = [outputs.output_name(index) for index in range(len(paths))]
    hashes = npz.recorded_hashes(datalist)
    lines = [Line(*line) for line in zip(paths, hashes, [output / name for name in names])]
    measured = Timings()

    def write(left: Sequence[Line]) -> Iterator[_Written]:
        first = len(lines) - len(left)
        for batch in workers.run_lines(lines, first=first):
            if not measured.pictures:
                # All outputs are as large as the first.
                check_room(output, lines[first].output.stat().st_size * (len(left) - 1), "outputs")
            measured.add(batch)
            for _, sha256 in batch.outputs:
                yield _Written(sha256)

    def finish(run: RunFolder) -> None:
        facts = workers.facts
        head = outputs.index_head(facts.contract, facts.dtype, datalist, facts.settings)
        run.write_items(outputs.INDEX_FILE, outputs.INDEX_SCHEMA, key="outputs", head=head)

    with Workers(job) as workers, RunFolder(
        output,
        command="vamp",
        settings=workers.facts.settings,
        inputs=Inputs(paths, [str(path) for path in paths], datalist, job.model, job.vdsp),
        overwrite=overwrite,
    ) as folder:
        warn_of_differences(workers.facts.contract, str(job.model))
        counts = folder.process(
            names,
            lines,
            write,
            finish=finish,
            files_of=lambda name: [output / name],
            progress=progress,
        )
    if measured.pictures:
        print(format_report(job, measured))
    kept = f", {counts.kept} kept from an earlier run" if counts.kept else ""
    print(f"{counted(len(lines), 'output')}{kept}; in {output}")
    return 0


def _instances_and_processes(instance: Sequence[str], processes: Optional[int]) -> Tuple[int, int]:
    """Parse ``-i 1`` and also ``-i 1 p 1``, which is common in the vendor's documents."""
    number, *stray = instance
    try:
        instances = COUNT(number)
        if len(stray) == 2 and stray[0] == "p" and processes is None:
            processes = COUNT(stray[1])
            _log.warning("'p %s' without a dash is read as '-p %s'", stray[1], stray[1])
            stray = []
    except argparse.ArgumentTypeError as error:
        raise InputError(f"-i {' '.join(instance)}: {error}") from error
    if stray:
        raise InputError(f"-i {' '.join(instance)} has more than one number; expected -i {number}")
    return instances, processes or 1


def _datalist(datalist: Optional[List[str]], output: Optional[Path]) -> Optional[Path]:
    if datalist is None and output is None:
        return None
    if datalist is None or output is None:
        given, other = ("--path_output", "--datalist")[:: 1 if datalist is None else -1]
        raise InputError(f"{given} is given without {other}; expected both, or neither to measure")
    if len(datalist) > 1:
        raise InputError(
            f"--datalist has {len(datalist)} values ({' '.join(datalist)}), but outputs are "
            "numbered by the lines of one list; run vamp once per list, or join them"
        )
    return Path(datalist[0])


def picture_hw(text: str) -> Tuple[int, int]:
    """Parse ``[3,640,640]`` or ``3,640,640``."""
    sizes = text.strip().strip("[]").split(",")
    kinds = (whole(3, 3), SIDE, SIDE)
    try:
        if len(sizes) != len(kinds):
            raise ValueError(sizes)
        _, height, width = (kind(size) for kind, size in zip(kinds, sizes))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(
            f"is {text!r}; expected channels, height and width of an image such as [3,640,640], "
            f"with 3 channels and sides of {SIDE.expected}"
        ) from error
    return height, width
