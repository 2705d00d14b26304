"""Percentiles and thresholds of a model's quality scores on your own faces."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Tuple

import numpy as np

from ..errors import InputError
from ..fields import mapping, number, sequence
from ..metrics.verification import threshold_at_fmr
from .base import COUNT, check_model, document, read_document, write_document

__all__ = [
    "DROPS",
    "QualityProfile",
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


def quality_at_fnmr(
    distances: np.ndarray, is_same: np.ndarray, quality: np.ndarray, fmr: float, fnmr: float
) -> float:
    """Find the lowest quality at which the pairs that remain have a wanted false non-match rate.

    Parameters
    ----------
    distances
        Shape (P,), of pairs of your own data.
    is_same
        Shape (P,), bool: whether both show one person.
    quality
        Shape (P,), quality of each pair.
    fmr
        False match rate over all impostor pairs, which fixes the threshold of similarity.
    fnmr
        Largest share of the remaining genuine pairs that may be rejected.

    Returns
    -------
    float
        Images with a lower score are to be discarded.

    Raises
    ------
    InputError
        If a rate is out of its range, there are too few impostor pairs for it, or no threshold that
        leaves 20 genuine pairs reaches it.
    """
    if not 0.0 <= fnmr < 1.0:
        raise InputError(f"a false non-match rate must be from 0 to below 1, got {fnmr}")
    # A smaller distance means more similar.
    missed = -distances[is_same] <= threshold_at_fmr(-distances[~is_same], fmr).similarity
    order = np.argsort(quality[is_same], kind="stable")
    ascending, missed = quality[is_same][order], missed[order]
    left = np.arange(len(missed), 0, -1)
    rates = np.cumsum(missed[::-1])[::-1] / left
    # Pairs of equal quality stay or go together.
    first_of_its_score = np.diff(ascending, prepend=-np.inf) > 0
    fits = first_of_its_score & (rates <= fnmr) & (left >= FEWEST_PAIRS)
    if not fits.any():
        raise InputError(
            f"no threshold that leaves {FEWEST_PAIRS} genuine pairs reaches FNMR {fnmr:g} at FMR "
            f"{fmr:g}: the least is {rates[left >= FEWEST_PAIRS].min(initial=1.0):.4f}; "
            "ask for a higher one"
        )
    return float(ascending[int(np.argmax(fits))])


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
