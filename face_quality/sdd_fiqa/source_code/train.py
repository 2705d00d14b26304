"""Train a quality network on pseudo-labels.

Writes SAVE_DIR/model.pth, model.onnx, which the other steps take, and training.json with loss and
validation Spearman of every epoch. Resumable: run the same command again.

    python ../source_code/train.py --image_dir faces/train/images --labels labels/train/labels.txt \
        --val_image_dir faces/test/images --val_labels labels/test/labels.txt --save_dir trained
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from facezoo.cli import options
from facezoo.contract import Contract
from facezoo.datasets.degraded import read_labels
from facezoo.datasets.image_list import inside
from facezoo.errors import InputError
from facezoo.files import sha256_of
from facezoo.image.files import read_image_rgb
from facezoo.image.preprocess import VdspOperation
from facezoo.models.sdd_fiqa.card import CARDS
from facezoo.models.sdd_fiqa.settings import TrainSettings
from facezoo.runs import Inputs, RunFolder


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--image_dir", type=Path, required=True, help="aligned faces")
    parser.add_argument("--labels", type=Path, required=True, help="one path and label per line")
    options.add_flag(parser, "--val_image_dir", type=Path, help="validation faces, of other people")
    options.add_flag(parser, "--val_labels", type=Path, help="labels of --val_image_dir")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for the model")
    parser.add_argument("--trunk", type=Path, help="a recogniser's .pth, whose trunk to start from")
    options.add_settings_options(parser, TrainSettings)
    options.add_run_options(parser, rate="learning_rate", threads=True)
    return parser


def run(args: argparse.Namespace) -> int:
    if (args.val_image_dir is None) != (args.val_labels is None):
        raise InputError("--val_image_dir and --val_labels go together; give both or neither")
    settings = options.settings_from(args, TrainSettings)
    export = options.import_torch_part("facezoo.graphs.export")
    training = options.import_torch_part("facezoo.models.sdd_fiqa.train")
    contract = Contract.from_card(CARDS[f"sdd_fiqa_{settings.variant}"])
    prepare = VdspOperation(contract.preprocess)

    def faces_of(folder, labels):
        names, values = read_labels(labels)
        paths = [inside(folder, name) for name in names]

        def read(indices):
            return np.stack([prepare(read_image_rgb(paths[index]))[0] for index in indices])

        return training.LabelledFaces(read, values), paths, names

    faces, paths, names = faces_of(args.image_dir, args.labels)
    validation = args.val_labels and faces_of(args.val_image_dir, args.val_labels)[0]
    files = {name: getattr(args, name) for name in ("labels", "val_labels", "trunk")}
    hashes = {name: file and sha256_of(file) for name, file in files.items()}
    with RunFolder(
        args.save_dir,
        command="train",
        settings={**dataclasses.asdict(settings), **hashes},
        inputs=Inputs(paths, names, args.image_dir, args.val_image_dir, *files.values()),
        overwrite=args.overwrite,
        may_change=["learning_rate"] * args.resume,
        may_grow=["epochs"],
    ) as folder:
        state = args.save_dir / "state.pth"
        if not folder.finished:
            options.import_torch_part("facezoo.models.resumable").keep_freed_memory()
            fit = training.Training(settings, faces, validation or None, trunk=args.trunk)
            fit.run(state, options.progress, args.resume)
            export.save_checkpoint(fit.network, args.save_dir / "model.pth")
            export.export_network(fit.network.cpu(), args.save_dir / "model.onnx", contract)
            fit.finish(folder, state, {"precision": fit.precision})
    print((args.save_dir / "training.json").read_text(encoding="utf-8").rstrip())
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
