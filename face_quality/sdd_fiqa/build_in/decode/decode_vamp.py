"""Turn vamp's outputs into quality scores: the files that the runner writes.

Writes SAVE_DIR/results.json, scores.csv and sorted.txt, lowest score first. Every output is paired
with its picture by the list's manifest, and whatever does not fit is refused by name.
"""

import argparse
import dataclasses
import time
from pathlib import Path

from facezoo.backends.base import naming
from facezoo.cli import options
from facezoo.datasets.scores import finish_scores
from facezoo.errors import ImageError
from facezoo.files import sha256_of
from facezoo.models.sdd_fiqa.card import CARDS
from facezoo.models.sdd_fiqa.decode import decode
from facezoo.runs import Inputs, RunFolder
from facezoo.vacc.npz import read_pictures
from facezoo.vacc.outputs import OutputFolder
from facezoo.workers import map_in_order, usable_cores


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    parser.add_argument("datalist", type=Path, help="vamp's list, made with image2npz.py")
    parser.add_argument("outputs", type=Path, help="vamp's outputs")
    options.add_flag(
        parser,
        "--input_image_dir",
        type=Path,
        help="folder of the pictures; needed for a list that the vendor's script made",
    )
    options.add_flag(
        parser, "--save_dir", type=Path, default=Path("decoded_output"), help="folder for results"
    )
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    pictures = read_pictures(args.datalist, args.input_image_dir)
    outputs = OutputFolder(args.outputs, args.datalist)
    # In the order that puts the published network last: the vendor's outputs are taken for its.
    contract = outputs.contract_for(reversed(list(CARDS.values())))

    def one(picture):
        if picture.error:
            return ImageError(f"{picture.name!r} {picture.error}")
        with naming(picture.name):
            return decode(outputs.raw_outputs(picture, contract))[0]

    with RunFolder(
        args.save_dir,
        command="decode_vamp",
        settings={
            "contract": dataclasses.asdict(contract),
            "datalist_sha256": sha256_of(args.datalist),
        },
        inputs=Inputs(
            outputs.paths,
            [path.name for path in outputs.paths],
            args.datalist,
            args.outputs,
            args.input_image_dir,
        ),
        overwrite=args.overwrite,
    ) as folder:
        names = [picture.name for picture in pictures]
        done = folder.completed(names)
        started = time.perf_counter()
        results = map_in_order(one, pictures[done:], usable_cores())
        shown = options.progress(results, len(pictures) - done, args.quiet)
        for score, name in zip(shown, names[done:]):
            folder.record(name, score)
        seconds = time.perf_counter() - started
        if not folder.finished:
            finish_scores(folder, {"faces": "aligned", "card": contract.card_id})
        return options.report_run(folder, len(pictures), done, seconds)


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
