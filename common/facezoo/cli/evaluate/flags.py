"""Flags of the evaluations, apart from their code so that the help need not import that."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...fields import RATE, number, whole
from .. import flags
from ..options import add_normalizer_option
from ..thresholds import add_threshold

__all__ = [
    "add_detection_options",
    "add_landmark_options",
    "add_people_options",
    "add_quality_options",
    "add_recipe_option",
    "add_response_options",
    "add_verification_options",
]

# What the code offers; tests/contract/test_flags.py compares them.
CROPS = ("annotation", "points", "detector")
FLIPS = ("none", "sum")
PRESETS = ("eval", "demo", "vendor")
FACES = ("central", "largest")
PROTOCOLS = ("authors", "facenet")
DEGRADATIONS = ("blur", "shrink", "jpeg", "brightness", "contrast", "noise", "occlusion")
RATES = (1e-2, 1e-3, 1e-4)

_IOU = number(0, 1, without_low=True)
_RUN_FOLDER = "run folder, for resuming"


def add_detection_options(parser: argparse.ArgumentParser, with_inference: bool = False) -> None:
    """Add the flags of the evaluation of detections; common/eval/evaluation.py uses them too.

    Parameters
    ----------
    parser
        Parser of the command.
    with_inference
        Also allow photos and a model instead of predictions.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    if with_inference:
        _add_inference_options(parser, source)
    flags.add(
        source,
        "--pred",
        "predictions: a folder of <event>/<photo>.txt, a .tar.gz or .zip of it, or a .json "
        "(default: those of the model)",
    )
    flags.add(parser, "--gt", "folder with the four official wider_*_val.mat", required=True)
    flags.add(parser, "--iou", "smallest IoU of a hit", type=_IOU, default=0.5, metavar="X")
    flags.add(parser, "--per-event", "also compute the AP of each event", action="store_true")
    flags.add(
        parser,
        "--bootstrap",
        "also compute 95 %% intervals from N resamplings of the photos",
        type=whole(0, 10**6),
        default=0,
        metavar="N",
    )
    flags.add(parser, "--seed", "random seed of the resampling")
    flags.add(parser, "--json", "write the report without curves as JSON; - is the standard output")
    flags.add(parser, "--csv", "write the table of APs as CSV")
    flags.add(parser, "--plot", "plot precision against recall")
    flags.add(parser, "--html")
    flags.add(
        parser,
        "--strict",
        "exit with 3 if photos lack predictions or are not in the ground truth, with 1 if files "
        "are passed over",
        action="store_true",
    )


def _add_inference_options(parser: argparse.ArgumentParser, source: Any) -> None:
    flags.add(source, "--images", "photos, one folder per event (default: --pred is evaluated)")
    group = parser.add_argument_group("with --images")
    flags.add(
        group,
        "--detector",
        "SCRFD to evaluate (default: none, so it is needed)",
        old=("--model_prefix_path", "--model"),
    )
    flags.add(
        group,
        "--preset",
        "set of thresholds, those of the WIDER FACE evaluation, of the demo or of the vendor's "
        "runner; --score and --nms replace single ones",
        choices=PRESETS,
        default="eval",
        old=("--profile",),
    )
    for name in ("--score", "--nms"):
        flags.add(group, name, f"{flags.SHARED[name].meaning} (default: that of --preset)")
    flags.add(
        group,
        "--size",
        "a side of the detector's input, or HEIGHTxWIDTH, or auto, as much of the file's as the "
        "photo fills (default: that of the file)",
        auto=True,
    )
    flags.add(group, "--vdsp", old=("--vdsp_params_info",))
    flags.add_runtime(group)
    flags.add_reading(group, folders=False)
    _add_run_folder(group)
    flags.add(group, "--record", "write the numbers to this numerics.json")
    flags.add(
        group, "--ledger", "measure, print and write the cost of each deviation from the protocol"
    )
    flags.add(group, "--build")


def _add_run_folder(group: Any) -> None:
    flags.add(
        group,
        "--output",
        f"{_RUN_FOLDER} (default: none, so it is needed)",
        type=Path,
        metavar="DIR",
        old=("--save_dir",),
    )
    flags.add(group, "--overwrite")


def add_landmark_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the landmark evaluation."""
    source = parser.add_mutually_exclusive_group(required=True)
    flags.add(
        source,
        "--pred",
        "results.json of vsx_infer.py, infer.py or npz_decode.py (default: that of the model)",
    )
    flags.add(
        source,
        "--landmarks",
        "PIPNet or PFLD to run on the photos of GT (default: --pred is evaluated)",
        old=("--model_prefix_path", "--model"),
    )
    flags.add(
        parser,
        "--gt",
        "WFLW folder, as published or as written by preprocess_wflw.py or facezoo prepare",
        required=True,
    )
    add_normalizer_option(parser)
    flags.add(
        parser,
        "--json",
        "write the report with the error of each face as JSON; - is the standard output",
    )
    flags.add(parser, "--plot", "plot the cumulative error distribution")
    flags.add(parser, "--html")
    group = parser.add_argument_group("with --landmarks")
    flags.add(
        group,
        "--crop",
        "what the network sees: the annotated box, enlarged; a square around the annotated points; "
        "the model's crop of a detector's box",
        choices=CROPS,
        default="annotation",
    )
    flags.add_detector_options(
        group, meaning="SCRFD, for --crop detector and --ledger (default: none)"
    )
    flags.add(group, "--vdsp", old=("--vdsp_params_info",))
    flags.add(group, "--record", "write the numbers to this numerics.json")
    flags.add(
        group,
        "--ledger",
        "measure, print and write the cost of each crop and of each mistaken input",
    )
    flags.add(group, "--build")
    flags.add_runtime(group)
    flags.add_reading(group)


def add_verification_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the evaluation over a folder of people, or over a protocol."""
    source = parser.add_mutually_exclusive_group(required=True)
    flags.add(source, "--images", "images, one folder per person (default: those of the protocol)")
    flags.add(
        source,
        "--pairs",
        "a protocol: LFW's pairs.txt, CFP's folder, lists of AgeDB and CALFW, pair.list, CSV "
        "(default: the pairs of the folders)",
    )
    flags.add_detector_options(
        parser,
        meaning="SCRFD that finds the face to align (default: none, images must be aligned)",
    )
    flags.add(
        parser,
        "--embedder",
        "recogniser to evaluate",
        required=True,
        old=("--model_prefix_path", "--model"),
    )
    flags.add(
        parser,
        "--flip",
        "also embed the mirrored face and add it",
        choices=FLIPS,
        default="none",
    )
    flags.add(parser, "--vdsp", old=("--vdsp_params_info",))
    flags.add_runtime(parser.add_argument_group("runtime"))
    flags.add_reading(parser)
    flags.add(parser, "--seed", "random seed of the impostor pairs")
    flags.add(
        parser,
        "--folds",
        "folds of the accuracy, fewer where there are few pairs (default: 10, or the protocol's)",
    )
    flags.add(
        parser,
        "--all-pairs",
        "use all impostor pairs, not as many as genuine pairs; with --output: any number of "
        "images, with intervals by people and the errors of each person",
        action="store_true",
    )
    flags.add(
        parser, "--json", "write the report without the curve as JSON; - is the standard output"
    )
    flags.add(parser, "--plot", "plot the ROC")
    flags.add(parser, "--html")
    flags.add(parser, "--record", "write the numbers to this numerics.json")
    flags.add(parser, "--dataset", "name of the data in the report (default: the folder's)")
    group = parser.add_argument_group("with --pairs, or --images with --all-pairs")
    flags.add(
        group,
        "--photos",
        "folder of the photos that the pairs name (default: none, so --pairs needs it)",
    )
    _add_run_folder(group)
    flags.add(
        group,
        "--face",
        "face of a photo to use (default: the central one if it is known whose photo it is, else "
        "the largest)",
        choices=FACES,
    )
    flags.add(
        group,
        "--protocol",
        "how the accuracy is computed (default: authors)",
        choices=PROTOCOLS,
    )
    flags.add(
        group,
        "--ledger",
        "measure, print and write the cost of each choice from photo to embedding",
    )
    flags.add(group, "--build")
    flags.add(
        group,
        "--other-detector",
        "with --ledger: another SCRFD; may be repeated",
        action="append",
        default=[],
        metavar="MODEL",
    )


def _add_tables(parser: argparse.ArgumentParser) -> None:
    flags.add(parser, "--tables", required=True)
    flags.add(
        parser,
        "--settings",
        f"{flags.SHARED['--settings'].meaning} (default: the only one)",
    )


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the evaluation of clusters."""
    _add_tables(parser)
    add_threshold(parser)
    flags.add(parser, "--embedder", "recogniser of the tables", default="w600k_mbf")
    flags.add_runtime(parser.add_argument_group("runtime"))
    flags.add(parser, "--json")
    flags.add(parser, "--record", "write the numbers to this numerics.json")
    flags.add(parser, "--dataset", "name of the data in the report (default: the folder's)")


def add_identification_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the evaluation of identification."""
    _add_tables(parser)
    flags.add(parser, "--fpir")
    flags.add(parser, "--seed", "random seed of the intervals")
    flags.add(parser, "--json")
    flags.add(parser, "--record", "write the numbers to this numerics.json")
    flags.add(parser, "--dataset", "name of the data in the report (default: the folder's)")


def add_quality_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the evaluation of quality scores."""
    flags.add(
        parser,
        "--scores",
        "results.json of a runner, a .csv, or lines of path and score; may be repeated",
        action="append",
        required=True,
        metavar="NAME=FILE",
    )
    add_people_options(parser, required=False)
    flags.add(
        parser,
        "--no-ranking",
        "do not rank --copies, which are not listed from best to worst of each image",
        action="store_true",
    )
    flags.add(
        parser,
        "--detector",
        "detector whose score of each face of --images is compared too (default: not compared)",
    )
    flags.add(
        parser,
        "--fmr",
        "false match rates that fix the thresholds",
        type=RATE,
        nargs="+",
        default=list(RATES),
    )
    flags.add(
        parser,
        "--resamples",
        "bootstrap resamples of the people",
        type=whole(1, 10**6),
        default=1000,
        metavar="N",
    )
    flags.add(parser, "--seed", "random seed of pairs and bootstrap")
    flags.add(parser, "--json", "write the report as JSON; - is the standard output")
    flags.add(parser, "--plot", "plot the curves")
    flags.add(
        parser, "--record", "write the numbers of scores from our runners to this numerics.json"
    )
    flags.add(parser, "--dataset", "name of the faces in the report (default: the source's)")
    flags.add(parser, "--html")


def add_response_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the evaluation of quality scores under degradations."""
    flags.add(parser, "--images", "folder of aligned faces", required=True)
    flags.add(
        parser,
        "--list",
        "list of the images to use from the folder (default: all)",
        type=Path,
        metavar="LIST",
    )
    add_recipe_option(parser)
    flags.add(parser, "--vdsp", old=("--vdsp_params_info",))
    flags.add_runtime(parser.add_argument_group("runtime"))
    flags.add_reading(parser)
    flags.add(
        parser,
        "--kinds",
        "degradations to apply",
        nargs="+",
        choices=DEGRADATIONS,
        default=list(DEGRADATIONS),
    )
    flags.add(parser, "--json", "write the report as JSON; - is the standard output")
    flags.add(parser, "--plot", "plot the curves")


def add_recipe_option(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the model that gives the quality."""
    flags.add(parser, "--quality", required=True, old=("--model_prefix_path", "--model"))
    flags.add(parser, "--recipe")


def add_people_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the flags for the people and the similarities of the faces."""
    group = parser.add_argument_group("people")
    flags.add(group, "--embeddings")
    if not required:
        flags.add(
            group,
            "--images",
            "folder of the faces, whose sharpness is compared too (default: --embeddings alone)",
        )
    flags.add(
        group,
        "--embedder",
        "recogniser for --images",
        default="w600k_mbf",
        old=("--recognizer", "--recogniser"),
    )
    flags.add(group, "--embedder-card", old=("--recognizer_card", "--recogniser_card"))
    flags.add(group, "--references")
    flags.add(group, "--copies")
