"""Checkpoints and the ONNX export on networks small enough to check by hand."""

import os

import numpy as np
import onnx
import pytest
from facezoo.backends.ort import run_graph
from facezoo.card import Preprocess
from facezoo.contract import Contract, read_contract
from facezoo.errors import GraphError, InputError, WeightsError, WeightsMissing

torch = pytest.importorskip("torch")
from facezoo.graphs.export import (  # noqa: E402
    count_network,
    export_network,
    load_checkpoint,
    load_onnx,
    run_network,
    save_checkpoint,
)
from torch import nn  # noqa: E402

pytestmark = pytest.mark.torch

CONTRACT = Contract("tiny", "magface", "input", Preprocess((16, 24)), ("map", "vector"))


class Tiny(nn.Module):
    """Conv, batch norm, a map and a vector: 3 x 2 x 9 + 4, 2 x 5 + 5 parameters."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.line = nn.Linear(2, 5)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return x, self.line(x.mean(dim=(2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Tiny().eval()


def equal(network, state_dict):
    return all(torch.equal(x, state_dict[name]) for name, x in network.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "optimizer": {"state": {}}, "epoch": 3},
        lambda s: {"model": {f"module.{n}": x for n, x in s.items()}},
        lambda s: {"model": {n: x + 1 for n, x in s.items()}, "ema": {"state_dict": s}},
        lambda s: {**s, "optimizer": {"momentum": torch.ones(3)}, "epoch": 3},
    ],
)
def test_a_state_dict_is_found_wherever_it_is(network, tmp_path, wrap):
    torch.save(wrap(network.state_dict()), tmp_path / "x.pth")
    loaded = Tiny()
    load_checkpoint(loaded, tmp_path / "x.pth")
    assert equal(loaded, network.state_dict())


def test_what_is_saved_loads_again(network, tmp_path):
    save_checkpoint(network, tmp_path / "deep" / "x.pth")
    loaded = Tiny()
    load_checkpoint(loaded, tmp_path / "deep" / "x.pth")
    assert equal(loaded, network.state_dict())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.pth"]


def test_counters_of_old_files_may_be_missing(network, tmp_path):
    old = {n: x for n, x in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "x.pth")
    loaded = Tiny()
    load_checkpoint(loaded, tmp_path / "x.pth")
    assert equal(loaded, network.state_dict())


@pytest.mark.parametrize("form", ["features.module.", "module.features."])
def test_prefixes_can_be_mapped_and_entries_left_out(network, tmp_path, form):
    entries = {f"{form}{name}": x for name, x in network.state_dict().items()}
    torch.save({"state_dict": {**entries, "module.fc.weight": torch.ones(9)}}, tmp_path / "x.pth")
    mapping = {"features.module.": "", "module.features.": "", "module.fc.": None}
    loaded = Tiny()
    load_checkpoint(loaded, tmp_path / "x.pth", prefixes=mapping)
    assert equal(loaded, network.state_dict())
    with pytest.raises(WeightsError, match=r"1 unexpected \(module\.fc\.weight\)"):
        load_checkpoint(loaded, tmp_path / "x.pth", prefixes=("features.module.", form))


def test_the_longest_prefix_counts(network, tmp_path):
    torch.save({f"a.b.{n}": x for n, x in network.state_dict().items()}, tmp_path / "x.pth")
    loaded = Tiny()
    load_checkpoint(loaded, tmp_path / "x.pth", prefixes=("a.", "a.b."))
    assert equal(loaded, network.state_dict())


def test_prefixes_can_be_replaced(network, tmp_path):
    outer = nn.ModuleDict({"trunk": network})
    torch.save({f"old.{n}": x for n, x in network.state_dict().items()}, tmp_path / "x.pth")
    load_checkpoint(outer, tmp_path / "x.pth", prefixes={"old.": "trunk."})


def test_two_entries_of_one_name_are_refused(network, tmp_path):
    entries = dict(network.state_dict())
    torch.save({**entries, "module.line.bias": entries["line.bias"]}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"two entries are both 'line\.bias'"):
        load_checkpoint(Tiny(), tmp_path / "x.pth")


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(network, tmp_path):
    entries = dict(network.state_dict())
    del entries["norm.bias"]
    entries["line.weight"] = torch.ones(6, 2)
    entries.update({f"extra.{index:02d}": torch.ones(1) for index in range(12)})
    torch.save(entries, tmp_path / "x.pth")
    loaded = Tiny()
    before = {name: x.clone() for name, x in loaded.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(loaded, tmp_path / "x.pth")
    message = str(caught.value)
    assert "1 missing (norm.bias)" in message
    assert "12 unexpected (extra.00, " in message
    assert "extra.09, …)" in message
    assert "extra.10" not in message
    assert "1 of another shape (line.weight (6, 2) for (5, 2))" in message
    assert equal(loaded, before)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_checkpoint_never_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="tensors in plain containers") as caught:
        load_checkpoint(Tiny(), tmp_path / "x.pth")
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.pth"):
        load_checkpoint(Tiny(), tmp_path / "x.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"state_dict": {"lr": 0.1}}])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="contains no state dict"):
        load_checkpoint(Tiny(), tmp_path / "x.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsMissing, match=r"gone\.pth' does not exist"):
        load_checkpoint(Tiny(), tmp_path / "gone.pth")


def test_an_export_is_folded_named_and_equal(network, tmp_path):
    worst = export_network(network, tmp_path / "x.onnx", CONTRACT, dynamic_hw=True)
    assert 0.0 <= worst <= 1e-5
    model = onnx.load(tmp_path / "x.onnx")
    assert model.ir_version == 8
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    dims = {
        entry.name: [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim]
        for entry in [*model.graph.input, *model.graph.output]
    }
    assert dims == {
        "input": ["batch", 3, "height", "width"],
        "map": ["batch", 2, "map_axis_2", "map_axis_3"],
        "vector": ["batch", 5],
    }
    assert read_contract(tmp_path / "x.onnx") == CONTRACT
    images = np.random.default_rng(0).uniform(-1, 1, (3, 3, 8, 40)).astype(np.float32)
    outputs = run_graph(model, {"input": images})
    for array, reference in zip(outputs.values(), run_network(network, images)):
        np.testing.assert_allclose(array, reference, atol=1e-5)


def test_a_fixed_export_says_its_size(network, tmp_path):
    export_network(network, tmp_path / "x.onnx", CONTRACT, input_hw=(32, 40), batch=4)
    model = onnx.load(tmp_path / "x.onnx")
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [4, 3, 32, 40]
    assert model.opset_import[0].version == 11
    assert read_contract(tmp_path / "x.onnx").preprocess.input_hw == (32, 40)


def test_equal_weights_are_stored_once_and_read_directly(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    network[1].load_state_dict(network[0].state_dict())
    contract = Contract("tiny", "magface", "input", Preprocess((16, 24)), ("map",))
    export_network(network, tmp_path / "x.onnx", contract)
    model = onnx.load(tmp_path / "x.onnx")
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv"]
    assert len(model.graph.initializer) == 2


class BatchBakedIn(Tiny):
    def forward(self, x):
        maps, vector = super().forward(x)
        return maps, vector * float(x.shape[0])


class SizeBakedIn(Tiny):
    def forward(self, x):
        maps, vector = super().forward(x)
        return maps * float(x.shape[2]), vector


@pytest.mark.parametrize(
    "kind, options, output",
    [(BatchBakedIn, {}, "vector"), (SizeBakedIn, {"dynamic_hw": True}, "map")],
)
def test_a_graph_that_differs_from_torch_is_not_written(tmp_path, kind, options, output):
    (tmp_path / "x.onnx").write_bytes(b"the one before")
    with pytest.raises(GraphError, match=f"output '{output}' differs"):
        export_network(kind(), tmp_path / "x.onnx", CONTRACT, **options)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the one before"]


class NanOutput(Tiny):
    def forward(self, x):
        maps, vector = super().forward(x)
        return maps + float("nan"), vector


def test_a_network_whose_output_is_nan_is_refused(tmp_path):
    with pytest.raises(GraphError, match="'map' of the network is not finite"):
        export_network(NanOutput(), tmp_path / "x.onnx", CONTRACT)


def test_wrong_requests_are_refused(network, tmp_path):
    short = Contract("tiny", "magface", "input", Preprocess((16, 24)), ("map",))
    with pytest.raises(InputError, match="the network has 2 outputs, the contract names 1: map"):
        export_network(network, tmp_path / "x.onnx", short)
    assert not list(tmp_path.iterdir())


class Convolutions(nn.Module):
    """One convolution with a batch norm, one with a bias."""

    def __init__(self, outputs=4):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, outputs, 1)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.normal_(self.norm.bias)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x):
        return self.second(torch.relu(self.norm(self.first(x))))


def test_folded_weights_come_back_as_norms_that_only_add(tmp_path):
    torch.manual_seed(0)
    network = Convolutions().eval()
    contract = Contract("tiny", "magface", "input", Preprocess((16, 24)), ("map",))
    export_network(network, tmp_path / "x.onnx", contract)
    model = onnx.load(tmp_path / "x.onnx")
    loaded = Convolutions()
    load_onnx(loaded, model, (16, 24))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 16, 24)).astype(np.float32)
    np.testing.assert_allclose(
        run_network(loaded, images)[0], run_network(network, images)[0], atol=1e-6
    )
    assert torch.equal(loaded.norm.weight, torch.ones(8))
    assert torch.equal(loaded.norm.running_mean, torch.zeros(8))
    assert torch.equal(loaded.norm.running_var + loaded.norm.eps, torch.ones(8))
    with pytest.raises(WeightsError, match=r"\(4, 8, 1, 1\), this network's 'second' \(5, 8"):
        load_onnx(Convolutions(5), model, (16, 24))
    with pytest.raises(WeightsError, match="the graph has 2 convolutions, this network 1"):
        load_onnx(Tiny(), model, (16, 24))


def test_counting_by_hand(network):
    transposed = nn.Sequential(nn.Conv2d(3, 4, 1, groups=1), nn.ConvTranspose2d(4, 6, 2, stride=2))
    # 16 x 24 places x 3 x 4, then the same places x 4 x 6 x 2 x 2.
    assert count_network(transposed, (16, 24)) == (12 + 4 + 96 + 6, 384 * 12 + 384 * 96)
    assert count_network(network, (16, 24)) == (54 + 4 + 15, 384 * 54 + 10)
    assert next(network.parameters()).device.type == "cpu"
