"""Settings of SDD-FIQA's training; importable without torch for the help of its script."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Sequence

from ...errors import InputError
from ...fields import SEED, Number, check_settings, number, whole

__all__ = ["LOSSES", "PRECISIONS", "VARIANTS", "TrainSettings"]

VARIANTS = ("r50", "mobilefacenet")
LOSSES = ("smooth_l1", "l1", "l2")
PRECISIONS = ("auto", "fp32", "bf16")


def _setting(default: Any, text: str, choices: Sequence[str]) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


def _number(default: float, kind: Number, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "type": kind})


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training.

    The defaults are the authors' except for the batch size, which is 5000 on eight GPUs in their
    code. Each field's ``help`` describes it.

    Raises
    ------
    InputError
        If a value is out of range.

    References
    ----------
    .. [1] TFace@171ec14, ``quality/train_config.py``.
    """

    variant: str = _setting("mobilefacenet", "network", VARIANTS)
    loss: str = _setting("smooth_l1", "loss between scores and labels", LOSSES)
    epochs: int = _number(20, whole(1, 100_000), "passes over all images")
    batch_size: int = _number(64, whole(1, 65536), "images per batch")
    learning_rate: float = _number(
        1e-4,
        number(0, 10, without_low=True),
        "initial rate; a tenth of it after a quarter, a hundredth after half of the epochs",
    )
    precision: str = _setting(
        "auto", "arithmetic; auto uses bf16 if the processor supports it", PRECISIONS
    )
    seed: int = _number(0, SEED, "random seed of initial weights, order and mirroring")

    def __post_init__(self) -> None:
        for name, known in (("variant", VARIANTS), ("loss", LOSSES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        check_settings(self)
