"""The vdsp JSON: read, refused, rendered, executed."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from facezoo.card import IMAGE_FORMATS, NORMS, RESIZES, Preprocess
from facezoo.errors import ConfigError
from facezoo.image.preprocess import (
    VdspOperation,
    affine_normalisation,
    describe_differences,
    normalisation_table,
)
from facezoo.models import CARDS
from facezoo.vacc.vdsp import FIT_OF_OP, read_vdsp, render_vdsp

SCRFD = CARDS["scrfd_500m"].preprocess
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def write(tmp_path, preprocess=SCRFD, drop=(), **changes):
    entry = render_vdsp(preprocess)
    entry["OpType"] = changes.pop("OpType", entry["OpType"])
    entry["OpConfig"].update(changes)
    for key in drop:
        del entry["OpConfig"][key]
    path = tmp_path / "vdsp.json"
    path.write_text(json.dumps(entry))
    return path


@pytest.mark.parametrize(
    ("norm", "pixel", "expected"),
    [
        ("EQUAL", 200, 200.0),
        ("DIV255", 255, 1.0),
        ("DIV1275_MINUSONE", 255, 1.0),
        ("DIV1275_MINUSONE", 0, -1.0),
        ("MINUSMEAN_DIVSTD", 255, (255 - 0.485107421875) / 0.22900390625),
        ("DIV255_MINUSMEAN_DIVSTD", 255, (1 - 0.485107421875) / 0.22900390625),
    ],
)
def test_formulas_by_hand_with_mean_and_std_as_float16(norm, pixel, expected):
    table = normalisation_table(Preprocess((8, 8), norm=norm, **IMAGENET))
    assert table.shape == (3, 256)
    assert table[0, pixel] == pytest.approx(expected, rel=1e-6)


def test_the_table_is_rounded_to_float16_for_half_inputs():
    full = normalisation_table(Preprocess((8, 8), norm="DIV255"))
    half = normalisation_table(Preprocess((8, 8), norm="DIV255"), half_output=True)
    np.testing.assert_array_equal(half, full.astype(np.float16).astype(np.float32))
    assert np.any(half != full)


@pytest.mark.parametrize(
    ("image_format", "conversion", "eats_bgr"),
    [
        ("RGB_PLANAR", "NO_CHANGE", False),
        ("RGB888", "RGB2BGR", True),
        ("RGB_PLANAR", "BGR2RGB", True),  # the vendor's files use either name for the swap
        ("BGR888", "NO_CHANGE", True),
        ("BGR_PLANAR", "BGR2RGB", False),
    ],
)
def test_colour_order(image_format, conversion, eats_bgr):
    preprocess = Preprocess(
        (4, 4), norm="EQUAL", image_format=image_format, color_conversion=conversion
    )
    image = np.zeros((4, 4, 3), np.uint8)
    image[...] = (10, 20, 30)
    tensor, _ = VdspOperation(preprocess)(image)
    expected = [30, 20, 10] if eats_bgr else [10, 20, 30]
    assert tensor[:, 0, 0].tolist() == expected


def test_the_first_mean_belongs_to_the_first_channel_after_the_swap():
    preprocess = Preprocess(
        (2, 2), color_conversion="RGB2BGR", mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0)
    )
    image = np.zeros((2, 2, 3), np.uint8)
    image[...] = (123, 117, 104)
    tensor, _ = VdspOperation(preprocess)(image)
    np.testing.assert_array_equal(tensor, 0)


def test_scrfd_tensor_by_hand():
    image = np.full((320, 640, 3), 255, np.uint8)
    tensor, _ = VdspOperation(SCRFD)(image)
    assert tensor.dtype == np.float32
    assert tensor[0, 320, 0] == (255 - 127.5) / 128
    assert tensor[0, 0, 0] == -127.5 / 128


def test_the_tensor_is_written_into_a_given_buffer():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    buffer = np.full((2, 3, 640, 640), np.nan, np.float32)
    tensor, _ = VdspOperation(SCRFD)(image, out=buffer[1])
    assert np.shares_memory(tensor, buffer)
    np.testing.assert_array_equal(buffer[1], VdspOperation(SCRFD)(image)[0])


@pytest.mark.parametrize("half", [False, True])
def test_a_normalisation_is_scale_and_shift_or_stays_a_table(half):
    assert affine_normalisation(normalisation_table(SCRFD, half)) == (1 / 128, 127.5 / 128)
    equal = normalisation_table(dataclasses.replace(SCRFD, norm="EQUAL"), half)
    assert affine_normalisation(equal) == (1.0, 0.0)
    imagenet = normalisation_table(CARDS["pip_resnet18"].preprocess, half)
    assert affine_normalisation(imagenet) is None
    wrong = normalisation_table(SCRFD, half)
    wrong[2, 77] = np.nextafter(wrong[2, 77], np.float32(9))
    assert affine_normalisation(wrong) is None


def test_planes_are_the_tensor_before_its_normalisation(rng):
    image = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for preprocess in (SCRFD, dataclasses.replace(SCRFD, color_conversion="RGB2BGR")):
        operation = VdspOperation(preprocess)
        planes, placement = operation.planes(image, np.empty((3, 640, 640), np.uint8))
        tensor, expected = operation(image)
        np.testing.assert_array_equal((planes - np.float32(127.5)) / np.float32(128), tensor)
        assert placement == expected


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_rgb_picture_is_refused(bad):
    with pytest.raises(ConfigError, match="must have shape"):
        VdspOperation(SCRFD)(bad)


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_every_card_survives_the_way_through_json(tmp_path, card):
    read = read_vdsp(write(tmp_path, card.preprocess), card.preprocess)
    assert describe_differences(read, card.preprocess) == []
    np.testing.assert_array_equal(normalisation_table(read), normalisation_table(card.preprocess))


@pytest.mark.parametrize(
    ("op_type", "norm", "resize"), list(itertools.product(FIT_OF_OP, NORMS, RESIZES))
)
def test_every_rgb_operation_runs(tmp_path, op_type, norm, resize):
    fit = FIT_OF_OP[op_type]
    preprocess = Preprocess(
        (32, 48),
        fit=fit,
        norm=norm,
        resize=resize,
        resize_hw={"letterbox_pads": (32, 40), "stretch_crop": (40, 50)}.get(fit),
        pads=(0, 0, 4, 4) if fit == "letterbox_pads" else (0, 0, 0, 0),
        crop_xy=(2, 3) if "crop" in fit else (0, 0),
        crop_hw=(20, 30) if fit == "crop_stretch" else None,
        mean=(1.0, 2.0, 3.0),
        std=(4.0, 5.0, 6.0),
    )
    read = read_vdsp(write(tmp_path, preprocess), preprocess)
    assert dataclasses.replace(read, pad_value=preprocess.pad_value) == preprocess
    image = np.full((32, 48, 3), 100, np.uint8)
    tensor, _ = VdspOperation(read)(image)
    assert tensor.shape == (3, 32, 48)
    assert tensor[0, 16, 24] == pytest.approx(normalisation_table(read)[0, 100])


def test_sizes_left_out_come_from_the_model(tmp_path):
    read = read_vdsp(write(tmp_path, drop=("OimageWidth", "OimageHeight", "Padding")), SCRFD)
    assert read.input_hw == (640, 640)
    assert read.pad_value == SCRFD.pad_value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"OpType": "FUSION_OP_YUV_NV12_RESIZE_2RGB_NORM_TENSOR"}, "does not prepare an RGB"),
        ({"OimageWidth": 0}, "OimageWidth must be an integer"),
        ({"OimageWidth": -1}, "OimageWidth"),
        ({"OimageHeight": 10**9}, "OimageHeight"),
        ({"OimageHeight": 640.5}, "OimageHeight"),
        ({"OimageHeight": True}, "OimageHeight"),
        ({"Mean": [1, 2]}, "Mean must be three numbers"),
        ({"Mean": [float("nan")] * 3}, "Mean"),
        ({"Std": [0.0, 1.0, 1.0]}, "has a zero"),
        ({"Std": [1e-9, 1.0, 1.0]}, "has a zero"),
        ({"Padding": [0, 0, 300]}, "Padding must be three integers from 0 to 255"),
        ({"NormaType": "DIV256"}, "NormaType 'DIV256' is not known"),
        ({"ResizeType": "CUBIC"}, "ResizeType"),
        ({"ColorCvtCode": "YUV2RGB_NV12"}, "ColorCvtCode"),
        ({"IimageFormat": "YUV_NV12"}, "IimageFormat"),
        ({"EdgePaddingType": "REPLICATE"}, "EdgePaddingType"),
        ({"ResizeWidht": 3}, "did you mean 'ResizeWidth'"),
    ],
)
def test_values_no_card_would_take_are_refused_by_key(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_vdsp(write(tmp_path, **changes), SCRFD)
    assert "vdsp.json" in str(caught.value)


def test_an_absent_image_format_is_not_guessed(tmp_path):
    with pytest.raises(ConfigError, match="which means YUV_NV12"):
        read_vdsp(write(tmp_path, drop=("IimageFormat",)), SCRFD)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"OpType": 3}'])
def test_what_is_no_vdsp_file_is_refused(tmp_path, text):
    path = tmp_path / "vdsp.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"vdsp\.json"):
        read_vdsp(path, SCRFD)


def test_the_old_format_is_refused_with_its_reason(tmp_path):
    path = tmp_path / "vdsp.json"
    path.write_text('{"vdsp_op_type": 303}')
    with pytest.raises(ConfigError, match=r"before vamp 2\.1\.0"):
        read_vdsp(path, SCRFD)


def test_image_formats_are_the_four_for_rgb_and_bgr():
    assert set(IMAGE_FORMATS) == {"RGB_PLANAR", "BGR_PLANAR", "RGB888", "BGR888"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"std": (127.5, 127.5, 127.5)}, "normalisation"),
        ({"norm": "DIV255"}, "normalisation"),
        ({"color_conversion": "RGB2BGR"}, "BGR"),
        ({"input_hw": (256, 256)}, "input_hw"),
        ({"anchor": "top_left"}, "anchor"),
        ({"resize": "BILINEAR_PILLOW"}, "resize"),
        ({"pad_value": (114, 114, 114)}, "pad_value"),
    ],
)
def test_every_difference_that_matters_is_reported(change, word):
    lines = describe_differences(dataclasses.replace(SCRFD, **change), SCRFD)
    assert len(lines) == 1
    assert word in lines[0]


def test_spellings_of_the_same_thing_are_no_difference():
    planar = dataclasses.replace(SCRFD, image_format="BGR888", color_conversion="BGR2RGB")
    assert describe_differences(planar, SCRFD) == []
