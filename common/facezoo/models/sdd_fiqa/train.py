"""Training of SDD-FIQA: regression on pseudo-labels with the authors' optimiser; resumable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import InputError
from ...metrics.quality import spearman
from ..resumable import ResumableTraining, resolve_precision
from .network import build, load_trunk
from .settings import TrainSettings

__all__ = ["Epoch", "LabelledFaces", "Training"]

# source: TFace@171ec14 quality/train_config.py, epochs 5 and 10 of 20
DECAY_AT = (1 / 4, 1 / 2)
WEIGHT_DECAY = 5e-4  # source: same file
DECAY = 0.1  # source: TFace@171ec14 quality/train.py, scheduler_gamma
BETAS = (0.9, 0.99)  # source: same file, Adam
EPSILON = 1e-6  # source: same file, Adam
LOSSES = {"smooth_l1": nn.SmoothL1Loss, "l1": nn.L1Loss, "l2": nn.MSELoss}


@dataclass(frozen=True)
class LabelledFaces:
    """Aligned faces with quality labels.

    Attributes
    ----------
    read
        Maps indices of faces to the network's input (B, 3, 112, 112), float32.
    labels
        Shape (M,), float: target scores.
    """

    read: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or not len(self.labels) or not np.isfinite(self.labels).all():
            raise InputError("labels must be finite numbers (M,), one per face")


@dataclass
class Epoch:
    """Results of an epoch.

    Attributes
    ----------
    loss
        Mean over its batches, in units of the labels.
    learning_rate
        Learning rate of the epoch.
    spearman
        Rank correlation of scores and labels on the validation faces after it; None without
        validation faces, or if all scores are equal.
    """

    loss: float = 0.0
    learning_rate: float = 0.0
    spearman: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the numbers by name."""
        return dataclasses.asdict(self)


def _start_near(network: nn.Module, score: float) -> None:
    """Initialise the head to the mean of the labels, which small steps would reach slowly."""
    last = network.quality[-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, score)


class Training(ResumableTraining):
    """Training of SDD-FIQA; a resumed run gives the same result as an uninterrupted one.

    Parameters
    ----------
    settings
        Settings of the training.
    faces
        Training faces.
    validation
        Faces of other people, not trained on.
    trunk
        Checkpoint of a recogniser to start from; random weights if None.

    Attributes
    ----------
    precision
        ``bf16`` or ``fp32``: the resolved precision.

    References
    ----------
    .. [1] TFace@171ec14, ``quality/train.py``.
    """

    settings: TrainSettings
    epochs: list[Epoch]

    def __init__(
        self,
        settings: TrainSettings,
        faces: LabelledFaces,
        validation: LabelledFaces | None = None,
        trunk: Path | None = None,
    ) -> None:
        self.faces = faces
        self.validation = validation
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = resolve_precision(settings.precision, self.device)
        torch.manual_seed(settings.seed)
        network = build(settings.variant)
        if trunk is not None:
            load_trunk(network, trunk)
        _start_near(network, float(faces.labels.mean()))
        network.to(self.device, memory_format=torch.channels_last)
        self._loss = LOSSES[settings.loss]()
        optimizer = torch.optim.Adam(
            network.parameters(),
            lr=settings.learning_rate,
            betas=BETAS,
            eps=EPSILON,
            weight_decay=WEIGHT_DECAY,
        )
        batches_per_epoch = -(-len(faces.labels) // settings.batch_size)
        super().__init__(settings, network, optimizer, batches_per_epoch, Epoch)

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "precision": self.precision}

    def step(self) -> float:
        """Train on the next batch; return its loss."""
        epoch, position = divmod(self.batch, self.batches_per_epoch)
        done = epoch / self.settings.epochs
        rate = self.settings.learning_rate * DECAY ** sum(done >= share for share in DECAY_AT)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        # Order and mirroring depend only on seed and epoch, so a resumed run needs no state.
        rng = np.random.default_rng((self.settings.seed, epoch))
        order = rng.permutation(len(self.faces.labels))
        mirrored = rng.random(len(order)) < 0.5
        chosen = order[position * self.settings.batch_size :][: self.settings.batch_size]
        images = self.faces.read(chosen)
        images[mirrored[chosen]] = images[mirrored[chosen]][..., ::-1]
        self.network.train()
        scores = self._score(images)
        labels = torch.from_numpy(self.faces.labels[chosen].astype(np.float32)).to(self.device)
        loss = self._loss(scores, labels)
        self._update(loss)
        if position == 0:
            self.epochs.append(Epoch(learning_rate=rate))
        self.epochs[-1].loss += float(loss.item()) * len(chosen) / len(order)
        self.batch += 1
        if self.batch % self.batches_per_epoch == 0 and self.validation is not None:
            found = spearman(self.scores(self.validation), self.validation.labels)
            self.epochs[-1].spearman = found if np.isfinite(found) else None
        return float(loss.item())

    def _score(self, images: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(images).to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network(tensor)[:, 0].float()

    def scores(self, faces: LabelledFaces) -> np.ndarray:
        """Score faces with the current network.

        Returns
        -------
        numpy.ndarray
            Shape (M,), float32.
        """
        self.network.eval()
        indices, size = np.arange(len(faces.labels)), self.settings.batch_size
        with torch.no_grad():
            return np.concatenate(
                [
                    self._score(faces.read(indices[first : first + size])).cpu().numpy()
                    for first in range(0, len(indices), size)
                ]
            )
