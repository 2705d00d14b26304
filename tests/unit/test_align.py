"""Five points to an upright crop: insightface's matrices and crops, and known transformations."""

import numpy as np
import pytest
from facezoo.errors import InputError
from facezoo.image.align import TEMPLATE_XY, align_face, similarity_matrix
from facezoo.image.files import read_image_rgb
from hypothesis import given
from hypothesis import strategies as st

# Photos of the recorded matrices; crowd_test, left_face and rot_r90 have their first face only.
PHOTOS = {
    "t1_jpg": "photos/t1.jpg",
    "src_meeting_jpg": "photos/src_meeting.jpg",
    "crowd_test_jpg": "photos/crowd_test.jpg",
    "left_face_jpeg": "photos/left_face.jpeg",
    "rot_r90_jpg": "photos/rot_r90.jpg",
}


@pytest.fixture(scope="module")
def recorded(golden):
    return np.load(golden / "magface" / "alignment.npz")


@pytest.mark.parametrize("photo", PHOTOS)
def test_matrices_equal_the_originals(recorded, photo):
    matrices = recorded.get(f"{photo}.M_all", recorded[f"{photo}.M"][None])
    for landmarks, expected in zip(recorded[f"{photo}.kps"], matrices):
        np.testing.assert_allclose(similarity_matrix(landmarks), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("photo", ["t1_jpg", "src_meeting_jpg"])
@pytest.mark.parametrize(("place", "size"), [(0, 112), (1, 128), (2, 224)])
def test_matrices_of_other_sizes_equal_the_originals(recorded, photo, place, size):
    expected = recorded[f"{photo}.M_112_128_224"][place]
    found = similarity_matrix(recorded[f"{photo}.kps"][0], size)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize("photo", PHOTOS)
def test_crops_equal_the_originals(recorded, shared, photo):
    expected = np.load(shared / "golden" / "numerics" / "scrfd_detect.npz")[f"{photo}.crop"]
    image = read_image_rgb(shared / "assets" / PHOTOS[photo])
    crop = align_face(image, recorded[f"{photo}.kps"][0])
    difference = np.abs(crop[..., ::-1].astype(int) - expected)  # the original is BGR
    assert crop.shape == (112, 112, 3)
    assert crop.dtype == np.uint8
    assert difference.mean() <= 1.0


def test_points_on_the_template_are_left_where_they_are(rng):
    np.testing.assert_allclose(similarity_matrix(TEMPLATE_XY), np.eye(2, 3), atol=1e-5)
    image = rng.integers(0, 256, (200, 150, 3), dtype=np.uint8)
    assert np.abs(align_face(image, TEMPLATE_XY).astype(int) - image[:112, :112]).max() <= 1


def test_a_crop_of_128_has_a_margin_of_8_on_each_side():
    expected = [[1.0, 0.0, 8.0], [0.0, 1.0, 0.0]]
    np.testing.assert_allclose(similarity_matrix(TEMPLATE_XY, 128), expected, atol=1e-5)


def test_a_size_of_both_kinds_has_no_margin():
    matrix = similarity_matrix(TEMPLATE_XY, 896)
    np.testing.assert_allclose(matrix, 8.0 * np.eye(2, 3), atol=1e-3)


def test_a_crop_beyond_the_picture_is_black():
    image = np.full((112, 112, 3), 255, np.uint8)
    crop = align_face(image, TEMPLATE_XY + 56)
    assert (crop[:55, :55] == 255).all()
    assert (crop[57:, 57:] == 0).all()


@given(
    angle=st.floats(-np.pi, np.pi),
    scale=st.floats(0.2, 5.0),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
)
def test_any_rotation_scale_and_shift_is_undone(angle, scale, shift):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = TEMPLATE_XY @ turn.T + shift
    matrix = similarity_matrix(moved)
    back = moved @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(back, TEMPLATE_XY, atol=5e-3)


def test_a_mirrored_face_is_not_mirrored_back():
    mirrored = TEMPLATE_XY * [-1, 1] + [112, 0]
    turn = similarity_matrix(mirrored)[:, :2]
    assert np.linalg.det(turn) > 0
    np.testing.assert_allclose(turn[0, 0], turn[1, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("landmarks", "size", "message"),
    [
        (np.zeros((4, 2)), 112, "five finite points"),
        (np.full((5, 2), np.nan), 112, "five finite points"),
        (np.full((5, 2), 7.0), 112, r"are at \[7.0, 7.0\]"),
        (TEMPLATE_XY, 100, "multiple of 112 or 128, got 100"),
        (TEMPLATE_XY, 0, "got 0"),
        (TEMPLATE_XY, -112, "got -112"),
    ],
)
def test_what_cannot_be_aligned_is_refused(landmarks, size, message):
    with pytest.raises(InputError, match=message):
        similarity_matrix(landmarks, size)
