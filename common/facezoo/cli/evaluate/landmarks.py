"""Evaluation of landmarks: flags, run, report, and the ledger of crops and inputs."""

from __future__ import annotations

__all__ = [
    "run_landmarks",
]

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Type

from ...artifact import read_artifact
from ...errors import InputError
from ...evaluation.landmarks import MEASURED_CROPS, LandmarkReport, evaluate_results, measure_faces
from ...files import write_json
from ...models.base import LandmarkModel
from ...models.scrfd.model import FaceDetector
from ...pipeline.load import load, resolve
from ...reports.numerics import Measurement, Metric, record_measurement
from ...reports.readme import LANDMARK_LEDGER_SCHEMA, render_landmark_ledger
from ..flags import detector_options
from ..options import progress, runtime_of
from ..outputs import write_report
from .html_reports import show_landmarks
from .record import dtype_of, engine_text, machine_text, prefix_text, runtime_flags

_log = logging.getLogger(__name__)

ANY_MODEL: Type[LandmarkModel] = LandmarkModel  # type: ignore[type-abstract]
NEED_MODEL = "detector record ledger build vdsp".split()


def run_landmarks(args: argparse.Namespace) -> int:
    """Evaluate, print, and write the requested files."""
    if args.pred is not None:
        stray = [name for name in NEED_MODEL if getattr(args, name)]
        if stray:
            raise InputError(f"--{stray[0]} needs a model: --landmarks MODEL")
        report = evaluate_results(args.pred, args.gt, args.normalizer)
    elif args.ledger:
        return _write_ledger(args)
    else:
        report = _measure(args)
    print("\n".join(report.lines()))
    if args.plot:
        # A local import, since matplotlib is optional.
        from ...reports.plots import plot_cumulative_errors

        plot_cumulative_errors({f"{report.crop} crop": report.errors}, args.plot)
    if args.html:
        show_landmarks(args, report)
    if args.json:
        write_report(args.json, report.to_dict())
    return 0


def _run(
    args: argparse.Namespace,
    crop: str,
    prefix: Optional[str] = None,
    change: Optional[Mapping[str, Any]] = None,
) -> Tuple[LandmarkModel, LandmarkReport]:
    """Measure a build with a crop, and with another pre-processing if fields of it are given."""
    source: str = prefix or args.landmarks
    runtime, preprocess = runtime_of(args), None
    vdsp: Optional[Path] = args.vdsp
    if change:
        with load(source, kind=ANY_MODEL, runtime=runtime, vdsp=vdsp) as plain:
            preprocess = dataclasses.replace(plain.backend.preprocess, **change)
        vdsp = None
    detector = None
    if crop == "detector":
        if not args.detector:
            raise InputError("--crop detector needs --detector, an SCRFD")
        detector = load(args.detector, kind=FaceDetector, runtime=runtime, **detector_options(args))
    try:
        with load(
            source, kind=ANY_MODEL, runtime=runtime, vdsp=vdsp, preprocess=preprocess
        ) as model:
            return model, measure_faces(
                model,
                args.gt,
                crop,
                detector=detector,
                normalizer=args.normalizer,
                progress=progress,
            )
    finally:
        if detector is not None:
            detector.close()


def _measure(args: argparse.Namespace) -> LandmarkReport:
    model, report = _run(args, args.crop)
    if args.record:
        record_measurement(args.record, _measurement(args, model, report))
    return report


def _measurement(
    args: argparse.Namespace, model: LandmarkModel, report: LandmarkReport
) -> Measurement:
    height, width = model.backend.preprocess.input_hw
    settings = {"crop": report.crop, "distances": report.unit, "input": f"{width}x{height}"}
    path, _ = resolve(args.landmarks)
    build = None if path.suffix == ".onnx" else read_artifact(path).build
    if build and build.calibration:
        settings["calibrated on"] = f"{len(build.calibration)} crops"
    full = report.table["full"]
    return Measurement(
        card=model.contract.card_id,
        build=dtype_of(args.landmarks),
        engine=engine_text(model.backend),
        dataset=str(report.measured),
        settings=settings,
        metrics={
            "NME": Metric(round(100 * full.nme, 4), "%", False),
            "failure rate at 10 %": Metric(round(100 * full.failure_rate, 4), "%", False),
            "CED area to 10 %": Metric(round(100 * full.auc, 4), "%", True),
        },
        images_per_second=None,
        machine=machine_text(),
        measured=report.measured.to_dict(),
        command=f"facezoo evaluate landmarks --gt DIR --crop {report.crop} --landmarks "
        f"{prefix_text(args.landmarks)}{runtime_flags(args)}",
    )


def _deviations(args: argparse.Namespace) -> Iterator[Tuple[str, str, Optional[str], Any]]:
    """Yield label, crop, build and changed pre-processing of each row."""
    for crop in MEASURED_CROPS:
        if crop != args.crop and (crop != "detector" or args.detector):
            yield f"crop: {crop}", crop, None, None
    with load(args.landmarks, kind=ANY_MODEL, runtime=runtime_of(args)) as model:
        preprocess = model.backend.preprocess
    swapped = preprocess.color_conversion != "NO_CHANGE"
    colours = {"color_conversion": "NO_CHANGE" if swapped else "RGB2BGR"}
    order = "RGB" if preprocess.swaps_channels else "BGR"
    yield f"{order} input", args.crop, None, colours
    yield "pixels 0 to 1", args.crop, None, {"norm": "DIV255"}
    yield f"{order} input, pixels 0 to 1", args.crop, None, {**colours, "norm": "DIV255"}
    for prefix in args.build:
        yield Path(prefix).parent.name, args.crop, prefix, None


def _write_ledger(args: argparse.Namespace) -> int:
    model, protocol = _run(args, args.crop)
    rows: List[Dict[str, Any]] = [_row(f"crop: {args.crop}", protocol, protocol)]
    for label, crop, prefix, change in _deviations(args):
        _log.info("%s", label)
        rows.append(_row(label, _run(args, crop, prefix, change)[1], protocol))
    entry = {
        "schema": LANDMARK_LEDGER_SCHEMA,
        "card": model.contract.card_id,
        "dataset": str(protocol.measured),
        "measured": protocol.measured.to_dict(),
        "machine": machine_text(),
        "command": f"facezoo evaluate landmarks --gt DIR --crop {args.crop} --landmarks "
        f"{prefix_text(args.landmarks)} --detector M --ledger ledger.json",
        "rows": rows,
    }
    print(render_landmark_ledger(entry))
    print(protocol.measured.line())
    write_json(args.ledger, entry, indent=2)
    return 0


def _row(label: str, report: LandmarkReport, protocol: LandmarkReport) -> Dict[str, Any]:
    full, before = report.table["full"], protocol.table["full"]
    return {
        "label": label,
        "faces": full.faces,
        "nme": 100 * full.nme,
        "failure_rate": 100 * full.failure_rate,
        "auc": 100 * full.auc,
        "cost": 100 * (full.nme - before.nme),
    }
