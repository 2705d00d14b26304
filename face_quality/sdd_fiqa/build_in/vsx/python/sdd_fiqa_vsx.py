"""Score how useful faces are for recognition: aligned crops, or the faces of whole photos.

Writes SAVE_DIR/results.json, scores.csv and sorted.txt, lowest score first, and with
--contact_sheet an image of the faces in that order. Resumable: run the same command again.
"""

import argparse
from pathlib import Path

from facezoo import FaceDetector, FaceQuality, load
from facezoo.cli import options
from facezoo.datasets.scores import RESULTS_FILE, SORTED_FILE, finish_scores
from facezoo.errors import InputError
from facezoo.evaluation.quality import describe_model, quality_sheet
from facezoo.files import sha256_of
from facezoo.image.files import find_images, relative_names, write_image_rgb
from facezoo.pipeline.photo import Predictor, in_recipe_form
from facezoo.profiles.quality import read_quality
from facezoo.runs import Inputs

SHEET_FILE = "contact_sheet.jpg"
LISTED = 5


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--image_dir", type=Path, required=True, help="faces, or photos")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    help_faces = "aligned: an image is a face, aligned to 112x112; detect: find and align the faces"
    parser.add_argument(
        "--faces", choices=("aligned", "detect"), default="aligned", help=help_faces
    )
    parser.add_argument("--detector", type=Path, metavar="PREFIX", help="SCRFD, to find the faces")
    help_profile = "profile of facezoo calibrate quality, to add the percentile of each score"
    parser.add_argument("--profile", type=Path, metavar="FILE", help=help_profile)
    options.add_flag(
        parser, "--contact_sheet", action="store_true", help="write an image of all faces"
    )
    options.add_model_options(parser)
    options.add_run_options(parser)
    return parser


def open_model(args: argparse.Namespace):
    if (args.faces == "detect") != (args.detector is not None):
        raise InputError("--faces detect and --detector PREFIX go together; give both or neither")
    runtime, vdsp = options.runtime_of(args), args.vdsp_params_info
    quality = load(args.model_prefix_path, kind=FaceQuality, runtime=runtime, vdsp=vdsp)
    if args.detector is None:
        return quality
    return Predictor(load(args.detector, kind=FaceDetector, runtime=runtime), quality=quality)


def run(args: argparse.Namespace) -> int:
    paths = find_images(args.image_dir)
    names = relative_names(paths, args.image_dir)

    def show():
        if args.contact_sheet:
            sheet = quality_sheet(args.save_dir / RESULTS_FILE, args.image_dir)
            write_image_rgb(args.save_dir / SHEET_FILE, sheet)
        lines = (args.save_dir / SORTED_FILE).read_text(encoding="utf-8").splitlines()
        shortened = [*lines[:LISTED], "...", *lines[-LISTED:]]
        print("\n".join(shortened if len(lines) > 2 * LISTED else lines))

    others = (args.image_dir, args.model_prefix_path, args.detector, args.profile)
    with open_model(args) as model:
        network = model if args.detector is None else model.quality
        head = {"faces": args.faces, **describe_model(network, args.model_prefix_path)}
        profile = args.profile and read_quality(args.profile, head["model_sha256"])
        profile_sha256 = args.profile and sha256_of(args.profile)
        return options.run_items(
            args,
            Inputs(paths, names, *others),
            lambda left: map(in_recipe_form, model.stream(left)),
            command="sdd_fiqa_vsx",
            settings={**model.settings(), "faces": args.faces, "profile": profile_sha256},
            finish=lambda run: finish_scores(run, head, profile and profile.percentile_of),
            afterwards=show,
        )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
