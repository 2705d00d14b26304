"""Two builds compared: drift in the task's terms by hand, and the command on pictures."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from facezoo.backends.ort import OrtBackend
from facezoo.backends.replay import ReplayBackend
from facezoo.cli.compare import render_html
from facezoo.cli.main import main
from facezoo.contract import read_contract
from facezoo.errors import ImageError, InputError
from facezoo.evaluation.drift import (
    Pair,
    compare_backends,
    compare_detections,
    task_drift,
    time_in_turns,
)
from facezoo.image.files import write_image_rgb
from facezoo.metrics.detection import GroundTruth
from facezoo.results import Embedding, FaceDetections, Landmarks, QualityScore
from facezoo.testing import tiny_pipnet, tiny_scrfd


def faces(*rows):
    table = np.array(rows, np.float32).reshape(-1, 5)
    return FaceDetections(table[:, :4], table[:, 4], np.zeros((len(table), 0, 2)), (100, 100))


def landmarks(points):
    return Landmarks(points, np.ones(len(points), np.float32), (100, 100))


def drift_of(*pairs, decode=None):
    return task_drift([Pair(Path("p"), a, b) for a, b in pairs], decode or {})


# By hand


def test_faces_are_paired_by_overlap():
    reference = faces([0, 0, 10, 10, 0.9], [20, 20, 30, 30, 0.8], [50, 50, 60, 60, 0.6])
    other = faces([0, 0, 10, 5, 0.7], [20, 20, 30, 30, 0.9], [80, 80, 90, 90, 0.5])
    drift = compare_detections([(reference, other), (faces(), faces())])
    assert (drift.faces, drift.missed, drift.extra) == (3, 1, 1)
    assert drift.mean_iou == pytest.approx(0.75)  # 50 of 100, and all
    assert drift.worst_corner == 5
    assert drift.worst_score == pytest.approx(0.2)
    assert drift.mean_score == pytest.approx(0.15)
    measured = drift_of((reference, other))
    assert measured["missed_share"] == measured["extra_share"] == pytest.approx(1 / 3)


def test_pictures_without_faces_do_not_divide_by_zero():
    measured = drift_of((faces(), faces()))
    assert (measured["faces"], measured["missed_share"], measured["mean_iou"]) == (0, 0, 1)
    assert drift_of((faces(), faces([0, 0, 9, 9, 1])))["extra_share"] == 1


def test_landmarks_are_normalised_by_the_eyes_or_the_face():
    points = np.zeros((98, 2), np.float32)
    points[72, 0] = 100  # the outer corners of the eyes, 60 and 72, are 100 px apart
    moved = points + np.float32([3, 4])
    pair = landmarks(points), landmarks(moved)
    for decode in ({"meanface": "WFLW"}, {}):  # 98 points are WFLW's
        assert drift_of(pair, decode=decode)["nme"] == pytest.approx(0.05)
    points[10] = 0, 100  # a face of 100 x 100 px, whose diagonal is 141 px
    pair = landmarks(points), landmarks(points + np.float32([3, 4]))
    own = {"meanface": points.tolist()}
    assert drift_of(pair, decode=own)["worst_nme"] == pytest.approx(5 / np.hypot(100, 100))


def test_embeddings_by_angle_and_by_the_order_of_their_norms():
    def embedding(x, y):
        return Embedding(np.float32([x, y]))

    pairs = [
        (embedding(1, 0), embedding(2, 0)),
        (embedding(0, 2), embedding(0, 3)),
        (embedding(3, 0), embedding(0.6, 0.8)),
    ]
    measured = drift_of(*pairs)
    assert measured["cosine_min"] == pytest.approx(0.6)
    assert measured["cosine_mean"] == pytest.approx(2.6 / 3)
    # Norms 1, 2, 3 against 2, 3, 1: 1 - 6 * (1 + 1 + 4) / (3 * 8).
    assert measured["norm_rank"] == pytest.approx(-0.5)
    assert "norm_rank" not in drift_of(pairs[0])


def test_qualities_by_their_order():
    pairs = [(QualityScore(a), QualityScore(b)) for a, b in ((1, 1.5), (2, 2), (3, 9))]
    assert drift_of(*pairs) == {"worst_change": 6, "rank": pytest.approx(1.0)}
    assert drift_of() == {}


def test_pictures_are_put_in_order_by_how_much_differs():
    one = faces([0, 0, 10, 10, 0.9])
    assert Pair(Path("p"), one, one).difference == 0
    lost = Pair(Path("p"), one, faces()).difference
    assert lost > Pair(Path("p"), one, faces([0, 0, 10, 10, 0.8])).difference > 0
    unit = Embedding(np.float32([1, 0])), Embedding(np.float32([0, 1]))
    assert Pair(Path("p"), *unit).difference == pytest.approx(1)


def test_calls_are_timed_in_turns():
    called = []
    found = time_in_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 3)
    assert "".join(called) == "ab" * 5
    assert set(found) == {"a", "b"}
    assert min(found.values()) >= 0


# Whole comparisons


@pytest.fixture
def workspace(tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    for index in range(3):
        image = rng.integers(0, 60, (48, 64, 3), np.uint8)
        image[8:24, 8 * index : 8 * index + 16] = 240
        write_image_rgb(Path("photos", "0--A", f"{index}.png"), image)
    return tiny_scrfd(Path("tiny.onnx"))


def compare(model, other, **options):
    contract = read_contract(model)
    with OrtBackend(model, contract) as a, other as b:
        return compare_backends(a, b, sorted(Path("photos/0--A").iterdir()), **options)


def test_a_build_against_itself_does_not_differ(workspace):
    found = compare(workspace, OrtBackend(workspace, read_contract(workspace)))
    assert found.pictures == 3
    assert found.task["missed"] == found.task["extra"] == found.task["worst_corner"] == 0
    assert all(drift.cosine == pytest.approx(1) for drift in found.outputs.values())
    assert found.outputs["score_8"].snr_db == np.inf
    assert found.to_dict()["outputs"]["score_8"]["snr_db"] is None
    assert set(found.milliseconds) == {"prepare", "network", "decode"}
    assert "No image differs." in render_html(found)


def test_a_loss_of_ap_is_measured_where_there_is_ground_truth(workspace):
    contract = read_contract(workspace)
    with OrtBackend(workspace, contract) as backend:
        found = compare(workspace, OrtBackend(workspace, contract))
    boxes = {
        f"0--A/{pair.path.stem}": np.float32(
            [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in pair.reference.boxes_xyxy]
        )
        for pair in found.pairs
    }
    boxes["0--A/never"] = np.float32([[0, 0, 9, 9]])
    levels = {"easy": {photo: np.ones(len(rows), bool) for photo, rows in boxes.items()}}
    truth = GroundTruth.from_rows(boxes, levels)
    same = compare(workspace, OrtBackend(workspace, contract), ground_truth=truth)
    assert same.task["ap_easy_loss"] == 0
    with OrtBackend(workspace, contract) as backend:
        records = [dict(backend.infer(np.zeros((48, 64, 3), np.uint8)).arrays)] * 3
    lost = compare(workspace, ReplayBackend(records, contract), ground_truth=truth)
    assert lost.task["ap_easy_loss"] > 50
    for path in Path("photos/0--A").iterdir():
        path.rename(path.with_name(f"other{path.name}"))
    with pytest.raises(InputError, match="the ground truth has no photo '0--A/other0'"):
        compare(workspace, OrtBackend(workspace, contract), ground_truth=truth)


def test_unreadable_pictures_are_left_out_but_not_beside_recordings(workspace):
    contract = read_contract(workspace)
    Path("photos/0--A/1.png").write_bytes(b"no picture")
    found = compare(workspace, OrtBackend(workspace, contract))
    assert (found.pictures, list(found.refused)) == (2, ["photos/0--A/1.png"])
    with OrtBackend(workspace, contract) as backend:
        records = [dict(backend.infer(np.zeros((48, 64, 3), np.uint8)).arrays)] * 3
    with pytest.raises(ImageError):
        compare(workspace, ReplayBackend(records, contract))
    for path in Path("photos/0--A").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of 3 images can be read"):
        compare(workspace, OrtBackend(workspace, contract))


def test_two_models_are_not_compared(workspace):
    other = tiny_pipnet(Path("pip.onnx"))
    with pytest.raises(InputError, match="are not builds of the same model"):
        compare(workspace, OrtBackend(other, read_contract(other)))


# The command


def image2npz(repository, *arguments):
    path = repository / "common" / "utils" / "image2npz.py"
    spec = importlib.util.spec_from_file_location("image2npz", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parser = module.build_parser()
    return module.run(parser.parse_args(arguments))


def test_text_json_and_a_page_with_pictures(workspace, capsys):
    Path("t.yaml").write_text(
        "name: t_fp16\n"
        "frontend: {type: onnx, checkpoint: tiny.onnx, shape: {input.1: [1, 3, 64, 64]}}\n"
        "backend: {type: tvm_vacc, dtype: fp16}\n"
        "workspace: {path: out}\n"
    )
    assert main(["compile", "t.yaml"]) == 0
    capsys.readouterr()
    command = ["compare", "tiny.onnx", "ort:out/t_fp16/mod", "--images", "photos"]
    assert main([*command, "--json", "c.json", "--html", "c.html"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("scrfd_500m_bnkps, 3 images\nA  tiny.onnx on ort ")
    assert re.search(r"^score_8 +(1\.0|0\.9)\d+ +\d+\.\d ", printed, re.MULTILINE)
    assert re.search(r"^network +[\d.]+ ms +[\d.]+ ms +[\d.]+x$", printed, re.MULTILINE)
    assert re.search(r"^time +A +B +B/A$", printed, re.MULTILINE)
    report = json.loads(Path("c.json").read_text())
    assert report["schema"] == "facezoo.compare/1"
    assert report["pictures"] == report["measured"]["count"] == report["measured"]["total"] == 3
    assert report["measured"]["sha256"][:12] in printed
    assert 0 < report["outputs"]["bbox_8"]["max_error"] < 0.1
    page = Path("c.html").read_text()
    figures = len(re.findall("<figure>", page))
    assert page.count("data:image/jpeg;base64,") == 2 * figures > 0
    assert "scrfd_500m_bnkps: two builds compared" in page
    assert re.search(r"A \(left\) (1 face|0 faces|\d+ faces), B \(right\) \d+ face", page)
    assert " 1 faces" not in page


def test_recorded_outputs_are_a_build_too(workspace, repository, capsys):
    image2npz(
        repository, "--dataset_path", "photos", "--target_path", "npz", "--text_path", "list.txt"
    )
    assert main("vamp -m tiny.onnx --datalist list.txt --path_output recorded".split()) == 0
    capsys.readouterr()
    command = "compare tiny.onnx recorded --images photos".split()
    assert main(command) == 2
    assert "give their list with --datalist" in capsys.readouterr().err
    assert main([*command, "--datalist", "list.txt"]) == 0
    printed = capsys.readouterr().out
    assert "replay 1 (recorded)" in printed
    assert re.search(r"^missed +0$", printed, re.MULTILINE)
    assert re.search(r"^kps_32 +1\.000000 +inf +0 ", printed, re.MULTILINE)
    Path("recorded", "vamp.json").unlink()
    assert main([*command, "--datalist", "list.txt"]) == 2
    assert "has no vamp.json" in capsys.readouterr().err


def test_another_runtime_is_a_build_too(workspace, capsys):
    pytest.importorskip("openvino")
    assert main("compare ort:tiny.onnx openvino:tiny.onnx --images photos".split()) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^B  tiny.onnx on openvino ", printed, re.MULTILINE)
    assert re.search(r"^missed +0$", printed, re.MULTILINE)


def test_an_unreadable_picture_ends_the_command_with_1(workspace, capsys):
    Path("photos/0--A/1.png").write_bytes(b"no picture")
    assert main("compare tiny.onnx tiny.onnx --images photos".split()) == 1
    printed = capsys.readouterr().out
    assert "refused: " in printed
    assert "2 of 3 images, a subset" in printed
