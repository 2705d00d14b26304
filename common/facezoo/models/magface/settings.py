"""What a training of MagFace can be told; read without torch, so that its script can say so."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

from ...errors import InputError

__all__ = ["LOSSES", "LossSettings", "TrainSettings", "propose_bounds"]

# The authors' settings of each loss. ArcFace is MagFace with one margin for all lengths.
# source: MagFace@99bae61 run/run.sh and run/run_dist_cos.sh; ArcFace: arXiv:1801.07698, 3.1
LOSSES: Dict[str, Mapping[str, float]] = {
    "magface": {"l_margin": 0.45, "u_margin": 0.8, "lambda_g": 35.0},
    "mag-cosface": {"l_margin": 0.35, "u_margin": 0.8, "lambda_g": 150.0},
    "arcface": {"l_margin": 0.5, "u_margin": 0.5, "lambda_g": 0.0},
}
PRECISIONS = ("fp32", "bf16", "fp16")
HEADS = ("replicated", "sharded")

# How far proposed bounds lie outside the lengths that were seen.
SLACK = 0.2


@dataclass(frozen=True)
class LossSettings:
    """One of the three losses with its numbers, checked.

    Attributes
    ----------
    name
        ``magface``, ``mag-cosface`` or ``arcface``.
    l_a, u_a
        Embedding lengths are clamped to this range; above 0.
    l_margin, u_margin
        The margin at either end, radians (a cosine for ``mag-cosface``); None for the authors'.
    lambda_g
        Weight of the loss that rewards length; None for the authors'.
    scale
        Of the logits.
    easy_margin
        Faces more than a right angle away from their person get no margin; otherwise they get
        one that keeps the loss monotonic.
    """

    name: str = "magface"
    l_a: float = 10.0
    u_a: float = 110.0
    l_margin: Optional[float] = None
    u_margin: Optional[float] = None
    lambda_g: Optional[float] = None
    scale: float = 64.0
    easy_margin: bool = True

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise InputError(f"loss {self.name!r} is not known; expected one of {list(LOSSES)}")
        for field, value in LOSSES[self.name].items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        if not 0 < self.l_a < self.u_a:
            raise InputError(f"l_a {self.l_a:g} and u_a {self.u_a:g} must be 0 < l_a < u_a")
        low, high = self.margins
        if not 0 <= low <= high:
            raise InputError(
                f"l_margin {low:g} and u_margin {high:g} must be 0 <= l_margin <= u_margin"
            )
        if self.scale <= 0:
            raise InputError(f"the scale must be above 0, got {self.scale:g}")
        if not self.weight >= self.bound:
            raise InputError(
                f"lambda_g {self.weight:g} is below its bound {self.bound:.3f} for l_a "
                f"{self.l_a:g}, u_a {self.u_a:g}, margins {low:g} to {high:g} and scale "
                f"{self.scale:g}, so lengths need not converge; raise lambda_g to the bound or "
                "narrow the margins"
            )

    @property
    def margins(self) -> Tuple[float, float]:
        """The margin at either end."""
        return float(self.l_margin or 0.0), float(self.u_margin or 0.0)

    @property
    def weight(self) -> float:
        """The number lambda_g."""
        return float(self.lambda_g or 0.0)

    @property
    def slope(self) -> float:
        """How much the margin grows per unit of length."""
        return (self.margins[1] - self.margins[0]) / (self.u_a - self.l_a)

    @property
    def bound(self) -> float:
        """What lambda_g must be at least, so that every face has one best length.

        References
        ----------
        .. [1] Meng et al., arXiv:2103.06627, requirement (1) of the convergence proof.
        .. [2] MagFace@99bae61, ``run/trainer.py``, which fixes the scale at 64 and only prints it.
        """
        low, high = self.l_a**2, self.u_a**2
        return self.scale * self.slope * high * low / (high - low)


@dataclass(frozen=True)
class TrainSettings:
    """What decides a training besides its data; the defaults are the recipe's.

    Attributes
    ----------
    loss
        Which, and its numbers.
    epochs, batch_size
        Batches are full and count all processes; faces left over wait for another epoch's order.
    lr, lr_drop_epoch, lr_drop_ratio
        Learning rate, the epochs (from 0) it falls at, and by what factor.
    momentum, weight_decay
        Of the stochastic gradient descent, for all weights.
    precision
        ``fp32``, ``bf16`` or ``fp16``: what the network computes in. Weights and loss are float32.
    head
        ``replicated``: every process holds all classes. ``sharded``: each holds a slice.
    seed
        Of the first weights, the order of the faces, flips and dropout.
    """

    loss: LossSettings = LossSettings()
    epochs: int = 25
    batch_size: int = 512
    lr: float = 0.1
    lr_drop_epoch: Tuple[int, ...] = (10, 18, 22)
    lr_drop_ratio: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "fp32"
    head: str = "replicated"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise InputError(
                f"epochs must be at least 1 and the batch size 2 (batch norms), got {self.epochs} "
                f"and {self.batch_size}"
            )
        if self.precision not in PRECISIONS or self.head not in HEADS:
            raise InputError(
                f"precision {self.precision!r} must be one of {PRECISIONS}, head {self.head!r} "
                f"one of {HEADS}"
            )

    def lr_in(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        drops = sum(epoch >= drop for drop in self.lr_drop_epoch)
        return float(self.lr * self.lr_drop_ratio**drops)

    def to_dict(self) -> Dict[str, Any]:
        """Return everything as JSON values."""
        entry = dataclasses.asdict(self)
        return {**entry, "lr_drop_epoch": list(self.lr_drop_epoch)}


def propose_bounds(low: float, high: float) -> Tuple[float, float]:
    """Propose l_a and u_a for fine-tuning a network whose embeddings have certain lengths.

    Parameters
    ----------
    low, high
        Shortest and longest embedding of a sample.

    Returns
    -------
    tuple of float
        Two numbers of two digits with a fifth of room on either side, since the authors ask for
        ``l_a < low`` and ``u_a > high``.

    Examples
    --------
    >>> propose_bounds(0.83, 1.22)
    (0.66, 1.5)
    """
    if not 0 < low <= high:
        raise InputError(f"lengths must be above 0, got {low:g} to {high:g}; check the checkpoint")
    return float(f"{low * (1 - SLACK):.2g}"), float(f"{high * (1 + SLACK):.2g}")
