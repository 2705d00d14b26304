"""Weights from names: the very bytes the golden outputs were made with."""

import hashlib
import json

import pytest
from facezoo.errors import InputError
from facezoo.testing import fill_from_names


@pytest.mark.parametrize("network", ["scrfd_500m_bnkps", "scrfd_2.5g", "scrfd_34g"])
def test_weights_are_those_of_the_goldens(golden, network):
    manifest = json.loads((golden / "scrfd" / f"{network}.json").read_text())
    digest = hashlib.sha256()
    for (name, shape, dtype, _), values in zip(
        manifest["tensors"], fill_from_names(manifest).values()
    ):
        assert list(values.shape) == shape, name
        assert values.dtype == dtype, name
        digest.update(values.tobytes())
    assert digest.hexdigest() == manifest["weights_sha256"]


def test_no_entries_no_weights():
    assert fill_from_names({"tensors": []}) == {}


def test_an_unknown_rule_is_named():
    with pytest.raises(InputError, match="x: filling rule 'magic' is not known"):
        fill_from_names({"tensors": [["x", [2], "float32", "magic"]]})
