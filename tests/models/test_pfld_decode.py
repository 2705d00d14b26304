"""PFLD's decoder, crop and export: by hand, and against the authors' code."""

import numpy as np
import onnx
import pytest
from facezoo.errors import DecodeError, GraphError
from facezoo.image.crop import SquareCrop
from facezoo.models.pfld.decode import decode
from facezoo.models.pfld.graph import export_released
from facezoo.results import Landmarks, Placement, RawOutputs
from onnx import TensorProto, helper, numpy_helper


def raw(values, image_hw=(200, 200)):
    height, width = image_hw
    place = Placement((112 / width, 112 / height), 0.0, 0.0, (112, 112), image_hw)
    return RawOutputs({"points": values}, (place,) * len(values))


def test_points_are_shares_of_the_crop():
    (found,) = decode(raw(np.array([[0.0, 0.5, 1.0, -0.25]], np.float32), (100, 200)))
    np.testing.assert_allclose(found.points_xy, [[0, 50], [200, -25]], atol=1e-4)
    assert found.scores.shape == (0,)
    assert Landmarks.from_dict(found.to_dict()).scores.shape == (0,)
    assert repr(found) == "Landmarks(2 points in 200x100)"


def test_crop_and_errors_equal_the_authors(golden):
    stored = np.load(golden / "pfld" / "crops.npz")
    for points, side, unit in zip(stored["points"], stored["sides"], stored["units"]):
        first, last = points.min(axis=0), points.max(axis=0)
        # The authors' whole pixels; their corner is truncated twice, ours is rounded once.
        extent = [*np.trunc(first), *(np.trunc(last) + 1)]
        crop = SquareCrop.around(extent, (480, 640), 1.2)
        assert crop.side == side
        assert np.abs(crop.to_unit(points) - unit).max() <= 1.01 / side


@pytest.mark.parametrize("box", [(-30, -20, 20, 30), (600, 440, 700, 540), (900, 900, 950, 950)])
def test_a_crop_is_black_outside_the_photo(box):
    photo = np.full((480, 640, 3), 7, np.uint8)
    crop = SquareCrop.around(box, (480, 640), 1.5)
    cut = crop.cut(photo)
    assert cut.shape == (crop.side, crop.side, 3)
    y, x = np.mgrid[: crop.side, : crop.side]
    inside = (x + crop.left >= 0) & (x + crop.left < 640) & (y + crop.top >= 0)
    inside &= y + crop.top < 480
    np.testing.assert_array_equal(cut[..., 0], 7 * inside)
    marks = Landmarks(np.float32([[0, 0], [3, 4]]), np.zeros(0, np.float32), cut.shape[:2])
    moved = crop.to_photo(marks)
    np.testing.assert_array_equal(moved.points_xy[1], [crop.left + 3, crop.top + 4])
    assert moved.image_hw == (480, 640)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((1, 3), np.float32), "must have shape"),
        (np.zeros((1, 4, 1), np.float32), "must have shape"),
        (np.full((1, 4), np.nan, np.float32), "is not finite"),
    ],
)
def test_other_outputs_are_refused(values, message):
    with pytest.raises(DecodeError, match=message):
        decode(raw(values))


def small_graph(path, channels=196):
    """Write a graph as published: fixed batch, a Reshape to one row, other names."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(channels, 3)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["in"], ["mean"], kernel_shape=[112, 112]),
        helper.make_node("Reshape", ["mean", "row"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["out"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "pfld",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, channels])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([1, -1]), "row"),
        ],
    )
    opset = [helper.make_opsetid("", 11)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def test_the_export_frees_the_batch(tmp_path):
    source = small_graph(tmp_path / "published.onnx")
    card, worst = export_released(source, tmp_path / "named.onnx")
    assert card.id == "pfld_ghostone"
    assert worst < 1e-6
    named = onnx.load(tmp_path / "named.onnx")
    assert [one.name for one in named.graph.output] == ["points"]
    assert named.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_another_network_is_not_exported(tmp_path):
    source = small_graph(tmp_path / "other.onnx", channels=136)
    with pytest.raises(GraphError, match="not a PFLD of 98 landmarks"):
        export_released(source, tmp_path / "named.onnx")
    assert not (tmp_path / "named.onnx").exists()
