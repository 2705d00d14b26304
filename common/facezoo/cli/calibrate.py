r"""Find out what scores mean on your own pictures, and keep it as a profile.

  facezoo calibrate quality --images DIR --model_prefix_path PREFIX --output quality.json
  facezoo calibrate quality --images DIR --model_prefix_path PREFIX --output quality.json \
      --recognizer w600k_mbf --fnmr 0.05 --fmr 1e-3
  facezoo calibrate similarity --identities DIR --model w600k_mbf --output similarity.json
  facezoo calibrate similarity --pairs pairs.txt --model onnx/magface_iresnet50.onnx \
      --detector scrfd_500m_bnkps --output similarity.json
  facezoo calibrate looks --identities DIR --model w600k_mbf --output looks.json

A profile of quality or similarity belongs to one model file and is refused for another.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from ..datasets.image_list import read_lines, resolve_names
from ..datasets.scores import QualityScores
from ..errors import ImageError, InputError
from ..image.align import align_face
from ..image.appearance import worsened
from ..image.files import find_images, read_image_rgb, relative_names
from ..metrics.verification import cosine_similarity
from ..models import find_class
from ..models.magface.model import FaceEmbedder
from ..models.scrfd.model import FaceDetector
from ..pipeline.load import load
from ..pipeline.photo import PhotoEmbedder
from ..profiles.appearance import LOOKS, find_limit, shares_missed, write_limits
from ..profiles.quality import QualityProfile, fnmr_threshold, make_profile, write_profile
from ..profiles.similarity import (
    SimilarityProfile,
    calibrate_similarity,
    people_indices,
    write_similarity,
)
from ..results import Embedding, FaceDetections
from ..runs import fingerprint_files
from .evaluate.quality import add_people_options, add_recipe_option, embeddings_of, pairs_of
from .options import EXIT_SOME_REFUSED, add_model_options, add_runtime_options, progress, runtime_of

__all__ = ["configure", "run"]

SHOWN = (1, 5, 10, 25, 50, 75, 90, 95, 99)

_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add one sub-command per kind of score."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    quality = kinds.add_parser(
        "quality",
        help="percentiles and thresholds of quality scores",
        description="Percentiles, the thresholds that drop 1, 5 and 10 %, and with --fnmr, where "
        "folders are\npeople, the one for a wanted false non-match rate.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    quality.add_argument("--images", type=Path, required=True, metavar="DIR", help="aligned faces")
    quality.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the profile to write"
    )
    add_recipe_option(quality)
    add_model_options(quality)
    add_people_options(quality, required=True)
    quality.add_argument("--fnmr", type=float, help="wanted false non-match rate; needs people")
    quality.add_argument("--fmr", type=float, default=1e-3, help="at this false match rate")
    quality.add_argument("--seed", type=int, default=0, help="of the impostor pairs, if many")
    quality.set_defaults(calibrate=_calibrate_quality)
    _add_similarity(kinds, parser)
    _add_looks(kinds, parser)


def run(args: argparse.Namespace) -> int:
    """Calibrate as the kind's sub-command says."""
    return int(args.calibrate(args))


def _calibrate_quality(args: argparse.Namespace) -> int:
    paths = find_images(args.images)
    names = relative_names(paths, args.images)
    scored: List[str] = []
    values: List[float] = []
    kind, vdsp = find_class(args.recipe), args.vdsp_params_info
    with load(args.model_prefix_path, kind=kind, runtime=runtime_of(args), vdsp=vdsp) as model:
        card, sha256 = model.contract.card_id, model.settings().get("model_sha256")
        results = progress(model.stream(paths), len(paths))
        for name, (_, found) in zip(names, results):
            if isinstance(found, ImageError):
                _log.warning("refused: %s", found)
            else:
                scored.append(name)
                values.append(found.norm if isinstance(found, Embedding) else found.value)
    if not scored:
        raise InputError(f"no picture in {str(args.images)!r} can be read; see the lines above")
    scores = QualityScores(tuple(scored), np.array(values))
    refused = len(paths) - len(scored)
    profile = make_profile(scores.values, card, sha256, _by_errors(args, scores, refused))
    settings = {
        "images_sha256": fingerprint_files(paths, names),
        "refused": refused,
        "fnmr": args.fnmr,
        "fmr": None if args.fnmr is None else args.fmr,
    }
    write_profile(args.output, profile, settings)
    print("\n".join(_lines(profile, scores.values)))
    print(f"{len(scored)} pictures, {refused} refused; profile of {card} in {args.output}")
    return EXIT_SOME_REFUSED if refused else 0


def _by_errors(args: argparse.Namespace, scores: QualityScores, refused: int) -> Dict[str, float]:
    """Return the threshold for the wanted false non-match rate, if one is wanted."""
    if args.fnmr is None:
        return {}
    if refused:
        raise InputError(
            f"{refused} pictures cannot be read; --fnmr needs every picture: mend them"
        )
    embeddings = embeddings_of(args)
    if embeddings is None:
        raise InputError("--fnmr needs --embeddings or --images")
    pairs = pairs_of(args, embeddings)
    threshold = fnmr_threshold(
        pairs.distances, pairs.is_same, pairs.quality(scores), args.fmr, args.fnmr
    )
    return {f"FNMR {args.fnmr:g} at FMR {args.fmr:g}": threshold}


def _lines(profile: QualityProfile, values: np.ndarray) -> List[str]:
    lines = ["percentile " + " ".join(f"{share:8d}" for share in SHOWN)]
    lines += ["score      " + " ".join(f"{profile.percentiles[share]:8.3f}" for share in SHOWN)]
    for name, threshold in profile.thresholds.items():
        dropped = int((values < threshold).sum())
        lines.append(f"{name}: below {threshold:.4f}, {dropped} of {len(values)} pictures")
    return lines


# Similarity ---------------------------------------------------------------------------------------


def _add_similarity(kinds: Any, parser: argparse.ArgumentParser) -> None:
    similarity = kinds.add_parser(
        "similarity",
        help="from which similarity on two faces are one person's",
        description="Thresholds at false accept rates 1e-2, 1e-3 and 1e-4, with 95 % intervals, "
        "as cosine, L2 of\nunit vectors and angle. A rate is refused where fewer than ten false "
        "accepts are expected: 1e-2\nneeds 1,000 pairs of two people, such as five people with "
        "ten pictures each.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    source = similarity.add_mutually_exclusive_group(required=True)
    source.add_argument("--identities", type=Path, metavar="DIR", help="a folder a person")
    source.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="list: two pictures a line, then 1 for one person, 0 for two",
    )
    similarity.add_argument(
        "--model", required=True, metavar="M", help="recogniser: a card's id, or a file"
    )
    similarity.add_argument(
        "--detector",
        metavar="M",
        help="find and align the largest face first; without it pictures are aligned faces",
    )
    similarity.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the profile to write"
    )
    similarity.add_argument("--seed", type=int, default=0, help="of the drawing of people")
    add_runtime_options(similarity)
    similarity.set_defaults(calibrate=_calibrate_similarity)


def _calibrate_similarity(args: argparse.Namespace) -> int:
    runtime = runtime_of(args)
    paths, names, first, second, is_same, whose = _pictures_of(args)
    embedder = load(args.model, kind=FaceEmbedder, runtime=runtime)
    model: Any = embedder
    if args.detector:
        # Several photos are worked on at a time, one core each.
        runtime = dataclasses.replace(runtime, threads=1)
        detector = load(args.detector, kind=FaceDetector, runtime=runtime)
        model = PhotoEmbedder(detector, embedder)
    vectors: Dict[int, np.ndarray] = {}
    with model:
        card, sha256 = embedder.contract.card_id, embedder.settings().get("model_sha256")
        for index, (path, found) in enumerate(progress(model.stream(paths), len(paths))):
            if isinstance(found, ImageError):
                _log.warning("refused: %s", found)
            elif args.detector and not len(found):
                _log.warning("refused: no face was found in %r", str(path))
            else:
                face = found.embeddings[found.faces.largest()] if args.detector else found
                vectors[index] = face.vector
    usable = np.array([a in vectors and b in vectors for a, b in zip(first, second)])
    if not usable.any():
        raise InputError("no pair is left whose two pictures have a face")
    a, b = (np.stack([vectors[i] for i in side[usable]]) for side in (first, second))
    cosines = cosine_similarity(a.astype(np.float64), b.astype(np.float64))
    same, people = is_same[usable], None if whose is None else whose[usable]
    points = calibrate_similarity(cosines, same, people=people, seed=args.seed)
    genuine = int(np.count_nonzero(same))
    profile = SimilarityProfile(card, sha256, genuine, len(same) - genuine, points)
    refused = len(paths) - len(vectors)
    settings = {
        "pictures": len(paths),
        "refused": refused,
        "pictures_sha256": fingerprint_files(paths, names),
        "detector": args.detector,
        "interval": "people drawn anew" if whose is not None else "pairs taken as independent",
    }
    write_similarity(args.output, profile, settings)
    print("\n".join(_similarity_lines(profile)))
    print(f"{len(vectors)} pictures, {refused} refused; profile of {card} in {args.output}")
    return EXIT_SOME_REFUSED if refused else 0


def _pictures_of(args: argparse.Namespace) -> Tuple[Any, ...]:
    """Return files, names, the two of each pair, whether they show one person, and whom."""
    if args.identities is not None:
        paths = find_images(args.identities)
        names = relative_names(paths, args.identities)
        pairs, is_same, whose = people_indices([name.rpartition("/")[0] for name in names])
        return paths, names, pairs[:, 0], pairs[:, 1], is_same, whose
    rows: List[List[str]] = []
    for number, line in read_lines(args.pairs):
        words = line.split()
        if len(words) != 3 or words[2] not in ("0", "1"):
            raise InputError(
                f"{str(args.pairs)!r}: line {number} must be two pictures and 1 for one person or "
                f"0 for two, got {line[:80]!r}"
            )
        rows.append(words)
    names = tuple(dict.fromkeys(name for row in rows for name in row[:2]))
    index = {name: number for number, name in enumerate(names)}
    first, second = (np.array([index[row[side]] for row in rows]) for side in (0, 1))
    is_same = np.array([row[2] == "1" for row in rows])
    return resolve_names(names, args.pairs), names, first, second, is_same, None


def _similarity_lines(profile: SimilarityProfile) -> List[str]:
    lines = [f"{profile.genuine} pairs of one person, {profile.impostors} of two"]
    for point in profile.points:
        if point.refusal:
            lines.append(f"FAR {point.far:g}: refused, {point.refusal}")
            continue
        shown = ", ".join(
            f"{name} {value:.4f} ({min(ends):.4f} to {max(ends):.4f})"
            for name, (value, *ends) in point.scales().items()
        )
        lines.append(f"FAR {point.far:g}: {shown}; TAR {point.tar:.4f}")
    return lines


# Looks --------------------------------------------------------------------------------------------


def _add_looks(kinds: Any, parser: argparse.ArgumentParser) -> None:
    looks = kinds.add_parser(
        "looks",
        help="how small, blurred, turned or cut off a face may be",
        description="Each face is shrunk, blurred and cut off step by step, and compared with the "
        "person's other\npictures as they are: a limit lies where more than --fnmr of the pairs "
        "are missed. How far a\nface is turned cannot be changed; where nobody was missed, the "
        "limit is the worst that was seen.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    looks.add_argument(
        "--identities", type=Path, required=True, metavar="DIR", help="a folder of photos a person"
    )
    looks.add_argument(
        "--model", required=True, metavar="M", help="recogniser: a card's id, or a file"
    )
    looks.add_argument("--detector", default="scrfd_500m_bnkps", metavar="M", help="SCRFD")
    looks.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the profile to write"
    )
    looks.add_argument("--fnmr", type=float, default=0.01, help="share of pairs that may be missed")
    looks.add_argument("--fmr", type=float, default=1e-3, help="false match rate of the threshold")
    add_runtime_options(looks)
    looks.set_defaults(calibrate=_calibrate_looks)


def _made_worse(
    embedder: Any, image: np.ndarray, faces: FaceDetections
) -> Tuple[np.ndarray, List[Tuple[str, float, np.ndarray]]]:
    """Embed a photo's largest face, and after each step of each look what has become of it."""
    best = faces.largest()
    box, points = faces.boxes_xyxy[best].tolist(), faces.landmarks_xy[best]
    crop = align_face(image, points)
    vector = embedder(crop).vector
    # The first of each look is the face as it is, which needs no second time.
    known = {crop.tobytes(): vector}
    trials = []
    for look, value, worse in worsened(image, box, points):
        found = known.get(worse.tobytes())
        trials.append((look, value, embedder(worse).vector if found is None else found))
    return vector, trials


def _calibrate_looks(args: argparse.Namespace) -> int:
    runtime = runtime_of(args)
    paths = find_images(args.identities)
    names = relative_names(paths, args.identities)
    people: List[str] = []
    vectors: List[np.ndarray] = []
    trials: List[Tuple[int, str, float, np.ndarray]] = []
    detector = load(args.detector, kind=FaceDetector, runtime=runtime)
    embedder = load(args.model, kind=FaceEmbedder, runtime=runtime)
    with detector, embedder:
        found = progress(detector.stream(paths), len(paths))
        for name, (path, faces) in zip(names, found):
            if not isinstance(faces, ImageError) and not len(faces):
                faces = ImageError(f"{str(path)!r} shows no face that SCRFD finds")
            if isinstance(faces, ImageError):
                _log.warning("refused: %s", faces)
                continue
            vector, worse_ones = _made_worse(embedder, read_image_rgb(path), faces)
            trials += [(len(vectors), *worse) for worse in worse_ones]
            vectors.append(vector)
            people.append(name.rpartition("/")[0])
        settings = {
            "identities": args.identities.name,
            "people": len(set(people)),
            "pictures": len(vectors),
            "refused": len(paths) - len(vectors),
            "pictures_sha256": fingerprint_files(paths, names),
            "detector": detector.contract.card_id,
            "recogniser": embedder.contract.card_id,
            "recogniser_sha256": embedder.settings().get("model_sha256"),
            "fmr": args.fmr,
            "fnmr": args.fnmr,
        }
    if not trials:
        raise InputError(f"no picture in {str(args.identities)!r} has a face; see the lines above")
    numbers = np.unique(people, return_inverse=True)[1].ravel()
    of, kinds, values, worse = zip(*trials)
    cosine, missed = shares_missed(
        np.stack(vectors), numbers, np.stack(worse), np.array(of), args.fmr
    )
    limits = {}
    for look, (_, more_is_better) in LOOKS.items():
        of_look = (np.array(kinds) == look) & np.isfinite(missed)
        limits[look] = find_limit(
            np.array(values)[of_look], missed[of_look], args.fnmr, more_is_better=more_is_better
        )
    write_limits(args.output, limits, {**settings, "cosine": round(cosine, 4)})
    for look, limit in limits.items():
        why = "further on they are missed" if limit.reached else "the worst that was seen"
        print(f"{LOOKS[look][0]:14} {limit.limit:8.3f}  {why}")
    refused = len(paths) - len(vectors)
    print(f"{len(vectors)} pictures, {refused} refused; profile in {args.output}")
    return EXIT_SOME_REFUSED if refused else 0
