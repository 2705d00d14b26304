"""Which runtimes there are, and how one is opened for a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Optional

from ..card import Preprocess
from ..contract import read_contract
from ..errors import BackendUnavailable, InputError
from ..vacc.vdsp import describe_differences, read_vdsp
from .base import Backend

__all__ = ["ENGINES", "open_backend"]

ENGINES = ("auto", "ort")

_log = logging.getLogger(__name__)


def open_backend(
    source: Path,
    *,
    engine: str = "auto",
    vdsp: Optional[Path] = None,
    preprocess: Optional[Preprocess] = None,
    device_id: int = 0,
    threads: Optional[int] = None,
) -> Backend:
    """Open a model on a runtime.

    Parameters
    ----------
    source
        An artifact prefix (``deploy_weights/<name>/mod``) or a self-describing .onnx file.
    engine
        One of ``ENGINES``; ``auto`` takes the card where there is one, and says what it took.
    vdsp
        A vdsp_params JSON, obeyed as the card would obey it; what differs from the model's
        contract is logged.
    preprocess
        In place of the contract's, for experiments.
    device_id
        Which die of the card.
    threads
        CPU cores to use; all if None.

    Returns
    -------
    Backend

    Raises
    ------
    InputError
        If the engine is not known.
    BackendUnavailable
        If it is not on this machine.
    GraphError
        If the file carries no contract.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} is not known; expected one of {', '.join(ENGINES)}")
    from ..vacc.artifact import read_artifact
    from .ort import OrtBackend

    artifact = None if Path(source).suffix == ".onnx" else read_artifact(Path(source))
    model = Path(source) if artifact is None else artifact.model
    if model is None:
        raise BackendUnavailable(f"{str(source)!r} was built for a card only")
    contract = read_contract(model)
    wanted = preprocess or contract.preprocess
    if vdsp is not None:
        wanted = read_vdsp(Path(vdsp), wanted)
        for line in describe_differences(wanted, contract.preprocess):
            _log.warning("%s: %s", vdsp, line)
    half = artifact is not None and artifact.dtype != "fp32"
    return OrtBackend(model, contract, wanted, half_input=half, threads=threads)
