"""Find 98 landmarks on faces: on WFLW, on a folder of face crops, or on any photos.

Writes SAVE_DIR/results.json, with --draw SAVE_DIR/pictures, and on WFLW SAVE_DIR/metrics.json.
Resumable: run the same command again.
"""

import argparse
from pathlib import Path

from facezoo import FaceDetector, LandmarkDetector, load
from facezoo.cli import options
from facezoo.errors import InputError
from facezoo.evaluation import landmarks as evaluation
from facezoo.image.draw import draw_landmarks, write_drawing
from facezoo.image.files import names_with_suffix
from facezoo.models.pipnet.decode import read_meanface
from facezoo.pipeline.photo import Predictor, in_recipe_form
from facezoo.runs import Inputs


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--data_dir", type=Path, required=True, help="WFLW, or images")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    help_crop = "annotation: an image is a face, cut as for training; detector: find the faces"
    parser.add_argument("--crop", choices=evaluation.CROPS, default="annotation", help=help_crop)
    parser.add_argument("--detector", type=Path, metavar="PREFIX", help="SCRFD, to find the faces")
    options.add_flag(parser, "--meanface_txt", type=Path, help="another mean face than the model's")
    options.add_normalizer_option(parser)
    parser.add_argument("--draw", action="store_true", help="also write images with landmarks")
    options.add_model_options(parser)
    options.add_run_options(parser)
    return parser


def open_model(args: argparse.Namespace):
    if (args.crop == "detector") != (args.detector is not None):
        raise InputError("--crop detector and --detector PREFIX go together; give both or neither")
    given = {"runtime": options.runtime_of(args), "vdsp": args.vdsp_params_info}
    meanface = args.meanface_txt and read_meanface(args.meanface_txt)
    landmarks = load(args.model_prefix_path, kind=LandmarkDetector, meanface=meanface, **given)
    if args.detector is None:
        return landmarks
    detector = load(args.detector, kind=FaceDetector, runtime=given["runtime"])
    return Predictor(detector, landmarks)


def run(args: argparse.Namespace) -> int:
    root, names, annotated = evaluation.find_pictures(args.data_dir, args.crop)
    paths = [root / name for name in names]
    name_of, picture_of = dict(zip(paths, names)), names_with_suffix(names, ".jpg")

    def files_of(name):
        if args.draw:
            yield args.save_dir / "pictures" / picture_of[name]

    def write(path, image, found):
        for picture in files_of(name_of[path]):
            faces = [found] if args.detector is None else [face.points for face in found.faces]
            write_drawing(picture, draw_landmarks(image, faces))

    def finish(run):
        head = {"crop": args.crop}
        run.write_items(evaluation.RESULTS_FILE, evaluation.RESULTS_SCHEMA, "images", head)

    def evaluate():
        report = evaluation.evaluate_run(args.save_dir, args.data_dir, args.normalizer)
        return "\n".join(report.lines())

    others = (args.data_dir, args.model_prefix_path, args.detector, args.meanface_txt)
    with open_model(args) as model:
        return options.run_items(
            args,
            Inputs(paths, names, *others),
            lambda left: map(in_recipe_form, model.stream(left, visit=write)),
            command="vsx_infer",
            settings={**model.settings(), "crop": args.crop, "draw": args.draw},
            files_of=files_of,
            finish=finish,
            afterwards=evaluate if annotated else lambda: None,
        )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
