"""Find the person of one photo in another.

The largest face of the first photo is aligned, embedded and compared with every face of the second.

    facezoo match A.jpg B.jpg
    facezoo match A.jpg B.jpg --output faces.jpg --json -

With --exit-code it ends with 1 if they are two people.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, List

from ..files import counted, printable
from ..image.reading import current_reading
from . import flags
from .inputs import local_path
from .options import runtime_of
from .outputs import OutputFile, write_report
from .thresholds import add_threshold, threshold_of

# The rest is imported where it is used, since the help needs none of it.
if TYPE_CHECKING:
    import numpy as np

    from ..pipeline.people import Match
    from ..pipeline.photo import PredictedPhoto
    from ..results import FaceDetections

__all__ = ["configure", "draw_match", "run"]

EXIT_DIFFERENT = 1
DETECTOR, EMBEDDER = "scrfd_500m_bnkps", "w600k_mbf"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("first", metavar="A", help="a photo; its largest face is used")
    parser.add_argument("second", metavar="B", help="a photo with any number of faces")
    add_threshold(parser)
    flags.add(parser, "--exit-code", "end with 1 if they are two people", action="store_true")
    flags.add(
        parser,
        "--output",
        "image of both faces",
        action=OutputFile,
        metavar="FILE",
        old=("--draw",),
    )
    flags.add(parser, "--json", "write faces and cosines as JSON; - is the standard output")
    stages = parser.add_argument_group("stages")
    flags.add_detector_options(stages, default=DETECTOR)
    flags.add(stages, "--embedder", default=EMBEDDER, old=("--recogniser", "--recognizer"))
    flags.add_runtime(stages)
    flags.add_reading(parser, folders=False)


def run(args: argparse.Namespace) -> int:
    """Compare, print, draw."""
    import numpy as np

    from ..image.draw import write_drawing
    from ..image.files import read_image_rgb
    from ..metrics.verification import Threshold
    from ..models.magface.model import FaceEmbedder
    from ..models.scrfd.model import FaceDetector
    from ..pipeline.load import load
    from ..pipeline.people import match_photos
    from ..pipeline.photo import Predictor

    paths = [local_path(word) for word in (args.first, args.second)]
    photos = [read_image_rgb(path) for path in paths]
    runtime = runtime_of(args)
    detector = load(
        args.detector, kind=FaceDetector, runtime=runtime, **flags.detector_options(args)
    )
    embedder = load(args.embedder, kind=FaceEmbedder, runtime=runtime)
    with Predictor(detector, embedder=embedder) as model:
        card_id = embedder.contract.card_id
        sha256 = embedder.settings().get("model_sha256")
        threshold, origin = threshold_of(args, embedder.contract, sha256)
        match = match_photos(model, *photos)
    cosine = float(match.cosines[match.best])
    angle = Threshold.from_cosine(float(np.clip(cosine, -1.0, 1.0))).degrees
    first, second = (printable(str(path)) for path in paths)
    print(f"{first}: {_count(match.first)}; {second}: {_count(match.second)}")
    where = f"face {match.best} of {second}, counted from 0,"
    print(f"{where} is the nearest to the largest of {first}")
    following = "" if match.next_cosine is None else f"; the next one has {match.next_cosine:.4f}"
    print(f"cosine {cosine:.4f}, angle {angle:.2f} degrees{following}")
    one_person = cosine >= threshold
    verdict = "above: one person" if one_person else "below: two people, or a bad image"
    print(f"threshold {threshold:.4f}, {verdict}")
    print(f"the threshold is {origin}")
    if args.output:
        names = [path.name for path in paths]
        answer = f"{'one person' if one_person else 'two people'} (threshold {threshold:.4f})"
        write_drawing(args.output, draw_match(match, photos, names, answer))
        print(f"look at {args.output}")
    if args.json:
        entry = {
            "schema": "facezoo.match/1",
            "card": card_id,
            "threshold": threshold,
            "one_person": one_person,
            "cosines": match.cosines.tolist(),
            "first": match.first.detections.to_dict(),
            "second": match.second.detections.to_dict(),
        }
        if current_reading().damaged:
            entry["damaged"] = current_reading().damaged
        write_report(args.json, entry)
    return EXIT_DIFFERENT if args.exit_code and not one_person else 0


def _count(found: PredictedPhoto) -> str:
    return counted(len(found), "face")


def draw_match(
    match: Match, photos: List[np.ndarray], names: List[str], verdict: str
) -> np.ndarray:
    """Draw the two faces that were compared, each in its photo and, below, as the network saw it.

    Parameters
    ----------
    match
        What :func:`facezoo.pipeline.people.match_photos` returned.
    photos
        The two photos, uint8, RGB.
    names
        Captions of the photos.
    verdict
        Written below the aligned faces, after their cosine.

    Returns
    -------
    numpy.ndarray
        A sheet, uint8, RGB.
    """
    from ..image.align import align_face
    from ..image.draw import contact_sheet, draw_faces

    sides = ((match.first.detections, match.index), (match.second.detections, match.best))
    drawn = [draw_faces(photo, _only(faces, i)) for photo, (faces, i) in zip(photos, sides)]
    aligned = [align_face(photo, faces.landmarks_xy[i]) for photo, (faces, i) in zip(photos, sides)]
    cosine = f"aligned, cosine {match.cosines[match.best]:.4f}: {verdict}"
    return contact_sheet([*drawn, *aligned], [*names, cosine, cosine], columns=2)


def _only(faces: FaceDetections, index: int) -> FaceDetections:
    from ..results import FaceDetections

    one = slice(index, index + 1)
    return FaceDetections(
        faces.boxes_xyxy[one], faces.scores[one], faces.landmarks_xy[one], faces.image_hw
    )
