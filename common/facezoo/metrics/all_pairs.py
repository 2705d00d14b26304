"""All images against all: error rates of every pair, without ever holding all similarities.

Similarities are computed in blocks by matrix products. All genuine ones are kept, and of the
impostors only the highest, from which the thresholds at low false match rates follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import InputError
from .pairs import HighestPairs
from .verification import MIN_FALSE_MATCHES, Threshold, matches_allowed

__all__ = ["AllPairs", "PeoplePoint", "compare_all", "people_points"]

BLOCK = 1024  # images; a block of similarities takes 4 MiB as float32
# Impostor pairs kept, as a multiple of those that match at the highest rate: when people are drawn
# anew, the threshold moves, and must still be among the pairs kept.
MARGIN = 3.0
RESAMPLES = 1000
CONFIDENCE = (0.025, 0.975)


@dataclass(frozen=True)
class AllPairs:
    """Similarities of all pairs of images, as far as they are kept.

    Attributes
    ----------
    people
        Shape (N,), int64: the person of each image, from 0.
    genuine
        Shape (G,), float32: similarity of every genuine pair.
    genuine_people
        Shape (G,), int64: its person.
    highest
        Shape (K,), float32: the highest similarities of impostor pairs, descending.
    highest_images
        Shape (K, 2), int64: the two images of each.
    impostors
        Number of all impostor pairs.
    """

    people: np.ndarray
    genuine: np.ndarray
    genuine_people: np.ndarray
    highest: np.ndarray
    highest_images: np.ndarray
    impostors: int


@dataclass(frozen=True)
class PeoplePoint:
    """False non-match rate at a false match rate over all pairs.

    Attributes
    ----------
    fmr
        The requested rate.
    fnmr, low, high
        Share of genuine pairs that do not match, 0 to 1, and its 95 % interval from drawing people
        anew; None if there are too few impostor pairs.
    threshold
        Pairs above it match; None if there are too few impostor pairs.
    misses
        Shape (people,), int64: genuine pairs of each person that do not match.
    false_matches
        Shape (people,), int64: impostor pairs of each person that match.
    refusal
        Why there is no result; empty if there is one.
    """

    fmr: float
    fnmr: Optional[float] = None
    low: Optional[float] = None
    high: Optional[float] = None
    threshold: Optional[Threshold] = None
    misses: Optional[np.ndarray] = None
    false_matches: Optional[np.ndarray] = None
    refusal: str = ""


def compare_all(vectors: np.ndarray, people: np.ndarray, highest_fmr: float) -> AllPairs:
    """Compare every image with every other.

    Parameters
    ----------
    vectors
        Shape (N, D), one per image; not zero.
    people
        Shape (N,), int: the person of each image, from 0.
    highest_fmr
        The highest false match rate to be asked for, between 0 and 1.

    Raises
    ------
    InputError
        If a vector is zero or not finite, or there is no genuine or no impostor pair.
    """
    people = np.asarray(people, np.int64)
    units = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(units.astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0.0)))
    if len(bad):
        raise InputError(
            f"embedding {bad[0]} is all zero or not finite ({len(bad)} such): the network's "
            "weights are damaged or its training diverged"
        )
    units = np.ascontiguousarray(units / norms[:, None].astype(np.float32))
    of_each = np.bincount(people)
    count = len(people)
    genuine_count = int(np.sum(of_each * (of_each - 1)) // 2)
    impostors = count * (count - 1) // 2 - genuine_count
    if not genuine_count or not impostors:
        raise InputError(
            f"{count} images of {np.count_nonzero(of_each)} people give {genuine_count} genuine "
            f"and {impostors} impostor pairs; expected some of both"
        )
    highest = HighestPairs(math.ceil(MARGIN * highest_fmr * impostors) + MIN_FALSE_MATCHES)
    genuine: List[np.ndarray] = []
    genuine_people: List[np.ndarray] = []
    for rows, columns, cosines in _blocks(units):
        same = people[rows, None] == people[None, columns]
        # On the diagonal each pair is counted once, and no image with itself.
        above = np.triu(np.ones_like(same), 1) if rows == columns else None
        mine = same if above is None else same & above
        first, second = np.nonzero(mine)
        genuine.append(cosines[first, second])
        genuine_people.append(people[rows.start + first])
        cosines[same if above is None else same | ~above] = -np.inf
        first, second = np.nonzero(cosines > highest.lowest)
        highest.add(cosines[first, second], first + rows.start, second + columns.start)
    found, images = highest.descending()
    return AllPairs(
        people=people,
        genuine=np.concatenate(genuine),
        genuine_people=np.concatenate(genuine_people),
        highest=found,
        highest_images=images,
        impostors=impostors,
    )


def _blocks(units: np.ndarray) -> Iterator[Tuple[slice, slice, np.ndarray]]:
    """Yield the blocks of similarities on and above the diagonal."""
    starts = range(0, len(units), BLOCK)
    for row in starts:
        for column in starts[row // BLOCK :]:
            rows = slice(row, min(row + BLOCK, len(units)))
            columns = slice(column, min(column + BLOCK, len(units)))
            yield rows, columns, units[rows] @ units[columns].T


def people_points(
    pairs: AllPairs, fmrs: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> List[PeoplePoint]:
    """Measure the false non-match rate at false match rates, with intervals by people.

    Pairs that share a person are not independent. An interval therefore comes from drawing the
    people anew, each with all pairs, and choosing the threshold again in every draw.

    Parameters
    ----------
    pairs
        Result of :func:`compare_all`.
    fmrs
        Rates between 0 and 1, at most the one that ``pairs`` was made for.
    resamples, seed
        Number of draws, and their seed.

    Returns
    -------
    list of PeoplePoint
        One per rate; a rate at which fewer than ten false matches are expected has the reason
        instead.

    Raises
    ------
    InputError
        If a rate is out of range.
    """
    draws = _draws(pairs, fmrs, resamples, seed)
    return [_point(pairs, fmr, drawn) for fmr, drawn in zip(fmrs, draws.T)]


def _point(pairs: AllPairs, fmr: float, drawn: np.ndarray) -> PeoplePoint:
    allowed = matches_allowed(fmr, pairs.impostors)
    if not 0.0 < fmr < 1.0 or allowed >= len(pairs.highest):
        raise InputError(
            f"a false match rate must be above 0 and at most that of the comparison, got {fmr}"
        )
    if fmr * pairs.impostors < MIN_FALSE_MATCHES - 1e-9:
        needed = math.ceil(MIN_FALSE_MATCHES / fmr - 1e-9)
        return PeoplePoint(
            fmr,
            refusal=f"FMR {fmr:g} needs at least {needed} impostor pairs, there are "
            f"{pairs.impostors}; add people or use a higher rate",
        )
    threshold = pairs.highest[allowed]
    missed = pairs.genuine <= threshold
    count = int(pairs.people.max()) + 1
    matched = pairs.people[pairs.highest_images[pairs.highest > threshold]]
    low, high = np.nanquantile(drawn, CONFIDENCE)
    return PeoplePoint(
        fmr,
        fnmr=float(np.mean(missed)),
        low=float(low),
        high=float(high),
        threshold=Threshold.from_cosine(float(np.clip(threshold, -1.0, 1.0))),
        misses=np.bincount(pairs.genuine_people[missed], minlength=count),
        false_matches=np.bincount(matched.ravel(), minlength=count),
    )


def _draws(pairs: AllPairs, fmrs: Sequence[float], resamples: int, seed: int) -> np.ndarray:
    """Return the false non-match rates of each draw of people, shape (resamples, rates)."""
    rng = np.random.default_rng(seed)
    count = int(pairs.people.max()) + 1
    images = np.bincount(pairs.people, minlength=count).astype(np.float64)
    between = pairs.people[pairs.highest_images]
    # Genuine pairs by person, each ascending, so that a rate is a sum over people.
    order = np.argsort(pairs.genuine, kind="stable")
    ascending, owners = pairs.genuine[order], pairs.genuine_people[order]
    rates = np.full((resamples, len(fmrs)), np.nan)
    for row in range(resamples):
        times = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
        drawn = float(np.sum(times * images))
        # Pairs of two copies of one person are genuine in truth and left out.
        total = (drawn**2 - float(np.sum((times * images) ** 2))) / 2.0
        weights = times[owners]
        if not total or not weights.any():
            continue
        matched = np.cumsum(times[between[:, 0]] * times[between[:, 1]])
        missed = np.cumsum(weights)
        for column, fmr in enumerate(fmrs):
            index = int(np.searchsorted(matched, math.floor(fmr * total + 1e-9), side="right"))
            if index < len(pairs.highest):
                below = int(np.searchsorted(ascending, pairs.highest[index], side="right"))
                rates[row, column] = missed[below - 1] / missed[-1] if below else 0.0
    return rates
