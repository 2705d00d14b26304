"""Verification of many pairs of few images: vectors are compared in blocks.

The vectors of a pair take 8 KB, its two numbers 16 bytes: 800 images make 319,600 pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional, Tuple

import numpy as np

from ..errors import InputError
from .verification import (
    FOLDS,
    THRESHOLDS,
    FoldAccuracy,
    _fold_accuracy,
    _fold_edges,
    _split,
    _squared_norms,
    _steps_after_shift,
    angular_distance,
)

__all__ = [
    "HighestPairs",
    "PairSimilarities",
    "k_fold_accuracy_of",
    "pair_blocks",
    "pair_cosines",
    "refuse_alike",
]

# Cosine to their mean direction that all embeddings exceed only if the network tells nobody apart:
# with a working one it is about 0.3 for images of many people.
ALIKE = 0.999

BLOCK = 2048  # pairs; their float64 vectors of 512 values take 16 MiB


def pair_blocks(count: int) -> Iterator[slice]:
    """Yield the slices in which the vectors of a number of pairs are read."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def pair_cosines(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Compute the cosine similarities of pairs of vectors.

    Parameters
    ----------
    vectors
        Shape (N, D); not zero.
    pairs
        Shape (P, 2), int: two vectors of each pair.

    Returns
    -------
    numpy.ndarray
        Shape (P,), float64, clipped to [-1, 1]; the same bits as
        :func:`~facezoo.metrics.verification.cosine_similarity` of the vectors.

    Raises
    ------
    InputError
        If a vector is zero or not finite.
    """
    vectors = _checked(vectors)
    norms = np.linalg.norm(vectors, axis=1)
    cosines = _dots(vectors, pairs)
    for block in pair_blocks(len(pairs)):
        first, second = pairs[block].T
        cosines[block] /= norms[first] * norms[second]
    return np.clip(cosines, -1.0, 1.0, out=cosines)


def refuse_alike(vectors: np.ndarray) -> None:
    """Raise InputError if images of several people all have nearly the same embedding.

    Parameters
    ----------
    vectors
        Shape (N, D), at least two; not zero.
    """
    checked = _checked(vectors)
    units = checked / np.linalg.norm(checked, axis=1, keepdims=True)
    mean = units.mean(axis=0)
    length = float(np.linalg.norm(mean))
    least = float((units @ mean).min()) / length if length else -1.0
    if len(units) > 1 and least > ALIKE:
        raise InputError(
            f"all {len(units)} embeddings are nearly the same (cosine to their mean at least "
            f"{least:.4f}), so the network tells nobody apart: its training collapsed, or its "
            "weights or its input are not those it was made for; facezoo doctor compares the file"
        )


def _checked(vectors: np.ndarray) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, np.float64)
    _squared_norms(vectors, "images")
    return vectors


def _dots(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    dots = np.empty(len(pairs))
    for block in pair_blocks(len(pairs)):
        first, second = pairs[block].T
        dots[block] = np.sum(np.multiply(vectors[first], vectors[second]), axis=1)
    return dots


@dataclass(frozen=True)
class PairSimilarities:
    """Similarities of genuine pairs, and of the impostor pairs that are most alike.

    Attributes
    ----------
    genuine
        Shape (G,).
    impostors
        Shape (K,): the highest similarities of impostor pairs, descending.
    impostor_count
        Number of all impostor pairs.
    people
        Shape (K, 2), int: the two people of those impostor pairs; None if not known.
    pictures
        Number of images of each person, by the person's number; None if not known.
    """

    genuine: np.ndarray
    impostors: np.ndarray
    impostor_count: int
    people: Optional[np.ndarray] = None
    pictures: Optional[np.ndarray] = None

    @classmethod
    def of_list(cls, cosines: np.ndarray, is_same: np.ndarray) -> PairSimilarities:
        """Take the similarities (P,) of listed pairs and whether each is genuine, (P,)."""
        genuine, impostors = _split(cosines, is_same)
        return cls(genuine, impostors[::-1], len(impostors))

    @classmethod
    def of_people(cls, vectors: np.ndarray, people: np.ndarray, most: int) -> PairSimilarities:
        """Compare every image with every other.

        Parameters
        ----------
        vectors
            Shape (N, D), one per image; not zero.
        people
            Shape (N,), int: the person in each image, from 0.
        most
            How many of the highest impostor similarities to keep.

        Raises
        ------
        InputError
            If a vector is zero or not finite.
        """
        people = np.asarray(people)
        pictures = np.bincount(people)
        genuine, highest = [np.empty(0)], HighestPairs(most)
        for first, second, cosines in _all_cosines(_checked(vectors)):
            is_same = people[second] == people[first]
            genuine.append(cosines[is_same])
            high = ~is_same & (cosines > highest.lowest)
            second = second[high]
            highest.add(cosines[high], np.full_like(second, first), second)
        cosines, pairs = highest.descending()
        count = (len(people) ** 2 - int(np.sum(pictures**2))) // 2
        return cls(np.concatenate(genuine), cosines, count, people[pairs], pictures)


def _all_cosines(vectors: np.ndarray) -> Iterator[Tuple[int, np.ndarray, np.ndarray]]:
    """Yield an image, some of those after it, and their similarities to it."""
    norms = np.linalg.norm(vectors, axis=1)
    for first in range(len(vectors)):
        for block in pair_blocks(len(vectors) - first - 1):
            second = np.arange(len(vectors), dtype=np.int32)[first + 1 :][block]
            dots = np.sum(np.multiply(vectors[first], vectors[second]), axis=1)
            yield first, second, np.clip(dots / (norms[first] * norms[second]), -1.0, 1.0)


class HighestPairs:
    """Collects pairs of images with the highest similarities; memory does not grow with all.

    Parameters
    ----------
    most
        How many to keep.

    Attributes
    ----------
    lowest
        Only pairs above it need to be added.
    """

    def __init__(self, most: int) -> None:
        self.lowest = -np.inf
        self._most = max(1, most)
        self._found: List[Tuple[np.ndarray, np.ndarray]] = []
        self._count = 0

    def add(self, cosines: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
        """Add pairs: similarities and images, each (K,)."""
        self._found.append((cosines, np.stack([first, second], axis=1)))
        self._count += len(cosines)
        if self._count >= 2 * self._most:
            self._drop()

    def _drop(self) -> Tuple[np.ndarray, np.ndarray]:
        if not self._found:
            return np.empty(0), np.empty((0, 2), np.int32)
        cosines, pairs = map(np.concatenate, zip(*self._found))
        if len(cosines) > self._most:
            kept = np.argpartition(cosines, -self._most)[-self._most :]
            cosines, pairs = cosines[kept], pairs[kept]
            self.lowest = cosines.min()
        self._found, self._count = [(cosines, pairs)], len(cosines)
        return cosines, pairs

    def descending(self) -> Tuple[np.ndarray, np.ndarray]:
        """Return similarities (K,) and images (K, 2); equal ones in the order of the images."""
        cosines, pairs = self._drop()
        order = np.lexsort((pairs[:, 1], pairs[:, 0], -cosines))
        return cosines[order], pairs[order]


def k_fold_accuracy_of(
    vectors: np.ndarray, pairs: np.ndarray, is_same: np.ndarray, *, folds: int = FOLDS
) -> FoldAccuracy:
    """Evaluate pairs of images as :func:`~facezoo.metrics.verification.k_fold_accuracy` does.

    Parameters
    ----------
    vectors
        Shape (N, D), one per image, as returned by the network.
    pairs
        Shape (P, 2), int: the two images of each pair.
    is_same
        Shape (P,), bool.
    folds
        Number of folds.

    Raises
    ------
    InputError
        If there are fewer pairs than folds, or a vector is zero or not finite.
    """
    edges = _fold_edges(len(pairs), folds)
    return _fold_accuracy(_accepting_thresholds(_checked(vectors), pairs, edges), is_same, edges)


def _accepting_thresholds(
    vectors: np.ndarray, pairs: np.ndarray, edges: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield per fold the index of the first threshold that accepts each pair."""
    runs = list(zip(edges[:-1], edges[1:]))
    # How often each image is in each fold.
    times = np.array([np.bincount(pairs[i:j].ravel(), minlength=len(vectors)) for i, j in runs])
    sums = times.astype(np.float64) @ vectors
    means = (sums.sum(axis=0) - sums) / (2.0 * (len(pairs) - np.diff(edges))[:, None])
    dots, squares = _dots(vectors, pairs), np.einsum("ij,ij->i", vectors, vectors)
    for mean, products in zip(means, means @ vectors.T):
        bins = np.empty(len(pairs), np.int16)
        for block in pair_blocks(len(pairs)):
            first, second = pairs[block].T
            steps, margin = _steps_after_shift(
                dots[block],
                (squares[first], squares[second]),
                (products[first], products[second]),
                float(mean @ mean),
            )
            doubtful = np.flatnonzero(~(np.abs(steps - np.rint(steps)) > margin))
            steps[doubtful] = 0.0
            bins[block] = steps + 1.0
            if len(doubtful):
                sides = (vectors[side[doubtful]] - mean for side in (first, second))
                with np.errstate(invalid="ignore"):
                    distance = angular_distance(*sides)
                bins[block][doubtful] = np.searchsorted(THRESHOLDS, distance, side="right")
        yield bins
