"""What a message says is wrong is what is wrong: each with the situation that it names."""

import struct

import numpy as np
import pytest
from facezoo.contract import load_graph
from facezoo.datasets.pairs import read_bin, read_feature_list
from facezoo.errors import ConfigError, DatasetError, GraphError
from facezoo.files import is_web_page
from facezoo.metrics.all_pairs import compare_all
from facezoo.metrics.verification import k_fold_accuracy
from facezoo.vacc.build_config import read_build_config

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
