"""Base class of single-process trainings: saved periodically and resumable after any batch."""

from __future__ import annotations

import ctypes
import dataclasses
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import WeightsError
from ..files import open_file, write_bytes
from ..runs import RunFolder
from ..written import remove_own

__all__ = [
    "Progress",
    "ResumableTraining",
    "keep_freed_memory",
]


SAVE_EVERY = 50  # batches

# source: glibc malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

Progress = Callable[[Iterable[int], int], Iterable[int]]


class ResumableTraining(ABC):
    """A training, one batch at a time; a resumed one gives the same result as an uninterrupted one.

    Parameters
    ----------
    settings
        A dataclass of plain values, with ``epochs``.
    network, optimizer
        The network to train, and its optimiser.
    batches_per_epoch
        Number of batches per epoch.
    epoch_type
        Dataclass of the results of an epoch.

    Attributes
    ----------
    network
        In float32, on the device of the training.
    batch
        Number of batches done; the run ends at ``batches``.
    epochs
        One entry per epoch begun.
    """

    epochs: list[Any]

    def __init__(
        self,
        settings: Any,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches_per_epoch: int,
        epoch_type: type[Any],
    ) -> None:
        self.settings = settings
        self.network = network
        self._optimizer = optimizer
        self.batches_per_epoch = batches_per_epoch
        self.batches = settings.epochs * batches_per_epoch
        self.batch = 0
        self._epoch_type = epoch_type
        self.epochs = []

    @abstractmethod
    def step(self) -> float:
        """Train on the next batch; return its loss."""

    def run(self, state: Path, progress: Progress) -> None:
        """Train on all remaining batches.

        Parameters
        ----------
        state
            File that the run is saved to periodically, and resumed from if it exists.
        progress
            Wraps the batches to show progress; called with them and with their number.
        """
        if state.exists():
            self.resume(state)
        left = range(self.batch, self.batches)
        for _ in progress(left, len(left)):
            self.step()
            if self.batch % SAVE_EVERY == 0 or self.batch == self.batches:
                self.save(state)

    def finish(self, run: RunFolder, state: Path, head: dict[str, Any] | None = None) -> None:
        """Write ``training.json``, an entry per epoch, and finish the run.

        Parameters
        ----------
        run
            The folder of the training.
        state
            Where it was saved now and then; removed.
        head
            What else the file says.
        """
        run.completed(())
        for number, epoch in enumerate(self.epochs):
            run.record(f"epoch {number}", epoch)
        run.write_items("training.json", "facezoo.training/1", "epochs", head)
        run.finish(*(name for name in run.written() if name != state.name))
        remove_own(state)

    def _identity(self) -> dict[str, Any]:
        """Return the values that a saved training must match to be resumed."""
        return {"settings": dataclasses.asdict(self.settings)}

    def _on_cuda(self) -> bool:
        return bool(next(self.network.parameters()).is_cuda)

    def save(self, path: Path) -> None:
        """Write the complete state of the run, all or nothing."""
        buffer = io.BytesIO()
        torch.save(
            {
                **self._identity(),
                "state_dict": self.network.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state() if self._on_cuda() else None,
                "batch": self.batch,
                "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
            },
            buffer,
        )
        write_bytes(Path(path), buffer.getvalue())

    def resume(self, path: Path) -> None:
        """Resume from a file written by :meth:`save`.

        Raises
        ------
        WeightsError
            If the file cannot be read, or belongs to another training.
        """
        wanted = self._identity()
        try:
            with open_file(path) as file:
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            found = {name: state[name] for name in wanted}
            if found == wanted:
                self._restore(state)
                return
        except Exception as error:  # torch raises errors of pickle, zip and others for bad files.
            raise WeightsError(
                f"{str(path)!r} is not a saved training ({type(error).__name__}); delete it to "
                "start again"
            ) from error
        raise WeightsError(
            f"{str(path)!r} belongs to another training: {found}; delete it to start again"
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["state_dict"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if self._on_cuda():
            torch.cuda.set_rng_state(state["random_cuda"])
        self.batch = state["batch"]
        self.epochs = [self._epoch_type(**epoch) for epoch in state["epochs"]]


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors.

    A training frees and allocates the same gigabytes in every step. glibc returns large blocks to
    the system, which provides them again page by page, zeroed: a tenth to a third of a step on a
    CPU. With another C library nothing changes.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
