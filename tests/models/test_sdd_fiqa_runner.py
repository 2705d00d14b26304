"""SDD-FIQA's scripts as a user starts them: files, scores, exit codes; vamp gives the same."""

import csv
import json

import facezoo
import numpy as np
import pytest
from facezoo.datasets.scores import read_scores
from facezoo.errors import DatasetError, InputError
from facezoo.evaluation.quality import quality_sheet
from facezoo.image.align import align_face
from facezoo.image.degrade import degrade
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.models.sdd_fiqa.model import FaceQuality
from facezoo.pipeline.load import load
from facezoo.pipeline.photo import Predictor, in_recipe_form
from facezoo.results import FaceDetections, QualityScore
from facezoo.testing import tiny_scrfd, tiny_sdd_fiqa

RECIPE = "face_quality/sdd_fiqa"
NAMES = ("a/1.png", "a/2.png", "b/1.png", "b/10.png", "b/2.png")


@pytest.fixture
def scripts(run_here):
    """Run a script of the recipe by its short name, or a verb."""
    paths = {
        "runner": f"{RECIPE}/build_in/vsx/python/sdd_fiqa_vsx.py",
        "decode_vamp": f"{RECIPE}/build_in/decode/decode_vamp.py",
        "image2npz": "common/utils/image2npz.py",
    }

    return lambda name, *arguments: run_here(paths.get(name, name), *arguments)


@pytest.fixture
def model(tmp_path):
    return tiny_sdd_fiqa(tmp_path / "tiny.onnx")


@pytest.fixture
def faces(tmp_path, rng):
    """Five noisy pictures, each blurred more than the one before."""
    noise = rng.integers(0, 256, (112, 112, 3)).astype(np.uint8)
    for name, sigma in zip(NAMES, (0.0, 0.7, 1.0, 2.0, 4.0)):
        write_image_rgb(tmp_path / "faces" / name, degrade(noise, "blur", sigma))
    return tmp_path / "faces"


def expected_score(image):
    grey = image.astype(np.float64).sum(axis=2) / 255 / 0.5
    return np.abs(np.diff(grey, axis=1)).mean() * 50 / 3


def test_faces_become_scores_and_a_sorted_listing(scripts, faces, model, tmp_path, repository):
    out = tmp_path / "out"
    vdsp = repository / RECIPE / "build_in/vdsp_params/tface-sdd_fiqa-vdsp_params.json"
    command = [
        "runner", "--image_dir", faces, "--model_prefix_path", model, "--vdsp_params_info", vdsp,
        "--save_dir", out, "--device", "0", "--contact_sheet",
    ]  # fmt: skip
    code, said, error = scripts(*command)
    assert code == 0, error
    results = json.loads((out / "results.json").read_text())
    assert (results["schema"], results["faces"]) == ("facezoo.quality/1", "aligned")
    assert results["card"] == "sdd_fiqa_r50"
    assert [entry["path"] for entry in results["images"]] == list(NAMES)
    for entry in results["images"]:
        wanted = expected_score(read_image_rgb(faces / entry["path"]))
        assert entry["quality"] == pytest.approx(wanted, rel=1e-5)
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(NAMES)
    assert np.array_equal(
        np.array([float(row["quality"]) for row in rows], np.float32),
        np.array([entry["quality"] for entry in results["images"]], np.float32),
    )
    listing = (out / "sorted.txt").read_text().splitlines()
    assert [line.split()[0] for line in listing] == list(NAMES[::-1])
    assert said.splitlines()[:5] == listing
    assert read_image_rgb(out / "contact_sheet.jpg").shape == (152, 608, 3)
    made_by = read_scores(out / "results.json").made_by
    assert (made_by["card"], made_by["build"]) == ("sdd_fiqa_r50", "fp32")
    assert made_by["engine"].startswith("ort ")
    before = (out / "results.json").read_bytes()
    assert scripts(*command)[0] == 0
    assert (out / "results.json").read_bytes() == before


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_vamp_and_the_decoder_give_the_same_scores(scripts, faces, model, tmp_path, dtype):
    config = {
        "name": f"sdd_fiqa_{dtype}",
        "frontend": {"type": "onnx", "checkpoint": str(model)},
        "backend": {"type": "tvm_vacc", "dtype": dtype},
        "workspace": {"path": str(tmp_path / "deploy_weights")},
    }
    config["frontend"]["shape"] = {"input": [1, 3, 112, 112]}
    # JSON is YAML too.
    (tmp_path / "sdd_fiqa.yaml").write_text(json.dumps(config))
    assert scripts("vamc", "compile", tmp_path / "sdd_fiqa.yaml")[0] == 0
    prefix = tmp_path / "deploy_weights" / f"sdd_fiqa_{dtype}" / "mod"
    code, _, error = scripts(
        "runner", "--image_dir", faces, "--model_prefix_path", prefix, "--save_dir",
        tmp_path / "out",
    )  # fmt: skip
    assert code == 0, error
    code, _, error = scripts(
        "image2npz", "--dataset_path", faces, "--target_path", tmp_path / "npz",
        "--text_path", tmp_path / "npz_datalist.txt",
    )  # fmt: skip
    assert code == 0, error
    code, _, error = scripts(
        "vamp", "-m", prefix, "-i", "1", "-p", "1", "-b", "1",
        "--datalist", tmp_path / "npz_datalist.txt", "--path_output", tmp_path / "result",
    )  # fmt: skip
    assert code == 0, error
    code, _, error = scripts(
        "decode_vamp", tmp_path / "npz_datalist.txt", tmp_path / "result",
        "--save_dir", tmp_path / "decoded",
    )  # fmt: skip
    assert code == 0, error
    ran, decoded = (
        read_scores(tmp_path / folder / "results.json") for folder in ("out", "decoded")
    )
    assert ran.names == decoded.names == NAMES
    step = 0.0 if dtype == "fp32" else np.spacing(np.float16(ran.values.max())) / 2
    np.testing.assert_allclose(ran.values, decoded.values, rtol=1e-5, atol=step)
    exact = [expected_score(read_image_rgb(faces / name)) for name in NAMES]
    np.testing.assert_allclose(ran.values, exact, rtol=1e-5 if dtype == "fp32" else 3e-3)


def test_photos_are_scored_face_by_face(scripts, model, tmp_path, rng):
    photo = rng.integers(0, 40, (128, 128, 3)).astype(np.uint8)
    photo[32:96, 32:96] += 215
    write_image_rgb(tmp_path / "photos" / "bright.png", photo)
    write_image_rgb(tmp_path / "photos" / "dark.png", photo // 8)
    detector = tiny_scrfd(tmp_path / "scrfd.onnx")
    code, _, error = scripts(
        "runner", "--image_dir", tmp_path / "photos", "--model_prefix_path", model,
        "--faces", "detect", "--detector", detector, "--save_dir", tmp_path / "out",
        "--contact_sheet",
    )  # fmt: skip
    assert code == 0, error
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["faces"] == "detect"
    bright, dark = results["images"]
    assert len(bright["faces"]) >= 1
    assert len(dark["faces"]) == 0
    for face in bright["faces"]:
        crop = align_face(photo, np.array(face["landmarks_xy"], np.float32))
        assert face["quality"] == pytest.approx(expected_score(crop), rel=1e-4)
    names = read_scores(tmp_path / "out" / "results.json").names
    assert names == tuple(f"bright.png#{index}" for index in range(len(bright["faces"])))


def test_a_profile_gives_percentiles_to_its_own_model_only(scripts, faces, model, tmp_path):
    profile = tmp_path / "quality.json"
    code, said, error = scripts(
        "calibrate", "quality", "--images", faces, "--model_prefix_path", model,
        "--output", profile,
    )  # fmt: skip
    assert code == 0, error
    assert "5 images, 0 refused" in said
    runner = ["runner", "--image_dir", faces, "--profile", profile]
    code, _, error = scripts(*runner, "--model_prefix_path", model, "--save_dir", tmp_path / "out")
    assert code == 0, error
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["percentile"]) for row in rows] == [100.0, 75.0, 50.0, 25.0, 0.0]
    other = tiny_sdd_fiqa(tmp_path / "other.onnx", card_id="sdd_fiqa_mobilefacenet")
    code, _, error = scripts(*runner, "--model_prefix_path", other, "--save_dir", tmp_path / "two")
    assert code == 2
    assert "a profile belongs to one model file" in error


def test_a_detector_needs_to_be_asked_for(scripts, faces, model, tmp_path):
    runner = ["runner", "--image_dir", faces, "--model_prefix_path", model]
    for stray in (["--faces", "detect"], ["--detector", "scrfd.onnx"]):
        code, _, error = scripts(*runner, "--save_dir", tmp_path / "out", *stray)
        assert code == 2
        assert "go together" in error


def test_a_picture_that_cannot_be_read_is_named(scripts, faces, model, tmp_path):
    (faces / "a" / "3.png").write_bytes(b"no picture")
    code, said, error = scripts(
        "runner", "--image_dir", faces, "--model_prefix_path", model, "--save_dir",
        tmp_path / "out",
    )  # fmt: skip
    assert code == 1
    assert "3.png" in error and "1 refused" in said
    assert read_scores(tmp_path / "out" / "scores.csv").names == NAMES


def test_another_models_outputs_are_refused(scripts, faces, tmp_path):
    detector = tiny_scrfd(tmp_path / "scrfd.onnx")
    code, _, error = scripts(
        "runner", "--image_dir", faces, "--model_prefix_path", detector, "--save_dir",
        tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert "a FaceDetector; expected a FaceQuality, a model of sdd_fiqa" in error
    with pytest.raises(InputError, match="expected a FaceQuality"):
        load(detector, kind=FaceQuality)


def test_in_python(model, faces, tmp_path, monkeypatch):
    image = read_image_rgb(faces / NAMES[0])
    with load(model) as quality:
        assert isinstance(quality, FaceQuality)
        assert quality(image).value == pytest.approx(expected_score(image), rel=1e-5)
        points = np.array([[[30, 40], [80, 40], [55, 60], [35, 85], [75, 85]]], np.float32)
        boxes = np.array([[10, 10, 100, 100]], np.float32)
        detector = facezoo.load(tiny_scrfd(tmp_path / "scrfd.onnx"))
        both = Predictor(detector, quality=quality)
        assert both.settings()["detector"]["model"] == "scrfd_500m_bnkps"
        found = FaceDetections(boxes, np.ones(1, np.float32), points, (112, 112))
        monkeypatch.setattr(detector, "batch", lambda images, shared: [found])
        (face,) = both(image).faces
        wanted = expected_score(align_face(image, points[0]))
        assert face.quality == pytest.approx(wanted, rel=1e-5)
        (entry,) = in_recipe_form(both(image)).to_dict()["faces"]
        assert list(entry) == ["box_xyxy", "score", "landmarks_xy", "quality"]
        assert entry["quality"] == face.quality
    assert QualityScore(3.5).to_dict() == {"quality": 3.5}


def test_a_sheet_needs_faces(tmp_path):
    path = tmp_path / "results.json"
    for text in ('{"schema": "facezoo.quality/1", "images": []}', '{"schema": "x"}', "["):
        path.write_text(text)
        with pytest.raises(DatasetError, match=r"results\.json"):
            quality_sheet(path, tmp_path)
