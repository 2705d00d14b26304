"""HTML report of each evaluation: numbers, curves, sample images, settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from ...datasets.widerface import photo_name
from ...evaluation.landmarks import LandmarkReport
from ...evaluation.measured import MeasuredList
from ...evaluation.protocol import ProtocolReport
from ...evaluation.recognition import PeopleReport
from ...evaluation.verification_report import VerificationReport
from ...image.draw import draw_predicted
from ...image.files import find_images, read_image_rgb, relative_names
from ...metrics.detection import DetectionReport, Predictions
from ...metrics.landmarks import FAILURE_THRESHOLD, cumulative_error_distribution
from ...metrics.quality import DiscardCurve
from ...reports.html import Curves, Facts, Pictures, Section, Table, versions, write_html_report

__all__ = [
    "show_detections",
    "show_discards",
    "show_landmarks",
    "show_people",
    "show_protocol",
]


PHOTOS_SHOWN = 12
SHOWN_SCORE = 0.5


def _settings(args: argparse.Namespace) -> Facts:
    plain = {name: value for name, value in vars(args).items() if not callable(value)}
    return Facts("Settings", {name: str(v) for name, v in plain.items() if v is not None})


def _measured(measured: MeasuredList) -> Facts:
    return Facts("Measured on", measured.to_dict())


def show_detections(
    args: argparse.Namespace,
    report: DetectionReport,
    measured: MeasuredList,
    predictions: Predictions,
) -> None:
    """Write the HTML report of an evaluation on WIDER FACE to ``args.html``."""
    rows = [(level, 100 * result.ap) for level, result in report.levels.items()]
    lines = {}
    for level, result in report.levels.items():
        seen = result.recall > 0
        lines[f"{level}: AP {100 * result.ap:.2f} %"] = (
            result.recall[seen],
            result.precision[seen],
        )
    parts: List[Any] = [
        Section("Result", f"{report.detections} boxes in {measured.count} photos."),
        _measured(measured),
        Table("Average precision in %", ["level", "AP"], rows),
        Curves("Precision against recall", "recall", "precision", lines, (0.0, 1.0, 0.0, 1.0)),
    ]
    events = sorted({e for result in report.levels.values() for e in result.event_ap})
    if events:
        levels = list(report.levels)
        table = [
            (event, *(100 * report.levels[level].event_ap.get(event, np.nan) for level in levels))
            for event in events
        ]
        shown = [[None if isinstance(v, float) and np.isnan(v) else v for v in r] for r in table]
        parts.append(Table("AP by event in %", ["event", *levels], shown))
    pictures = _photos(args.images, predictions) if getattr(args, "images", None) else None
    parts += [pictures] if pictures is not None else []
    write_html_report(
        args.html, "WIDER FACE", [*parts, _settings(args), Facts("Versions", versions())]
    )


def _photos(folder: Path, predictions: Predictions) -> Optional[Pictures]:
    paths = find_images(folder)
    path_of = {photo_name(n): path for n, path in zip(relative_names(paths, folder), paths)}
    images, captions = [], []
    for index, name in enumerate(predictions.images[:PHOTOS_SHOWN]):
        if name not in path_of:
            continue
        rows = slice(predictions.starts[index], predictions.starts[index + 1])
        high = predictions.scores[rows] >= SHOWN_SCORE
        boxes = predictions.boxes_xywh[rows][high].copy()
        boxes[:, 2:] += boxes[:, :2]
        words = [f"{score:.2f}" for score in predictions.scores[rows][high]]
        image = read_image_rgb(path_of[name])
        nothing = [np.zeros((0, 2))] * len(boxes)
        images.append(draw_predicted(image, boxes, words, [False] * len(boxes), nothing))
        captions.append(f"{name}, boxes with score {SHOWN_SCORE:g} or more: {len(boxes)}")
    note = f"The first {len(images)} of {len(predictions.images)} photos."
    return Pictures("Photos", images, captions, note) if images else None


def show_landmarks(args: argparse.Namespace, report: LandmarkReport) -> None:
    """Write the HTML report of a landmark evaluation to ``args.html``."""
    rows = [
        (name, row.faces, 100 * row.nme, 100 * row.failure_rate, 100 * row.auc)
        for name, row in report.table.items()
    ]
    curve = cumulative_error_distribution(report.errors)
    line = {f"{report.crop} crop": (100 * curve.errors, 100 * curve.shares)}
    limits = (0.0, 100 * FAILURE_THRESHOLD, 0.0, 100.0)
    errors = list(enumerate((100 * report.errors).tolist()))
    write_html_report(
        args.html,
        "Landmarks",
        [
            _measured(report.measured),
            Table("Metrics in %", ["subset", "faces", "NME", "failure rate", "AUC"], rows),
            Curves("Cumulative errors", "normalised error in %", "faces in %", line, limits),
            Table("Error of each face in %", ["face", "NME"], errors),
            _settings(args),
            Facts("Versions", versions()),
        ],
    )


def show_people(args: argparse.Namespace, report: PeopleReport) -> None:
    """Write the HTML report of a recognition evaluation to ``args.html``."""
    counts = {
        "pictures": report.pictures,
        "with a face": report.with_face,
        "people": report.people,
    }
    _show_verification(args, report.verification, counts)


def show_protocol(args: argparse.Namespace, report: ProtocolReport) -> None:
    """Write the HTML report of a protocol's evaluation to ``args.html``."""
    photos = report.photos
    counts = {
        "photos": len(photos.found),
        "with a face": int(photos.found.sum()),
        "with several faces": photos.several,
        "face used": photos.choice,
        "pairs without a face": int(report.unknown.sum()),
        "wrong decisions": int(report.verification.wrong.sum()),
    }
    _show_verification(args, report.verification, counts)


def _show_verification(
    args: argparse.Namespace, found: VerificationReport, counts: Mapping[str, Any]
) -> None:
    roc = {f"area {found.roc.area:.5f}": (found.roc.fmr, found.roc.matched)}
    points = [
        (p.fmr, p.fnmr, p.low, p.high, p.threshold.cosine if p.threshold else None, p.refusal)
        for p in found.points
    ]
    write_html_report(
        args.html,
        f"Recognition: {found.name}",
        [
            Section("Result", " ".join(found.lines()[:1])),
            _measured(found.measured),
            Table(
                "Operating points", ["FMR", "FNMR", "low", "high", "cosine", "not measured"], points
            ),
            Curves(
                "ROC", "false match rate", "1 - false non-match rate", roc, (0.0, 1.0, 0.0, 1.0)
            ),
            Facts(
                "Images",
                {
                    **counts,
                    "pairs of one person": found.genuine,
                    "pairs of two": found.impostors,
                },
            ),
            _settings(args),
            Facts("Versions", versions()),
        ],
    )


def show_discards(
    args: argparse.Namespace,
    measured: MeasuredList,
    curves: Mapping[str, Mapping[float, DiscardCurve]],
) -> None:
    """Write the HTML report of a quality evaluation to ``args.html``."""
    rows = [
        (name, rate, curve.relative_auc.value, curve.relative_auc.low, curve.relative_auc.high)
        for name, by_rate in curves.items()
        for rate, curve in by_rate.items()
    ]
    headings = ["score", "false match rate", "area over random discard's", "low", "high"]
    write_html_report(
        args.html,
        "Quality",
        [
            _measured(measured),
            Table("Error versus discard", headings, rows),
            *_discard_plots(curves),
            _settings(args),
            Facts("Versions", versions()),
        ],
    )


def _discard_plots(curves: Mapping[str, Mapping[float, DiscardCurve]]) -> Iterator[Curves]:
    for rate in sorted({rate for by_rate in curves.values() for rate in by_rate}, reverse=True):
        lines: Dict[str, Tuple[np.ndarray, np.ndarray]] = {
            name: (100 * by_rate[rate].discards, 100 * by_rate[rate].fnmr)
            for name, by_rate in curves.items()
            if rate in by_rate
        }
        title = f"False match rate {rate:g}"
        yield Curves(title, "genuine pairs discarded in %", "false non-matches in %", lines)
