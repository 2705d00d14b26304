"""What a message says is wrong is what is wrong: each with the situation that it names."""

import struct
from pathlib import Path

import numpy as np
import pytest
from facezoo.contract import Preprocess, load_graph
from facezoo.datasets.image_list import find_listed, write_image_list
from facezoo.datasets.pairs import feature_line, read_bin, read_feature_list
from facezoo.datasets.scores import QualityScores, read_scores
from facezoo.datasets.wflw import find_lists
from facezoo.datasets.widerface import read_predictions
from facezoo.errors import ConfigError, DatasetError, FaceZooError, GraphError
from facezoo.evaluation.quality import rank_copies
from facezoo.files import is_web_page
from facezoo.metrics.all_pairs import compare_all
from facezoo.metrics.detection import GroundTruth
from facezoo.metrics.landmarks import cumulative_error_distribution
from facezoo.metrics.quality import error_versus_discard, spearman
from facezoo.metrics.verification import k_fold_accuracy
from facezoo.models.magface.settings import LossSettings
from facezoo.profiles.quality import make_quality_profile
from facezoo.vacc.build_config import parse_build_config, read_build_config
from facezoo.vacc.vdsp import read_vdsp

PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>...</body></html>"


def test_a_web_page_is_called_one(tmp_path):
    page = tmp_path / "net.onnx"
    page.write_bytes(b"\n  " + PAGE)
    assert is_web_page(page) and not is_web_page(tmp_path)
    with pytest.raises(GraphError, match=r"net.onnx' is not a valid ONNX graph: it is a web page"):
        load_graph(page)


def test_a_web_page_for_a_checkpoint_is_called_one(tmp_path):
    export = pytest.importorskip("facezoo.graphs.export", exc_type=ImportError)
    torch = pytest.importorskip("torch")
    page = tmp_path / "net.pth"
    page.write_bytes(PAGE)
    from facezoo.errors import WeightsError

    with pytest.raises(WeightsError, match=r"net\.pth' is a web page, not a \.pth file"):
        export.load_checkpoint(torch.nn.Linear(1, 1), page)


@pytest.mark.parametrize("there", [(), ("official_pipnet.yaml", "pip_resnet18.yaml")])
def test_a_build_yaml_that_is_not_there_names_those_that_are(tmp_path, there):
    for name in there:
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError) as caught:
        read_build_config(tmp_path / "official_pip.yaml")
    assert "official_pip.yaml' cannot be read (No such file or directory)" in str(caught.value)
    assert "scrfd" not in str(caught.value)
    for name in there:
        assert name in str(caught.value)


def test_numbers_that_are_none_are_not_blamed_on_the_extraction(tmp_path):
    features = tmp_path / "feat.list"
    features.write_text("a.jpg 1 2\nb.jpg nan 2\n")
    with pytest.raises(DatasetError, match=r"value 0 is 'nan'.*its weights are damaged, or its"):
        read_feature_list(features)
    vectors = np.ones((4, 2))
    vectors[2] = np.nan
    for compare in (
        lambda: k_fold_accuracy(vectors, vectors, np.array([True, False] * 2), folds=2),
        lambda: compare_all(vectors.astype(np.float32), np.array([0, 0, 1, 1]), 0.1),
    ):
        with pytest.raises(ValueError, match=r"not finite.* weights are damaged") as caught:
            compare()
        assert "extract" not in str(caught.value)


def test_a_byte_array_that_claims_much_takes_no_memory(tmp_path):
    # PROTO 5, BYTEARRAY8 of 2**40 bytes, of which three follow.
    content = b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc."
    (tmp_path / "lfw.bin").write_bytes(content)
    with pytest.raises(DatasetError, match=r"lfw\.bin"):
        read_bin(tmp_path / "lfw.bin")


def test_a_device_that_is_a_word_is_told_the_flag_for_it(run_here):
    code, _, error = run_here("predict", "x", "--save_dir", "o", "--device", "cuda")
    assert code == 2
    assert "from 0 to 1023; a graphics card is chosen by --provider cuda" in error


def built(text):
    return lambda folder: parse_build_config(text.encode(), Path("b.yaml"))


def written(name, text, read):
    """Write a file and read it."""

    def run(folder):
        (folder / name).write_text(text)
        return read(folder / name)

    return run


def lists_twice(folder):
    for place in ("one", "two"):
        (folder / place).mkdir()
        (folder / place / "list_98pt_test_blur.txt").write_text("")
    return find_lists(folder)


NAN = np.array([np.nan, 1.0])
SITUATIONS = {
    "an alias": (built("a: &x 1\nb: *x"), r"b\.yaml: uses the alias \*x"),
    "nesting": (built("[" * 60 + "]" * 60), r"b\.yaml: nested deeper than \d+ levels"),
    "an old vdsp": (
        written("v.json", '{"vdsp_op_type": 1}', lambda path: read_vdsp(path, Preprocess((1, 1)))),
        r"v\.json' has the vdsp format of before vamp 2\.1\.0",
    ),
    "negative errors": (
        lambda _: cumulative_error_distribution(np.array([-0.1])),
        "errors must be finite and not negative",
    ),
    "ranks of NaN": (lambda _: spearman(NAN, NAN), "rank correlation needs finite values"),
    "ranks of one": (lambda _: spearman(NAN[:1], NAN[:1]), r"needs two arrays \(N,\), N >= 2"),
    "qualities of others": (
        lambda _: error_versus_discard(np.ones(3), np.ones(3, bool), np.ones(2), 0.1),
        r"must all have shape \(N,\), got \(3,\), \(3,\) and \(2,\)",
    ),
    "a score that is none": (
        lambda _: make_quality_profile(NAN, "card", None, {}),
        "scores must be finite numbers",
    ),
    "an image scored twice": (
        written("s.txt", "a.png 1\na.png 2\n", read_scores),
        r"s\.txt' lists an image twice",
    ),
    "a text of no scores": (
        written("s.csv", "name,value\na.png,1\n", read_scores),
        r"s\.csv' holds no quality scores .*; expected results\.json of a runner",
    ),
    "copies of nothing": (
        lambda _: rank_copies(QualityScores(("a",), np.ones(1)), []),
        "the list contains no copy",
    ),
    "no predictions": (
        lambda folder: read_predictions(folder),
        r"contains no predictions; expected texts named <event>/<photo>\.txt",
    ),
    "a list twice": (lists_twice, r"list_98pt_test_blur\.txt exists twice: .*one.* and .*two"),
    "a list of no file": (
        written("l.txt", "a.png\nb.png\n", lambda path: find_listed(path)),
        r"l\.txt': none of its 2 images exists, such as 'a\.png'",
    ),
    "a form of no list": (
        lambda folder: write_image_list(folder / "l", ["a"], [0], "path;label"),
        "a list is written as 'path label' or 'path 0 label 0', got 'path;label'",
    ),
    "a path of two lines": (
        lambda _: feature_line("a\nb", np.zeros(2)),
        "is empty or contains a line break; rename the image",
    ),
    "boxes without a level": (
        lambda _: GroundTruth.from_rows(
            {"e/a": np.ones((2, 4))}, {"easy": {"e/a": np.ones(1, bool)}}
        ),
        "level 'easy' must have one entry per box of each image",
    ),
    "limits the wrong way round": (
        lambda _: LossSettings(l_a=20.0, u_a=10.0),
        r"l_a 20 and u_a 10 must be 0 < l_a < u_a",
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_message_names_the_situation(tmp_path, situation):
    act, message = SITUATIONS[situation]
    with pytest.raises(FaceZooError, match=message):
        act(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("download",), "nothing to download; give names"),
        (("doctor", "--image", "x.png"), "name the network: CARD or --model"),
        (("predict", "x.png", "--draw"), "--draw writes images to the result folder; name it"),
        (("predict", "*.nothing"), "'*.nothing' matches no file; expected photos or folders"),
        pytest.param(
            ("info", "w600k_mbf"),
            "has no PyTorch network in facezoo; give its .onnx",
            marks=pytest.mark.torch,
        ),
    ],
)
def test_a_command_says_what_it_needs(tmp_path, monkeypatch, run_here, words, message):
    monkeypatch.chdir(tmp_path)
    # What this user has fetched before must not matter.
    monkeypatch.setenv("FACEZOO_HOME", str(tmp_path / "home"))
    code, _, error = run_here(*words)
    assert (code, message in error) == (2, True), error
