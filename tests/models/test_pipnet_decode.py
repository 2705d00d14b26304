"""PIPNet's decoder against the authors' numbers, hand-made maps, and its own likely mistakes."""

import inspect
import types
from pathlib import Path
from typing import Dict

import numpy as np
import pytest
from facezoo.errors import DecodeError, InputError
from facezoo.models.pipnet import decode as decoder
from facezoo.models.pipnet.decode import (
    MeanFace,
    compute_meanface,
    decode,
    decode_maps,
    format_meanface,
    load_meanface,
    read_meanface,
)
from facezoo.results import Placement, RawOutputs
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ("cls", "x", "y", "nb_x", "nb_y")
TOLERANCE = 1e-5  # of the golden README, in [0, 1] of the crop


def golden_maps(seed: int, landmarks: int = 98) -> Dict[str, np.ndarray]:
    """The maps of a seed, drawn as the golden README says."""
    rng = np.random.Generator(np.random.PCG64(seed))
    one, ten = (1, landmarks, 8, 8), (1, 10 * landmarks, 8, 8)
    drawn = (
        rng.standard_normal(one),
        rng.uniform(0, 1, one),
        rng.uniform(0, 1, one),
        1.5 * rng.standard_normal(ten),
        1.5 * rng.standard_normal(ten),
    )
    return {name: values.astype(np.float32) for name, values in zip(NAMES, drawn)}


def golden_batch(seeds) -> Dict[str, np.ndarray]:
    single = [golden_maps(int(seed)) for seed in seeds]
    return {name: np.concatenate([maps[name] for maps in single]) for name in NAMES}


def maps_of(points_xy: np.ndarray, face: MeanFace, height: int, width: int):
    """Maps on which every landmark and every neighbour predicts exactly ``points_xy`` (N, 2)."""
    count, neighbors = face.neighbors.shape
    cells = points_xy * (width, height)
    corner = np.minimum(np.floor(cells), (width - 1, height - 1))
    maps = {name: np.full((1, count, height, width), -9.0, np.float32) for name in NAMES[:3]}
    for name in NAMES[3:]:
        maps[name] = np.full((1, count * neighbors, height, width), -9.0, np.float32)
    for n, (column, row) in enumerate(corner.astype(int)):
        maps["cls"][0, n, row, column] = 0.5 + n / 100
        maps["x"][0, n, row, column], maps["y"][0, n, row, column] = cells[n] - corner[n]
        for k, neighbor in enumerate(face.neighbors[n]):
            offset = cells[neighbor] - corner[n]
            maps["nb_x"][0, n * neighbors + k, row, column] = offset[0]
            maps["nb_y"][0, n * neighbors + k, row, column] = offset[1]
    return maps


def own_face(count: int = 6, neighbors: int = 3) -> MeanFace:
    points = np.random.default_rng(1).uniform(0, 1, (count, 2))
    return MeanFace.from_points(points, neighbors)


@pytest.fixture(scope="module")
def recorded(golden: Path):
    return np.load(golden / "pipnet" / "pipnet_decode.npz")


@pytest.fixture(scope="module")
def wflw() -> MeanFace:
    return load_meanface("WFLW", 10)


@pytest.mark.parametrize(("dataset", "longest"), [("WFLW", 17), ("300W", 22)])
def test_index_tables_equal_the_authors(golden, dataset, longest):
    expected = np.load(golden / "pipnet" / f"pipnet_meanface_{dataset}.npz")
    face = MeanFace.from_points(expected["meanface"], int(expected["num_nb"]))
    landmark, slot = np.divmod(face.reverse.T.ravel(), 10)
    assert np.array_equal(face.neighbors, expected["meanface_indices"])
    assert np.array_equal(landmark, expected["reverse_index1"])
    assert np.array_equal(slot, expected["reverse_index2"])
    assert len(face.reverse) == expected["max_len"] == longest


def test_the_packaged_mean_face_is_the_authors(golden, wflw):
    expected = np.load(golden / "pipnet" / "pipnet_meanface_WFLW.npz")["meanface"]
    assert np.array_equal(wflw.points_xy, expected)


def test_a_mean_face_is_written_with_all_its_digits(tmp_path, wflw):
    (tmp_path / "meanface.txt").write_text(format_meanface(wflw.points_xy))
    assert np.array_equal(read_meanface(tmp_path / "meanface.txt"), wflw.points_xy)
    assert (tmp_path / "meanface.txt").read_bytes() == decoder.PACKAGED["WFLW"].read_bytes()


def test_the_seeds_path_holds_the_packaged_mean_face(repository):
    path = repository / "face_alignment" / "pipnet" / "source_code" / "meanface.txt"
    assert path.read_bytes() == decoder.PACKAGED["WFLW"].read_bytes()


def test_seeded_maps_are_the_recorded_ones(recorded):
    maps = golden_maps(int(recorded["wflw_seeds"][0]))
    heads = [maps[name].ravel()[:8] for name in NAMES]
    assert np.array_equal(heads, recorded["wflw_maps_seed0_head"])


def test_wflw_decode_equals_the_authors(recorded, wflw):
    crops = decode_maps(golden_batch(recorded["wflw_seeds"]), wflw)
    merged, own = crops.points_xy.reshape(10, -1), crops.own_xy.reshape(10, -1)
    np.testing.assert_allclose(merged, recorded["wflw_lms_merge"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(own, recorded["wflw_lms_pred"], rtol=0, atol=TOLERANCE)
    assert np.array_equal(crops.scores, recorded["wflw_max_cls"])
    assert crops.points_xy.dtype == crops.scores.dtype == np.float32


def test_300w_decode_equals_the_authors(golden, recorded):
    points = np.load(golden / "pipnet" / "pipnet_meanface_300W.npz")["meanface"]
    face = MeanFace.from_points(points, 10)
    crops = decode_maps(golden_maps(int(recorded["w300_seed"]), 68), face)
    merged, own = crops.points_xy.ravel(), crops.own_xy.ravel()
    np.testing.assert_allclose(merged, recorded["w300_lms_merge"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(own, recorded["w300_lms_pred"], rtol=0, atol=TOLERANCE)
    assert np.array_equal(crops.scores[0], recorded["w300_max_cls"])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("best // width", "best / width"),
        ("np.resize(channels, max_len)", "np.pad(channels, (0, max_len - len(channels)))"),
        ("len(meanface.reverse) + 1", "len(meanface.reverse)"),
        ("best % width", "best // width"),
    ],
    ids=["true division", "no repetition", "own prediction left out", "row for column"],
)
def test_a_wrong_decoder_does_not_pass(recorded, right, wrong):
    source = inspect.getsource(decoder)
    assert source.count(right) == 1
    mutant = types.ModuleType(decoder.__name__ + "_mutant")
    mutant.__dict__.update({"__package__": decoder.__package__, "__file__": decoder.__file__})
    exec(compile(source.replace(right, wrong), "mutant", "exec"), mutant.__dict__)
    crops = mutant.decode_maps(golden_batch([7000]), mutant.load_meanface("WFLW", 10))
    assert np.abs(crops.points_xy.ravel() - recorded["wflw_lms_merge"][0]).max() > 1e-2


def test_a_wrong_mean_face_does_not_pass(recorded, wflw):
    other = MeanFace.from_points(np.roll(wflw.points_xy, 33, axis=0), 10)
    crops = decode_maps(golden_batch([7000]), other)
    assert np.abs(crops.points_xy.ravel() - recorded["wflw_lms_merge"][0]).max() > 1e-2


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    batch=st.integers(1, 3),
)
def test_known_points_come_back_on_any_grid(seed, height, width, batch):
    face = own_face()
    points = np.random.default_rng(seed).uniform(0, 0.999, (batch, 6, 2))
    single = [maps_of(each, face, height, width) for each in points]
    crops = decode_maps({n: np.concatenate([m[n] for m in single]) for n in NAMES}, face)
    np.testing.assert_allclose(crops.points_xy, points, rtol=0, atol=1e-5)
    np.testing.assert_allclose(crops.own_xy, points, rtol=0, atol=1e-5)
    np.testing.assert_allclose(crops.scores, np.tile(0.5 + np.arange(6) / 100, (batch, 1)), 1e-6)


def test_repeated_predictions_weigh_more():
    # Points on a line at 0, 1, 3 with one neighbour each: 0 -> 1, 1 -> 0, 3 -> 1. Landmark 1 is
    # predicted twice, landmark 0 once and so twice by repetition, landmark 2 by nobody.
    line = [(0.0, 0.0), (1.0, 0.0), (3.0, 0.0)]
    with pytest.raises(InputError, match=r"landmarks \[2\] are not among the 1 nearest"):
        MeanFace.from_points(line, 1)
    face = MeanFace.from_points([*line, (3.5, 0.0)], 1)
    assert face.neighbors.ravel().tolist() == [1, 0, 3, 2]
    assert face.reverse.tolist() == [[1, 0, 3, 2]]
    face = MeanFace.from_points(line, 2)
    # Landmark 0 is slot 0 of landmark 1 (channel 2) and slot 1 of landmark 2 (channel 5).
    assert face.reverse.tolist() == [[2, 0, 1], [5, 4, 3]]


def test_shorter_lists_are_repeated_from_their_start(wflw):
    counts = [len(np.unique(column)) for column in wflw.reverse.T]
    shortest = int(np.argmin(counts))
    column = wflw.reverse[:, shortest].tolist()
    assert counts[shortest] == 3
    assert column == (column[:3] * 6)[:17]


def test_coinciding_points_are_each_others_neighbours_not_their_own():
    face = MeanFace.from_points([(0.5, 0.5), (0.5, 0.5), (0.9, 0.9)], 2)
    assert all(n not in neighbors for n, neighbors in enumerate(face.neighbors.tolist()))


def test_points_come_back_in_the_pictures_pixels():
    face = own_face()
    points = np.random.default_rng(5).uniform(0, 0.999, (6, 2))
    # A crop of 100 x 50 pixels at (30, 20) of a 640 x 480 picture, stretched to 256 x 256.
    placement = Placement((2.56, 5.12), -30 * 2.56, -20 * 5.12, (256, 256), (480, 640))
    raw = RawOutputs(maps_of(points, face, 8, 8), (placement,))
    (found,) = decode(raw, meanface=face.points_xy, num_neighbors=3)
    expected = points * (100, 50) + (30, 20)
    np.testing.assert_allclose(found.points_xy, expected, rtol=0, atol=1e-3)
    assert found.points_xy.dtype == np.float32
    assert found.scores.shape == (6,)
    assert found.image_hw == (480, 640)
    assert len(found) == 6
    assert repr(found) == "Landmarks(6 points in 640x480, mean score 0.525)"


def test_no_picture_is_no_landmarks():
    face = own_face()
    one = maps_of(np.full((6, 2), 0.5), face, 8, 8)
    raw = RawOutputs({name: maps[:0] for name, maps in one.items()}, ())
    assert decode(raw, meanface=face.points_xy, num_neighbors=3) == []


def test_half_precision_maps_are_taken(recorded, wflw):
    halves = {name: maps.astype(np.float16) for name, maps in golden_maps(7000).items()}
    crops = decode_maps(halves, wflw)
    assert np.median(np.abs(crops.points_xy.ravel() - recorded["wflw_lms_merge"][0])) < 1e-3


def test_the_first_of_equal_cells_wins():
    face = own_face()
    maps = maps_of(np.full((6, 2), 0.01), face, 2, 2)
    maps["cls"][:] = 1.0
    assert np.array_equal(decode_maps(maps, face).own_xy, np.full((1, 6, 2), 0.01, np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nb_x": None}, r"output 'nb_x' not found; there are \['cls', 'nb_y', 'x', 'y'\]"),
        ({"cls": (1, 68, 8, 8)}, r"'cls' must have shape \(B, 98, h, w\) .* got \(1, 68, 8, 8\)"),
        ({"cls": (98, 8, 8)}, r"'cls' must have shape"),
        ({"nb_y": (1, 490, 8, 8)}, r"'nb_y' must have shape \(1, 980, 8, 8\) .* 10 neighbours"),
        ({"x": (1, 98, 4, 4)}, r"'x' must have shape \(1, 98, 8, 8\)"),
        ({"y": (2, 98, 8, 8)}, r"'y' must have shape \(1, 98, 8, 8\)"),
    ],
)
def test_maps_that_do_not_fit_are_refused(wflw, change, message):
    maps = golden_maps(7000)
    for name, shape in change.items():
        maps.pop(name)
        if shape:
            maps[name] = np.zeros(shape, np.float32)
    with pytest.raises(DecodeError, match=message):
        decode_maps(maps, wflw)


def test_placements_must_match_the_batch():
    with pytest.raises(DecodeError, match="0 placements for 1 images"):
        decode(RawOutputs(golden_maps(7000), ()), meanface="WFLW", num_neighbors=10)


@pytest.mark.parametrize(
    ("points", "neighbors", "message"),
    [
        (np.zeros((4, 3)), 2, r"must be \(N, 2\) finite numbers, got \(4, 3\)"),
        (np.full((4, 2), np.nan), 2, "finite"),
        (np.zeros((4, 2)), 4, "num_neighbors must be from 1 to 3 .* got 4"),
        (np.zeros((4, 2)), 0, "num_neighbors must be from 1 to 3 .* got 0"),
    ],
)
def test_mean_faces_that_cannot_be_used_are_refused(points, neighbors, message):
    with pytest.raises(InputError, match=message):
        load_meanface(points, neighbors)


def test_an_unknown_mean_face_is_named():
    with pytest.raises(InputError, match=r"no mean face 'wflw'; expected one of \['WFLW'\]"):
        load_meanface("wflw", 10)


def test_tables_are_made_once():
    points = [(0.1, 0.2), (0.3, 0.4), (0.5, 0.7)]
    assert load_meanface(points, 2) is load_meanface(np.array(points), 2)
    assert load_meanface("WFLW", 10) is load_meanface("WFLW", 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [("0.1 0.2 0.3", "3 numbers"), ("", "0 numbers"), ("0.1 abc", "abc")],
)
def test_files_that_are_no_mean_face_are_named(tmp_path, text, message):
    path = tmp_path / "meanface.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"meanface\.txt' is not a mean face: .*{message}"):
        read_meanface(path)
    with pytest.raises(InputError, match=r"absent\.txt"):
        read_meanface(tmp_path / "absent.txt")


def test_mean_face_of_own_annotations():
    faces = np.array([[(0.0, 0.0), (1.0, 0.5)], [(0.5, 0.25), (0.5, 1.0)]])
    assert compute_meanface(faces).tolist() == [[0.25, 0.125], [0.75, 0.75]]
    with pytest.raises(InputError, match=r"\(M, N, 2\), got \(0, 98, 2\)"):
        compute_meanface(np.zeros((0, 98, 2)))
    with pytest.raises(InputError, match="finite"):
        compute_meanface(np.full((1, 2, 2), np.nan))
