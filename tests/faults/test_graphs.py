"""Graphs with parts that no network of the zoo has: refused before a runtime sees them."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from facezoo import contract as contracts
from facezoo.backends import RuntimeOptions, open_backend
from facezoo.compiler.build import compile_model
from facezoo.compiler.sensitivity import measure_drift
from facezoo.contract import METADATA_KEY, Contract, load_graph, read_contract
from facezoo.deploy.eject import eject
from facezoo.deploy.triton import engine_command
from facezoo.doctor.checks import subject_of
from facezoo.errors import GraphError
from facezoo.evaluation.embeddings import open_recognizer
from facezoo.models import find_card
from facezoo.models.magface import graph as magface
from facezoo.models.pipnet import graph as pipnet
from facezoo.models.scrfd import graph as scrfd
from facezoo.testing import tiny_scrfd
from facezoo.vacc.build_config import Backend, BuildConfig, Frontend, Workspace
from limits import bounds
from onnx import TensorProto, helper


def outside(name):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def sparse(name):
    values = helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    return helper.make_sparse_tensor(values, indices, [3])


def inner_graph():
    nodes = [helper.make_node("Constant", [], ["k"], value=outside("k"))]
    info = helper.make_tensor_value_info("k", TensorProto.FLOAT, [1])
    return helper.make_graph(nodes, "inside", [], [info])


def add(model, op_type, *, domain="", **attributes):
    node = helper.make_node(op_type, [], ["odd_out"], name="odd", domain=domain, **attributes)
    model.graph.node.insert(0, node)


def listed_outside(model):
    """Let a weight be inside by its flag, and outside by its list."""
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def function(model):
    model.functions.append(
        helper.make_function("odd.domain", "odd", [], ["k"], inner_graph().node, model.opset_import)
    )


def second_input(model):
    info = helper.make_tensor_value_info("odd", TensorProto.FLOAT, [1])
    model.graph.input.append(info)


def second_contract(model):
    model.metadata_props.add(key=METADATA_KEY, value="{}")


FOREIGN = {
    "weight outside": lambda m: m.graph.initializer.append(outside("odd")),
    "weight listed outside": listed_outside,
    "constant outside": lambda m: add(m, "Constant", value=outside("k")),
    "list of constants outside": lambda m: add(m, "Odd", values=[outside("k")]),
    "sparse weight": lambda m: m.graph.sparse_initializer.append(sparse("odd")),
    "sparse constant": lambda m: add(m, "Constant", sparse_value=sparse("k")),
    "sparse constants": lambda m: add(m, "Odd", values=[sparse("k")]),
    "If": lambda m: add(m, "If", then_branch=inner_graph(), else_branch=inner_graph()),
    "Loop": lambda m: add(m, "Loop", body=inner_graph()),
    "Scan": lambda m: add(m, "Scan", body=inner_graph(), num_scan_inputs=1),
    "graphs": lambda m: add(m, "Odd", graphs=[inner_graph()]),
    "function": function,
    "training": lambda m: m.training_info.add().algorithm.CopyFrom(inner_graph()),
    "operator of its own": lambda m: add(m, "Relu", domain="odd.domain"),
    "python operator": lambda m: add(m, "PyOp", domain="ai.onnx.contrib"),
    "compiled for a device": lambda m: add(m, "EPContext", domain="com.microsoft"),
    "second input": second_input,
    "no input": lambda m: m.graph.ClearField("input"),
    "second contract": second_contract,
}
NAMED = {
    "weight listed outside": "score_8.weight",
    "training": "training",
    "no input": "none",
    "second contract": METADATA_KEY,
}


def load_nothing(*arguments, **options):
    raise AssertionError("a runtime saw the graph")


@pytest.fixture
def no_runtime(monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", load_nothing)
    monkeypatch.setattr(onnx.checker, "check_model", load_nothing)
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", load_nothing)


@pytest.fixture
def odd(tmp_path, request):
    model = onnx.load(tiny_scrfd(tmp_path / "tiny.onnx"))
    FOREIGN[request.param](model)
    path = tmp_path / "odd.onnx"
    path.write_bytes(model.SerializeToString())
    return request.param, path


@pytest.mark.parametrize("odd", FOREIGN, indirect=True)
@pytest.mark.parametrize("read_graph", [load_graph, read_contract, partial(load_graph, check=True)])
def test_a_part_that_no_network_here_has_is_named(odd, no_runtime, read_graph):
    what, path = odd
    with pytest.raises(GraphError) as caught:
        read_graph(path)
    said = str(caught.value)
    assert f"{path}" in said
    assert f"'{NAMED.get(what, 'odd')}'" in said or NAMED.get(what, "?") in said, said
    assert "; expected " in said
    assert said.isprintable()


def compiled(path):
    config = BuildConfig(
        file=Path("odd.yaml"),
        name="odd_fp32",
        frontend=Frontend(path, {"input.1": ((1, 3, 64, 64),)}),
        backend=Backend("fp32"),
        workspace=Workspace(path.parent / "built"),
    )
    compile_model(config)


def ejected(path):
    contract = Contract.from_card(find_card("scrfd_500m_bnkps"), input_hw=(64, 64))
    eject(path, contract, "", np.zeros((9, 9, 3), np.uint8), path.parent / "out")


# Every way of a user's file into the package.
ENTRANCES = {
    "compile": compiled,
    "eject": ejected,
    "open a backend": lambda path: open_backend(path, RuntimeOptions(engine="ort")),
    "export a detector": lambda path: scrfd.export_released(path, path.parent / "new.onnx"),
    "export landmarks": lambda path: pipnet.export_released(path, path.parent / "new.onnx"),
    "export a recogniser": lambda path: magface.export_released(path, path.parent / "new.onnx"),
    "compare layers": lambda path: measure_drift(path, path, []),
    "label faces": lambda path: open_recognizer(str(path)),
    "doctor": lambda path: subject_of(path, None, path.parent),
    "TensorRT": lambda path: engine_command(path, path.parent / "x", half=False, max_batch=1),
}


@pytest.mark.parametrize("odd", ["If", "function", "list of constants outside"], indirect=True)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_no_way_in_leads_past_the_check(odd, no_runtime, entrance):
    path = odd[1]
    before = set(path.parent.iterdir())
    with pytest.raises(GraphError, match=r"odd\.onnx' cannot be used: .*; expected"):
        ENTRANCES[entrance](path)
    assert set(path.parent.iterdir()) == before


def test_names_that_are_no_text_are_refused(tmp_path):
    good = tiny_scrfd(tmp_path / "tiny.onnx").read_bytes()
    for number, name in enumerate((b"score_16", b"facezoo.contract", b"input.1", b"Conv")):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(good.replace(name, b"\xff" * len(name)))
        with pytest.raises(GraphError, match=rf"{number}\.onnx'"):
            load_graph(path)


def test_a_name_as_long_as_the_file_makes_a_short_message(tmp_path):
    model = onnx.load(tiny_scrfd(tmp_path / "tiny.onnx"))
    add(model, "R\ne" * 100_000, domain="x\ny" * 100_000)
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GraphError) as caught:
        load_graph(tmp_path / "odd.onnx")
    assert len(str(caught.value)) < 2000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("domain", ["ai.onnx", "ai.onnx.ml", "com.microsoft"])
def test_operators_that_quantising_and_fusing_leave_are_read(tmp_path, domain):
    model = onnx.load(tiny_scrfd(tmp_path / "tiny.onnx"))
    add(model, "QLinearAdd", domain=domain)
    (tmp_path / "quantised.onnx").write_bytes(model.SerializeToString())
    assert load_graph(tmp_path / "quantised.onnx").graph.node[0].op_type == "QLinearAdd"


def test_what_never_ends_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", Path("/dev/zero")):
        with bounds(), pytest.raises(GraphError, match="expected a regular file"):
            load_graph(path)
    with pytest.raises(GraphError, match="cannot be read"):
        load_graph(tmp_path)


def test_a_file_of_2_gib_is_not_opened(tmp_path, monkeypatch):
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # takes no place on the disk
    monkeypatch.setattr(onnx, "load", load_nothing)
    with pytest.raises(GraphError, match=r"large\.onnx' has 2147483648 bytes; expected less"):
        read_contract(path)
    assert contracts.LARGEST_GRAPH == 1 << 31


@pytest.mark.shared
def test_released_networks_are_read(shared):
    graphs = sorted((shared / "assets").rglob("*.onnx"))
    assert len(graphs) >= 5
    for path in graphs:
        assert load_graph(path, check=True).graph.node
