"""Base class of single-process trainings: saved periodically and resumable after any batch."""

from __future__ import annotations

import ctypes
import dataclasses
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, WeightsError
from ..files import open_file, write_bytes
from ..graphs.export import find_not_finite
from ..runs import RunFolder
from ..written import remove_own

__all__ = [
    "Progress",
    "ResumableTraining",
    "describe_divergence",
    "keep_freed_memory",
    "refuse_diverged",
    "tensors_in",
    "with_rate_of",
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
        """Train on the next batch; return its loss.

        Raises
        ------
        InputError
            If loss, gradient or weights are not finite; names the batch.
        """

    def _update(self, loss: Tensor) -> None:
        """Change the weights along the gradient of a loss; all three are finite, or an error."""
        self._optimizer.zero_grad()
        loss.backward()
        gradients = [
            (f"the gradient of {name}", parameter.grad)
            for name, parameter in self.network.named_parameters()
            if parameter.grad is not None
        ]
        self._refuse_not_finite([("the loss", loss), *gradients], self.batch)
        self._optimizer.step()
        self._refuse_not_finite(self.network.state_dict().items(), self.batch)

    def _refuse_not_finite(self, tensors: Iterable[tuple[str, Tensor]], done: int) -> None:
        found = find_not_finite(tensors)
        if found is not None:
            raise InputError(
                describe_divergence(found, done, self.batches_per_epoch, "learning_rate")
            )

    def run(self, state: Path, progress: Progress, other_rate: bool = False) -> None:
        """Train on all remaining batches.

        Parameters
        ----------
        state
            File that the run is saved to periodically, and resumed from if it exists.
        progress
            Wraps the batches to show progress; called with them and with their number.
        other_rate
            Whether the saved run may have had another learning rate.

        Raises
        ------
        InputError
            If a loss, gradient or weight is not finite; names the batch. The file stays as it was
            saved last.
        """
        if state.exists():
            self.resume(state, other_rate)
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
        """Write the complete state of the run, all or nothing; InputError if it is not finite."""
        state = tensors_in(self._optimizer.state_dict(), "the optimiser")
        self._refuse_not_finite(state, self.batch - 1)
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

    def resume(self, path: Path, other_rate: bool = False) -> None:
        """Resume from a file written by :meth:`save`.

        Parameters
        ----------
        path
            The file.
        other_rate
            Whether its learning rate may differ from that of the settings, which is used.

        Raises
        ------
        WeightsError
            If the file cannot be read, is not finite, or belongs to another training.
        """
        wanted = self._identity()
        try:
            with open_file(path) as file:
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            found = {name: state[name] for name in wanted}
            if other_rate:
                found = with_rate_of(wanted, found, "learning_rate")
            if found == wanted:
                refuse_diverged(path, state, "delete it to start again")
                self._restore(state)
                return
        except WeightsError:
            raise
        except Exception as error:  # torch raises errors of pickle, zip and others for bad files.
            raise WeightsError(
                f"{str(path)!r} is not a saved training ({type(error).__name__}); delete it to "
                "start again"
            ) from error
        raise WeightsError(
            f"{str(path)!r} belongs to another training: {found}; delete it to start again, or "
            "--resume to go on with another learning rate"
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["state_dict"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if self._on_cuda():
            torch.cuda.set_rng_state(state["random_cuda"])
        self.batch = state["batch"]
        self.epochs = [self._epoch_type(**epoch) for epoch in state["epochs"]]


def describe_divergence(what: str, done: int, per_epoch: int, rate: str) -> str:
    """Return the message of a training with a loss, gradient or weight that is not finite.

    Parameters
    ----------
    what
        Its name.
    done
        Batches before this one.
    per_epoch
        Batches per epoch.
    rate
        Flag of the learning rate, without its dashes.
    """
    epoch, batch = divmod(done, per_epoch)
    return (
        f"step {done + 1} (batch {batch + 1} of {per_epoch} of epoch {epoch + 1}): {what} is not "
        "finite, and nothing of this step was saved; run the same command with --resume and a "
        f"lower --{rate} to go on from the last checkpoint, or from the start if there is none"
    )


def with_rate_of(wanted: dict[str, Any], found: dict[str, Any], rate: str) -> dict[str, Any]:
    """Return what identifies a saved training, as if it had the learning rate of another."""
    return {**found, "settings": {**found["settings"], rate: wanted["settings"][rate]}}


def tensors_in(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dicts and lists with their places."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, (dict, list)):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from tensors_in(value, f"{name}.{key}" if name else str(key))


def refuse_diverged(path: Path, state: dict[str, Any], advice: str) -> None:
    """Raise WeightsError if what a saved training has learnt is not finite."""
    learnt = {name: state.get(name) for name in ("network", "state_dict", "head", "optimizer")}
    broken = find_not_finite(tensors_in(learnt, ""))
    if broken is not None:
        raise WeightsError(
            f"{str(path)!r} was saved after the training had diverged: {broken} is not finite; "
            f"{advice}"
        )


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
