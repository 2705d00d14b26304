"""Checkpoints from elsewhere: tensors in plain containers, or an error; nothing in them is run."""

import io
import pickle

import pytest
from facezoo.errors import FaceZooError
from fault_table import FAULTS, WEB_PAGE
from limits import Payload, bounds

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

TENSORS = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}


def saved(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


CONTENT = {
    "a pickled object": saved({"state_dict": Payload()}),
    "a pickled object among tensors": saved({**TENSORS, "x": Payload()}),
    "a pickled object of the old format": saved(
        {**TENSORS, "x": Payload()}, _use_new_zipfile_serialization=False
    ),
    "a plain pickle": pickle.dumps(Payload(), 2),
    "a whole network": saved(torch.nn.Linear(2, 2)),
    "a web page": WEB_PAGE,
    "nothing": b"",
    "NUL bytes": b"\0" * 4096,
    "cut short": saved(TENSORS)[:-200],
    "a list": saved([1, 2]),
    "other shapes": saved({name: value[:1] for name, value in TENSORS.items()}),
    "NUL instead of a name": saved({"\0": torch.zeros(2)}),
    "NaN": saved({**TENSORS, "bias": torch.tensor([0.0, float("nan")])}),
    "infinity": saved({**TENSORS, "weight": torch.full((2, 2), float("-inf"))}),
}


# Of another network, which a training's own reader may take.
PLAIN = ("a list", "other shapes", "NUL instead of a name", "NaN", "infinity")


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "net.pth"
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


def refused(read, path, what):
    with bounds(what=f"checkpoint: {what}"), pytest.raises(FaceZooError) as caught:
        read(path)
    assert "net.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", CONTENT)
def test_a_network_takes_tensors_of_its_own_alone(checkpoint, what):
    from facezoo.graphs.export import load_checkpoint

    checkpoint.write_bytes(CONTENT[what])
    refused(lambda path: load_checkpoint(torch.nn.Linear(2, 2), path), checkpoint, what)


@pytest.mark.parametrize("what", sorted(set(CONTENT) - set(PLAIN)))
def test_a_training_goes_on_from_plain_states_alone(checkpoint, what):
    from facezoo.models.magface.train import _read

    checkpoint.write_bytes(CONTENT[what])
    refused(_read, checkpoint, what)


@pytest.mark.parametrize("what", ["a pipe", "endless", "40 GB"])
def test_a_checkpoint_that_never_ends_is_refused(checkpoint, what):
    from facezoo.graphs.export import load_checkpoint
    from facezoo.models.magface.train import _read

    checkpoint.write_bytes(b"")
    FAULTS[what](checkpoint)
    refused(lambda path: load_checkpoint(torch.nn.Linear(2, 2), path), checkpoint, what)
    refused(_read, checkpoint, what)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(tmp_path, value):
    from facezoo.contract import Contract
    from facezoo.graphs.export import export_network, save_checkpoint
    from facezoo.models.sdd_fiqa.card import CARDS

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 112 * 112, 1))
    network[1].bias.data[0] = value
    with pytest.raises(FaceZooError, match=r"'1\.bias' is not finite"):
        save_checkpoint(network, tmp_path / "net.pth")
    contract = Contract.from_card(CARDS["sdd_fiqa_mobilefacenet"])
    with pytest.raises(FaceZooError, match=r"'1\.bias' of the network is not finite"):
        export_network(network, tmp_path / "net.onnx", contract)
    assert not list(tmp_path.iterdir())


def test_large_weights_are_finite():
    from facezoo.graphs.export import find_not_finite

    large = torch.full((100,), 3e38)
    assert find_not_finite([("large", large), ("count", torch.tensor([1]))]) is None
    large[7] = float("nan")
    assert find_not_finite([("fine", torch.zeros(2)), ("large", large)]) == "large"


def test_a_networks_own_tensors_are_taken(checkpoint):
    from facezoo.graphs.export import load_checkpoint

    checkpoint.write_bytes(saved(TENSORS))
    load_checkpoint(torch.nn.Linear(2, 2), checkpoint)
