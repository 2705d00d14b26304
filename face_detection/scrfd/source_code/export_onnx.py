"""Make the raw-head ONNX that vamc takes, from a released SCRFD file or the authors' checkpoint.

The variant of a released file is recognised from its graph. Nothing is written before the new
graph has been compared with its source.

    python ../source_code/export_onnx.py --onnx scrfd_500m_bnkps --output onnx/scrfd_500m_bnkps.onnx
    python ../source_code/export_onnx.py --checkpoint scrfd_1g.pth --variant scrfd_1g \
        --output onnx/scrfd_1g.onnx
"""

import argparse
from pathlib import Path

from facezoo import weights
from facezoo.cli import options
from facezoo.errors import InputError
from facezoo.models.scrfd.card import CARDS
from facezoo.models.scrfd.graph import export_released


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_source_options(parser)
    parser.add_argument("--variant", choices=CARDS, help="which network the checkpoint holds")
    options.add_shape_options(parser)
    help_decoded = "for a checkpoint: write the authors' decoded rows instead of raw maps"
    parser.add_argument("--decoded", action="store_true", help=help_decoded)
    return parser


def run(args: argparse.Namespace) -> int:
    return from_checkpoint(args) if args.checkpoint else from_released(args)


def from_released(args: argparse.Namespace) -> int:
    if args.variant or args.decoded:
        raise InputError("--variant and --decoded go with --checkpoint; a released file says both")
    source = weights.locate(args.onnx)
    card, worst = export_released(source, args.output, batch=args.batch, size=args.size)
    print(f"{args.output}: {card.id}, outputs {' '.join(card.output_names)}")
    print(f"largest difference from {source.name} in ONNX Runtime: {worst:.2e}")
    return 0


def from_checkpoint(args: argparse.Namespace) -> int:
    # Imported here, since all but this needs no torch.
    from facezoo.models.scrfd.checkpoint import export_checkpoint

    if args.variant is None:
        raise InputError("--checkpoint needs --variant: file names do not say which network it is")
    how = {"size": args.size, "batch": args.batch, "decoded": args.decoded}
    worst = export_checkpoint(Path(args.checkpoint), args.variant, args.output, **how)
    print(f"{args.output}: {args.variant}, {'decoded rows' if args.decoded else 'raw maps'}")
    print(f"largest difference from PyTorch in ONNX Runtime, relative to the map: {worst:.2e}")
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
