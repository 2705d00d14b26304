"""Lay out a model's recipe, ready to run: page, Makefile, build files, scripts, workspace.

The folder is like a clone of the repository with one recipe: the commands of the recipe's page,
from step 1 on, and its Makefile run there unchanged.

  facezoo recipe scrfd --to work
"""

from __future__ import annotations

import argparse

from ..deploy.recipes import lay_out
from . import flags

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "recipe_of", metavar="MODEL", help="a model, or a variant that facezoo list shows"
    )
    flags.add(parser, "--to", "folder, such as a new one", required=True)


def run(args: argparse.Namespace) -> int:
    """Copy the recipe and say where to start."""
    folder = lay_out(args.recipe_of, args.to)
    print(f"{folder / 'README.md'}: the steps; start with: cd {folder / 'workspace'}")
    return 0
