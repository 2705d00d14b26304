"""Evaluation of quality scores: error rate as the pairs of lowest quality are discarded.

The quality of a pair is the lower one of its two faces. A score is good if discarding the worst
pairs lowers the share of genuine pairs that are rejected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Dict, Iterator, List, Optional, Tuple

import numpy as np

from ..errors import InputError
from .verification import matches_allowed, threshold_at_fmr

__all__ = [
    "DiscardCurve",
    "Interval",
    "RejectCurve",
    "area_ratio",
    "error_versus_discard",
    "error_versus_reject",
    "ofiq_score",
    "pair_quality",
    "resample_people",
    "spearman",
]

# source: MagFace@99bae61 eval/eval_quality/eval_quality.py, perform_1v1_quality_eval
REJECT_RATES = np.arange(0, 0.98, 0.05)

DISCARD_LIMIT = 0.95  # source: arXiv:2103.05977, upper bound of the area over the curve
PARTIAL_LIMIT = 0.30  # a realistic share for a deployment
DISCARDS = np.linspace(0.0, DISCARD_LIMIT, 96)
RESAMPLES = 1000

# The sigmoid of the reference software of ISO/IEC 29794-5 for the magnitudes of its own MagFace
# network (iResNet-50), and its upper end.
# source: OFIQ-Project@028f590 OFIQlib/modules/measures/src/UnifiedQualityScore.cpp, h, x0, w;
# formula and rounding in OFIQlib/modules/measures/Measure.h, ScalarConversion
OFIQ_HEIGHT, OFIQ_CENTRE, OFIQ_WIDTH = 100.0, 23.0, 2.6
CONFIDENCE = (0.025, 0.975)
NO_RESAMPLE = (
    "no resample of people has pairs of both kinds; expected more people, or more --resamples"
)


@dataclass(frozen=True)
class RejectCurve:
    """The authors' error-versus-reject curve; lower is better.

    Attributes
    ----------
    rates
        Shape (K,): shares of pairs discarded. K is at most 20; rates that leave 100 or fewer
        impostor pairs have no point, as in the original.
    fnmr
        Shape (K,): share of the remaining genuine pairs that are rejected.
    thresholds
        Shape (K,): distances below which a pair is accepted.
    fmr
        The false match rate of every threshold.
    """

    # source: MagFace@99bae61 eval/eval_quality/eval_quality.py, perform_1v1_quality_eval
    fmr: ClassVar[float] = 1e-3
    band: ClassVar[None] = None

    rates: np.ndarray
    fnmr: np.ndarray
    thresholds: np.ndarray

    @property
    def points(self) -> Tuple[np.ndarray, np.ndarray]:
        """Shares left out and false non-match rates, each (K,)."""
        return self.rates, self.fnmr

    def lines(self) -> List[str]:
        """Return what is printed, one line per rate, as the authors print it."""
        return [
            f"FNMR = {fnmr:.10f}  :  FMR = {self.fmr:.10f}  :  THRESHOLD =  {threshold:.10f}"
            f"  :  LEFT OUT = {rate:.2f}"
            for rate, fnmr, threshold in zip(self.rates, self.fnmr, self.thresholds)
        ]

    def to_dict(self) -> Dict[str, Any]:
        """Return the curve as JSON values."""
        columns = {"rates": self.rates, "fnmr": self.fnmr, "thresholds": self.thresholds}
        values = {name: column.tolist() for name, column in columns.items()}
        return {"rule": "original", "fmr": self.fmr, **values}


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DiscardCurve:
    """The error-versus-discard characteristic (EDC) of a quality score.

    Attributes
    ----------
    fmr
        The false match rate that fixes the threshold before any pair is discarded.
    threshold
        Distances below it are matches.
    discards
        Shape (96,): shares of genuine pairs discarded, lowest quality first, 0 to 0.95.
    fnmr, low, high
        Shape (96,): false non-match rate among the genuine pairs that remain, and its 95 % band;
        lower is better.
    auc
        Area under the curve up to 0.95, not normalised; lower is better.
    partial_auc
        The same up to 0.30.
    relative_auc
        ``auc`` relative to the area under random discard, which is 0.95 times the first error:
        below 1 is better than chance; its interval accounts for the correlation of the two areas.
    aoc
        The area over the curve of the SDD-FIQA paper, with errors relative to the first:
        ``1 - 0.95 * relative_auc``; 0.05 for random discard, higher is better.
    drawn_auc
        Shape (resamples,): ``auc`` of each resample; equal draws of other scores of the same pairs
        have the same places.
    """

    fmr: float
    threshold: float
    discards: np.ndarray
    fnmr: np.ndarray
    low: np.ndarray
    high: np.ndarray
    auc: Interval
    partial_auc: Interval
    relative_auc: Interval
    aoc: Interval
    drawn_auc: np.ndarray

    @property
    def points(self) -> Tuple[np.ndarray, np.ndarray]:
        """Shares left out and false non-match rates, each (96,)."""
        return self.discards, self.fnmr

    @property
    def band(self) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shares left out, and the ends of the 95 % band, each (96,)."""
        return self.discards, self.low, self.high

    def areas(self) -> Dict[str, Interval]:
        """Return the four areas by name."""
        names = ("auc", "partial_auc", "relative_auc", "aoc")
        return {name: getattr(self, name) for name in names}

    def lines(self) -> List[str]:
        """Return what is printed: threshold, areas, and every fifth point."""
        found = [
            f"false match rate {self.fmr:g}: distances from {self.threshold:.5f} on are missed"
        ]
        for name, area in self.areas().items():
            found.append(f"{name:12} {area.value:.5f} [{area.low:.5f}, {area.high:.5f}]")
        for index in range(0, len(self.discards), 5):
            low, high = self.low[index], self.high[index]
            error = f"{self.fnmr[index]:.5f} [{low:.5f}, {high:.5f}]"
            found.append(f"left out {self.discards[index]:.2f}: FNMR {error}")
        return found

    def to_dict(self) -> Dict[str, Any]:
        """Return the curve as JSON values."""
        entry: Dict[str, Any] = {"rule": "interpolated", "fmr": self.fmr}
        entry["threshold"] = self.threshold
        areas = self.areas().items()
        entry.update((name, [area.value, area.low, area.high]) for name, area in areas)
        columns = ("discards", "fnmr", "low", "high")
        entry.update((name, getattr(self, name).tolist()) for name in columns)
        return entry


def pair_quality(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return MagFace's quality of each pair: the smaller norm of the two embeddings.

    Parameters
    ----------
    first, second
        Shape (N, D), embeddings as returned by the network.

    Returns
    -------
    numpy.ndarray
        Shape (N,), float64.
    """
    lengths = [np.linalg.norm(np.asarray(x, dtype=np.float64), axis=1) for x in (first, second)]
    return np.asarray(np.minimum(*lengths))


def ofiq_score(magnitudes: np.ndarray) -> np.ndarray:
    """Map MagFace magnitudes to 0..100 with the formula of OFIQ.

    Parameters
    ----------
    magnitudes
        Any shape: norms of embeddings. OFIQ's constants belong to its iResNet-50 and its
        alignment; another network or alignment gives numbers on the same scale that differ from
        OFIQ's.

    Returns
    -------
    numpy.ndarray
        Same shape, float64, whole numbers from 0 to 100; higher is better.

    Examples
    --------
    >>> ofiq_score(np.array([0.0, 20.4, 23.0, 25.6, 60.0])).tolist()
    [0.0, 27.0, 50.0, 73.0, 100.0]

    References
    ----------
    .. [1] ISO/IEC 29794-5, unified quality score; OFIQ-Project@028f590.
    """
    # OFIQ rounds halves away from zero, NumPy to even numbers.
    above = (np.asarray(magnitudes, dtype=np.float64) - OFIQ_CENTRE) / OFIQ_WIDTH
    with np.errstate(over="ignore"):  # Far below the centre the share is 0.
        share = 1.0 / (1.0 + np.exp(-above))
    return np.asarray(np.floor(OFIQ_HEIGHT * share + 0.5))


def _check(
    distances: np.ndarray, is_same: np.ndarray, quality: np.ndarray
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    distances = np.asarray(distances, dtype=np.float64)
    quality = np.asarray(quality, dtype=np.float64)
    is_same = np.asarray(is_same).astype(bool)
    if distances.ndim != 1 or not distances.shape == is_same.shape == quality.shape:
        raise InputError(
            "distances, labels and qualities must all have shape (N,), got "
            f"{distances.shape}, {is_same.shape} and {quality.shape}"
        )
    finite = np.isfinite(distances) & np.isfinite(quality)
    if not finite.all():
        raise InputError(f"pair {int(np.argmin(finite))} has a non-finite distance or quality")
    if is_same.all() or not is_same.any():
        raise InputError(
            f"there are {int(is_same.sum())} genuine and {int((~is_same).sum())} impostor pairs; "
            "expected some of both"
        )
    return distances, is_same, quality


def error_versus_reject(
    distances: np.ndarray, is_same: np.ndarray, quality: np.ndarray
) -> RejectCurve:
    """Compute the authors' error-versus-reject curve, including their rank rule.

    At each of 20 rates the pairs of lowest quality are discarded, genuine and impostor alike, and
    the threshold at a false match rate of 1e-3 is recomputed on the rest: of N ascending impostor
    distances the one at index (N - 1) // 1000, so that a handful of impostors decides.

    Parameters
    ----------
    distances
        Shape (N,), lower is more similar; the authors use
        :func:`~facezoo.metrics.verification.angular_distance`.
    is_same
        Shape (N,), bool.
    quality
        Shape (N,), of the pairs; higher is better. The authors use :func:`pair_quality`.

    Returns
    -------
    RejectCurve
        Up to 20 points.

    Raises
    ------
    InputError
        If shapes differ, a value is not finite, or genuine pairs run out.

    References
    ----------
    .. [1] MagFace@99bae61, ``eval/eval_quality/eval_quality.py``.
    """
    distances, is_same, quality = _check(distances, is_same, quality)
    order = np.argsort(quality)
    fnmr, thresholds = [], []
    for rate in REJECT_RATES:
        kept = order[int(rate * len(order)) :]
        genuine = distances[kept][is_same[kept]]
        impostors = np.sort(distances[kept][~is_same[kept]])
        last = len(impostors) - 1
        # The original divides by ten three times, but stops at zero.
        if last < 100:
            break
        if not len(genuine):
            raise InputError(
                f"no genuine pair is left after discarding {rate:.0%} of the pairs; "
                "the quality score ranks impostor pairs above all of them"
            )
        thresholds.append(impostors[last // 1000])
        fnmr.append(np.count_nonzero(genuine >= thresholds[-1]) / len(genuine))
    return RejectCurve(REJECT_RATES[: len(fnmr)], np.array(fnmr), np.array(thresholds))


def error_versus_discard(
    distances: np.ndarray,
    is_same: np.ndarray,
    quality: np.ndarray,
    fmr: float,
    *,
    people: Optional[np.ndarray] = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> DiscardCurve:
    """Compute the error-versus-discard characteristic with areas and bootstrap intervals.

    The threshold is set once, with :func:`~facezoo.metrics.verification.threshold_at_fmr` on all
    impostor pairs. Genuine pairs are discarded from the lowest quality on; ties are broken
    proportionally, so a constant score gives a flat line.

    Parameters
    ----------
    distances
        Shape (N,), lower is more similar.
    is_same
        Shape (N,), bool.
    quality
        Shape (N,), of the pairs (the lower one of the two faces); higher is better.
    fmr
        False match rate between 0 and 1, such as 1e-3.
    people
        Shape (N, 2), int: the person of each face of each pair. The bootstrap then resamples
        people with all their pairs, since pairs that share faces are not independent: its bands are
        wider and hold for unseen people. If None it resamples pairs as if they were independent.
    resamples, seed
        Number of resamples of the bootstrap, and its seed.

    Returns
    -------
    DiscardCurve
        The curve, its band, and its areas.

    Raises
    ------
    InputError
        If shapes differ, a value is not finite, fewer than ten false matches are expected at this
        rate, or no genuine pair is rejected, so that there is no error to reduce.

    References
    ----------
    .. [1] Grother and Tabassi, *Performance of Biometric Quality Measures*, PAMI 2007.
    .. [2] Schlett et al., *Considerations on the Evaluation of Biometric Quality Assessment
       Algorithms*, arXiv:2303.13294: the threshold is that of the starting error.
    .. [3] Ou et al., *SDD-FIQA*, arXiv:2103.05977: the area over the curve.
    """
    distances, is_same, quality = _check(distances, is_same, quality)
    impostors = np.sort(distances[~is_same])
    threshold = -threshold_at_fmr(-impostors, fmr).similarity
    order = np.argsort(quality[is_same], kind="stable")
    genuine = distances[is_same][order]
    # Starts of the runs of equal quality, and the end.
    edges = np.flatnonzero(np.diff(quality[is_same][order], prepend=-np.inf, append=np.inf))
    missed = genuine >= threshold
    if not missed.any():
        raise InputError(
            f"all {len(genuine)} genuine pairs match at FMR {fmr:g}: there is no error for a "
            "quality score to avoid; choose a lower rate or harder pairs"
        )
    curve = _curve(np.ones(len(genuine)), missed, edges)
    if people is None:
        draws = _drawn_pairs(impostors, len(genuine), fmr, resamples, seed)
    else:
        resampled = resample_people(distances, is_same, people, fmr, resamples, seed)
        draws = ((limit, weights[order]) for limit, weights in resampled)
    curves = np.array([_curve(weights, genuine >= limit, edges) for limit, weights in draws])
    if not len(curves):
        raise InputError(NO_RESAMPLE)
    low, high = np.quantile(curves, CONFIDENCE, axis=0)
    areas = _area(curves, DISCARD_LIMIT)
    relative = _interval(_relative_area(curve[None]), _relative_area(curves))
    return DiscardCurve(
        fmr=fmr,
        threshold=threshold,
        discards=DISCARDS,
        fnmr=curve,
        low=low,
        high=high,
        auc=_interval(_area(curve[None], DISCARD_LIMIT), areas),
        partial_auc=_interval(_area(curve[None], PARTIAL_LIMIT), _area(curves, PARTIAL_LIMIT)),
        relative_auc=relative,
        aoc=Interval(
            value=1.0 - DISCARD_LIMIT * relative.value,
            low=1.0 - DISCARD_LIMIT * relative.high,
            high=1.0 - DISCARD_LIMIT * relative.low,
        ),
        drawn_auc=areas,
    )


def area_ratio(one: DiscardCurve, other: DiscardCurve) -> Interval:
    """Divide the areas of two scores of the same pairs; below 1 if the first is better.

    Parameters
    ----------
    one, other
        Results of :func:`error_versus_discard` for the same pairs, rate, resamples and seed, so
        that each resample has both.

    Raises
    ------
    InputError
        If the resamples differ in number.
    """
    if one.drawn_auc.shape != other.drawn_auc.shape:
        raise InputError(
            f"{len(one.drawn_auc)} and {len(other.drawn_auc)} resamples cannot be compared; "
            "expected curves of the same pairs"
        )
    # Without any error there is nothing to compare.
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.where(other.drawn_auc > 0, one.drawn_auc / other.drawn_auc, np.nan)
    return _interval(np.array([one.auc.value / other.auc.value]), drawn)


def _curve(weights: np.ndarray, missed: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the error at each discard for pairs sorted by quality, weighted."""
    counted = np.concatenate([[0.0], np.cumsum(weights)])[edges]
    misses = np.concatenate([[0.0], np.cumsum(weights * missed)])[edges]
    dropped = DISCARDS * counted[-1]
    left = misses[-1] - np.interp(dropped, counted, misses)
    return np.asarray(left / (counted[-1] - dropped))


def _check_people(people: np.ndarray, is_same: np.ndarray) -> np.ndarray:
    people = np.asarray(people)
    if people.shape != (len(is_same), 2) or ((people[:, 0] == people[:, 1]) != is_same).any():
        raise InputError(
            f"people must be two numbers for each of {len(is_same)} pairs, equal for genuine pairs "
            f"and different for impostors, got shape {people.shape}"
        )
    return np.asarray(np.unique(people, return_inverse=True)[1].reshape(people.shape))


def _drawn_pairs(
    impostors: np.ndarray, genuine: int, fmr: float, resamples: int, seed: int
) -> Iterator[Tuple[float, np.ndarray]]:
    """Yield threshold and weights of the genuine pairs of each resample of pairs."""
    rng = np.random.default_rng(seed)
    allowed = matches_allowed(fmr, len(impostors))
    for _ in range(resamples):
        ranks = rng.integers(len(impostors), size=len(impostors))
        threshold = float(impostors[np.partition(ranks, allowed)[allowed]])
        drawn = rng.integers(genuine, size=genuine)
        yield threshold, np.bincount(drawn, minlength=genuine).astype(np.float64)


def resample_people(
    distances: np.ndarray,
    is_same: np.ndarray,
    people: np.ndarray,
    fmr: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Iterator[Tuple[float, np.ndarray]]:
    """Draw people with all their pairs; a pair counts as often as both are drawn.

    Parameters
    ----------
    distances, is_same, people, fmr, resamples, seed
        As for :func:`error_versus_discard`.

    Yields
    ------
    threshold : float
        Distances below it are matches at this false match rate, among the impostors drawn.
    weights : numpy.ndarray
        Shape (genuine pairs,), float64: how often each counts, in the order of the pairs.
    """
    ranked = np.argsort(distances[~is_same], kind="stable")
    impostors = distances[~is_same][ranked]
    pairs_of = _check_people(people, is_same)
    genuine_people, impostor_people = pairs_of[is_same], pairs_of[~is_same][ranked]
    first_people, second_people = np.ascontiguousarray(impostor_people.T)
    rng = np.random.default_rng(seed)
    count = 1 + int(max(genuine_people.max(), impostor_people.max()))
    for _ in range(resamples):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        weights = times[genuine_people[:, 0]]
        reached = np.cumsum(times[first_people] * times[second_people])
        # A single person, or people without genuine pairs, give no curve.
        if not reached[-1] or not weights.any():
            continue
        allowed = matches_allowed(fmr, int(reached[-1]))
        threshold = float(impostors[np.searchsorted(reached, allowed, side="right")])
        yield threshold, weights.astype(np.float64)


def _area(curves: np.ndarray, limit: float) -> np.ndarray:
    """Integrate by the trapezoidal rule up to a discard; shape (curves,)."""
    inside = int(np.searchsorted(DISCARDS, limit + 1e-9))
    widths = np.diff(DISCARDS[:inside])
    means = (curves[:, 1:inside] + curves[:, : inside - 1]) / 2.0
    return np.asarray(means @ widths)


def _relative_area(curves: np.ndarray) -> np.ndarray:
    start = curves[:, 0]
    # A resample without errors carries no information about discarding.
    with np.errstate(invalid="ignore"):
        return np.asarray(_area(curves, DISCARD_LIMIT) / (DISCARD_LIMIT * start))


def _interval(value: np.ndarray, resampled: np.ndarray) -> Interval:
    low, high = np.nanquantile(resampled, CONFIDENCE)
    return Interval(float(value[0]), float(low), float(high))


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Compute Spearman's rank correlation; equal values share their mean rank.

    Parameters
    ----------
    first, second
        Shape (N,), N at least 2, finite.

    Returns
    -------
    float
        -1 (opposite order) to 1 (same order); NaN if either is constant.

    Raises
    ------
    InputError
        If shapes differ, there are fewer than two values, or one is not finite.

    Examples
    --------
    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])), 3)
    0.5
    """
    pairs = [np.asarray(x, dtype=np.float64) for x in (first, second)]
    if pairs[0].ndim != 1 or pairs[0].shape != pairs[1].shape or len(pairs[0]) < 2:
        raise InputError(
            f"rank correlation needs two arrays (N,), N >= 2, got {pairs[0].shape}, "
            f"{pairs[1].shape}"
        )
    if not all(np.isfinite(x).all() for x in pairs):
        raise InputError("rank correlation needs finite values; some are NaN or infinite")
    a, b = (_ranks(x) for x in pairs)
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread > 0.0 else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2.0)[inverse])
