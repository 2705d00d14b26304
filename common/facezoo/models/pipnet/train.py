"""Training of PIPNet with the authors' targets, losses and schedule; resumable."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import InputError
from ...metrics.landmarks import Normalizer, normalized_mean_error
from ..resumable import ResumableTraining, resolve_precision
from .decode import MeanFace, decode_maps
from .graph import NAMES
from .network import build, load_start
from .settings import FitSettings

__all__ = ["EpochLosses", "Fit", "HeldOut", "pip_losses"]

_log = logging.getLogger(__name__)

# source: PIPNet@b9eab58 experiments/WFLW/pip_32_16_60_r18_l2_l1_10_1_nb10.py
MAP_WEIGHT = 10.0
OFFSET_WEIGHT = 1.0
DECAY_AT = (1 / 2, 5 / 6)  # source: same file, epochs 30 and 50 of 60
DECAY = 0.1  # source: PIPNet@b9eab58 lib/train.py MultiStepLR
WEIGHT_DECAY = 5e-4  # source: same file, without pre-trained weights, and none with them


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
    cls, x, y, nb_x, nb_y = outputs
    targets = _Targets.of(points_xy, neighbors, cls.shape[2], cls.shape[3])
    at = targets.at[..., None]
    at_neighbors = at.repeat_interleave(neighbors.shape[1], dim=1)
    return targets.losses(
        cls,
        x.flatten(2).gather(2, at)[..., 0],
        y.flatten(2).gather(2, at)[..., 0],
        nb_x.flatten(2).gather(2, at_neighbors).view(*at.shape[:2], -1),
        nb_y.flatten(2).gather(2, at_neighbors).view(*at.shape[:2], -1),
    )


@dataclass(frozen=True)
class _Targets:
    """The cell (B, N) of each landmark, its offsets (B, N, 2) and its neighbours' (B, N, K, 2)."""

    at: Tensor
    offsets: Tensor
    neighbor_offsets: Tensor

    @classmethod
    def of(cls, points_xy: Tensor, neighbors: Tensor, height: int, width: int) -> _Targets:
        grid = points_xy.new_tensor((width, height))
        cells = (points_xy * grid).floor().clamp(min=0).minimum(grid - 1)
        nearby = (points_xy * grid)[:, neighbors] - cells[:, :, None]
        at = (cells[..., 1] * width + cells[..., 0]).long()
        return cls(at, points_xy * grid - cells, nearby)

    def losses(
        self, cls: Tensor, x: Tensor, y: Tensor, nb_x: Tensor, nb_y: Tensor
    ) -> dict[str, Tensor]:
        """Return the losses of the whole map and of the offsets in each landmark's cell."""
        scores = cls.flatten(2)
        wanted = torch.zeros_like(scores).scatter(2, self.at[..., None], 1.0)
        return {
            "map": functional.mse_loss(scores, wanted),
            "x": functional.l1_loss(x, self.offsets[..., 0]),
            "y": functional.l1_loss(y, self.offsets[..., 1]),
            "nb_x": functional.l1_loss(nb_x, self.neighbor_offsets[..., 0]),
            "nb_y": functional.l1_loss(nb_y, self.neighbor_offsets[..., 1]),
        }


@dataclass
class EpochLosses:
    """Means over the batches of an epoch, of each loss of :func:`pip_losses`.

    Attributes
    ----------
    nme
        Error on the held-out crops after it, 0.05 is 5 %; None without them.
    """

    map: float = 0.0
    x: float = 0.0
    y: float = 0.0
    nb_x: float = 0.0
    nb_y: float = 0.0
    nme: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the means by name, and the error if there is one."""
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class HeldOut:
    """Crops that are not trained on, to measure the error on.

    Attributes
    ----------
    read, points_xy
        As for :class:`Fit`.
    meanface
        Mean face of the training crops, for the decoder.
    normalizer
        What the error is divided by.
    """

    read: Callable[[np.ndarray], np.ndarray]
    points_xy: np.ndarray
    meanface: MeanFace
    normalizer: Normalizer


class _Kept:
    """What the frozen blocks make of each crop, float16 in a temporary file; read back float32."""

    def __init__(self, count: int, folder: Path | None) -> None:
        self.known = np.zeros(count, bool)
        self._folder = folder
        self._values = np.zeros(0, np.float16)

    def put(self, index: int, values: np.ndarray) -> None:
        if not len(self._values):
            shape = (len(self.known), *values.shape)
            with tempfile.TemporaryFile(dir=self._folder) as file:  # mapped, it lives on
                self._values = np.memmap(file, np.float16, "w+", shape=shape)
        self._values[index] = values
        self.known[index] = True

    def get(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self._values[indices], np.float32)


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
    held_out
        Crops to measure the error on after each epoch, for ``patience``.
    start
        Checkpoint to start from: a backbone, or a whole network; random weights if None.
    folder
        For a temporary file of what the frozen blocks make of each crop, so that it passes through
        them once; that of the system if None.

    Attributes
    ----------
    precision
        ``bf16`` or ``fp32``: the resolved precision.

    Raises
    ------
    InputError
        If more blocks are to be frozen than there are, or without weights to start from.
    WeightsError
        If ``start`` does not fit.
    """

    settings: FitSettings
    epochs: list[EpochLosses]

    def __init__(
        self,
        settings: FitSettings,
        read: Callable[[np.ndarray], np.ndarray],
        points_xy: np.ndarray,
        neighbors: np.ndarray,
        *,
        held_out: HeldOut | None = None,
        start: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = resolve_precision(settings.precision, self.device)
        self._read, self._held_out = read, held_out
        self._points = torch.from_numpy(np.asarray(points_xy, np.float32)).to(self.device)
        self._neighbors = torch.from_numpy(neighbors).to(self.device)
        torch.manual_seed(settings.seed)
        network = build(
            settings.backbone,
            num_landmarks=self._points.shape[1],
            num_neighbors=settings.num_neighbors,
            input_size=settings.input_size,
            net_stride=settings.net_stride,
        )
        if start is not None:
            load_start(network, start)
        blocks = network.blocks()
        if settings.frozen >= len(blocks) or (settings.frozen and start is None):
            raise InputError(
                f"frozen: {settings.frozen} of {len(blocks)} blocks; expected fewer, and weights "
                "to start from"
            )
        self._frozen = nn.Sequential(*blocks[: settings.frozen]).requires_grad_(False)
        self._trained = nn.Sequential(*blocks[settings.frozen :])
        network.to(self.device, memory_format=torch.channels_last)
        # As in the authors' code: only full batches; the remaining faces are skipped in this epoch.
        self._per_epoch = min(settings.epoch_crops or len(self._points), len(self._points))
        batches_per_epoch = max(1, self._per_epoch // settings.batch_size)
        optimizer = torch.optim.Adam(
            [weights for weights in network.parameters() if weights.requires_grad],
            lr=settings.learning_rate,
            weight_decay=WEIGHT_DECAY if start is None else 0.0,
        )
        super().__init__(settings, network, optimizer, batches_per_epoch, EpochLosses)
        self._kept = _Kept(len(self._points), folder)
        self._best: dict[str, Tensor] | None = None
        self._begun = time.monotonic()

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "precision": self.precision}

    def step(self) -> float:
        """Train on the next batch; return its loss."""
        epoch, position = divmod(self.batch, self.batches_per_epoch)
        done = epoch / self.settings.epochs
        for group in self._optimizer.param_groups:
            decays = sum(done >= share for share in DECAY_AT)
            group["lr"] = self.settings.learning_rate * DECAY**decays
        # The order depends only on seed and epoch, so a resumed run needs no state.
        order = np.random.default_rng((self.settings.seed, epoch)).permutation(len(self._points))
        chosen = order[: self._per_epoch][position * self.settings.batch_size :]
        chosen = chosen[: self.settings.batch_size]
        self.network.train()
        self._frozen.eval()
        inputs = self._inputs(chosen)
        with self._autocast():
            features = self._trained(inputs)
        points = self._points[torch.from_numpy(chosen).to(self.device)]
        targets = _Targets.of(points, self._neighbors, features.shape[2], features.shape[3])
        parts = targets.losses(*self.network.heads_at(features.float(), targets.at))
        weights = {name: MAP_WEIGHT if name == "map" else OFFSET_WEIGHT for name in parts}
        loss = sum(weights[name] * part for name, part in parts.items())
        self._update(loss)
        if position == 0:
            self.epochs.append(EpochLosses())
        for name, part in parts.items():
            mean = getattr(self.epochs[-1], name) + part.item() / self.batches_per_epoch
            setattr(self.epochs[-1], name, mean)
        self.batch += 1
        if self.batch % self.batches_per_epoch == 0:
            if self._held_out is not None:
                self._measure(self._held_out)
            minutes = (time.monotonic() - self._begun) / 60
            said = ", ".join(
                f"{name} {value:.4g}" for name, value in self.epochs[-1].to_dict().items()
            )
            # Of this start. Nothing that is kept depends on how fast it was.
            _log.info("epoch %d after %.1f minutes: %s", len(self.epochs), minutes, said)
        return float(loss.item())

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self.precision == "bf16"
        autocast: AbstractContextManager[Any] = torch.autocast(
            self.device.type, torch.bfloat16, enabled=enabled
        )
        return autocast

    def _inputs(self, chosen: np.ndarray) -> Tensor:
        """Return what the trained blocks get: the crops, or what the frozen blocks make of them."""
        if not self.settings.frozen:
            return self._on_device(self._read(chosen))
        for index in chosen[~self._kept.known[chosen]]:
            # One by one: in batches of another composition the last bits may differ.
            with torch.no_grad():
                crop = self._on_device(self._read(np.array([index])))
                self._kept.put(index, self._frozen(crop)[0].cpu().numpy())
        return self._on_device(self._kept.get(chosen))

    def _on_device(self, images: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(images)
        return tensor.to(self.device, memory_format=torch.channels_last)

    def _measure(self, crops: HeldOut) -> None:
        """Measure the error on held-out crops, keep the best network, and end without progress."""
        found = self.landmarks(crops)
        error = normalized_mean_error(found, crops.points_xy, crops.normalizer).mean()
        self.epochs[-1].nme = float(error)
        if self._epochs_since_best() == 0:
            state = self.network.state_dict()
            self._best = {name: value.detach().cpu().clone() for name, value in state.items()}
        self._end_without_progress()

    def _epochs_since_best(self) -> int:
        errors = [np.inf if one.nme is None else one.nme for one in self.epochs]
        return len(errors) - 1 - int(np.argmin(errors))

    def _end_without_progress(self) -> None:
        if 0 < self.settings.patience <= self._epochs_since_best():
            self.batches = self.batch

    def _more(self) -> dict[str, Any]:
        return {"best": self._best}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._best = state.get("best")
        if self.batch % self.batches_per_epoch == 0 and self.epochs:
            self._end_without_progress()

    def take_best(self) -> None:
        """Give the network the weights of the epoch with the lowest held-out error, if known."""
        if self._best is not None:
            self.network.load_state_dict(self._best)

    def landmarks(self, crops: HeldOut) -> np.ndarray:
        """Find the landmarks of crops with the current network.

        Returns
        -------
        numpy.ndarray
            Shape (M, N, 2), float32, in [0, 1] of each crop.
        """
        self.network.eval()
        found, size = [], self.settings.batch_size
        for first in range(0, len(crops.points_xy), size):
            chosen = np.arange(first, min(first + size, len(crops.points_xy)))
            with torch.no_grad(), self._autocast():
                outputs = self.network(self._on_device(crops.read(chosen)))
            maps = (output.float().cpu().numpy() for output in outputs)
            found.append(decode_maps(dict(zip(NAMES, maps)), crops.meanface).points_xy)
        return np.concatenate(found)
