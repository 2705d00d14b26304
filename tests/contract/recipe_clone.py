"""A user's clone of one recipe, in which the commands of its page are run as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import facezoo
from facezoo import weights
from facezoo.models import find_weights

REPOSITORY = Path(facezoo.__file__).parent.parent.parent


def fence(recipe, heading):
    """Return the first commands below a heading of the recipe's page."""
    page = (REPOSITORY / recipe / "README.md").read_text(encoding="utf-8")
    return re.search(rf"^#+ {heading}\n.*?^```bash\n(.*?)^```$", page, re.M | re.S)[1]


def home_with(folder, names, shared=None):
    """Fill a home folder with files from the user's own, or from the shared assets."""
    cache = folder / ".cache" / "facezoo"
    cache.mkdir(parents=True)
    for name in names:
        target = cache / find_weights(name).file
        asset = Path(shared or "/nowhere") / "assets" / "scrfd" / target.name
        shutil.copy(asset if asset.is_file() else weights.find(name), target)
    return folder


def clone(recipe, folder):
    """Lay out a recipe with an empty workspace, everything else linked to this repository."""
    workspace = folder / recipe / "workspace"
    workspace.mkdir(parents=True)
    for name in ("build_in", "source_code"):
        (workspace.parent / name).symlink_to(REPOSITORY / recipe / name)
    for name in {"common", "face_detection"} - {entry.name for entry in folder.iterdir()}:
        (folder / name).symlink_to(REPOSITORY / name)
    tools = folder / "bin"
    tools.mkdir()
    for name, module in (("python", ""), ("facezoo", "-m facezoo.cli.main ")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        (tools / name).chmod(0o755)
    return workspace


def run(text, workspace, home, all_cores=False):
    """Run shell commands as a user would who has installed facezoo; return what they print."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FACEZOO_")}
    environment["PATH"] = f"{workspace.parents[2] / 'bin'}{os.pathsep}{environment['PATH']}"
    environment.update(HOME=str(home), FACEZOO_OFFLINE="1", OMP_NUM_THREADS="1")
    if all_cores:
        del environment["OMP_NUM_THREADS"]
    command = ["bash", "-e", "-c", text]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(f"{workspace.resolve()}/", "").replace(str(home), "~")
