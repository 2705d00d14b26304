"""The crop from a detector's box: the authors' whole pixels, and the way back to the photo."""

import numpy as np
import pytest
from facezoo.models.pipnet.crop import DetectorCrop
from facezoo.results import Landmarks
from hypothesis import given
from hypothesis import strategies as st

HW = (1000, 1000)


@pytest.mark.parametrize(
    ("box", "crop"),
    [
        # 100 wide: the margin is 9, not 10, since 100 * (1.2 - 1) / 2 is a little below 10. The top
        # moves down, and width and height count the last pixel.
        ((100, 200, 200, 320), (91, 211, 208, 330)),
        # Fractions are cut off before anything else.
        ((100.9, 200.9, 200.9, 320.9), (91, 211, 208, 330)),
        # 55 wide: 5.5 becomes 5; 45 high: 4.5 becomes 4.
        ((10, 20, 65, 65), (5, 24, 69, 68)),
        # The photo ends the crop at its last pixels.
        ((0, 0, 1000, 1000), (0, 99, 999, 999)),
        ((900, 950, 1000, 1000), (891, 954, 999, 999)),
        # Where the authors' crop would be empty, one pixel is left.
        ((500, 500, 501, 501), (500, 500, 501, 501)),
        ((1000, 1000, 1000, 1000), (998, 998, 999, 999)),
    ],
)
def test_the_crop_of_a_box(box, crop):
    assert DetectorCrop.of(box, HW).box_xyxy == crop


def test_the_cut_leaves_out_what_the_size_counts():
    image = np.arange(40 * 60 * 3, dtype=np.int64).reshape(40, 60, 3)
    crop = DetectorCrop((10, 5, 30, 25), (40, 60))
    np.testing.assert_array_equal(crop.cut(image), image[5:25, 10:30])
    corners = np.array([[0, 0], [20, 20], [10, 5]], np.float32)
    marks = crop.to_photo(Landmarks(corners, np.ones(3, np.float32), (20, 20)))
    np.testing.assert_allclose(marks.points_xy, [[10, 5], [31, 26], [20.5, 10.25]])
    assert marks.points_xy.dtype == np.float32
    assert marks.image_hw == (40, 60)


@given(
    st.tuples(*[st.floats(0, 3000)] * 4),
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_any_box_leaves_a_crop_and_points_come_back(sides, image_hw, x, y):
    height, width = image_hw
    left, right = sorted(min(side, width) for side in sides[:2])
    top, bottom = sorted(min(side, height) for side in sides[2:])
    crop = DetectorCrop.of((left, top, right, bottom), image_hw)
    cut = crop.cut(np.zeros((height, width, 1), np.uint8))
    assert cut.size > 0
    # The authors' way back: the share of the crop, times the size that counts the last pixel.
    a, b, c, d = crop.box_xyxy
    points = np.array([[x * cut.shape[1], y * cut.shape[0]]], np.float32)
    if cut.shape[:2] == (d - b, c - a):
        found = crop.to_photo(Landmarks(points, np.ones(1, np.float32), cut.shape[:2]))
        expected = [[a + x * (c - a + 1), b + y * (d - b + 1)]]
        np.testing.assert_allclose(found.points_xy, expected, atol=0.01)
