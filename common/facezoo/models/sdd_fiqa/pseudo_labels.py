"""Pseudo-labels of quality: the distance between the two similarity distributions of a face.

A useful image is similar to other images of its person and dissimilar to those of other people. Its
label is the Wasserstein distance between its genuine and its impostor similarities.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional, Sequence, Tuple

import numpy as np

from ...datasets.degraded import read_copies, read_references
from ...datasets.embeddings import Embeddings
from ...errors import InputError

__all__ = [
    "PseudoLabels",
    "label_pictures",
    "pseudo_labels",
    "wasserstein_distance",
]


# source: TFace@171ec14 quality/generate_pseudo_labels/gen_pseudo_labels.py, fix_num and range(12)
PAIRS = 24
ROUNDS = 12
SCALE = 100.0  # source: same file, norm_labels

# Similarities in memory at a time, 8 bytes each; with all pairs about ten times as much is needed.
BLOCK = 1 << 23

_Name = Callable[[int], str]


@dataclass(frozen=True)
class PseudoLabels:
    """Labels for the training of a quality network.

    Attributes
    ----------
    labels
        Shape (N,), float64, 0 (worst of these images) to 100 (best): mean over the rounds of the
        distances on that scale.
    distances
        Shape (N,), float64: mean over the rounds of the Wasserstein distances, unscaled.
    """

    labels: np.ndarray
    distances: np.ndarray


def pseudo_labels(
    embeddings: np.ndarray,
    identities: np.ndarray,
    *,
    pairs: Optional[int] = PAIRS,
    rounds: int = ROUNDS,
    seed: int = 0,
    references: Optional[np.ndarray] = None,
    originals: Optional[np.ndarray] = None,
    names: Optional[Sequence[str]] = None,
) -> PseudoLabels:
    """Label images by the distance between their genuine and impostor similarities.

    Parameters
    ----------
    embeddings
        Shape (N, D), float, of any norm except zero.
    identities
        Shape (N,), the person of each image.
    pairs
        Number of partners of the same person, and of other people, drawn for each image and round
        without repetition; all of them if there are fewer. None uses all of both, in one round.
    rounds
        Number of repetitions of the draw.
    seed
        Seed of the draw; equal arguments give equal labels.
    references
        Shape (N,), bool: which images may be partners; all if None. Without it degraded copies of
        an image, which resemble each other, get labels that are too high.
    originals
        Shape (N,), int: index of the original of each image, its own if it is not a copy; needs
        ``references`` without copies. An image is then not a partner of its own copies, whose
        similarity to it would be too high.
    names
        Shape (N,), names of the images in errors; their indices if None.

    Returns
    -------
    PseudoLabels
        In the order of the embeddings.

    Raises
    ------
    InputError
        If shapes differ, an embedding is zero or not finite, an image has no partner of its own or
        of another person, all distances are equal, or a copy is a reference or belongs to another
        person than its original.

    References
    ----------
    .. [1] Ou et al., *SDD-FIQA*, CVPR 2021, arXiv:2103.05977.
    .. [2] TFace@171ec14, ``quality/generate_pseudo_labels/gen_pseudo_labels.py``.
    """
    if rounds < 1 or seed < 0 or (pairs is not None and pairs < 1):
        raise InputError(
            "pairs and rounds must be at least 1 and the seed at least 0, got "
            f"{pairs}, {rounds} and {seed}"
        )
    name: _Name = "image {}".format if names is None else lambda index: repr(names[index])
    unit, people, allowed = _check(embeddings, identities, references, name)
    own = _check_originals(originals, people, allowed, name)
    gallery = _Gallery(unit, people, allowed, own)
    gallery.check_partners(name)
    rounds = 1 if pairs is None else rounds
    distances = np.empty((rounds, len(gallery.unit)))
    for block, rows in enumerate(gallery.blocks()):
        similarities = gallery.similarities(rows)
        for number in range(rounds):
            rng = np.random.default_rng([seed, number, block])
            distances[number, rows] = gallery.distances(rows, similarities, pairs, rng)
    least, most = distances.min(axis=1, keepdims=True), distances.max(axis=1, keepdims=True)
    if (least == most).any():
        raise InputError(
            "all images have the same distance, so labels from 0 to 100 are meaningless; "
            "give more images, or embeddings of another network"
        )
    scaled = (distances - least) / (most - least) * SCALE
    return PseudoLabels(labels=scaled.mean(axis=0), distances=distances.mean(axis=0))


def _check(
    embeddings: np.ndarray,
    identities: np.ndarray,
    references: Optional[np.ndarray],
    name: _Name,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    unit = np.array(embeddings, dtype=np.float64)
    identities = np.asarray(identities)
    allowed = np.ones(len(unit), bool) if references is None else np.asarray(references, bool)
    if unit.ndim != 2 or not 0 < len(unit) == len(identities) == len(allowed):
        raise InputError(
            "embeddings must have shape (N, D), identities and references (N,), got "
            f"{unit.shape}, {identities.shape} and {allowed.shape}"
        )
    lengths = np.linalg.norm(unit, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0.0)))
    if len(bad):
        raise InputError(
            f"the embedding of {name(bad[0])} is all zero or not finite ({len(bad)} such); extract "
            "them again"
        )
    _, people = np.unique(identities, return_inverse=True)
    unit /= lengths[:, None]
    return unit, people, allowed


def _check_originals(
    originals: Optional[np.ndarray], people: np.ndarray, allowed: np.ndarray, name: _Name
) -> np.ndarray:
    """Return the index of the image that each must not have as a partner."""
    itself = np.arange(len(people))
    if originals is None:
        return itself
    originals = np.asarray(originals)
    if originals.shape != itself.shape or not np.isin(originals, itself).all():
        raise InputError(f"originals must be {len(itself)} image indices")
    bad = np.flatnonzero((originals != itself) & (allowed | (people[originals] != people)))
    if len(bad):
        raise InputError(
            f"{name(bad[0])} is a copy of {name(originals[bad[0]])} but also a reference, or of "
            f"another person ({len(bad)} such); give references that are not copies"
        )
    return originals


class _Gallery:
    """All images, with the possible partners sorted by person.

    The partners of a person are then a range of columns, and those of other people are left and
    right of it, so that drawing partners is drawing numbers.
    """

    def __init__(
        self, unit: np.ndarray, people: np.ndarray, allowed: np.ndarray, originals: np.ndarray
    ) -> None:
        self.unit = unit
        order = np.flatnonzero(allowed)
        order = order[np.argsort(people[order], kind="stable")]
        self.partners = unit[order]
        count = np.bincount(people[order], minlength=int(people.max()) + 1)
        start = np.cumsum(count) - count
        self.start, self.size = start[people], count[people]
        # Column of each image itself, or of its original; after the last if it is not a partner.
        columns = np.full(len(unit), len(order))
        columns[order] = np.arange(len(order))
        self.own = columns[originals]
        self.positives = self.size - allowed[originals]
        self.negatives = len(order) - self.size

    def check_partners(self, name: _Name) -> None:
        """Reject images without any partner."""
        for kind, available in (("the same", self.positives), ("another", self.negatives)):
            alone = np.flatnonzero(available < 1)
            if len(alone):
                raise InputError(
                    f"{name(alone[0])} has no partner of {kind} person ({len(alone)} such); "
                    "remove such images, or allow more references"
                )

    def blocks(self) -> Iterator[np.ndarray]:
        rows = max(1, BLOCK // len(self.partners))
        for first in range(0, len(self.unit), rows):
            yield np.arange(first, min(first + rows, len(self.unit)))

    def similarities(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.unit[rows] @ self.partners.T)

    def distances(
        self,
        rows: np.ndarray,
        similarities: np.ndarray,
        pairs: Optional[int],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return the Wasserstein distances of one round for a block of images."""
        most = len(self.partners) if pairs is None else pairs
        counts = np.stack(
            [np.minimum(self.positives[rows], most), np.minimum(self.negatives[rows], most)], axis=1
        )
        distances = np.empty(len(rows))
        # Images with equal numbers of partners are computed at once.
        for positives, negatives in np.unique(counts, axis=0):
            group = np.flatnonzero((counts == (positives, negatives)).all(axis=1))
            pictures = rows[group]
            distances[group] = wasserstein_distance(
                similarities[group[:, None], self._draw_same(pictures, positives, rng)],
                similarities[group[:, None], self._draw_other(pictures, negatives, rng)],
            )
        return distances

    def _draw_same(self, pictures: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        columns = self.start[pictures, None] + _draw(self.positives[pictures], count, rng)
        return np.asarray(columns + (columns >= self.own[pictures, None]))

    def _draw_other(self, pictures: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        columns = _draw(self.negatives[pictures], count, rng)
        behind = columns >= self.start[pictures, None]
        return np.asarray(columns + behind * self.size[pictures, None])


def _draw(available: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``count`` distinct numbers below ``available`` in each row with Floyd's method."""
    if (available == count).all():
        return np.broadcast_to(np.arange(count), (len(available), count))
    drawn = np.empty((len(available), count), dtype=np.int64)
    for index in range(count):
        last = available - count + index
        number = rng.integers(last + 1)
        taken = (drawn[:, :index] == number[:, None]).any(axis=1)
        drawn[:, index] = np.where(taken, last, number)
    return drawn


def wasserstein_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the first Wasserstein distance between the samples of each row.

    Parameters
    ----------
    first, second
        Shapes (N, P) and (N, Q), float64.

    Returns
    -------
    numpy.ndarray
        Shape (N,), float64: the area between the two empirical distribution functions.

    Examples
    --------
    >>> wasserstein_distance(np.array([[0.0, 1.0]]), np.array([[5.0]])).tolist()
    [4.5]
    """
    values = np.concatenate([first, second], axis=1)
    order = np.argsort(values, axis=1)
    ascending = np.take_along_axis(values, order, axis=1)
    # Difference of the distribution functions after each value, in units of 1 / (P Q).
    steps = np.where(order < first.shape[1], second.shape[1], -first.shape[1])
    gap = np.abs(np.cumsum(steps[:, :-1], axis=1)) / (first.shape[1] * second.shape[1])
    return np.asarray(np.sum(gap * np.diff(ascending, axis=1), axis=1))


def label_pictures(
    embeddings: Embeddings,
    people: Optional[Mapping[str, int]] = None,
    *,
    pairs: Optional[int],
    rounds: int,
    seed: int,
    references: Optional[Path] = None,
    copies: Optional[Path] = None,
) -> PseudoLabels:
    """Compute pseudo-labels of images from their embeddings.

    Parameters
    ----------
    embeddings
        Embeddings of the images.
    people
        Image to the number of its person; from the folders if None.
    pairs, rounds, seed
        As for :func:`~facezoo.models.sdd_fiqa.pseudo_labels.pseudo_labels`.
    references
        List of the possible partners; all images if None.
    copies
        List of copies with their originals, in the format of :func:`read_copies`.

    Returns
    -------
    PseudoLabels
        In the order of the embeddings.

    Raises
    ------
    DatasetError
        If a list does not match the images.
    InputError
        If the images cannot be labelled.
    """
    names = embeddings.names
    numbers = embeddings.people if people is None else np.array([people[name] for name in names])
    allowed = None if references is None else read_references(references, names)
    return pseudo_labels(
        embeddings.vectors,
        numbers,
        pairs=pairs,
        rounds=rounds,
        seed=seed,
        references=allowed,
        originals=None if copies is None else read_copies(copies, names),
        names=names,
    )
