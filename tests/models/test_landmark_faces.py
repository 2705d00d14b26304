"""Landmark models on annotated photos: the data set, the crops, the units, and real faces."""

import dataclasses
import os
from pathlib import Path

import cv2
import facezoo
import numpy as np
import pytest
import yaml
from facezoo.cli.main import main
from facezoo.cli.render import write_trained_recipe
from facezoo.datasets import wflw
from facezoo.datasets.wflw_wider import prepare_wflw_wider
from facezoo.doctor.mistakes import ReferenceSetup, diagnose_outputs
from facezoo.errors import DatasetError, InputError
from facezoo.evaluation.landmarks import measure_faces
from facezoo.image.draw import draw_landmarks
from facezoo.image.files import write_image_rgb
from facezoo.image.preprocess import VdspOperation
from facezoo.metrics.landmarks import normalized_mean_error
from facezoo.models import find_card
from facezoo.models.base import LandmarkModel
from facezoo.models.pipnet.decode import load_meanface
from facezoo.models.pipnet.graph import make_contract
from facezoo.results import Landmarks
from facezoo.testing import tiny_pipnet
from facezoo.vacc.vdsp import read_vdsp
from scipy.io import savemat

MEANFACE = load_meanface("WFLW", 10).points_xy
RECTS = {"a_1.jpg": [(100, 50, 200, 170), (250, 60, 330, 160)], "b_2.jpg": [(20, 30, 120, 150)]}


def points_in(rect):
    left, top, right, bottom = rect
    return MEANFACE * [right - left, bottom - top] + [left, top]


def cells(values):
    out = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        out[index, 0] = value
    return out


@pytest.fixture
def wider(tmp_path):
    """Two of three photos of WIDER FACE with its ground truth, and two of WFLW's lists."""
    truth = tmp_path / "wider" / "eval_tools" / "ground_truth"
    truth.mkdir(parents=True)
    boxes = [np.array([[x, y, r - x, b - y] for x, y, r, b in RECTS[n]], float) for n in RECTS]
    names = [name[:-4] for name in RECTS]
    head = {
        "event_list": cells(["0--E"]),
        "file_list": cells([cells(names)]),
        "face_bbx_list": cells([cells(boxes)]),
    }
    savemat(truth / "wider_face_val.mat", head)
    counted = [np.arange(1, len(one) + 1)[:, None] for one in boxes]
    for level in ("easy", "medium", "hard"):
        savemat(truth / f"wider_{level}_val.mat", {"gt_list": cells([cells(counted)])})
    rng = np.random.default_rng(0)
    for name in RECTS:
        image = rng.integers(0, 256, (300, 400, 3)).astype(np.uint8)
        write_image_rgb(tmp_path / "wider" / "WIDER_val" / "images" / "0--E" / name, image)
    lists = tmp_path / "lists"
    lists.mkdir()
    rows = [(name, rect) for name in RECTS for rect in RECTS[name]]
    rows.append(("c_3.jpg", (0, 0, 90, 90)))
    lines = [
        " ".join([*map(str, points_in(rect).ravel().tolist()), f"0--E/{name}"]) + "\n"
        for name, rect in rows
    ]
    (lists / "list_98pt_test_blur.txt").write_text("".join(lines[:3]))
    (lists / "list_98pt_test_makeup.txt").write_text("".join(lines[2:]))
    return tmp_path


def test_wflws_faces_on_widers_photos(wider, capsys):
    words = ["--wider", wider / "wider", "--lists", wider / "lists", "--to", wider / "wflw"]
    for _ in range(2):  # repeated, it changes nothing
        assert main(["prepare", "wflw-wider", *map(str, words)]) == 0
    assert "3 of 4 listed faces, on 2 photos: makeup 1, blur 3" in capsys.readouterr().out
    faces = wflw.read_annotations(wider / "wflw" / "list_98pt_rect_attr_test.txt")
    assert [face.rect_xyxy for face in faces] == [*RECTS["a_1.jpg"], *RECTS["b_2.jpg"]]
    assert [face.attributes for face in faces][-1] == (0, 0, 0, 1, 0, 1)
    np.testing.assert_array_equal(faces[0].points_xy, points_in(RECTS["a_1.jpg"][0]))
    assert (wider / "wflw" / "missing.txt").read_text() == "0--E/c_3.jpg  no such photo\n"
    assert wflw.name_crops(wflw.find_lists(wider / "wflw"), {})[1]["test_mu"]


def test_the_lists_that_it_reads_are_not_replaced(wider):
    """Its own lists have the names of WFLW's."""
    before = {path: path.read_bytes() for path in (wider / "lists").iterdir()}
    with pytest.raises(InputError, match=r"list_98pt_test_\w+.txt' exists with another content"):
        prepare_wflw_wider(wider / "wider", wider / "lists", wider / "lists")
    assert {path: path.read_bytes() for path in (wider / "lists").iterdir()} == before


def test_a_face_on_no_box_is_counted_out(wider):
    path = wider / "lists" / "list_98pt_test_makeup.txt"
    points = points_in((200, 160, 390, 290))
    line = " ".join([*map(str, points.ravel().tolist()), "0--E/b_2.jpg"])
    path.write_text(f"{line}\n")
    found = prepare_wflw_wider(wider / "wider", wider / "lists", wider / "wflw")
    assert (found.faces, found.refused) == (3, 1)
    assert "list_98pt_test_makeup.txt:1: the landmarks match no box" in found.missing[0]


def test_no_photo_and_a_file_in_the_way(wider):
    other = wider / "wflw" / "WFLW_images" / "0--E" / "b_2.jpg"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"someone else's")
    with pytest.raises(InputError, match=r"b_2.jpg' exists and is not"):
        prepare_wflw_wider(wider / "wider", wider / "lists", wider / "wflw")
    assert other.read_bytes() == b"someone else's"
    (wider / "lists" / "list_98pt_test_blur.txt").unlink()
    path = wider / "lists" / "list_98pt_test_makeup.txt"
    path.write_text(path.read_text().splitlines()[1] + "\n")
    with pytest.raises(DatasetError, match="has no photo of the lists' 1 faces"):
        prepare_wflw_wider(wider / "wider", wider / "lists", wider / "wflw")


class Oracle:
    """Finds the annotated points, moved by a share of the eyes' distance, in any crop."""

    def __init__(self, faces, moved):
        self.faces, self.moved, self.crops, self.backend = faces, moved, [], self

    def map(self, function, items):
        return (function(None, item) for item in items)

    def batch(self, images, *, shared=False):
        self.crops += [image.shape[:2] for image in images]
        return [Landmarks(np.zeros((98, 2), np.float32), np.zeros(0), images[0].shape[:2])]


@pytest.mark.parametrize(
    ("crop", "sides"), [("annotation", (256, 256)), ("points", (0, 0)), ("detector", None)]
)
def test_each_crop_is_measured_in_pixels(wider, crop, sides):
    prepare_wflw_wider(wider / "wider", wider / "lists", wider / "wflw")
    oracle = Oracle(None, 0)
    if sides is None:
        with pytest.raises(InputError, match="needs a detector"):
            measure_faces(oracle, wider / "wflw", crop)
        return
    report = measure_faces(oracle, wider / "wflw", crop)
    faces = wflw.read_annotations(wider / "wflw" / "list_98pt_rect_attr_test.txt")
    assert (len(report.errors), report.unit, report.table["blur"].faces) == (3, "pixels", 3)
    for face, error, shape in zip(faces, report.errors, oracle.crops):
        left, top, right, bottom = face.rect_xyxy
        if crop == "points":
            first, last = face.points_xy.min(axis=0), face.points_xy.max(axis=0)
            first, last = np.trunc(first), np.trunc(last) + 1
            side = int(1.2 * (last - first).max())
            assert shape == (side, side)
            corner = np.round((first + last - side) / 2)
        else:
            assert shape == sides
            width, height = right - left, bottom - top
            corner = np.array([left - 0.1 * width, top - 0.1 * height]).clip(0)
        # The oracle's points all lie in the crop's corner.
        truth = face.points_xy
        eyes = np.linalg.norm(truth[60] - truth[72])
        expected = np.linalg.norm(truth - corner, axis=1).mean() / eyes
        assert error == pytest.approx(expected, rel=1e-5)


def test_coordinates_in_pixels_are_refused_by_line(tmp_path):
    good = "a.jpg " + " ".join(map(str, MEANFACE.ravel()))
    bad = "b.jpg " + " ".join(map(str, (256 * MEANFACE).ravel()))
    (tmp_path / "train.txt").write_text(f"{good}\n{bad}\n")
    with pytest.raises(DatasetError, match=r"train.txt:2: coordinate \d+.*pixels"):
        wflw.read_normalised_list(tmp_path / "train.txt")


def test_a_face_whose_normalising_points_lie_together_is_named():
    truth = np.stack([MEANFACE, MEANFACE])
    truth[1, 60] = truth[1, 72] + 1e-4
    with pytest.raises(InputError, match=r"b.jpg: landmarks \(60, 72\) coincide or nearly do"):
        normalized_mean_error(truth, truth, "WFLW", ["a.jpg", "b.jpg"])
    assert normalized_mean_error(truth, truth, (0, 32)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("text", ["300w", "60", "60,60", "-1,2", "1,2,3"])
def test_another_normalizer_is_refused(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "landmarks", "--pred", "x", "--gt", "y", f"--normalizer={text}"])
    assert stopped.value.code == 2
    assert "nor two different landmarks" in capsys.readouterr().err


def test_another_mean_face_is_warned_about(tmp_path, caplog):
    model = tiny_pipnet(tmp_path / "p.onnx")
    own = load_meanface("WFLW", 10).points_xy
    with facezoo.load(model, kind=facezoo.LandmarkDetector, meanface=own):
        assert not caplog.records
    other = own[np.random.default_rng(0).permutation(98)]
    with facezoo.load(model, kind=facezoo.LandmarkDetector, meanface=other):
        pass
    assert "differs from the model's own in the neighbours of" in caplog.text


def test_contours_show_the_face_and_dots_other_points():
    points = (MEANFACE * 200 + 28).astype(np.float32)
    marks = Landmarks(points, np.zeros(0, np.float32), (256, 256))
    blank = np.zeros((256, 256, 3), np.uint8)
    drawn = draw_landmarks(blank, [marks])
    # Halfway between two points of the outline there is a line, between the last point of the
    # outline and the first of a brow there is none.
    halves = (points[3] + points[4]) / 2, (points[32] + points[33]) / 2
    lit = [drawn[round(float(y)), round(float(x))].any() for x, y in halves]
    assert lit == [True, False]
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 5
    few = Landmarks(points[:68], np.zeros(0, np.float32), (256, 256))
    count, _ = cv2.connectedComponents((draw_landmarks(blank, [few]).max(axis=2) > 0).astype("u1"))
    assert count > 30


# On real faces, where the photos are


def real_folders():
    """Return WIDER FACE and WFLW's lists, or why a test cannot have them."""
    shared = os.environ.get("FACEZOO_SHARED", "")
    wider = os.environ.get("FACEZOO_WIDER", "")
    if not shared or not Path(shared, "assets", "wflw").is_dir():
        return None, "FACEZOO_SHARED is not set: WFLW's lists and PFLD's weights"
    if not wider or not Path(wider, "WIDER_val", "images").is_dir():
        return None, "FACEZOO_WIDER is not set: a folder of facezoo prepare widerface"
    return (Path(wider), Path(shared, "assets")), ""


def test_pfld_on_twenty_real_faces(tmp_path):
    folders, reason = real_folders()
    if folders is None:
        pytest.skip(reason)
    wider, assets = folders
    prepare_wflw_wider(wider, assets / "wflw", tmp_path / "wflw")
    path = tmp_path / "wflw" / "list_98pt_rect_attr_test.txt"
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 425
    for name in wflw.SUBSETS:
        (tmp_path / "wflw" / wflw.LISTS[name]).unlink(missing_ok=True)
    path.write_text("".join(lines[::22][:20]))
    source = assets / "pfld" / "PFLD_GhostOne_112_1_opt_sim.onnx"
    errors = {}
    with facezoo.load(source, kind=LandmarkModel) as model:
        errors["right"] = measure_faces(model, tmp_path / "wflw", "points").table["full"].nme
        errors["box"] = measure_faces(model, tmp_path / "wflw", "annotation").table["full"].nme
        right = model.backend.preprocess
    for name, change in (("rgb", {"color_conversion": "NO_CHANGE"}), ("unit", {"norm": "DIV255"})):
        wrong = dataclasses.replace(right, **change)
        with facezoo.load(source, kind=LandmarkModel, preprocess=wrong) as model:
            errors[name] = measure_faces(model, tmp_path / "wflw", "points").table["full"].nme
    assert 0.03 < errors["right"] < 0.07
    assert errors["right"] < min(errors["rgb"], errors["unit"], errors["box"])


def test_a_trained_networks_recipe_has_its_input_size(tmp_path):
    contract = make_contract("resnet18", input_size=64)
    write_trained_recipe(tmp_path / "fitted", contract)
    build = yaml.safe_load((tmp_path / "fitted" / "build.yaml").read_text())
    assert build["name"] == "fitted_fp16"
    assert build["frontend"]["shape"] == {"input": [1, 3, 64, 64]}
    given = read_vdsp(
        tmp_path / "fitted" / "vdsp_params.json", find_card("pip_resnet18").preprocess
    )
    assert given.input_hw == (64, 64)


@pytest.mark.parametrize(
    ("change", "verdict", "says"),
    [
        ({}, "consistent", ""),
        ({"color_conversion": "NO_CHANGE"}, "explained", "RGB"),
        ({"norm": "DIV255"}, "explained", "0..1"),
        ({"color_conversion": "NO_CHANGE", "norm": "DIV255"}, "explained", "RGB 0..1"),
    ],
)
def test_each_mistaken_input_is_named_from_raw_outputs(change, verdict, says):
    """Points are spread so widely that a wrong input moves them little, as PFLD's do."""
    preprocess = find_card("pfld_ghostone").preprocess
    spread = np.random.default_rng(0).uniform(0, 1, 196).astype(np.float32)
    weights = np.random.default_rng(1).normal(0, 0.01, (3, 196)).astype(np.float32)

    def run(tensor):
        return {"points": spread[None] + tensor.mean(axis=(2, 3)) @ weights}

    image = np.zeros((112, 112, 3), np.uint8) + np.array([40, 90, 200], np.uint8)
    setup = ReferenceSetup(run, preprocess, image)
    wrong = dataclasses.replace(preprocess, **change)
    found = diagnose_outputs(setup, run(VdspOperation(wrong)(image)[0][None]))
    assert found.verdict == verdict
    assert says in (found.hint or " ".join(m for c in found.causes for m in c.mistakes))
