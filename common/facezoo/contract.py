"""The contract inside an ONNX file: the metadata needed to run a lone .onnx correctly.

Export writes it into the model's metadata under one key; a backend reads it back. It holds what a
runner needs (pre-processing, output names, decode constants) and where the file comes from.
"""

from __future__ import annotations

import dataclasses
import json
import math
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

import numpy as np

from .card import COLOR_CONVERSIONS, FITS, IMAGE_FORMATS, NORMS, RESIZES, ModelCard, Preprocess
from .errors import UNREADABLE, GraphError
from .fields import (
    CARD_ID,
    LARGEST_SIDE,
    NULL,
    OBJECT,
    SHA256,
    SIDE,
    Kind,
    check,
    either,
    matching,
    number,
    one_of,
    record,
    sequence,
    text,
    whole,
)
from .files import is_web_page

__all__ = [
    "METADATA_KEY",
    "Contract",
    "contract_in",
    "find_contract",
    "load_graph",
    "metadata_of",
    "read_contract",
]


METADATA_KEY = "facezoo.contract"
SCHEMA = 1

LARGEST_CONTRACT = 1 << 20  # characters; a mean face of a thousand points is 40,000
LARGEST_INPUT = 1 << 28  # values, 1 GiB as float32
# Limit of protobuf, and so of any .onnx with its weights inside.
LARGEST_GRAPH = 1 << 31  # bytes

# Operators of the standard, and those of ONNX Runtime that quantising and fusing create.
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
# Passes a blob, or the file that it names, to the driver of a device.
_COMPILED_INSIDE = "EPContext"

_HALF = float(np.finfo(np.float16).max)  # mean and std become float16
_OFFSET = whole(0, LARGEST_SIDE)
_HALVES = sequence(number(-_HALF, _HALF), 3)
_NAME = text(200)

# Kind of each field, as to_metadata writes it; _contradictions checks fields against each other.
_PREPROCESS: Dict[str, Kind] = {
    "input_hw": sequence(SIDE, 2),
    "fit": one_of(*FITS),
    "anchor": one_of("center", "top_left"),
    "rounding": one_of("floor", "round"),
    "axis_scale": one_of("per_axis", "height"),
    "pad_value": sequence(whole(0, 255), 3),
    "resize": one_of(*RESIZES),
    "image_format": one_of(*IMAGE_FORMATS),
    "color_conversion": one_of(*COLOR_CONVERSIONS),
    "norm": one_of(*NORMS),
    "mean": _HALVES,
    "std": _HALVES,
    "resize_hw": either(NULL, sequence(SIDE, 2)),
    "crop_xy": sequence(_OFFSET, 2),
    "crop_hw": either(NULL, sequence(SIDE, 2)),
    "pads": sequence(_OFFSET, 4),
}
# Additional arguments of each model's decoder; models that are not listed have none.
DECODE: Dict[str, Dict[str, Kind]] = {
    "scrfd": {
        "strides": sequence(whole(1, 1024), 1, 8, distinct=True),
        "anchors_per_cell": whole(1, 16),
    },
    "pipnet": {
        "meanface": either(one_of("WFLW"), sequence(sequence(number(-100, 100), 2), 2, 1000)),
        "num_neighbors": whole(1, 100),
    },
}
_CONTRACT: Dict[str, Kind] = {
    "card_id": CARD_ID,
    "model": matching("[a-z][a-z0-9_]{0,39}", "the name of a model's folder"),
    "input_name": _NAME,
    "preprocess": record(_PREPROCESS),
    "output_names": sequence(_NAME, 1, 64, distinct=True),
    "decode": OBJECT,  # its fields: DECODE
    "source_sha256": either(one_of(""), SHA256),
}


@dataclass(frozen=True)
class Contract:
    """What a graph promises and what it expects.

    Attributes
    ----------
    card_id, model
        The card's id and the recipe it belongs to.
    input_name
        Name of the only input, (B, 3, H, W) float32.
    preprocess
        What happens to an image before the network; ``input_hw`` is the size the graph is run at
        unless it is fixed to another.
    output_names
        In the graph's order.
    decode
        Constants for the model's decoder, JSON values.
    source_sha256
        Hash of the file this graph was made from.
    """

    card_id: str
    model: str
    input_name: str
    preprocess: Preprocess
    output_names: Tuple[str, ...]
    decode: Mapping[str, Any] = field(default_factory=dict)
    source_sha256: str = ""

    @classmethod
    def from_card(
        cls,
        card: ModelCard,
        source_sha256: str = "",
        input_hw: Optional[Tuple[int, int]] = None,
    ) -> Contract:
        """Make the contract of a card's graph, at the card's input size or another."""
        preprocess = card.preprocess
        if input_hw is not None:
            preprocess = dataclasses.replace(preprocess, input_hw=input_hw)
        return cls(
            card_id=card.id,
            model=card.model,
            input_name=card.input_name,
            preprocess=preprocess,
            output_names=card.output_names,
            decode=dict(card.decode),
            source_sha256=source_sha256,
        )

    def to_metadata(self) -> Dict[str, str]:
        """Return the one metadata entry that holds this contract."""
        entry = {"schema": SCHEMA, **dataclasses.asdict(self)}
        return {METADATA_KEY: json.dumps(entry, allow_nan=False)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Optional[Contract]:
        """Read the contract from a model's metadata; None if there is none.

        Raises
        ------
        GraphError
            If there is an entry that cannot be understood.
        """
        entry = metadata.get(METADATA_KEY)
        if entry is None:
            return None
        try:
            if len(entry) > LARGEST_CONTRACT:
                raise ValueError(f"it is longer than {LARGEST_CONTRACT} characters")
            return cls.from_json(json.loads(entry))
        except UNREADABLE as error:
            raise GraphError(
                f"the model's metadata entry {METADATA_KEY!r} cannot be read ({error}); "
                "export the model again"
            ) from error

    @classmethod
    def from_json(cls, entry: Any) -> Contract:
        """Read a contract from the JSON value that :meth:`to_metadata` writes.

        Raises
        ------
        ValueError
            If a field is missing, unknown, not of its kind or contradicts another one; the
            message is one line that names it.
        """
        check(entry, OBJECT, "contract")
        schema = entry.get("schema")
        if type(schema) is int and schema != SCHEMA:
            raise ValueError(f"it has schema {schema}, this facezoo reads {SCHEMA}")
        check(entry, record({"schema": whole(SCHEMA, SCHEMA), **_CONTRACT}), "contract")
        check(entry["decode"], record(DECODE.get(entry["model"], {})), "contract.decode")
        values = {name: entry[name] for name in _CONTRACT}
        preprocess = {name: _tupled(value) for name, value in entry["preprocess"].items()}
        values["preprocess"] = Preprocess(**preprocess)
        values["output_names"] = tuple(entry["output_names"])
        for contradiction in _contradictions(values["preprocess"]):
            raise ValueError(f"contract.preprocess.{contradiction}")
        return cls(**values)


def _contradictions(preprocess: Preprocess) -> Iterator[str]:
    """Yield the fields that contradict each other or are impossible, each by name."""
    input_hw = preprocess.input_hw
    for name in ("input_hw", "resize_hw", "crop_hw"):
        hw = getattr(preprocess, name)
        if hw is not None and 3 * math.prod(hw) > LARGEST_INPUT:
            yield f"{name} is {list(hw)}; expected at most {LARGEST_INPUT // 3} pixels"
    # Very small numbers become 0 in float16.
    if preprocess.norm.endswith("DIVSTD") and not np.all(np.asarray(preprocess.std, np.float16)):
        yield f"std is {list(preprocess.std)}; expected none to be 0 in float16, since it divides"
    if preprocess.fit == "letterbox_pads":
        top, bottom, left, right = preprocess.pads
        inside = (input_hw[0] - top - bottom, input_hw[1] - left - right)
        if min(inside) < 1 or preprocess.resize_hw not in (None, inside):
            yield (
                f"pads is {list(preprocess.pads)}; expected pads that fill an input of "
                f"{list(input_hw)} together with resize_hw, which is {preprocess.resize_hw}"
            )
    if preprocess.fit == "stretch_crop":
        resized = preprocess.resize_hw or input_hw
        ends = (preprocess.crop_xy[1] + input_hw[0], preprocess.crop_xy[0] + input_hw[1])
        if ends[0] > resized[0] or ends[1] > resized[1]:
            yield (
                f"crop_xy is {list(preprocess.crop_xy)}; expected a crop of {list(input_hw)} that "
                f"lies inside {list(resized)}"
            )


def metadata_of(model: Any) -> Dict[str, str]:
    """Return the metadata of an ``onnx.ModelProto``, key to value."""
    return {entry.key: entry.value for entry in model.metadata_props}


def load_graph(path: Path, *, check: bool = False) -> Any:
    """Read an .onnx file and reject what no network of this zoo contains.

    Whatever could read other files or is not visible in the nodes is rejected before a runtime or
    onnx's own checks see it.

    Parameters
    ----------
    path
        The file.
    check
        Let onnx check the whole graph, which takes as long as loading it.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    GraphError
        If the file is not a regular file of up to 2 GiB, cannot be read, or is not an ONNX graph;
        if it refers to other files, does not have exactly one input, or contains sparse weights,
        graphs inside nodes, functions, or operators of unknown origin. The message names the part.
    """
    import onnx

    where = repr(str(path))
    try:
        _check_file(Path(path))
        # Weights outside the file could be any file of the disk.
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.node:
            raise ValueError("it holds no operators")
        for problem in _foreign_parts(model):
            raise GraphError(f"{where} cannot be used: {problem}")
        if check:
            onnx.checker.check_model(model)
    except GraphError:
        raise
    except OSError as error:
        raise GraphError(f"{where} cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf raises unrelated classes.
        reason = " ".join(str(error).split())[:200]
        if is_web_page(path):
            reason = "it is a web page, such as a sign-in or a warning; download the file itself"
        raise GraphError(f"{where} is not a valid ONNX graph: {reason}") from error
    return model


def _check_file(path: Path) -> None:
    """Reject a file that never ends or does not fit into memory, before it is opened."""
    found = path.stat()
    # Opening a folder fails with its own error.
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise GraphError(f"{str(path)!r} is a pipe, device or socket; expected a regular file")
    if found.st_size >= LARGEST_GRAPH:
        raise GraphError(f"{str(path)!r} has {found.st_size} bytes; expected less than 2 GiB")


def _foreign_parts(model: Any) -> Iterator[str]:
    """Yield each part that no network of this zoo has, with the name of the tensor or node."""
    graph = model.graph
    if not all(isinstance(name, str) for name in _names_of(model)):
        yield "it holds a name that is not UTF-8"
    keys = [entry.key for entry in model.metadata_props]
    if keys.count(METADATA_KEY) > 1:
        yield f"it holds {METADATA_KEY!r} {keys.count(METADATA_KEY)} times; expected it once"
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [entry.name for entry in graph.input if entry.name not in stored]
    if len(inputs) != 1:
        yield f"it has {len(inputs)} inputs, {_listed(inputs)}; expected one, the image"
    for function in model.functions:
        yield f"it defines the function {function.name!r}; expected operators only: inline it"
    if model.training_info:
        yield "it holds graphs for training; expected one graph for inference"
    for sparse in graph.sparse_initializer:
        yield f"the weight {sparse.values.name!r} is sparse; expected dense weights"
    for tensor in graph.initializer:
        if _is_outside(tensor):
            yield _outside(f"the weight {tensor.name!r}")
    for node in graph.node:
        where = f"the node {node.name!r} ({node.op_type!r} to {_listed(node.output)})"
        if node.domain not in DOMAINS:
            yield f"{where} is of the domain {node.domain!r}; expected a standard operator"
        if node.op_type == _COMPILED_INSIDE:
            yield f"{where} is compiled for a device; expected a graph of operators"
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                yield f"{where} has a graph of its own; expected none: export without control flow"
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                yield f"{where} holds a sparse tensor; expected dense ones"
            if _is_outside(attribute.t) or any(map(_is_outside, attribute.tensors)):
                yield _outside(where)


def _names_of(model: Any) -> Iterator[Any]:
    """Yield every name that anything here prints or looks up; as bytes if it is not UTF-8."""
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for opset in model.opset_import:
        yield opset.domain
    graph = model.graph
    for one in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield one.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _is_outside(tensor: Any) -> bool:
    # 1 is TensorProto.EXTERNAL; some readers only look at the list.
    return bool(tensor.data_location == 1 or tensor.external_data)


def _outside(where: str) -> str:
    return (
        f"{where} is kept in another file, which is not read; expected all weights inside: save it "
        "without external data"
    )


def _listed(names: Any) -> str:
    shown = [repr(name) for name in names[:4]]
    return ", ".join(shown) + (", …" if len(names) > 4 else "") or "none"


def find_contract(path: Path) -> Optional[Contract]:
    """Read the contract of an .onnx file; None if it carries none.

    Raises
    ------
    GraphError
        If the file cannot be read, is not an ONNX graph, or its contract cannot be understood.
    """
    return contract_in(load_graph(path), path)


def contract_in(model: Any, path: Path) -> Optional[Contract]:
    """Read the contract of a graph that was read from a file, as :func:`find_contract` does."""
    try:
        return Contract.from_metadata(metadata_of(model))
    except GraphError as error:
        raise GraphError(f"{str(path)!r}: {error}") from error


def read_contract(path: Path) -> Contract:
    """Read the contract of a self-describing .onnx file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Contract

    Raises
    ------
    GraphError
        If the file cannot be read, is not an ONNX graph, or carries no contract.
    """
    contract = find_contract(path)
    if contract is None:
        raise GraphError(
            f"{str(path)!r} carries no contract, so its pre-processing is unknown; export it "
            "with the recipe's source_code/export_onnx.py"
        )
    return contract


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
