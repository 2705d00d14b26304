"""Size, sharpness, yaw and truncation: by hand, degraded step by step, limits in a file."""

import json

import cv2
import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.errors import InputError
from facezoo.image.align import TEMPLATE_XY, align_face
from facezoo.image.appearance import degraded_versions, measure_face
from facezoo.image.files import write_image_rgb
from facezoo.pipeline.acceptance import Acceptance
from facezoo.profiles.appearance import (
    DEFAULT,
    MEASURES,
    AppearanceLimits,
    default_limits,
    find_limit,
    read_appearance,
    shares_missed,
)
from facezoo.testing import tiny_magface, tiny_scrfd

NOISE = np.random.default_rng(4).integers(0, 256, (300, 300, 3)).astype(np.uint8)
MARKS = TEMPLATE_XY + (90, 90)


def test_appearance_by_hand():
    crop = align_face(NOISE, MARKS)
    measured = measure_face(NOISE, (0, 0, 30, 50), MARKS, crop)
    assert measured["size"] == 30
    assert measured["truncation"] == pytest.approx(0.0, abs=0.01)
    half = measure_face(NOISE, (0, 0, 9, 9), TEMPLATE_XY - (56, 0), crop)
    assert half["truncation"] == pytest.approx(0.5, abs=0.02)
    grey = np.full((112, 112, 3), 7, np.uint8)
    assert measure_face(NOISE, (0, 0, 9, 9), MARKS, grey)["sharpness"] == 0.0
    beside = MARKS.copy()
    beside[1] = beside[0]
    assert measure_face(NOISE, (0, 0, 9, 9), beside, crop)["yaw"] == 10.0


def test_faces_get_worse_in_one_way_at_a_time():
    found = {}
    for name, value, crop in degraded_versions(NOISE, (90, 90, 190, 202), MARKS):
        assert crop.shape == (112, 112, 3)
        found.setdefault(name, []).append((value, crop))
    assert list(found) == ["yaw", "size", "sharpness", "truncation"]
    aligned = align_face(NOISE, MARKS)
    assert all((entries[0][1] == aligned).all() for entries in found.values())
    sizes = [value for value, _ in found["size"]]
    assert sizes[0] == 100 and sizes[2] == 50 and sizes == sorted(sizes, reverse=True)
    sharpness = [value for value, _ in found["sharpness"]]
    assert sharpness == sorted(sharpness, reverse=True)
    below = align_face(np.vstack([NOISE[:180], 0 * NOISE[180:]]), MARKS)
    cut = {round(value, 2): crop for value, crop in found["truncation"][1::4]}
    assert sorted(cut) == [0.1, 0.2, 0.3, 0.4]
    assert (cut[0.2][92:] == 0).all() and (below[91:] == 0).all()
    assert len({crop.tobytes() for _, crop in found["truncation"]}) == 17


def test_a_limit_by_hand():
    values = np.arange(40.0)
    missed = np.where(values < 10, 0.5, 0.0)
    found = find_limit(values, missed, 0.01, more_is_better=True)
    assert (found.limit, found.reached, len(found.groups)) == (10.0, True, 20)
    assert found.groups[0] == (38.0, 0.0) and found.groups[-1] == (0.0, 0.5)
    never = find_limit(values, 0 * missed, 0.01, more_is_better=False)
    assert (never.limit, never.reached) == (39.0, False)
    with pytest.raises(InputError, match=r"of the best faces 50\.0% of the pairs"):
        find_limit(values, missed, 0.01, more_is_better=False)
    with pytest.raises(InputError, match="at least 20 faces, got 19"):
        find_limit(values[:19], missed[:19], 0.01, more_is_better=True)


def test_what_is_missed_by_hand():
    angles = np.radians([0, 10, 20, 90, 100, 110, 200])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    people = np.array([0, 0, 0, 1, 1, 1, 2])
    trials = vectors[[0, 0, 5, 6]] * [[9.0], [-1.0], [2.0], [1.0]]
    with pytest.raises(InputError, match="needs at least 20 impostor pairs, there are 15"):
        shares_missed(vectors, people, trials, np.array([0, 0, 5, 6]), 0.5)
    cosine, shares = shares_missed(vectors, people, trials, np.array([0, 0, 5, 6]), 0.7)
    assert -1 < cosine < 0.9
    assert shares[:3].tolist() == [0.0, 1.0, 0.0] and np.isnan(shares[3])


def test_the_packages_limits_say_what_they_were_found_with():
    entry = json.loads(DEFAULT.read_text("utf-8"))
    assert entry["settings"]["pictures"] >= 100 and entry["settings"]["refused"] == 0
    assert entry["model_sha256"] and entry["settings"]["fnmr"]
    for name, (field, *_) in MEASURES.items():
        assert entry["limits"][field] == entry["found"][name]["limit"]
    assert default_limits() == Acceptance().appearance == AppearanceLimits(**entry["limits"])


def test_the_first_schema_is_read(tmp_path):
    entry = json.loads(DEFAULT.read_text("utf-8"))
    former = {"yaw": "turn", "truncation": "cut_off"}
    entry["found"] = {former.get(name, name): one for name, one in entry["found"].items()}
    limits = entry["limits"]
    limits["max_turn"], limits["max_cut_off"] = limits.pop("max_yaw"), limits.pop("max_truncation")
    entry["settings"]["recogniser"] = entry.pop("card")
    entry["settings"]["recogniser_sha256"] = entry.pop("model_sha256")
    entry["schema"] = "facezoo.looks_profile/1"
    (tmp_path / "looks.json").write_text(json.dumps(entry))
    found, expected = read_appearance(tmp_path / "looks.json"), read_appearance(DEFAULT)
    assert (found.limits, found.found) == (expected.limits, expected.found)
    assert (found.card, found.model_sha256) == (expected.card, expected.model_sha256)
    with pytest.raises(InputError, match="belongs to one model file"):
        read_appearance(tmp_path / "looks.json", "0" * 64)


@pytest.mark.parametrize(
    ("field", "value"),
    [("min_size", -1), ("max_truncation", 1.5), ("max_yaw", 11), ("max_yaw", True)],
)
def test_limits_out_of_range_are_refused(field, value, tmp_path):
    entry = json.loads(DEFAULT.read_text("utf-8"))
    entry["limits"][field] = value
    (tmp_path / "appearance.json").write_text(json.dumps(entry))
    with pytest.raises(InputError, match=rf"profile\.limits\.{field} is .*; expected"):
        read_appearance(tmp_path / "appearance.json")


def test_folders_of_people_to_limits(tmp_path, capsys):
    """Each person is a bright square with stripes of its own, which the tiny detector finds."""
    detector = tiny_scrfd(tmp_path / "detector.onnx")
    model = tiny_magface(tmp_path / "embedder.onnx")
    rng = np.random.default_rng(3)
    for person in range(7):
        face = cv2.resize(rng.integers(190, 256, (4, 4, 3)).astype(np.uint8), (48, 48))
        for index in range(3):
            image = np.full((120, 120, 3), 20, np.uint8)
            image[30:78, 30 + 4 * index : 78 + 4 * index] = face
            write_image_rgb(tmp_path / "people" / f"p{person}" / f"{index}.png", image)
    (tmp_path / "people" / "p0" / "x.jpg").write_text("no picture")
    profile = tmp_path / "appearance.json"
    words = [
        "calibrate",
        "appearance",
        "--images",
        str(tmp_path / "people"),
        "--embedder",
        str(model),
    ]
    words += ["--detector", str(detector), "--output", str(profile), "--fmr", "0.2"]
    assert main([*words, "--fnmr", "1"]) == 1
    said = capsys.readouterr().out
    assert "21 images, 1 refused" in said and "the worst value in the images" in said
    entry = json.loads(profile.read_text())
    assert entry["settings"]["people"] == 7 and entry["settings"]["identities"] == "people"
    assert read_appearance(profile).limits == AppearanceLimits(**entry["limits"])
    for person, index in ((p, i) for p in range(5) for i in range(3)):
        path = tmp_path / "dark" / f"p{person}" / f"{index}.png"
        write_image_rgb(path, np.zeros((64, 64, 3), np.uint8))
    words[3] = str(tmp_path / "dark")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "no face was found in any image" in said
    good = profile.read_text()
    profile.write_text(
        good.replace(f'"min_size": {entry["limits"]["min_size"]}', '"min_size": NaN')
    )
    with pytest.raises(
        InputError, match=r"profile\.limits\.min_size is nan; expected a number from 0"
    ):
        read_appearance(profile)
    profile.write_text(good.replace("profile/2", "profile/3"))
    with pytest.raises(InputError, match="not a profile of appearance"):
        read_appearance(profile)
