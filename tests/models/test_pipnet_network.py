"""PIPNet's networks against the authors': parameter names, shapes, counts and outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
from facezoo.errors import InputError, WeightsError
from facezoo.testing import fill_from_names

torch = pytest.importorskip("torch")
from facezoo.graphs.export import load_checkpoint  # noqa: E402
from facezoo.models.pipnet.network import BACKBONES, build  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]

OUTPUTS = ("cls", "x", "y", "nb_x", "nb_y")
MANIFESTS = {
    "resnet18": "pip_resnet18",
    "resnet101": "pip_resnet101",
    "mobilenet_v2": "pip_mbnetv2",
    "mobilenet_v3": "pip_mbnetv3",
}
TOLERANCE = 1e-4  # times the output's standard deviation; measured: 6e-7 (r18), 3e-6 (mbv3)


def read_manifest(golden: Path, backbone: str):
    return json.loads((golden / "pipnet" / f"{MANIFESTS[backbone]}.json").read_text())


def filled(manifest):
    weights = fill_from_names(manifest)
    return {name: torch.from_numpy(np.asarray(values)) for name, values in weights.items()}


@pytest.mark.parametrize("backbone", MANIFESTS)
def test_names_shapes_and_order_are_the_authors(golden, backbone):
    manifest = read_manifest(golden, backbone)
    network = build(backbone)
    entries = [[name, list(values.shape)] for name, values in network.state_dict().items()]
    assert entries == [tensor[:2] for tensor in manifest["tensors"]]
    assert sum(p.numel() for p in network.parameters()) == manifest["parameters"]


def test_resnet50_has_as_many_parameters_as_published():
    # Counted as the seed counts: 28.126 M with 98 landmarks.
    parameters = sum(p.numel() for p in build("resnet50").parameters())
    assert round(parameters / 1e6, 3) == 28.126


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3"])
def test_outputs_equal_the_authors(golden, backbone):
    manifest = read_manifest(golden, backbone)
    expected = np.load(golden / "pipnet" / f"{MANIFESTS[backbone]}_seed2026.npz")
    network = build(backbone).eval()
    network.load_state_dict(filled(manifest))
    rng = np.random.Generator(np.random.PCG64(int(expected["seed"])))
    image = rng.uniform(-1, 1, tuple(expected["input_shape"])).astype(np.float32)
    assert np.array_equal(image.ravel()[:8], expected["input_head"])
    with torch.no_grad():
        outputs = network(torch.from_numpy(image))
    assert len(outputs) == len(OUTPUTS)
    for name, output in zip(OUTPUTS, outputs):
        values = output.numpy()
        assert values.shape == tuple(expected[f"{name}.shape"])
        if name in expected:
            picked, recorded = values, expected[name]
        else:
            picked, recorded = values.ravel()[expected[f"{name}.idx"]], expected[f"{name}.val"]
        mean, std, largest = expected[f"{name}.stats"]
        assert np.abs(picked - recorded).max() <= TOLERANCE * std
        assert abs(values.mean() - mean) <= 1e-5 * std
        assert abs(values.std() - std) <= 1e-5 * std
        assert abs(np.abs(values).max() - largest) <= 1e-4 * std


def test_an_official_checkpoint_loads_strictly(golden, tmp_path):
    weights = filled(read_manifest(golden, "mobilenet_v3"))
    torch.save(weights, tmp_path / "epoch59.pth")
    network = build("mobilenet_v3")
    load_checkpoint(network, tmp_path / "epoch59.pth")
    assert torch.equal(network.nb_y_layer.bias, weights["nb_y_layer.bias"])


@pytest.mark.parametrize("spoiled", ["missing", "unknown", "landmarks"])
def test_a_checkpoint_that_does_not_fit_is_refused(golden, tmp_path, spoiled):
    weights = filled(read_manifest(golden, "mobilenet_v3"))
    if spoiled == "missing":
        del weights["y_layer.bias"]
    elif spoiled == "unknown":
        weights["z_layer.bias"] = torch.zeros(98)
    torch.save(weights, tmp_path / "epoch59.pth")
    network = build("mobilenet_v3", num_landmarks=68 if spoiled == "landmarks" else 98)
    with pytest.raises(WeightsError):
        load_checkpoint(network, tmp_path / "epoch59.pth")


@pytest.mark.parametrize("net_stride", [16, 32, 64, 128])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3"])
def test_any_landmarks_neighbours_size_and_stride(backbone, net_stride):
    network = build(backbone, 5, 3, input_size=128, net_stride=net_stride).eval()
    with torch.no_grad():
        outputs = network(torch.zeros(2, 3, 128, 128))
    cells = 128 // net_stride
    shapes = [tuple(output.shape) for output in outputs]
    assert shapes == [(2, 5, cells, cells)] * 3 + [(2, 15, cells, cells)] * 2
    assert (network.input_size, network.net_stride) == (128, net_stride)
    assert (network.num_landmarks, network.num_neighbors) == (5, 3)


def test_layers_of_other_strides_have_the_authors_names():
    added = {
        stride: {name.split(".")[0] for name in build("resnet18", net_stride=stride).state_dict()}
        - {name.split(".")[0] for name in build("resnet18").state_dict()}
        for stride in (16, 64, 128)
    }
    assert added[16] == {"deconv1", "bn_deconv1"}
    assert added[64] == {"layer5", "bn5"}
    assert added[128] == {"layer5", "bn5", "layer6", "bn6"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_fresh_networks_start_near_zero_as_the_authors_do(backbone):
    network = build(backbone)
    for name in OUTPUTS:
        head = getattr(network, f"{name}_layer")
        assert 0.0009 < head.weight.std() < 0.0011
        assert not head.bias.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet34"}, r"no backbone 'resnet34'; expected one of \['resnet18'"),
        ({"net_stride": 8}, r"net_stride must be one of \[16, 32, 64, 128\], got 8"),
        ({"input_size": 250}, "input_size must be a multiple of 32, got 250"),
        ({"input_size": 0}, "input_size must be a multiple of 32, got 0"),
        ({"num_landmarks": 10}, "num_neighbors must be from 1 to 9 for 10 landmarks, got 10"),
        ({"num_neighbors": 0}, "got 0"),
    ],
)
def test_networks_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build(**{"backbone": "resnet18", **settings})
