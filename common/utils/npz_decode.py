"""List what vamp wrote, image by image, and check every file.

A file that is missing, extra, stale, cut short, renamed or exchanged is named and refused. The
decoders of the recipes (build_in/decode) check the same before they decode.

    python ../../common/utils/npz_decode.py --vamp_datalist_path list.txt --vamp_output_dir output
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.vacc.npz import read_pictures
from facezoo.vacc.outputs import OutputFolder


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--vamp_datalist_path", type=Path, required=True, help="vamp's list")
    options.add_flag(parser, "--vamp_output_dir", type=Path, required=True, help="vamp's outputs")
    options.add_image_dir_option(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    pictures = read_pictures(args.vamp_datalist_path, args.input_image_dir)
    outputs = OutputFolder(args.vamp_output_dir, args.vamp_datalist_path)
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


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
