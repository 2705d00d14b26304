r"""Measure thresholds and limits on your own images, and save them as a profile.

  facezoo calibrate quality --images DIR --model_prefix_path PREFIX --output quality.json
  facezoo calibrate quality --images DIR --model_prefix_path PREFIX --output quality.json \
      --recognizer w600k_mbf --fnmr 0.05 --fmr 1e-3
  facezoo calibrate similarity --identities DIR --model w600k_mbf --output similarity.json
  facezoo calibrate similarity --pairs pairs.txt --model onnx/magface_iresnet50.onnx \
      --detector scrfd_500m_bnkps --output similarity.json
  facezoo calibrate appearance --identities DIR --model w600k_mbf --output appearance.json

A profile belongs to one model file and is refused for another.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from ..datasets.scores import QualityScores
from ..errors import InputError
from ..evaluation.quality import FacePairs
from ..fields import RATE, SEED, number
from ..image.files import find_images, relative_names
from ..metrics.verification import check_impostors
from ..models import find_class
from ..models.magface.model import FaceEmbedder
from ..models.scrfd.model import FaceDetector
from ..pipeline.calibrate import (
    calibrate_appearance,
    calibrate_quality,
    calibrate_similarity,
    pairs_of_folders,
    read_pairs,
)
from ..pipeline.load import load
from ..profiles.appearance import MEASURES, write_appearance
from ..profiles.quality import QualityProfile, quality_at_fnmr, write_quality
from ..profiles.similarity import SimilarityProfile, write_similarity
from ..runs import Inputs
from .evaluate.quality import add_people_options, add_recipe_option, embeddings_of, pairs_of
from .options import (
    EXIT_SOME_REFUSED,
    add_model_options,
    add_output,
    add_runtime_options,
    progress,
    runtime_of,
)

__all__ = ["configure", "run"]

_FNMR = number(0, 1, without_high=True)
SHOWN = (1, 5, 10, 25, 50, 75, 90, 95, 99)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add one sub-command per kind of profile."""
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
    _add_output(quality)
    add_recipe_option(quality)
    add_model_options(quality)
    add_people_options(quality, required=True)
    quality.add_argument("--fnmr", type=_FNMR, help="wanted false non-match rate; needs people")
    quality.add_argument("--fmr", type=RATE, default=1e-3, help="false match rate for --fnmr")
    quality.add_argument("--seed", type=SEED, default=0, help="random seed of impostor pairs")
    quality.set_defaults(calibrate=_calibrate_quality)
    _add_similarity(kinds, parser)
    _add_appearance(kinds, parser, "appearance", help="limits of size, sharpness, yaw, truncation")
    # The old name works for one more version and is not shown in the help.
    _add_appearance(kinds, parser, "looks")


def _add_output(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "--output", required=True, metavar="FILE", help="the profile to write")


def run(args: argparse.Namespace) -> int:
    """Calibrate as the kind's sub-command says."""
    return int(args.calibrate(args))


def _calibrate_quality(args: argparse.Namespace) -> int:
    wants_rate = args.fnmr is not None
    kind, vdsp = find_class(args.recipe), args.vdsp_params_info
    with load(args.model_prefix_path, kind=kind, runtime=runtime_of(args), vdsp=vdsp) as model:
        # Before the scores, since the pairs may be too few for the rates.
        pairs = _pairs_for(args) if wants_rate else None
        profile, scores = calibrate_quality(
            model,
            args.images,
            thresholds=(lambda found: _at_fnmr(args, pairs, found)) if pairs else None,
            settings={"fnmr": args.fnmr, "fmr": args.fmr if wants_rate else None},
            progress=progress,
        )
    write_quality(args.output, profile)
    if pairs:
        print(f"{len(np.unique(pairs.people))} people")
    print("\n".join(_quality_lines(profile, scores.values)))
    return _finish(args, len(scores.names), profile.settings["refused"], profile.card)


def _pairs_for(args: argparse.Namespace) -> FacePairs:
    """Pair the faces for a false non-match rate; check that the images to score are theirs."""
    embeddings = embeddings_of(args)
    if embeddings is None:
        raise InputError("--fnmr needs --embeddings or --images")
    pairs = pairs_of(args, embeddings)
    check_impostors(args.fmr, int(np.count_nonzero(~pairs.is_same)))
    names = relative_names(find_images(args.images), args.images)
    QualityScores(names, np.zeros(len(names))).of(pairs.names)
    return pairs


def _at_fnmr(args: argparse.Namespace, pairs: FacePairs, scores: QualityScores) -> Dict[str, float]:
    """Return the threshold at the requested false non-match rate."""
    threshold = quality_at_fnmr(
        pairs.distances, pairs.is_same, pairs.quality(scores), args.fmr, args.fnmr
    )
    return {f"FNMR {args.fnmr:g} at FMR {args.fmr:g}": threshold}


def _quality_lines(profile: QualityProfile, values: np.ndarray) -> List[str]:
    lines = ["percentile " + " ".join(f"{share:8d}" for share in SHOWN)]
    lines += ["score      " + " ".join(f"{profile.percentiles[share]:8.3f}" for share in SHOWN)]
    for name, threshold in profile.thresholds.items():
        dropped = int((values < threshold).sum())
        lines.append(f"{name}: below {threshold:.4f}, {dropped} of {len(values)} images")
    return lines


def _finish(args: argparse.Namespace, used: int, refused: int, card: str) -> int:
    print(f"{used} images, {refused} refused; profile of {card} in {args.output}")
    return EXIT_SOME_REFUSED if refused else 0


# Similarity ---------------------------------------------------------------------------------------


def _add_similarity(kinds: Any, parser: argparse.ArgumentParser) -> None:
    similarity = kinds.add_parser(
        "similarity",
        help="similarity thresholds at false match rates",
        description="Thresholds at false match rates 1e-2, 1e-3 and 1e-4, with 95 % intervals, "
        "as cosine, L2 of\nunit vectors and angle. A rate has none where fewer than ten false "
        "matches are expected: 1e-2\nneeds 1,000 pairs of two people, such as five people with "
        "ten images each.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    source = similarity.add_mutually_exclusive_group(required=True)
    source.add_argument("--identities", type=Path, metavar="DIR", help="one folder per person")
    source.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="list: two images per line, then 1 for one person, 0 for two",
    )
    similarity.add_argument(
        "--model", required=True, metavar="M", help="recogniser: a card's id, or a file"
    )
    similarity.add_argument(
        "--detector",
        metavar="M",
        help="find and align the largest face first; without it images are aligned faces",
    )
    _add_output(similarity)
    similarity.add_argument("--seed", type=SEED, default=0, help="random seed of the intervals")
    add_runtime_options(similarity)
    similarity.set_defaults(calibrate=_calibrate_similarity)


def _calibrate_similarity(args: argparse.Namespace) -> int:
    runtime = runtime_of(args)
    pairs = pairs_of_folders(args.identities) if args.identities else read_pairs(args.pairs)
    Inputs(pairs.paths, pairs.names).refuse_file(args.output)
    with load(args.model, kind=FaceEmbedder, runtime=runtime) as embedder:
        detector: Optional[FaceDetector] = None
        if args.detector:
            detector = load(args.detector, kind=FaceDetector, runtime=runtime)
        profile = calibrate_similarity(
            embedder,
            pairs,
            detector=detector,
            seed=args.seed,
            settings={"detector": args.detector},
            progress=progress,
        )
        if detector is not None:
            detector.close()
    write_similarity(args.output, profile)
    print("\n".join(_similarity_lines(profile)))
    refused = profile.settings["refused"]
    return _finish(args, profile.settings["pictures"] - refused, refused, profile.card)


def _similarity_lines(profile: SimilarityProfile) -> List[str]:
    people = profile.settings.get("people")
    lines = [
        f"{people} people: " * (people is not None)
        + f"{profile.genuine} pairs of one person, {profile.impostors} of two"
    ]
    for point in profile.points:
        if point.refusal:
            lines.append(f"FMR {point.fmr:g}: no threshold, {point.refusal}")
            continue
        shown = ", ".join(
            f"{name} {value:.4f} ({min(ends):.4f} to {max(ends):.4f})"
            for name, (value, *ends) in point.scales().items()
        )
        lines.append(f"FMR {point.fmr:g}: {shown}; FNMR {point.fnmr:.4f}")
    return lines


# Appearance ---------------------------------------------------------------------------------------


def _add_appearance(kinds: Any, parser: argparse.ArgumentParser, name: str, **listed: str) -> None:
    appearance = kinds.add_parser(
        name,
        description="Each face is shrunk, blurred and truncated step by step, and compared with "
        "the person's\nother images as they are: a limit is where more than --fnmr of the "
        "pairs are missed. The yaw\nof a face cannot be changed; if no face was missed, the "
        "limit is the worst value in the images.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
        **listed,
    )
    appearance.add_argument(
        "--identities",
        type=Path,
        required=True,
        metavar="DIR",
        help="one folder of photos per person",
    )
    appearance.add_argument(
        "--model", required=True, metavar="M", help="recogniser: a card's id, or a file"
    )
    appearance.add_argument("--detector", default="scrfd_500m_bnkps", metavar="M", help="SCRFD")
    _add_output(appearance)
    appearance.add_argument(
        "--fnmr", type=number(0, 1), default=0.01, help="share of pairs that may be missed"
    )
    appearance.add_argument(
        "--fmr", type=RATE, default=1e-3, help="false match rate of the similarity threshold"
    )
    add_runtime_options(appearance)
    appearance.set_defaults(calibrate=_calibrate_appearance)


def _calibrate_appearance(args: argparse.Namespace) -> int:
    runtime = runtime_of(args)
    detector = load(args.detector, kind=FaceDetector, runtime=runtime)
    embedder = load(args.model, kind=FaceEmbedder, runtime=runtime)
    with detector, embedder:
        profile = calibrate_appearance(
            detector, embedder, args.identities, fmr=args.fmr, fnmr=args.fnmr, progress=progress
        )
    write_appearance(args.output, profile)
    for name, found in profile.found.items():
        why = "worse faces are missed" if found.reached else "the worst value in the images"
        print(f"{MEASURES[name].limit:14} {found.limit:8.3f}  {why}")
    settings = profile.settings
    print(f"{settings['people']} people")
    return _finish(args, settings["pictures"], settings["refused"], profile.card)
