"""Evaluation of detections on WIDER FACE: flags, run and report."""

from __future__ import annotations

import argparse
import csv
import io
import logging
import math
import time
from collections import Counter
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Collection,
    Dict,
    Iterable,
    Iterator,
    Optional,
    Sequence,
    Tuple,
)

from ... import __version__
from ...datasets.widerface import (
    PHOTOS_SHA256,
    photo_name,
    read_ground_truth,
    read_predictions,
)
from ...errors import DatasetError, GateError, InputError
from ...evaluation.measured import MeasuredList
from ...files import csv_cell, write_bytes, write_json
from ...metrics.detection import (
    STEPS,
    DetectionReport,
    GroundTruth,
    Predictions,
    evaluate_detections,
)
from ..flags import detector_options
from ..options import progress, runtime_of
from ..outputs import write_report

# Predictions are evaluated without what only inference needs, which takes longer to import.
if TYPE_CHECKING:
    from ...models.scrfd.model import FaceDetector
    from ...reports.numerics import Measurement

__all__ = [
    "evaluate_widerface",
    "run_detection",
]


_log = logging.getLogger(__name__)

SCHEMA = "facezoo.widerface/1"
NAMES_SHOWN = 10
# Flags of ``evaluate scrfd`` that have no effect without inference.
NEED_PHOTOS = "detector vdsp output overwrite record ledger build".split()


def run_detection(args: argparse.Namespace) -> int:
    """Evaluate predictions, or photos and a model."""
    if args.images is None:
        stray = [name for name in NEED_PHOTOS if getattr(args, name)]
        if stray:
            raise InputError(f"--{stray[0]} needs photos and a model: --images DIR")
        evaluate_widerface(args)
        return 0
    if args.detector is None or args.output is None:
        raise InputError("--images needs --detector and --output")
    if args.ledger:
        return _write_ledger(args)
    return _run_model(args)


def _run_model(args: argparse.Namespace) -> int:
    from ...evaluation.detection import detect_folder
    from ...models.scrfd.model import FaceDetector
    from ...pipeline.load import load
    from ...reports.numerics import record_measurement

    started = time.perf_counter()
    fresh = []

    def show(results: Iterable[Any], total: int) -> Iterator[Any]:
        fresh.append(total)
        return progress(results, total)

    with load(
        args.detector,
        kind=FaceDetector,
        profile=args.preset,
        runtime=runtime_of(args),
        vdsp=args.vdsp,
        **detector_options(args),
    ) as detector:
        found = detect_folder(
            detector,
            args.images,
            args.output,
            overwrite=args.overwrite,
            sources=[args.detector],
            progress=show,
        )
        seconds = time.perf_counter() - started
        # The speed of a resumed run is not measured.
        whole = fresh == [len(found.images)]
        report, measured = evaluate_widerface(args, found)
        if args.record:
            if report.missing_images:
                raise InputError(
                    f"{len(report.missing_images)} photos are missing below {str(args.images)!r}; "
                    "--record needs the complete set"
                )
            rate = round(len(found.images) / seconds, 1) if whole else None
            record_measurement(args.record, _measurement(args, detector, report, measured, rate))
    if whole:
        _log.info("%.1f s from files to boxes, %.1f images/s", seconds, len(found.images) / seconds)
    return 0


def _measurement(
    args: argparse.Namespace,
    detector: FaceDetector,
    report: DetectionReport,
    measured: MeasuredList,
    rate: Optional[float],
) -> Measurement:
    from ...reports.numerics import Measurement, Metric
    from .record import dtype_of, engine_text, machine_text, prefix_text, runtime_flags

    preprocess, profile = detector.backend.preprocess, detector.profile
    height, width = preprocess.input_hw
    return Measurement(
        card=detector.contract.card_id,
        build=dtype_of(args.detector),
        engine=engine_text(detector.backend),
        dataset=str(measured),
        settings={
            "scores from": profile.score_threshold,
            "NMS IoU": profile.nms_iou,
            "input": f"{width}x{height}",
            "placement": f"{preprocess.anchor} on {preprocess.pad_value[0]}",
        },
        metrics={
            f"AP {level}": Metric(round(100 * result.ap, 4), "%", True)
            for level, result in report.levels.items()
        },
        images_per_second=rate,
        machine=machine_text(),
        measured=measured.to_dict(),
        command=f"facezoo evaluate scrfd --images DIR --gt DIR --detector "
        f"{prefix_text(args.detector)} --output DIR{runtime_flags(args)}",
    )


def _write_ledger(args: argparse.Namespace) -> int:
    from ...evaluation.ledger import ledger_of
    from ...image.files import find_images, relative_names
    from ...models.scrfd.model import FaceDetector
    from ...pipeline.load import load
    from ...reports.readme import LEDGER_SCHEMA, render_ledger
    from .record import machine_text, prefix_text, runtime_flags

    chosen = runtime_flags(args)
    if chosen or args.vdsp:
        raise InputError(
            "--ledger measures in ONNX Runtime on the CPU with the network's own pre-processing; "
            f"omit{chosen or ' --vdsp'}"
        )
    truth = read_ground_truth(args.gt)
    names = relative_names(find_images(args.images), args.images)
    photos = set(map(photo_name, names))
    measured = _measured(truth, photos)
    if not measured.count:
        raise _other_photos(args.images, sorted(photos), truth)
    builds = {Path(prefix).parent.name: Path(prefix) for prefix in args.build}
    ledger = ledger_of(
        Path(args.detector),
        args.images,
        truth.only(photos),
        args.output,
        builds=builds,
        progress=progress,
        say=_log.info,
    )
    with load(args.detector, kind=FaceDetector) as detector:
        card = detector.contract.card_id
    entry = {
        "schema": LEDGER_SCHEMA,
        "card": card,
        "dataset": str(measured),
        "measured": measured.to_dict(),
        "machine": machine_text(),
        "command": f"facezoo evaluate scrfd --images DIR --gt DIR --detector "
        f"{prefix_text(args.detector)} --output DIR --ledger ledger.json",
        **ledger.to_dict(),
    }
    print(render_ledger(entry))
    print(measured.line())
    write_json(args.ledger, entry, indent=2)
    return 0


def evaluate_widerface(
    args: argparse.Namespace, found: Optional[Predictions] = None
) -> Tuple[DetectionReport, MeasuredList]:
    """Read, evaluate, print, write.

    Parameters
    ----------
    args
        Flags of :func:`~facezoo.cli.evaluate.flags.add_detection_options`.
    found
        Predictions to use instead of ``args.pred``.

    Returns
    -------
    report : DetectionReport
        The report that was printed and written.
    measured : MeasuredList
        The photos of the ground truth that have predictions.

    Raises
    ------
    FaceZooError
        If a file cannot be used.
    GateError
        With ``--strict``, after the report is printed and written.
    """
    started = time.perf_counter()
    truth = read_ground_truth(args.gt)
    predictions = read_predictions(args.pred) if found is None else found
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
        raise _other_photos(args.pred or args.images, predictions.images, truth)
    measured = _measured(truth, set(predictions.images))
    print("\n".join(_lines(report)))
    # Standard output is the original recipe's, line by line.
    _log.info("%s", measured.line())
    if args.plot:
        # A local import, since matplotlib is optional.
        from ...reports.plots import plot_precision_recall

        plot_precision_recall(report, args.plot)
    if args.html:
        from .html_reports import show_detections

        show_detections(args, report, measured, predictions)
    if args.csv:
        write_bytes(args.csv, _csv(report).encode())
    if args.json:
        source = str(args.pred or args.images)
        entry = {**_entry(report, measured), "pred": source, "gt": str(args.gt), "seconds": seconds}
        write_report(args.json, entry, indent=2)
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
    return report, measured


def _measured(truth: GroundTruth, photos: Collection[str]) -> MeasuredList:
    """Name the ground truth, and count and hash those of its photos that are among the given."""
    whole = MeasuredList.of("", "photos", truth.images)
    official = whole.sha256 == PHOTOS_SHA256
    name = "WIDER FACE val" if official else "a ground truth other than WIDER FACE val's"
    names = (name for name in truth.images if name in photos)
    return MeasuredList.of(name, "photos", names, whole.count)


def _other_photos(source: Path, photos: Sequence[str], truth: GroundTruth) -> DatasetError:
    return DatasetError(
        f"{str(source)!r} has other photos, such as {photos[0]!r}; expected those of the ground "
        f"truth, such as {truth.images[0]!r}"
    )


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
    """List the first few; an event with all of its ``images`` listed counts as one name."""
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


def _entry(report: DetectionReport, measured: MeasuredList) -> Dict[str, Any]:
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
        "measured": measured.to_dict(),
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
    """Return None for NaN (no face counts), which JSON does not support."""
    return None if math.isnan(value) else value


def _csv(report: DetectionReport) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["event", "level", "faces", "ap", "ap_low_95", "ap_high_95"])
    for level, result in report.levels.items():
        interval = result.ap_interval or (math.nan, math.nan)
        writer.writerow(["all", level, result.faces, *map(_number, (result.ap, *interval))])
        for event, ap in result.event_ap.items():
            writer.writerow([csv_cell(event), level, "", _number(ap), "", ""])
    return text.getvalue()
