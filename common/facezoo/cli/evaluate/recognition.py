"""Evaluation of recognition over a folder of people: flags, run and report."""

from __future__ import annotations

__all__ = [
    "run_recognition",
]

import argparse
from typing import Union

from ...evaluation.recognition import PeopleReport, evaluate_people
from ...evaluation.verification_report import SCHEMA as VERIFICATION_SCHEMA
from ...metrics.verification import FOLDS, share_interval
from ...models.magface.model import FaceEmbedder
from ...models.scrfd.model import FaceDetector
from ...pipeline.load import load
from ...pipeline.photo import Predictor
from ...reports.numerics import Measurement, Metric, record_measurement
from ..flags import detector_options
from ..options import progress, runtime_of
from ..outputs import write_report
from .html_reports import show_people
from .protocol import (
    refuse_protocol_options,
    run_all_against_all,
    run_protocol,
)
from .record import dtype_of, engine_text, machine_text, prefix_text, runtime_flags


def run_recognition(args: argparse.Namespace) -> int:
    """Evaluate a protocol, or a folder of people."""
    if args.pairs is not None:
        return run_protocol(args)
    return run_all_against_all(args) if args.all_pairs and args.output else run_people(args)


def run_people(args: argparse.Namespace) -> int:
    """Embed, compare, print and record."""
    refuse_protocol_options(args)
    runtime = runtime_of(args)
    embedder = load(
        args.embedder,
        kind=FaceEmbedder,
        flip=args.flip,
        runtime=runtime,
        vdsp=args.vdsp,
    )
    if args.detector is None:
        model: Union[FaceEmbedder, Predictor] = embedder
    else:
        # The vdsp JSON is for the recogniser.
        detector = load(args.detector, kind=FaceDetector, runtime=runtime, **detector_options(args))
        model = Predictor(detector, embedder=embedder)
    name = args.dataset or args.images.name
    with model:
        report = evaluate_people(
            model,
            args.images,
            name,
            seed=args.seed,
            everything=args.all_pairs,
            folds=args.folds or FOLDS,
            progress=progress,
        )
        print(f"a face in {report.with_face} of {report.pictures} images of {report.people} people")
        print("\n".join(report.verification.lines()))
        if args.record:
            record_measurement(args.record, _people_measurement(args, embedder, report))
    if args.json:
        counts = {"pictures": report.pictures, "with_face": report.with_face}
        entry = {"schema": VERIFICATION_SCHEMA, **counts, "sets": [report.verification.to_dict()]}
        write_report(args.json, entry)
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
        build=dtype_of(args.embedder),
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
        command=f"facezoo evaluate verification --images DIR {detector}--embedder "
        f"{prefix_text(args.embedder)}{' --all-pairs' * args.all_pairs}"
        f"{f' --folds {args.folds}' if args.folds else ''}"
        f"{runtime_flags(args)}",
    )
