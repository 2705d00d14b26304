"""Embed faces: of aligned crops, of a list of them, or of photos with a detector in front.

Writes SAVE_DIR/results.json, feat.list (the authors' text), embeddings.npz, and with --pairs
pairs.csv. Resumable: run the same command again.
"""

import argparse
from pathlib import Path

import facezoo
from facezoo.cli import options
from facezoo.datasets.image_list import find_listed
from facezoo.evaluation.features import finish_embeddings
from facezoo.evaluation.recognition import compare_listed
from facezoo.files import write_bytes
from facezoo.image.files import find_images, relative_names
from facezoo.models.magface.model import FLIPS
from facezoo.pipeline.photo import Predictor, in_recipe_form
from facezoo.runs import Inputs

LISTS = (".list", ".txt")


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(
        parser, "--file_path", type=Path, required=True, help="an image, a folder, or a list"
    )
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    parser.add_argument(
        "--detector",
        type=Path,
        metavar="PREFIX",
        help="SCRFD, to find and align faces; without it an image is an aligned face",
    )
    parser.add_argument("--flip", choices=FLIPS, default="none", help="add the mirrored face")
    parser.add_argument(
        "--pairs", type=Path, metavar="LIST", help="print the similarity of each line's two names"
    )
    options.add_model_options(parser)
    options.add_run_options(parser)
    return parser


def find_pictures(file_path: Path):
    if file_path.suffix in LISTS:
        return find_listed(file_path)
    paths = find_images(file_path)
    return paths, relative_names(paths, file_path)


def open_model(args: argparse.Namespace):
    source, kind = args.model_prefix_path, facezoo.FaceEmbedder
    runtime, vdsp = options.runtime_of(args), args.vdsp_params_info
    embedder = facezoo.load(source, kind=kind, runtime=runtime, vdsp=vdsp, flip=args.flip)
    if args.detector is None:
        return embedder
    detector = facezoo.load(args.detector, kind=facezoo.FaceDetector, runtime=runtime)
    return Predictor(detector, embedder=embedder)


def run(args: argparse.Namespace) -> int:
    paths, names = find_pictures(args.file_path)

    def compare():
        if args.pairs:
            table = compare_listed(args.save_dir, args.pairs)
            write_bytes(args.save_dir / "pairs.csv", table.to_csv().encode())
            print("\n".join(table.lines()))

    others = (args.file_path, args.model_prefix_path, args.detector, args.pairs)
    with open_model(args) as model:
        return options.run_items(
            args,
            Inputs(paths, names, *others),
            lambda left: map(in_recipe_form, model.stream(left)),
            command="magface_vsx",
            settings=model.settings(),
            finish=finish_embeddings,
            afterwards=compare,
        )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
