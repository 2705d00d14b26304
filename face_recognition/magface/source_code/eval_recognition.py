"""Verification accuracy: of a feature list, of the sets lfw, cfp and agedb, or of .bin sets.

Prints the authors' line and, below it, interval, area, thresholds on three scales, and true accept
rates, or why there are too few impostors for one.

    python eval_recognition.py --resume CKPT --arch iresnet100 --data data --save_dir features
    python eval_recognition.py --feat-list lfw.list --pair-list data/lfw/pair.list
"""

import argparse
from pathlib import Path

from facezoo import FaceEmbedder, load
from facezoo.cli import options
from facezoo.datasets.face_sets import SETS
from facezoo.datasets.pairs import read_feature_pairs
from facezoo.errors import InputError
from facezoo.evaluation import recognition
from facezoo.evaluation.verification_report import PROTOCOLS, SCHEMA, reports_csv, verify_pairs
from facezoo.fields import whole
from facezoo.files import write_bytes, write_json


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    options.add_flag(
        source, "--feat_list", type=Path, help="features; rows 2i and 2i + 1 are pair i"
    )
    source.add_argument("--data", type=Path, help="folder of the sets; needs a model")
    source.add_argument("--bin", type=Path, nargs="+", help="insightface's sets; needs a model")
    options.add_flag(parser, "--pair_list", type=Path, help="pairs; last column: 1 same, 0 not")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="sets in --data")
    options.add_flag(parser, "--save_dir", type=Path, default=Path("features"), help="for features")
    how = parser.add_argument_group("how the accuracy is measured")
    how.add_argument("--protocol", choices=PROTOCOLS, default="authors", help="whose")
    how.add_argument("--folds", type=whole(2, 1000), default=10, help="fewer for few pairs")
    options.add_output(parser, "--json", metavar="FILE", help="write everything but curves")
    options.add_output(parser, "--csv", metavar="FILE", help="write a table, one row per set")
    options.add_plot(parser, "draw the ROC")
    options.add_embedder_options(parser)
    options.add_run_options(parser)
    return parser


def of_features(args: argparse.Namespace):
    if args.pair_list is None:
        raise InputError("--feat-list needs --pair-list: which pairs show one person")
    pairs = read_feature_pairs(args.feat_list, args.pair_list)
    vectors, how = (pairs.first, pairs.second), {"protocol": args.protocol, "folds": args.folds}
    yield verify_pairs(args.feat_list.stem, *vectors, pairs.is_same, pairs.names, **how)


def of_sets(args: argparse.Namespace):
    source = options.embedder_source(args, args.save_dir / "onnx")
    runtime, vdsp = options.runtime_of(args), args.vdsp_params_info
    with load(source, kind=FaceEmbedder, runtime=runtime, vdsp=vdsp, flip=args.flip) as model:
        shown = {"protocol": args.protocol, "folds": args.folds, "progress": options.progress}
        for path in args.bin or ():
            yield recognition.evaluate_encoded(model, path, **shown)
        shown.update(batch=args.batch_size, overwrite=args.overwrite)
        for name in args.sets if args.data else ():
            features = args.save_dir / f"{name}.list"
            yield recognition.evaluate_set(model, args.data / name, features, **shown)


def run(args: argparse.Namespace) -> int:
    reports = []
    for report in of_features(args) if args.feat_list else of_sets(args):
        print("\n".join(report.lines()))
        reports.append(report)
    if args.json:
        sets = [report.to_dict() for report in reports]
        write_json(args.json, {"schema": SCHEMA, "sets": sets})
    if args.csv:
        write_bytes(args.csv, reports_csv(reports).encode())
    if args.plot:
        # Imported here because matplotlib is an extra.
        from facezoo.reports.plots import plot_roc

        plot_roc({report.name: report.roc for report in reports}, args.plot)
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
