"""IJB-B or IJB-C, 1:1: join the features of each template, compare, and read off error rates.

Prints the authors' line of six rates, which takes the nearest point of the curve, and then each
rate with its interval, or why there are too few impostors for one.

    python eval_ijb.py --feat_list ijbc.list --base_dir data/IJBC --type c --magface_qlt 1
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets.templates import read_template_features, read_template_protocol
from facezoo.evaluation.verification_report import verify_templates
from facezoo.fields import whole
from facezoo.files import write_json


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--feat_list", type=Path, required=True, help="written by gen_feat.py")
    options.add_flag(parser, "--base_dir", type=Path, required=True, help="folder with meta")
    parser.add_argument("--type", choices=("b", "c"), default="c", help="IJB-B or IJB-C")
    options.add_flag(
        parser,
        "--magface_qlt",
        type=whole(0, 1),
        default=0,
        help="1: longer features, which are better faces, count more in a template",
    )
    options.add_embedding_size_option(parser)
    options.add_output(parser, "--json", metavar="FILE", help="write the rates")
    options.add_plot(parser, "draw the ROC")
    return parser


def run(args: argparse.Namespace) -> int:
    protocol = read_template_protocol(args.base_dir, args.type)
    vectors = read_template_features(args.feat_list, protocol, args.embedding_size)
    report = verify_templates(vectors, protocol, weighted=args.magface_qlt == 1)
    print(f"IJB{args.type} 1v1 verification: " + "\n".join(report.lines()))
    if args.json:
        entry = {"schema": "facezoo.ijb/2", "magface_qlt": args.magface_qlt}
        entry = {**entry, "measured": report.measured.to_dict()}
        write_json(args.json, {**entry, "rates": report.rates()})
    if args.plot:
        # Imported here because matplotlib is an extra.
        from facezoo.reports.plots import plot_roc

        plot_roc({f"IJB-{args.type.upper()}": report.roc}, args.plot)
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
