"""Print the quality of faces: the lengths of MagFace embeddings, worst first.

With --scale ofiq on the scale of OFIQ, the reference software of ISO/IEC 29794-5, whose constants
belong to its own network.

    python quality_assessment.py --feat_list toy_imgs/feat.list
"""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
from facezoo.cli import options
from facezoo.datasets.image_list import resolve_names
from facezoo.datasets.pairs import read_feature_list
from facezoo.evaluation.features import rank_by_magnitude
from facezoo.files import write_bytes
from facezoo.image.draw import contact_sheet
from facezoo.image.files import read_image_rgb, write_image_rgb

MOST_ON_SHEET = 400


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(
        parser, "--feat_list", type=Path, default=Path("toy_imgs/feat.list"), help="of gen_feat.py"
    )
    parser.add_argument(
        "--scale", choices=("magnitude", "ofiq"), default="magnitude", help="what is printed"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the listing as a table")
    parser.add_argument("--histogram", type=Path, metavar="FILE", help="draw the distribution")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="gather the pictures, in order")
    return parser


def as_table(ranked, scale) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("path", scale), *ranked])
    return text.getvalue().encode()


def draw_sheet(ranked, feat_list: Path):
    # Of many, evenly chosen ones, so that the sheet shows the whole range.
    shown = np.unique(np.linspace(0, len(ranked) - 1, MOST_ON_SHEET).round().astype(int))
    names, values = zip(*(ranked[index] for index in shown))
    images = [read_image_rgb(path) for path in resolve_names(names, feat_list)]
    return contact_sheet(images, [f"{value:g}" for value in values], 10, (112, 112))


def run(args: argparse.Namespace) -> int:
    ranked = rank_by_magnitude(read_feature_list(args.feat_list), args.scale)
    for name, value in ranked:
        print(f"{name} {int(value) if args.scale == 'ofiq' else value}")
    if args.csv:
        write_bytes(args.csv, as_table(ranked, args.scale))
    if args.sheet:
        write_image_rgb(args.sheet, draw_sheet(ranked, args.feat_list))
    if args.histogram:
        # Imported here because matplotlib is an extra.
        from facezoo.reports.plots import plot_magnitudes

        plot_magnitudes(np.array([value for _, value in ranked]), args.histogram, args.scale)
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
