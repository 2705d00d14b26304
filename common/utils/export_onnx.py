"""Make the raw-head ONNX that vamc takes, from a published file or a checkpoint, for any model.

Nothing is written before the new graph has been compared with its source. The same as
``facezoo export``; options of single models are in the source_code/export_onnx.py of their recipes.

    python ../../../common/utils/export_onnx.py --card scrfd_500m_bnkps \
        --output onnx/scrfd_500m_bnkps.onnx
"""

import argparse

from facezoo.cli.export import export
from facezoo.cli.options import add_batch_option, add_output, make_parser, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--card", required=True, help="which variant, as `facezoo list` shows it")
    parser.add_argument("--onnx", help="the published file; by default the downloaded one")
    add_output(parser, "--output", required=True, help="the .onnx to write")
    add_batch_option(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    return export(args.card, args.onnx, args.output, args.batch)


def main(argv=None) -> int:
    return run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
