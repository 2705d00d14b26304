"""Int8 sensitivity per layer: quantise each layer alone and measure the effect on the outputs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Collection, Dict, Iterable, Iterator, List, Sequence, Tuple, Union

import onnx

from ..contract import load_graph
from ..metrics.drift import DriftSum, TensorDrift
from .quantize import COMPUTING, Arithmetic, Calibrated, Layer, insert_qdq
from .ranges import Feeds, open_probe

__all__ = [
    "BuiltList",
    "LayerError",
    "best_list",
    "format_exclusions",
    "longest_list",
    "measure_drift",
    "measure_error",
    "measure_layers",
    "search_list",
]


SHARE_OF_LAYERS = 8  # at most one layer in this many may be excluded
TRIED = 4  # layers that a search tries at a time
LEAST_GAIN = 0.01  # share of the loss of all layers that another layer must save
SLOWER = 1.05  # a list may take this much more time than the YAML's: the noise of a measurement


@dataclass(frozen=True)
class LayerError:
    """Effect of quantising one layer alone.

    Attributes
    ----------
    layer
        The layer.
    error
        Share of the outputs' variance that is lost, in [0, 1]: mean over outputs and channels.
    worst_output
        Name of the output with the largest loss.
    worst_error
        Loss of that output.
    """

    layer: Layer
    error: float
    worst_output: str
    worst_error: float


def measure_layers(
    calibrated: Calibrated,
    arithmetic: Arithmetic,
    per_channel: bool,
    data: Iterable[Feeds],
) -> Iterator[LayerError]:
    """Quantise every layer alone and compare the outputs with the float network's.

    Parameters
    ----------
    calibrated
        The graph and its ranges.
    arithmetic, per_channel
        Settings of the quantisation.
    data
        Feeds of one image each; a few are enough, since all are used for every layer.

    Yields
    ------
    LayerError
        One entry per layer, in graph order.
    """
    layers = [layer for layer in calibrated.layers if layer.op_type in COMPUTING]
    names = {layer.name for layer in layers}
    recorded = list(_record(calibrated.model, data))
    for layer in layers:
        model = insert_qdq(calibrated, names - {layer.name}, arithmetic, per_channel)
        lost = {name: drift.lost for name, drift in _drift_from(recorded, model).items()}
        worst = max(lost, key=lost.__getitem__)
        yield LayerError(layer, sum(lost.values()) / len(lost), worst, lost[worst])


def measure_error(
    reference: onnx.ModelProto, model: onnx.ModelProto, data: Iterable[Feeds]
) -> Dict[str, float]:
    """Return the share of variance that each output of a graph loses against another graph.

    Parameters are those of :func:`measure_drift`.
    """
    return {name: drift.lost for name, drift in measure_drift(reference, model, data).items()}


def measure_drift(
    reference: Union[Path, onnx.ModelProto],
    model: Union[Path, onnx.ModelProto],
    data: Iterable[Feeds],
    exact: bool = False,
) -> Dict[str, TensorDrift]:
    """Compare the outputs of two graphs.

    Parameters
    ----------
    reference, model
        Graphs, or files of graphs, with the same inputs and outputs.
    data
        Feeds of one image each.
    exact
        Compute the second graph as :func:`facezoo.backends.ort.open_session` says.

    Returns
    -------
    dict
        Output name to its drift.
    """
    expected, found = (
        load_graph(graph) if isinstance(graph, Path) else graph for graph in (reference, model)
    )
    return _drift_from(_record(expected, data), found, exact)


def _record(model: onnx.ModelProto, data: Iterable[Feeds]) -> Iterator[Tuple[Feeds, Feeds]]:
    """Yield feeds with the outputs of a graph."""
    run = open_probe(model, [entry.name for entry in model.graph.output])
    for feeds in data:
        yield feeds, run(feeds)


def _drift_from(
    recorded: Iterable[Tuple[Feeds, Feeds]], model: onnx.ModelProto, exact: bool = False
) -> Dict[str, TensorDrift]:
    sums = {entry.name: DriftSum() for entry in model.graph.output}
    run = open_probe(model, sums, exact)
    for feeds, expected in recorded:
        found = run(feeds)
        for name, drift in sums.items():
            drift.add(expected[name], found[name])
    return {name: drift.result() for name, drift in sums.items()}


def search_list(
    errors: Sequence[LayerError],
    lost_without: Callable[[Sequence[Layer]], float],
    most: int,
    say: Callable[[str], None] = lambda line: None,
) -> List[Layer]:
    """Search the list of layers to keep in float that loses least.

    Losses of single layers do not add up, so each list is built and measured: the layer that helps
    most, of the worst ones alone, is added until none helps.

    Parameters
    ----------
    errors
        Errors of all layers, each quantised alone.
    lost_without
        Measures the loss of the whole network with some layers in float.
    most
        Largest number of layers.
    say
        Called with a line after each step.

    Returns
    -------
    list of Layer
        In graph order.
    """
    rest = [entry.layer for entry in sorted(errors, key=lambda entry: -entry.error)]
    chosen: List[Layer] = []
    current = all_quantised = lost_without([])
    say(f"all layers in int8: {current:.3%} of the outputs' variance is lost")
    while rest and len(chosen) < most:
        tried = [(lost_without([*chosen, layer]), layer) for layer in rest[:TRIED]]
        lowest, best = min(tried, key=lambda one: one[0])
        if current - lowest < LEAST_GAIN * all_quantised or lowest >= current:
            break
        current = lowest
        chosen.append(best)
        rest.remove(best)
        say(f"{best.op_type} {best.key_number} in float too: {current:.3%}")
    return sorted(chosen, key=lambda layer: layer.number)


def longest_list(errors: Sequence[LayerError], shipped: Collection[Layer]) -> int:
    """Return how many layers a list may have: one in eight, or as many as the YAML's."""
    return max(-(-len(errors) // SHARE_OF_LAYERS), len(shipped))


@dataclass(frozen=True)
class BuiltList:
    """A list of layers to keep in float, built and measured.

    Attributes
    ----------
    label
        Where it comes from.
    layers
        The layers, in graph order.
    lost
        Share of the outputs' variance that the whole network loses.
    milliseconds
        Processor time per image.
    """

    label: str
    layers: Tuple[Layer, ...]
    lost: float
    milliseconds: float


def best_list(built: Sequence[BuiltList]) -> BuiltList:
    """Choose the list to use: the one that loses least and is not slower than the first.

    Parameters
    ----------
    built
        The list of the YAML, then others.
    """
    first = built[0]
    fast = [one for one in built if one.milliseconds <= SLOWER * first.milliseconds]
    # Of equal losses the first, which is in the YAML already.
    return min((first, *fast), key=lambda one: one.lost)


def format_exclusions(layers: Collection[Layer]) -> str:
    """Format layers as the lines of ``backend.quantize`` that exclude them."""
    numbers: Dict[str, List[int]] = defaultdict(list)
    for layer in layers:
        numbers[layer.key].append(layer.key_number)
    return "\n".join(f"{key}: {sorted(found)}" for key, found in sorted(numbers.items()))
