"""PIPNet's page is run as it stands there: it learns, and draws.

``python tests/contract/test_expected_pipnet.py`` records what it prints and the portrait it draws
anew, in some minutes.
"""

import re
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from facezoo.cli.main import main
from facezoo.errors import WeightsError
from recipe_clone import REPOSITORY, clone, fence, home_with, run

RECIPE = "face_alignment/pipnet"
EXPECTED = REPOSITORY / RECIPE / "expected"
PORTRAIT = REPOSITORY / "images/face_alignment/pipnet/astronaut.jpg"
FILES = ("scrfd_500m_bnkps", "astronaut", "players", "gdp", "yaoming")


def follow(workspace, home):
    """Run step 7 and what comes after it; return what is printed, and how long the fit took."""
    *downloads, fit = re.split(
        r"^(?=python ../source_code/fit)", fence(RECIPE, "7 fit"), flags=re.M
    )
    said = run("".join(downloads), workspace, home)
    started = time.monotonic()
    said += run(fit, workspace, home, all_cores=True)
    seconds = time.monotonic() - started
    return said + run(fence(RECIPE, "Expected output"), workspace, home), seconds


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
        home = home_with(tmp_path / "home", FILES)
    except WeightsError as error:
        pytest.skip(str(error))
    workspace = clone(RECIPE, tmp_path / "clone")
    said, seconds = follow(workspace, home)
    assert masked(said) == masked((EXPECTED / "console.txt").read_text(encoding="utf-8"))
    meanface, network = (float(value) for value in re.findall(r"test crops: nme (\S+)", said))
    assert network <= 0.7 * meanface, f"{network} after {seconds:.0f} s"
    assert (workspace / "ced.png").stat().st_size > 10_000
    assert (workspace / "photo_output" / "pictures" / "astronaut.jpg").is_file()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        where, house = clone(RECIPE, Path(name) / "clone"), home_with(Path(name) / "home", FILES)
        (EXPECTED / "console.txt").write_text(follow(where, house)[0], encoding="utf-8")
        shutil.copy(where / "photo_output/pictures/astronaut.jpg", PORTRAIT)
