"""SCRFD's export and import scripts on checkpoints, as a user starts them."""

import subprocess
import sys

import numpy as np
import pytest
from facezoo.backends.ort import run_graph
from facezoo.contract import read_contract
from facezoo.models.scrfd.graph import as_rows

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch = pytest.importorskip("torch")
    from facezoo.models.scrfd.network import build

    torch.manual_seed(1)
    network = build("scrfd_500m_bnkps")
    path = tmp_path_factory.mktemp("weights") / "anything.pth"
    torch.save({"state_dict": network.state_dict(), "meta": {"epoch": 640}}, path)
    return path


def start(repository, name, *words):
    script = repository / "face_detection/scrfd/source_code" / name
    return subprocess.run(
        [sys.executable, str(script), *map(str, words)], capture_output=True, text=True
    )


def test_a_checkpoint_becomes_raw_heads_and_decoded_rows(tmp_path, repository, checkpoint, rng):
    common = ("--checkpoint", checkpoint, "--variant", "scrfd_500m_bnkps")
    raw, rows = tmp_path / "raw.onnx", tmp_path / "rows.onnx"
    ran = start(repository, "export_onnx.py", *common, "--output", raw)
    assert ran.returncode == 0, ran.stderr
    assert "raw maps" in ran.stdout
    assert read_contract(raw).card_id == "scrfd_500m_bnkps"
    ran = start(repository, "export_onnx.py", *common, "--output", rows, "--decoded")
    assert ran.returncode == 0, ran.stderr
    tensor = rng.uniform(-1, 1, (2, 3, 320, 448)).astype(np.float32)
    maps, decoded = (run_graph(path, {"input.1": tensor}) for path in (raw, rows))
    for head, values in maps.items():
        np.testing.assert_allclose(as_rows(head, values), decoded[head], atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--variant", "scrfd_2.5g"), "anything.pth"),
        ((), "--checkpoint needs --variant"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(tmp_path, repository, checkpoint, words, message):
    target = tmp_path / "x.onnx"
    ran = start(
        repository, "export_onnx.py", "--checkpoint", checkpoint, *words, "--output", target
    )
    assert ran.returncode == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not target.exists()
