"""Recognisers of other exporters: brought into our form, or refused with the flag that helps."""

import facezoo
import numpy as np
import onnx
import pytest
from facezoo.backends.ort import run_graph
from facezoo.contract import read_contract
from facezoo.errors import GraphError
from facezoo.models.magface.graph import export_released
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("onnxruntime")

CARD = "w600k_mbf"


class Graph:
    """A recogniser of one convolution and one matrix, in the ways that exporters write them."""

    def __init__(self, size=512, opset=11, half=False):
        rng = np.random.default_rng(7)
        self.kind = np.float16 if half else np.float32
        self.size, self.opset = size, opset
        self.weights = {
            "filters": rng.normal(0, 0.05, (4, 3, 16, 16)),
            "matrix": rng.normal(0, 0.1, (196, size)),
        }
        self.nodes = []

    def add(self, kind, *inputs, **attributes):
        output = f"made_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], f"node_{output}", **attributes))
        return output

    def network(self, image, flatten=None):
        maps = self.add("Conv", image, "filters", strides=[16, 16])
        return self.add("MatMul", (flatten or self.flat)(maps), "matrix")

    def flat(self, maps):
        return self.add("Flatten", maps)

    def write(self, path, shape, output, output_shape=("n", "d")):
        dtype = TensorProto.FLOAT16 if self.kind is np.float16 else TensorProto.FLOAT
        stored = [
            numpy_helper.from_array(v if v.dtype == np.int64 else v.astype(self.kind), name)
            for name, v in self.weights.items()
        ]
        graph = helper.make_graph(
            self.nodes,
            "foreign",
            [helper.make_tensor_value_info("image", dtype, shape)],
            [helper.make_tensor_value_info(output, dtype, output_shape)],
            stored,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 6
        onnx.save(model, str(path))
        return path


def embedded(path, images):
    contract = read_contract(path)
    (found,) = run_graph(path, {contract.input_name: images}).values()
    return found


@pytest.fixture
def images(rng):
    return rng.uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)


def expected(graph, images):
    patches = images.reshape(-1, 3, 7, 16, 7, 16).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 49, 768)
    filters = graph.weights["filters"].astype(graph.kind).reshape(4, 768)
    maps = (patches @ filters.T.astype(np.float64)).transpose(0, 2, 1).reshape(-1, 196)
    return maps @ graph.weights["matrix"].astype(graph.kind).astype(np.float64)


def check(path, graph, images, tolerance=1e-4):
    wanted = expected(graph, images)
    model = onnx.load(str(path))
    (entry,) = model.graph.input
    assert entry.type.tensor_type.elem_type == TensorProto.FLOAT
    found = embedded(path, images)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() <= tolerance * wanted.std()
    dims = model.graph.output[0].type.tensor_type.shape.dim
    assert dims[-1].dim_value == graph.size


@pytest.mark.parametrize("declared", [("n", 128), ("n", "d")])
def test_short_embeddings_are_declared_as_they_are(tmp_path, images, declared):
    graph = Graph(size=128)
    source = graph.write(tmp_path / "in.onnx", ["n", 3, 112, 112], graph.network("image"), declared)
    export_released(source, tmp_path / "out.onnx", card_id=CARD)
    check(tmp_path / "out.onnx", graph, images)
    with facezoo.load(tmp_path / "out.onnx", kind=facezoo.FaceEmbedder) as model:
        assert model(np.zeros((112, 112, 3), np.uint8) + 9).vector.shape == (128,)


def test_half_precision_becomes_single_with_the_same_weights(tmp_path, images):
    graph = Graph(half=True)
    source = graph.write(tmp_path / "in.onnx", ["n", 3, 112, 112], graph.network("image"))
    _, worst = export_released(source, tmp_path / "out.onnx", card_id=CARD)
    assert 0 < worst < 0.05
    check(tmp_path / "out.onnx", graph, images)


def test_a_graph_that_casts_to_half_precision_inside_is_widened(tmp_path, images):
    graph = Graph(half=True)
    single = graph.add("Cast", "image", to=TensorProto.FLOAT)
    again = graph.add("Cast", single, to=TensorProto.FLOAT16)
    source = graph.write(tmp_path / "in.onnx", ["n", 3, 112, 112], graph.network(again))
    export_released(source, tmp_path / "out.onnx", card_id=CARD)
    check(tmp_path / "out.onnx", graph, images)


@pytest.mark.parametrize("half", [False, True])
def test_channels_last_are_transposed(tmp_path, images, half):
    graph = Graph(half=half)
    turned = graph.add("Transpose", "image", perm=[0, 3, 1, 2])
    source = graph.write(tmp_path / "in.onnx", ["n", 112, 112, 3], graph.network(turned))
    export_released(source, tmp_path / "out.onnx", card_id=CARD)
    check(tmp_path / "out.onnx", graph, images)


@pytest.mark.parametrize("baked", [1, 4])
def test_a_baked_batch_is_refused_with_the_flag_that_keeps_it(tmp_path, images, baked):
    graph = Graph()
    graph.weights["shape"] = np.array([baked, 196], np.int64)
    made = graph.network("image", lambda maps: graph.add("Reshape", maps, "shape"))
    source = graph.write(tmp_path / "in.onnx", [baked, 3, 112, 112], made)
    with pytest.raises(GraphError, match=f"give --batch {baked}, as in the file"):
        export_released(source, tmp_path / "out.onnx", card_id=CARD)
    assert not (tmp_path / "out.onnx").exists()
    export_released(source, tmp_path / "out.onnx", card_id=CARD, batch=baked)
    check(tmp_path / "out.onnx", graph, np.resize(images, (baked, 3, 112, 112)))


@pytest.mark.parametrize("baked", [1, 4])
def test_a_batch_that_is_only_declared_becomes_free(tmp_path, images, baked):
    graph = Graph()
    source = graph.write(tmp_path / "in.onnx", [baked, 3, 112, 112], graph.network("image"))
    export_released(source, tmp_path / "out.onnx", card_id=CARD)
    check(tmp_path / "out.onnx", graph, images)


@pytest.mark.parametrize("shape", [(512,), (4, 7, 7)])
def test_batch_norms_of_mxnet_lose_what_has_no_effect(tmp_path, images, shape):
    graph = Graph(opset=8)
    embedding = graph.network("image")
    names = ("scale", "shift", "mean", "variance")
    graph.weights.update(zip(names, (np.ones(shape), *np.zeros((2, *shape)), np.ones(shape))))
    normed = graph.add("BatchNormalization", embedding, *names, spatial=0, epsilon=1e-12)
    source = graph.write(tmp_path / "in.onnx", ["n", 3, 112, 112], normed)
    if len(shape) > 1:
        with pytest.raises(GraphError, match=r"spatial=0 and weights of shape \(4, 7, 7\)"):
            export_released(source, tmp_path / "out.onnx", card_id=CARD)
        return
    export_released(source, tmp_path / "out.onnx", card_id=CARD)
    check(tmp_path / "out.onnx", graph, images)


@pytest.mark.parametrize("shape", [["n", 3, 96, 112], ["n", 112, 112, 1], ["n", 3]])
def test_other_inputs_are_refused_by_their_shape(tmp_path, shape):
    graph = Graph()
    source = graph.write(tmp_path / "in.onnx", shape, graph.network("image"))
    with pytest.raises(GraphError, match=r"the input 'image' is FLOAT of shape .*channels last"):
        export_released(source, tmp_path / "out.onnx", card_id=CARD)
