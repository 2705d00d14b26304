"""Training data of MagFace: lists, order, mirroring and dropout, all derived from the seed.

The flip and dropout of a face are drawn from (seed, epoch, face), the order from (seed, epoch), so
the number of processes or workers and the point of a resume do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import (
    Container,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Union,
    overload,
)

import numpy as np

from ...datasets.image_list import ImageList, inside, read_lines, write_image_list
from ...datasets.pairs import write_people_pairs
from ...errors import DatasetError, InputError
from ...image.files import read_image_rgb, write_image_rgb
from ...image.resize import fit_image, resize_image
from .card import PREPROCESS

__all__ = [
    "Batches",
    "Faces",
    "InputFiles",
    "TrainingFaces",
    "ValidationPairs",
    "cut_squares",
    "read_face",
    "read_face_pairs",
    "write_squares",
]

# Maximum number of maps that a network drops per face.  source: MagFace@99bae61 models/iresnet.py
CHANCES = 512

Sample = Tuple[np.ndarray, int, np.ndarray]
Key = Tuple[int, int]


def cut_squares(source: Path, target: Path, squares: Sequence[Tuple[int, int, int]]) -> List[str]:
    """Cut squares out of an image, resize them to 112x112, and write each as a PNG.

    Parameters
    ----------
    source
        The image.
    target
        Where to; the number of the square is added to its name.
    squares
        Top, left and side of each, in pixels.

    Returns
    -------
    list of str
        Paths of the results.
    """
    image = read_image_rgb(source)
    paths = [target.with_name(f"{target.stem}_{number}.png") for number in range(len(squares))]
    for path, (top, left, side) in zip(paths, squares):
        square = image[top : top + side, left : left + side]
        write_image_rgb(path, resize_image(square, (112, 112), "BILINEAR_CV"))
    return list(map(str, paths))


def write_squares(
    images: Mapping[int, Sequence[Path]],
    folder: Path,
    verified: Container[int],
    squares: Sequence[Tuple[int, int, int]],
) -> None:
    """Write the faces of some people, ``train.list`` and ``pairs.list``.

    Parameters
    ----------
    images
        Images of each person, who is numbered from 1.
    folder
        Where to.
    verified
        People whose pairs are listed; of their images only the first square is taken. The others
        are trained on.
    squares
        As for :func:`cut_squares`.
    """
    faces: Dict[bool, List[Tuple[str, int]]] = {True: [], False: []}
    for person, paths in images.items():
        kept = squares[:1] if person in verified else squares
        for path in paths:
            cut = cut_squares(path, folder / f"s{person}" / path.name, kept)
            faces[person in verified] += [(face, person) for face in cut]
    names, people = zip(*faces[False])
    labels = [person - 1 for person in people]
    write_image_list(folder / "train.list", names, labels, "path label")
    names, people = zip(*faces[True])
    write_people_pairs(folder / "pairs.list", names, list(map(str, people)))


class Faces(Protocol):
    """Training faces."""

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
    """Read an aligned face in the network's format, before normalisation.

    Parameters
    ----------
    path
        An image; resized to 112x112 if it has another size.

    Returns
    -------
    numpy.ndarray
        Shape (3, 112, 112), uint8, BGR.

    Raises
    ------
    ImageError
        If the image cannot be read.
    """
    face, _ = fit_image(read_image_rgb(path), PREPROCESS)
    return np.ascontiguousarray(face[..., ::-1].transpose(2, 0, 1))


@dataclass(frozen=True)
class ValidationPairs:
    """Pairs of faces to verify a network with.

    Attributes
    ----------
    paths
        Paths of the faces, without duplicates.
    pairs
        Shape (N, 2), int64: indices of the two faces of each pair.
    is_same
        Shape (N,), bool: whether both show one person.
    """

    paths: Tuple[Path, ...]
    pairs: np.ndarray
    is_same: np.ndarray


def read_face_pairs(path: Path, root: Optional[Path] = None) -> ValidationPairs:
    """Read a list of pairs, lines ``first second 1`` for one person and ``0`` for two.

    Parameters
    ----------
    path
        The list; its image names contain no spaces.
    root
        Root folder of the paths; None uses them as they are.

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
                f"{str(path)!r}: line {number} is {line[:80]!r}; expected two images and 1 for "
                "one person, 0 for two"
            )
        pairs.append([numbers.setdefault(name, len(numbers)) for name in parts[:2]])
        is_same.append(parts[2] == "1")
    paths = tuple(Path(name) if root is None else inside(root, name) for name in numbers)
    return ValidationPairs(paths, np.array(pairs, np.int64), np.array(is_same))


class TrainingFaces:
    """The faces of a list, half of them mirrored at random.

    Parameters
    ----------
    images
        Images and classes.
    seed
        Seed of the training.
    root
        Root folder of the paths; None uses them as they are.
    """

    def __init__(self, images: ImageList, seed: int, root: Optional[Path] = None) -> None:
        self.images = images
        self._seed = seed
        self._root = root

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> Path:
        """Return the path of a face."""
        name = self.images.paths[index]
        return Path(name) if self._root is None else inside(self._root, name)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        face = read_face(self.path(index))
        rng = np.random.default_rng((self._seed, epoch, index))
        if rng.random() < 0.5:
            face = np.ascontiguousarray(face[..., ::-1])
        return face, int(self.images.labels[index]), rng.random(CHANCES, dtype=np.float32)


class InputFiles(Sequence[Path]):
    """Paths of a training's other files and of its faces, made when needed: there may be millions.

    Parameters
    ----------
    faces, pairs
        The faces, and those of the validation.
    *files
        Lists and checkpoints; None are left out.

    Attributes
    ----------
    names
        Name of each in a run.
    """

    def __init__(
        self, faces: TrainingFaces, pairs: Optional[ValidationPairs], *files: Optional[Path]
    ) -> None:
        self._files = [path for path in files if path is not None]
        self._files += pairs.paths if pairs else ()
        self._faces = faces
        self.names = (*(path.name for path in self._files), *faces.images.paths)

    def __len__(self) -> int:
        return len(self._files) + len(self._faces)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> List[Path]: ...

    def __getitem__(self, index: Union[int, slice]) -> Union[Path, List[Path]]:
        chosen = range(len(self))[index]
        return self._at(chosen) if isinstance(chosen, int) else [self._at(one) for one in chosen]

    def _at(self, index: int) -> Path:
        first = len(self._files)
        return self._files[index] if index < first else self._faces.path(index - first)


class Batches:
    """The part of one process of all remaining batches, over all epochs.

    Each epoch has its own order and as many full batches as fit; the parts of the processes follow
    each other in it, so that no face of a batch is skipped or used twice.

    Parameters
    ----------
    faces
        Number of faces.
    batch_size
        Faces per batch, over all processes.
    epochs, seed
        Settings of the training.
    rank, world
        Index of the process, and number of processes.

    Attributes
    ----------
    start
        The first remaining batch; set it to resume.
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
