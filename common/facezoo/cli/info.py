"""Count parameters and MACs, and print the inputs and outputs of a graph.

A card is counted from its downloaded graph, or from the PyTorch network without one.

    facezoo info scrfd_2.5g --size 480x640
    facezoo info onnx/scrfd_500m_bnkps.onnx
    facezoo info --record face_detection/scrfd/counts.json scrfd_1g scrfd_34g
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from .. import weights
from ..card import ModelCard
from ..errors import CardError, FaceZooError, GraphError, InputError, WeightsMissing
from ..files import write_json
from ..models import CARDS, find_card, find_weights
from ..reports.numerics import COUNTS_SCHEMA, read_counts
from . import flags
from .options import torch_advice

__all__ = ["configure", "run"]

MACS = "multiply-accumulates of convolutions, matrix products and linear layers, for one image"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the verb."""
    parser.add_argument(
        "names", metavar="NAME_OR_ONNX", nargs="+", help="id of a card, or an .onnx file"
    )
    flags.add(
        parser,
        "--size",
        "a side, or HEIGHTxWIDTH, to count at (default: that of the model)",
        pair=True,
    )
    flags.add(
        parser,
        "--record",
        "write the counts of these cards' PyTorch networks to a recipe's counts.json",
    )


def run(args: argparse.Namespace) -> int:
    """Print facts about the graphs.

    Parameters
    ----------
    args
        ``names``, ``size`` and ``record``.

    Returns
    -------
    int
        0.
    """
    size = args.size
    if args.record:
        read_counts(args.record)  # Refused before the work, if it is a file of something else.
        cards = [find_card(name) for name in args.names]
        _record(args.record, {card.id: _count(card, size) for card in cards})
        return 0
    for name in args.names:
        rows = _describe(name, size)
        width = max(len(label) for label, _ in rows)
        for label, value in rows:
            print(f"{label:<{width}}  {value}")
    return 0


def _describe(name: str, size: Optional[Tuple[int, int]]) -> List[Tuple[str, str]]:
    if name.endswith(".onnx"):
        return _graph_rows(Path(name), size)
    if Path(name).is_file():
        raise InputError(f"{name!r} is not an .onnx file; expected one, or a card's id")
    card = find_card(name)
    size = size or card.preprocess.input_hw
    path = _downloaded(card)
    return _graph_rows(path, size) if path else _network_rows(card, size)


def _count(card: ModelCard, size: Optional[Tuple[int, int]]) -> Dict[str, Any]:
    size = size or card.preprocess.input_hw
    parameters, macs = _count_card(card, size)
    return {"parameters": parameters, "macs": macs, "input_hw": list(size)}


def _record(path: Path, counts: Mapping[str, Mapping[str, Any]]) -> None:
    """Merge counts into a recipe's file, in the order of the cards."""
    merged = {**read_counts(path), **counts}
    cards = {name: merged[name] for name in CARDS if name in merged}
    entry = {"schema": COUNTS_SCHEMA, "convention": MACS, "cards": cards}
    write_json(path, entry, indent=2)


def _downloaded(card: ModelCard) -> Optional[Path]:
    if not card.weights or not find_weights(card.weights).file.endswith(".onnx"):
        return None
    try:
        return weights.find(card.weights)
    except WeightsMissing:
        return None


def _graph_rows(path: Path, size: Optional[Tuple[int, int]]) -> List[Tuple[str, str]]:
    # The packages for this are optional, and the help must work without them.
    from ..contract import load_graph
    from ..graphs.info import describe_graph

    graph = load_graph(path, check=True)
    try:
        info = describe_graph(graph, size)
    except (GraphError, InputError) as error:
        raise type(error)(f"{str(path)!r}: {error}") from error
    height_width = info.inputs[0][1][2:]
    contract = info.contract
    return [
        ("graph", str(path)),
        ("parameters", f"{info.parameters:,} stored in the graph"),
        ("MACs", _macs(info.macs, height_width)),
        *_tensors("input", info.inputs),
        *_tensors("output", info.outputs),
        ("opset", f"{info.opset}, IR version {info.ir_version}"),
        ("contract", f"{contract.card_id} ({contract.model})" if contract else "none"),
    ]


def _network_rows(card: ModelCard, size: Tuple[int, int]) -> List[Tuple[str, str]]:
    parameters, macs = _count_card(card, size)
    outputs = ", ".join(f"{output.name} ({output.channels})" for output in card.outputs)
    return [
        ("network", f"{card.id}, PyTorch, no downloaded file"),
        ("parameters", f"{parameters:,} learnt, batch norms not folded"),
        ("MACs", _macs(macs, size)),
        ("input", f"{card.input_name} 1x3x{_times(size)}"),
        ("outputs", f"{outputs}; channels in brackets"),
    ]


def _count_card(card: ModelCard, size: Tuple[int, int]) -> Tuple[int, int]:
    try:
        from ..graphs.export import count_network
    except ImportError as error:
        raise WeightsMissing(
            f"{card.id}: no downloaded graph to count, and no PyTorch to build the network "
            f"({error}); give an .onnx; for PyTorch, {torch_advice()}"
        ) from error
    room = import_module(f"facezoo.models.{card.model}.network")
    counted: Tuple[int, int] = count_network(_build(room, card), size)
    return counted


def _build(room: Any, card: ModelCard) -> Any:
    """Build the network of a card; its id is upstream's name, possibly with a prefix of ours."""
    words = card.id.split("_")
    for first in range(len(words)):
        try:
            return room.build("_".join(words[first:]))
        except FaceZooError:
            continue
    raise CardError(f"{card.id} has no PyTorch network in facezoo; give its .onnx")


def _tensors(kind: str, tensors: Iterable[Tuple[str, Tuple[int, ...]]]) -> List[Tuple[str, str]]:
    return [(kind, f"{name} {_times(shape)}") for name, shape in tensors]


def _macs(macs: int, size: Iterable[int]) -> str:
    return f"{macs / 1e9:.4f} G at {_times(size)} (height x width): {MACS}"


def _times(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))
