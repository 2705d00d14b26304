"""List what vamp wrote, image by image, and check every file; with --save_dir decode it too.

A file that is missing, extra, stale, cut short, renamed or exchanged is named and refused. Decoding
writes SAVE_DIR/results.json as infer.py does, for a model whose recipe has no build_in/decode.

    python ../../common/utils/npz_decode.py --vamp_datalist_path list.txt --vamp_output_dir output
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.errors import InputError
from facezoo.models import find_card, import_part
from facezoo.pipeline.decode_outputs import ListedOutputs, describe_untried
from facezoo.vacc.npz import read_pictures
from facezoo.vacc.outputs import OutputFolder

RESULTS_FILE, SCHEMA = "results.json", "facezoo.results/1"


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_vamp_options(parser)
    options.add_flag(parser, "--save_dir", type=Path, help="folder for decoded results")
    parser.add_argument("--card", help="which variant; needed for outputs of the vendor's vamp")
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    return decode(args) if args.save_dir else show(args)


def show(args: argparse.Namespace) -> int:
    outputs = OutputFolder(args.vamp_output_dir, args.vamp_datalist_path)
    for picture in read_pictures(args.vamp_datalist_path, args.input_image_dir):
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


def decode(args: argparse.Namespace) -> int:
    folder, datalist = args.vamp_output_dir, args.vamp_datalist_path
    card = args.card or card_of(OutputFolder(folder, datalist))
    listed = ListedOutputs(datalist, folder, [find_card(card)], args.input_image_dir)
    contract = listed.contract
    decoder = import_part(contract.model, "decode")
    head = {"card": contract.card_id}
    return options.run_items(
        args,
        listed.inputs(),
        lambda left: listed.stream(left, lambda raw: decoder.decode(raw, **contract.decode)[0]),
        command="npz_decode",
        settings=listed.settings(),
        names=listed.names,
        items=listed.pictures,
        finish=lambda run: run.write_items(RESULTS_FILE, SCHEMA, "images", head),
        afterwards=lambda: describe_untried(args.save_dir / RESULTS_FILE, SCHEMA, contract),
    )


def card_of(outputs: OutputFolder) -> str:
    if outputs.contract is None:
        raise InputError(f"{str(outputs.folder)!r} does not say which model made it; give --card")
    return outputs.contract.card_id


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
