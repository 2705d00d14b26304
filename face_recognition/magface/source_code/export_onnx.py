"""Make the ONNX that vamc takes, from a checkpoint of the authors or from a released ONNX.

Nothing is written before the new graph has been compared with its source in ONNX Runtime.

    python ../source_code/export_onnx.py --onnx w600k_mbf --output onnx/w600k_mbf.onnx
"""

import argparse

from facezoo import weights
from facezoo.cli import options
from facezoo.errors import InputError
from facezoo.models.magface.card import CARDS

VARIANTS = {card_id: card_id[len("magface_") :] for card_id in CARDS if card_id[:4] == "magf"}


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_source_options(parser)
    parser.add_argument(
        "--arch", choices=list(VARIANTS.values()), help="architecture of the checkpoint"
    )
    parser.add_argument(
        "--card",
        choices=CARDS,
        help="card of an .onnx with an unknown sha256, or of ArcFace's .pth",
    )
    options.add_batch_option(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if (args.arch is None) != (args.checkpoint is None or args.card is not None):
        raise InputError("--checkpoint needs --arch or, for ArcFace, --card; --onnx takes --card")
    if args.checkpoint:
        checkpoint = options.import_torch_part("facezoo.models.magface.checkpoint")
        card = CARDS[args.card or checkpoint.card_id_of(args.arch)]
        worst = checkpoint.export_checkpoint(
            weights.locate(args.checkpoint),
            checkpoint.NETWORKS[card.id],
            args.output,
            batch=args.batch,
        )
    else:
        # Imported here, since the help needs no onnx.
        from facezoo.models.magface.graph import export_released

        card, worst = export_released(
            weights.locate(args.onnx), args.output, card_id=args.card, batch=args.batch
        )
    print(f"{args.output}: {card.id}, output {' '.join(card.output_names)}")
    print(f"largest difference from the source, of the output's root mean square: {worst:.2e}")
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
