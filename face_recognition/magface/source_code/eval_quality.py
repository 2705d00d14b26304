"""The error-versus-reject curve: how fast errors fall as the pairs of worst faces are left out.

By default the threshold belongs to one false match rate over all impostor pairs and stays, with
intervals by resampling. --original follows the authors' rank rule exactly.

    python eval_quality.py --feat-list lfw.list --pair-list data/lfw/pair.list --plot evrc.png
"""

import argparse
import json
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets.pairs import read_feature_pairs
from facezoo.files import write_bytes
from facezoo.metrics import quality
from facezoo.metrics.verification import angular_distance

ORIGINAL_FMR = 1e-3


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(
        parser, "--feat_list", type=Path, required=True, help="rows 2i and 2i + 1 are pair i"
    )
    options.add_flag(
        parser, "--pair_list", type=Path, required=True, help="its last column: 1 same, 0 not"
    )
    options.add_flag(parser, "--embedding_size", type=int, default=512, help="values a feature")
    parser.add_argument("--original", action="store_true", help="the authors' rank rule")
    parser.add_argument("--fmr", type=float, default=ORIGINAL_FMR, help="false match rate")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the curve")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curve")
    return parser


def show_original(curve):
    for rate, fnmr, threshold in zip(curve.rates, curve.fnmr, curve.thresholds):
        print(
            f"FNMR = {fnmr:.10f}  :  FMR = 0.0010000000  :  THRESHOLD =  {threshold:.10f}", end=""
        )
        print(f"  :  LEFT OUT = {rate:.2f}")
    columns = {"rates": curve.rates, "fnmr": curve.fnmr, "thresholds": curve.thresholds}
    entry = {"rule": "original", "fmr": ORIGINAL_FMR}
    entry.update((name, values.tolist()) for name, values in columns.items())
    return entry, (curve.rates, curve.fnmr), None


def show_interpolated(curve):
    entry = {"rule": "interpolated", "fmr": curve.fmr, "threshold": curve.threshold}
    print(f"false match rate {curve.fmr:g}: distances from {curve.threshold:.5f} on are missed")
    for name in ("auc", "partial_auc", "relative_auc", "aoc"):
        area = getattr(curve, name)
        print(f"{name:12} {area.value:.5f} [{area.low:.5f}, {area.high:.5f}]")
        entry[name] = [area.value, area.low, area.high]
    for index in range(0, len(curve.discards), 5):
        share, fnmr = curve.discards[index], curve.fnmr[index]
        print(f"left out {share:.2f}: FNMR {fnmr:.5f} [{curve.low[index]:.5f}, ", end="")
        print(f"{curve.high[index]:.5f}]")
    columns = ("discards", "fnmr", "low", "high")
    entry.update((name, getattr(curve, name).tolist()) for name in columns)
    return entry, (curve.discards, curve.fnmr), (curve.discards, curve.low, curve.high)


def run(args: argparse.Namespace) -> int:
    pairs = read_feature_pairs(args.feat_list, args.pair_list, args.embedding_size)
    distances = angular_distance(pairs.first, pairs.second)
    worse = quality.pair_quality(pairs.first, pairs.second)
    if args.original:
        shown = show_original(quality.error_versus_reject(distances, pairs.is_same, worse))
    else:
        shown = show_interpolated(
            quality.error_versus_discard(distances, pairs.is_same, worse, args.fmr, seed=args.seed)
        )
    entry, curve, band = shown
    if args.json:
        entry = {"schema": "facezoo.reject/1", **entry}
        write_bytes(args.json, (json.dumps(entry, indent=1, allow_nan=False) + "\n").encode())
    if args.plot:
        # Imported here because matplotlib is an extra.
        from facezoo.reports.plots import plot_reject_curves

        fmr = ORIGINAL_FMR if args.original else args.fmr
        plot_reject_curves({args.feat_list.stem: curve}, args.plot, fmr, band)
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
