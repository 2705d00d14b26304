"""Pseudo-labels of landmarks: what a teacher finds on a face, averaged over flips and shifts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np

from ...datasets.wflw import LANDMARKS, NormalisedList
from ...errors import InputError
from ...image.crop import SquareCrop
from ...image.files import write_image_rgb
from ..base import LandmarkModel
from .toy import cut_turned, random_turn

__all__ = [
    "MIRRORED",
    "TaughtFaces",
    "keep_agreed",
    "plain_crop",
    "teach",
    "teach_photo",
    "turned_crops",
]

# Landmark that takes the place of each one in a mirrored face.
# source: WFLW's scheme of 98 points, https://wywu.github.io/projects/LAB/WFLW.html
MIRRORED = np.array(
    [
        *range(32, -1, -1),
        *(*range(46, 41, -1), *range(50, 46, -1), *range(37, 32, -1), *range(41, 37, -1)),
        *(*range(51, 55), *range(59, 54, -1)),
        *(*range(72, 67, -1), *range(75, 72, -1), *range(64, 59, -1), *range(67, 64, -1)),
        *(*range(82, 75, -1), *range(87, 82, -1), *range(92, 87, -1), *range(95, 92, -1)),
        *(97, 96),
    ]
)

EYE_CORNERS = (60, 72)  # the outer ones, as in facezoo.metrics.landmarks.NORMALIZERS
POINTS_SCALE = 1.2  # of the longer side of the landmarks' box, as the teacher was trained
SHIFTS = ((0.0, 0.0), (0.05, 0.05), (-0.05, -0.05))  # of the views, in sides of the crop

MARGINS = (1.1, 1.4)  # ratio of the sides of a training crop and of the landmarks' box
LARGEST_SHIFT = 0.08  # share of the sides of the crop
LARGEST_TURN = 30.0  # degrees; source: PIPNet@b9eab58 lib/data_utils.py random_rotate


def teach(
    image_rgb: np.ndarray, box_xyxy: Sequence[float], teacher: LandmarkModel
) -> Tuple[np.ndarray, float]:
    """Find the landmarks of a face as the mean over several views of it.

    Parameters
    ----------
    image_rgb
        Shape (H, W, 3), uint8, RGB: the photo.
    box_xyxy
        A detector's box in pixels of the photo.
    teacher
        A network of WFLW's 98 landmarks.

    Returns
    -------
    points_xy : numpy.ndarray
        Shape (98, 2), float64, pixels of the photo.
    disagreement : float
        Root mean square distance of the views from their mean, in distances of the outer corners
        of the eyes; infinite if these coincide.

    Raises
    ------
    InputError
        If the teacher has another number of landmarks.
    """
    hw = image_rgb.shape[:2]
    first = teacher.crop_of(box_xyxy, hw)
    found = first.to_photo(teacher.batch([first.cut(image_rgb)], shared=True)[0]).points_xy
    if found.shape != (LANDMARKS, 2):
        raise InputError(
            f"the teacher has {len(found)} landmarks, expected the {LANDMARKS} of WFLW"
        )
    low, high = found.min(axis=0), found.max(axis=0)
    side = POINTS_SCALE * float((high - low).max())
    crops, cuts = [], []
    for shift in SHIFTS:
        moved = np.array(shift) * side
        crop = SquareCrop.around([*(low + moved), *(high + moved)], hw, POINTS_SCALE)
        cut = crop.cut(image_rgb)
        crops.append(crop)
        cuts += [cut, np.ascontiguousarray(cut[:, ::-1])]
    views = []
    for number, result in enumerate(teacher.batch(cuts, shared=True)):
        crop, points = crops[number // 2], result.points_xy.astype(np.float64)
        if number % 2:
            points = points[MIRRORED] * (-1.0, 1.0) + (crop.side, 0.0)
        views.append(points + (crop.left, crop.top))
    mean = np.mean(views, axis=0)
    left, right = EYE_CORNERS
    unit = float(np.linalg.norm(mean[left] - mean[right]))
    spread = float(np.sqrt(np.square(views - mean).sum(axis=2).mean()))
    return mean, spread / unit if unit > 0.0 else np.inf


def turned_crops(
    image_rgb: np.ndarray, points_xy: np.ndarray, size: int, count: int, rng: np.random.Generator
) -> List[Tuple[np.ndarray, np.ndarray]]:
    """Cut a face several times: mirrored or not, turned, scaled, stretched and shifted at random.

    Parameters
    ----------
    image_rgb
        Shape (H, W, 3), uint8, RGB: the photo.
    points_xy
        Shape (98, 2), WFLW's landmarks in its pixels.
    size
        Side of the crops in pixels.
    count
        Number of crops.
    rng
        Random generator.

    Returns
    -------
    list of tuple
        Crop (size, size, 3), uint8, and landmarks (98, 2), float64, in [0, 1] of it.
    """
    crops = []
    for _ in range(count):
        matrix, mirrored = random_turn(LARGEST_TURN, rng)
        turned = (points_xy[MIRRORED] if mirrored else points_xy) @ matrix.T
        extent = turned.max(axis=0) - turned.min(axis=0)
        # Between the stretched rectangle of WFLW's crops and the square of a user.
        extent += rng.random() * (extent.max() - extent)
        sides = extent * rng.uniform(*MARGINS)
        crops.append(cut_turned(image_rgb, turned, matrix, sides, LARGEST_SHIFT, size, rng))
    return crops


def plain_crop(image_rgb: np.ndarray, points_xy: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Cut the square about a face's landmarks, 1.2 times as long as their box, unturned."""
    extent = [*points_xy.min(axis=0), *points_xy.max(axis=0)]
    crop = SquareCrop.around(extent, image_rgb.shape[:2], POINTS_SCALE)
    return crop.cut(image_rgb), crop.to_unit(points_xy)


def teach_photo(
    image_rgb: np.ndarray,
    boxes_xyxy: np.ndarray,
    teacher: LandmarkModel,
    stem: Path,
    *,
    crops: int,
    size: int,
    rng: np.random.Generator,
) -> TaughtFaces:
    """Label the faces of a photo and write their crops.

    Parameters
    ----------
    image_rgb
        Shape (H, W, 3), uint8, RGB.
    boxes_xyxy
        Shape (M, 4): the faces to label.
    teacher
        As for :func:`teach`.
    stem
        Path of the crops without their numbers; their folder is ``images_train`` or
        ``images_test``.
    crops, size, rng
        Of training crops, as for :func:`turned_crops`. A test face gets one :func:`plain_crop`.
    """
    split = stem.parent.name.rpartition("_")[2]
    points, spreads = [], []
    for number, box in enumerate(boxes_xyxy.tolist()):
        found, spread = teach(image_rgb, box, teacher)
        if split == "train":
            cut = turned_crops(image_rgb, found, size, crops, rng)
        else:
            cut = [plain_crop(image_rgb, found)]
        names = [f"{stem.name}_{number:03d}_{copy:02d}.jpg" for copy in range(len(cut))]
        for name, (crop, _) in zip(names, cut):
            write_image_rgb(stem.with_name(name), crop)
        points.append({name: points_xy for name, (_, points_xy) in zip(names, cut)})
        spreads.append(spread)
    return TaughtFaces(split, points, spreads)


@dataclass(frozen=True)
class TaughtFaces:
    """The labelled faces of one photo, for the journal of a run.

    Attributes
    ----------
    split
        ``train`` or ``test``.
    crops
        For each face the file name of each crop to its landmarks (98, 2), in [0, 1] of the crop.
    disagreements
        Of each face, of :func:`teach`.
    """

    split: str
    crops: Sequence[Mapping[str, np.ndarray]]
    disagreements: Sequence[float]

    def to_dict(self) -> Dict[str, Any]:
        """Return the faces as JSON values."""
        faces = [
            {"disagreement": value, "crops": {name: xy.tolist() for name, xy in crops.items()}}
            for crops, value in zip(self.crops, self.disagreements)
        ]
        return {"split": self.split, "faces": faces}


def keep_agreed(
    entries: Iterable[Mapping[str, Any]], keep: float
) -> Tuple[Dict[str, NormalisedList], float]:
    """Collect the crops of the faces on which the teacher agrees with itself best.

    Parameters
    ----------
    entries
        Entries of a journal, of :class:`TaughtFaces`.
    keep
        Share of the faces to keep, above 0 and up to 1.

    Returns
    -------
    lists : dict of str to NormalisedList
        ``train`` and ``test``.
    most : float
        The largest disagreement of a face that was kept.

    Raises
    ------
    InputError
        If one of the two has no face.
    """
    faces = [(entry["split"], face) for entry in entries for face in entry.get("faces", ())]
    ranked = sorted(face["disagreement"] for _, face in faces)
    most = ranked[max(1, round(keep * len(ranked))) - 1] if ranked else 0.0
    lists = {}
    for split in ("train", "test"):
        points: Dict[str, Any] = {}
        for of, face in faces:
            if of == split and face["disagreement"] <= most:
                points.update(face["crops"])
        if not points:
            raise InputError(f"no face for {split}.txt was found; give more photos with faces")
        lists[split] = NormalisedList(tuple(points), np.array(list(points.values())))
    return lists, most
