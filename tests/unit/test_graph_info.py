"""Parameters, MACs and shapes of graphs small enough to count by hand, and the verb for them."""

import sys

import numpy as np
import onnx
import pytest
from facezoo.card import Preprocess
from facezoo.cli.main import main
from facezoo.contract import Contract, load_graph
from facezoo.errors import GraphError, InputError
from facezoo.graphs.info import describe_graph, shapes_at
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

FREE = ["batch", 3, "height", "width"]
DOUBLE = {"roi": np.empty(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}


def make_graph(nodes, weights, shape=FREE, contract=None):
    """Build a model from nodes and named weights; the last node's outputs are the graph's."""
    initializers = [
        numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in nodes[-1].output
    ]
    graph = helper.make_graph(nodes, "test", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    if contract is not None:
        helper.set_model_props(model, contract.to_metadata())
    return model


def ones(*shape):
    return np.ones(shape, np.float32)


def conv(source, target, *weights, **attributes):
    return helper.make_node("Conv", [source, *weights], [target], **attributes)


def test_a_convolution_by_hand():
    node = conv("image", "map", "w", "b", strides=[2, 2], pads=[1, 1, 1, 1])
    info = describe_graph(make_graph([node], {"w": ones(8, 3, 3, 3), "b": ones(8)}), (64, 48))
    assert info.parameters == 8 * 27 + 8
    assert info.outputs == (("map", (1, 8, 32, 24)),)
    assert info.inputs == (("image", (1, 3, 64, 48)),)
    assert info.macs == 8 * 32 * 24 * 27
    assert (info.opset, info.ir_version, info.contract) == (11, 8, None)


def test_a_graph_without_weights():
    info = describe_graph(make_graph([helper.make_node("Relu", ["image"], ["out"])], {}), (4, 4))
    assert (info.parameters, info.macs) == (0, 0)


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
)
def test_grouped_convolutions(groups, inputs, outputs, kernel, height, width):
    weights = {"first": ones(groups * inputs, 3, 1, 1)}
    weights["second"] = ones(groups * outputs, inputs, kernel, kernel)
    nodes = [conv("image", "x", "first"), conv("x", "map", "second", group=groups)]
    info = describe_graph(make_graph(nodes, weights), (height, width))
    places = (height - kernel + 1) * (width - kernel + 1)
    second = groups * outputs * inputs * kernel * kernel
    assert info.parameters == groups * inputs * 3 + second
    assert info.macs == height * width * groups * inputs * 3 + places * second


def test_a_transposed_convolution_counts_its_inputs():
    node = helper.make_node("ConvTranspose", ["image", "w"], ["map"], strides=[2, 2])
    info = describe_graph(make_graph([node], {"w": ones(3, 5, 2, 2)}), (4, 6))
    assert info.outputs == (("map", (1, 5, 8, 12)),)
    assert info.macs == 3 * 4 * 6 * 5 * 2 * 2


def test_linear_layers_and_matrix_products():
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1),
        helper.make_node("Gemm", ["y", "v"], ["z"], transA=1),
        helper.make_node("MatMul", ["z", "u"], ["out"]),
    ]
    # (1, 12) x (12, 5) -> (1, 5); its transpose (5, 1) x (1, 7) -> (5, 7); x (7, 2) -> (5, 2).
    weights = {"w": ones(5, 12), "b": ones(5), "v": ones(1, 7), "u": ones(7, 2)}
    info = describe_graph(make_graph(nodes, weights), (2, 2))
    assert info.parameters == 60 + 5 + 7 + 14
    assert info.macs == 5 * 12 + 35 * 1 + 10 * 7


def test_what_is_learnt_and_what_is_not():
    nodes = [
        conv("image", "a", "w"),
        helper.make_node("BatchNormalization", ["a", "g", "b", "mean", "var"], ["c"]),
        helper.make_node("PRelu", ["c", "slope"], ["d"]),
        conv("d", "e", "w2", "shared"),
        conv("e", "f", "w2", "shared"),
        helper.make_node("Resize", ["f", "roi", "scales"], ["out"]),
    ]
    weights = {
        "w": ones(4, 3, 1, 1),
        **{name: ones(4) for name in ("g", "b", "mean", "var", "shared")},
        "slope": ones(4, 1, 1),
        "w2": ones(4, 4, 1, 1),
        **DOUBLE,
    }
    info = describe_graph(make_graph(nodes, weights), (3, 3))
    # Running statistics and scales of a resize are no parameters; shared weights count once.
    assert info.parameters == 12 + 4 + 4 + 4 + 16 + 4
    assert info.macs == 9 * (12 + 16 + 16)


def test_quantised_weights_are_counted_behind_their_scales():
    nodes = [
        helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["w"]),
        conv("image", "map", "w"),
    ]
    weights = {
        "wq": np.ones((8, 3, 1, 1), np.int8),
        "scale": np.float32(0.1),
        "zero": np.int8(0),
    }
    info = describe_graph(make_graph(nodes, weights), (4, 4))
    assert (info.parameters, info.macs) == (24, 24 * 16)


def test_shapes_that_the_graph_computes_itself():
    nodes = [
        helper.make_node("Shape", ["image"], ["sizes"]),
        conv("image", "map", "w"),
        helper.make_node("Reshape", ["map", "sizes"], ["again"]),
        conv("again", "out", "w"),
    ]
    info = describe_graph(make_graph(nodes, {"w": ones(3, 3, 1, 1)}), (5, 7))
    assert info.macs == 2 * 9 * 35


def test_the_size_comes_from_the_file_where_it_says_one():
    nodes, weights = [conv("image", "map", "w")], {"w": ones(2, 3, 1, 1)}
    contract = Contract("tiny", "magface", "image", Preprocess((6, 10)), ("map",))
    described = describe_graph(make_graph(nodes, weights, contract=contract))
    assert described.contract == contract
    assert described.macs == 60 * 6
    assert describe_graph(make_graph(nodes, weights, contract=contract), (4, 4)).macs == 16 * 6
    assert describe_graph(make_graph(nodes, weights, shape=[1, 3, 8, 8])).macs == 64 * 6
    with pytest.raises(InputError, match="axis 2 of input 'image' is free"):
        describe_graph(make_graph(nodes, weights))
    with pytest.raises(InputError, match="fixed to 8x8, so it cannot be counted at 4x4"):
        describe_graph(make_graph(nodes, weights, shape=[1, 3, 8, 8]), (4, 4))


def test_a_fixed_batch_is_counted_for_one_picture():
    model = make_graph([conv("image", "map", "w")], {"w": ones(2, 3, 1, 1)}, [4, 3, 8, 8])
    info = describe_graph(model)
    assert info.outputs == (("map", (4, 2, 8, 8)),)
    assert info.macs == 64 * 6


def test_a_graph_that_does_not_run_at_a_size_is_named():
    nodes = [
        helper.make_node("MaxPool", ["image"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["half", "roi", "scales"], ["back"], mode="nearest"),
        helper.make_node("Add", ["image", "back"], ["out"]),
    ]
    model = make_graph(nodes, DOUBLE)
    assert describe_graph(model, (4, 4)).outputs == (("out", (1, 3, 4, 4)),)
    with pytest.raises(GraphError, match="does not run on these inputs"):
        describe_graph(model, (5, 5))


def test_shapes_of_inner_tensors():
    model = make_graph(
        [conv("image", "x", "w"), helper.make_node("Relu", ["x"], ["out"])],
        {"w": ones(2, 3, 1, 1)},
    )
    shapes = shapes_at(model, {"image": ones(2, 3, 4, 5)}, ["x", "w"])
    assert shapes == {"x": (2, 2, 4, 5), "w": (2, 3, 1, 1)}
    assert [output.name for output in model.graph.output] == ["out"]


def test_files_that_are_no_graphs(tmp_path):
    with pytest.raises(GraphError, match="cannot be read: No such file"):
        load_graph(tmp_path / "gone.onnx", check=True)
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(GraphError, match="not a valid ONNX graph"):
        load_graph(tmp_path / "text.onnx", check=True)


@pytest.fixture
def written(tmp_path):
    model = make_graph([conv("image", "map", "w")], {"w": ones(2, 3, 1, 1)})
    shape = ["batch", 2, "height", "width"]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("map", TensorProto.FLOAT, shape))
    onnx.save(model, tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


def test_the_verb_prints_a_file(written, capsys):
    assert main(["info", str(written), "--size", "1000", "2000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "graph",
        "parameters",
        "MACs",
        "input",
        "output",
        "opset",
        "contract",
    ]
    assert lines[1].split()[1] == "6"
    assert lines[2].split()[1:3] == ["0.0120", "G"]
    assert lines[4].split()[1:] == ["map", "1x2x1000x2000"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["scrfd_9g"], "no card"),
        (["missing.onnx"], "facezoo: 'missing.onnx' cannot be read"),
    ],
)
def test_the_verb_says_in_one_line_what_is_wrong(capsys, arguments, message):
    assert main(["info", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_size_out_of_range_is_refused_by_its_flag(capsys):
    with pytest.raises(SystemExit):
        main(["info", "scrfd_1g", "--size", "0", "640"])
    assert "--size 0x640 must be a side such as 640" in capsys.readouterr().err


def test_the_verb_says_what_a_card_without_a_file_needs(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "facezoo.graphs.export", None)
    assert main(["info", "scrfd_500m_bnkps"]) == 2
    assert "no PyTorch to build the network" in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.parametrize(
    "card, parameters, macs",
    [("scrfd_2.5g", "671,761", "2.4985"), ("scrfd_500m_bnkps", "631,410", "0.5502")],
)
def test_the_verb_counts_a_card_without_a_file(
    capsys, monkeypatch, tmp_path, card, parameters, macs
):
    pytest.importorskip("torch")
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path))
    assert main(["info", card, "--size", "480", "640"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[1] == parameters
    assert lines[2].split()[1] == macs


@pytest.mark.shared
@pytest.mark.parametrize(
    "file, macs",
    [
        ("scrfd_500m.onnx", 733545600),
        ("scrfd_500m_bnkps.onnx", 733545600),
        ("scrfd_500m_bnkps_static640.onnx", 733545600),
        ("scrfd_2.5g.onnx", 3428121600),
    ],
)
def test_released_graphs_cost_what_the_authors_networks_cost(shared, file, macs):
    model = load_graph(shared / "assets" / "scrfd" / file, check=True)
    assert describe_graph(model, (640, 640)).macs == macs
