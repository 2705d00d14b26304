"""``facezoo match``: one person of a photo in another."""

import json
from dataclasses import replace

import facezoo
import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.errors import InputError
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.models import WEIGHTS
from facezoo.models.magface.card import MATCH_THRESHOLDS
from facezoo.pipeline.people import match_photos
from facezoo.pipeline.photo import PredictedFace, PredictedPhoto, Predictor
from facezoo.results import FaceDetections
from facezoo.testing import tiny_magface, tiny_scrfd


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A detector, and a recogniser that says, like the published file, what it was made from."""
    published = replace(WEIGHTS["w600k_mbf"], sha256="")
    monkeypatch.setitem(WEIGHTS, "w600k_mbf", published)
    card = {"card_id": "w600k_mbf"}
    return tiny_scrfd(tmp_path / "scrfd.onnx"), tiny_magface(tmp_path / "tiny.onnx", **card)


@pytest.fixture
def photos(tmp_path):
    """One bright square; the same and another one; nothing."""
    one = np.full((64, 64, 3), 12, np.uint8)
    one[8:24, 8:24] = (250, 200, 250)
    two = np.full((64, 64, 3), 12, np.uint8)
    two[8:24, 8:24] = (250, 200, 250)
    two[40:48, 40:48] = (200, 250, 250)
    paths = []
    for name, image in (("one", one), ("two", two), ("none", np.zeros_like(one))):
        paths.append(tmp_path / f"{name}.png")
        write_image_rgb(paths[-1], image)
    return paths


def run(capsys, photos, models, *flags):
    detector, recogniser = models
    where = ("--detector", detector, "--embedder", recogniser)
    capsys.readouterr()
    code = main(["match", *map(str, (*photos, *where, *flags))])
    return code, *capsys.readouterr()


def test_nothing_is_written_unasked_and_the_exit_code_tells(
    tmp_path, capsys, models, photos, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "match.jpg").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    code, said, _ = run(capsys, photos[:2], models)
    assert code == 0 and "look at" not in said
    # Below 1.0 they are one person, above every cosine two.
    for words, expected in (([], 0), (["--exit-code"], 1)):
        code, _, _ = run(capsys, photos[:2], models, "--threshold", "1", *words)
        assert code == expected
    assert run(capsys, photos[:2], models, "--exit-code")[0] == 0
    assert run(capsys, photos[:2], models, "--quiet") == (0, "", "")
    code, said, error = run(capsys, photos[:2], models, "--quiet", "--json", "-")
    assert json.loads(said)["one_person"] is True and error == ""
    code, _, error = run(capsys, ["https://example.org/a.jpg", photos[1]], models)
    assert code == 2 and "'https://example.org/a.jpg' is an address" in error
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "match.jpg").read_text() == "mine"


def test_the_nearest_face_is_named_judged_and_drawn(tmp_path, capsys, models, photos):
    sheet, report = tmp_path / "m.png", tmp_path / "m.json"
    flags = ("--output", sheet, "--json", report)
    code, said, _ = run(capsys, photos[:2], models, *flags)
    assert code == 0
    entry = json.loads(report.read_text())
    best = int(np.argmax(entry["cosines"]))
    cosine = entry["cosines"][best]
    assert f"face {best} of {photos[1]}, counted from 0, is the nearest" in said
    assert f"cosine {cosine:.4f}" in said
    assert cosine == pytest.approx(1.0, abs=1e-3)
    assert "the next one has" in said
    assert f"threshold {MATCH_THRESHOLDS['w600k_mbf'].cosine:.4f}, above: one person" in said
    assert MATCH_THRESHOLDS["w600k_mbf"].origin in said
    assert entry["one_person"] is True
    assert len(entry["second"]["faces"]) == len(entry["cosines"]) > 1
    assert read_image_rgb(sheet).shape[1] > 900
    # The largest face of the first photo is meant, whichever stands first.
    with Predictor(facezoo.load(models[0]), embedder=facezoo.load(models[1])) as model:
        match = match_photos(model, *map(read_image_rgb, photos[:2]))
    sides = match.first.detections.boxes_xyxy[:, 2:] - match.first.detections.boxes_xyxy[:, :2]
    assert match.index == int(np.argmax(sides.prod(axis=1)))


def faces_of(*sides_and_vectors):
    """Faces of these sides, one below the other, with these embeddings."""
    sides = np.float32([side for side, _ in sides_and_vectors])
    corners = np.zeros((len(sides), 2), np.float32)
    faces = FaceDetections(
        np.hstack([corners, corners + sides[:, None]]),
        np.full(len(sides), 0.9, np.float32),
        np.zeros((len(sides), 5, 2), np.float32),
        (100, 100),
    )
    found = (
        PredictedFace(tuple(box), 0.9, marks, {}, vector=vector and np.float32(vector))
        for box, marks, (_, vector) in zip(faces.boxes_xyxy, faces.landmarks_xy, sides_and_vectors)
    )
    return PredictedPhoto(tuple(found), faces)


def test_the_largest_face_of_the_first_photo_is_meant_by_hand():
    first = faces_of((10, [1, 0]), (30, [0, 2]), (20, [1, 0]))
    second = faces_of((90, [5, 0]), (10, [3, 4]))
    found = {1: first, 2: second}
    match = match_photos(found.get, 1, 2)
    assert match.index == 1
    np.testing.assert_allclose(match.cosines, [0.0, 0.8], atol=1e-6)
    assert match.best == 1
    assert match.next_cosine == pytest.approx(0.0, abs=1e-6)
    assert match_photos(found.get, 1, 1).best == 1
    assert match_photos({1: second, 2: faces_of((5, [1, 0]))}.get, 1, 2).next_cosine is None
    with pytest.raises(InputError, match="1 of 2 faces in the second photo have no embedding"):
        match_photos({1: first, 2: faces_of((5, [1, 0]), (9, None))}.get, 1, 2)


def test_thresholds_and_what_is_missing(tmp_path, capsys, models, photos):
    flags = ("--output", tmp_path / "m.png")
    code, said, _ = run(capsys, photos[:2], models, *flags, "--threshold", "1")
    assert code == 0
    assert "the threshold is yours" in said
    code, _, error = run(capsys, photos[1:], models, *flags)
    assert code == 2
    assert "no face was found in the second photo" in error
    with pytest.raises(SystemExit) as end:
        run(capsys, photos[:2], models, *flags, "--threshold", "1.2")
    assert end.value.code == 2
    with pytest.raises(SystemExit):
        run(capsys, photos[:2], models, *flags, "--threshold", "0", "--similarity", "p.json")
    for card_id in ("arcface_bgr", "magface_iresnet50"):
        unknown = tiny_magface(tmp_path / "other.onnx", card_id=card_id)
        code, _, error = run(capsys, photos[:2], (models[0], unknown), *flags)
        assert code == 2
        assert f"no threshold was measured for {card_id}; give a profile as --similarity" in error
    assert run(capsys, photos[:2], (models[0], unknown), *flags, "--threshold", "0")[0] == 0


def test_a_file_that_does_not_say_what_it_is_has_no_threshold(
    tmp_path, capsys, models, photos, monkeypatch
):
    monkeypatch.setitem(WEIGHTS, "w600k_mbf", replace(WEIGHTS["w600k_mbf"], sha256="1" * 64))
    code, _, error = run(capsys, photos[:2], models)
    assert code == 2
    assert "no threshold was measured for this network under the name of w600k_mbf" in error


def test_without_the_weights_it_says_how_to_get_them(tmp_path, capsys, photos, monkeypatch):
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("FACEZOO_OFFLINE", "1")
    capsys.readouterr()
    assert main(["match", str(photos[0]), str(photos[1])]) == 2
    error = capsys.readouterr().err
    assert "scrfd_500m_bnkps is missing and FACEZOO_OFFLINE=1 forbids downloads" in error


@pytest.mark.shared
def test_two_photos_of_one_person(tmp_path, capsys, shared, monkeypatch):
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path))
    for folder, name in (("scrfd", "scrfd_500m_bnkps"), ("recognition", "w600k_mbf")):
        source = shared / "assets" / folder / f"{name}.onnx"
        (tmp_path / source.name).symlink_to(source)
    rob = [str(shared / "assets" / "photos" / f"Rob_Lowe_000{n}.jpg") for n in (1, 2)]
    flags = ["--output", str(tmp_path / "m.jpg")]
    assert main(["match", *rob, *flags]) == 0
    said = capsys.readouterr().out
    assert "cosine 0.58" in said or "cosine 0.59" in said
    assert "above: one person" in said
    other = str(shared / "assets" / "photos" / "small_image5.jpg")
    assert main(["match", rob[0], other, *flags]) == 0
    assert "below: two people" in capsys.readouterr().out
