"""The recipes that come with the package: where they are, and a copy of one to work in."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Collection, List

from ..card import ModelCard
from ..errors import CardError, InputError
from ..files import write_bytes
from ..models import CARDS, MODELS

__all__ = ["lay_out", "recipe_of", "recipes_folder"]

# An installed package holds them; in a clone they are where they are written.
PACKAGE = Path(__file__).resolve().parent.parent
PLACES = (PACKAGE / "recipes", PACKAGE.parent.parent)
# What the commands of every recipe use beside its own folder.
SHARED = ("common/utils", "common/eval")
_LINK = re.compile(r"(?<!!)\[([^]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")


def recipes_folder() -> Path:
    """Return the folder with ``face_<task>/<model>`` and ``common/utils``.

    Raises
    ------
    InputError
        If neither the package nor a clone around it has them.
    """
    for place in PLACES:
        if all((place / name).is_dir() for name in SHARED):
            return place
    raise InputError(
        f"the recipes are not in {str(PLACES[0])!r}; install facezoo again, from its wheel or clone"
    )


def recipe_of(name: str) -> str:
    """Return the recipe of a model or variant, such as ``face_detection/scrfd``.

    Raises
    ------
    CardError
        If there is no such model or variant.
    """
    card: ModelCard
    for card in CARDS.values():
        if name in (card.model, card.id):
            return f"{card.task}/{card.model}"
    raise CardError(f"there is no recipe {name!r}; expected one of {', '.join(MODELS)}")


def lay_out(name: str, to: Path) -> Path:
    """Copy a recipe so that the commands of its page and its Makefile run as they are.

    Parameters
    ----------
    name
        A model such as ``scrfd``, or one of its variants.
    to
        Target folder. It may hold other recipes, or what an earlier try wrote; nothing that
        differs is replaced.

    Returns
    -------
    pathlib.Path
        The recipe's folder below ``to``: beside it are the scripts that all recipes share, and the
        images of its page. Links of the pages to files that are not laid out become text.

    Raises
    ------
    CardError
        If there is no such recipe.
    InputError
        If a file in the folder differs from the recipe's.
    """
    recipe, source, to = recipe_of(name), recipes_folder(), Path(to)
    folders = (*SHARED, f"images/{recipe}", recipe)
    paths = [path for folder in folders for path in _files_of(source / folder)]
    contents = {path.relative_to(source): path.read_bytes() for path in paths}
    for page, data in contents.items():
        if page.suffix == ".md":
            contents[page] = _with_its_links(page, data.decode(), contents).encode()
    files = {to / name: data for name, data in contents.items()}
    for path, data in files.items():
        # The size first: a file of someone else's may be larger than the memory.
        is_other = not path.is_file() or path.stat().st_size != len(data)
        if os.path.lexists(path) and (is_other or path.read_bytes() != data):
            raise InputError(f"{str(path)!r} is not as the recipe has it; choose a new folder")
    for path, data in files.items():
        write_bytes(path, data)
    return to / recipe


def _with_its_links(page: Path, text: str, files: Collection[Path]) -> str:
    """Return a page whose links to other files than these are text."""

    def kept(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(page.parent / link[2]))
        if target in files or any(target in file.parents for file in files):
            return link[0]
        # The package's code is named as it is found in an installed package.
        below = link[2].partition("common/facezoo/")[2]
        return f"`facezoo/{below}`" if below else link[1]

    return _LINK.sub(kept, text)


def _files_of(folder: Path) -> List[Path]:
    """List the files of a folder as they are published: without caches and a user's own work."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and ("workspace" not in path.relative_to(folder).parts or path.name == ".gitkeep")
    ]
