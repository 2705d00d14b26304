"""How well strangers and known people are told apart, with one photo of each enrolled person."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import InputError
from ..metrics.identification import (
    FpirThreshold,
    MatedProbes,
    RateInterval,
    StrangerScores,
    fnir_at_fpir,
    fnir_interval,
    highest_to_others,
    threshold_at_fpir,
)
from .faces import EmbeddedFaces

__all__ = [
    "FPIRS",
    "SIZES",
    "IdentificationReport",
    "calibrate_identification",
    "curve_lines",
    "evaluate_identification",
    "sizes_of",
]

FPIRS = (1e-1, 1e-2, 1e-3)
SIZES = (10, 30, 100, 300, 1000, 3000, 10000)
# Below every cosine: the rate of probes whose own person is not the first.
NO_THRESHOLD = -2.0


@dataclass(frozen=True)
class IdentificationReport:
    """Identification of faces in a gallery with one photo of each enrolled person.

    Attributes
    ----------
    enrolled, mated, strangers, probes
        Numbers of people in the gallery, of further photos of them, of people who are not in it,
        and of photos of these.
    rank1
        Share of the further photos whose own person is the most similar.
    points
        For each FPIR the threshold and the false negative rate; None where it is refused.
    own
        The threshold that the gallery would use at each FPIR, from its own people, and the share of
        strangers' photos that it gives a name; None where it is refused.
    """

    enrolled: int
    mated: int
    strangers: int
    probes: int
    rank1: RateInterval
    points: Tuple[Tuple[FpirThreshold, Optional[RateInterval]], ...]
    own: Tuple[Tuple[FpirThreshold, Optional[float]], ...]

    def lines(self) -> List[str]:
        """Return the printed lines."""
        rank1 = self.rank1
        counts = (
            f"{self.enrolled} people enrolled with one photo each, {self.mated} further photos; "
            f"{self.strangers} strangers, {self.probes} photos"
        )
        lines = [counts, f"  rank-1 {_shown(rank1)}"]
        for (point, fnir), (own, share) in zip(self.points, self.own):
            missed = "" if fnir is None else f"; FNIR {_shown(fnir)}"
            lines.append(f"  {point.line()}{missed}")
            if share is not None:
                lines.append(
                    f"    the gallery's own threshold {own.used:.4f} ({own.how}): "
                    f"{100 * share:.3f} % of the strangers' photos are given a name"
                )
        return lines

    def to_dict(self) -> Dict[str, Any]:
        """Return everything as JSON values."""
        numbers = {
            name: getattr(self, name) for name in ("enrolled", "mated", "strangers", "probes")
        }
        return {
            **numbers,
            "rank1": vars(self.rank1),
            "points": [
                {**point.to_dict(), "fnir": None if fnir is None else vars(fnir)}
                for point, fnir in self.points
            ],
            "own": [{**own.to_dict(), "named_strangers": share} for own, share in self.own],
        }


def _shown(rate: RateInterval) -> str:
    low, value, high = (100 * one for one in (rate.low, rate.rate, rate.high))
    return f"{value:.3f} % (95 % {low:.3f} to {high:.3f})"


def sizes_of(people: Sequence[str]) -> List[int]:
    """Return the sizes of galleries that people can be divided into, the largest one last.

    Everybody with two photos can be enrolled; half of all people stay strangers at most.
    """
    several = sum(count > 1 for count in Counter(people).values())
    most = min(several, max(1, len(set(people)) // 2))
    return [*(size for size in SIZES if size < most), most]


def evaluate_identification(
    faces: EmbeddedFaces,
    people: Sequence[str],
    *,
    enrolled: Optional[int] = None,
    fpirs: Sequence[float] = FPIRS,
    seed: int = 0,
) -> IdentificationReport:
    """Enrol the first photo of people, and identify all other photos.

    Parameters
    ----------
    faces
        One per photo, in the order of the photos' names.
    people
        Who is in each.
    enrolled
        How many people to enrol, drawn of those with two photos or more; all of them by default.
        Everybody else is a stranger.
    fpirs
        False positive identification rates.
    seed
        Of the draw, and of resampling people.

    Raises
    ------
    InputError
        If nobody has two photos, or nobody is left to be a stranger.
    """
    counts = Counter(people)
    several = sorted(name for name, count in counts.items() if count > 1)
    if not several:
        raise InputError(
            "nobody has two photos, so there is nothing to enrol and to find again; expected one "
            "folder per person, with two photos of some"
        )
    if enrolled is not None and enrolled < len(several):
        drawn = np.random.default_rng(seed).permutation(len(several))[:enrolled]
        several = sorted(several[one] for one in drawn)
    number_of = {name: row for row, name in enumerate(several)}
    if len(number_of) == len(counts):
        raise InputError(
            f"all of {len(counts)} people would be enrolled, so there is no stranger; expected "
            "people with a single photo, or fewer to enrol"
        )
    gallery = np.full(len(several), -1)
    for row, name in enumerate(people):
        if name in number_of and gallery[number_of[name]] < 0:
            gallery[number_of[name]] = row
    who = np.array([number_of.get(name, -1) for name in people])
    # Numbers of strangers, for resampling them as people.
    every = np.unique(np.asarray(people), return_inverse=True)[1].ravel()
    is_gallery = np.zeros(len(people), bool)
    is_gallery[gallery] = True
    units = faces.units
    templates = units[gallery]
    mated_rows = np.flatnonzero((who >= 0) & ~is_gallery)
    stranger_rows = np.flatnonzero(who < 0)
    mated = MatedProbes(
        *highest_to_others(units[mated_rows], who[mated_rows], templates), every[mated_rows]
    )
    _, highest = highest_to_others(units[stranger_rows], who[stranger_rows], templates)
    strangers = StrangerScores(highest, every[stranger_rows], len(several))
    _, among = highest_to_others(templates, np.arange(len(several)), templates)
    own = StrangerScores(among, np.arange(len(several)), len(several) - 1)
    points, owns = [], []
    for fpir in fpirs:
        point = threshold_at_fpir(strangers, fpir, seed=seed)
        missed = None if point.refusal else fnir_at_fpir(mated, strangers, fpir, seed=seed)
        points.append((point, missed))
        chosen = threshold_at_fpir(own, fpir, len(several), seed=seed)
        share = None if chosen.refusal else float((highest > chosen.used).mean())
        owns.append((chosen, share))
    missed_first = fnir_interval(mated, NO_THRESHOLD, seed=seed)
    rank1 = RateInterval(1 - missed_first.rate, 1 - missed_first.high, 1 - missed_first.low)
    return IdentificationReport(
        len(several),
        len(mated_rows),
        strangers.strangers,
        len(stranger_rows),
        rank1,
        tuple(points),
        tuple(owns),
    )


def calibrate_identification(
    faces: EmbeddedFaces, people: Sequence[str], *, seed: int = 0
) -> List[IdentificationReport]:
    """Evaluate galleries of growing size, each drawn of the people with two photos or more.

    Parameters
    ----------
    faces, people, seed
        As for :func:`evaluate_identification`.

    Raises
    ------
    InputError
        If nobody has two photos, or there are too few people.
    """
    if len(set(people)) < 2:
        raise InputError(
            f"{len(set(people))} people leave no stranger; expected one folder per person, and "
            "several people"
        )
    return [
        evaluate_identification(faces, people, enrolled=size, seed=seed)
        for size in sizes_of(people)
    ]


def curve_lines(curve: Sequence[IdentificationReport]) -> List[str]:
    """Return the printed table: a row per size and rate."""
    lines = ["people  strangers    FPIR  cosine (95 %)               FNIR, % (95 %)"]
    for one in curve:
        for point, fnir in one.points:
            head = f"{one.enrolled:6}  {one.strangers:9}  {point.fpir:6g}  "
            if fnir is None:
                lines.append(f"{head}none: {point.refusal}")
            else:
                low, high = point.low, point.high
                cosine = f"{point.used:.4f} ({low:.4f} to {high:.4f})"
                missed = f"{100 * fnir.rate:.2f} ({100 * fnir.low:.2f} to {100 * fnir.high:.2f})"
                lines.append(f"{head}{cosine:26}  {missed}")
    return lines
