"""Landmark accuracy: NME, failure rate, area under the cumulative error curve.

All numbers are computed from a list of one error per face, so a subset is a selection from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import InputError

__all__ = [
    "DATASET_OF",
    "FAILURE_THRESHOLD",
    "NORMALIZERS",
    "CumulativeErrors",
    "LandmarkMetrics",
    "Normalizer",
    "bootstrap_interval",
    "check_normalizer",
    "cumulative_error_distribution",
    "evaluate_landmarks",
    "evaluate_subsets",
    "normalized_mean_error",
]

# The two points whose distance normalises, outer eye corners or pupils; None: the face box.
# source: PIPNet@b9eab58 lib/test.py norm_indices
NORMALIZERS: Mapping[str, Optional[Tuple[int, int]]] = {
    "WFLW": (60, 72),
    "300W": (36, 45),
    "COFW": (8, 9),
    "AFLW": None,
}
# Number of landmarks to the data set whose two points normalise.
DATASET_OF: Mapping[int, str] = {98: "WFLW", 68: "300W", 29: "COFW"}
FAILURE_THRESHOLD = 0.1  # source: PIPNet@b9eab58 lib/functions.py compute_fr_and_auc
STEP = 0.0001  # source: same function
# Smallest distance to normalise by, as a share of the diagonal of the face's points. In WFLW's
# subset lists the smallest is 0.13; a face far below it would alone decide the mean.
LEAST_DISTANCE = 0.02

Normalizer = Union[str, Tuple[int, int]]


def normalized_mean_error(
    predicted_xy: np.ndarray,
    truth_xy: np.ndarray,
    normalizer: Normalizer,
    names: Sequence[str] = (),
) -> np.ndarray:
    """Compute the NME of each face: mean point-to-point distance over a distance of the face.

    Lower is better; 0.05 is 5 %. The authors compute it on coordinates in [0, 1] of the crop, x
    and y divided by the width and height of the crop; in pixels of a crop that is not square the
    result differs.

    Parameters
    ----------
    predicted_xy, truth_xy
        Shape (M, N, 2).
    normalizer
        Data set, one of ``NORMALIZERS``, or the indices of two landmarks. With ``AFLW`` the
        distance is 1, so coordinates must be in [0, 1] of the face's box.
    names
        One per face, for messages.

    Returns
    -------
    numpy.ndarray
        Shape (M,), float64.

    Raises
    ------
    InputError
        If the shapes differ, or as :func:`check_normalizer` raises it.

    References
    ----------
    .. [1] PIPNet@b9eab58, ``lib/functions.py``, ``compute_nme``, and ``lib/test.py``.
    """
    predicted = np.asarray(predicted_xy, np.float64)
    truth = np.asarray(truth_xy, np.float64)
    if predicted.shape != truth.shape or truth.ndim != 3 or truth.shape[2] != 2:
        raise InputError(
            "predicted and true landmarks must both have shape (M, N, 2), got "
            f"{predicted.shape} and {truth.shape}"
        )
    distances = np.linalg.norm(predicted - truth, axis=2).mean(axis=1)
    return np.asarray(distances / check_normalizer(truth, normalizer, names))


def check_normalizer(
    truth_xy: np.ndarray, normalizer: Normalizer, names: Sequence[str] = ()
) -> np.ndarray:
    """Return the distance that normalises the errors of each face.

    Parameters
    ----------
    truth_xy
        Shape (M, N, 2).
    normalizer, names
        As for :func:`normalized_mean_error`.

    Returns
    -------
    numpy.ndarray
        Shape (M,), float64.

    Raises
    ------
    InputError
        If the data set is unknown or has more landmarks, or in a face the two landmarks lie
        together: closer than a fiftieth of the diagonal of its points.
    """
    truth = np.asarray(truth_xy, np.float64)
    if isinstance(normalizer, str):
        if normalizer not in NORMALIZERS:
            raise InputError(
                f"data set {normalizer!r} is not known; expected one of {list(NORMALIZERS)}, or "
                "two landmarks"
            )
        pair = NORMALIZERS[normalizer]
        if pair is None:
            return np.ones(len(truth))
    else:
        pair = normalizer
    if not all(0 <= landmark < truth.shape[1] for landmark in pair):
        raise InputError(
            f"landmarks {pair} do not exist among {truth.shape[1]}, numbered from 0; give two of "
            f"them as the normalizer, such as --normalizer 0,{truth.shape[1] - 1}"
        )
    distance = np.linalg.norm(truth[:, pair[0]] - truth[:, pair[1]], axis=1)
    size = np.linalg.norm(np.ptp(truth, axis=1), axis=1)
    together = np.flatnonzero(distance <= LEAST_DISTANCE * size)
    if len(together):
        face = int(together[0])
        name = names[face] if names else f"face {face}"
        more = f", and those of {len(together) - 1} other faces" if len(together) > 1 else ""
        raise InputError(
            f"{name}: landmarks {pair} coincide or nearly do, {distance[face]:.3g} apart in a "
            f"face of {size[face]:.3g}{more}; nothing to normalise by: correct or remove them, or "
            "choose another normalizer"
        )
    return np.asarray(distance)


@dataclass(frozen=True)
class CumulativeErrors:
    """The cumulative error distribution (CED) of a set of faces.

    Attributes
    ----------
    errors
        Shape (S,), ascending from 0 to the failure threshold, in steps of 0.0001.
    shares
        Shape (S,), in [0, 1]: share of the faces with at most that error.
    """

    errors: np.ndarray
    shares: np.ndarray

    @property
    def failure_rate(self) -> float:
        """Share of the faces above the threshold; in [0, 1], lower is better."""
        return float(1.0 - self.shares[-1])

    def area(self, threshold: float) -> float:
        """Area under the curve by Simpson's rule, as a share of the area of a perfect curve."""
        step = (self.errors[-1] - self.errors[0]) / max(len(self.errors) - 1, 1)
        return _simpson(self.shares, float(step)) / threshold


def _simpson(values: np.ndarray, step: float) -> float:
    """Integrate values at equal steps by Simpson's rule, the last of an odd number of steps too."""
    if len(values) < 3:
        return float(step * values.sum() / 2 * (len(values) - 1))
    even = values[: len(values) - (len(values) + 1) % 2]
    area = even[0] + even[-1] + 4 * even[1:-1:2].sum() + 2 * even[2:-1:2].sum()
    # The parabola through the last three points, over the last step alone.
    rest = 0.0 if len(even) == len(values) else 5 * values[-1] + 8 * values[-2] - values[-3]
    return float(step * (area / 3 + rest / 12))


def cumulative_error_distribution(
    errors: np.ndarray, threshold: float = FAILURE_THRESHOLD
) -> CumulativeErrors:
    """Compute the CED curve up to a threshold.

    Parameters
    ----------
    errors
        Shape (M,), NME of each face.
    threshold
        Where the curve ends.

    Raises
    ------
    InputError
        If there is no face, or an error is negative or not finite.

    References
    ----------
    .. [1] PIPNet@b9eab58, ``lib/functions.py``, ``compute_fr_and_auc``.
    """
    ascending = np.sort(_checked(errors))
    # The authors' points: if the threshold is not a multiple of the step in floating point, the
    # last point lies above it.
    points = np.arange(0, threshold + STEP, STEP)
    shares = np.searchsorted(ascending, points, side="right") / len(ascending)
    return CumulativeErrors(points, shares)


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
) -> Tuple[np.ndarray, np.ndarray]:
    """Compute the 95 % bootstrap interval of a statistic, from 1,000 resamples with a fixed seed.

    Parameters
    ----------
    values
        Shape (M,), one per face.
    statistic
        Maps M values to a number or an array.

    Returns
    -------
    low, high : numpy.ndarray
        Ends of the percentile interval, in the shape of the statistic.
    """
    values = _checked(values)
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.choice(values, len(values))) for _ in range(1000)]
    low, high = np.quantile(np.array(drawn), (0.025, 0.975), axis=0)
    return low, high


@dataclass(frozen=True)
class LandmarkMetrics:
    """NME, failure rate and AUC of a set of faces, with 95 % bootstrap intervals.

    Attributes
    ----------
    faces
        Number of faces.
    nme
        Mean normalised error; lower is better.
    failure_rate
        Share of the faces above ``threshold``; lower is better.
    auc
        Area under the CED curve up to ``threshold``; higher is better.
    nme_interval, failure_rate_interval, auc_interval
        Low and high end.
    threshold
        Error from which a face counts as a failure, and end of the curve.
    """

    faces: int
    nme: float
    failure_rate: float
    auc: float
    nme_interval: Tuple[float, float]
    failure_rate_interval: Tuple[float, float]
    auc_interval: Tuple[float, float]
    threshold: float


def evaluate_landmarks(errors: np.ndarray, threshold: float = FAILURE_THRESHOLD) -> LandmarkMetrics:
    """Summarise the errors of a set of faces.

    Parameters
    ----------
    errors
        Shape (M,), from :func:`normalized_mean_error`.
    threshold
        Error from which a face counts as a failure.

    Raises
    ------
    InputError
        If there is no face, or an error is negative or not finite.
    """

    def summary(sample: np.ndarray) -> np.ndarray:
        curve = cumulative_error_distribution(sample, threshold)
        return np.array([sample.mean(), curve.failure_rate, curve.area(threshold)])

    values = _checked(errors)
    nme, failures, area = summary(values).tolist()
    low, high = bootstrap_interval(values, summary)
    nme_interval, failure_interval, area_interval = zip(low.tolist(), high.tolist())
    return LandmarkMetrics(
        faces=len(values),
        nme=nme,
        failure_rate=failures,
        auc=area,
        nme_interval=nme_interval,
        failure_rate_interval=failure_interval,
        auc_interval=area_interval,
        threshold=threshold,
    )


def evaluate_subsets(
    errors: np.ndarray,
    subsets: Mapping[str, Sequence[int]],
) -> Dict[str, LandmarkMetrics]:
    """Summarise all faces and each subset of them: the rows of a table.

    Parameters
    ----------
    errors
        Shape (M,).
    subsets
        Name to indices of faces, such as from :func:`facezoo.datasets.wflw.match_faces`.

    Returns
    -------
    dict of str to LandmarkMetrics
        ``full`` first, then the subsets in their order.

    Raises
    ------
    InputError
        If a subset is empty or has an invalid index; the message names it.
    """
    values = _checked(errors)
    table = {"full": evaluate_landmarks(values)}
    for name, indices in subsets.items():
        chosen = np.asarray(indices, np.int64)
        if not chosen.size or chosen.min() < 0 or chosen.max() >= len(values):
            raise InputError(
                f"subset {name!r} must hold indices from 0 to {len(values) - 1}, at least one"
            )
        table[name] = evaluate_landmarks(values[chosen])
    return table


def _checked(errors: np.ndarray) -> np.ndarray:
    values = np.asarray(errors, np.float64)
    if values.ndim != 1 or not values.size:
        raise InputError(f"errors must have shape (M,) with at least one face, got {values.shape}")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise InputError("errors must be finite and not negative")
    return values
