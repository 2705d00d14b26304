"""Who is in an image: the first folder of its name below the folder that was given, everywhere."""

import json

import numpy as np
import pytest
from facezoo.datasets.embeddings import Embeddings
from facezoo.datasets.image_list import people_listed, people_of
from facezoo.errors import DatasetError
from facezoo.image.files import write_image_rgb
from facezoo.models.magface.model import FaceEmbedder
from facezoo.models.scrfd.model import FaceDetector
from facezoo.testing import tiny_magface, tiny_scrfd, tiny_sdd_fiqa

PEOPLE, IMAGES = 12, 4

VERBS = {
    "evaluate verification": ("evaluate", "verification", "--images", "{faces}", "--embedder"),
    "all pairs": (
        "evaluate", "verification", "--all-pairs", "--save_dir", "{out}", "--images", "{faces}",
        "--embedder",
    ),
    "calibrate similarity": (
        "calibrate", "similarity", "--identities", "{faces}", "--output", "{out}", "--model",
    ),
    "calibrate appearance": (
        "calibrate", "appearance", "--identities", "{faces}", "--output", "{out}", "--detector",
        "{scrfd}", "--fmr", "0.05", "--fnmr", "1", "--model",
    ),
    "calibrate quality": (
        "calibrate", "quality", "--images", "{faces}", "--output", "{out}", "--fnmr", "0.9",
        "--fmr", "0.05", "--model_prefix_path", "{fiqa}", "--recognizer",
    ),
    "evaluate quality": (
        "evaluate", "quality", "--images", "{faces}", "--scores", "s={scores}", "--fmr", "0.05",
        "--resamples", "5", "--recognizer",
    ),
    "make_list": (
        "face_recognition/magface/source_code/make_list.py", "--output", "{out}", "--images",
        "{faces}",
    ),
    "make_degraded_set": (
        "face_quality/sdd_fiqa/source_code/make_degraded_set.py", "--save_dir", "{out}",
        "--image_dir", "{faces}",
    ),
}  # fmt: skip


def photo(rng, pattern):
    image = np.clip(pattern + rng.normal(0, 9, pattern.shape), 0, 255).astype(np.uint8)
    image[32:64, 32:64] = 250
    return image


def name_of(person, index, layout):
    video = f"video{index % 2}/" if layout == "nested" else ""
    return f"s{person}/{video}{index}.png"


@pytest.fixture(scope="module", params=["flat", "nested"])
def faces(request, tmp_path_factory):
    """The same images, once with a folder for each video of a person."""
    folder, rng = tmp_path_factory.mktemp(request.param), np.random.default_rng(3)
    lines = []
    for person in range(PEOPLE):
        pattern = rng.integers(0, 60, (7, 7, 3)).repeat(16, 0).repeat(16, 1)
        for index in range(IMAGES):
            name = name_of(person, index, request.param)
            write_image_rgb(folder / "faces" / name, photo(rng, pattern))
            lines.append(f"{name} {index}\n")
    (folder / "scores.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "embedder": tiny_magface(folder / "magface.onnx"),
        "scrfd": tiny_scrfd(folder / "scrfd.onnx"),
        "fiqa": tiny_sdd_fiqa(folder / "fiqa.onnx"),
    }


@pytest.fixture
def verb(run_here, models, tmp_path):
    def run(name, folder):
        *words, last = VERBS[name]
        known = {
            "faces": folder / "faces",
            "scores": folder / "scores.txt",
            "out": tmp_path / "out",
            **models,
        }
        words = [word.format(**known) for word in (*words, last)]
        embeds = last.startswith("--")
        return run_here(*words, *[models["embedder"]] * embeds)

    return run


@pytest.mark.parametrize("name", VERBS)
def test_videos_of_a_person_are_no_people(verb, faces, tmp_path, name):
    code, said, error = verb(name, faces)
    assert code == 0, error
    if name == "make_degraded_set":
        lines = (tmp_path / "out" / "faces.txt").read_text().splitlines()
        assert len({line.split()[1] for line in lines}) == PEOPLE
    else:
        assert f"{PEOPLE} people" in said
    if name == "calibrate similarity":
        profile = json.loads((tmp_path / "out").read_text())
        assert profile["settings"]["people"] == PEOPLE
        assert profile["genuine"] == PEOPLE * IMAGES * (IMAGES - 1) // 2


@pytest.mark.parametrize("name", VERBS)
def test_a_loose_image_is_named_before_the_work(verb, faces, monkeypatch, name):
    loose = faces / "faces" / "loose.png"
    loose.write_bytes((faces / "faces" / "s0").glob("**/*.png").__next__().read_bytes())

    def work(*_, **__):
        raise AssertionError("the work was begun")

    monkeypatch.setattr(FaceEmbedder, "_infer", work)
    monkeypatch.setattr(FaceDetector, "_infer", work)
    try:
        code, _, error = verb(name, faces)
    finally:
        loose.unlink()
    assert code == 2
    assert "1 of 49 images are not in the folder of a person: 'loose.png'" in error


def test_the_folder_that_all_images_of_a_list_share_is_no_person():
    assert people_of(["a/v0/1.png", "a/v1/2.png", "b/3.png"], "x") == ["a", "a", "b"]
    names = ["/data/faces/a/v0/1.png", "/data/faces/a/v1/2.png", "/data/faces/b/v0/3.png"]
    assert people_listed(names, "x") == ["a", "a", "b"]
    assert people_listed(["a/1.png", "a/2.png"], "x") == ["a", "a"]
    with pytest.raises(DatasetError, match=r"2 of 3 images .* 'a.png', 'b.png'; expected one"):
        people_of(["a.png", "b.png", "c/d.png"], "x")
    found = Embeddings(("a/v0/1.png", "a/v1/2.png", "b/v0/3.png"), np.eye(3, dtype=np.float32))
    assert found.people.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("calibrate appearance", ("--fmr", "0.0001"), "FMR 0.0001 needs at least 100000 impostor"),
        ("calibrate quality", ("--fmr", "0.0001"), "FMR 0.0001 needs at least 100000 impostor"),
        ("evaluate quality", ("--fmr", "0.0001"), "FMR 0.0001 needs at least 100000 impostor"),
    ],
)
def test_too_few_people_for_a_rate_are_refused_before_the_work(
    verb, faces, monkeypatch, name, words, message
):
    def work(*_, **__):
        raise AssertionError("the work was begun")

    monkeypatch.setattr(FaceEmbedder, "_infer", work)
    monkeypatch.setattr(FaceDetector, "_infer", work)
    before = VERBS[name]
    monkeypatch.setitem(VERBS, name, (*before[:-1], *words, before[-1]))
    code, _, error = verb(name, faces)
    assert code == 2
    assert message in error
