"""Released SCRFD graphs cut back to raw heads."""

import numpy as np
import onnx
import pytest
from facezoo.backends.ort import run_graph
from facezoo.contract import read_contract
from facezoo.errors import GraphError, InputError
from facezoo.models.scrfd.graph import (
    as_rows,
    compare_with_source,
    export_released,
    recognise_heads,
    to_raw_heads,
)
from onnx import TensorProto, helper, numpy_helper

RELEASED = {
    "scrfd_500m": "scrfd_500m_bnkps",
    "scrfd_500m_bnkps": "scrfd_500m_bnkps",
    "scrfd_500m_bnkps_static640": "scrfd_500m_bnkps",
    "scrfd_2.5g": "scrfd_2.5g_bnkps",
}
SIZES = [(640, 640), (320, 448), (1280, 736)]


@pytest.fixture(scope="session")
def released(shared):
    folder = shared / "assets" / "scrfd"
    return {name: onnx.load(str(folder / f"{name}.onnx")) for name in RELEASED}


def without_landmarks(model):
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    landmarks = {n for head, n in outputs_of(model).items() if head.startswith("kps")}
    kept = [output for output in cut.graph.output if output.name not in landmarks]
    del cut.graph.output[:]
    cut.graph.output.extend(kept)
    return cut


def outputs_of(model):
    """Head to output name, by the released files' order: scores, boxes, landmarks."""
    names = [output.name for output in model.graph.output]
    heads = [f"{kind}_{stride}" for kind in ("score", "bbox", "kps") for stride in (8, 16, 32)]
    if names[0].isdigit():
        # The unnamed files interleave nothing either: three scores, three boxes, three landmarks.
        names = (
            sorted(names[:3], key=int) + sorted(names[3:6], key=int) + sorted(names[6:], key=int)
        )
    return dict(zip(heads, names))


@pytest.mark.shared
@pytest.mark.parametrize("name", RELEASED)
def test_the_variant_is_recognised_from_the_graph(shared, tmp_path, name):
    source = shared / "assets" / "scrfd" / f"{name}.onnx"
    target = tmp_path / "raw.onnx"
    card, worst = export_released(source, target)
    contract = read_contract(target)
    assert card.id == contract.card_id == RELEASED[name]
    assert worst < 1e-5
    assert onnx.load(str(target)).ir_version == 8


@pytest.mark.shared
@pytest.mark.parametrize("hw", SIZES)
@pytest.mark.parametrize("name", RELEASED)
def test_raw_heads_equal_their_source_at_every_size(released, name, hw):
    # The static file cannot run at other sizes itself; its dynamic sibling holds the same weights.
    reference = released["scrfd_500m_bnkps" if "static" in name else name]
    assert compare_with_source(reference, to_raw_heads(released[name]), hw) < 1e-4


@pytest.mark.shared
@pytest.mark.parametrize("name", RELEASED)
def test_a_batch_of_four_equals_four_singles(released, name, rng):
    raw = to_raw_heads(released[name])
    tensor = rng.uniform(-1, 1, (4, 3, 320, 448)).astype(np.float32)
    together = run_graph(raw, {"input.1": tensor})
    for index in range(4):
        alone = run_graph(raw, {"input.1": tensor[index : index + 1]})
        for head, maps in alone.items():
            np.testing.assert_allclose(together[head][index], maps[0], atol=1e-4)


@pytest.mark.shared
def test_shuffled_and_renamed_outputs_change_nothing(released, rng):
    model = released["scrfd_500m"]
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    order = rng.permutation(len(model.graph.output))
    outputs = [model.graph.output[index] for index in order]
    del shuffled.graph.output[:]
    shuffled.graph.output.extend(outputs)
    tensor = rng.uniform(-1, 1, (1, 3, 640, 640)).astype(np.float32)
    expected = run_graph(to_raw_heads(model), {"input.1": tensor})
    got = run_graph(to_raw_heads(shuffled), {"input.1": tensor})
    assert list(expected) == list(got)
    for head in expected:
        np.testing.assert_array_equal(expected[head], got[head])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["scrfd_500m", "scrfd_500m_bnkps"])
def test_a_file_without_landmarks_has_six_heads(released, name, rng):
    raw = to_raw_heads(without_landmarks(released[name]))
    assert [o.name for o in raw.graph.output] == [
        "score_8", "score_16", "score_32", "bbox_8", "bbox_16", "bbox_32",
    ]  # fmt: skip
    assert not any("kps" in value for node in raw.graph.node for value in node.output)
    tensor = rng.uniform(-1, 1, (1, 3, 320, 320)).astype(np.float32)
    whole = run_graph(to_raw_heads(released[name]), {"input.1": tensor})
    for head, maps in run_graph(raw, {"input.1": tensor}).items():
        np.testing.assert_allclose(maps, whole[head], atol=1e-5)


@pytest.mark.shared
def test_a_missing_head_is_named(released):
    cut = onnx.ModelProto()
    cut.CopyFrom(released["scrfd_500m_bnkps"])
    kept = [output for output in cut.graph.output if output.name != "bbox_16"]
    del cut.graph.output[:]
    cut.graph.output.extend(kept)
    with pytest.raises(GraphError, match="'bbox_16'"):
        recognise_heads(cut)


@pytest.mark.shared
def test_a_foreign_graph_is_refused_naming_the_missing_head(shared, tmp_path):
    source = shared / "assets" / "recognition" / "w600k_mbf.onnx"
    with pytest.raises(GraphError, match="'score_8'"):
        export_released(source, tmp_path / "raw.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.shared
def test_sizes_and_batches_can_be_fixed(released):
    raw = to_raw_heads(released["scrfd_500m"], batch=2, size=(320, 448))
    shape = [d.dim_value for d in raw.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [2, 3, 320, 448]
    shape = [d.dim_value for d in raw.graph.output[0].type.tensor_type.shape.dim]
    assert shape == [2, 2, 40, 56]


def test_a_size_off_the_grid_is_refused():
    with pytest.raises(InputError, match="multiples of 32"):
        to_raw_heads(onnx.ModelProto(), size=(641, 640))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x08\x07" * 50])
def test_what_is_no_graph_is_refused_by_name(tmp_path, content):
    path = tmp_path / "page.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=r"page\.onnx"):
        export_released(path, tmp_path / "raw.onnx")


def test_rows_come_in_the_authors_order():
    maps = np.arange(2 * 4 * 2 * 3, dtype=np.float32).reshape(1, 8, 2, 3)
    rows = as_rows("bbox_8", maps)
    assert rows.shape == (1, 12, 4)
    # Row 3 is cell (0, 1), second anchor: channels 4 to 7 at column 1.
    assert rows[0, 3].tolist() == [25.0, 31.0, 37.0, 43.0]


def released_like(batch=1, size=(640, 640), features=64, named=True):
    """A file in the released layout, one depthwise stem and one convolution a head."""
    rng = np.random.default_rng(7)
    nodes, weights, outputs = [], [], []

    def constant(name, array):
        weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(source, target, shape, **attributes):
        kernel = rng.normal(0, 0.05, shape).astype(np.float32)
        inputs = [source, constant(f"{target}.weight", kernel)]
        nodes.append(helper.make_node("Conv", inputs, [target], **attributes))
        return target

    # A depthwise convolution tells the MobileNet variants from the others.
    conv("image", "stem", (3, 1, 3, 3), group=3, pads=[1, 1, 1, 1])
    maps = {}
    for stride in (8, 16, 32):
        maps[stride] = conv(
            "stem", f"cells_{stride}", (features, 3, stride, stride), strides=[stride, stride]
        )
    # The neck's upsampling, to a size written into the file.
    constant("none", np.zeros(0, np.float32))
    for stride in (16, 8):
        sizes = np.array([batch, features, size[0] // stride, size[1] // stride], np.int64)
        inputs = [maps[stride * 2], "none", "none", constant(f"sizes_{stride}", sizes)]
        attributes = {"mode": "nearest", "nearest_mode": "floor"}
        attributes["coordinate_transformation_mode"] = "asymmetric"
        nodes.append(helper.make_node("Resize", inputs, [f"up_{stride}"], **attributes))
        nodes.append(helper.make_node("Add", [maps[stride], f"up_{stride}"], [f"neck_{stride}"]))
        maps[stride] = f"neck_{stride}"
    for head, width in (("score", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            raw = conv(maps[stride], f"{head}_{stride}_map", (2 * width, features, 1, 1))
            nodes.append(helper.make_node("Transpose", [raw], [f"{raw}_t"], perm=[0, 2, 3, 1]))
            shape = constant(f"{raw}_shape", np.array([batch, -1, width], np.int64))
            name = f"{head}_{stride}" if named else str(400 + len(outputs))
            rows = f"{name}_rows" if head == "score" else name
            nodes.append(helper.make_node("Reshape", [f"{raw}_t", shape], [rows]))
            if head == "score":
                nodes.append(helper.make_node("Sigmoid", [rows], [name]))
            shape = ["batch", "rows", width]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, *size])
    graph = helper.make_graph(nodes, "released", [image], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


@pytest.mark.parametrize("named", [True, False])
def test_a_file_of_fixed_size_becomes_free(tmp_path, rng, named):
    source = tmp_path / "released.onnx"
    onnx.save(released_like(named=named), str(source))
    target = tmp_path / "raw.onnx"
    card, worst = export_released(source, target)
    assert (card.id, read_contract(target).card_id) == ("scrfd_500m_bnkps",) * 2
    assert worst < 1e-5
    for hw in ((640, 640), (320, 448)):
        sibling = released_like(size=hw)
        assert compare_with_source(sibling, onnx.load(str(target)), hw) < 1e-4
    tensor = rng.uniform(-1, 1, (4, 3, 96, 64)).astype(np.float32)
    together = run_graph(target, {"input.1": tensor})
    alone = run_graph(target, {"input.1": tensor[2:3]})
    for head, maps in alone.items():
        np.testing.assert_allclose(together[head][2], maps[0], atol=1e-5)


def test_six_outputs_are_the_variant_without_landmarks():
    raw = to_raw_heads(without_landmarks(released_like()), batch=2, size=(320, 448))
    assert [output.name for output in raw.graph.output][-1] == "bbox_32"
    assert not any("kps" in value for node in raw.graph.node for value in node.output)
    shape = [d.dim_value for d in raw.graph.output[0].type.tensor_type.shape.dim]
    assert shape == [2, 2, 40, 56]


def test_heads_that_are_missing_or_there_twice_are_named():
    model = released_like()
    kept = [output for output in model.graph.output if output.name != "score_16"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    with pytest.raises(GraphError, match="'score_16'"):
        to_raw_heads(model)
    model = released_like()
    model.graph.node.append(helper.make_node("Neg", ["bbox_8_map"], ["other"]))
    model.graph.output.append(
        helper.make_tensor_value_info("other", TensorProto.FLOAT, list("bchw"))
    )
    with pytest.raises(GraphError, match="bbox_8 twice"):
        to_raw_heads(model)


def test_a_network_of_another_width_is_none_of_the_eight():
    with pytest.raises(GraphError, match="its head has 48 channels with depthwise"):
        to_raw_heads(released_like(features=48))


def test_an_upsampling_that_is_not_nearest_is_refused():
    model = released_like()
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "mode":
                attribute.s = b"linear"
    with pytest.raises(GraphError, match="expected nearest"):
        to_raw_heads(model)


def test_graphs_that_disagree_are_not_written(tmp_path, monkeypatch):
    source = tmp_path / "released.onnx"
    onnx.save(released_like(), str(source))
    monkeypatch.setattr("facezoo.models.scrfd.graph.compare_with_source", lambda *a: 0.5)
    with pytest.raises(GraphError, match=r"differ from it by 0\.5"):
        export_released(source, tmp_path / "raw.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["released.onnx"]
