"""Make the raw-head ONNX that vamc takes from a published file, for any model that has one.

Nothing is written before the new graph has been compared with the published one. Checkpoints, and
options of single models, are for the source_code/export_onnx.py of their recipes.

    python ../../../common/utils/export_onnx.py --card scrfd_500m_bnkps \
        --output onnx/scrfd_500m_bnkps.onnx
"""

import argparse

from facezoo import weights
from facezoo.cli.options import add_batch_option, add_output, make_parser, run_command
from facezoo.contract import read_contract
from facezoo.errors import InputError
from facezoo.models import find_card, has_part, import_part


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--card", required=True, help="which variant, as `facezoo list` shows it")
    parser.add_argument("--onnx", help="the published .onnx; by default the downloaded one")
    add_output(parser, "--output", required=True, help="the .onnx to write")
    add_batch_option(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    card = find_card(args.card)
    if not has_part(card.model, "graph"):
        raise InputError(
            f"{card.id} is made from a checkpoint; use {card.task}/{card.model}/source_code/"
            "export_onnx.py"
        )
    if not args.onnx and not card.weights:
        raise InputError(f"no weights of {card.id} are published; give the file with --onnx")
    source = weights.locate(args.onnx or card.weights)
    import_part(card.model, "graph").export_released(source, args.output, batch=args.batch)
    found = read_contract(args.output)
    print(f"{args.output}: {found.card_id}, outputs {' '.join(found.output_names)}")
    return 0


def main(argv=None) -> int:
    return run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
