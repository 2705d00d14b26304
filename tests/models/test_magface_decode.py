"""Embeddings and scores out of raw outputs: kept as they are, refused by name if unusable."""

import numpy as np
import pytest
from facezoo.errors import DecodeError
from facezoo.models.magface.decode import decode as decode_embeddings
from facezoo.models.sdd_fiqa.decode import decode as decode_scores
from facezoo.results import Placement, RawOutputs

PLACEMENT = Placement((1.0, 1.0), 0.0, 0.0, (112, 112), (112, 112))


def raw(values, name="embedding"):
    return RawOutputs({name: np.asarray(values, np.float32)}, (PLACEMENT,) * len(values))


def test_embeddings_keep_their_length():
    embedding, other = decode_embeddings(raw([[3.0, 4.0], [0.0, -2.0]]))
    assert embedding.vector.tolist() == [3.0, 4.0]
    assert embedding.norm == 5.0
    np.testing.assert_allclose(embedding.unit, [0.6, 0.8], rtol=1e-6)
    assert embedding.unit.dtype == np.float32
    assert other.norm == 2.0
    assert repr(embedding) == "Embedding(2 values, norm 5.00)"


def test_numbered_outputs_and_empty_batches_are_read():
    assert decode_embeddings(raw([[1.0, 0.0]], name="516"))[0].norm == 1.0
    assert decode_embeddings(RawOutputs({"516": np.zeros((0, 512), np.float32)}, ())) == []
    assert decode_scores(RawOutputs({"quality": np.zeros((0, 1), np.float32)}, ())) == []


def test_half_precision_is_measured_in_full():
    vector = np.full((1, 512), 200.0, np.float16)
    assert abs(decode_embeddings(raw(vector))[0].norm - 200.0 * 512**0.5) < 1e-3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2.0], [np.nan, 1.0]], "image 1 of the batch is not finite or all zero"),
        ([[np.inf, 2.0]], "image 0"),
        ([[0.0, 0.0]], "image 0"),
    ],
)
def test_unusable_embeddings_are_refused(values, message):
    with pytest.raises(DecodeError, match=message):
        decode_embeddings(raw(values))


def test_scores_are_neither_clipped_nor_scaled():
    scores = decode_scores(raw([[-7.5], [132.25]], name="quality"))
    assert [score.value for score in scores] == [-7.5, 132.25]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0], [np.nan]], "score of image 1 of the batch is not finite"),
        ([[1.0, 2.0]], r"'quality' must have shape \(1, 1\), got \(1, 2\)"),
        ([1.0], r"'quality' must have shape \(1, 1\), got \(1,\)"),
    ],
)
def test_unusable_scores_are_refused(values, message):
    with pytest.raises(DecodeError, match=message):
        decode_scores(raw(values, name="quality"))


@pytest.mark.parametrize("decode", [decode_embeddings, decode_scores])
@pytest.mark.parametrize("names", [[], ["a", "b"]])
def test_any_other_number_of_outputs_is_refused(decode, names):
    arrays = {name: np.ones((1, 1), np.float32) for name in names}
    with pytest.raises(DecodeError, match=r"expected one output .* got"):
        decode(RawOutputs(arrays, (PLACEMENT,)))


def test_batches_of_another_size_are_refused():
    outputs = RawOutputs({"embedding": np.ones((2, 8), np.float32)}, (PLACEMENT,))
    with pytest.raises(DecodeError, match=r"must have shape \(1, D\), got \(2, 8\)"):
        decode_embeddings(outputs)
