"""The whole chain: every stage is the stage alone, and every reason has its face."""

import base64
import csv
import dataclasses
import io
import json
import re
import threading
import time
from pathlib import Path
from unittest import mock

import cv2
import facezoo
import numpy as np
import pytest
from facezoo.backends import RuntimeOptions
from facezoo.cli.main import main
from facezoo.cli.predict.work import read_photos
from facezoo.errors import BackendRunError, ImageError, InputError
from facezoo.files import sha256_of
from facezoo.image.align import TEMPLATE_XY, align_face
from facezoo.image.files import find_images, read_image_rgb, write_image_rgb
from facezoo.models.magface.graph import export_released as export_recogniser
from facezoo.models.pipnet.crop import DetectorCrop
from facezoo.models.scrfd.graph import export_released as export_detector
from facezoo.pipeline.acceptance import REASONS, Acceptance, ScoreLimit, read_score_limit
from facezoo.pipeline.photo import Predictor
from facezoo.profiles.appearance import DEFAULT, AppearanceLimits
from facezoo.profiles.quality import make_quality_profile, write_quality
from facezoo.reports.html import Curves, Facts, Pictures, Section, Table, write_html_report
from facezoo.results import Embedding, FaceDetections, Landmarks, QualityScore
from facezoo.testing import tiny_magface, tiny_pipnet, tiny_scrfd, tiny_sdd_fiqa

SCHEMA = json.loads(
    (Path(facezoo.__file__).parent / "schemas" / "predict.schema.json").read_text("utf-8")
)


# A validator of what the schema uses -----------------------------------------------------------

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "null": type(None),
}
KNOWN = set(
    "$schema title description type required oneOf additionalProperties properties $defs items "
    "$ref minItems maxItems minimum maximum uniqueItems enum const".split()
)


def wrong(value, schema, where="$"):
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        return wrong(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], where)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(value, TYPES[kind]) for kind in kinds):
        return [f"{where} is no {kinds}"]
    problems = []
    if "const" in schema and value != schema["const"]:
        problems.append(f"{where} is {value}")
    if "enum" in schema and value not in schema["enum"]:
        problems.append(f"{where} is {value}")
    if isinstance(value, (int, float)):
        low, high = schema.get("minimum", -np.inf), schema.get("maximum", np.inf)
        problems += [f"{where} is {value}"] * (not low <= value <= high)
    if isinstance(value, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", np.inf)
        problems += [f"{where} has {len(value)} items"] * (not low <= len(value) <= high)
        for index, item in enumerate(value):
            problems += wrong(item, schema.get("items", {}), f"{where}[{index}]")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        problems += [f"{where} lacks {k}" for k in schema.get("required", ()) if k not in value]
        if schema.get("additionalProperties") is False:
            problems += [f"{where} has {key}" for key in value if key not in known]
        for key in value:
            problems += wrong(value[key], known.get(key, {}), f"{where}.{key}")
        if "oneOf" in schema:
            fitting = [one for one in schema["oneOf"] if not wrong(value, one, where)]
            problems += [f"{where} fits {len(fitting)} kinds"] * (len(fitting) != 1)
    return problems


# Stages that are made up -----------------------------------------------------------------------


class Stage:
    """Stands in for a network: says what it was told to, and counts."""

    def __init__(self, card_id, answer, sha256="f" * 64):
        self.contract = type("C", (), {"card_id": card_id, "output_names": ("kps_8",)})
        self.backend = type("B", (), {"workers": 1})
        self.answer, self.sha256, self.calls = answer, sha256, []

    def batch(self, images, *, shared=False):
        self.calls.append(len(images))
        return [self.answer(image) for image in images]

    def settings(self):
        return {"model": self.contract.card_id, "model_sha256": self.sha256}

    def close(self):
        self.calls.append("closed")


def faces_at(*places, image_hw=(400, 600), scale=1.0, yaw=0.0):
    """Faces whose five points are the template's, at places of the photo."""
    marks = []
    for x, y in places:
        points = TEMPLATE_XY * scale + (x, y)
        points[2, 0] += yaw * (points[1, 0] - points[0, 0])
        marks.append(points)
    boxes = [[x, y, x + 112 * scale, y + 112 * scale] for x, y in places]
    scores = np.linspace(0.9, 0.6, len(places))
    return FaceDetections(
        np.array(boxes, np.float32).reshape(-1, 4),
        scores.astype(np.float32),
        np.array(marks, np.float32).reshape(-1, 5, 2),
        image_hw,
    )


def photo(sharp=True):
    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, (400, 600, 3)).astype(np.uint8)
    return image if sharp else cv2.GaussianBlur(image, (0, 0), 12)


# Round ones, whatever the package's are.
LIMITS = AppearanceLimits(min_size=32.0, min_sharpness=40.0, max_yaw=0.5, max_truncation=0.15)


def predictor(faces, quality=None, norm=20.0, **limits):
    stages = {"embedder": Stage("w600k_mbf", lambda crop: Embedding(np.array([0, norm], "f4")))}
    if quality is not None:
        stages["quality"] = Stage("sdd_fiqa_r50", lambda crop: QualityScore(quality))
    detector = Stage("scrfd_500m_bnkps", lambda image: faces)
    return Predictor(detector, **stages, acceptance=Acceptance(LIMITS, **limits))


SCORES = (ScoreLimit("sdd_fiqa_r50", "f" * 64, 30.0),)
MAGNITUDES = (ScoreLimit("w600k_mbf", "f" * 64, 15.0),)


@pytest.mark.parametrize(
    ("faces", "image", "quality", "norm", "scores", "reasons"),
    [
        (faces_at((100, 100)), photo(), 50.0, 20.0, SCORES, ()),
        (faces_at((100, 100), scale=0.2), photo(), 50.0, 20.0, SCORES, ("too_small",)),
        (faces_at((100, 100)), photo(False), 50.0, 20.0, SCORES, ("blurred",)),
        (faces_at((100, 100), yaw=0.7), photo(), 50.0, 20.0, SCORES, ("turned",)),
        (faces_at((-40, 100)), photo(), 50.0, 20.0, SCORES, ("cut_off",)),
        (faces_at((100, 100)), photo(), 29.9, 20.0, SCORES, ("low_quality",)),
        (faces_at((100, 100)), photo(), 29.9, 20.0, (), ()),
        (faces_at((100, 100)), photo(), None, 14.9, MAGNITUDES, ("low_quality",)),
        (faces_at((100, 100)), photo(), None, 15.1, MAGNITUDES, ()),
        (
            faces_at((-40, 100), scale=0.25, yaw=0.7),
            photo(False),
            9.0,
            20.0,
            SCORES,
            ("too_small", "blurred", "turned", "cut_off", "low_quality"),
        ),
    ],
)
def test_each_reason_has_its_face(faces, image, quality, norm, scores, reasons):
    model = predictor(faces, quality, norm, scores=scores)
    (face,) = model(image).faces
    assert face.reasons == reasons
    assert (face.vector is None) == bool(reasons)
    assert set(reasons) <= set(REASONS)


# The way up ---------------------------------------------------------------------------------------


def wide_photo(turns):
    """A photo whose upper left corner is white when it is upright, turned by quarters."""
    image = np.full((200, 300, 3), 90, np.uint8)
    image[:20, :20] = 255
    return np.ascontiguousarray(np.rot90(image, turns))


def find_upright(high, low=0.55):
    """A detector that is surer of a face in an upright photo, and draws upright points always."""

    def answer(image):
        is_upright = image[:20, :20].min() == 255
        hw = image.shape[:2]
        faces = faces_at((60, 40) if is_upright else (30, 50), image_hw=hw)
        return dataclasses.replace(faces, scores=np.array([high if is_upright else low], "f4"))

    return Stage("scrfd_500m_bnkps", answer)


def acceptance(**more):
    """Limits that every face of these photos meets."""
    return Acceptance(AppearanceLimits(1.0, 0.0, 5.0, 1.0), **more)


@pytest.mark.parametrize("turns", range(4))
def test_the_way_up_is_found_and_coordinates_are_of_the_stored_photo(turns):
    detector = find_upright(0.8)
    marks = Landmarks(np.array([[10, 20]], np.float32), np.ones(1), (9, 9))
    points = Stage("pip", lambda crop: marks)
    points.crop_of = DetectorCrop.of
    model = Predictor(detector, points, acceptance=acceptance(), try_rotations=True)
    image = wide_photo(turns)
    found = model(image)
    assert len(detector.calls) == (1 if turns == 0 else 4)
    assert found.rotation == (360 - 90 * turns) % 360
    assert found.image_hw == found.detections.image_hw == image.shape[:2]
    (face,) = found
    assert face.reasons == ()
    assert face.box_xyxy == tuple(found.detections.boxes_xyxy[0].tolist())
    # Cut from the stored photo and turned, the box is that of the upright photo.
    (upright,) = model(wide_photo(0))
    left, top, right, bottom = map(int, face.box_xyxy)
    stored = np.zeros(image.shape[:2])
    stored[top:bottom, left:right] = 1
    left, top, right, bottom = map(int, upright.box_xyxy)
    expected = np.zeros((200, 300))
    expected[top:bottom, left:right] = 1
    np.testing.assert_array_equal(np.rot90(stored, -turns), expected)
    for ours, theirs in ((face, upright), (face.points, upright.points)):
        name = "landmarks_xy" if ours is face else "points_xy"
        x, y = np.moveaxis(getattr(theirs, name), -1, 0)
        turned = {0: (x, y), 1: (y, 300 - x), 2: (300 - x, 200 - y), 3: (200 - y, x)}[turns]
        np.testing.assert_allclose(getattr(ours, name), np.stack(turned, -1), atol=1e-3)
    entry = found.to_dict()
    assert entry.get("rotation", 0) == found.rotation
    for one in entry["faces"]:
        one["embedding"] = None
    assert wrong({"schema": "facezoo.predict/2", "path": "a.jpg", **entry}, SCHEMA) == []


@pytest.mark.parametrize(
    ("turns", "high", "calls", "reasons"),
    [(0, 0.8, 1, ()), (0, 0.7, 2, ()), (2, 0.8, 2, ("upside_down",)), (2, 0.58, 2, ())],
)
def test_an_upside_down_photo_is_refused_where_half_a_turn_is_clearly_surer(
    turns, high, calls, reasons
):
    detector = find_upright(high)
    embedder = Stage("w600k_mbf", lambda crop: Embedding(np.array([0.0, 20.0], np.float32)))
    model = Predictor(detector, embedder=embedder, acceptance=acceptance())
    (face,) = model(wide_photo(turns))
    assert (len(detector.calls), face.reasons) == (calls, reasons)
    assert (face.vector is None) == bool(reasons)
    assert model(wide_photo(turns)).rotation == 0


def test_a_face_on_its_side_is_told_by_its_points():
    faces = faces_at((100, 100))
    x, y = np.moveaxis(faces.landmarks_xy - 156, -1, 0)
    side = dataclasses.replace(faces, landmarks_xy=np.stack([-y, x], -1) + 156)
    (face,) = predictor(side)(photo()).faces
    assert face.reasons == ("upside_down",)


def test_trying_rotations_is_part_of_the_settings_of_a_run():
    model = Predictor(find_upright(0.8), try_rotations=True)
    assert model.settings()["try_rotations"] is True
    assert "try_rotations" not in Predictor(find_upright(0.8)).settings()


@pytest.mark.shared
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_is_the_same_person(shared, tmp_path, turns):
    """Without trying rotations it was embedded, and numbered as a stranger."""
    source = shared / "assets" / "lfw" / "fold10" / "Aaron_Tippin" / "Aaron_Tippin_0001.jpg"
    photos = tmp_path / "photos"
    image = read_image_rgb(source)
    write_image_rgb(photos / "upright.png", image)
    write_image_rgb(photos / "turned.png", np.ascontiguousarray(np.rot90(image, turns)))
    assets = shared / "assets"
    export_detector(assets / "scrfd" / "scrfd_500m_bnkps.onnx", tmp_path / "scrfd.onnx")
    export_recogniser(assets / "recognition" / "w600k_mbf.onnx", tmp_path / "mbf.onnx")
    words = [str(photos), "--output", str(tmp_path / "out"), "--quiet"]
    words += ["--detector", str(tmp_path / "scrfd.onnx"), "--embedder", str(tmp_path / "mbf.onnx")]
    assert main(["predict", *words]) == 0
    turned, upright = read_photos(tmp_path / "out" / "faces.jsonl")
    assert upright["faces"][0]["reasons"] == []
    assert all("upside_down" in face["reasons"] for face in turned["faces"])
    assert main(["predict", *words, "--try-rotations", "--overwrite"]) == 0
    turned, upright = read_photos(tmp_path / "out" / "faces.jsonl")
    assert turned["rotation"] == 360 - 90 * turns and "rotation" not in upright
    with np.load(tmp_path / "out" / "embeddings.npz") as arrays:
        vectors = arrays["vectors"]
    one, other = (Embedding(vectors[p["faces"][0]["embedding"]]) for p in (turned, upright))
    assert one.cosine(other) > 0.99


def test_a_refused_face_is_not_embedded_unless_asked():
    faces = faces_at((100, 100), (300, 100), scale=0.2)
    model = predictor(faces)
    assert [face.vector for face in model(photo()).faces] == [None, None]
    assert model.embedder.calls == []
    asked = predictor(faces, embed_refused=True)
    found = asked(photo()).faces
    assert asked.embedder.calls == [2]
    assert all(face.vector is not None and face.reasons == ("too_small",) for face in found)


def test_faces_without_stages_and_photos_without_faces():
    bare = Predictor(Stage("scrfd_500m_bnkps", lambda image: faces_at()))
    assert bare(photo()).to_dict() == {"width": 600, "height": 400, "faces": []}
    model = Predictor(Stage("scrfd_500m_bnkps", lambda image: faces_at((50, 60))))
    (face,) = model(photo()).faces
    assert (face.quality, face.magnitude, face.points, face.vector) == (None,) * 4
    model.close()
    assert model.detector.calls[-1] == "closed"


def test_landmarks_are_each_faces_own():
    faces = faces_at((50, 60), (300, 60))
    points = [Landmarks(np.zeros((98, 2), np.float32) - n, np.ones(98), (9, 9)) for n in (1, 2)]
    answers = iter(points)
    stage = Stage("pip", lambda crop: next(answers))
    stage.crop_of = DetectorCrop.of
    model = Predictor(Stage("scrfd_500m_bnkps", lambda image: faces), landmarks=stage)
    found = model(photo())
    assert stage.calls == [2]
    for face, marks, box in zip(found.faces, points, faces.boxes_xyxy.tolist()):
        expected = DetectorCrop.of(box, (400, 600)).to_photo(marks)
        np.testing.assert_array_equal(face.points.points_xy, expected.points_xy)


def test_refused_faces_among_accepted_ones_keep_their_places():
    """Every second face is too small; embeddings go to the others, in batches, in order."""
    places = [(40 + 70 * index, 60) for index in range(7)]
    faces = faces_at(*places, scale=0.5)
    boxes = faces.boxes_xyxy.copy()
    boxes[::2, 2:] = boxes[::2, :2] + 20
    model = predictor(dataclasses.replace(faces, boxes_xyxy=boxes), quality=50.0)
    number = iter(range(1, 9))
    model.embedder.answer = lambda crop: Embedding(np.array([0, 10 * next(number)], "f4"))
    found = model(photo()).faces
    assert model.quality.calls == [2, 2, 2, 1]
    assert model.embedder.calls == [2, 1]
    assert [face.reasons for face in found] == [("too_small",), ()] * 3 + [("too_small",)]
    assert [face.magnitude for face in found] == [None, 10, None, 20, None, 30, None]
    assert [face.quality for face in found] == [50.0] * 7


def test_without_an_acceptance_nothing_is_measured_or_refused():
    model = predictor(faces_at((100, 100), scale=0.2))
    model.acceptance = None
    (face,) = model(photo(False)).faces
    assert (face.appearance, face.reasons, face.magnitude) == ({}, (), 20.0)
    assert model.settings()["acceptance"] is None


def test_the_face_that_a_stage_fails_on_is_named():
    model = predictor(faces_at((50, 60), (200, 60), (350, 60)), embed_refused=True)
    crops = [align_face(photo(), marks) for marks in model.detector.answer(0).landmarks_xy]

    def fail(crop):
        if (crop == crops[1]).all():
            raise BackendRunError("out of memory")
        return Embedding(np.ones(2, np.float32))

    model.embedder.answer = fail
    with pytest.raises(BackendRunError, match=r"^'face 1': out of memory$"):
        model(photo())


def test_faces_of_several_photos_share_batches():
    faces = faces_at((100, 100), (300, 100))
    model = predictor(faces, quality=50.0)
    model.quality.answer = lambda crop: QualityScore(float(crop[0, 0, 0]))
    shots = [photo(), 255 - photo(), photo()]
    found = model.batch(shots)
    assert model.detector.calls == [1, 1, 1]
    assert model.quality.calls == model.embedder.calls == [2, 2, 2]
    crops = [align_face(one, marks) for one in shots for marks in faces.landmarks_xy]
    assert [face.quality for one in found for face in one] == [crop[0, 0, 0] for crop in crops]


def test_photos_of_one_face_in_a_stream_fill_batches(tmp_path, monkeypatch):
    paths = write_crowds(tmp_path / "photos", [1] * 9)
    sizes = []
    with chain_of(tmp_path) as model:
        counts = [len(photo) for photo in model.stream(paths)]
        for stage in (model.landmarks, model.quality, model.embedder):
            batch = stage.batch
            monkeypatch.setattr(
                stage,
                "batch",
                lambda crops, batch=batch, **rest: sizes.append(len(crops)) or batch(crops, **rest),
            )
        assert [len(photo) for photo in model.stream(paths)] == counts
    # Nine photos are four pairs and one alone, whatever the networks find in them.
    assert set(counts) == {1}
    assert sorted(sizes) == 3 * [1] + 12 * [2]


def chain_of(folder, engine="ort", **options):
    """The whole chain on tiny networks."""
    makers = (tiny_scrfd, tiny_pipnet, tiny_sdd_fiqa, tiny_magface)
    models = [
        facezoo.load(room, make(folder / f"{room}.onnx"), engine=engine, **options)
        for room, make in zip(("scrfd", "pipnet", "sdd_fiqa", "magface"), makers)
    ]
    return Predictor(*models)


def write_crowds(folder, counts):
    """Photos with bright squares, which the tiny detector takes for faces."""
    rng = np.random.default_rng(8)
    for index, count in enumerate(counts):
        image = np.full((96, 128, 3), 10, np.uint8)
        for square in range(count):
            top, left = 32 * (square // 4), 32 * (square % 4)
            image[top : top + 16, left : left + 16] = rng.integers(200, 256, (16, 16, 3))
        write_image_rgb(folder / f"{index}.png", image)
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("engine", "options"),
    [("ort", {}), ("openvino", {}), ("openvino", {"precision": "bf16"})],
)
def test_a_photo_is_the_same_alone_in_a_stream_and_in_any_batch(
    tmp_path, monkeypatch, engine, options
):
    """Bit for bit, whatever photos are around it and wherever a run goes on."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    paths = write_crowds(tmp_path / "photos", [1, 0, 7, 2, 12, 1])
    with chain_of(tmp_path, engine, **options) as model:
        together = [photo.to_dict() for photo in model.stream(paths)]
        assert [photo.source for photo in model.stream(paths)] == paths
        counts = [len(photo["faces"]) for photo in together]
        assert counts[1] == 0 and max(counts) > 4 and 1 in counts
        alone = [model(read_image_rgb(path)).to_dict() for path in paths]
        assert alone == together
        resumed = [photo.to_dict() for photo in model.stream(paths[3:])]
        assert resumed == together[3:]
        for size in (1, 5, 100):
            monkeypatch.setattr("facezoo.pipeline.photo.FACES_PER_BATCH", size)
            assert [photo.to_dict() for photo in model.stream(paths)] == together


def test_a_stream_names_what_fails_and_ends_cleanly_when_stopped(tmp_path, monkeypatch):
    paths = write_crowds(tmp_path / "photos", [1] * 40)
    paths[1].write_bytes(b"")
    with chain_of(tmp_path) as model:
        seen = []
        stream = model.stream(iter(paths), visit=lambda path, image, found: seen.append(path))
        assert next(stream).source == paths[0]
        error = next(stream)
        assert isinstance(error, ImageError) and error.source == paths[1]
        threads = threading.active_count()
        stream.close()
        assert threading.active_count() < threads
        assert paths[1] not in seen and len(seen) < 40
        wrong = BackendRunError("lost")
        monkeypatch.setattr(model.quality, "batch", mock.Mock(side_effect=wrong))
        with pytest.raises(BackendRunError, match=r"0\.png': 'face 0': lost"):
            list(model.stream(paths))


def test_of_photos_that_go_together_the_one_that_fails_is_named(tmp_path, monkeypatch):
    paths = write_crowds(tmp_path / "photos", [1, 1])
    with chain_of(tmp_path) as model:
        _, second = model.stream(paths)
        vectors = model.embedder.batch(
            [align_face(read_image_rgb(paths[1]), second[0].landmarks_xy)]
        )
        embed = model.embedder.batch

        def fail(crops, **rest):
            found = embed(crops, **rest)
            if any((one.vector == vectors[0].vector).all() for one in found):
                raise BackendRunError("lost")
            return found

        monkeypatch.setattr(model.embedder, "batch", fail)
        stream = model.stream(paths)
        with pytest.raises(BackendRunError, match=r"1\.png': 'face 0': lost$"):
            list(stream)


def test_a_stream_takes_one_core_per_photo_whatever_its_stages_were_loaded_with(tmp_path):
    paths = write_crowds(tmp_path / "photos", [2] * 8)
    at_once, most, lock = 0, 0, threading.Lock()

    def visit(path, image, found):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with lock:
            at_once -= 1

    detector = facezoo.load(tiny_scrfd(tmp_path / "d.onnx"), runtime=RuntimeOptions(threads=1))
    embedder = facezoo.load(tiny_magface(tmp_path / "e.onnx"), runtime=RuntimeOptions(threads=3))
    with Predictor(detector, embedder=embedder) as model:
        list(model.stream(paths, visit=visit))
        assert most == 3
        # The embedder's network for a picture on three threads was loaded, but never ran.
        with mock.patch.object(embedder.backend, "infer_batch", side_effect=AssertionError):
            list(model.stream(paths))


def test_profiles_belong_to_a_file(tmp_path):
    other = dataclasses.replace(SCORES[0], model_sha256="0" * 64)
    with pytest.raises(InputError, match="was made for sdd_fiqa_r50 with sha256 0000"):
        predictor(faces_at(), 1.0, scores=(other,))
    with pytest.raises(InputError, match="not a stage here"):
        predictor(faces_at(), None, scores=SCORES)
    path = tmp_path / "quality.json"
    write_quality(path, make_quality_profile(np.arange(100.0), "sdd_fiqa_r50", "a" * 64, {}))
    assert read_score_limit(path, "drop 5 %") == ScoreLimit("sdd_fiqa_r50", "a" * 64, 5.0)
    with pytest.raises(InputError, match="has no threshold 'drop 7 %'"):
        read_score_limit(path, "drop 7 %")
    path.write_text("[]")
    with pytest.raises(InputError, match="not a profile of quality"):
        read_score_limit(path, "drop 5 %")


def test_a_detector_without_landmarks_is_refused(tmp_path):
    with pytest.raises(InputError, match="finds no landmarks"):
        Predictor(
            facezoo.load(
                tiny_scrfd(tmp_path / "b.onnx", card_id="scrfd_1g"), kind=facezoo.FaceDetector
            ),
            acceptance=Acceptance(),
        )


# The command --------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """Photos with a bright square each, tiny stages, and the command over them."""
    stages = {
        "--detector": tiny_scrfd(tmp_path / "models/detector.onnx"),
        "--landmarks": tiny_pipnet(tmp_path / "models/points.onnx"),
        "--embedder": tiny_magface(tmp_path / "models/embedder.onnx"),
    }
    rng = np.random.default_rng(2)
    for index in range(3):
        image = np.full((90 + index, 120, 3), 20, np.uint8)
        image[20:60, 30 + index : 70] = rng.integers(200, 256, (40, 40 - index, 3))
        write_image_rgb(tmp_path / "photos" / f"set {index}" / "a<b>.png", image)
    (tmp_path / "photos" / "broken.jpg").write_text("no picture")
    words = [text for flag, path in stages.items() for text in (flag, str(path))]

    def command(*more, folder="out"):
        return main(
            ["predict", str(tmp_path / "photos"), "--output", str(tmp_path / folder), *words]
            + ["--min-size", "0", "--max-yaw", "10", "--max-truncation", "1", *more]
        )

    return command, tmp_path


def faces_in(said):
    return {entry["path"]: len(entry.get("faces", ())) for entry in json.loads(said)}


def test_photos_are_files_folders_patterns_and_lists(run, tmp_path, capsys, monkeypatch):
    detector = ["--detector", str(tmp_path / "models/detector.onnx"), "--json", "-"]
    photos = tmp_path / "photos"
    one = photos / "set 1/a<b>.png"
    assert main(["predict", str(one), *detector]) == 0
    alone = faces_in(capsys.readouterr().out)
    assert list(alone) == ["a<b>.png"]
    # What is said besides goes elsewhere, so that the output is one JSON document.
    monkeypatch.chdir(photos)
    words = ["set 0", "set 1/a<b>.png", "set*/a*.png", "set 1/../set 2/a<b>.png"]
    assert main(["predict", *words, *detector]) == 0
    said = capsys.readouterr()
    assert list(faces_in(said.out)) == [f"set {index}/a<b>.png" for index in range(3)]
    assert faces_in(said.out)["set 1/a<b>.png"] == alone["a<b>.png"]
    assert "3 images" in said.err
    monkeypatch.setattr("sys.stdin", io.StringIO("set 2\nset 0/a<b>.png\nnone.png\n\n"))
    assert main(["predict", "-", *detector]) == 1
    said = capsys.readouterr()
    assert sorted(faces_in(said.out)) == ["none.png", "set 0/a<b>.png", "set 2/a<b>.png"]
    assert "1 refused" in said.err
    assert sorted(path.name for path in photos.iterdir()) == [
        "broken.jpg", "set 0", "set 1", "set 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["https://example.org/a.jpg"], "'https://example.org/a.jpg' is an address"),
        (["nothing*.jpg"], "'nothing*.jpg' matches no file"),
        (["none.jpg"], "'none.jpg' cannot be read: it does not exist"),
        (["-"], "the list on the standard input is empty"),
        (["photos", "--draw"], "--draw writes images to the result folder; name it: --output"),
        (["photos", "--csv"], "--csv needs a file"),
    ],
)
def test_what_names_no_photo_is_refused_by_name(run, words, says, capsys, monkeypatch):
    _, folder = run
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    before = sorted(folder.rglob("*"))
    assert main(["predict", *words, "--detector", str(folder / "models/detector.onnx")]) == 2
    assert says in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_without_an_output_the_faces_are_printed_and_nothing_is_written(run, capsys, monkeypatch):
    _, folder = run
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    words = ["predict", "photos/set 0", "--detector", "models/detector.onnx"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert re.match(r"a<b>\.png: \d+ faces?\n  0\.\d{3}  [\d.]+ [\d.]+ [\d.]+ [\d.]+", said)
    assert "\n1 image," in said
    assert main([*words, "--score", "1"]) == 0
    assert capsys.readouterr().out.startswith("a<b>.png: 0 faces\n")
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert sorted(folder.rglob("*")) == before


def test_quiet_names_what_cannot_be_read(run, capsys, caplog):
    command, _ = run
    assert command("--quiet") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "broken.jpg" in caplog.text
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_a_folder_from_photos_to_files(run, capsys):
    command, folder = run
    page = folder / "page.html"
    assert command("--draw", "--csv", "--html", str(page)) == 1
    said = capsys.readouterr().out
    assert "4 images, 1 refused" in said
    lines = (folder / "out/faces.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [problem for entry in entries for problem in wrong(entry, SCHEMA)] == []
    assert "error" in entries[0]
    faces = [face for entry in entries for face in entry.get("faces", ())]
    assert faces
    assert all(len(face["points_xy"]) == 98 for face in faces)
    arrays = np.load(folder / "out/embeddings.npz")
    embedded = [face for face in faces if face["embedding"] is not None]
    assert len(arrays["vectors"]) == len(embedded) > 0
    for face in embedded:
        vector = arrays["vectors"][face["embedding"]]
        assert np.linalg.norm(vector) == pytest.approx(face["magnitude"], rel=1e-5)
    rows = list(csv.DictReader((folder / "out/faces.csv").open(newline="")))
    assert len(rows) == len(faces)
    assert len(list((folder / "out/pictures").rglob("*.jpg"))) == 3
    text = page.read_text()
    assert "a&lt;b&gt;.png" in text and "a<b>" not in text
    assert text.count("data:image/jpeg;base64,") == 3
    assert "http" not in text.replace("http://www.w3.org", "")


def test_the_chain_gives_what_its_stages_give(run):
    command, folder = run
    command("--embed-refused", "--quiet")
    detector = facezoo.load(folder / "models/detector.onnx")
    embedder = facezoo.load(folder / "models/embedder.onnx")
    points = facezoo.load(folder / "models/points.onnx")
    arrays = np.load(folder / "out/embeddings.npz")
    lines = (folder / "out/faces.jsonl").read_text().splitlines()[1:]
    assert len(lines) == 3
    for entry in map(json.loads, lines):
        image = cv2.imread(str(folder / "photos" / entry["path"]))[:, :, ::-1]
        faces = detector(np.ascontiguousarray(image))
        assert [face["box_xyxy"] for face in entry["faces"]] == faces.boxes_xyxy.tolist()
        for index, face in enumerate(entry["faces"]):
            embedding = embedder(align_face(image, faces.landmarks_xy[index]))
            cut = DetectorCrop.of(faces.boxes_xyxy[index].tolist(), faces.image_hw)
            marks = cut.to_photo(points(cut.cut(image)))
            assert (arrays["vectors"][face["embedding"]] == embedding.vector).all()
            assert face["points_xy"] == marks.points_xy.tolist()


def test_embeddings_of_photos_are_evaluated(run, capsys):
    """What predict wrote is what evaluate reads; each photo's folder is a person."""
    command, folder = run
    for index in range(3):
        again = folder / "photos" / f"set {index}" / "again.png"
        again.write_bytes((folder / "photos" / f"set {index}" / "a<b>.png").read_bytes())
    assert command("--embed-refused", "--quiet") == 1
    names = [path.relative_to(folder / "photos").as_posix() for path in folder.rglob("*.png")]
    (folder / "scores.csv").write_text(
        "path,quality\n" + "".join(f"{name},{index}\n" for index, name in enumerate(names))
    )
    words = ["evaluate", "quality", "--scores", f"x={folder / 'scores.csv'}", "--fmr", "0.9"]
    assert main([*words, "--embeddings", str(folder / "out/embeddings.npz")]) == 0
    assert "of 3 people" in capsys.readouterr().out


def test_the_first_schema_is_read_as_the_second(tmp_path):
    face = {"score": 0.9, "turn": 0.1, "cut_off": 0.2, "reasons": ["cut_off"], "embedding": None}
    lines = [{"path": "a.jpg", "faces": [face]}, {"path": "b.jpg", "error": "damaged"}]
    file = tmp_path / "faces.jsonl"
    file.write_text("".join(json.dumps({"schema": "facezoo.predict/1", **x}) + "\n" for x in lines))
    first, second = read_photos(file)
    assert first["schema"] == "facezoo.predict/2" and second["error"] == "damaged"
    measures = {"yaw": 0.1, "truncation": 0.2}
    assert first["faces"] == [{"score": 0.9, **measures, "reasons": ["cut_off"], "embedding": None}]
    file.write_text('{"schema": "facezoo.predict/9", "path": "a.jpg"}\n')
    with pytest.raises(InputError, match=r"line 1 is not a photo of facezoo predict"):
        list(read_photos(file))


def test_limits_of_another_recogniser_are_refused(run, capsys):
    command, folder = run
    profile = json.loads(DEFAULT.read_text())
    (folder / "appearance.json").write_text(json.dumps(profile))
    assert command("--appearance", str(folder / "appearance.json"), folder="other") == 2
    assert "a profile belongs to one model file" in capsys.readouterr().err
    profile["model_sha256"] = sha256_of(folder / "models/embedder.onnx")
    (folder / "appearance.json").write_text(json.dumps(profile))
    assert command("--appearance", str(folder / "appearance.json"), folder="own") == 1
    # The former spellings of the flags, and of the file.
    assert (
        command("--appearance", str(folder / "appearance.json"), "--max-yaw", "9", folder="own2")
        == 1
    )
    run_file = json.loads((folder / "own2/run.json").read_text())
    assert run_file["settings"]["acceptance"]["appearance"]["max_yaw"] == 9


def test_a_calibrated_quality_refuses_faces(run, capsys):
    command, folder = run
    quality = tiny_sdd_fiqa(folder / "models/quality.onnx")
    rng = np.random.default_rng(6)
    for index in range(30):
        picture = rng.integers(0, 40 + 7 * index, (112, 112, 3)).astype(np.uint8)
        write_image_rgb(folder / "faces" / f"{index}.png", picture)
    words = ["calibrate", "quality", "--images", str(folder / "faces")]
    words += ["--quality", str(quality), "--output", str(folder / "quality.json")]
    assert main(words) == 0
    profile = json.loads((folder / "quality.json").read_text())
    asked = ["--quality", str(quality), "--profile", str(folder / "quality.json")]
    assert command(*asked, "--min-quality", "drop 10 %", "--min-sharpness", "0", folder="q") == 1
    lines = (folder / "q/faces.jsonl").read_text().splitlines()
    faces = [face for line in lines for face in json.loads(line).get("faces", ())]
    limit = profile["thresholds"]["drop 10 %"]
    assert faces
    for face in faces:
        # The five points of such a detector lie anyhow.
        reasons = [reason for reason in face["reasons"] if reason != "upside_down"]
        assert (reasons == ["low_quality"]) == (face["quality"] < limit)
    capsys.readouterr()
    other = tiny_sdd_fiqa(folder / "models/other.onnx", card_id="sdd_fiqa_mobilefacenet")
    asked[1] = str(other)
    assert command(*asked, folder="q2") == 2


def test_a_second_start_keeps_what_is_done_and_refuses_other_settings(run, capsys):
    command, folder = run
    assert command() == 1
    first = (folder / "out/faces.jsonl").read_bytes()
    assert command() == 1
    assert "4 kept from an earlier run" in capsys.readouterr().out
    assert (folder / "out/faces.jsonl").read_bytes() == first
    assert command("--embed-refused") == 4
    assert "acceptance was" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "facezoo.predict/1"},
        {"width": 0},
        {"extra": 1},
        {"faces": [{}]},
        {"error": "both"},
    ],
)
def test_the_schema_notices(change):
    good = {"schema": "facezoo.predict/2", "path": "a.jpg", "width": 4, "height": 3, "faces": []}
    assert wrong(good, SCHEMA) == []
    assert wrong({**good, **change}, SCHEMA) != []


def test_the_schema_names_every_reason():
    face = SCHEMA["$defs"]["face"]["properties"]
    assert tuple(face["reasons"]["items"]["enum"]) == REASONS


def published(shared, tmp_path, monkeypatch):
    """Put published weights where they are looked for."""
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("scrfd/scrfd_500m_bnkps.onnx", "recognition/w600k_mbf.onnx"):
        (tmp_path / "home" / Path(name).name).symlink_to(shared / "assets" / name)


@pytest.mark.shared
def test_photos_are_predicted_with_published_weights(shared, tmp_path, monkeypatch):
    published(shared, tmp_path, monkeypatch)
    for name in ("src_meeting.jpg", "left_face.jpeg", "blur.jpg", "view_noface.jpg"):
        (tmp_path / name).symlink_to(shared / "assets/photos" / name)
    words = ["predict", str(tmp_path), "--output", str(tmp_path / "out"), "--quiet"]
    (tmp_path / "photos").mkdir()
    for path in tmp_path.glob("*.j*"):
        path.rename(tmp_path / "photos" / path.name)
    words[1] = str(tmp_path / "photos")
    assert main([*words, "--embedder", "w600k_mbf", "--max-truncation", "0.15"]) == 0
    lines = (tmp_path / "out/faces.jsonl").read_text().splitlines()
    entries = {entry["path"]: entry for entry in map(json.loads, lines)}
    assert [problem for entry in entries.values() for problem in wrong(entry, SCHEMA)] == []
    assert len(entries["src_meeting.jpg"]["faces"]) == 5
    assert entries["view_noface.jpg"]["faces"] == []
    assert "turned" in entries["left_face.jpeg"]["faces"][0]["reasons"]
    assert "cut_off" in entries["blur.jpg"]["faces"][0]["reasons"]


@pytest.mark.shared
@pytest.mark.long
def test_the_chain_on_all_photos_fits_its_schema_and_costs_what_its_stages_cost(
    shared, tmp_path, monkeypatch
):
    published(shared, tmp_path, monkeypatch)
    stages = {
        "detector": facezoo.load("scrfd_500m_bnkps", kind=facezoo.FaceDetector),
        "landmarks": facezoo.load(tiny_pipnet(tmp_path / "p.onnx"), kind=facezoo.LandmarkDetector),
        "quality": facezoo.load(tiny_sdd_fiqa(tmp_path / "q.onnx"), kind=facezoo.FaceQuality),
        "embedder": facezoo.load("w600k_mbf", kind=facezoo.FaceEmbedder),
    }
    chain = Predictor(**stages, acceptance=Acceptance(embed_refused=True))
    images = [read_image_rgb(path) for path in find_images(shared / "assets/photos")]
    seconds = {"chain": [], "stages": []}
    for _ in range(3):
        for image in images:
            started = time.perf_counter()
            photo = chain(image)
            seconds["chain"].append(time.perf_counter() - started)
            found = {"schema": "facezoo.predict/2", "path": "x", **photo.to_dict()}
            for face in found["faces"]:
                face.update(embedding=0 if face.pop("vector") else None)
            assert wrong(found, SCHEMA) == []
            started = time.perf_counter()
            faces = stages["detector"](image)
            for box in faces.boxes_xyxy.tolist():
                stages["landmarks"](DetectorCrop.of(box, faces.image_hw).cut(image))
            for points in faces.landmarks_xy:
                crop = align_face(image, points)
                stages["quality"](crop)
                stages["embedder"](crop)
            seconds["stages"].append(time.perf_counter() - started)
    rounds = {name: np.reshape(values, (3, -1)).sum(axis=1) for name, values in seconds.items()}
    ratio = np.median(rounds["chain"] / rounds["stages"])
    print(f"chain / stages {ratio:.3f}")
    assert ratio <= 1.1


# The page -----------------------------------------------------------------------------------------


def test_a_page_is_whole_and_quotes_everything(tmp_path):
    evil = '<script>alert("x")</script>'
    image = np.zeros((900, 30, 3), np.uint8)
    line = np.linspace(0, 1, 5000)
    write_html_report(
        tmp_path / "page.html",
        f"NOBODY {evil}",
        [
            Section(evil, evil),
            Table(evil, [evil, "n"], [[evil, 1.5], ["b", None]]),
            Facts(evil, {evil: {"deep": evil}, "plain": 3}),
            Pictures(evil, [image], [evil], evil),
            Curves(evil, evil, evil, {evil: (line, line**2), "flat": (line, line * 0)}),
            Curves("flat", "x", "y", {"one": (np.ones(1), np.ones(1))}),
        ],
    )
    text = (tmp_path / "page.html").read_text()
    assert "alert(" in text and evil not in text
    assert text.count("<script>") == 1 and text.count("<h2>") == 6
    assert text.count("NOBODY") == 2
    for word in ("<link", 'src="http', "@import", "url("):
        assert word not in text
    start = text.index("base64,") + 7
    jpeg = base64.b64decode(text[start : text.index('"', start)])
    assert max(cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1).shape) == 560
    assert max(len(points.split()) for points in text.split('points="')[1:]) < 700
    assert "nan" not in text.lower().replace("isnan", "")


def test_the_grid_of_a_plot_lies_at_round_values(tmp_path):
    faces = Curves(
        "Faces", "faces", "score", {"score": (np.arange(1, 11), np.r_[18.2, [25.8] * 9])}
    )
    write_html_report(tmp_path / "p.html", "t", [faces])
    text = (tmp_path / "p.html").read_text()
    assert re.findall(r'text-anchor="middle">([\d.]+)<', text) == ["2", "4", "6", "8", "10"]
    ends = re.findall(r'text-anchor="end">([\d.]+)<', text)
    assert ends == ["19", "20", "21", "22", "23", "24", "25"]
    no_numbers = Curves("Faces", "x", "y", {"one": (np.ones(2), np.array([1.0, np.nan]))})
    write_html_report(tmp_path / "q.html", "t", [no_numbers])
    assert 'text-anchor="end"' not in (tmp_path / "q.html").read_text()


@pytest.mark.parametrize("name", ["photo.jpg", "photos", "new.png"])
def test_csv_takes_no_photo_as_its_file(name, tmp_path, run_here):
    """Without a value, as it once was, the flag would take the photo after it and replace it."""
    (tmp_path / "photos").mkdir()
    write_image_rgb(tmp_path / "photo.jpg", np.zeros((9, 9, 3), np.uint8))
    before = (tmp_path / "photo.jpg").read_bytes()
    code, _, error = run_here("predict", tmp_path / "photos", "--csv", tmp_path / name)
    assert code == 2
    assert f"{name}' is not a table; name the file to write: --csv faces.csv" in error
    assert (tmp_path / "photo.jpg").read_bytes() == before
