"""Turn vamp's outputs into faces: the files that the runner writes.

Writes TXT/txt/<event>/<stem>.txt in the WIDER FACE layout and TXT/results.json. Every output is
paired with its picture by the list's manifest, and whatever does not fit is refused by name.
"""

import argparse
import dataclasses
import time
from pathlib import Path

from facezoo.backends.base import naming
from facezoo.cli import options
from facezoo.datasets.widerface import format_widerface
from facezoo.errors import ImageError
from facezoo.files import sha256_of, write_bytes
from facezoo.image.files import names_with_suffix
from facezoo.models.scrfd.card import CARDS
from facezoo.models.scrfd.decode import PROFILES, decode
from facezoo.runs import Inputs, RunFolder
from facezoo.vacc.npz import read_pictures
from facezoo.vacc.outputs import OutputFolder
from facezoo.workers import map_in_order, usable_cores


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    parser.add_argument("--txt", type=Path, required=True, help="folder for results")
    options.add_flag(
        parser,
        "--input_image_dir",
        type=Path,
        help="folder of the pictures; needed for a list that the vendor's script made",
    )
    options.add_flag(parser, "--model_size", type=int, nargs=2, metavar=("H", "W"), help="input")
    options.add_flag(parser, "--vamp_datalist_path", type=Path, required=True, help="vamp's list")
    options.add_flag(parser, "--vamp_output_dir", type=Path, required=True, help="vamp's outputs")
    parser.add_argument("--profile", choices=PROFILES, default="demo", help="set of thresholds")
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    pictures = read_pictures(args.vamp_datalist_path, args.input_image_dir)
    outputs = OutputFolder(args.vamp_output_dir, args.vamp_datalist_path)
    contract = outputs.contract_for(CARDS.values(), args.model_size and tuple(args.model_size))
    profile = dataclasses.replace(PROFILES[args.profile], retry_border=0.0)
    names = [picture.name for picture in pictures]
    text_of = names_with_suffix(names, ".txt")

    def one(picture):
        if picture.error:
            return ImageError(f"{picture.name!r} {picture.error}")
        raw = outputs.raw_outputs(picture, contract)
        with naming(picture.name):
            faces = decode(raw, profile=profile, **contract.decode)[0]
        text = format_widerface(picture.name, faces)
        write_bytes(args.txt / "txt" / text_of[picture.name], text.encode())
        return faces

    with RunFolder(
        args.txt,
        command="npz_decode",
        settings={
            "contract": dataclasses.asdict(contract),
            "profile": dataclasses.asdict(profile),
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
        done = folder.completed(names, lambda name: [args.txt / "txt" / text_of[name]])
        started = time.perf_counter()
        results = map_in_order(one, pictures[done:], usable_cores())
        shown = options.progress(results, len(pictures) - done, args.quiet)
        for faces, name in zip(shown, names[done:]):
            folder.record(name, faces)
        seconds = time.perf_counter() - started
        if not folder.finished:
            folder.write_items("results.json", schema="facezoo.faces/1", key="images")
            folder.finish()
        return options.report_run(folder, len(pictures), done, seconds)


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
