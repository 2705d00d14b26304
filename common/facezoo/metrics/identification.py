"""Identification in a gallery of N people: thresholds for strangers, rates, assignment of names.

A probe is compared with everybody in the gallery. It is *mated* if its person is enrolled,
otherwise a stranger's. FPIR, the false positive identification rate, is the share of strangers'
probes whose highest similarity is above the threshold; FNIR, the false negative identification
rate, is the share of mated probes whose own person is not the first, or not above the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ..errors import InputError
from .verification import check_fmr

__all__ = [
    "FpirThreshold",
    "MatedProbes",
    "RateInterval",
    "StrangerScores",
    "fnir_at_fpir",
    "fnir_interval",
    "highest_to_others",
    "share_of_people",
    "threshold_at_fpir",
]

# With so many strangers above it, a threshold is read off their scores.
LEAST_ABOVE = 10
# An extreme-value fit needs so many strangers, and reaches so far beyond them.
LEAST_STRANGERS, REACH = 20, 100.0
RESAMPLES = 400
EULER = 0.5772156649015329  # source: the Euler-Mascheroni constant, OEIS A001620


@dataclass(frozen=True, eq=False)
class StrangerScores:
    """What probes of people who are not enrolled score in a gallery.

    Attributes
    ----------
    scores
        Shape (M,), float64: highest cosine of each probe to a gallery of ``size`` people.
    people
        Shape (M,), int: number of the probe's person.
    size
        Number of people in the gallery.
    """

    scores: np.ndarray
    people: np.ndarray
    size: int

    @property
    def strangers(self) -> int:
        """Number of people."""
        return len(np.unique(self.people))


@dataclass(frozen=True)
class FpirThreshold:
    """The threshold at one false positive identification rate.

    Attributes
    ----------
    fpir
        Share of strangers' probes that may be given a name.
    size
        Number of people in the gallery it is for.
    cosine, low, high
        The threshold and a 95 % interval of it, from resampling people; None if refused.
    how
        ``direct`` or ``extreme values``; empty if refused.
    refusal
        Why there is no threshold; empty if there is one.
    """

    fpir: float
    size: int
    cosine: Optional[float] = None
    low: Optional[float] = None
    high: Optional[float] = None
    how: str = ""
    refusal: str = ""

    @property
    def used(self) -> float:
        """The cosine from which on a face is given a name.

        Of a fit it is the upper end of the interval, since the fit is beyond what was seen.

        Raises
        ------
        InputError
            If there is none.
        """
        if self.cosine is None or self.high is None:
            raise InputError(
                f"no threshold at FPIR {self.fpir:g} is known for {self.size} people: "
                f"{self.refusal}"
            )
        return self.cosine if self.how == "direct" else self.high

    def to_dict(self) -> Dict[str, Any]:
        """Return the threshold as JSON values."""
        entry: Dict[str, Any] = {"fpir": self.fpir, "size": self.size}
        if self.refusal:
            return {**entry, "refusal": self.refusal}
        named = {name: getattr(self, name) for name in ("cosine", "low", "high", "how")}
        return {**entry, **named, "used": self.used}

    def line(self) -> str:
        """Return the printed line."""
        if self.cosine is None or self.low is None or self.high is None:
            return f"FPIR {self.fpir:g}, {self.size} people: no threshold, {self.refusal}"
        fit = "" if self.how == "direct" else ", beyond the scores seen: the upper end is used"
        return (
            f"FPIR {self.fpir:g}, {self.size} people: cosine {self.used:.4f} "
            f"(95 % {self.low:.4f} to {self.high:.4f}; {self.how}{fit})"
        )


def threshold_at_fpir(
    found: StrangerScores, fpir: float, size: Optional[int] = None, *, seed: int = 0
) -> FpirThreshold:
    """Find the threshold at a false positive identification rate for a gallery.

    Where at least ten strangers are expected above it, it is read off their scores. Otherwise a
    Gumbel distribution, which is that of the highest of many similarities, is fitted to them by
    L-moments [1]_; cosines end at 1, so their tail is lighter, and the fit is on the safe side.
    Where the scores themselves reach higher, such as of one person under two names, they count. A
    gallery of another size has another threshold: the highest of N similarities is below it in
    the N / M-th power of the cases of that of M.

    Parameters
    ----------
    found
        Scores of strangers.
    fpir
        Between 0 and 1.
    size
        Number of people in the gallery; by default that of the scores.
    seed
        Of resampling people for the interval.

    References
    ----------
    .. [1] J. R. M. Hosking, *L-Moments: Analysis and Estimation of Distributions using Linear
       Combinations of Order Statistics*, JRSS B 1990, table 2.
    """
    check_fmr(fpir)
    size = found.size if size is None else size
    strangers = found.strangers
    if min(size, found.size) < 1:
        return FpirThreshold(fpir, size, refusal="there is nobody to be taken for")
    # The rate in a gallery of the measured size that has the same threshold.
    share = -math.expm1(math.log1p(-fpir) * found.size / size)
    is_direct = share * strangers >= LEAST_ABOVE - 1e-6
    if not is_direct and (
        strangers < LEAST_STRANGERS or share * strangers * REACH < LEAST_ABOVE - 1e-6
    ):
        needed = max(LEAST_STRANGERS, math.ceil(LEAST_ABOVE / REACH / share))
        return FpirThreshold(
            fpir,
            size,
            refusal=f"only {strangers} strangers were compared, at least {needed} are needed",
        )
    rule = _quantile if is_direct else _fitted
    cosine = min(1.0, rule(np.sort(found.scores), share))
    drawn = np.minimum(1.0, [rule(scores, share) for scores in _resampled(found, seed)])
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    how = "direct" if is_direct else "extreme values"
    return FpirThreshold(fpir, size, cosine, min(low, cosine), max(high, cosine), how)


def _quantile(ascending: np.ndarray, share: float) -> float:
    """Return the lowest score that at most a share of all is above."""
    allowed = min(math.floor(share * len(ascending) + 1e-9), len(ascending) - 1)
    return float(ascending[len(ascending) - 1 - allowed])


def _fitted(ascending: np.ndarray, share: float) -> float:
    return max(_gumbel_level(ascending, share), _quantile(ascending, share))


def _gumbel_level(ascending: np.ndarray, share: float) -> float:
    """Return what a share of a Gumbel distribution with these L-moments is above."""
    count = len(ascending)
    mean = float(ascending.mean())
    # Probability-weighted moment b1, and with it the second L-moment.
    second = 2.0 * float((np.arange(count) / (count - 1) * ascending).mean()) - mean
    scale = second / math.log(2.0)
    return mean - EULER * scale - scale * math.log(-math.log1p(-share))


def _resampled(found: StrangerScores, seed: int) -> List[np.ndarray]:
    """Draw the people with replacement, each with all probes; return their scores, ascending."""
    rng = np.random.default_rng(seed)
    order = np.argsort(found.scores, kind="stable")
    scores = found.scores[order]
    numbers = np.unique(found.people, return_inverse=True)[1].ravel()[order]
    count = int(numbers.max()) + 1
    drawn = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        drawn.append(np.repeat(scores, times[numbers]))
    return [one for one in drawn if len(one) > 1]


@dataclass(frozen=True, eq=False)
class MatedProbes:
    """Probes of people who are enrolled.

    Attributes
    ----------
    own
        Shape (M,), float64: cosine to the probe's own person; -1 without a face.
    other
        Shape (M,): highest cosine to anybody else.
    people
        Shape (M,), int: number of the person.
    """

    own: np.ndarray
    other: np.ndarray
    people: np.ndarray

    def is_missed(self, cosine: float) -> np.ndarray:
        """Return which probes are not given their own name at a threshold, shape (M,), bool."""
        return np.asarray((self.own <= self.other) | (self.own <= cosine))


@dataclass(frozen=True)
class RateInterval:
    """A rate with a 95 % interval from resampling people."""

    rate: float
    low: float
    high: float


def fnir_at_fpir(
    mated: MatedProbes, found: StrangerScores, fpir: float, *, seed: int = 0
) -> RateInterval:
    """Return the false negative identification rate at a rate of false positives.

    The interval comes from resampling both the strangers, who set the threshold, and the enrolled.

    Parameters
    ----------
    mated
        Probes of the enrolled.
    found
        Scores of strangers; enough to read the threshold off.
    fpir
        Between 0 and 1.
    seed
        Of resampling people.

    Raises
    ------
    InputError
        If there are too few strangers.
    """
    point = threshold_at_fpir(found, fpir, seed=seed)
    rate = float(mated.is_missed(point.used).mean())
    numbers = np.unique(mated.people, return_inverse=True)[1].ravel()
    count = int(numbers.max()) + 1
    totals = np.bincount(numbers, minlength=count)
    rng = np.random.default_rng(seed + 1)
    drawn = []
    rule = _quantile if point.how == "direct" else _fitted
    for scores in _resampled(found, seed):
        sums = np.bincount(numbers, mated.is_missed(min(1.0, rule(scores, fpir))), count)
        some = rng.integers(count, size=count)
        drawn.append(sums[some].sum() / totals[some].sum())
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return RateInterval(rate, min(low, rate), max(high, rate))


def fnir_interval(mated: MatedProbes, cosine: float, *, seed: int = 0) -> RateInterval:
    """Return the false negative identification rate at a threshold.

    At -2, below every cosine, it is 1 - rank-1: the share whose own person is not the first.

    Parameters
    ----------
    mated
        The probes.
    cosine
        The threshold.
    seed
        Of resampling people.
    """
    missed = mated.is_missed(cosine)
    return share_of_people(missed, mated.people, seed=seed)


def share_of_people(hits: np.ndarray, people: np.ndarray, *, seed: int = 0) -> RateInterval:
    """Return a share of probes with a 95 % interval from resampling the people they are of."""
    numbers = np.unique(people, return_inverse=True)[1].ravel()
    count = int(numbers.max()) + 1
    sums = np.bincount(numbers, hits, count)
    totals = np.bincount(numbers, minlength=count)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        some = rng.integers(count, size=count)
        drawn.append(sums[some].sum() / totals[some].sum())
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    rate = float(hits.mean())
    return RateInterval(rate, min(low, rate), max(high, rate))


def highest_to_others(
    probes: np.ndarray, people: np.ndarray, templates: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Compare probes with every template.

    Parameters
    ----------
    probes
        Shape (M, D), float32, length 1.
    people
        Shape (M,), int: row of the probe's own template, or -1 for a stranger.
    templates
        Shape (N, D), float32, length 1.

    Returns
    -------
    own, other : numpy.ndarray
        Shape (M,), float64: cosine to the own template (-1 for a stranger), and the highest to any
        other one (-1 if there is none).
    """
    own, other = np.full(len(probes), -1.0), np.full(len(probes), -1.0)
    # 64 MiB of cosines at a time.
    step = max(1, (16 << 20) // max(1, len(templates)))
    for start in range(0, len(probes) if len(templates) else 0, step):
        part = slice(start, start + step)
        cosines = probes[part] @ templates.T
        mine = people[part]
        rows = np.flatnonzero(mine >= 0)
        own[part][rows] = cosines[rows, mine[rows]]
        cosines[rows, mine[rows]] = -1.0
        other[part] = cosines.max(axis=1)
    return own, other
