"""TensorRT and Triton deployment of any model: engine build, its check, and configuration.

Written from the tools' documentation and tested with stand-ins; not yet run on a GPU.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np

from ..backends.ort import run_graph
from ..card import ModelCard
from ..contract import Contract, load_graph, read_contract
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
# What a task's networks take, before the card's pre-processing.
_INPUT_OF = {
    "face_detection": "photos",
    "face_alignment": "crops of faces",
    "face_quality": "aligned faces",
    "face_recognition": "aligned faces",
}
# Smallest accepted cosine between an output of an engine and of ONNX Runtime.
LEAST_COSINE = 0.999
MOST_IN_A_CALL = 32  # largest batch that Triton forms
# A colon, comma or bracket would end the name where trtexec and polygraphy expect name:shape.
_PLAIN_NAME = re.compile(r"\w[\w./]*", re.ASCII)


@dataclass(frozen=True)
class _Tensor:
    """An input or output: its name, and its shape without the batch; -1 for what is free."""

    name: str
    dims: Tuple[int, ...]


@dataclass(frozen=True)
class _Graph:
    """What the tools are told of a graph; ``batch`` is its fixed batch size, 0 if it is free."""

    input: _Tensor
    outputs: Tuple[_Tensor, ...]
    batch: int = 0


def _graph_of_card(card: ModelCard) -> _Graph:
    height, width = card.preprocess.input_hw
    outputs = []
    for output in card.outputs:
        stride = output.stride
        cells = (height // stride, width // stride) if stride else ()
        outputs.append(_Tensor(output.name, (output.channels, *cells)))
    return _Graph(_Tensor(card.input_name, (3, height, width)), tuple(outputs))


def _graph_of_file(onnx: Path) -> _Graph:
    """Read names and shapes from an .onnx file of this zoo."""
    graph = load_graph(onnx).graph
    stored = {tensor.name for tensor in graph.initializer}
    (image,) = (entry for entry in graph.input if entry.name not in stored)
    shapes = {
        entry.name: [dim.dim_value or -1 for dim in entry.type.tensor_type.shape.dim]
        for entry in (image, *graph.output)
    }
    batch = max(shapes[image.name][0], 0)
    odd = [name for name, (first, *_) in shapes.items() if max(first, 0) != batch]
    if odd:
        raise GraphError(
            f"{str(onnx)!r}: the input has a batch of {batch or 'any size'}, the output {odd[0]!r} "
            "another; export it again with facezoo export, with or without --batch"
        )
    tensors = [_Tensor(name, tuple(dims[1:])) for name, dims in shapes.items()]
    return _Graph(tensors[0], tuple(tensors[1:]), batch)


def _input_sizes(graph: _Graph, contract: Contract) -> Tuple[int, ...]:
    """Return channels, height and width: the graph's, and where they are free the contract's."""
    wanted = (3, *contract.preprocess.input_hw)
    return tuple(size if size > 0 else free for size, free in zip(graph.input.dims, wanted))


def render_triton(
    card: ModelCard,
    platform: str = "onnxruntime_onnx",
    onnx: Optional[Path] = None,
    max_batch: int = MOST_IN_A_CALL,
) -> str:
    """Return Triton's ``config.pbtxt`` for a model.

    Parameters
    ----------
    card
        The card with name, input and outputs.
    platform
        One of ``PLATFORMS``.
    onnx
        The graph, whose shapes and pre-processing are used; None for those of the card.
    max_batch
        Largest batch size; ignored if the graph has a fixed one, which Triton must be told as
        ``max_batch_size: 0`` and part of the shapes.

    Returns
    -------
    str
        Text in protobuf's text format. The input is the pre-processed image: colour order and
        normalisation of the graph, or of the card, which Triton does not apply.

    Raises
    ------
    GraphError
        If the file cannot be read, or the batch sizes of its input and outputs differ.
    """
    graph = _graph_of_card(card) if onnx is None else _graph_of_file(onnx)
    preprocess = card.preprocess if onnx is None else read_contract(onnx).preprocess
    order = "BGR" if preprocess.swaps_channels else "RGB"
    made = (
        f'Rendered from the card {_quoted(card.id)[1:-1]} by "make recipes"; edit the card, not '
        "this file."
        if onnx is None
        else f"Made from the card {_quoted(card.id)[1:-1]} and the shapes of its graph."
    )
    what = _INPUT_OF.get(card.task, "images")
    outputs = ",\n".join(_describe(output, graph.batch) for output in graph.outputs)
    batching = (
        "" if graph.batch else "dynamic_batching {\n  max_queue_delay_microseconds: 1000\n}\n"
    )
    return f"""\
# {made}
# Input: {what}, {order}, {_quoted(preprocess.norm)[1:-1]}. Not run on a server here.
name: {_quoted(card.id)}
platform: {_quoted(platform)}
max_batch_size: {0 if graph.batch else max_batch}
input [
{_describe(graph.input, graph.batch)}
]
output [
{outputs}
]
{batching}"""


def _describe(tensor: _Tensor, batch: int) -> str:
    dims = ", ".join(map(str, (*([batch] if batch else []), *tensor.dims)))
    return f"""\
  {{
    name: {_quoted(tensor.name)}
    data_type: TYPE_FP32
    dims: [ {dims} ]
  }}"""


def _quoted(text: str) -> str:
    """Quote a text for protobuf's text format; JSON escapes special characters alike."""
    return json.dumps(text)


def write_repository(
    model: Path,
    card: ModelCard,
    root: Path,
    onnx: Optional[Path] = None,
    max_batch: int = MOST_IN_A_CALL,
) -> Path:
    """Place a model in a Triton model repository.

    Parameters
    ----------
    model
        An .onnx file or an engine.
    card
        Card of the model.
    root
        The repository; ``<root>/<card>/config.pbtxt`` and ``<root>/<card>/1/`` are written.
    onnx
        The graph that an engine was built from; by default the model itself.
    max_batch
        Largest batch size, for a graph without a fixed one.

    Returns
    -------
    Path
        Folder of the model.

    Raises
    ------
    GraphError
        If the graph cannot be read.
    InputError
        If another model is there, or its configuration was edited by hand.
    """
    platform = "onnxruntime_onnx" if model.suffix == ".onnx" else "tensorrt_plan"
    folder = root / card.id
    config = folder / "config.pbtxt"
    graph = onnx or model
    ours = {render_triton(card, each, graph, max_batch).encode() for each in PLATFORMS}
    found = read_file(config) if config.is_file() else b""
    if found not in ours and folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{str(folder)!r} holds a model whose config.pbtxt is not as this command writes it; "
            "move it away, or name another repository"
        )
    # First, so that an interrupted call can be repeated.
    write_bytes(config, render_triton(card, platform, graph, max_batch).encode())
    write_bytes(folder / "1" / PLATFORMS[platform], read_file(model, LARGEST_FILE))
    return folder


def engine_command(onnx: Path, engine: Path, *, half: bool, max_batch: int) -> List[str]:
    """Return the command that builds an engine with the installed tool.

    A graph with a fixed batch size is built as it is; the tools refuse ranges of shapes for it.

    Raises
    ------
    BackendUnavailable
        If neither trtexec nor polygraphy is installed.
    GraphError
        If the name of the input has characters that are syntax for these tools.
    """
    graph, contract = _graph_of_file(onnx), read_contract(onnx)
    name = contract.input_name
    if not _PLAIN_NAME.fullmatch(name):
        raise GraphError(
            f"{str(onnx)!r}: the input's name {name!r} cannot be passed on a command line; "
            "expected letters, digits, dots, slashes and underscores: export the model again"
        )
    sizes = _input_sizes(graph, contract)
    batches = [("min", 1), ("opt", max(1, max_batch // 2)), ("max", max_batch)]
    if graph.batch:
        batches = []
    if shutil.which("trtexec"):
        side = "x".join(map(str, sizes))
        flags = [f"--{which}Shapes={name}:{batch}x{side}" for which, batch in batches]
        command = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", *flags]
        return [*command, *["--fp16"] * half]
    if shutil.which("polygraphy"):
        command = ["polygraphy", "convert", str(onnx), "--convert-to", "trt", "-o", str(engine)]
        for which, batch in batches:
            shape = ",".join(map(str, (batch, *sizes)))
            command += [f"--trt-{which}-shapes", f"{name}:[{shape}]"]
        return [*command, *["--fp16"] * half]
    raise BackendUnavailable(
        "an engine needs NVIDIA's trtexec (in TensorRT) or polygraphy, and neither is on the PATH; "
        "run this on the machine with the GPU"
    )


def build_engine(onnx: Path, engine: Path, *, half: bool = True, max_batch: int = 32) -> float:
    """Build a TensorRT engine and compare its outputs with ONNX Runtime.

    Parameters
    ----------
    onnx
        A self-describing .onnx.
    engine
        Target file; written once the comparison has passed.
    half
        Allow half precision.
    max_batch
        Largest batch size, for a graph without a fixed one.

    Returns
    -------
    float
        Smallest cosine of the outputs of noise images, over all outputs.

    Raises
    ------
    BackendUnavailable
        If neither tool is installed.
    BackendRunError
        If a tool fails.
    GateError
        If an output differs.
    """
    # Before anything is made: without a tool this is refused.
    engine_command(onnx, engine, half=half, max_batch=max_batch)
    engine.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, where it can be renamed: an engine that is there stays until then.
    with tempfile.TemporaryDirectory(prefix=".facezoo.", dir=engine.parent) as folder:
        part = Path(folder, engine.name)
        _run(engine_command(onnx, part, half=half, max_batch=max_batch))
        cosine = _compare(onnx, part)
        part.replace(engine)
    return cosine


def _compare(onnx: Path, engine: Path) -> float:
    """Return the lowest cosine of both outputs of a noise image; GateError if one differs."""
    graph, contract = _graph_of_file(onnx), read_contract(onnx)
    shape = (graph.batch or 1, *_input_sizes(graph, contract))
    image = np.random.default_rng(2026).uniform(-1.0, 1.0, shape).astype(np.float32)
    expected = run_graph(onnx, {contract.input_name: image})
    found = _engine_outputs(engine, contract.input_name, image, is_fixed=graph.batch > 0)
    if len(found) != len(expected):
        raise BackendRunError(
            f"{str(engine)!r} has {len(found)} outputs, {str(onnx)!r} {len(expected)}; build the "
            "engine again from that file"
        )
    # The only output of an engine may have lost its name.
    found = found if len(found) > 1 else dict(zip(expected, found.values()))
    cosines = {name: _cosine(values, found.get(name)) for name, values in expected.items()}
    worst = min(cosines, key=lambda name: cosines[name])
    if not min(cosines.values()) >= LEAST_COSINE:
        raise GateError(
            f"the engine's output {worst!r} has a cosine of {cosines[worst]:.5f} to ONNX "
            f"Runtime's, expected at least {LEAST_COSINE}; build it without --fp16"
        )
    return cosines[worst]


def _cosine(expected: np.ndarray, found: Optional[np.ndarray]) -> float:
    """Return the cosine of two outputs; -1 if one is missing or has another size."""
    if found is None or found.size != expected.size:
        return -1.0
    lengths = np.linalg.norm(expected) * np.linalg.norm(found)
    cosine = float(np.dot(expected.ravel(), found) / lengths) if lengths else 0.0
    return cosine if np.isfinite(cosine) else -1.0


def _engine_outputs(
    engine: Path, input_name: str, image: np.ndarray, is_fixed: bool
) -> Dict[str, np.ndarray]:
    """Run an engine on one input through trtexec, or through polygraphy."""
    try:
        if not shutil.which("trtexec"):
            return _polygraphy_outputs(engine, input_name, image)
        with tempfile.TemporaryDirectory() as folder:
            values, answer = Path(folder, "input"), Path(folder, "output.json")
            write_bytes(values, image.tobytes())
            shape = "x".join(map(str, image.shape))
            flags = [*[f"--shapes={input_name}:{shape}"] * (not is_fixed)]
            flags.append(f"--loadInputs={input_name}:{values}")
            _run(["trtexec", f"--loadEngine={engine}", *flags, f"--exportOutput={answer}"])
            outputs = json.loads(answer.read_text(encoding="utf-8"))
        return {output["name"]: np.array(output["values"], np.float64) for output in outputs}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendRunError(
            f"the output of {str(engine)!r} cannot be read ({error!r}); expected what trtexec "
            "--exportOutput, or polygraphy, writes"
        ) from error


def _polygraphy_outputs(engine: Path, input_name: str, image: np.ndarray) -> Dict[str, np.ndarray]:
    from importlib import import_module

    common = import_module("polygraphy.backend.common")
    trt = import_module("polygraphy.backend.trt")
    load = trt.EngineFromBytes(common.BytesFromPath(str(engine)))
    with trt.TrtRunner(load) as runner:
        outputs: Dict[str, np.ndarray] = runner.infer({input_name: image})
    return {name: np.asarray(v, dtype=np.float64).ravel() for name, v in outputs.items()}


def _run(command: List[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise BackendRunError(f"{command[0]} ended with {done.returncode}: {last[0][:300]}")
