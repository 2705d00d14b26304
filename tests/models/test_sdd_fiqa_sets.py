"""SDD-FIQA's data scripts as a user starts them: degraded sets, and labels from a recogniser."""

import json
import runpy

import numpy as np
import pytest
from facezoo import FaceEmbedder, load
from facezoo.cli.main import main
from facezoo.contract import Contract
from facezoo.datasets.degraded import drawn_copies, read_copies, read_labels
from facezoo.datasets.embeddings import Embeddings, read_embeddings
from facezoo.errors import DatasetError, GraphError, InputError
from facezoo.image.degrade import LEVELS, degrade
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.models import CARDS
from facezoo.models.sdd_fiqa.pseudo_labels import label_pictures, pseudo_labels
from facezoo.models.sdd_fiqa.settings import TrainSettings

RECIPE = "face_quality/sdd_fiqa/source_code"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """What is prepared of a recogniser without a contract is kept there."""
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "home"))


@pytest.fixture
def script(repository, capsys):
    def run(name, *words):
        main = runpy.run_path(str(repository / RECIPE / f"{name}.py"))["main"]
        code = main([str(word) for word in words])
        said, error = capsys.readouterr()
        return code, said, error

    return run


@pytest.fixture
def people(tmp_path, rng):
    """Twelve people, four pictures each, of 92x112 as AT&T's: a pattern a person, and noise."""
    for person in range(1, 13):
        pattern = rng.integers(0, 200, (7, 6, 3))
        for number in range(1, 5):
            noise = rng.integers(0, 56, (112, 92, 3))
            image = np.kron(pattern, np.ones((16, 16, 1)))[:, :92] + noise
            path = tmp_path / "people" / f"s{person}" / f"{number}.png"
            write_image_rgb(path, image.astype(np.uint8))
    return tmp_path / "people"


def tiny_recognizer(path, contract=None):
    """Write a network whose embedding is the picture in 7x7 pixels."""
    import onnx
    from onnx import TensorProto, helper

    names = ("input.1", "516")
    nodes = [
        helper.make_node("AveragePool", [names[0]], ["p"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["p"], [names[1]]),
    ]
    infos = [
        helper.make_tensor_value_info(names[0], TensorProto.FLOAT, ["b", 3, 112, 112]),
        helper.make_tensor_value_info(names[1], TensorProto.FLOAT, ["b", 147]),
    ]
    graph = helper.make_graph(nodes, "tiny", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    if contract:
        helper.set_model_props(model, contract.to_metadata())
    onnx.save(model, str(path))
    return path


@pytest.fixture
def degraded(script, people, tmp_path):
    words = ("--image_dir", people, "--save_dir", tmp_path / "set", "--people", "2", "10")
    assert script("make_degraded_set", *words, "--levels", "2", "8")[0] == 0
    return tmp_path / "set"


def test_a_degraded_set_has_copies_and_lists(degraded, people):
    faces = (degraded / "faces.txt").read_text().splitlines()
    assert faces[:3] == ["s10/1.png 8", "s10/1_blur2.png 8", "s10/1_blur8.png 8"]
    assert len(faces) == 9 * 4 * 3
    references = (degraded / "references.txt").read_text().split()
    assert len(references) == 36
    assert {name.split("/")[0] for name in references} == {f"s{n}" for n in range(2, 11)}
    names = [line.split()[0] for line in faces]
    originals = read_copies(degraded / "copies.txt", names)
    assert originals[:5].tolist() == [0, 0, 0, 3, 3]
    face = read_image_rgb(degraded / "images" / "s2" / "1.png")
    assert face.shape == (112, 112, 3)
    copy = read_image_rgb(degraded / "images" / "s2" / "1_blur8.png")
    assert np.array_equal(copy, degrade(face, "blur", 8.0))
    square = read_image_rgb(people / "s2" / "1.png")[10:102]
    assert abs(face.mean() - square.mean()) < 1.0


def test_people_of_a_protocol_get_copies_of_many_kinds(script, people, tmp_path):
    lines = [f"s{number}\t1\t2\ns{number}\t1\ts{number + 1}\t1\n" for number in (1, 3, 11)]
    (tmp_path / "pairs.txt").write_text("3\t1\n" + "".join(lines))
    (people / "s4" / "2.png").unlink()
    words = ("--image_dir", people, "--save_dir", tmp_path / "set", "--pairs")
    words += (tmp_path / "pairs.txt", "--folds", "2", "3", "--least", "4")
    kinds = ("blur", "noise", "contrast")
    assert script("make_degraded_set", *words, "--kind", *kinds)[0] == 2
    for wrong, said in (
        (("--levels", "1", "--draws", "3"), "--levels and --draws contradict each other"),
        (("--kind", "shrink", "--levels", "0.5"), "level of shrink"),
        (("--least", "9"), "4 of them are in the list, none of these has 9 images"),
    ):
        code, _, error = script("make_degraded_set", *words, *wrong)
        assert (code, said in error) == (2, True), error
    code, _, error = script("make_degraded_set", *words[:4], "--folds", "1", "1")
    assert (code, "--folds needs --pairs" in error) == (2, True)
    assert script("make_degraded_set", *words, "--kind", *kinds, "--draws", "3")[0] == 0
    copies = [line.split() for line in (tmp_path / "set" / "copies.txt").read_text().splitlines()]
    assert {copy.split("/")[0] for copy, _ in copies} == {"s3", "s11", "s12"}
    more = ("--most", "2", "--kind", "jpeg", "--overwrite")
    assert script("make_degraded_set", *words[:3], tmp_path / "few", *words[4:], *more)[0] == 0
    faces = [line.split()[0] for line in (tmp_path / "few" / "faces.txt").read_text().splitlines()]
    assert faces[:8] == [
        "s11/1.png",
        *(f"s11/1_jpeg{level:g}.png" for level in LEVELS["jpeg"][1:]),
        "s11/2.png",
    ]
    assert len(faces) == 3 * 2 * len(LEVELS["jpeg"])
    for kind, level in drawn_copies("s3/1.png", kinds, 3):
        original, copy = (
            read_image_rgb(tmp_path / "set" / "images" / "s3" / name)
            for name in ("1.png", f"1_{kind}{level:g}.png")
        )
        assert np.array_equal(copy, degrade(original, kind, level))


def test_labels_are_those_of_the_embeddings(script, degraded, tmp_path):
    recognizer = tiny_recognizer(tmp_path / "tiny.onnx")
    words = [
        "--image_dir", degraded / "images", "--references", degraded / "references.txt",
        "--copies", degraded / "copies.txt", "--recognizer", recognizer,
        "--save_dir", tmp_path / "labels", "--pairs", "0",
    ]  # fmt: skip
    code, said, error = script("make_pseudo_labels", *words)
    assert code == 0, error
    assert said.startswith("108 images, ")
    names, labels = read_labels(tmp_path / "labels" / "labels.txt")
    assert (labels.min(), labels.max()) == (0.0, 100.0)
    found = read_embeddings(tmp_path / "labels" / "embeddings.npz")
    assert found.names == names
    image = read_image_rgb(degraded / "images" / names[5]).astype(np.float64)
    small = ((image - 127.5) / 127.5).reshape(7, 16, 7, 16, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found.vectors[5], small.transpose(2, 0, 1).ravel(), atol=2e-3)
    references = np.isin(names, (degraded / "references.txt").read_text().split())
    originals = read_copies(degraded / "copies.txt", names)
    expected = pseudo_labels(
        found.vectors, found.people, pairs=None, references=references, originals=originals
    )
    np.testing.assert_allclose(labels, expected.labels, atol=1e-6)
    before = (tmp_path / "labels" / "labels.txt").read_bytes()
    assert script("make_pseudo_labels", *words)[0] == 0
    assert (tmp_path / "labels" / "labels.txt").read_bytes() == before
    assert script("make_pseudo_labels", *words, "--seed", "1")[0] == 4


def test_an_evaluation_makes_the_same_embeddings_itself(script, degraded, tmp_path, capsys):
    recognizer = tiny_recognizer(tmp_path / "tiny.onnx")
    images = degraded / "images"
    words = ["--image_dir", images, "--recognizer", recognizer, "--save_dir", tmp_path / "labels"]
    assert script("make_pseudo_labels", *words)[0] == 0
    evaluate = ["evaluate", "quality", "--scores", f"labels={tmp_path / 'labels' / 'labels.txt'}"]
    evaluate += ["--references", degraded / "references.txt", "--copies", degraded / "copies.txt"]
    evaluate += ["--fmr", "0.2", "--resamples", "20", "--dataset", "drawn"]
    sources = (
        ["--embeddings", tmp_path / "labels" / "embeddings.npz"],
        ["--images", images, "--recognizer", recognizer],
    )
    said = []
    for source in sources:
        assert main([str(word) for word in (*evaluate, *source)]) == 0
        said.append(capsys.readouterr().out)
    # Images have a sharpness, too, and the column of names is wider.
    with_images = [line for line in said[1].splitlines() if "sharpness" not in line]
    assert [line.split() for line in said[0].splitlines()] == list(map(str.split, with_images))
    assert "sharpness" in said[1]
    # A person's four pictures make six pairs; each of eight copies meets the three others.
    assert f"{9 * (6 + 8 * 3)} genuine and " in said[0]
    min((images / "s2").glob("*.png")).write_bytes(b"")
    assert main([str(word) for word in (*evaluate, *sources[1])]) == 2
    assert "needs every image" in capsys.readouterr().err


def test_a_list_says_who_is_who(script, degraded, tmp_path):
    # The same pictures, persons 0 to 3 taken for one.
    lines = [line.split() for line in (degraded / "faces.txt").read_text().splitlines()][::3]
    text = "".join(f"{name} {max(3, int(person))}\n" for name, person in lines)
    (tmp_path / "list.txt").write_text(text)
    recognizer = tiny_recognizer(tmp_path / "tiny.onnx")
    words = ["--image_dir", degraded / "images", "--recognizer", recognizer, "--pairs", "0"]
    words += ["--list", tmp_path / "list.txt", "--save_dir", tmp_path / "labels"]
    code, _, error = script("make_pseudo_labels", *words)
    assert code == 0, error
    found = read_embeddings(tmp_path / "labels" / "embeddings.npz")
    assert found.names == tuple(name for name, _ in lines)
    who = np.array([max(3, int(person)) for _, person in lines])
    expected = pseudo_labels(found.vectors, who, pairs=None)
    np.testing.assert_allclose(
        read_labels(tmp_path / "labels" / "labels.txt")[1], expected.labels, atol=1e-6
    )


def test_a_recognizer_may_have_a_contract_or_none(tmp_path):
    bare = tiny_recognizer(tmp_path / "a.onnx")
    with load(bare, kind=FaceEmbedder, card="w600k_mbf") as model:
        assert model.contract.card_id == "w600k_mbf"
    with load(bare, kind=FaceEmbedder, card="magface_iresnet50") as model:
        assert model.backend.preprocess.swaps_channels
    contract = Contract.from_card(CARDS["w600k_mbf"], source_sha256="ab" * 32)
    told = tiny_recognizer(tmp_path / "b.onnx", contract)
    with load(told, kind=FaceEmbedder, card="magface_iresnet50") as model:
        assert model.contract == contract
    with pytest.raises(InputError, match="sdd_fiqa_r50' is a FaceQuality; expected a FaceEmbedder"):
        load(bare, kind=FaceEmbedder, card="sdd_fiqa_r50")
    (tmp_path / "c.onnx").write_bytes(b"no graph")
    with pytest.raises(GraphError, match=r"c\.onnx"):
        load(tmp_path / "c.onnx", kind=FaceEmbedder, card="w600k_mbf")


def test_lists_that_do_not_fit_are_refused(script, degraded, tmp_path):
    (tmp_path / "other.txt").write_text("x/1.png\n")
    recognizer = tiny_recognizer(tmp_path / "tiny.onnx")
    words = ["--image_dir", degraded / "images", "--recognizer", recognizer]
    words += ["--save_dir", tmp_path / "labels", "--references", tmp_path / "other.txt"]
    code, _, error = script("make_pseudo_labels", *words)
    assert code == 2
    assert "names none of the images" in error
    (tmp_path / "copies.txt").write_text("a.png b.png c.png\n")
    with pytest.raises(DatasetError, match="line 1"):
        read_copies(tmp_path / "copies.txt", ["a.png"])
    for text in ("a.png\n", "a.png high\n", "a.png nan\n"):
        (tmp_path / "labels.txt").write_text(text)
        with pytest.raises(DatasetError, match="line 1"):
            read_labels(tmp_path / "labels.txt")


def test_settings_are_checked():
    assert TrainSettings().loss == "smooth_l1"
    for change in ({"variant": "r18"}, {"loss": "l3"}, {"epochs": 0}, {"learning_rate": 0.0}):
        with pytest.raises(InputError, match=next(iter(change))):
            TrainSettings(**change)


def test_a_set_of_no_people_is_refused(script, people, tmp_path):
    words = ("--image_dir", people, "--save_dir", tmp_path / "set", "--people", "5", "13")
    code, _, error = script("make_degraded_set", *words)
    assert code == 2
    assert "there are 1 to 12" in error


def test_a_broken_picture_is_left_out(script, people, tmp_path):
    (people / "s3" / "2.png").write_bytes(b"")
    words = ("--image_dir", people, "--save_dir", tmp_path / "set", "--people", "3", "3")
    code, said, _ = script("make_degraded_set", *words, "--levels", "1")
    assert code == 1
    assert "1 refused" in said
    assert len((tmp_path / "set" / "faces.txt").read_text().splitlines()) == 6
    entries = json.loads((tmp_path / "set" / "faces.json").read_text())["images"]
    assert "error" in entries[1]


def test_pictures_that_cannot_be_labelled_are_named():
    found = Embeddings(("a/1.png", "b/1.png", "b/2.png"), np.ones((3, 4), np.float32))
    chosen = {"pairs": None, "rounds": 1, "seed": 0}
    with pytest.raises(InputError, match=r"'a/1\.png' has no partner of the same person"):
        label_pictures(found, **chosen)
    found.vectors[2] = 0.0
    with pytest.raises(InputError, match=r"the embedding of 'b/2\.png' is all zero"):
        label_pictures(found, **chosen)
