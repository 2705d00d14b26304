"""The vendor's own ``vamc`` and ``vamp``: find them, describe them, and run them in our place.

If they are installed, they take precedence: ``facezoo vamc ...`` becomes the vendor's process, with
the same arguments, input, output and exit code. They are searched among the commands of other
installed distributions, then on the PATH. Launchers written by ``facezoo shims install`` are
skipped, and a tool that calls facezoo again does not loop for ever.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..files import open_file

__all__ = [
    "SHIM_MARK",
    "TOOLS",
    "Tool",
    "describe_toolchain",
    "find_tool",
    "hand_over",
    "is_shim",
    "scripts_folder",
]

TOOLS = ("vamc", "vamp")
SHIM_MARK = "# facezoo shim"

# Tools already run in place of ours on the way to this process. The vendor's tool may itself call
# one by name and reach a shim, so a second time is not yet a loop.
HANDED_OVER = "FACEZOO_HANDED_OVER"
MOST_OFTEN = 2
CANNOT_EXECUTE = 126  # as in shells

# source: VastModelZOO@43aff36 README.md: the driver writes its version to this file
DRIVER_FILE = Path("/dev/vastai0_version")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tool:
    """A command of the vendor's toolchain.

    Attributes
    ----------
    name
        ``vamc`` or ``vamp``.
    command
        Command that starts it; arguments follow.
    where
        Description of where it was found.
    version
        Version of its distribution; "" for a file on the PATH, which does not state one.
    """

    name: str
    command: Tuple[str, ...]
    where: str
    version: str = ""


def scripts_folder() -> Path:
    """Return the folder of this environment's commands."""
    return Path(sysconfig.get_path("scripts"))


def find_tool(name: str) -> Optional[Tool]:
    """Find a tool of the vendor's.

    Parameters
    ----------
    name
        One of ``TOOLS``.

    Returns
    -------
    Tool or None
        The command of another distribution, else the first such file on the PATH or among this
        environment's commands that is not ours.
    """
    return _find_declared(name) or _find_file(name)


def _find_declared(name: str) -> Optional[Tool]:
    # Imported here because it takes a quarter of a command's start.
    from importlib import metadata

    for distribution in metadata.distributions():
        for entry in distribution.entry_points:
            if entry.group == "console_scripts" and entry.name == name:
                return Tool(
                    name,
                    (sys.executable, "-c", _launcher(name, entry.value)),
                    f"{distribution.metadata['Name']} {distribution.version} in {sys.prefix}",
                    distribution.version,
                )
    return None


def _launcher(name: str, value: str) -> str:
    """Return the code of a console script for an entry point ``module:function [extras]``."""
    module, _, attribute = re.sub(r"\[.*\]", "", value).replace(" ", "").partition(":")
    # With -c Python puts the working folder first on sys.path, a console script does not.
    return (
        f"import sys; sys.path = [p for p in sys.path if p]; sys.argv[0] = {name!r}; "
        f"from {module} import {attribute.partition('.')[0]}; sys.exit({attribute}())"
    )


def _find_file(name: str) -> Optional[Tool]:
    for folder in [*os.get_exec_path(), str(scripts_folder())]:
        path = Path(folder, name)
        if folder and _is_program(path) and not is_shim(path):
            return Tool(name, (str(path),), str(path))
    return None


def _is_program(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.X_OK)
    except OSError:  # As in shells, a folder of the PATH that may not be entered holds nothing.
        return False


def is_shim(path: Path) -> bool:
    """Return whether a file is a launcher written by ``facezoo shims install``."""
    try:
        with open_file(path) as file:
            return SHIM_MARK.encode() in file.read(256)
    except OSError:
        return False


def hand_over(name: str, arguments: Sequence[str]) -> Optional[int]:
    """Replace this process with the vendor's tool, if there is one.

    Input, output, signals and exit code are then those of the tool.

    Parameters
    ----------
    name
        One of ``TOOLS``.
    arguments
        Arguments after the name, unchanged.

    Returns
    -------
    int or None
        None if there is no such tool, so that ours runs; the exit code if the tool cannot be
        started. Otherwise this function does not return.
    """
    tool = find_tool(name)
    if tool is None:
        return None
    handed_over = os.environ.get(HANDED_OVER, "").split()
    if handed_over.count(name) >= MOST_OFTEN:
        _log.warning("%s calls facezoo %s again, which now runs itself", tool.where, name)
        return None
    environment = {**os.environ, HANDED_OVER: " ".join([*handed_over, name])}
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(tool.command[0], [*tool.command, *arguments], environment)
    except OSError as error:
        _log.error("the vendor's %s, %s, cannot be started: %s", name, tool.where, error.strerror)
        return CANNOT_EXECUTE


def describe_toolchain() -> Dict[str, Any]:
    """List the installed parts of the vendor's toolchain and their versions, for reports.

    Returns
    -------
    dict
        ``vamc`` and ``vamp`` with ``where`` and ``version``, versions of the packages and of the
        driver; None for missing parts.
    """
    found: Dict[str, Any] = {}
    for name in TOOLS:
        tool = find_tool(name)
        found[name] = tool and {"where": tool.where, "version": tool.version}
    return {**found, "vaststreamx": _version_of("vaststreamx"), "driver": _driver()}


def _version_of(project: str) -> Optional[str]:
    from importlib import metadata

    try:
        return metadata.version(project)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> Optional[str]:
    try:
        lines: List[str] = DRIVER_FILE.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.strip() for line in lines if "driver" in line.lower()), None)
