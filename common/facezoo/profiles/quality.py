"""What a network's scores mean on someone's own pictures: percentiles and thresholds, kept."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Mapping, Tuple

import numpy as np

from .. import __version__
from ..errors import UNREADABLE, InputError
from ..files import write_bytes

__all__ = [
    "DROPS",
    "QualityProfile",
    "fnmr_threshold",
    "make_profile",
    "read_any_profile",
    "read_profile",
    "write_profile",
]


if TYPE_CHECKING:
    # Not at run time, since reading a profile needs nothing of what this brings along.
    pass

SCHEMA = "facezoo.quality_profile/1"
DROPS = (0.01, 0.05, 0.10)
# Of fewer genuine pairs a false non-match rate says next to nothing.
FEWEST_PAIRS = 20


@dataclass(frozen=True)
class QualityProfile:
    """The distribution of a network's scores over some pictures.

    Attributes
    ----------
    card
        Of the network.
    model_sha256
        Hash of its file, of a card's three files by name; scores of another have another scale.
    pictures
        How many were scored.
    percentiles
        101 scores: the lowest, those that 1, 2, … 99 % lie below, the highest.
    thresholds
        Name to score, such as ``drop 5 %``: pictures that score less are to be left out.
    """

    card: str
    model_sha256: Any
    pictures: int
    percentiles: Tuple[float, ...]
    thresholds: Mapping[str, float]

    def percentile_of(self, scores: np.ndarray) -> np.ndarray:
        """Tell where scores lie among those of the pictures, from 0 to 100."""
        return np.asarray(np.interp(scores, self.percentiles, np.linspace(0.0, 100.0, 101)))


def make_profile(
    scores: np.ndarray, card: str, model_sha256: Any, more: Mapping[str, float]
) -> QualityProfile:
    """Summarise the scores of one's own pictures.

    Parameters
    ----------
    scores
        Shape (N,), finite.
    card, model_sha256
        Of the network that gave them.
    more
        Further thresholds by name.

    Returns
    -------
    QualityProfile
        With the thresholds that drop 1, 5 and 10 % of the pictures, as near as whole pictures
        allow; pictures of equal score stay together.

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
        card, model_sha256, len(scores), tuple(percentiles.tolist()), {**thresholds, **more}
    )


def fnmr_threshold(
    distances: np.ndarray, is_same: np.ndarray, quality: np.ndarray, fmr: float, fnmr: float
) -> float:
    """Find the lowest quality at which the pairs that remain have a wanted false non-match rate.

    Parameters
    ----------
    distances
        Shape (P,), of pairs of one's own people.
    is_same
        Shape (P,), bool: whether both show one person.
    quality
        Shape (P,), of the pairs.
    fmr
        False match rate over all impostor pairs, which fixes the threshold of similarity.
    fnmr
        Largest share of the remaining genuine pairs that may be rejected.

    Returns
    -------
    float
        Pictures that score less are to be left out.

    Raises
    ------
    InputError
        If a rate is out of its range, there are too few pairs for it, or no threshold that leaves
        20 genuine pairs gets there.
    """
    impostors = distances[~is_same]
    if not 0.0 < fmr < 1.0 or not 0.0 <= fnmr < 1.0:
        raise InputError(f"rates must lie between 0 and 1, got FMR {fmr} and FNMR {fnmr}")
    if fmr * len(impostors) < 1.0:
        raise InputError(
            f"FMR {fmr:g} needs at least {int(np.ceil(1.0 / fmr))} impostor pairs, there are "
            f"{len(impostors)}; give more people, or a higher rate"
        )
    missed = distances[is_same] >= np.quantile(impostors, fmr)
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


def write_profile(path: Path, profile: QualityProfile, settings: Mapping[str, Any]) -> None:
    """Write a profile as JSON, with the settings it was made with."""
    entry = {
        "schema": SCHEMA,
        "facezoo": __version__,
        **asdict(profile),
        "thresholds": dict(profile.thresholds),
        "settings": dict(settings),
    }
    write_bytes(path, (json.dumps(entry, indent=1, allow_nan=False) + "\n").encode())


def read_any_profile(path: Path) -> QualityProfile:
    """Read a profile, whichever network it was made for.

    Parameters
    ----------
    path
        What ``facezoo calibrate quality`` wrote.

    Raises
    ------
    InputError
        If the file is no profile.
    """
    try:
        content: Dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}")
        percentiles = tuple(float(value) for value in content["percentiles"])
        thresholds = {str(k): float(v) for k, v in content["thresholds"].items()}
        if len(percentiles) != 101 or list(percentiles) != sorted(percentiles):
            raise ValueError("its percentiles are not 101 rising numbers")
        if not all(map(math.isfinite, (*percentiles, *thresholds.values()))):
            raise ValueError("a number is not finite")
        return QualityProfile(
            str(content["card"]),
            content["model_sha256"],
            int(content["pictures"]),
            percentiles,
            thresholds,
        )
    except UNREADABLE as error:
        raise InputError(
            f"{str(path)!r} is no quality profile ({error}); make one: facezoo calibrate quality"
        ) from error


def read_profile(path: Path, model_sha256: Any) -> QualityProfile:
    """Read a profile for the network it was made for.

    Parameters
    ----------
    path
        What ``facezoo calibrate quality`` wrote.
    model_sha256
        Hash of the network that is to be used.

    Raises
    ------
    InputError
        If the file is no profile, or another network's.
    """
    profile = read_any_profile(path)
    if profile.model_sha256 != model_sha256:
        raise InputError(
            f"{str(path)!r} was made for {profile.card} with sha256 "
            f"{str(profile.model_sha256)[:12]}…, this model has {str(model_sha256)[:12]}…: scores "
            "of two networks share no scale; calibrate again: facezoo calibrate quality"
        )
    return profile
