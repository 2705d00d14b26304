"""Turn a released SCRFD ONNX back into a PyTorch checkpoint, for fine-tuning and for checking.

The variant is recognised from the graph, whatever the file is called. Batch norms are folded into
the released convolutions and come back as norms that add a bias and nothing else.

    python ../source_code/import_onnx.py --onnx scrfd_2.5g_bnkps --output scrfd_2.5g_bnkps.pth
"""

import argparse
from pathlib import Path

from facezoo import weights
from facezoo.cli.options import add_output, import_torch_part, make_parser, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--onnx",
        required=True,
        help="a released .onnx, or the name `facezoo download` fetched it under",
    )
    add_output(parser, "--output", required=True, help="the .pth to write")
    return parser


def run(args: argparse.Namespace) -> int:
    checkpoint = import_torch_part("facezoo.models.scrfd.checkpoint")
    source = Path(args.onnx) if args.onnx.endswith(".onnx") else weights.find(args.onnx)
    card, worst = checkpoint.import_released(source, args.output)
    print(f"{args.output}: {card.id}, loads with facezoo.models.scrfd.network.load_official")
    print(f"largest difference from {source.name}, relative to the map: {worst:.2e}")
    return 0


def main(argv=None) -> int:
    return run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
