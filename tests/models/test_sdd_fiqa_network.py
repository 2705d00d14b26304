"""SDD-FIQA's networks against the authors': names, shapes, the score, strict loading, export."""

import json
from pathlib import Path

import numpy as np
import pytest
from facezoo.contract import Contract
from facezoo.errors import CardError, WeightsError
from facezoo.models.sdd_fiqa.card import CARDS
from facezoo.testing import fill_from_names

torch = pytest.importorskip("torch")
from facezoo.graphs.export import export_network  # noqa: E402
from facezoo.models.sdd_fiqa.network import build, load_official  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]

GOLDEN = Path(__file__).parent.parent / "golden" / "sdd_fiqa"
MANIFESTS = {"r50": "sddfiqa_r50", "mobilefacenet": "sddfiqa_mfn_qua"}


def filled(variant):
    manifest = json.loads((GOLDEN / f"{MANIFESTS[variant]}.json").read_text())
    weights = fill_from_names(manifest)
    return {name: torch.from_numpy(values) for name, values in weights.items()}


@pytest.mark.parametrize("variant", MANIFESTS)
def test_names_shapes_and_order_are_the_authors(variant):
    manifest = json.loads((GOLDEN / f"{MANIFESTS[variant]}.json").read_text())
    network = build(variant)
    entries = [[name, list(values.shape)] for name, values in network.state_dict().items()]
    assert entries == [tensor[:2] for tensor in manifest["tensors"]]
    assert sum(p.numel() for p in network.parameters()) == manifest["parameters"]


def test_the_small_variant_has_as_many_parameters_as_counted():
    assert sum(p.numel() for p in build("mobilefacenet").parameters()) == 961_409


def test_score_and_stages_equal_the_authors():
    expected = np.load(GOLDEN / "sddfiqa_r50_seed2026.npz")
    network = build("r50").eval()
    network.load_state_dict(filled("r50"))
    stages = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *a, name=name: stages.update({name: a[2].numpy()}))
    rng = np.random.Generator(np.random.PCG64(int(expected["seed"])))
    faces = rng.uniform(-1, 1, tuple(expected["input_shape"])).astype(np.float32)
    with torch.no_grad():
        score = network(torch.from_numpy(faces)).numpy()
    assert score.shape == (1, 1)
    np.testing.assert_allclose(score, expected["quality"], rtol=1e-4)
    recorded = json.loads((GOLDEN / "sddfiqa_r50_seed2026_stages.json").read_text())
    for name, stats in recorded.items():
        values = stages[name].astype(np.float64)
        assert list(values.shape) == stats["shape"]
        assert abs(values.mean() - stats["mean"]) <= 1e-5 * stats["std"]
        assert abs(values.std() - stats["std"]) <= 1e-5 * stats["std"]


@pytest.mark.parametrize("variant", MANIFESTS)
def test_one_score_a_face(variant):
    network = build(variant).eval()
    with torch.no_grad():
        assert network(torch.zeros(3, 3, 112, 112)).shape == (3, 1)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_checkpoints_load_bare_and_wrapped(prefix, tmp_path):
    weights = filled("mobilefacenet")
    torch.save({prefix + name: values for name, values in weights.items()}, tmp_path / "mfn.pth")
    network = build("mobilefacenet")
    load_official(network, tmp_path / "mfn.pth")
    for name, values in network.state_dict().items():
        assert torch.equal(values, weights[name]), name


def test_a_missing_entry_is_refused_where_the_original_keeps_random_weights(tmp_path):
    weights = filled("mobilefacenet")
    del weights["quality.3.weight"]
    torch.save(weights, tmp_path / "mfn.pth")
    network = build("mobilefacenet")
    before = {name: values.clone() for name, values in network.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 missing \(quality\.3\.weight\)"):
        load_official(network, tmp_path / "mfn.pth")
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())


def test_the_other_variant_is_refused(tmp_path):
    torch.save(filled("mobilefacenet"), tmp_path / "mfn.pth")
    with pytest.raises(WeightsError, match="missing"):
        load_official(build("r50"), tmp_path / "mfn.pth")


def test_export_keeps_the_score_and_a_free_batch(tmp_path):
    network = build("mobilefacenet")
    network.load_state_dict(filled("mobilefacenet"))
    contract = Contract.from_card(CARDS["sdd_fiqa_mobilefacenet"])
    worst = export_network(network, tmp_path / "quality.onnx", contract)
    assert worst < 1e-4


def test_an_unknown_variant_is_refused():
    with pytest.raises(CardError, match="no variant 'r100'"):
        build("r100")
