"""Evaluation of quality scores: error versus discard, and response to known degradations.

A part of ``facezoo evaluate``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from ... import __version__
from ...datasets.degraded import read_copies, read_references
from ...datasets.embeddings import Embeddings, read_embeddings
from ...datasets.image_list import inside, people_of, read_lines, read_paths
from ...datasets.scores import QualityScores, read_scores
from ...errors import DatasetError, GraphError, ImageError, InputError
from ...evaluation.embeddings import embed_pictures
from ...evaluation.measured import MeasuredList
from ...evaluation.quality import (
    CopyRanking,
    FacePairs,
    Response,
    baseline_scores,
    brightness_change,
    compare_scores,
    face_pairs,
    rank_copies,
    response_curves,
)
from ...image.degrade import DEGRADATIONS, LEVELS
from ...image.files import find_images, relative_names
from ...machine import describe_machine
from ...metrics.quality import DiscardCurve, Interval, area_ratio, spearman
from ...metrics.verification import check_impostors
from ...models import find_class
from ...models.magface.model import FaceEmbedder
from ...models.scrfd.model import FaceDetector
from ...pipeline.load import load
from ...profiles.similarity import impostor_count, person_numbers
from ...reports.numerics import Measurement, Metric, record_measurement
from ..options import progress, runtime_of
from ..outputs import write_report
from .html_reports import show_discards

__all__ = [
    "embeddings_of",
    "pairs_of",
    "run_quality",
    "run_response",
]


SCHEMA, RESPONSE_SCHEMA = "facezoo.discard/1", "facezoo.response/1"


def embeddings_of(
    args: argparse.Namespace, scores: Iterable[QualityScores] = ()
) -> Optional[Embeddings]:
    """Read or compute the embeddings for the flags; None without such flags.

    What images to embed cannot give is said before: people, pairs for a false match rate, and the
    ``scores`` of each.
    """
    if args.embeddings is not None:
        return read_embeddings(args.embeddings)
    if args.images is None:
        return None
    paths = find_images(args.images)
    names = relative_names(paths, args.images)
    impostors = impostor_count(person_numbers(people_of(names, str(args.images))))
    rates = args.fmr if isinstance(args.fmr, list) else [args.fmr]
    check_impostors(max(rates), impostors)
    for one in scores:
        one.of(names)
    vectors: List[np.ndarray] = []
    with load(args.embedder, kind=FaceEmbedder, card=args.embedder_card) as recognizer:
        for path, found in progress(embed_pictures(recognizer.backend, paths), len(paths)):
            if isinstance(found, ImageError):
                raise DatasetError(
                    f"{found}; an evaluation needs every image; fix or remove it: {str(path)!r}"
                )
            vectors.append(found.vector)
    return Embeddings(tuple(names), np.stack(vectors))


def pairs_of(args: argparse.Namespace, embeddings: Embeddings) -> FacePairs:
    """Pair faces according to the flags; people are the folders of the images."""
    references = originals = None
    if args.references is not None:
        references = read_references(args.references, embeddings.names)
    if args.copies is not None:
        originals = read_copies(args.copies, embeddings.names)
    return face_pairs(embeddings, references=references, originals=originals, seed=args.seed)


def _named_scores(words: List[str]) -> Dict[str, QualityScores]:
    scores = {}
    for word in words:
        name, equals, file = word.partition("=")
        if not name or not equals or not file or name in scores:
            raise InputError(f"--scores {word!r} must be NAME=FILE, each name once")
        scores[name] = read_scores(Path(file))
    return scores


def run_quality(args: argparse.Namespace) -> int:
    """Compare the scores, print, and write the requested files."""
    scores = _named_scores(args.scores)
    if args.record and not args.dataset:
        raise InputError("--record needs --dataset, the description of the data")
    if args.detector is not None and args.images is None:
        raise InputError("--detector needs --images, the faces that it is to find")
    embeddings = embeddings_of(args, scores.values())
    if embeddings is None and (args.copies is None or args.no_ranking):
        raise InputError("give --embeddings or --images for errors, or --copies for the ranking")
    if embeddings is not None and args.images is not None:
        _check_images(args, embeddings)
    for name, baseline in _baselines(args).items():
        scores.setdefault(name, baseline)
    entry: Dict[str, Any] = {"schema": SCHEMA, "facezoo": __version__}
    if args.copies is not None and not args.no_ranking:
        rankings = {name: rank_copies(one, _copies(args.copies)) for name, one in scores.items()}
        print("\n".join(_ranking_lines(rankings)))
        entry["ranking"] = {name: vars(ranking) for name, ranking in rankings.items()}
    if embeddings is not None:
        pairs = pairs_of(args, embeddings)
        curves, left_out = compare_scores(
            pairs, scores, args.fmr, resamples=args.resamples, seed=args.seed, progress=progress
        )
        source = args.embeddings or args.images
        measured = MeasuredList.of(args.dataset or source.name, "faces", pairs.names)
        print("\n".join([*_curve_lines(pairs, curves, left_out), measured.line()]))
        entry.update(_curves_entry(args, pairs, curves, left_out), measured=measured.to_dict())
        if args.record:
            _record(args, scores, curves, measured)
        if args.plot:
            # A local import, since matplotlib is optional.
            from ...reports.plots import plot_discard_curves

            plot_discard_curves(curves, args.plot)
        if args.html:
            show_discards(args, measured, curves)
    if args.json:
        write_report(args.json, entry)
    return 0


def _check_images(args: argparse.Namespace, embeddings: Embeddings) -> None:
    """Refuse images that are not those of the embeddings, before they are measured."""
    known = set(relative_names(find_images(args.images), args.images))
    missing = [name for name in embeddings.face_names if name not in known]
    if missing:
        raise InputError(
            f"{str(args.images)!r} lacks {len(missing)} of the {len(embeddings.face_names)} images "
            f"of the embeddings, such as {missing[0]!r}; name the folder that was embedded"
        )


def _baselines(args: argparse.Namespace) -> Dict[str, QualityScores]:
    """Score the images, if there are any, without a quality network."""
    if args.images is None:
        return {}
    paths = find_images(args.images)
    names = relative_names(paths, args.images)
    if args.detector is None:
        return baseline_scores(paths, names)
    try:
        # Enlarged to the usual input, such a face is larger than those that it was trained on.
        detector = load(args.detector, kind=FaceDetector, size="auto")
    except GraphError:  # The size of its input is fixed.
        detector = load(args.detector, kind=FaceDetector)
    with detector:
        return baseline_scores(paths, names, detector)


def _record(
    args: argparse.Namespace,
    scores: Mapping[str, QualityScores],
    curves: Mapping[str, Mapping[float, DiscardCurve]],
    measured: MeasuredList,
) -> None:
    """Write one entry per runner's scores to a numerics.json."""
    machine = describe_machine()
    for name, one in scores.items():
        if one.made_by.get("build") is None:
            continue
        metrics: Dict[str, Metric] = {}
        for rate, curve in curves[name].items():
            area = round(100 * curve.relative_auc.value, 4)
            metrics[f"AUC at FMR {rate:g}"] = Metric(area, "% of random discard's", False)
        if args.copies is not None and not args.no_ranking:
            ranking = rank_copies(one, _copies(args.copies))
            rank = round(ranking.spearman, 4)
            metrics["Spearman within a picture"] = Metric(rank, "from -1 to 1", False)
        measurement = Measurement(
            card=one.made_by["card"],
            build=one.made_by["build"],
            engine=one.made_by["engine"],
            dataset=str(measured),
            settings={"model sha256": str(one.made_by["model_sha256"])[:12]},
            metrics=metrics,
            images_per_second=None,
            machine=f"{machine['cores']} cores of {machine['cpu']}",
            measured=measured.to_dict(),
            command="facezoo evaluate quality --scores NAME=results.json --embeddings NPZ "
            "--references references.txt --copies copies.txt "
            f"--fmr {' '.join(f'{rate:g}' for rate in args.fmr)}",
        )
        record_measurement(args.record, measurement)


def _copies(path: Path) -> Iterator[Tuple[str, str]]:
    for _, line in read_lines(path):
        copy, _, original = line.partition(" ")
        yield copy, original.strip()


def _ranking_lines(rankings: Mapping[str, CopyRanking]) -> Iterator[str]:
    width = max(len("scores"), *map(len, rankings))
    yield f"{'scores':{width}}   images   Spearman within an image  worst copy below its original"
    for name, one in rankings.items():
        below = f"{100 * one.last_below_original:.1f} %"
        yield f"{name:{width}} {one.pictures:8d}  {one.spearman:25.4f}  {below:>29}"


def _curve_lines(
    pairs: FacePairs,
    curves: Mapping[str, Mapping[float, DiscardCurve]],
    left_out: Mapping[float, str],
) -> Iterator[str]:
    genuine = int(pairs.is_same.sum())
    most = np.bincount(pairs.people[pairs.is_same, 0]).max()
    yield (
        f"{genuine} genuine and {len(pairs.distances) - genuine} impostor pairs of "
        f"{len(np.unique(pairs.people))} people, {100 * most / genuine:.1f} % of the genuine ones "
        "of a single person; in brackets: 95 % intervals, people resampled"
    )
    width = max(len("scores"), *map(len, curves))
    yield (
        f"{'scores':{width}}    FMR    FNMR     AUC  AUC to 0.30  "
        f"{'AUC over random':23}  {'AOC':23}  below random"
    )
    for name, by_rate in curves.items():
        for rate, one in by_rate.items():
            below = "yes" if one.relative_auc.high < 1.0 else "no"
            yield (
                f"{name:{width}} {rate:6g}  {one.fnmr[0]:.4f}  {one.auc.value:.4f}  "
                f"{one.partial_auc.value:11.4f}  {_shown(one.relative_auc):23}  "
                f"{_shown(one.aoc):23}  {below}"
            )
    for name, rate, ratio in _ratios(curves):
        yield f"area over that of {name} at FMR {rate:g}: {_shown(ratio)}"
    for rate, reason in left_out.items():
        yield f"FMR {rate:g} skipped: {reason}"


def _ratios(
    curves: Mapping[str, Mapping[float, DiscardCurve]],
) -> Iterator[Tuple[str, float, Interval]]:
    """Yield what the first score is compared with: the other score, rate, ratio of the areas."""
    first, *others = curves
    for name in others:
        for rate, curve in curves[name].items():
            yield name, rate, area_ratio(curves[first][rate], curve)


def _shown(one: Interval) -> str:
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _curves_entry(
    args: argparse.Namespace,
    pairs: FacePairs,
    curves: Mapping[str, Mapping[float, DiscardCurve]],
    left_out: Mapping[float, str],
) -> Dict[str, Any]:
    genuine = int(pairs.is_same.sum())
    return {
        "pairs": {
            "genuine": genuine,
            "impostor": len(pairs.distances) - genuine,
            "people": len(np.unique(pairs.people)),
        },
        "settings": {"bootstrap": "people", "resamples": args.resamples, "seed": args.seed},
        "curves": [
            {
                "scores": name,
                "fmr": rate,
                "threshold": one.threshold,
                **{
                    key: vars(getattr(one, key))
                    for key in ("auc", "partial_auc", "relative_auc", "aoc")
                },
                **{key: getattr(one, key).tolist() for key in ("discards", "fnmr", "low", "high")},
            }
            for name, by_rate in curves.items()
            for rate, one in by_rate.items()
        ],
        "ratios": [
            {"scores": name, "fmr": rate, "ratio": vars(ratio)}
            for name, rate, ratio in _ratios(curves)
        ],
        "left_out": {f"{rate:g}": reason for rate, reason in left_out.items()},
    }


def run_response(args: argparse.Namespace) -> int:
    """Score degraded faces, print, and write the requested files."""
    paths = find_images(args.images)
    if args.list is not None:
        paths = [inside(args.images, name) for name in read_paths(args.list)]
    kind, vdsp = find_class(args.recipe), args.vdsp
    with load(args.quality, kind=kind, runtime=runtime_of(args), vdsp=vdsp) as model:
        levels = {kind: LEVELS[kind] for kind in args.kinds}
        responses = response_curves(model, paths, levels, progress)
        card = model.contract.card_id
    measured = MeasuredList.of(args.images.name, "faces", relative_names(paths, args.images))
    print("\n".join([*_response_lines(responses), measured.line()]))
    if args.plot:
        # A local import, since matplotlib is optional.
        from ...reports.plots import plot_responses

        plot_responses(responses, args.plot)
    if args.json:
        kinds = {
            kind: {"levels": one.levels.tolist(), "scores": one.scores.tolist()}
            for kind, one in responses.items()
        }
        entry = {
            "schema": RESPONSE_SCHEMA,
            "facezoo": __version__,
            "card": card,
            "measured": measured.to_dict(),
            "faces": list(relative_names(paths, args.images)),
            "responses": kinds,
        }
        write_report(args.json, entry)
    return 0


def _response_lines(responses: Mapping[str, Response]) -> Iterator[str]:
    for kind, one in responses.items():
        yield f"{kind}: {DEGRADATIONS[kind]}; {len(one.scores)} faces"
        yield "  level   " + " ".join(f"{level:8g}" for level in one.levels)
        yield "  median  " + " ".join(f"{score:8.2f}" for score in np.median(one.scores, axis=0))
        if kind != "brightness":
            # Too dark and too bright are both bad, so brightness has no order.
            ranks = [spearman(one.levels, row) for row in one.scores]
            yield f"  Spearman of level and score, mean over faces: {np.nanmean(ranks):.4f}"
    if "brightness" in responses:
        moved, spread = brightness_change(responses)
        share = f"{100 * moved / spread:.1f} %" if spread else "none"
        yield (
            f"half or twice the pixel values change a score by {moved:.2f} (median of the larger), "
            f"{share} of the spread of all scores above, {spread:.2f} from 5 to 95 %"
        )
