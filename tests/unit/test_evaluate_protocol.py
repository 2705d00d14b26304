"""Recognition from photos to the accuracy of a protocol, to all pairs, and to a ledger."""

import json

import facezoo
import numpy as np
import pytest
from facezoo.datasets.embeddings import read_embeddings
from facezoo.datasets.protocols import OFFICIAL, Official, read_protocol
from facezoo.errors import InputError
from facezoo.evaluation import protocol as evaluation
from facezoo.evaluation.measured import MeasuredList
from facezoo.evaluation.protocol import PhotoEmbeddings, evaluate_protocol
from facezoo.image.align import align_face
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.metrics import all_pairs
from facezoo.metrics.all_pairs import compare_all, people_points
from facezoo.metrics.verification import (
    THRESHOLDS,
    angular_distance,
    facenet_evaluation,
    k_fold_accuracy,
    operating_points,
)
from facezoo.models.scrfd.model import FaceDetector
from facezoo.testing import tiny_magface, tiny_scrfd

PEOPLE, PHOTOS = 6, 3


def name_of(person, number):
    return f"P{person}/P{person}_{number:04d}.jpg"


@pytest.fixture
def models(tmp_path):
    """The two networks by the flags that name them."""
    return {
        "--detector": tiny_scrfd(tmp_path / "scrfd.onnx"),
        "--embedder": tiny_magface(tmp_path / "magface.onnx"),
    }


@pytest.fixture
def photos(tmp_path, rng):
    """People who differ in a dim pattern around the bright square that the detector finds."""
    for person in range(PEOPLE):
        pattern = rng.integers(0, 60, (7, 7, 3)).repeat(16, 0).repeat(16, 1)
        for number in range(1, PHOTOS + 1):
            photo = np.clip(pattern + rng.normal(0, 4, pattern.shape), 0, 255).astype(np.uint8)
            photo[32:64, 32:64] = 250
            write_image_rgb(tmp_path / "photos" / name_of(person, number), photo)
    return tmp_path / "photos"


@pytest.fixture
def pairs(tmp_path):
    """LFW's layout: three folds of two pairs of each kind."""
    lines = ["3\t2"]
    for fold in range(3):
        one, other = 2 * fold, 2 * fold + 1
        lines += [f"P{one}\t1\t2", f"P{other}\t1\t3"]
        lines += [f"P{one}\t1\tP{other}\t1", f"P{one}\t3\tP{other}\t2"]
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def evaluate(run_here, tmp_path, photos, pairs, models):
    """Run the command; returns exit code, output, errors and the report."""

    def run(*flags, save_dir="run", ledger=False):
        report = tmp_path / "report.json"
        given = [word for item in models.items() for word in item]
        written = () if ledger else ("--json", report)
        code, said, error = run_here(
            "evaluate", "verification", "--pairs", pairs, "--photos", photos, *given,
            "--output", tmp_path / save_dir, *written, *flags,
        )  # fmt: skip
        found = json.loads(report.read_text())["sets"][0] if report.exists() else None
        return code, said, error, found

    return run


def by_hand(photos, names, models, choose):
    detector, embedder = (facezoo.load(model) for model in models.values())
    rows = []
    for name in names:
        image = read_image_rgb(photos / name)
        faces = detector(image)
        rows.append(embedder(align_face(image, faces.landmarks_xy[choose(faces)])).vector)
    return np.array(rows)


def test_from_photo_to_accuracy(evaluate, tmp_path, photos, pairs, models):
    code, said, _, report = evaluate()
    assert code == 0
    assert "lfw: 6 genuine and 6 impostor pairs of 18 photos in 3 folds" in said
    assert "a face in 18 of 18 photos; the central one of a photo is used, 18 photos have" in said
    assert report["face"] == "central"
    assert len(report["accuracy"]["folds"]) == 3
    found = read_embeddings(tmp_path / "run" / "embeddings" / "embeddings.npz")
    protocol = read_protocol(pairs)
    assert found.names == protocol.photos
    expected = by_hand(photos, found.names, models, lambda faces: faces.central())
    np.testing.assert_array_equal(found.vectors, expected)
    rows = protocol.rows()
    folds = k_fold_accuracy(
        *(expected[side] for side in rows.T), protocol.is_same, folds=protocol.edges
    )
    assert report["accuracy"]["folds"] == folds.accuracies.tolist()
    assert len(report["wrong"]) == folds.wrong.sum()


def test_the_largest_face_is_another_one(evaluate, tmp_path, photos, models):
    _, said, _, report = evaluate("--face", "largest", "--protocol", "facenet")
    assert "the largest one of a photo is used" in said
    assert (report["face"], report["protocol"]) == ("largest", "facenet")
    found = read_embeddings(tmp_path / "run" / "embeddings" / "embeddings.npz")
    expected = by_hand(photos, found.names, models, lambda faces: faces.largest())
    np.testing.assert_array_equal(found.vectors, expected)
    assert (found.faces != 0).any()


def test_a_finished_run_is_kept_and_an_interrupted_one_goes_on(evaluate, tmp_path, monkeypatch):
    _, said, _, report = evaluate(save_dir="whole")
    stream, seen = FaceDetector.stream, []

    def interrupted(self, paths):
        for count, item in enumerate(stream(self, paths)):
            if count == 7:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(FaceDetector, "stream", interrupted)
    assert evaluate(save_dir="part")[0] == 130
    monkeypatch.setattr(
        FaceDetector, "stream", lambda self, p: (seen.extend(p), stream(self, p))[1]
    )
    _, again, _, resumed = evaluate(save_dir="part")
    assert len(seen) == PEOPLE * PHOTOS - 7
    assert (again, resumed) == (said, report)
    assert evaluate(save_dir="part")[1] == said
    assert len(seen) == PEOPLE * PHOTOS - 7
    for name in ("faces/faces.json", "embeddings/embeddings.npz"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    code, _, error, _ = evaluate("--flip", "sum", save_dir="part")
    assert code == 4
    assert "flip was 'none', is 'sum'" in error


def test_a_photo_without_a_face_is_counted_and_never_dropped(evaluate, photos):
    write_image_rgb(photos / name_of(0, 1), np.zeros((112, 112, 3), np.uint8))
    code, said, _, report = evaluate()
    assert code == 0
    assert "a face in 17 of 18 photos" in said
    assert "2 pairs lack a face and count as not matching" in said
    assert report["pairs_without_face"] == 2
    assert report["pairs"] == {"genuine": 6, "impostor": 6}
    # The genuine pair of that photo is an error, the impostor pair is not.
    wrong = [one for one in report["wrong"] if name_of(0, 1) in (one["first"], one["second"])]
    assert [(one["same"], one["cosine"], one["fold"]) for one in wrong] == [(True, -1.0, 1)]


def test_an_unreadable_photo_has_no_face_and_is_named(evaluate, photos):
    (photos / name_of(3, 1)).write_bytes(b"\xff\xd8 cut short")
    code, said, error, report = evaluate()
    assert code == 1
    assert "P3_0001.jpg" in error
    assert "a face in 17 of 18 photos" in said
    assert report["photos"]["unreadable"] == 1
    assert evaluate()[0] == 1


def test_no_face_at_all_is_an_error(evaluate, photos):
    for path in photos.rglob("*.jpg"):
        write_image_rgb(path, np.zeros((112, 112, 3), np.uint8))
    code, _, error, _ = evaluate()
    assert code == 2
    assert "no face was found in any of 18 photos" in error


def test_flags_that_do_not_fit(evaluate, run_here, photos, pairs, models):
    command = ("evaluate", "verification")
    embedder = ("--embedder", models["--embedder"])
    for flags, message in (
        (("--pairs", pairs, *embedder), "--pairs needs --photos and --output"),
        (("--images", photos, "--photos", photos, *embedder), "--photos needs a protocol"),
        (("--images", photos, "--ledger", "l.json", *embedder), "--ledger needs a protocol"),
    ):
        code, _, error = run_here(*command, *flags)
        assert code == 2
        assert message in error
    assert "--all-pairs needs a folder of people" in evaluate("--all-pairs")[2]
    assert "--build needs --ledger" in evaluate("--build", "x")[2]
    assert "omit --flip" in evaluate("--ledger", "l.json", "--flip", "sum", ledger=True)[2]


def test_aligned_faces_need_no_detector(run_here, tmp_path, photos, pairs, models):
    code, said, _ = run_here(
        "evaluate", "verification", "--pairs", pairs, "--photos", photos, "--output",
        tmp_path / "run", "--embedder", models["--embedder"], "--record", tmp_path / "n.json",
        "--dataset", "Squares", "--html", tmp_path / "r.html",
    )  # fmt: skip
    assert code == 0
    assert "a face in 18 of 18 photos; aligned faces, used as they are" in said
    (entry,) = json.loads((tmp_path / "n.json").read_text())["results"]
    assert entry["dataset"] == "Squares, 12 pairs of 18 aligned faces"
    assert list(entry["metrics"])[:3] == ["10-fold accuracy", "95 % from", "95 % to"]
    assert "with several faces" in (tmp_path / "r.html").read_text()


# Folds --------------------------------------------------------------------------------------------


def drawn_pairs(rng, count=60, size=8):
    is_same = rng.random(count) < 0.5
    first = rng.normal(size=(count, size)) + 0.3
    noise = rng.normal(size=(count, size))
    return first, np.where(is_same[:, None], first + noise, noise + 0.3), is_same


def test_folds_of_the_file_and_pairs_without_a_face(rng):
    first, second, is_same = drawn_pairs(rng)
    edges = np.array([0, 7, 30, 44, 60])
    found = rng.random(60) < 0.8
    # Values of pairs without a face must not matter, not even to the mean.
    first[~found], second[~found] = 1e6, 0.0
    wrong = np.zeros(60, bool)
    for start, end in zip(edges[:-1], edges[1:]):
        out = np.ones(60, bool)
        out[start:end] = False
        used = out & found
        mean = np.concatenate([first[used], second[used]]).mean(axis=0)
        distance = np.where(found, angular_distance(first - mean, second - mean), np.inf)
        right = [np.sum((distance[out] < limit) == is_same[out]) for limit in THRESHOLDS]
        limit = THRESHOLDS[int(np.argmax(right))]
        wrong[start:end] = ((distance < limit) != is_same)[start:end]
    report = k_fold_accuracy(first, second, is_same, folds=edges, found=found)
    np.testing.assert_array_equal(report.wrong, wrong)
    expected = [1 - wrong[i:j].mean() for i, j in zip(edges[:-1], edges[1:])]
    np.testing.assert_allclose(report.accuracies, expected)
    assert wrong[~found & is_same].all()
    assert not wrong[~found & ~is_same].any()


def test_equal_folds_as_edges_are_the_usual_ones(rng):
    first, second, is_same = drawn_pairs(rng)
    for evaluated in (k_fold_accuracy, facenet_evaluation):
        usual = evaluated(first, second, is_same)
        same = evaluated(first, second, is_same, folds=np.arange(0, 61, 6), found=np.ones(60, bool))
        np.testing.assert_array_equal(usual.accuracies, same.accuracies)
    for edges in ([0, 60], [1, 30, 60], [0, 30, 59], [0, 30, 30, 60]):
        with pytest.raises(InputError, match="folds must start at 0, end at 60"):
            k_fold_accuracy(first, second, is_same, folds=np.array(edges))


# All pairs ----------------------------------------------------------------------------------------


def drawn_people(rng, count=40, size=16, noise=0.8):
    people = rng.integers(0, count, 5 * count)
    centres = rng.normal(size=(count, size))
    return centres[people] + noise * rng.normal(size=(5 * count, size)), people


def test_all_pairs_equal_the_list_of_all_pairs(rng, monkeypatch):
    vectors, people = drawn_people(rng)
    monkeypatch.setattr(all_pairs, "BLOCK", 23)
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    i, j = np.triu_indices(len(people), 1)
    cosines = (units @ units.T)[i, j]
    is_same = people[i] == people[j]
    found = compare_all(vectors, people, 1e-2)
    assert found.impostors == np.count_nonzero(~is_same)
    np.testing.assert_allclose(np.sort(found.genuine), np.sort(cosines[is_same]), atol=1e-6)
    highest = np.sort(cosines[~is_same])[::-1][: len(found.highest)]
    np.testing.assert_allclose(found.highest, highest, atol=1e-6)
    assert len(found.highest) < 0.05 * found.impostors
    fmrs = (1e-2, 1e-3, 1e-5)
    expected = operating_points(cosines, is_same, fmrs)
    points = people_points(found, fmrs, resamples=200)
    for point, other in zip(points[:2], expected):
        assert point.fnmr == pytest.approx(other.fnmr)
        assert point.threshold.cosine == pytest.approx(other.threshold.cosine, abs=1e-6)
        assert point.low <= point.fnmr <= point.high
        missed = is_same & (cosines <= np.float32(other.threshold.cosine) + 1e-7)
        np.testing.assert_array_equal(point.misses, np.bincount(people[i][missed], minlength=40))
        matched = ~is_same & (cosines > np.float32(other.threshold.cosine) + 1e-7)
        both = np.concatenate([people[i][matched], people[j][matched]])
        np.testing.assert_array_equal(point.false_matches, np.bincount(both, minlength=40))
    assert "needs at least 1000000 impostor pairs" in points[2].refusal


def test_intervals_by_people_are_wider_than_by_pairs(rng):
    # One person whose photos differ as much as those of two people: all errors are of one person.
    vectors, people = drawn_people(rng, noise=0.3)
    vectors[people == 0] = rng.normal(size=(np.count_nonzero(people == 0), 16))
    found = compare_all(vectors, people, 1e-2)
    (point,) = people_points(found, [1e-2], resamples=300)
    i, j = np.triu_indices(len(people), 1)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    (pairs,) = operating_points((units @ units.T)[i, j], people[i] == people[j], [1e-2])
    assert point.misses[0] > 0.9 * point.misses.sum() > 0
    assert point.high - point.low > pairs.high - pairs.low


def test_all_photos_of_a_folder(run_here, tmp_path, photos, models):
    flags = [word for item in models.items() for word in item]
    report = tmp_path / "all.json"
    command = (
        "evaluate", "verification", "--images", photos, *flags, "--all-pairs", "--output",
        tmp_path / "run", "--json", report,
    )  # fmt: skip
    code, said, _ = run_here(*command)
    assert code == 0
    assert "18 genuine and 135 impostor pairs; 95 % intervals by people" in said
    assert "FNMR at FMR 0.001: not measured, " in said
    entry = json.loads(report.read_text())
    assert entry["pairs"] == {"genuine": 18, "impostor": 135}
    assert entry["photos"] == {"total": 18, "with_face": 18, "unreadable": 0}
    assert run_here(*command)[1] == said
    assert "--plot has no effect" in run_here(*command, "--plot", tmp_path / "p.png")[2]


def test_one_photo_per_person_has_no_pairs(run_here, tmp_path, photos, models):
    for path in photos.rglob("*_000[23].jpg"):
        path.unlink()
    flags = [word for item in models.items() for word in item]
    code, _, error = run_here(
        "evaluate", "verification", "--images", photos, *flags, "--all-pairs", "--output",
        tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert "none of the 6 people of 'photos' has two photos with a face" in error


# The ledger ---------------------------------------------------------------------------------------


def test_the_ledger_adds_up_to_the_published_accuracy(
    evaluate, tmp_path, models, photos, pairs, monkeypatch
):
    monkeypatch.setitem(OFFICIAL, "lfw", Official(pairs=12, folds=3, photos=18))
    (photos / name_of(5, 3)).write_bytes((photos / name_of(0, 1)).read_bytes())
    other = tiny_scrfd(tmp_path / "other.onnx", card_id="scrfd_2.5g_bnkps")
    file = tmp_path / "ledger.json"
    flags = ("--other-detector", other, "--build", models["--embedder"], "--dataset", "LFW")
    code, said, _, _ = evaluate("--ledger", file, *flags, ledger=True)
    assert code == 0
    entry = json.loads(file.read_text())
    assert entry["published"] == {
        "accuracy": 99.7,
        "printed_in": "insightface model_zoo/README.md",
    }
    assert [round(one["accuracy"], 6) for one in entry["chain"][::2]] == [
        99.7,
        round(entry["default"]["accuracy"], 6),
    ]
    assert all(one["accuracy"] is not None for one in entry["candidates"])
    costs = sum(one["cost"] for one in entry["chain"])
    assert costs == pytest.approx(entry["default"]["accuracy"] - 99.7)
    rows = {one["label"]: one for one in entry["alone"]}
    # Both small networks have an input of 64x64.
    assert "expects a height of 64" in rows["other, input 320x320"]["note"]
    assert set(rows) >= {
        "input 320x320",
        "Pillow's resize",
        "other",
        "other, input 320x320",
        "no second try with a border",
        "largest face",
        "mirrored face added",
        "fp32",
        "OpenVINO in bf16",
    }
    assert rows["no second try with a border"]["cost"] == 0
    best = max(one["chosen_on"] for one in entry["candidates"])
    assert entry["best"]["chosen_on"] == best
    assert len(entry["limiting"]) == entry["best"]["wrong"]
    assert "Each alone, against the default" in said
    _, _, _, report = evaluate("--face", "largest", save_dir="largest")
    assert rows["largest face"]["accuracy"] == pytest.approx(100 * report["accuracy"]["mean"])
    assert rows["largest face"]["wrong"] == len(report["wrong"])
    protocol = read_protocol(pairs)
    measured = MeasuredList.of_pairs("LFW", protocol.sides, protocol.is_same.tolist())
    assert entry["measured"] == measured.to_dict()
    assert measured.line() in said
    assert report["measured"]["sha256"] == measured.sha256
    # A published accuracy is of all pairs of LFW, and no reference for a few.
    monkeypatch.undo()
    evaluate("--ledger", file, *flags, ledger=True)
    assert json.loads(file.read_text())["published"] is None


def test_a_vector_without_a_face_is_no_part_of_the_accuracy(pairs):
    protocol = read_protocol(pairs)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(protocol.photos), 4)).astype(np.float32)
    found = np.ones(len(vectors), bool)
    found[0] = False
    vectors[0] = 0.0
    photos = PhotoEmbeddings(protocol.photos, vectors, found, 0, 0, "central")
    for how in ("authors", "facenet"):
        report = evaluate_protocol(protocol, photos, "drawn", how=how)
        assert report.cosines[report.unknown].tolist() == [-1.0, -1.0]
        assert report.verification.wrong[report.unknown].tolist() == [True, False]
    assert evaluation.CHOICES == ("central", "largest")


# Real photos --------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.scale
def test_fold_10_of_lfw_is_decided_as_recorded(tmp_path, shared, golden, run_here):
    """From 785 photos to 600 decisions, with the threshold that folds 1 to 9 chose."""
    recorded = json.loads((golden / "magface" / "lfw_fold10.json").read_text())
    official = read_protocol(shared / "assets" / "lfw" / "pairs.txt")
    rows = slice(official.edges[9], official.edges[10])
    is_same = official.is_same[rows]
    listed = list(zip(official.first[rows], official.second[rows]))
    table = "".join(f"{a},{b},{int(same)}\n" for (a, b), same in zip(listed, is_same))
    (tmp_path / "fold10.csv").write_text("first,second,same\n" + table)
    code, said, _ = run_here(
        "evaluate", "verification", "--pairs", tmp_path / "fold10.csv", "--face", "central",
        "--photos", shared / "assets" / "lfw" / "fold10", "--output", tmp_path / "run",
        "--detector", shared / "assets" / "scrfd" / "scrfd_500m_bnkps.onnx",
        "--embedder", shared / "assets" / "recognition" / "w600k_mbf.onnx",
    )  # fmt: skip
    assert code == 0
    assert "a face in 785 of 785 photos" in said
    found = read_embeddings(tmp_path / "run" / "embeddings" / "embeddings.npz")
    vectors = found.vectors.astype(np.float64)
    units = dict(zip(found.names, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)))
    distance = np.array([np.sum((units[a] - units[b]) ** 2) for a, b in listed])
    wrong = (distance < recorded["squared_distance"]) != is_same
    assert [listed[row] for row in np.flatnonzero(wrong)] == [
        tuple(pair) for pair in recorded["wrong"]
    ]
    assert 1 - wrong.mean() == pytest.approx(recorded["accuracy"])
