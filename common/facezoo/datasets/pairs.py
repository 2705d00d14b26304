"""Face pairs: the authors' feature and pair lists, and insightface's ``.bin`` files.

In the authors' layout rows 2i and 2i + 1 of the feature list are pair i of the pair list.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import DatasetError
from ..files import read_file, write_bytes
from .image_list import check_names, read_lines, read_paths
from .pickles import bytes_of, items_of, load_inert

__all__ = [
    "EncodedPairs",
    "FeatureList",
    "FeaturePairs",
    "feature_line",
    "names_of_pairs",
    "people_pairs",
    "read_bin",
    "read_feature_list",
    "read_feature_pairs",
    "read_pair_labels",
    "write_people_pairs",
]

_log = logging.getLogger(__name__)

IMAGE_LIST = "img.list"  # lies beside a pair list; its lines 2i and 2i + 1 are pair i


@dataclass(frozen=True)
class FeatureList:
    """Embeddings of images.

    Attributes
    ----------
    names
        One per image, as listed.
    vectors
        Shape (N, D), float64, not normalised.
    """

    names: Tuple[str, ...]
    vectors: np.ndarray


@dataclass(frozen=True)
class FeaturePairs:
    """Embeddings of pairs.

    Attributes
    ----------
    first, second
        Shape (N, D), float64, not normalised.
    is_same
        Shape (N,), bool: whether both images show one person.
    names
        Names of the images; 2i and 2i + 1 are pair i.
    """

    first: np.ndarray
    second: np.ndarray
    is_same: np.ndarray
    names: Tuple[str, ...]


@dataclass(frozen=True)
class EncodedPairs:
    """Encoded images of pairs.

    Attributes
    ----------
    images
        Encoded files; 2i and 2i + 1 are pair i.
    is_same
        Shape (N,), bool: whether both images show one person.
    """

    images: Tuple[bytes, ...]
    is_same: np.ndarray


def feature_line(name: str, vector: np.ndarray) -> str:
    """Format an embedding as a line of a feature list.

    Parameters
    ----------
    name
        Path of the image.
    vector
        Shape (D,), float32.

    Returns
    -------
    str
        The path and the values, each followed by a space, and a line feed, as the authors' program
        writes them; the values are exact.

    Raises
    ------
    DatasetError
        If the path is empty or contains a line break.
    """
    if name.splitlines() != [name]:
        raise DatasetError(f"path {name!r} is empty or contains a line break; rename the image")
    return " ".join([name, *map(repr, np.asarray(vector, np.float32).tolist())]) + " \n"


def read_feature_list(path: Path, size: Optional[int] = None) -> FeatureList:
    """Read a feature list: ``path v0 v1 …``, one image per line.

    Parameters
    ----------
    path
        The list.
    size
        Number of values per line; None: as many as the first line has.

    Returns
    -------
    FeatureList
        In the list's order.

    Raises
    ------
    DatasetError
        If the list cannot be read, or a line is not a path and that many finite numbers; names
        the line.
    """
    names: List[str] = []
    vectors: List[np.ndarray] = []
    for number, line in read_lines(path):
        size = _count_values(line) if size is None else size
        name, vector = _parse_feature(line, size, f"{str(path)!r}: line {number}")
        names.append(name)
        vectors.append(vector)
    return FeatureList(tuple(names), np.array(vectors))


def people_pairs(
    people: Sequence[str], seed: int = 0, *, everything: bool = False
) -> Tuple[np.ndarray, np.ndarray]:
    """Choose pairs of images: all genuine pairs, and as many impostor pairs or all of them.

    Parameters
    ----------
    people
        Person of each image.
    seed
        Seed of the choice of impostor pairs, each used at most once, and of the order.
    everything
        Use all impostor pairs; their number grows with the square of the number of images.

    Returns
    -------
    pairs : numpy.ndarray
        Shape (P, 2): indices of images. Genuine and impostor pairs alternate, or all are
        shuffled, so that every fold contains both.
    is_same : numpy.ndarray
        Shape (P,), bool.

    Raises
    ------
    DatasetError
        If no person has two images, or there are fewer impostor than genuine pairs.
    """
    numbers = np.unique(np.asarray(people), return_inverse=True)[1].ravel()
    pictures = np.argsort(numbers, kind="stable")
    groups = np.split(pictures, np.cumsum(np.bincount(numbers))[:-1])
    genuine = np.concatenate([group[_all_pairs(len(group))] for group in groups])
    impostors = len(numbers) * (len(numbers) - 1) // 2 - len(genuine)
    if not len(genuine) or impostors < len(genuine):
        raise DatasetError(
            f"{len(numbers)} images of {len(groups)} people give {len(genuine)} genuine and "
            f"{impostors} impostor pairs; expected at least one genuine pair and as many impostor "
            "pairs"
        )
    rng = np.random.default_rng(seed)
    if everything:
        pairs = _all_pairs(len(numbers))
        pairs = pairs[rng.permutation(len(pairs))]
        return pairs, numbers[pairs[:, 0]] == numbers[pairs[:, 1]]
    chosen = _pairs_of_two(numbers, len(genuine), rng)
    both = np.stack([rng.permutation(genuine), chosen], axis=1).reshape(-1, 2)
    return both, np.tile([True, False], len(genuine))


def write_people_pairs(path: Path, images: Sequence[str], people: Sequence[str]) -> None:
    """Write a list of the pairs that :func:`people_pairs` chooses: lines ``first second 1`` or 0.

    Parameters
    ----------
    path
        Where to.
    images, people
        Paths of the images, and who each shows.
    """
    pairs, is_same = people_pairs(people)
    lines = [f"{images[i]} {images[j]} {int(same)}\n" for (i, j), same in zip(pairs, is_same)]
    write_bytes(path, "".join(lines).encode())


def _all_pairs(count: int) -> np.ndarray:
    """List the pairs (i, j) with i < j, by i: half the bytes of NumPy's, and no matrix."""
    pairs = np.empty((count * (count - 1) // 2, 2), np.int32)
    start = 0
    for first in range(count):
        end = start + count - first - 1
        pairs[start:end, 0] = first
        pairs[start:end, 1] = np.arange(first + 1, count)
        start = end
    return pairs


def _pairs_of_two(numbers: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw distinct impostor pairs; there may be too many to list them all."""
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < count:
        low, high = np.sort(rng.integers(len(numbers), size=(2, 2 * count)), axis=0)
        differ = numbers[low] != numbers[high]
        keys = np.concatenate([keys, (low * len(numbers) + high)[differ]])
        keys = keys[np.sort(np.unique(keys, return_index=True)[1])]
    return np.stack(np.divmod(keys[:count], len(numbers)), axis=1)


def _count_values(line: str) -> int:
    """Return how many numbers end a line, at least one; its first word is part of the path."""
    words = line.split()[1:]
    return max(1, sum(1 for _ in takewhile(_is_number, reversed(words))))


def _parse_feature(line: str, size: int, where: str) -> Tuple[str, np.ndarray]:
    parts = line.rsplit(None, size)
    name, values = parts[0], parts[1:]
    # A surplus value would end up at the end of the path, where no number may follow a space.
    if len(values) != size or any(map(_is_number, name.split()[1:][-1:])):
        raise DatasetError(
            f"{where} has {len(line.split()) - 1} values after the path; expected {size}"
        )
    try:
        vector = np.array(list(map(float, values)))
    except ValueError as error:
        raise DatasetError(
            f"{where} must be a path and {size} numbers: {error} (or a value is missing)"
        ) from error
    if not np.isfinite(vector).all():
        index = int(np.argmin(np.isfinite(vector)))
        raise DatasetError(
            f"{where}: value {index} is {values[index]!r}; expected finite numbers: the network "
            "gave none (its weights are damaged, or its training diverged), or the file is damaged"
        )
    return name, vector


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_pair_labels(path: Path) -> np.ndarray:
    """Read which pairs are genuine.

    Parameters
    ----------
    path
        A pair list: the last column of line i is 1 if pair i shows one person, 0 if two.

    Returns
    -------
    numpy.ndarray
        Shape (N,), bool.

    Raises
    ------
    DatasetError
        If the list cannot be read, or a line does not end with 0 or 1; names the line.
    """
    labels = []
    for number, line in read_lines(path):
        label = line.split()[-1]
        if label not in ("0", "1"):
            raise DatasetError(
                f"{str(path)!r}: line {number} ends with {label[:80]!r}; expected 1 for one "
                "person, 0 for two"
            )
        labels.append(label == "1")
    return np.array(labels)


def names_of_pairs(pair_list: Path) -> Tuple[Tuple[str, ...], Path]:
    """Read the names of the images of pairs, two per pair.

    Parameters
    ----------
    pair_list
        The pairs; lines ``image image label``, or labels with the images in ``img.list`` beside it.

    Returns
    -------
    names : tuple of str
        The images 2i and 2i + 1 are pair i; empty if neither file names images.
    listed_in : Path
        The file that names them.

    Raises
    ------
    DatasetError
        If a list cannot be read.
    """
    lines = [
        line.split("\t") if "\t" in line else line.split() for _, line in read_lines(pair_list)
    ]
    # Words such as the number of a pair are not names.
    named = all(
        len(words) == 3 and all("/" in word or PurePosixPath(word).suffix for word in words[:2])
        for words in lines
    )
    if named:
        return tuple(word.strip() for words in lines for word in words[:2]), Path(pair_list)
    images = Path(pair_list).with_name(IMAGE_LIST)
    return (read_paths(images) if images.is_file() else ()), images


def read_feature_pairs(
    feature_list: Path, pair_list: Path, size: Optional[int] = None
) -> FeaturePairs:
    """Read the features of pairs in the authors' layout.

    Parameters
    ----------
    feature_list, pair_list
        Rows 2i and 2i + 1 of the first are pair i of the second.
    size
        As for :func:`read_feature_list`.

    Raises
    ------
    DatasetError
        If a list cannot be read, there are not exactly two features per pair, or a feature is of
        another image than the list of pairs, or ``img.list`` beside it, says.
    """
    is_same = read_pair_labels(pair_list)
    features = read_feature_list(feature_list, size)
    if len(features.names) != 2 * len(is_same):
        raise DatasetError(
            f"{str(feature_list)!r}: {len(features.names)} features for the {len(is_same)} pairs "
            f"of {str(pair_list)!r}; expected {2 * len(is_same)}, exactly two per pair"
        )
    listed, listed_in = names_of_pairs(pair_list)
    if listed and len(listed) != len(features.names):
        raise DatasetError(
            f"{str(listed_in)!r} names {len(listed)} images for the {len(is_same)} pairs of "
            f"{str(pair_list)!r}; expected {len(features.names)}, two per pair"
        )
    if listed:
        check_names(features.names, listed, feature_list, listed_in)
    else:
        _log.warning(
            "%s names no images, so it is not known whether %s is in its order",
            pair_list,
            feature_list,
        )
    return FeaturePairs(features.vectors[0::2], features.vectors[1::2], is_same, features.names)


def read_bin(path: Path) -> EncodedPairs:
    """Read insightface's verification set, such as ``lfw.bin``, without executing its pickle.

    The file is a Python pickle, which can call any function when loaded; see
    :mod:`facezoo.datasets.pickles` for how it is read instead.

    Parameters
    ----------
    path
        A pickle of (images, whether the pairs are genuine), in any protocol: images as ``bytes``,
        ``bytearray`` or arrays of bytes, such as those of ``cv2.imencode``; labels as Python's or
        NumPy's booleans or integers, in a list or an array.

    Raises
    ------
    DatasetError
        If the file cannot be read, has other content, or not two images per pair.
    """
    try:
        content = load_inert(read_file(Path(path)))
    except OSError as error:
        raise DatasetError(f"{str(path)!r}: cannot be read ({error.strerror})") from error
    except DatasetError as error:
        raise DatasetError(f"{str(path)!r}: {error}") from error
    except Exception as error:  # A broken pickle can raise any exception.
        raise DatasetError(
            f"{str(path)!r}: not a verification set ({type(error).__name__}); expected a pickle of "
            "images and labels"
        ) from error
    return _pairs_from(content, path)


def _pairs_from(content: Any, path: Path) -> EncodedPairs:
    if not isinstance(content, (list, tuple)) or len(content) != 2:
        raise DatasetError(f"{str(path)!r}: expected a pickle of two lists, images and labels")
    pictures, labels = map(items_of, content)
    if not labels or len(pictures) != 2 * len(labels):
        raise DatasetError(
            f"{str(path)!r}: {len(pictures)} images and {len(labels)} labels; expected two "
            "images per pair, and at least one pair"
        )
    images = tuple(map(bytes_of, pictures))
    bad = [index for index, image in enumerate(images) if not image]
    if bad:
        raise DatasetError(
            f"{str(path)!r}: image {bad[0]} is not an encoded image ({len(bad)} such); expected "
            "bytes or arrays of bytes"
        )
    if not all(isinstance(label, (bool, int)) and label in (0, 1) for label in labels):
        raise DatasetError(
            f"{str(path)!r}: a label is neither true nor false; expected one for each pair"
        )
    return EncodedPairs(images, np.array(labels, dtype=bool))
