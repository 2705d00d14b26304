"""Pairs of faces: the authors' feature and pair lists, and insightface's ``.bin`` files.

In the authors' layout rows 2i and 2i + 1 of the feature list are pair i of the pair list.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, List, Sequence, Tuple

import numpy as np

from ..errors import DatasetError
from ..files import write_bytes
from .image_list import read_lines

__all__ = [
    "EncodedPairs",
    "FeatureList",
    "FeaturePairs",
    "feature_line",
    "people_pairs",
    "read_bin",
    "read_feature_list",
    "read_feature_pairs",
    "read_pair_labels",
    "write_people_pairs",
]

EMBEDDING_SIZE = 512  # source: MagFace@99bae61 eval/eval_recognition/eval_1v1.py, columns 1 to 512


@dataclass(frozen=True)
class FeatureList:
    """Embeddings of pictures.

    Attributes
    ----------
    names
        One a picture, as the list has them.
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
        Shape (N,), bool: whether both pictures show one person.
    """

    first: np.ndarray
    second: np.ndarray
    is_same: np.ndarray


@dataclass(frozen=True)
class EncodedPairs:
    """Pictures of pairs, not decoded yet.

    Attributes
    ----------
    images
        Encoded files; 2i and 2i + 1 are pair i.
    is_same
        Shape (N,), bool: whether both pictures show one person.
    """

    images: Tuple[bytes, ...]
    is_same: np.ndarray


def feature_line(name: str, vector: np.ndarray) -> str:
    """Write an embedding as a line of a feature list.

    Parameters
    ----------
    name
        The picture's path.
    vector
        Shape (D,), float32.

    Returns
    -------
    str
        The path and the values, each with a space behind it, and a line feed, as the authors'
        program writes them; the values are exact.

    Raises
    ------
    DatasetError
        If the path holds a line break.
    """
    if name.splitlines() != [name]:
        raise DatasetError(f"path {name!r} is empty or holds a line break; rename the picture")
    return " ".join([name, *map(repr, np.asarray(vector, np.float32).tolist())]) + " \n"


def read_feature_list(path: Path, size: int = EMBEDDING_SIZE) -> FeatureList:
    """Read a feature list: ``path v0 v1 …``, one picture a line.

    Parameters
    ----------
    path
        The list.
    size
        Number of values a line.

    Returns
    -------
    FeatureList
        In the list's order.

    Raises
    ------
    DatasetError
        If the list cannot be read, or a line has not exactly a path and so many finite numbers;
        names the line.
    """
    names: List[str] = []
    vectors: List[np.ndarray] = []
    for number, line in read_lines(path):
        name, vector = _parse_feature(line, size, f"{str(path)!r}: line {number}")
        names.append(name)
        vectors.append(vector)
    return FeatureList(tuple(names), np.array(vectors))


def people_pairs(
    people: Sequence[str], seed: int = 0, *, everything: bool = False
) -> Tuple[np.ndarray, np.ndarray]:
    """Choose pairs of pictures: all that show one person, and as many or all of two people.

    Parameters
    ----------
    people
        Who each picture shows.
    seed
        Of the choice among pairs of two people, each taken once at most, and of the order.
    everything
        Take all pairs of two people; their number grows with the square of the pictures'.

    Returns
    -------
    pairs : numpy.ndarray
        Shape (P, 2): indices of pictures. Genuine and impostor pairs take turns, or all are
        shuffled, so that every fold holds both.
    is_same : numpy.ndarray
        Shape (P,), bool.

    Raises
    ------
    DatasetError
        If no person has two pictures, or there are fewer pairs of two people than of one.
    """
    numbers = np.unique(np.asarray(people), return_inverse=True)[1].ravel()
    pictures = np.argsort(numbers, kind="stable")
    groups = np.split(pictures, np.cumsum(np.bincount(numbers))[:-1])
    genuine = np.concatenate([group[_all_pairs(len(group))] for group in groups])
    impostors = len(numbers) * (len(numbers) - 1) // 2 - len(genuine)
    if not len(genuine) or impostors < len(genuine):
        raise DatasetError(
            f"{len(numbers)} pictures of {len(groups)} people make {len(genuine)} pairs of one "
            f"person and {impostors} of two; expected at least one of the first and as many of the "
            "second"
        )
    rng = np.random.default_rng(seed)
    if everything:
        pairs = rng.permutation(_all_pairs(len(numbers)))
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
    return np.stack(np.triu_indices(count, k=1), axis=1)


def _pairs_of_two(numbers: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw pairs of two people, each once; there may be too many to list them all."""
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < count:
        low, high = np.sort(rng.integers(len(numbers), size=(2, 2 * count)), axis=0)
        differ = numbers[low] != numbers[high]
        keys = np.concatenate([keys, (low * len(numbers) + high)[differ]])
        keys = keys[np.sort(np.unique(keys, return_index=True)[1])]
    return np.stack(np.divmod(keys[:count], len(numbers)), axis=1)


def _parse_feature(line: str, size: int, where: str) -> Tuple[str, np.ndarray]:
    parts = line.rsplit(None, size)
    name, values = parts[0], parts[1:]
    # A value too many would stand at the path's end, where no number may follow a space.
    if len(values) != size or any(map(_is_number, name.split()[1:][-1:])):
        raise DatasetError(
            f"{where} has {len(line.split()) - 1} values behind the path, expected {size}"
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
            f"{where}: value {index} is {values[index]!r}; expected finite numbers, extract the "
            "features again"
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
        If the list cannot be read, or a line ends in neither 0 nor 1; names the line.
    """
    labels = []
    for number, line in read_lines(path):
        label = line.split()[-1]
        if label not in ("0", "1"):
            raise DatasetError(
                f"{str(path)!r}: line {number} ends in {label[:80]!r}; expected 1 for one person, "
                "0 for two"
            )
        labels.append(label == "1")
    return np.array(labels)


def read_feature_pairs(
    feature_list: Path, pair_list: Path, size: int = EMBEDDING_SIZE
) -> FeaturePairs:
    """Read the features of pairs in the authors' layout.

    Parameters
    ----------
    feature_list, pair_list
        Rows 2i and 2i + 1 of the first are pair i of the second.
    size
        Number of values a feature.

    Raises
    ------
    DatasetError
        If a list cannot be read, or there are not two features a pair.
    """
    is_same = read_pair_labels(pair_list)
    features = read_feature_list(feature_list, size)
    if len(features.names) != 2 * len(is_same):
        raise DatasetError(
            f"{str(feature_list)!r}: {len(features.names)} features for the {len(is_same)} pairs "
            f"of {str(pair_list)!r}; expected {2 * len(is_same)}, two a pair and no others"
        )
    return FeaturePairs(features.vectors[0::2], features.vectors[1::2], is_same)


def read_bin(path: Path) -> EncodedPairs:
    """Read insightface's verification set, such as ``lfw.bin``, without running anything in it.

    The file is a Python pickle, which can call any function when it is loaded. Here only the
    instructions that such sets are made of are followed, and the three names they use (NumPy's
    array, its type and its constructor) lead to inert stand-ins instead of NumPy.

    Parameters
    ----------
    path
        A pickle of (pictures, whether the pairs are genuine).

    Raises
    ------
    DatasetError
        If the file cannot be read, holds anything else, or not two pictures a pair.
    """
    try:
        content = _Reader(io.BytesIO(Path(path).read_bytes())).load()
    except OSError as error:
        raise DatasetError(f"{str(path)!r}: cannot be read ({error.strerror})") from error
    except DatasetError as error:
        raise DatasetError(f"{str(path)!r}: {error}") from error
    except Exception as error:  # A broken pickle fails in any way that its instructions can.
        raise DatasetError(
            f"{str(path)!r}: not a verification set ({type(error).__name__}); expected a pickle of "
            "pictures and labels"
        ) from error
    return _pairs_from(content, path)


def _pairs_from(content: Any, path: Path) -> EncodedPairs:
    if not isinstance(content, (list, tuple)) or len(content) != 2:
        raise DatasetError(f"{str(path)!r}: expected a pickle of two lists, pictures and labels")
    pictures, labels = (x if isinstance(x, (list, tuple)) else () for x in content)
    if not labels or len(pictures) != 2 * len(labels):
        raise DatasetError(
            f"{str(path)!r}: {len(pictures)} pictures and {len(labels)} labels; expected two "
            "pictures a pair, and at least one pair"
        )
    images = tuple(map(_encoded, pictures))
    bad = [index for index, image in enumerate(images) if not image]
    if bad:
        raise DatasetError(
            f"{str(path)!r}: picture {bad[0]} is no encoded picture ({len(bad)} such); expected "
            "bytes or arrays of bytes"
        )
    if not all(isinstance(label, (bool, int)) and label in (0, 1) for label in labels):
        raise DatasetError(
            f"{str(path)!r}: a label is neither true nor false; expected one for each pair"
        )
    return EncodedPairs(images, np.array(labels, dtype=bool))


def _encoded(picture: Any) -> bytes:
    if isinstance(picture, _Array):
        return picture.data()
    return picture if isinstance(picture, bytes) else b""


class _Type:
    """Stands in for ``numpy.dtype``: keeps its name, ignores the rest."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = name.decode("latin-1") if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """Stands in for ``numpy.ndarray``: keeps the state that the pickle gives it."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def data(self) -> bytes:
        """Return the bytes of an array of bytes; nothing for any other."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return b""
        _, _, kind, _, content = self.state
        is_bytes = isinstance(kind, _Type) and kind.name in ("u1", "|u1")
        return content if is_bytes and isinstance(content, bytes) else b""


# What such a set is made of: numbers, bytes, text, lists, tuples, references, and the making of
# arrays. All other instructions are unknown to the reader.
_INSTRUCTIONS: Sequence[bytes] = (
    pickle.PROTO,
    pickle.FRAME,
    pickle.STOP,
    pickle.MARK,
    pickle.NONE,
    pickle.NEWTRUE,
    pickle.NEWFALSE,
    pickle.BININT,
    pickle.BININT1,
    pickle.BININT2,
    pickle.BINSTRING,
    pickle.SHORT_BINSTRING,
    pickle.BINBYTES,
    pickle.SHORT_BINBYTES,
    pickle.BINUNICODE,
    pickle.SHORT_BINUNICODE,
    pickle.EMPTY_LIST,
    pickle.APPEND,
    pickle.APPENDS,
    pickle.EMPTY_TUPLE,
    pickle.TUPLE,
    pickle.TUPLE1,
    pickle.TUPLE2,
    pickle.TUPLE3,
    pickle.BINPUT,
    pickle.LONG_BINPUT,
    pickle.MEMOIZE,
    pickle.BINGET,
    pickle.LONG_BINGET,
    pickle.GLOBAL,
    pickle.STACK_GLOBAL,
    pickle.REDUCE,
    pickle.BUILD,
)


# The interpreter written in Python: the one in C lets a file of 20 bytes claim 32 GB, and its
# instructions cannot be chosen.
class _Reader(pickle._Unpickler):
    dispatch: ClassVar[Dict[int, Callable[[Any], None]]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]] for code in _INSTRUCTIONS
    }

    def __init__(self, file: io.BytesIO) -> None:
        # Sets written by Python 2 hold pictures as its strings.
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        stand_ins = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,
            ("numpy._core.multiarray", "_reconstruct"): _Array,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
        }
        if (module, name) not in stand_ins:
            raise DatasetError(
                f"refused, it asks for {module[:80]}.{name[:80]}, which no verification set needs; "
                "nothing of it was run"
            )
        return stand_ins[module, name]
