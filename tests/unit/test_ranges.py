"""What calibration sees, and the ranges it chooses: by hand, and against brute force."""

import weakref

import numpy as np
import onnx
import pytest
from facezoo.compiler.ranges import BINS, LEVELS, TensorStats, collect_stats, estimate_range
from facezoo.errors import GraphError, InputError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper


def stats_of(values):
    """Count values as calibration does, with NumPy."""
    low, high = np.float32(min(values)), np.float32(max(values))
    counts, _ = np.histogram(values, BINS, (low, high))
    return TensorStats(np.array([low]), np.array([high]), counts.astype(float))


def one_in_each_bin(low, high):
    return TensorStats(np.float32([low]), np.float32([high]), np.ones(BINS))


def gains(gain=2.0):
    """Two channels: x, and x times a gain."""
    weight = numpy_helper.from_array(np.float32([[1], [gain]]).reshape(2, 1, 1, 1), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "gains",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 1, 1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def feeds_of(*rows):
    return [{"x": np.float32(row).reshape(1, 1, 1, 2)} for row in rows]


# What is seen


def test_the_ends_of_every_channel_are_those_of_all_pictures():
    stats = collect_stats(gains(), feeds_of([-1, 2], [3, 0.5]), histograms=False)
    assert set(stats) == {"x", "c", "y"}
    assert stats["c"].low.tolist() == [-1, -2]
    assert stats["c"].high.tolist() == [3, 6]
    assert stats["c"].range == (-2, 6)
    assert stats["y"].low.tolist() == [0, 0]
    assert stats["c"].counts.size == 0


def test_every_value_is_counted_once_and_the_largest_too():
    counts = collect_stats(gains(), feeds_of([0, 0.7], [0.3, 1]), histograms=True)["y"].counts
    # Of [0, 2]: 0 twice, 0.7 and 1.4, 0.3 and 0.6, 1 on an edge, 2.
    assert counts.sum() == 8
    assert counts[0] == 2
    assert [counts[int(value / 2 * BINS)] for value in (0.7, 1.4, 0.3, 0.6)] == [1, 1, 1, 1]
    assert counts[BINS // 2 - 1 : BINS // 2 + 1].sum() == 1
    assert counts[-1] == 1


def test_a_channel_that_never_changes_is_counted():
    stats = collect_stats(gains(0.0), feeds_of([-1, 2]), histograms=True)
    assert stats["c"].constant_channels == 1
    assert stats["x"].constant_channels == 0


def test_numbers_that_are_not_finite_are_refused_by_name():
    with pytest.raises(GraphError, match="tensor 'x' is not finite"):
        collect_stats(gains(), feeds_of([0, np.inf]), histograms=False)
    with pytest.raises(GraphError, match="tensor 'c' is not finite"):
        collect_stats(gains(3e38), feeds_of([0, 2]), histograms=False)


def test_no_data_is_no_range():
    with pytest.raises(InputError, match="no calibration data"):
        collect_stats(gains(), [], histograms=False)


def test_data_of_another_shape_is_named():
    with pytest.raises(GraphError, match="does not run on this data"):
        collect_stats(gains(), [{"x": np.zeros((1, 1, 2), np.float32)}], histograms=False)


def test_pictures_pass_one_at_a_time():
    alive = []

    class Watched:
        def __iter__(self):
            for value in range(5):
                # Who still holds a picture before the last would hold all of them.
                assert sum(ref() is not None for ref in alive) <= 1
                array = np.full((1, 1, 1, 2), value, np.float32)
                alive.append(weakref.ref(array))
                yield {"x": array}
                del array

    collect_stats(gains(), Watched(), histograms=True)
    assert len(alive) == 10  # twice: ends, then histograms


# What is chosen


@pytest.mark.parametrize(
    ("ends", "expected"),
    [((-1, 3), (-1, 3)), ((2, 5), (0, 5)), ((-5, -2), (-5, 0)), ((0, 0), (0, 0))],
)
@pytest.mark.parametrize("mode", ["max", "percentile", "mse", "kl_divergence"])
def test_even_values_are_covered_from_end_to_end_and_zero_with_them(mode, ends, expected):
    assert estimate_range(one_in_each_bin(*ends), mode, 1.0) == pytest.approx(expected, abs=0.06)


def test_a_percentile_cuts_both_ends_or_only_the_top():
    assert estimate_range(one_in_each_bin(0, BINS), "percentile", 0.75) == (0, 0.75 * BINS)
    half = BINS / 2
    assert estimate_range(one_in_each_bin(-half, half), "percentile", 0.5) == (-half / 2, half / 2)
    # The default share of 2,048 values is all of them.
    assert estimate_range(one_in_each_bin(0, BINS), "percentile") == (0, BINS)


def square_error(values, low, high):
    """Round values to LEVELS steps and clip them: the error of 8 bits, without any histogram."""
    step = (high - low) / LEVELS
    return float(
        np.sum((np.clip(np.rint((values - low) / step) * step + low, low, high) - values) ** 2)
    )


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31), outlier=st.floats(1.5, 40), both=st.booleans(), n=st.integers(1, 9)
)
def test_mse_finds_nearly_the_smallest_error(seed, outlier, both, n):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 0.3, 3000), np.full(n, outlier)])
    values = (values if both else np.abs(values)).astype(np.float32)
    low, high = estimate_range(stats_of(values), "mse")
    found = square_error(values, low, high)
    ends = np.linspace(0.05, 1, 25) * values.max()
    best = min(square_error(values, min(low, 0), end) for end in ends)
    assert found <= 1.35 * best + 1e-3


def test_one_wild_value_does_not_stretch_the_range(rng):
    values = np.append(np.abs(rng.normal(0, 1, 200_000)), 300.0).astype(np.float32)
    assert estimate_range(stats_of(values), "max") == (0, 300)
    # (300 - R)^2 + n (R / 255)^2 / 12 is least where R = 300 / (1 + n / (12 * 255^2)).
    best = 300 / (1 + values.size / (12 * LEVELS**2))
    grid = 16 * 300 / BINS
    assert estimate_range(stats_of(values), "mse")[1] == pytest.approx(best, abs=grid)
    low, high = estimate_range(stats_of(values), "kl_divergence")
    assert low == 0
    assert 3 < high < 150


def test_signs_are_kept_apart_by_kl(rng):
    values = np.append(rng.normal(0, 1, 100_000), [-2.0, 90.0]).astype(np.float32)
    low, high = estimate_range(stats_of(values), "kl_divergence")
    assert low == pytest.approx(values.min(), rel=0.05)
    assert 3 < high < 60


def test_an_unknown_mode_is_named():
    with pytest.raises(InputError, match=r"'minmax' is not known; expected one of \['max'"):
        estimate_range(one_in_each_bin(0, 1), "minmax")


def test_the_graph_is_left_as_it_was():
    model = gains()
    before = model.SerializeToString()
    collect_stats(model, feeds_of([0, 1]), histograms=False)
    assert model.SerializeToString() == before
    assert [entry.name for entry in onnx.load_model_from_string(before).graph.output] == ["y"]
