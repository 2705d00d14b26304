"""Turn vamp's outputs into embeddings: the files that the runner writes.

Writes SAVE_DIR/results.json, feat.list and embeddings.npz. Every output is paired with its image
by the list's manifest, and a mismatch is reported by name.
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.evaluation.features import finish_embeddings
from facezoo.models.magface.card import CARDS
from facezoo.models.magface.decode import decode
from facezoo.pipeline.decode_outputs import ListedOutputs


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_vamp_options(parser)
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    parser.add_argument(
        "--card",
        choices=CARDS,
        default="magface_iresnet100",
        help="network that made the outputs, if vamp did not record it",
    )
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    cards = [CARDS[args.card]]
    listed = ListedOutputs(
        args.vamp_datalist_path, args.vamp_output_dir, cards, image_dir=args.input_image_dir
    )
    return options.run_items(
        args,
        listed.inputs(),
        lambda left: listed.stream(left, lambda raw: decode(raw)[0]),
        names=listed.names,
        items=listed.pictures,
        command="decode_vamp",
        settings=listed.settings(),
        finish=finish_embeddings,
    )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
