"""What is shipped: the package alone, nothing large, no weights, every licence known."""

import re
import shutil
import subprocess
from pathlib import Path

import facezoo
import pytest
from setuptools import find_packages

REPOSITORY = Path(facezoo.__file__).parent.parent.parent
LARGEST = 1_000_000
LARGEST_GOLDEN = 256 * 1024
WEIGHTS = (".onnx", ".pth", ".pt", ".tar", ".so", ".params", ".engine", ".bin", ".h5", ".ckpt")


def pyproject():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))


def tracked():
    """Return the tracked files with their sizes; skip where there is no git."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("this is no git clone")
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True
    )
    names = [name for name in done.stdout.decode().split("\0") if name]
    return {n: (REPOSITORY / n).stat().st_size for n in names if (REPOSITORY / n).is_file()}


def check_files(sizes):
    problems = [f"{name} has {size} bytes" for name, size in sizes.items() if size > LARGEST]
    problems += [
        f"{name} is a golden of {size} bytes; {LARGEST_GOLDEN} at most"
        for name, size in sizes.items()
        if name.startswith("tests/golden/") and size > LARGEST_GOLDEN
    ]
    return problems + [f"{name} is a weight file" for name in sizes if name.endswith(WEIGHTS)]


def check_photos(names):
    """Pictures of people are NASA's portrait; the rest of the folder is drawings and plots."""
    pictures = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
    allowed = re.compile(r"images/(face_\w+/(scrfd|pipnet)/astronaut\.jpg|.*plot.*\.png)")
    return [n for n in names if n.lower().endswith(pictures) and not allowed.fullmatch(n)]


def check_wheel(config):
    find = config["tool"]["setuptools"]["packages"]["find"]
    packages = [
        package
        for folder in find["where"]
        for package in find_packages(str(REPOSITORY / folder), include=find["include"])
    ]
    problems = [f"{name} would be shipped" for name in packages if name.split(".")[0] != "facezoo"]
    folders = {path.parent for path in (REPOSITORY / "common/facezoo").rglob("*.py")}
    names = {".".join(path.relative_to(REPOSITORY / "common").parts) for path in folders}
    problems += [f"{name} would be left out" for name in sorted(names - set(packages))]
    if find.get("namespaces", True):
        problems.append("folders without __init__.py would be shipped")
    return problems


def check_licences(config, page):
    """Every dependency has a row in the page's table, and every row is a dependency."""
    project = config["project"]
    wanted = [*project["dependencies"], *config["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in wanted}
    table = page.split("\n## Dependencies\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \|", table, re.MULTILINE)
    listed = {name for name, licence in rows if licence.strip() and name != "Package"}
    return sorted(names ^ (listed - {"---"}))


def test_no_large_files_and_no_weights_in_git():
    assert check_files(tracked()) == []


def test_no_photos_but_one_portrait_in_git():
    assert check_photos(tracked()) == []


def test_the_wheel_holds_the_package_alone():
    assert check_wheel(pyproject()) == []


def test_data_files_are_shipped():
    declared = pyproject()["tool"]["setuptools"]["package-data"]["facezoo"]
    package = REPOSITORY / "common" / "facezoo"
    shipped = {path for pattern in declared for path in package.glob(pattern)}
    others = {
        path
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".c", ".so", ".pyd")
    }
    assert others - shipped == set()


def test_every_dependency_has_its_licence_listed():
    page = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    assert check_licences(pyproject(), page) == []


def test_the_notice_names_what_is_used():
    notice = (REPOSITORY / "NOTICE").read_text("utf-8")
    for name in ("NASA", "scikit-image", "InsightFace", "PIPNet", "facezoo licences"):
        assert name in notice


def test_vendor_recipes_are_not_ignored():
    """A stock .gitignore drops every folder called build."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("this is no git clone")
    name = "face_detection/scrfd/build_in/build/any.yaml"
    done = subprocess.run(["git", "check-ignore", "-q", name], cwd=REPOSITORY)
    assert done.returncode == 1


# What the checks must notice ----------------------------------------------------------------------


def test_mutations_are_noticed():
    assert check_files({"images/big.svg": LARGEST + 1})
    assert check_files({"tests/golden/scrfd/big.npz": LARGEST_GOLDEN + 1})
    assert check_files({"face_detection/scrfd/workspace/onnx/x.onnx": 10})
    assert check_photos(["images/face_detection/scrfd/players.jpg"])
    config = pyproject()
    find = config["tool"]["setuptools"]["packages"]["find"]
    page = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    config["project"]["dependencies"].append("requests>=2")
    assert check_licences(config, page) == ["requests"]
    assert check_licences(pyproject(), page.replace("| tqdm |", "| tqd |")) == ["tqd", "tqdm"]
    find["include"] = ["facezoo"]
    assert check_wheel(config)
    find.update(include=["*"], where=["."])
    assert check_wheel(config)
