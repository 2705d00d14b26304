"""SDD-FIQA's training: regression on pseudo-labels, the authors' optimiser, stoppable anywhere."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import InputError, WeightsError
from ...image.files import write_bytes
from ...metrics.quality import spearman
from .network import build, load_trunk
from .settings import TrainSettings

__all__ = ["Epoch", "LabelledFaces", "Training", "has_bf16"]

# source: TFace@171ec14 quality/train_config.py, epochs 5 and 10 of 20
DECAY_AT = (1 / 4, 1 / 2)
WEIGHT_DECAY = 5e-4  # source: same file
DECAY = 0.1  # source: TFace@171ec14 quality/train.py, scheduler_gamma
BETAS = (0.9, 0.99)  # source: same file, Adam
EPSILON = 1e-6  # source: same file, Adam
LOSSES = {"smooth_l1": nn.SmoothL1Loss, "l1": nn.L1Loss, "l2": nn.MSELoss}
SAVE_EVERY = 50  # batches

Progress = Callable[[Iterable[int], int], Iterable[int]]


@dataclass(frozen=True)
class LabelledFaces:
    """Aligned faces with a quality label each.

    Attributes
    ----------
    read
        Takes the indices of some faces, returns the network's input (B, 3, 112, 112), float32.
    labels
        Shape (M,), float: what the network shall say.
    """

    read: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or not len(self.labels) or not np.isfinite(self.labels).all():
            raise InputError("labels must be finite numbers (M,), one a face")


@dataclass
class Epoch:
    """What an epoch came to.

    Attributes
    ----------
    loss
        Mean over its batches, in the labels' units.
    learning_rate
        Of the epoch.
    spearman
        Rank correlation of scores and labels on the validation faces after it; None without them,
        or if all scores are the same.
    """

    loss: float = 0.0
    learning_rate: float = 0.0
    spearman: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the numbers by name."""
        return dataclasses.asdict(self)


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 itself; elsewhere it would only be slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Releases of torch that do not know how to ask compute in float32.
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and asked is not None and bool(asked())


class Training:
    """A training, one batch at a time; saved and resumed it gives what it gives in one go.

    Parameters
    ----------
    settings
        How.
    faces
        To learn from.
    validation
        Faces of other people; only ever looked at.
    trunk
        Checkpoint of a recogniser to start from; fresh weights if None.

    Attributes
    ----------
    network
        In float32.
    batch
        How many batches are done; the run is over at ``batches``.
    epochs
        One entry an epoch begun.
    precision
        ``bf16`` or ``fp32``: what ``auto`` came to.

    References
    ----------
    .. [1] TFace@171ec14, ``quality/train.py``.
    """

    def __init__(
        self,
        settings: TrainSettings,
        faces: LabelledFaces,
        validation: LabelledFaces | None = None,
        trunk: Path | None = None,
    ) -> None:
        self.settings = settings
        self.faces = faces
        self.validation = validation
        self._on_cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self._on_cuda else "cpu")
        wanted = settings.precision
        self.precision = ("fp32", "bf16")[has_bf16(self.device)] if wanted == "auto" else wanted
        torch.manual_seed(settings.seed)
        self.network = build(settings.variant)
        if trunk is not None:
            load_trunk(self.network, trunk)
        self._start_near_the_labels()
        self.network.to(self.device, memory_format=torch.channels_last)
        self.batches_per_epoch = -(-len(faces.labels) // settings.batch_size)
        self.batches = settings.epochs * self.batches_per_epoch
        self.batch = 0
        self.epochs: list[Epoch] = []
        self._loss = LOSSES[settings.loss]()
        self._optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=settings.learning_rate,
            betas=BETAS,
            eps=EPSILON,
            weight_decay=WEIGHT_DECAY,
        )

    def _start_near_the_labels(self) -> None:
        """Let the fresh head say the labels' mean, which small steps would take long to reach."""
        last = self.network.quality[-1]
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, float(self.faces.labels.mean()))

    def step(self) -> float:
        """Learn from the next batch; return its loss."""
        epoch, position = divmod(self.batch, self.batches_per_epoch)
        done = epoch / self.settings.epochs
        rate = self.settings.learning_rate * DECAY ** sum(done >= share for share in DECAY_AT)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        # Order and mirroring follow from seed and epoch alone, so a resumed run needs no state.
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
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
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
        """Score faces with the network as it is.

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

    def run(self, state: Path, progress: Progress) -> None:
        """Learn from all batches that are left.

        Parameters
        ----------
        state
            Where the run is saved now and then, and from where it goes on if the file is there.
        progress
            Wraps the batches to show how far it is; called with them and with their number.
        """
        if state.exists():
            self.resume(state)
        left = range(self.batch, self.batches)
        for _ in progress(left, len(left)):
            self.step()
            if self.batch % SAVE_EVERY == 0 or self.batch == self.batches:
                self.save(state)

    def save(self, path: Path) -> None:
        """Write everything the rest of the run needs, all or nothing."""
        buffer = io.BytesIO()
        torch.save(
            {
                "settings": dataclasses.asdict(self.settings),
                "precision": self.precision,
                "state_dict": self.network.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state() if self._on_cuda else None,
                "batch": self.batch,
                "epochs": [epoch.to_dict() for epoch in self.epochs],
            },
            buffer,
        )
        write_bytes(Path(path), buffer.getvalue())

    def resume(self, path: Path) -> None:
        """Go on where :meth:`save` was called.

        Raises
        ------
        WeightsError
            If the file cannot be read, or is another training's.
        """
        wanted = (dataclasses.asdict(self.settings), self.precision)
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            found = (state["settings"], state["precision"])
            if found == wanted:
                self.network.load_state_dict(state["state_dict"])
                self._optimizer.load_state_dict(state["optimizer"])
                torch.set_rng_state(state["random"])
                if self._on_cuda:
                    torch.cuda.set_rng_state(state["random_cuda"])
                self.batch = state["batch"]
                self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
                return
        except Exception as error:  # torch raises pickle's, zip's and plain errors for bad files.
            raise WeightsError(
                f"{str(path)!r} is no saved training ({type(error).__name__}); delete it to start "
                "anew"
            ) from error
        raise WeightsError(f"{str(path)!r} is another training's: {found}; delete it to start anew")
