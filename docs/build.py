"""Build the documentation site: pages of the repository, notebooks, API reference.

  python docs/build.py --people att_faces --photos photos
  python -m http.server --directory build/site

No connection is made, neither here nor by the pages. Notebooks are run if the weights are on this
machine and people and photos are given; otherwise their pages show no outputs, and a line says why.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from facezoo.cli.docs import PAGES
from facezoo.weights import home
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SEPARATE = (".png", ".jpg", ".svg", ".md")
SAMPLE = "astronaut.png"
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^]]+)\]\(([^)#\s:]+)(#[^)]*)?\)")
LANGUAGES = {".py": "python", ".json": "json", ".yaml": "yaml", ".txt": "text"}


def run_notebook(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder with what it reads, and return it with its outputs.

    Parameters
    ----------
    path
        The notebook; the file is not changed.
    folder
        Working folder of its cells.

    Raises
    ------
    CellExecutionError
        If a cell fails; a command that fails in a cell counts.
    """
    notebook = nbformat.read(path, as_version=4)
    # A line that starts with ! would be passed over if its command fails.
    check = "assert not globals().get('_exit_code'), f'exit code {_exit_code}'"
    for cell in notebook.cells:
        if cell.cell_type == "code" and re.search(r"^!", cell.source, re.MULTILINE):
            cell.source = re.sub(r"^(!.*)$", rf"\1\n{check}", cell.source, flags=re.MULTILINE)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.source = cell.source.replace(f"\n{check}", "")
    return notebook


def lay_out(folder: Path, people: Path, photos: Path) -> None:
    """Put what the notebooks read into a folder: a public sample photo, photos, and people."""
    folder.mkdir(parents=True)
    shutil.copy(home() / SAMPLE, folder / "photo.jpg")
    for name, source in (("people", people), ("photos", photos)):
        (folder / name).symlink_to(source.resolve(strict=True), target_is_directory=True)


def write_notebook(path: Path, target: Path, people: Path, photos: Path) -> None:
    """Write the page of a notebook, with its outputs if it can be run."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            lay_out(Path(folder) / "work", people, photos)
            notebook = run_notebook(path, Path(folder) / "work")
        except (OSError, CellExecutionError) as error:
            print(f"{path.name}: shown without outputs, since it cannot be run: {error}")
            notebook = nbformat.read(path, as_version=4)
    name = f"{path.stem}_files"
    resources = {"unique_key": path.stem, "output_files_dir": name}
    text, resources = MarkdownExporter().from_notebook_node(notebook, resources)
    target.mkdir(parents=True, exist_ok=True)
    (target / f"{path.stem}.md").write_text(re.sub(r"\x1b\[[\d;]*m", "", text), encoding="utf-8")
    for image, content in resources["outputs"].items():
        (target / image).parent.mkdir(exist_ok=True)
        (target / image).write_bytes(content)


def write_page(source: Path, pages: Path) -> None:
    """Write a page of the repository; the files that it names become pages, too."""

    def to_page(match: "re.Match[str]") -> str:
        file = Path(os.path.normpath(source.parent / match[2]))
        if file in NOTEBOOKS:
            to = os.path.relpath(ROOT / "notebooks" / f"{file.stem}.md", source.parent)
            return f"[{match[1]}]({to})"
        if file.suffix in SEPARATE or not file.exists():
            return match[0]
        # The generator leaves hidden folders out.
        if file.is_dir() or any(part.startswith(".") for part in file.relative_to(ROOT).parts):
            return match[1]
        write_file(file, pages)
        return f"[{match[1]}]({match[2]}.md)"

    text = source.read_text(encoding="utf-8").replace("<details>", "<details markdown>")
    parts, at = [], 0
    for fence in FENCED.finditer(text):
        parts += [LINK.sub(to_page, text[at : fence.start()]), fence[0]]
        at = fence.end()
    target = pages / source.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join([*parts, LINK.sub(to_page, text[at:])]), encoding="utf-8")


def write_file(file: Path, pages: Path) -> None:
    """Write a page that shows a source file."""
    name = file.relative_to(ROOT)
    target = pages / f"{name}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    language, content = LANGUAGES.get(file.suffix, "text"), file.read_text(encoding="utf-8")
    head = "---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n"
    target.write_text(
        f"{head}# {file.name}\n\n`{name}`\n\n~~~~~{language}\n{content}~~~~~\n", encoding="utf-8"
    )


def main() -> int:
    """Gather the pages and run the generator."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=Path, default=Path("people"), help="folder of people")
    parser.add_argument("--photos", type=Path, default=Path("photos"), help="folder of photos")
    parser.add_argument("--to", type=Path, default=ROOT / "build", help="pages and site go here")
    args = parser.parse_args()
    pages = args.to / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    for pattern in PAGES:
        for source in sorted(ROOT.glob(pattern)):
            write_page(source, pages)
    shutil.copytree(ROOT / "images", pages / "images")
    for name in ("api.md", "worker.js", "style.css"):
        shutil.copy(ROOT / "docs" / name, pages)
    for notebook in NOTEBOOKS:
        write_notebook(notebook, pages / "notebooks", args.people, args.photos)
    shutil.copytree(ROOT / "docs" / "theme", args.to / "theme", dirs_exist_ok=True)
    config = args.to / "mkdocs.yml"
    shutil.copy(ROOT / "docs" / "mkdocs.yml", config)
    generator = Path(sys.executable).with_name("zensical")
    return subprocess.call(
        [str(generator), "build", "--strict", "--clean", "--config-file", str(config)]
    )


if __name__ == "__main__":
    raise SystemExit(main())
