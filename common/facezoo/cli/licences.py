"""Print the licences of the code, of its packages, and of the downloadable weights.

The licence of a package is that in the metadata of the installed version. "commercial" refers to
the weight file, not to the code of its authors.

  facezoo licences
"""

from __future__ import annotations

import argparse
import re
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path
from typing import Dict, List

from .. import models
from . import flags
from .list import table_of
from .outputs import write_report

__all__ = ["configure", "run"]

SCHEMA = "facezoo.licences/1"
OURS = "Apache-2.0"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the verb."""
    flags.add(
        parser,
        "--json",
        "write JSON instead of the tables; - is the standard output, also if left out",
        nargs="?",
        const=Path("-"),
    )


def run(args: argparse.Namespace) -> int:
    """Print the licences.

    Parameters
    ----------
    args
        ``json``.

    Returns
    -------
    int
        0.
    """
    packages = [_package(requirement) for requirement in _requirements()]
    weights = [
        {"weights": file.name, "commercial": file.commercial, "licence": file.licence}
        for file in models.WEIGHTS.values()
    ]
    if args.json:
        content = {"schema": SCHEMA, "facezoo": OURS, "packages": packages, "weights": weights}
        write_report(args.json, content, indent=2)
        return 0
    print(f"facezoo: {OURS}; see LICENSE and NOTICE\n")
    if packages:
        print(f"{table_of(packages)}\n")
    print(table_of(weights))
    return 0


def _requirements() -> List[str]:
    """Return the requirements of the package and its extras, without duplicates."""
    try:
        lines = requires("facezoo") or []
    except PackageNotFoundError:  # Run from source without installation.
        lines = []
    names = (re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in lines)
    return sorted(set(names), key=str.lower)


def _package(name: str) -> Dict[str, str]:
    """Return the licence of a package from its metadata: free text or classifiers."""
    try:
        facts = metadata(name)
    except PackageNotFoundError:
        return {"package": name, "version": "-", "licence": "not installed"}
    classified = [
        line.rpartition(" :: ")[2]
        for line in facts.get_all("Classifier") or []
        if line.startswith("License :: ") and line.count(" :: ") > 1
    ]
    stated = " ".join(facts.get_all("License-Expression") or [])
    stated = stated or "; ".join(classified) or " ".join(facts.get_all("License") or [])
    # Some packages store the whole text there.
    short = stated.strip().split("\n")[0][:60]
    return {"package": name, "version": facts["Version"], "licence": short or "not stated"}
