"""Value statistics of a network's tensors on calibration data, and the ranges for int8.

Images are processed one at a time and only sums are kept, so memory does not grow with their
number.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..backends.base import first_line
from ..backends.ort import open_session
from ..errors import GraphError, InputError
from ..machine import usable_cores

__all__ = [
    "DEFAULT_SHARE",
    "Feeds",
    "LargestActivation",
    "Range",
    "TensorStats",
    "collect_stats",
    "estimate_range",
    "largest_activation",
    "open_probe",
]


Feeds = Mapping[str, np.ndarray]
Range = Tuple[float, float]

BINS = 2048
LEVELS = 255  # steps of an 8-bit range
# Share of the values that `percentile` keeps by default.
# source: spec of the vendor's corpus, calibrate_range of the recipes that have one
DEFAULT_SHARE = 0.99999
CANDIDATES_EVERY = 16  # distance in bins of the range ends that `mse` and `kl_divergence` try


@dataclass(frozen=True)
class TensorStats:
    """Calibration statistics of one tensor.

    Attributes
    ----------
    low, high
        Shape (C,), float32: smallest and largest value of each channel (axis 1); C is 1 for
        tensors without channels.
    counts
        Shape (BINS,), float64: a histogram from the smallest value of all channels to the largest;
        empty if only the ends were requested.
    """

    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray

    @property
    def range(self) -> Range:
        """Smallest and largest value of all channels."""
        return float(self.low.min()), float(self.high.max())

    @property
    def constant_channels(self) -> int:
        """Number of channels with a constant value."""
        return int(np.count_nonzero(self.low == self.high))


def open_probe(
    model: onnx.ModelProto, names: Iterable[str], exact: bool = False
) -> Callable[[Feeds], Dict[str, np.ndarray]]:
    """Load a graph so that its inner tensors can be read.

    Parameters
    ----------
    model
        The graph; not changed.
    names
        Tensors to return; outputs, inner ones and inputs.
    exact
        See :func:`facezoo.backends.ort.open_session`.

    Returns
    -------
    callable
        Maps feeds to a dict of name to array.

    Raises
    ------
    GraphError
        On a call, if the graph rejects the feeds.
    """
    names = list(names)
    probe = copy.deepcopy(model)
    inputs = {entry.name for entry in probe.graph.input}
    outputs = {entry.name for entry in probe.graph.output}
    inner = [name for name in names if name not in inputs]
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in inner
        if name not in outputs
    )
    session = open_session(probe.SerializeToString(), usable_cores(), exact=exact)

    def run(feeds: Feeds) -> Dict[str, np.ndarray]:
        try:
            found = dict(zip(inner, session.run(inner, dict(feeds))))
        except Exception as error:  # ONNX Runtime has no public base class.
            raise GraphError(f"the graph does not run on this data: {first_line(error)}") from error
        return {name: feeds[name] if name in inputs else found[name] for name in names}

    return run


def collect_stats(
    model: onnx.ModelProto, data: Iterable[Feeds], histograms: bool
) -> Dict[str, TensorStats]:
    """Collect statistics of every float tensor of a graph on calibration data.

    Parameters
    ----------
    model
        The graph; not changed.
    data
        Feeds of one image each; iterated twice for histograms.
    histograms
        Whether to compute histograms too, or only the ends.

    Returns
    -------
    dict
        Tensor name to its statistics.

    Raises
    ------
    GraphError
        If a tensor is not finite, or the graph rejects the data.
    InputError
        If there is no data.
    """
    names = _float_tensors(model)
    run = open_probe(model, names)
    low: Dict[str, np.ndarray] = {}
    high: Dict[str, np.ndarray] = {}
    for feeds in data:
        for name, values in run(feeds).items():
            rows = _channels(values)
            ends = rows.min(axis=1), rows.max(axis=1)
            if not (np.isfinite(ends[0]).all() and np.isfinite(ends[1]).all()):
                raise GraphError(
                    f"tensor {name!r} is not finite on the calibration data, so it has no range; "
                    "check the weights and dataset.process_ops"
                )
            low[name] = np.minimum(low.get(name, ends[0]), ends[0])
            high[name] = np.maximum(high.get(name, ends[1]), ends[1])
    if not low:
        raise InputError("there is no calibration data; expected at least one image")
    counts = {name: np.zeros(BINS if histograms else 0) for name in names}
    for feeds in data if histograms else ():
        for name, values in run(feeds).items():
            counts[name] += _histogram(values, float(low[name].min()), float(high[name].max()))
    return {name: TensorStats(low[name], high[name], counts[name]) for name in names}


@dataclass(frozen=True)
class LargestActivation:
    """The largest magnitude of a graph's inner and output tensors on some data.

    Attributes
    ----------
    value
        The magnitude; infinite if a value is not finite.
    layer
        Operator and name of the node that gives it.
    index
        Number of the feeds, from 0.
    """

    value: float
    layer: str
    index: int


def largest_activation(model: onnx.ModelProto, data: Iterable[Feeds]) -> LargestActivation:
    """Find the largest magnitude that a node of a graph gives; of equal ones, the first node's.

    Parameters
    ----------
    model
        The graph; not changed.
    data
        Feeds of one image each.

    Raises
    ------
    GraphError
        If the graph rejects the data.
    InputError
        If there is no data.
    """
    floats = set(_float_tensors(model))
    weights = {entry.name for entry in model.graph.initializer}
    layers = {
        name: f"{node.op_type} {node.name or name!r}"
        for node in model.graph.node
        for name in node.output
        # What is computed from weights alone is a weight.
        if name in floats and not weights.issuperset(node.input)
    }
    run = open_probe(model, layers)
    found: Optional[LargestActivation] = None
    for index, feeds in enumerate(data):
        for name, values in run(feeds).items():
            value = float(np.max(np.abs(values), initial=0.0))
            value = value if np.isfinite(value) else float("inf")
            if found is None or value > found.value:
                found = LargestActivation(value, layers[name], index)
    if found is None:
        raise InputError("there is no image to run the network on; expected at least one")
    return found


def _float_tensors(model: onnx.ModelProto) -> List[str]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    entries = [*inferred.input, *inferred.value_info, *inferred.output]
    return list(
        dict.fromkeys(
            entry.name for entry in entries if entry.type.tensor_type.elem_type == TensorProto.FLOAT
        )
    )


def _channels(values: np.ndarray) -> np.ndarray:
    if values.ndim < 2 or not values.size:
        return values.reshape(1, -1) if values.size else np.zeros((1, 1), np.float32)
    return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)


def _histogram(values: np.ndarray, low: float, high: float) -> np.ndarray:
    import cv2

    if low == high:
        counts = np.zeros(BINS)
        counts[0] = values.size
        return counts
    # OpenCV excludes values at the upper end, and is ten times faster than NumPy.
    end = float(np.nextafter(np.float32(high), np.float32(np.inf)))
    column = np.ascontiguousarray(values, np.float32).reshape(-1, 1)
    counted: np.ndarray = cv2.calcHist([column], [0], None, [BINS], [low, end])
    return counted.ravel().astype(np.float64)


def estimate_range(stats: TensorStats, mode: str, share: Optional[float] = None) -> Range:
    """Choose the range that 8 bits cover; values outside are clipped.

    Parameters
    ----------
    stats
        Statistics with a histogram, unless the mode is ``max``.
    mode
        ``max`` covers all values. ``percentile`` covers ``share`` of them, clipping half of the
        rest at either end, or all of it at the top of a tensor that is never negative. ``mse``
        minimises the mean square error of clipping and rounding. ``kl_divergence`` preserves the
        distribution of magnitudes, as in entropy calibration.
    share
        Share for ``percentile``, in (0, 1]; ``DEFAULT_SHARE`` if None.

    Returns
    -------
    tuple of float
        Low and high end; 0 lies between them, since padding and ReLU need it exactly.

    Raises
    ------
    InputError
        If the mode is unknown.

    References
    ----------
    .. [1] Szymon Migacz, *8-bit Inference with TensorRT*, GTC 2017, for ``kl_divergence``.
    """
    low, high = stats.range
    if mode not in ESTIMATORS:
        raise InputError(
            f"calibrate_mode {mode!r} is not known; expected one of {list(ESTIMATORS)}"
        )
    if mode != "max" and low < high:
        edges = np.linspace(low, high, BINS + 1)
        low, high = ESTIMATORS[mode](stats.counts, edges, DEFAULT_SHARE if share is None else share)
    return min(low, 0.0), max(high, 0.0)


def _covers_all(counts: np.ndarray, edges: np.ndarray, share: float) -> Range:
    return float(edges[0]), float(edges[-1])


def _covers_share(counts: np.ndarray, edges: np.ndarray, share: float) -> Range:
    below = np.concatenate([[0.0], np.cumsum(counts)])
    rest = (1.0 - share) * below[-1]
    at_bottom = rest / 2 if edges[0] < 0 else 0.0
    low = np.searchsorted(below, at_bottom, side="right") - 1
    high = np.searchsorted(below, below[-1] - (rest - at_bottom), side="left")
    return float(edges[low]), float(edges[high])


def _least_square_error(counts: np.ndarray, edges: np.ndarray, share: float) -> Range:
    centres = (edges[1:] + edges[:-1]) / 2
    # Sums of x**0, x**1 and x**2 up to each edge give the error of any clipping without a loop.
    sums = [np.concatenate([[0.0], np.cumsum(counts * centres**n)]) for n in range(3)]
    ends = np.arange(0, BINS + 1, CANDIDATES_EVERY)
    lows = ends[edges[ends] <= 0] if edges[0] < 0 else ends[:1]
    highs = ends[edges[ends] >= 0] if edges[-1] > 0 else ends[-1:]
    low, high = np.minimum(edges[lows], 0.0), np.maximum(edges[highs], 0.0)
    cut_low = sums[2][lows] - 2 * low * sums[1][lows] + low**2 * sums[0][lows]
    above = [total[-1] - total[highs] for total in sums]
    cut_high = above[2] - 2 * high * above[1] + high**2 * above[0]
    step = (high[None] - low[:, None]) / LEVELS
    inside = sums[0][highs][None] - sums[0][lows][:, None]
    # Rounding to steps of s has a mean square error of s**2 / 12.
    error = cut_low[:, None] + cut_high[None] + inside * step**2 / 12
    row, column = np.unravel_index(int(np.argmin(np.where(step > 0, error, np.inf))), error.shape)
    return float(low[row]), float(high[column])


def _least_divergence(counts: np.ndarray, edges: np.ndarray, share: float) -> Range:
    largest = max(-edges[0], edges[-1])
    magnitudes = np.abs((edges[1:] + edges[:-1]) / 2)
    bins = np.minimum((magnitudes / largest * BINS).astype(int), BINS - 1)
    seen = np.bincount(bins, weights=counts, minlength=BINS)
    # A tensor with both signs has half of the levels for each sign.
    levels = LEVELS if edges[0] >= 0 or edges[-1] <= 0 else (LEVELS + 1) // 2
    candidates = range(levels, BINS + 1, CANDIDATES_EVERY)
    kept = min(candidates, key=lambda end: _divergence(seen, end, levels)) / BINS * largest
    return max(float(edges[0]), -kept), min(float(edges[-1]), kept)


def _divergence(seen: np.ndarray, end: int, levels: int) -> float:
    """KL divergence between magnitudes clipped at a bin and the same quantised to some levels."""
    inside = seen[:end]
    wanted = inside.copy()
    wanted[-1] += seen[end:].sum()
    level = np.arange(end) * levels // end
    filled = inside > 0
    shared = np.bincount(level, weights=inside) / np.maximum(np.bincount(level, weights=filled), 1)
    quantised = np.where(filled, shared[level], 0.0)
    p, q = wanted / wanted.sum(), quantised / max(quantised.sum(), 1.0)
    present = p > 0
    # Clipped values may fall into an empty bin; a floor keeps the logarithm finite.
    return float(np.sum(p[present] * np.log(p[present] / np.maximum(q[present], 1e-9))))


ESTIMATORS: Dict[str, Callable[[np.ndarray, np.ndarray, float], Range]] = {
    "max": _covers_all,
    "percentile": _covers_share,
    "mse": _least_square_error,
    "kl_divergence": _least_divergence,
}
