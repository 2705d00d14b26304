"""What is shipped: the package alone, nothing large, no weights, every licence known."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import facezoo
import pytest
from facezoo.models import MODELS
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
    rows = re.findall(r"^\| ([\w., -]+) \| ([^|]+) \|", table, re.MULTILINE)
    listed = {name for names, licence in rows if licence.strip() for name in names.split(", ")}
    listed -= {"Package"}
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


# The archives, as they are uploaded ---------------------------------------------------------------

BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Build both archives where there is no C compiler; return the names in each, and the wheel."""
    folder = tmp_path_factory.mktemp("built") / "clone"
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    build(folder)
    (wheel,), (sdist,) = folder.glob("dist/*.whl"), folder.glob("dist/*.tar.gz")
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        return source, set(archive.namelist()), wheel


def build(folder):
    environment = {**os.environ, "CC": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def check_archives(source, wheel, files):
    recipes = [f for f in files if re.match(r"face_|common/(utils|eval)/|images/face_", f)]
    problems = [f"the wheel lacks {f}" for f in recipes if f"facezoo/recipes/{f}" not in wheel]
    for what, names in (("the wheel", wheel), ("the source archive", source)):
        problems += [f"{what} has no licence"] * (not any(n.endswith("LICENSE") for n in names))
        problems += [f"{what} holds {n}" for n in names if n.endswith((".c", ".so", ".pyc"))]
    return problems + [f"the source archive lacks {f}" for f in files if f not in source]


def test_the_archives_hold_what_they_must(archives):
    source, wheel, _ = archives
    assert check_archives(source, wheel, list(tracked())) == []
    assert check_archives(source - {"CHANGELOG.md"}, wheel, list(tracked()))
    assert check_archives(source | {"common/x.c"}, wheel, list(tracked()))
    assert check_archives(source, {n for n in wheel if "scrfd_vsx" not in n}, list(tracked()))
    assert check_archives(source, {n for n in wheel if "LICENSE" not in n}, list(tracked()))


def test_a_wheel_without_the_kernel_is_for_any_platform(archives):
    assert archives[2].name == f"facezoo-{facezoo.__version__}-py3-none-any.whl"


def test_links_of_the_description_lead_somewhere(archives):
    with zipfile.ZipFile(archives[2]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = archive.read(name).decode()
    assert "Author: facezoo contributors" in metadata and "# facezoo" in metadata
    assert re.findall(r"\]\((?!https://)[^)]*\)|<img [^>]*>", metadata) == []


def test_a_recipe_of_the_wheel_runs(archives, tmp_path):
    """From the unpacked wheel alone, in an empty folder."""
    with zipfile.ZipFile(archives[2]) as archive:
        archive.extractall(tmp_path / "installed")

    def run(*command, cwd=tmp_path, code=0):
        done = subprocess.run(
            [sys.executable, "-I", "-c", RUN, str(tmp_path / "installed"), *map(str, command)],
            cwd=cwd,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    # A second recipe beside the first, and the same once more.
    for model in ("scrfd", "w600k_mbf", "scrfd"):
        assert "start with: cd" in run("facezoo", "recipe", model, "--to", "work")
    assert "expected one of scrfd" in run("facezoo", "recipe", "srfd", "--to", "x", code=2)
    edited = tmp_path / "work" / "face_detection" / "scrfd" / "Makefile"
    edited.write_text("mine:\n")
    assert "Makefile' is not as the" in run("facezoo", "recipe", "scrfd", "--to", "work", code=2)
    assert edited.read_text() == "mine:\n"
    # What pages and Makefiles run lies in the folder.
    for model in MODELS:
        run("facezoo", "recipe", model, "--to", model)
        (page,) = (tmp_path / model).glob("face_*/*/README.md")
        for file in (page, page.with_name("README.zh-CN.md"), page.with_name("Makefile")):
            text = file.read_text("utf-8") if file.exists() else ""
            # Rows of tables quote the original recipe.
            for script in re.findall(r"^[^|\n]*\bpython (\S+\.py)", text, re.MULTILINE):
                assert (page.parent / "workspace" / script).is_file(), (file, script)
    workspace = edited.parent / "workspace"
    page = (workspace.parent / "README.md").read_text("utf-8")
    scripts = set(re.findall(r"^python (\S+\.py)", page, re.MULTILINE))
    assert len(scripts) >= 5
    for script in scripts:
        assert "usage:" in run(script, "--help", cwd=workspace)


# Isolated, so that only the unpacked wheel is found.
RUN = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
import facezoo
assert facezoo.__file__.startswith(sys.argv[1]), facezoo.__file__
del sys.argv[:2]
if sys.argv[0] == "facezoo":
    from facezoo.cli.main import main
    raise SystemExit(main(sys.argv[1:]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_facts_of_a_release_agree():
    citation = (REPOSITORY / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {facezoo.__version__}\n" in citation
    page = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    assert "\n## Releasing\n" in page
    workflow = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    for line in pyproject()["project"]["classifiers"]:
        version = line.rpartition(" :: ")[2]
        if line.startswith("Programming Language :: Python :: 3."):
            assert f'"{version}"' in workflow, version


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
