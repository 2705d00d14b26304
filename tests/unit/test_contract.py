"""What a file says of itself is believed only where it can be true: a table of lies."""

import copy
import dataclasses
import inspect
import json
from importlib import import_module

import numpy as np
import pytest
from facezoo.card import FITS
from facezoo.contract import DECODE, METADATA_KEY, Contract
from facezoo.errors import GraphError, InputError
from facezoo.models import CARDS, MODELS, find_card
from facezoo.models.pipnet.decode import PACKAGED
from facezoo.models.pipnet.graph import make_contract
from facezoo.vacc import npz, outputs
from facezoo.vacc.vdsp import OP_OF_FIT
from hypothesis import given, settings
from hypothesis import strategies as st

NAN, INFINITY, HUGE = float("nan"), float("inf"), 10**4000
CARD = find_card("scrfd_500m_bnkps")


def contract_of(card_id):
    return json.loads(Contract.from_card(find_card(card_id)).to_metadata()[METADATA_KEY])


def read(entry):
    return Contract.from_metadata({METADATA_KEY: json.dumps(entry)})


# Field as it is named to the lie about it.
LIES = [
    ("card_id", 5),
    ("card_id", None),
    ("card_id", {"a": 1}),
    ("card_id", ""),
    ("card_id", "../../evil"),
    ("card_id", 'x"""\nimport os'),
    ("card_id", "evil<script>"),
    ("card_id", "x" * 101),
    ("model", "Resnet"),
    ("model", "../../evil"),
    ("model", ["scrfd"]),
    ("model", None),
    ("input_name", 1),
    ("input_name", ""),
    ("input_name", "a\nb"),
    ("input_name", "a\x00b"),
    ("input_name", "a\u202eb"),
    ("input_name", "a\u2028b"),
    ("input_name", "a\ud800b"),
    ("input_name", "x" * 201),
    ("output_names", "score_8"),
    ("output_names", []),
    ("output_names", ["score_8"] * 9),
    ("output_names", [f"x{number}" for number in range(65)]),
    ("output_names", {"score_8": 1}),
    ("output_names[1]", ["score_8", 2]),
    ("output_names[0]", ["\x1b[31m"]),
    ("output_names[0]", [[["deep"]]]),
    ("source_sha256", 5),
    ("source_sha256", "abc"),
    ("source_sha256", "A" * 64),
    ("schema", "1"),
    ("schema", True),
    ("schema", 1.0),
    ("schema", [1]),
    ("decode", None),
    ("decode", [1, 2]),
    ("decode.evil", {"evil": 1}),
    ("decode.raw", {"raw": 1}),
    ("decode.profile", {"profile": {"score_threshold": 0}}),
    ("decode.strides", {}),
    ("decode.strides", {"strides": "8"}),
    ("decode.strides", {"strides": []}),
    ("decode.strides", {"strides": [8, 8]}),
    ("decode.strides[0]", {"strides": [0, 16, 32]}),
    ("decode.strides[0]", {"strides": [8.0, 16.0, 32.0]}),
    ("decode.strides[1]", {"strides": [8, HUGE]}),
    ("decode.anchors_per_cell", {"strides": [8]}),
    ("decode.anchors_per_cell", {"strides": [8], "anchors_per_cell": -2}),
    ("decode.anchors_per_cell", {"strides": [8], "anchors_per_cell": "2"}),
    ("decode.anchors_per_cell", {"strides": [8], "anchors_per_cell": 2.0}),
    ("decode.anchors_per_cell", {"strides": [8], "anchors_per_cell": True}),
    ("preprocess", None),
    ("preprocess", [1]),
    ("preprocess", "none"),
    ("preprocess.input_hw", {"input_hw": None}),
    ("preprocess.input_hw", {"input_hw": [640]}),
    ("preprocess.input_hw[0]", {"input_hw": ["640", "640"]}),
    ("preprocess.input_hw[0]", {"input_hw": [640.0, 640.0]}),
    ("preprocess.input_hw[0]", {"input_hw": [True, True]}),
    ("preprocess.input_hw[1]", {"input_hw": [640, 0]}),
    ("preprocess.input_hw[0]", {"input_hw": [-640, 640]}),
    ("preprocess.input_hw[0]", {"input_hw": [20_000, 20_000]}),
    ("preprocess.input_hw[0]", {"input_hw": [HUGE, 1]}),
    ("preprocess.input_hw", {"input_hw": [16_000, 16_000]}),
    ("preprocess.fit", {"fit": "evil"}),
    ("preprocess.fit", {"fit": ["letterbox"]}),
    ("preprocess.anchor", {"anchor": "left"}),
    ("preprocess.rounding", {"rounding": "up"}),
    ("preprocess.axis_scale", {"axis_scale": 1}),
    ("preprocess.resize", {"resize": "evil"}),
    ("preprocess.image_format", {"image_format": "YUV"}),
    ("preprocess.color_conversion", {"color_conversion": None}),
    ("preprocess.norm", {"norm": "X"}),
    ("preprocess.pad_value", {"pad_value": "xyz"}),
    ("preprocess.pad_value", {"pad_value": "0, np.uint8)\n    import os  # 00"}),
    ("preprocess.pad_value[0]", {"pad_value": [300, 0, 0]}),
    ("preprocess.pad_value[1]", {"pad_value": [0, -1, 0]}),
    ("preprocess.pad_value[2]", {"pad_value": [0, 0, False]}),
    ("preprocess.mean", {"mean": [1, 2]}),
    ("preprocess.mean[0]", {"mean": ["a", "b", "c"]}),
    ("preprocess.mean[1]", {"mean": [0.5, NAN, 0.5]}),
    ("preprocess.mean[2]", {"mean": [0.5, 0.5, -INFINITY]}),
    ("preprocess.mean[0]", {"mean": [1e300] * 3}),
    ("preprocess.std", {"std": [0, 0, 0]}),
    ("preprocess.std", {"std": [1, 1, 1e-9]}),
    ("preprocess.std[0]", {"std": [None, 1, 1]}),
    ("preprocess.resize_hw", {"resize_hw": 640}),
    ("preprocess.resize_hw[0]", {"resize_hw": [0, 1]}),
    ("preprocess.crop_hw", {"crop_hw": [1, 2, 3]}),
    ("preprocess.crop_xy[0]", {"crop_xy": [-1, 0]}),
    ("preprocess.crop_xy", {"fit": "stretch_crop", "resize_hw": [640, 640], "crop_xy": [9, 0]}),
    ("preprocess.pads[0]", {"fit": "letterbox_pads", "pads": [-5, 5, 0, 0]}),
    ("preprocess.pads", {"fit": "letterbox_pads", "pads": [320, 320, 0, 0]}),
    ("preprocess.pads", {"fit": "letterbox_pads", "resize_hw": [630, 640]}),
    ("preprocess.evil", {"evil": 1}),
    ("preprocess['a\\nb']", {"a\nb": 1}),
    ("extra", 1),
]


def tell(entry, name, lie):
    """Put a lie in the place of a field, or its parts beside the other parts."""
    field = name.split(".")[0].split("[")[0]
    merged = field == "preprocess" and isinstance(lie, dict)
    entry[field] = {**entry[field], **lie} if merged else lie


@pytest.mark.parametrize(("name", "lie"), LIES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(LIES)])
def test_a_lie_is_refused_by_its_name(name, lie):
    entry = contract_of("scrfd_500m_bnkps")
    assert read(entry) == Contract.from_card(CARD)
    tell(entry, name, lie)
    with pytest.raises(GraphError) as caught:
        read(entry)
    said = str(caught.value)
    assert f"contract.{name} is " in said, said
    assert "; expected " in said
    assert said.isprintable()
    assert len(said) < 1600


FIELDS = [field.name for field in dataclasses.fields(Contract)]
PARTS = [f"preprocess.{field.name}" for field in dataclasses.fields(CARD.preprocess)]


@pytest.mark.parametrize("name", ["schema", *FIELDS, *PARTS])
def test_a_missing_field_is_named(name):
    entry = contract_of("scrfd_500m_bnkps")
    *above, last = name.split(".")
    del (entry[above[0]] if above else entry)[last]
    with pytest.raises(GraphError, match=rf"contract\.{name} is missing; expected "):
        read(entry)


PIPNET = [
    ("decode.meanface", "300W"),
    ("decode.meanface", "../../meanface"),
    ("decode.meanface", [[0.5, 0.5]]),
    ("decode.meanface[1]", [[0.5, 0.5], [0.5]]),
    ("decode.meanface[0][1]", [[0.5, NAN], [0.5, 0.5]]),
    ("decode.meanface[0][0]", [[True, 0.5], [0.5, 0.5]]),
    ("decode.num_neighbors", 0),
    ("decode.num_neighbors", "10"),
]


@pytest.mark.parametrize(("name", "lie"), PIPNET)
def test_a_lie_about_landmarks_is_refused_by_its_name(name, lie):
    entry = contract_of("pip_resnet18")
    entry["decode"][name.split(".")[1].split("[")[0]] = lie
    with pytest.raises(GraphError) as caught:
        read(entry)
    assert f"contract.{name} is " in str(caught.value)


@pytest.mark.parametrize("text", ["null", "[1, 2, 3]", '"scrfd"', "5", "", "{", "[" * 100_000])
def test_what_is_no_contract_is_refused(text):
    with pytest.raises(GraphError, match=r"'facezoo\.contract' cannot be read"):
        Contract.from_metadata({METADATA_KEY: text})


def test_a_contract_as_long_as_a_film_is_refused():
    entry = {**contract_of("scrfd_500m"), "extra": "x" * (1 << 20)}
    with pytest.raises(GraphError, match="longer than"):
        read(entry)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*FIELDS, *PARTS]), JSON)
def test_any_value_is_read_or_refused(name, value):
    entry = contract_of("scrfd_500m_bnkps")
    *above, last = name.split(".")
    (entry[above[0]] if above else entry)[last] = value
    try:
        found = read(entry)
    except GraphError as error:
        assert f"contract.{name}" in str(error)
    else:
        assert json.loads(found.to_metadata()[METADATA_KEY]) == entry


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_every_card_survives_byte_for_byte(card):
    for contract in (Contract.from_card(card), Contract.from_card(card, "0a" * 32, (96, 64))):
        metadata = contract.to_metadata()
        again = Contract.from_metadata(metadata)
        assert again == contract
        assert again.to_metadata() == metadata


def test_landmarks_of_another_data_set_survive_byte_for_byte():
    points = np.random.default_rng(3).uniform(-0.1, 1.1, (12, 2))
    contract = make_contract("resnet18", points, num_neighbors=5)
    assert Contract.from_metadata(contract.to_metadata()) == contract


@pytest.mark.parametrize("fit", FITS)
def test_every_fit_survives(fit):
    change = {
        "letterbox_pads": {"resize_hw": (600, 600), "pads": (20, 20, 40, 0)},
        "stretch_crop": {"resize_hw": (700, 660), "crop_xy": (20, 60)},
        "crop_stretch": {"crop_hw": (30, 40), "crop_xy": (5, 6)},
    }
    preprocess = dataclasses.replace(CARD.preprocess, fit=fit, **change.get(fit, {}))
    contract = dataclasses.replace(Contract.from_card(CARD), preprocess=preprocess)
    assert Contract.from_metadata(contract.to_metadata()) == contract


def test_the_table_is_what_the_decoders_take():
    assert set(DECODE) <= set(MODELS)
    for model in MODELS:
        taken = inspect.signature(import_module(f"facezoo.models.{model}.decode").decode).parameters
        assert set(DECODE.get(model, ())) == set(taken) - {"raw", "profile"}
    for name in PACKAGED:
        entry = contract_of("pip_resnet18")
        entry["decode"]["meanface"] = name
        assert read(entry).decode["meanface"] == name
    assert set(FITS) == set(OP_OF_FIT)


# The same contract beside vamp's outputs ---------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vamp")
    (folder / "list.txt").write_text("a.npz\nb.npz\n")
    items = []
    for index in range(2):
        name = outputs.output_name(index)
        array = {"output_0": np.full((1, 2), index, np.float16)}
        items.append({"path": name, "sha256": npz.write_npz(folder / "out" / name, array)})
    made = {"engine": "ort", "engine_version": "1.0", "device": "CPU", "model_sha256": "0" * 64}
    contract = Contract.from_card(CARD)
    head = outputs.index_head(contract, "float16", folder / "list.txt", made)
    return folder, {"schema": outputs.INDEX_SCHEMA, **head, "outputs": items}


def open_with(folder, index):
    (folder / "out" / outputs.INDEX_FILE).write_text(json.dumps(index))
    return outputs.OutputFolder(folder / "out", folder / "list.txt")


INDEX_LIES = [
    ("dtype", "int8"),
    ("dtype", 16),
    ("datalist_sha256", None),
    ("datalist_sha256", "0"),
    ("outputs", "output_000000.npz"),
    ("outputs", {"path": "output_000000.npz"}),
    ("outputs[0]", ["output_000000.npz"]),
    ("outputs[0].path", [{"path": 5, "sha256": "0" * 64}]),
    ("outputs[0].path", [{"sha256": "0" * 64}]),
    ("outputs[0].path", [{"path": "a\nb", "sha256": "0" * 64}]),
    ("outputs[0].sha256", [{"path": "output_000000.npz", "sha256": NAN}]),
    ("outputs[0].sha256", [{"path": "output_000000.npz", "sha256": "0" * 63}]),
    ("outputs[0].extra", [{"path": "output_000000.npz", "sha256": "0" * 64, "extra": 1}]),
    ("engine", 5),
    ("engine_version", "\x1b[2J"),
    ("device", ["CPU"]),
    ("model_sha256", 5),
    ("extra", 1),
    ("contract", 5),
    ("contract", None),
]


@pytest.mark.parametrize(("name", "lie"), INDEX_LIES)
def test_a_lie_of_vamps_index_is_refused_by_its_name(recorded, name, lie):
    folder, index = recorded
    assert open_with(folder, index).contract == Contract.from_card(CARD)
    field = name.split("[")[0]
    with pytest.raises(InputError) as caught:
        open_with(folder, {**index, field: lie})
    said = str(caught.value)
    assert f"(vamp.json.{name} is " in said, said
    assert "; expected " in said
    assert said.isprintable()


@pytest.mark.parametrize(("name", "lie"), LIES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(LIES)])
def test_a_lie_of_the_contract_in_vamps_index_is_refused_by_its_name(recorded, name, lie):
    folder, index = recorded
    index = copy.deepcopy(index)
    tell(index["contract"], name, lie)
    with pytest.raises(InputError) as caught:
        open_with(folder, index)
    said = str(caught.value)
    assert "vamp.json" in said
    assert f"contract.{name} is " in said, said


@pytest.mark.parametrize("name", ["contract", "dtype", "datalist_sha256", "outputs"])
def test_a_field_that_vamps_index_lacks_is_named(recorded, name):
    folder, index = recorded
    index = {key: value for key, value in index.items() if key != name}
    with pytest.raises(InputError, match=rf"\(vamp\.json\.{name} is missing; expected"):
        open_with(folder, index)
