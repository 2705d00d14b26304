"""What CONTRIBUTING says of additions is so: each is made in a copy of the repository.

The files that it takes are those of the page's table and as many as the page counts; the checks
pass in the copy, and what was added works.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import additions
import numpy as np
import pytest
from facezoo.image.files import write_image_rgb
from facezoo.testing import tiny_sdd_fiqa

pytestmark = pytest.mark.slow

KINDS = ("model", "backend", "metric", "verb")
SECTION = "\n## Adding a model, a backend, a metric or a verb\n"
ROW = re.compile(r"^\| (\w+) \| (new|edit|recorded) \| `([^`]+)` \|", re.M)
COUNT = re.compile(r"^\| a (\w+) \| (\d+) \| (\d+) \|", re.M)
NAMES = {"model": "gradient", "backend": "fast", "metric": "spread", "verb": "count"}
TASKS = {"model": "quality", "metric": "landmarks"}


def left_out(folder, names):
    """Leave out what git does not hold, such as the data sets in a workspace."""
    if Path(folder).name == "workspace":
        return [name for name in names if name != ".gitkeep"]
    kept = (".ci", ".github", ".gitignore")
    return [name for name in names if name.startswith(".") and name not in kept]


class Copy:
    """A copy of the repository; what runs in it takes the package from it."""

    def __init__(self, repository, root):
        self.root = root
        shutil.copytree(repository, root, ignore=left_out)
        self.before = self.files()

    def files(self):
        paths = (path for path in self.root.rglob("*") if "__pycache__" not in path.parts)
        return {p.relative_to(self.root).as_posix(): p.read_bytes() for p in paths if p.is_file()}

    def touched(self):
        """Return what was made, and what was changed, since it was copied."""
        now = self.files()
        new = set(now) - set(self.before)
        return new, {name for name in self.before if now.get(name) != self.before[name]}

    def run(self, *command, cwd=".", code=0):
        path = os.pathsep.join([str(self.root / "common"), str(self.root / "installed")])
        names = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.root / cwd,
            env={**names, "FACEZOO_HOME": str(self.root.parent / "home"), "FACEZOO_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout

    def facezoo(self, *arguments, **options):
        return self.run("-m", "facezoo", *arguments, **options)

    def check(self, *tests):
        options = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov")
        self.run("-m", "pytest", *options, *tests)


@pytest.fixture
def copy(repository, tmp_path):
    return Copy(repository, tmp_path / "copy")


@pytest.fixture(scope="module")
def page(repository):
    text = (repository / "CONTRIBUTING.md").read_text("utf-8")
    return text.split(SECTION)[1].split("\n## ")[0]


def listed(page, kind):
    """Return the new files and the edits of the page's table."""
    rows = [(how, name) for what, how, name in ROW.findall(page) if what == kind]
    for placeholder, value in ((kind.upper(), NAMES[kind]), ("TASK", TASKS.get(kind, ""))):
        rows = [(how, name.replace(placeholder, value)) for how, name in rows]
    new = {name for how, name in rows if how != "edit"}
    return new, {name for how, name in rows if how == "edit"}


def compare(page, kind, touched):
    """Name what the table lists and was not touched, or the other way round."""
    problems = []
    for wanted, found in zip(listed(page, kind), touched):
        problems += [f"{name} is not in the table" for name in sorted(found - wanted)]
        problems += [f"{name} was not needed" for name in sorted(wanted - found)]
    return problems


def test_the_counts_are_those_of_the_table(page):
    counts = {kind: (int(new), int(edits)) for kind, new, edits in COUNT.findall(page)}
    assert counts == {kind: tuple(map(len, listed(page, kind))) for kind in KINDS}
    assert counts["model"] <= (10, 3)
    assert sum(name.endswith(".py") for name in listed(page, "backend")[1]) <= 2


def test_a_fifth_model(copy, page, tmp_path, rng):
    file = additions.published(tmp_path)
    additions.add_model(copy.root, file, copy.facezoo)
    changes = (copy.root / "CHANGELOG.md").read_text("utf-8")
    new, edits = copy.touched()
    assert compare(page, "model", (new, edits)) == []

    (copy.root / "CHANGELOG.md").write_text(f"{changes}\n- Gradient.\n", "utf-8")
    copy.facezoo("render")
    copy.facezoo("docs")
    checks = ("models", "pages", "rendered", "package", "code")
    copy.check(
        *(f"tests/contract/test_{name}.py" for name in checks),
        "tests/models/test_gradient_decode.py",
    )
    assert "[Gradient](gradient/README.md)" in (copy.root / "face_quality/README.md").read_text()

    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    shutil.copy(file, home / "gradient.onnx")
    workspace = copy.root / additions.RECIPE / "workspace"
    for index in range(3):
        image = rng.integers(0, 256, (112, 112, 3)).astype(np.uint8)
        write_image_rgb(workspace / "photos" / f"{index}.png", image)
    for line in additions.STEPS.replace("\\\n", " ").splitlines()[2:-1]:
        tool, *words = line.split()
        copy.run(*(["-m", "facezoo"] if tool == "facezoo" else []), *words, cwd=workspace)
    one, other = (
        json.loads((workspace / name / "results.json").read_text()) for name in ("out", "decoded")
    )
    assert len(one["images"]) == 3 and one["card"] == other["card"] == "gradient"
    for first, second in zip(one["images"], other["images"]):
        assert first["quality"] == pytest.approx(second["quality"], rel=1e-3)


def test_a_backend(copy, page, tmp_path, rng):
    additions.add_backend(copy.root)
    assert compare(page, "backend", copy.touched()) == []
    copy.check(
        "tests/contract/test_code.py", "tests/contract/test_package.py", "tests/unit/test_fast.py"
    )
    additions.write(copy.root, "installed/fastrt.py", additions.FASTRT)
    model = tiny_sdd_fiqa(tmp_path / "tiny.onnx")
    write_image_rgb(tmp_path / "a.png", rng.integers(0, 256, (112, 112, 3)).astype(np.uint8))
    scores = []
    for engine in ("fast", "ort"):
        command = ("common/utils/infer.py", "--file_path", tmp_path / "a.png", "--engine", engine)
        copy.run(*command, "--model_prefix_path", model, "--save_dir", tmp_path / engine)
        found = json.loads((tmp_path / engine / "results.json").read_text())
        scores.append(found["images"][0]["quality"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    wrong = "import fastrt\n\n__all__: list = []\n"
    additions.write(copy.root, "common/facezoo/image/fast.py", wrong)
    with pytest.raises(AssertionError, match=r"only backends\.fast may"):
        copy.check("tests/contract/test_code.py")


def test_a_metric(copy, page):
    additions.add_metric(copy.root)
    assert compare(page, "metric", copy.touched()) == []
    copy.check("tests/contract/test_code.py", "tests/unit/test_spread.py")
    code = (
        "import numpy as np;"
        "from facezoo.evaluation.landmarks import LandmarkReport;"
        "from facezoo.evaluation.measured import MeasuredList;"
        "from facezoo.metrics.landmarks import evaluate_subsets;"
        "errors = np.array([0.01, 0.03]);"
        "measured = MeasuredList.of('WFLW', 'faces', ['a', 'b']);"
        "table = evaluate_subsets(errors, {});"
        "report = LandmarkReport('annotation', 'WFLW', errors, table, measured);"
        "print(*report.lines(), sep='\\n')"
    )
    assert "spread: 0.5" in copy.run("-c", code)


def test_a_verb(copy, page):
    additions.add_verb(copy.root)
    assert compare(page, "verb", copy.touched()) == []
    copy.check("tests/contract/test_code.py", "tests/unit/test_count.py")
    assert copy.facezoo("count", "face_quality") == "2\n"
    assert " count " in copy.facezoo("--help")


def test_a_file_too_many_or_too_few_is_noticed(page):
    new, edits = listed(page, "verb")
    assert compare(page, "verb", (new, edits)) == []
    assert compare(page, "verb", (new | {"x"}, edits)) == ["x is not in the table"]
    assert compare(page, "verb", (new, set())) == ["common/facezoo/cli/main.py was not needed"]
