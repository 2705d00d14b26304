"""Device self-test: compares device and CPU and records undocumented behaviour.

The recipes' networks run on the device and in ONNX Runtime, and their pre-processed tensors and
outputs are compared. Then the device and the vendor's tools are probed. Each step runs in a process
of its own, so that a runtime that hangs or aborts does not lose the findings of the other steps.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import tempfile
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from .. import __version__
from ..artifact import read_artifact
from ..backends.ort import OrtBackend
from ..backends.vsx import import_runtime, read_shapes
from ..card import Preprocess
from ..compiler.build import compile_model
from ..contract import Contract, read_contract
from ..errors import BackendRunError, FaceZooError, InputError
from ..files import write_bytes
from ..image.preprocess import VdspOperation, normalisation_table
from ..results import RawOutputs
from ..testing import tiny_scrfd
from ..vacc.build_config import read_build_config
from ..vacc.toolchain import describe_toolchain, find_tool
from ..vacc.vdsp import render_vdsp
from ..workers import name_exit, start_process
from .device_probes import DEVICE_PROBES, Answer, Setup, run_pictures
from .tool_probes import VAMP_PROBES, VampSetup, ask_vamc, run_tool

__all__ = [
    "SCHEMA",
    "DeviceComparison",
    "SelftestStep",
    "compare_recipe",
    "compile_tiny",
    "describe_environment",
    "isolated",
    "run_selftest",
]


SCHEMA = "facezoo.selftest/1"
COMPILE_SECONDS = 1800.0
TINY_HW = (128, 128)

# Questions that no run of a network answers.
UNANSWERABLE = (
    "Pad.pad_to_square: anchor and value of the calibration images",
    "Resize.adaptive_side: rounding; which calibration images are taken, in which order",
    "data_transport_mode, cluster_mode, StreamBalanceMode: their meaning",
    "loss of the device while it runs",
)

Drift = Callable[[Contract, Sequence[Tuple[RawOutputs, RawOutputs]]], Dict[str, Any]]
Isolate = Callable[..., Any]


@dataclass(frozen=True)
class SelftestStep:
    """One step of the selftest.

    Attributes
    ----------
    group, name
        ``recipes``, ``card`` or ``tools``; the artifact's or the question's name.
    question
        The question that the step answers.
    failed
        Whether the step itself failed; ``answer`` then says how.
    answer
        One line.
    measured
        The measured values, JSON values.
    """

    group: str
    name: str
    question: str
    failed: bool
    answer: str
    measured: Any = None


def isolated(function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """Call a function in a new process.

    Parameters
    ----------
    function, arguments
        Can be pickled, like the result.
    seconds
        Time limit of the process, including its start.

    Returns
    -------
    object
        What the function returned.

    Raises
    ------
    BackendRunError
        If the process does not end in time or dies.
    FaceZooError
        What the function raised.
    """
    # Not forked: a runtime's threads do not survive that.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = start_process(context, _report_to, (theirs, function, arguments))
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise BackendRunError(f"did not end within {seconds:g} s")
        message = ours.recv()
    except EOFError:
        process.join(5)
        raise BackendRunError(f"the process died with {name_exit(process.exitcode)}") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(message, Exception):
        raise message
    return message


def _report_to(connection: Connection, function: Callable[..., Any], arguments: Any) -> None:
    try:
        connection.send(function(*arguments))
    except FaceZooError as error:
        connection.send(error)
    except Exception as error:  # The runtime's own classes may be missing when unpickling.
        connection.send(BackendRunError(f"{type(error).__name__}: {error}"))


@dataclass(frozen=True)
class DeviceComparison:
    """A network on the device and in ONNX Runtime, on the same images.

    Attributes
    ----------
    contract
        Contract of the network.
    measured
        Measured values, JSON values.
    pairs
        Raw outputs of the host and of the device, one pair per image.
    """

    contract: Contract
    measured: Dict[str, Any]
    pairs: List[Tuple[RawOutputs, RawOutputs]]


def generated_pictures() -> List[np.ndarray]:
    """Make small images of several shapes, dark with bright squares, the same every time."""
    rng = np.random.default_rng(2026)
    pictures = []
    for height, width in ((128, 128), (97, 131), (131, 97), (64, 200), (240, 320), (33, 47)):
        rough = rng.integers(0, 60, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        picture = rough.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].copy()
        for _ in range(3):
            side = int(rng.integers(12, 28))
            top, left = int(rng.integers(0, height - 4)), int(rng.integers(0, width - 4))
            picture[top : top + side, left : left + side] = rng.integers(200, 256, 3)
        pictures.append(picture)
    return pictures


def compare_recipe(prefix: Path, device_id: int, timeout: float) -> DeviceComparison:
    """Run generated images through an artifact's network, on the device and without it.

    Parameters
    ----------
    prefix
        The vendor's three files with ours beside them.
    device_id, timeout
        See :class:`~facezoo.doctor.device_probes.Setup`.

    Returns
    -------
    DeviceComparison

    Raises
    ------
    InputError
        If only the vendor's files are there, or only ours.
    """
    artifact = read_artifact(prefix)
    if artifact.model is None or not artifact.has_vendor_files:
        raise InputError(
            f"{str(prefix)!r} needs both the vendor's files and ours to be compared; compile the "
            "YAML with the vendor's vamc and with facezoo compile"
        )
    contract = read_contract(artifact.model)
    pictures = generated_pictures()
    setup = Setup(prefix, contract.preprocess.input_hw, device_id, timeout)
    device = run_pictures(setup, render_vdsp(contract.preprocess), pictures)
    operation = VdspOperation(contract.preprocess, half_output=True)
    host_tensors, placements = zip(*[operation(picture) for picture in pictures])
    device_tensors = [np.asarray(result.tensor, dtype=np.float32) for result in device]
    from_device = [
        RawOutputs(
            {
                name: np.asarray(output, dtype=np.float32)
                for name, output in zip(contract.output_names, result.outputs)
            },
            (placement,),
        )
        for result, placement in zip(device, placements)
    ]
    host = OrtBackend(artifact.model, contract, exact=True)
    from_host, on_device_tensors = (
        [host.run_tensor(tensor[None], [place]) for tensor, place in zip(tensors, placements)]
        for tensors in (host_tensors, device_tensors)
    )
    host.close()
    measured = {
        "card": contract.card_id,
        "host_dtype": artifact.dtype,
        "tensor": _tensor_gap(contract.preprocess, host_tensors, device_tensors),
        # The first includes the pre-processing, as a user sees it; the second is the network alone.
        "outputs": _output_gaps(contract, from_host, from_device),
        "outputs_on_the_card's_tensor": _output_gaps(contract, on_device_tensors, from_device),
    }
    return DeviceComparison(contract, measured, list(zip(from_host, from_device)))


def _tensor_gap(
    preprocess: Preprocess, host: Sequence[np.ndarray], device: Sequence[np.ndarray]
) -> Dict[str, float]:
    gaps = np.concatenate([np.abs(one - two).ravel() for one, two in zip(host, device)])
    # One step of a pixel, by which a rounding may differ.
    step = float(np.diff(normalisation_table(preprocess), axis=1).max())
    return {
        "share_identical": float(np.mean(gaps == 0.0)),
        "max_error": float(gaps.max()),
        "max_error_in_pixel_steps": float(gaps.max()) / step,
        "share_beyond_one_step": float(np.mean(gaps > 1.01 * step)),
    }


def _output_gaps(
    contract: Contract, host: Sequence[RawOutputs], device: Sequence[RawOutputs]
) -> Dict[str, Dict[str, float]]:
    gaps = {}
    for name in contract.output_names:
        pairs = [
            (one.arrays[name].ravel(), two.arrays[name].ravel()) for one, two in zip(host, device)
        ]
        gaps[name] = {
            "lowest_cosine": min(_cosine(one, two) for one, two in pairs),
            "max_error": max(float(np.abs(one - two).max()) for one, two in pairs),
            "largest_value": max(float(np.abs(one).max()) for one, _ in pairs),
        }
    return gaps


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    first, second = one.astype(np.float64), two.astype(np.float64)
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / lengths if lengths else float(np.array_equal(first, second))


def compile_tiny(folder: Path) -> Path:
    """Compile a tiny SCRFD with the vendor's vamc and with ours, to one prefix.

    Parameters
    ----------
    folder
        Target folder.

    Returns
    -------
    Path
        The prefix.

    Raises
    ------
    InputError
        If the vendor's vamc is not installed.
    BackendRunError
        If it fails.
    """
    vamc = find_tool("vamc")
    if vamc is None:
        raise InputError(
            "there is no network to test: give prefixes that the vendor's vamc has compiled, or "
            "install vamc, so that a tiny one can be compiled"
        )
    checkpoint = tiny_scrfd(folder / "tiny.onnx", input_hw=TINY_HW)
    config = folder / "tiny.yaml"
    names = [json.dumps(str(path)) for path in (checkpoint, folder)]  # as YAML quotes, too
    text = _TINY_YAML.format(names[0], *TINY_HW, names[1])
    write_bytes(config, text.encode())
    ran = run_tool(vamc, ["compile", config], COMPILE_SECONDS, folder)
    prefix = folder / "selftest_tiny_fp16" / "mod"
    if ran["exit_code"] != 0 or not prefix.with_name("mod.so").exists():
        raise BackendRunError(
            f"the vendor's vamc gave exit code {ran['exit_code']} for a tiny network, and left "
            f"{sorted(path.name for path in prefix.parent.glob('*'))} in {prefix.parent.name}; it "
            f"said: {(ran['stderr'] or ran['stdout']).strip()[-300:]!r}"
        )
    compile_model(read_build_config(config))
    return prefix


_TINY_YAML = """\
name: selftest_tiny_fp16
frontend:
  type: onnx
  checkpoint: {}
  shape:
    input.1: [1, 3, {}, {}]
  dtype: fp32
backend:
  type: tvm_vacc
  dtype: fp16
  compile:
    data_transport_mode: 1
    cluster_mode: 0
workspace:
  path: {}
"""


def run_selftest(
    prefixes: Sequence[Path],
    *,
    device_id: int,
    timeout: float,
    drift: Drift,
    isolate: Isolate = isolated,
) -> Iterator[SelftestStep]:
    """Compare the recipes, then run the probes.

    Parameters
    ----------
    prefixes
        Artifacts; the probes use the first.
    device_id
        Device number.
    timeout
        Seconds one step of the runtime may take.
    drift
        Describes in terms of the task how far the device's outputs are from the host's.
    isolate
        Calls a function in a process of its own.

    Yields
    ------
    SelftestStep
        As soon as it is finished.
    """
    setup = Setup(prefixes[0], _input_hw(prefixes[0], device_id, timeout), device_id, timeout)
    for prefix in prefixes:
        yield _step(
            ("recipes", prefix.parent.name, "does the device give what ONNX Runtime gives?"),
            partial(_compare, prefix, device_id, timeout, drift, isolate),
        )
    for name, probe in DEVICE_PROBES.items():
        ask = partial(isolate, probe.ask, setup, seconds=10 * timeout)
        yield _step(("card", name, probe.text), ask)
    yield from _ask_tools(setup)


def _step(about: Tuple[str, str, str], ask: Callable[[], Answer]) -> SelftestStep:
    try:
        answer = ask()
    except FaceZooError as error:
        return SelftestStep(*about, failed=True, answer=str(error))
    return SelftestStep(*about, failed=False, answer=answer.text, measured=answer.measured)


def _compare(
    prefix: Path, device_id: int, timeout: float, drift: Drift, isolate: Isolate
) -> Answer:
    found = isolate(compare_recipe, prefix, device_id, timeout, seconds=10 * timeout)
    changed = drift(found.contract, found.pairs)
    lowest = min(gap["lowest_cosine"] for gap in found.measured["outputs"].values())
    steps = found.measured["tensor"]["max_error_in_pixel_steps"]
    return Answer(
        f"tensors within {steps:.2f} steps of a pixel, cosine of the outputs at least {lowest:.5f}",
        {**found.measured, "drift": changed},
    )


def _input_hw(prefix: Path, device_id: int, timeout: float) -> Tuple[int, int]:
    artifact = read_artifact(prefix)
    if artifact.model is not None:
        return read_contract(artifact.model).preprocess.input_hw
    return read_shapes(prefix, device_id, timeout).input_hw


def _ask_tools(setup: Setup) -> Iterator[SelftestStep]:
    vamc, vamp = find_tool("vamc"), find_tool("vamp")
    seconds = 10 * setup.timeout
    with tempfile.TemporaryDirectory(prefix="facezoo-selftest-") as folder:
        if vamc is not None:
            about = ("tools", "vamc_absent_yaml", "what does vamc do about an absent YAML?")
            yield _step(about, partial(ask_vamc, vamc, seconds, Path(folder)))
        if vamp is not None:
            preprocess = Preprocess(setup.input_hw, norm="DIV255")
            target = (setup.prefix, preprocess, setup.device_id, seconds, Path(folder))
            for name, probe in VAMP_PROBES.items():
                ask = partial(probe.ask, VampSetup(vamp, *target))
                yield _step(("tools", name, probe.text), ask)


def describe_environment(device_id: int) -> Mapping[str, Any]:
    """Return the head of the report: hardware, system and versions.

    Parameters
    ----------
    device_id
        Device number.

    Returns
    -------
    mapping
        JSON values; nothing that names the machine or its user.
    """
    return {
        "schema": SCHEMA,
        "facezoo": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "toolchain": describe_toolchain(),
        "device_id": device_id,
        "card_type": _device_type(),
        "unanswerable": list(UNANSWERABLE),
    }


def _device_type() -> str:
    try:
        return ", ".join(str(device.card_type) for device in import_runtime().get_all_cards())
    except Exception as error:  # Documented by one sample only; its absence is a finding, too.
        return f"unknown ({type(error).__name__}: {error})"
