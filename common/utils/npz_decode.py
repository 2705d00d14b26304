"""List what vamp wrote, image by image, and check every file; with --save_dir decode it too.

A file that is missing, extra, stale, cut short, renamed or exchanged is named and refused. Decoding
writes SAVE_DIR/results.json as infer.py does, for a model whose recipe has no build_in/decode.

    python ../../common/utils/npz_decode.py --vamp_datalist_path list.txt --vamp_output_dir output
"""

import argparse
import dataclasses
import time
from pathlib import Path

from facezoo.backends.base import naming
from facezoo.cli import options
from facezoo.errors import ImageError, InputError
from facezoo.files import sha256_of
from facezoo.models import find_card, import_part
from facezoo.runs import Inputs, RunFolder
from facezoo.vacc.npz import read_pictures
from facezoo.vacc.outputs import OutputFolder
from facezoo.workers import map_in_order, usable_cores

RESULTS_FILE, SCHEMA = "results.json", "facezoo.results/1"


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--vamp_datalist_path", type=Path, required=True, help="vamp's list")
    options.add_flag(parser, "--vamp_output_dir", type=Path, required=True, help="vamp's outputs")
    help_images = "folder of the images; needed for a list that the vendor's script made"
    options.add_flag(parser, "--input_image_dir", type=Path, help=help_images)
    options.add_flag(parser, "--save_dir", type=Path, help="folder for results")
    parser.add_argument("--card", help="which variant; needed for outputs of the vendor's vamp")
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    pictures = read_pictures(args.vamp_datalist_path, args.input_image_dir)
    outputs = OutputFolder(args.vamp_output_dir, args.vamp_datalist_path)
    return decode(args, pictures, outputs) if args.save_dir else show(pictures, outputs)


def show(pictures, outputs) -> int:
    for picture in pictures:
        if picture.error:
            print(f"{'-':17}  {picture.name}  {picture.error}")
            continue
        arrays = outputs.arrays(picture.line)
        shapes = " ".join("x".join(map(str, array.shape)) for array in arrays)
        name = outputs.paths[picture.line].name
        print(f"{name}  {picture.name}  {arrays[0].dtype} {shapes}")
    how = "by their hashes" if outputs.contract else "by names and shapes; there is no vamp.json"
    print(f"{len(outputs)} outputs checked {how}")
    return 0


def decode(args: argparse.Namespace, pictures, outputs) -> int:
    if outputs.contract is None and args.card is None:
        raise InputError(f"{str(outputs.folder)!r} does not say which model made it; give --card")
    contract = outputs.contract_for([find_card(args.card or outputs.contract.card_id)])
    decoder = import_part(contract.model, "decode")

    def one(picture):
        if picture.error:
            return ImageError(f"{picture.name!r} {picture.error}")
        with naming(picture.name):
            return decoder.decode(outputs.raw_outputs(picture, contract), **contract.decode)[0]

    list_sha256 = sha256_of(args.vamp_datalist_path)
    with RunFolder(
        args.save_dir,
        command="npz_decode",
        settings={"contract": dataclasses.asdict(contract), "datalist_sha256": list_sha256},
        inputs=Inputs(
            outputs.paths, [path.name for path in outputs.paths], args.vamp_datalist_path
        ),
        overwrite=args.overwrite,
    ) as folder:
        names = [picture.name for picture in pictures]
        done = folder.completed(names)
        started = time.perf_counter()
        results = map_in_order(one, pictures[done:], usable_cores())
        shown = options.progress(results, len(pictures) - done, args.quiet)
        for found, name in zip(shown, names[done:]):
            folder.record(name, found)
        if not folder.finished:
            folder.write_items(RESULTS_FILE, SCHEMA, "images", {"card": contract.card_id})
            folder.finish()
        return options.report_run(folder, len(pictures), done, time.perf_counter() - started)


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
