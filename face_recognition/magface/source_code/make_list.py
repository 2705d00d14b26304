"""Make and check lists of training images: from folders, or from lists of any form.

The authors' programs read ``path 0 label 0``, the vendor's change of them ``path label``, EQFace's
``path;label``; all loaders here read all three. Labels must run from 0 without gaps.

    python make_list.py --images dataset/images --output face_train.list
    python make_list.py --list face_train.txt --form four --output face_train.list
    python make_list.py --list face_train.list --root dataset
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets import image_list
from facezoo.errors import InputError
from facezoo.runs import Inputs

FORMS = {"two": "path label", "four": "path 0 label 0"}


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="DIR", help="one folder per person")
    source.add_argument("--list", type=Path, help="a list to convert, or only to check")
    parser.add_argument(
        "--root", type=Path, help="folder of a list's paths, which they must not leave"
    )
    options.add_output(parser, "--output", help="the list to write; without it only check")
    parser.add_argument("--form", choices=FORMS, default="two", help="columns of the output")
    parser.add_argument("--renumber", action="store_true", help="close gaps between the labels")
    return parser


def run(args: argparse.Namespace) -> int:
    if args.images and args.root:
        raise InputError("--root goes with --list; paths of --images start from its folder")
    if args.images:
        # Named from the working folder, as the authors' trainer takes them.
        found = image_list.list_people(args.images)
        paths = tuple((args.images / name).as_posix() for name in found.paths)
        images = image_list.ImageList(paths, found.labels)
    else:
        images = image_list.read_image_list(args.list)
    if args.renumber:
        images = image_list.renumbered(images)
    image_list.check_image_list(images, args.root)
    if args.output:
        located = [Path(args.root or "", name) for name in images.paths]
        Inputs(located, images.paths).refuse_file(args.output)
        image_list.write_image_list(args.output, images.paths, images.labels, FORMS[args.form])
    print(f"{len(images)} images of {images.classes} people, labels 0 to {images.classes - 1}")
    print(f"train with --last-fc-size {images.classes}")
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
