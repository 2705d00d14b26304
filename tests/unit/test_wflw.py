"""WFLW's lists: reading, the authors' crop rule, their normalised lists, and the script."""

import importlib.util
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from facezoo.datasets import wflw
from facezoo.datasets.wflw import (
    LISTS,
    SUBSETS,
    NormalisedList,
    WflwCrop,
    WflwFace,
    find_lists,
    match_faces,
    name_crops,
    read_annotations,
    read_normalised_list,
    read_rectangles,
    read_subsets,
    write_normalised_list,
)
from facezoo.errors import DatasetError
from facezoo.models.pipnet.decode import read_meanface

TOLERANCE = 1e-9

# Every row of the authors' lists with a known rectangle comes back but for the points that they
# moved to the border of the picture: on line 35 points 20 to 31 lie right of the picture, which is
# 1024 pixels wide.
LINE, POINTS, WIDTH = 35, list(range(20, 32)), 1024

AUTHORS = {"largepose": ("pipnet_test_pose.txt", 307), "makeup": ("pipnet_test_mu.txt", 198)}


@pytest.fixture
def script(repository):
    path = repository / "face_alignment" / "pipnet" / "source_code" / "preprocess_wflw.py"
    spec = importlib.util.spec_from_file_location("preprocess_wflw", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_face(rect=(40, 30, 80, 90), points=None, image="0--Parade/a.jpg") -> WflwFace:
    points = np.full((98, 2), 50.0) if points is None else points
    return WflwFace(image, points, rect, (0, 0, 0, 1, 0, 0), "list.txt:1")


def format_face(face: WflwFace, full: bool = True) -> str:
    numbers = [f"{value:.6f}" for value in face.points_xy.ravel()]
    extra = [*(f"{side:g}" for side in face.rect_xyxy), *map(str, face.attributes)] if full else []
    return " ".join([*numbers, *extra, face.image]) + "\n"


@pytest.fixture
def folder(tmp_path, rng):
    """A data set of two pictures with two faces to train, three to test, one with make-up."""
    root = tmp_path / "WFLW"
    faces = []
    for number in range(5):
        image = f"{number % 2}--Event/{number % 2}.png"
        left, top = rng.integers(20, 60, 2)
        points = rng.uniform(-5, 125, (98, 2))
        faces.append(make_face((left, top, left + 40, top + 50), points, image))
    for path in {face.image for face in faces}:
        picture = root / "WFLW_images" / path
        picture.parent.mkdir(parents=True)
        cv2.imwrite(str(picture), rng.integers(0, 256, (110, 120, 3), dtype=np.uint8))
    lists = root / "WFLW_annotations" / "any_depth"
    lists.mkdir(parents=True)
    (lists / LISTS["train"]).write_text("".join(format_face(face) for face in faces[:2]))
    (lists / LISTS["test"]).write_text("".join(format_face(face) for face in faces[2:]))
    (lists / LISTS["makeup"]).write_text(format_face(faces[4], full=False))
    return root


# The crop rule ----------------------------------------------------------------------------------


def test_the_rectangle_grows_by_a_tenth_on_every_side():
    crop = WflwCrop.of(make_face((40, 30, 80, 90)), (200, 300))
    assert crop.box_xyxy == pytest.approx((36, 24, 84, 96))


def test_the_crop_ends_one_pixel_inside_the_picture():
    crop = WflwCrop.of(make_face((2, 3, 98, 49)), (50, 100))
    assert crop.box_xyxy == pytest.approx((0, 0, 99, 49))


def test_without_the_picture_only_the_left_and_top_are_clipped():
    crop = WflwCrop.of(make_face((2, 3, 98, 49)), None)
    assert crop.box_xyxy == pytest.approx((0, 0, 107.6, 53.6))


def test_points_outside_the_picture_move_to_its_border():
    points = np.full((98, 2), 50.0)
    points[:3] = (-4, -1), (130, 60), (100, 50)
    face = make_face((0, 0, 80, 40), points)
    found = WflwCrop.of(face, (50, 100)).normalised_points()
    # The crop is 0 to 88 by 0 to 44; the border counts as 100 and 50, not 99 and 49.
    np.testing.assert_allclose(found[:3], [(0, 0), (100 / 88, 50 / 44), (100 / 88, 50 / 44)])
    unclipped = WflwCrop.of(face, None).normalised_points()
    np.testing.assert_allclose(unclipped[:2], [(0, 0), (130 / 88, 60 / 44)])


def test_the_picture_is_cut_at_whole_pixels():
    image = np.zeros((200, 300, 3), np.uint8)
    image[24:96, 36:84] = 255
    assert (WflwCrop.of(make_face((40.5, 30, 79.6, 90)), (200, 300)).cut(image) == 255).all()


@pytest.mark.parametrize(
    ("rect", "message"),
    [
        (None, r"list\.txt:1: no rectangle; use list_98pt_rect_attr_test\.txt"),
        ((400, 30, 480, 90), "list.txt:1: the rectangle .* contains no pixel of the image"),
    ],
)
def test_faces_that_cannot_be_cropped_are_named(rect, message):
    with pytest.raises(DatasetError, match=message):
        WflwCrop.of(make_face(rect), (200, 300))


def authors_rows(shared, subset):
    """Give line, annotation with rectangle, and the authors' normalised points."""
    folder = shared / "assets" / "wflw"
    rectangles = read_rectangles(folder / "rects_recovered.json")[LISTS[subset]]
    faces = read_annotations(folder / LISTS[subset])
    expected = read_normalised_list(folder / AUTHORS[subset][0]).points_xy
    for line, (face, rect, points) in enumerate(zip(faces, rectangles, expected), 1):
        if rect is not None:
            yield line, replace(face, rect_xyxy=rect), points


@pytest.mark.shared
@pytest.mark.parametrize("subset", AUTHORS)
def test_the_authors_normalised_lists_come_back(shared, subset):
    rows = list(authors_rows(shared, subset))
    assert len(rows) == AUTHORS[subset][1]
    for line, face, expected in rows:
        found = WflwCrop.of(face, None).normalised_points()
        wrong = np.flatnonzero((np.abs(found - expected) > TOLERANCE).any(axis=1)).tolist()
        assert wrong == (POINTS if (subset, line) == ("largepose", LINE) else []), face.source
        if wrong:
            assert (face.points_xy[wrong, 0] > WIDTH).all()
            clipped = WflwCrop.of(face, (10_000, WIDTH)).normalised_points()
            np.testing.assert_allclose(clipped, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.shared
def test_a_box_of_another_scale_fails_on_every_row(shared, monkeypatch):
    monkeypatch.setattr(wflw, "CROP_SCALE", 1.1)
    for _, face, expected in authors_rows(shared, "makeup"):
        found = WflwCrop.of(face, None).normalised_points()
        assert np.abs(found - expected).max() > 1e-3


@pytest.mark.shared
def test_normalised_lists_are_written_byte_for_byte_as_the_authors_do(shared, tmp_path):
    path = shared / "assets" / "wflw" / "pipnet_test_mu.txt"
    write_normalised_list(tmp_path / "copy.txt", read_normalised_list(path))
    assert (tmp_path / "copy.txt").read_bytes() == path.read_bytes()


@pytest.mark.shared
def test_a_line_of_the_official_list_is_read(shared):
    (face,) = read_annotations(shared / "assets" / "wflw" / "list_98pt_rect_attr_first_line.txt")
    assert face.image == "37--Soccer/37_Soccer_soccer_ball_37_45.jpg"
    assert face.rect_xyxy == (198.0, 242.0, 331.0, 385.0)
    assert face.attributes == (0, 0, 0, 0, 0, 0)
    assert face.points_xy.shape == (98, 2)
    assert face.source == "list_98pt_rect_attr_first_line.txt:1"


# Reading ----------------------------------------------------------------------------------------


def test_both_kinds_of_list_are_read(folder):
    lists = find_lists(folder)
    assert list(lists) == ["train", "test", "makeup"]
    full, subset = read_annotations(lists["test"]), read_annotations(lists["makeup"])
    assert [face.attributes for face in full] == [(0, 0, 0, 1, 0, 0)] * 3
    assert subset[0].rect_xyxy is subset[0].attributes is None
    assert match_faces(subset, full) == [2]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda fields: fields[1:], r"list\.txt:2: 206 fields; expected 207 \(98 points, rect"),
        (lambda fields: ["x", *fields[1:]], r"list\.txt:2: .*'x'.*; expected numbers"),
        (lambda fields: ["nan", *fields[1:]], r"list\.txt:2: a number is not finite"),
        (lambda fields: [*fields[:-2], "2", fields[-1]], r"list\.txt:2: the six attributes must"),
        (
            lambda fields: [*fields[:196], "9", "9", "9", "20", *fields[200:]],
            r"list\.txt:2: rectangle 9 9 9 20 has no area",
        ),
    ],
)
def test_malformed_lines_are_named(tmp_path, spoil, message):
    line = format_face(make_face())
    path = tmp_path / "list.txt"
    path.write_text(line + " ".join(spoil(line.split())) + "\n")
    with pytest.raises(DatasetError, match=message):
        read_annotations(path)


def test_lists_that_are_not_there_are_named(tmp_path, folder):
    with pytest.raises(DatasetError, match="contains none of WFLW's lists; expected list_98pt"):
        find_lists(tmp_path / "WFLW" / "WFLW_images")
    with pytest.raises(DatasetError, match=r"absent\.txt' cannot be read"):
        read_annotations(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").write_text("\n")
    for read in (read_annotations, read_normalised_list):
        with pytest.raises(DatasetError, match=r"empty\.txt' contains no face"):
            read(tmp_path / "empty.txt")
    (folder / LISTS["makeup"]).write_text("")
    with pytest.raises(DatasetError, match=r"list_98pt_test_makeup\.txt (occurs|exists) twice"):
        find_lists(folder)


def test_a_face_that_the_full_list_lacks_is_named():
    stranger = replace(make_face(), source="list_98pt_test_blur.txt:7", image="other.jpg")
    with pytest.raises(
        DatasetError, match=r"list_98pt_test_blur\.txt:7: the full list has no such face of 'other"
    ):
        match_faces([stranger], [make_face()])


def test_normalised_lists_of_any_landmarks_survive(tmp_path, rng):
    content = NormalisedList(("a.jpg", "b.jpg"), rng.uniform(-0.1, 1.1, (2, 19, 2)))
    write_normalised_list(tmp_path / "list.txt", content)
    found = read_normalised_list(tmp_path / "list.txt")
    assert found.names == content.names
    assert len(found) == 2
    assert np.array_equal(found.points_xy, content.points_xy)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.jpg 0.1 0.2", "list.txt:2: 2 numbers after the name"),
        ("b.jpg", "list.txt:2: 0 numbers after the name"),
        ("b.jpg 0.1 0.2 0.3 inf", "list.txt:2: a number is not finite"),
        ("b.jpg 0.1 0.2 0.3 y", "list.txt:2: .*'y'"),
        ("a.jpg 0.1 0.2 0.3 0.4", r"list.txt:2: 'a\.jpg' (occurs|exists) twice"),
    ],
)
def test_malformed_normalised_lines_are_named(tmp_path, line, message):
    (tmp_path / "list.txt").write_text(f"a.jpg 0.1 0.2 0.3 0.4\n{line}\n")
    with pytest.raises(DatasetError, match=message):
        read_normalised_list(tmp_path / "list.txt")


def test_subsets_are_indices_into_the_test_list(tmp_path):
    full = NormalisedList(("a.jpg", "b.jpg", "c.jpg"), np.zeros((3, 2, 2)))
    (tmp_path / "test_blur.txt").write_text("c.jpg 0 0 0 0\n")
    (tmp_path / "test_pose.txt").write_text("b.jpg 0 0 0 0\na.jpg 0 0 0 0\n")
    assert read_subsets(tmp_path, full) == {"largepose": [1, 0], "blur": [2]}
    (tmp_path / "test_expr.txt").write_text("d.jpg 0 0 0 0\n")
    with pytest.raises(DatasetError, match=r"'d\.jpg', which is not in the test list"):
        read_subsets(tmp_path, full)


@pytest.mark.parametrize("text", ["{}", "[1]", "{", '{"rects": {"a": [[1, 2, 3]]}}'])
def test_files_that_hold_no_rectangles_are_named(tmp_path, text):
    (tmp_path / "rects.json").write_text(text)
    with pytest.raises(DatasetError, match=r'rects\.json\' cannot be read .* \{"rects": \{"list'):
        read_rectangles(tmp_path / "rects.json")


def test_rectangles_must_fit_their_list(tmp_path):
    path = tmp_path / LISTS["blur"]
    path.write_text(format_face(make_face(), full=False))
    with pytest.raises(
        DatasetError, match=r"list_98pt_test_blur\.txt has 1 faces, but there are 2"
    ):
        name_crops({"blur": path}, {path.name: [None, None]})
    rects = tmp_path / "rects.json"
    rects.write_text(json.dumps({"rects": {path.name: [[5, 5, 4, 9]]}}))
    with pytest.raises(
        DatasetError, match=r"rects\.json, list_98pt_test_blur\.txt:1: rectangle 5 5"
    ):
        read_rectangles(rects)


# The script -------------------------------------------------------------------------------------


def contents(folder):
    """All files but run.json, which holds times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", ".files.jsonl")
    }


def test_the_script_writes_crops_lists_and_mean_face(script, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert script.main(["--data_dir", str(folder), "--save_dir", str(out)]) == 0
    assert "5 images" in capsys.readouterr().out
    names = sorted(contents(out))
    assert names == [
        "crops.json",
        *(f"images_test/wflw_test_000{number}.jpg" for number in (1, 2, 3)),
        *(f"images_train/wflw_train_000{number}.jpg" for number in (1, 2)),
        "meanface.txt",
        "test.txt",
        "test_mu.txt",
        "train.txt",
    ]
    train, test = (read_normalised_list(out / f"{name}.txt") for name in ("train", "test"))
    assert read_subsets(out, test) == {"makeup": [2]}
    assert np.array_equal(read_meanface(out / "meanface.txt"), train.points_xy.mean(axis=0))
    faces = read_annotations(find_lists(folder)["test"])
    for index, face in enumerate(faces):
        crop = WflwCrop.of(face, (110, 120))
        assert np.array_equal(test.points_xy[index], crop.normalised_points())
        assert cv2.imread(str(out / "images_test" / test.names[index])).shape == (256, 256, 3)
    entry = json.loads((out / "crops.json").read_text())["crops"][2]
    assert entry["path"] == "wflw_test_0001.jpg"
    assert entry["annotation"] == f"{LISTS['test']}:1"
    assert entry["image_hw"] == [110, 120]
    assert entry["box_xyxy"] == list(WflwCrop.of(faces[0], (110, 120)).box_xyxy)


@pytest.mark.parametrize("stop_at", [1, 4])
def test_an_interrupted_script_goes_on(script, folder, tmp_path, monkeypatch, stop_at):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert script.main(["--data_dir", str(folder), "--save_dir", str(whole), "--quiet"]) == 0
    read, seen = script.read_image_rgb, []

    def read_until(path):
        seen.append(path)
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(script, "read_image_rgb", read_until)
    arguments = ["--data_dir", str(folder), "--save_dir", str(resumed), "--quiet"]
    assert script.main(arguments) == 130
    assert not (resumed / "test.txt").exists()
    assert script.main(arguments) == 0
    assert len(seen) == 5 + 1  # only the interrupted picture is read twice
    assert contents(resumed) == contents(whole)


def test_a_missing_picture_is_refused_by_name(script, folder, tmp_path, caplog):
    (folder / "WFLW_images" / "1--Event" / "1.png").unlink()
    out = tmp_path / "out"
    assert script.main(["--data_dir", str(folder), "--save_dir", str(out), "--quiet"]) == 1
    assert "1--Event/1.png" in caplog.text
    assert read_normalised_list(out / "train.txt").names == ("wflw_train_0001.jpg",)
    test = read_normalised_list(out / "test.txt")
    assert test.names == ("wflw_test_0001.jpg", "wflw_test_0003.jpg")
    assert read_subsets(out, test) == {"makeup": [1]}


def test_lists_only_writes_no_crop(script, folder, tmp_path):
    whole, lists = tmp_path / "whole", tmp_path / "lists"
    script.main(["--data_dir", str(folder), "--save_dir", str(whole), "--quiet"])
    arguments = ["--data_dir", str(folder), "--save_dir", str(lists), "--lists-only", "--quiet"]
    assert script.main(arguments) == 0
    expected = {name: data for name, data in contents(whole).items() if "images_" not in name}
    assert contents(lists) == expected


@pytest.mark.shared
def test_lists_only_gives_the_authors_lists_from_rectangles(
    script, shared, tmp_path, capsys, caplog
):
    assets, source, out = shared / "assets" / "wflw", tmp_path / "lists", tmp_path / "out"
    source.mkdir()
    for path in (*(f"list_98pt_test_{subset}.txt" for subset in AUTHORS), "rects_recovered.json"):
        (source / path).symlink_to(assets / path)
    for path in assets.glob("list_98pt_rect_*.txt"):
        (source / path.name).symlink_to(path)
    arguments = ["--data_dir", str(source), "--save_dir", str(out), "--lists-only"]
    assert script.main([*arguments, "--rects", str(source / "rects_recovered.json")]) == 1
    printed = capsys.readouterr().out
    assert "532 images, 27 refused" in printed
    assert "505 images are missing: points right of or below them were not clipped" in printed
    assert len(re.findall(r"txt:\d+: no rectangle; use .* size of the image", caplog.text)) == 27
    for subset, (authors, count) in AUTHORS.items():
        ending = SUBSETS[subset]
        found = read_normalised_list(out / f"test_{ending}.txt")
        lines = [int(re.search(r"(\d+)\.jpg", name).group(1)) for name in found.names]
        expected = read_normalised_list(assets / authors).points_xy[np.array(lines) - 1]
        assert len(found) == count
        difference = np.abs(found.points_xy - expected).max(axis=2) > TOLERANCE
        wrong = [(lines[row], point) for row, point in np.argwhere(difference)]
        assert wrong == ([(LINE, point) for point in POINTS] if subset == "largepose" else [])


@pytest.mark.shared
def test_a_real_picture_is_cut_as_the_authors_cut_it(script, shared, tmp_path):
    source = shared / "assets" / "wflw" / "36_Football_americanfootball_ball_36_415.json"
    annotation = json.loads(source.read_text())["annotations"][0]
    left, top, width, height = annotation["bbox"]
    points = np.reshape(annotation["keypoints"], (98, 3))[:, :2]
    rect = (int(left), int(top), int(left + width), int(top + height))
    face = make_face(rect, points, "36--Football/picture.jpg")
    picture = tmp_path / "WFLW" / "WFLW_images" / face.image
    picture.parent.mkdir(parents=True)
    picture.write_bytes(source.with_suffix(".jpg").read_bytes())
    (tmp_path / "WFLW" / LISTS["test"]).write_text(format_face(face))
    out = tmp_path / "out"
    assert script.main(["--data_dir", str(tmp_path / "WFLW"), "--save_dir", str(out)]) == 0
    # The rule written out: a tenth on every side, whole pixels, the end not included.
    x0, y0, x1, y1 = rect
    dx, dy = (x1 - x0) * 0.1, (y1 - y0) * 0.1
    image = cv2.imread(str(picture))
    inside = image[int(y0 - dy) : int(y1 + dy), int(x0 - dx) : int(x1 + dx)]
    encoded = cv2.imencode(".jpg", cv2.resize(inside, (256, 256)))[1].tobytes()
    assert (out / "images_test" / "wflw_test_0001.jpg").read_bytes() == encoded
    found = read_normalised_list(out / "test.txt").points_xy[0]
    expected = (points - (x0 - dx, y0 - dy)) / ((x1 - x0) * 1.2, (y1 - y0) * 1.2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_scripts_help_names_every_flag(script, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.build_parser().parse_args(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(flag in text for flag in ("--data_dir", "--save-dir", "--lists-only", "--rects"))
