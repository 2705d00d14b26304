"""The compiler: same outputs, every rewrite exact, nothing written unless it is right."""

import copy
import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from facezoo.artifact import read_artifact
from facezoo.backends.ort import prelu_in_blocks, run_graph
from facezoo.card import Preprocess
from facezoo.cli.main import main
from facezoo.compiler import build as compiler
from facezoo.compiler.build import compile_model
from facezoo.compiler.rewrite import rewrite_prelu
from facezoo.contract import Contract
from facezoo.errors import ConfigError, GateError, GraphError
from facezoo.vacc.build_config import BuildConfig, BuildTarget, ExtraOps, Frontend, Workspace
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

CONTRACT = Contract(
    card_id="toy",
    model="scrfd",
    input_name="input.1",
    preprocess=Preprocess(input_hw=(64, 64), norm="DIV255"),
    output_names=("map",),
    decode={"strides": [8], "anchors_per_cell": 2},
)


def make_model(nodes, outputs, weights, *, axes=("b", 3, "h", "w"), opset=11):
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7, producer_name="toy"
    )


def make_prelu_net(rng, channels, slopes, *, shape=None):
    """Conv, PRelu, depthwise Conv, PRelu, added: what a MobileFaceNet is made of."""
    weights = {
        "w0": rng.standard_normal((channels, 3, 3, 3), np.float32),
        "w1": rng.standard_normal((channels, 1, 3, 3), np.float32),
        "s": np.asarray(slopes, np.float32).reshape(shape or (channels, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["input.1", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["c0", "s"], ["p0"]),
        helper.make_node("Conv", ["p0", "w1"], ["c1"], pads=[1, 1, 1, 1], group=channels),
        helper.make_node("PRelu", ["c1", "s"], ["p1"]),
        helper.make_node("Add", ["p0", "p1"], ["map"]),
    ]
    return make_model(nodes, ["map"], weights)


def make_toy(rng, **options):
    """Conv, BatchNormalization, Identity, PRelu: raw-head map of 8 channels."""
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3), np.float32),
        "scale": rng.uniform(0.5, 2, 8).astype(np.float32),
        "shift": rng.standard_normal(8, np.float32),
        "mean": rng.standard_normal(8, np.float32),
        "var": rng.uniform(0.5, 2, 8).astype(np.float32),
        "slope": rng.uniform(-0.5, 0.9, (8, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input.1", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Identity", ["n"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("PRelu", ["f", "slope"], ["map"]),
    ]
    return make_model(nodes, ["map"], weights, **options)


def with_contract(model, contract=CONTRACT):
    helper.set_model_props(model, {"author": "someone", **contract.to_metadata()})
    return model


@pytest.fixture
def build(tmp_path):
    """Write a model and compile it; returns the artifact."""

    def build(model, *, dtype="fp32", shape=((1, 3, 16, 24),), gate=None, **changes):
        path = tmp_path / "toy.onnx"
        onnx.save(model, str(path))
        config = BuildConfig(
            file=Path("toy.yaml"),
            name=f"toy_{dtype}",
            frontend=Frontend(path, {"input.1": shape}),
            backend=BuildTarget(dtype),
            workspace=Workspace(tmp_path / "out"),
        )
        return compile_model(dataclasses.replace(config, **changes), gate=gate)

    return build


def images(rng, *shape):
    return rng.standard_normal(shape, np.float32)


# PRelu as convolutions


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(2, 24),
    largest=st.sampled_from([0.9, 1.0, 3.0]),
    leading=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_rewritten_prelu_gives_the_same_numbers(channels, largest, leading, seed):
    rng = np.random.default_rng(seed)
    slopes = rng.uniform(-2, largest, channels)
    shape = (1, channels, 1, 1) if leading else (channels, 1, 1)
    model = make_prelu_net(rng, channels, slopes, shape=shape)
    rewritten = copy.deepcopy(model)
    assert rewrite_prelu(rewritten) == 2
    feeds = {"input.1": images(rng, 2, 3, 9, 11)}
    expected = run_graph(model, feeds)["map"]
    found = run_graph(rewritten, feeds)["map"]
    assert np.abs(found - expected).max() <= 1e-5 * expected.std()


def test_slopes_up_to_one_take_one_pass_less(rng):
    one = make_prelu_net(rng, 4, [-0.5, 0, 0.5, 1])
    more = make_prelu_net(rng, 4, [-0.5, 0, 0.5, 1.5])
    rewrite_prelu(one)
    rewrite_prelu(more)
    # Conv then ReLU, which ONNX Runtime fuses, against ReLU then Conv, which it cannot.
    after_first = [node.op_type for node in one.graph.node][1:5]
    assert after_first == ["Conv", "Relu", "Conv", "Add"]
    assert [node.op_type for node in more.graph.node][1:5] == ["Relu", "Conv", "Conv", "Add"]


def test_rewriting_leaves_no_prelu_and_no_slopes_behind(rng):
    model = make_prelu_net(rng, 4, [0.1, 0.2, 0.3, 0.4])
    rewrite_prelu(model)
    assert "PRelu" not in {node.op_type for node in model.graph.node}
    used = {name for node in model.graph.node for name in node.input}
    assert {entry.name for entry in model.graph.initializer} <= used


def prelu_only(slopes, axes):
    node = helper.make_node("PRelu", ["input.1", "s"], ["map"])
    return make_model([node], ["map"], {"s": slopes}, axes=axes)


@pytest.mark.parametrize(
    "model",
    [
        prelu_only(np.full((1, 1, 1), 0.1, np.float32), ("b", 3, 8, 8)),  # one slope for all
        prelu_only(np.full((3, 1), 0.1, np.float32), ("b", 3, 8)),  # three axes
        prelu_only(np.full((3, 1, 1), 0.1, np.float32), ("b", 2, 3, 8, 8)),  # five axes
        prelu_only(np.full((8,), 0.1, np.float32), ("b", 3, 8, 8)),  # a slope a column
        prelu_only(np.full((3, 8, 8), 0.1, np.float32), ("b", 3, 8, 8)),  # a slope a pixel
    ],
)
def test_prelu_of_other_kinds_stays(model):
    before = model.SerializeToString()
    assert rewrite_prelu(model) == 0
    assert model.SerializeToString() == before


def test_slopes_that_are_computed_stay(rng):
    nodes = [
        helper.make_node("Neg", ["s"], ["n"]),
        helper.make_node("PRelu", ["input.1", "n"], ["map"]),
    ]
    model = make_model(nodes, ["map"], {"s": np.full((3, 1, 1), 0.1, np.float32)})
    assert rewrite_prelu(model) == 0


def convolutions_with_prelu(rng, between=()):
    """Three convolutions with PRelu after each: of 16, 32 and 4 channels."""
    weights = {"s0": rng.uniform(-1, 2, (16, 1, 1)), "s1": rng.uniform(-1, 2, (1, 32, 1, 1))}
    weights["s0"][:2] = [[[0.0]], [[1.0]]]
    weights["s2"] = rng.uniform(-1, 2, (4, 1, 1))
    nodes, source = [], "input.1"
    for index, (before, after) in enumerate([(3, 16), (16, 32), (32, 4)]):
        weights[f"w{index}"] = rng.standard_normal((after, before, 3, 3))
        last = "map" if index == 2 else f"p{index}"
        nodes.append(
            helper.make_node("Conv", [source, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("PRelu", [f"c{index}", f"s{index}"], [last]))
        source = last
    weights = {name: np.asarray(array, np.float32) for name, array in weights.items()}
    return make_model([*nodes, *between], ["map"], weights)


@pytest.mark.parametrize("seed", range(5))
def test_prelu_in_blocks_changes_no_bit(seed):
    rng = np.random.default_rng(seed)
    model = convolutions_with_prelu(rng)
    rewritten = copy.deepcopy(model)
    assert prelu_in_blocks(rewritten) == 2
    # The last gives an output and has no whole block of channels.
    assert [node.op_type for node in rewritten.graph.node].count("PRelu") == 1
    tensor = images(rng, 3, 3, 17, 23)
    tensor[0, :, :4] = 0
    tensor[1, 1, 8, 8] = np.nan
    tensor[2, 0, 5, 5] = 3e38
    expected = run_graph(model, {"input.1": tensor})["map"]
    found = run_graph(rewritten, {"input.1": tensor})["map"]
    np.testing.assert_array_equal(found[:2], expected[:2])
    assert np.isnan(found[1]).any()
    # What overflows stays not finite, so that a decoder refuses it.
    np.testing.assert_array_equal(np.isfinite(found[2]), np.isfinite(expected[2]))


def test_prelu_before_another_operator_stays(rng):
    """A normalisation would be computed in the blocked layout too, and round otherwise."""
    model = convolutions_with_prelu(rng, [helper.make_node("Neg", ["p0"], ["n0"])])
    assert prelu_in_blocks(model) == 1


# Compiling


def test_fp32_is_folded_and_gives_the_sources_outputs(build, rng):
    model = make_toy(rng)
    artifact = build(model)
    built = onnx.load(str(artifact.model))
    assert {node.op_type for node in built.graph.node} == {"Conv", "Relu", "Add"}
    assert artifact.build.graph["folded"] == {"BatchNormalization": 1, "Cast": 1, "Identity": 1}
    assert artifact.build.graph["prelu_rewritten"] == 1
    assert artifact.build.deviation["map"] <= 1e-5
    assert artifact == read_artifact(artifact.prefix)
    feeds = {"input.1": images(rng, 22, 3, 16, 24)}
    expected, found = run_graph(model, feeds)["map"], run_graph(artifact.model, feeds)["map"]
    assert np.abs(found - expected).max() <= 1e-5 * expected.std()


def test_only_the_batch_stays_free_and_the_file_is_portable(build, rng):
    built = onnx.load(str(build(make_toy(rng)).model))

    def axes(entry):
        return [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]

    assert axes(built.graph.input[0]) == ["batch", 3, 16, 24]
    assert axes(built.graph.output[0]) == ["batch", 8, 8, 12]
    assert built.ir_version == 8
    assert [(entry.domain, entry.version) for entry in built.opset_import] == [("", 11)]


def test_the_contract_survives_with_the_size_that_was_compiled(build, rng):
    artifact = build(with_contract(make_toy(rng)), dtype="fp16")
    built = onnx.load(str(artifact.model))
    metadata = {entry.key: entry.value for entry in built.metadata_props}
    found = Contract.from_metadata(metadata)
    preprocess = dataclasses.replace(CONTRACT.preprocess, input_hw=(16, 24))
    assert found == dataclasses.replace(CONTRACT, preprocess=preprocess)
    assert (metadata["author"], metadata["dtype"]) == ("someone", "fp16")
    assert artifact.build.card == "toy"


def test_a_graph_without_a_contract_is_compiled_and_told_so(build, rng, caplog):
    assert build(make_toy(rng)).build.card is None
    assert "has no contract" in caplog.text


def test_a_contract_that_does_not_fit_the_graph_is_refused(build, rng):
    contract = dataclasses.replace(CONTRACT, output_names=("score_8",))
    with pytest.raises(GraphError, match="score_8"):
        build(with_contract(make_toy(rng), contract))


def test_fp16_rounds_weights_and_outputs_and_says_so(build, rng):
    model = make_toy(rng)
    artifact = build(model, dtype="fp16")
    built = onnx.load(str(artifact.model))
    kinds = {tuple(entry.dims): entry.data_type for entry in built.graph.initializer}
    assert kinds[8, 3, 3, 3] == TensorProto.FLOAT16
    assert artifact.build.graph["weights_stored_as_half"] >= 3
    assert "float16" in artifact.build.arithmetic
    feeds = {"input.1": images(rng, 3, 3, 16, 24)}
    found, expected = run_graph(artifact.model, feeds)["map"], run_graph(model, feeds)["map"]
    assert found.dtype == np.float16
    assert 0 < np.abs(found - expected).max() <= 0.01 * expected.std()


def test_fp16_is_the_arithmetic_of_rounded_weights(build, rng):
    """By hand: one 1x1 convolution whose weights float16 cannot hold."""
    weights = np.array([1 / 3, 1 / 7, 1 / 11], np.float32).reshape(1, 3, 1, 1)
    node = helper.make_node("Conv", ["input.1", "w"], ["map"])
    artifact = build(make_model([node], ["map"], {"w": weights}), dtype="fp16")
    tensor = images(rng, 1, 3, 16, 24)
    half = weights.astype(np.float16).astype(np.float64)
    expected = (tensor * half).sum(axis=1, keepdims=True).astype(np.float16)
    found = run_graph(artifact.model, {"input.1": tensor})["map"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_fp16_lets_what_prelu_leaves_alone_pass_unchanged(build, rng):
    """Rounding s and 1 - s apart would scale positive values by the error of their sum."""
    slopes = (rng.uniform(0, 1, (3, 1, 1)) ** 4).astype(np.float32)
    node = helper.make_node("PRelu", ["input.1", "s"], ["map"])
    artifact = build(make_model([node], ["map"], {"s": slopes}), dtype="fp16")
    factors = [numpy_helper.to_array(e) for e in onnx.load(str(artifact.model)).graph.initializer]
    assert len(factors) == 2
    np.testing.assert_allclose(factors[0].astype(float) + factors[1], 1, rtol=0, atol=1e-7)
    positive = np.abs(images(rng, 2, 3, 16, 24)).astype(np.float16)
    found = run_graph(artifact.model, {"input.1": positive.astype(np.float32)})["map"]
    assert np.array_equal(found, positive)


def test_fp16_keeps_the_sizes_of_a_resize(build, rng):
    weights = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 1.3, 1.7], np.float32)}
    node = helper.make_node("Resize", ["input.1", "roi", "scales"], ["map"], mode="nearest")
    artifact = build(make_model([node], ["map"], weights), dtype="fp16", shape=((1, 3, 30, 30),))
    tensor = images(rng, 1, 3, 30, 30)
    assert run_graph(artifact.model, {"input.1": tensor})["map"].shape == (1, 3, 39, 51)


def test_a_weight_beyond_float16_is_named(build, rng):
    # Not all alike: ONNX Runtime 1.16 gives such a weight another name.
    weights = {"w": np.array([1e5, 1, -1], np.float32).reshape(1, 3, 1, 1)}
    node = helper.make_node("Conv", ["input.1", "w"], ["map"])
    with pytest.raises(GraphError, match="'w' reaches 1e"):
        build(make_model([node], ["map"], weights), dtype="fp16")


def test_weights_that_are_also_inputs_are_folded(build, rng):
    model = make_toy(rng)
    model.ir_version = 3
    for entry in model.graph.initializer:
        value = helper.make_tensor_value_info(entry.name, TensorProto.FLOAT, list(entry.dims))
        model.graph.input.append(value)
    built = onnx.load(str(build(model).model))
    assert [entry.name for entry in built.graph.input] == ["input.1"]
    assert "BatchNormalization" not in {node.op_type for node in built.graph.node}


def test_axes_that_a_range_of_shapes_leaves_open_stay_free(build, rng):
    model = make_toy(rng)
    artifact = build(model, shape=((1, 3, 16, 24), (1, 3, 32, 24)))
    assert artifact.build.inputs["input.1"] == ("batch", 3, "input.1_axis_2", 24)
    feeds = {"input.1": images(rng, 2, 3, 24, 24)}
    np.testing.assert_allclose(
        run_graph(artifact.model, feeds)["map"],
        run_graph(model, feeds)["map"],
        rtol=1e-4,
        atol=1e-4,
    )


def test_what_is_recorded_names_the_source_and_the_tools(build, rng):
    record = json.loads(build(make_toy(rng)).prefix.with_name("mod.build.json").read_text())
    assert record["source"] == "toy.onnx"
    assert len(record["source_sha256"]) == 64
    assert set(record["tools"]) == {"facezoo", "numpy", "onnx", "onnxruntime"}
    assert record["inputs"] == {"input.1": ["batch", 3, 16, 24]}


def test_compiling_twice_gives_the_same_bytes(build, rng):
    model = make_toy(rng)
    first = build(model)
    files = [first.model, first.prefix.with_name("mod.build.json")]
    before = [file.read_bytes() for file in files]
    build(model)
    assert [file.read_bytes() for file in files] == before


# Gates


def test_a_gate_sees_both_graphs_and_is_recorded(build, rng):
    seen = []

    def gate(reference, built):
        feeds = {"input.1": images(rng, 4, 3, 16, 24)}
        seen.append([run_graph(graph, feeds)["map"].dtype for graph in (reference, built)])
        return {"missed": 0}

    artifact = build(make_toy(rng), dtype="fp16", gate=gate)
    assert seen == [[np.float32, np.float16]]
    assert read_artifact(artifact.prefix).build.gate == {"missed": 0}


def test_a_gate_that_says_no_leaves_nothing_behind(build, rng, tmp_path):
    def gate(reference, built):
        raise GateError("3 faces missed, allowed are 2")

    with pytest.raises(GateError):
        build(make_toy(rng), gate=gate)
    assert not (tmp_path / "out").exists()


# Refusals


def test_a_graph_that_mixes_images_of_a_batch_is_refused(build, rng, tmp_path):
    """Its batch is written into a Reshape: three images run and give the wrong shape."""
    nodes = [helper.make_node("Reshape", ["input.1", "shape"], ["map"])]
    model = make_model(nodes, ["map"], {"shape": np.array([1, -1], np.int64)})
    with pytest.raises(GraphError, match=r"at batch 3 has the shape \[1, 3456\]"):
        build(model)
    assert not (tmp_path / "out").exists()


def test_a_graph_whose_images_influence_each_other_is_refused(build, rng):
    nodes = [
        helper.make_node("ReduceMean", ["input.1"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["input.1", "m"], ["map"]),
    ]
    with pytest.raises(GraphError, match="batch 3 differs"):
        build(make_model(nodes, ["map"], {}))


def test_a_graph_that_cannot_take_a_batch_is_refused(build, rng):
    nodes = [helper.make_node("Reshape", ["input.1", "shape"], ["map"])]
    model = make_model(nodes, ["map"], {"shape": np.array([1, 3, 16, 24], np.int64)})
    with pytest.raises(GraphError, match=r"does not run on input\.1"):
        build(model)


def test_an_output_without_a_batch_axis_is_refused(build, rng):
    nodes = [helper.make_node("Reshape", ["input.1", "shape"], ["map"])]
    model = make_model(nodes, ["map"], {"shape": np.array([-1, 3], np.int64)})
    with pytest.raises(GraphError, match=r"\[384, 3\] for one image"):
        build(model)


def test_a_broken_rewrite_is_never_written(build, rng, tmp_path, monkeypatch):
    def halve(model):
        weight = next(entry for entry in model.graph.initializer if len(entry.dims) == 4)
        array = numpy_helper.to_array(weight) * np.float32(0.999)
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        return compiler.Built(model, "float32", 1e-4, {})

    monkeypatch.setitem(compiler._BUILDERS, "fp32", halve)
    with pytest.raises(GraphError, match="at batch 1 differs"):
        build(make_toy(rng))
    assert not (tmp_path / "out").exists()


def test_private_operators_after_folding_are_not_taken(build, rng, monkeypatch, caplog):
    load = onnx.load

    def load_with_private_operator(path, *args, **options):
        model = load(path, *args, **options)
        if Path(path).name == "folded.onnx":
            model.graph.node[0].domain = "com.example.private"
        return model

    monkeypatch.setattr(compiler.onnx, "load", load_with_private_operator)
    artifact = build(make_toy(rng))
    assert artifact.build.graph["folded"] == {}
    assert "private operators" in caplog.text


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (((1, 3, 16),), r"the graph's inputs are 'input.1' \?x3x\?x\?"),
        (((1, 1, 16, 24),), r"frontend.shape.input.1 is \[1, 1, 16, 24\]"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(build, rng, shape, says):
    with pytest.raises(ConfigError, match=says):
        build(make_toy(rng), shape=shape)


def test_an_input_of_another_name_is_refused_with_the_graphs(build, rng, tmp_path):
    frontend = Frontend(tmp_path / "toy.onnx", {"images": ((1, 3, 16, 24),)})
    with pytest.raises(
        ConfigError, match=r"has the inputs 'images'; those of the graph are 'input.1'"
    ):
        build(make_toy(rng), frontend=frontend)


def test_a_fixed_batch_is_refused(build, rng):
    with pytest.raises(GraphError, match="4x3x16x24 has a fixed batch"):
        build(make_toy(rng, axes=(4, 3, 16, 24)))


def test_a_batch_of_one_is_made_free(build, rng):
    model = make_toy(rng, axes=(1, 3, 16, 24))
    artifact = build(model)
    found = run_graph(artifact.model, {"input.1": images(rng, 5, 3, 16, 24)})["map"]
    assert found.shape == (5, 8, 8, 12)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backend": BuildTarget("int8")}, "int8 needs calibration data"),
        ({"extra_ops": ExtraOps("yolov8_nms")}, "'yolov8_nms'"),
        ({"frontend": Frontend(Path("x.pt"), {"x": ((1,),)}, type="pytorch")}, "'pytorch'"),
        ({"frontend": Frontend(Path("x"), {"x": ((1,),)}, dtype="int64")}, "'int64'"),
        ({"frontend": Frontend(Path("none.onnx"), {"x": ((1,),)})}, "'none.onnx' cannot be read"),
    ],
)
def test_what_this_compiler_does_not_have_is_refused_by_name(build, rng, changes, says):
    with pytest.raises(ConfigError, match=says) as caught:
        build(make_toy(rng), **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"\x08\x07" * 50])
def test_a_file_that_is_no_graph_is_refused(build, rng, tmp_path, data):
    path = tmp_path / "page.onnx"
    path.write_bytes(data)
    with pytest.raises(GraphError, match=r"is not an? (valid )?ONNX graph"):
        build(make_toy(rng), frontend=Frontend(path, {"input.1": ((1, 3, 16, 24),)}))


def test_a_name_that_lies_about_the_dtype_is_warned_of(build, rng, caplog):
    with caplog.at_level(logging.WARNING):
        build(make_toy(rng), name="toy_int8")
        assert "'toy_int8' ends in int8, but backend.dtype is fp32" in caplog.text
        caplog.clear()
        build(make_toy(rng), name="toy_fp32")
        build(make_toy(rng), name="toy")
        assert "ends in" not in caplog.text


# The command line

YAML = """
name: toy_fp16
frontend: {type: onnx, checkpoint: toy.onnx, shape: {input.1: [1, 3, 16, 24]}}
backend: {type: tvm_vacc, dtype: fp16}
workspace: {path: deploy_weights}
"""


@pytest.fixture
def workspace(tmp_path, rng, monkeypatch):
    onnx.save(with_contract(make_toy(rng)), str(tmp_path / "toy.onnx"))
    (tmp_path / "toy.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("verb", ["compile", "build"])
def test_vamc_writes_where_the_yaml_says(workspace, capsys, verb):
    assert main(["vamc", verb, "toy.yaml"]) == 0
    printed = capsys.readouterr().out
    assert read_artifact(Path("deploy_weights/toy_fp16/mod")).dtype == "fp16"
    assert printed.splitlines()[0] == "artifact  deploy_weights/toy_fp16/mod"
    assert "1 PRelu rewritten" in printed


def test_a_dtype_given_by_hand_renames_the_artifact(workspace, capsys):
    assert main(["compile", "toy.yaml", "--dtype", "fp32"]) == 0
    assert read_artifact(Path("deploy_weights/toy_fp32/mod")).dtype == "fp32"
    assert main(["compile", "toy.yaml", "--name", "mine", "--model", "toy.onnx"]) == 0
    assert read_artifact(Path("deploy_weights/mine/mod")).dtype == "fp16"


def test_refusals_are_one_line_and_exit_code_2(workspace, capsys):
    assert main(["compile", "toy.yaml", "--dtype", "int8"]) == 2
    assert main(["compile", "toy.yaml", "--name", "../out"]) == 2
    assert main(["vamc", "compile", "nowhere.yaml"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


# The real network


def shared_config(tmp_path, checkpoint, shape):
    return BuildConfig(
        file=Path("x.yaml"),
        name="real_fp32",
        frontend=Frontend(checkpoint, {"input.1": (shape,)}),
        backend=BuildTarget("fp32"),
        workspace=Workspace(tmp_path),
    )


@pytest.mark.shared
def test_w600k_mbf_gives_the_same_embeddings(shared, tmp_path, rng):
    checkpoint = shared / "assets" / "recognition" / "w600k_mbf.onnx"
    artifact = compile_model(shared_config(tmp_path, checkpoint, (1, 3, 112, 112)))
    assert artifact.build.graph["prelu_rewritten"] == 34
    feeds = {"input.1": images(rng, 2, 3, 112, 112)}
    expected, found = run_graph(checkpoint, feeds)["516"], run_graph(artifact.model, feeds)["516"]
    assert np.abs(found - expected).max() <= 1e-5 * expected.std()


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("scrfd_500m_bnkps_static640.onnx", "at batch 3"),
        ("scrfd_500m.onnx", r"\[12800, 1\] for one image"),
    ],
)
def test_released_scrfd_files_that_cannot_take_a_batch_are_refused(shared, tmp_path, file, says):
    checkpoint = shared / "assets" / "scrfd" / file
    with pytest.raises(GraphError, match=says):
        compile_model(shared_config(tmp_path, checkpoint, (1, 3, 640, 640)))
