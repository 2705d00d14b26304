"""From which similarity on two faces are one person's, found on someone's own pictures and kept.

A threshold belongs to one model file and one way of aligning. Its interval comes from drawing
people anew where they are known, since pairs share faces; of listed pairs, from their number.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from scipy import special

from .. import __version__
from ..errors import UNREADABLE, InputError
from ..files import write_bytes
from ..metrics.verification import Threshold, operating_points

__all__ = [
    "FARS",
    "SimilarityPoint",
    "SimilarityProfile",
    "calibrate_similarity",
    "people_indices",
    "read_similarity",
    "write_similarity",
]


SCHEMA = "facezoo.similarity_profile/1"
FARS = (1e-2, 1e-3, 1e-4)
RESAMPLES = 200


@dataclass(frozen=True)
class SimilarityPoint:
    """One false accept rate.

    Attributes
    ----------
    far
        Share of pairs of two people that may be accepted.
    cosine, low, high
        The threshold, and a 95 % interval of it; None if refused.
    tar
        Share of pairs of one person that it accepts.
    refusal
        Why there is no threshold; empty if there is one.
    """

    far: float
    cosine: Optional[float] = None
    low: Optional[float] = None
    high: Optional[float] = None
    tar: Optional[float] = None
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
    """Thresholds of one network on some pictures.

    Attributes
    ----------
    card
        Of the network.
    model_sha256
        Hash of its file, of a card's three files by name.
    genuine, impostors
        Numbers of pairs.
    points
        One a false accept rate.
    """

    card: str
    model_sha256: Any
    genuine: int
    impostors: int
    points: Tuple[SimilarityPoint, ...]

    def cosine_at(self, far: float) -> float:
        """Return the threshold at a false accept rate.

        Raises
        ------
        InputError
            If it was refused, or not asked for.
        """
        for point in self.points:
            if abs(point.far - far) <= 1e-9:
                if point.cosine is None:
                    raise InputError(f"the profile has no such threshold: {point.refusal}")
                return point.cosine
        known = ", ".join(f"{point.far:g}" for point in self.points)
        raise InputError(f"the profile of {self.card} has FAR {known}, not {far:g}")


def calibrate_similarity(
    cosines: np.ndarray,
    is_same: np.ndarray,
    *,
    people: Optional[np.ndarray] = None,
    fars: Sequence[float] = FARS,
    seed: int = 0,
) -> Tuple[SimilarityPoint, ...]:
    """Find thresholds at false accept rates, or say why there is none.

    Parameters
    ----------
    cosines
        Shape (N,), of pairs.
    is_same
        Shape (N,), bool.
    people
        Shape (N, 2), int: whose the two faces of each pair are; for the interval.
    fars
        Rates between 0 and 1. One at which fewer than ten false accepts are expected is refused.
    seed
        Of the drawing of people.

    Raises
    ------
    InputError
        If a rate is out of range, or there is no pair of one of the two kinds.
    """
    impostor = ~np.asarray(is_same, bool)
    descending = np.sort(np.asarray(cosines, np.float64)[impostor])[::-1]
    whose = None
    if people is not None:
        order = np.argsort(-np.asarray(cosines, np.float64)[impostor], kind="stable")
        whose = np.asarray(people)[impostor][order]
    points = []
    for found in operating_points(cosines, is_same, fars):
        if found.threshold is None:
            points.append(SimilarityPoint(found.far, refusal=found.refusal))
            continue
        low, high = _interval(descending, found.far, whose, seed)
        # The exact cosine: the angle and back would move it by a rounding.
        cosine = float(descending[int(np.floor(found.far * len(descending) + 1e-9))])
        low, high = min(low, cosine), max(high, cosine)
        points.append(SimilarityPoint(found.far, cosine, low, high, found.tar))
    return tuple(points)


def _interval(
    descending: np.ndarray, far: float, people: Optional[np.ndarray], seed: int
) -> Tuple[float, float]:
    """Return a 95 % interval of the threshold at a false accept rate."""
    count = len(descending)
    if people is None:
        # Pairs taken as independent: between these two ranks lies the population's threshold.
        ranks = [int(special.bdtrik(tail, count, far)) for tail in (0.975, 0.025)]
        low, high = (descending[min(rank, count - 1)] for rank in ranks)
        return float(low), float(high)
    drawn = list(_resampled(descending, far, people, seed))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _resampled(
    descending: np.ndarray, far: float, people: np.ndarray, seed: int
) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    count = int(people.max()) + 1
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        reached = np.cumsum(times[people[:, 0]] * times[people[:, 1]])
        if reached[-1]:
            rank = int(np.searchsorted(reached, far * reached[-1], side="right"))
            yield float(descending[min(rank, len(descending) - 1)])


def people_indices(people: Sequence[str]) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair every picture with every other.

    Parameters
    ----------
    people
        Who each picture shows.

    Returns
    -------
    pairs : numpy.ndarray
        Shape (P, 2): indices of pictures.
    is_same : numpy.ndarray
        Shape (P,), bool.
    whose : numpy.ndarray
        Shape (P, 2): numbers of people.

    Raises
    ------
    InputError
        If no person has two pictures, or there is one person only.
    """
    numbers = np.unique(np.asarray(people), return_inverse=True)[1].ravel()
    pairs = np.stack(np.triu_indices(len(numbers), k=1), axis=1)
    whose = numbers[pairs]
    is_same = whose[:, 0] == whose[:, 1]
    if not is_same.any() or is_same.all():
        raise InputError(
            f"{len(numbers)} pictures of {len(set(people))} people make no pairs of both kinds; "
            "expected a folder a person, several people, and two pictures of some"
        )
    return pairs, is_same, whose


def write_similarity(path: Path, profile: SimilarityProfile, settings: Mapping[str, Any]) -> None:
    """Write a profile as JSON, each threshold on every scale, with what it was made of."""
    points: List[Dict[str, Any]] = []
    for point in profile.points:
        entry: Dict[str, Any] = {"far": point.far}
        if point.refusal:
            entry["refusal"] = point.refusal
        else:
            entry["tar"] = point.tar
            for scale, (value, strict, loose) in point.scales().items():
                entry[scale] = {"threshold": value, "strict": strict, "loose": loose}
        points.append(entry)
    content = {
        "schema": SCHEMA,
        "facezoo": __version__,
        "card": profile.card,
        "model_sha256": profile.model_sha256,
        "genuine": profile.genuine,
        "impostors": profile.impostors,
        "points": points,
        "settings": dict(settings),
    }
    write_bytes(Path(path), (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_similarity(path: Path, model_sha256: Any) -> SimilarityProfile:
    """Read a profile for the network it was made for.

    Parameters
    ----------
    path
        What ``facezoo calibrate similarity`` wrote.
    model_sha256
        Hash of the network that is to be used.

    Raises
    ------
    InputError
        If the file is no profile, or another network's.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}")
        profile = SimilarityProfile(
            str(content["card"]),
            content["model_sha256"],
            int(content["genuine"]),
            int(content["impostors"]),
            tuple(map(_point_of, content["points"])),
        )
    except UNREADABLE as error:
        raise InputError(
            f"{str(path)!r} is no similarity profile ({error}); make one: facezoo calibrate "
            "similarity"
        ) from error
    if profile.model_sha256 != model_sha256:
        raise InputError(
            f"{str(path)!r} was made for {profile.card} with sha256 "
            f"{str(profile.model_sha256)[:12]}…, this model has {str(model_sha256)[:12]}…: a "
            "threshold belongs to one file; calibrate again: facezoo calibrate similarity"
        )
    return profile


def _point_of(entry: Mapping[str, Any]) -> SimilarityPoint:
    if "refusal" in entry:
        return SimilarityPoint(float(entry["far"]), refusal=str(entry["refusal"]))
    value, loose, strict = (float(entry["cosine"][key]) for key in ("threshold", "loose", "strict"))
    far, tar = float(entry["far"]), float(entry["tar"])
    if not all(map(math.isfinite, (value, loose, strict, far, tar))):
        raise ValueError("a number is not finite")
    return SimilarityPoint(far, value, loose, strict, tar)
