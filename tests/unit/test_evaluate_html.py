"""The pages of evaluations hold the numbers that are printed."""

from argparse import Namespace
from pathlib import Path

import numpy as np
from facezoo.cli.evaluate.html_reports import (
    show_detections,
    show_discards,
    show_landmarks,
    show_people,
)
from facezoo.evaluation.landmarks import LandmarkReport
from facezoo.evaluation.measured import MeasuredList
from facezoo.evaluation.recognition import PeopleReport
from facezoo.evaluation.verification_report import verify_pairs
from facezoo.image.files import write_image_rgb
from facezoo.metrics.detection import Predictions


def page(path):
    text = path.read_text()
    assert "http" not in text and "<link" not in text
    return text


ONE = MeasuredList.of("a set", "photos", ["0--Parade/a"], 7)


class Level:
    def __init__(self, ap):
        self.ap, self.event_ap = ap, {"0--Parade": ap / 2}
        self.recall, self.precision = np.linspace(0, 1, 1001), np.linspace(1, 0, 1001)


def test_detections(tmp_path):
    image = np.zeros((60, 80, 3), np.uint8)
    write_image_rgb(tmp_path / "photos/0--Parade/a.jpg", image)
    args = Namespace(html=tmp_path / "p.html", images=tmp_path / "photos", gt=Path("gt"))
    levels = {"easy": Level(0.9123), "hard": Level(0.5)}
    report = Namespace(levels=levels, detections=2, images=1)
    rows = np.array([[10.0, 10, 20, 20], [1, 1, 2, 2]])
    found = Predictions(("0--Parade/a",), np.array([0, 2]), rows, np.array([0.9, 0.1]))
    show_detections(args, report, ONE, found)
    text = page(tmp_path / "p.html")
    for word in (
        "91.23",
        "45.615",
        "2 boxes in 1 photos",
        ONE.sha256,
        "0--Parade/a, boxes with score 0.5 or more: 1",
    ):
        assert word in text
    assert text.count("data:image/jpeg") == 1
    show_detections(Namespace(html=tmp_path / "q.html", images=None), report, ONE, found)
    assert "data:image" not in page(tmp_path / "q.html")


def test_landmarks(tmp_path):
    row = Namespace(faces=3, nme=0.0457, failure_rate=0.01, auc=0.6)
    report = LandmarkReport("wflw", "WFLW", np.array([0.04, 0.05, 0.2]), {"full": row}, ONE)
    show_landmarks(Namespace(html=tmp_path / "p.html"), report)
    text = page(tmp_path / "p.html")
    assert "4.57" in text and ">20<" in text and "Cumulative errors" in text and ONE.sha256 in text


def test_people(tmp_path):
    rng = np.random.default_rng(1)
    first = rng.normal(0, 1, (400, 8))
    second = np.where(np.arange(400)[:, None] % 2, first, rng.normal(0, 1, (400, 8)))
    verification = verify_pairs(
        "set", first, second, np.arange(400) % 2 == 1, [*map(str, range(800))]
    )
    report = PeopleReport(30, 29, 5, verification, 3.0)
    show_people(Namespace(html=tmp_path / "p.html"), report)
    text = page(tmp_path / "p.html")
    assert "needs at least" in text and "ROC" in text and "<th>people</th><td>5</td>" in text
    assert verification.measured.sha256 in text


def test_discards(tmp_path):
    area = Namespace(value=0.61, low=0.5, high=0.7)
    curve = Namespace(discards=np.array([0, 0.5]), fnmr=np.array([0.1, 0.02]), relative_auc=area)
    show_discards(Namespace(html=tmp_path / "p.html"), ONE, {"sdd": {1e-2: curve}})
    text = page(tmp_path / "p.html")
    assert "0.61" in text and "False match rate 0.01" in text and ONE.sha256 in text
