"""Metrics of result files against ground truth.

  facezoo evaluate scrfd --pred runstream_output --gt widerface/eval_tools/ground_truth
  facezoo evaluate scrfd --pred results.json --gt ground_truth --json ap.json --plot pr.png

facezoo prepare widerface says where the ground truth comes from.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence

from .. import __version__
from ..datasets.widerface import read_ground_truth, read_predictions
from ..errors import DatasetError, GateError
from ..image.files import write_bytes
from ..metrics.detection import STEPS, DetectionReport, evaluate_detections

__all__ = ["add_widerface_options", "configure", "evaluate_widerface", "run"]

SCHEMA = "facezoo.widerface/1"
NAMES_SHOWN = 10

_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add one sub-command per model, each with the options of its metric."""
    models = parser.add_subparsers(dest="model", metavar="MODEL", required=True)
    scrfd = models.add_parser(
        "scrfd",
        help="average precision on WIDER FACE",
        description="Average precision on the WIDER FACE validation set.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    add_widerface_options(scrfd)
    scrfd.set_defaults(evaluate=evaluate_widerface)


def run(args: argparse.Namespace) -> int:
    """Evaluate as the model's sub-command says."""
    return int(args.evaluate(args))


def add_widerface_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`evaluate_widerface` takes; the script common/eval/evaluation.py does too."""
    parser.add_argument(
        "-p",
        "--pred",
        type=Path,
        required=True,
        metavar="PRED",
        help="predictions: a folder of <event>/<photo>.txt, a .tar.gz or .zip of it, or a .json",
    )
    parser.add_argument(
        "-g",
        "--gt",
        type=Path,
        required=True,
        metavar="GT",
        help="folder with the four official wider_*_val.mat",
    )
    parser.add_argument(
        "--iou", type=float, default=0.5, metavar="T", help="smallest overlap of a hit"
    )
    parser.add_argument("--per-event", action="store_true", help="also each event's AP")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="also 95 %% intervals, from N resamplings of the photos",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything but curves")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table of APs")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw precision against recall")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end with 3 if photos lack predictions or are not in the ground truth",
    )


def evaluate_widerface(args: argparse.Namespace) -> int:
    """Read, evaluate, print, write.

    Parameters
    ----------
    args
        What :func:`add_widerface_options` adds.

    Returns
    -------
    int
        0.

    Raises
    ------
    FaceZooError
        If a file cannot be used.
    GateError
        With ``--strict``, after all is printed and written.
    """
    started = time.perf_counter()
    truth = read_ground_truth(args.gt)
    predictions = read_predictions(args.pred)
    read = time.perf_counter()
    report = evaluate_detections(
        predictions,
        truth,
        iou_threshold=args.iou,
        per_event=args.per_event,
        bootstrap=args.bootstrap,
        seed=args.seed,
    )
    seconds = {"reading": read - started, "evaluation": time.perf_counter() - read}
    if len(report.missing_images) == report.images:
        raise DatasetError(
            f"{str(args.pred)!r} is about other photos, such as {predictions.images[0]!r}; "
            f"expected those of the ground truth, such as {truth.images[0]!r}"
        )
    print("\n".join(_lines(report)))
    if args.plot:
        # Imported here because matplotlib is an extra.
        from ..plots import plot_precision_recall

        plot_precision_recall(report, args.plot)
    if args.csv:
        write_bytes(args.csv, _csv(report).encode())
    if args.json:
        entry = {**_entry(report), "pred": str(args.pred), "gt": str(args.gt), "seconds": seconds}
        write_bytes(args.json, (json.dumps(entry, indent=2, allow_nan=False) + "\n").encode())
    _log.info(
        "%d boxes in %d of %d photos, %.2f s (%s kernel)",
        report.detections,
        report.images - len(report.missing_images),
        report.images,
        sum(seconds.values()),
        report.kernel,
    )
    problems = list(_problems(report, truth.images))
    if args.strict and problems:
        raise GateError(f"--strict: {'; '.join(problems)}")
    for message in (*problems, *report.warnings):
        _log.warning("warning: %s", message)
    return 0


# What is printed -------------------------------------------------------------------------------


def _lines(report: DetectionReport) -> Iterator[str]:
    yield "==================== Results ===================="
    for level, result in report.levels.items():
        yield f"{level.capitalize():6} Val AP: {result.ap}"
    yield "================================================="
    for level, result in report.levels.items():
        if result.ap_interval is not None:
            low, high = result.ap_interval
            yield f"{level.capitalize():6} 95 % interval: {low:.4f} to {high:.4f}"
    events = next(iter(report.levels.values())).event_ap
    if events:
        width = max(map(len, events))
        yield f"{'event':{width}} " + " ".join(f"{level:>7}" for level in report.levels)
    for event in events:
        aps = (result.event_ap[event] for result in report.levels.values())
        cells = ("      -" if math.isnan(ap) else f"{ap:7.4f}" for ap in aps)
        yield f"{event:{width}} {' '.join(cells)}"


def _problems(report: DetectionReport, images: Sequence[str]) -> Iterator[str]:
    if report.missing_images:
        yield (
            f"{len(report.missing_images)} photos have no predictions and count as photos without "
            f"detections: {_listed(report.missing_images, images)}"
        )
    if report.unknown_images:
        yield (
            f"{len(report.unknown_images)} photos of the predictions are not in the ground truth: "
            f"{_listed(report.unknown_images, ())}"
        )


def _listed(names: Sequence[str], images: Sequence[str]) -> str:
    """Name the first few; an event of which all ``images`` are named is one name."""
    photos_of = Counter(_event(name) for name in images)
    named_of = Counter(map(_event, names))
    whole = {event for event, count in named_of.items() if photos_of[event] == count}
    short = [f"all {named_of[event]} of {event}" for event in named_of if event in whole]
    short += [name for name in names if _event(name) not in whole]
    shown = ", ".join(short[:NAMES_SHOWN])
    more = len(short) - NAMES_SHOWN
    return shown if more <= 0 else f"{shown} and {more} more (--json lists all)"


def _event(name: str) -> str:
    return name.rpartition("/")[0]


# What is written -------------------------------------------------------------------------------


def _entry(report: DetectionReport) -> Dict[str, Any]:
    levels: Dict[str, Dict[str, Any]] = {}
    for level, result in report.levels.items():
        levels[level] = {"ap": _number(result.ap), "faces": result.faces}
        if result.ap_interval is not None:
            levels[level]["ap_interval_95"] = [_number(end) for end in result.ap_interval]
        if result.event_ap:
            levels[level]["event_ap"] = {
                event: _number(ap) for event, ap in result.event_ap.items()
            }
    return {
        "schema": SCHEMA,
        "facezoo": __version__,
        "levels": levels,
        "settings": {
            "iou_threshold": report.iou_threshold,
            "score_steps": STEPS,
            "score_range": report.score_range,
            "bootstrap": report.bootstrap,
            "seed": report.seed,
            "kernel": report.kernel,
        },
        "counts": {
            "photos": report.images,
            "photos_with_predictions": report.images - len(report.missing_images),
            "faces": report.faces,
            "boxes": report.detections,
        },
        "missing_photos": report.missing_images,
        "unknown_photos": report.unknown_images,
        "warnings": report.warnings,
    }


def _number(value: float) -> Optional[float]:
    """Return None for NaN, which means that no face counts and which JSON does not know."""
    return None if math.isnan(value) else value


def _csv(report: DetectionReport) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["event", "level", "faces", "ap", "ap_low_95", "ap_high_95"])
    for level, result in report.levels.items():
        interval = result.ap_interval or (math.nan, math.nan)
        writer.writerow(["all", level, result.faces, *map(_number, (result.ap, *interval))])
        for event, ap in result.event_ap.items():
            writer.writerow([event, level, "", _number(ap), "", ""])
    return text.getvalue()
