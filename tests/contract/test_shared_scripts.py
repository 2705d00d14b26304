"""The scripts that serve any model: export, runner, npz decoder. Both routes give one file."""

import json
import re

import numpy as np
import onnx
import pytest
from facezoo.cli import options
from facezoo.contract import read_contract
from facezoo.errors import BackendUnavailable
from facezoo.image.files import write_image_rgb
from facezoo.models import CARDS, MODELS, has_part, import_part
from facezoo.testing import tiny_magface, tiny_pfld, tiny_pipnet, tiny_scrfd, tiny_sdd_fiqa

EXPORT = "common/utils/export_onnx.py"
INFER = "common/utils/infer.py"
DECODE = "common/utils/npz_decode.py"
TINY = {
    "scrfd": tiny_scrfd,
    "pfld": tiny_pfld,
    "pipnet": tiny_pipnet,
    "sdd_fiqa": tiny_sdd_fiqa,
    "magface": tiny_magface,
}


@pytest.fixture
def photos(tmp_path, rng):
    for index in range(5):
        image = rng.integers(0, 256, (70 + index, 64, 3)).astype(np.uint8)
        image[20:34, 8 * index : 8 * index + 14] = 250
        write_image_rgb(tmp_path / "photos" / f"{index % 2}" / f"{index}.png", image)
    return tmp_path / "photos"


def ran(result, code=0):
    assert result[0] == code, result
    return result


def through_npz(run_here, photos, model, where):
    """Take photos through image2npz and vamp; return what tells the decoder where things lie."""
    listed, output = where / "list.txt", where / "output"
    to = ("--target_path", where / "npz", "--text_path", listed)
    code = run_here("common/utils/image2npz.py", "--dataset_path", photos, *to)[0]
    made = ("-i", "1", "-p", "1", "-b", "1", "--datalist", listed, "--path_output", output)
    ran(run_here("vamp", "--engine", "ort", "-m", model, *made))
    return code, ("--vamp_datalist_path", listed, "--vamp_output_dir", output)


@pytest.mark.parametrize("model", MODELS)
def test_both_routes_write_the_same_file(run_here, photos, tmp_path, model):
    (photos / "1" / "broken.png").write_bytes(b"not an image")
    file = TINY[model](tmp_path / "tiny.onnx")
    out, decoded = tmp_path / "out", tmp_path / "decoded"
    command = (INFER, "--file_path", photos, "--model_prefix_path", file, "--save_dir", out)
    ran(run_here(*command), 1)
    first = (out / "results.json").read_bytes()
    content = json.loads(first)
    assert content["card"] == read_contract(file).card_id
    names = [f"0/{i}.png" for i in (0, 2, 4)] + [f"1/{i}.png" for i in (1, 3)]
    assert [entry["path"] for entry in content["images"]] == [*names, "1/broken.png"]
    assert ["error" in entry for entry in content["images"]] == [False] * 5 + [True]
    ran(run_here(*command), 1)
    assert (out / "results.json").read_bytes() == first

    code, where = through_npz(run_here, photos, file, tmp_path)
    assert code == 1
    ran(run_here(DECODE, *where, "--save_dir", decoded), 1)
    found = json.loads((decoded / "results.json").read_bytes())
    assert numbers(found)
    assert numbers(found) == pytest.approx(numbers(content), rel=1e-4, abs=1e-4)
    assert words(found) == words(content)


def leaves(value):
    if isinstance(value, dict):
        value = [one for pair in value.items() for one in pair]
    return [leaf for one in value for leaf in leaves(one)] if isinstance(value, list) else [value]


def numbers(content):
    return [leaf for leaf in leaves(content) if isinstance(leaf, float)]


def words(content):
    return [leaf for leaf in leaves(content) if not isinstance(leaf, float)]


def test_outputs_of_the_vendors_vamp_need_a_card(run_here, photos, tmp_path):
    _, where = through_npz(run_here, photos, tiny_magface(tmp_path / "tiny.onnx"), tmp_path)
    (tmp_path / "output" / "vamp.json").unlink()
    command = (DECODE, *where, "--save_dir", tmp_path / "decoded")
    assert "give --card" in ran(run_here(*command), 2)[2]
    ran(run_here(*command, "--card", "w600k_mbf"))


@pytest.mark.shared
def test_a_published_file_is_exported(run_here, tmp_path, shared):
    command = (EXPORT, "--card", "scrfd_500m_bnkps", "--output", tmp_path / "new.onnx")
    source = shared / "assets" / "scrfd" / "scrfd_500m_bnkps.onnx"
    _, said, _ = ran(run_here(*command, "--onnx", source, "--batch", "2"))
    assert said.startswith(f"{tmp_path / 'new.onnx'}: scrfd_500m_bnkps, outputs score_8 ")
    assert read_contract(tmp_path / "new.onnx").card_id == "scrfd_500m_bnkps"
    # What a viewer of graphs shows.
    shown = {one.key: one.value for one in onnx.load(tmp_path / "new.onnx").metadata_props}
    licence = "InsightFace: research only; commercial use: no"
    expected = {"card": "scrfd_500m_bnkps", "dtype": "fp32", "licence of the weights": licence}
    assert {key: shown[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("scrfd_1gg", "did you mean scrfd_1g"),
        ("scrfd_34g", "scrfd_34g_pth can only be downloaded by hand"),
        ("magface_iresnet34", "no weights of magface_iresnet34 are published; give the file"),
        ("sdd_fiqa_r50", "sdd_fiqa_r50_pth can only be downloaded by hand"),
    ],
)
def test_what_cannot_be_exported_says_what_to_do(run_here, tmp_path, card, says):
    assert says in ran(run_here(EXPORT, "--card", card, "--output", tmp_path / "x.onnx"), 2)[2]
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.shared
def test_a_file_of_another_variant_is_not_exported(run_here, tmp_path, shared):
    source = shared / "assets" / "scrfd" / "scrfd_500m_bnkps.onnx"
    command = ("export", "scrfd_2.5g_bnkps", source, "-o", tmp_path / "x.onnx")
    assert "is scrfd_500m_bnkps, not scrfd_2.5g_bnkps" in ran(run_here(*command), 2)[2]
    assert not (tmp_path / "x.onnx").exists()


def test_a_file_of_an_unknown_hash_is_exported_as_the_card_that_was_given(run_here, tmp_path):
    target = tmp_path / "x.onnx"
    ran(run_here("export", "w600k_mbf", tiny_magface(tmp_path / "mine.onnx"), "-o", target))
    assert read_contract(target).card_id == "w600k_mbf"


@pytest.mark.parametrize(
    ("python", "says"),
    [
        ((3, 8, 18), "that needs Python 3.10, and this is Python 3.8: use a newer one"),
        ((3, 11, 7), "install it with: pip install torch torchvision"),
    ],
)
def test_a_python_that_cannot_have_torch_is_told_so(monkeypatch, python, says):
    monkeypatch.setattr(options.sys, "version_info", python)
    with pytest.raises(BackendUnavailable, match=re.escape(says)):
        options.import_torch_part("facezoo.models.nothing.checkpoint")


@pytest.mark.torch
def test_a_checkpoint_is_exported_under_its_card(run_here, tmp_path):
    torch = pytest.importorskip("torch")
    from facezoo.models.sdd_fiqa.network import build

    torch.manual_seed(1)
    torch.save(build("mobilefacenet").state_dict(), tmp_path / "mine.pth")
    command = ("export", "sdd_fiqa_mobilefacenet", tmp_path / "mine.pth", "-o", tmp_path / "x.onnx")
    said = ran(run_here(*command))[1]
    assert said == f"{tmp_path / 'x.onnx'}: sdd_fiqa_mobilefacenet, outputs quality\n"
    shown = {one.key: one.value for one in onnx.load(tmp_path / "x.onnx").metadata_props}
    assert shown["licence of the weights"] == "its checkpoint's"
    wrong = ("export", "w600k_mbf", tmp_path / "mine.pth", "-o", tmp_path / "y.onnx")
    assert "is not an iresnet of insightface's arcface_torch" in ran(run_here(*wrong), 2)[2]
    wrong = ("export", "sdd_fiqa_r50", tmp_path / "x.onnx", "-o", tmp_path / "y.onnx")
    assert "sdd_fiqa_r50 is made from a checkpoint" in ran(run_here(*wrong), 2)[2]


@pytest.mark.torch
@pytest.mark.parametrize("model", [model for model in MODELS if has_part(model, "checkpoint")])
def test_every_card_names_a_network_of_its_checkpoint(model):
    pytest.importorskip("torch")
    networks = import_part(model, "checkpoint").NETWORKS
    cards = {card.id for card in CARDS.values() if card.model == model}
    assert set(networks) == cards
