"""Compile a build YAML to an artifact, with the vendor's command line.

``vamc compile YAML`` and its older spelling ``vamc build YAML`` are the same. Paths inside the YAML
are relative to the working directory; the artifact is ``<workspace.path>/<name>/mod``. If the
vendor's vamc is installed, it runs instead; ``facezoo compile`` is always ours. fp16 and int8 are
checked by the accuracy gate, whose settings are in ``<yaml name>.gate.yaml`` beside the YAML.

  facezoo vamc compile ../build_in/build/official_scrfd.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..vacc.build_config import read_build_config
from .compile import build
from .options import add_threads_option

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verbs = parser.add_subparsers(dest="vamc_verb", metavar="compile|build", required=True)
    for verb, text in (("compile", "compile a build YAML"), ("build", "the same, older spelling")):
        command = verbs.add_parser(verb, help=text, description=f"{text.capitalize()}.")
        command.add_argument(
            "yaml", type=Path, metavar="YAML", help="build YAML such as build_in/build/*.yaml"
        )
        add_threads_option(command)


def run(args: argparse.Namespace) -> int:
    """Compile and print the result."""
    build(read_build_config(args.yaml))
    return 0
