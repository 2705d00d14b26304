"""Whether a runtime adds 8-bit products exactly on this CPU: measured, not looked up.

x86 CPUs without VNNI add pairs of products in 16 bits, which overflow with weights of 8 bits
(2 * 255 * 127 > 32767) and saturate without an error; with 7 bits (2 * 255 * 64) they fit.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Type

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..card import Preprocess
from ..contract import Contract
from .base import HostBackend

__all__ = ["saturates"]

SIDE, KERNEL = 8, 3
EXACT = 3 * KERNEL * KERNEL * 255 * 127  # every output of the probe; two thirds if it saturates


@lru_cache(maxsize=None)
def saturates(kind: Type[HostBackend]) -> bool:
    """Measure whether sums of 8-bit products saturate in a runtime on this CPU.

    Parameters
    ----------
    kind
        The runtime's class. It runs a quantised convolution with the largest activations and
        weights once per process, which takes milliseconds.
    """
    contract = Contract("probe", "probe", "x", Preprocess((SIDE, SIDE)), ("y",))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "probe.onnx")
        file.write_bytes(_probe())
        with kind(file, contract, threads=1) as backend:
            found = backend.infer(np.full((SIDE, SIDE, 3), 255, np.uint8)).arrays["y"]
    return bool(np.max(found) < 0.9 * EXACT)


def _probe() -> bytes:
    """Make a graph of one convolution in int8, with the largest weights."""
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "weight": np.full((16, 3, KERNEL, KERNEL), 127, np.int8),
        "weight_zero": np.int8(0),
        "step": np.float32(EXACT / 200),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x_8"]),
        helper.make_node("DequantizeLinear", ["x_8", "one", "zero"], ["activation"]),
        helper.make_node("DequantizeLinear", ["weight", "one", "weight_zero"], ["kernel"]),
        helper.make_node("Conv", ["activation", "kernel"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "step", "zero"], ["sum_8"]),
        helper.make_node("DequantizeLinear", ["sum_8", "step", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, "height", "width"])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    serialised: bytes = model.SerializeToString()
    return serialised
