"""The image's steps are those of make train-demo, and all versions in it are pinned."""

import re
import shutil
import subprocess
from pathlib import Path

import facezoo
import pytest

REPOSITORY = Path(facezoo.__file__).parent.parent.parent
FOLDER = REPOSITORY / "face_recognition" / "magface"
DOCKERFILE = (FOLDER / "Dockerfile").read_text("utf-8")
MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
SCORING = ".scale"
CONSTRAINTS = (FOLDER / "constraints.txt").read_text("utf-8")


def prerequisites(makefile, target):
    """Return what a target stands on, the environment's folder left out."""
    line = re.search(rf"^{re.escape(target)}:(.*)$", makefile, re.MULTILINE)[1]
    return [word.rpartition("/")[2] for word in line.split("##")[0].split() if "VENV" in word]


def check_steps(dockerfile, makefile):
    """Return what the image does otherwise than the target it ends with."""
    made = [
        target.rpartition("/")[2] for target in re.findall(r"^RUN make (\S+)$", dockerfile, re.M)
    ]
    final = re.findall(r'^CMD \["make", "([\w-]+)"', dockerfile, re.MULTILINE)
    problems = [] if final == ["train-demo"] else [f"ends with {final}"]
    (training,) = prerequisites(makefile, "train-demo")
    wanted = [*prerequisites(makefile, f"$(VENV)/{training}"), training]
    # The image for bulk scoring stands beside the one for training, on the same one.
    scoring = [*prerequisites(makefile, f"$(VENV)/{SCORING}"), SCORING]
    for image in (wanted, scoring):
        steps = [step for step in made if step in image or step not in (*wanted, *scoring)]
        problems += [] if steps == image else [f"makes {steps}, the Makefile {image}"]
    lines = re.findall(r"^(?:FROM|RUN make) .*$", dockerfile, re.MULTILINE)
    alone = [f"FROM inference AS {SCORING[1:].replace('scale', 'scoring')}"]
    before = [one for one, next_one in zip(lines, lines[1:]) if next_one.endswith(SCORING)]
    problems += [] if before == alone else [f"makes {SCORING} after {before}"]
    others = set(re.findall(r"^RUN (?!make )(.*)$", dockerfile, re.MULTILINE))
    return problems + [f"also runs {other}" for other in sorted(others)]


def check_pins(dockerfile, constraints, pyproject):
    """Return base images without an exact version, and packages without one."""
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) - stages
    problems = [base for base in bases if not re.search(r":\d+\.\d+\.\d+-\w+$", base)]
    pinned = set(re.findall(r"^([\w-]+)==[\d.]+$", constraints, re.MULTILINE))
    wanted = set()
    for name in ("dependencies", "ort", "plot", "scale", "torch", "requires"):
        block = re.search(rf"^{name} = \[(.*?)\]$", pyproject, re.MULTILINE | re.DOTALL)[1]
        wanted |= set(re.findall(r'"([\w-]+)', block))
    return problems + sorted(wanted - pinned)


def pyproject():
    return (REPOSITORY / "pyproject.toml").read_text("utf-8")


def test_the_image_runs_what_make_train_demo_runs():
    assert check_steps(DOCKERFILE, MAKEFILE) == []


def test_everything_is_pinned():
    assert check_pins(DOCKERFILE, CONSTRAINTS, pyproject()) == []


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_the_linter_has_nothing_to_say():
    done = subprocess.run(["hadolint", str(FOLDER / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"train-demo"', '"demo"'),
        ("RUN make /opt/facezoo/.train\n", ""),
        ("COPY . .", "COPY . .\nRUN pip install torch"),
    ],
)
def test_other_steps_are_noticed(old, new):
    assert old in DOCKERFILE
    assert check_steps(DOCKERFILE.replace(old, new), MAKEFILE) != []


def test_missing_pins_are_noticed():
    assert check_pins(DOCKERFILE.replace(".13-bookworm", ""), CONSTRAINTS, pyproject()) != []
    without = CONSTRAINTS.replace("torch==2.14.1\n", "")
    assert check_pins(DOCKERFILE, without, pyproject()) == ["torch"]
