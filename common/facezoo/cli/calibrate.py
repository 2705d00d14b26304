r"""Find out what scores mean on your own pictures, and keep it as a profile.

  facezoo calibrate quality --images DIR --model_prefix_path PREFIX --output quality.json
  facezoo calibrate quality --images DIR --model_prefix_path PREFIX --output quality.json \
      --recognizer w600k_mbf --fnmr 0.05 --fmr 1e-3

A profile belongs to one model file and is refused for another.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Dict, List

import numpy as np

from ..datasets.scores import QualityScores
from ..errors import ImageError, InputError
from ..image.files import find_images, relative_names
from ..pipeline import load
from ..quality_profile import (
    QualityProfile,
    fnmr_threshold,
    make_profile,
    write_profile,
)
from ..runs import fingerprint_files
from .evaluate_quality import add_people_options, embeddings_of, pairs_of
from .options import EXIT_SOME_REFUSED, add_model_options, progress, runtime_of

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
        "folders are people, the one for a wanted false non-match rate.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    quality.add_argument("--images", type=Path, required=True, metavar="DIR", help="aligned faces")
    quality.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the profile to write"
    )
    add_model_options(quality)
    add_people_options(quality, required=True)
    quality.add_argument("--fnmr", type=float, help="wanted false non-match rate; needs people")
    quality.add_argument("--fmr", type=float, default=1e-3, help="at this false match rate")
    quality.add_argument("--seed", type=int, default=0, help="of the impostor pairs, if many")
    quality.set_defaults(calibrate=_calibrate_quality)


def run(args: argparse.Namespace) -> int:
    """Calibrate as the kind's sub-command says."""
    return int(args.calibrate(args))


def _calibrate_quality(args: argparse.Namespace) -> int:
    paths = find_images(args.images)
    names = relative_names(paths, args.images)
    scored: List[str] = []
    values: List[float] = []
    with load("sdd_fiqa", args.model_prefix_path, **runtime_of(args)) as model:
        card, sha256 = model.contract.card_id, model.settings().get("model_sha256")
        results = progress(model.stream(paths), len(paths))
        for name, (_, found) in zip(names, results):
            if isinstance(found, ImageError):
                _log.warning("refused: %s", found)
            else:
                scored.append(name)
                values.append(found.value)
    scores = QualityScores(tuple(scored), np.array(values), None)
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
    threshold = fnmr_threshold(pairs, pairs.quality(scores), args.fmr, args.fnmr)
    return {f"FNMR {args.fnmr:g} at FMR {args.fmr:g}": threshold}


def _lines(profile: QualityProfile, values: np.ndarray) -> List[str]:
    lines = ["percentile " + " ".join(f"{share:8d}" for share in SHOWN)]
    lines += ["score      " + " ".join(f"{profile.percentiles[share]:8.3f}" for share in SHOWN)]
    for name, threshold in profile.thresholds.items():
        dropped = int((values < threshold).sum())
        lines.append(f"{name}: below {threshold:.4f}, {dropped} of {len(values)} pictures")
    return lines
