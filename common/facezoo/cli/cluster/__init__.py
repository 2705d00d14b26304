r"""Group the faces of photos into people, nobody named before.

Two groups of faces are joined while the average cosine of their pairs is at least the threshold,
the most similar ones first; two faces of one photo are two people. Inputs are photos, which are
scored as by facezoo predict; tables of facezoo score or facezoo predict --parquet; and results of
this command, whose photos are not scored again: so photos are added.

  facezoo cluster photos --output groups
  facezoo cluster groups photos --output groups_2
  facezoo cluster groups --photos photos --threshold 0.4 --output stricter

OUTPUT gets people.csv and people.parquet (photo, face, person, ...; person is empty where a face
was left out), people/ (a contact sheet per person), people.html (what to join and to split) and
run.json. The result depends neither on the order of the inputs, nor on which came first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import flags
from ..inputs import add_inputs
from ..options import add_run_options
from ..predict import add_stage_options
from ..thresholds import add_threshold

__all__ = ["configure", "run"]

EMBEDDER = "w600k_mbf"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    add_inputs(parser)
    add_stage_options(parser, embedder=EMBEDDER)
    add_threshold(parser.add_argument_group("people"))
    output = parser.add_argument_group("output")
    flags.add(output, "--output", "folder of results", type=Path, metavar="DIR", required=True)
    flags.add(
        output,
        "--photos",
        "folder of the photos that tables and galleries name, for the contact sheets (default: "
        "none, so they have none)",
    )
    add_run_options(parser)
    flags.drop_old_spellings(parser)


def run(args: argparse.Namespace) -> int:
    """Find the faces, group them, and write who is where."""
    # Imported here, since the help needs none of it.
    from .work import cluster_faces

    return cluster_faces(args)
