"""Unpack a data set and check that it is complete.

The help of widerface and, for the verification sets of face recognition, of lfw_cfp_agedb says
where to get the archives and how to pass them; lfw, cfp and agedb check photos and pairs as their
authors publish them:

  facezoo prepare lfw --photos lfw --pairs lfw/pairs.txt
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from ..datasets.face_sets import check_sets, unpack_sets
from ..datasets.protocols import OFFICIAL, check_official
from ..datasets.wflw_wider import MISSING_FILE, prepare_wflw_wider
from ..datasets.widerface import (
    GROUND_TRUTH_FOLDER,
    PHOTOS_FOLDER,
    check_dataset,
    unpack_ground_truth,
    unpack_photos,
)
from ..errors import DatasetError, InputError
from ..runs import unpacking
from . import flags
from .options import progress

__all__ = ["configure", "run"]

WHERE_FROM = """\
The WIDER FACE validation set is two archives to download by hand (for research only):

  WIDER_val.zip    the photos, 0.4 GB
      https://huggingface.co/datasets/wider_face/blob/main/data/WIDER_val.zip
  eval_tools.zip   the ground truth
      http://shuoyang1213.me/WIDERFACE/support/eval_script/eval_tools.zip

  facezoo prepare widerface --to DIR \\
      --images-zip WIDER_val.zip --ground-truth-zip eval_tools.zip
"""

FACES_FROM = """\
The verification sets are one archive of aligned faces to download by hand (for research only):

  lfw_cfp_agedb.tar    lfw, cfp and agedb, each with img.list, pair.list and its images
      https://pan.baidu.com/s/1ekuNnIWa6kwtsPuwRZaDmQ (code fz3h)
      https://github.com/IrvingMeng/MagFace, Evaluation, has further addresses

  facezoo prepare lfw_cfp_agedb --to data --tar lfw_cfp_agedb.tar
"""

LANDMARKS_FROM = """\
WFLW's photos are those of WIDER FACE, so part of its test set can be put together from

  WIDER FACE's validation set    facezoo prepare widerface --to widerface ...
  list_98pt_test_*.txt           WFLW's lists of the six subsets, from WFLW_annotations.tar.gz
      https://wywu.github.io/projects/LAB/WFLW.html

  facezoo prepare wflw-wider --wider widerface --lists WFLW_annotations --to wflw

Every face is checked against its box in WIDER FACE. Photos that are not found are listed.
"""


# Data set to its name and its list of pairs.
PROTOCOLS = {
    "lfw": ("Labeled Faces in the Wild", "pairs.txt (default: in the folder of the photos)"),
    "cfp": ("Celebrities in Frontal-Profile", "folder with Protocol (default: the photos' folder)"),
    "agedb": ("AgeDB-30", "list of pairs: photo, photo, 1 or 0 (default: the photos are checked)"),
}


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
    flags.add(widerface, "--to", "folder of the data set", default=Path("widerface"))
    for name, what in (
        ("--images-zip", "the photos from WIDER_val.zip"),
        ("--ground-truth-zip", "*.mat from eval_tools.zip"),
    ):
        text = f"unpack {what} (default: what is there is checked)"
        flags.add(widerface, name, text, type=Path, metavar="ZIP")
    widerface.set_defaults(prepare=prepare_widerface)
    faces = datasets.add_parser(
        "lfw_cfp_agedb",
        help="LFW, CFP-FP and AgeDB-30 as packed by MagFace's authors, for face recognition",
        description=FACES_FROM,
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    flags.add(faces, "--to", "folder of the three sets", default=Path("data"))
    text = "unpack lfw_cfp_agedb.tar (default: what is there is checked)"
    flags.add(faces, "--tar", text, type=Path, metavar="TAR")
    faces.set_defaults(prepare=prepare_lfw_cfp_agedb)
    landmarks = datasets.add_parser(
        "wflw-wider",
        help="WFLW's test faces on photos of WIDER FACE, for face alignment",
        description=LANDMARKS_FROM,
        formatter_class=parser.formatter_class,
        allow_abbrev=False,
    )
    for name, what in (("--wider", "WIDER FACE"), ("--lists", "WFLW's lists")):
        flags.add(landmarks, name, f"folder of {what}", type=Path, required=True, metavar="DIR")
    flags.add(landmarks, "--to", "folder of the data set", default=Path("wflw"))
    landmarks.set_defaults(prepare=prepare_wflw)
    for name, (title, pairs) in PROTOCOLS.items():
        protocol = datasets.add_parser(
            name,
            help=f"{title}: check photos and pairs, for face recognition",
            description=f"Check that the photos and pairs of {title} are complete.",
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        flags.add(protocol, "--photos", required=True)
        flags.add(protocol, "--pairs", pairs)
        protocol.set_defaults(prepare=prepare_protocol)


def run(args: argparse.Namespace) -> int:
    """Prepare the data set of the sub-command."""
    return int(args.prepare(args))


def prepare_widerface(args: argparse.Namespace) -> int:
    """Unpack the given archives, then check everything.

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
        If an archive cannot be used, or anything is missing; then the sources are printed.
    """
    with unpacking(args.to) if args.images_zip or args.ground_truth_zip else nullcontext():
        if args.images_zip:
            count = unpack_photos(args.images_zip, args.to, progress)
            print(f"{count} photos from {args.images_zip}")
        if args.ground_truth_zip:
            count = unpack_ground_truth(args.ground_truth_zip, args.to, progress)
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


def prepare_lfw_cfp_agedb(args: argparse.Namespace) -> int:
    """Unpack the archive if given, then check everything.

    Parameters
    ----------
    args
        ``to``, ``tar``.

    Returns
    -------
    int
        0 if the sets are complete.

    Raises
    ------
    DatasetError
        If the archive cannot be used, or anything is missing; then the sources are printed.
    """
    if args.tar:
        with unpacking(args.to):
            print(f"{unpack_sets(args.tar, args.to, progress)} files from {args.tar}")
    try:
        found = check_sets(args.to)
    except DatasetError:
        print(FACES_FROM)
        raise
    for name, pairs in found.items():
        print(f"{name}: {pairs} pairs, all images found")
    return 0


def prepare_wflw(args: argparse.Namespace) -> int:
    """Link the photos and write the lists, then count.

    Parameters
    ----------
    args
        ``wider``, ``lists``, ``to``.

    Returns
    -------
    int
        0; 1 if the landmarks of a face match no box of its photo.

    Raises
    ------
    DatasetError, InputError
        See :func:`facezoo.datasets.wflw_wider.prepare_wflw_wider`.
    """
    with unpacking(args.to):
        found = prepare_wflw_wider(args.wider, args.lists, args.to)
    subsets = ", ".join(f"{name} {count}" for name, count in found.subsets.items())
    print(f"{found.faces} of {found.listed} listed faces, on {found.photos} photos: {subsets}")
    print(f"smallest overlap of landmarks and WIDER FACE's box: {found.least_overlap:.3f}")
    if found.unchecked:
        print(f"not checked, since their photos are not in the ground truth: {found.unchecked}")
    if found.refused:
        print(f"refused, since the landmarks match no box: {found.refused}")
    print(f"photos not used: {len(found.missing)}, see {args.to / MISSING_FILE}")
    return int(found.refused > 0)


def prepare_protocol(args: argparse.Namespace) -> int:
    """Check layout and counts of LFW, CFP or AgeDB.

    Parameters
    ----------
    args
        ``dataset``, ``photos``, ``pairs``.

    Returns
    -------
    int
        0 if the data set is complete.

    Raises
    ------
    DatasetError
        If anything is missing or differs from the published counts.
    InputError
        If the list of pairs is not given and has no usual place.
    """
    usual = {"lfw": args.photos / "pairs.txt", "cfp": args.photos}
    pairs = args.pairs or usual.get(args.dataset)
    if pairs is None:
        raise InputError(f"{args.dataset} has its pairs in a list of its own: give --pairs LIST")
    protocol = check_official(args.dataset, pairs, args.photos)
    official = OFFICIAL[args.dataset]
    people = f" of {official.people} people" if official.people else ""
    print(f"complete: {protocol}; {official.photos} photos{people}")
    return 0
