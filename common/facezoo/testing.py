"""What tests of several models share: deterministic weights, filled from the parameters' names."""

from __future__ import annotations

import hashlib
import math
from typing import Any, Dict, Mapping, Sequence

import numpy as np

from .errors import InputError

__all__ = ["fill_from_names"]

RULES = {
    "he": lambda x, fan_in: x * math.sqrt(2.0 / fan_in),
    "bias": lambda x, fan_in: 0.05 * x,
    "norm_weight": lambda x, fan_in: 1 + 0.1 * x,
    "norm_weight_branch_end": lambda x, fan_in: 0.25 * (1 + 0.1 * x),
    "prelu": lambda x, fan_in: 0.25 + 0.05 * x,
    "running_mean": lambda x, fan_in: 0.1 * x,
    "running_var": lambda x, fan_in: np.exp(0.2 * x),
    "other": lambda x, fan_in: 1 + 0.1 * x,
}


def fill_from_names(manifest: Mapping[str, Any]) -> Dict[str, np.ndarray]:
    """Fill every entry of a network's state dict from its own name.

    The golden outputs of the networks were made with these weights, so a network that shares the
    names, the shapes and the arithmetic gives the same outputs, whoever wrote it.

    Parameters
    ----------
    manifest
        A golden manifest; ``manifest["tensors"]`` lists name, shape, dtype and filling rule.

    Returns
    -------
    dict of str to numpy.ndarray
        Entries in the manifest's order, float32; int64 where the rule is ``zero_int``.

    Raises
    ------
    InputError
        If the manifest names a rule that is not known.
    """
    return {name: _fill(name, shape, rule) for name, shape, _, rule in manifest["tensors"]}


def _fill(name: str, shape: Sequence[int], rule: str) -> np.ndarray:
    size = math.prod(shape)
    if rule == "zero_int":
        return np.zeros(shape, np.int64)
    if rule == "arange":
        return np.arange(size, dtype=np.float32).reshape(shape)
    if rule not in RULES:
        known = ", ".join(["arange", *RULES, "zero_int"])
        raise InputError(f"{name}: filling rule {rule!r} is not known; the rules are {known}")
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(size)
    fan_in = size // shape[0] if shape else 1
    return np.asarray(RULES[rule](normal, fan_in), np.float32).reshape(shape)
