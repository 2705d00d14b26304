"""Print the quality of faces: the lengths of MagFace embeddings, worst first.

With --scale ofiq on the scale of OFIQ, the reference software of ISO/IEC 29794-5, whose constants
belong to its own network.

    python quality_assessment.py --feat_list toy_imgs/feat.list
"""

import argparse
from contextlib import suppress
from pathlib import Path

import numpy as np
from facezoo.cli import options
from facezoo.datasets.image_list import resolve_names
from facezoo.datasets.pairs import read_feature_list
from facezoo.errors import DatasetError
from facezoo.evaluation.features import rank_by_magnitude, ranking_csv, ranking_sheet
from facezoo.files import write_bytes
from facezoo.image.files import write_image_rgb
from facezoo.runs import Inputs


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(
        parser, "--feat_list", type=Path, default=Path("toy_imgs/feat.list"), help="features"
    )
    parser.add_argument(
        "--scale", choices=("magnitude", "ofiq"), default="magnitude", help="scale to print"
    )
    options.add_output(parser, "--csv", metavar="FILE", help="write the listing as a table")
    options.add_output(parser, "--histogram", metavar="FILE", help="draw the distribution")
    options.add_output(parser, "--sheet", metavar="FILE", help="draw the faces, in order")
    return parser


def run(args: argparse.Namespace) -> int:
    ranked = rank_by_magnitude(read_feature_list(args.feat_list), args.scale)
    with suppress(DatasetError):  # Images that are not here cannot be replaced.
        faces = resolve_names([name for name, _ in ranked], args.feat_list)
        Inputs(faces, ()).refuse_file(args.csv, args.histogram, args.sheet)
    for name, value in ranked:
        print(f"{name} {int(value) if args.scale == 'ofiq' else value}")
    if args.csv:
        write_bytes(args.csv, ranking_csv(ranked, args.scale).encode())
    if args.sheet:
        write_image_rgb(args.sheet, ranking_sheet(ranked, args.feat_list))
    if args.histogram:
        # Imported here because matplotlib is an extra.
        from facezoo.reports.plots import plot_magnitudes

        plot_magnitudes(np.array([value for _, value in ranked]), args.histogram, args.scale)
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
