"""Print a script for shell completion of verbs, flags and their values.

eval "$(facezoo completion bash)"      in ~/.bashrc; the same in ~/.zshrc for zsh
facezoo completion fish > ~/.config/fish/completions/facezoo.fish

Values are models, variants, engines, downloads and files. The shell asks facezoo at each Tab.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Callable, Dict, List, Tuple

from ..backends import ENGINES
from ..models import CARDS, MODELS, WEIGHTS

__all__ = ["answer", "configure", "run"]

SHELLS = ("bash", "zsh", "fish")
# Tasks of the models that a flag or an argument may name; None for any.
TASKS: Dict[str, Tuple[str, ...]] = {
    "detector": ("face_detection",),
    "landmarks": ("face_alignment",),
    "quality": ("face_quality", "face_recognition"),
    "embedder": ("face_recognition",),
    "embedder_card": ("face_recognition",),
    "model": (),
    "build": (),
    "other_detector": ("face_detection",),
    "card": (),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the argument of the verb."""
    parser.add_argument("shell", choices=SHELLS, help="shell to print the script for")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    # Imported here and below, since only completion needs it.
    from argcomplete import shellcode  # type: ignore[attr-defined, unused-ignore]

    print(shellcode(["facezoo"], shell=args.shell))
    return 0


def answer(build_parser: Callable[[str], argparse.ArgumentParser]) -> None:
    """Answer the shell with what may follow the words of its line, and end the process.

    Parameters
    ----------
    build_parser
        Makes the parser with the verb's flags; see :func:`facezoo.cli.main.build_parser`.
    """
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()[1:]
    verb = next((word for word in words if not word.startswith("-")), "")
    parser = build_parser(verb)
    complete_values(parser)
    argcomplete.autocomplete(parser)
    sys.exit(0)


def complete_values(parser: argparse.ArgumentParser) -> None:
    """Tell the flags and arguments of a parser and its sub-commands which values they may have."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in set(action.choices.values()):
                complete_values(inner)
        elif not action.choices:
            action.completer = _completer(action)  # type: ignore[attr-defined]


def _completer(action: argparse.Action) -> Any:
    from argcomplete.completers import FilesCompleter  # type: ignore[attr-defined, unused-ignore]

    files = FilesCompleter()

    def complete(prefix: str, **others: Any) -> List[str]:
        return [*_names(action, prefix), *files(prefix, **others)]

    takes_value = action.nargs != 0
    return complete if takes_value else None


def _names(action: argparse.Action, prefix: str) -> List[str]:
    if action.dest == "names":
        return sorted({*WEIGHTS, *CARDS})
    if action.dest == "recipe_of":
        return sorted({*MODELS, *CARDS})
    if action.dest not in TASKS:
        return []
    tasks = TASKS[action.dest]
    cards = sorted(card.id for card in CARDS.values() if not tasks or card.task in tasks)
    text, at, _ = prefix.partition("@")
    if at and action.option_strings and text:
        return [f"{text}@{engine}" for engine in ENGINES if engine != "auto"]
    return cards
