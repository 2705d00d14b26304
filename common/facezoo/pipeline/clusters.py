"""Group faces into people by average linkage, without a number of people given.

The similarity of two groups is the average cosine of their pairs of faces, each pair weighted by
the product of both weights; that is the inner product of the weighted means of their unit vectors,
so no matrix of all pairs is needed. The most similar two groups are joined first, until no two are
left that are at least as similar as the threshold and have no photo in common. A chain of
look-alikes does not join strangers, as it does in single linkage: every pair counts.

Two groups with an average of at least the threshold contain a pair with at least it. So only such
pairs are searched, the nearest neighbours of each group. After joining them, the neighbours of the
new groups are searched again, until nothing is joined: the limit on the number of neighbours can
change the order of joins, but leaves no two groups apart that should be one.

The result depends on the set of faces alone: they are sorted by their values before anything else.
Faces that are added later therefore give what all of them give at once.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Set, Tuple

import numpy as np

from ..errors import InputError
from ..runs import Progress

__all__ = ["Join", "People", "Split", "face_weights", "find_people", "weighted_by"]

# Neighbours of a group that are considered at a time.
NEIGHBOURS = 64
# Values of a block of similarities, 64 MiB of float32.
BLOCK = 1 << 24
# Pairs of groups that are compared at a time.
PAIRS = 4096
# Pairs of people this far below the threshold may still be one, and those this far above it two.
MARGIN = 0.1
MOST_SUGGESTED = 50


@dataclass(frozen=True)
class Join:
    """Two people who may be one.

    Attributes
    ----------
    first, second
        Their numbers.
    similarity
        Average cosine between their faces.
    share_photo
        Whether they are in one photo, which is why they were not joined.
    """

    first: int
    second: int
    similarity: float
    share_photo: bool


@dataclass(frozen=True)
class Split:
    """A person who may be two.

    Attributes
    ----------
    person
        The number.
    faces
        Indices of the faces that were joined last, the smaller part.
    similarity
        Average cosine between both parts.
    """

    person: int
    faces: Tuple[int, ...]
    similarity: float


@dataclass(frozen=True)
class People:
    """Groups of faces.

    Attributes
    ----------
    numbers
        Shape (N,), int: person of each face, from 0, in the order of the first face of each.
    similarity
        Shape (N,), float64: cosine of each face to the weighted mean of its person; 1 for one face.
    joins, splits
        What to look at, most doubtful first.
    """

    numbers: np.ndarray
    similarity: np.ndarray
    joins: Tuple[Join, ...]
    splits: Tuple[Split, ...]

    @property
    def count(self) -> int:
        """Number of people."""
        return int(self.numbers.max(initial=-1)) + 1


def face_weights(quality: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """Return how much each face counts: its quality, or else the length of its embedding.

    Parameters
    ----------
    quality, magnitude
        Shape (N,): score of the quality network, NaN without it; length of the embedding.

    Returns
    -------
    numpy.ndarray
        Shape (N,), float64, above 0; none weighs less than a hundredth of the highest.
    """
    found = np.asarray({"quality": quality, "magnitude": magnitude}[weighted_by(quality)], float)
    highest = float(found.max(initial=0.0))
    return np.maximum(found, 0.01 * highest) if highest > 0 else np.ones(len(found))


def weighted_by(quality: np.ndarray) -> str:
    """Return what :func:`face_weights` takes: ``quality`` if all have one, or ``magnitude``.

    The two scales differ, so faces are not weighted by both.
    """
    all_have = len(quality) > 0 and bool(np.isfinite(quality).all())
    return "quality" if all_have else "magnitude"


def find_people(
    embeddings: np.ndarray,
    photos: np.ndarray,
    threshold: float,
    weights: Optional[np.ndarray] = None,
    *,
    neighbours: int = NEIGHBOURS,
    progress: Progress = lambda items, total: items,
) -> People:
    """Group faces into people.

    Parameters
    ----------
    embeddings
        Shape (N, D), float32; not zero, of any length.
    photos
        Shape (N,), int: photo of each face. No two faces of one photo get the same person.
    threshold
        Smallest average cosine between two groups of faces that are joined, -1 to 1.
    weights
        Shape (N,), positive: how much each face counts, such as its quality; alike by default.
    neighbours
        How many neighbours of each group are considered at a time.
    progress
        Wraps the loop over blocks of faces, of which there are some for each search.

    Returns
    -------
    People
        Independent of the order of the faces, except for the order of the numbers.

    Raises
    ------
    InputError
        If an embedding is zero or not finite, or a weight is not positive.
    """
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    lengths = _lengths(embeddings)
    weights = np.ones(len(lengths)) if weights is None else np.asarray(weights, np.float64)
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise InputError("a weight of a face is not a positive number; expected its quality")
    order = _canonical(embeddings, weights)
    units = embeddings[order]
    units /= lengths[order, None]
    groups = _Groups(units, np.asarray(photos)[order], weights[order], threshold)
    groups.join(_near(groups.means, threshold, neighbours, progress))
    while True:
        # Those below the threshold are only shown.
        near = _near(groups.means[groups.roots], threshold - MARGIN, neighbours, progress)
        if not groups.join(near):
            return _described(groups, order, embeddings, lengths, near)


def _lengths(embeddings: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise InputError("an embedding is zero or not finite; expected the output of a recogniser")
    return np.asarray(lengths)


def _canonical(embeddings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the order of the faces by their values, which no order of the input changes."""
    by_weight = np.argsort(weights, kind="stable")
    rows = embeddings.view(f"V{embeddings.shape[1] * embeddings.itemsize}").ravel()
    # Few values tell the faces of different photos apart; the others and the weight break ties.
    return np.asarray(by_weight[np.argsort(rows[by_weight], kind="stable")])


Pairs = Tuple[np.ndarray, np.ndarray]
_NOBODY = np.zeros(0, np.int32)


def _near(
    means: np.ndarray, floor: float, most: int, progress: Progress = lambda items, total: items
) -> Pairs:
    """Return pairs of rows i < j whose product is at least a floor, at most so many per row i."""
    firsts, seconds = [], []
    step = max(1, BLOCK // max(1, len(means)))
    starts = range(0, len(means), step)
    for start in progress(starts, len(starts)) if len(starts) > 1 else starts:
        found = means[start : start + step] @ means[start:].T
        square = found[:, : len(found)]
        square[np.tri(len(square), dtype=bool)] = -np.inf
        if found.shape[1] > most:
            # Of the rows with more, the nearest are kept.
            crowded = np.flatnonzero(np.count_nonzero(found >= floor, axis=1) > most)
            least = -np.partition(-found[crowded], most - 1, axis=1)[:, most - 1]
            found[crowded] = np.where(found[crowded] >= least[:, None], found[crowded], -np.inf)
        first, second = np.nonzero(found >= floor)
        firsts.append((first + start).astype(np.int32))
        seconds.append((second + start).astype(np.int32))
    return np.concatenate([_NOBODY, *firsts]), np.concatenate([_NOBODY, *seconds])


class _Groups:
    """Groups of faces, each known by its first face; joined two at a time."""

    def __init__(
        self, units: np.ndarray, photos: np.ndarray, weights: np.ndarray, threshold: float
    ) -> None:
        self.means = units  # They become the means of the groups, in place.
        self.masses = weights.copy()
        self.members: Dict[int, List[int]] = {face: [face] for face in range(len(units))}
        self.photos: Dict[int, Set[int]] = {
            face: {photo} for face, photo in enumerate(photos.tolist())
        }
        # The last join of each group: similarity, and the faces of the smaller part.
        self.last: Dict[int, Tuple[float, List[int]]] = {}
        self.threshold = threshold
        self._root = np.arange(len(units), dtype=np.int32)
        self._version = np.zeros(len(units), int)
        self._near: Dict[int, np.ndarray] = {}

    @property
    def roots(self) -> np.ndarray:
        """First face of each group."""
        return np.fromiter(self.members, np.int32, len(self.members))

    def join(self, pairs: Pairs) -> int:
        """Join groups, most similar first; return how often.

        ``pairs`` are indices of ``roots``: the groups that may be joined at first. Groups that
        were joined have the neighbours of both.
        """
        roots = self.roots
        # Pairs come in the order of their first group, which alone knows of them.
        first, second = (roots[side] for side in pairs)
        starts = np.flatnonzero(np.diff(first, prepend=-1))
        lists = np.split(second, starts[1:]) if len(starts) else []
        self._near = dict(zip(first[starts].tolist(), lists))
        heap = [entry for owner in self._near for entry in self._best(owner)]
        heapq.heapify(heap)
        joined = 0
        while heap:
            _, a, b, *versions = heapq.heappop(heap)
            # A group that was joined since is at most as similar as both its parts were.
            if a not in self.members or versions[0] != self._version[a]:
                continue
            if versions[1] != self._version[b] or b not in self.members:
                for entry in self._best(a):
                    heapq.heappush(heap, entry)
                continue
            self._unite(a, b)
            joined += 1
            for entry in self._best(min(a, b)):
                heapq.heappush(heap, entry)
        return joined

    def _best(self, group: int) -> Iterator[Tuple[float, int, int, int, int]]:
        """Yield the heap's entry of the most similar group that may be joined to a group."""
        near = np.unique(self._find(self._near.get(group, _NOBODY)))
        near = near[near != group]
        self._near[group] = near
        similarities = self.means[near] @ self.means[group]
        for index in np.argsort(-similarities, kind="stable"):
            if similarities[index] < self.threshold:
                return
            other = int(near[index])
            if self.photos[group].isdisjoint(self.photos[other]):
                versions = int(self._version[group]), int(self._version[other])
                yield (-float(similarities[index]), group, other, *versions)
                return

    def _find(self, faces: np.ndarray) -> np.ndarray:
        """Return the groups that faces are in now."""
        found: np.ndarray = self._root[faces]
        while True:
            above = self._root[found]
            if np.array_equal(above, found):
                self._root[faces] = found
                return found
            found = above

    def _unite(self, a: int, b: int) -> None:
        keep, gone = min(a, b), max(a, b)
        similarity = float(self.means[a] @ self.means[b])
        small, large = sorted((self.members[keep], self.members.pop(gone)), key=len)
        large.extend(small)
        self.members[keep], self.last[keep] = large, (similarity, small)
        self.last.pop(gone, None)
        few, many = sorted((self.photos[keep], self.photos.pop(gone)), key=len)
        many.update(few)
        self.photos[keep] = many
        share = self.masses[gone] / (self.masses[keep] + self.masses[gone])
        self.means[keep] += np.float32(share) * (self.means[gone] - self.means[keep])
        self.masses[keep] += self.masses[gone]
        both = (self._near.get(keep, _NOBODY), self._near.pop(gone, _NOBODY))
        self._near[keep] = np.concatenate(both)
        self._root[gone] = keep
        self._version[keep] += 1


def _described(
    groups: _Groups, order: np.ndarray, embeddings: np.ndarray, lengths: np.ndarray, near: Pairs
) -> People:
    """Return the groups, numbered by their first face, and what to look at."""
    firsts = [min(order[faces]) for faces in groups.members.values()]
    rank = np.argsort(firsts)
    roots = groups.roots[rank].tolist()
    numbers, similarities = np.empty(len(order), int), np.empty(len(order))
    splits = []
    for number, root in enumerate(roots):
        rows, mean = order[groups.members[root]], groups.means[root].astype(np.float64)
        numbers[rows] = number
        similarities[rows] = embeddings[rows] @ mean / (lengths[rows] * np.linalg.norm(mean))
        similarity, part = groups.last.get(root, (1.0, []))
        if part and similarity < groups.threshold + MARGIN:
            splits.append(Split(number, tuple(sorted(order[part].tolist())), similarity))
    number_of = np.argsort(rank)
    both = np.unique(np.sort(number_of[np.stack(near, axis=1)]), axis=0)
    means = groups.means[roots]
    cosines = np.empty(len(both))
    for start in range(0, len(both), PAIRS):
        one, other = both[start : start + PAIRS].T
        cosines[start : start + PAIRS] = np.einsum("nd,nd->n", means[one], means[other])
    joins = []
    for index in np.argsort(-cosines, kind="stable")[:MOST_SUGGESTED]:
        one, other = both[index].tolist()
        shared = groups.photos[roots[one]] & groups.photos[roots[other]]
        joins.append(Join(one, other, float(cosines[index]), bool(shared)))
    splits.sort(key=lambda split: split.similarity)
    return People(numbers, similarities, tuple(joins), tuple(splits[:MOST_SUGGESTED]))
