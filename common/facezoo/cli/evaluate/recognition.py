"""Evaluation of recognition over a folder of people: flags, run and report."""

from __future__ import annotations

__all__ = [
    "add_people_options",
    "run_recognition",
]

import argparse
from pathlib import Path
from typing import Union

from ...evaluation.recognition import PeopleReport, evaluate_people
from ...evaluation.verification_report import SCHEMA as VERIFICATION_SCHEMA
from ...fields import SEED
from ...files import write_json
from ...metrics.verification import share_interval
from ...models.magface.model import FLIPS, FaceEmbedder
from ...models.scrfd.model import FaceDetector
from ...pipeline.load import load
from ...pipeline.photo import Predictor
from ...reports.numerics import Measurement, Metric, record_measurement
from ..options import add_model_options, add_output, add_plot, progress, runtime_of
from .html_reports import show_people
from .protocol import (
    add_protocol_options,
    refuse_protocol_options,
    run_all_against_all,
    run_protocol,
)
from .record import dtype_of, engine_text, machine_text, prefix_text, runtime_flags


def add_people_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the evaluation over a folder of people."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="DIR", help="images, one folder per person")
    source.add_argument(
        "--pairs",
        type=Path,
        metavar="LIST",
        help="a protocol: LFW's pairs.txt, CFP's folder, lists of AgeDB and CALFW, pair.list, CSV",
    )
    parser.add_argument(
        "--detector",
        type=Path,
        metavar="PREFIX",
        help="SCRFD that finds the face to align; without it images must be aligned",
    )
    parser.add_argument(
        "--flip", choices=FLIPS, default="none", help="also embed the mirrored face and add it"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="random seed of the impostor pairs")
    parser.add_argument(
        "--all-pairs",
        action="store_true",
        help="use all impostor pairs, not as many as genuine pairs; with --save_dir: any number "
        "of images, with intervals by people and the errors of each person",
    )
    add_output(
        parser,
        "--json",
        metavar="FILE",
        help="write the report without the curve as JSON",
    )
    add_plot(parser, "plot the ROC")
    add_output(parser, "--html", metavar="FILE", help="write an HTML report")
    add_output(
        parser,
        "--record",
        metavar="FILE",
        help="write the numbers to this numerics.json",
    )
    parser.add_argument(
        "--dataset", default="", metavar="NAME", help="name of the data set in the report"
    )
    add_protocol_options(parser)
    add_model_options(parser, "--embedder")


def run_recognition(args: argparse.Namespace) -> int:
    """Evaluate a protocol, or a folder of people."""
    if args.pairs is not None:
        return run_protocol(args)
    return run_all_against_all(args) if args.all_pairs and args.save_dir else run_people(args)


def run_people(args: argparse.Namespace) -> int:
    """Embed, compare, print and record."""
    refuse_protocol_options(args)
    runtime = runtime_of(args)
    embedder = load(
        args.model_prefix_path,
        kind=FaceEmbedder,
        flip=args.flip,
        runtime=runtime,
        vdsp=args.vdsp_params_info,
    )
    if args.detector is None:
        model: Union[FaceEmbedder, Predictor] = embedder
    else:
        # The vdsp JSON is for the recogniser.
        detector = load(args.detector, kind=FaceDetector, runtime=runtime)
        model = Predictor(detector, embedder=embedder)
    name = args.dataset or args.images.name
    with model:
        report = evaluate_people(
            model,
            args.images,
            name,
            seed=args.seed,
            everything=args.all_pairs,
            progress=progress,
        )
        print(f"a face in {report.with_face} of {report.pictures} images of {report.people} people")
        print("\n".join(report.verification.lines()))
        if args.record:
            record_measurement(args.record, _people_measurement(args, embedder, report))
    if args.json:
        counts = {"pictures": report.pictures, "with_face": report.with_face}
        entry = {"schema": VERIFICATION_SCHEMA, **counts, "sets": [report.verification.to_dict()]}
        write_json(args.json, entry)
    if args.plot:
        # A local import, since matplotlib is optional.
        from ...reports.plots import plot_roc

        plot_roc({name: report.verification.roc}, args.plot)
    if args.html:
        show_people(args, report)
    return 0


def _people_measurement(
    args: argparse.Namespace, embedder: FaceEmbedder, report: PeopleReport
) -> Measurement:
    found = report.verification
    low, high = share_interval(found.best_accuracy, found.genuine + found.impostors)
    crop = "aligned" if args.detector else "not aligned"
    which = "all" if args.all_pairs else f"seed {args.seed}"
    detector = f"--detector {prefix_text(args.detector)} " if args.detector else ""
    return Measurement(
        card=embedder.contract.card_id,
        build=dtype_of(args.model_prefix_path),
        engine=engine_text(embedder.backend),
        dataset=f"{found.name}, {report.people} people, {report.pictures} images, {crop}"
        + ", all pairs" * args.all_pairs,
        settings={
            **({"faces found": report.with_face} if args.detector else {}),
            "pairs of one person": found.genuine,
            "pairs of two": f"{found.impostors} ({which})",
            "best threshold: cosine": round(found.threshold.cosine, 4),
            "flip": args.flip,
        },
        metrics={
            "accuracy at the best threshold": Metric(
                round(100 * found.best_accuracy, 3), "%", True
            ),
            "95 % from": Metric(round(100 * low, 3), "%", True),
            "95 % to": Metric(round(100 * high, 3), "%", True),
            "10-fold accuracy": Metric(round(100 * found.accuracy, 3), "%", True),
        },
        # Speed is measured by facezoo bench: here reading the images may dominate.
        images_per_second=None,
        machine=machine_text(),
        measured=found.measured.to_dict(),
        command=f"facezoo evaluate verification --images DIR {detector}--model_prefix_path "
        f"{prefix_text(args.model_prefix_path)}{' --all-pairs' * args.all_pairs}"
        f"{runtime_flags(args)}",
    )
