"""How a face looks, in four numbers, and from where on it is refused.

The limits are measured: faces of people who are known are made worse step by step, and a limit lies
where a recogniser begins to miss them.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np

from .. import __version__
from ..errors import UNREADABLE, InputError
from ..files import write_bytes
from ..metrics.verification import cosine_similarity, operating_points
from .similarity import people_indices

__all__ = [
    "LOOKS",
    "Limits",
    "LooksLimit",
    "default_limits",
    "find_limit",
    "read_limits",
    "shares_missed",
    "write_limits",
]


SCHEMA = "facezoo.looks_profile/1"
DEFAULT = Path(__file__).parents[1] / "models" / "magface" / "data" / "looks.json"
# Look to the field of Limits, and whether a face is better for having more of it.
LOOKS: Mapping[str, Tuple[str, bool]] = {
    "size": ("min_size", True),
    "sharpness": ("min_sharpness", True),
    "turn": ("max_turn", False),
    "cut_off": ("max_cut_off", False),
}

GROUPS = 20


@dataclass(frozen=True)
class Limits:
    """From where on a face is refused by its looks.

    Attributes
    ----------
    min_size
        Shorter side of the box in pixels of the photo.
    min_sharpness
        Variance of the Laplacian of the aligned face, 112x112, grey.
    max_turn
        How far the nose lies beside the middle of the eyes, in distances of the eyes; a face from
        the front has 0, a profile about 1.
    max_cut_off
        Share of the aligned face that lies outside the photo.
    """

    min_size: float
    min_sharpness: float
    max_turn: float
    max_cut_off: float


@dataclass(frozen=True)
class LooksLimit:
    """Where a look begins to cost, and what it was found from.

    Attributes
    ----------
    limit
        Worse faces are refused.
    reached
        Whether faces got so bad that they were missed; if not, the limit is the worst that was
        seen.
    groups
        From the best to the worst: the worst look of a group of faces, the share of its pairs that
        was missed.
    """

    limit: float
    reached: bool
    groups: Tuple[Tuple[float, float], ...]


def find_limit(
    looks: np.ndarray, missed: np.ndarray, fnmr: float, *, more_is_better: bool
) -> LooksLimit:
    """Find how bad a look may be before too many pairs of one person are missed.

    Parameters
    ----------
    looks
        Shape (N,): of faces.
    missed
        Shape (N,): share of each face's pairs that was missed.
    fnmr
        Largest share that may be missed.
    more_is_better
        Whether small values are the bad ones.

    Returns
    -------
    LooksLimit
        The worst look of the last of twenty groups of faces, from good to bad, before one misses
        more.

    Raises
    ------
    InputError
        If the best faces are missed already, or there are fewer than twenty.
    """
    order = np.argsort(-looks if more_is_better else looks, kind="stable")
    if len(order) < GROUPS:
        raise InputError(f"a limit needs at least {GROUPS} faces, got {len(order)}")
    groups = [
        (float(looks[group[-1]]), float(missed[group].mean()))
        for group in np.array_split(order, GROUPS)
    ]
    good = next((n for n, (_, share) in enumerate(groups) if share > fnmr), GROUPS)
    if not good:
        raise InputError(
            f"of the best faces {groups[0][1]:.1%} of the pairs are missed already, and {fnmr:.1%} "
            "are allowed; allow more, or give better pictures"
        )
    return LooksLimit(groups[good - 1][0], good < GROUPS, tuple(groups))


def shares_missed(
    vectors: np.ndarray, people: np.ndarray, trials: np.ndarray, pictures: np.ndarray, fmr: float
) -> Tuple[float, np.ndarray]:
    """Tell which faces that were made worse are no longer taken for the person they are.

    Parameters
    ----------
    vectors
        Shape (N, D): embeddings of the pictures as they are.
    people
        Shape (N,): numbers of people.
    trials
        Shape (T, D): embeddings of worse faces.
    pictures
        Shape (T,): of which picture each is.
    fmr
        False match rate of the pictures as they are, which fixes the threshold of similarity.

    Returns
    -------
    cosine : float
        The threshold.
    shares : numpy.ndarray
        Shape (T,): share of the person's other pictures that a face was not matched with; NaN for
        people with one picture.

    Raises
    ------
    InputError
        If there are too few people or pictures for the rate.
    """
    pairs, is_same, _ = people_indices([str(person) for person in people])
    points = vectors.astype(np.float64)
    cosines = cosine_similarity(points[pairs[:, 0]], points[pairs[:, 1]])
    (found,) = operating_points(cosines, is_same, [fmr])
    if found.threshold is None:
        raise InputError(found.refusal)
    limit = found.threshold.cosine
    shares = np.full(len(trials), np.nan)
    for row, (picture, vector) in enumerate(zip(pictures, trials)):
        others = people == people[picture]
        others[picture] = False
        if others.any():
            seen = np.broadcast_to(vector.astype(np.float64), points[others].shape)
            shares[row] = np.mean(cosine_similarity(points[others], seen) <= limit)
    return limit, shares


def write_limits(path: Path, limits: Mapping[str, LooksLimit], settings: Mapping[str, Any]) -> None:
    """Write a profile as JSON: limits by look, and what they were found with."""
    entry: Dict[str, Any] = {
        "schema": SCHEMA,
        "facezoo": __version__,
        "limits": {LOOKS[look][0]: round(found.limit, 4) for look, found in limits.items()},
        "found": {look: _rounded(found) for look, found in limits.items()},
        "settings": dict(settings),
    }
    write_bytes(Path(path), (json.dumps(entry, indent=1, allow_nan=False) + "\n").encode())


def _rounded(found: LooksLimit) -> Dict[str, Any]:
    groups: List[List[float]] = [[round(value, 4) for value in group] for group in found.groups]
    return {**asdict(found), "limit": round(found.limit, 4), "groups": groups}


def read_limits(path: Path) -> Limits:
    """Read what ``facezoo calibrate looks`` wrote.

    Raises
    ------
    InputError
        If the file is no such profile.
    """
    try:
        entry = json.loads(Path(path).read_text(encoding="utf-8"))
        if entry["schema"] != SCHEMA:
            raise ValueError(f"its schema is {entry['schema']!r}")
        limits = {field: float(entry["limits"][field]) for field, _ in LOOKS.values()}
        if not all(map(math.isfinite, limits.values())):
            raise ValueError("a limit is not finite")
        return Limits(**limits)
    except UNREADABLE as error:
        raise InputError(
            f"{str(path)!r} is no profile of looks ({error}); make one: facezoo calibrate looks"
        ) from error


@lru_cache(maxsize=None)
def default_limits() -> Limits:
    """Return the limits that come with the package; the file says what they were found with."""
    return read_limits(DEFAULT)
