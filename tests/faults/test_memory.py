"""Memory that does not grow with the pairs of images, or with the photos of a run."""

import argparse
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.cli.predict import work as predict
from facezoo.datasets.embeddings import Embeddings
from facezoo.datasets.pairs import people_pairs
from facezoo.datasets.templates import TemplateProtocol
from facezoo.evaluation.measured import MeasuredList
from facezoo.evaluation.quality import face_pairs
from facezoo.evaluation.verification_report import verify_images, verify_templates
from facezoo.image.files import write_image_rgb
from facezoo.pipeline.photo import PredictedFace, PredictedPhoto
from facezoo.profiles.appearance import shares_missed
from facezoo.profiles.similarity import people_points
from facezoo.results import FaceDetections, Landmarks
from facezoo.testing import tiny_magface
from limits import memory

MEASURED = """
import re, sys
from pathlib import Path
from facezoo.cli.main import main
code = main(sys.argv[1:])
# Not the highest of getrusage, which counts the process that this one was started from.
status = Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024)
sys.exit(code)
"""


def peak_of(*words):
    """Run a command in a process of its own; return its peak memory in MiB."""
    command = [sys.executable, "-c", MEASURED, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Thirty people of ten aligned faces: 44,850 pairs, whose vectors take 700 MiB."""
    folder, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(1)
    for person in range(30):
        face = rng.integers(0, 256, (112, 112, 3))
        for index in range(10):
            image = np.clip(face + rng.normal(0, 8, face.shape), 0, 255).astype(np.uint8)
            write_image_rgb(folder / "people" / f"p{person}" / f"{index}.png", image)
    return folder / "people", tiny_magface(folder / "tiny.onnx")


def test_calibrating_similarity_reads_pairs_in_blocks(people, tmp_path):
    words = ("calibrate", "similarity", "--output", tmp_path / "profile.json")
    assert peak_of(*words, "--identities", people[0], "--model", people[1]) < 400


def test_evaluating_all_pairs_reads_them_in_blocks(people):
    words = ("evaluate", "verification", "--all-pairs")
    assert peak_of(*words, "--images", people[0], "--model_prefix_path", people[1]) < 400


VECTORS = np.random.default_rng(2).normal(0, 1, (800, 512)).astype(np.float32)
PEOPLE = np.arange(800) // 10
NAMES = tuple(f"p{index // 10}/{index}.png" for index in range(800))


def missed():
    return shares_missed(VECTORS, PEOPLE, VECTORS[:5], np.arange(5), 0.01)


def verified():
    return verify_images(
        MeasuredList.of("set", "images", NAMES),
        VECTORS,
        *people_pairs(NAMES_OF_PEOPLE, everything=True),
    )


def templates():
    pairs = np.stack(np.triu_indices(800, k=1), axis=1)
    same = PEOPLE[pairs[:, 0]] == PEOPLE[pairs[:, 1]]
    protocol = TemplateProtocol(NAMES, np.arange(800), np.arange(800), pairs, same, Path("list"))
    return verify_templates(VECTORS, protocol)


NAMES_OF_PEOPLE = list(map(str, PEOPLE))


@pytest.mark.parametrize(
    ("compare", "most"),
    [
        (lambda: people_points(VECTORS, PEOPLE), 80),
        (missed, 40),
        (verified, 100),
        (templates, 100),
        (lambda: face_pairs(Embeddings(NAMES, VECTORS)), 100),
    ],
    ids=["similarity", "appearance", "verification", "templates", "quality"],
)
def test_the_pairs_of_800_images_take_little_memory(compare, most):
    """Their vectors take 2.4 GiB."""
    tracemalloc.start()
    try:
        compare()
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert peak < most, peak


# Photos of a run ----------------------------------------------------------------------------------


class SixteenFaces:
    """Stands in for a chain of networks that finds the same faces in every photo."""

    embedder = True

    def __init__(self):
        rng = np.random.default_rng(3)
        marks = rng.normal(0, 1, (16, 5, 2)).astype(np.float32)
        found = FaceDetections(np.ones((16, 4)), np.full(16, 0.5), marks, (9, 9))
        points_xy = rng.normal(0, 1, (98, 2)).astype(np.float32)
        points = Landmarks(points_xy, np.ones(98, np.float32), (9, 9))
        faces = (
            PredictedFace((1, 2, 3, 4), 0.5, mark, {}, points, magnitude=9.0, vector=vector)
            for mark, vector in zip(marks, rng.normal(0, 1, (16, 512)).astype(np.float32))
        )
        self.photo = PredictedPhoto(tuple(faces), found)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def settings(self):
        return {}

    def stream(self, paths, visit):
        return (self.photo for _ in paths)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--similarity", "any.json"]], ids=["faces", "people"])
def test_predict_holds_the_faces_of_no_more_photos_for_more_photos(tmp_path, monkeypatch, more):
    monkeypatch.setattr(predict, "open_predictor", lambda args: SixteenFaces())
    monkeypatch.setattr(predict, "_similarity", lambda args, model: 0.5 if more else None)
    # Faces are compared in blocks of so many, which must be fewer than either run has.
    monkeypatch.setattr("facezoo.arrays.STORED_ROWS", 64)
    monkeypatch.setattr("facezoo.pipeline.clusters.BLOCK", 1 << 18)
    write_image_rgb(tmp_path / "photo.png", np.zeros((9, 9, 3), np.uint8))
    peaks = {}
    for count in (20, 170):
        photos, out = tmp_path / f"photos{count}", tmp_path / f"out{count}"
        photos.mkdir()
        for index in range(count):
            os.link(tmp_path / "photo.png", photos / f"{index:03}.png")
        words = ["predict", str(photos), "--save_dir", str(out), "--embedder", "any.onnx", "--csv"]
        Path("/proc/self/clear_refs").write_text("5")  # The highest memory is counted from here.
        before = memory("VmRSS")
        assert main([*words, "--quiet", *more]) == 0
        peaks[count] = (memory("VmHWM") - before) / 1024
        with np.load(out / "embeddings.npz") as arrays:
            assert arrays["vectors"].shape == (16 * count, 512)
    # As JSON the faces of 150 photos take 100 MiB, their embeddings alone 5.
    assert peaks[170] < peaks[20] + 20, peaks


def test_a_report_holds_no_row_of_its_table(tmp_path, monkeypatch):
    face = {"box_xyxy": [1.5, 2, 3, 4], "score": 0.5, "reasons": [], "landmarks_xy": [[1, 2]] * 5}
    entry = json.dumps({"schema": predict.SCHEMA, "path": "a.jpg", "faces": [face]})
    (tmp_path / "faces.jsonl").write_text(f"{entry}\n" * 5_000)
    monkeypatch.setattr(predict, "PICTURES_SHOWN", 0)
    page = tmp_path / "page.html"
    args = argparse.Namespace(inputs=[str(tmp_path)], html=page)
    tracemalloc.start()
    try:
        predict._write_html(args, tmp_path, {}, {})
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert page.read_text().count("<tr><td") == 5_000
    # The rows took 5 MiB.
    assert peak < 2, peak
