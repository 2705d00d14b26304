r"""Measure thresholds and limits on your own images, and save them as a profile.

  facezoo calibrate quality --images faces --quality deploy_weights/x/mod --output quality.json
  facezoo calibrate quality --images faces --quality deploy_weights/x/mod --output quality.json \
      --embedder w600k_mbf --fnmr 0.05 --fmr 1e-3
  facezoo calibrate similarity --images people --embedder w600k_mbf --output similarity.json
  facezoo calibrate similarity --pairs pairs.txt --embedder onnx/magface_iresnet50.onnx \
      --detector scrfd_500m_bnkps --output similarity.json
  facezoo calibrate appearance --images people --embedder w600k_mbf --output appearance.json
  facezoo calibrate identification --images people --embedder w600k_mbf --output who.json

A profile belongs to one model file and is refused for another.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, List, Optional, cast

from .. import __version__
from ..errors import InputError
from ..fields import number
from ..files import counted, write_json
from . import flags
from .evaluate.flags import add_people_options, add_recipe_option
from .options import EXIT_SOME_REFUSED, progress, runtime_of
from .outputs import OutputFile

if TYPE_CHECKING:
    import numpy as np

    from ..datasets.embeddings import Embeddings
    from ..datasets.scores import QualityScores
    from ..evaluation.quality import FacePairs
    from ..people.faces import EmbeddedFaces
    from ..profiles.quality import QualityProfile, RateThreshold
    from ..profiles.similarity import SimilarityProfile

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
    flags.add(quality, "--images", "aligned faces", required=True)
    _add_output(quality)
    add_recipe_option(quality)
    flags.add(quality, "--vdsp", old=("--vdsp_params_info",))
    flags.add_runtime(quality.add_argument_group("runtime"))
    flags.add_reading(quality)
    add_people_options(quality, required=True)
    flags.add(
        quality,
        "--fnmr",
        "wanted false non-match rate; needs people (default: no threshold for one)",
        type=_FNMR,
    )
    flags.add(quality, "--fmr", "false match rate for --fnmr")
    flags.add(quality, "--seed", "random seed of impostor pairs, interval and parts")
    quality.set_defaults(calibrate=_calibrate_quality)
    _add_similarity(kinds, parser)
    _add_appearance(kinds, parser, "appearance", help="limits of size, sharpness, yaw, truncation")
    _add_identification(kinds, parser)
    # The old name works for one more version and is not shown in the help.
    _add_appearance(kinds, parser, "looks")


def _add_output(parser: argparse.ArgumentParser) -> None:
    flags.add(
        parser,
        "--output",
        "the profile to write",
        action=OutputFile,
        required=True,
        metavar="FILE",
    )


def run(args: argparse.Namespace) -> int:
    """Calibrate as the kind's sub-command says."""
    return int(args.calibrate(args))


def _calibrate_quality(args: argparse.Namespace) -> int:
    from ..models import find_class
    from ..pipeline.calibrate import calibrate_quality
    from ..pipeline.load import load
    from ..profiles.quality import write_quality

    wants_rate = args.fnmr is not None
    kind, vdsp = find_class(args.recipe), args.vdsp
    with load(args.quality, kind=kind, runtime=runtime_of(args), vdsp=vdsp) as model:
        # Before the scores, since the pairs may be too few for the rates.
        pairs = _pairs_for(args) if wants_rate else None
        profile, scores = calibrate_quality(
            model,
            args.images,
            rates=(args.fmr, args.fnmr),
            place=(lambda found: _at_fnmr(args, pairs, found)) if pairs else None,
            progress=progress,
        )
    write_quality(args.output, profile)
    if pairs:
        print(f"{len(set(pairs.people.ravel().tolist()))} people")
    print("\n".join(_quality_lines(profile, scores.values)))
    return _finish(args, len(scores.names), profile.settings["refused"], profile.card)


def _pairs_for(args: argparse.Namespace) -> FacePairs:
    """Pair the faces for a false non-match rate; check that the images to score are theirs."""
    import numpy as np

    from ..datasets.scores import QualityScores
    from ..image.files import find_images, relative_names
    from ..metrics.verification import check_impostors
    from .evaluate.quality import embeddings_of, pairs_of

    # --images is required.
    pairs = pairs_of(args, cast("Embeddings", embeddings_of(args)))
    check_impostors(args.fmr, int(np.count_nonzero(~pairs.is_same)))
    names = relative_names(find_images(args.images), args.images)
    QualityScores(names, np.zeros(len(names))).of(pairs.names)
    return pairs


def _at_fnmr(args: argparse.Namespace, pairs: FacePairs, scores: QualityScores) -> RateThreshold:
    """Return the threshold at the requested false non-match rate."""
    from ..profiles.quality import quality_at_fnmr

    quality = pairs.quality(scores)
    return quality_at_fnmr(
        pairs.distances, pairs.people, quality, args.fmr, args.fnmr, seed=args.seed
    )


def _quality_lines(profile: QualityProfile, values: np.ndarray) -> List[str]:
    lines = ["percentile " + " ".join(f"{share:8d}" for share in SHOWN)]
    lines += ["score      " + " ".join(f"{profile.percentiles[share]:8.3f}" for share in SHOWN)]
    for name, threshold in profile.thresholds.items():
        dropped = int((values < threshold).sum())
        lines.append(f"{name}: below {threshold:.4f}, {dropped} of {len(values)} images")
    if profile.settings.get("held_out_fnmr") is not None:
        low, high = profile.settings["interval"]
        if threshold <= values.min():
            lines.append("this rate is reached without discarding")
        lines.append(
            f"95 % interval of the last, people resampled: {low:.4f} to {high:.4f}; "
            f"FNMR of people held out: {profile.settings['held_out_fnmr']:.4f}"
        )
    return lines


def _finish(args: argparse.Namespace, used: int, refused: int, card: str) -> int:
    print(f"{counted(used, 'image')}, {refused} refused; profile of {card} in {args.output}")
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
    _add_people(source, default=" (default: the pairs of a list)")
    flags.add(
        source,
        "--pairs",
        "LFW's pairs.txt, a table (.csv) with the columns first, second and same, or a list: two "
        "images per line, then 1 for one person, 0 for two (default: those of the folders)",
    )
    flags.add(
        similarity,
        "--photos",
        "folder of the images that pairs name (default: found from the place of the list)",
    )
    _add_embedder(similarity)
    flags.add_detector_options(
        similarity,
        meaning="find and align the largest face first (default: images are aligned faces)",
    )
    _add_output(similarity)
    flags.add(similarity, "--seed", "random seed of the intervals")
    flags.add_runtime(similarity.add_argument_group("runtime"))
    flags.add_reading(similarity)
    similarity.set_defaults(calibrate=_calibrate_similarity)


def _add_people(parser: Any, default: str = "", **options: Any) -> None:
    text = f"one folder of images per person{default}"
    flags.add(parser, "--images", text, old=("--identities",), **options)


def _add_embedder(parser: argparse.ArgumentParser) -> None:
    flags.add(parser, "--embedder", "recogniser to calibrate", required=True, old=("--model",))


def _calibrate_similarity(args: argparse.Namespace) -> int:
    from ..models.magface.model import FaceEmbedder
    from ..models.scrfd.model import FaceDetector
    from ..pipeline.calibrate import calibrate_similarity, pairs_of_folders, read_pairs
    from ..pipeline.load import load
    from ..profiles.similarity import write_similarity
    from ..runs import Inputs

    runtime = runtime_of(args)
    if args.images and args.photos:
        raise InputError("--photos is the folder of --pairs; --images names its own")
    pairs = pairs_of_folders(args.images) if args.images else read_pairs(args.pairs, args.photos)
    Inputs(pairs.paths, pairs.names).refuse_file(args.output)
    with load(args.embedder, kind=FaceEmbedder, runtime=runtime) as embedder:
        detector: Optional[FaceDetector] = None
        if args.detector:
            detector = load(
                args.detector, kind=FaceDetector, runtime=runtime, **flags.detector_options(args)
            )
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
    _add_people(appearance, required=True)
    _add_embedder(appearance)
    flags.add_detector_options(appearance, default="scrfd_500m_bnkps")
    _add_output(appearance)
    flags.add(
        appearance, "--fnmr", "share of pairs that may be missed", type=number(0, 1), default=0.01
    )
    flags.add(appearance, "--fmr", "false match rate of the similarity threshold")
    flags.add_runtime(appearance.add_argument_group("runtime"))
    flags.add_reading(appearance)
    appearance.set_defaults(calibrate=_calibrate_appearance)


def _calibrate_appearance(args: argparse.Namespace) -> int:
    from ..models.magface.model import FaceEmbedder
    from ..models.scrfd.model import FaceDetector
    from ..pipeline.calibrate import calibrate_appearance
    from ..pipeline.load import load
    from ..profiles.appearance import write_appearance
    from ..profiles.measures import MEASURES

    runtime = runtime_of(args)
    detector = load(
        args.detector, kind=FaceDetector, runtime=runtime, **flags.detector_options(args)
    )
    embedder = load(args.embedder, kind=FaceEmbedder, runtime=runtime)
    with detector, embedder:
        profile = calibrate_appearance(
            detector, embedder, args.images, fmr=args.fmr, fnmr=args.fnmr, progress=progress
        )
    write_appearance(args.output, profile)
    for name, found in profile.found.items():
        why = "worse faces are missed" if found.reached else "the worst value in the images"
        print(f"{MEASURES[name].limit:14} {found.limit:8.3f}  {why}")
    settings = profile.settings
    print(f"{settings['people']} people")
    return _finish(args, settings["pictures"], settings["refused"], profile.card)


# Identification -----------------------------------------------------------------------------------


def _add_identification(kinds: Any, parser: argparse.ArgumentParser) -> None:
    identification = kinds.add_parser(
        "identification",
        help="rates of strangers named and people missed, by the size of a gallery",
        description="For galleries of 10, 30, 100, ... of your people, with one photo each: the "
        "cosine at\nwhich a share of strangers' photos is given a name (FPIR 0.1, 0.01, 0.001), "
        "and the share\nof photos of enrolled people that is missed there (FNIR). Others are "
        "strangers, half of\nall people at least. Needs the extra gallery.",
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    source = identification.add_mutually_exclusive_group(required=True)
    _add_people(source, default=" (default: those of --tables)")
    flags.add(
        source,
        "--tables",
        f"{flags.SHARED['--tables'].meaning} (default: the images are embedded)",
    )
    flags.add(identification, "--embedder", "recogniser to calibrate (default: that of --tables)")
    flags.add_detector_options(identification, default="scrfd_500m_bnkps")
    _add_output(identification)
    flags.add(identification, "--seed", "random seed of the draws and the intervals")
    flags.add_runtime(identification.add_argument_group("runtime"))
    flags.add_reading(identification)
    identification.set_defaults(calibrate=_calibrate_identification)


def _calibrate_identification(args: argparse.Namespace) -> int:
    from ..datasets.image_list import people_of
    from ..people.faces import read_faces
    from ..people.identify import calibrate_identification, curve_lines

    every = read_faces(args.tables) if args.tables else _embedded(args)
    source = str(args.tables or args.images)
    faces = every.one_per_photo("central")
    curve = calibrate_identification(faces, people_of(faces.photos, source), seed=args.seed)
    print("\n".join(curve_lines(curve)))
    refused = len({one.photo for one in every.left_out} - set(faces.photos))
    entry = {
        "schema": "facezoo.identification_profile/1",
        "facezoo": __version__,
        "card": every.space.model,
        "model_sha256": every.space.model_sha256,
        "sizes": [one.to_dict() for one in curve],
        "settings": {"pictures": len(faces) + refused, "refused": refused, "seed": args.seed},
    }
    write_json(args.output, entry)
    return _finish(args, len(faces), refused, every.space.model)


def _embedded(args: argparse.Namespace) -> EmbeddedFaces:
    from ..image.files import find_images, relative_names
    from ..models.magface.model import FaceEmbedder
    from ..models.scrfd.model import FaceDetector
    from ..people.faces import faces_of_photos
    from ..pipeline.load import load
    from ..pipeline.photo import Predictor

    if not args.embedder:
        raise InputError("--images need a recogniser: give --embedder MODEL")
    runtime, given = runtime_of(args), flags.detector_options(args)
    paths = find_images(args.images)
    detector = load(args.detector, kind=FaceDetector, runtime=runtime, **given)
    embedder = load(args.embedder, kind=FaceEmbedder, runtime=runtime)
    with Predictor(detector, embedder=embedder) as model:
        return faces_of_photos(model, paths, relative_names(paths, args.images))
