"""Fitting a picture to the input, and going back."""

import dataclasses

import numpy as np
import pytest
from facezoo.card import RESIZES, Preprocess
from facezoo.errors import ConfigError
from facezoo.image.resize import (
    auto_hw,
    fit_image,
    letterbox_size,
    placement_of,
    resize_image,
)
from hypothesis import given
from hypothesis import strategies as st

LETTERBOX = Preprocess(input_hw=(640, 640), fit="letterbox")
sides = st.integers(1, 700)


@pytest.mark.parametrize(
    ("image_hw", "expected"),
    [
        ((480, 640), (480, 640)),
        ((640, 480), (640, 480)),
        ((683, 1024), (426, 640)),  # 426.9 cut to 426
        ((1024, 683), (640, 426)),
        ((1, 1), (640, 640)),
        ((1, 5000), (1, 640)),  # never less than one pixel
    ],
)
def test_letterbox_size_by_hand(image_hw, expected):
    assert letterbox_size(image_hw, (640, 640), "floor") == expected


def test_letterbox_size_rounds_when_told():
    assert letterbox_size((683, 1024), (640, 640), "round") == (427, 640)


@pytest.mark.parametrize(
    ("image_hw", "expected"),
    [
        ((480, 640), (480, 640)),
        ((683, 1024), (448, 640)),  # 426 rows in 14 x 32
        ((1024, 683), (640, 448)),
        ((1024, 1024), (640, 640)),
        ((250, 250), (256, 256)),
        ((250, 90), (256, 96)),
        ((1, 5000), (32, 640)),
    ],
)
def test_an_input_is_as_much_as_the_picture_fills(image_hw, expected):
    preprocess = Preprocess((640, 640), fit="letterbox")
    assert auto_hw(image_hw, preprocess, 32) == expected


@given(sides, sides)
def test_an_input_that_follows_the_picture_holds_all_of_it(height, width):
    preprocess = Preprocess((96, 128), fit="letterbox")
    hw = auto_hw((height, width), preprocess, 32)
    placement = fit_image(
        np.zeros((height, width, 3), np.uint8), dataclasses.replace(preprocess, input_hw=hw)
    )[1]
    assert hw[0] % 32 == hw[1] % 32 == 0
    assert hw[0] <= 96 and hw[1] <= 128
    # Not smaller than in the usual input, unless that would enlarge it.
    rows = letterbox_size((height, width), (96, 128), "floor")[0]
    assert letterbox_size((height, width), hw, "floor")[0] >= min(rows, height)
    assert placement.input_hw == hw


def test_the_picture_lies_in_the_middle_on_the_pad_colour():
    image = np.full((320, 640, 3), 200, np.uint8)
    padded = dataclasses.replace(LETTERBOX, pad_value=(1, 2, 3))
    fitted, placement = fit_image(image, padded)
    assert (placement.pad_left, placement.pad_top) == (0, 160)
    assert fitted[159, 0].tolist() == [1, 2, 3]
    assert fitted[160, 0].tolist() == [200] * 3
    assert fitted[479, 639].tolist() == [200] * 3
    assert fitted[480, 639].tolist() == [1, 2, 3]


def test_the_picture_lies_at_the_top_left_when_told():
    fitted, placement = fit_image(
        np.full((320, 640, 3), 200, np.uint8), dataclasses.replace(LETTERBOX, anchor="top_left")
    )
    assert (placement.pad_left, placement.pad_top) == (0, 0)
    assert fitted[319, 0, 0] == 200
    assert fitted[320, 0, 0] == 0


@given(sides, sides, st.sampled_from(["center", "top_left"]), st.sampled_from(["floor", "round"]))
def test_going_back_is_exact_at_the_corners(height, width, anchor, rounding):
    preprocess = Preprocess((96, 128), fit="letterbox", anchor=anchor, rounding=rounding)
    fitted, placement = fit_image(np.full((height, width, 3), 255, np.uint8), preprocess)
    rows, columns = np.nonzero(fitted[..., 0])
    corners = np.array(
        [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], np.float64
    )
    np.testing.assert_allclose(placement.undo(corners), [[0, 0], [width, height]], atol=0.01)


def test_one_scale_for_both_axes_is_the_height_s():
    image = np.zeros((683, 1024, 3), np.uint8)
    _, own = fit_image(image, LETTERBOX)
    _, single = fit_image(image, dataclasses.replace(LETTERBOX, axis_scale="height"))
    assert own.scale_xy == (640 / 1024, 426 / 683)
    assert single.scale_xy == (426 / 683, 426 / 683)


def test_stretch_has_a_scale_of_its_own_for_each_axis():
    fitted, placement = fit_image(np.zeros((50, 200, 3), np.uint8), Preprocess((100, 100)))
    assert fitted.shape == (100, 100, 3)
    assert placement.scale_xy == (0.5, 2.0)


def test_stretch_then_crop():
    image = np.arange(256, dtype=np.uint8)[None, :, None].repeat(256, 0).repeat(3, 2)
    preprocess = Preprocess((224, 224), fit="stretch_crop", resize_hw=(256, 256), crop_xy=(16, 16))
    fitted, placement = fit_image(image, preprocess)
    assert fitted[0, 0, 0] == 16
    np.testing.assert_allclose(placement.undo(np.array([[0.0, 0.0]])), [[16, 16]])


def test_crop_then_stretch():
    image = np.zeros((100, 100, 3), np.uint8)
    preprocess = Preprocess((40, 80), fit="crop_stretch", crop_xy=(10, 20), crop_hw=(20, 40))
    _, placement = fit_image(image, preprocess)
    np.testing.assert_allclose(
        placement.undo(np.array([[0.0, 0.0], [80, 40]])), [[10, 20], [50, 40]]
    )


def test_explicit_pads():
    preprocess = Preprocess((60, 80), fit="letterbox_pads", resize_hw=(40, 80), pads=(5, 15, 0, 0))
    fitted, placement = fit_image(np.full((20, 40, 3), 9, np.uint8), preprocess)
    assert fitted[4, 0, 0] == 0
    assert fitted[5, 0, 0] == fitted[44, 79, 0] == 9
    assert fitted[45, 0, 0] == 0
    assert placement.pad_top == 5


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess((60, 80), fit="letterbox_pads", resize_hw=(40, 80), pads=(5, 5, 0, 0)),
        Preprocess((60, 80), fit="stretch_crop", resize_hw=(60, 80), crop_xy=(1, 0)),
        Preprocess((60, 80), fit="none"),
        Preprocess((60, 80), fit="sideways"),
        Preprocess((60, 80), resize="LANCZOS"),
    ],
)
def test_geometry_that_cannot_be_is_refused(preprocess):
    with pytest.raises(ConfigError):
        fit_image(np.zeros((20, 40, 3), np.uint8), preprocess)


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "stretch_crop", "crop_stretch", "none"])
def test_a_given_buffer_is_filled(fit):
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    preprocess = Preprocess((32, 32), fit=fit)
    buffer = np.full((32, 32, 3), 77, np.uint8)
    fitted, _ = fit_image(image, preprocess, buffer)
    assert fitted is buffer
    np.testing.assert_array_equal(buffer, fit_image(image, preprocess)[0])


@pytest.mark.parametrize("resize", RESIZES)
def test_every_resize_type_runs_and_keeps_flat_colour(resize):
    resized = resize_image(np.full((50, 70, 3), 90, np.uint8), (20, 30), resize)
    assert resized.shape == (20, 30, 3)
    assert np.all(resized == 90)


def test_pillow_averages_on_the_way_down_and_opencv_does_not():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8] = 255
    assert resize_image(stripes, (8, 8), "BILINEAR_PILLOW").std() < 8
    assert resize_image(stripes, (8, 8), "BILINEAR_CV").max() == 0


def test_a_size_alone_says_where_a_picture_comes_to_lie():
    preprocess = dataclasses.replace(LETTERBOX, anchor="top_left")
    image = np.full((333, 500, 3), 9, np.uint8)
    assert placement_of((333, 500), preprocess) == fit_image(image, preprocess)[1]
