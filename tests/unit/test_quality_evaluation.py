"""Quality over many faces: files of scores, degradations, pairs, curves, rankings, profiles."""

import csv
import json
import re

import numpy as np
import pytest
from facezoo import FaceDetector, load
from facezoo.cli.evaluate import quality as cli
from facezoo.cli.main import main
from facezoo.datasets.degraded import choose_people, drawn_copies
from facezoo.datasets.embeddings import Embeddings, read_embeddings, write_embeddings
from facezoo.datasets.scores import QualityScores, read_scores
from facezoo.errors import DatasetError, FaceZooError, InputError
from facezoo.evaluation.measured import MeasuredList
from facezoo.evaluation.quality import (
    Response,
    baseline_scores,
    compare_scores,
    face_pairs,
    rank_copies,
)
from facezoo.image.degrade import DEGRADATIONS, LEVELS, degrade
from facezoo.image.files import write_image_rgb
from facezoo.metrics.quality import area_ratio
from facezoo.metrics.verification import threshold_at_fmr
from facezoo.profiles.quality import (
    DROPS,
    make_quality_profile,
    quality_at_fnmr,
    read_quality,
    write_quality,
)
from facezoo.reports.numerics import read_numerics
from facezoo.testing import tiny_magface, tiny_scrfd, tiny_sdd_fiqa
from hypothesis import given
from hypothesis import strategies as st

PEOPLE, PICTURES = 12, 6


@pytest.fixture
def faces(rng):
    """Embeddings of 12 people with 6 pictures each, the noisier the lower their quality."""
    quality = rng.uniform(0.0, 1.0, PEOPLE * PICTURES)
    people = np.repeat(np.arange(PEOPLE), PICTURES)
    noise = rng.standard_normal((len(people), 24))
    vectors = rng.standard_normal((PEOPLE, 24))[people] + (1.6 * (1.1 - quality))[:, None] * noise
    names = tuple(f"p{p}/{i}.png" for p, i in zip(people, np.arange(len(people)) % PICTURES))
    return Embeddings(names, vectors.astype(np.float32)), QualityScores(names, quality)


# Degradations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_degradations_change_more_the_higher_their_level(kind, rng):
    image = rng.integers(0, 256, (64, 48, 3)).astype(np.uint8)
    image[:, :24] //= 2
    before = image.copy()
    changes = []
    for level in LEVELS[kind]:
        worse = degrade(image, kind, level)
        assert (worse.shape, worse.dtype) == (image.shape, np.uint8)
        changes.append(np.abs(worse.astype(int) - image).mean())
    assert np.array_equal(image, before)
    nothing = LEVELS[kind].index(1.0 if kind == "shrink" else 0.0)
    assert changes[nothing] == 0.0
    rising = changes[nothing:]
    assert all(low < high for low, high in zip(rising, rising[1:]))


def test_degradations_do_what_they_say():
    image = np.full((100, 80, 3), 60, np.uint8)
    assert (degrade(image, "brightness", 1.0) == 120).all()
    assert (degrade(image, "brightness", 3.0) == 255).all()
    covered = degrade(image, "occlusion", 0.3)
    assert (covered[70:] == 0).all()
    assert (covered[:70] == 60).all()
    flat = degrade(np.array([[[0, 0, 0], [200, 200, 200]]], np.uint8), "contrast", 0.5)
    assert flat[0, :, 0].tolist() == [50, 150]
    noisy = degrade(image, "noise", 10.0)
    assert np.array_equal(noisy, degrade(image, "noise", 10.0))
    assert noisy.std() == pytest.approx(10.0, rel=0.03)
    stripes = np.zeros((100, 80, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.ptp(degrade(stripes, "shrink", 2.0)) <= 2


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("fog", 1),
        ("blur", -1),
        ("shrink", 0.5),
        ("jpeg", 101),
        ("occlusion", 1.1),
        ("blur", np.inf),
    ],
)
def test_degradations_out_of_range_are_refused(kind, level):
    with pytest.raises(InputError, match=kind):
        degrade(np.zeros((8, 8, 3), np.uint8), kind, level)


# Files of scores ----------------------------------------------------------------------------------


def test_scores_are_read_whoever_wrote_them(tmp_path):
    expected = QualityScores(("a/1.png", "b c.png"), np.array([3.5, -1.25]))
    results = {"images": [{"path": "a/1.png", "quality": 3.5}, {"path": "b c.png", "norm": -1.25}]}
    (tmp_path / "results.json").write_text(json.dumps({**results, "model_sha256": "ab"}))
    (tmp_path / "a.csv").write_text("path,quality\na/1.png,3.5\nb c.png,-1.25\n")
    (tmp_path / "b.csv").write_text("score,path\n3.5,a/1.png\n-1.25,b c.png\n")
    (tmp_path / "list.txt").write_text("a/1.png 3.5\nb c.png\t-1.25\n")
    for name in ("results.json", "a.csv", "b.csv", "list.txt"):
        found = read_scores(tmp_path / name)
        assert found.names == expected.names
        assert np.array_equal(found.values, expected.values)
    assert read_scores(tmp_path / "results.json").made_by == {"model_sha256": "ab"}
    assert found.of(["b c.png", "a/1.png"]).tolist() == [-1.25, 3.5]
    with pytest.raises(DatasetError, match=r"no score, such as 'c\.png'"):
        found.of(["a/1.png", "c.png"])


def test_the_lengths_of_a_feature_list_are_scores(tmp_path):
    (tmp_path / "feat.list").write_text("a.png 3.0 -4.0 \nb.png 0.6 0.8 \n")
    assert read_scores(tmp_path / "feat.list").values.tolist() == [5.0, 1.0]


def test_faces_of_photos_have_numbers(tmp_path):
    faces = [{"quality": 1.0}, {"norm": 2.0}]
    entries = [{"path": "a.png", "error": "is empty"}, {"path": "b.png", "faces": faces}]
    (tmp_path / "results.json").write_text(json.dumps({"images": entries}))
    assert read_scores(tmp_path / "results.json").names == ("b.png#0", "b.png#1")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "["),
        ("a.json", '{"images": []}'),
        ("a.json", '{"images": [{"path": "x", "quality": NaN}]}'),
        ("a.csv", "path,brightness\nx,1\n"),
        ("a.csv", ""),
        ("a.txt", "x\n"),
        ("a.txt", "x 1\nx 2\n"),
        ("missing.csv", None),
    ],
)
def test_files_without_scores_are_refused(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=name):
        read_scores(tmp_path / name)


# Pairs and curves ---------------------------------------------------------------------------------


def literal_pairs(embeddings, references, originals):
    people = embeddings.people
    pairs = set()
    for i in range(len(people)):
        for j in range(i + 1, len(people)):
            if (references[i] or references[j]) and originals[i] != originals[j]:
                pairs.add((i, j))
    return pairs


def test_pairs_are_all_there_once(faces, rng):
    embeddings, _ = faces
    count = len(embeddings.names)
    references = rng.random(count) < 0.4
    originals = np.arange(count)
    copies = np.flatnonzero(~references)
    # The copy of a picture shows the same person.
    for copy in copies:
        same = np.flatnonzero(references & (embeddings.people == embeddings.people[copy]))
        originals[copy] = same[0] if len(same) else copy
    found = face_pairs(embeddings, references=references, originals=originals)
    assert len(found.indices) == len({tuple(sorted(pair)) for pair in found.indices.tolist()})
    expected = literal_pairs(embeddings, references, originals)
    assert {tuple(sorted(pair)) for pair in found.indices.tolist()} == expected
    unit = embeddings.vectors / np.linalg.norm(embeddings.vectors, axis=1, keepdims=True)
    cosines = (unit[found.indices[:, 0]] * unit[found.indices[:, 1]]).sum(axis=1)
    np.testing.assert_allclose(found.distances, 1 - cosines, atol=1e-6)
    assert np.array_equal(found.is_same, found.people[:, 0] == found.people[:, 1])
    scores = QualityScores(embeddings.names, np.arange(float(count)))
    assert np.array_equal(found.quality(scores), found.indices.min(axis=1))


def test_impostor_pairs_are_all_taken_up_to_the_maximum(faces, rng):
    embeddings, _ = faces
    people = embeddings.people
    for references in (None, rng.random(len(people)) < 0.3):
        among = np.ones(len(people), bool) if references is None else references
        count = sum(
            people[a] != people[b] and bool(among[a] or among[b])
            for a in range(len(people))
            for b in range(a)
        )
        found = face_pairs(embeddings, references=references, most=count)
        assert int((~found.is_same).sum()) == count
        fewer = face_pairs(embeddings, references=references, most=count // 2)
        assert int((~fewer.is_same).sum()) == count // 2


def test_many_impostor_pairs_are_drawn(faces):
    embeddings, _ = faces
    everything = face_pairs(embeddings)
    some = face_pairs(embeddings, most=1000, seed=1)
    assert some.is_same.sum() == everything.is_same.sum() == PEOPLE * 15
    assert (~some.is_same).sum() == 1000
    # Each once, and of all.
    pairs = {tuple(pair) for pair in everything.indices[~everything.is_same].tolist()}
    chosen = [tuple(pair) for pair in some.indices[~some.is_same].tolist()]
    assert len(set(chosen)) == 1000 and set(chosen) <= pairs
    assert 20 < sum(0 in pair for pair in chosen) < 40
    again = face_pairs(embeddings, most=1000, seed=1)
    assert np.array_equal(some.indices, again.indices)


def test_one_person_makes_no_pairs(faces):
    embeddings, _ = faces
    with pytest.raises(InputError, match="0 impostor"):
        face_pairs(Embeddings(embeddings.names[:PICTURES], embeddings.vectors[:PICTURES]))


def test_the_right_score_is_below_random_and_noise_is_not(faces, rng):
    embeddings, quality = faces
    noise = QualityScores(quality.names, rng.standard_normal(len(quality)))
    pairs = face_pairs(embeddings)
    curves, left_out = compare_scores(
        pairs, {"true": quality, "noise": noise}, (0.05, 1e-6), resamples=200
    )
    assert list(left_out) == [1e-6]
    good, bad = curves["true"][0.05].relative_auc, curves["noise"][0.05].relative_auc
    assert good.high < 1.0
    assert bad.low < 1.0 < bad.high
    ratio = area_ratio(curves["true"][0.05], curves["noise"][0.05])
    assert ratio.value == pytest.approx(good.value / bad.value)
    assert ratio.high < 1.0
    same = area_ratio(curves["noise"][0.05], curves["noise"][0.05])
    assert (same.low, same.value, same.high) == (1.0, 1.0, 1.0)


def test_faces_are_scored_without_a_quality_network_too(pictures, tmp_path, capsys):
    paths = sorted(pictures.rglob("*.png"))
    names = [path.relative_to(pictures).as_posix() for path in paths]
    with load(tiny_scrfd(tmp_path / "net.onnx"), kind=FaceDetector) as detector:
        found = baseline_scores(paths, names, detector)
    assert list(found) == ["sharpness", "detector"]
    # The later a picture was made, the more it was blurred.
    by_blur = sorted(names, key=lambda name: int(name.split("/")[1][:-4]))
    assert (np.diff(found["sharpness"].of(by_blur)) < 0).all()
    assert list(baseline_scores(paths[:1], names[:1])) == ["sharpness"]
    (tmp_path / "a.txt").write_text("".join(f"{name} 1\n" for name in names))
    recogniser = tiny_magface(tmp_path / "embedder.onnx")
    words = ["evaluate", "quality", "--scores", f"a={tmp_path / 'a.txt'}", "--images", pictures]
    words += ["--embedder", recogniser, "--fmr", "0.3", "--detector", tmp_path / "net.onnx"]
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr().out
    assert "area over that of sharpness at FMR 0.3: " in said
    assert "area over that of detector at FMR 0.3: " in said


def test_copies_are_ranked_picture_by_picture():
    names = ("a", "a1", "a2", "b", "b1", "b2")
    pairs = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")]
    found = rank_copies(QualityScores(names, np.array([3.0, 2.0, 1.0, 1.0, 3.0, 2.0])), pairs)
    assert (found.pictures, found.last_below_original) == (2, 0.5)
    assert found.spearman == pytest.approx((-1.0 + 0.5) / 2)
    assert rank_copies(QualityScores(names, np.ones(6)), pairs).spearman == 0.0
    with pytest.raises(DatasetError, match="no copy"):
        rank_copies(QualityScores(names, np.ones(6)), [])


def test_people_are_chosen_in_the_order_of_their_numbers():
    people = [f"s{number}" for number in (10, 2, 1, 2, 30)] + ["other"]
    assert choose_people(people, 2, 4) == ["s1", "s2", "s10"]
    assert choose_people(people, least=2) == ["s2"]
    with pytest.raises(InputError, match="1 to 5"):
        choose_people(people, 3, 6)


def test_degradations_are_drawn_the_same_each_time():
    kinds = list(DEGRADATIONS)
    drawn = drawn_copies("anna/1.png", kinds, len(kinds) + 1)
    assert sorted(kind for kind, _ in drawn[:-1]) == sorted(kinds)
    assert all(min(LEVELS[kind]) <= level <= max(LEVELS[kind]) for kind, level in drawn)
    assert drawn_copies("anna/1.png", kinds, 3) == drawn[:3]
    assert drawn_copies("anna/2.png", kinds, 3) != drawn[:3]
    assert drawn_copies("anna/1.png", kinds, 3, seed=1) != drawn[:3]


# Profiles -----------------------------------------------------------------------------------------


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=200, unique=True))
def test_thresholds_drop_what_they_say(values):
    scores = np.array(values)
    profile = make_quality_profile(scores, "sdd_fiqa_r50", "ab", {})
    dropped = [int((scores < threshold).sum()) for threshold in profile.thresholds.values()]
    assert dropped == sorted(dropped)
    for share, count in zip(DROPS, dropped):
        assert abs(count - share * len(scores)) <= 1
    shares = profile.percentile_of(np.sort(scores))
    assert (np.diff(shares) >= 0).all()
    assert (shares[0] >= 0.0) and (shares[-1] == 100.0)


def test_a_profile_is_read_back_for_its_model_only(tmp_path):
    more = {"FNMR 0.05 at FMR 0.001": 7.0}
    profile = make_quality_profile(np.arange(50.0), "sdd_fiqa_r50", "ab" * 32, more, {"fnmr": 0.05})
    path = tmp_path / "quality.json"
    write_quality(path, profile)
    assert read_quality(path, "ab" * 32) == profile
    with pytest.raises(InputError, match="belongs to one model file"):
        read_quality(path, "cd" * 32)
    for text in ("", "{}", path.read_text().replace("profile/1", "profile/2")):
        path.write_text(text)
        with pytest.raises(InputError, match="not a profile of quality"):
            read_quality(path, "ab" * 32)
    with pytest.raises(InputError, match="finite"):
        make_quality_profile(np.array([1.0, np.nan]), "x", "y", {})


def test_the_threshold_for_a_wanted_error_reaches_it(faces):
    embeddings, scores = faces
    pairs = face_pairs(embeddings)
    quality = pairs.quality(scores)
    same = pairs.is_same
    limit = -threshold_at_fmr(-pairs.distances[~same], 0.05).similarity

    def rate(threshold):
        kept = same & (quality >= threshold)
        return (pairs.distances[kept] >= limit).mean()

    found = quality_at_fnmr(pairs.distances, pairs.people, quality, fmr=0.05, fnmr=0.1)
    threshold = found.quality
    assert found.low <= threshold <= found.high
    assert 0.0 < found.held_out < rate(-np.inf)
    assert rate(threshold) <= 0.1 < rate(-np.inf)
    lower = np.unique(quality[same & (quality < threshold)])
    assert all(rate(value) > 0.1 for value in lower)
    with pytest.raises(InputError, match="the least is"):
        quality_at_fnmr(pairs.distances, pairs.people, quality, fmr=0.005, fnmr=0.0)
    with pytest.raises(InputError, match="needs at least 2500 impostor pairs, there are 2376"):
        quality_at_fnmr(pairs.distances, pairs.people, quality, fmr=0.004, fnmr=0.1)


def test_the_error_of_people_held_out_is_near_the_wanted_one(rng):
    """Many people, all alike: what holds for four parts of them holds for the fifth."""
    people = np.repeat(np.arange(400), 20)
    strangers = np.stack([people, (people + 1) % 400], 1)
    quality = rng.random(2 * len(people))
    missed = rng.random(len(people)) < 0.4 * (1 - quality[: len(people)])
    distances = np.concatenate([np.where(missed, 2.0, 0.0), np.ones(len(people))])
    both = np.concatenate([np.stack([people, people], 1), strangers])
    found = quality_at_fnmr(distances, both, quality, fmr=0.01, fnmr=0.1)
    assert found.quality == pytest.approx(0.5, abs=0.05)
    assert found.held_out == pytest.approx(0.1, abs=0.02)
    assert found.high - found.low < 0.15


# Commands -----------------------------------------------------------------------------------------


def test_evaluate_quality_prints_writes_and_draws(faces, tmp_path, capsys, rng):
    embeddings, quality = faces
    write_embeddings(tmp_path / "e.npz", embeddings)
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "quality"), *zip(quality.names, quality.values)])
    (tmp_path / "noise.txt").write_text(
        "".join(f"{name} {value}\n" for name, value in zip(quality.names, rng.random(72)))
    )
    words = [
        "evaluate", "quality", "--scores", f"sdd={tmp_path / 'a.csv'}",
        "--scores", f"noise={tmp_path / 'noise.txt'}", "--embeddings", str(tmp_path / "e.npz"),
        "--fmr", "0.05", "1e-7", "--resamples", "100",
        "--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.svg"),
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    # Each has 15 pairs.
    assert "180 genuine and 2376 impostor pairs of 12 people, 8.3 % of the genuine ones" in said
    lines = {line.split()[0]: line.split()[-1] for line in said.splitlines()[2:4]}
    assert lines == {"sdd": "yes", "noise": "no"}
    assert "FMR 1e-07 skipped" in said
    entry = json.loads((tmp_path / "out.json").read_text())
    assert [one["scores"] for one in entry["curves"]] == ["sdd", "noise"]
    assert len(entry["curves"][0]["fnmr"]) == 96
    assert "false match rate 0.05" in (tmp_path / "out.svg").read_text()


def test_embeddings_of_photos_are_read_back_in_every_form(tmp_path):
    names, faces = ("a/1.jpg", "a/1.jpg", "b/2.jpg"), np.array([0, 2, 1])
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    write_embeddings(tmp_path / "now.npz", Embeddings(names, vectors, faces))
    np.savez(tmp_path / "photos.npz", embeddings=vectors, photos=np.array(names), faces=faces)
    np.savez(tmp_path / "runner.npz", names=np.array(names), vectors=vectors, norms=np.ones(3))
    for file, expected in (("now", faces), ("photos", faces), ("runner", None)):
        found = read_embeddings(tmp_path / f"{file}.npz")
        assert found.names == names and found.people.tolist() == [0, 0, 1]
        np.testing.assert_array_equal(found.vectors, vectors)
        np.testing.assert_array_equal(found.faces, expected)
    found = read_embeddings(tmp_path / "now.npz")
    assert found.face_names == ("a/1.jpg#0", "a/1.jpg#2", "b/2.jpg#1")
    # Each face's own score, else its image's.
    scores = QualityScores(("a/1.jpg#2", "a/1.jpg", "b/2.jpg"), np.array([7.0, 8.0, 9.0]))
    assert scores.of(found.face_names).tolist() == [8.0, 7.0, 9.0]
    with np.load(tmp_path / "now.npz") as arrays:
        assert sorted(arrays) == ["faces", "names", "norms", "vectors"]
        np.testing.assert_allclose(arrays["norms"], np.linalg.norm(vectors, axis=1))
    lengths = read_scores(tmp_path / "now.npz")
    assert lengths.names == found.face_names
    write_embeddings(tmp_path / "aligned.npz", Embeddings(names, vectors))
    assert read_embeddings(tmp_path / "aligned.npz").face_names == names
    for wrong in ({"faces": faces[:2]}, {"faces": faces - 3}, {"vectors": vectors * np.inf}):
        np.savez(tmp_path / "x.npz", **{"names": np.array(names), "vectors": vectors, **wrong})
        with pytest.raises(DatasetError, match="contains no embeddings"):
            read_embeddings(tmp_path / "x.npz")


def test_numbers_are_recorded_for_our_own_scores(faces, tmp_path):
    embeddings, quality = faces
    write_embeddings(tmp_path / "e.npz", embeddings)
    entries = [{"path": n, "quality": q} for n, q in zip(quality.names, quality.values.tolist())]
    head = {"card": "sdd_fiqa_mobilefacenet", "build": "fp16", "engine": "ort 1.0"}
    text = json.dumps({**head, "model_sha256": "ab" * 32, "images": entries})
    (tmp_path / "results.json").write_text(text)
    words = ["evaluate", "quality", "--scores", f"ours={tmp_path / 'results.json'}"]
    words += ["--scores", f"norms={tmp_path / 'e.npz'}", "--embeddings", str(tmp_path / "e.npz")]
    words += ["--fmr", "0.05", "--resamples", "20", "--record", str(tmp_path / "numerics.json")]
    assert main(words) == 2
    assert main([*words, "--dataset", "drawn"]) == 0
    (found,) = read_numerics(tmp_path / "numerics.json")
    assert (found.card, found.build, found.dataset) == (
        "sdd_fiqa_mobilefacenet", "fp16", "drawn, 72 faces",
    )  # fmt: skip
    assert 0.0 < found.metrics["AUC at FMR 0.05"].value < 100.0


@pytest.mark.parametrize(
    "words",
    [
        ["--scores", "a"],
        ["--scores", "a=missing.csv"],
        ["--scores", "a=a.txt"],
        ["--scores", "a=a.txt", "--copies", "a.txt", "--no-ranking"],
    ],
)
def test_evaluate_quality_refuses_what_it_cannot_use(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x.png 1\n")
    assert main(["evaluate", "quality", *words]) == FaceZooError.exit_code
    assert capsys.readouterr().err


@pytest.fixture
def pictures(tmp_path, rng):
    for number in range(30):
        noise = rng.integers(0, 256, (112, 112, 3)).astype(np.uint8)
        image = degrade(noise, "blur", 0.3 + number / 20)
        write_image_rgb(tmp_path / "faces" / f"p{number // 3}" / f"{number}.png", image)
    return tmp_path / "faces"


def test_responses_fall_with_blur(pictures, tmp_path, capsys):
    model = tiny_sdd_fiqa(tmp_path / "tiny.onnx")
    words = ["evaluate", "quality-response", "--images", pictures / "p0"]
    words += ["--quality", model, "--json", tmp_path / "r.json"]
    words += ["--plot", tmp_path / "r.svg", "--kinds", "blur", "brightness", "occlusion"]
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr().out
    assert "blur: sigma" in said
    entry = json.loads((tmp_path / "r.json").read_text())
    scores = np.array(entry["responses"]["blur"]["scores"])
    assert scores.shape == (3, len(LEVELS["blur"]))
    assert (np.diff(scores, axis=1) < 0).all()
    assert said.count("mean over faces: -1.0000") == 2
    assert "brightness" in (tmp_path / "r.svg").read_text()
    moved, spread = re.search(r"change a score by (\S+) .* above, (\S+) from", said).groups()
    darker, plain, brighter = np.array(entry["responses"]["brightness"]["scores"])[:, 2:5].T
    assert float(moved) == pytest.approx(
        np.median(np.maximum(abs(darker - plain), abs(brighter - plain))), abs=0.01
    )
    assert float(spread) > float(moved)


def test_a_score_that_never_changes_has_no_spread(capsys):
    one = Response(np.array([-1.0, 0.0, 1.0]), np.ones((2, 3)))
    assert list(cli._response_lines({"brightness": one}))[-1].endswith(
        "change a score by 0.00 (median of the larger), none of the spread of all scores above, "
        "0.00 from 5 to 95 %"
    )


def test_images_of_other_embeddings_are_refused_before_they_are_measured(
    pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(cli, "baseline_scores", None)
    names = tuple(f"q{index}/1.png" for index in range(4))
    write_embeddings(tmp_path / "e.npz", Embeddings(names, np.eye(4, 8, dtype=np.float32)))
    (tmp_path / "a.txt").write_text("".join(f"{name} 1\n" for name in names))
    words = ["evaluate", "quality", "--scores", f"a={tmp_path / 'a.txt'}"]
    words += ["--images", str(pictures), "--embeddings", str(tmp_path / "e.npz")]
    assert main(words) == 2
    assert (
        "lacks 4 of the 4 images of the embeddings, such as 'q0/1.png'" in capsys.readouterr().err
    )


def test_calibrate_writes_a_profile_of_the_model(pictures, tmp_path, capsys):
    model = tiny_sdd_fiqa(tmp_path / "tiny.onnx")
    vectors = np.eye(10, 16)[np.arange(30) // 3] + 0.01
    # By name, as pictures are found: p0/0.png, p0/1.png, …
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    write_embeddings(tmp_path / "e.npz", Embeddings(tuple(names), vectors.astype(np.float32)))
    words = ["calibrate", "quality", "--images", pictures, "--quality", model]
    words += ["--output", tmp_path / "quality.json"]
    more = ["--embeddings", tmp_path / "e.npz", "--fnmr", "0.5", "--fmr", "0.03"]
    assert main([str(word) for word in (*words, *more)]) == 0
    said = capsys.readouterr().out
    assert "drop 10 %" in said and "FNMR 0.5 at FMR 0.03" in said
    assert "FNMR of people held out: 0.0000" in said
    assert "this rate is reached without discarding" in said
    assert "30 images, 0 refused" in said
    entry = json.loads((tmp_path / "quality.json").read_text())
    profile = read_quality(tmp_path / "quality.json", entry["model_sha256"])
    assert profile.pictures == 30
    (pictures / "p0" / "broken.png").write_bytes(b"no picture")
    assert main([str(word) for word in words]) == 1
    assert main([str(word) for word in (*words, *more)]) == 2
    words[3] = pictures / "p0" / "broken.png"
    assert main([str(word) for word in words]) == 2
    assert "broken.png' can be read" in capsys.readouterr().err


def test_the_length_of_embeddings_is_a_quality_too(pictures, tmp_path, capsys):
    model = tiny_magface(tmp_path / "tiny.onnx")
    common = ["--images", pictures / "p0", "--recipe", "magface", "--quality", model]
    words = ["evaluate", "quality-response", *common, "--json", tmp_path / "r.json"]
    assert main([str(word) for word in (*words, "--kinds", "occlusion")]) == 0
    found = json.loads((tmp_path / "r.json").read_text())["responses"]["occlusion"]
    plain = np.array(found["scores"])[:, 0]
    words = ["calibrate", "quality", *common, "--output", tmp_path / "quality.json"]
    assert main([str(word) for word in words]) == 0
    percentiles = json.loads((tmp_path / "quality.json").read_text())["percentiles"]
    assert (percentiles[0], percentiles[-1]) == (plain.min(), plain.max())
    wrong = ["calibrate", "quality", "--images", pictures, "--quality", model]
    assert main([str(word) for word in (*wrong, "--output", tmp_path / "q.json")]) == 2


def forms(text):
    """Lines with their names, numbers, hashes and verdicts taken out."""
    for pattern, word in (
        (r"^(sdd_fiqa|w600k_norm|sharpness|detector|both|references|neither|ours) .*$", "NAME"),
        (r"that of \w+", "that of NAME"),
        (r"their list [0-9a-f]+", "their list HASH"),
        (r"\d[\d.,e-]*", "N"),
        (r" +", " "),
    ):
        text = re.sub(pattern, word, text, flags=re.M)
    return set(text.splitlines())


def test_the_recorded_evaluation_has_the_lines_that_the_command_prints(faces, repository):
    """Text on a page is made anew when the code that prints it changes."""
    embeddings, quality = faces
    pairs = face_pairs(embeddings)
    scores = {"ours": quality, "sharpness": quality}
    curves, left_out = compare_scores(pairs, scores, [0.05], resamples=5)
    ranking = rank_copies(QualityScores(("a", "b"), np.array([2.0, 1.0])), [("b", "a")])
    measured = MeasuredList.of("embeddings.npz", "faces", pairs.names)
    lines = [
        *cli._ranking_lines({"ours": ranking}),
        *cli._curve_lines(pairs, curves, left_out),
        measured.line(),
    ]
    expected = repository / "face_quality" / "sdd_fiqa" / "expected"
    texts = [(expected / f"{name}.txt").read_text("utf-8") for name in ("labels", "evaluation")]
    printed = forms("\n".join(lines))
    assert forms("".join(texts)) == printed
    plain = (expected / "plain.txt").read_text("utf-8").replace("images,", "embeddings.npz,")
    # Without --copies nothing is ranked.
    assert printed - forms(plain) == forms(lines[0])
