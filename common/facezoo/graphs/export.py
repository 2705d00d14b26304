"""PyTorch checkpoints and ONNX: load and save checkpoints, read weights from ONNX, export.

Loading is strict, since a network with some random weights still runs; exports are compared with
PyTorch before they are written, and nothing is written if the comparison fails.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from ..backends.ort import run_graph
from ..contract import Contract
from ..errors import GraphError, InputError, WeightsError, WeightsMissing
from ..files import is_web_page, open_file, write_bytes
from .info import shapes_at

__all__ = [
    "compare_with_graph",
    "count_network",
    "export_network",
    "find_not_finite",
    "load_checkpoint",
    "load_onnx",
    "read_checkpoint",
    "run_network",
    "save_checkpoint",
]


# Keys of the state dict in checkpoints. Averaged weights come first: if a training stored both, it
# evaluated these.
_STATE_DICT_KEYS = (
    *("state_dict_ema", "model_ema", "ema", "state_dict", "model", "network"),
    "state_dict_backbone",  # of insightface's arcface_torch
)

# Largest difference between the exported graph and torch, in units of the output's root mean
# square. Two float32 runtimes differ by about 1e-6 of it.
TOLERANCE = 1e-4

_LISTED = 10
_MADE = "made_"
_IR_VERSION = 8
_OPSET = 11


def load_checkpoint(
    network: nn.Module,
    path: Path | str,
    *,
    prefixes: Sequence[str] | Mapping[str, str | None] = ("module.",),
) -> None:
    """Load a PyTorch checkpoint into a network, completely or not at all.

    Parameters
    ----------
    network
        Target network; unchanged if the weights do not fit.
    path
        A file written by ``torch.save``: a state dict, bare or under one of the usual keys,
        possibly beside optimiser entries and others. Averaged weights (EMA) are preferred.
    prefixes
        Prefixes of the network's names in the file to strip, or a mapping from prefix to
        replacement: ``""`` strips it, None skips every entry with it. The longest matching prefix
        is used. Names without a prefix are kept.

    Raises
    ------
    WeightsMissing
        If the file does not exist.
    WeightsError
        If the file contains anything but tensors in plain containers, a value is not finite, or
        it does not fit: the message lists missing, unexpected and wrongly shaped entries. Counters
        of batch norms (``num_batches_tracked``) may be missing, as in old files.
    """
    path = Path(path)
    _load_strictly(network, _rename(read_checkpoint(path), prefixes, path), path)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights of a PyTorch checkpoint by name.

    Parameters
    ----------
    path
        As for :func:`load_checkpoint`.

    Raises
    ------
    WeightsMissing
        If the file does not exist.
    WeightsError
        If it contains anything but tensors in plain containers, no state dict, or a value that is
        not finite.
    """
    entries = _find_state_dict(_read(path))
    if not entries:
        raise WeightsError(
            f"{str(path)!r} contains no state dict; expected tensors by name, bare or under one of "
            f"{', '.join(_STATE_DICT_KEYS)}"
        )
    broken = find_not_finite(entries.items())
    if broken is not None:
        raise WeightsError(
            f"{str(path)!r}: {broken!r} has a value that is not finite, as after a training that "
            "diverged; take an earlier checkpoint"
        )
    return entries


def _read(path: Path) -> Any:
    try:
        with open_file(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsMissing(f"{str(path)!r} does not exist; expected a .pth file") from error
    except OSError as error:
        raise WeightsError(
            f"{str(path)!r} cannot be read: {error.strerror or error}; expected a .pth file"
        ) from error
    except Exception as error:  # torch raises errors of pickle, zip and others for bad files.
        if is_web_page(path):
            raise WeightsError(
                f"{str(path)!r} is a web page, not a .pth file: the address gave a page, such as a "
                "sign-in or a warning; download the file itself"
            ) from error
        raise WeightsError(
            f"{str(path)!r} cannot be read as tensors in plain containers ({type(error).__name__});"
            " if it contains more, save only its state dict in its original project"
        ) from error


def _find_state_dict(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in _STATE_DICT_KEYS:
        found = _find_state_dict(content.get(key))
        if found:
            return found
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _rename(
    entries: Mapping[str, Tensor],
    prefixes: Sequence[str] | Mapping[str, str | None],
    path: Path,
) -> dict[str, Tensor]:
    if not isinstance(prefixes, Mapping):
        prefixes = dict.fromkeys(prefixes, "")
    renamed: dict[str, Tensor] = {}
    for name, value in entries.items():
        prefix = max((p for p in prefixes if name.startswith(p)), key=len, default="")
        replacement = prefixes.get(prefix, "")
        if replacement is None:
            continue
        new_name = replacement + name[len(prefix) :]
        if new_name in renamed:
            raise WeightsError(
                f"{str(path)!r}: two entries are both {new_name!r} without their prefixes; "
                "save the state dict of a single network"
            )
        renamed[new_name] = value
    return renamed


def _load_strictly(network: nn.Module, entries: Mapping[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    counters = [name for name in own if name.endswith("num_batches_tracked")]
    entries = {**{name: own[name] for name in counters}, **entries}
    misfits = {
        "missing": [name for name in own if name not in entries],
        "unexpected": [name for name in entries if name not in own],
        "of another shape": [
            f"{name} {tuple(entries[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in entries and entries[name].shape != own[name].shape
        ],
    }
    listed = [f"{len(names)} {kind} ({_list(names)})" for kind, names in misfits.items() if names]
    if listed:
        raise WeightsError(
            f"{str(path)!r} does not fit this network: {'; '.join(listed)}; "
            "choose the variant of its training"
        )
    network.load_state_dict(entries)


def find_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor with a NaN or an infinity; None if there is none.

    Parameters
    ----------
    tensors
        Names and tensors of any type.
    """
    values = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    if not values:
        return None
    # A sum is faster than a test of each value. Finite values may overflow it, so the rest is sure.
    # An optimiser counts its steps on the CPU, whatever the weights are on.
    place = values[-1][1].device
    sums = [tensor.detach().sum().to(place, torch.float64) for _, tensor in values]
    if bool(torch.stack(sums).isfinite().all()):
        return None
    return next((name for name, tensor in values if not bool(tensor.isfinite().all())), None)


def save_checkpoint(network: nn.Module, path: Path | str) -> None:
    """Write a network's weights under ``state_dict``, readable by :func:`load_checkpoint`.

    Parameters
    ----------
    network
        Any network.
    path
        Target ``.pth``; replaced only once it is complete.

    Raises
    ------
    WeightsError
        If a weight is not finite; nothing is written then.
    """
    broken = find_not_finite(network.state_dict().items())
    if broken is not None:
        raise WeightsError(f"the network's {broken!r} is not finite; {str(path)!r} is not written")
    buffer = io.BytesIO()
    torch.save({"state_dict": network.state_dict()}, buffer)
    write_bytes(Path(path), buffer.getvalue())


def load_onnx(network: nn.Module, model: onnx.ModelProto, input_hw: tuple[int, int]) -> None:
    """Load the weights of an exported convolutional network back into its PyTorch definition.

    Convolutions are matched in execution order. The graph has its batch norms folded into them, so
    each folded bias becomes the bias of its batch norm, and mean 0, weight 1 and variance 1 - eps
    make the norm add only that bias.

    Parameters
    ----------
    network
        Target network. Except for convolutions and batch norms, its parameters must be in the graph
        under their own names.
    model
        The graph with its weights.
    input_hw
        A small valid input size of the network, to find the execution order of its layers.

    Raises
    ------
    WeightsError
        If the graph has other convolutions than the network, or lacks a parameter.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    layers = _layers_as_run(network, input_hw)
    names = [name for name, layer in layers if isinstance(layer, nn.Conv2d)]
    if len(nodes) != len(names):
        raise WeightsError(
            f"the graph has {len(nodes)} convolutions, this network {len(names)}; "
            "choose the variant it was exported from"
        )
    own = network.state_dict()
    entries = {name: _tensor(tensors[name]) for name in own if name in tensors}
    queue = iter(nodes)
    for (name, layer), (next_name, next_layer) in zip(layers, [*layers[1:], ("", None)]):
        if not isinstance(layer, nn.Conv2d):
            continue
        node = next(queue)
        arrays = [_tensor(tensors[key]) for key in node.input[1:] if key in tensors]
        if not arrays or arrays[0].shape != layer.weight.shape:
            raise WeightsError(
                f"convolution {node.name or node.output[0]!r} of the graph has weights of shape "
                f"{tuple(arrays[0].shape) if arrays else None}, this network's {name!r} "
                f"{tuple(layer.weight.shape)}; choose the variant it was exported from"
            )
        bias = arrays[1] if len(arrays) > 1 else torch.zeros(layer.out_channels)
        entries[f"{name}.weight"] = arrays[0]
        if isinstance(next_layer, nn.BatchNorm2d):
            entries[f"{next_name}.bias"] = bias
            entries[f"{next_name}.weight"] = torch.ones_like(bias)
            entries[f"{next_name}.running_mean"] = torch.zeros_like(bias)
            entries[f"{next_name}.running_var"] = torch.full_like(bias, 1.0 - next_layer.eps)
        else:
            entries[f"{name}.bias"] = bias
    lacking = [name for name, _ in network.named_parameters() if name not in entries]
    if lacking:
        raise WeightsError(
            f"the graph lacks {len(lacking)} of this network's parameters "
            f"({_list(lacking)}); use the checkpoint it was exported from"
        )
    network.load_state_dict({**own, **entries})


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + ", …" * (len(names) > _LISTED)


def _tensor(initializer: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(initializer).copy())


def _layers_as_run(network: nn.Module, input_hw: tuple[int, int]) -> list[tuple[str, nn.Module]]:
    """List convolutions and batch norms with their names, in execution order."""
    run: list[tuple[str, nn.Module]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, *_, name=name: run.append((name, layer)))
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))
    ]
    run_network(network.eval(), np.zeros((1, 3, *input_hw), np.float32))
    for hook in hooks:
        hook.remove()
    return run


def export_network(
    network: nn.Module,
    path: Path | str,
    contract: Contract,
    *,
    input_hw: tuple[int, int] | None = None,
    batch: int | None = None,
    dynamic_hw: bool = False,
    check_hw: Sequence[tuple[int, int]] = (),
    describe: bool = True,
    facts: Mapping[str, str] | None = None,
) -> float:
    """Export a network to ONNX, after checking that ONNX Runtime reproduces torch's outputs.

    Batch norms are folded into the convolutions before them. The file has IR version 8, and its
    free axes are named ``batch``, ``height`` and ``width``.

    Parameters
    ----------
    network
        Maps (B, 3, H, W) float32 to one tensor or a tuple; is set to eval mode.
    path
        Target ``.onnx``; replaced only once it is complete and correct.
    contract
        Names of the input and the outputs; written to the metadata of the file.
    input_hw
        Height and width in pixels; the contract's if None.
    batch
        Fixed batch size; None leaves it free.
    dynamic_hw
        Leave height and width free.
    check_hw
        Additional sizes for the comparison if they are free; if empty, ``input_hw`` with the
        height and then both sides halved.
    describe
        Write the contract; False for outputs in a layout that our decoders do not support.
    facts
        Further entries of the metadata, for viewers.

    Returns
    -------
    float
        The largest difference, in units of the output's root mean square.

    Raises
    ------
    InputError
        If the contract does not name every output.
    GraphError
        If a weight or an output is not finite, or the graph is invalid or differs from torch by
        more than 1e-4; nothing is written then.
    """
    height, width = input_hw or contract.preprocess.input_hw
    preprocess = dataclasses.replace(contract.preprocess, input_hw=(height, width))
    contract = dataclasses.replace(contract, preprocess=preprocess)
    sizes = [(height, width)]
    if dynamic_hw:
        sizes += check_hw or [(height // 2, width), (height // 2, width // 2)]
    rng = np.random.default_rng(2026)
    inputs = [
        rng.uniform(-1.0, 1.0, (count, 3, *size)).astype(np.float32)
        for size in sizes
        for count in ([1, 2] if batch is None else [batch])
    ]
    network.eval()
    expected = [run_network(network, images) for images in inputs]
    if len(expected[0]) != len(contract.output_names):
        raise InputError(
            f"{contract.card_id}: the network has {len(expected[0])} outputs, the contract names "
            f"{len(contract.output_names)}: {', '.join(contract.output_names)}"
        )
    outputs = (pair for arrays in expected for pair in zip(contract.output_names, arrays))
    named = ((name, torch.from_numpy(array)) for name, array in outputs)
    broken = find_not_finite(chain(network.state_dict().items(), named))
    if broken is not None:
        raise GraphError(
            f"{contract.card_id}: {broken!r} of the network is not finite, as after a training "
            "that diverged; take an earlier checkpoint"
        )
    model = _trace(network, inputs[0], contract, batch is None, dynamic_hw)
    _drop_aliases(model)
    if not dynamic_hw:
        _write_out_shapes(model, inputs[0], free_batch=batch is None)
    _declare_outputs(model, contract.output_names, expected)
    if describe:
        helper.set_model_props(model, {**(facts or {}), **contract.to_metadata()})
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    worst = max(
        compare_with_graph(reference, model, images) for reference, images in zip(expected, inputs)
    )
    write_bytes(Path(path), model.SerializeToString())
    return worst


def compare_with_graph(
    expected: Sequence[np.ndarray], model: onnx.ModelProto, images: np.ndarray
) -> float:
    """Run a graph on images and compare its outputs with the expected ones.

    Parameters
    ----------
    expected
        One array per output, in the order of the graph.
    model
        Graph with one input.
    images
        Input, (B, 3, H, W) float32.

    Returns
    -------
    float
        The largest absolute difference in units of the expected output's root mean square.

    Raises
    ------
    GraphError
        If an output's shape differs, or its values by more than 1e-4.
    """
    outputs = run_graph(model, {model.graph.input[0].name: images})
    worst = 0.0
    for (name, array), reference in zip(outputs.items(), expected):
        if array.shape != reference.shape:
            raise GraphError(
                f"output {name!r} has shape {array.shape} in ONNX Runtime, {reference.shape} in "
                f"torch for an input of {images.shape}; the graph only works at its export size"
            )
        scale = max(float(np.sqrt(np.mean(np.square(reference, dtype=np.float64)))), 1e-12)
        difference = float(np.max(np.abs(array - reference))) / scale
        if not difference <= TOLERANCE:
            raise GraphError(
                f"output {name!r} differs by {difference:.3g} of its root mean square between "
                f"torch and ONNX Runtime at {images.shape}, expected at most {TOLERANCE:g}"
            )
        worst = max(worst, difference)
    return worst


def run_network(network: nn.Module, images: np.ndarray) -> list[np.ndarray]:
    """Run a network on arrays.

    Parameters
    ----------
    network
        Returns one tensor or a tuple; runs in its current mode.
    images
        Shape (B, 3, H, W), float32, the network's input.

    Returns
    -------
    list of numpy.ndarray
        Its outputs in order.
    """
    with torch.no_grad():
        outputs = network(torch.from_numpy(images))
    return [x.numpy() for x in ([outputs] if isinstance(outputs, Tensor) else outputs)]


def _trace(
    network: nn.Module,
    example: np.ndarray,
    contract: Contract,
    free_batch: bool,
    free_hw: bool,
) -> onnx.ModelProto:
    axes: dict[int, str] = {0: "batch"} if free_batch else {}
    if free_hw:
        axes.update({2: "height", 3: "width"})
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The classic exporter is intended: the new one writes opset 18 instead of 11.
        warnings.simplefilter("ignore", DeprecationWarning)
        # The comparison at several sizes covers the warnings of the tracer.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.onnx.export(
            network,
            (torch.from_numpy(example),),
            buffer,
            dynamo=False,
            opset_version=_OPSET,
            input_names=[contract.input_name],
            output_names=[f"{_MADE}{name}" for name in contract.output_names],
            dynamic_axes={contract.input_name: axes},
        )
    model = onnx.load_from_string(buffer.getvalue())
    # Renamed only here, since torch refuses names that begin with a digit.
    made = {f"{_MADE}{name}": name for name in contract.output_names}
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = made.get(value, value)
    return model


def _drop_aliases(model: onnx.ModelProto) -> None:
    """Bypass the Identity nodes behind which the exporter stores equal weights once."""
    weights = {tensor.name for tensor in model.graph.initializer}
    aliases = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Identity" and node.input[0] in weights
    }
    nodes = [node for node in model.graph.node if node.output[0] not in aliases]
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = aliases.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _write_out_shapes(model: onnx.ModelProto, images: np.ndarray, free_batch: bool) -> None:
    """Replace shapes that a graph of fixed size computes only for a Reshape by constants."""
    uses: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            uses.setdefault(name, set()).add(node.op_type)
    nodes = [
        node
        for node in model.graph.node
        if node.op_type == "Shape" and uses.get(node.output[0]) == {"Reshape"}
    ]
    measured = [node.input[0] for node in nodes]
    shapes = shapes_at(model, {model.graph.input[0].name: images}, measured) if nodes else {}
    for node in nodes:
        batch, *sizes = shapes[node.input[0]]
        # In Reshape a zero stands for the size of that axis in the data.
        constant = np.array([0 if free_batch else batch, *sizes], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(constant, node.output[0]))
        model.graph.node.remove(node)


def _declare_outputs(
    model: onnx.ModelProto, names: Sequence[str], expected: Sequence[Sequence[np.ndarray]]
) -> None:
    """Declare the shape of each output; an axis is free if its size differed in torch."""
    del model.graph.value_info[:]
    del model.graph.output[:]
    for index, name in enumerate(names):
        dims: list[int | str] = []
        for axis, sizes in enumerate(zip(*(outputs[index].shape for outputs in expected))):
            free = "batch" if axis == 0 else f"{name}_axis_{axis}"
            dims.append(sizes[0] if len(set(sizes)) == 1 else free)
        info = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
        model.graph.output.append(info)


def count_network(network: nn.Module, input_hw: tuple[int, int]) -> tuple[int, int]:
    """Count a network's parameters and its MACs for one image.

    Parameters
    ----------
    network
        Expects (B, 3, H, W); not changed, and no values are computed.
    input_hw
        Height and width in pixels.

    Returns
    -------
    parameters : int
        Learnt numbers, including weights and biases of batch norms.
    macs : int
        Multiply-accumulates of convolutions and linear layers.
    """
    macs = 0

    def count(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal macs
        places = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        macs += places.numel() * math.prod(layer.weight.shape[1:])

    shadow = copy.deepcopy(network).to("meta").eval()
    for layer in shadow.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer.register_forward_hook(count)
    shadow(torch.empty(1, 3, *input_hw, device="meta"))
    return sum(parameter.numel() for parameter in network.parameters()), macs
