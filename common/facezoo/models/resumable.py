"""What every training of one process shares: batch by batch, saved now and then, resumable."""

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
from ..files import write_bytes
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
    """A training, one batch at a time; saved and resumed it gives what it gives in one go.

    Parameters
    ----------
    settings
        How: a dataclass of plain values, with ``epochs``.
    network, optimizer
        What learns, and by which rule.
    batches_per_epoch
        How many.
    epoch_type
        Dataclass of what an epoch comes to.

    Attributes
    ----------
    network
        In float32, on the device it learns on.
    batch
        How many batches are done; the run is over at ``batches``.
    epochs
        One entry an epoch begun.
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
        """Learn from the next batch; return its loss."""

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
        run.finish()
        remove_own(state)

    def _identity(self) -> dict[str, Any]:
        """Return what a saved training must agree in to be gone on with."""
        return {"settings": dataclasses.asdict(self.settings)}

    def _on_cuda(self) -> bool:
        return bool(next(self.network.parameters()).is_cuda)

    def save(self, path: Path) -> None:
        """Write everything the rest of the run needs, all or nothing."""
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
        """Go on where :meth:`save` was called.

        Raises
        ------
        WeightsError
            If the file cannot be read, or is another training's.
        """
        wanted = self._identity()
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            found = {name: state[name] for name in wanted}
            if found == wanted:
                self._restore(state)
                return
        except Exception as error:  # torch raises pickle's, zip's and plain errors for bad files.
            raise WeightsError(
                f"{str(path)!r} is no saved training ({type(error).__name__}); delete it to start "
                "anew"
            ) from error
        raise WeightsError(f"{str(path)!r} is another training's: {found}; delete it to start anew")

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["state_dict"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if self._on_cuda():
            torch.cuda.set_rng_state(state["random_cuda"])
        self.batch = state["batch"]
        self.epochs = [self._epoch_type(**epoch) for epoch in state["epochs"]]


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, for its next tensors.

    A training frees and asks for the same gigabytes in every step. glibc gives large pieces back to
    the system, which hands them out again page by page, and cleared: a tenth to a third of a step
    on a CPU. With another C library nothing changes.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
