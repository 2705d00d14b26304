"""What a training of PIPNet can be told; read without torch, so that its script can say so."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Optional, Sequence

from .graph import BACKBONE_OF

__all__ = ["FitSettings"]


def _setting(default: Any, text: str, choices: Optional[Sequence[str]] = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class FitSettings:
    """What decides a training besides its data; the defaults are the authors'.

    The first four are those of :func:`~facezoo.models.pipnet.network.build`; what each means stands
    in its ``help``.
    """

    backbone: str = _setting("resnet18", "what computes the features", sorted(BACKBONE_OF.values()))
    num_neighbors: int = _setting(10, "neighbours each landmark predicts")
    input_size: int = _setting(256, "side of the input in pixels")
    net_stride: int = _setting(32, "pixels per cell of the maps")
    epochs: int = _setting(60, "times every crop is seen")
    batch_size: int = _setting(16, "crops in a batch")
    learning_rate: float = _setting(1e-4, "a tenth of it after half of the epochs and after 5/6")
    seed: int = _setting(0, "of the first weights and of the order of the crops")
