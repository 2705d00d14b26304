"""Base class of single-process trainings: saved periodically and resumable after any batch."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import logging
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, WeightsError
from ..files import open_file, write_bytes
from ..graphs.export import find_not_finite
from ..runs import RunFolder

__all__ = [
    "Progress",
    "ResumableTraining",
    "continued",
    "describe_divergence",
    "describe_other",
    "has_bf16",
    "held_signals",
    "keep_freed_memory",
    "refuse_diverged",
    "resolve_precision",
    "tensors_in",
]


SAVE_EVERY = 50  # batches

_log = logging.getLogger(__name__)

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
        """Train on all remaining batches; on Ctrl-C or SIGTERM, save after the batch and end.

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
        with held_signals() as held:
            for _ in progress(left, len(left)):
                self.step()
                if self.batch % SAVE_EVERY == 0 or self.batch == self.batches or held:
                    self.save(state)
                if held:
                    _log.warning("saved after batch %d of %d: %s", self.batch, self.batches, state)
                    break
                if self.batch >= self.batches:  # a step may end the training before its time
                    break

    def finish(self, run: RunFolder, state: Path, head: dict[str, Any] | None = None) -> None:
        """Write ``training.json``, an entry per epoch, and finish the run.

        Parameters
        ----------
        run
            The folder of the training.
        state
            Where it was saved; it stays, so that more epochs can follow.
        head
            What else the file says.
        """
        run.completed(())
        for number, epoch in enumerate(self.epochs):
            run.record(f"epoch {number}", epoch)
        run.write_items("training.json", "facezoo.training/1", "epochs", head)
        run.finish(*(name for name in run.written() if name != state.name))

    def _identity(self) -> dict[str, Any]:
        """Return the values that a saved training must match to be resumed."""
        return {"settings": dataclasses.asdict(self.settings)}

    def _more(self) -> dict[str, Any]:
        """Return what else is saved, for ``_restore``."""
        return {}

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
                **self._more(),
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
            if continued(wanted, found, "learning_rate" if other_rate else None) == wanted:
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
            f"{str(path)!r} belongs to another training ({describe_other(wanted, found)}); delete "
            "it to start again, or --resume to go on with another learning rate"
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["state_dict"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if self._on_cuda():
            torch.cuda.set_rng_state(state["random_cuda"])
        self.batch = state["batch"]
        self.epochs = [self._epoch_type(**epoch) for epoch in state["epochs"]]


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has native bfloat16 arithmetic; without it bf16 is only slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Releases of torch without this query use float32.
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and asked is not None and bool(asked())


def resolve_precision(wanted: str, device: torch.device) -> str:
    """Return ``bf16`` or ``fp32``; ``auto`` is bf16 where the device has it."""
    return ("fp32", "bf16")[has_bf16(device)] if wanted == "auto" else wanted


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


@contextmanager
def held_signals() -> Iterator[list[int]]:
    """Hold Ctrl-C and SIGTERM back until the block is left, then deliver the first.

    A second one is not held back.

    Yields
    ------
    list of int
        The signals that came.
    """
    held: list[int] = []
    before: dict[int, Any] = {}

    def hold(number: int, _: Any) -> None:
        held.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            # One that was disabled from outside stays so.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, hold)
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


def continued(
    wanted: dict[str, Any], found: dict[str, Any], rate: str | None = None
) -> dict[str, Any]:
    """Return what identifies a saved training, as if it had the settings that may differ.

    Parameters
    ----------
    wanted, found
        What identifies the training to go on with, and the saved one.
    rate
        Name of the learning rate, if it may differ. Epochs may always become more.
    """
    settings, new = dict(found["settings"]), wanted["settings"]
    if settings["epochs"] < new["epochs"]:
        settings["epochs"] = new["epochs"]
    return {**found, "settings": {**settings, **({rate: new[rate]} if rate else {})}}


def describe_other(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    """Return the values of a saved training that differ, such as "seed was 1, is 2"."""
    pairs = [
        (name, before, now)
        for part, values in wanted.items()
        for name, before, now in (
            [(name, found[part].get(name), value) for name, value in values.items()]
            if isinstance(values, dict)
            else [(part, found[part], values)]
        )
    ]
    return ", ".join(f"{n} was {before!r}, is {now!r}" for n, before, now in pairs if before != now)


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
