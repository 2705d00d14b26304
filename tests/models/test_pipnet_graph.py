"""PIPNet between files: checkpoints to ONNX, and community files that get names and a contract."""

import json
import runpy

import numpy as np
import onnx
import pytest
from facezoo import load
from facezoo.backends.ort import run_graph
from facezoo.contract import read_contract
from facezoo.errors import GraphError, InputError
from facezoo.models.pipnet.decode import format_meanface, load_meanface
from facezoo.models.pipnet.graph import (
    check_neighbors,
    export_released,
    make_contract,
    recognise_heads,
)
from facezoo.testing import fill_from_names, tiny_pipnet

WFLW = load_meanface("WFLW", 10)
NAMES = ["cls", "x", "y", "nb_x", "nb_y"]


@pytest.fixture
def tiny(tmp_path):
    return onnx.load(str(tiny_pipnet(tmp_path / "tiny.onnx")))


def rename_outputs(model, new_names):
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for values in [renamed.graph.output, renamed.graph.node]:
        for value in values:
            if isinstance(value, onnx.NodeProto):
                value.output[0] = new_names.get(value.output[0], value.output[0])
            else:
                value.name = new_names.get(value.name, value.name)
    return renamed


def reorder_outputs(model, order):
    reordered = onnx.ModelProto()
    reordered.CopyFrom(model)
    outputs = [model.graph.output[index] for index in order]
    del reordered.graph.output[:]
    reordered.graph.output.extend(outputs)
    return reordered


def test_our_own_names_count_in_any_order(tiny):
    shuffled = reorder_outputs(tiny, [4, 2, 0, 3, 1])
    assert recognise_heads(shuffled) == {name: name for name in NAMES}


def test_other_names_are_told_apart_by_channels_and_order(tiny):
    numbered = rename_outputs(tiny, {name: str(400 + i) for i, name in enumerate(NAMES)})
    expected = {name: str(400 + i) for i, name in enumerate(NAMES)}
    assert recognise_heads(numbered) == expected
    # The neighbours' maps may stand in front.
    assert recognise_heads(reorder_outputs(numbered, [3, 0, 4, 1, 2])) == expected


@pytest.mark.parametrize("kept", [[0, 1, 2], [0, 1, 2, 3], [0, 3, 4, 1], []])
def test_other_graphs_are_refused(tiny, kept):
    model = reorder_outputs(rename_outputs(tiny, {"cls": "score"}), kept)
    with pytest.raises(GraphError, match="this is not a PIPNet"):
        recognise_heads(model)


def test_neighbours_lie_where_the_mean_face_has_them(tiny):
    noise = np.random.default_rng(1).normal(size=(1, 3, 256, 256)).astype(np.float32)
    outputs = run_graph(tiny, {"input": noise})
    assert check_neighbors(outputs, WFLW) == pytest.approx(1.0, abs=1e-6)
    exchanged = {**outputs, "nb_x": outputs["nb_y"], "nb_y": outputs["nb_x"]}
    with pytest.raises(GraphError, match="in another order"):
        check_neighbors(exchanged, WFLW)
    shuffled = WFLW.points_xy[np.random.default_rng(2).permutation(98)]
    with pytest.raises(GraphError, match="the mean face is that of another data set"):
        check_neighbors(outputs, load_meanface(shuffled, 10))


def test_a_contract_holds_any_landmarks(tmp_path):
    points = np.random.default_rng(4).uniform(size=(12, 2))
    contract = make_contract("resnet50", points, num_neighbors=5, input_size=128)
    assert contract.card_id == "pip_resnet50"
    assert contract.preprocess.input_hw == (128, 128)
    assert contract.decode == {"meanface": points.tolist(), "num_neighbors": 5}
    json.dumps(contract.decode)
    assert make_contract("resnet18").decode == {"meanface": "WFLW", "num_neighbors": 10}
    with pytest.raises(InputError, match="num_neighbors"):
        make_contract("resnet18", points, num_neighbors=12)


def test_a_graph_without_a_known_backbone_is_refused(tiny, tmp_path):
    target = tmp_path / "out.onnx"
    with pytest.raises(GraphError, match="5 convolutions"):
        export_released(tmp_path / "tiny.onnx", target)
    with pytest.raises(GraphError, match="not a valid ONNX graph"):
        (tmp_path / "text.onnx").write_text("no graph")
        export_released(tmp_path / "text.onnx", target)
    assert not target.exists()


# With torch --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, golden):
    """The smallest of the authors' networks, random but for heads that know the mean face."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    manifest = json.loads((golden / "pipnet" / "pip_mbnetv3.json").read_text())
    weights = {
        name: torch.from_numpy(np.asarray(values))
        for name, values in fill_from_names(manifest).items()
    }
    x, y = WFLW.points_xy.T
    biases = {"x": x, "y": y, "nb_x": x[WFLW.neighbors], "nb_y": y[WFLW.neighbors]}
    for name, values in biases.items():
        weights[f"{name}_layer.weight"] *= 0.01
        weights[f"{name}_layer.bias"] = torch.from_numpy(values.ravel().astype(np.float32))
    path = tmp_path_factory.mktemp("checkpoint") / "epoch59.pth"
    torch.save({f"module.{name}": values for name, values in weights.items()}, path)
    return path


@pytest.fixture
def export(repository, capsys):
    """The script in this process, since importing torch takes longer than all it does."""
    script = repository / "face_alignment/pipnet/source_code/export_onnx.py"
    main = runpy.run_path(str(script))["main"]

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


@pytest.mark.torch
def test_a_checkpoint_becomes_a_graph_with_a_contract(checkpoint, export, tmp_path):
    target = tmp_path / "onnx" / "pip.onnx"
    code, said, error = export(
        "--checkpoint", checkpoint, "--backbone", "mobilenet_v3", "--output", target
    )
    assert code == 0, error
    assert "pip_mobilenet_v3, outputs cls x y nb_x nb_y" in said
    model = onnx.load(str(target))
    assert [output.name for output in model.graph.output] == NAMES
    assert read_contract(target).decode == {"meanface": "WFLW", "num_neighbors": 10}
    images = np.random.default_rng(5).normal(size=(3, 3, 256, 256)).astype(np.float32)
    assert run_graph(model, {"input": images})["nb_y"].shape == (3, 980, 8, 8)
    fixed = tmp_path / "fixed.onnx"
    code, said, error = export(
        "--checkpoint", checkpoint, "--backbone", "mobilenet_v3", "--batch", 1, "--output", fixed
    )
    assert code == 0, error
    shape = onnx.load(str(fixed)).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in shape] == [1, 3, 256, 256]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --backbone"),
        (["--backbone", "mobilenet_v2"], "does not fit this network"),
        (["--backbone", "mobilenet_v3", "--num_neighbors", "9"], "nb_x_layer.weight"),
        (["--backbone", "mobilenet_v3", "--meanface_txt", "none.txt"], "is not a mean face"),
    ],
)
def test_what_does_not_fit_is_said(checkpoint, export, tmp_path, words, message):
    target = tmp_path / "pip.onnx"
    code, _, error = export("--checkpoint", checkpoint, *words, "--output", target)
    assert code == 2
    assert message in error
    assert not target.exists()


@pytest.fixture(scope="module")
def community(checkpoint, tmp_path_factory):
    """A file as others publish it: numbers for names, one picture at a time, no contract."""
    from facezoo.models.pipnet.checkpoint import export_checkpoint

    path = tmp_path_factory.mktemp("community") / "pipnet.onnx"
    export_checkpoint(checkpoint, "mobilenet_v3", path, batch=1)
    model = onnx.load(str(path))
    model = rename_outputs(model, {name: str(600 + i) for i, name in enumerate(NAMES)})
    # One of the contract's names is used for something else.
    inner = model.graph.node[0].output[0]
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = {inner: "cls", "input": "image"}.get(value, value)
    model.graph.input[0].name = "image"
    del model.graph.value_info[:]
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.torch
def test_a_community_file_gets_names_and_a_contract(community, export, tmp_path):
    target = tmp_path / "named.onnx"
    code, said, error = export("--onnx", community, "--output", target)
    assert code == 0, error
    assert "pip_mobilenet_v3, outputs cls x y nb_x nb_y" in said
    assert "correlation 1.00" in said or "correlation 0.9" in said
    images = np.random.default_rng(5).normal(size=(2, 3, 256, 256)).astype(np.float32)
    named = run_graph(target, {"input": images})
    assert list(named) == NAMES
    for index in range(2):
        source = run_graph(community, {"image": images[index : index + 1]})
        for array, expected in zip(named.values(), source.values()):
            np.testing.assert_allclose(array[index], expected[0], rtol=1e-4, atol=1e-4)
    with load(target) as landmarks:
        assert len(landmarks(np.zeros((90, 80, 3), np.uint8))) == 98


@pytest.mark.torch
def test_a_community_file_is_not_taken_for_another_data_sets(community, export, tmp_path):
    target = tmp_path / "named.onnx"
    shuffled = WFLW.points_xy[np.random.default_rng(2).permutation(98)]
    (tmp_path / "other.txt").write_text(format_meanface(shuffled))
    code, _, error = export(
        "--onnx", community, "--meanface_txt", tmp_path / "other.txt", "--output", target
    )
    assert code == 2
    assert "the mean face is that of another data set" in error
    (tmp_path / "fewer.txt").write_text(format_meanface(WFLW.points_xy[:68]))
    code, _, error = export(
        "--onnx", community, "--meanface_txt", tmp_path / "fewer.txt", "--output", target
    )
    assert code == 2
    assert "has 98 landmarks, the mean face has 68" in error
    assert not target.exists()
