"""Similarity thresholds at target false match rates, measured on your own images.

A threshold belongs to one model file and one way of aligning. Its interval comes from
resampling people if they are known, since pairs share faces; for listed pairs, from their number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..errors import InputError
from ..fields import COSINE, OBJECT, RATE, check, number, record, sequence, text
from ..metrics.pairs import PairSimilarities
from ..metrics.verification import (
    Threshold,
    binomial_quantile,
    check_fmr,
    matches_allowed,
    threshold_at_fmr,
)
from .base import COUNT, SHARE, check_model, document, read_document, write_document

__all__ = [
    "FMRS",
    "SimilarityPoint",
    "SimilarityProfile",
    "TooFewKept",
    "impostor_count",
    "people_points",
    "person_numbers",
    "read_similarity",
    "similarity_points",
    "write_similarity",
]


SCHEMA, FIRST_SCHEMA = "facezoo.similarity_profile/2", "facezoo.similarity_profile/1"
FMRS = (1e-2, 1e-3, 1e-4)
RESAMPLES = 200
# Impostor pairs kept at first; resampled people may need several times as many as their rate.
MOST_KEPT = 1 << 20


_NUMBERS = {
    "genuine": COUNT,
    "impostors": COUNT,
    "points": sequence(OBJECT, 0, 100),  # their fields: _point_kind
}
_DOCUMENTS = {schema: document(schema, _NUMBERS) for schema in (SCHEMA, FIRST_SCHEMA)}
_SCALES = {"cosine": COSINE, "l2": number(0, 2), "degrees": number(0, 180)}


@dataclass(frozen=True)
class SimilarityPoint:
    """The threshold at one false match rate (FMR).

    Attributes
    ----------
    fmr
        Share of impostor pairs that may match.
    cosine, low, high
        The threshold, and a 95 % interval of it; None if refused.
    fnmr
        Share of genuine pairs that do not match at it.
    refusal
        Why there is no threshold; empty if there is one.
    """

    fmr: float
    cosine: Optional[float] = None
    low: Optional[float] = None
    high: Optional[float] = None
    fnmr: Optional[float] = None
    refusal: str = ""

    def scales(self) -> Dict[str, Tuple[float, float, float]]:
        """Return threshold, strict and loose end as cosine, L2 of unit vectors, and degrees."""
        if self.cosine is None or self.low is None or self.high is None:
            return {}
        ends = [Threshold.from_cosine(value) for value in (self.cosine, self.high, self.low)]
        return {
            "cosine": (ends[0].cosine, ends[1].cosine, ends[2].cosine),
            "l2": (ends[0].l2, ends[1].l2, ends[2].l2),
            "degrees": (ends[0].degrees, ends[1].degrees, ends[2].degrees),
        }


@dataclass(frozen=True)
class SimilarityProfile:
    """Thresholds of one recogniser on a set of images.

    Attributes
    ----------
    card
        Card of the recogniser.
    model_sha256
        Hash of its file, or of a build's three files by name.
    genuine, impostors
        Numbers of pairs.
    points
        One per false match rate.
    settings
        What they were measured on; JSON values.
    """

    card: str
    model_sha256: Any
    genuine: int
    impostors: int
    points: Tuple[SimilarityPoint, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def cosine_at(self, fmr: float) -> float:
        """Return the threshold at a false match rate.

        Raises
        ------
        InputError
            If it was refused, or not measured.
        """
        for point in self.points:
            if abs(point.fmr - fmr) <= 1e-9:
                if point.cosine is None:
                    raise InputError(f"the profile has no such threshold: {point.refusal}")
                return point.cosine
        known = ", ".join(f"{point.fmr:g}" for point in self.points)
        raise InputError(f"the profile of {self.card} has FMR {known}, not {fmr:g}")


def similarity_points(
    found: PairSimilarities, *, fmrs: Sequence[float] = FMRS, seed: int = 0
) -> Tuple[SimilarityPoint, ...]:
    """Find thresholds at false match rates, or the reason why there is none.

    Parameters
    ----------
    found
        Similarities of the pairs; if people are known, the interval comes from resampling them.
    fmrs
        Rates between 0 and 1. One at which fewer than ten false matches are expected is refused.
    seed
        Random seed of the resampling.

    Raises
    ------
    InputError
        If a rate is out of range.
    TooFewKept
        If a threshold of the resampled people is below the impostor pairs that were kept.
    """
    for fmr in fmrs:
        check_fmr(fmr)
    points = []
    for fmr in fmrs:
        try:
            cosine = threshold_at_fmr(found.impostors, fmr, found.impostor_count).similarity
        except InputError as error:
            points.append(SimilarityPoint(fmr, refusal=str(error)))
            continue
        low, high = _interval(found, fmr, seed)
        fnmr = float(np.count_nonzero(found.genuine <= cosine)) / len(found.genuine)
        points.append(SimilarityPoint(fmr, cosine, min(low, cosine), max(high, cosine), fnmr))
    return tuple(points)


class TooFewKept(LookupError):
    """More impostor pairs must be kept."""


def people_points(
    vectors: np.ndarray,
    people: np.ndarray,
    *,
    fmrs: Sequence[float] = FMRS,
    seed: int = 0,
    most: int = MOST_KEPT,
) -> Tuple[PairSimilarities, Tuple[SimilarityPoint, ...]]:
    """Compare every image with every other, and find thresholds as :func:`similarity_points`.

    Parameters
    ----------
    vectors
        Shape (N, D), one per image; not zero.
    people
        Shape (N,), int: result of :func:`person_numbers`.
    fmrs, seed
        As for :func:`similarity_points`.
    most
        How many impostor pairs to keep, unless a threshold needs more.

    Raises
    ------
    InputError
        If a rate is out of range, or a vector is zero or not finite.
    """
    pairs = len(people) * (len(people) - 1) // 2
    most = max(most, *(matches_allowed(fmr, pairs) + 1 for fmr in fmrs))
    while True:
        found = PairSimilarities.of_people(vectors, people, most)
        try:
            return found, similarity_points(found, fmrs=fmrs, seed=seed)
        except TooFewKept:
            most *= 4


def _interval(found: PairSimilarities, fmr: float, seed: int) -> Tuple[float, float]:
    """Return a 95 % interval of the threshold at a false match rate."""
    descending, count = found.impostors, found.impostor_count
    if found.people is None or found.pictures is None:
        # Pairs are taken as independent: the population's threshold lies between these ranks.
        ranks = [max(0, binomial_quantile(tail, count, fmr) - 1) for tail in (0.975, 0.025)]
        low, high = (descending[min(rank, count - 1)] for rank in ranks)
        return float(low), float(high)
    drawn = list(_resampled(descending, fmr, found.people, found.pictures, seed))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _resampled(
    descending: np.ndarray, fmr: float, people: np.ndarray, pictures: np.ndarray, seed: int
) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    count, impostors = len(pictures), (int(pictures.sum()) ** 2 - int((pictures**2).sum())) // 2
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        drawn = times * pictures
        every = (int(drawn.sum()) ** 2 - int((drawn**2).sum())) // 2
        if every:
            reached = np.cumsum(times[people[:, 0]] * times[people[:, 1]])
            rank = int(np.searchsorted(reached, matches_allowed(fmr, every), side="right"))
            if rank == len(descending) < impostors:
                raise TooFewKept
            yield float(descending[min(rank, len(descending) - 1)])


def person_numbers(people: Sequence[str]) -> np.ndarray:
    """Give numbers to the people in images all of which are to be compared.

    Parameters
    ----------
    people
        Person in each image.

    Returns
    -------
    numpy.ndarray
        Shape (N,), int, from 0.

    Raises
    ------
    InputError
        If no person has two images, or there is one person only.
    """
    numbers = np.unique(np.asarray(people), return_inverse=True)[1].ravel()
    if not 1 < len(set(people)) < len(people):
        raise InputError(
            f"{len(numbers)} images of {len(set(people))} people make no pairs of both kinds; "
            "expected one folder per person, several people, and two images of some"
        )
    return np.asarray(numbers)


def impostor_count(numbers: np.ndarray) -> int:
    """Return the number of pairs of two people among images, each with its person's number."""
    pictures = np.bincount(numbers)
    return (int(pictures.sum()) ** 2 - int((pictures**2).sum())) // 2


def write_similarity(path: Path, profile: SimilarityProfile) -> None:
    """Write a profile as JSON, each threshold on every scale."""
    points: List[Dict[str, Any]] = []
    for point in profile.points:
        entry: Dict[str, Any] = {"fmr": point.fmr}
        if point.refusal:
            entry["refusal"] = point.refusal
        else:
            entry["fnmr"] = point.fnmr
            for scale, (value, strict, loose) in point.scales().items():
                entry[scale] = {"threshold": value, "strict": strict, "loose": loose}
        points.append(entry)
    numbers = {"genuine": profile.genuine, "impostors": profile.impostors, "points": points}
    write_document(path, SCHEMA, profile, numbers)


def read_similarity(path: Path, model_sha256: Any) -> SimilarityProfile:
    """Read a profile of ``facezoo calibrate similarity``, in the current or the first schema.

    Parameters
    ----------
    path
        The file.
    model_sha256
        Hash of the recogniser to be used.

    Raises
    ------
    InputError
        If the file is not such a profile, or was made for another model.
    """
    profile = read_document(path, "similarity", _DOCUMENTS, _parse)
    check_model(repr(str(path)), "similarity", profile, model_sha256)
    return profile


def _parse(content: Mapping[str, Any]) -> SimilarityProfile:
    is_first = content["schema"] == FIRST_SCHEMA
    return SimilarityProfile(
        content["card"],
        content["model_sha256"],
        content["genuine"],
        content["impostors"],
        tuple(
            _point_of(entry, f"profile.points[{index}]", is_first)
            for index, entry in enumerate(content["points"])
        ),
        content.get("settings", {}),
    )


def _point_of(entry: Mapping[str, Any], name: str, is_first: bool) -> SimilarityPoint:
    # The first schema has other names, and the share of genuine pairs that do match.
    rate, share = ("far", "tar") if is_first else ("fmr", "fnmr")
    if "refusal" in entry:
        check(entry, record({rate: RATE, "refusal": text(400)}), name)
        return SimilarityPoint(entry[rate], refusal=entry["refusal"])
    ends = ("threshold", "loose", "strict")
    scales = {scale: record(dict.fromkeys(ends, kind)) for scale, kind in _SCALES.items()}
    cosine = {"cosine": scales.pop("cosine")}
    check(entry, record({rate: RATE, share: SHARE, **cosine}, scales), name)
    value, loose, strict = (float(entry["cosine"][end]) for end in ends)
    if not loose - 1e-9 <= value <= strict + 1e-9:
        raise ValueError(
            f"{name}.cosine.threshold is {value:g}; expected a cosine from loose to strict, which "
            f"are {loose:g} and {strict:g}"
        )
    missed = 1.0 - entry[share] if is_first else float(entry[share])
    return SimilarityPoint(entry[rate], value, min(loose, value), max(strict, value), missed)
