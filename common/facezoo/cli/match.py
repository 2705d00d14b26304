"""Find the person of one photo in another.

The largest face of the first photo is aligned, embedded and compared with every face of the second.

    facezoo download scrfd_500m_bnkps w600k_mbf
    facezoo match A.jpg B.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np

from ..errors import InputError
from ..fields import COSINE, RATE
from ..files import printable, write_json
from ..image.align import align_face
from ..image.draw import contact_sheet, draw_faces, write_drawing
from ..image.files import read_image_rgb
from ..metrics.verification import Threshold
from ..models.magface.card import MATCH_THRESHOLDS
from ..models.magface.model import FaceEmbedder
from ..models.scrfd.model import FaceDetector
from ..pipeline.load import load
from ..pipeline.people import Match, match_photos
from ..pipeline.photo import PredictedPhoto, Predictor
from ..profiles.similarity import read_similarity
from ..results import FaceDetections
from .options import (
    add_old_spelling,
    add_output,
    add_reading_options,
    add_runtime_options,
    runtime_of,
)

__all__ = ["configure", "draw_match", "run"]

DETECTOR, RECOGNISER = "scrfd_500m_bnkps", "w600k_mbf"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("first", type=Path, metavar="A", help="a photo; its largest face is used")
    parser.add_argument("second", type=Path, metavar="B", help="a photo with any number of faces")
    threshold = parser.add_mutually_exclusive_group()
    threshold.add_argument(
        "--threshold",
        type=COSINE,
        metavar="COSINE",
        help="smallest cosine of two faces of one person, -1 to 1",
    )
    threshold.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="threshold of facezoo calibrate similarity, in place of the built-in one",
    )
    parser.add_argument(
        "--fmr", type=RATE, default=1e-3, help="false match rate, one of those in the profile"
    )
    add_old_spelling(parser, "--far", type=RATE, dest="fmr")
    add_output(
        parser,
        "--draw",
        default=Path("match.jpg"),
        metavar="FILE",
        help="image of both faces",
    )
    add_output(parser, "--json", metavar="FILE", help="write faces and cosines")
    parser.add_argument("--detector", default=DETECTOR, metavar="M", help="SCRFD")
    parser.add_argument("--recogniser", default=RECOGNISER, metavar="M", help="recogniser")
    add_runtime_options(parser)
    add_reading_options(parser, folders=False)


def run(args: argparse.Namespace) -> int:
    """Compare, print, draw."""
    photos = [read_image_rgb(path) for path in (args.first, args.second)]
    runtime = runtime_of(args)
    detector = load(args.detector, kind=FaceDetector, runtime=runtime)
    embedder = load(args.recogniser, kind=FaceEmbedder, runtime=runtime)
    with Predictor(detector, embedder=embedder) as model:
        card_id = embedder.contract.card_id
        sha256 = embedder.settings().get("model_sha256")
        threshold, origin = _threshold(args, card_id, sha256)
        match = match_photos(model, *photos)
    cosine = float(match.cosines[match.best])
    angle = Threshold.from_cosine(float(np.clip(cosine, -1.0, 1.0))).degrees
    first, second = printable(str(args.first)), printable(str(args.second))
    print(f"{first}: {_count(match.first)}; {second}: {_count(match.second)}")
    where = f"face {match.best} of {second}, counted from 0,"
    print(f"{where} is the nearest to the largest of {first}")
    following = "" if match.next_cosine is None else f"; the next one has {match.next_cosine:.4f}"
    print(f"cosine {cosine:.4f}, angle {angle:.2f} degrees{following}")
    verdict = "above: one person" if cosine >= threshold else "below: two people, or a bad image"
    print(f"threshold {threshold:.4f}, {verdict}")
    print(f"the threshold is {origin}")
    write_drawing(args.draw, draw_match(match, photos, [args.first.name, args.second.name]))
    print(f"look at {args.draw}")
    if args.json:
        entry = {
            "schema": "facezoo.match/1",
            "card": card_id,
            "threshold": threshold,
            "one_person": cosine >= threshold,
            "cosines": match.cosines.tolist(),
            "first": match.first.detections.to_dict(),
            "second": match.second.detections.to_dict(),
        }
        write_json(args.json, entry)
    return 0


def _threshold(args: argparse.Namespace, card_id: str, sha256: Any) -> Tuple[float, str]:
    if args.threshold is not None:
        return Threshold.from_cosine(args.threshold).cosine, "yours"
    if args.profile is not None:
        cosine = read_similarity(args.profile, sha256).cosine_at(args.fmr)
        return cosine, f"that of {args.profile} at FMR {args.fmr:g}"
    if card_id not in MATCH_THRESHOLDS:
        raise InputError(
            f"no threshold was measured for {card_id}; give a --profile, which "
            "facezoo calibrate similarity measures on your images, or --threshold"
        )
    found = MATCH_THRESHOLDS[card_id]
    return found.cosine, found.origin


def _count(found: PredictedPhoto) -> str:
    return f"{len(found)} face{'s' * (len(found) != 1)}"


def draw_match(match: Match, photos: List[np.ndarray], names: List[str]) -> np.ndarray:
    """Draw the two faces that were compared, each in its photo and, below, as the network saw it.

    Parameters
    ----------
    match
        What :func:`facezoo.pipeline.people.match_photos` returned.
    photos
        The two photos, uint8, RGB.
    names
        Captions.

    Returns
    -------
    numpy.ndarray
        A sheet, uint8, RGB.
    """
    sides = ((match.first.detections, match.index), (match.second.detections, match.best))
    drawn = [draw_faces(photo, _only(faces, i)) for photo, (faces, i) in zip(photos, sides)]
    aligned = [align_face(photo, faces.landmarks_xy[i]) for photo, (faces, i) in zip(photos, sides)]
    cosine = f"aligned, cosine {match.cosines[match.best]:.4f}"
    return contact_sheet([*drawn, *aligned], [*names, cosine, cosine], columns=2)


def _only(faces: FaceDetections, index: int) -> FaceDetections:
    one = slice(index, index + 1)
    return FaceDetections(
        faces.boxes_xyxy[one], faces.scores[one], faces.landmarks_xy[one], faces.image_hw
    )
