"""Percentiles and thresholds of a model's quality scores on your own faces."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Tuple

import numpy as np

from ..errors import InputError
from ..fields import mapping, number, sequence
from ..metrics.quality import CONFIDENCE, NO_RESAMPLE, resample_people
from ..metrics.verification import threshold_at_fmr
from .base import COUNT, check_model, document, read_document, write_document

__all__ = [
    "DROPS",
    "QualityProfile",
    "RateThreshold",
    "make_quality_profile",
    "quality_at_fnmr",
    "read_quality",
    "write_quality",
]


SCHEMA = "facezoo.quality_profile/1"
_SCORE = number(-1e6, 1e6)
_DOCUMENT = document(
    SCHEMA,
    {
        "pictures": COUNT,
        "percentiles": sequence(_SCORE, 101),
        "thresholds": mapping(_SCORE, 0, 100),
    },
)
DROPS = (0.01, 0.05, 0.10)
# With fewer genuine pairs a false non-match rate is meaningless.
FEWEST_PAIRS = 20
# Rejected genuine pairs, without which a threshold depends on a few images.
FEWEST_ERRORS = 10
# Of the people, each held out once.
PARTS = 5


@dataclass(frozen=True)
class QualityProfile:
    """Distribution of a model's scores over images.

    Attributes
    ----------
    card
        Card of the model.
    model_sha256
        Hash of its file, or of a build's three files by name; other models have other scales.
    pictures
        Number of scored images.
    percentiles
        101 scores: the lowest, those that 1, 2, … 99 % lie below, the highest.
    thresholds
        Name to score, such as ``drop 5 %``: images with a lower score are to be discarded.
    settings
        What was scored; JSON values.
    """

    card: str
    model_sha256: Any
    pictures: int
    percentiles: Tuple[float, ...]
    thresholds: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def percentile_of(self, scores: np.ndarray) -> np.ndarray:
        """Return the percentiles of scores among those of the images, from 0 to 100."""
        return np.asarray(np.interp(scores, self.percentiles, np.linspace(0.0, 100.0, 101)))


def make_quality_profile(
    scores: np.ndarray,
    card: str,
    model_sha256: Any,
    more: Mapping[str, float],
    settings: Optional[Mapping[str, Any]] = None,
) -> QualityProfile:
    """Summarise the scores of images.

    Parameters
    ----------
    scores
        Shape (N,), finite.
    card, model_sha256
        Card and hash of the model that gave them.
    more
        Further thresholds by name.
    settings
        What was scored; JSON values.

    Returns
    -------
    QualityProfile
        With the thresholds that drop 1, 5 and 10 % of the images, as near as whole images allow;
        images of equal score stay together.

    Raises
    ------
    InputError
        If there is no score, or one is not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise InputError(f"scores must be finite numbers (N,), at least one, got {scores.shape}")
    ascending = np.sort(scores)
    thresholds = {
        f"drop {100 * share:g} %": float(
            ascending[min(len(ascending) - 1, round(share * len(ascending)))]
        )
        for share in DROPS
    }
    percentiles = np.percentile(ascending, np.arange(101))
    return QualityProfile(
        card,
        model_sha256,
        len(scores),
        tuple(percentiles.tolist()),
        {**thresholds, **more},
        dict(settings or {}),
    )


@dataclass(frozen=True)
class RateThreshold:
    """The lowest quality that leaves a wanted false non-match rate.

    Attributes
    ----------
    quality
        Images with a lower score are to be discarded; the lowest of all pairs if the rate is
        reached without discarding.
    low, high
        95 % interval, from resampling people.
    held_out
        False non-match rate of people on whom the quality was not set, from five parts of the
        people, each with the quality of the other four; the limit of similarity is that of all.
    """

    quality: float
    low: float
    high: float
    held_out: float


def quality_at_fnmr(
    distances: np.ndarray,
    people: np.ndarray,
    quality: np.ndarray,
    fmr: float,
    fnmr: float,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> RateThreshold:
    """Find the lowest quality at which the pairs that remain have a wanted false non-match rate.

    Parameters
    ----------
    distances
        Shape (P,), of pairs of your own data.
    people
        Shape (P, 2), int: the person of each face of each pair.
    quality
        Shape (P,), quality of each pair.
    fmr
        False match rate over all impostor pairs, which fixes the threshold of similarity.
    fnmr
        Largest share of the remaining genuine pairs that may be rejected.
    resamples, seed
        Of people, for the interval and the five parts.

    Raises
    ------
    InputError
        If a rate is out of its range, there are too few impostor pairs for it, fewer than five
        people have genuine pairs, the rate is not reached already but too few of them are rejected
        to place a threshold, or none that leaves 20 of them reaches it, on all people or on four
        fifths of them.
    """
    if not 0.0 <= fnmr < 1.0:
        raise InputError(f"a false non-match rate must be from 0 to below 1, got {fnmr}")
    is_same = people[:, 0] == people[:, 1]
    alike = len(np.unique(people[is_same]))
    if alike < PARTS:
        raise InputError(
            f"{alike} people have genuine pairs; expected at least {PARTS}, so that the threshold "
            "can be checked on others: give more people with several images each"
        )
    limit = -threshold_at_fmr(-distances[~is_same], fmr).similarity
    order = np.argsort(quality[is_same], kind="stable")
    ascending, genuine = quality[is_same][order], distances[is_same][order]
    found = _lowest_quality(ascending, genuine >= limit, fmr, fnmr)
    drawn = []
    for drawn_limit, weights in resample_people(distances, is_same, people, fmr, resamples, seed):
        fits, _ = _fitting(ascending, genuine >= drawn_limit, weights[order], fnmr)
        # Where no quality reaches the rate, all is discarded.
        drawn.append(ascending[int(np.argmax(fits))] if fits.any() else ascending[-1])
    if not drawn:
        raise InputError(NO_RESAMPLE)
    low, high = np.quantile(drawn, CONFIDENCE)
    persons = people[is_same, 0][order]
    held_out = _held_out(ascending, genuine >= limit, persons, fmr, fnmr, seed)
    return RateThreshold(found, float(low), float(high), held_out)


def _lowest_quality(ascending: np.ndarray, missed: np.ndarray, fmr: float, fnmr: float) -> float:
    fits, rates = _fitting(ascending, missed, np.ones(len(missed)), fnmr)
    errors = np.count_nonzero(missed)
    if errors < FEWEST_ERRORS and errors > fnmr * len(missed):
        raise InputError(
            f"{errors} of {len(missed)} genuine pairs are rejected at FMR {fmr:g}, too few to "
            f"place a threshold; expected {FEWEST_ERRORS}: give more images"
        )
    if not fits.any():
        raise InputError(
            f"no threshold that leaves {FEWEST_PAIRS} genuine pairs reaches FNMR {fnmr:g} at FMR "
            f"{fmr:g}: the least is {rates.min(initial=1.0):.4f}; ask for a higher one"
        )
    return float(ascending[int(np.argmax(fits))])


def _fitting(
    ascending: np.ndarray, missed: np.ndarray, weights: np.ndarray, fnmr: float
) -> Tuple[np.ndarray, np.ndarray]:
    """Return which qualities fit as a threshold, and the rates, 1 where too few pairs are left."""
    left = np.cumsum(weights[::-1])[::-1]
    rates = np.ones(len(left))
    enough = left >= FEWEST_PAIRS
    rates[enough] = np.cumsum((weights * missed)[::-1])[::-1][enough] / left[enough]
    # Pairs of equal quality stay or go together.
    first_of_its_score = np.diff(ascending, prepend=-np.inf) > 0
    return first_of_its_score & (rates <= fnmr), rates


def _held_out(
    ascending: np.ndarray,
    missed: np.ndarray,
    persons: np.ndarray,
    fmr: float,
    fnmr: float,
    seed: int,
) -> float:
    known, numbers = np.unique(persons, return_inverse=True)
    part_of = np.random.default_rng(seed).permutation(np.arange(len(known)) % PARTS)[numbers]
    kept = errors = 0
    for part in range(PARTS):
        others = part_of != part
        try:
            least = _lowest_quality(ascending[others], missed[others], fmr, fnmr)
        except InputError as error:
            raise InputError(f"without a fifth of the people, to check on them: {error}") from error
        held = ~others & (ascending >= least)
        kept += int(np.count_nonzero(held))
        errors += int(np.count_nonzero(missed & held))
    # Of the part that has the best pair, this one is always kept.
    return errors / kept


def write_quality(path: Path, profile: QualityProfile) -> None:
    """Write a profile as JSON."""
    numbers = {
        "pictures": profile.pictures,
        "percentiles": list(profile.percentiles),
        "thresholds": dict(profile.thresholds),
    }
    write_document(path, SCHEMA, profile, numbers)


def read_quality(path: Path, model_sha256: Any = None) -> QualityProfile:
    """Read a profile of ``facezoo calibrate quality``.

    Parameters
    ----------
    path
        The file.
    model_sha256
        Hash of the model to be used; None accepts the profile of any model.

    Raises
    ------
    InputError
        If the file is not such a profile, or was made for another model.
    """
    profile = read_document(path, "quality", {SCHEMA: _DOCUMENT}, _parse)
    if model_sha256 is not None:
        check_model(repr(str(path)), "quality", profile, model_sha256)
    return profile


def _parse(content: Mapping[str, Any]) -> QualityProfile:
    percentiles = tuple(map(float, content["percentiles"]))
    if list(percentiles) != sorted(percentiles):
        raise ValueError("profile.percentiles do not rise")
    low, high = percentiles[0], percentiles[-1]
    for name, value in content["thresholds"].items():
        if not low <= value <= high:
            raise ValueError(
                f"profile.thresholds[{name!r}] is {value:g}; expected a score between the lowest "
                f"and the highest percentile, {low:g} and {high:g}"
            )
    return QualityProfile(
        content["card"],
        content["model_sha256"],
        content["pictures"],
        percentiles,
        {name: float(value) for name, value in content["thresholds"].items()},
        content.get("settings", {}),
    )
