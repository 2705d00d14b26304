"""Evaluation of recognition on the pairs of a protocol: flags, run and report."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Sequence

from ...datasets.image_list import list_people
from ...datasets.protocols import LAYOUTS, OFFICIAL, PairProtocol, locate_photos, read_protocol
from ...errors import InputError
from ...evaluation.all_against_all import SCHEMA as ALL_SCHEMA
from ...evaluation.all_against_all import evaluate_all
from ...evaluation.measured import MeasuredList
from ...evaluation.protocol import (
    PhotoEmbeddings,
    ProtocolReport,
    choose_faces,
    embed_photos,
    evaluate_protocol,
    find_faces,
)
from ...evaluation.recognition_ledger import recognition_ledger
from ...evaluation.verification_report import PROTOCOLS
from ...evaluation.verification_report import SCHEMA as VERIFICATION_SCHEMA
from ...files import write_json
from ...metrics.verification import share_interval
from ...models import CARDS
from ...models.magface.model import FaceEmbedder
from ...models.scrfd.model import FaceDetector
from ...pipeline.load import load
from ...reports.numerics import Measurement, Metric, record_measurement
from ...reports.recognition_ledger import ledger_entry, render_recognition_ledger
from ..flags import detector_options
from ..options import EXIT_SOME_REFUSED, progress, runtime_of
from ..outputs import write_report
from .html_reports import show_protocol
from .record import dtype_of, engine_text, machine_text, prefix_text, runtime_flags

__all__ = [
    "refuse_protocol_options",
    "run_all_against_all",
    "run_protocol",
]

_log = logging.getLogger(__name__)

# Flags without a meaning for a folder of people, and for a protocol.
NEED_PAIRS = "photos output overwrite face protocol ledger build other_detector".split()
ALL_PAIRS_IGNORE = "photos protocol ledger build other_detector record plot html seed folds".split()
NEED_IMAGES = "all_pairs seed folds".split()
LEDGER_IGNORES = "overwrite face vdsp record json plot html".split()


def refuse_protocol_options(args: argparse.Namespace) -> None:
    """Raise InputError for a flag that needs ``--pairs``."""
    stray = [name.replace("_", "-") for name in NEED_PAIRS if getattr(args, name)]
    if stray:
        raise InputError(f"--{stray[0]} needs a protocol: --pairs LIST")


def run_protocol(args: argparse.Namespace) -> int:
    """Find, align and embed the faces of a protocol's photos; compare, print and record."""
    stray = [name.replace("_", "-") for name in NEED_IMAGES if getattr(args, name)]
    if stray:
        raise InputError(f"--{stray[0]} needs a folder of people: --images DIR")
    if args.photos is None or args.output is None:
        raise InputError("--pairs needs --photos and --output")
    protocol = read_protocol(args.pairs)
    names, paths = protocol.photos, locate_photos(protocol, args.photos)
    if args.ledger:
        return _write_ledger(args, protocol, paths)
    stray = [name.replace("_", "-") for name in ("build", "other_detector") if getattr(args, name)]
    if stray:
        raise InputError(f"--{stray[0]} needs --ledger")
    choice = "central" if LAYOUTS[protocol.layout] else "largest"
    name = args.dataset or args.photos.name
    with _embedder(args) as embedder:
        embedded = _embed(args, embedder, paths, names, args.pairs, choice)
        report = evaluate_protocol(protocol, embedded, name, how=args.protocol or PROTOCOLS[0])
        print("\n".join(report.lines()))
        if args.record:
            record_measurement(args.record, _measurement(args, embedder, report))
    if args.json:
        write_report(args.json, {"schema": VERIFICATION_SCHEMA, "sets": [report.to_dict()]})
    if args.plot:
        # A local import, since matplotlib is optional.
        from ...reports.plots import plot_roc

        plot_roc({name: report.verification.roc}, args.plot)
    if args.html:
        show_protocol(args, report)
    return EXIT_SOME_REFUSED if embedded.unreadable else 0


def _write_ledger(args: argparse.Namespace, protocol: PairProtocol, paths: Sequence[Path]) -> int:
    stray = [name.replace("_", "-") for name in LEDGER_IGNORES if getattr(args, name)]
    stray += ["flip"] * (args.flip != "none")
    if args.detector is None:
        raise InputError("--ledger needs --detector")
    if runtime_flags(args) or stray:
        raise InputError(
            "--ledger measures in ONNX Runtime on the CPU, one choice after the other; omit"
            f"{runtime_flags(args) or f' --{stray[0]}'}"
        )
    how = args.protocol or PROTOCOLS[0]
    ledger = recognition_ledger(
        protocol,
        paths,
        args.output,
        detectors=[Path(one) for one in (args.detector, *args.other_detector)],
        embedder=Path(args.embedder),
        builds={dtype_of(prefix): Path(prefix) for prefix in args.build},
        how=how,
        progress=progress,
        say=_log.info,
    )
    with load(args.embedder, kind=FaceEmbedder) as embedder:
        card = embedder.contract.card_id
    name = args.dataset or args.photos.name
    # A published accuracy is of all pairs.
    official = OFFICIAL.get(protocol.layout)
    complete = official is not None and len(protocol) == official.pairs
    known = [
        {"accuracy": ref.value, "printed_in": ref.printed_in}
        for ref in (CARDS[card].references if card in CARDS and complete else ())
        if name.startswith(ref.dataset)
    ]
    measured = MeasuredList.of_pairs(name, protocol.sides, protocol.is_same.tolist())
    more = "".join(f" --other-detector {prefix_text(one)}" for one in args.other_detector)
    more += "".join(f" --build {prefix_text(one)}" for one in args.build)
    head = {
        "card": card,
        "dataset": f"{name}, {len(protocol):,} pairs of {len(paths):,} photos",
        "measured": measured.to_dict(),
        "folds": len(protocol.edges) - 1,
        "protocol": how,
        "machine": machine_text(),
        "command": f"facezoo evaluate verification --pairs LIST --photos DIR --detector "
        f"{prefix_text(args.detector)} --embedder {prefix_text(args.embedder)} "
        f"--output DIR --protocol {how}{more} --ledger ledger.json",
    }
    entry = ledger_entry(ledger.to_dict(), head, known[0] if known else {})
    print(render_recognition_ledger(entry))
    print(measured.line())
    write_json(args.ledger, entry, indent=2)
    return 0


def run_all_against_all(args: argparse.Namespace) -> int:
    """Compare all photos of a folder of people with each other; print and write."""
    stray = [name.replace("_", "-") for name in ALL_PAIRS_IGNORE if getattr(args, name)]
    if stray:
        raise InputError(f"--{stray[0]} has no effect on --all-pairs with --output; omit it")
    people = list_people(args.images)
    paths = [args.images / name for name in people.paths]
    with _embedder(args) as embedder:
        embedded = _embed(args, embedder, paths, people.paths, args.images, "central")
    report = evaluate_all(embedded, args.dataset or args.images.name)
    print("\n".join(report.lines()))
    if args.json:
        write_report(args.json, {"schema": ALL_SCHEMA, **report.to_dict()})
    return EXIT_SOME_REFUSED if embedded.unreadable else 0


def _embedder(args: argparse.Namespace) -> FaceEmbedder:
    embedder: FaceEmbedder = load(
        args.embedder,
        kind=FaceEmbedder,
        flip=args.flip,
        runtime=runtime_of(args),
        vdsp=args.vdsp,
    )
    return embedder


def _embed(
    args: argparse.Namespace,
    embedder: FaceEmbedder,
    paths: Sequence[Path],
    names: Sequence[str],
    listed_in: Path,
    choice: str,
) -> PhotoEmbeddings:
    """Find and embed one face of each photo, in two run folders."""
    chosen = settings = None
    if args.detector is None:
        choice = "aligned"
    else:
        choice = args.face or choice
        # The vdsp JSON is for the recogniser.
        given = detector_options(args)
        with load(args.detector, kind=FaceDetector, runtime=runtime_of(args), **given) as detector:
            settings = detector.settings()
            faces = find_faces(
                detector,
                paths,
                names,
                args.output / "faces",
                overwrite=args.overwrite,
                sources=[listed_in, args.detector],
                progress=progress,
            )
        chosen = choose_faces(faces, choice)
    return embed_photos(
        embedder,
        paths,
        names,
        args.output / "embeddings",
        chosen=chosen,
        choice=choice,
        detector=settings,
        overwrite=args.overwrite,
        sources=[listed_in, args.embedder],
        progress=progress,
    )


def _measurement(
    args: argparse.Namespace, embedder: FaceEmbedder, report: ProtocolReport
) -> Measurement:
    found, photos = report.verification, report.photos
    low, high = share_interval(found.accuracy, len(report.protocol))
    detector = f"--detector {prefix_text(args.detector)} " if args.detector else ""
    protocol = f" --protocol {args.protocol}" if args.protocol else ""
    flip = f" --flip {args.flip}" * (args.flip != "none")
    return Measurement(
        card=embedder.contract.card_id,
        build=dtype_of(args.embedder),
        engine=engine_text(embedder.backend),
        dataset=f"{found.name}, {len(report.protocol):,} pairs of {len(photos.found):,} "
        f"{'photos' if args.detector else 'aligned faces'}",
        settings={
            "faces found": int(photos.found.sum()),
            "face": photos.choice,
            "folds": len(report.protocol.edges) - 1,
            "protocol": found.protocol,
            "wrong decisions": int(found.wrong.sum()),
            "best threshold: cosine": round(found.threshold.cosine, 4),
            "flip": args.flip,
        },
        metrics={
            "10-fold accuracy": Metric(round(100 * found.accuracy, 3), "%", True),
            "95 % from": Metric(round(100 * low, 3), "%", True),
            "95 % to": Metric(round(100 * high, 3), "%", True),
            "accuracy at the best threshold": Metric(
                round(100 * found.best_accuracy, 3), "%", True
            ),
        },
        # Speed is measured by facezoo bench: here reading the photos may dominate.
        images_per_second=None,
        machine=machine_text(),
        measured=found.measured.to_dict(),
        command=f"facezoo evaluate verification --pairs LIST --photos DIR {detector}--embedder "
        f"{prefix_text(args.embedder)} --output DIR{protocol}{flip}"
        f"{runtime_flags(args)}",
    )
