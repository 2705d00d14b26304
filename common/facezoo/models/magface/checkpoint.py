"""MagFace conversion: from a checkpoint, the authors' or ours, to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from ...contract import Contract
from ...files import sha256_of
from ...graphs.export import export_network
from .. import describe_export
from .card import CARDS
from .network import build, load_official

__all__ = ["NETWORKS", "export_checkpoint"]

# Card id to the name of its network in :func:`export_checkpoint`; the others are only ONNX.
NETWORKS = {
    card_id: card_id[len("magface_") :] for card_id in CARDS if card_id.startswith("magface_")
}


def export_checkpoint(
    checkpoint: Path, variant: str, target: Path, *, batch: Optional[int] = None
) -> float:
    """Export a checkpoint to ONNX, after comparing it with PyTorch.

    Parameters
    ----------
    checkpoint
        A ``.pth`` with any name prefix of the authors' files.
    variant
        As for :func:`~facezoo.models.magface.network.build`.
    target
        Target ``.onnx``.
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
        If the variant is unknown.
    WeightsError
        If the checkpoint is of another variant; the message lists what does not fit.
    GraphError
        If the graph differs from PyTorch; nothing is written then.
    """
    network = build(variant)
    load_official(network, checkpoint)
    contract = Contract.from_card(CARDS[f"magface_{variant}"], sha256_of(checkpoint))
    return export_network(network, target, contract, batch=batch, facts=describe_export(contract))
