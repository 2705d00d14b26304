"""Int8: types by the CPU, layers by number, what the lint sees, what exclusions and biases mend."""

import dataclasses

import numpy as np
import onnx
import pytest
from facezoo.compiler.quantize import (
    Arithmetic,
    calibrate,
    choose_arithmetic,
    excluded_layers,
    insert_qdq,
    lint_graph,
    list_layers,
    quantize_graph,
)
from facezoo.compiler.ranges import open_probe
from facezoo.compiler.sensitivity import (
    BuiltList,
    LayerError,
    best_list,
    format_exclusions,
    longest_list,
    measure_drift,
    measure_error,
    measure_layers,
    search_list,
)
from facezoo.errors import ConfigError, GraphError
from facezoo.machine import cpu_flags, describe_machine, has_bf16
from facezoo.metrics.drift import DriftSum
from facezoo.vacc.build_config import Quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

U8S8 = Arithmetic("uint8", "int8", False, "for a test")
U8S7 = Arithmetic("uint8", "int8", True, "for a test")
ARITHMETICS = [U8S7, U8S8]
# Where full-range weights saturate, their result is taken from exact sums.
SATURATES = choose_arithmetic().reduce_range
HW = 8


def make_graph(nodes, weights, *, outputs=("y",), opset=13, channels=3):
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", channels, HW, HW])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def joined_heads(rng, high, names=("score", "box", "joined")):
    """Scores in (0, 1) and boxes in [0, high] in one tensor."""
    score, box, joined = names
    kernels = rng.uniform(0, 1, (2, 2, 3, 1, 1))
    kernels[1] *= high / kernels[1].sum(axis=(1, 2, 3), keepdims=True).max()
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], [f"{score}_logit"]),
        helper.make_node("Sigmoid", [f"{score}_logit"], [score]),
        helper.make_node("Conv", ["x", "w1"], [f"{box}_raw"]),
        helper.make_node("Relu", [f"{box}_raw"], [box]),
        helper.make_node("Concat", [score, box], [joined], axis=1),
    ]
    weights = {"w0": 4 * kernels[0], "b0": [-3, -3], "w1": kernels[1]}
    return make_graph(nodes, weights, outputs=(joined,))


def plain_net(rng, opset=13):
    """Conv, Relu, depthwise Conv, global mean, Flatten, Gemm."""
    weights = {
        "w0": rng.standard_normal((4, 3, 3, 3)),
        "b0": rng.standard_normal(4),
        "w1": rng.standard_normal((4, 1, 3, 3)),
        "b1": rng.standard_normal(4),
        "g": rng.standard_normal((4, 5)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], group=4, strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c1"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["y"]),
    ]
    return make_graph(nodes, weights, opset=opset)


def pictures(rng, count=4, channels=3):
    return [
        {"x": rng.uniform(0, 1, (1, channels, HW, HW)).astype(np.float32)} for _ in range(count)
    ]


def worst_lost(model, quantised, data, arithmetic):
    exact = SATURATES and not arithmetic.reduce_range
    drifts = measure_drift(model, quantised, data, exact=exact)
    return max(drift.worst_lost for drift in drifts.values())


# The CPU


@pytest.mark.parametrize(
    ("weights", "machine", "saturating", "expected"),
    [
        ("auto", "x86_64", True, ("uint8", "int8", True)),
        ("auto", "AMD64", False, ("uint8", "int8", False)),
        ("auto", "aarch64", False, ("int8", "int8", False)),
        ("auto", "arm64", True, ("int8", "int8", True)),
        ("portable", "x86_64", False, ("uint8", "int8", True)),
        ("full", "x86_64", True, ("uint8", "int8", False)),
        ("full", "arm64", False, ("int8", "int8", False)),
    ],
)
def test_types_follow_the_request_and_the_cpu(weights, machine, saturating, expected):
    chosen = choose_arithmetic(weights, machine, saturating)
    assert (chosen.activations, chosen.weights, chosen.reduce_range) == expected
    assert ("7-bit" in str(chosen)) == chosen.reduce_range
    assert chosen.int8_weights == ("portable" if chosen.reduce_range else "full")


def test_flags_are_read_as_linux_writes_them(tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr("facezoo.machine.CPUINFO", file)
    assert cpu_flags() == frozenset()
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\n")
    assert cpu_flags() == {"fpu", "avx2", "avx512_vnni"}
    file.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert cpu_flags() == {"fp", "asimd"}
    file.write_text("nothing of the kind")
    assert cpu_flags() == frozenset()


@pytest.mark.parametrize(
    "line, expected",
    [
        ("flags : fpu avx2 avx512_bf16", True),
        ("flags : amx_bf16", True),
        ("Features : asimd bf16", True),
        ("flags : fpu avx2 avx512_vnni", False),
    ],
)
def test_bf16_is_known_by_its_instructions(tmp_path, monkeypatch, line, expected):
    monkeypatch.setattr("facezoo.machine.CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(line + "\n")
    assert has_bf16() is expected


def test_the_processor_is_named_as_linux_names_it(tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr("facezoo.machine.CPUINFO", file)
    assert describe_machine()["cpu"]
    file.write_text("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t: fpu\nmodel name\t: B\n")
    assert describe_machine()["cpu"] == "A CPU @ 2 GHz"


def test_seven_bits_are_seven_bits(rng):
    calibrated = calibrate(plain_net(rng), Quantize(), pictures(rng))
    for reduce_range, largest in ((True, 64), (False, 127)):
        arithmetic = dataclasses.replace(U8S8, reduce_range=reduce_range)
        graph = insert_qdq(calibrated, [], arithmetic).graph
        weights = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
        kernels = [array for array in weights.values() if array.dtype == np.int8 and array.ndim > 1]
        assert len(kernels) == 3
        assert max(np.abs(kernel.astype(int)).max() for kernel in kernels) == largest


# Layers


def test_layers_are_counted_as_the_yaml_counts_them(rng):
    layers = list_layers(plain_net(rng), pictures(rng, 1)[0])
    shown = [(layer.op_type, layer.key, layer.key_number, layer.macs) for layer in layers]
    assert shown == [
        ("Conv", "skip_conv_layers", 0, 64 * 4 * 27),
        ("Relu", "exclude_layers", 1, 0),
        ("Conv", "skip_conv_layers", 1, 9 * 4 * 9),
        ("GlobalAveragePool", "exclude_layers", 3, 0),
        ("Flatten", "exclude_layers", 4, 0),
        ("Gemm", "skip_matmul_layers", 0, 4 * 5),
    ]


def test_excluded_layers_are_named_and_others_refused(rng):
    layers = list_layers(plain_net(rng), pictures(rng, 1)[0])
    everything = Quantize(skip_conv_layers=(1,), skip_matmul_layers=(0,), exclude_layers=(0, 1))
    assert excluded_layers(layers, everything, "x.yaml") == {"c0", "r0", "c1", "y"}
    with pytest.raises(
        ConfigError, match=r"x.yaml: .*skip_conv_layers has 2, .*there are \[0, 1\]"
    ):
        excluded_layers(layers, Quantize(skip_conv_layers=(2,)), "x.yaml")
    with pytest.raises(ConfigError, match=r"exclude_layers has 99"):
        excluded_layers(layers, Quantize(exclude_layers=(99,)), "x.yaml")


def test_an_excluded_layer_computes_in_float(rng):
    model, data = plain_net(rng), pictures(rng)
    whole = quantize_graph(model, Quantize(), data, arithmetic=U8S8)
    part = quantize_graph(model, Quantize(skip_conv_layers=(0,)), data, arithmetic=U8S8)
    assert (whole.layers, whole.excluded, whole.excluded_macs) == (3, 0, 0)
    assert (part.layers, part.excluded) == (3, 1)
    assert part.excluded_macs == pytest.approx(6912 / (6912 + 324 + 20))
    kernel = dict(float_weights(part.model))["w0"]
    np.testing.assert_array_equal(kernel, dict(float_weights(model))["w0"])
    assert "w0" not in dict(float_weights(whole.model))


@pytest.mark.cpu
@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=str)
def test_the_runtime_does_not_quantise_an_excluded_layer_after_all(rng, arithmetic):
    """One of its channels has large weights that cancel out; one scale would lose the others."""
    kernels = [rng.uniform(0, 1, (4, 3)), rng.uniform(0.1, 0.3, (4, 4)), np.eye(4)]
    kernels[0][1] = kernels[0][0]
    kernels[1][0] = 100, -99, 0, 0
    weights, nodes = {}, []
    for index, (kernel, source) in enumerate(zip(kernels, ("x", "r0", "r1"))):
        weights.update({f"w{index}": kernel[..., None, None], f"b{index}": np.zeros(len(kernel))})
        output = "y" if index == 2 else f"c{index}"
        nodes.append(helper.make_node("Conv", [source, f"w{index}", f"b{index}"], [output]))
        nodes += [helper.make_node("Relu", [output], [f"r{index}"])] * (index < 2)
    model, data = make_graph(nodes, weights), pictures(rng)
    quantised = insert_qdq(calibrate(model, Quantize(), data), ["c1"], arithmetic)
    assert worst_lost(model, quantised, data, arithmetic) < 0.01


def float_weights(model):
    for entry in model.graph.initializer:
        if entry.data_type == TensorProto.FLOAT and len(entry.dims) == 4:
            yield entry.name, numpy_helper.to_array(entry)


def test_everything_excluded_is_the_float_network(rng):
    model, data = plain_net(rng), pictures(rng)
    settings = Quantize(skip_conv_layers=(0, 1), skip_matmul_layers=(0,), exclude_layers=(1, 3, 4))
    quantised = quantize_graph(model, settings, data, arithmetic=U8S8).model
    assert measure_drift(model, quantised, data)["y"].max_error == 0


# Quantising


@pytest.mark.parametrize("mode", [None, "max", "percentile", "mse", "kl_divergence"])
def test_every_mode_keeps_a_harmless_network(rng, mode):
    model, data = plain_net(rng, opset=11), pictures(rng)
    settings = Quantize(calibrate_mode=mode, calibrate_range=0.999)
    quantised = quantize_graph(model, settings, data, arithmetic=U8S8).model
    assert {"QuantizeLinear", "DequantizeLinear"} <= {n.op_type for n in quantised.graph.node}
    assert measure_drift(model, quantised, data)["y"].cosine > 0.98


def test_a_range_changes_the_scales(rng):
    model, data = plain_net(rng), pictures(rng)
    ranges = [
        calibrate(model, Quantize(calibrate_mode="percentile", calibrate_range=share), data)
        for share in (0.9, 1.0)
    ]
    narrow, wide = (calibrated.ranges["c0"] for calibrated in ranges)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    # Pixels are covered from end to end, whatever the mode.
    assert ranges[0].ranges["x"][1] == max(float(feeds["x"].max()) for feeds in data)


def test_channels_have_scales_of_their_own(rng):
    calibrated = calibrate(plain_net(rng), Quantize(), pictures(rng))
    sizes = {}
    for per_channel in (True, False):
        graph = insert_qdq(calibrated, [], U8S8, per_channel).graph
        weights = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
        sizes[per_channel] = weights["w0_scale"].size
    assert sizes == {True: 4, False: 1}


def test_mean_errors_are_cancelled(rng):
    """Weights rounded to a few steps shift the mean of an output; the bias takes it back."""
    weights = {"w": rng.uniform(0, 1, (4, 3, 1, 1)), "b": np.zeros(4)}
    weights["w"][:, 0] = 60.0  # the others keep two of 127 steps
    model = make_graph([helper.make_node("Conv", ["x", "w", "b"], ["y"])], weights)
    data = pictures(rng, 8)
    calibrated = calibrate(model, Quantize(), data)
    plain = insert_qdq(calibrated, [], U8S8)
    mended = insert_qdq(calibrated, [], U8S8, data=data)

    def shift(quantised):
        runs = [open_probe(graph, ["y"]) for graph in (model, quantised)]
        errors = [runs[1](feeds)["y"] - runs[0](feeds)["y"] for feeds in data]
        return np.abs(np.mean(errors, axis=(0, 1, 3, 4))).max()

    assert shift(mended) < 0.35 * shift(plain)


def test_metadata_and_source_are_left_as_they_were(rng):
    model = plain_net(rng, opset=11)
    helper.set_model_props(model, {"facezoo": "contract"})
    before = model.SerializeToString()
    quantised = quantize_graph(model, Quantize(), pictures(rng), arithmetic=U8S8).model
    assert model.SerializeToString() == before
    assert {entry.key: entry.value for entry in quantised.metadata_props} == {"facezoo": "contract"}
    assert next(e.version for e in quantised.opset_import if e.domain == "") >= 13
    onnx.checker.check_model(quantised)


def test_a_graph_that_cannot_be_converted_is_refused(rng):
    node = helper.make_node("Thing", ["x"], ["y"], domain="private")
    model = make_graph([node], {}, opset=11)
    model.opset_import.append(helper.make_opsetid("private", 1))
    with pytest.raises(GraphError):
        quantize_graph(model, Quantize(), pictures(rng))


# Lint and repair: [0, 1] and [0, 640] in one tensor

NAME = st.from_regex(r"[a-z]{1,8}_[0-9]{1,3}", fullmatch=True)


@pytest.mark.cpu
@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=str)
@settings(max_examples=6, deadline=None)
@given(
    names=st.lists(NAME, min_size=3, max_size=3, unique=True),
    high=st.floats(200, 2000),
    seed=st.integers(0, 2**31),
)
def test_heads_of_different_ranges_are_found_lost_and_repaired(arithmetic, names, high, seed):
    rng = np.random.default_rng(seed)
    model, data = joined_heads(rng, high, names), pictures(rng)
    broken = quantize_graph(model, Quantize(), data, arithmetic=arithmetic)
    (finding,) = [f for f in broken.findings if f.startswith("Concat")]
    assert f"'{names[0]}' in [" in finding
    assert "exclude_layers: [4]" in finding
    assert worst_lost(model, broken.model, data, arithmetic) > 0.5
    repaired = quantize_graph(model, Quantize(exclude_layers=(4,)), data, arithmetic=arithmetic)
    assert worst_lost(model, repaired.model, data, arithmetic) < 0.1


@pytest.mark.cpu
@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=str)
@settings(max_examples=4, deadline=None)
@given(high=st.floats(0.5, 8), seed=st.integers(0, 2**31))
def test_heads_of_like_ranges_are_harmless(arithmetic, high, seed):
    rng = np.random.default_rng(seed)
    model, data = joined_heads(rng, high), pictures(rng)
    found = quantize_graph(model, Quantize(), data, arithmetic=arithmetic)
    assert [finding for finding in found.findings if finding.startswith("Concat")] == []
    assert worst_lost(model, found.model, data, arithmetic) < 0.1


def test_sigmoids_inside_are_found_but_not_swish(rng):
    calibrated = calibrate(joined_heads(rng, 1.0), Quantize(), pictures(rng))
    found = lint_graph(calibrated.model, calibrated.stats)
    assert len(found) == 1
    assert found[0].startswith("Sigmoid 1 ('score') is inside the graph")
    swish = make_graph(
        [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])], {}
    )
    calibrated = calibrate(swish, Quantize(), pictures(rng))
    assert lint_graph(calibrated.model, calibrated.stats) == []


def test_dead_channels_are_counted(rng):
    kernel = rng.standard_normal((4, 3, 1, 1))
    kernel[[1, 3]] = 0
    model = make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": kernel})
    calibrated = calibrate(model, Quantize(), pictures(rng))
    (finding,) = lint_graph(calibrated.model, calibrated.stats)
    assert finding.startswith("Conv 0 ('y'): 2 of 4 channels are constant")


# Sensitivity


def test_the_sweep_finds_the_joined_heads(rng):
    model, data = joined_heads(rng, 640.0), pictures(rng)
    calibrated = calibrate(model, Quantize(), data)
    errors = list(measure_layers(calibrated, U8S8, True, data))
    assert [error.layer.op_type for error in errors] == ["Conv", "Sigmoid", "Conv", "Concat"]
    worst = max(errors, key=lambda entry: entry.error)
    assert worst.layer.op_type == "Concat"
    assert worst.worst_output == "joined"

    def lost_without(layers):
        names = [layer.name for layer in layers]
        built = insert_qdq(calibrated, names, U8S8)
        return measure_error(calibrated.model, built, data)["joined"]

    found = search_list(errors, lost_without, longest_list(errors, ()))
    assert format_exclusions(found) == "exclude_layers: [4]"
    without = insert_qdq(calibrated, ["joined"], U8S8)
    lost = measure_error(calibrated.model, without, data)["joined"]
    assert lost < 0.1 * worst.error


def fake_errors(rng, errors):
    layers = list_layers(plain_net(rng), pictures(rng, 1)[0])
    copies = [dataclasses.replace(layers[0], number=i, kind_number=i) for i in range(len(errors))]
    return [LayerError(layer, e, "y", e) for layer, e in zip(copies, errors)]


def costs(saved, together=()):
    """Each layer in float saves a part of 100, and some pairs of them more or less than both."""

    def lost_without(layers):
        chosen = {layer.number for layer in layers}
        extra = sum(more for pair, more in together if set(pair) <= chosen)
        return 100 - sum(saved[number] for number in chosen) - extra

    return lost_without


@pytest.mark.parametrize(
    ("saved", "together", "most", "expected"),
    [
        ([1, 1, 30, 1], (), 1, [2]),
        ([5, 30, 20, 0], (), 2, [1, 2]),
        # The second saves nothing once the first is in float: the third is taken.
        ([30, 25, 10, 0], [((0, 1), -25)], 2, [0, 2]),
        # What does not help, or makes it worse, is not taken.
        ([30, 0.5, -3, 0], (), 4, [0]),
        ([0, 0], (), 2, []),
    ],
)
def test_a_list_is_searched_by_what_it_loses_in_whole(rng, saved, together, most, expected):
    found = search_list(fake_errors(rng, saved), costs(saved, together), most)
    assert [layer.number for layer in found] == expected


def test_a_list_has_one_layer_in_eight_or_as_many_as_the_yaml(rng):
    errors = fake_errors(rng, [1.0] * 17)
    assert longest_list(errors, ()) == 3
    assert longest_list(errors, [entry.layer for entry in errors[:5]]) == 5


def test_the_best_list_loses_least_and_is_not_slower():
    shipped = BuiltList("of the YAML", (), 0.04, 10.0)
    better, slower = BuiltList("found", (), 0.03, 10.4), BuiltList("found", (), 0.01, 12.0)
    assert best_list([shipped, better, slower]) is better
    assert best_list([shipped, slower]) is shipped
    assert best_list([shipped, BuiltList("none", (), 0.04, 8.0)]) is shipped


# Drift


def test_drift_by_hand():
    drift = DriftSum()
    drift.add(
        np.float32(
            [
                [[1, 3]],
            ]
        ),
        np.float32(
            [
                [[1, 4]],
            ]
        ),
    )
    result = drift.result()
    # One channel (1, 3): variance 1 a value; the difference (0, 1) takes 1 of 2.
    assert result.cosine == pytest.approx(13 / np.sqrt(10 * 17))
    assert result.snr_db == pytest.approx(10.0)
    assert result.max_error == 1
    assert result.lost == result.worst_lost == pytest.approx(0.5)


def test_a_small_channel_is_seen_beside_a_large_one():
    reference = np.float32([[[0, 1, 0, 1], [0, 640, 640, 0]]])
    other = np.float32([[[0, 0, 0, 0], [0, 640, 640, 0]]])
    drift = DriftSum()
    drift.add(reference, other)
    result = drift.result()
    assert result.cosine > 0.999998
    assert (result.lost, result.worst_lost) == (0.5, 1.0)


def test_drift_of_parts_is_drift_of_the_whole(rng):
    a = rng.standard_normal((6, 3, 4)).astype(np.float32)
    b = a + 0.1 * rng.standard_normal(a.shape).astype(np.float32)
    whole, parts = DriftSum(), DriftSum()
    whole.add(a, b)
    for row in range(6):
        parts.add(a[row : row + 1], b[row : row + 1])
    assert dataclasses.astuple(parts.result()) == pytest.approx(dataclasses.astuple(whole.result()))


def test_equal_constant_and_broken_outputs():
    ones, zeros = np.ones((1, 2, 3)), np.zeros((1, 2, 3))
    for a, b, cosine, lost in ((ones, ones, 1, 0), (zeros, zeros, 1, 0), (zeros, ones, 0, 0)):
        drift = DriftSum()
        drift.add(a, b)
        assert (drift.result().cosine, drift.result().lost) == (cosine, lost)
    broken = DriftSum()
    broken.add(np.array([[1.0, 2.0], [2.0, 1.0]]), np.full((2, 2), np.nan))
    assert broken.result().worst_lost == 1.0
