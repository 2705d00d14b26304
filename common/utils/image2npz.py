"""Turn a folder of images into the npz files and the list that vamp takes.

Writes TARGET_PATH/<folder>/<stem>.npz for every image at any depth, the sorted list TEXT_PATH,
and TEXT_PATH.manifest.json, by which a decoder finds the images again. Resumable: run the same
command again.
"""

import argparse
from functools import partial
from pathlib import Path

from facezoo.cli import options
from facezoo.errors import InputError
from facezoo.image.files import find_images, names_with_suffix, relative_names
from facezoo.runs import Inputs
from facezoo.vacc import npz
from facezoo.workers import map_in_processes, usable_cores


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--dataset_path", type=Path, required=True, help="folder of images")
    options.add_flag(parser, "--target_path", type=Path, required=True, help="folder for npz files")
    options.add_output(parser, "--text_path", required=True, help="list to write")
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    paths = find_images(args.dataset_path)
    names = relative_names(paths, args.dataset_path)
    npz_of = names_with_suffix(names, ".npz")
    root, target, datalist = args.dataset_path.resolve(), args.target_path.resolve(), args.text_path
    if target in (root, *root.parents):
        raise InputError(f"{str(target)!r} holds the images; name another folder for npz files")
    npz.check_names([str(target), *names])
    inputs = Inputs(paths, names, root)
    inputs.refuse_file(datalist, npz.manifest_of(datalist))

    def convert(left):
        npz.check_disk_space(left, target)
        work = [(path, npz_of[name]) for path, name in zip(left, names[len(names) - len(left) :])]
        return map_in_processes(partial(npz.convert_picture, folder=target), work, usable_cores())

    def finish(run):
        head = {"root": str(root), "npz_folder": str(target)}
        run.write_items(npz.MANIFEST_FILE, npz.MANIFEST_SCHEMA, key="items", head=head)

    return options.run_items(
        args,
        inputs,
        convert,
        folder=args.target_path,
        command="image2npz",
        settings={"dataset_path": str(root)},
        files_of=lambda name: [target / npz_of[name]],
        finish=finish,
        afterwards=lambda: npz.write_datalist(datalist, target),
    )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
