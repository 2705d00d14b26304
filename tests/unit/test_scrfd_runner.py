"""SCRFD's scripts as a user starts them: processes, files, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from facezoo.datasets.widerface import read_predictions
from facezoo.image.boxes import match_boxes
from facezoo.image.files import write_image_rgb
from facezoo.results import FaceDetections
from facezoo.testing import tiny_scrfd

RUNNER = "face_detection/scrfd/build_in/vsx/python/scrfd_vsx.py"


@pytest.fixture
def runner(repository):
    script = repository / RUNNER

    def run(*arguments, **options):
        command = [sys.executable, str(script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, **options)

    return run


@pytest.fixture
def model(tmp_path):
    return tiny_scrfd(tmp_path / "tiny.onnx")


def make_photos(folder, count=6):
    rng = np.random.default_rng(5)
    for index in range(count):
        image = np.full((50, 70, 3), 12, np.uint8)
        y, x = rng.integers(0, 40), rng.integers(0, 60)
        image[y : y + 9, x : x + 9] = 250
        write_image_rgb(folder / f"{index % 2}--Event" / f"photo {index}.png", image)
    return folder


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_a_folder_becomes_texts_json_and_pictures(tmp_path, runner, model):
    photos = make_photos(tmp_path / "photos")
    out = tmp_path / "out"
    ran = runner(
        "--file_path", photos, "--model_prefix_path", model, "--save_dir", out, "--draw",
        "--profile", "eval", "--device", 0,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "6 images" in ran.stdout
    assert "images/s" in ran.stdout
    assert ran.stderr == ""
    results = json.loads((out / "results.json").read_text())
    assert results["schema"] == "facezoo.faces/1"
    names = [entry["path"] for entry in results["images"]]
    assert names == sorted(names)
    assert len(list((out / "pictures").rglob("*.jpg"))) == 6
    text = (out / "txt" / "0--Event" / "photo 0.txt").read_text().splitlines()
    faces = FaceDetections.from_dict(results["images"][0])
    assert text[0].startswith("0--Event/photo 0")
    assert int(text[1]) == len(faces) == len(text) - 2
    left, top, _, _, score = map(float, text[2].split())
    assert (np.float32(left), np.float32(top)) == tuple(faces.boxes_xyxy[0, :2])
    assert np.float32(score) == faces.scores[0]
    assert len(results["images"][0]["faces"][0]["landmarks_xy"]) == 5
    assert len(read_predictions(out / "txt").images) == 6


def test_one_picture_is_a_folder_of_one(tmp_path, run_here, model):
    photo = next(make_photos(tmp_path / "photos", 1).rglob("*.png"))
    out = tmp_path / "out"
    words = ("--file-path", photo, "--model-prefix-path", model, "--save-dir", out)
    code, _, error = run_here(RUNNER, *words)
    assert code == 0, error
    assert (out / "txt" / "photo 0.txt").exists()


def test_a_bad_picture_is_named_counted_and_passed_over(tmp_path, run_here, model):
    photos = make_photos(tmp_path / "photos")
    (photos / "broken.jpg").write_bytes(b"")
    out = tmp_path / "out"
    words = ("--file_path", photos, "--model_prefix_path", model, "--save_dir", out)
    code, said, error = run_here(RUNNER, *words)
    assert code == 1
    assert "broken.jpg' is empty" in error
    assert "1 refused" in said
    entries = json.loads((out / "results.json").read_text())["images"]
    assert [e["error"] for e in entries if "error" in e] == [
        "is empty (0 bytes); expected an image"
    ]
    code, said, _ = run_here(RUNNER, *words)
    assert code == 1
    assert "7 kept from an earlier run" in said


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--file_path": "none"}, 2, "'none' cannot be read: it does not exist"),
        ({"--model_prefix_path": "none/mod"}, 2, "no artifact at 'none/mod'"),
        ({"--model_prefix_path": "none.onnx"}, 2, "'none.onnx' is not there"),
        ({"--vdsp_params_info": "none.json"}, 2, "'none.json' cannot be read"),
        ({"--engine": "tpu"}, 2, "invalid choice"),
        ({"--devise": "0"}, 2, "unrecognized arguments"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, run_here, model, change, code, message):
    options = {
        "--file_path": make_photos(tmp_path / "photos", 1),
        "--model_prefix_path": model,
        "--save_dir": tmp_path / "out",
        **change,
    }
    ended, _, error = run_here(RUNNER, *[word for pair in options.items() for word in pair])
    assert ended == code
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_another_run_is_refused_until_told_to_overwrite(tmp_path, run_here, model):
    photos = make_photos(tmp_path / "photos")
    common = ("--file_path", photos, "--model_prefix_path", model, "--save_dir", tmp_path / "out")
    assert run_here(RUNNER, *common)[0] == 0
    code, _, error = run_here(RUNNER, *common, "--profile", "vendor")
    assert code == 4
    assert "belongs to another run" in error
    assert run_here(RUNNER, *common, "--profile", "vendor", "--overwrite")[0] == 0


@pytest.fixture(scope="module")
def whole(repository, tmp_path_factory):
    """Return a command over many photos but for its folder, and what it leaves undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    model, photos = tiny_scrfd(folder / "tiny.onnx"), make_photos(folder / "photos", 150)
    common = ("--file_path", photos, "--model_prefix_path", model, "--draw")
    command = [sys.executable, repository / RUNNER, *common, "--save_dir", folder / "out"]
    subprocess.run(command, check=True, capture_output=True)
    return common, files_below(folder / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path, run_here, repository, whole, number):
    common, expected_files = whole
    out = tmp_path / "parts"
    command = [sys.executable, repository / RUNNER, *common, "--save_dir", out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = out / ".items.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if journal.exists() and journal.stat().st_size > 2000:
            break
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert process.returncode == expected, errors
    if number != signal.SIGKILL:
        assert "run the same command again to resume" in errors
        assert "Traceback" not in errors
    assert not (out / "results.json").exists()
    code, said, error = run_here(RUNNER, *common, "--save_dir", out)
    assert code == 0, error
    assert "kept from an earlier run" in said
    assert files_below(out) == expected_files


def test_export_needs_a_scrfd_graph(tmp_path, repository, model):
    script = repository / "face_detection/scrfd/source_code/export_onnx.py"
    environment = {**os.environ, "FACEZOO_HOME": str(tmp_path / "home"), "FACEZOO_OFFLINE": "1"}
    command = [sys.executable, str(script), "--output", str(tmp_path / "raw.onnx"), "--onnx"]

    def export(*words):
        return subprocess.run(
            [*command, *map(str, words)], capture_output=True, text=True, env=environment
        )

    missing = export("scrfd_500m_bnkps")
    assert missing.returncode == 2
    assert "scrfd_500m_bnkps" in missing.stderr
    wrong = export(model, "--size", "640x")
    assert wrong.returncode == 2
    assert "must be a side such as 640, or a height and a width" in wrong.stderr
    assert not (tmp_path / "raw.onnx").exists()


@pytest.mark.shared
def test_the_golden_photos_through_the_script(tmp_path, runner, repository, shared, golden):
    source = shared / "assets" / "scrfd" / "scrfd_500m_bnkps.onnx"
    raw = tmp_path / "raw.onnx"
    export = repository / "face_detection/scrfd/source_code/export_onnx.py"
    subprocess.run(
        [sys.executable, str(export), "--onnx", str(source), "--output", str(raw)], check=True
    )
    expected = np.load(golden / "scrfd" / "detect.npz")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("t1.jpg", "src_meeting.jpg", "view_noface.jpg", "left_face.jpeg", "rot_r90.jpg"):
        (photos / name).symlink_to(shared / "assets" / "photos" / name)
    out = tmp_path / "out"
    ran = runner("--file_path", photos, "--model_prefix_path", raw, "--save_dir", out)
    assert ran.returncode == 0, ran.stderr
    for entry in json.loads((out / "results.json").read_text())["images"]:
        faces = FaceDetections.from_dict(entry)
        boxes = expected[f"{entry['path'].replace('.', '_')}.t0.5.boxes"]
        if entry["path"] == "view_noface.jpg":
            assert len(faces) == 0
            continue
        # Centred on the canvas, ours is not the authors' placement; the faces are the same.
        assert len(faces) == len(boxes)
        matches = match_boxes(faces.boxes_xyxy, boxes, iou_threshold=0.9)
        assert len(matches) == len(boxes)
