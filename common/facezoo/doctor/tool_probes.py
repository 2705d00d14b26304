"""Probes of vamc and vamp for behaviour that the vendor's documents do not describe.

Each probe starts a tool as a process of its own, with a time limit, and keeps what it printed, its
exit code and the files it left.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..card import Preprocess
from ..errors import BackendRunError
from ..system import in_own_group, kill_group
from ..vacc.toolchain import Tool
from ..vacc.vdsp import render_vdsp
from .device_probes import Answer

__all__ = [
    "VAMP_PROBES",
    "ToolProbe",
    "VampSetup",
    "ask_vamc",
    "run_tool",
]


LONGEST_TEXT = 4000  # characters of a tool's output that are kept
SEVERAL = 5  # images in a list: not a multiple of the batch
BATCH = 2
ITERATIONS = 64
T_VALUE = 3


@dataclass(frozen=True)
class VampSetup:
    """The network that vamp runs.

    Attributes
    ----------
    tool
        The vendor's vamp.
    prefix, preprocess
        Artifact prefix and pre-processing of the network.
    device_id
        Device number.
    timeout
        Seconds one run may take.
    folder
        An empty folder for inputs and outputs.
    """

    tool: Tool
    prefix: Path
    preprocess: Preprocess
    device_id: int
    timeout: float
    folder: Path

    def run(self, *words: Any) -> Dict[str, Any]:
        """Run vamp on this network with further arguments."""
        vdsp = self.folder / "vdsp_params.json"
        vdsp.write_text(json.dumps(render_vdsp(self.preprocess)), encoding="utf-8")
        model = ["-m", self.prefix.resolve(), "--vdsp_params", vdsp, "-d", self.device_id]
        return run_tool(self.tool, [*model, *words], self.timeout, self.folder)

    def shape(self) -> List[Any]:
        """Return the arguments for synthetic images."""
        height, width = self.preprocess.input_hw
        return ["-s", f"[3,{height},{width}]"]

    def datalist(self, name: str, count: int = SEVERAL, broken: Optional[int] = None) -> Path:
        """Write images of growing brightness as input npz, and a list of them."""
        height, width = self.preprocess.input_hw
        lines = []
        for index in range(count):
            path = self.folder / name / f"{index}.npz"
            path.parent.mkdir(exist_ok=True)
            brightness = np.full((3, height, width), 20 + 40 * index, np.uint8)
            np.savez(path, input_0=brightness)
            if index == broken:
                path.write_bytes(b"no npz")
            lines.append(f"{path}\n")
        listed = self.folder / f"{name}.txt"
        listed.write_text("".join(lines), encoding="utf-8")
        return listed


class ToolProbe(NamedTuple):
    """A question about vamp, and the function that answers it."""

    text: str
    ask: Callable[[VampSetup], Answer]


def run_tool(tool: Tool, words: Sequence[Any], timeout: float, folder: Path) -> Dict[str, Any]:
    """Run a tool of the vendor to its end.

    Parameters
    ----------
    tool, words
        The command and its arguments.
    timeout
        Seconds it may take.
    folder
        Its working folder.

    Returns
    -------
    dict
        ``arguments``, ``exit_code``, ``seconds``, ``stdout`` and ``stderr``.

    Raises
    ------
    BackendRunError
        If it cannot be started or does not end.
    """
    arguments = [str(word) for word in words]
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            [*tool.command, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **in_own_group(),
        )
    except OSError as error:
        raise BackendRunError(f"{tool.name} cannot be started: {error.strerror}") from error
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException as error:
            # Its own workers would keep the pipes open, and the device busy.
            kill_group(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise BackendRunError(f"{tool.name} did not end within {timeout:g} s") from error
            raise
    return {
        "arguments": arguments,
        "exit_code": process.returncode,
        "seconds": round(time.monotonic() - started, 2),
        "stdout": stdout.decode(errors="replace")[:LONGEST_TEXT],
        "stderr": stderr.decode(errors="replace")[:LONGEST_TEXT],
    }


def ask_vamc(tool: Tool, timeout: float, folder: Path) -> Answer:
    """Find out what the vendor's vamc does about a missing YAML."""
    ran = run_tool(tool, ["compile", folder / "none.yaml"], timeout, folder)
    return Answer(f"exit code {ran['exit_code']}", ran)


def _report(setup: VampSetup) -> Answer:
    ran = setup.run("-i", 1, "-p", 1, "-b", 1, *setup.shape(), "--iterations", ITERATIONS)
    return Answer(f"exit code {ran['exit_code']}, {len(ran['stdout'].splitlines())} lines", ran)


def _stray_p(setup: VampSetup) -> Answer:
    words = ("-i", 1, "p", 1, "-b", 1, *setup.shape(), "--iterations", ITERATIONS)
    ran = setup.run(*words)
    return Answer(f"'-i 1 p 1' gives exit code {ran['exit_code']}", ran)


def _t_value(setup: VampSetup) -> Answer:
    ran = setup.run("-i", 1, "-p", 1, "-b", 1, *setup.shape(), "-t", T_VALUE)
    return Answer(
        f"'-t {T_VALUE}' takes {ran['seconds']} s and gives exit code {ran['exit_code']}", ran
    )


def _list(setup: VampSetup, name: str, **options: Any) -> Tuple[Dict[str, Any], Path]:
    """Run vamp on a list; return what it printed, with the files it left, and their folder."""
    output = setup.folder / f"{name}_output"
    listed = setup.datalist(name, **options)
    ran = setup.run("-b", BATCH, "--datalist", listed, "--path_output", output)
    ran["files"] = sorted(path.name for path in output.glob("*"))
    return ran, output


def _outputs(setup: VampSetup) -> Answer:
    ran, output = _list(setup, "several")
    contents = {}
    for path in sorted(output.glob("*.npz")):
        with np.load(path) as npz:
            contents[path.name] = {key: [str(npz[key].dtype), *npz[key].shape] for key in npz}
    ran["contents"] = contents
    kinds = {json.dumps(content) for content in contents.values()}
    return Answer(
        f"{SEVERAL} lines in batches of {BATCH} give exit code {ran['exit_code']} and "
        f"{len(contents)} files of {len(kinds)} layout",
        ran,
    )


def _order(setup: VampSetup) -> Answer:
    """Images get brighter line by line; each is also run alone, to compare the outputs."""
    ran, output = _list(setup, "ordered")
    _, single = _list(setup, "one", count=1)
    paths = sorted(output.glob("*.npz"))
    first = [_numbers(path) for path in [*single.glob("*.npz"), *paths]]
    if len(first) != SEVERAL + 1:
        return Answer(f"{len(paths)} files for {SEVERAL} lines", ran)
    gaps = [float(np.abs(one - first[0]).max()) for one in first[1:]]
    ran["distance_from_line_0_alone"] = gaps
    ordered = int(np.argmin(gaps)) == 0 and len(set(gaps)) == SEVERAL
    return Answer(
        "output_000000 is line 0's" if ordered else "output_000000 is not line 0's, or unclear",
        ran,
    )


def _numbers(path: Path) -> np.ndarray:
    with np.load(path) as npz:
        return np.concatenate([npz[key].astype(np.float32).ravel() for key in sorted(npz)])


def _broken_npz(setup: VampSetup) -> Answer:
    ran, _ = _list(setup, "broken", broken=2)
    return Answer(
        f"a broken npz on line 2 of {SEVERAL} gives exit code {ran['exit_code']} and "
        f"{len(ran['files'])} files",
        ran,
    )


def _full_folder(setup: VampSetup) -> Answer:
    output = setup.folder / "full_output"
    output.mkdir()
    (output / "output_000009.npz").write_bytes(b"old")
    ran, _ = _list(setup, "full")
    kept = (output / "output_000009.npz").exists()
    return Answer(
        f"a folder with an old output gives exit code {ran['exit_code']}; the old file "
        f"{'stays' if kept else 'is removed'}",
        ran,
    )


def _absent_list(setup: VampSetup) -> Answer:
    output = setup.folder / "absent_output"
    ran = setup.run("-b", 1, "--datalist", setup.folder / "none.txt", "--path_output", output)
    return Answer(f"exit code {ran['exit_code']}", ran)


VAMP_PROBES: Dict[str, ToolProbe] = {
    "vamp_report": ToolProbe("what does vamp print?", _report),
    "vamp_stray_p": ToolProbe("does vamp take 'p 1' without a dash?", _stray_p),
    "vamp_t": ToolProbe("what does -t count?", _t_value),
    "vamp_outputs": ToolProbe(
        "which files does a list give that is not a multiple of the batch?", _outputs
    ),
    "vamp_order": ToolProbe("are outputs numbered by the lines of the list?", _order),
    "vamp_broken_npz": ToolProbe("what does vamp do about an unreadable npz?", _broken_npz),
    "vamp_full_folder": ToolProbe("what does vamp do about older outputs?", _full_folder),
    "vamp_absent_list": ToolProbe("what does vamp do about an absent list?", _absent_list),
}
