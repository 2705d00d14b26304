"""Limits of a face's size, sharpness, yaw and truncation, and how they are measured.

Faces of known people are degraded step by step; a limit lies where a recogniser begins to miss
them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np

from ..errors import InputError
from ..fields import (
    BOOLEAN,
    CARD_ID,
    Kind,
    check,
    check_settings,
    record,
    sequence,
    tuple_of,
)
from ..metrics.pairs import PairSimilarities
from ..metrics.verification import check_fmr, cosine_similarity, matches_allowed, threshold_at_fmr
from .base import MODEL_SHA256, SHARE, check_model, document, read_document, write_document
from .measures import MEASURES
from .similarity import person_numbers

__all__ = [
    "AppearanceLimits",
    "AppearanceProfile",
    "MeasuredLimit",
    "default_limits",
    "find_limit",
    "make_appearance_profile",
    "read_appearance",
    "shares_missed",
    "write_appearance",
]


SCHEMA, FIRST_SCHEMA = "facezoo.appearance_profile/2", "facezoo.looks_profile/1"
DEFAULT = Path(__file__).parents[1] / "models" / "magface" / "data" / "appearance.json"


# Names in the first schema.
FIRST_NAMES = {"yaw": "turn", "truncation": "cut_off"}
DIGITS = 4

GROUPS = 20


@dataclass(frozen=True)
class AppearanceLimits:
    """Acceptance limits of the four measures of a face.

    Attributes
    ----------
    min_size
        Shorter side of the box in pixels of the photo.
    min_sharpness
        Variance of the Laplacian of the aligned face, 112x112, grey.
    max_yaw
        Offset of the nose from the middle of the eyes, in distances of the eyes; a frontal face has
        0, a profile about 1.
    max_truncation
        Share of the aligned face that lies outside the photo.

    Raises
    ------
    InputError
        If a limit is out of the range of its measure.
    """

    min_size: float
    min_sharpness: float
    max_yaw: float
    max_truncation: float

    def __post_init__(self) -> None:
        check_settings(self, {limit: kind for limit, kind, _ in MEASURES.values()})


@dataclass(frozen=True)
class MeasuredLimit:
    """One limit, and the data it was derived from.

    Attributes
    ----------
    limit
        Worse faces are refused.
    reached
        Whether faces got so bad that they were missed; if not, the limit is the worst that was
        seen.
    groups
        From the best to the worst: the worst value of a group of faces, the share of its pairs that
        was missed.
    """

    limit: float
    reached: bool
    groups: Tuple[Tuple[float, float], ...]


@dataclass(frozen=True)
class AppearanceProfile:
    """Limits that were measured with one recogniser.

    Attributes
    ----------
    card, model_sha256
        Card of the recogniser; hash of its file, or of a build's three files by name.
    found
        Measure, such as ``size``, to its limit.
    settings
        Data and options of the measurement; JSON values.
    """

    card: str
    model_sha256: Any
    found: Mapping[str, MeasuredLimit]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def limits(self) -> AppearanceLimits:
        """The limits alone."""
        return AppearanceLimits(
            **{one.limit: self.found[name].limit for name, one in MEASURES.items()}
        )


def find_limit(
    values: np.ndarray, missed: np.ndarray, fnmr: float, *, more_is_better: bool
) -> MeasuredLimit:
    """Find the value of one measure at which too many genuine pairs are missed.

    Parameters
    ----------
    values
        Shape (N,): the measure of each face.
    missed
        Shape (N,): share of each face's pairs that was missed.
    fnmr
        Largest share that may be missed.
    more_is_better
        Whether small values are the bad ones.

    Returns
    -------
    MeasuredLimit
        The worst value of the last of twenty groups of faces, from good to bad, before one misses
        more.

    Raises
    ------
    InputError
        If the best faces are missed already, or there are fewer than twenty.
    """
    order = np.argsort(-values if more_is_better else values, kind="stable")
    if len(order) < GROUPS:
        raise InputError(f"a limit needs at least {GROUPS} faces, got {len(order)}")
    groups = [
        (float(values[group[-1]]), float(missed[group].mean()))
        for group in np.array_split(order, GROUPS)
    ]
    good = next((n for n, (_, share) in enumerate(groups) if share > fnmr), GROUPS)
    if not good:
        raise InputError(
            f"of the best faces {groups[0][1]:.1%} of the pairs are missed already, and {fnmr:.1%} "
            "are allowed; allow more, or use better images"
        )
    return MeasuredLimit(groups[good - 1][0], good < GROUPS, tuple(groups))


def shares_missed(
    vectors: np.ndarray, people: np.ndarray, trials: np.ndarray, pictures: np.ndarray, fmr: float
) -> Tuple[float, np.ndarray]:
    """Return which degraded faces no longer match the person they show.

    Parameters
    ----------
    vectors
        Shape (N, D): embeddings of the images as they are.
    people
        Shape (N,): numbers of people, from 0.
    trials
        Shape (T, D): embeddings of worse faces.
    pictures
        Shape (T,): index of the image that each was made from.
    fmr
        False match rate of the images as they are, which fixes the threshold of similarity.

    Returns
    -------
    cosine : float
        The threshold.
    shares : numpy.ndarray
        Shape (T,): share of the person's other images that a face was not matched with; NaN for
        people with one image.

    Raises
    ------
    InputError
        If there are too few people or images for the rate.
    """
    person_numbers([str(person) for person in people])
    check_fmr(fmr)
    points = vectors.astype(np.float64)
    pairs = len(points) * (len(points) - 1) // 2
    found = PairSimilarities.of_people(points, people, matches_allowed(fmr, pairs) + 1)
    limit = threshold_at_fmr(found.impostors, fmr, found.impostor_count).similarity
    shares = np.full(len(trials), np.nan)
    for row, (picture, vector) in enumerate(zip(pictures, trials)):
        others = people == people[picture]
        others[picture] = False
        if others.any():
            seen = np.broadcast_to(vector.astype(np.float64), points[others].shape)
            shares[row] = np.mean(cosine_similarity(points[others], seen) <= limit)
    return limit, shares


def make_appearance_profile(
    card: str,
    model_sha256: Any,
    found: Mapping[str, MeasuredLimit],
    settings: Mapping[str, Any],
) -> AppearanceProfile:
    """Make a profile of the results of :func:`find_limit`, rounded to four digits."""
    rounded = {
        name: MeasuredLimit(
            round(one.limit, DIGITS),
            one.reached,
            tuple((round(value, DIGITS), round(share, DIGITS)) for value, share in one.groups),
        )
        for name, one in found.items()
    }
    return AppearanceProfile(card, model_sha256, rounded, dict(settings))


def write_appearance(path: Path, profile: AppearanceProfile) -> None:
    """Write a profile as JSON."""
    numbers: Dict[str, Any] = {
        "limits": asdict(profile.limits),
        "found": {name: asdict(one) for name, one in profile.found.items()},
    }
    write_document(path, SCHEMA, profile, numbers)


def read_appearance(path: Path, model_sha256: Any = None) -> AppearanceProfile:
    """Read a profile of ``facezoo calibrate appearance``, in the current or the first schema.

    Parameters
    ----------
    path
        The file.
    model_sha256
        Hash of the recogniser to be used; None if there is none.

    Raises
    ------
    InputError
        If the file is not such a profile, or was measured with another recogniser.
    """
    profile = read_document(path, "appearance", _DOCUMENTS, _parse)
    if model_sha256 is not None:
        check_model(repr(str(path)), "appearance", profile, model_sha256)
    return profile


def _document(schema: str, model: Optional[Mapping[str, Kind]] = None) -> Kind:
    """Return the kind of a document of a schema; only the first names its measures otherwise."""
    limits, found = {}, {}
    for name, measure in MEASURES.items():
        stored = _stored(name, schema)
        limits[measure.limit.replace(name, stored)] = measure.range
        group = tuple_of(measure.range, SHARE)
        fields = {"limit": measure.range, "reached": BOOLEAN, "groups": sequence(group, 0, 1000)}
        found[stored] = record(fields)
    return document(schema, {"limits": record(limits), "found": record(found)}, model)


def _stored(name: str, schema: str) -> str:
    return FIRST_NAMES.get(name, name) if schema == FIRST_SCHEMA else name


# The first schema names the model in its settings.
_DOCUMENTS = {SCHEMA: _document(SCHEMA), FIRST_SCHEMA: _document(FIRST_SCHEMA, {})}


def _parse(content: Mapping[str, Any]) -> AppearanceProfile:
    settings = content.get("settings", {})
    if content["schema"] == FIRST_SCHEMA:
        check(settings.get("recogniser"), CARD_ID, "profile.settings.recogniser")
        check(settings.get("recogniser_sha256"), MODEL_SHA256, "profile.settings.recogniser_sha256")
        card, sha256 = settings["recogniser"], settings["recogniser_sha256"]
    else:
        card, sha256 = content["card"], content["model_sha256"]
    found: Dict[str, MeasuredLimit] = {}
    for name, measure in MEASURES.items():
        stored = _stored(name, content["schema"])
        limit, entry = (
            content["limits"][measure.limit.replace(name, stored)],
            content["found"][stored],
        )
        groups = tuple((float(value), float(share)) for value, share in entry["groups"])
        found[name] = MeasuredLimit(float(limit), entry["reached"], groups)
    return AppearanceProfile(card, sha256, found, settings)


@lru_cache(maxsize=None)
def default_limits() -> AppearanceLimits:
    """Return the limits of the package; the file says which data they were measured on."""
    return read_appearance(DEFAULT).limits
