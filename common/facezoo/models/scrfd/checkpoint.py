"""SCRFD conversion: official checkpoint to ONNX, and released ONNX to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import numpy as np

from ...card import ModelCard
from ...contract import Contract, load_graph
from ...files import sha256_of
from ...graphs.export import (
    compare_with_graph,
    export_network,
    load_onnx,
    run_network,
    save_checkpoint,
)
from .. import describe_export
from .card import CARDS
from .graph import Size, recognise_heads, recognise_variant, to_raw_heads
from .network import build, deploy, load_official

__all__ = ["NETWORKS", "export_checkpoint", "import_released"]

# Card id to the name of its network in :func:`export_checkpoint`.
NETWORKS = {card_id: card_id for card_id in CARDS}

# Sizes at which graphs with free height and width are compared, besides that of the card.
_CHECK_HW = ((320, 448), (96, 160))


def export_checkpoint(
    checkpoint: Path,
    variant: str,
    target: Path,
    *,
    size: Size = None,
    batch: Optional[int] = None,
    decoded: bool = False,
) -> float:
    """Export an official checkpoint to ONNX, after comparing it with PyTorch.

    Parameters
    ----------
    checkpoint
        The authors' ``.pth``.
    variant
        Its network, such as ``scrfd_10g_bnkps``.
    target
        Target ``.onnx``.
    size
        Fixed height and width, multiples of 32; None for free ones.
    batch
        Fixed batch size; None for a free one.
    decoded
        Write the authors' layout for other software: rows (B, N, 1 | 4 | 10), scores between 0
        and 1. Such a file has no contract, since facezoo's decoder expects raw maps.

    Returns
    -------
    float
        The largest difference between PyTorch and ONNX Runtime, in units of the output's root mean
        square, over three input sizes if the size is free.

    Raises
    ------
    CardError
        If the variant is unknown.
    WeightsError
        If the checkpoint is of another variant.
    InputError
        If the size is not a multiple of 32.
    GraphError
        If the graph differs from PyTorch; nothing is written then.
    """
    network = build(variant)
    load_official(network, checkpoint)
    contract = Contract.from_card(CARDS[variant], sha256_of(checkpoint))
    return export_network(
        deploy(network, decoded=decoded),
        target,
        contract,
        input_hw=size,
        batch=batch,
        dynamic_hw=size is None,
        check_hw=_CHECK_HW,
        describe=not decoded,
        facts=describe_export(contract),
    )


def import_released(source: Path, target: Path) -> Tuple[ModelCard, float]:
    """Write the weights of a released ONNX as a checkpoint, after comparing both.

    Parameters
    ----------
    source
        A released ``.onnx`` of a ``_bnkps`` variant, or raw heads cut from one.
    target
        Target ``.pth``; it loads like the authors'.

    Returns
    -------
    card : ModelCard
        The variant that was recognised.
    worst : float
        The largest difference between PyTorch and the graph's raw maps, in units of the map's root
        mean square.

    Raises
    ------
    GraphError
        If the file is not an SCRFD, or the network differs from it; nothing is written then.
    WeightsError
        If the graph does not contain every weight of the network.
    """
    model = load_graph(source, check=True)
    card = recognise_variant(model, recognise_heads(model))
    raw = to_raw_heads(model)
    network = build(card.id)
    load_onnx(network, raw, _CHECK_HW[-1])
    rng = np.random.default_rng(2026)
    images = rng.uniform(-1.0, 1.0, (1, 3, *card.preprocess.input_hw)).astype(np.float32)
    worst = compare_with_graph(run_network(network, images), raw, images)
    save_checkpoint(network, target)
    return card, worst
