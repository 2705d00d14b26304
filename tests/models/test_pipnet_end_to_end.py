"""The whole recipe on asset photos, with weights fitted on the spot: toy set, fit, run, metrics."""

import json
import re
import runpy

import numpy as np
import pytest
from facezoo.contract import read_contract
from facezoo.datasets.wflw import LISTS, read_normalised_list
from facezoo.image.files import read_image_rgb
from facezoo.models.pipnet.decode import load_meanface, read_meanface
from facezoo.models.pipnet.toy import FIVE_OF_WFLW, MIRRORED_FIVE, fit_meanface, random_crop
from facezoo.models.scrfd.graph import export_released
from facezoo.results import FaceDetections, Landmarks

MEANFACE = load_meanface("WFLW", 10).points_xy
RECIPE = "face_alignment/pipnet"
FOOTBALL = "36_Football_americanfootball_ball_36_415.jpg"


def test_the_mean_face_is_laid_over_five_points():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]]) * [3.0, 2.0]
    moved = MEANFACE @ turn.T + [40, -7]
    np.testing.assert_allclose(fit_meanface(moved[list(FIVE_OF_WFLW)], MEANFACE), moved, atol=1e-9)
    five = MEANFACE[list(FIVE_OF_WFLW)]
    assert five[0, 0] < five[2, 0] < five[1, 0]
    assert five[3, 0] < five[4, 0]
    assert five[:2, 1].max() < five[2, 1] < five[3:, 1].min()


def test_a_random_crop_holds_its_landmarks_wherever_it_lies():
    """Five dots of five colours in a photo are found where the crop's landmarks say."""
    five = MEANFACE[list(FIVE_OF_WFLW)] * [60, 70] + [90, 80]
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]])
    photo = np.zeros((240, 240, 3), np.uint8)
    for (x, y), colour in zip(five.round().astype(int), colours):
        photo[y - 1 : y + 2, x - 1 : x + 2] = colour
    mirrored = []
    for seed in range(12):
        crop, points = random_crop(photo, five, MEANFACE, 128, np.random.default_rng(seed))
        assert crop.shape == (128, 128, 3)
        found = []
        for colour in colours:
            near = np.abs(crop.astype(int) - colour).sum(axis=2) < 150
            rows, columns = np.nonzero(near)
            found.append((columns.mean(), rows.mean()))
        marks = points[list(FIVE_OF_WFLW)] * 128
        gaps = [
            np.abs(np.array(found) - marks[list(order)]).max()
            for order in (range(5), MIRRORED_FIVE)
        ]
        # Of a mirrored face the colours are exchanged and the landmarks are not.
        assert min(gaps) < 2.5, seed
        mirrored.append(gaps[1] < gaps[0])
        assert -0.25 < points.min() < points.max() < 1.25
    assert 0 < sum(mirrored) < 12


@pytest.fixture(scope="module")
def scripts(repository):
    paths = {
        "toy": "source_code/make_toy_set.py",
        "fit": "source_code/fit.py",
        "runner": "build_in/vsx/python/vsx_infer.py",
    }

    def run(name, *arguments):
        main = runpy.run_path(str(repository / RECIPE / paths[name]))["main"]
        assert main([str(argument) for argument in arguments]) == 0

    return run


@pytest.fixture(scope="module")
def detector(shared, tmp_path_factory):
    path = tmp_path_factory.mktemp("scrfd") / "scrfd.onnx"
    export_released(shared / "assets" / "scrfd" / "scrfd_500m_bnkps.onnx", path)
    return path


@pytest.fixture(scope="module")
def toy(shared, scripts, detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    photos = folder / "photos"
    photos.mkdir()
    for photo in (shared / "assets" / "photos").iterdir():
        (photos / photo.name).symlink_to(photo)
    for person in range(1, 31):
        photo = shared / "assets" / "att_faces" / f"s{person}" / "1.pgm"
        (photos / f"att_{person}.pgm").symlink_to(photo)
    out = folder / "toy"
    scripts(
        "toy", "--photos", photos, "--detector", detector, "--save_dir", out, "--crops", 6,
        "--size", 64,
    )  # fmt: skip
    return out


@pytest.mark.shared
def test_the_toy_set_is_split_by_photo(toy):
    train, test = (read_normalised_list(toy / f"{split}.txt") for split in ("train", "test"))
    of_photo = [{name.split("_")[0] for name in part.names} for part in (train, test)]
    assert not of_photo[0] & of_photo[1]
    share = len(of_photo[0]) / (len(of_photo[0]) + len(of_photo[1]))
    assert 0.7 < share < 0.9
    assert len(train) > 400
    for split, part in (("train", train), ("test", test)):
        assert part.points_xy.shape == (len(part), 98, 2)
        names = sorted(path.name for path in (toy / f"images_{split}").iterdir())
        assert names == sorted(part.names)


@pytest.fixture(scope="module")
def fitted(toy, scripts, tmp_path_factory):
    """About half a minute of one core's training, and what it printed."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("fitted")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words: said.append(" ".join(map(str, words))))
        scripts(
            "fit", "--data_dir", toy, "--save_dir", folder / "model", "--input_size", 64,
            "--epochs", 3, "--learning_rate", "1e-3", "--quiet",
        )  # fmt: skip
    torch.set_num_threads(threads)
    errors = [float(line.split(": nme ")[1]) for line in said if ": nme " in line]
    return folder / "model", errors


@pytest.mark.torch
@pytest.mark.shared
def test_a_short_fit_is_far_better_than_the_mean_face(fitted, toy):
    folder, (meanface, network) = fitted
    assert network <= 0.7 * meanface
    assert sorted(path.name for path in folder.iterdir()) == [
        ".files.jsonl", "build.yaml", "meanface.txt", "model.onnx", "model.pth", "run.json",
        "state.pth", "training.json", "vdsp_params.json",
    ]  # fmt: skip
    contract = read_contract(folder / "model.onnx")
    assert (contract.card_id, contract.preprocess.input_hw) == ("pip_resnet18", (64, 64))
    points = read_meanface(folder / "meanface.txt")
    np.testing.assert_array_equal(contract.decode["meanface"], points)
    train = read_normalised_list(toy / "train.txt").points_xy
    np.testing.assert_allclose(points, train.mean(axis=0))
    epochs = json.loads((folder / "training.json").read_text())["epochs"]
    assert epochs[1]["map"] < epochs[0]["map"]


@pytest.mark.torch
@pytest.mark.shared
def test_the_runner_finds_the_same_error(fitted, toy, scripts, tmp_path, capsys):
    folder, (_, network) = fitted
    scripts(
        "runner", "--data_dir", toy, "--model_prefix_path", folder / "model.onnx",
        "--save_dir", tmp_path / "out",
    )  # fmt: skip
    nme = float(re.search(r"^nme: (.*)$", capsys.readouterr().out, re.M)[1])
    assert nme == pytest.approx(network, abs=1e-9)


@pytest.mark.torch
@pytest.mark.shared
def test_photos_get_landmarks_on_their_faces(fitted, detector, shared, scripts, tmp_path):
    folder, _ = fitted
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("t1.jpg", "src_meeting.jpg", "view_noface.jpg", "rot_r90.jpg"):
        (photos / name).symlink_to(shared / "assets" / "photos" / name)
    out = tmp_path / "out"
    scripts(
        "runner", "--data_dir", photos, "--crop", "detector", "--detector", detector,
        "--model_prefix_path", folder / "model.onnx", "--save_dir", out, "--draw",
    )  # fmt: skip
    images = json.loads((out / "results.json").read_text())["images"]
    found = {image["path"]: FaceDetections.from_dict(image) for image in images}
    marks = {
        image["path"]: [Landmarks.from_dict({**image, **face}) for face in image["faces"]]
        for image in images
    }
    assert {name: len(faces) for name, faces in found.items()} == {
        "rot_r90.jpg": 1, "src_meeting.jpg": 5, "t1.jpg": 6, "view_noface.jpg": 0,
    }  # fmt: skip
    # Even so short a training puts the pupils and the mouth nearer to SCRFD's than half an eye.
    faces = [*marks["t1.jpg"], *marks["src_meeting.jpg"]]
    fives = np.concatenate([found[n].landmarks_xy for n in ("t1.jpg", "src_meeting.jpg")])
    gaps = []
    for face, five in zip(faces, fives):
        eyes = np.linalg.norm(five[0] - five[1])
        gap = np.linalg.norm(face.points_xy[list(FIVE_OF_WFLW)] - five, axis=1).mean()
        gaps.append(gap / eyes)
    assert np.median(gaps) < 0.5
    for name in found:
        picture = read_image_rgb((out / "pictures" / name).with_suffix(".jpg"))
        assert picture.shape == read_image_rgb(photos / name).shape


@pytest.mark.torch
@pytest.mark.shared
def test_the_detectors_crop_on_wflw(fitted, detector, shared, scripts, tmp_path, capsys):
    folder, _ = fitted
    data = tmp_path / "wflw"
    photo = data / "WFLW_images" / "36--Football" / FOOTBALL
    photo.parent.mkdir(parents=True)
    photo.symlink_to(shared / "assets" / "wflw" / FOOTBALL)
    annotation = json.loads(
        (shared / "assets" / "wflw" / FOOTBALL).with_suffix(".json").read_text()
    )
    (face,) = annotation["annotations"]
    left, top, width, height = face["bbox"]
    points = np.reshape(face["keypoints"], (98, 3))[:, :2]
    numbers = [*points.ravel().tolist(), left, top, left + width, top + height, *[0] * 6]
    line = " ".join([*map(str, numbers), f"36--Football/{FOOTBALL}"])
    (data / LISTS["test"]).write_text(line + "\n")
    scripts(
        "runner", "--data_dir", data, "--crop", "detector", "--detector", detector,
        "--model_prefix_path", folder / "model.onnx", "--save_dir", tmp_path / "out",
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "crop: detector" in said
    assert "Image num: 1" in said
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (report["crop"], report["missed"], len(report["errors"])) == ("detector", [], 1)
