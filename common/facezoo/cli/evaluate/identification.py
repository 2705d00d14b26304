"""Evaluation of identification on the results of bulk scoring: run, report, record."""

from __future__ import annotations

import argparse
from typing import Any, Dict

import numpy as np

from ...datasets.image_list import people_of
from ...errors import InputError
from ...evaluation.measured import MeasuredList
from ...people.faces import read_faces, settings_of
from ...people.identify import IdentificationReport, evaluate_identification
from ...reports.numerics import Measurement, Metric, record_measurement
from ..options import EXIT_SOME_REFUSED
from ..outputs import write_report
from .record import machine_text

__all__ = ["run_identification"]

SCHEMA = "facezoo.identification/1"


def run_identification(args: argparse.Namespace) -> int:
    """Enrol one photo of each person with several, identify all others; print and record."""
    every = read_faces(args.tables, args.settings or "")
    faces = every.one_per_photo("central")
    people = people_of(faces.photos, str(args.tables))
    order = sorted(range(len(people)), key=lambda row: faces.photos[row])
    faces, people = faces[np.array(order)], [people[row] for row in order]
    without = {one.photo for one in every.left_out} - set(faces.photos)
    report = evaluate_identification(faces, people, fpirs=(args.fpir,), seed=args.seed)
    print(f"a face in {len(faces)} of {len(faces) + len(without)} photos; the central one is used")
    print("\n".join(report.lines()))
    name = f"Identification on {args.dataset or args.tables.name}"
    measured = MeasuredList.of(name, "photos", faces.photos)
    print(measured.line())
    if args.json:
        entry = {"schema": SCHEMA, "measured": measured.to_dict(), **report.to_dict()}
        write_report(args.json, entry)
    if args.record:
        record_measurement(args.record, _measurement(args, report, measured.to_dict()))
    return EXIT_SOME_REFUSED if without else 0


def _measurement(
    args: argparse.Namespace, report: IdentificationReport, measured: Dict[str, Any]
) -> Measurement:
    settings = settings_of(args.tables, args.settings or "")
    embedder, detector = settings["embedder"], settings["detector"]
    ((point, fnir),) = report.points
    if fnir is None:
        raise InputError(f"there is nothing to record: {point.refusal}")
    ((own, named),) = report.own
    rank1 = report.rank1
    shares = {
        "rank-1": (rank1.rate, True),
        f"FNIR at FPIR {args.fpir:g}": (fnir.rate, False),
        "95 % from": (fnir.low, False),
        "95 % to": (fnir.high, False),
    }
    own_words = (
        own.refusal
        if named is None
        else f"{own.used:.4f}, names {100 * named:.2f} % of the strangers' photos"
    )
    return Measurement(
        card=embedder["model"],
        build="fp32",
        engine=f"{embedder['engine']} {embedder['engine_version']}",
        dataset=f"{measured['dataset']}, {report.enrolled:,} people enrolled with a photo each, "
        f"{report.mated:,} further photos, {report.strangers:,} strangers",
        settings={
            "detector": detector["model"],
            "face": "central",
            "flip": embedder["flip"],
            "FPIR": args.fpir,
            "rank-1, 95 % from": f"{100 * rank1.low:.2f} to {100 * rank1.high:.2f} %",
            "threshold: cosine": round(point.used, 4),
            "the gallery's own threshold": own_words,
            "seed": args.seed,
        },
        metrics={
            name: Metric(round(100 * value, 3), "%", better)
            for name, (value, better) in shares.items()
        },
        images_per_second=None,
        machine=machine_text(),
        measured=measured,
        command=f"facezoo evaluate identification --tables RUN --fpir {args.fpir:g} "
        f"--dataset {args.dataset or args.tables.name}",
    )
