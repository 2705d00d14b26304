"""PIPNet ONNX graphs: their contract, and community files without one.

A community file has five maps under any names. They are identified by name if the names are ours,
else by channels and order; the neighbour positions are compared with the mean face to verify the
result.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Dict, List, Optional, Tuple, Union

import numpy as np
import onnx
from onnx import helper

from ...backends.ort import run_graph
from ...contract import Contract, load_graph
from ...errors import GraphError, InputError
from ...files import sha256_of, write_bytes
from .. import describe_export
from .card import CARDS, NUM_NEIGHBORS, OUTPUTS
from .decode import (
    LEAST_CORRELATION,
    PACKAGED,
    MeanFace,
    load_meanface,
    neighbor_correlation,
    read_meanface,
)

__all__ = ["check_neighbors", "export_released", "make_contract", "recognise_heads"]

NAMES = tuple(output.name for output in OUTPUTS)

# Number of convolutions of a PIPNet with stride 32, including heads, to its backbone.
BACKBONE_OF = {
    25: "resnet18",
    58: "resnet50",
    109: "resnet101",
    57: "mobilenet_v2",
    51: "mobilenet_v3",
}

_PROBE_BATCH = 2


def make_contract(
    backbone: str,
    meanface: Union[str, np.ndarray] = "WFLW",
    *,
    num_neighbors: int = NUM_NEIGHBORS,
    input_size: int = 256,
    source_sha256: str = "",
) -> Contract:
    """Return the contract of a PIPNet with any landmarks.

    Parameters
    ----------
    backbone
        As for :func:`~facezoo.models.pipnet.network.build`.
    meanface
        Name of a packaged mean face, or N points (N, 2) in [0, 1] of the crop.
    num_neighbors
        Number of neighbours that each landmark predicts.
    input_size
        Side of the input in pixels.
    source_sha256
        Hash of the source file of the graph.

    Raises
    ------
    InputError
        If the mean face cannot be used with this number of neighbours.
    """
    load_meanface(meanface, num_neighbors)
    if not isinstance(meanface, str):
        meanface = np.asarray(meanface, np.float64).tolist()
    # Every card has the same pre-processing and outputs.
    card = next(iter(CARDS.values()))
    return dataclasses.replace(
        Contract.from_card(card, source_sha256, (input_size, input_size)),
        card_id=f"pip_{backbone}",
        decode={"meanface": meanface, "num_neighbors": num_neighbors},
    )


def recognise_heads(model: onnx.ModelProto) -> Dict[str, str]:
    """Identify the outputs.

    Parameters
    ----------
    model
        A graph with PIPNet's five maps.

    Returns
    -------
    dict
        Contract name (``cls``, ``x``, ``y``, ``nb_x``, ``nb_y``) to the name of the output.

    Raises
    ------
    GraphError
        If there are not three maps of N channels and two of a multiple of N.
    """
    outputs = [output.name for output in model.graph.output]
    if set(outputs) == set(NAMES):
        return {name: name for name in NAMES}
    channels = _channels_of_outputs(model)
    few = min(channels.values(), default=0)
    own = [name for name in outputs if channels[name] == few]
    nearby = [name for name in outputs if channels[name] > few]
    if len(own) != 3 or len(nearby) != 2 or few < 1 or any(channels[n] % few for n in nearby):
        raise GraphError(
            f"this is not a PIPNet: outputs have {channels} channels; expected three maps of N "
            "channels (cls, x, y) and two of N times the neighbours (nb_x, nb_y)"
        )
    return dict(zip(NAMES, [*own, *nearby]))


def _channels_of_outputs(model: onnx.ModelProto) -> Dict[str, int]:
    dims = {output.name: output.type.tensor_type.shape.dim for output in model.graph.output}
    return {name: dim[1].dim_value if len(dim) == 4 else 0 for name, dim in dims.items()}


def export_released(
    source: Path,
    target: Path,
    *,
    meanface_txt: Optional[Path] = None,
    batch: Optional[int] = None,
) -> Tuple[Contract, float]:
    """Convert a community file to the contract, after comparing both graphs.

    Parameters
    ----------
    source
        An ``.onnx`` with the five raw maps.
    target
        Target ``.onnx``.
    meanface_txt
        Mean face of the network's data set; WFLW's by default.
    batch
        Fixed batch size; None for a free one.

    Returns
    -------
    contract : Contract
        The contract written to the file.
    correlation : float
        Correlation of the neighbour positions of mean face and network, at most 1.

    Raises
    ------
    GraphError
        If the file cannot be read, is not a PIPNet, or does not match the mean face; nothing is
        written then.
    """
    model = load_graph(source, check=True)
    heads = recognise_heads(model)
    channels = _channels_of_outputs(model)
    landmarks = channels[heads["cls"]]
    points = read_meanface(meanface_txt or PACKAGED["WFLW"])
    if len(points) != landmarks:
        raise InputError(
            f"{str(source)!r} has {landmarks} landmarks, the mean face has {len(points)}; give "
            "that of its data set with --meanface_txt"
        )
    side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value or 256
    contract = make_contract(
        _backbone_of(model),
        "WFLW" if meanface_txt is None else points,
        num_neighbors=channels[heads["nb_x"]] // landmarks,
        input_size=side,
        source_sha256=sha256_of(source),
    )
    named = _with_contract(model, heads, contract, batch)
    outputs = _compare(model, named, heads, side, batch)
    tables = load_meanface(**contract.decode)
    correlation = check_neighbors(outputs, tables)
    write_bytes(Path(target), named.SerializeToString())
    return contract, correlation


def _backbone_of(model: onnx.ModelProto) -> str:
    count = sum(node.op_type == "Conv" for node in model.graph.node)
    if count not in BACKBONE_OF:
        raise GraphError(
            f"this is not a PIPNet with a known backbone: {count} convolutions; expected one of "
            f"{', '.join(f'{c} ({name})' for c, name in BACKBONE_OF.items())}"
        )
    return BACKBONE_OF[count]


def _with_contract(
    model: onnx.ModelProto, heads: Dict[str, str], contract: Contract, batch: Optional[int]
) -> onnx.ModelProto:
    """Rename input and outputs, set the batch, order the outputs, write the contract."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    graph = named.graph
    new_names = {tensor: name for name, tensor in heads.items()}
    new_names[graph.input[0].name] = contract.input_name
    # The file may use a name of the contract for another tensor.
    taken = {name: f"{name}_released" for name in new_names.values() if name not in new_names}
    new_names = {**taken, **new_names}
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = new_names.get(name, name)
    side = contract.preprocess.input_hw
    free = batch or "batch"
    outputs: List[onnx.ValueInfoProto] = []
    shapes = {output.name: output.type.tensor_type.shape.dim for output in graph.output}
    for name, tensor in heads.items():
        dims = [free, *(dim.dim_value or f"{name}_axis" for dim in shapes[tensor][1:])]
        outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims))
    image = helper.make_tensor_value_info(
        contract.input_name, onnx.TensorProto.FLOAT, [free, 3, *side]
    )
    for field, values in ((graph.input, [image]), (graph.output, outputs), (graph.value_info, [])):
        del field[:]
        field.extend(values)
    del named.metadata_props[:]
    helper.set_model_props(named, describe_export(contract))
    named.ir_version = min(named.ir_version, 8)
    onnx.checker.check_model(named)
    return named


def _compare(
    model: onnx.ModelProto,
    named: onnx.ModelProto,
    heads: Dict[str, str],
    side: int,
    batch: Optional[int],
) -> Dict[str, np.ndarray]:
    """Run both graphs on noise, the old one image by image; return the outputs of the new one."""
    rng = np.random.default_rng(2026)
    images = rng.uniform(-1.0, 1.0, (batch or _PROBE_BATCH, 3, side, side)).astype(np.float32)
    outputs = run_graph(named, {named.graph.input[0].name: images})
    for index in range(len(images)):
        expected = run_graph(model, {model.graph.input[0].name: images[index : index + 1]})
        for name, tensor in heads.items():
            if not np.allclose(outputs[name][index], expected[tensor][0], rtol=1e-4, atol=1e-4):
                raise GraphError(
                    f"output {tensor!r} changes with the batch size; give --batch 1, as in the file"
                )
    return outputs


def check_neighbors(outputs: Dict[str, np.ndarray], meanface: MeanFace) -> float:
    """Check that the neighbour positions of a trained network match the mean face.

    Parameters
    ----------
    outputs, meanface
        As for :func:`~facezoo.models.pipnet.decode.neighbor_correlation`.

    Returns
    -------
    float
        The correlation.

    Raises
    ------
    GraphError
        If it is below 0.7: outputs in another order, or the mean face of another data set.
    """
    worst = neighbor_correlation(outputs, meanface)
    if not worst >= LEAST_CORRELATION:
        raise GraphError(
            f"the network's neighbour positions do not match the mean face (correlation "
            f"{worst:.2f}, expected {LEAST_CORRELATION} or more): its outputs are in another order "
            "than cls, x, y, nb_x, nb_y, or the mean face is that of another data set"
        )
    return worst
