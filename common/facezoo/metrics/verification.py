"""Face verification metrics: k-fold accuracy, ROC, operating points, thresholds.

A pair is genuine if both faces belong to one person, an impostor pair otherwise. All arithmetic
is in float64 and in the order of the original code, so that counts equal the authors'.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import NormalDist
from typing import Callable, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import InputError

__all__ = [
    "FacenetReport",
    "FmrThreshold",
    "FoldAccuracy",
    "OperatingPoint",
    "RocCurve",
    "Threshold",
    "angular_distance",
    "best_threshold",
    "binomial_quantile",
    "check_fmr",
    "check_folds",
    "check_impostors",
    "cosine_similarity",
    "facenet_evaluation",
    "k_fold_accuracy",
    "matches_allowed",
    "operating_points",
    "pool_templates",
    "roc_curve",
    "share_interval",
    "tar_at_nearest_far",
    "threshold_at_fmr",
]

FOLDS = 10  # source: MagFace@99bae61 eval/eval_recognition/eval_1v1.py --test-folds
THRESHOLD_STEP = 0.01  # source: same file, perform_1v1_eval
THRESHOLDS = np.arange(0, 4, THRESHOLD_STEP)
# source: VastModelZOO@43aff36 cv/face_quality/sdd_fiqa/build_in/vsx/python/sdd_fiqa_vsx.py evaluate
VALIDATION_THRESHOLDS = np.arange(0, 4, 0.001)
FMR_TARGET = 1e-3  # source: same function, far_target

# Upper bound, relative to its terms, of the rounding error of a sum of a thousand products.
ROUNDING = 1e-12

PIECE = 64  # rows multiplied at a time

# A false match rate is not measurable with fewer expected false matches than this.
MIN_FALSE_MATCHES = 10
# Two intervals of 97.5 % hold together with at least 95 %.
TAIL = 0.0125
Z = NormalDist().inv_cdf(1.0 - TAIL)
Z_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Threshold:
    """A decision threshold for two faces being one person, on any of the usual scales.

    Attributes
    ----------
    angle
        Angle between the embeddings in units of pi, 0 to 1; pairs below it are accepted.
    """

    angle: float

    @classmethod
    def from_cosine(cls, cosine: float) -> Threshold:
        """Make the threshold from a cosine similarity in [-1, 1]."""
        if not -1.0 <= cosine <= 1.0:
            raise InputError(f"a cosine threshold must be from -1 to 1, got {cosine}")
        return cls(math.acos(cosine) / math.pi)

    @property
    def cosine(self) -> float:
        """Cosine similarity, -1 to 1; pairs above it are accepted."""
        return math.cos(self.angle * math.pi)

    @property
    def l2(self) -> float:
        """Euclidean distance of the unit vectors, 0 to 2; pairs below it are accepted."""
        return 2.0 * math.sin(self.angle * math.pi / 2.0)

    @property
    def degrees(self) -> float:
        """Angle in degrees, 0 to 180; pairs below it are accepted."""
        return self.angle * 180.0


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy of the authors' protocol; higher is better.

    Attributes
    ----------
    accuracies
        Shape (folds,): share of correct decisions per fold, 0 to 1.
    thresholds
        Shape (folds,): the angular distance, in units of pi, chosen on the other folds.
    tpr, fpr
        Shape (400,): true and false positive rate at ``arange(0, 4, 0.01)``, mean over the folds.
    wrong
        Shape (N,), bool: pairs with a wrong decision.
    """

    accuracies: np.ndarray
    thresholds: np.ndarray
    tpr: np.ndarray
    fpr: np.ndarray
    wrong: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over the folds."""
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Population standard deviation over the folds (divisor n), as the authors compute it."""
        return float(np.std(self.accuracies))

    def __str__(self) -> str:
        return f"{self.mean:.5f}+-{self.std:.5f}"


@dataclass(frozen=True)
class FacenetReport:
    """Result of the vendor's evaluation.

    Attributes
    ----------
    accuracies
        Shape (folds,), 0 to 1; higher is better.
    tpr, fpr
        Shape (400,): rates at ``arange(0, 4, 0.01)``, mean over the folds.
    val, val_std
        The vendor's validation rate: share of genuine pairs that match at the target false match
        rate, mean and standard deviation over the folds; higher is better.
    fmr
        The false match rate that was reached, mean over the folds.
    false_positives, false_negatives
        Shape (N,), bool: pairs with a wrong decision at the chosen thresholds.
    thresholds
        Shape (folds,): the squared distance chosen on the other folds.
    """

    accuracies: np.ndarray
    tpr: np.ndarray
    fpr: np.ndarray
    val: float
    val_std: float
    fmr: float
    false_positives: np.ndarray
    false_negatives: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class RocCurve:
    """The receiver operating characteristic of a set of pairs.

    Attributes
    ----------
    fmr, fnmr
        Shape (K,): false match rate, from 0 to 1, and false non-match rate, from 1 to 0.
    thresholds
        Shape (K,): pairs with at least this similarity are accepted; infinite at the first point.
    """

    fmr: np.ndarray
    fnmr: np.ndarray
    thresholds: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        """Shape (K,): share of genuine pairs that match, 1 minus the false non-match rate."""
        return np.asarray(1.0 - self.fnmr)

    @property
    def area(self) -> float:
        """Area under the curve, 0 to 1; 0.5 is chance, higher is better."""
        return float(np.sum(np.diff(self.fmr) * (self.matched[1:] + self.matched[:-1]) / 2.0))


class FmrThreshold(NamedTuple):
    """The similarity threshold at a false match rate.

    Attributes
    ----------
    similarity
        Pairs above it match.
    impostors
        Number of impostor pairs it was measured with.
    """

    similarity: float
    impostors: int


@dataclass(frozen=True)
class OperatingPoint:
    """False non-match rate (FNMR) at a false match rate (FMR); lower is better.

    Attributes
    ----------
    fmr
        The requested rate.
    impostors
        Number of impostor pairs it was measured with.
    fnmr, low, high
        Share of genuine pairs that do not match, 0 to 1, and an interval that contains the true
        rate with at least 95 % confidence; None if there are too few impostor pairs.
    threshold
        Pairs above it match; None if there are too few impostor pairs.
    refusal
        Why there is no result; empty if there is one.
    """

    fmr: float
    impostors: int
    fnmr: Optional[float] = None
    low: Optional[float] = None
    high: Optional[float] = None
    threshold: Optional[Threshold] = None
    refusal: str = ""


def _check_pairs(
    first: np.ndarray, second: np.ndarray, is_same: np.ndarray
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embeddings and labels of pairs as float64 and bool after checking their shapes."""
    first = np.ascontiguousarray(first, dtype=np.float64)
    second = np.ascontiguousarray(second, dtype=np.float64)
    is_same = np.asarray(is_same).astype(bool)
    if first.ndim != 2 or first.shape != second.shape or is_same.shape != first.shape[:1]:
        raise InputError(
            "pairs must be two arrays (N, D) and labels (N,), got "
            f"{first.shape}, {second.shape} and {is_same.shape}"
        )
    return first, second, is_same


def _squared_norms(vectors: np.ndarray, name: str) -> np.ndarray:
    norms = np.asarray(np.einsum("ij,ij->i", vectors, vectors))
    # A sum of squares that is not finite or not positive reveals NaN, infinity and zero vectors
    # without another pass over the values.
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0.0)))
    if len(bad):
        raise InputError(
            f"embedding {bad[0]} of the {name} of the pairs is all zero or not finite "
            f"({len(bad)} such): the network's weights are damaged or its training diverged"
        )
    return norms


def cosine_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the cosine of the angle between the vectors of each row.

    Parameters
    ----------
    first, second
        Shape (N, D), float64; not zero.

    Returns
    -------
    numpy.ndarray
        Shape (N,), float64, clipped to [-1, 1].

    Examples
    --------
    >>> cosine_similarity(np.array([[2.0, 0.0]]), np.array([[1.0, 1.0]])).round(4).tolist()
    [0.7071]
    """
    dot = np.sum(np.multiply(first, second), axis=1)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray(np.clip(dot / norms, -1.0, 1.0))


def angular_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the angle between the vectors of each row in units of pi.

    Parameters
    ----------
    first, second
        Shape (N, D), float64; not zero.

    Returns
    -------
    numpy.ndarray
        Shape (N,), float64, 0 (one direction) to 1 (opposite).
    """
    return np.asarray(np.arccos(cosine_similarity(first, second)) / math.pi)


def check_folds(pairs: int, folds: int = FOLDS) -> None:
    """Raise InputError if there are fewer pairs than folds, or fewer than two folds."""
    if not 2 <= folds <= pairs:
        raise InputError(
            f"{pairs} pairs cannot be split into {folds} folds; expected at least {max(2, folds)} "
            "pairs and 2 folds; --folds takes another number of them"
        )


def _fold_edges(pairs: int, folds: int) -> np.ndarray:
    """Split pairs into runs of nearly equal length, the longer ones first."""
    check_folds(pairs, folds)
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1
    return np.concatenate([[0], np.cumsum(sizes)])


def _edges_of(pairs: int, folds: Union[int, np.ndarray]) -> np.ndarray:
    """Return the first pair of each fold, and the number of pairs."""
    if isinstance(folds, int):
        return _fold_edges(pairs, folds)
    edges = np.asarray(folds)
    if len(edges) < 3 or edges[0] != 0 or edges[-1] != pairs or (np.diff(edges) < 1).any():
        raise InputError(
            f"folds must start at 0, end at {pairs} and have a pair each, got {edges.tolist()}"
        )
    return edges


def k_fold_accuracy(
    first: np.ndarray,
    second: np.ndarray,
    is_same: np.ndarray,
    *,
    folds: Union[int, np.ndarray] = FOLDS,
    found: Optional[np.ndarray] = None,
) -> FoldAccuracy:
    """Evaluate pairs with the authors' protocol.

    The folds are runs of the list. For each, the mean embedding of the other folds is subtracted
    from all, the first threshold with the highest accuracy on the other folds is chosen, and pairs
    of the fold with an angular distance below it are accepted.

    Parameters
    ----------
    first, second
        Shape (N, D), embeddings of the two faces of each pair as returned by the network; since a
        mean is subtracted, their norms matter.
    is_same
        Shape (N,), bool.
    folds
        Number of folds of nearly equal length, or the first pair of each fold and the number of
        pairs, shape (folds + 1,), int.
    found
        Shape (N,), bool: whether a face was found in both images of a pair; None if in all. The
        other pairs, whose embeddings are not used, are never accepted.

    Returns
    -------
    FoldAccuracy
        Its text is what the authors' script prints: mean and standard deviation.

    Raises
    ------
    InputError
        If there are fewer pairs than folds, shapes differ, or a vector is zero or not finite.

    References
    ----------
    .. [1] MagFace@99bae61, ``eval/eval_recognition/eval_1v1.py``.
    """
    first, second, is_same = _check_pairs(first, second, is_same)
    edges = _edges_of(len(is_same), folds)
    if found is None:
        bins = _accepting_thresholds(first, second, edges)
    else:
        rows = np.flatnonzero(found)
        bins = np.full((len(edges) - 1, len(is_same)), len(THRESHOLDS), dtype=np.intp)
        within = np.searchsorted(rows, edges)
        bins[:, rows] = _accepting_thresholds(first[rows], second[rows], within)
    return _fold_accuracy(bins, is_same, edges)


def _accepting_thresholds(first: np.ndarray, second: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return, per fold and pair, the index of the first threshold that accepts the pair.

    With the mean m of a fold's complement, (a - m)(b - m) = ab - am - bm + mm: products with the
    ten means replace ten passes over shifted copies. Where rounding makes it uncertain on which
    side of a threshold a pair lies, it is recomputed as in the original.
    """
    runs = list(zip(edges[:-1], edges[1:]))
    square_a, square_b, dots, sums_a, sums_b = _together(
        lambda: _squared_norms(first, "first"),
        lambda: _squared_norms(second, "second"),
        lambda: np.einsum("ij,ij->i", first, second),
        lambda: np.array([first[i:j].sum(axis=0) for i, j in runs]),
        lambda: np.array([second[i:j].sum(axis=0) for i, j in runs]),
    )
    sums = sums_a + sums_b
    means = (sums.sum(axis=0) - sums) / (2.0 * (len(first) - np.diff(edges))[:, None])
    products_a, products_b = _together(
        lambda: _products(means, first), lambda: _products(means, second)
    )
    bins = np.empty((len(runs), len(first)), dtype=np.intp)
    for fold, products in enumerate(zip(products_a, products_b)):
        square_m = float(means[fold] @ means[fold])
        steps, margin = _steps_after_shift(dots, (square_a, square_b), products, square_m)
        doubtful = np.flatnonzero(~(np.abs(steps - np.rint(steps)) > margin))
        steps[doubtful] = 0.0
        bins[fold] = steps + 1.0
        if len(doubtful):
            distance = _distance_as_original(first, second, edges[fold : fold + 2], doubtful)
            bins[fold, doubtful] = np.searchsorted(THRESHOLDS, distance, side="right")
    return bins


def _products(means: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    # In pieces too small for BLAS to start its own threads, which would compete with ours.
    products = np.empty((len(means), len(vectors)))
    for start in range(0, len(vectors), PIECE):
        end = start + PIECE
        np.matmul(means, vectors[start:end].T, out=products[:, start:end])
    return products


def _together(*tasks: Callable[[], np.ndarray]) -> List[np.ndarray]:
    """Run passes over large arrays in parallel; NumPy releases the interpreter lock."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]


def _steps_after_shift(
    dots: np.ndarray,
    squares: Tuple[np.ndarray, np.ndarray],
    products: Tuple[np.ndarray, np.ndarray],
    square_m: float,
) -> Tuple[np.ndarray, np.ndarray]:
    """Return angular distances after subtracting a mean, in steps, and their error bounds."""
    sum_a, sum_b = squares[0] + square_m, squares[1] + square_m
    # Vectors that equal the mean have no direction: NaN, which counts as uncertain and stays NaN.
    with np.errstate(divide="ignore", invalid="ignore"):
        shifted_a, shifted_b = sum_a - 2.0 * products[0], sum_b - 2.0 * products[1]
        dot = dots + square_m - products[0] - products[1]
        cosine = np.clip(dot / np.sqrt(shifted_a * shifted_b), -1.0, 1.0)
        slack = ROUNDING * (sum_a / shifted_a + sum_b / shifted_b)
        margin = 2.0 / THRESHOLD_STEP * slack / np.sqrt(1.0 - cosine * cosine + slack)
        return np.arccos(cosine) / (math.pi * THRESHOLD_STEP), margin


def _distance_as_original(
    first: np.ndarray, second: np.ndarray, run: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    mean = _mean_outside(first, second, run)
    with np.errstate(invalid="ignore"):
        return angular_distance(first[rows] - mean, second[rows] - mean)


def _mean_outside(first: np.ndarray, second: np.ndarray, run: np.ndarray) -> np.ndarray:
    start, end = run
    parts = [first[:start], first[end:], second[:start], second[end:]]
    return np.asarray(np.mean(np.concatenate(parts), axis=0))


def _accepted(bins: np.ndarray, is_same: np.ndarray, thresholds: int) -> np.ndarray:
    """Count accepted impostor and genuine pairs at each threshold: shape (2, thresholds)."""
    keys = bins + (thresholds + 1) * is_same
    counts = np.bincount(keys, minlength=2 * (thresholds + 1)).reshape(2, thresholds + 1)
    return np.asarray(counts[:, :thresholds].cumsum(axis=1))


def _rates(accepted: np.ndarray, is_same: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return true and false positive rates; 0 without such pairs, as in the original."""
    genuine = int(np.count_nonzero(is_same))
    impostors = len(is_same) - genuine
    return accepted[1] / max(genuine, 1), accepted[0] / max(impostors, 1)


def _fold_accuracy(
    bins: Iterable[np.ndarray], is_same: np.ndarray, edges: np.ndarray
) -> FoldAccuracy:
    count = len(THRESHOLDS)
    accuracies, chosen, rates, wrong = [], [], [], []
    for row, start, end in zip(bins, edges[:-1], edges[1:]):
        labels = is_same[start:end]
        tested = _accepted(row[start:end], labels, count)
        trained = _accepted(row, is_same, count) - tested
        best = int(np.argmax(trained[1] - trained[0]))
        right = tested[1, best] + np.count_nonzero(~labels) - tested[0, best]
        accuracies.append(right / len(labels))
        chosen.append(THRESHOLDS[best])
        rates.append(_rates(tested, labels))
        wrong.append((row[start:end] <= best) != labels)
    tpr, fpr = np.mean(np.array(rates), axis=0)
    decided = np.concatenate(wrong)
    return FoldAccuracy(np.array(accuracies), np.array(chosen), tpr, fpr, decided)


def facenet_evaluation(
    first: np.ndarray,
    second: np.ndarray,
    is_same: np.ndarray,
    *,
    folds: Union[int, np.ndarray] = FOLDS,
    found: Optional[np.ndarray] = None,
) -> FacenetReport:
    """Evaluate pairs with the vendor's protocol, which comes from FaceNet's code.

    Like :func:`k_fold_accuracy`, and also the share of genuine pairs that match at a false match
    rate of 1e-3, with a threshold interpolated on the other folds.

    Parameters
    ----------
    first, second
        Shape (N, D), of length 1.
    is_same
        Shape (N,), bool.
    folds, found
        As for :func:`k_fold_accuracy`.

    Raises
    ------
    InputError
        If there are fewer pairs than folds, shapes differ, a vector is zero or not finite, or a
        fold or its complement lacks genuine or impostor pairs.

    References
    ----------
    .. [1] VastModelZOO@43aff36,
       ``cv/face_quality/sdd_fiqa/build_in/vsx/python/sdd_fiqa_vsx.py``, ``evaluate``.
    """
    first, second, is_same = _check_pairs(first, second, is_same)
    edges = _edges_of(len(is_same), folds)
    rows = slice(None) if found is None else np.flatnonzero(found)
    _squared_norms(first[rows], "first")
    _squared_norms(second[rows], "second")
    distance = np.full(len(is_same), np.inf)
    distance[rows] = np.sum(np.square(np.subtract(first[rows], second[rows])), axis=1)
    bins = np.searchsorted(THRESHOLDS, distance, side="right")
    accuracy = _fold_accuracy(np.tile(bins, (len(edges) - 1, 1)), is_same, edges)
    runs = list(zip(edges[:-1], edges[1:]))
    val, fmr = np.array([_validate_fold(distance, is_same, i, j) for i, j in runs]).T
    return FacenetReport(
        accuracies=accuracy.accuracies,
        tpr=accuracy.tpr,
        fpr=accuracy.fpr,
        val=float(np.mean(val)),
        val_std=float(np.std(val)),
        fmr=float(np.mean(fmr)),
        false_positives=accuracy.wrong & ~is_same,
        false_negatives=accuracy.wrong & is_same,
        thresholds=accuracy.thresholds,
    )


def _validate_fold(
    distance: np.ndarray, is_same: np.ndarray, start: int, end: int
) -> Tuple[float, float]:
    """Return the shares of a fold's genuine and impostor pairs accepted at the target."""
    inside = np.zeros(len(is_same), dtype=bool)
    inside[start:end] = True
    groups = [distance[part & kind] for part in (inside, ~inside) for kind in (is_same, ~is_same)]
    if not all(map(len, groups)):
        raise InputError(
            f"pairs {start} to {end - 1} or the rest contain no genuine or no impostor pair; "
            "order the list so that every fold contains both"
        )
    genuine, impostors, _, others = groups
    fmr = np.searchsorted(np.sort(others), VALIDATION_THRESHOLDS, side="left") / len(others)
    threshold = 0.0
    if fmr[-1] >= FMR_TARGET:
        threshold = float(np.interp(FMR_TARGET, fmr, VALIDATION_THRESHOLDS))
    return float(np.mean(genuine < threshold)), float(np.mean(impostors < threshold))


def _split(similarities: np.ndarray, is_same: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return genuine and impostor similarities, each ascending."""
    similarities = np.asarray(similarities, dtype=np.float64)
    is_same = np.asarray(is_same).astype(bool)
    if similarities.ndim != 1 or similarities.shape != is_same.shape:
        raise InputError(
            "similarities and labels must both have shape (N,), got "
            f"{similarities.shape} and {is_same.shape}"
        )
    if not np.isfinite(similarities).all():
        raise InputError(f"similarity {int(np.argmin(np.isfinite(similarities)))} is not finite")
    genuine, impostors = np.sort(similarities[is_same]), np.sort(similarities[~is_same])
    if not len(genuine) or not len(impostors):
        raise InputError(
            f"there are {len(genuine)} genuine and {len(impostors)} impostor pairs; "
            "expected some of both"
        )
    return genuine, impostors


def _share_up_to(ascending: np.ndarray, threshold: float) -> float:
    return float(np.searchsorted(ascending, threshold, side="right")) / len(ascending)


def roc_curve(similarities: np.ndarray, is_same: np.ndarray) -> RocCurve:
    """Compute the receiver operating characteristic of a set of pairs.

    Parameters
    ----------
    similarities
        Shape (N,), higher is more similar.
    is_same
        Shape (N,), bool.

    Raises
    ------
    InputError
        If there are no genuine or no impostor pairs, or a similarity is not finite.

    Examples
    --------
    >>> roc_curve(np.array([0.9, 0.4, 0.5, 0.1]), np.array([1, 1, 0, 0])).area
    0.75
    """
    genuine, impostors = _split(similarities, is_same)
    thresholds = np.unique(np.concatenate([genuine, impostors]))[::-1]
    fnmr = np.searchsorted(genuine, thresholds, side="left") / len(genuine)
    fmr = 1.0 - np.searchsorted(impostors, thresholds, side="left") / len(impostors)
    return RocCurve(
        fmr=np.concatenate([[0.0], fmr]),
        fnmr=np.concatenate([[1.0], fnmr]),
        thresholds=np.concatenate([[np.inf], thresholds]),
    )


def matches_allowed(fmr: float, impostors: int) -> int:
    """Return how many of a number of impostor pairs may match at a false match rate."""
    return math.floor(fmr * impostors + 1e-9)


def threshold_at_fmr(
    impostors: np.ndarray, fmr: float, count: Optional[int] = None
) -> FmrThreshold:
    """Find the similarity threshold at a false match rate.

    It is the highest impostor similarity that must not match; pairs above it match. Ties among
    impostors therefore never raise the false match rate above the target.

    Parameters
    ----------
    impostors
        Shape (N,): similarities of impostor pairs, in any order; higher means more similar. Negate
        distances.
    fmr
        Between 0 and 1, such as 1e-3.
    count
        Number of all impostor pairs, if only the highest similarities are given.

    Raises
    ------
    InputError
        If the rate is out of range, or fewer than ten false matches are expected at it; the message
        says how many impostor pairs it needs.

    Examples
    --------
    >>> threshold_at_fmr(np.arange(100.0), 0.1)
    FmrThreshold(similarity=89.0, impostors=100)
    """
    count = len(impostors) if count is None else count
    check_impostors(fmr, count)
    place = len(impostors) - 1 - matches_allowed(fmr, count)
    return FmrThreshold(float(np.partition(impostors, place)[place]), count)


def check_impostors(fmr: float, count: int) -> None:
    """Raise InputError if fewer than ten false matches are expected among ``count`` pairs."""
    check_fmr(fmr)
    if fmr * count < MIN_FALSE_MATCHES - 1e-9:
        needed = math.ceil(MIN_FALSE_MATCHES / fmr - 1e-9)
        raise InputError(
            f"FMR {fmr:g} needs at least {needed} impostor pairs, there are {count}; add people or "
            "use a higher rate"
        )


def check_fmr(fmr: float) -> None:
    """Raise InputError if a false match rate is not between 0 and 1."""
    if not 0.0 < fmr < 1.0:
        raise InputError(f"a false match rate must be between 0 and 1, got {fmr}")


def operating_points(
    cosines: np.ndarray, is_same: np.ndarray, fmrs: Sequence[float]
) -> List[OperatingPoint]:
    """Measure the false non-match rate at false match rates, or say why it cannot be measured.

    Parameters
    ----------
    cosines
        Shape (N,), cosine similarities.
    is_same
        Shape (N,), bool.
    fmrs
        Rates between 0 and 1, such as 1e-3.

    Returns
    -------
    list of OperatingPoint
        One per rate, at the threshold of :func:`threshold_at_fmr`; a rate that it rejects has the
        reason instead. The interval covers both samples, the genuine pairs (Wilson's interval) and
        the impostor pairs that set the threshold (binomial order statistics), and treats pairs as
        independent.

    Raises
    ------
    InputError
        If a rate is not between 0 and 1, or :func:`roc_curve` rejects the pairs.
    """
    genuine, impostors = _split(cosines, is_same)
    for fmr in fmrs:
        check_fmr(fmr)
    return [_operating_point(genuine, impostors, fmr) for fmr in fmrs]


def _operating_point(genuine: np.ndarray, impostors: np.ndarray, fmr: float) -> OperatingPoint:
    try:
        threshold, count = threshold_at_fmr(impostors, fmr)
    except InputError as error:
        return OperatingPoint(fmr, len(impostors), refusal=str(error))
    descending = impostors[::-1]
    # With 97.5 % confidence the population's threshold lies between these two impostors.
    fewest = binomial_quantile(TAIL, count, fmr)
    most = binomial_quantile(1.0 - TAIL, count, fmr)
    strict = descending[fewest - 1] if fewest > 0 else np.inf
    loose = descending[min(most, count - 1)]
    return OperatingPoint(
        fmr,
        count,
        fnmr=_share_up_to(genuine, threshold),
        low=_wilson(_share_up_to(genuine, loose), len(genuine))[0],
        high=_wilson(_share_up_to(genuine, strict), len(genuine))[1],
        threshold=Threshold.from_cosine(float(np.clip(threshold, -1.0, 1.0))),
    )


def binomial_quantile(probability: float, trials: int, chance: float) -> int:
    """Return the smallest number of hits that is not exceeded with a probability.

    Parameters
    ----------
    probability
        Between 0 and 1.
    trials
        Number of independent trials.
    chance
        Chance of a hit in each, between 0 and 1.

    Examples
    --------
    >>> binomial_quantile(0.5, 10, 0.5)
    5
    """
    mean = trials * chance
    # Twelve standard deviations and what a Poisson distribution has beside a small mean.
    reach = 12.0 * np.sqrt(mean * (1.0 - chance)) + 40.0
    first, last = max(0, int(mean - reach)), min(trials, int(mean + reach))
    hits = np.arange(first + 1, last + 1, dtype=np.float64)
    odds = chance / (1.0 - chance)
    logs = np.concatenate([[0.0], np.cumsum(np.log((trials - hits + 1.0) / hits * odds))])
    shares = np.cumsum(np.exp(logs - logs.max()))
    return first + int(np.searchsorted(shares, probability * shares[-1]))


def share_interval(share: float, count: int) -> Tuple[float, float]:
    """Return Wilson's 95 % interval for a share of a number of independent trials.

    Examples
    --------
    >>> low, high = share_interval(1.0, 2700)
    >>> round(low, 4), round(high, 4)
    (0.9986, 1.0)
    """
    return _wilson(share, count, Z_95)


def _wilson(share: float, count: int, z: float = Z) -> Tuple[float, float]:
    """Return Wilson's interval for a share of independent trials; of 97.5 % by default."""
    spread = z * math.sqrt(share * (1.0 - share) / count + z * z / (4.0 * count * count))
    centre = share + z * z / (2.0 * count)
    scale = 1.0 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def best_threshold(cosines: np.ndarray, is_same: np.ndarray) -> Tuple[Threshold, float]:
    """Find the threshold with the most correct decisions.

    Parameters
    ----------
    cosines
        Shape (N,), cosine similarities.
    is_same
        Shape (N,), bool.

    Returns
    -------
    tuple of Threshold and float
        The strictest of the best thresholds, halfway between two neighbouring similarities; and
        its accuracy, 0 to 1, which is optimistic, since it was chosen on the same pairs.

    Raises
    ------
    InputError
        If :func:`roc_curve` rejects the pairs.
    """
    genuine, impostors = _split(cosines, is_same)
    values = np.unique(np.concatenate([genuine, impostors]))[::-1]
    between = np.concatenate([[1.0], (values[1:] + values[:-1]) / 2.0, [-1.0]])
    right = (
        len(genuine)
        - np.searchsorted(genuine, between, side="right")
        + np.searchsorted(impostors, between, side="right")
    )
    best = int(np.argmax(right))
    accuracy = right[best] / (len(genuine) + len(impostors))
    return Threshold.from_cosine(float(between[best])), float(accuracy)


def pool_templates(
    vectors: np.ndarray,
    templates: np.ndarray,
    medias: np.ndarray,
    *,
    weighted: bool = False,
) -> Tuple[np.ndarray, np.ndarray]:
    """Pool the embeddings of each template as in the IJB protocols.

    A medium is a still image or the frames of one video, whose embeddings are averaged first, so
    that a long video counts as much as a still. A template is the mean of its media.

    Parameters
    ----------
    vectors
        Shape (N, D), one per image, as returned by the network.
    templates, medias
        Shape (N,), integers: the template and the medium of each image.
    weighted
        Average the media without normalising them, so that those of high quality (large norm)
        count more: the rows marked with a plus in MagFace's paper. Otherwise each medium is
        normalised to length 1 first.

    Returns
    -------
    ids : numpy.ndarray
        Shape (T,), the templates, ascending.
    pooled : numpy.ndarray
        Shape (T, D), float64, not normalised.

    Raises
    ------
    InputError
        If shapes differ, there are no vectors, or the mean of a medium is zero or not finite.

    References
    ----------
    .. [1] MagFace@99bae61, ``eval/eval_recognition/eval_ijb.py``, ``image2template_feature``.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    keys = np.stack([np.asarray(templates), np.asarray(medias)], axis=1)
    if vectors.ndim != 2 or not len(vectors) or keys.shape != (len(vectors), 2):
        raise InputError(
            f"templates need embeddings (N, D) and two numbers each, got {vectors.shape} and "
            f"{keys.shape}"
        )
    units, media = _group_means(keys, vectors)
    lengths = np.linalg.norm(media, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0.0)))
    if len(bad):
        raise InputError(
            f"medium {units[bad[0], 1]} of template {units[bad[0], 0]} has a mean embedding that "
            "is all zero or not finite: the network's weights are damaged or its training diverged"
        )
    ids, pooled = _group_means(units[:, :1], media if weighted else media / lengths[:, None])
    return ids[:, 0], pooled


def _group_means(keys: np.ndarray, rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Average the rows of equal keys."""
    unique, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return unique, np.add.reduceat(rows[order], starts, axis=0) / counts[:, None]


def tar_at_nearest_far(roc: RocCurve, fars: Sequence[float]) -> List[float]:
    """Read TAR at FAR off a curve as MagFace's IJB script does, even with few impostors.

    TAR is 1 minus the false non-match rate, FAR the false match rate.

    Parameters
    ----------
    roc
        The curve.
    fars
        False match rates.

    Returns
    -------
    list of float
        The rate at the point with the nearest false match rate; the highest of several, and of
        two at the same distance the one with more false matches.

    References
    ----------
    .. [1] MagFace@99bae61, ``eval/eval_recognition/eval_ijb.py``, ``perform_verification``.
    """
    far, tar = roc.fmr[::-1], roc.matched[::-1]
    return [float(tar[int(np.argmin(np.abs(far - rate)))]) for rate in fars]
