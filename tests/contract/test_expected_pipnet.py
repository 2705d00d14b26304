"""PIPNet's page is run as it stands there: it learns, and draws.

``python tests/contract/test_expected_pipnet.py`` records what it prints and the portrait it draws
anew, in some minutes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import facezoo
import pytest
from facezoo import weights
from facezoo.cli.main import main
from facezoo.errors import WeightsError
from facezoo.models import find_weights

REPOSITORY = Path(facezoo.__file__).parent.parent.parent
RECIPE = Path("face_alignment/pipnet")
EXPECTED = REPOSITORY / RECIPE / "expected"
PORTRAIT = REPOSITORY / "images/face_alignment/pipnet/astronaut.jpg"
FILES = ("scrfd_500m_bnkps", "astronaut", "players", "gdp", "yaoming")


def fence(heading):
    """Return the first commands below a heading of the page."""
    page = (REPOSITORY / RECIPE / "README.md").read_text(encoding="utf-8")
    return re.search(rf"^#+ {heading}\n.*?^```bash\n(.*?)^```$", page, re.M | re.S)[1]


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
    environment.update(HOME=str(home), FACEZOO_OFFLINE="1")
    environment.pop("OMP_NUM_THREADS", None)
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


def follow(workspace, home):
    """Run step 7 and what comes after it; return what is printed, and how long the fit took."""
    *downloads, fit = re.split(r"^(?=python ../source_code/fit)", fence("7 fit"), flags=re.M)
    said = run("".join(downloads), workspace, home)
    started = time.monotonic()
    said += run(fit, workspace, home)
    seconds = time.monotonic() - started
    return said + run(fence("Expected output"), workspace, home), seconds


def masked(text):
    """Hide what another machine's arithmetic and speed change: all numbers with a point."""
    return re.sub(r" *\d+\.\d+(e[-+]\d+)?", " N", text)


@pytest.mark.torch
def test_the_counts_are_those_of_the_network(capsys):
    pytest.importorskip("torch")
    assert main(["info", "pip_resnet18"]) == 0
    assert capsys.readouterr().out == (EXPECTED / "info.txt").read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.torch
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_page_prints_and_learns_what_it_says(tmp_path):
    pytest.importorskip("torch")
    try:
        home = home_with(tmp_path / "home")
    except WeightsError as error:
        pytest.skip(str(error))
    workspace = clone(tmp_path / "clone")
    said, seconds = follow(workspace, home)
    assert masked(said) == masked((EXPECTED / "console.txt").read_text(encoding="utf-8"))
    meanface, network = (float(value) for value in re.findall(r"test crops: nme (\S+)", said))
    assert network <= 0.7 * meanface, f"{network} after {seconds:.0f} s"
    assert (workspace / "ced.png").stat().st_size > 10_000
    assert (workspace / "photo_output" / "pictures" / "astronaut.jpg").is_file()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        where, house = clone(Path(name) / "clone"), home_with(Path(name) / "home")
        (EXPECTED / "console.txt").write_text(follow(where, house)[0], encoding="utf-8")
        shutil.copy(where / "photo_output/pictures/astronaut.jpg", PORTRAIT)
