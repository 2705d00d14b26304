"""Our ``vamc compile``: from a build YAML and an ONNX graph to an artifact for ONNX Runtime.

The graph is folded, PRelu is rewritten, weights are rounded or quantised to the dtype, and before
anything is written the result is compared with the source and checked by an accuracy gate.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from .. import __version__
from ..artifact import Artifact, BuildInfo, files_of, write_artifact
from ..backends.base import first_line
from ..backends.ort import open_session
from ..contract import Contract, contract_in, load_graph, metadata_of
from ..errors import BackendUnavailable, ConfigError, GraphError
from ..files import sha256_of
from ..machine import usable_cores
from ..runs import Inputs
from ..vacc.build_config import DTYPES, BuildConfig
from .calibration import CalibrationSet, open_calibration

__all__ = [
    "Built",
    "Gate",
    "Source",
    "compile_model",
    "prepare_source",
]


try:
    import onnx
    import onnxruntime

    from . import quantize, rewrite
except ImportError as error:
    raise BackendUnavailable(
        f"compiling needs the packages onnx and onnxruntime ({error}); "
        "install them with: pip install onnx onnxruntime"
    ) from error

Gate = Callable[[bytes, bytes], Optional[Mapping[str, Any]]]

OLDEST_IR, NEWEST_IR = 8, 10  # runtimes lag behind the default of the onnx package
TRIAL_IMAGES = 3
TRIAL_SEED = 2026

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A graph in the requested dtype, with facts about it.

    Attributes
    ----------
    model
        The graph.
    arithmetic
        Arithmetic that is used, in words, for ``mod.build.json``.
    tolerance
        Largest accepted difference from the source, as a share of an output's root mean square;
        accuracy is judged by the gate.
    done
        Changes made to the graph: name to count.
    calibration
        Calibration files, each with ``file`` and ``sha256``.
    int8_weights
        See :class:`~facezoo.artifact.BuildInfo`.
    """

    model: Any
    arithmetic: str
    tolerance: float
    done: Mapping[str, int]
    calibration: Tuple[Mapping[str, str], ...] = ()
    int8_weights: Optional[str] = None


@dataclass(frozen=True)
class Source:
    """The source of a build YAML, prepared for any dtype.

    Attributes
    ----------
    reference
        The source graph at the sizes of the YAML.
    folded
        The same graph with constants, batch norms, identities and casts folded.
    contract
        Contract of the source, at these sizes; None if it has none.
    inputs
        Input name to shape; free axes are named.
    removed
        Number of nodes removed by folding, by operator.
    trials
        Random images with the outputs of the source.
    """

    reference: Any
    folded: Any
    contract: Optional[Contract]
    inputs: Mapping[str, Tuple[Any, ...]]
    removed: Mapping[str, int]
    trials: List[_Trial]


def compile_model(
    config: BuildConfig,
    *,
    gate: Optional[Gate] = None,
    calibration: Optional[CalibrationSet] = None,
    arithmetic: str = "auto",
) -> Artifact:
    """Compile a build YAML and write the artifact.

    Parameters
    ----------
    config
        Height, width and any other axis but the batch are fixed to ``frontend.shape``; the batch
        axis stays free.
    gate
        Called with the reference graph (the source at these sizes) and the built one, serialised;
        returns its measurements, or raises GateError, in which case nothing is written.
    calibration
        Calibration data for int8; the ``dataset`` of the YAML if None.
    arithmetic
        Range of int8 weights: see :func:`facezoo.compiler.quantize.choose_arithmetic`.

    Returns
    -------
    Artifact

    Raises
    ------
    ConfigError
        If the YAML needs a feature that this compiler lacks, or does not fit the graph.
    GraphError
        If the graph cannot be read or run, or the built one does not reproduce the outputs of the
        source.
    GateError
        If the gate rejects the build.
    InputError
        If the artifact would replace its own source or the YAML.
    """
    Inputs((), (), config.file, config.frontend.checkpoint).refuse_file(*files_of(config.prefix))
    source = prepare_source(config)
    built = _build(source, config, calibration, arithmetic)
    rewrite.drop_unused_domains(built.model)
    onnx.checker.check_model(built.model)
    serialised = built.model.SerializeToString()
    deviation = _compare(config, serialised, source.trials, built.tolerance)
    measured = gate(source.reference.SerializeToString(), serialised) if gate else None
    build = BuildInfo(
        name=config.name,
        dtype=config.backend.dtype,
        arithmetic=built.arithmetic,
        source=config.frontend.checkpoint.name,
        source_sha256=sha256_of(config.frontend.checkpoint),
        card=source.contract.card_id if source.contract else None,
        inputs=source.inputs,
        outputs=tuple(entry.name for entry in built.model.graph.output),
        graph={"folded": source.removed, **built.done},
        deviation=deviation,
        tools={
            "facezoo": __version__,
            "onnx": str(onnx.__version__),
            "onnxruntime": str(onnxruntime.__version__),
            "numpy": np.__version__,
        },
        calibration=built.calibration,
        gate=measured,
        int8_weights=built.int8_weights,
    )
    return write_artifact(config.prefix, serialised, build)


def prepare_source(config: BuildConfig) -> Source:
    """Read the graph of a build YAML, check it against the YAML, and fold it.

    Parameters
    ----------
    config
        As for :func:`compile_model`, which also lists the errors.

    Returns
    -------
    Source
    """
    _check_buildable(config)
    _warn_of_misleading_name(config)
    model = _read_source(config)
    _check_inputs(config, model)
    contract = _contract_for(config, model)
    trials = _run_source(config, model)
    reference = copy.deepcopy(model)
    inputs = _prepare(reference, config, contract, trials)
    folded = _fold(reference)
    removed = rewrite.count_removed(model, folded)
    return Source(reference, folded, contract, inputs, removed, trials)


def _check_buildable(config: BuildConfig) -> None:
    kind, extra = config.frontend.type, config.extra_ops.type
    if kind not in (None, "onnx"):
        raise ConfigError(
            f"{config.file}: frontend.type {kind!r} needs that framework and the network's code; "
            "expected onnx; export the model to ONNX first (source_code/export_onnx.py)"
        )
    if config.frontend.dtype != "fp32":
        raise ConfigError(
            f"{config.file}: frontend.dtype is {config.frontend.dtype!r}; expected fp32"
        )
    if extra is not None:
        raise ConfigError(
            f"{config.file}: graph.extra_ops.type {extra!r} appends post-processing that only the "
            "vendor's compiler has; remove it and decode on the host, or use the vendor's vamc"
        )


def _warn_of_misleading_name(config: BuildConfig) -> None:
    match = re.search(rf"_({'|'.join(DTYPES)})$", config.name)
    if match and match[1] != config.backend.dtype:
        _log.warning(
            "%s: name %r ends in %s, but backend.dtype is %s; the folder is named after the name",
            config.file,
            config.name,
            match[1],
            config.backend.dtype,
        )


def _read_source(config: BuildConfig) -> Any:
    path = config.frontend.checkpoint
    if not path.exists():
        raise ConfigError(
            f"{config.file}: frontend.checkpoint {str(path)!r} cannot be read: there is no "
            "such file; paths are relative to the working directory"
        )
    model = load_graph(path)
    rewrite.drop_initializer_inputs(model)
    model.ir_version = min(max(model.ir_version, OLDEST_IR), NEWEST_IR)
    return model


def _check_inputs(config: BuildConfig, model: Any) -> None:
    where = f"{config.file}: frontend.shape"
    have = {entry.name: _axes(entry) for entry in model.graph.input}
    listed = ", ".join(f"{name!r} {_shown(axes)}" for name, axes in have.items())
    if set(have) != set(config.frontend.shape):
        named = ", ".join(repr(name) for name in config.frontend.shape)
        raise ConfigError(
            f"{where} has the inputs {named}; those of the graph are {listed}; correct it"
        )
    for entry in model.graph.input:
        if entry.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise GraphError(f"input {entry.name!r} is not float32; expected a network for images")
    for name, shapes in config.frontend.shape.items():
        axes = have[name]
        if axes[:1] not in ([None], [1]):
            raise GraphError(
                f"input {name!r} {_shown(axes)} has a fixed batch; "
                "export the graph with a free batch axis (--batch dynamic)"
            )
        for shape in shapes:
            fits = [size is None or size == wanted for size, wanted in zip(axes[1:], shape[1:])]
            if len(shape) != len(axes) or not all(fits):
                raise ConfigError(
                    f"{where}.{name} is {list(shape)}; the graph's inputs are {listed}; "
                    "correct it, or export the graph for that size"
                )


def _axes(entry: Any) -> List[Optional[int]]:
    """Return the sizes of an input's axes; None where free."""
    dims = entry.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else None for dim in dims]


def _shown(axes: List[Optional[int]]) -> str:
    return "x".join("?" if size is None else str(size) for size in axes)


def _contract_for(config: BuildConfig, model: Any) -> Optional[Contract]:
    """Read the contract of the graph, check that it fits, and set the compiled size."""
    contract = contract_in(model, config.frontend.checkpoint)
    if contract is None:
        _log.warning(
            "%s: %s has no contract, so the artifact will not record its pre-processing",
            config.file,
            config.frontend.checkpoint,
        )
        return None
    outputs = [entry.name for entry in model.graph.output]
    if list(config.frontend.shape) != [contract.input_name] or outputs != list(
        contract.output_names
    ):
        raise GraphError(
            f"{str(config.frontend.checkpoint)!r} has outputs {outputs}, but its contract says "
            f"{list(contract.output_names)} for input {contract.input_name!r}; export it again"
        )
    shapes = config.frontend.shape[contract.input_name]
    if len(shapes) > 1:
        return contract
    height, width = shapes[0][2:]
    preprocess = dataclasses.replace(contract.preprocess, input_hw=(height, width))
    return dataclasses.replace(contract, preprocess=preprocess)


@dataclass(frozen=True)
class _Trial:
    """Random images of one size, and the source's outputs for each alone."""

    feeds: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]

    def first(self, count: int) -> Dict[str, np.ndarray]:
        return {name: array[:count] for name, array in self.feeds.items()}


def _run_source(config: BuildConfig, model: Any) -> List[_Trial]:
    rng = np.random.default_rng(TRIAL_SEED)
    session = open_session(model.SerializeToString(), usable_cores())
    counts = {len(shapes) for shapes in config.frontend.shape.values()}
    if len(counts) > 1:
        raise ConfigError(f"{config.file}: frontend.shape has several shapes for one input")
    trials = []
    for index in range(counts.pop()):
        feeds = {
            # Values representable in float16, since the input of a float16 build is rounded.
            name: rng.standard_normal((TRIAL_IMAGES, *shapes[index][1:]), np.float32)
            .astype(np.float16)
            .astype(np.float32)
            for name, shapes in config.frontend.shape.items()
        }
        alone = [
            _run(session, {name: array[i : i + 1] for name, array in feeds.items()})
            for i in range(TRIAL_IMAGES)
        ]
        trials.append(_Trial(feeds, {name: _stack(name, alone) for name in alone[0]}))
    return trials


def _stack(name: str, alone: List[Dict[str, np.ndarray]]) -> np.ndarray:
    shapes = {outputs[name].shape for outputs in alone}
    shape = shapes.pop()
    if shapes or shape[:1] != (1,):
        raise GraphError(
            f"output {name!r} has the shape {list(shape)} for one image; expected a batch axis "
            "of 1 and a constant size; export the graph with source_code/export_onnx.py"
        )
    return np.concatenate([outputs[name] for outputs in alone])


def _run(session: Any, feeds: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
    names = [entry.name for entry in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds))))
    except Exception as error:  # ONNX Runtime has no public base class.
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"the graph does not run on {shapes} ({reason}); export it with a free batch axis and "
            "for this size"
        ) from error


def _prepare(
    model: Any, config: BuildConfig, contract: Optional[Contract], trials: List[_Trial]
) -> Dict[str, Tuple[Any, ...]]:
    """Fix the sizes, declare the outputs, and update the contract in the metadata."""
    inputs = rewrite.fix_input_shapes(model, config.frontend.shape)
    names = [entry.name for entry in model.graph.output]
    rewrite.declare_outputs(model, {n: [t.expected[n].shape for t in trials] for n in names})
    metadata = {**metadata_of(model), "dtype": config.backend.dtype}
    onnx.helper.set_model_props(model, {**metadata, **(contract.to_metadata() if contract else {})})
    return inputs


def _fold(model: Any) -> Any:
    """Fold constants, batch norms, identities and casts with ONNX Runtime's basic level.

    That level uses only standard operators, so the result runs anywhere; if a version of the
    runtime does not, the graph is left unchanged.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has no public base class.
            raise GraphError(
                f"ONNX Runtime cannot fold the graph into {folder!r}: {first_line(error)}"
            ) from error
        folded = onnx.load(options.optimized_model_filepath)
    if {node.domain for node in folded.graph.node} <= {node.domain for node in model.graph.node}:
        return folded
    _log.warning(
        "ONNX Runtime %s folds to private operators, so the graph is not folded",
        onnxruntime.__version__,
    )
    return model


def _build(
    source: Source, config: BuildConfig, calibration: Optional[CalibrationSet], weights: str
) -> Built:
    folded = copy.deepcopy(source.folded)
    if config.backend.dtype != "int8":
        return _BUILDERS[config.backend.dtype](folded)
    if calibration is None:
        calibration = open_calibration(
            config, source.contract.preprocess if source.contract else None
        )
    return _build_int8(folded, config, calibration, weights)


def _build_fp32(model: Any) -> Built:
    done = {"prelu_rewritten": rewrite.rewrite_prelu(model)}
    return Built(model, "float32", tolerance=1e-4, done=done)


def _build_fp16(model: Any) -> Built:
    # Round before the rewrite, so that 1 - s is exact for the rounded slope.
    rewrite.round_weights_to_half(model)
    done = {
        "prelu_rewritten": rewrite.rewrite_prelu(model),
        "weights_stored_as_half": rewrite.store_weights_as_half(model),
    }
    rewrite.cast_outputs_to_half(model)
    arithmetic = "float32 on weights, input and outputs rounded to float16"
    return Built(model, arithmetic, tolerance=0.2, done=done)


def _build_int8(
    model: Any, config: BuildConfig, calibration: CalibrationSet, weights: str
) -> Built:
    found = quantize.quantize_graph(
        model,
        config.backend.quantize,
        calibration,
        where=str(config.file),
        arithmetic=quantize.choose_arithmetic(weights),
    )
    for finding in found.findings:
        _log.warning("%s: %s", config.file, finding)
    # After quantising, since PRelu between int8 layers is computed in float32 anyway.
    done = {
        "layers": found.layers,
        "layers_in_float": found.excluded,
        "prelu_rewritten": rewrite.rewrite_prelu(found.model),
    }
    rewrite.cast_outputs_to_half(found.model)
    share = f"{found.excluded} of {found.layers} layers ({found.excluded_macs:.1%} of the MACs)"
    arithmetic = f"{found.arithmetic}; {share} in float32"
    # For int8 the gate decides how far it may be from the source.
    return Built(
        found.model,
        arithmetic,
        math.inf,
        done,
        calibration.record(),
        found.arithmetic.int8_weights,
    )


_BUILDERS: Dict[str, Callable[[Any], Built]] = {
    "fp32": _build_fp32,
    "fp16": _build_fp16,
}


def _compare(
    config: BuildConfig, model: bytes, trials: List[_Trial], tolerance: float
) -> Dict[str, float]:
    """Run the built graph on one and on three images and compare it with the source."""
    session = open_session(model, usable_cores())
    worst: Dict[str, float] = {}
    for trial in trials:
        for count in (1, TRIAL_IMAGES):
            outputs = _run(session, trial.first(count))
            for name, array in trial.expected.items():
                where = f"{config.file}: output {name!r} of the built graph at batch {count}"
                deviation = _deviation(outputs[name], array[:count], where)
                if not deviation <= tolerance:
                    raise GraphError(
                        f"{where} differs from the source by {deviation:.3g} of its root mean "
                        f"square, at most {tolerance:g} is allowed; nothing was written; export "
                        "the graph with a free batch axis (--batch dynamic)"
                    )
                worst[name] = max(worst.get(name, 0.0), float(f"{deviation:.3g}"))
    return worst


def _deviation(found: np.ndarray, expected: np.ndarray, where: str) -> float:
    if found.shape != expected.shape:
        raise GraphError(
            f"{where} has the shape {list(found.shape)}, expected {list(expected.shape)}; nothing "
            "was written; export the graph with a free batch axis (--batch dynamic)"
        )
    scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64)))) or 1.0
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    return float(difference.max(initial=0.0)) / scale
