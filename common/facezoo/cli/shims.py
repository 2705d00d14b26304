"""Manage shims: commands vamc and vamp in this environment, without the vendor's tools.

  facezoo shims install   create them, unless the vendor's tools are installed
  facezoo shims remove    delete the shims
  facezoo shims status    show what vamc and vamp are

A shim calls facezoo vamc or facezoo vamp, which run the vendor's tool if one is installed. The
vendor's installer may replace a shim; the file is then the vendor's and is kept.
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
    """Apply the action to both names, and print the resulting state of each."""
    for name in TOOLS:
        print(f"{name}: {_ACTIONS[args.action](name, scripts_folder() / name)}")
    return 0


def _install(name: str, path: Path) -> str:
    tool = find_tool(name)
    if tool is not None:
        return f"not changed: the vendor's tool is installed ({tool.where})"
    if os.path.lexists(path) and not is_shim(path):
        raise InputError(f"{str(path)!r} exists and is not a shim of facezoo; move it away")
    facezoo = path.with_name("facezoo")
    if not facezoo.is_file():
        raise InputError(
            f"{str(facezoo)!r} does not exist, but a shim needs it; install facezoo in this "
            "environment: pip install -e ."
        )
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(
            f"#!/bin/sh\n{SHIM_MARK}: runs the vendor's {name} if there is one\n"
            f'exec {shlex.quote(str(facezoo))} {name} "$@"\n',
            encoding="utf-8",
        )
        temporary.chmod(0o755)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return f"shim installed ({path})"


def _remove(name: str, path: Path) -> str:
    if not is_shim(path):
        return "no shim installed"
    path.unlink()
    return f"shim removed ({path})"


def _status(name: str, path: Path) -> str:
    tool = find_tool(name)
    if is_shim(path):
        leads = f"runs the vendor's ({tool.where})" if tool else "runs facezoo's own"
        return f"shim ({path}), {leads}"
    return f"the vendor's ({tool.where})" if tool else f"not installed; facezoo {name} is"


_ACTIONS = {"install": _install, "remove": _remove, "status": _status}
