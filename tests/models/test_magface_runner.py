"""The MagFace recipe's runner, npz route and export as a user starts them."""

import json

import facezoo
import numpy as np
import onnx
import pytest
from facezoo.contract import read_contract
from facezoo.datasets.pairs import read_feature_list
from facezoo.errors import GraphError, InputError
from facezoo.evaluation.features import stream_batches
from facezoo.evaluation.recognition import evaluate_people
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.models.magface.graph import export_released
from facezoo.pipeline.load import load
from facezoo.pipeline.photo import Predictor
from facezoo.testing import tiny_magface, tiny_scrfd
from onnx import helper

RECIPE = "face_recognition/magface"


@pytest.fixture
def scripts(run_here):
    """Run a script of the recipe by its short name, or a verb."""
    paths = {
        "runner": f"{RECIPE}/build_in/vsx/python/magface_vsx.py",
        "decode": f"{RECIPE}/build_in/decode/decode_vamp.py",
        "export": f"{RECIPE}/source_code/export_onnx.py",
        "image2npz": "common/utils/image2npz.py",
    }

    return lambda name, *arguments: run_here(paths.get(name, name), *arguments)


@pytest.fixture
def model(tmp_path):
    return tiny_magface(tmp_path / "tiny.onnx")


@pytest.fixture
def faces(tmp_path):
    """Four people with three noisy pictures each, 112x112."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "faces"
    for person in range(4):
        face = rng.integers(0, 256, (7, 7, 3)).repeat(16, 0).repeat(16, 1)
        for number in range(3):
            noisy = np.clip(face + rng.normal(0, 8, face.shape), 0, 255).astype(np.uint8)
            write_image_rgb(folder / f"person{person}" / f"{number}.png", noisy)
    return folder


def arrays_of(folder):
    with np.load(folder / "embeddings.npz", allow_pickle=False) as file:
        return dict(file)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_runner_writes_json_text_and_arrays(tmp_path, scripts, model, faces):
    out = tmp_path / "out"
    code, said, _ = scripts(
        "runner", "--file_path", faces, "--model_prefix_path", model, "--save_dir", out
    )
    assert code == 0
    assert "12 images" in said
    entries = json.loads((out / "results.json").read_text())["images"]
    listed, arrays = read_feature_list(out / "feat.list"), arrays_of(out)
    assert list(listed.names) == arrays["names"].tolist() == [e["path"] for e in entries]
    assert listed.names[0] == "person0/0.png"
    np.testing.assert_array_equal(listed.vectors, arrays["vectors"])
    np.testing.assert_array_equal(
        listed.vectors, [np.float32(entry["embedding"]) for entry in entries]
    )
    np.testing.assert_allclose(arrays["norms"], np.linalg.norm(listed.vectors, axis=1), rtol=1e-12)


def test_a_list_gives_the_same_and_pairs_their_similarity(tmp_path, scripts, model, faces):
    (faces / "img.list").write_text("person0/0.png 7\nperson0/1.png 7\nperson1/0.png 8\n")
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("person0/0.png person0/1.png 1\nperson0/0.png person1/0.png 0\n")
    out = tmp_path / "out"
    flags = ("--model_prefix_path", model, "--save_dir", out, "--pairs", pairs)
    code, said, _ = scripts("runner", "--file_path", faces / "img.list", *flags)
    assert code == 0
    vectors = dict(zip(arrays_of(out)["names"].tolist(), arrays_of(out)["vectors"].astype(float)))
    same = cosine(vectors["person0/0.png"], vectors["person0/1.png"])
    other = cosine(vectors["person0/0.png"], vectors["person1/0.png"])
    assert same > 0.95 > other
    assert f"person0/0.png person0/1.png {same:.4f}" in said
    assert "accuracy 1.00000" in said
    rows = (out / "pairs.csv").read_text().splitlines()
    assert rows[0] == "first,second,cosine,same"
    assert rows[2] == f"person0/0.png,person1/0.png,{other:.6f},0"
    pairs.write_text("person0/0.png person9/0.png 1\n")
    code, _, error = scripts("runner", "--file_path", faces / "img.list", *flags)
    assert code == 2
    assert "line 1: 'person9/0.png' has no embedding" in error
    pairs.write_text("person0/0.png person0/1.png yes\n")
    assert scripts("runner", "--file_path", faces / "img.list", *flags)[0] == 2


def test_vamp_and_the_decoder_give_the_runners_files(tmp_path, scripts, model, faces):
    inputs, listed, outputs = (tmp_path / name for name in ("inputs", "list.txt", "outputs"))
    runner, decoded = tmp_path / "runner", tmp_path / "decoded"
    common = ("--model_prefix_path", model, "--save_dir", runner)
    assert scripts("runner", "--file_path", faces, *common)[0] == 0
    paths = ("--target_path", inputs, "--text_path", listed)
    assert scripts("image2npz", "--dataset_path", faces, *paths)[0] == 0
    where = ("--datalist", listed, "--path_output", outputs)
    assert scripts("vamp", "-m", model, "-i", 1, "-b", 1, *where)[0] == 0
    flags = ("--vamp_datalist_path", listed, "--vamp_output_dir", outputs)
    code, said, _ = scripts("decode", *flags, "--save_dir", decoded)
    assert code == 0
    assert "12 images" in said
    for name in ("results.json", "feat.list", "embeddings.npz"):
        assert (runner / name).read_bytes() == (decoded / name).read_bytes(), name
    (outputs / "output_000003.npz").unlink()
    code, _, error = scripts("decode", *flags, "--save_dir", tmp_path / "again")
    assert code == 2
    assert "output_000003.npz' is missing" in error


def test_an_interrupted_run_goes_on_and_a_bad_picture_is_named(tmp_path, scripts, model, faces):
    (faces / "person1" / "broken.png").write_bytes(b"")
    flags = ("--file_path", faces, "--model_prefix_path", model)
    code, _, error = scripts("runner", *flags, "--save_dir", tmp_path / "whole")
    assert code == 1
    assert "broken.png' is empty" in error
    assert "without an embedding: 1 image" in error
    whole = (tmp_path / "whole" / "feat.list").read_bytes()
    assert len(whole.splitlines()) == 12
    # A run that was stopped: journal and run.json of five items, no results.
    part = tmp_path / "part"
    scripts("runner", *flags, "--save_dir", part)
    entries = json.loads((part / "results.json").read_text())["images"][:5]
    journal = "".join(json.dumps(entry) + "\n" for entry in entries)
    for name in ("results.json", "feat.list", "embeddings.npz"):
        (part / name).unlink()
    (part / ".items.jsonl").write_text(journal)
    run = json.loads((part / "run.json").read_text())
    (part / "run.json").write_text(json.dumps({**run, "finished": False, "refused": 0}))
    code, said, _ = scripts("runner", *flags, "--save_dir", part)
    assert code == 1
    assert "5 kept from an earlier run" in said
    assert (part / "feat.list").read_bytes() == whole


def test_photos_are_detected_aligned_and_embedded(tmp_path, scripts, model, rng):
    detector = tiny_scrfd(tmp_path / "scrfd.onnx")
    photo = np.full((64, 64, 3), 12, np.uint8)
    photo[8:24, 8:24] = 250
    photo[40:48, 40:48] = 250
    write_image_rgb(tmp_path / "photos" / "two.png", photo)
    write_image_rgb(tmp_path / "photos" / "none.png", np.zeros((64, 64, 3), np.uint8))
    out = tmp_path / "out"
    code, _, error = scripts(
        "runner", "--file_path", tmp_path / "photos", "--detector", detector,
        "--model_prefix_path", model, "--save_dir", out,
    )  # fmt: skip
    assert code == 0
    assert "without an embedding: 1 image, the first is none.png" in error
    entries = {e["path"]: e for e in json.loads((out / "results.json").read_text())["images"]}
    assert entries["none.png"]["faces"] == []
    found = entries["two.png"]["faces"]
    assert len(found) >= 1
    boxes = np.array([face["box_xyxy"] for face in found])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    largest = np.float32(found[int(np.argmax(areas))]["embedding"])
    np.testing.assert_array_equal(arrays_of(out)["vectors"], [largest])


def test_flip_adds_the_mirrored_face(model, rng):
    image = rng.integers(0, 256, (112, 112, 3)).astype(np.uint8)
    with load(model) as plain, load(model, flip="sum") as both:
        mirrored = np.ascontiguousarray(image[:, ::-1])
        expected = plain(image).vector + plain(mirrored).vector
        np.testing.assert_array_equal(both(image).vector, expected)
        assert plain.settings()["flip"] == "none"
        assert both.settings()["flip"] == "sum"
    with pytest.raises(InputError, match="flip must be one of none, sum"):
        load(model, flip="mean")


@pytest.mark.parametrize("size", [1, 5, 100])
def test_batches_give_what_single_pictures_give(model, faces, size):
    paths = sorted(faces.rglob("*.png"))
    (faces / "gone.png").write_bytes(b"no picture")
    paths.insert(3, faces / "gone.png")
    with load(model) as embedder:
        found = list(stream_batches(embedder, paths, size))
        assert len(found) == len(paths) and isinstance(found[3], Exception)
        for path, embedding in zip(paths, found):
            if path == paths[3]:
                continue
            alone = embedder(read_image_rgb(path)).vector
            np.testing.assert_allclose(embedding.vector, alone, rtol=1e-4, atol=1e-4)
        with pytest.raises(InputError, match="must be at least 1"):
            next(stream_batches(embedder, paths, 0))


def test_people_are_told_apart_and_recorded(tmp_path, scripts, model, faces):
    numbers, report = tmp_path / "numerics.json", tmp_path / "people.json"
    code, said, _ = scripts(
        "evaluate", "verification", "--images", faces, "--model_prefix_path", model,
        "--record", numbers, "--json", report, "--dataset", "Noise",
    )  # fmt: skip
    assert code == 0
    assert "12 images of 4 people\n" in said
    assert "Accuracy: 1.00000+-0.00000" in said
    assert "12 genuine and 12 impostor pairs" in said
    (result,) = json.loads(numbers.read_text())["results"]
    assert result["dataset"] == "Noise, 4 people, 12 images, not aligned"
    assert result["metrics"]["accuracy at the best threshold"]["value"] == 100
    content = json.loads(report.read_text())
    assert content["sets"][0]["pairs"] == {"genuine": 12, "impostor": 12}
    flags = ("--images", faces, "--model_prefix_path", model, "--all-pairs")
    _, said, _ = scripts("evaluate", "verification", *flags)
    assert "12 genuine and 54 impostor pairs" in said
    assert "refused" in content["sets"][0]["operating_points"][0]


def test_a_photo_without_a_face_is_counted(tmp_path, model, faces):
    write_image_rgb(faces / "person0" / "black.png", np.zeros((112, 112, 3), np.uint8))
    for path in faces.rglob("*.png"):
        photo = read_image_rgb(path)
        photo[:] = np.minimum(photo, 20)
        photo[32:64, 32:64] = 0 if path.stem == "black" else 250
        write_image_rgb(path, photo)
    detector = facezoo.load(tiny_scrfd(tmp_path / "scrfd.onnx"))
    with Predictor(detector, embedder=facezoo.load(model)) as photos:
        report = evaluate_people(photos, faces, "squares")
    assert (report.pictures, report.with_face, report.people) == (13, 12, 4)


# Export -------------------------------------------------------------------------------------------


def without_contract(source, target, batch=None):
    graph = onnx.load(source)
    del graph.metadata_props[:]
    graph.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    if batch:
        graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(graph, target)
    return target


def test_a_released_graph_gets_names_contract_and_batch(tmp_path, scripts, model):
    source = without_contract(model, tmp_path / "other.onnx")
    target = tmp_path / "named.onnx"
    code, said, _ = scripts(
        "export", "--onnx", source, "--card", "magface_iresnet50", "--output", target
    )
    assert code == 0
    assert "magface_iresnet50, output embedding" in said
    contract = read_contract(target)
    assert (contract.card_id, contract.input_name) == ("magface_iresnet50", "input")
    assert contract.preprocess.swaps_channels
    graph = onnx.load(target).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    image = np.random.default_rng(1).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    with load(target) as bgr, load(model) as rgb:
        assert cosine(bgr(image).vector, rgb(image).vector) < 0.9
    code, _, error = scripts("export", "--onnx", source, "--output", target)
    assert code == 2
    assert "give its card: --card" in error
    assert scripts("export", "--onnx", source, "--arch", "iresnet18", "--output", target)[0] == 2


def test_a_graph_that_mixes_its_batch_is_refused(tmp_path, model):
    graph = onnx.load(without_contract(model, tmp_path / "other.onnx"))
    mean = helper.make_node("ReduceMean", ["516"], ["mean"], axes=[0], keepdims=1)
    graph.graph.node.extend([mean, helper.make_node("Sub", ["516", "mean"], ["out"])])
    graph.graph.output[0].name = "out"
    onnx.save(graph, tmp_path / "mixed.onnx")
    with pytest.raises(GraphError, match="changes with the batch"):
        export_released(tmp_path / "mixed.onnx", tmp_path / "x.onnx", card_id="w600k_mbf")
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.torch
def test_a_checkpoint_becomes_a_graph_that_agrees_with_torch(tmp_path, scripts):
    torch = pytest.importorskip("torch")
    from facezoo.models.magface.network import build

    torch.manual_seed(1)
    network = build("iresnet18")
    state = {f"features.module.{k[9:]}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": {**state, "module.fc.weight": torch.ones(3)}}, tmp_path / "a.pth")
    target = tmp_path / "a.onnx"
    flags = ("--checkpoint", tmp_path / "a.pth", "--output", target)
    code, said, _ = scripts("export", *flags, "--arch", "iresnet18", "--batch", "1")
    assert code == 0
    assert "magface_iresnet18, output embedding" in said
    image = np.random.default_rng(1).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    with load(target) as embedder:
        found = embedder(image).vector
    bgr = torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1)[None] / np.float32(255))
    expected = network.eval()(bgr).detach().numpy()[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.std())
    assert scripts("export", *flags)[0] == 2
    assert scripts("export", *flags, "--arch", "iresnet34")[0] == 2


@pytest.mark.shared
def test_the_released_recogniser_is_known_by_its_hash(tmp_path, shared):
    source = shared / "assets" / "recognition" / "w600k_mbf.onnx"
    card, worst = export_released(source, tmp_path / "w.onnx")
    assert card.id == "w600k_mbf"
    assert worst <= 1e-5
    aligned = read_image_rgb(shared / "assets" / "photos" / "Tom_Hanks_54745.png")
    with load(tmp_path / "w.onnx") as embedder:
        assert 15 < embedder(aligned).norm < 35


# The AT&T faces -----------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.shared
def test_people_of_att_are_told_apart_aligned_and_less_so_unaligned(tmp_path, shared):
    from facezoo.models.scrfd.graph import export_released as export_detector

    assets = shared / "assets"
    export_detector(assets / "scrfd" / "scrfd_500m_bnkps.onnx", tmp_path / "d.onnx")
    export_released(assets / "recognition" / "w600k_mbf.onnx", tmp_path / "r.onnx")
    detector = facezoo.load(tmp_path / "d.onnx")
    with Predictor(detector, embedder=facezoo.load(tmp_path / "r.onnx")) as photos:
        report = evaluate_people(photos, assets / "att_faces", "AT&T")
    assert (report.pictures, report.with_face, report.people) == (300, 300, 30)
    found = report.verification
    assert (found.genuine, found.impostors) == (1350, 1350)
    assert found.best_accuracy >= 0.99
    assert found.accuracy >= 0.99
    assert found.interval[0] >= 0.99
    with load(tmp_path / "r.onnx") as crops:
        plain = evaluate_people(crops, assets / "att_faces", "AT&T").verification
    assert 0.97 <= plain.best_accuracy <= 0.995


@pytest.mark.long
@pytest.mark.shared
def test_all_routes_agree_on_the_faces_of_att(tmp_path, shared, repository, scripts):
    export_released(shared / "assets" / "recognition" / "w600k_mbf.onnx", tmp_path / "r.onnx")
    faces = tmp_path / "faces"
    for path in sorted((shared / "assets" / "att_faces").rglob("*.pgm")):
        name = f"{path.parent.name}/{path.stem}.png"
        write_image_rgb(faces / name, read_image_rgb(path))
    vdsp = repository / RECIPE / "build_in/vdsp_params/official-w600k_mbf-vdsp_params.json"
    flags = ("--model_prefix_path", tmp_path / "r.onnx", "--vdsp_params_info", vdsp)
    assert scripts("runner", "--file_path", faces, *flags, "--save_dir", tmp_path / "a")[0] == 0
    inputs, listed, outputs = (tmp_path / name for name in ("inputs", "list.txt", "outputs"))
    paths = ("--target_path", inputs, "--text_path", listed)
    assert scripts("image2npz", "--dataset_path", faces, *paths)[0] == 0
    where = ("--datalist", listed, "--path_output", outputs)
    assert scripts("vamp", "-m", tmp_path / "r.onnx", "-i", 1, "-b", 1, *where)[0] == 0
    decoded = ("--vamp_datalist_path", listed, "--vamp_output_dir", outputs)
    assert scripts("decode", *decoded, "--save_dir", tmp_path / "b")[0] == 0
    a, b = arrays_of(tmp_path / "a"), arrays_of(tmp_path / "b")
    assert a["names"].tolist() == b["names"].tolist()
    assert len(a["names"]) == 300
    assert all(cosine(*pair) >= 0.9999 for pair in zip(a["vectors"], b["vectors"]))
