"""The doctor names each usual mistake of a program that shares no code with it."""

import dataclasses
import json
from functools import lru_cache

import cv2
import numpy as np
import onnx
import pytest
from facezoo.backends.ort import OrtBackend, open_session
from facezoo.cli import doctor as doctor_cli
from facezoo.cli.main import main
from facezoo.contract import Contract, load_graph
from facezoo.doctor import checks
from facezoo.doctor.checks import check_environment, check_network, read_model_file, reference_setup
from facezoo.doctor.invariants import invariants_of
from facezoo.doctor.mistakes import (
    DecodedFaces,
    diagnose_faces,
    diagnose_outputs,
    diagnose_tensor,
    unaligned_crops,
)
from facezoo.doctor.reference import distance_from, drawn_pictures, read_reference, reference_file
from facezoo.errors import GraphError, InputError
from facezoo.image.align import align_face
from facezoo.image.files import read_image_rgb
from facezoo.models import CARDS
from facezoo.models.pipnet.decode import format_meanface, load_meanface
from facezoo.testing import tiny_magface, tiny_pfld, tiny_pipnet, tiny_scrfd, tiny_sdd_fiqa
from onnx import helper

PHOTOS = ("src_meeting.jpg", "t1.jpg")
STRIDES = (8, 16, 32)


# A user's program, written from scratch -----------------------------------------------------------


def feed(photo, *, order="RGB", norm="right", anchor="center"):
    """Letterbox to 640x640; return the tensor, the scale, and where the picture lies."""
    image = cv2.imread(str(photo))
    if order == "RGB":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    scale = 640 / max(height, width)
    size = (int(width * scale), int(height * scale))
    left, top = ((640 - size[0]) // 2, (640 - size[1]) // 2) if anchor == "center" else (0, 0)
    canvas = np.zeros((640, 640, 3), np.uint8)
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size)
    return normalise(canvas, norm), (size[0] / width, size[1] / height), (left, top)


def normalise(canvas, norm, right=128.0):
    x = canvas.astype(np.float32)
    if norm == "0..1":
        x = x / 255
    elif norm == "±1":
        x = (x / 255 - 0.5) / 0.5
    elif norm == "mean-std":
        x = (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    else:
        x = (x - 127.5) / right
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32)


def read(maps, scale, offset, *, sigmoid=1, stride=True, swap=False):
    """Decode the maps, keep the 15 best boxes that do not lie on one another."""
    boxes, scores, marks = [], [], []
    for step in STRIDES:
        logits, distance, points = (maps[f"{head}_{step}"][0] for head in ("score", "bbox", "kps"))
        for anchor in range(2):
            y, x = np.mgrid[: logits.shape[1], : logits.shape[2]] * step
            times = step if stride else 1
            left, top, right, bottom = distance[4 * anchor : 4 * anchor + 4] * times
            boxes.append(np.stack([x - left, y - top, x + right, y + bottom], -1).reshape(-1, 4))
            offsets = points[10 * anchor : 10 * anchor + 10] * times
            centre = np.stack([x, y] * 5)
            marks.append((offsets + centre).transpose(1, 2, 0).reshape(-1, 5, 2))
            scores.append(logits[anchor].reshape(-1))
    scores = np.concatenate(scores)
    for _ in range(sigmoid):
        scores = 1 / (1 + np.exp(-scores))
    shift = np.array(offset * 2)
    boxes = np.maximum((np.concatenate(boxes) - shift) / np.array(scale * 2), 0)
    marks = (np.concatenate(marks) - shift[:2]) / np.array(scale)
    faces = []
    for index in np.argsort(-scores):
        centre = (boxes[index, :2] + boxes[index, 2:]) / 2
        size = max(boxes[index, 2] - boxes[index, 0], 4)
        if all(np.abs(centre - other).max() > size / 2 for other, _ in faces):
            faces.append((centre, index))
        if len(faces) == 8:
            break
    kept = [index for _, index in faces]
    boxes, marks = boxes[kept], marks[kept]
    if swap:
        boxes, marks = boxes[:, [1, 0, 3, 2]], marks[:, :, ::-1]
    return DecodedFaces(boxes.astype(np.float32), scores[kept].astype(np.float32), marks)


# What is looked at --------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """Where prepared graphs are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEZOO_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def scrfd(shared):
    path = shared / "assets/scrfd/scrfd_500m_bnkps.onnx"
    return read_model_file(path, CARDS["scrfd_500m_bnkps"])


@pytest.fixture(scope="module")
def session(scrfd):
    return open_session(scrfd.model, 1)


@pytest.fixture(scope="module")
def setups(scrfd, shared):
    """A reference set-up per photo, whose network runs once for each tensor."""
    backend = OrtBackend(scrfd.model, scrfd.contract, threads=1)

    @lru_cache(maxsize=None)
    def reference(name):
        image = read_image_rgb(shared / "assets/photos" / name)
        one = reference_setup(scrfd, backend, image)
        return dataclasses.replace(one, run=remembered(one.run))

    return reference


def remembered(run):
    known = {}

    def once(tensor):
        key = tensor.tobytes()
        if key not in known:
            known[key] = run(tensor)
        return known[key]

    return once


def maps_of(session, tensor):
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input.1": tensor})))


INPUTS = {
    "right": ({}, ""),
    "BGR": ({"order": "BGR"}, "BGR"),
    "0..1": ({"norm": "0..1"}, "0..1"),
    "±1": ({"norm": "±1"}, "/255 to ±1"),
    "mean-std": ({"norm": "mean-std"}, "mean-std"),
    "anchor": ({"anchor": "top_left"}, "letterbox anchor"),
}
READINGS = {
    "twice": ({"sigmoid": 2}, "sigmoid twice"),
    "never": ({"sigmoid": 0}, "sigmoid never"),
    "stride": ({"stride": False}, "stride missing"),
    "swap": ({"swap": True}, "x/y swapped"),
}


def named(diagnosis):
    return [cause.mistakes[0] for cause in diagnosis.causes if cause.mistakes]


def holds(diagnosis, mistake):
    assert diagnosis.verdict == ("explained" if mistake else "consistent"), diagnosis
    assert named(diagnosis) == ([mistake] if mistake else []), diagnosis


@pytest.mark.shared
@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("case", INPUTS)
def test_wrong_inputs_of_a_detector_are_named_at_every_stage(case, photo, setups, session, shared):
    change, mistake = INPUTS[case]
    tensor, scale, offset = feed(shared / "assets/photos" / photo, **change)
    maps = maps_of(session, tensor)
    if photo == PHOTOS[0]:
        holds(diagnose_tensor(setups(photo), tensor), mistake)
        holds(diagnose_outputs(setups(photo), maps), mistake)
    holds(diagnose_faces(setups(photo), read(maps, scale, offset)), mistake)


@pytest.mark.shared
@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("case", READINGS)
def test_wrong_readings_of_a_detector_are_named(case, photo, setups, session, shared):
    change, mistake = READINGS[case]
    tensor, scale, offset = feed(shared / "assets/photos" / photo)
    faces = read(maps_of(session, tensor), scale, offset, **change)
    holds(diagnose_faces(setups(photo), faces), mistake)


@pytest.mark.shared
@pytest.mark.parametrize("photo", PHOTOS)
def test_boxes_mapped_back_from_another_place_are_named(photo, setups, session, shared):
    tensor, scale, _ = feed(shared / "assets/photos" / photo)
    faces = read(maps_of(session, tensor), scale, (0, 0))
    holds(diagnose_faces(setups(photo), faces), "letterbox anchor")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("inputs", "reading"),
    [
        ({"order": "BGR", "norm": "0..1"}, {}),
        ({"order": "BGR", "norm": "±1"}, {}),
        ({"norm": "mean-std", "anchor": "top_left"}, {}),
        ({"order": "BGR"}, {"sigmoid": 2}),
        ({"norm": "0..1"}, {"stride": False}),
        ({}, {"stride": False, "swap": True}),
        ({}, {"sigmoid": 0, "swap": True}),
    ],
)
def test_two_mistakes_at_once_are_no_single_one(inputs, reading, setups, session, shared):
    photo = PHOTOS[0]
    tensor, scale, offset = feed(shared / "assets/photos" / photo, **inputs)
    maps = maps_of(session, tensor)
    diagnosis = diagnose_faces(setups(photo), read(maps, scale, offset, **reading))
    if diagnosis.verdict == "not explained":
        assert diagnosis.hint and not diagnosis.causes
    else:
        assert diagnosis.verdict == "explained"
        assert [len(cause.mistakes) for cause in diagnosis.causes] == [2]
    if not reading:
        for diagnosis in (
            diagnose_tensor(setups(photo), tensor),
            diagnose_outputs(setups(photo), maps),
        ):
            assert diagnosis.verdict == "explained"
            assert [len(cause.mistakes) for cause in diagnosis.causes] == [2]


@pytest.mark.shared
def test_half_precision_and_another_resizing_are_consistent(setups, session, shared):
    photo = shared / "assets/photos" / PHOTOS[0]
    tensor, _, _ = feed(photo)
    maps = maps_of(session, tensor.astype(np.float16).astype(np.float32))
    halves = {name: array.astype(np.float16) for name, array in maps.items()}
    holds(diagnose_outputs(setups(PHOTOS[0]), halves), "")
    from PIL import Image

    image = Image.open(photo).convert("RGB")
    canvas = np.zeros((640, 640, 3), np.uint8)
    height = int(640 * image.height / image.width)
    top = (640 - height) // 2
    canvas[top : top + height] = np.asarray(image.resize((640, height), Image.Resampling.BILINEAR))
    tensor = normalise(canvas, "right")
    holds(diagnose_tensor(setups(PHOTOS[0]), tensor), "")
    holds(diagnose_outputs(setups(PHOTOS[0]), maps_of(session, tensor)), "")


@pytest.mark.shared
def test_outputs_that_are_squashed_or_scaled_are_named(setups, session, shared):
    maps = maps_of(session, feed(shared / "assets/photos" / PHOTOS[0])[0])
    squashed = {
        name: 1 / (1 + np.exp(-array)) if "score" in name else array for name, array in maps.items()
    }
    holds(diagnose_outputs(setups(PHOTOS[0]), squashed), "sigmoid twice")
    scaled = {
        name: array if "score" in name else array * int(name.partition("_")[2])
        for name, array in maps.items()
    }
    holds(diagnose_outputs(setups(PHOTOS[0]), scaled), "stride twice")


@pytest.mark.shared
def test_rows_of_a_released_graph_are_consistent(setups, scrfd, shared):
    released = open_session(scrfd.path, 1)
    names = [output.name for output in released.get_outputs()]
    for order, mistake in (("RGB", ""), ("BGR", "BGR")):
        tensor, _, _ = feed(shared / "assets/photos" / PHOTOS[0], order=order)
        rows = dict(zip(names, released.run(names, {released.get_inputs()[0].name: tensor})))
        holds(diagnose_outputs(setups(PHOTOS[0]), rows), mistake)


@pytest.mark.shared
def test_what_a_picture_cannot_show_is_said(scrfd, session):
    grey = np.repeat(drawn_pictures()[0][:97, :97, :1], 3, axis=2)
    backend = OrtBackend(scrfd.model, scrfd.contract, threads=1)
    diagnosis = diagnose_tensor(
        reference_setup(scrfd, backend, grey), normalise(cv2.resize(grey, (640, 640)), "right")
    )
    assert diagnosis.verdict == "consistent"
    assert set(diagnosis.unseen) == {"BGR", "letterbox anchor", "pad colour", "stretched"}


# A recogniser -------------------------------------------------------------------------------------

PORTRAITS = {"Rob_Lowe_0001.jpg": (), "src_man1.jpg": ()}


@pytest.fixture(scope="module")
def recogniser(shared, scrfd, session):
    """Photo to (patient, the detector's box, five points), and the session of the released file."""
    path = shared / "assets/recognition/w600k_mbf.onnx"
    model_file = read_model_file(path, CARDS["w600k_mbf"])
    backend = OrtBackend(model_file.model, model_file.contract, threads=1)

    @lru_cache(maxsize=None)
    def reference(name):
        photo = shared / "assets/photos" / name
        tensor, scale, offset = feed(photo)
        faces = read(maps_of(session, tensor), scale, offset)
        image = read_image_rgb(photo)
        crops = unaligned_crops(image, faces.boxes_xyxy[0].tolist(), (112, 112))
        aligned = align_face(image, faces.landmarks_xy[0])
        one = reference_setup(model_file, backend, aligned, crops)
        return dataclasses.replace(one, run=remembered(one.run)), faces

    return reference, open_session(path, 1)


def embed(session, crop_bgr, *, order="RGB", norm="right"):
    crop = crop_bgr[:, :, ::-1] if order == "RGB" else crop_bgr
    tensor = normalise(crop, norm, right=127.5)
    return tensor, session.run(None, {"input.1": tensor})[0]


@pytest.mark.shared
@pytest.mark.parametrize("photo", PORTRAITS)
@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({}, ""),
        ({"order": "BGR"}, "BGR"),
        ({"norm": "0..1"}, "0..1"),
        ({"norm": "mean-std"}, "mean-std"),
        ({"crop": True}, "not aligned"),
        ({"unit": True}, "normalised before the norm"),
    ],
)
def test_wrong_set_ups_of_a_recogniser_are_named(change, mistake, photo, recogniser, shared):
    setups, session = recogniser
    reference, faces = setups(photo)
    change = dict(change)
    image = cv2.imread(str(shared / "assets/photos" / photo))
    crop = align_face(image, faces.landmarks_xy[0])
    if change.pop("crop", False):
        left, top, right, bottom = faces.boxes_xyxy[0].round().astype(int)
        crop = cv2.resize(image[top:bottom, left:right], (112, 112))
    unit = change.pop("unit", False)
    tensor, vector = embed(session, crop, **change)
    if unit:
        vector = vector / np.linalg.norm(vector)
    else:
        holds(diagnose_tensor(reference, tensor), mistake)
    holds(diagnose_outputs(reference, {"my_name": vector[0]}), mistake)


@pytest.mark.shared
@pytest.mark.parametrize("photo", PORTRAITS)
def test_two_mistakes_with_a_recogniser_are_explained_as_both(photo, recogniser, shared):
    setups, session = recogniser
    reference, faces = setups(photo)
    image = cv2.imread(str(shared / "assets/photos" / photo))
    crop = align_face(image, faces.landmarks_xy[0])
    _, both = embed(session, crop, order="BGR", norm="0..1")
    diagnosis = diagnose_outputs(reference, {"516": both})
    assert diagnosis.verdict == "explained"
    assert [one.mistakes for one in diagnosis.causes] == [("BGR", "0..1")]
    _, shrunk = embed(session, crop, order="BGR")
    diagnosis = diagnose_outputs(reference, {"516": shrunk / np.linalg.norm(shrunk)})
    assert diagnosis.verdict == "explained"


# Landmarks ----------------------------------------------------------------------------------------


def noisy_pipnet(path):
    """A PIPNet whose maps have a best cell of their own, and neighbours that disagree."""
    tiny_pipnet(path)
    model = onnx.load(str(path))
    rng = np.random.default_rng(11)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        spread = 0.3 if tensor.name.endswith("weight") and "cls" in tensor.name else 0.02
        noise = rng.normal(0, spread / np.sqrt(array[0].size), array.shape).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array + noise, tensor.name))
    onnx.save(model, str(path))
    return path


def landmarks_of(outputs, meanface, size, *, own=False, divide=False, neighbors=10):
    """Decode as a user's program would: loops, and an index divided by the width."""
    count, width = len(meanface), outputs["cls"].shape[3]
    near = np.array(
        [
            np.argsort(((meanface - p) ** 2).sum(1), kind="stable")[1 : neighbors + 1]
            for p in meanface
        ]
    )
    opinions = [[] for _ in range(count)]
    alone = np.zeros((count, 2))
    for n in range(count):
        best = int(outputs["cls"][0, n].argmax())
        cell = np.array([best % width, best / width if divide else best // width])
        row, column = divmod(best, width)
        alone[n] = cell + [outputs[axis][0, n, row, column] for axis in "xy"]
        for k, m in enumerate(near[n]):
            channel = n * neighbors + k
            said = [outputs[axis][0, channel, row, column] for axis in ("nb_x", "nb_y")]
            opinions[m].append(cell + said)
    longest = max(map(len, opinions))
    if not own:
        for n, said in enumerate(opinions):
            repeated = [said[index % len(said)] for index in range(longest)]
            alone[n] = np.mean([alone[n], *repeated], axis=0)
    return alone / width * size


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({}, ""),
        ({"own": True}, "neighbours left out"),
        ({"divide": True}, "true division"),
        ({"swap": True}, "x/y swapped"),
        ({"order": "BGR"}, "BGR"),
        ({"norm": "0..1"}, "0..1"),
        ({"meanface": True}, "wrong mean face"),
        ({"order": "BGR", "divide": True}, None),
    ],
)
def test_wrong_landmarks_are_explained(change, mistake, tmp_path, capsys):
    path = noisy_pipnet(tmp_path / "pipnet.onnx")
    crop = cv2.resize(drawn_pictures()[0], (256, 256))
    cv2.imwrite(str(tmp_path / "crop.png"), crop[:, :, ::-1])
    change = dict(change)
    image = crop[:, :, ::-1] if change.pop("order", "RGB") == "BGR" else crop
    session = open_session(path, 1)
    names = [output.name for output in session.get_outputs()]
    tensor = normalise(image, change.pop("norm", "mean-std"))
    outputs = dict(zip(names, session.run(names, {session.get_inputs()[0].name: tensor})))
    meanface = load_meanface("WFLW", 10).points_xy
    words = ["doctor", "--model", str(path), "--image", str(tmp_path / "crop.png")]
    if change.pop("meanface", False):
        meanface = meanface[np.random.default_rng(1).permutation(98)]
        (tmp_path / "mine.txt").write_text(format_meanface(meanface))
        words += ["--meanface", str(tmp_path / "mine.txt")]
    swap = change.pop("swap", False)
    points = landmarks_of(outputs, meanface, 256, **change)
    points = points[:, ::-1] if swap else points
    (tmp_path / "mine.json").write_text(json.dumps({"points_xy": points.tolist()}))
    exit_code = main([*words, "--observed", str(tmp_path / "mine.json")])
    said = [line for line in capsys.readouterr().out.splitlines() if " mine.json " in line]
    assert exit_code == (0 if mistake == "" else 3)
    expected = {"": "consistent", None: "and no single mistake does"}.get(mistake, f"{mistake}:")
    assert expected in said[0], said


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({}, ""),
        ({"order": "RGB"}, "RGB"),
        ({"norm": "0..1"}, "0..1"),
        ({"read": lambda shares: shares.reshape(-1, 2)}, "shares"),
        ({"read": lambda shares: 112 * shares.reshape(2, -1).T}, "x apart from y"),
        ({"read": lambda shares: 112 * shares.reshape(-1, 2)[:, ::-1]}, "x/y swapped"),
    ],
)
def test_wrong_landmarks_of_a_network_of_shares_are_explained(change, mistake, tmp_path, capsys):
    path = tiny_pfld(tmp_path / "pfld.onnx")
    crop = cv2.resize(drawn_pictures()[0], (112, 112))
    cv2.imwrite(str(tmp_path / "crop.png"), crop[:, :, ::-1])
    image = crop if change.get("order") == "RGB" else crop[:, :, ::-1]
    pixels = image.astype(np.float32).transpose(2, 0, 1)[None] / 255
    session = open_session(path, 1)
    tensor = pixels if change.get("norm") else (pixels - 0.5) / 0.5
    (shares,) = session.run(None, {"input": np.ascontiguousarray(tensor)})
    points = change.get("read", lambda shares: 112 * shares.reshape(-1, 2))(shares[0])
    (tmp_path / "mine.json").write_text(json.dumps({"points_xy": points.tolist()}))
    words = ["--image", str(tmp_path / "crop.png"), "--observed", str(tmp_path / "mine.json")]
    exit_code = main(["doctor", "--model", str(path), *words])
    said = [line for line in capsys.readouterr().out.splitlines() if " mine.json " in line]
    assert exit_code == (3 if mistake else 0), said
    assert (f"{mistake}:" if mistake else "consistent") in said[0], said


# The network itself -------------------------------------------------------------------------------


def test_recorded_values_are_of_the_published_files():
    for card_id in ("scrfd_500m_bnkps", "scrfd_2.5g_bnkps", "w600k_mbf"):
        cards = json.loads(reference_file(card_id).read_text())["cards"]
        from facezoo.models import find_weights

        sha256 = find_weights(CARDS[card_id].weights).sha256
        assert cards[card_id]["source_sha256"] == sha256
        assert len(read_reference(card_id, sha256)) == len(drawn_pictures())
    assert read_reference("scrfd_500m_bnkps", "another") is None
    assert read_reference("pip_resnet18", "") is None


def test_distance_to_recorded_values():
    recorded = {"x": {"std": 2.0, "size": 4, "values": [0.0, 1.0, 2.0, 3.0]}}
    assert distance_from(recorded, {"x": np.array([0.0, 1.0, 2.0, 3.0])}) == 0.0
    assert distance_from(recorded, {"x": np.array([1.0, 2.0, 3.0, 4.0])}) == 0.5
    assert distance_from(recorded, {"x": np.zeros(5)}) == float("inf")
    assert distance_from(recorded, {"y": np.zeros(4)}) == float("inf")


def changed_graph(scrfd, path, change):
    model = load_graph(scrfd.model)
    change(model)
    onnx.save(model, str(path))
    return dataclasses.replace(scrfd, model=path)


def squash_scores(model):
    for output in model.graph.output:
        if output.name.startswith("score"):
            for node in model.graph.node:
                node.output[:] = [f"{n}_l" if n == output.name else n for n in node.output]
            name = output.name
            model.graph.node.append(helper.make_node("Sigmoid", [f"{name}_l"], [name]))


def swap_channels(model):
    first = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["swapped" if name == first else name for name in node.input]
    order = helper.make_tensor("order", onnx.TensorProto.INT64, [3], [2, 1, 0])
    model.graph.initializer.append(order)
    model.graph.node.insert(0, helper.make_node("Gather", [first, "order"], ["swapped"], axis=1))


def other_weights(model):
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    array = onnx.numpy_helper.to_array(tensor) * 1.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def coarse_weights(model):
    """Round the first layers' weights to a few steps, as int8 would, with its operation."""
    for tensor in [t for t in model.graph.initializer if len(t.dims) == 4][:6]:
        array = onnx.numpy_helper.to_array(tensor)
        step = float(np.abs(array).max()) / 12
        levels = np.round(array / step).astype(np.int8)
        for name, value in (("levels", levels), ("step", np.float32(step)), ("zero", np.int8(0))):
            stored = onnx.numpy_helper.from_array(np.asarray(value), f"{tensor.name}.{name}")
            model.graph.initializer.append(stored)
        inputs = [f"{tensor.name}.{name}" for name in ("levels", "step", "zero")]
        model.graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [tensor.name]))
        model.graph.initializer.remove(tensor)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (coarse_weights, "note", "an int8 build"),
        (lambda model: None, "ok", "as recorded"),
        (squash_scores, "problem", "sigmoid is in the graph"),
        (swap_channels, "problem", "BGR"),
        (other_weights, "problem", "not explained"),
    ],
)
def test_a_graph_is_held_against_the_recorded_values(change, status, says, scrfd, tmp_path):
    model_file = changed_graph(scrfd, tmp_path / "changed.onnx", change)
    with OrtBackend(model_file.model, model_file.contract, threads=1) as backend:
        finding = check_network(model_file, backend)
    assert (finding.status, says in finding.says) == (status, True), finding


# Without recorded values --------------------------------------------------------------------------

AXES = {"x": "y", "y": "x", "nb_x": "nb_y", "nb_y": "nb_x"}
TINY = {
    "pipnet": tiny_pipnet,
    "scrfd": tiny_scrfd,
    "magface": tiny_magface,
    "sdd_fiqa": tiny_sdd_fiqa,
}


@pytest.mark.parametrize(
    ("model", "change", "says"),
    [
        ("pipnet", lambda maps: maps, ""),
        ("pipnet", lambda m: {n: m[AXES.get(n, n)] for n in m}, "x/y swapped"),
        ("pipnet", lambda m: {**m, "nb_x": m["nb_x"][:, ::-1]}, "wrong mean face, or"),
        ("pipnet", lambda m: {**m, "cls": 1 / (1 + np.exp(-m["cls"] / 9))}, "cls has passed"),
        ("pipnet", lambda m: {n: a if n == "cls" else 32 * a for n, a in m.items()}, "in pixels"),
        ("scrfd", lambda maps: maps, ""),
        ("scrfd", lambda m: {n: 1 / (1 + np.exp(-a)) for n, a in m.items()}, "it is applied twice"),
        ("scrfd", lambda m: {n: 32 * a for n, a in m.items()}, "distances are in pixels"),
        ("magface", lambda maps: maps, ""),
        ("magface", lambda m: {n: a / np.linalg.norm(a) for n, a in m.items()}, "before the norm"),
        ("sdd_fiqa", lambda maps: maps, ""),
        ("sdd_fiqa", lambda m: {n: 0 * a for n, a in m.items()}, "the same for different images"),
        ("sdd_fiqa", lambda m: {n: a / 0 for n, a in m.items()}, "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_needs_no_recorded_value(model, change, says, tmp_path):
    model_file = read_model_file(TINY[model](tmp_path / "tiny.onnx"), None)
    with OrtBackend(model_file.model, model_file.contract, threads=1) as backend:
        arrays = [backend.infer(picture).arrays for picture in drawn_pictures()]
    invariants = invariants_of(
        model, model_file.contract.decode, [change(dict(one)) for one in arrays]
    )
    wrong = [invariant for holds, invariant in invariants if not holds]
    assert len(wrong) == bool(says), invariants
    assert not says or says in wrong[0]


@pytest.mark.parametrize(
    ("change", "mistake", "stages"),
    [
        ({}, "consistent", 2),
        ({"order": "BGR"}, "BGR:", 1),
        ({"norm": "0..1"}, "0..1:", 2),
        ({"norm": "mean-std"}, "mean-std:", 2),
        ({"order": "BGR", "norm": "0..1"}, "BGR and 0..1 together explain it", 1),
    ],
)
def test_a_quality_networks_mistakes_are_named(change, mistake, stages, tmp_path, capsys):
    """Its tensors tell all; its one number what a network that looks at grey can tell."""
    path = tiny_sdd_fiqa(tmp_path / "quality.onnx")
    crop = cv2.resize(drawn_pictures()[1], (112, 112))
    cv2.imwrite(str(tmp_path / "crop.png"), crop[:, :, ::-1])
    image = crop[:, :, ::-1] if change.get("order") == "BGR" else crop
    tensor = normalise(image, change.get("norm", "right"), right=127.5)
    np.savez(tmp_path / "tensor.npz", tensor)
    np.savez(tmp_path / "score.npz", open_session(path, 1).run(None, {"input": tensor})[0])
    for name in ("tensor.npz", "score.npz")[:stages]:
        words = ["doctor", "--model", str(path), "--image", str(tmp_path / "crop.png")]
        assert main([*words, "--observed", str(tmp_path / name)]) == 3 * (mistake != "consistent")
        said = capsys.readouterr().out
        assert f" {name} " in said and mistake in said.split(f" {name} ")[1].splitlines()[0]
        assert "a blurred copy scores lower" in said


def test_a_community_pipnet_gets_its_names_first(tmp_path, monkeypatch, capsys):
    model = onnx.load(str(tiny_pipnet(tmp_path / "tiny.onnx")))
    del model.metadata_props[:]
    for index, output in enumerate(model.graph.output):
        for node in model.graph.node:
            node.output[:] = [f"{400 + index}" if n == output.name else n for n in node.output]
        output.name = f"{400 + index}"
    path = tmp_path / "community.onnx"
    onnx.save(model, str(path))
    monkeypatch.setattr("facezoo.models.pipnet.graph.BACKBONE_OF", {5: "resnet18"})
    assert main(["doctor", "pip_resnet18", "--model", str(path)]) == 0
    assert "neighbours lie where the mean face has them" in capsys.readouterr().out
    assert main(["doctor", "pip_resnet101", "--model", str(path)]) == 2
    assert "is pip_resnet18, not pip_resnet101" in capsys.readouterr().err


# The command --------------------------------------------------------------------------------------


def test_the_machine_alone(capsys, monkeypatch):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("Python", "numpy", "ONNX Runtime", "CPUExecutionProvider", "device", "vamc"):
        assert word in said
    monkeypatch.setattr(checks, "_version", lambda name: "1.0" if "opencv" in name else None)
    rows = check_environment()
    assert any("overwrite each other" in row.says for row in rows)
    assert any(row.status == "problem" and row.what == "onnxruntime" for row in rows)


def runtimes(monkeypatch, *installed):
    monkeypatch.setattr(checks, "_version", lambda name: "1.0" if name in installed else None)
    return [row for row in check_environment() if row.status in ("problem", "warning")]


def test_the_gpu_package_of_the_runtime_is_one_too(monkeypatch):
    assert runtimes(monkeypatch, "onnx", "onnxruntime-gpu") == []
    (both,) = runtimes(monkeypatch, "onnx", "onnxruntime", "onnxruntime-gpu")
    assert both.says == "onnxruntime and onnxruntime-gpu overwrite each other's files"
    assert both.remedy == (
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    )


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.onnx"
    tiny_scrfd(path)
    return path


def test_a_file_and_its_findings(tiny, tmp_path, capsys):
    assert main(["doctor", "--model", str(tiny), "--json", str(tmp_path / "d.json")]) == 0
    said = capsys.readouterr().out
    assert "scrfd_500m_bnkps, outputs score_8" in said
    assert "no values are recorded" in said
    entry = json.loads((tmp_path / "d.json").read_text())
    assert entry["schema"] == "facezoo.doctor/1"
    assert {finding["part"] for finding in entry["findings"]} == {
        "environment",
        "weights",
        "behaviour",
    }
    assert entry["diagnosis"]["verdict"] == "consistent"


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"ColorCvtCode": "RGB2BGR"}, "BGR"),
        ({"NormaType": "DIV255"}, "0..1"),
        ({"NormaType": "DIV1275_MINUSONE"}, "/255 to ±1"),
        (
            {
                "NormaType": "DIV255_MINUSMEAN_DIVSTD",
                "Mean": [0.485, 0.456, 0.406],
                "Std": [0.229, 0.224, 0.225],
            },
            "mean-std",
        ),
    ],
)
def test_a_users_vdsp_file_is_explained(change, mistake, tiny, tmp_path, capsys):
    from facezoo.contract import read_contract
    from facezoo.vacc.vdsp import render_vdsp

    entry = render_vdsp(read_contract(tiny).preprocess)
    entry["OpConfig"].update(change)
    path = tmp_path / "my.json"
    path.write_text(json.dumps(entry))
    assert main(["doctor", "--model", str(tiny), "--vdsp", str(path)]) == 3
    said = capsys.readouterr().out
    assert f"FAIL  its tensors (vdsp JSON)  {mistake}:" in said


@pytest.mark.shared
def test_observed_files_are_read(scrfd, session, shared, tmp_path, capsys):
    photo = shared / "assets/photos" / PHOTOS[0]
    tensor, scale, offset = feed(photo, order="BGR")
    maps = maps_of(session, tensor)
    np.savez(tmp_path / "tensor.npz", anything=tensor)
    np.savez(tmp_path / "outputs.npz", **maps)
    faces = read(maps, scale, offset)
    rows = zip(faces.boxes_xyxy.tolist(), faces.scores.tolist(), faces.landmarks_xy.tolist())
    entry = [{"box_xyxy": b, "score": s, "landmarks_xy": k} for b, s, k in rows]
    (tmp_path / "faces.json").write_text(json.dumps({"faces": entry}))
    for name in ("tensor.npz", "outputs.npz", "faces.json"):
        words = ["doctor", "--model", str(scrfd.model), "--image", str(photo)]
        assert main([*words, "--observed", str(tmp_path / name)]) == 3
        said = capsys.readouterr()
        assert f"FAIL  {name}" in said.out
        assert "BGR: the image is fed in BGR order, the network expects RGB" in said.out
        assert "1 problem found" in said.err


@pytest.mark.shared
def test_a_photo_is_aligned_for_a_recogniser(recogniser, scrfd, shared, tmp_path, capsys):
    setups, session = recogniser
    name = "src_man1.jpg"
    _, faces = setups(name)
    photo = shared / "assets/photos" / name
    image = cv2.imread(str(photo))
    _, vector = embed(session, align_face(image, faces.landmarks_xy[0]), order="BGR")
    np.savez(tmp_path / "mine.npz", vector[0])
    words = ["doctor", "w600k_mbf", "--model", str(shared / "assets/recognition/w600k_mbf.onnx")]
    words += ["--image", str(photo), "--observed", str(tmp_path / "mine.npz")]
    assert main([*words, "--detector", str(scrfd.model)]) == 3
    assert "mine.npz                BGR:" in capsys.readouterr().out
    nobody = shared / "assets/photos/view_noface.jpg"
    words[words.index(str(photo))] = str(nobody)
    assert main([*words, "--detector", str(scrfd.model)]) == 2
    assert "no face was found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.json", "{}", "cannot be used"),
        ("x.json", '{"faces": [{"box": 1}]}', "holds no faces"),
        ("x.json", '{"faces": []}', "the observation has no face"),
        ("x.npz", "text", "not an .npz, .npy or .json"),
        ("absent.npz", None, "absent.npz"),
    ],
)
def test_what_cannot_be_compared_is_said(name, content, says, tiny, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), drawn_pictures()[0])
    if content is not None:
        (tmp_path / name).write_text(content)
    words = ["doctor", "--model", str(tiny), "--image", str(photo)]
    assert main([*words, "--observed", str(tmp_path / name)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "points", ['[["a", 1]]', "[[1, 2], [3]]", "[[NaN, 1]]", "[[1" + "0" * 400 + ", 1]]"]
)
def test_landmarks_that_are_no_numbers_are_refused(points, tmp_path):
    (tmp_path / "x.json").write_text(f'{{"points_xy": {points}}}')
    with pytest.raises(InputError, match="holds no landmarks"):
        doctor_cli._read_points(tmp_path / "x.json")


def test_what_is_missing_is_asked_for(tiny, tmp_path, capsys):
    assert main(["doctor", "--model", str(tiny), "--observed", "x.npz"]) == 2
    assert "--image" in capsys.readouterr().err
    assert main(["doctor", "--image", "x.png"]) == 2
    said = capsys.readouterr()
    assert "name the network" in said.err
    assert "environment" in said.out
    assert main(["doctor", "scrfd_2.5g_bnkps", "--model", str(tiny)]) == 2
    assert "says it is scrfd_500m_bnkps" in capsys.readouterr().err
    bare = onnx.load(str(tiny))
    del bare.metadata_props[:]
    onnx.save(bare, str(tmp_path / "bare.onnx"))
    with pytest.raises(GraphError, match="name the network"):
        read_model_file(tmp_path / "bare.onnx", None)


def test_outputs_of_another_network_are_refused(tiny):
    model_file = read_model_file(tiny, None)
    with OrtBackend(tiny, Contract.from_card(model_file.card, input_hw=(64, 64))) as backend:
        reference = reference_setup(model_file, backend, drawn_pictures()[0])
        with pytest.raises(InputError, match="has no output 'score_8'"):
            diagnose_outputs(reference, {"a": np.zeros(3), "b": np.zeros(3)})
        outputs = dict(reference.run(np.zeros((1, 3, 64, 64), np.float32)))
        with pytest.raises(InputError, match="has 4 values"):
            diagnose_outputs(reference, {**outputs, "kps_8": np.zeros((1, 4))})
        with pytest.raises(InputError, match="expects"):
            diagnose_tensor(reference, np.zeros((1, 3, 32, 32)))
        with pytest.raises(InputError, match="no face"):
            diagnose_faces(reference, DecodedFaces(np.zeros((0, 4)), np.zeros(0)))


def test_the_record_is_made_by_the_command(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "facezoo.doctor.reference.reference_file", lambda card_id: tmp_path / "r.json"
    )
    assert main(["doctor", "--model", str(tiny), "--print-reference"]) == 0
    assert doctor_cli.SCHEMA == "facezoo.doctor/1"
    pictures = read_reference("scrfd_500m_bnkps", "")
    assert len(pictures) == 2
    assert main(["doctor", "--model", str(tiny)]) == 0
    assert "as recorded" in capsys.readouterr().out


@pytest.mark.shared
def test_a_released_file_of_another_variant_is_refused(shared, tmp_path):
    path = shared / "assets/scrfd/scrfd_2.5g.onnx"
    with pytest.raises(GraphError, match=r"is scrfd_2\.5g_bnkps, not scrfd_500m"):
        read_model_file(path, CARDS["scrfd_500m_bnkps"])
