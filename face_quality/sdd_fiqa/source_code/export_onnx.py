"""Make the ONNX that vamc takes, from the authors' checkpoint or one that train.py has left.

Every weight must be there, and nothing is written before the graph gives what PyTorch gives.

    python ../source_code/export_onnx.py --checkpoint sdd_fiqa_r50_pth --variant r50 \
        --output onnx/sdd_fiqa_r50.onnx
"""

import argparse

from facezoo import weights
from facezoo.cli.options import (
    add_batch_option,
    add_output,
    import_torch_part,
    make_parser,
    run_command,
)
from facezoo.models.sdd_fiqa.settings import VARIANTS


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="a .pth, or the name `facezoo list` shows it under; needs torch",
    )
    parser.add_argument("--variant", choices=VARIANTS, default="r50", help="which network it holds")
    add_output(parser, "--output", required=True, help="the .onnx to write")
    add_batch_option(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    checkpoint = import_torch_part("facezoo.models.sdd_fiqa.checkpoint")
    source = weights.locate(args.checkpoint)
    worst = checkpoint.export_checkpoint(source, args.variant, args.output, batch=args.batch)
    print(f"{args.output}: {checkpoint.card_id_of(args.variant)}, output quality")
    print(f"largest difference from PyTorch in ONNX Runtime, relative to the score: {worst:.2e}")
    return 0


def main(argv=None) -> int:
    return run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
