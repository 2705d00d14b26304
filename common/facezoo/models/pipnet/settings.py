"""Settings of PIPNet's training; importable without torch for the help of its script."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Sequence

from ...fields import SEED, Number, check_settings, number, whole
from .graph import BACKBONE_OF

__all__ = ["INPUT_SIZE", "NET_STRIDE", "NUM_NEIGHBORS", "FitSettings"]

NUM_NEIGHBORS = whole(1, 100)
INPUT_SIZE = whole(16, 4096)
NET_STRIDE = whole(16, 128)
PRECISIONS = ("auto", "fp32", "bf16")


def _setting(default: Any, text: str, choices: Sequence[str]) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


def _number(default: float, kind: Number, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "type": kind})


@dataclass(frozen=True)
class FitSettings:
    """Settings of a training; the defaults are the authors'.

    The first four are those of :func:`~facezoo.models.pipnet.network.build`; each field's ``help``
    describes it.

    Raises
    ------
    InputError
        If a number is out of range.
    """

    backbone: str = _setting("resnet18", "backbone of the network", sorted(BACKBONE_OF.values()))
    num_neighbors: int = _number(
        10, NUM_NEIGHBORS, "number of neighbours that each landmark predicts"
    )
    input_size: int = _number(256, INPUT_SIZE, "side of the input in pixels")
    net_stride: int = _number(32, NET_STRIDE, "input pixels per cell of the maps")
    epochs: int = _number(60, whole(1, 100_000), "passes over all crops")
    batch_size: int = _number(16, whole(1, 65536), "crops per batch")
    learning_rate: float = _number(
        1e-4,
        number(0, 10, without_low=True),
        "initial rate; divided by 10 after 1/2 and 5/6 of the epochs",
    )
    seed: int = _number(0, SEED, "random seed of initial weights and order")
    frozen: int = _number(
        0, whole(0, 100), "first blocks of the backbone that keep the weights they start with"
    )
    epoch_crops: int = _number(
        0, whole(0, 100_000_000), "crops per epoch, drawn anew for each; 0 takes all"
    )
    patience: int = _number(
        0,
        whole(0, 100_000),
        "epochs without a lower error on the test crops until the training stops, which then keeps "
        "its best network; 0 trains all epochs and keeps the last",
    )
    precision: str = _setting(
        "auto", "arithmetic; auto uses bf16 if the processor supports it", PRECISIONS
    )

    def __post_init__(self) -> None:
        check_settings(self)
