"""What MagFace's page says will come out, comes out: its commands are run as they stand there.

``python tests/contract/test_expected_magface.py`` records face_recognition/magface/expected anew,
after a change that is meant to change it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import facezoo
import pytest
from facezoo import weights
from facezoo.errors import WeightsError
from facezoo.models import find_weights

REPOSITORY = Path(facezoo.__file__).parent.parent.parent
RECIPE = Path("face_recognition/magface")
EXPECTED = REPOSITORY / RECIPE / "expected"
FILES = ("w600k_mbf", "scrfd_500m_bnkps", "yaoming", "players")
INFO = "facezoo info onnx/w600k_mbf.onnx\n"


def fence(heading):
    """Return the first commands below a heading of the page."""
    page = (REPOSITORY / RECIPE / "README.md").read_text(encoding="utf-8")
    return re.search(rf"^#+ {heading}\n.*?^```bash\n(.*?)^```$", page, re.M | re.S)[1]


def steps():
    compiled = fence("3 compile").splitlines(keepends=True)[0]
    return fence("1 model") + compiled + fence("Expected output")


def clone(folder):
    """Lay out the recipe with an empty workspace, everything else linked to this repository."""
    workspace = folder / RECIPE / "workspace"
    workspace.mkdir(parents=True)
    for name in ("build_in", "source_code"):
        (workspace.parent / name).symlink_to(REPOSITORY / RECIPE / name)
    for name in ("common", "face_detection"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "bin").mkdir()
    for name, module in (("python", ""), ("facezoo", "-m facezoo.cli.main ")):
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        (folder / "bin" / name).chmod(0o755)
    return workspace


def run(text, workspace, home):
    """Run shell commands as a user would who has installed facezoo; return what they print."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FACEZOO_")}
    environment["PATH"] = f"{workspace.parents[2] / 'bin'}{os.pathsep}{environment['PATH']}"
    environment.update(HOME=str(home), FACEZOO_OFFLINE="1", OMP_NUM_THREADS="1")
    command = ["bash", "-e", "-c", text]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(str(home), "~")


def home_with(folder):
    """Fill a home folder with the files of the page."""
    cache = folder / ".cache" / "facezoo"
    cache.mkdir(parents=True)
    for name in FILES:
        shutil.copy(weights.find(name), cache / find_weights(name).file)
    return folder


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
        home = home_with(tmp_path / "home")
    except WeightsError as error:
        pytest.skip(str(error))
    workspace = clone(tmp_path / "clone")
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
        where, house = clone(Path(name) / "clone"), home_with(Path(name) / "home")
        (EXPECTED / "console.txt").write_text(run(steps(), where, house), encoding="utf-8")
        (EXPECTED / "info.txt").write_text(run(INFO, where, house), encoding="utf-8")
