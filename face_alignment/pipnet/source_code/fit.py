"""Train PIPNet on any annotation list, with the authors' losses and schedule; resumable.

DATA_DIR holds train.txt (per line: crop.jpg x0 y0 x1 y1 ..., in [0, 1] of the crop), images_train,
and the same for test. Writes SAVE_DIR/model.pth, model.onnx, meanface.txt, training.json, the build
YAML and vdsp JSON of its input size, and prints the test error. No augmentation. Resumable.
"""

import argparse
import dataclasses
from pathlib import Path

import facezoo
import numpy as np
from facezoo.cli import options
from facezoo.cli.render import write_trained_recipe
from facezoo.datasets.wflw import read_normalised_list
from facezoo.evaluation.landmarks import stack_units
from facezoo.files import sha256_of, write_bytes
from facezoo.image.files import read_image_rgb
from facezoo.image.preprocess import VdspOperation
from facezoo.metrics.landmarks import check_normalizer, normalized_mean_error
from facezoo.models.pipnet.decode import MeanFace, compute_meanface, format_meanface
from facezoo.models.pipnet.graph import make_contract
from facezoo.models.pipnet.settings import FitSettings
from facezoo.runs import Inputs, RunFolder


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--data_dir", type=Path, required=True, help="lists and crops")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for the model")
    parser.add_argument("--weights", type=Path, help=".pth to start from: backbone, or network")
    options.add_normalizer_option(parser)
    options.add_settings_options(parser, FitSettings)
    options.add_run_options(parser, rate="learning_rate", threads=True)
    return parser


def run(args: argparse.Namespace) -> int:
    export = options.import_torch_part("facezoo.graphs.export")
    training = options.import_torch_part("facezoo.models.pipnet.train")
    settings = options.settings_from(args, FitSettings)
    train, test = (read_normalised_list(args.data_dir / f"{s}.txt") for s in ("train", "test"))
    check_normalizer(test.points_xy, args.normalizer, test.names)
    crops = [args.data_dir / "images_train" / name for name in train.names]
    held_out = [args.data_dir / "images_test" / name for name in test.names]
    points = compute_meanface(train.points_xy)
    meanface = MeanFace.from_points(points, settings.num_neighbors)
    shape = {name: getattr(settings, name) for name in ("num_neighbors", "input_size")}
    contract = make_contract(settings.backbone, points, **shape)
    prepare = VdspOperation(contract.preprocess)

    def reader(paths):
        return lambda chosen: np.stack([prepare(read_image_rgb(paths[i]))[0] for i in chosen])

    paths, names = [args.data_dir / "train.txt", *crops], ["", *train.names]
    inputs = Inputs(paths, names, args.data_dir, args.weights)
    decided = {**dataclasses.asdict(settings), "weights": args.weights and sha256_of(args.weights)}
    started = (args.save_dir, "fit", decided, inputs, args.overwrite)
    rate = ["learning_rate"] * args.resume
    with RunFolder(*started, may_change=rate, may_grow=["epochs"]) as folder:
        state, model = args.save_dir / "state.pth", args.save_dir / "model.onnx"
        if not folder.finished:
            options.import_torch_part("facezoo.models.resumable").keep_freed_memory()
            other = training.HeldOut(reader(held_out), test.points_xy, meanface, args.normalizer)
            more = {"held_out": other if settings.patience else None, "start": args.weights}
            learnt = (reader(crops), train.points_xy, meanface.neighbors)
            fit = training.Fit(settings, *learnt, folder=args.save_dir, **more)
            fit.run(state, options.progress, args.resume)
            fit.take_best()
            export.save_checkpoint(fit.network, args.save_dir / "model.pth")
            write_bytes(args.save_dir / "meanface.txt", format_meanface(points).encode())
            export.export_network(fit.network.cpu(), model, contract)
            write_trained_recipe(args.save_dir, contract)
            fit.finish(folder, state, {"precision": fit.precision})
        with facezoo.load(model, kind=facezoo.LandmarkDetector) as network:
            found = stack_units(network.stream(held_out))
    for name, guess in (("mean face", np.broadcast_to(points, found.shape)), ("network", found)):
        error = normalized_mean_error(guess, test.points_xy, args.normalizer, test.names).mean()
        print(f"{name} on {len(test)} test crops: nme {error}")
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
