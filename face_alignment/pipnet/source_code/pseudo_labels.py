"""Label faces on any photos with the landmarks of a teacher, for the training of PIPNet.

Each face that SCRFD finds is labelled by the mean over flips and shifts of what the teacher finds;
the faces on which it agrees with itself least are left out. Writes SAVE_DIR/images_train and
train.txt (each face cut several times at random), and images_test and test.txt from photos held
out, in the layout that fit.py takes. Resumable: run the same command again.
"""

import argparse
from pathlib import Path, PurePosixPath

import facezoo
import numpy as np
from facezoo.cli import options
from facezoo.datasets import wflw
from facezoo.fields import SEED, number, whole
from facezoo.image.files import find_images, relative_names
from facezoo.models.base import LandmarkModel
from facezoo.models.pipnet.pseudo_labels import keep_agreed, teach_photo
from facezoo.runs import Inputs

TRAIN_SHARE = 0.95


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos with faces")
    parser.add_argument("--exclude", type=Path, help="folder of WFLW's lists: their photos are out")
    parser.add_argument("--detector", required=True, metavar="MODEL", help="SCRFD")
    parser.add_argument("--teacher", required=True, metavar="MODEL", help="98 landmarks of WFLW")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder for the set")
    height, side, share = whole(1, 4096), whole(16, 4096), number(0, 1, without_low=True)
    options.add_flag(parser, "--least_height", type=height, default=48, help="of a face in pixels")
    parser.add_argument("--crops", type=whole(1, 1000), default=2, help="crops per face")
    parser.add_argument("--size", type=side, default=256, help="side of a crop in pixels")
    parser.add_argument("--keep", type=share, default=0.9, help="share of the faces to keep")
    parser.add_argument("--seed", type=SEED, default=0, help="random seed")
    options.add_run_options(parser, threads=True)
    return parser


def run(args: argparse.Namespace) -> int:
    lists = wflw.find_lists(args.exclude).values() if args.exclude else ()
    listed = {PurePosixPath(f.image).name for one in lists for f in wflw.read_annotations(one)}
    paths = [path for path in find_images(args.photos) if path.name not in listed]
    index_of = {path: index for index, path in enumerate(paths)}
    shuffled = np.random.default_rng(args.seed).permutation(len(paths))
    train = set(shuffled[: round(TRAIN_SHARE * len(paths))].tolist())
    taught = {}

    def label(path, image, faces):
        index, boxes = index_of[path], faces.boxes_xyxy
        boxes = boxes[boxes[:, 3] - boxes[:, 1] >= args.least_height]
        split = "train" if index in train else "test"
        stem = args.save_dir / f"images_{split}" / f"{index:05d}"
        rng = np.random.default_rng((args.seed, index))
        cut = {"crops": args.crops, "size": args.size, "rng": rng}
        taught[path] = teach_photo(image, boxes, teacher, stem, **cut)

    def make(left):
        for faces in detector.stream(left, visit=label):
            yield faces if isinstance(faces, Exception) else taught.pop(faces.source)

    def finish(run):
        kept, most = keep_agreed(run.entries(), args.keep)
        for split, content in kept.items():
            wflw.write_normalised_list(args.save_dir / f"{split}.txt", content)
            print(f"{split}.txt: {len(content)} crops; largest disagreement {most:.4f}")

    names = ("least_height", "crops", "size", "keep", "seed")
    drawn = {name: getattr(args, name) for name in names}
    detector = facezoo.load(args.detector, kind=facezoo.FaceDetector)
    teacher = facezoo.load(args.teacher, kind=LandmarkModel)
    with detector, teacher:
        return options.run_items(
            args,
            Inputs(paths, relative_names(paths, args.photos), args.photos),
            make,
            command="pseudo_labels",
            settings={**detector.settings(), "teacher": teacher.settings(), **drawn},
            finish=finish,
        )


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
