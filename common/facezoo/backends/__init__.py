"""Inference backends, and the function that opens a model on one of them."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Optional, Sequence, Tuple, Type, Union

from ..artifact import PORTABLE, Artifact, build_of, read_artifact
from ..card import ModelCard, Preprocess
from ..errors import BackendError, BackendUnavailable, InputError

if TYPE_CHECKING:
    from ..contract import Contract
    from .base import Backend, HostBackend

__all__ = ["AUTO_SIZE", "ENGINES", "HOSTS", "Host", "RuntimeOptions", "open_backend"]


@dataclass(frozen=True)
class RuntimeOptions:
    """Engine, device, threads and arithmetic of a model.

    Attributes
    ----------
    engine
        One of ``ENGINES``; ``auto`` uses the device if it answers and the model
        was compiled for it, else ONNX Runtime, and logs its choice and the reason.
    device_id
        Number of the accelerator.
    threads
        CPU cores to use; all usable ones if None.
    provider
        Execution provider of ONNX Runtime: ``cpu``, or another of
        ``facezoo.backends.ort.PROVIDERS``.
    precision
        Arithmetic of OpenVINO: ``f32`` or ``bf16``.
    allow_saturation
        Open an int8 build with full-range weights on a CPU that computes it wrongly.
    """

    engine: str = "auto"
    device_id: int = 0
    threads: Optional[int] = None
    provider: str = "cpu"
    precision: str = "f32"
    allow_saturation: bool = False


class Host(NamedTuple):
    """A runtime of this machine; its module in this folder has the engine's name.

    Attributes
    ----------
    backend
        Name of its :class:`~facezoo.backends.base.HostBackend` in that module.
    package
        Package that it needs; only that module imports it.
    option
        The field of :class:`RuntimeOptions` that only this engine uses; "" for none.
    """

    backend: str
    package: str
    option: str = ""


HOSTS = {
    "ort": Host("OrtBackend", "onnxruntime", "provider"),
    "openvino": Host("OpenVinoBackend", "openvino", "precision"),
}
ENGINES = ("auto", *HOSTS, "vsx")
# Instead of the size of an input: as much of the usual one as the photo fills.
AUTO_SIZE = "auto"
_USUAL = RuntimeOptions()

_log = logging.getLogger(__name__)


def open_backend(
    source: Path,
    runtime: RuntimeOptions = _USUAL,
    *,
    vdsp: Optional[Path] = None,
    preprocess: Optional[Preprocess] = None,
    batch: int = 1,
    cards: Sequence[ModelCard] = (),
    input_hw: Union[Tuple[int, int], str, None] = None,
) -> Backend:
    """Open a model on a runtime.

    Parameters
    ----------
    source
        An artifact prefix (``deploy_weights/<name>/mod``) or a self-describing .onnx file.
    runtime
        Engine, device, threads and arithmetic.
    vdsp
        A vdsp_params JSON, applied as on the device; differences from the model's contract are
        logged.
    preprocess
        Replaces the contract's pre-processing, for experiments.
    batch
        Batch size of the network on the device; a CPU accepts any number.
    cards
        Candidates for a prefix with only the vendor's files; the shapes of the network decide.
    input_hw
        Height and width of the network's input, where it accepts several; replaces that of the
        pre-processing. ``auto`` lets it follow the photo, up to that of the pre-processing.

    Returns
    -------
    Backend

    Raises
    ------
    InputError
        If the engine is unknown, or cannot run the source, or would compute its int8 weights
        wrongly on this CPU.
    BackendUnavailable
        If the engine is not available on this machine.
    GraphError
        If the file contains no contract, or no card matches the shapes of the network.
    """
    # Imported here, so that a verb's help needs neither NumPy nor OpenCV.
    from ..contract import read_contract

    source, engine, threads = Path(source), runtime.engine, runtime.threads
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is not known; expected one of {', '.join(ENGINES)}")
    artifact = None if source.suffix == ".onnx" else read_artifact(source)
    if engine == "auto":
        engine = _choose(artifact, runtime.device_id)
    for its, host in HOSTS.items():
        name = host.option
        value = getattr(runtime, name) if name else ""
        if name and value != getattr(_USUAL, name) and engine != its:
            _log.warning("%s %s is for engine %s and has no effect on %s", name, value, its, engine)
    if runtime.device_id != _USUAL.device_id and engine != "vsx":
        _log.warning("device %d is for engine vsx, no effect on %s", runtime.device_id, engine)
    if engine == "vsx":
        from .vsx import VsxBackend

        if artifact is None or not artifact.has_vendor_files:
            raise InputError(
                f"{str(source)!r} has no .so, .json and .params for engine 'vsx'; give the prefix "
                "of files that the vendor's vamc compiled, or use --engine ort"
            )
        contract = _contract_on_device(artifact, cards, runtime.device_id)
        wanted = _wanted(contract, preprocess, vdsp, input_hw)
        if input_hw == AUTO_SIZE:
            raise InputError(
                "the input of a build for the device has one size and cannot follow the photo; "
                "leave the size auto out, or use --engine ort"
            )
        return VsxBackend(
            artifact.prefix,
            contract,
            wanted,
            vdsp=vdsp,
            device_id=runtime.device_id,
            batch=batch,
            threads=threads,
        )
    model = source if artifact is None else artifact.model
    if model is None:
        raise BackendUnavailable(
            f"{str(source)!r} was built for the device only; compile the .onnx for this "
            "machine too: facezoo compile"
        )
    contract = read_contract(model)
    half = artifact is not None and artifact.dtype != "fp32"
    wanted = _wanted(contract, preprocess, vdsp, input_hw)
    host = HOSTS[engine]
    kind: Type[HostBackend] = getattr(import_module(f"{__name__}.{engine}"), host.backend)
    own: Dict[str, Any] = {host.option: getattr(runtime, host.option)} if host.option else {}
    if input_hw == AUTO_SIZE:
        own["multiple"] = max(contract.decode["strides"])
    saturates = runtime.provider == "cpu" and _saturates(model, artifact, kind, runtime)
    backend = kind(model, contract, wanted, half, threads, **own)
    if saturates:
        backend.device += ", int8 saturates"
    if engine == "ort" and runtime.provider != _USUAL.provider:
        _log.info(
            "provider %s: ONNX Runtime %s runs on %s",
            runtime.provider,
            backend.version,
            backend.device,
        )
    return backend


def _saturates(
    model: Path, artifact: Optional[Artifact], kind: Type[HostBackend], runtime: RuntimeOptions
) -> bool:
    """Return whether int8 weights of a build are computed wrongly here, if that is allowed."""
    build = artifact.build if artifact else build_of(model)
    if build is None or build.dtype != "int8" or build.int8_weights == PORTABLE:
        return False
    from .int8 import saturates

    if not saturates(kind):
        return False
    if build.int8_weights is None:
        _log.warning(
            "%s does not record the range of its int8 weights; with 8 bits they give wrong results "
            "on this CPU, whose 8-bit sums saturate in %s; compile again to be sure",
            model,
            kind.name,
        )
        return False
    if not runtime.allow_saturation:
        raise InputError(
            f"{str(model)!r} has full-range int8 weights, which give wrong results on this CPU "
            f"(it has no VNNI, so 8-bit sums saturate in {kind.name}); build one for every CPU "
            "(facezoo compile YAML --dtype int8 --arithmetic portable), use the fp32 build, or "
            "accept the loss with --allow-saturation"
        )
    _log.warning(
        "%s has full-range int8 weights: 8-bit sums saturate on this CPU, so results are wrong",
        model,
    )
    return True


def _choose(artifact: Optional[Artifact], device_id: int) -> str:
    """Choose the device if it answers and the vendor's three files exist; return the reason too."""
    if artifact is None:
        return "ort"
    if not artifact.has_vendor_files:
        # Only who has a device, or asks, wants to know.
        level = logging.DEBUG if device_id == _USUAL.device_id else logging.INFO
        reason = f"{artifact.prefix} has no .so, .json and .params for the device"
        _log.log(level, "engine ort: %s", reason)
        return "ort"
    engine, reason = _ask_device(device_id)
    _log.info("engine %s: %s", engine, reason)
    return engine


def _ask_device(device_id: int) -> Tuple[str, str]:
    from .vsx import check_device

    try:
        check_device(device_id)
    except BackendError as error:
        return "ort", str(error)
    return "vsx", f"device {device_id} answers, and the vendor's three files exist"


def _contract_on_device(artifact: Artifact, cards: Sequence[ModelCard], device_id: int) -> Contract:
    """Read the contract from our file beside the vendor's; without it match the shapes."""
    from ..contract import read_contract
    from .vsx import contract_from_cards, read_shapes

    if artifact.model is not None:
        return read_contract(artifact.model)
    return contract_from_cards(cards, read_shapes(artifact.prefix, device_id), artifact.prefix)


def _wanted(
    contract: Contract,
    preprocess: Optional[Preprocess],
    vdsp: Optional[Path],
    input_hw: Union[Tuple[int, int], str, None],
) -> Preprocess:
    """Return the pre-processing; log where a vdsp JSON differs from the contract."""
    from ..image.preprocess import describe_differences
    from ..vacc.vdsp import read_vdsp

    wanted = preprocess or contract.preprocess
    if vdsp is not None:
        wanted = read_vdsp(Path(vdsp), wanted)
        for line in describe_differences(wanted, contract.preprocess):
            _log.warning("%s: %s", vdsp, line)
    if input_hw is None:
        return wanted
    if "strides" not in contract.decode:
        height, width = contract.preprocess.input_hw
        raise InputError(
            f"{contract.card_id} takes images of one size, {height}x{width}; leave size out"
        )
    if isinstance(input_hw, str):
        if wanted.fit != "letterbox":
            raise InputError(
                f"the input of {contract.card_id} cannot follow the photo with the fit "
                f"{wanted.fit}; expected a vdsp JSON of a letterbox, or another size than auto"
            )
        return wanted
    multiple = max(contract.decode["strides"])
    if any(side % multiple for side in input_hw):
        raise InputError(
            f"the input of {contract.card_id} cannot be {input_hw[0]}x{input_hw[1]}; expected a "
            f"height and a width that are multiples of {multiple}"
        )
    return dataclasses.replace(wanted, input_hw=input_hw)
