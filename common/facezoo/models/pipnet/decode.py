"""Decoder of PIPNet: from five maps to landmarks (best cell, offsets, neighbour predictions).

Each landmark is predicted at its own cell and by the landmarks it is a neighbour of on the mean
face. The mean face of WFLW in ``data/`` has the numbers of the authors' training set
(PIPNet@b9eab58 data/WFLW/meanface.txt); :func:`compute_meanface` computes one for other landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import List, Mapping, NamedTuple, Sequence, Union

import numpy as np

from ...errors import DecodeError, InputError
from ...results import Landmarks, RawOutputs

__all__ = [
    "LEAST_CORRELATION",
    "CropLandmarks",
    "MeanFace",
    "compute_meanface",
    "decode",
    "decode_maps",
    "format_meanface",
    "load_meanface",
    "neighbor_correlation",
    "read_meanface",
]

DATA = Path(__file__).with_name("data")
PACKAGED = {"WFLW": DATA / "meanface_WFLW.txt"}

# Smallest correlation between the neighbour positions of a mean face and of a trained network; with
# the mean face of another data set, or with x and y swapped, it is near zero.
LEAST_CORRELATION = 0.7
LONGEST_MEANFACE = 1 << 16  # characters; that of 98 landmarks has 4,000

Points = Union[np.ndarray, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class MeanFace:
    """A mean face with its neighbour tables.

    Attributes
    ----------
    points_xy
        Shape (N, 2), float64, in [0, 1] of the crop.
    neighbors
        Shape (N, K), int64: nearest landmarks of each landmark, nearest first; channel n K + k of
        the neighbour maps is the prediction of landmark ``neighbors[n, k]`` by landmark n.
    reverse
        Shape (max_len, N), int64, contiguous: column m lists the channels n K + k that predict
        landmark m. Lists shorter than the longest are repeated from their start, so their first
        entries have more weight, as in the authors' numbers.
    """

    points_xy: np.ndarray
    neighbors: np.ndarray
    reverse: np.ndarray

    @classmethod
    def from_points(cls, points_xy: Points, num_neighbors: int) -> MeanFace:
        """Compute the index tables of a mean face.

        Parameters
        ----------
        points_xy
            Shape (N, 2), any unit.
        num_neighbors
            Neighbours of each landmark, at least 1 and fewer than N.

        Raises
        ------
        InputError
            If the points are not (N, 2) finite numbers, are too few for so many neighbours, or a
            landmark is not a neighbour of any other.

        References
        ----------
        .. [1] PIPNet@b9eab58, ``lib/functions.py``, ``get_meanface``.
        """
        points = np.asarray(points_xy, np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise InputError(f"a mean face must be (N, 2) finite numbers, got {points.shape}")
        count = len(points)
        if not 1 <= num_neighbors < count:
            raise InputError(
                f"num_neighbors must be from 1 to {count - 1} for a mean face of {count} "
                f"landmarks, got {num_neighbors}"
            )
        distances = np.square(points[:, None] - points[None]).sum(axis=2)
        np.fill_diagonal(distances, -1.0)  # first in its own row even if points coincide
        neighbors = np.argsort(distances, axis=1, kind="stable")[:, 1 : 1 + num_neighbors]
        predicted_by = [np.flatnonzero(neighbors == landmark) for landmark in range(count)]
        alone = [landmark for landmark in range(count) if not len(predicted_by[landmark])]
        if alone:
            raise InputError(
                f"landmarks {alone} are not among the {num_neighbors} nearest neighbours of any "
                "other; use the number of neighbours that the network was trained with"
            )
        max_len = max(map(len, predicted_by))
        reverse = np.stack([np.resize(channels, max_len) for channels in predicted_by], axis=1)
        return cls(points, neighbors, reverse)


class CropLandmarks(NamedTuple):
    """Landmarks of a batch of crops, x and y in [0, 1] of the crop (not clipped), float32.

    Attributes
    ----------
    points_xy
        Shape (B, N, 2): the landmarks, averaged with the neighbour predictions.
    own_xy
        Shape (B, N, 2): without the neighbour predictions.
    scores
        Shape (B, N): value of the landmark's map at its best cell, as returned by the network.
    """

    points_xy: np.ndarray
    own_xy: np.ndarray
    scores: np.ndarray


def decode(raw: RawOutputs, *, meanface: Union[str, Points], num_neighbors: int) -> List[Landmarks]:
    """Decode the raw maps of a batch to landmarks in pixels of the images.

    Parameters
    ----------
    raw
        ``cls``, ``x``, ``y`` (B, N, h, w) and ``nb_x``, ``nb_y`` (B, N K, h, w).
    meanface
        Mean face of the network's data set: ``WFLW`` or N points.
    num_neighbors
        K.

    Returns
    -------
    list of Landmarks
        One per image.

    Raises
    ------
    DecodeError
        If an output is missing, or its shape does not match the others or the mean face.
    InputError
        If the mean face cannot be used.
    """
    crops = decode_maps(raw.arrays, load_meanface(meanface, num_neighbors))
    if len(crops.scores) != len(raw.placements):
        raise DecodeError(f"{len(raw.placements)} placements for {len(crops.scores)} images")
    return [
        Landmarks(
            placement.undo(points * np.array(placement.input_hw[::-1], np.float32)),
            scores,
            placement.image_hw,
        )
        for points, scores, placement in zip(crops.points_xy, crops.scores, raw.placements)
    ]


def decode_maps(arrays: Mapping[str, np.ndarray], meanface: MeanFace) -> CropLandmarks:
    """Decode the raw maps of a batch to landmarks in [0, 1] of the crop.

    Parameters
    ----------
    arrays
        The ``raw.arrays`` of :func:`decode`.
    meanface
        Index tables.

    Raises
    ------
    DecodeError
        If an output is missing, or its shape does not match the others or the mean face.

    References
    ----------
    .. [1] PIPNet@b9eab58, ``lib/functions.py``, ``forward_pip``, and ``lib/test.py``.
    """
    count, neighbors = meanface.neighbors.shape
    maps = _checked_maps(arrays, count, neighbors)
    batch, _, height, width = maps["cls"].shape
    cells = height * width
    best = maps["cls"].reshape(batch * count, cells).argmax(axis=1)
    at = np.arange(0, batch * count * cells, cells) + best
    at_neighbors = np.arange(0, batch * count * neighbors * cells, cells).reshape(-1, neighbors)
    at_neighbors += best[:, None]
    # From here the first axis is x, y. Positions are in range, so clipping, which saves NumPy a
    # buffered copy, changes none.
    own = np.empty((2, batch * count), np.float32)
    maps["x"].take(at, out=own[0], mode="clip")
    maps["y"].take(at, out=own[1], mode="clip")
    nearby = np.empty((2, batch * count, neighbors), np.float32)
    maps["nb_x"].take(at_neighbors, out=nearby[0], mode="clip")
    maps["nb_y"].take(at_neighbors, out=nearby[1], mode="clip")
    # Integer columns and rows: best / width would place every point up to a cell too low.
    corner = np.array((best % width, best // width), np.float32)
    own += corner
    nearby += corner[:, :, None]
    own = own.reshape(2, batch, count)
    nearby = nearby.reshape(2 * batch, count * neighbors)
    merged = nearby.take(meanface.reverse, axis=1, mode="clip").sum(axis=1).reshape(own.shape)
    merged += own
    merged /= np.float32(len(meanface.reverse) + 1)
    grid = np.array((width, height), np.float32)[:, None, None]
    merged /= grid
    own /= grid
    scores = maps["cls"].take(at, mode="clip").reshape(batch, count)
    if not (np.isfinite(merged).all() and np.isfinite(scores).all()):
        raise DecodeError("landmarks are not finite; check the weights and the input")
    return CropLandmarks(merged.transpose(1, 2, 0), own.transpose(1, 2, 0), scores)


def _checked_maps(
    arrays: Mapping[str, np.ndarray], count: int, neighbors: int
) -> Mapping[str, np.ndarray]:
    names = ("cls", "x", "y", "nb_x", "nb_y")
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DecodeError(f"output {missing[0]!r} not found; there are {sorted(arrays)}")
    maps = {name: np.asarray(arrays[name], np.float32) for name in names}
    shape = maps["cls"].shape
    if len(shape) != 4 or shape[1] != count:
        raise DecodeError(
            f"output 'cls' must have shape (B, {count}, h, w) for a mean face of {count} "
            f"landmarks, got {shape}; use the mean face of the network's data set"
        )
    for name in names[1:]:
        channels = count * neighbors if name.startswith("nb") else count
        expected = (shape[0], channels, *shape[2:])
        if maps[name].shape != expected:
            raise DecodeError(
                f"output {name!r} must have shape {expected} for {count} landmarks and "
                f"{neighbors} neighbours, got {maps[name].shape}"
            )
    return maps


def neighbor_correlation(outputs: Mapping[str, np.ndarray], meanface: MeanFace) -> float:
    """Correlate the neighbour positions of a mean face with those of a trained network.

    Parameters
    ----------
    outputs
        As for :func:`decode_maps`, for any input: the means of the maps show what the network
        learnt about faces in general.
    meanface
        Mean face of its training set.

    Returns
    -------
    float
        The smaller correlation of the two axes, at most 1.
    """
    count, neighbors = meanface.neighbors.shape
    correlations = []
    for axis, (own, nearby) in enumerate((("x", "nb_x"), ("y", "nb_y"))):
        seen = outputs[nearby].mean(axis=(0, 2, 3)).reshape(count, neighbors)
        seen = seen - outputs[own].mean(axis=(0, 2, 3))[:, None]
        points = meanface.points_xy[:, axis]
        expected = points[meanface.neighbors] - points[:, None]
        correlations.append(float(np.corrcoef(seen.ravel(), expected.ravel())[0, 1]))
    return min(correlations)


def load_meanface(meanface: Union[str, Points], num_neighbors: int) -> MeanFace:
    """Return the index tables for a contract; tables of recent mean faces are cached.

    Parameters
    ----------
    meanface
        ``WFLW``, or N points (N, 2).
    num_neighbors
        Neighbours of each landmark.

    Raises
    ------
    InputError
        If the name is unknown, or :meth:`MeanFace.from_points` rejects the mean face.
    """
    if not isinstance(meanface, str):
        points = np.asarray(meanface, np.float64)
        return _tables(points.tobytes(), points.shape, num_neighbors)
    if meanface not in PACKAGED:
        raise InputError(
            f"there is no mean face {meanface!r}; expected one of {list(PACKAGED)}, or the points"
        )
    return _packaged(meanface, num_neighbors)


@lru_cache(maxsize=8)
def _packaged(name: str, num_neighbors: int) -> MeanFace:
    return MeanFace.from_points(read_meanface(PACKAGED[name]), num_neighbors)


@lru_cache(maxsize=8)
def _tables(data: bytes, shape: Sequence[int], num_neighbors: int) -> MeanFace:
    return MeanFace.from_points(np.frombuffer(data, np.float64).reshape(shape), num_neighbors)


def read_meanface(path: Path) -> np.ndarray:
    """Read a mean face: ``x0 y0 x1 y1 …`` on one line, in [0, 1] of the crop.

    Returns
    -------
    numpy.ndarray
        Shape (N, 2), float64.

    Raises
    ------
    InputError
        If the file cannot be read, or does not contain an even number of numbers.
    """
    try:
        if not Path(path).is_file():  # A pipe or a device may never end.
            raise ValueError("it is missing or no regular file")
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(LONGEST_MEANFACE + 1)
        if len(text) > LONGEST_MEANFACE:
            raise ValueError("it is too long")
        values = np.array(text.split(), np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not a mean face: {error}") from error
    if not values.size or values.size % 2 or not np.isfinite(values).all():
        raise InputError(
            f"{str(path)!r} is not a mean face: {values.size} numbers, expected x and y per "
            "landmark, all finite"
        )
    return values.reshape(-1, 2)


def format_meanface(points_xy: np.ndarray) -> str:
    """Format a mean face, (N, 2) in [0, 1] of the crop, as a file with all digits."""
    return " ".join(map(repr, np.asarray(points_xy, np.float64).ravel().tolist())) + "\n"


def compute_meanface(annotations_xy: np.ndarray) -> np.ndarray:
    """Average the annotations of a training set.

    Parameters
    ----------
    annotations_xy
        Shape (M, N, 2): landmarks of M faces, in [0, 1] of the crop.

    Returns
    -------
    numpy.ndarray
        Shape (N, 2), float64.

    Raises
    ------
    InputError
        If there is no face, or a value is not finite.

    References
    ----------
    .. [1] PIPNet@b9eab58, ``lib/preprocess.py``, ``gen_meanface``.
    """
    annotations = np.asarray(annotations_xy, np.float64)
    if annotations.ndim != 3 or annotations.shape[2] != 2 or not len(annotations):
        raise InputError(f"annotations must have shape (M, N, 2), got {annotations.shape}")
    if not np.isfinite(annotations).all():
        raise InputError("annotations must be finite; leave out faces with missing landmarks")
    return np.asarray(annotations.mean(axis=0))
