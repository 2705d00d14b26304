"""Inference backends, and the function that opens a model on one of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Optional, Sequence, Tuple

from ..artifact import Artifact, read_artifact
from ..card import ModelCard, Preprocess
from ..contract import Contract, read_contract
from ..errors import BackendError, BackendUnavailable, InputError
from ..image.preprocess import describe_differences
from ..vacc.vdsp import read_vdsp
from .base import Backend

__all__ = ["ENGINES", "open_backend"]

ENGINES = ("auto", "ort", "openvino", "vsx")

_log = logging.getLogger(__name__)


def open_backend(
    source: Path,
    *,
    engine: str = "auto",
    vdsp: Optional[Path] = None,
    preprocess: Optional[Preprocess] = None,
    device_id: int = 0,
    batch: int = 1,
    threads: Optional[int] = None,
    cards: Sequence[ModelCard] = (),
    provider: str = "cpu",
    precision: str = "f32",
) -> Backend:
    """Open a model on a runtime.

    Parameters
    ----------
    source
        An artifact prefix (``deploy_weights/<name>/mod``) or a self-describing .onnx file.
    engine
        One of ``ENGINES``; ``auto`` uses the device if there is one, and logs its choice.
    vdsp
        A vdsp_params JSON, applied as on the device; differences from the model's contract are
        logged.
    preprocess
        Replaces the contract's pre-processing, for experiments.
    device_id
        Device number.
    batch
        Batch size of the network on the device; a CPU accepts any number.
    threads
        CPU cores to use; all if None.
    cards
        Candidates for a prefix with only the vendor's files; the shapes of the network decide.
    provider
        Provider of ONNX Runtime: ``cpu``, or another of ``facezoo.backends.ort.PROVIDERS``.
    precision
        Arithmetic of OpenVINO: ``f32`` or ``bf16``.

    Returns
    -------
    Backend

    Raises
    ------
    InputError
        If the engine is unknown, or cannot run the source.
    BackendUnavailable
        If the engine is not available on this machine.
    GraphError
        If the file contains no contract, or no card matches the shapes of the network.
    """
    source = Path(source)
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is not known; expected one of {', '.join(ENGINES)}")
    artifact = None if source.suffix == ".onnx" else read_artifact(source)
    if engine == "auto":
        engine = _choose(artifact, device_id)
    for name, value, usual, its in (
        ("provider", provider, "cpu", "ort"),
        ("precision", precision, "f32", "openvino"),
    ):
        if value != usual and engine != its:
            _log.warning("%s %s is for engine %s and has no effect on %s", name, value, its, engine)
    if engine == "vsx":
        from .vsx import VsxBackend

        if artifact is None or not artifact.has_vendor_files:
            raise InputError(
                f"{str(source)!r} has no .so, .json and .params for engine 'vsx'; give the prefix "
                "of files that the vendor's vamc compiled, or use --engine ort"
            )
        contract = _contract_on_card(artifact, cards, device_id)
        wanted = _wanted(contract, preprocess, vdsp)
        return VsxBackend(
            artifact.prefix,
            contract,
            wanted,
            vdsp=vdsp,
            device_id=device_id,
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
    wanted = _wanted(contract, preprocess, vdsp)
    if engine == "openvino":
        from .openvino import OpenVinoBackend

        return OpenVinoBackend(model, contract, wanted, half, threads, precision)
    from .ort import OrtBackend

    backend = OrtBackend(model, contract, wanted, half, threads, provider)
    if provider != "cpu":
        _log.info(
            "provider %s: ONNX Runtime %s runs on %s", provider, backend.version, backend.device
        )
    return backend


def _choose(artifact: Optional[Artifact], device_id: int) -> str:
    """Choose the device if it answers and the vendor's three files exist; return the reason too."""
    if artifact is None:
        return "ort"
    if not artifact.has_vendor_files:
        engine, reason = "ort", f"{artifact.prefix} has no .so, .json and .params for the device"
    else:
        engine, reason = _ask_card(device_id)
    _log.info("engine %s: %s", engine, reason)
    return engine


def _ask_card(device_id: int) -> Tuple[str, str]:
    from .vsx import check_card

    try:
        check_card(device_id)
    except BackendError as error:
        return "ort", str(error)
    return "vsx", f"device {device_id} answers, and the vendor's three files exist"


def _contract_on_card(artifact: Artifact, cards: Sequence[ModelCard], device_id: int) -> Contract:
    """Read the contract from our file beside the vendor's; without it match the shapes."""
    from .vsx import contract_from_cards, read_shapes

    if artifact.model is not None:
        return read_contract(artifact.model)
    return contract_from_cards(cards, read_shapes(artifact.prefix, device_id), artifact.prefix)


def _wanted(
    contract: Contract, preprocess: Optional[Preprocess], vdsp: Optional[Path]
) -> Preprocess:
    """Return the pre-processing; log where a vdsp JSON differs from the contract."""
    wanted = preprocess or contract.preprocess
    if vdsp is not None:
        wanted = read_vdsp(Path(vdsp), wanted)
        for line in describe_differences(wanted, contract.preprocess):
            _log.warning("%s: %s", vdsp, line)
    return wanted
