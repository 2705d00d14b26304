"""Render the tables in the READMEs from the cards, from result files and from recorded output.

facezoo docs            write what differs
facezoo docs --check    write nothing, exit 3 if a page differs from what it is rendered from
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Dict, Sequence

from ..errors import GateError, InputError
from ..files import write_bytes
from ..reports.chinese import CHINESE
from ..reports.readme import render_block, render_blocks
from . import flags

__all__ = ["configure", "render_pages", "run"]

# Not every .md file: a virtual environment inside the repository has pages of other packages.
PAGES = (
    "*.md",
    "common/*.md",
    "face_*/*.md",
    "face_*/*/*.md",
    "face_*/*/source_code/*.md",
    "tests/faults/*.md",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    flags.add(parser, "--check", "write nothing, exit 3 on a difference")
    flags.add(parser, "--root")


def render_pages(root: Path) -> Dict[Path, str]:
    """Render every page of the repository.

    Parameters
    ----------
    root
        The repository's folder.

    Returns
    -------
    dict
        Path to what the page should hold.

    Raises
    ------
    InputError
        If a page's blocks cannot be rendered; names the page.
    """
    pages = {}
    for path in sorted(path for pattern in PAGES for path in root.glob(pattern)):
        try:
            text = path.read_text(encoding="utf-8")
            pages[path] = render_blocks(text, lambda words: _block(root, words))
        except InputError as error:
            raise InputError(f"{path.relative_to(root).as_posix()}: {error}") from error
    return pages


def _block(root: Path, words: Sequence[str]) -> str:
    if words[0] != "flags":
        return render_block(root, words)
    chinese = words[-1] == "zh"
    return flags.spellings_table(lambda text: CHINESE.get(text, text) if chinese else text)


def run(args: argparse.Namespace) -> int:
    """Write or compare the pages."""
    if not (args.root / "face_detection").is_dir():
        raise InputError(f"{str(args.root)!r} is not the repository's folder; give it as --root")
    pages = render_pages(args.root)
    stale = []
    for path, text in pages.items():
        if path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(args.root).as_posix())
            if not args.check:
                write_bytes(path, text.encode())
                print(f"wrote {stale[-1]}")
    if stale and args.check:
        raise GateError(f"{', '.join(stale)} differ from what they show; run: make docs")
    print(f"{len(pages)} pages agree with what they show")
    return 0
