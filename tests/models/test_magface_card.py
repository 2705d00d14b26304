"""What the recognition and quality cards say, against the files and the authors' tensors."""

import numpy as np
import pytest
from facezoo.image.preprocess import normalisation_table
from facezoo.models import CARDS, WEIGHTS
from facezoo.models.magface.card import MATCH_THRESHOLDS

RECOGNITION = ("magface_iresnet18", "magface_iresnet34", "magface_iresnet50", "magface_iresnet100")
QUALITY = ("sdd_fiqa_r50", "sdd_fiqa_mobilefacenet")


@pytest.mark.parametrize("card_id", RECOGNITION)
def test_magface_eats_bgr_from_zero_to_one(card_id):
    preprocess = CARDS[card_id].preprocess
    assert preprocess.swaps_channels
    expected = np.arange(256) / 255.0
    np.testing.assert_allclose(normalisation_table(preprocess), [expected] * 3, atol=1e-6)


def test_the_neutral_cards_state_the_input_alone():
    expected = (np.arange(256) - 127.5) / 127.5
    for card_id, swaps in (("arcface_rgb", False), ("arcface_bgr", True)):
        card = CARDS[card_id]
        assert card.preprocess.swaps_channels == swaps
        np.testing.assert_allclose(normalisation_table(card.preprocess), [expected] * 3, atol=1e-6)
        assert (card.weights, card.references) == ("", ())
        assert card_id not in MATCH_THRESHOLDS


@pytest.mark.parametrize("card_id", [*QUALITY, "w600k_mbf"])
def test_the_others_eat_rgb_from_minus_one_to_one(card_id):
    preprocess = CARDS[card_id].preprocess
    assert not preprocess.swaps_channels
    expected = (np.arange(256) - 127.5) / 127.5
    np.testing.assert_allclose(normalisation_table(preprocess), [expected] * 3, atol=1e-6)


@pytest.mark.parametrize("card_id", [*RECOGNITION, *QUALITY, "w600k_mbf"])
def test_cards_take_aligned_faces_and_name_known_weights(card_id):
    card = CARDS[card_id]
    assert card.preprocess.input_hw == (112, 112)
    assert card.preprocess.fit == "stretch"
    assert not card.weights or card.weights in WEIGHTS
    (output,) = card.outputs
    assert output.channels == (1 if card.task == "face_quality" else 512)


def test_the_published_accuracies_are_the_seeds():
    printed = {r.dataset: r.value for r in CARDS["magface_iresnet100"].references}
    assert printed == {"LFW": 99.817, "CFP-FP": 98.4, "AgeDB-30": 98.217}
    printed = {r.dataset: r.value for r in CARDS["magface_iresnet18"].references}
    assert printed == {"LFW": 99.167, "CFP-FP": 92.086, "AgeDB-30": 92.783}
    assert not CARDS["magface_iresnet34"].references


@pytest.mark.shared
def test_the_released_recogniser_has_the_cards_names(shared):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(shared / "assets" / "recognition" / "w600k_mbf.onnx").graph
    card = CARDS["w600k_mbf"]
    assert [graph.input[0].name] == [card.input_name]
    assert tuple(output.name for output in graph.output) == card.output_names
