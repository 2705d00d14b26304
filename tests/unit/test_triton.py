"""Triton's configurations: they follow the graph, and Triton's own protobuf reads them."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from facezoo.contract import read_contract
from facezoo.deploy.triton import engine_command, render_triton, write_repository
from facezoo.errors import GraphError
from facezoo.models import CARDS, find_card
from facezoo.testing import tiny_magface, tiny_pipnet, tiny_scrfd

pytest.importorskip("onnxruntime")

MODELS = {
    "scrfd_500m_bnkps": lambda path: tiny_scrfd(path, input_hw=(64, 96)),
    "pip_resnet18": tiny_pipnet,
    "w600k_mbf": tiny_magface,
}


@pytest.fixture(scope="module")
def parse():
    """Read a text as Triton does, by the messages of its client, without its transport."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import text_format

    found = importlib.util.find_spec("tritonclient")
    if found is None or found.origin is None:
        pytest.skip("tritonclient is not installed")
    path = Path(found.origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    messages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(messages)
    return lambda text: text_format.Parse(text, messages.ModelConfig())


def shapes(entries):
    return {
        entry.name: [d.dim_value or -1 for d in entry.type.tensor_type.shape.dim]
        for entry in entries
    }


def fixed(path, target, batch):
    """Write the same graph with a fixed batch size."""
    model = onnx.load(str(path))
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, str(target))
    return target


@pytest.mark.parametrize("card_id", CARDS)
def test_every_cards_configuration_is_read(parse, card_id):
    card = CARDS[card_id]
    read = parse(render_triton(card))
    assert read.name == card_id
    assert read.max_batch_size == 32
    assert [list(entry.dims) for entry in read.input] == [[3, *card.preprocess.input_hw]]
    assert [entry.name for entry in read.output] == [output.name for output in card.outputs]
    assert {entry.data_type for entry in (*read.input, *read.output)} == {11}  # TYPE_FP32
    assert read.HasField("dynamic_batching")


@pytest.mark.parametrize("batch", [0, 1, 4])
@pytest.mark.parametrize("card_id", MODELS)
def test_a_repository_follows_the_graph(parse, tmp_path, card_id, batch):
    path = MODELS[card_id](tmp_path / "model.onnx")
    if batch:
        path = fixed(path, tmp_path / "fixed.onnx", batch)
    folder = write_repository(path, find_card(card_id), tmp_path / "models", max_batch=8)
    assert (folder / "1" / "model.onnx").read_bytes() == path.read_bytes()
    read = parse((folder / "config.pbtxt").read_text("utf-8"))
    graph = onnx.load(str(path)).graph
    first = 0 if batch else 1
    for declared, entries in ((read.input, graph.input), (read.output, graph.output)):
        wanted = {name: dims[first:] for name, dims in shapes(entries).items()}
        assert {entry.name: list(entry.dims) for entry in declared} == wanted
    assert read.max_batch_size == (0 if batch else 8)
    assert read.HasField("dynamic_batching") == (not batch)


def test_an_engine_is_described_by_the_graph_it_was_built_from(parse, tmp_path):
    path = tiny_magface(tmp_path / "model.onnx")
    (tmp_path / "model.plan").write_bytes(b"an engine")
    card = find_card("w600k_mbf")
    folder = write_repository(tmp_path / "model.plan", card, tmp_path / "models", path, 16)
    read = parse((folder / "config.pbtxt").read_text("utf-8"))
    assert (read.platform, read.max_batch_size) == ("tensorrt_plan", 16)
    assert (folder / "1" / "model.plan").read_bytes() == b"an engine"


@pytest.mark.parametrize("tool", ["trtexec", "polygraphy"])
def test_a_fixed_batch_has_no_range_of_shapes(tmp_path, monkeypatch, tool):
    monkeypatch.setattr("shutil.which", lambda wanted: wanted == tool)
    free = tiny_magface(tmp_path / "free.onnx")
    one = fixed(free, tmp_path / "one.onnx", 1)
    words = engine_command(free, tmp_path / "x.plan", half=False, max_batch=8)
    assert any("8" in word and "112" in word for word in words)
    words = engine_command(one, tmp_path / "x.plan", half=False, max_batch=8)
    assert not any("112" in word for word in words)


@pytest.mark.parametrize("tool", ["trtexec", "polygraphy"])
def test_shapes_and_pre_processing_are_those_of_the_graph(tmp_path, monkeypatch, tool):
    monkeypatch.setattr("shutil.which", lambda wanted: wanted == tool)
    path = tiny_scrfd(tmp_path / "model.onnx", input_hw=(64, 96))
    contract = read_contract(path)
    preprocess = replace(
        contract.preprocess, input_hw=(640, 640), image_format="BGR_PLANAR", norm="DIV255"
    )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, replace(contract, preprocess=preprocess).to_metadata())
    onnx.save(model, str(path))
    words = engine_command(path, tmp_path / "x.plan", half=False, max_batch=8)
    assert any("64" in word and "96" in word for word in words)
    assert not any("640" in word for word in words)
    text = render_triton(find_card("scrfd_500m_bnkps"), onnx=path)
    assert "BGR, DIV255. Not" in text and "dims: [ 3, 64, 96 ]" in text


def test_two_batch_sizes_in_one_graph_are_refused(tmp_path):
    path = tiny_magface(tmp_path / "model.onnx")
    model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, str(path))
    with pytest.raises(GraphError, match="the input has a batch of any size, the output '516'"):
        write_repository(path, find_card("w600k_mbf"), tmp_path / "models")
    assert not (tmp_path / "models").exists()
