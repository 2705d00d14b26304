"""Unpack insightface's training sets (train.rec, train.idx) to images and a list, without MXNet.

Writes SAVE_DIR/images/<label>/<key>.jpg, as they are in the set, and SAVE_DIR/train.list. What is
damaged is named and left out. Resumable: run the same command again.

    python rec2images.py --rec faces_webface_112x112/train.rec --save_dir casia
"""

import argparse
from pathlib import Path

from facezoo.cli import options
from facezoo.datasets.image_list import write_image_list
from facezoo.datasets.recordio import RecordFile
from facezoo.runs import Inputs


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    parser.add_argument(
        "--rec", type=Path, required=True, help="train.rec; its .idx may be missing"
    )
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for results")
    options.add_run_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    files = [args.rec, *filter(Path.exists, [args.rec.with_suffix(".idx")])]
    images = args.save_dir / "images"

    def finish(run):
        whole = [entry for entry in run.entries() if "error" not in entry]
        paths = [(images / entry["file"]).as_posix() for entry in whole]
        labels = [entry["label"] for entry in whole]
        write_image_list(args.save_dir / "train.list", paths, labels, "path label")
        print(f"{len(paths)} images of {len(set(labels))} people")

    with RecordFile(args.rec) as records:
        keys = list(records.keys)
        return options.run_items(
            args,
            Inputs(files, [file.name for file in files]),
            lambda left: (records.unpack(key, images) for key in left),
            names=[str(key) for key in keys],
            items=keys,
            command="rec2images",
            settings={},
            room=args.rec.stat().st_size,
            finish=finish,
        )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
