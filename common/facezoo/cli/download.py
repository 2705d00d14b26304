"""Fetch weights and sample photos, checked by size and sha256.

  facezoo download scrfd_500m_bnkps astronaut
  facezoo download --all
  facezoo download --check

Files go to the folder FACEZOO_HOME, or ~/.cache/facezoo. FACEZOO_OFFLINE=1 forbids connections.
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
    """Add the verb's flags."""
    parser.add_argument("names", nargs="*", metavar="NAME", help='as "facezoo list" prints them')
    parser.add_argument("--all", action="store_true", help="everything that a program can fetch")
    parser.add_argument(
        "--check", action="store_true", help="only verify what is here, without a connection"
    )


def run(args: argparse.Namespace) -> int:
    """Fetch or check; a failure does not stop the others.

    Parameters
    ----------
    args
        ``names``, ``all``, ``check``.

    Returns
    -------
    int
        0, or 2 if something that was asked for is missing or is not what it should be.

    Raises
    ------
    InputError
        If nothing was asked for.
    CardError
        If the zoo knows no file of one of the names.
    """
    if args.names and args.all:
        raise InputError("both names and --all were given; give one of them")
    if not (args.names or args.all or args.check):
        raise InputError('nothing to download; give names ("facezoo list" shows them) or --all')
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
    """Print every outcome; what is optional and missing goes into one labelled line."""
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
