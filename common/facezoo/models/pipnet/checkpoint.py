"""PIPNet from a checkpoint, the authors' or one of our own, to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

from ...contract import Contract
from ...files import sha256_of
from ...graphs.export import export_network, load_checkpoint
from .card import NET_STRIDE, NUM_NEIGHBORS
from .decode import PACKAGED, read_meanface
from .graph import make_contract
from .network import build

__all__ = ["export_checkpoint"]


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
    """Write the ONNX of a checkpoint, once it gives what PyTorch gives.

    Parameters
    ----------
    checkpoint
        A ``.pth`` of the authors, or of ``source_code/fit.py``.
    backbone, num_neighbors, input_size, net_stride
        As of :func:`~facezoo.models.pipnet.network.build`.
    target
        The ``.onnx`` to write.
    meanface_txt
        Mean face of the data set it was trained on, which also says how many landmarks there are;
        by default WFLW's.
    batch
        Fixed batch size; None for a free one.

    Returns
    -------
    contract : Contract
        What was written into the file.
    worst : float
        The largest difference between PyTorch and ONNX Runtime, in units of the output's root mean
        square.

    Raises
    ------
    WeightsError
        If the checkpoint is not such a network's; the message lists what does not fit.
    GraphError
        If the graph does not give what PyTorch gives; nothing is written then.
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
    return contract, export_network(network, target, contract, batch=batch)
