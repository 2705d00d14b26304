"""SCRFD's network against the authors': names, counts, outputs, checkpoints, graphs both ways."""

import dataclasses
import importlib.util
import json
import sys

import cv2
import numpy as np
import onnx
import pytest
from facezoo.backends.ort import run_graph
from facezoo.contract import read_contract
from facezoo.errors import CardError, GraphError, InputError, WeightsError
from facezoo.graphs.info import describe_graph
from facezoo.image.files import read_image_rgb
from facezoo.image.preprocess import VdspOperation
from facezoo.models.scrfd.card import CARDS
from facezoo.models.scrfd.decode import PROFILES, decode
from facezoo.reports.numerics import read_counts
from facezoo.results import RawOutputs
from facezoo.testing import fill_from_names

torch = pytest.importorskip("torch")
from facezoo.graphs.export import count_network, run_network  # noqa: E402
from facezoo.models.scrfd.checkpoint import export_checkpoint, import_released  # noqa: E402
from facezoo.models.scrfd.network import VARIANTS, build, deploy, load_official  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_torch_thread")]

TOLERANCE = 1e-4  # times the output's standard deviation; measured: up to 9e-6

# source: insightface@7fadd42 detection/scrfd/README.md, #Params(M)
PUBLISHED_MILLIONS = {
    "scrfd_500m": 0.57,
    "scrfd_500m_bnkps": 0.57,
    "scrfd_1g": 0.64,
    "scrfd_2.5g": 0.67,
    "scrfd_2.5g_bnkps": 0.82,
    "scrfd_10g": 3.86,
    "scrfd_10g_bnkps": 4.23,
    "scrfd_34g": 9.80,
}


def read_manifest(golden, variant):
    return json.loads((golden / "scrfd" / f"{variant}.json").read_text())


def golden_state_dict(golden, variant):
    weights = fill_from_names(read_manifest(golden, variant))
    return {name: torch.from_numpy(values) for name, values in weights.items()}


def golden_network(golden, variant):
    network = build(variant).eval()
    network.load_state_dict(golden_state_dict(golden, variant))
    return network


def noise(*shape, seed=7):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype(np.float32)


def assert_close(array, reference):
    assert array.shape == reference.shape
    assert np.abs(array - reference).max() <= TOLERANCE * reference.std()


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_shapes_and_order_are_the_authors(golden, variant):
    entries = [[name, list(x.shape)] for name, x in build(variant).state_dict().items()]
    assert entries == [tensor[:2] for tensor in read_manifest(golden, variant)["tensors"]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_macs_are_those_of_the_authors_code(golden, variant):
    manifest = read_manifest(golden, variant)
    network = build(variant)
    for hw in ((640, 640), (480, 640)):
        parameters, macs = count_network(network, hw)
        assert parameters == manifest["parameters"]
        assert macs == manifest["conv_linear_macs"][f"{hw[0]}x{hw[1]} (HxW)"]
    published = PUBLISHED_MILLIONS[variant]
    if variant == "scrfd_500m_bnkps":
        # Printed is the number of the variant without landmarks.
        assert round(parameters / 1e6, 3) == 0.631
    else:
        assert round(parameters / 1e6, 2) == published


@pytest.mark.parametrize(
    "variant, file",
    [
        ("scrfd_500m", "scrfd_500m_seed2026"),
        ("scrfd_2.5g_bnkps", "scrfd_2.5g_bnkps_seed2026"),
        ("scrfd_2.5g_bnkps", "scrfd_2.5g_bnkps_seed2026_320x448"),
        ("scrfd_34g", "scrfd_34g_seed2026"),
    ],
)
def test_outputs_equal_the_authors(golden, variant, file):
    data = np.load(golden / "scrfd" / f"{file}.npz")
    rng = np.random.Generator(np.random.PCG64(int(data["seed"])))
    images = rng.uniform(-1.0, 1.0, tuple(data["input_shape"])).astype(np.float32)
    np.testing.assert_array_equal(images.reshape(-1)[:8], data["input_head"])
    outputs = run_network(golden_network(golden, variant), images)
    assert len(outputs) == len(CARDS[variant].output_names)
    for name, output in zip(CARDS[variant].output_names, outputs):
        assert list(output.shape) == list(data[f"{name}.shape"])
        if name in data:
            picked, expected = output, data[name]
        else:
            picked, expected = output.reshape(-1)[data[f"{name}.idx"]], data[f"{name}.val"]
        mean, std, largest = data[f"{name}.stats"]
        assert np.abs(picked - expected).max() <= TOLERANCE * std
        assert abs(output.astype(np.float64).mean() - mean) <= 1e-5 * std
        assert abs(np.abs(output).max() - largest) <= TOLERANCE * std


def test_unknown_variants_and_odd_sizes_are_refused():
    with pytest.raises(CardError, match=r"scrfd_9g.*scrfd_500m"):
        build("scrfd_9g")
    with pytest.raises(InputError, match=r"100x128.*multiples of 32"):
        build("scrfd_500m")(torch.zeros(1, 3, 100, 128))


# An official checkpoint as mmcv writes it: optimiser, meta, averaged copies of the weights.


def as_bare(state_dict):
    return state_dict


def as_mmcv(state_dict):
    copies = {f"ema_{name.replace('.', '_')}": 0 * x for name, x in state_dict.items()}
    meta = {"epoch": 640, "CLASSES": ("FG",), "hook_msgs": {}}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    return {"meta": meta, "state_dict": {**state_dict, **copies}, "optimizer": optimizer}


def as_parallel(state_dict):
    return {"state_dict": {f"module.{name}": x for name, x in state_dict.items()}}


def as_slim_with_average(state_dict):
    return {"state_dict": {n: x * 0 for n, x in state_dict.items()}, "state_dict_ema": state_dict}


@pytest.mark.parametrize("wrap", [as_bare, as_mmcv, as_parallel, as_slim_with_average])
def test_official_checkpoints_load_however_they_are_wrapped(golden, tmp_path, wrap):
    state_dict = golden_state_dict(golden, "scrfd_500m_bnkps")
    torch.save(wrap(state_dict), tmp_path / "official.pth")
    network = build("scrfd_500m_bnkps")
    load_official(network, tmp_path / "official.pth")
    for name, values in network.state_dict().items():
        assert torch.equal(values, state_dict[name]), name


def test_another_variants_checkpoint_is_refused_and_leaves_the_network_alone(golden, tmp_path):
    torch.save({"state_dict": golden_state_dict(golden, "scrfd_10g")}, tmp_path / "10g.pth")
    network = build("scrfd_2.5g")
    before = {name: values.clone() for name, values in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_official(network, tmp_path / "10g.pth")
    message = str(caught.value)
    assert "missing (backbone.layer2.4.conv1.weight" in message
    assert "unexpected (backbone.layer4.2.conv1.weight" in message
    assert "backbone.stem.0.weight (28, 3, 3, 3) for (12, 3, 3, 3)" in message
    assert len(message.splitlines()) == 1
    assert ", …)" in message
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())


@pytest.fixture(scope="module")
def checkpoints(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for variant in ("scrfd_500m", "scrfd_2.5g_bnkps"):
        torch.save(as_mmcv(golden_state_dict(golden, variant)), folder / f"{variant}.pth")
    return folder


def export(checkpoints, variant, target, **options):
    worst = export_checkpoint(checkpoints / f"{variant}.pth", variant, target, **options)
    assert 0.0 < worst <= 1e-4
    return onnx.load(target)


@pytest.fixture(scope="module")
def free_graphs(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    for variant in ("scrfd_500m", "scrfd_2.5g_bnkps"):
        export(checkpoints, variant, folder / f"{variant}.onnx")
    return folder


@pytest.mark.parametrize("variant", ["scrfd_500m", "scrfd_2.5g_bnkps"])
@pytest.mark.parametrize("shape", [(1, 3, 640, 640), (4, 3, 320, 448)])
def test_free_and_fixed_graphs_give_what_torch_gives(
    golden, checkpoints, free_graphs, tmp_path, variant, shape
):
    target = tmp_path / "fixed.onnx"
    model = export(checkpoints, variant, target, size=shape[2:], batch=shape[0])
    onnx.checker.check_model(model, full_check=True)
    assert "Shape" not in {node.op_type for node in model.graph.node}
    images = noise(*shape)
    fixed = run_graph(target, {"input.1": images})
    free = run_graph(free_graphs / f"{variant}.onnx", {"input.1": images})
    expected = run_network(golden_network(golden, variant), images)
    assert list(free) == list(fixed) == list(CARDS[variant].output_names)
    for name, reference in zip(free, expected):
        assert_close(free[name], reference)
        assert_close(fixed[name], free[name])
    assert read_contract(target).preprocess.input_hw == shape[2:]


def test_a_fixed_size_with_a_free_batch(golden, checkpoints, tmp_path):
    model = export(checkpoints, "scrfd_500m", tmp_path / "x.onnx", size=(64, 96))
    images = noise(3, 3, 64, 96)
    outputs = run_graph(model, {"input.1": images})
    expected = run_network(golden_network(golden, "scrfd_500m"), images)
    for output, reference in zip(outputs.values(), expected):
        assert_close(output, reference)


@pytest.mark.parametrize("variant", ["scrfd_500m", "scrfd_2.5g_bnkps"])
@pytest.mark.parametrize("batch", [1, 4])
def test_opencv_runs_the_graphs(golden, checkpoints, tmp_path, variant, batch):
    target = tmp_path / "fixed.onnx"
    export(checkpoints, variant, target, size=(320, 448), batch=batch)
    images = noise(batch, 3, 320, 448)
    names = CARDS[variant].output_names
    net = cv2.dnn.readNetFromONNX(str(target))
    net.setInput(images)
    outputs = net.forward(names)
    for output, reference in zip(outputs, run_network(golden_network(golden, variant), images)):
        assert_close(output, reference)


def test_exported_graphs_are_folded_and_say_what_they_are(free_graphs):
    path = free_graphs / "scrfd_2.5g_bnkps.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [entry.version for entry in model.opset_import] == [11]
    kinds = {node.op_type for node in model.graph.node}
    # No batch norm and no scale is left, nothing computes shapes, nothing only copies.
    assert kinds == {"Conv", "Relu", "Add", "AveragePool", "MaxPool", "Resize", "Constant"}
    dims = [
        dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim
    ]
    assert dims == ["batch", 3, "height", "width"]
    contract = read_contract(path)
    assert contract.card_id == "scrfd_2.5g_bnkps"
    assert contract.source_sha256
    info = describe_graph(model, (480, 640))
    assert info.macs == 2571091200
    assert dict(info.outputs)["kps_16"] == (1, 20, 30, 40)


def test_the_authors_layout(golden, checkpoints, tmp_path):
    variant = "scrfd_2.5g_bnkps"
    model = export(checkpoints, variant, tmp_path / "rows.onnx", decoded=True)
    with pytest.raises(GraphError, match="carries no contract"):
        read_contract(tmp_path / "rows.onnx")
    images = noise(2, 3, 96, 160)
    rows = run_graph(model, {"input.1": images})
    maps = dict(zip(rows, run_network(golden_network(golden, variant), images)))
    assert [rows[f"{head}_8"].shape for head in ("score", "bbox", "kps")] == [
        (2, 12 * 20 * 2, 1),
        (2, 12 * 20 * 2, 4),
        (2, 12 * 20 * 2, 10),
    ]
    # Cell (3, 5), anchor 1 is row (3 * 20 + 5) * 2 + 1 and channels 4 to 7.
    np.testing.assert_allclose(
        rows["bbox_8"][1, 131], maps["bbox_8"][1, 4:8, 3, 5], rtol=1e-4, atol=1e-4
    )
    logit = maps["score_8"][1, 1, 3, 5]
    np.testing.assert_allclose(rows["score_8"][1, 131, 0], 1 / (1 + np.exp(-logit)), rtol=1e-4)


def test_deploying_changes_the_copy_only(golden):
    network = golden_network(golden, "scrfd_500m")
    images = torch.from_numpy(noise(1, 3, 64, 64))
    deployed = deploy(network)
    assert not [name for name in deployed.state_dict() if "scale" in name]
    assert [name for name in network.state_dict() if "scale" in name]
    with torch.no_grad():
        for ours, reference in zip(deployed(images), network(images)):
            assert_close(ours.numpy(), reference.numpy())


def test_refused_exports_write_nothing(checkpoints, tmp_path):
    source = checkpoints / "scrfd_500m.pth"
    with pytest.raises(WeightsError, match="does not fit"):
        export_checkpoint(source, "scrfd_1g", tmp_path / "x.onnx")
    with pytest.raises(InputError, match="multiples of 32"):
        export_checkpoint(source, "scrfd_500m", tmp_path / "x.onnx", size=(100, 100))
    assert not list(tmp_path.iterdir())


RELEASED = {
    "scrfd_500m.onnx": "scrfd_500m_bnkps",
    "scrfd_500m_bnkps.onnx": "scrfd_500m_bnkps",
    "scrfd_500m_bnkps_static640.onnx": "scrfd_500m_bnkps",
    "scrfd_2.5g.onnx": "scrfd_2.5g_bnkps",
}


@pytest.mark.shared
@pytest.mark.parametrize("file", RELEASED)
def test_imported_weights_give_what_the_released_file_gives(shared, tmp_path, file):
    source = shared / "assets" / "scrfd" / file
    card, worst = import_released(source, tmp_path / "imported.pth")
    assert card.id == RELEASED[file]
    assert worst <= 1e-4
    network = build(card.id).eval()
    load_official(network, tmp_path / "imported.pth")
    operation = VdspOperation(card.preprocess)
    for photo, faces in (("src_meeting.jpg", 5), ("view_noface.jpg", 0)):
        tensor, placement = operation(read_image_rgb(shared / "assets" / "photos" / photo))
        released = run_graph(source, {"input.1": tensor[None]})
        rows = run_network(deploy(network, decoded=True), tensor[None])
        for ours, reference in zip(rows, released.values()):
            assert np.abs(ours.reshape(reference.shape) - reference).max() <= 1e-4
        maps = dict(zip(card.output_names, run_network(network, tensor[None])))
        (found,) = decode(RawOutputs(maps, (placement,)), **card.decode, profile=PROFILES["demo"])
        assert len(found) == faces


@pytest.mark.shared
def test_imported_weights_find_the_authors_faces(shared, tmp_path):
    authors = np.load(shared / "golden" / "numerics" / "scrfd_detect.npz")
    source = shared / "assets" / "scrfd" / "scrfd_500m_bnkps.onnx"
    card, _ = import_released(source, tmp_path / "imported.pth")
    network = build(card.id).eval()
    load_official(network, tmp_path / "imported.pth")
    # The authors' runner puts the picture in the corner and scales both axes by the height.
    theirs = dataclasses.replace(card.preprocess, anchor="top_left", axis_scale="height")
    photo = read_image_rgb(shared / "assets" / "photos" / "t1.jpg")
    tensor, placement = VdspOperation(theirs)(photo)
    maps = dict(zip(card.output_names, run_network(network, tensor[None])))
    (found,) = decode(RawOutputs(maps, (placement,)), **card.decode, profile=PROFILES["demo"])
    np.testing.assert_allclose(found.boxes_xyxy, authors["t1_jpg.t0.5.boxes"], atol=0.05)
    np.testing.assert_allclose(found.landmarks_xy, authors["t1_jpg.t0.5.kps"], atol=0.05)
    np.testing.assert_allclose(found.scores, authors["t1_jpg.t0.5.scores"], atol=1e-4)


def test_graphs_without_every_weight_are_not_imported(checkpoints, tmp_path):
    # Group norms and folded scales leave no weights under their own names.
    for variant in ("scrfd_500m", "scrfd_2.5g_bnkps"):
        export(checkpoints, variant, tmp_path / f"{variant}.onnx", size=(640, 640), batch=1)
        with pytest.raises(WeightsError, match=r"lacks .* of this network's parameters"):
            import_released(tmp_path / f"{variant}.onnx", tmp_path / "imported.pth")
    assert not (tmp_path / "imported.pth").exists()


@pytest.fixture(scope="module")
def import_script(repository):
    path = repository / "face_detection" / "scrfd" / "source_code" / "import_onnx.py"
    spec = importlib.util.spec_from_file_location("scrfd_import_onnx", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.shared
def test_the_import_script(shared, tmp_path, capsys, import_script):
    source = shared / "assets" / "scrfd" / "scrfd_2.5g.onnx"
    target = tmp_path / "imported.pth"
    assert import_script.main(["--onnx", str(source), "--output", str(target)]) == 0
    assert "scrfd_2.5g_bnkps" in capsys.readouterr().out
    load_official(build("scrfd_2.5g_bnkps"), target)


def test_the_import_script_says_in_one_line_what_is_wrong(tmp_path, capsys, import_script):
    missing = tmp_path / "missing.onnx"
    assert import_script.main(["--onnx", str(missing), "--output", str(tmp_path / "x.pth")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_import_script_says_when_torch_is_missing(tmp_path, capsys, monkeypatch, import_script):
    monkeypatch.setitem(sys.modules, "facezoo.models.scrfd.checkpoint", None)
    assert import_script.main(["--onnx", "x.onnx", "--output", str(tmp_path / "x.pth")]) == 2
    assert "pip install torch" in capsys.readouterr().err


def test_the_counts_on_the_page_are_the_networks(repository):
    counts = read_counts(repository / "face_detection" / "scrfd" / "counts.json")
    assert list(counts) == list(CARDS)
    for variant, count in counts.items():
        found = count_network(build(variant), tuple(count["input_hw"]))
        assert found == (count["parameters"], count["macs"]), variant
