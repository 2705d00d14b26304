"""The contract inside an ONNX file: what a lone .onnx must say to be run correctly.

Export writes it into the model's metadata under one key; a backend reads it back. It holds what a
runner needs (pre-processing, output names, decode constants) and where the file comes from.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

from .card import ModelCard, Preprocess
from .errors import UNREADABLE, GraphError

__all__ = [
    "METADATA_KEY",
    "Contract",
    "find_contract",
    "load_graph",
    "read_contract",
]


METADATA_KEY = "facezoo.contract"
SCHEMA = 1


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
        What happens to a picture before the network; ``input_hw`` is the size the graph is run at
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
        return {METADATA_KEY: json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)})}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Optional[Contract]:
        """Read the contract from a model's metadata; None if there is none.

        Raises
        ------
        GraphError
            If there is an entry that cannot be understood.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            return None
        try:
            entry = json.loads(text)
            schema = entry.pop("schema")
            if schema != SCHEMA:
                raise GraphError(
                    f"the model's contract has schema {schema}, this facezoo reads {SCHEMA}; "
                    "export the model again"
                )
            fields = {key: _tupled(value) for key, value in entry["preprocess"].items()}
            entry["preprocess"] = Preprocess(**fields)
            entry["output_names"] = tuple(entry["output_names"])
            return cls(**entry)
        except UNREADABLE as error:
            raise GraphError(
                f"the model's metadata entry {METADATA_KEY!r} cannot be read ({error}); "
                "export the model again"
            ) from error


def load_graph(path: Path, *, check: bool = False) -> Any:
    """Read an .onnx file whose weights are inside it.

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
        If the file cannot be read, is no ONNX graph, or names other files to be read with it.
    """
    import onnx

    try:
        # Weights outside the file could be any file of the disk.
        model = onnx.load(str(path), load_external_data=False)
        if check:
            onnx.checker.check_model(model)
    except OSError as error:
        raise GraphError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf raises unrelated classes.
        reason = " ".join(str(error).split())[:200]
        raise GraphError(f"{str(path)!r} is no valid ONNX graph: {reason}") from error
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise GraphError(
                f"{str(path)!r} keeps {tensor.name!r} in another file, which is not read; expected "
                "all weights inside: save it without external data"
            )
    return model


def find_contract(path: Path) -> Optional[Contract]:
    """Read the contract of an .onnx file; None if it carries none.

    Raises
    ------
    GraphError
        If the file cannot be read, is no ONNX graph, or its contract cannot be understood.
    """
    model = load_graph(path)
    try:
        return Contract.from_metadata({entry.key: entry.value for entry in model.metadata_props})
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
        If the file cannot be read, is no ONNX graph, or carries no contract.
    """
    contract = find_contract(path)
    if contract is None:
        raise GraphError(
            f"{str(path)!r} carries no contract, so how to feed it is unknown; make it with the "
            "recipe's source_code/export_onnx.py"
        )
    return contract


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
