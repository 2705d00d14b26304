"""The 8-bit arithmetic of this CPU, against sums in integers of any size."""

import numpy as np
import pytest
from facezoo.backends.int8 import saturates
from facezoo.backends.ort import OrtBackend, open_session
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.cpu

CHANNELS = 32


def quantised_conv(weights, step):
    """A graph that quantises pixels, multiplies them with weights and rounds sums to steps."""
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "w": weights[..., None, None],
        "w_zero": np.int8(0),
        "step": np.float32(step),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x_8"]),
        helper.make_node("DequantizeLinear", ["x_8", "one", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "one", "w_zero"], ["k"]),
        helper.make_node("Conv", ["a", "k"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "step", "zero"], ["sum_8"]),
        helper.make_node("DequantizeLinear", ["sum_8", "step", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "c", "h", "w"])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def error_in_steps(rng, largest, exact):
    """Return the largest error of random sums of large products, in steps of 1/255 of the range."""
    weights = rng.integers(largest // 2, largest + 1, (16, CHANNELS)).astype(np.int8)
    pixels = rng.integers(200, 256, (1, CHANNELS, 4, 4))
    sums = np.einsum("mc,bchw->bmhw", weights.astype(np.int64), pixels)
    step = np.float32(sums.max() / 255)
    session = open_session(quantised_conv(weights, step), 1, exact=exact)
    (found,) = session.run(None, {"x": pixels.astype(np.float32)})
    return np.abs(found - sums).max() / step


def test_weights_of_seven_bits_are_exact_on_every_cpu(rng):
    assert error_in_steps(rng, 64, exact=False) < 0.51


def test_weights_of_eight_bits_are_exact_where_the_probe_says_so(rng):
    error = error_in_steps(rng, 127, exact=False)
    assert error > 10 if saturates(OrtBackend) else error < 0.51


def test_the_exact_session_is_exact_on_every_cpu(rng):
    assert error_in_steps(rng, 127, exact=True) < 0.51


def test_openvino_is_probed_by_itself(rng):
    """Both runtimes use the same instructions, but may choose different kernels."""
    openvino = pytest.importorskip("facezoo.backends.openvino")
    pytest.importorskip("openvino")
    assert saturates(openvino.OpenVinoBackend) == saturates(OrtBackend)
