"""Write the embeddings of a list of aligned faces as the authors' feature list, and as .npz.

A line of the list is a path, with or without a label; a line of the feature list the path and 512
numbers, not normalised. Resumable: run the same command again.

    python gen_feat.py --inf_list toy_imgs/img.list --feat_list toy_imgs/feat.list --onnx FILE
"""

import argparse
from pathlib import Path

from facezoo import FaceEmbedder, load
from facezoo.cli import options
from facezoo.datasets.image_list import find_listed
from facezoo.evaluation.features import extract_features


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--inf_list", type=Path, required=True, help="list of images")
    options.add_output(parser, "--feat_list", required=True, help="the file to write")
    parser.add_argument(
        "--root", type=Path, help="folder of the list's paths, which they must not leave"
    )
    parser.add_argument(
        "--missing",
        choices=("skip", "fatal"),
        default="skip",
        help="what to do with an unreadable image, which is named",
    )
    options.add_embedder_options(parser)
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    paths, names = find_listed(args.inf_list, args.root)
    source = options.embedder_source(args, args.feat_list.parent / "onnx")
    runtime, vdsp = options.runtime_of(args), args.vdsp_params_info
    with load(source, kind=FaceEmbedder, runtime=runtime, vdsp=vdsp, flip=args.flip) as model:
        done = extract_features(
            model,
            paths,
            names,
            args.feat_list,
            batch=args.batch_size,
            missing=args.missing,
            overwrite=args.overwrite,
            sources=[args.inf_list, args.root],
            progress=options.progress,
        )
    return options.report_items(done, f"embeddings in {args.feat_list}")


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
