"""Settings of MagFace's training; importable without torch for the help of its script."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from ...errors import InputError
from ...fields import SEED, check_settings, number, whole

__all__ = [
    "COUNT",
    "EMBEDDING_SIZE",
    "EPOCH",
    "LOSSES",
    "WORKERS",
    "LossSettings",
    "TrainSettings",
    "describe_lengths",
    "flags_of",
    "propose_bounds",
    "settings_of",
]

# The authors' settings of each loss. ArcFace is MagFace with one margin for all lengths.
# source: MagFace@99bae61 run/run.sh and run/run_dist_cos.sh; ArcFace: arXiv:1801.07698, 3.1
LOSSES: Dict[str, Mapping[str, float]] = {
    "magface": {"l_margin": 0.45, "u_margin": 0.8, "lambda_g": 35.0},
    "mag-cosface": {"l_margin": 0.35, "u_margin": 0.8, "lambda_g": 150.0},
    "arcface": {"l_margin": 0.5, "u_margin": 0.5, "lambda_g": 0.0},
}
ARCHS = ("iresnet18", "iresnet34", "iresnet50", "iresnet100")
PRECISIONS = ("fp32", "bf16", "fp16")
HEADS = ("replicated", "sharded")

_NORM = number(0, 1e6, without_low=True)
_MARGIN = number(0, math.pi)
COUNT = whole(1, 10**9)
EMBEDDING_SIZE = whole(512, 512)
EPOCH = whole(0, 100_000)
WORKERS = whole(0, 1024)

# Margin of proposed bounds around the observed norms.
SLACK = 0.2


def _setting(default: Any, flags: str, text: str, **how: Any) -> Any:
    """Declare a field with the flag and help for the training script."""
    metadata = {"flags": flags.split(), "how": {"help": text, **how}, "type": how.get("type")}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class LossSettings:
    """One of the three losses with validated numbers; each field's ``help`` describes it.

    If ``l_margin``, ``u_margin`` or ``lambda_g`` is None, the authors' value for the loss is used.
    """

    name: str = _setting("magface", "--loss", "which loss", choices=tuple(LOSSES))
    l_a: float = _setting(
        10.0, "--l_a", "lower bound of the norm; smaller norms are clamped", type=_NORM
    )
    u_a: float = _setting(
        110.0, "--u_a", "upper bound of the norm; larger norms are clamped", type=_NORM
    )
    l_margin: Optional[float] = _setting(
        None, "--l_margin", "margin at norm l_a, in radians (Mag-CosFace: cosine)", type=_MARGIN
    )
    u_margin: Optional[float] = _setting(None, "--u_margin", "margin at norm u_a", type=_MARGIN)
    lambda_g: Optional[float] = _setting(
        None, "--lambda_g", "weight of the loss that rewards a large norm", type=number(0, 1e6)
    )
    scale: float = _setting(
        64.0, "--arc-scale", "scale of the logits", type=number(0, 1e4, without_low=True)
    )
    easy_margin: int = _setting(
        1,
        "--easy_margin",
        "1: no margin for angles above 90 degrees; 0: a margin that stays monotonic",
        type=whole(0, 1),
    )

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise InputError(f"loss {self.name!r} is not known; expected one of {list(LOSSES)}")
        for field, value in LOSSES[self.name].items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        if isinstance(self.easy_margin, bool):
            object.__setattr__(self, "easy_margin", int(self.easy_margin))
        check_settings(self)
        if not 0 < self.l_a < self.u_a:
            raise InputError(f"l_a {self.l_a:g} and u_a {self.u_a:g} must be 0 < l_a < u_a")
        low, high = self.margins
        if not 0 <= low <= high:
            raise InputError(
                f"l_margin {low:g} and u_margin {high:g} must be 0 <= l_margin <= u_margin"
            )
        if not self.weight >= self.bound:
            raise InputError(
                f"lambda_g {self.weight:g} is below its bound {self.bound:.3f} for l_a "
                f"{self.l_a:g}, u_a {self.u_a:g}, margins {low:g} to {high:g} and scale "
                f"{self.scale:g}, so norms need not converge; raise lambda_g to the bound or "
                "narrow the margins"
            )

    @property
    def margins(self) -> Tuple[float, float]:
        """The margins at l_a and u_a."""
        return float(self.l_margin or 0.0), float(self.u_margin or 0.0)

    @property
    def weight(self) -> float:
        """The value of lambda_g."""
        return float(self.lambda_g or 0.0)

    @property
    def slope(self) -> float:
        """Growth of the margin per unit of norm."""
        return (self.margins[1] - self.margins[0]) / (self.u_a - self.l_a)

    @property
    def bound(self) -> float:
        """Lower bound of lambda_g, so that every face has a single best norm.

        References
        ----------
        .. [1] Meng et al., arXiv:2103.06627, requirement (1) of the convergence proof.
        .. [2] MagFace@99bae61, ``run/trainer.py``, which fixes the scale at 64 and only prints it.
        """
        low, high = self.l_a**2, self.u_a**2
        return self.scale * self.slope * high * low / (high - low)


@dataclass(frozen=True)
class TrainSettings:
    """Settings that determine a training; each field's ``help`` describes it."""

    loss: LossSettings = LossSettings()
    arch: str = _setting("iresnet18", "--arch", "network", choices=ARCHS)
    epochs: int = _setting(25, "--epochs", "passes over all faces", type=whole(1, 100_000))
    batch_size: int = _setting(
        512, "--batch-size -b", "faces per batch, over all processes", type=whole(2, 65536)
    )
    lr: float = _setting(
        0.1, "--learning-rate --lr", "initial learning rate", type=number(0, 10, without_low=True)
    )
    lr_drop_epoch: Tuple[int, ...] = _setting(
        (10, 18, 22),
        "--lr-drop-epoch",
        "epochs, from 0, at which the rate drops",
        type=EPOCH,
        nargs="*",
    )
    lr_drop_ratio: float = _setting(
        0.1,
        "--lr-drop-ratio",
        "factor of each drop of the rate",
        type=number(0, 1, without_low=True),
    )
    momentum: float = _setting(
        0.9, "--momentum", "momentum of the gradient descent", type=number(0, 1, without_high=True)
    )
    weight_decay: float = _setting(
        5e-4, "--weight-decay --wd", "weight decay of all weights", type=number(0, 1)
    )
    precision: str = _setting(
        "fp32",
        "--precision",
        "arithmetic of the network; bf16 is fast on CPUs with AMX, fp16 needs a GPU",
        choices=PRECISIONS,
    )
    head: str = _setting(
        "replicated",
        "--head",
        "sharded: every process holds a slice of the classes instead of all",
        choices=HEADS,
    )
    seed: int = _setting(
        0, "--seed", "random seed of initial weights, order, flips and dropout", type=SEED
    )

    def __post_init__(self) -> None:
        check_settings(self)
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


@dataclass(frozen=True)
class RunSettings:
    """Settings that do not change the result; each field's ``help`` describes it."""

    print_freq: int = _setting(100, "--print-freq -p", "batches per line of progress", type=COUNT)
    save_every: int = _setting(
        0,
        "--save-every",
        "batches per checkpoint; 0: every 10 minutes; in any case every epoch",
        type=whole(0, 10**9),
    )
    keep: int = _setting(3, "--keep", "number of checkpoints to keep", type=COUNT)
    pth_save_epoch: int = _setting(1, "--pth-save-epoch", "epochs per file of weights", type=COUNT)
    val_folds: int = _setting(10, "--val_folds", "folds of the verification", type=whole(2, 1000))
    vis_mag: int = _setting(
        1, "--vis_mag", "1: plot norms and cosines after every epoch", type=whole(0, 1)
    )

    def __post_init__(self) -> None:
        check_settings(self)


def propose_bounds(low: float, high: float) -> Tuple[float, float]:
    """Propose l_a and u_a for fine-tuning a network, from the norms of its embeddings.

    Parameters
    ----------
    low, high
        Smallest and largest norm of a sample.

    Returns
    -------
    tuple of float
        Two numbers with two digits and a margin of a fifth on either side, since the authors
        require ``l_a < low`` and ``u_a > high``.

    Examples
    --------
    >>> propose_bounds(0.83, 1.22)
    (0.66, 1.5)
    """
    if not 0 < low <= high:
        raise InputError(f"lengths must be above 0, got {low:g} to {high:g}; check the checkpoint")
    return float(f"{low * (1 - SLACK):.2g}"), float(f"{high * (1 + SLACK):.2g}")


def describe_lengths(lengths: np.ndarray) -> List[str]:
    """Return what is printed of the embeddings' lengths (N,), with the bounds proposed for them."""
    low, high = lengths.min(), lengths.max()
    l_a, u_a = propose_bounds(low, high)
    return [
        f"lengths of {len(lengths)} faces: {low:.4g} to {high:.4g}",
        f"proposed: --l_a {l_a:g} --u_a {u_a:g}",
    ]


def flags_of(kind: type) -> Iterator[Tuple[List[str], Dict[str, Any]]]:
    """Yield the flags of a settings class, with the arguments of ``add_argument`` for each."""
    for field in dataclasses.fields(kind):
        if field.metadata:
            how = {**field.metadata["how"], "dest": field.name, "default": field.default}
            yield field.metadata["flags"], how


def run_settings_of(values: Mapping[str, Any]) -> RunSettings:
    """Create the settings from the values of the flags of :func:`flags_of`."""
    return RunSettings(**{how["dest"]: values[how["dest"]] for _, how in flags_of(RunSettings)})


def settings_of(values: Mapping[str, Any]) -> TrainSettings:
    """Create the settings from the values of the flags of :func:`flags_of`.

    Raises
    ------
    InputError
        If the values are inconsistent.
    """

    def taken(kind: type) -> Dict[str, Any]:
        return {how["dest"]: values[how["dest"]] for _, how in flags_of(kind)}

    entry = taken(TrainSettings)
    entry["lr_drop_epoch"] = tuple(entry["lr_drop_epoch"])
    return TrainSettings(loss=LossSettings(**taken(LossSettings)), **entry)
