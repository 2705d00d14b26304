"""Turn vamp's outputs into quality scores: the files that the runner writes.

Writes SAVE_DIR/results.json, scores.csv and sorted.txt, lowest score first. Every output is paired
with its image by the list's manifest, and a mismatch is reported by name.
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets.scores import finish_scores
from facezoo.models.sdd_fiqa.card import CARDS
from facezoo.models.sdd_fiqa.decode import decode
from facezoo.pipeline.decode_outputs import ListedOutputs


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    parser.add_argument("datalist", type=Path, help="vamp's list, made with image2npz.py")
    parser.add_argument("outputs", type=Path, help="vamp's outputs")
    options.add_image_dir_option(parser)
    options.add_flag(
        parser, "--save_dir", type=Path, default=Path("decoded_output"), help="folder for results"
    )
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    # In the order that puts the published network last: the vendor's outputs are taken for its.
    cards = reversed(list(CARDS.values()))
    listed = ListedOutputs(args.datalist, args.outputs, cards, image_dir=args.input_image_dir)
    head = {"faces": "aligned", "card": listed.contract.card_id}
    return options.run_items(
        args,
        listed.inputs(),
        lambda left: listed.stream(left, lambda raw: decode(raw)[0]),
        names=listed.names,
        items=listed.pictures,
        command="decode_vamp",
        settings=listed.settings(),
        finish=lambda run: finish_scores(run, head),
    )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
