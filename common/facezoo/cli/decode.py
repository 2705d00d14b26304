"""Decode what vamp wrote to results, image by image; without --save_dir only check and list it.

A file that is missing, extra, stale, cut short, renamed or exchanged is named and refused. Writes
SAVE_DIR/results.json, for any model. Resumable: run the same command again.

  facezoo decode --vamp_datalist_path list.txt --vamp_output_dir output --save_dir decoded
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import counted
from . import options

if TYPE_CHECKING:
    from ..vacc.outputs import OutputFolder

__all__ = ["configure", "run"]

RESULTS_FILE, SCHEMA = "results.json", "facezoo.results/1"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags; common/utils/npz_decode.py has the same."""
    options.add_vamp_options(parser)
    options.add_flag(parser, "--save_dir", type=Path, help="folder for decoded results")
    parser.add_argument("--card", help="which variant; needed for outputs of the vendor's vamp")
    options.add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Decode, or list what there is to decode."""
    return _decode(args) if args.save_dir else _show(args)


def _show(args: argparse.Namespace) -> int:
    from ..vacc.npz import read_pictures
    from ..vacc.outputs import OutputFolder

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
    print(f"{counted(len(outputs), 'output')} checked {how}")
    return 0


def _decode(args: argparse.Namespace) -> int:
    # Imported here, since the help needs none of it.
    from ..models import find_card, import_part
    from ..pipeline.decode_outputs import ListedOutputs, describe_untried
    from ..vacc.outputs import OutputFolder

    folder, datalist = args.vamp_output_dir, args.vamp_datalist_path
    card = args.card or _card_of(OutputFolder(folder, datalist))
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


def _card_of(outputs: OutputFolder) -> str:
    if outputs.contract is None:
        raise InputError(f"{str(outputs.folder)!r} does not say which model made it; give --card")
    return outputs.contract.card_id
