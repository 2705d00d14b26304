"""What MagFace's page says will come out, comes out: its commands are run as they stand there.

``python tests/contract/test_expected_magface.py`` records face_recognition/magface/expected anew,
after a change that is meant to change it.
"""

import re
import shutil
import tempfile
from pathlib import Path

import pytest
from facezoo.errors import WeightsError
from recipe_clone import REPOSITORY, clone, fence, home_with, run

RECIPE = "face_recognition/magface"
EXPECTED = REPOSITORY / RECIPE / "expected"
FILES = ("w600k_mbf", "scrfd_500m_bnkps", "yaoming", "players")
INFO = "facezoo info onnx/w600k_mbf.onnx\n"


def steps():
    compiled = fence(RECIPE, "3 compile").splitlines(keepends=True)[0]
    return fence(RECIPE, "1 model") + compiled + fence(RECIPE, "Expected output")


def masked(text):
    """Hide what differs from one machine to the next: rates and last digits."""
    text = re.sub(r"[\d.]+ images/s", "N images/s", text)
    text = re.sub(r"\d\.\d+e[-+]\d\d", "N", text)
    text = re.sub(r"within [\d.]+", "within N", text)
    text = re.sub(r"(cosine \d\.\d\d)\d+", r"\1", text)
    text = re.sub(r"(angle \d+)\.\d+", r"\1", text)
    return re.sub(r"(next one has \d\.\d)\d+", r"\1", text)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_page_prints_what_it_says(tmp_path):
    try:
        home = home_with(tmp_path / "home", FILES)
    except WeightsError as error:
        pytest.skip(str(error))
    workspace = clone(RECIPE, tmp_path / "clone")
    said = run(steps(), workspace, home)
    assert masked(said) == masked((EXPECTED / "console.txt").read_text(encoding="utf-8"))
    assert run(INFO, workspace, home) == (EXPECTED / "info.txt").read_text(encoding="utf-8")
    assert (workspace / "match.jpg").stat().st_size > 10_000
    assert len((workspace / "faces_output" / "feat.list").read_text().splitlines()) == 1


def test_masks_hide_last_digits_and_nothing_else():
    text = (EXPECTED / "console.txt").read_text(encoding="utf-8")
    assert masked(text) == masked(re.sub(r"[\d.]+ images/s", "7.0 images/s", text))
    assert masked(text) != masked(text.replace("above", "below"))
    assert masked(text) != masked(text.replace("face 3", "face 5"))
    assert masked(text) != masked(text.replace("cosine 0.6", "cosine 0.5"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        where, house = clone(RECIPE, Path(name) / "clone"), home_with(Path(name) / "home", FILES)
        (EXPECTED / "console.txt").write_text(run(steps(), where, house), encoding="utf-8")
        (EXPECTED / "info.txt").write_text(run(INFO, where, house), encoding="utf-8")
