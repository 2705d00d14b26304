"""Inference and evaluation in one go, and the ledger of deviations."""

import hashlib
import json

import numpy as np
import pytest
from facezoo.cli.main import main
from facezoo.datasets.widerface import predictions_from_faces
from facezoo.errors import DatasetError, RunFolderError
from facezoo.evaluation.detection import detect_folder
from facezoo.evaluation.ledger import ALONE, VENDOR_CHAIN, Deviation, ledger_of
from facezoo.evaluation.measured import MeasuredList
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.metrics.detection import GroundTruth, evaluate_detections
from facezoo.pipeline.load import load
from facezoo.reports.numerics import read_numerics
from facezoo.reports.readme import render_ledger
from facezoo.testing import tiny_scrfd


@pytest.fixture
def photos(tmp_path, rng):
    """Dark pictures of odd sizes with bright squares, and the squares as ground truth."""
    boxes, masks = {}, {}
    for index in range(8):
        image = np.full((57 + index, 91, 3), 15, np.uint8)
        x, y = int(rng.integers(0, 60)), int(rng.integers(0, 40))
        image[y : y + 12, x : x + 12] = 250
        name = f"{index % 2}--Event/{index % 2}_Event_{index}"
        write_image_rgb(tmp_path / "images" / f"{name}.png", image)
        boxes[name] = np.array([[x, y, 12, 12]], np.float64)
        masks[name] = np.array([True])
    return tmp_path / "images", GroundTruth.from_rows(boxes, {"easy": masks, "hard": masks})


@pytest.fixture
def model(tmp_path):
    return tiny_scrfd(tmp_path / "tiny.onnx")


def direct(model, images):
    with load(model, profile="eval") as detector:
        found = {
            path.relative_to(images).with_suffix("").as_posix(): detector(read_image_rgb(path))
            for path in sorted(images.rglob("*.png"))
        }
    return predictions_from_faces(found)


def test_a_folder_gives_what_its_photos_give(tmp_path, photos, model):
    images, truth = photos
    with load(model, profile="eval") as detector:
        predictions = detect_folder(detector, images, tmp_path / "run")
    expected = direct(model, images)
    assert predictions.images == expected.images
    np.testing.assert_array_equal(predictions.starts, expected.starts)
    np.testing.assert_allclose(predictions.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(predictions.boxes_xywh, expected.boxes_xywh, atol=1e-4)
    assert evaluate_detections(predictions, truth).missing_images == ()


def test_a_stopped_evaluation_goes_on(tmp_path, photos, model):
    images, _ = photos
    with load(model, profile="eval") as detector:
        whole = detect_folder(detector, images, tmp_path / "whole")

        class Stop(Exception):
            pass

        def stop_after_three(items, total):
            for index, item in enumerate(items):
                if index == 3:
                    raise Stop
                yield item

        with pytest.raises(Stop):
            detect_folder(detector, images, tmp_path / "parts", progress=stop_after_three)
        totals = []

        def count(items, total):
            totals.append(total)
            return iter(items)

        parts = detect_folder(detector, images, tmp_path / "parts", progress=count)
        assert totals == [5]
        np.testing.assert_array_equal(parts.boxes_xywh, whole.boxes_xywh)
        again = detect_folder(detector, images, tmp_path / "parts", progress=count)
        assert totals == [5]
        np.testing.assert_array_equal(again.scores, whole.scores)
    with load(model, profile="demo") as detector, pytest.raises(RunFolderError):
        detect_folder(detector, images, tmp_path / "parts")


def test_an_entry_that_was_changed_is_named(tmp_path, photos, model):
    images, _ = photos
    run = tmp_path / "run"

    def stop(items, total):
        yield next(iter(items))
        raise KeyboardInterrupt

    with load(model, profile="eval") as detector:
        with pytest.raises(KeyboardInterrupt):
            detect_folder(detector, images, run, progress=stop)
        journal = run / ".items.jsonl"
        entry = json.loads(journal.read_text().splitlines()[0])
        entry["rows"] = "not base64"
        journal.write_text(json.dumps(entry) + "\n")
        with pytest.raises(RunFolderError, match=r"0_Event_0\.png.*--overwrite"):
            detect_folder(detector, images, run)


def test_a_photo_that_cannot_be_read_ends_an_evaluation(tmp_path, photos, model):
    images, _ = photos
    (images / "0--Event" / "broken.jpg").write_bytes(b"x")
    with load(model) as detector, pytest.raises(DatasetError, match="broken"):
        detect_folder(detector, images, tmp_path / "run")


def test_the_ledger_adds_up(tmp_path, photos, model):
    images, truth = photos
    said = []
    ledger = ledger_of(
        model,
        images,
        truth,
        tmp_path / "ledger",
        builds={"the same build": model},
        progress=lambda items, total: iter(items),
        say=said.append,
        # The tiny network has one input size.
        alone=[d for d in ALONE if "input_hw" not in d.preprocess and not d.auto_size],
    )
    assert [row.label for row in ledger.chain] == [f"+ {d.label}" for d in VENDOR_CHAIN]
    for level, ap in ledger.protocol.ap.items():
        total = ledger.chain[-1].ap[level] - ap
        assert sum(row.cost[level] for row in ledger.chain) == pytest.approx(total, abs=1e-9)
        for row in ledger.alone:
            assert row.cost[level] == pytest.approx(row.ap[level] - ap)
    assert ledger.alone[-1].label == "the same build"
    assert set(ledger.alone[-1].cost.values()) == {0.0}
    cut = next(row for row in ledger.alone if row.label == "scores cut at 0.5")
    lower = next(row for row in ledger.alone if row.label == "scores cut at 0.1")
    assert all(cut.ap[level] <= lower.ap[level] for level in cut.ap)
    assert len(said) == 1 + len(VENDOR_CHAIN) + len(ledger.alone)
    json.dumps(ledger.to_dict())


@pytest.fixture
def official(tmp_path, photos, monkeypatch):
    """The command line with these photos' faces as the official ground truth."""
    images, truth = photos
    monkeypatch.setattr("facezoo.cli.evaluate.detection.read_ground_truth", lambda folder: truth)

    def command(*words):
        return main(["evaluate", "scrfd", "--gt", "gt", "--images", str(images), *map(str, words)])

    return command


def test_photos_are_evaluated_and_recorded_by_one_command(tmp_path, official, model, capsys):
    common = ("--detector", model, "--output", tmp_path / "run")
    record, report = tmp_path / "numerics.json", tmp_path / "report.json"
    assert official(*common, "--record", record, "--json", report) == 0
    assert "Easy   Val AP:" in capsys.readouterr().out
    (entry,) = read_numerics(record)
    assert (entry.card, entry.build, entry.engine.split()[0]) == ("scrfd_500m_bnkps", "fp32", "ort")
    levels = json.loads(report.read_text())["levels"]
    assert entry.metrics["AP easy"].value == pytest.approx(100 * levels["easy"]["ap"], abs=1e-3)
    assert entry.images_per_second > 0
    # Evaluated again from what was kept, the speed is not known, and the entry is replaced.
    assert official(*common, "--record", record) == 0
    (entry,) = read_numerics(record)
    assert entry.images_per_second is None


def test_the_ledger_is_printed_and_written(tmp_path, official, model, capsys, monkeypatch):
    alone = tuple(d for d in ALONE if "input_hw" not in d.preprocess and not d.auto_size)
    monkeypatch.setattr(ledger_of, "__kwdefaults__", {**ledger_of.__kwdefaults__, "alone": alone})
    target = tmp_path / "ledger.json"
    common = ("--detector", model, "--output", tmp_path / "run", "--ledger", target)
    assert official(*common, "--build", model) == 0
    entry = json.loads(target.read_text())
    assert entry["schema"] == "facezoo.ledger/1"
    printed = capsys.readouterr().out
    assert render_ledger(entry) in printed
    assert "| in all |" in printed
    assert official(*common, "--engine", "openvino") == 2
    assert "omit --engine openvino" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--detector", "m.onnx"), "--images needs --detector and --output"),
        (("--output", "run"), "--images needs --detector and --output"),
    ],
)
def test_what_an_evaluation_of_photos_needs_is_said(official, capsys, words, message):
    assert official(*words) == 2
    assert message in capsys.readouterr().err


def test_flags_for_photos_need_photos(capsys, tmp_path):
    words = ["evaluate", "scrfd", "--pred", str(tmp_path), "--gt", "gt"]
    for flag in ("--record", "--output"):
        assert main([*words, flag, "x"]) == 2
        assert f"{flag} needs photos" in capsys.readouterr().err


def test_deviations_that_change_no_detection_share_a_run():
    assert Deviation("a", lowest_score=0.3).slug == Deviation("b", score_decimals=3).slug
    slugs = {deviation.slug for deviation in ALONE}
    assert len(slugs) == 1 + sum(d.slug != "protocol" for d in ALONE)


def test_cutting_after_the_suppression_equals_cutting_before(tmp_path, photos, model):
    images, truth = photos
    kwargs = {"progress": lambda items, total: iter(items), "say": lambda line: None}
    both = [
        Deviation("after", lowest_score=0.5),
        Deviation("before", profile={"score_threshold": 0.5}),
    ]
    ledger = ledger_of(model, images, truth, tmp_path / "l", builds={}, alone=both, **kwargs)
    assert ledger.alone[0].ap == pytest.approx(ledger.alone[1].ap)


def test_a_ledger_of_a_few_photos_says_so_and_counts_only_them(
    tmp_path, photos, official, model, caplog, capsys, monkeypatch
):
    images, truth = photos
    alone = ()
    monkeypatch.setattr(ledger_of, "__kwdefaults__", {**ledger_of.__kwdefaults__, "alone": alone})
    whole = MeasuredList.of("", "photos", truth.images)
    monkeypatch.setattr("facezoo.cli.evaluate.detection.PHOTOS_SHA256", whole.sha256)
    few = truth.images[:3]
    for path in images.rglob("*.png"):
        if path.relative_to(images).with_suffix("").as_posix() not in few:
            path.unlink()
    target = tmp_path / "ledger.json"
    common = ("--model_prefix_path", model, "--save_dir", tmp_path / "run")
    assert official(*common, "--ledger", target) == 0
    entry = json.loads(target.read_text())
    assert entry["dataset"] == "WIDER FACE val, 3 of 8 photos"
    expected = MeasuredList.of("WIDER FACE val", "photos", few, 8)
    assert entry["measured"] == expected.to_dict()
    said = capsys.readouterr().out
    assert expected.line() in said
    assert "3 of 8 photos, a subset" in said
    # Photos that are not there are no misses.
    points = evaluate_detections(direct(model, images), truth.only(few))
    assert entry["protocol"]["ap"]["easy"] == pytest.approx(100 * points.levels["easy"].ap)
    # An evaluation counts them as missed, and says on what it was measured.
    with caplog.at_level("INFO"):
        assert official(*common[:2], "--save_dir", tmp_path / "all", "--json", target) == 0
    assert expected.line() in caplog.text
    assert json.loads(target.read_text())["measured"] == expected.to_dict()


def test_another_ground_truth_is_not_called_wider_face(tmp_path, official, model):
    record = tmp_path / "numerics.json"
    common = ("--model_prefix_path", model, "--save_dir", tmp_path / "run", "--record", record)
    assert official(*common) == 0
    (entry,) = read_numerics(record)
    assert entry.dataset == "a ground truth other than WIDER FACE val's, 8 photos"
    assert entry.measured["count"] == 8


def test_a_list_has_one_hash_in_any_order():
    one = MeasuredList.of("set", "photos", ["b", "a"])
    assert one == MeasuredList.of("set", "photos", ["a", "b"])
    assert one.sha256 == hashlib.sha256(b"a\nb\n").hexdigest()
    assert one.line() == f"measured on: set, 2 photos; sha256 of their list {one.sha256[:12]}"
