"""Settings of SDD-FIQA's training; importable without torch for the help of its script."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Optional

from ...errors import InputError

__all__ = ["LOSSES", "PRECISIONS", "VARIANTS", "TrainSettings"]

VARIANTS = ("r50", "mobilefacenet")
LOSSES = ("smooth_l1", "l1", "l2")
PRECISIONS = ("auto", "fp32", "bf16")


def _setting(default: Any, text: str, choices: Optional[Any] = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


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
    epochs: int = _setting(20, "passes over all images")
    batch_size: int = _setting(64, "images per batch")
    learning_rate: float = _setting(
        1e-4, "initial rate; a tenth of it after a quarter, a hundredth after half of the epochs"
    )
    precision: str = _setting(
        "auto", "arithmetic; auto uses bf16 if the processor supports it", PRECISIONS
    )
    seed: int = _setting(0, "random seed of initial weights, order and mirroring")

    def __post_init__(self) -> None:
        for name, known in (("variant", VARIANTS), ("loss", LOSSES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if min(self.epochs, self.batch_size) < 1 or not self.learning_rate > 0 or self.seed < 0:
            raise InputError(
                "epochs and batch_size must be at least 1, learning_rate above 0 and seed at "
                f"least 0, got {self.epochs}, {self.batch_size}, {self.learning_rate} and "
                f"{self.seed}"
            )
