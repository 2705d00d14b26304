r"""Score more photos than one machine can: a manifest cut into shards, results as Parquet.

  facezoo score manifest photos --to run
  facezoo score run run --embedder w600k_mbf
  facezoo score run run --embedder w600k_mbf --on ray:10.0.0.1:6379
  facezoo score run run --embedder w600k_mbf --on shard:3/16
  facezoo score status run
  facezoo score check run
  facezoo score merge run --output tables

The stages are those of facezoo predict, and so are the results. A run that was stopped, or whose
machines were lost, is finished by the same command; other models or limits write beside. The
folder of the run must be on a disk that all machines share.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

from ..errors import InputError
from ..fields import number, whole
from ..runs import Inputs
from . import flags
from .inputs import stdin_lines
from .options import EXIT_SOME_REFUSED, showing, steps_of
from .predict import add_stage_options

if TYPE_CHECKING:
    from ..scale.outcome import Progress
    from ..scale.work import Scores, Work

__all__ = ["configure", "run"]

WATCH_SECONDS = 2.0
PROBLEMS_SHOWN = 20

_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the steps."""
    step_of = steps_of(parser, _STEPS)

    def add(name: str, help: str) -> argparse.ArgumentParser:
        step = step_of(name, help)
        if name != "manifest":
            step.add_argument("folder", type=Path, metavar="RUN", help="folder of the manifest")
        return step

    _add_manifest(add("manifest", "list the photos and cut the list into shards"))
    _add_run(add("run", "score what is left, here or on other machines"))
    status = add("status", "show progress, rate, time left, failures")
    status.add_argument("--watch", action="store_true", help="follow it until it is finished")
    check = add("check", "check that every photo is there once, and remove temporary files")
    merge = add("merge", "write all results as one table of faces and one of photos")
    flags.add(merge, "--output", "folder of the tables", type=Path, metavar="DIR", required=True)
    merge.add_argument(
        "--photos-per-file",
        type=whole(1, 1 << 40),
        metavar="N",
        help="write folders of numbered files, each of so many photos (default: one file)",
    )
    for step in (status, check, merge):
        step.add_argument(
            "--settings",
            metavar="ID",
            help="beginning of one of the names that status lists (default: the only one)",
        )


def _add_manifest(step: argparse.ArgumentParser) -> None:
    step.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTOS",
        help="photos, folders, addresses such as s3://bucket/photos, tables (.parquet, .csv), or "
        "- for a list on standard input",
    )
    flags.add(step, "--to", "folder of the run", required=True)
    step.add_argument("--column", default="path", metavar="NAME", help="addresses in a table")
    shards = step.add_argument_group("a shard ends at")
    shards.add_argument(
        "--shard-bytes", type=whole(1, 1 << 50), default=128 << 20, metavar="N", help="bytes"
    )
    shards.add_argument(
        "--shard-count", type=whole(1, 1 << 16), default=1 << 16, metavar="N", help="photos"
    )


def _add_run(step: argparse.ArgumentParser) -> None:
    step.add_argument(
        "--on",
        type=_engine,
        default="local",
        metavar="ENGINE",
        help="local; ray, started here, or ray:HOST:PORT of a cluster; or shard:I/N, the part "
        "number I of N, from 0, here",
    )
    step.add_argument(
        "--num-gpus",
        type=number(0, 64),
        default=0.0,
        metavar="X",
        help="GPUs of each Ray actor, together with --provider",
    )
    step.add_argument(
        "--photo-seconds",
        type=number(1, 86400),
        default=120.0,
        metavar="X",
        help="a photo that takes longer ends its process",
    )
    step.add_argument(
        "--embedding-dtype",
        choices=("float32", "float16"),
        default="float32",
        help="type of the embeddings in the tables",
    )
    step.add_argument(
        "--retry-failed", action="store_true", help="score parts with failed photos again"
    )
    add_stage_options(step)


@dataclass(frozen=True)
class _Engine:
    name: str
    address: str = ""
    index: int = 0
    count: int = 1


def _engine(text: str) -> _Engine:
    share = re.fullmatch(r"shard:(\d{1,9})/(\d{1,9})", text)
    if share and int(share[1]) < int(share[2]):
        return _Engine("local", "", int(share[1]), int(share[2]))
    if text in ("local", "ray"):
        return _Engine(text)
    ray = re.fullmatch(r"ray:(\S+:\d{1,5})", text)
    if ray:
        return _Engine("ray", ray[1])
    raise argparse.ArgumentTypeError(
        f"{text!r} is not an engine; expected local, ray, ray:HOST:PORT, or shard:I/N with I from "
        "0 to N - 1"
    )


def run(args: argparse.Namespace) -> int:
    """Do one step."""
    return int(args.run_step(args))


def _manifest(args: argparse.Namespace) -> int:
    from ..scale.manifest import Cut, Sources, find_photos, write_manifest

    Inputs([Path(one) for one in args.photos], ()).refuse_in(args.to)
    sources = Sources(args.photos, args.column, stdin_lines())
    cut = Cut(args.shard_bytes, args.shard_count)
    made = write_manifest(args.to, sources.root, find_photos(sources), cut)
    twice = f", {made['duplicates']} named twice" if made["duplicates"] else ""
    print(
        f"{made['photos']} photos{twice}, {made['size'] / 1e6:.1f} MB in {made['shards']} shards; "
        f"manifest in {args.to}"
    )
    return 0


def _run(args: argparse.Namespace) -> int:
    from ..scale.engine import Engine, score_run
    from ..scale.scorer import BulkJob
    from ..scale.tables import columns_of
    from ..scale.work import Scores, Share
    from .predict.work import open_predictor

    with open_predictor(args, threads=1) as model:
        columns = columns_of(model, args.embedding_dtype)
        scores = Scores.create(args.folder, model.settings(), columns)
        chain = pickle.dumps(model)
    job = BulkJob(args.folder.absolute(), scores.identity, chain, args.photo_seconds)
    share = Share(args.on.index, args.on.count)
    engine = Engine(args.on.name, args.on.address, share, args.num_gpus)
    with showing() as show:
        started = time.monotonic()
        work = score_run(
            job,
            engine,
            again=args.retry_failed,
            visit=lambda work: show(work.done, work.photos),
        )
        seconds = time.monotonic() - started
    return _report(scores, work, seconds)


def _report(scores: Scores, work: Work, seconds: float) -> int:
    failed = {name: count for name, count in work.counts.items() if name != "scored" and count}
    new = work.photos - work.kept
    kept = f", {work.kept} kept from an earlier start" if work.kept else ""
    rate = f", {new / seconds:.1f} images/s" if new else ""
    said = "".join(f", {count} {name}" for name, count in failed.items())
    print(f"{work.photos} photos{kept}{said}{rate}; settings {scores.identity}")
    if failed:
        _name_failures(scores)
    return EXIT_SOME_REFUSED if failed else 0


def _name_failures(scores: Scores) -> None:
    from ..scale.outcome import failures

    for photo, error in islice(failures(scores), PROBLEMS_SHOWN):
        _log.warning("refused: %r %s", photo, error)


def _status(args: argparse.Namespace) -> int:
    from ..scale.outcome import progress_of
    from ..scale.work import find_scores

    found = find_scores(args.folder, args.settings or "")
    if not found:
        print("nothing is scored yet: facezoo score run")
        return 0
    if args.watch:
        _watch(found[-1])
    for scores in found:
        now = progress_of(scores)
        print("\n".join(_lines(scores, now)))
        if _failed(now):
            _name_failures(scores)
    return 0


def _watch(scores: Scores) -> None:
    from ..scale.outcome import progress_of

    with showing() as show:
        while True:
            now = progress_of(scores)
            note = f"{now.rate:.1f} img/s lately, {_failed(now)} failed"
            show(now.done, now.photos, note)
            if now.done == now.photos:
                return
            time.sleep(WATCH_SECONDS)


def _lines(scores: Scores, now: Progress) -> List[str]:
    models = {name: one["model"] for name, one in scores.settings.items() if _is_model(one)}
    lines = [
        f"settings {scores.identity}: "
        + ", ".join(f"{stage} {name}" for stage, name in models.items()),
        f"  {now.done} of {now.photos} photos, {now.parts_left} parts left, {now.faces} faces",
    ]
    if now.seconds:
        lines.append(f"  {now.done / now.seconds:.2f} photos/s per process, {now.rate:.1f} lately")
    if now.eta:
        lines.append(f"  about {now.eta / 60:.0f} minutes left")
    for name, count in now.counts.items():
        if name != "scored" and count:
            lines.append(f"  {count} {name}")
    if now.lost:
        lines.append(f"  processes lost: {now.lost}")
    if len(now.hosts) > 1:
        lines.append("  " + ", ".join(f"{host} {count}" for host, count in now.hosts.items()))
    return lines


def _is_model(settings: Any) -> bool:
    return isinstance(settings, dict) and "model" in settings


def _failed(now: Progress) -> int:
    return sum(count for name, count in now.counts.items() if name != "scored")


def _one_of(args: argparse.Namespace) -> Scores:
    from ..scale.work import find_scores

    found = find_scores(args.folder, args.settings or "")
    if len(found) != 1:
        names = ", ".join(scores.identity for scores in found) or "none; run facezoo score run"
        raise InputError(f"{str(args.folder)!r}: which settings? --settings is one of {names}")
    return found[0]


def _check(args: argparse.Namespace) -> int:
    from ..scale.outcome import check
    from ..scale.work import holding

    scores = _one_of(args)
    count = 0
    with holding(args.folder):
        removed = scores.clean()
        for problem in check(scores):
            count += 1
            if count <= PROBLEMS_SHOWN:
                print(problem)
    if removed:
        print(f"{len(removed)} files of processes that were stopped are removed")
    if count > PROBLEMS_SHOWN:
        print(f"and {count - PROBLEMS_SHOWN} more")
    print(f"{scores.manifest.photos} photos, problems: {count}")
    return EXIT_SOME_REFUSED if count else 0


def _merge(args: argparse.Namespace) -> int:
    from ..scale.outcome import merge

    photos, faces = merge(_one_of(args), args.output, args.photos_per_file)
    print(f"{photos} photos, {faces} faces; tables in {args.output}")
    return 0


_STEPS: Dict[str, Any] = {
    "manifest": _manifest,
    "run": _run,
    "status": _status,
    "check": _check,
    "merge": _merge,
}
