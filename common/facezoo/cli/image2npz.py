"""Turn a folder of images into the npz files and the list that vamp takes.

Writes TARGET_PATH/<folder>/<stem>.npz for every image at any depth, the sorted list TEXT_PATH,
and TEXT_PATH.manifest.json, by which a decoder finds the images again. Resumable: run the same
command again.

  facezoo image2npz --dataset_path photos --target_path npz --text_path list.txt
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, Iterable, Sequence

from ..errors import InputError
from ..runs import Inputs, RunFolder
from . import options

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags; common/utils/image2npz.py has the same."""
    options.add_flag(parser, "--dataset_path", type=Path, required=True, help="folder of images")
    options.add_flag(parser, "--target_path", type=Path, required=True, help="folder for npz files")
    options.add_output(parser, "--text_path", required=True, help="list to write")
    options.add_run_options(parser, threads=True)


def run(args: argparse.Namespace) -> int:
    """Convert what an earlier run has not, and write the list."""
    # Imported here, since the help needs none of it.
    from ..image.files import find_images, names_with_suffix, relative_names
    from ..machine import usable_cores
    from ..vacc import npz
    from ..workers import map_in_processes

    paths = find_images(args.dataset_path)
    names = relative_names(paths, args.dataset_path)
    npz_of = names_with_suffix(names, ".npz")
    root, target, datalist = args.dataset_path.resolve(), args.target_path.resolve(), args.text_path
    if target in (root, *root.parents):
        raise InputError(f"{str(target)!r} holds the images; name another folder for npz files")
    npz.check_names([str(target), *names])
    inputs = Inputs(paths, names, root)
    inputs.refuse_file(datalist, npz.manifest_of(datalist))

    def convert(left: Sequence[Path]) -> Iterable[Any]:
        npz.check_disk_space(left, target)
        work = [(path, npz_of[name]) for path, name in zip(left, names[len(names) - len(left) :])]
        return map_in_processes(partial(npz.convert_picture, folder=target), work, usable_cores())

    def finish(run: RunFolder) -> None:
        head = {"root": str(root), "npz_folder": str(target)}
        run.write_items(npz.MANIFEST_FILE, npz.MANIFEST_SCHEMA, key="items", head=head)

    def write_list() -> None:
        npz.write_datalist(datalist, target)

    return options.run_items(
        args,
        inputs,
        convert,
        folder=args.target_path,
        command="image2npz",
        settings={"dataset_path": str(root)},
        files_of=lambda name: [target / npz_of[name]],
        finish=finish,
        afterwards=write_list,
    )
