"""Print a script for shell completion of verbs and flags.

eval "$(facezoo completion bash)"      in ~/.bashrc; the same in ~/.zshrc for zsh
facezoo completion fish > ~/.config/fish/completions/facezoo.fish
"""

from __future__ import annotations

import argparse
from typing import Dict, Iterator, List, Tuple

__all__ = ["configure", "run", "words_after"]

SHELLS = ("bash", "zsh", "fish")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the argument of the verb."""
    parser.add_argument("shell", choices=SHELLS, help="shell to print the script for")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    # A local import: the module of the parser imports this one.
    from .main import build_parser

    words = words_after(build_parser())
    if args.shell == "fish":
        print("\n".join(_fish(words)))
        return 0
    if args.shell == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    print(_bash(words))
    return 0


def words_after(parser: argparse.ArgumentParser) -> Dict[Tuple[str, ...], List[str]]:
    """Return the completions after each verb.

    Parameters
    ----------
    parser
        Parser of the whole command.

    Returns
    -------
    dict
        Verbs so far, such as ``()`` or ``("evaluate", "scrfd")``, to further verbs, choices and
        long flags.
    """
    found: Dict[Tuple[str, ...], List[str]] = {}
    _collect(parser, (), found)
    return found


def _collect(
    parser: argparse.ArgumentParser,
    verbs: Tuple[str, ...],
    found: Dict[Tuple[str, ...], List[str]],
) -> None:
    words: List[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            # Old names of a verb are not listed.
            shown = {listed.dest for listed in action._choices_actions}
            for name, sub in action.choices.items():
                if name in shown:
                    words.append(name)
                    _collect(sub, (*verbs, name), found)
        elif not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]
        elif action.help != argparse.SUPPRESS:
            words += [flag for flag in action.option_strings if flag.startswith("--")]
    found[verbs] = words


def _bash(words: Dict[Tuple[str, ...], List[str]]) -> str:
    cases = "\n".join(
        f'    "{" ".join(verbs)}") words="{" ".join(after)}" ;;' for verbs, after in words.items()
    )
    known = " ".join(sorted({verb for verbs in words for verb in verbs}))
    return _BASH.replace("CASES", cases).replace("KNOWN", known)


# Any known verb before the cursor counts as one; a path with such a name is rare.
_BASH = """\
_facezoo() {
  local word verbs="" words=""
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case " KNOWN " in *" $word "*) verbs="${verbs:+$verbs }$word" ;; esac
  done
  case "$verbs" in
CASES
  esac
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _facezoo facezoo"""


def _fish(words: Dict[Tuple[str, ...], List[str]]) -> Iterator[str]:
    for verbs, after in words.items():
        seen = "; and ".join(f"__fish_seen_subcommand_from {verb}" for verb in verbs)
        condition = seen or "__fish_use_subcommand"
        flags = [word[2:] for word in after if word.startswith("--")]
        names = [word for word in after if not word.startswith("--")]
        if names:
            yield f'complete -c facezoo -n "{condition}" -a "{" ".join(names)}"'
        for flag in flags:
            yield f'complete -c facezoo -n "{condition}" -l {flag}'
