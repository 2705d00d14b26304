"""Train iresnet18 on 25 people of the AT&T faces and verify it on five others; a smoke test.

ATT_DIR holds s1 to s30, which are cropped to squares and resized to 112x112, not aligned: five
squares per training image, the middle square for verification. The table has the accuracy on all
genuine and as many impostor pairs before and after each seed; threshold from the other half.
"""

import argparse
import csv
import shlex
import subprocess
import sys
import time
from pathlib import Path

from facezoo.cli import options
from facezoo.fields import SEED, whole
from facezoo.image.files import find_images
from facezoo.machine import has_bf16
from facezoo.models.magface.faces import read_face_pairs, write_squares
from facezoo.runs import Inputs, RunFolder

TRAINED, VERIFIED = range(1, 26), range(26, 31)
# Top, left and side in images of 112x92; the first is the middle one.
SQUARES = ((10, 0, 92), (0, 0, 92), (20, 0, 92), (16, 0, 80), (16, 12, 80))
FOLDS = 2
FLAGS = "--batch-size 32 --lr-drop-epoch 3 --workers 1 --print-freq 13"


def build_parser() -> argparse.ArgumentParser:
    parser = options.make_parser(__doc__)
    options.add_flag(parser, "--att_dir", type=Path, required=True, help="folder with s1 to s30")
    options.add_flag(parser, "--save_dir", type=Path, required=True, help="folder of the demo")
    parser.add_argument("--seeds", type=SEED, nargs="+", default=[0, 1, 2], help="one run each")
    parser.add_argument("--epochs", type=whole(1, 1000), default=4, help="epochs of each run")
    return parser


def prepare(args: argparse.Namespace, to: Path) -> None:
    """Write the faces, the training list and the pairs, unless an earlier start has."""
    images = {n: find_images(args.att_dir / f"s{n}") for n in (*TRAINED, *VERIFIED)}
    read = [path for paths in images.values() for path in paths]
    names = [path.relative_to(args.att_dir).as_posix() for path in read]
    with RunFolder(to, "train_demo", {}, Inputs(read, names, args.att_dir)) as folder:
        if not folder.finished:
            write_squares(images, to, VERIFIED, SQUARES)
            folder.finish("train.list", "pairs.list")


def run(args: argparse.Namespace) -> int:
    training = options.import_torch_part("facezoo.models.magface.train")
    faces = args.save_dir / "faces"
    pairs = faces / "pairs.list"
    prepare(args, faces)
    rows = []
    for seed in args.seeds:
        folder = args.save_dir / f"seed_{seed}"
        command = [sys.executable, str(Path(__file__).with_name("train.py")), *FLAGS.split()]
        command += ["--precision", "bf16" if has_bf16() else "fp32"]
        command += ["--train_list", str(faces / "train.list"), "--val_pairs", str(pairs)]
        command += ["--val_folds", str(FOLDS), "--epochs", str(args.epochs), "--seed", str(seed)]
        command += ["--pth-save-fold", str(folder), "--pth-save-epoch", str(args.epochs)]
        print(shlex.join(["python", *command[1:]]), flush=True)
        began = time.monotonic()
        code = subprocess.run(command).returncode
        if code:
            return code  # train.py has said why.
        minutes = (time.monotonic() - began) / 60
        last = list(csv.DictReader((folder / "epochs.csv").read_text().splitlines()))[-1]
        network = training.seeded(training.builder("iresnet18"), seed)
        before = training.verify(network, read_face_pairs(pairs), FOLDS, "cpu").mean
        after = float(last["verification"])
        rows.append(f"{seed:4}  {before:9.4f}  {after:7.4f}  {minutes:7.1f}")
    print("\n".join(["seed  untrained  trained  minutes", *rows]))
    return 0


def main(argv=None) -> int:
    return options.run_command(run, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
