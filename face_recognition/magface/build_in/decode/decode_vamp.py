"""Turn vamp's outputs into embeddings: the files that the runner writes.

Writes SAVE_DIR/results.json, feat.list and embeddings.npz. Every output is paired with its picture
by the list's manifest, and whatever does not fit is refused by name.
"""

import argparse
import dataclasses
import time
from pathlib import Path

from facezoo.backends.base import naming
from facezoo.cli import options
from facezoo.errors import ImageError
from facezoo.evaluation.features import finish_embeddings
from facezoo.files import sha256_of
from facezoo.models.magface.card import CARDS
from facezoo.models.magface.decode import decode
from facezoo.runs import Inputs, RunFolder
from facezoo.vacc.npz import read_pictures
from facezoo.vacc.outputs import OutputFolder
from facezoo.workers import map_in_order, usable_cores


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--vamp_datalist_path", type=Path, required=True, help="vamp's list")
    options.add_flag(parser, "--vamp_output_dir", type=Path, required=True, help="vamp's outputs")
    options.add_flag(
        parser,
        "--input_image_dir",
        type=Path,
        help="folder of the pictures; needed for a list that the vendor's script made",
    )
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    parser.add_argument(
        "--card",
        choices=CARDS,
        default="magface_iresnet100",
        help="of outputs of the vendor's vamp, which do not say it",
    )
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    pictures = read_pictures(args.vamp_datalist_path, args.input_image_dir)
    outputs = OutputFolder(args.vamp_output_dir, args.vamp_datalist_path)
    contract = outputs.contract_for([CARDS[args.card]])

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
            "datalist_sha256": sha256_of(args.vamp_datalist_path),
        },
        inputs=Inputs(
            outputs.paths,
            [path.name for path in outputs.paths],
            args.vamp_datalist_path,
            args.vamp_output_dir,
            args.input_image_dir,
        ),
        overwrite=args.overwrite,
    ) as folder:
        names = [picture.name for picture in pictures]
        done = folder.completed(names)
        started = time.perf_counter()
        results = map_in_order(one, pictures[done:], usable_cores())
        shown = options.progress(results, len(pictures) - done, args.quiet)
        for embedding, name in zip(shown, names[done:]):
            folder.record(name, embedding)
        seconds = time.perf_counter() - started
        if not folder.finished:
            finish_embeddings(folder)
        return options.report_run(folder, len(pictures), done, seconds)


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
