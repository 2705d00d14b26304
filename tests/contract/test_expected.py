"""What a recipe's page says will come out, comes out: its commands are run as they stand there.

``python tests/contract/test_expected.py`` records face_detection/scrfd/expected and the portrait
anew, after a change that is meant to change them.
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from facezoo.errors import WeightsError
from recipe_clone import REPOSITORY, clone, fence, home_with, run

RECIPE = "face_detection/scrfd"
EXPECTED = REPOSITORY / RECIPE / "expected"
PICTURE = REPOSITORY / "images" / "face_detection" / "scrfd" / "astronaut.jpg"
FILES = ("scrfd_500m_bnkps", "astronaut")
DEMO_FILES = (*FILES, "w600k_mbf", "players", "gdp", "yaoming")


def steps():
    return [fence(RECIPE, heading) for heading in ("1 model", "3 compile", "Expected output")]


def masked(text):
    """Hide what differs from one machine to the next: times, rates, last digits."""
    text = re.sub(r"[\d.]+ images/s", "N images/s", text)
    text = re.sub(r"\d\.\d+e-\d\d", "N", text)
    return re.sub(r"within \d\.\d+", "within N", text)


def masked_demo(text):
    """Hide the times of the demonstration's tables too, and int8's numbers: they are the CPU's."""
    text = re.sub(r"(latency|\(qps\)): [\d.]+", r"\1: N", text)
    measured = r"^ +(int8|\w+_share|mean_\w+)\b.*$"
    text = re.sub(measured, lambda line: re.sub(r" +[\d.]+", " N", line[0]), text, flags=re.M)
    return re.sub(r"(fp\d\d +\d+) +[\d.]+ +[\d.]+", r"\1 N N", masked(text))


def check_faces(found, expected):
    """Compare two results.json as far as two machines agree."""
    assert [image["path"] for image in found["images"]] == [i["path"] for i in expected["images"]]
    for image, other in zip(found["images"], expected["images"]):
        assert len(image["faces"]) == len(other["faces"])
        for face, same in zip(image["faces"], other["faces"]):
            assert face["box_xyxy"] == pytest.approx(same["box_xyxy"], abs=0.3)
            assert face["score"] == pytest.approx(same["score"], abs=2e-3)
            for point, where in zip(face["landmarks_xy"], same["landmarks_xy"]):
                assert point == pytest.approx(where, abs=0.3)


def read(name):
    return (EXPECTED / name).read_text(encoding="utf-8")


@pytest.fixture
def home(tmp_path):
    try:
        return home_with(tmp_path / "home", FILES, os.environ.get("FACEZOO_SHARED"))
    except WeightsError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_page_prints_and_writes_what_it_says(tmp_path, home):
    workspace = clone(RECIPE, tmp_path / "clone")
    said = "".join(run(text, workspace, home) for text in steps())
    assert masked(said) == masked(read("console.txt"))
    assert run("facezoo info onnx/scrfd_500m_bnkps.onnx", workspace, home) == read("info.txt")
    output = workspace / "faces_output"
    check_faces(json.loads((output / "results.json").read_text()), json.loads(read("results.json")))
    head = read("astronaut.txt").splitlines()[:2]
    assert (output / "txt" / "astronaut.txt").read_text().splitlines()[:2] == head
    assert (output / "pictures" / "astronaut.jpg").is_file()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_demonstration_prints_what_the_first_page_says(tmp_path):
    try:
        home = home_with(tmp_path / "home", DEMO_FILES, os.environ.get("FACEZOO_SHARED"))
    except WeightsError as error:
        pytest.skip(str(error))
    said = run("facezoo demo --to .demo", clone(RECIPE, tmp_path / "clone"), home)
    assert masked_demo(said) == masked_demo(read("demo.txt"))


def test_the_recorded_files_agree_with_each_other():
    (image,) = json.loads(read("results.json"))["images"]
    name, count, *rows = read("astronaut.txt").splitlines()
    assert (name, int(count)) == (image["path"], len(image["faces"]))
    for row, face in zip(rows, image["faces"]):
        left, top, right, bottom = face["box_xyxy"]
        expected = [left, top, right - left, bottom - top, face["score"]]
        assert [float(value) for value in row.split()] == pytest.approx(expected, rel=1e-6)


def test_differences_are_noticed():
    faces = json.loads(read("results.json"))
    check_faces(faces, faces)
    moved = json.loads(json.dumps(faces))
    moved["images"][0]["faces"][0]["box_xyxy"][0] += 1.0
    with pytest.raises(AssertionError):
        check_faces(moved, faces)
    console = read("console.txt")
    assert masked(console.replace("score_8", "score_4")) != masked(console)
    assert masked_demo(read("demo.txt").replace("fp16", "fp17")) != masked_demo(read("demo.txt"))


def record():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workspace, home = clone(RECIPE, folder / "clone"), home_with(folder / "home", DEMO_FILES)
        EXPECTED.mkdir(exist_ok=True)
        console = "".join(run(text, workspace, home) for text in steps())
        info = run("facezoo info onnx/scrfd_500m_bnkps.onnx", workspace, home)
        demo = run("facezoo demo --to .demo", workspace, home)
        for file, text in (("console.txt", console), ("info.txt", info), ("demo.txt", demo)):
            (EXPECTED / file).write_text(text, encoding="utf-8")
        output = workspace / "faces_output"
        shutil.copy(output / "results.json", EXPECTED)
        shutil.copy(output / "txt" / "astronaut.txt", EXPECTED)
        shutil.copy(output / "pictures" / "astronaut.jpg", PICTURE)


if __name__ == "__main__":
    record()
