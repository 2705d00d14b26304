"""Which versions the tests were run with, from the record of ``tests/versions/run``."""

from __future__ import annotations

__all__ = ["versions_table"]

import json
from pathlib import Path

from ..errors import UNREADABLE, InputError
from .tables import Say, markdown_table, merged

RECORD = Path("tests", "versions", "results.json")
SCHEMA = "facezoo.versions/1"


def versions_table(root: Path, say: Say) -> str:
    """Format one row per run: Python, versions of packages, what was run, when, and its outcome."""
    path = root / RECORD
    if not path.exists():
        return say("not measured")
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["schema"] != SCHEMA:
            raise ValueError(f"schema {entry['schema']!r}; expected {SCHEMA!r}")
        runs = entry["runs"]
        names = merged(run["packages"] for run in runs)
        rows = [
            [
                run["python"],
                say(run["versions"]),
                *(run["packages"].get(name, say("no")) for name in names),
                say(run["tests"]),
                *(str(run[count]) for count in ("passed", "failed", "skipped")),
                run["date"],
                run["machine"],
            ]
            for run in runs
        ]
    except UNREADABLE as error:
        raise InputError(f"{str(path)!r} is not a record of runs ({error!r}); run again") from error
    head = [*map(say, ("Python", "versions")), *names, say("tests")]
    head += map(say, ("passed", "failed", "skipped", "date", "machine"))
    counts = range(len(names) + 3, len(names) + 6)
    return markdown_table(head, rows, numbers=counts)
