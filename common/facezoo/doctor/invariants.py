"""Invariants of each model, which hold whatever its weights: checks that need no recorded value.

They detect graphs that cannot be a valid instance of the model. A change that keeps them, such as
another order of the channels, shows only against recorded values.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from ..models.pipnet.decode import LEAST_CORRELATION, load_meanface, neighbor_correlation

__all__ = [
    "Invariant",
    "blur_invariant",
    "invariants_of",
]


# Whether it holds, and a description of what holds or what is wrong.
Invariant = Tuple[bool, str]
Outputs = List[Mapping[str, np.ndarray]]

# Half the sides of most boxes, and offsets within a cell, in strides and in cells: far from these.
MOST_STRIDES, MOST_CELLS = 8.0, 2.0


def invariants_of(model: str, decode: Mapping[str, Any], outputs: Outputs) -> List[Invariant]:
    """Check the invariants of a model on its outputs.

    Parameters
    ----------
    model
        Its name, such as ``pipnet``.
    decode
        Decode constants of its contract.
    outputs
        One mapping by the contract's names for each of at least two different images.

    Returns
    -------
    list of Invariant
        Whether each holds, and a description of what holds or what is wrong.
    """
    if not all(np.isfinite(array).all() for one in outputs for array in one.values()):
        return [(False, "outputs are not finite: broken weights, or too large for this precision")]
    differs = any(not np.allclose(array, outputs[1][name]) for name, array in outputs[0].items())
    invariants = [(differs, "depends on the image" if differs else _SAME)]
    check = _CHECKS.get(model)
    stacked = {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}
    return invariants + (list(check(stacked, decode)) if check else [])


_SAME = "the same for different images: weights are missing, or the input is not connected"


def _scrfd(maps: Dict[str, np.ndarray], decode: Mapping[str, Any]) -> Iterator[Invariant]:
    squashed = all(array.min() >= 0 for name, array in maps.items() if name.startswith("score"))
    wrong = "scores are probabilities: the sigmoid is in the graph, so it is applied twice"
    yield not squashed, wrong if squashed else "scores are logits"
    largest = maps[f"bbox_{max(decode['strides'])}"]
    scaled = float(np.median(np.abs(largest))) > MOST_STRIDES
    wrong = "distances are in pixels: the stride is in the graph, so it is applied twice"
    yield not scaled, wrong if scaled else "distances are in strides"


def _pipnet(maps: Dict[str, np.ndarray], decode: Mapping[str, Any]) -> Iterator[Invariant]:
    meanface = load_meanface(**decode)
    found = neighbor_correlation(maps, meanface)
    exchanged = {"x": maps["y"], "y": maps["x"], "nb_x": maps["nb_y"], "nb_y": maps["nb_x"]}
    if found >= LEAST_CORRELATION:
        yield True, f"neighbours lie where the mean face has them (correlation {found:.2f})"
    elif neighbor_correlation(exchanged, meanface) >= LEAST_CORRELATION:
        yield False, "x/y swapped: the maps of x are in the place of those of y"
    else:
        wrong = "wrong mean face, or outputs in another order than cls, x, y, nb_x, nb_y"
        yield False, f"{wrong}: it explains neighbours with a correlation of {found:.2f}"
    # Trained towards 0 almost everywhere, a map without activation goes below it.
    squashed = bool(maps["cls"].min() > 0.3 and maps["cls"].max() < 1.0)
    wrong = "cls has passed a sigmoid, which does not belong there"
    yield not squashed, wrong if squashed else "cls has no activation"
    scaled = float(np.median(np.abs(np.stack([maps["x"], maps["y"]])))) > MOST_CELLS
    wrong = "offsets are in pixels: the stride is in the graph, so it is applied twice"
    yield not scaled, wrong if scaled else "offsets are in cells"


def blur_invariant(score: float, blurred: float) -> Invariant:
    """Check that a quality network scores an image higher than a blurred copy of it."""
    if blurred < score:
        return True, f"a blurred copy scores lower ({blurred:.3g} for {score:.3g})"
    return False, f"a blurred copy does not score lower ({blurred:.3g} for {score:.3g})"


def _magface(maps: Dict[str, np.ndarray], decode: Mapping[str, Any]) -> Iterator[Invariant]:
    (embeddings,) = maps.values()
    lengths = np.linalg.norm(embeddings.reshape(len(embeddings), -1), axis=1)
    unit = bool(np.allclose(lengths, 1.0, atol=1e-3))
    wrong = "normalised before the norm: embeddings have length 1, so no magnitude is left"
    yield not unit, wrong if unit else "embeddings keep their length"


_CHECKS: Mapping[str, Callable[[Dict[str, np.ndarray], Mapping[str, Any]], Iterator[Invariant]]] = {
    "scrfd": _scrfd,
    "pipnet": _pipnet,
    "magface": _magface,
}
