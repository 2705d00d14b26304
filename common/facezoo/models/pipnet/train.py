"""Training of PIPNet with the authors' targets, losses and schedule; resumable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..resumable import ResumableTraining
from .network import build
from .settings import FitSettings

__all__ = ["EpochLosses", "Fit", "pip_losses"]

# source: PIPNet@b9eab58 experiments/WFLW/pip_32_16_60_r18_l2_l1_10_1_nb10.py
MAP_WEIGHT = 10.0
OFFSET_WEIGHT = 1.0
DECAY_AT = (1 / 2, 5 / 6)  # source: same file, epochs 30 and 50 of 60
DECAY = 0.1  # source: PIPNet@b9eab58 lib/train.py MultiStepLR
WEIGHT_DECAY = 5e-4  # source: same file, without pre-trained weights are used


def pip_losses(
    outputs: Sequence[Tensor], points_xy: Tensor, neighbors: Tensor
) -> dict[str, Tensor]:
    """Compute the authors' losses of the five maps.

    Parameters
    ----------
    outputs
        ``cls``, ``x``, ``y`` (B, N, h, w) and ``nb_x``, ``nb_y`` (B, N K, h, w).
    points_xy
        Shape (B, N, 2), in [0, 1] of the crop; points outside belong to the nearest cell.
    neighbors
        Shape (N, K), int64, of :class:`~facezoo.models.pipnet.decode.MeanFace`.

    Returns
    -------
    dict of str to torch.Tensor
        ``map``: mean squared difference from 1 in the landmark's cell and 0 elsewhere. ``x``,
        ``y``, ``nb_x``, ``nb_y``: mean absolute difference of the offsets in that cell.

    References
    ----------
    .. [1] PIPNet@b9eab58, ``lib/data_utils.py``, ``gen_target_pip``, and ``lib/functions.py``,
       ``compute_loss_pip``.
    """
    cls, x, y, nb_x, nb_y = (output.flatten(2) for output in outputs)
    height, width = outputs[0].shape[2:]
    grid = points_xy.new_tensor((width, height))
    cells = (points_xy * grid).floor().clamp(min=0).minimum(grid - 1)
    offsets = points_xy * grid - cells
    neighbor_offsets = (points_xy * grid)[:, neighbors] - cells[:, :, None]
    at = (cells[..., 1] * width + cells[..., 0]).long()[..., None]
    at_neighbors = at.repeat_interleave(neighbors.shape[1], dim=1)
    nearby = neighbor_offsets.flatten(1, 2)
    return {
        "map": functional.mse_loss(cls, torch.zeros_like(cls).scatter(2, at, 1.0)),
        "x": functional.l1_loss(x.gather(2, at)[..., 0], offsets[..., 0]),
        "y": functional.l1_loss(y.gather(2, at)[..., 0], offsets[..., 1]),
        "nb_x": functional.l1_loss(nb_x.gather(2, at_neighbors)[..., 0], nearby[..., 0]),
        "nb_y": functional.l1_loss(nb_y.gather(2, at_neighbors)[..., 0], nearby[..., 1]),
    }


@dataclass
class EpochLosses:
    """Means over the batches of an epoch, of each loss of :func:`pip_losses`."""

    map: float = 0.0
    x: float = 0.0
    y: float = 0.0
    nb_x: float = 0.0
    nb_y: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return the means by name."""
        return dataclasses.asdict(self)


class Fit(ResumableTraining):
    """Training of PIPNet; a resumed run gives the same result as an uninterrupted one.

    Parameters
    ----------
    settings
        Settings of the training.
    read
        Maps indices of faces to the network's input (B, 3, S, S), float32.
    points_xy
        Shape (M, N, 2): landmarks of all faces, in [0, 1] of the crop.
    neighbors
        Shape (N, K), from the mean face.
    """

    settings: FitSettings
    epochs: list[EpochLosses]

    def __init__(
        self,
        settings: FitSettings,
        read: Callable[[np.ndarray], np.ndarray],
        points_xy: np.ndarray,
        neighbors: np.ndarray,
    ) -> None:
        self._read = read
        self._points = torch.from_numpy(np.asarray(points_xy, np.float32))
        self._neighbors = torch.from_numpy(neighbors)
        torch.manual_seed(settings.seed)
        network = build(
            settings.backbone,
            num_landmarks=self._points.shape[1],
            num_neighbors=settings.num_neighbors,
            input_size=settings.input_size,
            net_stride=settings.net_stride,
        )
        # As in the authors' code: only full batches; the remaining faces are skipped in this epoch.
        batches_per_epoch = max(1, len(self._points) // settings.batch_size)
        optimizer = torch.optim.Adam(
            network.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY
        )
        super().__init__(settings, network, optimizer, batches_per_epoch, EpochLosses)

    def step(self) -> float:
        """Train on the next batch; return its loss."""
        epoch, position = divmod(self.batch, self.batches_per_epoch)
        done = epoch / self.settings.epochs
        for group in self._optimizer.param_groups:
            decays = sum(done >= share for share in DECAY_AT)
            group["lr"] = self.settings.learning_rate * DECAY**decays
        # The order depends only on seed and epoch, so a resumed run needs no state.
        order = np.random.default_rng((self.settings.seed, epoch)).permutation(len(self._points))
        chosen = order[position * self.settings.batch_size :][: self.settings.batch_size]
        self.network.train()
        outputs = self.network(torch.from_numpy(self._read(chosen)))
        parts = pip_losses(outputs, self._points[chosen], self._neighbors)
        weights = {name: MAP_WEIGHT if name == "map" else OFFSET_WEIGHT for name in parts}
        loss = sum(weights[name] * part for name, part in parts.items())
        self._update(loss)
        if position == 0:
            self.epochs.append(EpochLosses())
        for name, part in parts.items():
            mean = getattr(self.epochs[-1], name) + part.item() / self.batches_per_epoch
            setattr(self.epochs[-1], name, mean)
        self.batch += 1
        return float(loss.item())
