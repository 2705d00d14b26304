"""The site: notebooks run, pages and links are whole, and nothing is loaded from elsewhere."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import facezoo
import pytest
import yaml
from facezoo.cli.docs import PAGES

REPOSITORY = Path(facezoo.__file__).parents[2]
DOCS = REPOSITORY / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
# What a browser requests by itself; other addresses are only opened by a click.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "embed": "src"}
LOADING_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch"}


def build_module():
    pytest.importorskip("nbconvert")
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.loads, self.leads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "link" and LOADING_LINKS & set(given.get("rel", "").split()):
            self.loads.append(given["href"])
        if given.get(LOADED.get(tag, "")):
            self.loads.append(given[LOADED[tag]])
        if tag == "a" and given.get("href"):
            self.leads.append(given["href"])


def check_page(name, text):
    """Name what a page would load from elsewhere."""
    return [
        f"{name} loads {address}"
        for address in Page(text).loads
        if not address.startswith("data:") and (urlsplit(address).netloc or ":" in address)
    ]


def check_style(name, text):
    found = re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]+)""", text)
    return [f"{name} loads {address}" for address in found]


def check_links(site):
    """Name the links of the built site that lead nowhere inside it."""
    pages = {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    problems = []
    for path, page in pages.items():
        for address in page.leads:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if target.is_dir():
                target = target / "index.html"
            known = pages[target].anchors if target in pages else set()
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in known):
                problems.append(f"{path.relative_to(site)}: {address}")
    return problems


def test_every_public_name_is_on_the_page_of_the_interface():
    shown = re.findall(r"^::: facezoo\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    assert sorted([*shown, "__version__"]) == facezoo.__all__


def test_every_page_is_in_the_navigation():
    text = (DOCS / "mkdocs.yml").read_text("utf-8")
    named = set(re.findall(r"[\w./-]+\.md$", text, re.MULTILINE))
    pages = {
        path.relative_to(REPOSITORY).as_posix()
        for pattern in PAGES
        for path in REPOSITORY.glob(pattern)
        if path.name != "UPSTREAM.md"
    }
    assert named == pages | {"api.md"} | {f"notebooks/{path.stem}.md" for path in NOTEBOOKS}


def test_notebooks_are_small_and_hold_no_outputs():
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        notebook = yaml.safe_load(path.read_text("utf-8"))
        assert path.stat().st_size < 20_000
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.torch
@pytest.mark.shared
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, shared, tmp_path, monkeypatch):
    build = build_module()
    home, work = tmp_path / "home", tmp_path / "work"
    (work / "people").mkdir(parents=True)
    home.mkdir()
    for file in ("scrfd/scrfd_500m_bnkps.onnx", "recognition/w600k_mbf.onnx"):
        (home / Path(file).name).symlink_to(shared / "assets" / file)
    for person in range(1, 6):
        shutil.copytree(
            shared / "assets" / "att_faces" / f"s{person}", work / "people" / f"s{person}"
        )
    photos = shared / "assets" / "photos"
    shutil.copy(photos / "players.jpg", work / "photo.jpg")
    shutil.copytree(photos, work / "photos")
    monkeypatch.setenv("FACEZOO_HOME", str(home))
    monkeypatch.setenv("FACEZOO_OFFLINE", "1")
    folder = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = build.run_notebook(path, work)
    said = [str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    if path.stem == "photo":
        assert "image/png" in said[0]
        assert "FaceDetections(22 faces in 1237x800" in said[1]
        assert "broken.jpg -> 'broken.jpg' is not a readable image" in said[4]
        assert "Embedding(512 values" in said[5]
    elif path.stem == "people":
        same, other = re.findall(r"\((-?[\d.]+), (-?[\d.]+)\)", said[-1])[-1]
        assert float(same) > 0.35 > float(other)
    else:
        assert "'calibration': 14, 'held_out': 13" in said[1]
        assert "'held_out': True" in said[3]
        assert "exit code 3" in said[4] and "nothing was written" in said[4]
        assert "False" in said[5]
        fp32, int8 = map(int, re.findall(r"finds (\d+) faces", said[-1]))
        assert abs(fp32 - int8) <= 3 and fp32 > 50


@pytest.mark.torch
def test_the_site_is_whole_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("zensical")
    build_module()
    done = subprocess.run(
        [sys.executable, str(DOCS / "build.py"), "--to", str(tmp_path)],
        env={**os.environ, "FACEZOO_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for path in NOTEBOOKS:
        assert f"{path.name}: shown without outputs" in done.stdout
    site = tmp_path / "site"
    problems = check_links(site)
    for path in site.rglob("*"):
        if path.suffix == ".html":
            problems += check_page(path.name, path.read_text("utf-8"))
        elif path.suffix == ".css":
            problems += check_style(path.name, path.read_text("utf-8"))
    assert problems == []
    for page in ("index.html", "api.html", "notebooks/photo.html", "CHANGELOG.html"):
        assert (site / page).is_file()
    interface = (site / "api.html").read_text("utf-8")
    assert all(f'id="facezoo.{name}"' in interface for name in facezoo.__all__ if name[0] != "_")


def test_what_is_loaded_from_elsewhere_is_noticed(tmp_path):
    elsewhere = (
        '<script src="https://a.example/x.js"></script>',
        '<script src="//a.example/x.js"></script>',
        '<link rel="preconnect" href="https://a.example">',
        '<link rel="stylesheet" href="https://a.example/x.css">',
        '<img src="http://a.example/x.png">',
    )
    for text in elsewhere:
        assert check_page("page", text)
    assert check_page("page", '<a href="https://a.example">x</a><img src="data:x">') == []
    assert check_style("style", "a{background:url(https://a.example/x.png)}")
    assert check_style("style", '@import "//a.example/x.css";')
    assert check_style("style", "a{background:url(x.png)}") == []
    (tmp_path / "a.html").write_text('<a id="here" href="b.html">x</a><a href="#there">y</a>')
    assert check_links(tmp_path) == ["a.html: b.html", "a.html: #there"]
