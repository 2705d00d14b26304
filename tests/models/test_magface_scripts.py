"""The MagFace recipe's scripts: features, quality, accuracy, lists, data, serving."""

import dataclasses
import io
import json
import os
import pickle
import struct
import tarfile

import cv2
import numpy as np
import onnx
import pytest
from facezoo.contract import read_contract
from facezoo.datasets.image_list import read_image_list
from facezoo.datasets.pairs import feature_line, people_pairs, read_feature_list
from facezoo.deploy import triton as serving
from facezoo.deploy.triton import render_triton
from facezoo.errors import DatasetError, GraphError, InputError
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.metrics.quality import ofiq_score
from facezoo.metrics.verification import pool_templates, roc_curve, tar_at_nearest_far
from facezoo.models import CARDS
from facezoo.pipeline.load import load
from facezoo.testing import tiny_magface, tiny_pipnet, tiny_scrfd

SOURCE = "face_recognition/magface/source_code"
# As the seed prints them, worst first.
TOY = """\
toy_imgs/0.jpg 21.78
toy_imgs/1.jpg 22.16
toy_imgs/2.jpg 24.09
toy_imgs/3.jpg 24.4
toy_imgs/4.jpg 25.9
toy_imgs/5.jpg 27.11
toy_imgs/6.jpg 27.41
toy_imgs/7.jpg 28.22
toy_imgs/8.jpg 28.73
toy_imgs/9.jpg 30.25
"""


@pytest.fixture
def script(repository, run_here):
    """Run a script by its short name, or a verb."""

    def run(name, *arguments):
        path = f"{SOURCE}/{name}.py"
        return run_here(path if (repository / path).is_file() else name, *arguments)

    return run


@pytest.fixture
def model(tmp_path):
    return tiny_magface(tmp_path / "tiny.onnx")


def make_faces(folder, people=4, each=3, seed=3):
    rng = np.random.default_rng(seed)
    for person in range(people):
        face = rng.integers(0, 256, (7, 7, 3)).repeat(16, 0).repeat(16, 1)
        for number in range(each):
            noisy = np.clip(face + rng.normal(0, 8, face.shape), 0, 255).astype(np.uint8)
            write_image_rgb(folder / f"p{person}" / f"{number}.png", noisy)
    return folder


def write_list(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")
    return path


# Features -----------------------------------------------------------------------------------------


def test_features_are_the_authors_text_and_resume(tmp_path, script, model):
    faces = make_faces(tmp_path / "toy")
    names = [f"p{p}/{n}.png" for p in range(4) for n in range(3)]
    listed = write_list(faces / "img.list", [f"{name} 1" for name in names])
    target = tmp_path / "feat.list"
    flags = ("--inf_list", listed, "--feat_list", target, "--onnx", model)
    code, said, _ = script("gen_feat", *flags)
    assert code == 0
    assert "12 images" in said
    whole = target.read_bytes()
    found = read_feature_list(target)
    with load(model) as embedder:
        expected = [embedder(read_image_rgb(faces / name)).vector for name in names]
    assert list(found.names) == names
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-5, atol=1e-5)
    with np.load(tmp_path / "feat.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["vectors"], found.vectors)
    assert script("gen_feat", *flags)[1].startswith("12 images, 12 kept from an earlier run")
    assert target.read_bytes() == whole
    # Another network is refused by name, a result taken away is made anew.
    code, _, error = script("gen_feat", *flags, "--flip", "sum")
    assert code == 4
    assert "flip was 'none', is 'sum'" in error
    assert script("gen_feat", *flags, "--flip", "sum", "--overwrite", "--batch_size", 5)[0] == 0
    doubled = read_feature_list(target).vectors
    assert np.linalg.norm(doubled, axis=1).min() > 1.2 * np.linalg.norm(found.vectors[0])
    again = target.read_bytes()
    target.unlink()
    assert script("gen_feat", *flags, "--flip", "sum", "--batch_size", 5)[0] == 0
    assert target.read_bytes() == again
    target.write_text("mine")
    other = ("--inf_list", listed, "--feat_list", target, "--onnx", model)
    (tmp_path / "feat.list.run").rename(tmp_path / "elsewhere")
    assert script("gen_feat", *other)[0] == 4
    assert target.read_text() == "mine"


def test_a_missing_picture_is_skipped_or_fatal(tmp_path, script, model):
    faces = make_faces(tmp_path / "toy", 1, 2)
    (faces / "bad.png").write_bytes(b"text")
    listed = write_list(faces / "img.list", ["p0/0.png", "gone.png", "bad.png", "p0/1.png"])
    flags = ("--inf_list", listed, "--onnx", model, "--feat_list")
    code, said, error = script("gen_feat", *flags, tmp_path / "a.list")
    assert code == 1
    assert "2 refused" in said
    assert "gone.png" in error and "bad.png" in error
    assert read_feature_list(tmp_path / "a.list").names == ("p0/0.png", "p0/1.png")
    code, _, error = script("gen_feat", *flags, tmp_path / "b.list", "--missing", "fatal")
    assert code == 2
    assert "gone.png" in error
    assert not (tmp_path / "b.list").exists()
    for name in ("/etc/passwd", "../secret.png"):
        listed.write_text(f"p0/0.png\n{name}\n")
        code, _, error = script("gen_feat", *flags, tmp_path / "c.list", "--root", faces)
        assert code == 2
        assert "leads outside" in error
    assert script("gen_feat", "--inf_list", listed, "--feat_list", tmp_path / "d.list")[0] == 2


@pytest.mark.parametrize("name", ["magface_epoch_00025.pth", "magface_iresnet100_ms1mv2_pth"])
def test_a_published_checkpoint_is_looked_for_where_it_belongs(tmp_path, script, monkeypatch, name):
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "home"))
    make_faces(tmp_path, 1, 1)
    listed = write_list(tmp_path / "img.list", ["p0/0.png"])
    flags = ("--inf_list", listed, "--feat_list", tmp_path / "feat.list")
    code, _, error = script("gen_feat", *flags, "--resume", name)
    assert code == 2
    assert "magface_iresnet100_ms1mv2_pth can only be downloaded by hand" in error
    assert str(tmp_path / "home" / "magface_epoch_00025.pth") in error


@pytest.mark.torch
def test_a_checkpoint_is_exported_once(tmp_path, script):
    pytest.importorskip("torch")
    from facezoo.graphs.export import save_checkpoint
    from facezoo.models.magface.network import build

    save_checkpoint(build("iresnet18"), tmp_path / "fresh.pth")
    faces = make_faces(tmp_path / "toy", 1, 2)
    listed = write_list(faces / "img.list", ["p0/0.png", "p0/1.png"])
    flags = ("--inf_list", listed, "--resume", tmp_path / "fresh.pth", "--arch", "iresnet18")
    code, said, _ = script("gen_feat", *flags, "--feat_list", tmp_path / "a.list")
    assert code == 0
    assert "largest difference from torch" in said
    code, said, _ = script("gen_feat", *flags, "--feat_list", tmp_path / "b.list")
    assert code == 0
    assert "largest difference" not in said
    assert (tmp_path / "a.list").read_bytes() == (tmp_path / "b.list").read_bytes()
    (graph,) = (tmp_path / "onnx").iterdir()
    whole = graph.read_bytes()
    for number, damaged in enumerate((whole[: len(whole) // 2], whole[:-9000] + bytes(9000))):
        graph.write_bytes(damaged)
        code, said, error = script("gen_feat", *flags, "--feat_list", tmp_path / f"{number}.list")
        assert code == 0
        assert f"{graph} is damaged and is made again" in error
        assert "largest difference from torch" in said
        assert (tmp_path / "a.list").read_bytes() == (tmp_path / f"{number}.list").read_bytes()


# Quality ------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_reader_gives_the_seeds_ten_magnitudes(shared, script):
    """A test of the reader: these features are the authors', so nothing is computed but lengths."""
    features = shared / "assets" / "magface" / "toy_imgs" / "feat.list"
    assert script("quality_assessment", "--feat_list", features)[:2] == (0, TOY)


def test_quality_is_listed_tabled_and_drawn(tmp_path, script):
    pytest.importorskip("matplotlib")
    lengths = {"p0/0.png": 30.0, "p0/1.png": 23.0, "p0/2.png": 20.4}
    make_faces(tmp_path, 1, 3)
    target = tmp_path / "feat.list"
    rows = ((name, np.eye(512)[7] * length) for name, length in lengths.items())
    target.write_text("".join(feature_line(name, vector) for name, vector in rows))
    table, sheet, plot = (tmp_path / name for name in ("q.csv", "q.png", "h.png"))
    flags = ("--feat_list", target, "--csv", table, "--sheet", sheet, "--histogram", plot)
    code, said, _ = script("quality_assessment", *flags)
    assert code == 0
    assert said == "p0/2.png 20.4\np0/1.png 23.0\np0/0.png 30.0\n"
    assert table.read_text().splitlines()[:2] == ["path,magnitude", "p0/2.png,20.4"]
    assert read_image_rgb(sheet).shape[1] > 3 * 112
    assert plot.stat().st_size > 5000
    code, said, _ = script("quality_assessment", "--feat_list", target, "--scale", "ofiq")
    assert said == "p0/2.png 27\np0/1.png 50\np0/0.png 94\n"
    face = tmp_path / "p0" / "1.png"
    before = face.read_bytes()
    for flag in ("--sheet", "--csv", "--histogram"):
        code, _, error = script("quality_assessment", "--feat_list", target, flag, face)
        assert code == 2 and "1.png' is read by this command" in error
        assert face.read_bytes() == before


def test_ofiqs_scale_by_hand():
    # 100 / (1 + exp((23 - x) / 2.6)): e^0 = 1, e^1 = 2.71828, e^2 = 7.38906.
    found = ofiq_score(np.array([23.0, 25.6, 28.2, 20.4, 17.8, 0.0, 110.0]))
    assert found.tolist() == [50, 73, 88, 27, 12, 0, 100]


# Accuracy -----------------------------------------------------------------------------------------


def write_features(folder, pairs, seed=1, mistakes=0):
    """Write the lists of alternately same and different pairs, far apart but for the mistakes."""
    rng = np.random.default_rng(seed)
    lines, labels = [], []
    for pair in range(pairs):
        first = rng.normal(size=512)
        same = pair % 2 == 0
        near = same != (pair < mistakes)
        second = first + 0.3 * rng.normal(size=512) if near else rng.normal(size=512)
        for side, vector in enumerate((first, second)):
            length = 20 + 5 * rng.random()
            unit = vector / np.linalg.norm(vector)
            lines.append(feature_line(f"{pair}_{side}.png", unit * length))
        labels.append(f"{pair}_0.png {pair}_1.png {int(same)}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feat.list").write_text("".join(lines))
    (folder / "pair.list").write_text("\n".join(labels) + "\n")
    return folder / "feat.list", folder / "pair.list"


def test_few_pairs_take_fewer_folds(tmp_path, script):
    features, pairs = write_features(tmp_path / "six", 6, mistakes=1)
    flags = ("--feat-list", features, "--pair-list", pairs)
    code, _, error = script("eval_recognition", *flags)
    assert code == 2
    assert "6 pairs cannot be split into 10 folds" in error and "--folds takes another" in error
    for protocol in ("authors", "facenet"):
        code, said, error = script("eval_recognition", *flags, "--protocol", protocol, "--folds", 3)
        assert code == 0, error
    # Two pairs a fold, of which one is wrong in each of two folds.
    code, said, _ = script("eval_recognition", *flags, "--folds", 3)
    assert said.splitlines()[:2] == ["evaluate feat", "    Accuracy: 0.66667+-0.23570"]


def test_one_set_prints_the_authors_line_and_more(tmp_path, script):
    pytest.importorskip("matplotlib")
    features, pairs = write_features(tmp_path / "lfw", 60, mistakes=3)
    report, table, plot = (tmp_path / name for name in ("r.json", "r.csv", "roc.png"))
    flags = ("--feat-list", features, "--pair-list", pairs)
    code, said, _ = script(
        "eval_recognition", *flags, "--json", report, "--csv", table, "--plot", plot
    )
    assert code == 0
    lines = said.splitlines()
    # Three wrong pairs of the first six: that fold's accuracy is 0.5, the others' 1.
    assert lines[:2] == ["evaluate feat", "    Accuracy: 0.95000+-0.15000"]
    assert "over 30 genuine and 30 impostor pairs" in lines[2]
    assert "best threshold: cosine 0." in said and "angle" in said
    assert (
        "FNMR at FMR 1e-06: not measured, FMR 1e-06 needs at least 10000000 impostor pairs" in said
    )
    (entry,) = json.loads(report.read_text())["sets"]
    assert entry["accuracy"]["mean"] == pytest.approx(0.95)
    assert entry["pairs"] == {"genuine": 30, "impostor": 30}
    assert table.read_text().splitlines()[1].startswith("feat,authors,30,30,0.95")
    assert plot.stat().st_size > 5000
    code, said, _ = script("eval_recognition", *flags, "--protocol", "facenet")
    assert code == 0
    assert "Validation rate: " in said
    assert script("eval_recognition", "--feat-list", features)[0] == 2


@pytest.mark.shared
def test_the_script_gives_the_originals_accuracy(tmp_path, shared, script):
    golden = np.load(shared / "golden" / "numerics" / "verification_1v1.npz")
    rows = np.stack([golden["emb1"], golden["emb2"]], axis=1).reshape(-1, 512)
    features, pairs = tmp_path / "lfw.list", tmp_path / "pair.list"
    features.write_text("".join(feature_line(f"{i}.jpg", row) for i, row in enumerate(rows)))
    pairs.write_text("".join(f"a b {int(same)}\n" for same in golden["issame"]))
    flags = ("--feat-list", features, "--pair-list", pairs)
    code, said, _ = script("eval_recognition", *flags)
    assert code == 0
    mean, std = float(golden["eval1v1_mean"]), float(golden["eval1v1_std"])
    assert f"    Accuracy: {mean:.5f}+-{std:.5f}\n" in said
    code, said, _ = script("eval_recognition", *flags, "--protocol", "facenet")
    assert f"Accuracy: {golden['facenet_l2_accuracy'].mean():.5f}" in said
    assert f"Validation rate: {float(golden['facenet_l2_val']):.5f}" in said


def make_sets(root, sets=("lfw", "cfp", "agedb"), pairs=20):
    for number, name in enumerate(sets):
        folder = make_faces(root / name / "imgs", pairs, 2, seed=number)
        lines, labels = [], []
        for pair in range(pairs):
            other = pair if pair % 2 == 0 else (pair + 1) % pairs
            lines += [f"{name}/imgs/p{pair}/0.png", f"{name}/imgs/p{other}/1.png"]
            labels.append(f"{pair} {int(other == pair)}")
        write_list(folder.parent / "img.list", lines)
        write_list(folder.parent / "pair.list", labels)
    return root


def test_three_sets_in_one_command(tmp_path, script, model):
    data = make_sets(tmp_path / "data")
    flags = ("--data", data, "--onnx", model, "--save_dir", tmp_path / "features")
    code, said, _ = script("eval_recognition", *flags)
    assert code == 0
    shown = [line for line in said.splitlines() if "evaluate" in line or "Accuracy" in line]
    assert [line.split()[-1] for line in shown[::2]] == ["lfw", "cfp", "agedb"]
    assert all(line == "    Accuracy: 1.00000+-0.00000" for line in shown[1::2])
    assert (tmp_path / "features" / "cfp.list").is_file()
    assert script("eval_recognition", *flags)[1] == said
    assert script("eval_recognition", "--data", data)[0] == 2
    picture = data / "lfw" / "imgs" / "p3" / "0.png"
    picture.write_bytes(b"damaged")
    code, _, error = script("eval_recognition", *flags, "--overwrite")
    assert code == 2
    assert "p3/0.png" in error
    assert "two per pair" not in error
    picture.unlink()
    code, _, error = script("eval_recognition", *flags)
    assert code == 2
    assert "1 of 40 images" in error
    write_list(data / "lfw" / "img.list", ["../../x.png"] * 40)
    assert "leads outside" in script("eval_recognition", *flags)[2]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_bin_set_is_evaluated_and_a_bomb_is_not(tmp_path, script, model):
    rng = np.random.default_rng(2)
    pictures, labels = [], []
    for pair in range(20):
        face = rng.integers(0, 256, (7, 7, 3)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        other = 255 - face if pair % 2 else face
        pictures += [cv2.imencode(".png", one)[1].tobytes() for one in (face, other)]
        labels.append(pair % 2 == 0)
    path = tmp_path / "tiny.bin"
    path.write_bytes(pickle.dumps((pictures, labels), protocol=3))
    code, said, _ = script("eval_recognition", "--bin", path, "--onnx", model)
    assert code == 0
    assert said.startswith("evaluate tiny\n    Accuracy: 1.00000+-0.00000\n")
    path.write_bytes(pickle.dumps(([b"no picture"] * 40, labels), protocol=3))
    code, _, error = script("eval_recognition", "--bin", path, "--onnx", model)
    assert code == 2
    assert "image 0" in error
    path.write_bytes(pickle.dumps((Bomb(tmp_path / "boom"), labels), protocol=2))
    code, _, error = script("eval_recognition", "--bin", path, "--onnx", model)
    assert code == 2
    assert "rejected: it refers to posix.mkdir" in error or "mkdir" in error
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png " + "1 " * 511, "line 2"),
        ("a.png " + "1 " * 513, "line 2"),
        ("a.png " + "1 " * 511 + "nan", "value 511 is 'nan'"),
        ("a.png " + "1 " * 511 + "x", "line 2"),
    ],
)
@pytest.mark.parametrize("name", ["eval_recognition", "eval_quality"])
def test_hostile_features_are_refused_by_line(tmp_path, script, name, line, message):
    features, pairs = write_features(tmp_path, 10)
    lines = features.read_text().splitlines()
    features.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    code, _, error = script(name, "--feat-list", features, "--pair-list", pairs)
    assert code == 2
    assert message in error


@pytest.mark.parametrize("name", ["eval_recognition", "eval_quality"])
def test_features_in_the_order_of_ls_are_refused(tmp_path, script, name):
    features, pairs = write_features(tmp_path, 12)
    features.write_text("".join(sorted(features.read_text().splitlines(keepends=True))))
    code, said, error = script(name, "--feat-list", features, "--pair-list", pairs)
    assert (code, said) == (2, "")
    assert "line 3 holds the features of '10_0.png', but image 3 of" in error


# Templates ----------------------------------------------------------------------------------------


def test_templates_are_pooled_by_hand():
    # Template 1: medium 5 is a video of two frames, medium 6 a still; template 2: one still.
    vectors = np.array([[4.0, 0.0], [0.0, 4.0], [0.0, 3.0], [1.0, 0.0]])
    templates, medias = np.array([1, 1, 1, 2]), np.array([5, 5, 6, 7])
    ids, plain = pool_templates(vectors, templates, medias)
    assert ids.tolist() == [1, 2]
    half = np.sqrt(0.5)
    np.testing.assert_allclose(plain, [[half / 2, (half + 1) / 2], [1, 0]], atol=1e-12)
    _, weighted = pool_templates(vectors, templates, medias, weighted=True)
    np.testing.assert_allclose(weighted, [[1.0, 2.5], [1, 0]], atol=1e-12)
    with pytest.raises(InputError, match="medium 7 of template 2"):
        pool_templates(vectors * [[1], [1], [1], [0]], templates, medias)
    with pytest.raises(InputError, match="two numbers each"):
        pool_templates(vectors, templates[:2], medias[:2])


def test_the_nearest_point_of_the_curve_by_hand():
    # Similarities, best first: genuine, impostor, genuine, impostor.
    roc = roc_curve(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0]))
    assert tar_at_nearest_far(roc, [1e-6, 0.3, 0.9]) == [0.5, 1.0, 1.0]


def make_ijb(folder):
    """Two people, three templates; template 3's good picture is person 1, its bad one person 2."""
    axis = {1: np.eye(512)[0], 2: np.eye(512)[1]}
    features = [(1, 1, 30 * axis[1]), (2, 2, 30 * axis[2]), (3, 3, 40 * axis[1])]
    features.append((3, 4, 10 * axis[2]))
    names = [f"{index}.jpg" for index in range(4)]
    write_list(
        folder / "meta" / "ijbc_face_tid_mid.txt",
        [f"{n} {t} {m}" for n, (t, m, _) in zip(names, features)],
    )
    write_list(folder / "meta" / "ijbc_template_pair_label.txt", ["1 3 1", "2 3 0", "1 2 0"])
    rows = (feature_line(name, vector) for name, (_, _, vector) in zip(names, features))
    (folder / "feat.list").write_text("".join(rows))
    return folder


def test_ijb_by_hand(tmp_path, script):
    folder = make_ijb(tmp_path / "IJBC")
    flags = ("--feat_list", folder / "feat.list", "--base_dir", folder, "--type", "c")
    report = tmp_path / "ijb.json"
    # Weighted, template 3 lies near person 1: cosines 40/sqrt(1700), 10/sqrt(1700), 0.
    code, said, _ = script("eval_ijb", *flags, "--magface_qlt", 1, "--json", report)
    assert code == 0
    assert "3 templates, 3 pairs" in said
    assert "  1.0000  1.0000  1.0000  1.0000  1.0000  1.0000\n" in said
    rates = json.loads(report.read_text())["rates"]
    assert rates[0]["nearest_tar"] == 1.0
    assert "refused" in rates[0]
    # Unweighted it lies half way, as far from person 1 as from 2: the tie accepts both.
    code, said, _ = script("eval_ijb", *flags)
    assert "  0.0000  0.0000  0.0000  0.0000  0.0000  0.0000\n" in said
    pair_list = folder / "meta" / "ijbc_template_pair_label.txt"
    for line, message in (
        ("1 9 1", "without images"),
        ("1 2 7", "ends with 7"),
        ("1 2", "line 1"),
        ("1 2 -1", "line 1"),
    ):
        pair_list.write_text(line + "\n")
        code, _, error = script("eval_ijb", *flags)
        assert code == 2
        assert message in error
    make_ijb(folder)
    lines = (folder / "feat.list").read_text().splitlines(keepends=True)
    (folder / "feat.list").write_text("".join([*lines[:2], *lines[:1:-1]]))
    code, said, error = script("eval_ijb", *flags)
    assert (code, said) == (2, "")
    assert "line 3 holds the features of '3.jpg', but image 3 of" in error
    (folder / "feat.list").write_text(feature_line("0.jpg", np.ones(512)))
    assert "expected one each" in script("eval_ijb", *flags)[2]


# The error-versus-reject curve --------------------------------------------------------------------


def test_the_reject_curve_in_both_rules(tmp_path, script):
    pytest.importorskip("matplotlib")
    features, pairs = write_features(tmp_path, 400, mistakes=40)
    flags = ("--feat-list", features, "--pair-list", pairs)
    report, plot = tmp_path / "q.json", tmp_path / "q.png"
    code, said, _ = script("eval_quality", *flags, "--original", "--json", report, "--plot", plot)
    assert code == 0
    entry = json.loads(report.read_text())
    # 200 impostors: rates that leave 100 or fewer have no point.
    assert entry["rule"] == "original"
    assert len(entry["fnmr"]) == len(said.splitlines()) < 20
    assert said.startswith("FNMR = ")
    assert plot.stat().st_size > 5000
    code, said, _ = script("eval_quality", *flags, "--fmr", "0.11", "--json", report)
    assert code == 0
    assert "relative_auc" in said
    entry = json.loads(report.read_text())
    assert len(entry["fnmr"]) == 96
    assert entry["fnmr"][0] == pytest.approx(0.1, abs=0.02)
    code, _, error = script("eval_quality", *flags, "--fmr", "0.001")
    assert code == 2
    assert "needs at least 10000 impostor pairs" in error


@pytest.mark.shared
def test_the_script_gives_the_originals_curve(tmp_path, shared, script):
    data = np.load(shared / "golden" / "numerics" / "evrc.npz")
    rows = np.stack([data["emb1"], data["emb2"]], axis=1).reshape(-1, data["emb1"].shape[1])
    features, pairs = tmp_path / "feat.list", tmp_path / "pair.list"
    features.write_text("".join(feature_line(f"{i}.jpg", row) for i, row in enumerate(rows)))
    pairs.write_text("".join(f"a b {int(same)}\n" for same in data["issame"]))
    report = tmp_path / "q.json"
    flags = ("--feat-list", features, "--pair-list", pairs, "--embedding_size", rows.shape[1])
    code, said, _ = script("eval_quality", *flags, "--original", "--json", report)
    assert code == 0
    found = json.loads(report.read_text())["fnmr"]
    np.testing.assert_allclose(found, data["fnmr"], rtol=0, atol=1e-12)
    printed = [line.split("THRESHOLD = ")[1].split(":")[0].strip() for line in said.splitlines()]
    expected = [f"{value:.10f}" for value in data["threshold_printed"]]
    assert printed == expected


# Lists and data -----------------------------------------------------------------------------------


def test_folders_and_lists_become_lists(tmp_path, script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_faces(tmp_path / "images", 3, 2)
    code, said, _ = script("make_list", "--images", "images", "--output", "train.list")
    assert code == 0
    assert "6 images of 3 people, labels 0 to 2" in said
    assert "--last-fc-size 3" in said
    assert (tmp_path / "train.list").read_text().splitlines()[0] == "images/p0/0.png 0"
    flags = ("--list", "train.list", "--form", "four", "--output", "four.list")
    assert script("make_list", *flags)[0] == 0
    assert (tmp_path / "four.list").read_text().splitlines()[2] == "images/p1/0.png 0 1 0"
    write_list(tmp_path / "eq.txt", ["images/p0/0.png;0", "images/p2/1.png;2"])
    code, _, error = script("make_list", "--list", "eq.txt")
    assert code == 2
    assert "1 is missing" in error
    code, said, _ = script("make_list", "--list", "eq.txt", "--renumber", "--output", "new.list")
    assert code == 0
    assert read_image_list(tmp_path / "new.list").labels.tolist() == [0, 1]
    write_list(tmp_path / "eq.txt", ["images/p0/0.png;0", "images/p9/1.png;1"])
    assert "p9/1.png" in script("make_list", "--list", "eq.txt")[2]
    write_list(tmp_path / "eq.txt", ["images/p0/0.png 0", "images/p0/1.png"])
    assert "line 2 does not end with a label" in script("make_list", "--list", "eq.txt")[2]
    write_list(tmp_path / "eq.txt", ["../images/p0/0.png 0"])
    assert "leads outside" in script("make_list", "--list", "eq.txt", "--root", ".")[2]
    (tmp_path / "images" / "p0" / "0.png").rename(tmp_path / "images" / "p0" / "a b.png")
    code, _, error = script("make_list", "--images", "images", "--output", "train.list")
    assert code == 2
    assert "white space" in error
    (tmp_path / "images" / "loose.png").write_bytes(b"x")
    assert "not in the folder of a person" in script("make_list", "--images", "images")[2]


def write_records(path, people, damaged=()):
    """Write a training set: record 0, pictures from 1, then one record a person."""
    labels = [label for label, count in enumerate(people) for _ in range(count)]
    pictures = len(labels)
    ends = np.cumsum([1, *people])
    bodies = [struct.pack("<IfQQ2f", 2, 0, 0, 0, pictures + 1, pictures + 1 + len(people))]
    for key, label in enumerate(labels, start=1):
        image = cv2.imencode(".jpg", np.full((8, 8, 3), 9 * key, np.uint8))[1].tobytes()
        image = b"junk" if key in damaged else image
        bodies.append(struct.pack("<IfQQ", 0, label, key, 0) + image)
    for first, last in zip(ends[:-1], ends[1:]):
        bodies.append(struct.pack("<IfQQ2f", 2, 0, 0, 0, first, last))
    data, index = b"", ""
    for key, body in enumerate(bodies):
        index += f"{key}\t{len(data)}\n"
        data += struct.pack("<II", 0xCED7230A, len(body)) + body + b"\0" * (-len(body) % 4)
    path.write_bytes(data)
    path.with_suffix(".idx").write_text(index)
    return path


def test_records_become_pictures_and_a_list(tmp_path, script):
    rec = write_records(tmp_path / "train.rec", [2, 3])
    out = tmp_path / "casia"
    code, said, _ = script("rec2images", "--rec", rec, "--save_dir", out)
    assert code == 0
    assert "5 images of 2 people" in said
    listed = read_image_list(out / "train.list")
    assert listed.labels.tolist() == [0, 0, 1, 1, 1]
    assert listed.paths[0] == (out / "images/0/1.jpg").as_posix()
    assert abs(int(read_image_rgb(out / "images/1/5.jpg").mean()) - 45) <= 1
    assert script("make_list", "--list", out / "train.list")[0] == 0
    assert "5 kept" in script("rec2images", "--rec", rec, "--save_dir", out)[1]
    found = (out / "train.list").read_text()
    rec.with_suffix(".idx").unlink()
    code, said, error = script("rec2images", "--rec", rec, "--save_dir", out, "--overwrite")
    assert (code, "5 images of 2 people" in said) == (0, True)
    assert "train.idx does not exist" in error
    assert (out / "train.list").read_text() == found
    rec = write_records(tmp_path / "train.rec", [2, 3], damaged=[2])
    code, said, error = script("rec2images", "--rec", rec, "--save_dir", tmp_path / "other")
    assert code == 1
    assert "record 2 contains neither a JPEG nor a PNG" in error
    assert len(read_image_list(tmp_path / "other" / "train.list")) == 4


def test_photos_become_aligned_faces(tmp_path, script):
    detector = tiny_scrfd(tmp_path / "scrfd.onnx")
    photo = np.full((64, 64, 3), 12, np.uint8)
    # The larger face is in a corner, a smaller one near the middle.
    photo[:16, :16] = photo[24:40, 24:40] = 250
    write_image_rgb(tmp_path / "photos" / "a" / "two.jpg", photo)
    write_image_rgb(tmp_path / "photos" / "none.png", np.zeros((64, 64, 3), np.uint8))
    out = tmp_path / "out"
    flags = ("--photos", tmp_path / "photos", "--detector", detector, "--save_dir")
    code, said, error = script("common/utils/align_faces.py", *flags, out)
    assert code == 1
    assert "'none.png' shows no face" in error
    assert "1 refused" in said
    assert read_image_rgb(out / "aligned" / "a" / "two.png").shape == (112, 112, 3)
    entries = json.loads((out / "faces.json").read_text())["images"]
    found = next(len(e["faces"]) for e in entries if e["path"] == "a/two.jpg")
    script("common/utils/align_faces.py", *flags, tmp_path / "all", "--keep", "all")
    assert len(list((tmp_path / "all" / "aligned" / "a").iterdir())) == found > 1
    script("common/utils/align_faces.py", *flags, tmp_path / "mid", "--keep", "central")
    boxes = np.array([face["box_xyxy"] for face in entries[0]["faces"]])
    sides, middles = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    largest = int(sides.prod(axis=1).argmax())
    central = int(np.square(middles - 32).sum(axis=1).argmin())
    assert largest != central
    for folder, index in ((out, largest), (tmp_path / "mid", central)):
        face = read_image_rgb(folder / "aligned" / "a" / "two.png")
        numbered = tmp_path / "all" / "aligned" / "a" / f"two_{index}.png"
        assert np.array_equal(face, read_image_rgb(numbered))


def test_the_archive_is_unpacked_checked_and_may_not_escape(tmp_path, script, monkeypatch):
    small = {"lfw": 4, "cfp": 4, "agedb": 4}
    monkeypatch.setattr("facezoo.datasets.face_sets.SETS", small)
    make_sets(tmp_path / "source", pairs=4)
    archive = tmp_path / "lfw_cfp_agedb.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "source", arcname="data")
    flags = ("--to", tmp_path / "data", "--tar", archive)
    code, said, _ = script("prepare", "lfw_cfp_agedb", *flags)
    assert code == 0
    assert "lfw: 4 pairs, all images found" in said
    assert (tmp_path / "data" / "agedb" / "img.list").is_file()
    (tmp_path / "data" / "cfp" / "imgs" / "p1" / "0.png").unlink()
    code, said, error = script("prepare", "lfw_cfp_agedb", "--to", tmp_path / "data")
    assert code == 2
    assert "pan.baidu.com" in said
    assert "1 of 8 images" in error
    for name, kind in (("../lfw/x", None), ("/lfw/x", None), ("lfw/x", tarfile.SYMTYPE)):
        with tarfile.open(archive, "w") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind or tarfile.REGTYPE, "/etc/passwd"
            tar.addfile(member, io.BytesIO())
        code, _, error = script("prepare", "lfw_cfp_agedb", *flags)
        assert code == 2
        assert "leads outside" in error or "not a regular file" in error
    archive.write_bytes(b"no archive")
    assert script("prepare", "lfw_cfp_agedb", *flags)[0] == 2


def test_pairs_of_people_are_all_or_seeded():
    people = ["a", "a", "a", "b", "b", "c"]
    pairs, same = people_pairs(people, seed=1)
    assert same.tolist() == [True, False] * 4
    assert {tuple(pair) for pair in pairs[same].tolist()} == {(0, 1), (0, 2), (1, 2), (3, 4)}
    others = [tuple(pair) for pair in pairs[~same].tolist()]
    assert len(set(others)) == 4
    assert all(people[i] != people[j] for i, j in others)
    assert (people_pairs(people, seed=1)[0] == pairs).all()
    assert (people_pairs(people, seed=2)[0] != pairs).any()
    pairs, same = people_pairs(people, everything=True)
    assert len({tuple(pair) for pair in pairs.tolist()}) == 15
    assert [people[i] == people[j] for i, j in pairs] == same.tolist()
    with pytest.raises(DatasetError, match="0 genuine"):
        people_pairs(["a", "b"])


# Serving ------------------------------------------------------------------------------------------

TRTEXEC = """#!{python}
import json, sys
from pathlib import Path
options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
Path({log!r}).open("a").write(json.dumps(sys.argv[1:]) + "\\n")
if "--saveEngine" in options:
    Path(options["--saveEngine"]).write_bytes(Path(options["--onnx"]).read_bytes())
else:
    import numpy as np
    from facezoo.backends.ort import run_graph
    name, file = options["--loadInputs"].split(":", 1)
    shape = options.get("--shapes", "x:1x3x112x112").split(":")[1].split("x")
    image = np.fromfile(file, np.float32).reshape([int(n) for n in shape])
    found = run_graph(Path(options["--loadEngine"]), {{name: image}})
    answer = [
        {{"name": name, "values": (values.ravel() * {factor}).tolist()}}
        for name, values in found.items()
    ]
    Path(options["--exportOutput"]).write_text(json.dumps(answer))
"""


def fake_trtexec(folder, monkeypatch, factor="1"):
    import sys

    folder.mkdir(exist_ok=True)
    tool, log = folder / "trtexec", folder / "log"
    tool.write_text(TRTEXEC.format(python=sys.executable, log=str(log), factor=factor))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return log


def test_an_engine_is_built_checked_and_laid_out(tmp_path, script, model, monkeypatch):
    log = fake_trtexec(tmp_path / "bin", monkeypatch)
    engine, root = tmp_path / "m.plan", tmp_path / "triton"
    code, said, _ = script(
        "export_tensorrt", "--onnx", model, "--engine", engine, "--repository", root, "--fp16"
    )
    assert code == 0
    assert "cosine 1.000000" in said
    build, check = map(json.loads, log.read_text().splitlines())
    assert "--maxShapes=input.1:32x3x112x112" in build
    assert "--fp16" in build
    assert any(word.startswith("--loadEngine=") for word in check)
    assert (root / "w600k_mbf" / "1" / "model.plan").read_bytes() == engine.read_bytes()
    assert 'platform: "tensorrt_plan"' in (root / "w600k_mbf" / "config.pbtxt").read_text()
    assert sorted(path.name for path in tmp_path.glob("m.*")) == ["m.plan"]
    fake_trtexec(tmp_path / "bin", monkeypatch, factor="-1")
    for target in (engine, tmp_path / "new.plan"):
        code, _, error = script("export_tensorrt", "--onnx", model, "--engine", target)
        assert code == 3
        assert "cosine of -1.00000" in error
    # A rejected engine replaces none, and is not left behind.
    assert engine.read_bytes() == (root / "w600k_mbf" / "1" / "model.plan").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.plan")) == ["m.plan"]
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, error = script("export_tensorrt", "--onnx", model, "--engine", engine)
    assert code == 2
    assert "neither is on the PATH" in error
    assert script("export_tensorrt", "--onnx", model, "--repository", root)[0] == 0
    assert (root / "w600k_mbf" / "1" / "model.onnx").is_file()
    config = root / "w600k_mbf" / "config.pbtxt"
    config.write_text(config.read_text() + "# mine\n")
    code, _, error = script("export_tensorrt", "--onnx", model, "--repository", root)
    assert code == 2 and "config.pbtxt is not as this command writes it" in error
    assert config.read_text().endswith("# mine\n")
    assert script("export_tensorrt", "--onnx", model)[0] == 2


def rename_input(source, target, name):
    graph = onnx.load(source)
    contract = dataclasses.replace(read_contract(source), input_name=name)
    for node in graph.graph.node:
        node.input[:] = [name if value == "input.1" else value for value in node.input]
    graph.graph.input[0].name = name
    onnx.helper.set_model_props(graph, contract.to_metadata())
    onnx.save(graph, target)
    return target


@pytest.mark.parametrize("tool", ["trtexec", "polygraphy"])
@pytest.mark.parametrize("name", ["a:1x3x9x9,b", "--plugins=evil.so", "a b", "a=b", "a[0]", "名"])
def test_an_inputs_name_is_no_part_of_a_command(tmp_path, model, monkeypatch, tool, name):
    monkeypatch.setattr(serving.shutil, "which", lambda wanted: wanted == tool)
    assert serving.engine_command(model, tmp_path / "m.plan", half=False, max_batch=2)[0] == tool
    odd = rename_input(model, tmp_path / "odd.onnx", name)
    with pytest.raises(GraphError, match=r"odd\.onnx.*the input's name"):
        serving.engine_command(odd, tmp_path / "m.plan", half=False, max_batch=2)


def test_a_detector_and_a_landmark_network_are_laid_out_too(tmp_path, script, monkeypatch):
    fake_trtexec(tmp_path / "bin", monkeypatch)
    for make, name in ((tiny_scrfd, "scrfd_500m_bnkps"), (tiny_pipnet, "pip_resnet18")):
        model, engine = make(tmp_path / f"{name}.onnx"), tmp_path / f"{name}.plan"
        to = ("--engine", engine, "--repository", tmp_path / "t", "--max_batch", 4)
        code, said, error = script("export_tensorrt", "--onnx", model, *to)
        assert code == 0, error
        assert "cosine 1.000000" in said
        text = (tmp_path / "t" / name / "config.pbtxt").read_text("utf-8")
        assert "max_batch_size: 4" in text and 'platform: "tensorrt_plan"' in text


def test_a_graph_of_a_fixed_batch_is_served_as_it_is(tmp_path, script, model, monkeypatch):
    """As in triton #7056: max-batch 16 was specified, but the engine only supports 1."""
    log = fake_trtexec(tmp_path / "bin", monkeypatch)
    graph = onnx.load(model)
    for entry in (*graph.graph.input, *graph.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, tmp_path / "one.onnx")
    to = ("--engine", tmp_path / "one.plan", "--repository", tmp_path / "t", "--max_batch", 16)
    code, _, error = script("export_tensorrt", "--onnx", tmp_path / "one.onnx", *to)
    assert code == 0, error
    assert "Shapes" not in log.read_text() and "--shapes" not in log.read_text()
    text = (tmp_path / "t" / "w600k_mbf" / "config.pbtxt").read_text("utf-8")
    assert "max_batch_size: 0" in text
    assert "dims: [ 1, 3, 112, 112 ]" in text and "dims: [ 1, 512 ]" in text
    assert "dynamic_batching" not in text


def test_names_stay_inside_tritons_quotes():
    evil = 'x"\nbackend: "python" # \\'
    card = CARDS["w600k_mbf"]
    output = dataclasses.replace(card.outputs[0], name=evil)
    preprocess = dataclasses.replace(card.preprocess, norm=evil)
    odd = dataclasses.replace(
        card, id=evil, input_name=evil, outputs=(output,), preprocess=preprocess
    )
    plain, text = render_triton(card).splitlines(), render_triton(odd, evil).splitlines()
    assert len(text) == len(plain)
    for line, before in zip(text, plain):
        assert line.startswith("#") == before.startswith("#")
        assert line.split(":")[0] == before.split(":")[0] or line.startswith("#")
    quoted = [line.split(": ", 1)[1] for line in text if "name: " in line or "platform: " in line]
    assert [json.loads(value) for value in quoted] == [evil] * 4


@pytest.mark.parametrize("card_id", ["w600k_mbf", "magface_iresnet100"])
def test_tritons_configuration_follows_the_card(repository, card_id):
    card = CARDS[card_id]
    text = (repository / SOURCE / "triton" / card_id / "config.pbtxt").read_text("utf-8")
    assert text == render_triton(card)
    assert f'name: "{card.input_name}"' in text
    assert f'name: "{card.outputs[0].name}"' in text
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")
    assert ("BGR" in text) == card.preprocess.swaps_channels
