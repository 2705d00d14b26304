"""The command ``facezoo``: a table of verbs, each in a module of its own name."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Optional, Sequence

from .. import __version__
from ..errors import InputError
from ..vacc.toolchain import TOOLS, hand_over
from .options import CommandParser, _HelpFormatter, report_unexpected, run_command

__all__ = ["CHAPTERS", "MAINTAINERS", "VERBS", "build_parser", "main"]

# In the order of the work; the help reads like a table of contents.
CHAPTERS = {
    "weights": {
        "list": "models and weights: origin, licence, what is here",
        "download": "fetch weights, checked by size and sha256",
        "info": "parameters, MACs, inputs and outputs of a graph",
        "licences": "licences of code, used packages, and weights",
    },
    "build": {
        "recipe": "a model's recipe, ready to run: steps and build files",
        "export": "published weights or a checkpoint to the ONNX to compile",
        "compile": "build YAML to artifact, with our own overrides",
        "vamc": "the vendor's compiler verbs, with or without its tool",
        "sensitivity": "layers that lose accuracy in int8, to keep in float",
        "compare": "two builds on images: outputs, results, time",
    },
    "use": {
        "predict": "photos to faces and embeddings; why a face is refused",
        "score": "more photos than one machine can: shards, Ray, Parquet",
        "gallery": "known people: enrol, search, name or call unknown",
        "match": "find the person of one photo in another",
        "cluster": "group the faces of photos into people",
        "eject": "a stand-alone folder of one model, to copy into a product",
        "demo": "weights to annotated photos in one command",
    },
    "measure": {
        "prepare": "unpack and check a data set",
        "evaluate": "metrics of result files against ground truth",
        "calibrate": "measure thresholds on your own images for a profile",
        "bench": "speed in MLPerf's scenarios, by stages, and over settings",
        "image2npz": "images to the npz files and the list that vamp takes",
        "vamp": "speed, or outputs of npz files, as the vendor's profiler",
        "decode": "what vamp wrote to results, checked file by file",
    },
    "diagnose": {
        "doctor": "check machine and weights; explain wrong numbers",
        "vacc": "self-test of the vendor's device and tools",
    },
    "maintain": {
        "shims": "vamc and vamp for machines without the vendor's",
        "completion": "shell completion for bash, zsh and fish",
    },
}
# For a clone of the repository; they are not shown in the help.
MAINTAINERS = {
    "render": "render the vdsp JSONs and build YAMLs from the cards",
    "docs": "render the tables in the READMEs from result files",
}
VERBS = {verb: text for verbs in (*CHAPTERS.values(), MAINTAINERS) for verb, text in verbs.items()}


class _Contents(CommandParser):
    """Shows its verbs as a table of contents, one per line, with the chapters at the side."""

    def format_help(self) -> str:
        if self.prog != "facezoo":
            return super().format_help()
        lines = ["usage: facezoo VERB ...; facezoo VERB --help has examples; facezoo --version"]
        lines += [f"{self.description}", ""]
        for chapter, verbs in CHAPTERS.items():
            for index, (verb, text) in enumerate(verbs.items()):
                lines.append(f"  {'' if index else chapter:8} {verb:12}{text}")
        return "\n".join(lines) + "\n"


def build_parser(verb: Optional[str] = None) -> argparse.ArgumentParser:
    """Make the parser.

    Parameters
    ----------
    verb
        Load only this verb's module; all of them if None.
    """
    parser = _Contents(
        prog="facezoo",
        description="Face models, from the checkpoint to a measured deployment.",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"facezoo {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, summary in VERBS.items():
        sub = verbs.add_parser(
            name, help=summary, formatter_class=_HelpFormatter, allow_abbrev=False
        )
        if verb in (None, name):
            module = importlib.import_module(f"{__package__}.{name}")
            sub.description = (module.__doc__ or "").strip()
            # Descriptions hold examples, whose lines must stay lines.
            sub.formatter_class = _VerbFormatter
            module.configure(sub)
            sub.set_defaults(run=module.run)
    return parser


class _VerbFormatter(_HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of a verb's description."""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one verb and return its exit code.

    Started as a command, vamc and vamp become the vendor's tools where these are, whose arguments
    are not parsed here; ``--engine``, which those do not have, asks for ours.
    """
    as_command = argv is None
    argv = sys.argv[1:] if argv is None else list(argv)
    if "_ARGCOMPLETE" in os.environ:  # The shell asks what may follow.
        from .completion import answer

        answer(build_parser)
    chosen = next((one for one in argv if not one.startswith("-")), "")
    ours = argv[:1] != [chosen] or any(one.startswith("--engine") for one in argv)
    try:
        if as_command and chosen in TOOLS and not ours:
            exit_code = hand_over(chosen, argv[1:])
            if exit_code is not None:
                return exit_code
        parser = build_parser(chosen)
    except Exception as error:
        # Such as a package that is installed and cannot be imported.
        return report_unexpected("facezoo", error, "--verbose" in argv)
    if not argv:
        parser.print_help()
        return 0
    return run_command(_run, parser, argv)


def _run(args: argparse.Namespace) -> int:
    if args.verb is None:
        raise InputError("which verb? facezoo --help lists them")
    return int(args.run(args))


if __name__ == "__main__":
    raise SystemExit(main())
