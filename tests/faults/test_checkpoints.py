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
}


# Of another network, which a training's own reader may take.
PLAIN = ("a list", "other shapes", "NUL instead of a name")


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


def test_a_networks_own_tensors_are_taken(checkpoint):
    from facezoo.graphs.export import load_checkpoint

    checkpoint.write_bytes(saved(TENSORS))
    load_checkpoint(torch.nn.Linear(2, 2), checkpoint)
