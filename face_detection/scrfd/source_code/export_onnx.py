"""Make the raw-head ONNX that vamc takes, from a released SCRFD file or the authors' checkpoint.

The variant of a released file is recognised from its graph. Nothing is written before the new
graph has been compared with its source in ONNX Runtime.

    python ../source_code/export_onnx.py --onnx scrfd_500m_bnkps --output onnx/scrfd_500m_bnkps.onnx
"""

import argparse
from pathlib import Path

from facezoo import weights
from facezoo.cli.options import add_shape_options, make_parser, run_command
from facezoo.models.scrfd.graph import export_released


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--onnx", help="a released .onnx, or the name `facezoo download` fetched it under"
    )
    parser.add_argument("--output", type=Path, required=True, help="the .onnx to write")
    add_shape_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    source = Path(args.onnx) if args.onnx.endswith(".onnx") else weights.find(args.onnx)
    card, worst = export_released(source, args.output, batch=args.batch, size=args.size)
    print(f"{args.output}: {card.id}, outputs {' '.join(card.output_names)}")
    print(f"largest difference from {source.name} in ONNX Runtime: {worst:.2e}")
    return 0


def main(argv=None) -> int:
    return run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
