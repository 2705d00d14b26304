"""Turn vamp's outputs into faces: the files that the runner writes.

Writes TXT/txt/<event>/<stem>.txt in the WIDER FACE layout and TXT/results.json. Every output is
paired with its image by the list's manifest, and a mismatch is reported by name.
"""

import argparse
import dataclasses
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets.widerface import SCHEMA, format_widerface
from facezoo.files import write_bytes
from facezoo.image.files import names_with_suffix
from facezoo.models.scrfd.card import CARDS
from facezoo.models.scrfd.decode import PROFILES, decode
from facezoo.pipeline.decode_outputs import ListedOutputs, describe_untried


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    parser.add_argument("--txt", type=Path, required=True, help="folder for results")
    options.add_input_size_option(parser, "--model_size")
    options.add_vamp_options(parser)
    parser.add_argument("--profile", choices=PROFILES, default="demo", help="set of thresholds")
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    datalist, folder = args.vamp_datalist_path, args.vamp_output_dir
    listed = ListedOutputs(datalist, folder, CARDS.values(), args.input_image_dir, args.model_size)
    profile = dataclasses.replace(PROFILES[args.profile], retry_border=0.0)
    text_of = names_with_suffix(listed.names, ".txt")

    def decode_one(raw):
        return decode(raw, profile=profile, **listed.contract.decode)[0]

    def write(name, faces):
        write_bytes(args.txt / "txt" / text_of[name], format_widerface(name, faces).encode())

    return options.run_items(
        args,
        listed.inputs(),
        lambda left: listed.stream(left, decode_one, visit=write),
        names=listed.names,
        items=listed.pictures,
        folder=args.txt,
        command="npz_decode",
        settings={**listed.settings(), "profile": dataclasses.asdict(profile)},
        files_of=lambda name: [args.txt / "txt" / text_of[name]],
        finish=lambda run: run.write_items("results.json", SCHEMA, "images"),
        afterwards=lambda: describe_untried(
            args.txt / "results.json", SCHEMA, listed.contract, args.profile
        ),
    )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
