"""PIPNet's scripts as a user starts them: files, numbers, exit codes; vamp gives the same."""

import json
import os

import numpy as np
import pytest
from facezoo.datasets.wflw import NormalisedList, read_normalised_list, write_normalised_list
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.models.pipnet.card import CARDS
from facezoo.models.pipnet.decode import load_meanface
from facezoo.models.pipnet.model import LandmarkDetector
from facezoo.results import Landmarks
from facezoo.testing import tiny_pipnet, tiny_scrfd
from facezoo.vacc.vdsp import render_vdsp

MEANFACE = load_meanface("WFLW", 10).points_xy
RECIPE = "face_alignment/pipnet"


@pytest.fixture
def scripts(run_here):
    """Run a script of the recipe by its short name, or a verb."""
    paths = {
        "runner": f"{RECIPE}/build_in/vsx/python/vsx_infer.py",
        "npz_decode": f"{RECIPE}/build_in/decode/npz_decode.py",
        "image2npz": "common/utils/image2npz.py",
    }

    return lambda name, *arguments: run_here(paths.get(name, name), *arguments)


@pytest.fixture
def model(tmp_path):
    return tiny_pipnet(tmp_path / "tiny.onnx")


@pytest.fixture
def wflw(tmp_path, rng):
    """Crops with one bright cell each, annotated a little beside where the network sees them."""
    folder = tmp_path / "WFLW"
    names, truth = [], []
    for number in range(1, 13):
        column, row = rng.integers(0, 8, 2)
        image = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
        image[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 180
        names.append(f"wflw_test_{number:04d}.png")
        write_image_rgb(folder / "images_test" / names[-1], image)
        truth.append((MEANFACE + [column, row]) / 8 + rng.normal(0.0, 0.01, 2))
    write_normalised_list(folder / "test.txt", NormalisedList(tuple(names), np.stack(truth)))
    subset = NormalisedList(tuple(names[3:9]), np.stack(truth[3:9]))
    write_normalised_list(folder / "test_expr.txt", subset)
    return folder


def numbers_of(said):
    lines = [line.split(": ") for line in said.splitlines() if ": " in line]
    return {key: float(value) for key, value in lines if key in ("nme", "fr", "auc")}


def test_wflw_becomes_landmarks_and_numbers(scripts, wflw, model, tmp_path, repository):
    vdsp = repository / RECIPE / "build_in/vdsp_params/official-pip_resnet18-vdsp_params.json"
    out = tmp_path / "out"
    code, said, error = scripts(
        "runner", "--data_dir", wflw, "--model_prefix_path", model, "--vdsp_params_info", vdsp,
        "--save_dir", out, "--meanface_txt", repository / RECIPE / "source_code/meanface.txt",
        "--device", "0",
    )  # fmt: skip
    assert code == 0, error
    assert "metrics.json" in (out / ".files.jsonl").read_text()
    results = json.loads((out / "results.json").read_text())
    assert (results["schema"], results["crop"]) == ("facezoo.landmarks/1", "annotation")
    assert len(results["images"]) == 12
    truth = read_normalised_list(wflw / "test.txt").points_xy
    errors = []
    for entry, points in zip(results["images"], truth):
        found = Landmarks.from_dict(entry)
        assert (len(found), found.image_hw) == (98, (64, 64))
        gap = np.linalg.norm(found.points_xy / 64 - points, axis=1).mean()
        errors.append(gap / np.linalg.norm(points[60] - points[72]))
    assert numbers_of(said)["nme"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert numbers_of(said)["fr"] == pytest.approx(np.mean(np.array(errors) > 0.1))
    assert "Image num: 12" in said
    *_, full, expression, measured = said.splitlines()
    assert [full.split()[:2], expression.split()[:2]] == [["full", "12"], ["expression", "6"]]
    assert measured.startswith("measured on: ")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["table"]["full"]["nme"] == numbers_of(said)["nme"]
    code, again, error = scripts(
        "evaluate", "pipnet", "--pred", out / "results.json", "--gt", wflw,
        "--plot", tmp_path / "ced.svg", "--json", tmp_path / "report.json",
    )  # fmt: skip
    assert code == 0, error
    assert numbers_of(again) == numbers_of(said)
    assert "Cumulative error distribution" in (tmp_path / "ced.svg").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["table"] == metrics["table"]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_vamp_and_the_decoder_give_the_same_numbers(scripts, wflw, model, tmp_path, dtype):
    config = {
        "name": f"official_pipnet_{dtype}",
        "frontend": {"type": "onnx", "checkpoint": str(model)},
        "backend": {"type": "tvm_vacc", "dtype": dtype},
        "workspace": {"path": str(tmp_path / "deploy_weights")},
    }
    config["frontend"]["shape"] = {"input": [1, 3, 256, 256]}
    # JSON is YAML too.
    (tmp_path / "official_pipnet.yaml").write_text(json.dumps(config))
    assert scripts("vamc", "compile", tmp_path / "official_pipnet.yaml")[0] == 0
    prefix = tmp_path / "deploy_weights" / f"official_pipnet_{dtype}" / "mod"
    vdsp = tmp_path / "vdsp.json"
    vdsp.write_text(json.dumps(render_vdsp(CARDS["pip_resnet18"].preprocess)))
    code, said, error = scripts(
        "runner", "--data_dir", wflw, "--model_prefix_path", prefix, "--vdsp_params_info", vdsp,
        "--save_dir", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, error
    code, _, error = scripts(
        "image2npz", "--dataset_path", wflw / "images_test", "--target_path", tmp_path / "npz",
        "--text_path", tmp_path / "npz_datalist.txt",
    )  # fmt: skip
    assert code == 0, error
    code, _, error = scripts(
        "vamp", "-m", prefix, "--vdsp_params", vdsp, "-i", "1", "-p", "1", "-b", "1",
        "--datalist", tmp_path / "npz_datalist.txt", "--path_output", tmp_path / "npz_output",
    )  # fmt: skip
    assert code == 0, error
    # The seed's spelling, one dash and all.
    code, decoded, error = scripts(
        "npz_decode", "-input_npz_path", tmp_path / "npz_datalist.txt",
        "--out_npz_dir", tmp_path / "npz_output", "--input_shape", 256, 256, "--vamp_flag",
        "--data_dir", wflw, "--save_dir", tmp_path / "decoded",
    )  # fmt: skip
    assert code == 0, error
    assert numbers_of(decoded) == numbers_of(said)
    for name in ("results.json", "metrics.json"):
        runner, decoder = tmp_path / "out" / name, tmp_path / "decoded" / name
        assert runner.read_bytes() == decoder.read_bytes()


def test_a_folder_of_crops_is_drawn(scripts, model, wflw, tmp_path):
    (wflw / "images_test" / "broken.png").write_bytes(b"")
    out = tmp_path / "out"
    code, said, error = scripts(
        "runner", "--data_dir", wflw / "images_test", "--model_prefix_path", model,
        "--save_dir", out, "--draw",
    )  # fmt: skip
    assert code == 1
    assert "broken.png' is empty" in error
    assert "13 images, 1 refused" in said
    assert "nme" not in said
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == 12
    crop = read_image_rgb(wflw / "images_test" / "wflw_test_0001.png")
    drawn = read_image_rgb(pictures[0]).astype(int)
    assert drawn.shape == crop.shape
    # Dots are green, and nothing else in the noise is.
    assert (drawn[..., 1] - drawn[..., [0, 2]].max(axis=2)).max() > 60


def test_photos_need_and_get_a_detector(scripts, model, tmp_path, rng):
    photos = tmp_path / "photos"
    for index in range(3):
        image = np.full((90, 120, 3), 10, np.uint8)
        image[20 : 20 + 24, 30 : 30 + 24] = rng.integers(200, 256, (24, 24, 3))
        write_image_rgb(photos / "party" / f"{index}.png", image)
    write_image_rgb(photos / "empty.png", np.full((90, 120, 3), 10, np.uint8))
    detector = tiny_scrfd(tmp_path / "scrfd.onnx")
    common = ("runner", "--data_dir", photos, "--model_prefix_path", model)
    out = tmp_path / "out"
    code, _, error = scripts(
        *common, "--save_dir", out, "--crop", "detector", "--detector", detector, "--draw"
    )
    assert code == 0, error
    results = json.loads((out / "results.json").read_text())
    assert results["crop"] == "detector"
    found = {entry["path"]: entry["faces"] for entry in results["images"]}
    for entry in results["images"]:
        for face in entry["faces"]:
            assert list(face) == ["box_xyxy", "score", "landmarks_xy", "points_xy", "point_scores"]
            assert len(Landmarks.from_dict({**entry, **face})) == 98
    assert len(found["empty.png"]) == 0
    assert all(len(found[f"party/{index}.png"]) > 0 for index in range(3))
    assert len(list((out / "pictures").rglob("*.jpg"))) == 4
    for words in (["--crop", "detector"], ["--detector", detector]):
        code, _, error = scripts(*common, "--save_dir", tmp_path / "other", *words)
        assert code == 2
        assert "go together" in error
    assert not (tmp_path / "other").exists()


def test_a_stopped_run_goes_on_and_ends_the_same(scripts, model, wflw, tmp_path, monkeypatch):
    common = ("runner", "--data_dir", wflw, "--model_prefix_path", model, "--draw")
    _, said, _ = scripts(*common, "--save_dir", tmp_path / "whole")
    stream = LandmarkDetector.stream

    def interrupted(self, paths, visit=None):
        for number, result in enumerate(stream(self, paths, visit)):
            if number == 5:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(LandmarkDetector, "stream", interrupted)
    code, _, error = scripts(*common, "--save_dir", tmp_path / "parts")
    assert code == 130
    assert "run the same command again to resume" in error
    monkeypatch.undo()
    code, again, _ = scripts(*common, "--save_dir", tmp_path / "parts")
    assert code == 0
    assert "5 kept from an earlier run" in again
    assert numbers_of(again) == numbers_of(said)

    def files(folder):
        paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_wrong_commands_are_said_in_a_line(scripts, model, wflw, tmp_path):
    common = {
        "--data_dir": wflw,
        "--model_prefix_path": model,
        "--save_dir": tmp_path / "out",
    }
    (tmp_path / "short.txt").write_text("0.5 0.5 0.25")
    cases = [
        ({"--data_dir": "none"}, "'none' cannot be read: it does not exist"),
        ({"--meanface_txt": tmp_path / "short.txt"}, "is not a mean face"),
        (
            {"--model_prefix_path": tiny_scrfd(tmp_path / "scrfd.onnx")},
            "a FaceDetector; expected a LandmarkDetector",
        ),
        ({"--crop": "detector", "--detector": model}, "contains crops"),
        ({"--normalizer": "LFW"}, "is not one of WFLW"),
    ]
    for change, message in cases:
        words = [word for pair in {**common, **change}.items() for word in pair]
        code, _, error = scripts("runner", *words)
        assert (code, message in error) == (2, True), error
    assert not (tmp_path / "out").exists()
    first = wflw / "images_test" / "wflw_test_0001.png"
    os.truncate(first, 0)
    code, _, error = scripts("runner", *[word for pair in common.items() for word in pair])
    assert code == 2
    assert "no landmarks of 'wflw_test_0001.png', which is empty" in error
