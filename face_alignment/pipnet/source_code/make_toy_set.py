"""Make a small training set out of any photos: the mean face laid over SCRFD's five points.

Writes SAVE_DIR/images_train and train.txt from 80 % of the photos, images_test and test.txt from
the others, in the layout that fit.py and the runner take. Each face is cut several times, mirrored
or not, turned, scaled and shifted at random. For testing the training, not for measuring accuracy.

    python ../source_code/make_toy_set.py --photos photos --detector PREFIX --save_dir toy
"""

import argparse
from pathlib import Path

import facezoo
import numpy as np
from facezoo.cli import options
from facezoo.datasets.wflw import write_normalised_list
from facezoo.fields import SEED, whole
from facezoo.image.files import find_images, relative_names, write_image_rgb
from facezoo.models.pipnet.decode import load_meanface
from facezoo.models.pipnet.toy import ToyCrops, normalised_list, random_crop
from facezoo.runs import Inputs

TRAIN_SHARE = 0.8


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos with faces")
    parser.add_argument("--detector", type=Path, required=True, metavar="PREFIX", help="SCRFD")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for the set")
    parser.add_argument("--crops", type=whole(1, 1000), default=4, help="crops per face")
    parser.add_argument(
        "--size", type=whole(16, 4096), default=128, help="side of a crop in pixels"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="random seed")
    options.add_run_options(parser, threads=True)
    return parser


def run(args: argparse.Namespace) -> int:
    paths = find_images(args.photos)
    names = relative_names(paths, args.photos)
    shuffled = np.random.default_rng(args.seed).permutation(len(paths))
    train = set(shuffled[: round(TRAIN_SHARE * len(paths))].tolist())
    meanface = load_meanface("WFLW", num_neighbors=10).points_xy
    cuts = {}

    def cut(path, image, faces):
        index = paths.index(path)
        rng = np.random.default_rng((args.seed, index))
        split, crops = "train" if index in train else "test", {}
        for face, five in enumerate(faces.landmarks_xy):
            for number in range(args.crops):
                crop, points = random_crop(image, five, meanface, args.size, rng)
                name = f"{index:05d}_{face:03d}_{number:02d}.png"
                write_image_rgb(args.save_dir / f"images_{split}" / name, crop)
                crops[name] = points
        cuts[path] = ToyCrops(split, crops)

    def make(left):
        for faces in detector.stream(left, visit=cut):
            yield faces if isinstance(faces, Exception) else cuts.pop(faces.source)

    def finish(run):
        entries = list(run.entries())
        for split in ("train", "test"):
            content = normalised_list(entries, split)
            write_normalised_list(args.save_dir / f"{split}.txt", content)
            print(f"{split}.txt: {len(content)} crops")

    drawn = {name: getattr(args, name) for name in ("crops", "size", "seed")}
    with facezoo.load(args.detector, kind=facezoo.FaceDetector) as detector:
        return options.run_items(
            args,
            Inputs(paths, names, args.photos, args.detector),
            make,
            command="make_toy_set",
            settings={**detector.settings(), **drawn},
            finish=finish,
        )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
