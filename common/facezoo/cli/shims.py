"""Commands named vamc and vamp in this environment, for machines without the vendor's.

  facezoo shims install   write them, but never over or beside the vendor's own
  facezoo shims remove    delete the ones written here
  facezoo shims status    say what vamc and vamp are

A shim calls facezoo vamc or facezoo vamp, which hand over to the vendor's tool wherever one turns
up. The vendor's installer may replace a shim; it is then the vendor's file and stays.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from ..errors import InputError
from ..vacc.toolchain import SHIM_MARK, TOOLS, find_tool, is_shim, scripts_folder

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("action", choices=("install", "remove", "status"))


def run(args: argparse.Namespace) -> int:
    """Do it for both names, and say in a line each what there is then."""
    for name in TOOLS:
        print(f"{name}: {_ACTIONS[args.action](name, scripts_folder() / name)}")
    return 0


def _install(name: str, path: Path) -> str:
    tool = find_tool(name)
    if tool is not None:
        return f"left alone, the vendor's is there ({tool.where})"
    if os.path.lexists(path) and not is_shim(path):
        raise InputError(f"{str(path)!r} is in the way and no shim of facezoo; move it away")
    facezoo = path.with_name("facezoo")
    if not facezoo.is_file():
        raise InputError(
            f"{str(facezoo)!r} is not there for a shim to call; install facezoo into this "
            "environment: pip install -e ."
        )
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    temporary.write_text(
        f"#!/bin/sh\n{SHIM_MARK}: hands over to the vendor's {name} where there is one\n"
        f'exec {shlex.quote(str(facezoo))} {name} "$@"\n',
        encoding="utf-8",
    )
    temporary.chmod(0o755)
    temporary.replace(path)
    return f"shim installed ({path})"


def _remove(name: str, path: Path) -> str:
    if not is_shim(path):
        return "no shim is there"
    path.unlink()
    return f"shim removed ({path})"


def _status(name: str, path: Path) -> str:
    tool = find_tool(name)
    if is_shim(path):
        leads = f"hands over to the vendor's ({tool.where})" if tool else "runs facezoo's own"
        return f"shim ({path}), {leads}"
    return f"the vendor's ({tool.where})" if tool else f"not there; facezoo {name} is"


_ACTIONS = {"install": _install, "remove": _remove, "status": _status}
