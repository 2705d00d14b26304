"""Unpack insightface's training sets (train.rec, train.idx) to pictures and a list, without MXNet.

Writes SAVE_DIR/images/<label>/<key>.jpg, as they are in the set, and SAVE_DIR/train.list. What is
damaged is named and passed over. Interrupted, the same command goes on where it was.

    python rec2images.py --rec faces_webface_112x112/train.rec --save_dir casia
"""

import argparse
import time
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets.image_list import write_image_list
from facezoo.datasets.recordio import RecordFile, UnpackedFace, file_name_of
from facezoo.errors import DatasetError, ImageError
from facezoo.files import write_bytes
from facezoo.runs import Inputs, RunFolder


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    parser.add_argument("--rec", type=Path, required=True, help="train.rec, its .idx beside it")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    options.add_run_options(parser)
    return parser


def unpack(records: RecordFile, key: int, images: Path):
    try:
        record = records.read(key)
        name = file_name_of(record)
    except DatasetError as error:
        return ImageError(str(error))
    write_bytes(images / name, record.image)
    return UnpackedFace(record.label, name)


def run(args: argparse.Namespace) -> int:
    files = [args.rec, args.rec.with_suffix(".idx")]
    images = args.save_dir / "images"
    with RecordFile(args.rec) as records, RunFolder(
        args.save_dir,
        command="rec2images",
        settings={},
        inputs=Inputs(files, [file.name for file in files]),
        overwrite=args.overwrite,
    ) as folder:
        keys = list(records.keys)
        done = folder.completed([str(key) for key in keys])
        started = time.perf_counter()
        for key in options.progress(keys[done:], len(keys) - done, args.quiet):
            folder.record(str(key), unpack(records, key, images))
        seconds = time.perf_counter() - started
        if not folder.finished:
            whole = [entry for entry in folder.entries() if "error" not in entry]
            paths = [(images / entry["file"]).as_posix() for entry in whole]
            labels = [entry["label"] for entry in whole]
            write_image_list(args.save_dir / "train.list", paths, labels, "path label")
            print(f"{len(paths)} pictures of {len(set(labels))} people")
            folder.finish()
        return options.report_run(folder, len(keys), done, seconds)


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
