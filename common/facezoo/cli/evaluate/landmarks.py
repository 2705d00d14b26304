"""Evaluation of landmarks: flags, run, report, and the ledger of crops and inputs."""

from __future__ import annotations

__all__ = [
    "add_landmark_options",
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
from ..options import (
    add_flag,
    add_normalizer_option,
    add_output,
    add_plot,
    add_runtime_options,
    progress,
    runtime_of,
)
from .html_reports import show_landmarks
from .record import dtype_of, engine_text, machine_text, prefix_text, runtime_flags

_log = logging.getLogger(__name__)

ANY_MODEL: Type[LandmarkModel] = LandmarkModel  # type: ignore[type-abstract]
NEED_MODEL = "detector record ledger build vdsp_params_info".split()


def add_landmark_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the landmark evaluation."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "-p",
        "--pred",
        type=Path,
        metavar="PRED",
        help="results.json of vsx_infer.py, infer.py or npz_decode.py",
    )
    add_flag(
        source,
        "--model_prefix_path",
        type=Path,
        metavar="PREFIX",
        help="artifact prefix or .onnx of a model, to run on the photos of GT",
    )
    parser.add_argument(
        "-g",
        "--gt",
        type=Path,
        required=True,
        metavar="GT",
        help="WFLW folder, as published or as written by preprocess_wflw.py or facezoo prepare",
    )
    add_normalizer_option(parser)
    add_output(
        parser,
        "--json",
        metavar="FILE",
        help="write the report with the error of each face as JSON",
    )
    add_plot(parser, "plot the cumulative error distribution")
    add_output(parser, "--html", metavar="FILE", help="write an HTML report")
    group = parser.add_argument_group("with --model_prefix_path")
    group.add_argument(
        "--crop",
        choices=MEASURED_CROPS,
        default="annotation",
        help="what the network sees: the annotated box, enlarged; a square around the annotated "
        "points; the model's crop of a detector's box",
    )
    group.add_argument("--detector", metavar="M", help="SCRFD, for --crop detector and --ledger")
    add_flag(group, "--vdsp_params_info", type=Path, metavar="JSON", help="pre-processing to use")
    add_output(group, "--record", metavar="FILE", help="write the numbers to this numerics.json")
    add_output(
        group,
        "--ledger",
        metavar="FILE",
        help="measure, print and write the cost of each crop and of each mistaken input",
    )
    group.add_argument(
        "--build",
        action="append",
        default=[],
        metavar="PREFIX",
        help="with --ledger: another build of the same network; may be repeated",
    )
    add_runtime_options(group)


def run_landmarks(args: argparse.Namespace) -> int:
    """Evaluate, print, and write the requested files."""
    if args.pred is not None:
        stray = [name for name in NEED_MODEL if getattr(args, name)]
        if stray:
            raise InputError(f"--{stray[0]} needs a model: --model_prefix_path PREFIX")
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
        write_json(args.json, report.to_dict())
    return 0


def _run(
    args: argparse.Namespace,
    crop: str,
    prefix: Optional[Path] = None,
    change: Optional[Mapping[str, Any]] = None,
) -> Tuple[LandmarkModel, LandmarkReport]:
    """Measure a build with a crop, and with another pre-processing if fields of it are given."""
    source: Path = prefix or args.model_prefix_path
    runtime, preprocess = runtime_of(args), None
    vdsp: Optional[Path] = args.vdsp_params_info
    if change:
        with load(source, kind=ANY_MODEL, runtime=runtime, vdsp=vdsp) as plain:
            preprocess = dataclasses.replace(plain.backend.preprocess, **change)
        vdsp = None
    detector = None
    if crop == "detector":
        if not args.detector:
            raise InputError("--crop detector needs --detector, an SCRFD")
        detector = load(args.detector, kind=FaceDetector, runtime=runtime)
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
    path, _ = resolve(args.model_prefix_path)
    build = None if path.suffix == ".onnx" else read_artifact(path).build
    if build and build.calibration:
        settings["calibrated on"] = f"{len(build.calibration)} crops"
    full = report.table["full"]
    return Measurement(
        card=model.contract.card_id,
        build=dtype_of(args.model_prefix_path),
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
        command=f"facezoo evaluate landmarks --gt DIR --crop {report.crop} --model_prefix_path "
        f"{prefix_text(args.model_prefix_path)}{runtime_flags(args)}",
    )


def _deviations(args: argparse.Namespace) -> Iterator[Tuple[str, str, Optional[Path], Any]]:
    """Yield label, crop, build and changed pre-processing of each row."""
    for crop in MEASURED_CROPS:
        if crop != args.crop and (crop != "detector" or args.detector):
            yield f"crop: {crop}", crop, None, None
    with load(args.model_prefix_path, kind=ANY_MODEL, runtime=runtime_of(args)) as model:
        preprocess = model.backend.preprocess
    swapped = preprocess.color_conversion != "NO_CHANGE"
    colours = {"color_conversion": "NO_CHANGE" if swapped else "RGB2BGR"}
    order = "RGB" if preprocess.swaps_channels else "BGR"
    yield f"{order} input", args.crop, None, colours
    yield "pixels 0 to 1", args.crop, None, {"norm": "DIV255"}
    yield f"{order} input, pixels 0 to 1", args.crop, None, {**colours, "norm": "DIV255"}
    for prefix in args.build:
        yield Path(prefix).parent.name, args.crop, Path(prefix), None


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
        "command": f"facezoo evaluate landmarks --gt DIR --crop {args.crop} --model_prefix_path "
        f"{prefix_text(args.model_prefix_path)} --detector M --ledger ledger.json",
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
