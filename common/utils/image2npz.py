"""Turn a folder of pictures into the npz files and the list that vamp takes.

Writes TARGET_PATH/<folder>/<stem>.npz for every picture at any depth, the sorted list TEXT_PATH,
and TEXT_PATH.manifest.json, by which a decoder finds the pictures again. Interrupted, the same
command goes on where it was.
"""

import argparse
import time
from functools import partial
from pathlib import Path

from facezoo.cli import options
from facezoo.errors import InputError
from facezoo.image.files import find_images, names_with_suffix, relative_names
from facezoo.runs import Inputs, RunFolder
from facezoo.vacc.npz import (
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    check_disk_space,
    check_names,
    convert_picture,
    manifest_of,
    write_datalist,
)
from facezoo.workers import map_in_processes, usable_cores


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--dataset_path", type=Path, required=True, help="folder of pictures")
    options.add_flag(parser, "--target_path", type=Path, required=True, help="folder for npz files")
    options.add_flag(parser, "--text_path", type=Path, required=True, help="list to write")
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    paths = find_images(args.dataset_path)
    names = relative_names(paths, args.dataset_path)
    npz_of = names_with_suffix(names, ".npz")
    root, target, datalist = args.dataset_path.resolve(), args.target_path.resolve(), args.text_path
    if target in (root, *root.parents):
        raise InputError(f"{str(target)!r} holds the pictures; name another folder for npz files")
    check_names([str(target), *names])
    inputs = Inputs(paths, names, root)
    inputs.refuse_file(datalist, manifest_of(datalist))
    with RunFolder(
        args.target_path,
        command="image2npz",
        settings={"dataset_path": str(root)},
        inputs=inputs,
        overwrite=args.overwrite,
    ) as folder:
        done = folder.completed(names, lambda name: [target / npz_of[name]])
        check_disk_space(paths[done:], target)
        started = time.perf_counter()
        work = [(path, npz_of[name]) for path, name in zip(paths[done:], names[done:])]
        results = map_in_processes(partial(convert_picture, folder=target), work, usable_cores())
        shown = options.progress(results, len(paths) - done, args.quiet)
        for result, name in zip(shown, names[done:]):
            folder.record(name, result)
        if not folder.finished:
            head = {"root": str(root), "npz_folder": str(target)}
            folder.write_items(MANIFEST_FILE, MANIFEST_SCHEMA, key="items", head=head)
            folder.finish()
        write_datalist(datalist, target)
        return options.report_run(folder, len(paths), done, time.perf_counter() - started)


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
