"""SDD-FIQA conversion: from a checkpoint, the authors' or ours, to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from ...contract import Contract
from ...files import sha256_of
from ...graphs.export import export_network
from .. import describe_export
from .card import CARDS
from .network import build, load_official

__all__ = ["NETWORKS", "card_id_of", "export_checkpoint"]

# Card id to the name of its network in :func:`export_checkpoint`.
NETWORKS = {card_id: card_id[len("sdd_fiqa_") :] for card_id in CARDS}


def card_id_of(variant: str) -> str:
    """Return the card id of a variant."""
    return f"sdd_fiqa_{variant}"


def export_checkpoint(
    checkpoint: Path, variant: str, target: Path, *, batch: Optional[int] = None
) -> float:
    """Export a checkpoint to ONNX, after comparing it with PyTorch.

    Parameters
    ----------
    checkpoint
        The authors' ``.pth``, or one of ``source_code/train.py``.
    variant
        Its network: ``r50`` or ``mobilefacenet``.
    target
        Target ``.onnx``.
    batch
        Fixed batch size; None for a free one.

    Returns
    -------
    float
        The largest difference between PyTorch and ONNX Runtime, in units of the scores' root mean
        square.

    Raises
    ------
    CardError
        If the variant is unknown.
    WeightsError
        If the checkpoint is of another variant, or lacks weights.
    GraphError
        If the graph differs from PyTorch; nothing is written then.
    """
    network = build(variant)
    load_official(network, checkpoint)
    contract = Contract.from_card(CARDS[card_id_of(variant)], sha256_of(checkpoint))
    return export_network(network, target, contract, batch=batch, facts=describe_export(contract))
