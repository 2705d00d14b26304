"""Run the complete workflow: from downloaded weights to photos with boxes.

Downloads SCRFD-500M and a few photos, cuts the graph back to raw heads, compiles it in fp32, fp16
and int8, detects the faces with each and compares them, runs the vendor's npz route with the
recipe's scripts, finds one person in a group photo, and writes a contact sheet.

    facezoo demo --to .demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import flags

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the verb."""
    flags.add(parser, "--to", "folder of the results", default=Path(".demo"))
    flags.add(parser, "--threads")


def run(args: argparse.Namespace) -> int:
    """Run the steps and print each."""
    # Imported here, since the help needs none of it.
    from . import steps

    return steps.run(args)
