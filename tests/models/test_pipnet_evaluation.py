"""Results against annotations: both crops, subsets, missed faces, what is refused."""

import json

import numpy as np
import pytest
from facezoo.datasets.wflw import NormalisedList, write_normalised_list
from facezoo.errors import DatasetError, InputError
from facezoo.evaluation.landmarks import evaluate_results, evaluate_run, find_pictures
from facezoo.image.files import write_image_rgb
from facezoo.models.pipnet.decode import load_meanface
from facezoo.results import FaceDetections, Landmarks

MEANFACE = load_meanface("WFLW", 10).points_xy
EYES = np.linalg.norm(MEANFACE[60] - MEANFACE[72])


def write_results(path, crop, entries):
    images = [{"path": name, **entry} for name, entry in entries.items()]
    content = {"schema": "facezoo.landmarks/1", "crop": crop, "images": images}
    path.write_text(json.dumps(content))
    return path


def written_list(folder, sha256):
    return {
        "dataset": f"test.txt in {folder}",
        "unit": "faces",
        "count": 4,
        "total": 4,
        "sha256": sha256,
    }


def marks(points, image_hw):
    return Landmarks(np.float32(points), np.ones(len(points), np.float32), image_hw)


@pytest.fixture
def crops(tmp_path):
    """Four crops of the mean face, the results off by 1, 2, 20 and 5 % of the eyes' distance."""
    names = tuple(f"wflw_test_{number:04d}.jpg" for number in range(1, 5))
    truth = np.stack([MEANFACE + 0.01 * number for number in range(4)])
    write_normalised_list(tmp_path / "test.txt", NormalisedList(names, truth))
    write_normalised_list(tmp_path / "test_pose.txt", NormalisedList(names[2:], truth[2:]))
    write_normalised_list(tmp_path / "test_blur.txt", NormalisedList(names[:1], truth[:1]))
    entries = {}
    for name, points, error in zip(names, truth, (0.01, 0.02, 0.2, 0.05)):
        # The crops' sides differ: the error counts in shares of each.
        moved = (points + [error * EYES, 0.0]) * [200, 100]
        entries[f"images_test/{name}"] = marks(moved, (100, 200)).to_dict()
    write_results(tmp_path / "results.json", "annotation", entries)
    return tmp_path


def test_the_numbers_of_four_crops(crops):
    report = evaluate_results(crops / "results.json", crops)
    np.testing.assert_allclose(report.errors, [0.01, 0.02, 0.2, 0.05], atol=1e-6)
    full = report.table["full"]
    assert full.nme == pytest.approx(0.07, abs=1e-6)
    assert full.failure_rate == 0.25
    # Under a curve that rises by a quarter at 1, 2 and 5 %.
    assert full.auc == pytest.approx((0.9 + 0.8 + 0.5) / 4, abs=1e-3)
    assert list(report.table) == ["full", "largepose", "blur"]
    assert report.table["largepose"].nme == pytest.approx(0.125, abs=1e-6)
    assert report.table["blur"].faces == 1


def test_the_report_prints_what_the_authors_print(crops):
    report = evaluate_run(crops, crops, "WFLW")
    lines = list(report.lines())
    assert lines[:5] == [
        "crop: annotation",
        "Image num: 4",
        f"nme: {report.table['full'].nme}",
        "fr: 0.25",
        f"auc: {report.table['full'].auc}",
    ]
    assert lines[6].split()[:3] == ["full", "4", "7.00"]
    assert len({len(line) for line in lines[5:-1]}) == 1
    measured = written_list(crops.name, report.measured.sha256)
    assert lines[-1] == (
        f"measured on: test.txt in {crops.name}, 4 faces; sha256 of their list "
        f"{measured['sha256'][:12]}"
    )
    written = json.loads((crops / "metrics.json").read_text())
    assert written["schema"] == "facezoo.nme/1"
    assert written["table"]["full"]["nme"] == report.table["full"].nme
    assert written["errors"] == report.errors.tolist()
    assert written["measured"] == measured


def test_results_that_are_not_there(crops):
    with pytest.raises(InputError, match=r"nope.json' cannot be read: No such file"):
        evaluate_results(crops / "nope.json", crops)


def test_another_data_sets_normaliser(crops):
    with_box = evaluate_results(crops / "results.json", crops, "AFLW")
    np.testing.assert_allclose(with_box.errors, EYES * np.array([0.01, 0.02, 0.2, 0.05]), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"schema": "other/1"}, InputError, "is not a facezoo.landmarks/1"),
        ({"crop": "centre"}, InputError, "is not a facezoo.landmarks/1"),
        ({"images": [{"path": "wflw_test_0001.jpg"}]}, InputError, "is not a facezoo.landmarks/1"),
        ({"images": ["wflw_test_0001.jpg"]}, InputError, "is not a facezoo.landmarks/1"),
        ({"images": []}, DatasetError, "no landmarks of 'wflw_test_0001.jpg'"),
        (
            {"images": [{"path": "wflw_test_0001.jpg", "error": "is empty"}]},
            DatasetError,
            "which is empty",
        ),
    ],
)
def test_results_that_do_not_fit_are_refused(crops, change, error, message):
    path = crops / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=message):
        evaluate_results(path, crops)


def test_a_wrong_number_of_landmarks_is_refused(crops):
    path = crops / "results.json"
    content = json.loads(path.read_text())
    for entry in content["images"]:
        entry["points_xy"] = entry["points_xy"][:68]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"\(4, 68, 2\) and \(4, 98, 2\)"):
        evaluate_results(path, crops)


@pytest.fixture
def photos(tmp_path):
    """Two photos of 400x300 with three faces as WFLW lists them, and a subset."""
    rects = [("a/1.jpg", (100, 50, 200, 170)), ("a/1.jpg", (250, 60, 330, 160))]
    rects.append(("b/2.jpg", (20, 30, 120, 150)))
    lines = []
    for image, rect in rects:
        left, top, right, bottom = rect
        points = MEANFACE * [right - left, bottom - top] + [left, top]
        numbers = " ".join(str(float(value)) for value in points.ravel())
        lines.append(f"{numbers} {left} {top} {right} {bottom} 0 0 0 0 0 0 {image}\n")
    (tmp_path / "list_98pt_rect_attr_test.txt").write_text("".join(lines))
    short = [" ".join([*line.split()[:196], line.split()[-1]]) + "\n" for line in lines]
    (tmp_path / "list_98pt_test_occlusion.txt").write_text("".join(short[2:]))
    return tmp_path, rects


def found_on_photo(rects, errors):
    """Landmarks off by a share of the eyes' distance, as the annotated crop measures it."""
    boxes, landmarks = [], []
    for (left, top, right, bottom), error in zip(rects, errors):
        width, height = right - left, bottom - top
        # The annotated crop is 1.2 times as large, and so are the shares of it.
        eyes = np.linalg.norm((MEANFACE[60] - MEANFACE[72]) / 1.2)
        shift = [error * eyes * 1.2 * width, 0.0]
        points = MEANFACE * [width, height] + [left, top] + shift
        boxes.append((left - 3, top + 4, right + 2, bottom - 5))
        landmarks.append(marks(points, (300, 400)))
    count = len(boxes)
    faces = FaceDetections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(count, np.float32),
        np.zeros((count, 0, 2), np.float32),
        (300, 400),
    )
    entry = faces.to_dict()
    for face, marks_of_face in zip(entry["faces"], landmarks):
        face.update(marks_of_face.to_dict())
    return entry


def test_the_detectors_crop_counts_what_it_found(photos):
    folder, rects = photos
    boxes = [rect for _, rect in rects]
    entries = {
        # Without the first face of the list, and with one that nobody annotated.
        "a/1.jpg": found_on_photo([(0, 200, 50, 260), boxes[1]], [0.5, 0.04]),
        "b/2.jpg": found_on_photo(boxes[2:], [0.02]),
    }
    path = write_results(folder / "results.json", "detector", entries)
    report = evaluate_results(path, folder)
    np.testing.assert_allclose(report.errors, [0.04, 0.02], atol=1e-5)
    assert report.missed == ("list_98pt_rect_attr_test.txt:1",)
    assert {name: row.faces for name, row in report.table.items()} == {"full": 2, "occlusion": 1}
    assert report.table["occlusion"].nme == pytest.approx(0.02, abs=1e-5)
    lines = list(report.lines())
    assert lines[0] == "crop: detector"
    assert lines[2] == "not found by the detector, not counted: 1"
    nobody = found_on_photo([], [])
    write_results(path, "detector", {"a/1.jpg": nobody, "b/2.jpg": nobody})
    with pytest.raises(DatasetError, match="none of the annotated faces"):
        evaluate_results(path, folder)


def test_what_a_runner_works_on(crops, photos, tmp_path_factory):
    folder, _ = photos
    root, names, annotated = find_pictures(folder, "detector")
    assert (root, names, annotated) == (folder / "WFLW_images", ("a/1.jpg", "b/2.jpg"), True)
    root, names, annotated = find_pictures(crops, "annotation")
    assert (root, len(names), annotated) == (crops / "images_test", 4, True)
    other = tmp_path_factory.mktemp("other")
    write_image_rgb(other / "x" / "face.png", np.zeros((9, 9, 3), np.uint8))
    for crop in ("annotation", "detector"):
        assert find_pictures(other, crop) == (other, ("x/face.png",), False)
    face = other / "x" / "face.png"
    assert find_pictures(face, "annotation") == (face.parent, ("face.png",), False)


def test_a_crop_that_cannot_be_cut_is_refused(crops, photos):
    folder, _ = photos
    (folder / "test.txt").unlink()
    with pytest.raises(InputError, match=r"preprocess_wflw\.py first"):
        find_pictures(folder, "annotation")
    (folder / "list_98pt_rect_attr_test.txt").rename(folder / "list.txt")
    write_normalised_list(folder / "test.txt", NormalisedList(("a.jpg",), MEANFACE[None]))
    with pytest.raises(InputError, match="contains crops"):
        find_pictures(folder, "detector")


def test_results_of_other_crops_are_counted_and_two_of_one_name_refused(crops, caplog):
    path = crops / "results.json"
    content = json.loads(path.read_text())
    extra = {**content["images"][0], "path": "images_test/other.jpg"}
    path.write_text(json.dumps({**content, "images": [*content["images"], extra]}))
    report = evaluate_results(path, crops)
    assert report.table["full"].faces == 4
    assert "1 of 5 images of the results are not in the test list, such as 'other.jpg'" in (
        caplog.text
    )
    extra["path"] = "elsewhere/wflw_test_0001.jpg"
    path.write_text(json.dumps({**content, "images": [*content["images"], extra]}))
    with pytest.raises(DatasetError, match=r"5 images of 4 names, such as 'images_test/wflw_test"):
        evaluate_results(path, crops)
