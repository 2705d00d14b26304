"""Evaluation of clusters on the results of bulk scoring: run, report, record."""

from __future__ import annotations

import argparse
import time
from typing import Any, Dict

import numpy as np

from ...datasets.image_list import people_of
from ...evaluation.measured import MeasuredList
from ...metrics.clusters import ClusterScores, score_clusters
from ...people.faces import EmbeddedFaces, read_faces, settings_of
from ...pipeline.clusters import find_people
from ...reports.numerics import Measurement, Metric, record_measurement
from ..options import EXIT_SOME_REFUSED
from ..outputs import write_report
from ..thresholds import threshold_for
from .record import machine_text

__all__ = ["run_clusters"]

SCHEMA = "facezoo.clusters/1"


def run_clusters(args: argparse.Namespace) -> int:
    """Group one face of each photo, and compare the groups with the folders."""
    every = read_faces(args.tables, args.settings or "")
    faces = every.one_per_photo("central")
    people = people_of(faces.photos, str(args.tables))
    cosine, origin = threshold_for(args, faces.space.model, faces.space.model_sha256)
    without = {one.photo for one in every.left_out} - set(faces.photos)
    started = time.perf_counter()
    found = find_people(faces.vectors, np.arange(len(faces)), cosine, faces.weights)
    seconds = time.perf_counter() - started
    scores = score_clusters(people, found.numbers)
    print(f"a face in {len(faces)} of {len(faces) + len(without)} photos; the central one is used")
    print(
        f"{scores.people} people in {scores.groups} groups, {scores.mixed} of them mixed; "
        f"{seconds:.1f} s for neighbours and groups"
    )
    for name, one in (("B-cubed", scores.b_cubed), ("pairwise", scores.pairwise)):
        print(f"{name}: precision {one.precision:.4f}, recall {one.recall:.4f}, F {one.f:.4f}")
    print(f"the threshold {cosine:.4f} is {origin}")
    name = f"Clusters of {args.dataset or args.tables.name}"
    measured = MeasuredList.of(name, "photos", faces.photos)
    print(measured.line())
    if args.json:
        numbers = {"threshold": cosine, **_shares(scores)}
        counts = {"people": scores.people, "groups": scores.groups, "mixed": scores.mixed}
        entry = {"schema": SCHEMA, "measured": measured.to_dict(), **counts, **numbers}
        write_report(args.json, entry)
    if args.record:
        measurement = _measurement(args, faces, scores, cosine, seconds, measured.to_dict())
        record_measurement(args.record, measurement)
    return EXIT_SOME_REFUSED if without else 0


def _shares(scores: ClusterScores) -> Dict[str, float]:
    return {
        "B-cubed precision": scores.b_cubed.precision,
        "B-cubed recall": scores.b_cubed.recall,
        "B-cubed F": scores.b_cubed.f,
        "pairwise precision": scores.pairwise.precision,
        "pairwise recall": scores.pairwise.recall,
        "pairwise F": scores.pairwise.f,
    }


def _measurement(
    args: argparse.Namespace,
    faces: EmbeddedFaces,
    scores: ClusterScores,
    cosine: float,
    seconds: float,
    measured: Dict[str, Any],
) -> Measurement:
    settings = settings_of(args.tables, args.settings or "")
    embedder, detector = settings["embedder"], settings["detector"]
    shares = {name: round(100 * share, 3) for name, share in _shares(scores).items()}
    # The tables of a page have the same number of columns.
    shown = ("B-cubed precision", "B-cubed recall", "B-cubed F", "pairwise F")
    given = f" --threshold {args.threshold:g}" if args.threshold is not None else ""
    return Measurement(
        card=embedder["model"],
        build="fp32",
        engine=f"{embedder['engine']} {embedder['engine_version']}",
        dataset=f"{measured['dataset']}, {scores.faces:,} photos of {scores.people:,} people",
        settings={
            "detector": detector["model"],
            "face": "central",
            "flip": embedder["flip"],
            "threshold: cosine": round(cosine, 4),
            "groups": scores.groups,
            "mixed groups": scores.mixed,
            **{f"{name}, %": value for name, value in shares.items() if name not in shown},
            "seconds for neighbours and groups": round(seconds, 1),
        },
        metrics={name: Metric(shares[name], "%", True) for name in shown},
        images_per_second=None,
        machine=machine_text(),
        measured=measured,
        command=f"facezoo evaluate clusters --tables RUN{given} "
        f"--dataset {args.dataset or args.tables.name}",
    )
