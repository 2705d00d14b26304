"""The error-versus-reject curve: how fast errors fall as the pairs of worst faces are left out.

By default the threshold belongs to one false match rate over all impostor pairs and stays, with
intervals by resampling. --original follows the authors' rank rule exactly.

    python eval_quality.py --feat-list lfw.list --pair-list data/lfw/pair.list --plot evrc.png
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets.pairs import read_feature_pairs
from facezoo.fields import RATE, SEED
from facezoo.files import write_json
from facezoo.metrics import quality
from facezoo.metrics.verification import angular_distance


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(
        parser, "--feat_list", type=Path, required=True, help="rows 2i and 2i + 1 are pair i"
    )
    options.add_flag(
        parser, "--pair_list", type=Path, required=True, help="pairs; last column: 1 same, 0 not"
    )
    options.add_embedding_size_option(parser)
    parser.add_argument("--original", action="store_true", help="use the authors' rank rule")
    parser.add_argument("--fmr", type=RATE, default=1e-3, help="false match rate")
    parser.add_argument("--seed", type=SEED, default=0, help="random seed of the resampling")
    options.add_output(parser, "--json", metavar="FILE", help="write the curve")
    options.add_plot(parser, "draw the curve")
    return parser


def run(args: argparse.Namespace) -> int:
    pairs = read_feature_pairs(args.feat_list, args.pair_list, args.embedding_size)
    distances = angular_distance(pairs.first, pairs.second)
    worse = quality.pair_quality(pairs.first, pairs.second)
    if args.original:
        curve = quality.error_versus_reject(distances, pairs.is_same, worse)
    else:
        curve = quality.error_versus_discard(
            distances, pairs.is_same, worse, args.fmr, seed=args.seed
        )
    for line in curve.lines():
        print(line)
    if args.json:
        write_json(args.json, {"schema": "facezoo.reject/1", **curve.to_dict()})
    if args.plot:
        # Imported here because matplotlib is an extra.
        from facezoo.reports.plots import plot_reject_curves

        curves = {args.feat_list.stem: curve.points}
        plot_reject_curves(curves, args.plot, curve.fmr, curve.band)
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
