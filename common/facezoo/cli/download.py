"""Download weights and sample photos, verified by size and sha256.

  facezoo download scrfd_500m_bnkps astronaut
  facezoo download --all
  facezoo download --check

Files go to the folder FACEZOO_HOME, or to facezoo in XDG_CACHE_HOME (~/.cache).
FACEZOO_OFFLINE=1 forbids connections.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Collection, Iterable, Iterator, Tuple, Union

from .. import models, weights
from ..errors import InputError, WeightsError, WeightsMissing

__all__ = ["configure", "run"]

EXIT_MISSING = 2

Outcome = Union[Path, WeightsError]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the verb."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help='file to download; "facezoo list" prints the names'
    )
    parser.add_argument(
        "--all", action="store_true", help="download all files that need no manual step"
    )
    parser.add_argument(
        "--check", action="store_true", help="only verify existing files, without a connection"
    )


def run(args: argparse.Namespace) -> int:
    """Download or verify; a failure does not stop the others.

    Parameters
    ----------
    args
        ``names``, ``all``, ``check``.

    Returns
    -------
    int
        0, or 2 if a requested file is missing or differs from the published one.

    Raises
    ------
    InputError
        If nothing was requested.
    CardError
        If a name is unknown.
    """
    if args.names and args.all:
        raise InputError("both names and --all were given; give one of them")
    if not (args.names or args.all or args.check):
        raise InputError('nothing to download; give names ("facezoo list" prints them) or --all')
    names = args.names or list(models.WEIGHTS)
    if args.check:
        return _report(_found(names), () if args.names else names, "not here")
    by_hand = [name for name in names if not models.WEIGHTS[name].sources] if args.all else ()
    label = 'only by hand ("facezoo download NAME" says how)'
    return _report(weights.fetch_many(names), by_hand, label)


def _found(names: Iterable[str]) -> Iterator[Tuple[str, Outcome]]:
    for name in names:
        try:
            yield name, weights.find(name)
        except WeightsError as error:
            yield name, error


def _report(outcomes: Iterable[Tuple[str, Outcome]], optional: Collection[str], label: str) -> int:
    """Print every outcome; missing optional files share one labelled line."""
    code = 0
    missing = []
    for name, outcome in outcomes:
        if isinstance(outcome, Path):
            print(f"{name}: {outcome}")
        elif name in optional and isinstance(outcome, WeightsMissing):
            missing.append(name)
        else:
            code = EXIT_MISSING
            print(f"facezoo download: {outcome}", file=sys.stderr)
    if missing:
        print(f"{label}: {', '.join(missing)}")
    return code
