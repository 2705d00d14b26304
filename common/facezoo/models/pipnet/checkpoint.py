"""PIPNet conversion: from a checkpoint, the authors' or ours, to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

from ...contract import Contract
from ...files import sha256_of
from ...graphs.export import export_network, load_checkpoint
from .. import describe_export
from .card import CARDS, NET_STRIDE, NUM_NEIGHBORS
from .decode import PACKAGED, read_meanface
from .graph import make_contract
from .network import build

__all__ = ["NETWORKS", "export_checkpoint"]

# Card id to the name of its network in :func:`export_checkpoint`.
NETWORKS = {card_id: card_id[len("pip_") :] for card_id in CARDS}


def export_checkpoint(
    checkpoint: Path,
    backbone: str,
    target: Path,
    *,
    meanface_txt: Optional[Path] = None,
    num_neighbors: int = NUM_NEIGHBORS,
    input_size: int = 256,
    net_stride: int = NET_STRIDE,
    batch: Optional[int] = None,
) -> Tuple[Contract, float]:
    """Export a checkpoint to ONNX, after comparing it with PyTorch.

    Parameters
    ----------
    checkpoint
        A ``.pth`` of the authors or of ``source_code/fit.py``.
    backbone, num_neighbors, input_size, net_stride
        As for :func:`~facezoo.models.pipnet.network.build`.
    target
        Target ``.onnx``.
    meanface_txt
        Mean face of its training set, which also gives the number of landmarks; WFLW's by
        default.
    batch
        Fixed batch size; None for a free one.

    Returns
    -------
    contract : Contract
        The contract written to the file.
    worst : float
        The largest difference between PyTorch and ONNX Runtime, in units of the output's root mean
        square.

    Raises
    ------
    WeightsError
        If the checkpoint belongs to another network; the message lists what does not fit.
    GraphError
        If the graph differs from PyTorch; nothing is written then.
    """
    points = read_meanface(meanface_txt or PACKAGED["WFLW"])
    network = build(backbone, len(points), num_neighbors, input_size, net_stride)
    load_checkpoint(network, checkpoint)
    contract = make_contract(
        backbone,
        "WFLW" if meanface_txt is None else points,
        num_neighbors=num_neighbors,
        input_size=input_size,
        source_sha256=sha256_of(checkpoint),
    )
    return contract, export_network(
        network, target, contract, batch=batch, facts=describe_export(contract)
    )
