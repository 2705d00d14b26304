"""List the models and their files: source, licence, and whether they are downloaded.

Commercial use and licence refer to the file, not to the code of its authors.

  facezoo list
  facezoo list --json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, List, Sequence

from .. import models, weights
from ..card import ModelCard, WeightFile
from . import flags
from .outputs import write_report

__all__ = ["configure", "run", "table_of"]

SCHEMA = "facezoo.list/1"


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
    """Print the catalogue.

    Parameters
    ----------
    args
        ``json``.

    Returns
    -------
    int
        0.
    """
    variants = [
        {
            "id": card.id,
            "task": card.task,
            "model": card.model,
            "weights": card.weights,
            "files": _files_of(card),
        }
        for card in models.CARDS.values()
    ]
    files = [_facts(file) for file in models.WEIGHTS.values()]
    if args.json:
        catalogue = {"schema": SCHEMA, "home": str(weights.home())}
        content = {**catalogue, "variants": variants, "files": files}
        write_report(args.json, content, indent=2)
        return 0
    rows = [
        {
            "id": card.id,
            "task": card.task,
            "model": card.model,
            "files": ", ".join(_files_of(card)) or "-",
        }
        for card in models.CARDS.values()
    ]
    print(table_of(rows))
    print()
    print(table_of([_row(facts) for facts in files]))
    print(f'\nfiles live in "{weights.home()}"; get them with: facezoo download NAME')
    return 0


def _files_of(card: ModelCard) -> List[str]:
    """Return the names of a variant's files: its weights first, and checkpoints named after it."""
    stems = [name for name in (card.weights, card.id) if name]
    others = [one.id for one in models.CARDS.values() if one.id not in stems]
    found = [
        file.name
        for file in models.WEIGHTS.values()
        if file.model == card.model
        and any(file.name == stem or file.name.startswith(f"{stem}_") for stem in stems)
        # scrfd_500m_bnkps_pth is another variant's than scrfd_500m's.
        and not any(
            file.name.startswith(f"{other}_") or file.name == other
            for other in others
            if any(other.startswith(f"{stem}_") for stem in stems)
        )
    ]
    return sorted(found, key=lambda name: name != card.weights)


def _facts(file: WeightFile) -> Dict[str, Any]:
    return {
        "name": file.name,
        "model": file.model,
        "here": (weights.home() / file.file).exists(),
        "size": file.size or None,
        "sources": list(file.sources) or ["by hand"],
        "commercial": file.commercial,
        "licence": file.licence,
        "holds": file.holds,
        "file": file.file,
        "sha256": file.sha256 or None,
    }


def _row(facts: Dict[str, Any]) -> Dict[str, str]:
    size = facts["size"]
    return {
        "name": facts["name"],
        "model": facts["model"],
        "here": "yes" if facts["here"] else "no",
        "MB": f"{size / 1e6:.2f}" if size else "?",
        "from": ", ".join(facts["sources"]),
        "commercial": facts["commercial"],
        "licence": facts["licence"],
        "holds": facts["holds"],
    }


def table_of(rows: Sequence[Dict[str, str]]) -> str:
    """Align rows of equal keys under their headings; the last column is not padded.

    Parameters
    ----------
    rows
        At least one row; the keys are the headings.
    """
    lines: List[List[str]] = [list(rows[0])] + [list(row.values()) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )
