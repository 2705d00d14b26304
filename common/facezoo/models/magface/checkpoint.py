"""MagFace conversion: from a checkpoint, the authors' or ours, to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from ...contract import Contract
from ...files import sha256_of
from ...graphs.export import export_network
from .. import describe_export
from .card import CARDS
from .network import build, load_arcface, load_official

__all__ = ["NETWORKS", "card_id_of", "export_checkpoint"]

# Card id to the name of its network in :func:`export_checkpoint`. An iresnet of insightface's
# arcface_torch goes by the card of its input.
NETWORKS = {
    card_id: card_id[len("magface_") :] if card_id.startswith("magface_") else card_id
    for card_id in CARDS
}


def card_id_of(variant: str) -> str:
    """Return the card id of a variant."""
    return next(card_id for card_id, name in NETWORKS.items() if name == variant)


def export_checkpoint(
    checkpoint: Path, variant: str, target: Path, *, batch: Optional[int] = None
) -> float:
    """Export a checkpoint to ONNX, after comparing it with PyTorch.

    Parameters
    ----------
    checkpoint
        A ``.pth`` with any name prefix of the authors' files, or of insightface's arcface_torch.
    variant
        As for :func:`~facezoo.models.magface.network.build`; for an iresnet of arcface_torch the
        card of its input, such as ``arcface_rgb``.
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
    if variant in CARDS:
        network = load_arcface(checkpoint)
    else:
        network = build(variant)
        load_official(network, checkpoint)
    contract = Contract.from_card(CARDS[card_id_of(variant)], sha256_of(checkpoint))
    return export_network(network, target, contract, batch=batch, facts=describe_export(contract))
