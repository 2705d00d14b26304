"""MagFace from a checkpoint, the authors' or one of our own, to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from ...contract import Contract
from ...files import sha256_of
from ...graphs.export import export_network
from .card import CARDS
from .network import build, load_official

__all__ = ["export_checkpoint"]


def export_checkpoint(
    checkpoint: Path, variant: str, target: Path, *, batch: Optional[int] = None
) -> float:
    """Write the ONNX of a checkpoint, once it gives what PyTorch gives.

    Parameters
    ----------
    checkpoint
        A ``.pth`` whose names have any prefix of the authors' files.
    variant
        As of :func:`~facezoo.models.magface.network.build`.
    target
        The ``.onnx`` to write.
    batch
        Fixed batch size; None for a free one.

    Returns
    -------
    float
        The largest difference between PyTorch and ONNX Runtime, in units of the output's root mean
        square.

    Raises
    ------
    CardError
        If there is no such variant.
    WeightsError
        If the checkpoint is not this variant's; the message lists what does not fit.
    GraphError
        If the graph does not give what PyTorch gives; nothing is written then.
    """
    network = build(variant)
    load_official(network, checkpoint)
    contract = Contract.from_card(CARDS[f"magface_{variant}"], sha256_of(checkpoint))
    return export_network(network, target, contract, batch=batch)
