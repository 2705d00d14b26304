"""TensorRT and Triton deployment of a recogniser: engine build, its check, and configuration.

Written from the tools' documentation and tested with stand-ins; not yet run on a GPU.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List

import numpy as np

from ..backends.ort import run_graph
from ..card import ModelCard
from ..contract import read_contract
from ..errors import BackendRunError, BackendUnavailable, GateError, GraphError, InputError
from ..files import LARGEST_FILE, read_file, write_bytes

__all__ = [
    "PLATFORMS",
    "build_engine",
    "engine_command",
    "render_triton",
    "write_repository",
]


# Triton's name of a runtime to the expected file name.
PLATFORMS = {"onnxruntime_onnx": "model.onnx", "tensorrt_plan": "model.plan"}
# Smallest accepted cosine between the embeddings of an engine and of ONNX Runtime.
LEAST_COSINE = 0.999
MOST_IN_A_CALL = 32  # largest batch that Triton forms
# A colon, comma or bracket would end the name where trtexec and polygraphy expect name:shape.
_PLAIN_NAME = re.compile(r"\w[\w./]*", re.ASCII)


def render_triton(card: ModelCard, platform: str = "onnxruntime_onnx") -> str:
    """Return Triton's ``config.pbtxt`` for a recogniser.

    Parameters
    ----------
    card
        The card with name, input and output.
    platform
        One of ``PLATFORMS``.

    Returns
    -------
    str
        Text in protobuf's text format. The input is the pre-processed image: colour order and
        normalisation of the card, which Triton does not apply.
    """
    height, width = card.preprocess.input_hw
    (output,) = card.outputs
    order = "BGR" if card.preprocess.swaps_channels else "RGB"
    return f"""\
# Rendered from the card {_quoted(card.id)[1:-1]} by "make recipes"; edit the card, not this file.
# Input: aligned faces, {order}, {_quoted(card.preprocess.norm)[1:-1]}. Not run on a server here.
name: {_quoted(card.id)}
platform: {_quoted(platform)}
max_batch_size: {MOST_IN_A_CALL}
input [
  {{
    name: {_quoted(card.input_name)}
    data_type: TYPE_FP32
    dims: [ 3, {height:d}, {width:d} ]
  }}
]
output [
  {{
    name: {_quoted(output.name)}
    data_type: TYPE_FP32
    dims: [ {output.channels:d} ]
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: 1000
}}
"""


def _quoted(text: str) -> str:
    """Quote a text for protobuf's text format; JSON escapes special characters alike."""
    return json.dumps(text)


def write_repository(model: Path, card: ModelCard, root: Path) -> Path:
    """Place a model in a Triton model repository.

    Parameters
    ----------
    model
        An .onnx file or an engine.
    card
        Card of the model.
    root
        The repository; ``<root>/<card>/config.pbtxt`` and ``<root>/<card>/1/`` are written.

    Returns
    -------
    Path
        Folder of the model.

    Raises
    ------
    InputError
        If another model is there, or its configuration was edited by hand.
    """
    platform = "onnxruntime_onnx" if model.suffix == ".onnx" else "tensorrt_plan"
    folder = root / card.id
    config = folder / "config.pbtxt"
    ours = {render_triton(card, each).encode() for each in PLATFORMS}
    found = read_file(config) if config.is_file() else b""
    if found not in ours and folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{str(folder)!r} holds a model whose config.pbtxt is not as this command writes it; "
            "move it away, or name another repository"
        )
    # First, so that an interrupted call can be repeated.
    write_bytes(config, render_triton(card, platform).encode())
    write_bytes(folder / "1" / PLATFORMS[platform], read_file(model, LARGEST_FILE))
    return folder


def engine_command(onnx: Path, engine: Path, *, half: bool, max_batch: int) -> List[str]:
    """Return the command that builds an engine with the installed tool.

    Raises
    ------
    BackendUnavailable
        If neither trtexec nor polygraphy is installed.
    GraphError
        If the name of the input has characters that are syntax for these tools.
    """
    contract = read_contract(onnx)
    name = contract.input_name
    if not _PLAIN_NAME.fullmatch(name):
        raise GraphError(
            f"{str(onnx)!r}: the input's name {name!r} cannot be passed on a command line; "
            "expected letters, digits, dots, slashes and underscores: export the model again"
        )
    size = "x".join(map(str, (3, *contract.preprocess.input_hw)))
    if shutil.which("trtexec"):
        shapes = zip(("min", "opt", "max"), (1, max(1, max_batch // 2), max_batch))
        flags = [f"--{which}Shapes={name}:{batch}x{size}" for which, batch in shapes]
        command = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", *flags]
        return [*command, *["--fp16"] * half]
    if shutil.which("polygraphy"):
        sides = ",".join(map(str, (3, *contract.preprocess.input_hw)))
        command = ["polygraphy", "convert", str(onnx), "--convert-to", "trt", "-o", str(engine)]
        for which, batch in (("min", 1), ("opt", max(1, max_batch // 2)), ("max", max_batch)):
            command += [f"--trt-{which}-shapes", f"{name}:[{batch},{sides}]"]
        return [*command, *["--fp16"] * half]
    raise BackendUnavailable(
        "an engine needs NVIDIA's trtexec (in TensorRT) or polygraphy, and neither is on the PATH; "
        "run this on the machine with the GPU"
    )


def build_engine(onnx: Path, engine: Path, *, half: bool = True, max_batch: int = 32) -> float:
    """Build a TensorRT engine and compare its output with ONNX Runtime.

    Parameters
    ----------
    onnx
        A self-describing .onnx with a free batch axis.
    engine
        Target file; written once the comparison has passed.
    half
        Allow half precision.
    max_batch
        Largest batch size.

    Returns
    -------
    float
        Cosine of the two embeddings of a noise image.

    Raises
    ------
    BackendUnavailable
        If neither tool is installed.
    BackendRunError
        If a tool fails.
    GateError
        If the embeddings differ.
    """
    engine.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, where it can be renamed: an engine that is there stays until then.
    with tempfile.TemporaryDirectory(prefix=".facezoo.", dir=engine.parent) as folder:
        part = Path(folder, engine.name)
        _run(engine_command(onnx, part, half=half, max_batch=max_batch))
        cosine = _compare(onnx, part)
        part.replace(engine)
    return cosine


def _compare(onnx: Path, engine: Path) -> float:
    """Return the cosine of both embeddings of a noise image; GateError if they differ."""
    contract = read_contract(onnx)
    shape = (1, 3, *contract.preprocess.input_hw)
    image = np.random.default_rng(2026).uniform(-1.0, 1.0, shape).astype(np.float32)
    (expected,) = run_graph(onnx, {contract.input_name: image}).values()
    found = _engine_output(engine, contract.input_name, image)
    cosine = float(
        np.dot(expected.ravel(), found) / (np.linalg.norm(expected) * np.linalg.norm(found))
    )
    if not cosine >= LEAST_COSINE:
        raise GateError(
            f"the engine's embedding has a cosine of {cosine:.5f} to ONNX Runtime's, expected at "
            f"least {LEAST_COSINE}; build it without --fp16"
        )
    return cosine


def _engine_output(engine: Path, input_name: str, image: np.ndarray) -> np.ndarray:
    """Run an engine on one input through trtexec, or through polygraphy."""
    try:
        if not shutil.which("trtexec"):
            return _polygraphy_output(engine, input_name, image)
        with tempfile.TemporaryDirectory() as folder:
            values, answer = Path(folder, "input"), Path(folder, "output.json")
            write_bytes(values, image.tobytes())
            shape = "x".join(map(str, image.shape))
            flags = [f"--shapes={input_name}:{shape}", f"--loadInputs={input_name}:{values}"]
            _run(["trtexec", f"--loadEngine={engine}", *flags, f"--exportOutput={answer}"])
            (output,) = json.loads(answer.read_text(encoding="utf-8"))
        return np.array(output["values"], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendRunError(f"the engine's output cannot be read: {error!r}") from error


def _polygraphy_output(engine: Path, input_name: str, image: np.ndarray) -> np.ndarray:
    from importlib import import_module

    common = import_module("polygraphy.backend.common")
    trt = import_module("polygraphy.backend.trt")
    load = trt.EngineFromBytes(common.BytesFromPath(str(engine)))
    with trt.TrtRunner(load) as runner:
        outputs: Dict[str, np.ndarray] = runner.infer({input_name: image})
    return np.asarray(next(iter(outputs.values())), dtype=np.float64).ravel()


def _run(command: List[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise BackendRunError(f"{command[0]} ended with {done.returncode}: {last[0][:300]}")
