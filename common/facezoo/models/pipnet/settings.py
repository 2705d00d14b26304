"""Settings of PIPNet's training; importable without torch for the help of its script."""

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
    """Settings of a training; the defaults are the authors'.

    The first four are those of :func:`~facezoo.models.pipnet.network.build`; each field's ``help``
    describes it.
    """

    backbone: str = _setting("resnet18", "backbone of the network", sorted(BACKBONE_OF.values()))
    num_neighbors: int = _setting(10, "number of neighbours that each landmark predicts")
    input_size: int = _setting(256, "side of the input in pixels")
    net_stride: int = _setting(32, "input pixels per cell of the maps")
    epochs: int = _setting(60, "passes over all crops")
    batch_size: int = _setting(16, "crops per batch")
    learning_rate: float = _setting(
        1e-4, "initial rate; divided by 10 after 1/2 and 5/6 of the epochs"
    )
    seed: int = _setting(0, "random seed of initial weights and order")
