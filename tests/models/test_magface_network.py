"""MagFace's networks against the authors': names, shapes, outputs, and which checkpoints load."""

import json
from pathlib import Path

import facezoo
import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.contract import read_contract
from facezoo.errors import CardError, WeightsError
from facezoo.testing import fill_from_names

torch = pytest.importorskip("torch")
from facezoo.models.magface.network import (  # noqa: E402
    BLOCKS,
    MagFace,
    build,
    load_arcface,
    load_official,
)

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]

GOLDEN = Path(__file__).parent.parent / "golden" / "magface"
TOLERANCE = 1e-4  # times the standard deviation; measured: 0 on the machine of the recording
PREFIXES = json.loads((GOLDEN / "magface_checkpoint_prefixes.json").read_text())["results"]
ACCEPTED = ("module.features.", "features.module.", "features.")


def read_manifest(variant):
    return json.loads((GOLDEN / f"{variant}.json").read_text())


def filled(variant):
    weights = fill_from_names(read_manifest(variant))
    return {name: torch.from_numpy(values) for name, values in weights.items()}


@pytest.fixture(scope="module")
def weights18():
    return filled("iresnet18")


def run(variant, weights):
    """Return the recorded output and ours, and the outputs of inner modules by name."""
    expected = np.load(GOLDEN / f"{variant}_seed2026.npz")
    network = build(variant).eval()
    network.load_state_dict(weights)
    stages = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *a, name=name: stages.update({name: a[2].numpy()}))
    rng = np.random.Generator(np.random.PCG64(int(expected["seed"])))
    faces = rng.uniform(-1, 1, tuple(expected["input_shape"])).astype(np.float32)
    with torch.no_grad():
        return expected, network(torch.from_numpy(faces)).numpy(), stages


@pytest.mark.parametrize("variant", BLOCKS)
def test_names_shapes_and_order_are_the_authors(variant):
    manifest = read_manifest(variant)
    network = build(variant)
    entries = [[name, list(values.shape)] for name, values in network.state_dict().items()]
    assert entries == [tensor[:2] for tensor in manifest["tensors"]]
    assert sum(p.numel() for p in network.parameters()) == manifest["parameters"]
    assert {p.device.type for p in network.parameters()} == {"cpu"}


@pytest.mark.parametrize("variant", ["iresnet18", "iresnet50"])
def test_embedding_and_stages_equal_the_authors(variant, weights18):
    weights = weights18 if variant == "iresnet18" else filled(variant)
    expected, embedding, stages = run(variant, weights)
    _, std, largest = expected["embedding.stats"]
    assert embedding.shape == (1, 512)
    assert np.abs(embedding - expected["embedding"]).max() <= TOLERANCE * std
    assert abs(np.abs(embedding).max() - largest) <= TOLERANCE * std
    recorded = json.loads((GOLDEN / f"{variant}_seed2026_stages.json").read_text())
    for name, stats in recorded.items():
        values = stages[name].astype(np.float64)
        assert list(values.shape) == stats["shape"]
        assert abs(values.mean() - stats["mean"]) <= 1e-5 * stats["std"]
        assert abs(values.std() - stats["std"]) <= 1e-5 * stats["std"]


def test_the_usual_eps_of_batch_norms_would_fail(weights18, monkeypatch):
    from facezoo.models.magface import network

    monkeypatch.setitem(network.NORM, "eps", 1e-5)
    expected, embedding, _ = run("iresnet18", weights18)
    std = expected["embedding.stats"][1]
    assert np.abs(embedding - expected["embedding"]).max() > TOLERANCE * std


def save(path, weights, pattern):
    """Save a checkpoint as the authors do: a classifier, an optimiser and an epoch beside it."""
    renamed = {
        pattern.replace("<name>", name[len("features.") :]): values
        for name, values in weights.items()
    }
    extra = {"fc.weight": torch.zeros(2, 512), "module.fc.weight": torch.zeros(2, 512)}
    state = {"epoch": 25, "state_dict": {**extra, **renamed}, "optimizer": {"lr": 0.1}}
    torch.save(state, path)


@pytest.mark.parametrize("prefix", ACCEPTED)
def test_official_checkpoints_load_with_every_prefix(prefix, weights18, tmp_path):
    save(tmp_path / "magface.pth", weights18, f"{prefix}<name>")
    network = build("iresnet18")
    load_official(network, tmp_path / "magface.pth")
    for name, values in network.state_dict().items():
        assert torch.equal(values, weights18[name]), name


@pytest.mark.parametrize(
    "pattern",
    [
        p["example"].replace(" (no prefix)", "")
        for p in PREFIXES
        if "one tensor" not in p["example"]
    ],
)
def test_what_the_original_loads_by_name_loads_and_the_rest_does_not(pattern, weights18, tmp_path):
    save(tmp_path / "magface.pth", weights18, pattern)
    network = build("iresnet18")
    if pattern.replace("<name>", "") in ACCEPTED:
        load_official(network, tmp_path / "magface.pth")
        return
    before = network.features.conv1.weight.clone()
    with pytest.raises(WeightsError, match="missing"):
        load_official(network, tmp_path / "magface.pth")
    assert torch.equal(network.features.conv1.weight, before)


# insightface's arcface_torch ----------------------------------------------------------------------


def arcface(blocks=(1, 2, 1, 1), size=128):
    """A network as arcface_torch builds it, with statistics for which its eps matters."""
    torch.manual_seed(3)
    network = MagFace(blocks, size)
    for layer in network.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.running_var.uniform_(1e-5, 1e-4)
            layer.weight.data.uniform_(1e-3, 1e-2)
            layer.eps = 1e-5
    return network.eval()


@pytest.mark.parametrize("key", [None, "state_dict_backbone"])
def test_a_backbone_of_arcface_torch_becomes_a_network_of_rgb(tmp_path, key):
    network = arcface()
    state = network.features.state_dict()
    torch.save({key: state, "epoch": 1} if key else state, tmp_path / "backbone.pth")
    words = ["arcface_rgb", tmp_path / "backbone.pth", "--output", tmp_path / "arcface.onnx"]
    assert main(["export", *map(str, words)]) == 0
    contract = read_contract(tmp_path / "arcface.onnx")
    assert contract.card_id == "arcface_rgb" and not contract.preprocess.swaps_channels
    image = np.random.default_rng(1).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    with facezoo.load(tmp_path / "arcface.onnx", kind=facezoo.FaceEmbedder) as model:
        found = model(image).vector
    rgb = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)[None])
    with torch.no_grad():
        expected = network((rgb / 255 - 0.5) / 0.5)[0].numpy()
    assert found.shape == (128,)
    assert np.abs(found - expected).max() <= 1e-4 * expected.std()


def test_a_backbone_of_arcface_torch_is_no_magface(tmp_path):
    torch.save(arcface().features.state_dict(), tmp_path / "backbone.pth")
    with pytest.raises(
        WeightsError, match=r"arcface_torch with \(1, 2, 1, 1\) blocks.*--card arcf"
    ):
        load_official(build("iresnet18"), tmp_path / "backbone.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conv_sep.layers.0.weight", "is a MobileFaceNet of insightface's arcface_torch"),
        ("patch_embed.proj.weight", "is a vision transformer of insightface's arcface_torch"),
        ("features.conv1.weight", "is not an iresnet of insightface's arcface_torch"),
    ],
)
def test_other_backbones_say_what_they_are(tmp_path, name, message):
    torch.save({name: torch.zeros(2)}, tmp_path / "backbone.pth")
    with pytest.raises(WeightsError, match=message):
        load_arcface(tmp_path / "backbone.pth")


@pytest.mark.parametrize("spoiled", ["missing", "shape", "unknown"])
def test_checkpoints_that_do_not_fit_are_refused_by_name(spoiled, weights18, tmp_path):
    weights = dict(weights18)
    if spoiled == "missing":
        del weights["features.layer2.0.prelu.weight"]
    elif spoiled == "shape":
        weights["features.layer2.0.prelu.weight"] = torch.zeros(64)
    else:
        weights["features.layer2.0.prelu.weight2"] = torch.zeros(64)
    save(tmp_path / "magface.pth", weights, "features.module.<name>")
    with pytest.raises(WeightsError, match=r"layer2\.0\.prelu\.weight"):
        load_official(build("iresnet18"), tmp_path / "magface.pth")


def test_another_depth_is_refused(weights18, tmp_path):
    save(tmp_path / "magface.pth", weights18, "features.<name>")
    with pytest.raises(WeightsError, match="missing"):
        load_official(build("iresnet34"), tmp_path / "magface.pth")


def test_an_unknown_variant_is_refused():
    with pytest.raises(CardError, match=r"no variant 'iresnet101'; expected one of \['iresnet18'"):
        build("iresnet101")
