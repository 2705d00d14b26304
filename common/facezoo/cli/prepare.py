"""Unpack a data set and check that it is complete.

facezoo prepare widerface --help says where the archives are and how to name them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..datasets.widerface import (
    GROUND_TRUTH_FOLDER,
    PHOTOS_FOLDER,
    check_dataset,
    unpack_ground_truth,
    unpack_photos,
)
from ..errors import DatasetError

__all__ = ["configure", "run"]

WHERE_FROM = """\
The WIDER FACE validation set is two archives, to be fetched by hand (for research only):

  WIDER_val.zip    the photos, 0.4 GB
      https://huggingface.co/datasets/wider_face/blob/main/data/WIDER_val.zip
  eval_tools.zip   the ground truth
      http://shuoyang1213.me/WIDERFACE/support/eval_script/eval_tools.zip

  facezoo prepare widerface --to DIR \\
      --images-zip WIDER_val.zip --ground-truth-zip eval_tools.zip
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add one sub-command per data set."""
    datasets = parser.add_subparsers(dest="dataset", metavar="DATASET", required=True)
    widerface = datasets.add_parser(
        "widerface",
        help="WIDER FACE validation set, for face detection",
        description=WHERE_FROM,
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    widerface.add_argument(
        "--to", type=Path, default=Path("widerface"), metavar="DIR", help="folder of the data set"
    )
    widerface.add_argument(
        "--images-zip", type=Path, metavar="ZIP", help="unpack the photos from WIDER_val.zip"
    )
    widerface.add_argument(
        "--ground-truth-zip", type=Path, metavar="ZIP", help="unpack *.mat from eval_tools.zip"
    )
    widerface.set_defaults(prepare=prepare_widerface)


def run(args: argparse.Namespace) -> int:
    """Prepare as the data set's sub-command says."""
    return int(args.prepare(args))


def prepare_widerface(args: argparse.Namespace) -> int:
    """Unpack what was given, then check all.

    Parameters
    ----------
    args
        ``to``, ``images_zip``, ``ground_truth_zip``.

    Returns
    -------
    int
        0 if the data set is complete.

    Raises
    ------
    DatasetError
        If an archive cannot be used, or anything is missing; then it is printed where to get it.
    """
    if args.images_zip:
        print(f"{unpack_photos(args.images_zip, args.to)} photos from {args.images_zip}")
    if args.ground_truth_zip:
        count = unpack_ground_truth(args.ground_truth_zip, args.to)
        print(f"{count} files from {args.ground_truth_zip}")
    try:
        events, photos, faces = check_dataset(args.to)
    except DatasetError:
        print(WHERE_FROM)
        raise
    print(f"complete: {events} events, {photos} photos, {faces} faces")
    print(f"photos:       {args.to / PHOTOS_FOLDER}")
    print(f"ground truth: {args.to / GROUND_TRUTH_FOLDER}")
    return 0
