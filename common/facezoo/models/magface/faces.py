"""Which faces a training sees, when, and how: everything random follows from its seed.

A face's flip and dropout are drawn from (seed, epoch, face), the order from (seed, epoch). So it
does not matter how many processes or workers share the faces, nor where a run was resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Protocol, Sequence, Tuple

import numpy as np

from ...datasets.image_list import ImageList, inside, read_lines
from ...errors import DatasetError, InputError
from ...image.files import read_image_rgb, write_image_rgb
from ...image.resize import fit_image, resize_image
from .card import PREPROCESS

__all__ = [
    "Batches",
    "Faces",
    "TrainingFaces",
    "ValidationPairs",
    "cut_squares",
    "read_face",
    "read_face_pairs",
]

# A network drops at most so many maps of a face.  source: MagFace@99bae61 models/iresnet.py
CHANCES = 512

Sample = Tuple[np.ndarray, int, np.ndarray]
Key = Tuple[int, int]


def cut_squares(
    source: Path, target: Path, squares: Sequence[Tuple[int, int, int]], size: int = 112
) -> List[str]:
    """Cut squares out of a picture, resize them, and write each as a PNG.

    Parameters
    ----------
    source
        The picture.
    target
        Where to; the number of the square is added to its name.
    squares
        Top, left and side of each, in pixels.
    size
        Side of the results in pixels.

    Returns
    -------
    list of str
        Paths of the results.
    """
    image = read_image_rgb(source)
    paths = [target.with_name(f"{target.stem}_{number}.png") for number in range(len(squares))]
    for path, (top, left, side) in zip(paths, squares):
        square = image[top : top + side, left : left + side]
        write_image_rgb(path, resize_image(square, (size, size), "BILINEAR_CV"))
    return list(map(str, paths))


class Faces(Protocol):
    """What a training learns from."""

    def __len__(self) -> int:
        """Return the number of faces."""

    def __getitem__(self, key: Key) -> Sample:
        """Return pixels (3, H, W) uint8 BGR, class, and chances (K,) float32 in [0, 1).

        Parameters
        ----------
        key
            Epoch and face, both counted from 0.
        """


def read_face(path: Path) -> np.ndarray:
    """Read an aligned face as the network takes it, not normalised yet.

    Parameters
    ----------
    path
        A picture; stretched to 112x112 if it has another size.

    Returns
    -------
    numpy.ndarray
        Shape (3, 112, 112), uint8, BGR.

    Raises
    ------
    ImageError
        If the picture cannot be read.
    """
    face, _ = fit_image(read_image_rgb(path), PREPROCESS)
    return np.ascontiguousarray(face[..., ::-1].transpose(2, 0, 1))


@dataclass(frozen=True)
class ValidationPairs:
    """Pairs of faces to verify a network on.

    Attributes
    ----------
    paths
        Each face once.
    pairs
        Shape (N, 2), int64: which of them make a pair.
    is_same
        Shape (N,), bool: whether both show one person.
    """

    paths: Tuple[Path, ...]
    pairs: np.ndarray
    is_same: np.ndarray


def read_face_pairs(path: Path, root: Optional[Path] = None) -> ValidationPairs:
    """Read a list of pairs, a line ``first second 1`` for one person and ``0`` for two.

    Parameters
    ----------
    path
        The list; its pictures' names hold no spaces.
    root
        Folder that they start from; None takes them as they are.

    Raises
    ------
    DatasetError
        If the list cannot be read, or a line has another form; names the line.
    """
    numbers: Dict[str, int] = {}
    pairs, is_same = [], []
    for number, line in read_lines(path):
        parts = line.split()
        if len(parts) != 3 or parts[2] not in ("0", "1"):
            raise DatasetError(
                f"{str(path)!r}: line {number} is {line[:80]!r}; expected two pictures and 1 for "
                "one person, 0 for two"
            )
        pairs.append([numbers.setdefault(name, len(numbers)) for name in parts[:2]])
        is_same.append(parts[2] == "1")
    paths = tuple(Path(name) if root is None else inside(root, name) for name in numbers)
    return ValidationPairs(paths, np.array(pairs, np.int64), np.array(is_same))


class TrainingFaces:
    """The faces of a list, half of them mirrored.

    Parameters
    ----------
    images
        Pictures and classes.
    seed
        The training's.
    root
        Folder that the list's paths start from; None takes them as they are.
    """

    def __init__(self, images: ImageList, seed: int, root: Optional[Path] = None) -> None:
        self.images = images
        self._seed = seed
        self._root = root

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> Path:
        """Return where a face is."""
        name = self.images.paths[index]
        return Path(name) if self._root is None else inside(self._root, name)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        face = read_face(self.path(index))
        rng = np.random.default_rng((self._seed, epoch, index))
        if rng.random() < 0.5:
            face = np.ascontiguousarray(face[..., ::-1])
        return face, int(self.images.labels[index]), rng.random(CHANCES, dtype=np.float32)


class Batches:
    """One process's part of every batch that is left, all epochs in one go.

    Each epoch has an order of its own and as many full batches as fit; the processes' parts lie one
    behind the other in it, so that no face is left out or seen twice.

    Parameters
    ----------
    faces
        How many there are.
    batch_size
        Faces in a batch, of all processes together.
    epochs, seed
        The training's.
    rank, world
        Which process of how many.

    Attributes
    ----------
    start
        The first batch that is left; set it to go on from there.
    """

    def __init__(
        self, faces: int, batch_size: int, epochs: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        if batch_size % world or batch_size > faces:
            raise InputError(
                f"the batch size {batch_size} must be a multiple of the {world} processes and at "
                f"most the {faces} faces"
            )
        self.per_epoch = faces // batch_size
        self.total = epochs * self.per_epoch
        self.start = 0
        self._faces, self._seed = faces, seed
        part = batch_size // world
        self._batch_size, self._part = batch_size, slice(rank * part, (rank + 1) * part)

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[List[Key]]:
        order = np.empty(0, np.int64)
        for number in range(self.start, self.total):
            epoch, position = divmod(number, self.per_epoch)
            if position == 0 or not len(order):
                order = np.random.default_rng((self._seed, epoch)).permutation(self._faces)
            batch = order[position * self._batch_size :][: self._batch_size]
            yield [(epoch, int(index)) for index in batch[self._part]]
