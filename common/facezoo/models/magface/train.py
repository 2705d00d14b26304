"""Training of MagFace on one or several processes, resumable after any batch."""

from __future__ import annotations

import io
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ...errors import BackendUnavailable, InputError, WeightsError
from ...files import open_file, write_bytes
from ...graphs.export import find_not_finite
from ...machine import usable_cores
from ...metrics.verification import FoldAccuracy, k_fold_accuracy
from ...written import remove_own
from ..resumable import (
    continued,
    describe_divergence,
    describe_other,
    refuse_diverged,
    tensors_in,
)
from .distributed import Processes, synchronise_batch_norms
from .faces import Batches, Faces, TrainingFaces, ValidationPairs, read_face
from .loss import HeadOutput, MagHead
from .network import EMBEDDING_SIZE, build, load_official
from .settings import RunSettings, TrainSettings

__all__ = [
    "Meter",
    "Trainer",
    "builder",
    "embed",
    "lengths_of",
    "saved",
    "seeded",
    "verify",
]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
SAVE_SECONDS = 600.0
EVAL_BATCH = 64
PLOTTED = 4096  # the last faces of an epoch, shown in its plot

_log = logging.getLogger(__name__)

# Types of what a checkpoint holds besides the settings.
_STATE = {
    "network": dict,
    "head": Tensor,
    "optimizer": dict,
    "scaler": dict,
    "step": int,
    "recent": list,
    "epoch": list,
    "seen": Tensor,
    "history": list,
    "epochs": list,
    "best": (int, float),
}

Say = Callable[[str], object]
Plot = Callable[[np.ndarray, np.ndarray, Path], None]


class SampleDropout(nn.Module):  # type: ignore[misc]
    """A dropout of whole maps with given chances, one per face and map, instead of random ones."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.chances = torch.ones(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = (self.chances[:, : x.shape[1]] >= self.p).to(x.dtype) / (1.0 - self.p)
        return x * keep.view(*keep.shape, *[1] * (x.dim() - 2))


class Meter:
    """Means and extremes over batches, kept on the device until read.

    Attributes
    ----------
    sums
        Sums over batches of loss, identity, magnitude, share of correct faces, norm and margin,
        and their number; float64.
    """

    NAMES = ("loss", "identity", "magnitude", "accuracy", "length", "margin")

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(self.NAMES) + 1, dtype=torch.float64, device=device)
        # Largest and smallest norm, the latter negated, so that one maximum serves both.
        self.extremes = torch.full((2,), -torch.inf, dtype=torch.float64, device=device)

    def add(self, output: HeadOutput) -> None:
        """Add one batch."""
        shares = (output.is_right.float(), output.lengths, output.margins)
        means = (output.loss, output.identity, output.magnitude, *(x.mean() for x in shares))
        self.sums += torch.stack([*(x.detach().double() for x in means), self.sums.new_ones(())])
        ends = torch.stack([output.lengths.max(), -output.lengths.min()])
        self.extremes = self.extremes.maximum(ends.double())

    def reduced(self, processes: Processes) -> list[Tensor]:
        """Return sums and extremes over all processes, each sum divided by their number."""
        sums = processes.total(self.sums.clone()) / processes.world
        return [sums, processes.highest(self.extremes.clone())]

    def row(self, processes: Processes) -> dict[str, float]:
        """Return the means by name, and the smallest and largest norm."""
        (*sums, count), (high, low) = (values.tolist() for values in self.reduced(processes))
        means = {name: value / count for name, value in zip(self.NAMES, sums)}
        return {**means, "shortest": -low, "longest": high}

    def restore(self, state: Sequence[Tensor]) -> None:
        """Continue from the result of :meth:`reduced`."""
        self.sums, self.extremes = (values.to(self.sums.device) for values in state)


class Trainer:
    """A training; a resumed run equals an uninterrupted one, bit for bit on a CPU.

    Nothing random is drawn while it runs (see :mod:`.faces`), so no generator state needs to be
    saved, and any number of processes computes the same result.

    Parameters
    ----------
    settings
        Settings of the training.
    faces
        Training faces.
    classes
        Number of people.
    build
        Creates the network, (N, 3, H, W) to (N, embedding_size); called with torch's seed set.
    processes
        The process group.
    workers
        Reader processes per training process; never more than the usable cores.
    compiled
        Whether to use ``torch.compile``; needs a C++ compiler on a CPU.
    embedding_size
        Size of the network's output.

    Attributes
    ----------
    network
        The network, with its own parameter names.
    step
        Number of batches done; the run ends at ``steps``.
    history
        One row per ``print_freq`` batches.
    epochs
        One row per finished epoch.
    best
        Highest verification accuracy so far.
    stopped_by
        The signal that ended :meth:`run` early; 0 without one.
    """

    def __init__(
        self,
        settings: TrainSettings,
        faces: Faces,
        classes: int,
        build: Callable[[], nn.Module],
        processes: Processes | None = None,
        workers: int = 0,
        compiled: bool = False,
        embedding_size: int = EMBEDDING_SIZE,
    ) -> None:
        self.settings = settings
        self.processes = processes = processes or Processes()
        device = processes.device
        self.network = seeded(build, settings.seed)
        self._dtype = next(self.network.parameters()).dtype
        split = processes if settings.head == "sharded" else None
        self.head = MagHead(embedding_size, classes, settings.loss, split).to(device, self._dtype)
        self._dropouts = _tell_dropouts(self.network)
        synchronise_batch_norms(self.network, processes)
        self.network.to(device, memory_format=torch.channels_last)
        trunk = torch.compile(self.network) if compiled else self.network
        self._trunk = self._parallel(trunk)
        self._loss = self.head if split else self._parallel(self.head)
        self._optimizer = torch.optim.SGD(
            [self.head.weight, *self.network.parameters()],
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            # One pass over the weights instead of four; on a CPU this would not skip overflows.
            fused=settings.precision != "fp16",
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.batches = Batches(
            len(faces),
            settings.batch_size,
            settings.epochs,
            settings.seed,
            processes.rank,
            processes.world,
        )
        self._faces, self._workers = faces, min(workers, usable_cores())
        self.step, self.steps = 0, self.batches.total
        self.history: list[dict[str, float]] = []
        self.epochs: list[dict[str, float]] = []
        self.best = 0.0
        self._recent, self._epoch = Meter(device), Meter(device)
        self._seen = torch.zeros(2, 0, device=device)
        # Checkpoints of this process; those of earlier ones are in the run folder's list.
        self._written: dict[Path, os.stat_result] = {}
        self.stopped_by = 0

    def _parallel(self, module: nn.Module) -> nn.Module:
        if self.processes.world == 1:
            return module
        # Buffers are already equal on all processes, since the batch norms are synchronised.
        return DistributedDataParallel(module, broadcast_buffers=False)

    def learn(self, faces: Tensor, labels: Tensor, chances: Tensor) -> HeadOutput:
        """Train on this process's part of the next batch.

        Parameters
        ----------
        faces
            Shape (B, 3, H, W), uint8, BGR.
        labels
            Shape (B,), int64.
        chances
            Shape (B, K), float32: random numbers for dropout.
        """
        device, settings = self.processes.device, self.settings
        inputs = faces.to(device, non_blocking=True).to(self._dtype) / 255.0
        for dropout in self._dropouts:
            dropout.chances = chances.to(device, non_blocking=True)
        for group in self._optimizer.param_groups:
            group["lr"] = settings.lr_in(self.step // self.batches.per_epoch)
        self._trunk.train()
        half = AUTOCAST.get(settings.precision)
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            embeddings = self._trunk(inputs.contiguous(memory_format=torch.channels_last))
        output: HeadOutput = self._loss(embeddings, labels.to(device, non_blocking=True))
        self._optimizer.zero_grad()
        self._scaler.scale(output.loss).backward()
        self._share_overflow()
        self._refuse_not_finite([("the loss", output.loss), *self._gradients()], self.step)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._refuse_not_finite(self._weights(), self.step)
        self.step += 1
        for meter in (self._recent, self._epoch):
            meter.add(output)
        seen = torch.stack([output.lengths, output.cosines])
        self._seen = torch.cat([self._seen, seen.to(self._seen.dtype)], dim=1)[:, -PLOTTED:]
        return output

    def _gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the gradients, unless they may overflow because the loss is still scaled up."""
        if self._scaler.get_scale() <= 1.0:
            for name, parameter in self._parameters():
                if parameter.grad is not None:
                    yield f"the gradient of {name}", parameter.grad

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield "the class centres", self.head.weight
        yield from self.network.named_parameters()

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        yield "the class centres", self.head.weight
        yield from self.network.state_dict().items()

    def _refuse_not_finite(self, tensors: Iterable[tuple[str, Tensor]], done: int) -> None:
        """Raise InputError in every process if a tensor of any is not finite; name the batch."""
        found = find_not_finite(tensors)
        if any(self._agree(found is not None)):
            what = found or "a number of another process"
            raise InputError(
                describe_divergence(what, done, self.batches.per_epoch, "learning-rate")
            )

    def _share_overflow(self) -> None:
        """Make every process skip the step after an overflow in one slice of the classes."""
        gradient = self.head.weight.grad
        if self._scaler.is_enabled() and self._loss is self.head and self.processes.world > 1:
            overflow = (~gradient.isfinite()).any().float()
            gradient += torch.where(self.processes.highest(overflow) > 0, torch.inf, 0.0)

    def run(
        self,
        folder: Path,
        options: RunSettings,
        *,
        say: Say,
        pairs: ValidationPairs | None = None,
        plot: Plot | None = None,
    ) -> bool:
        """Train on all remaining batches, or until Ctrl-C or SIGTERM.

        Parameters
        ----------
        folder
            Output folder: ``checkpoints/``, ``weights/``, ``vis/``, ``steps.csv``, ``epochs.csv``.
        options
            Intervals of progress lines and files.
        say
            Called with each line of progress.
        pairs
            Faces of other people, to verify the network after every epoch.
        plot
            Draws norms and cosines to a file.

        Returns
        -------
        bool
            Whether all epochs are finished.

        Raises
        ------
        InputError
            If a loss, gradient or weight is not finite; names the batch. Nothing of it is saved.
        """
        self.batches.start = self.step
        loader = DataLoader(
            self._faces,
            batch_sampler=self.batches,
            num_workers=self._workers,
            worker_init_fn=_ignore_signals,
            pin_memory=self.processes.device.type == "cuda",
        )
        handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        began, first, saved_at = time.monotonic(), self.step, time.monotonic()
        # Shorter epochs have one line each.
        print_freq = min(options.print_freq, self.batches.per_epoch)
        try:
            for batch in loader:
                self.learn(*batch)
                if self.step % print_freq == 0:
                    self._note(say, (self.step - first) / (time.monotonic() - began))
                ended = self.step % self.batches.per_epoch == 0
                if ended:
                    self._end_epoch(folder, options, say, pairs, plot)
                if options.save_every:
                    is_due = self.step % options.save_every == 0
                else:
                    is_due = time.monotonic() - saved_at > SAVE_SECONDS
                stop, due = self._agree(self.stopped_by > 0, is_due)
                if stop or due or ended:
                    self.save(folder, options.keep)
                    saved_at = time.monotonic()
                if stop:
                    # In another process, perhaps.
                    self.stopped_by = self.stopped_by or signal.SIGINT
                    break
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.step == self.steps

    def deliver(self) -> int:
        """Deliver the signal that ended :meth:`run` early, which it held back; 0 without one."""
        if self.stopped_by:
            signal.raise_signal(self.stopped_by)
        return 0

    def _on_signal(self, number: int, frame: Any) -> None:
        self.stopped_by = number
        # A second signal ends the program immediately.
        signal.signal(number, signal.SIG_DFL)

    def _agree(self, *flags: bool) -> list[bool]:
        """Return the flags that are set in any process."""
        if self.processes.world == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.float32, device=self.processes.device)
        return [value > 0 for value in self.processes.highest(values).tolist()]

    def _note(self, say: Say, rate: float) -> None:
        row = {"step": self.step, **self._recent.row(self.processes)}
        self._recent = Meter(self.processes.device)
        self.history.append(row)
        left = int((self.steps - self.step) / rate)
        say(
            f"epoch {(self.step - 1) // self.batches.per_epoch + 1}/{self.settings.epochs} "
            f"step {self.step}/{self.steps} loss {row['loss']:.4f} (identity "
            f"{row['identity']:.4f}, magnitude {row['magnitude']:.6f}) accuracy "
            f"{row['accuracy']:.3f} lengths {row['shortest']:.1f} to {row['longest']:.1f} "
            f"{rate * self.settings.batch_size:.1f} images/s, "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        )

    def _end_epoch(
        self,
        folder: Path,
        options: RunSettings,
        say: Say,
        pairs: ValidationPairs | None,
        plot: Plot | None,
    ) -> None:
        number = self.step // self.batches.per_epoch
        row = {"epoch": number, "step": self.step, "lr": self.settings.lr_in(number - 1)}
        row.update(self._epoch.row(self.processes))
        self.epochs.append(row)
        if pairs is not None:
            embeddings = embed(self.network, pairs.paths, self.processes.device)
            named = [("an embedding of --val_pairs", torch.from_numpy(embeddings))]
            self._refuse_not_finite(named, self.step - 1)
            found = _accuracy(embeddings, pairs, options.val_folds)
            row["verification"] = found.mean
            say(f"epoch {number}: verification {found}")
            if found.mean > self.best:
                self.best = found.mean
                self.export(folder / "weights" / "best.pth")
        if number % options.pth_save_epoch == 0:
            self.export(folder / "weights" / f"{number:05}.pth")
        if plot is not None and options.vis_mag and self.processes.rank == 0:
            lengths, cosines = self._seen.cpu().numpy()
            try:
                plot(lengths, cosines, folder / "vis" / f"{number:05}.png")
            except BackendUnavailable as error:
                say(f"no plot: {error}")
        self._epoch = Meter(self.processes.device)
        self._seen = self._seen[:, :0]

    def save(self, folder: Path, keep: int = 3) -> None:
        """Write the complete state of the run, all or nothing; all processes call it.

        Parameters
        ----------
        folder
            Folder of the run.
        keep
            Number of checkpoints to keep; older ones of a run folder are removed.

        Raises
        ------
        InputError
            If the optimiser's state is not finite; earlier checkpoints are kept.
        """
        momentum = tensors_in(self._optimizer.state_dict(), "the optimiser")
        self._refuse_not_finite(momentum, self.step - 1)
        # Slices are joined, so that any number of processes can resume.
        state = {
            "settings": self.settings.to_dict(),
            "classes": self.head.classes,
            "network": self.network.state_dict(),
            "head": self._whole(self.head.weight.detach()),
            "optimizer": _change_first(self._optimizer.state_dict(), self._whole),
            "scaler": self._scaler.state_dict(),
            "step": self.step,
            "recent": self._recent.reduced(self.processes),
            "epoch": self._epoch.reduced(self.processes),
            "seen": self._seen,
            "history": self.history,
            "epochs": self.epochs,
            "best": self.best,
        }
        if self.processes.rank == 0:
            path = Path(folder, "checkpoints", f"{self.step:08}.pth")
            _write(path, state)
            self._written[path] = path.stat()
            for old in saved(folder)[:-keep]:
                self._remove(old)
            self._write_tables(folder)

    def _write_tables(self, folder: Path) -> None:
        for name, rows in (("steps", self.history), ("epochs", self.epochs)):
            if rows:
                write_bytes(Path(folder, f"{name}.csv"), _csv(rows).encode())

    def _whole(self, value: Tensor) -> Tensor:
        return self.head.whole(value) if self._loss is self.head else value

    def _part(self, value: Tensor) -> Tensor:
        return self.head.part(value) if self._loss is self.head else value

    def go_on(
        self,
        folder: Path,
        checkpoint: Path | None = None,
        start_epoch: int = 0,
        lost: Sequence[str] = (),
        other_rate: bool = False,
    ) -> None:
        """Resume from a checkpoint, else from the folder's newest, else begin at an epoch.

        Parameters
        ----------
        folder
            Folder of the run.
        checkpoint, start_epoch
            Where to resume, and where to begin without a checkpoint.
        lost
            Names of results that a power failure emptied. They are written again from the
            checkpoints of their epochs; those without one are named.
        other_rate
            Whether the checkpoint's learning rate may differ from that of the settings.
        """
        self.step = start_epoch * self.batches.per_epoch
        for newest in [checkpoint] if checkpoint else saved(folder)[-1:]:
            self.resume(newest, other_rate)
        if self.processes.rank == 0:
            for name in self._remake(folder, lost):
                _log.warning("not made again, since its epoch has no checkpoint: %s", folder / name)

    def resume(self, path: Path, other_rate: bool = False) -> None:
        """Resume from a file of :meth:`save`; later ones of a run folder are removed.

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
        state = _read(path)
        wanted = {"settings": self.settings.to_dict(), "classes": self.head.classes}
        found = {name: state.get(name) for name in wanted}
        if not isinstance(found["settings"], dict) or "epochs" not in found["settings"]:
            raise WeightsError(f"{str(path)!r} has no settings of a training; remove it")
        if continued(wanted, found, "lr" if other_rate else None) != wanted:
            raise WeightsError(
                f"{str(path)!r} belongs to another training ({describe_other(wanted, found)}); "
                "--resume goes on with another learning rate"
            )
        refuse_diverged(path, state, "remove it to resume from the previous one")
        try:
            self._restore(state)
        except Exception as error:  # Of torch, for other names, types and shapes.
            raise WeightsError(
                f"{str(path)!r} is not a checkpoint of this training ({type(error).__name__}); "
                "resume from another one, or start again with --overwrite"
            ) from error
        if self.processes.rank == 0:
            for later in saved(path.parent.parent):
                if later.name > path.name:
                    self._remove(later)

    def _restore(self, state: dict[str, Any]) -> None:
        for name, kind in _STATE.items():
            if not isinstance(state[name], kind):
                raise TypeError(f"{name} is a {type(state[name]).__name__}")
        if not 0 <= state["step"] <= self.steps:
            raise ValueError(f"step {state['step']}")
        self.network.load_state_dict(state["network"])
        self.head.weight.data.copy_(self._part(state["head"]))
        self._optimizer.load_state_dict(_change_first(state["optimizer"], self._part))
        self._scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]
        self.history, self.epochs = state["history"], state["epochs"]
        self._recent.restore(state["recent"])
        self._epoch.restore(state["epoch"])
        self._seen = state["seen"].to(self.processes.device)

    def _remake(self, folder: Path, lost: Sequence[str]) -> list[str]:
        """Write lost results again, except of epochs to come; return the names of the others."""
        if any(name.endswith(".csv") for name in lost):
            self._write_tables(folder)
        done = self.step // self.batches.per_epoch
        left = {name: epoch for name in lost for epoch in self._epoch_of(name) if epoch <= done}
        for path in (path for path in saved(folder) if path.stem.isdecimal()):
            epoch, begun = divmod(int(path.stem), self.batches.per_epoch)
            names = [] if begun else [name for name in left if left[name] == epoch]
            for name in names:
                if name.startswith("weights/"):
                    state = _read(path)
                    self._write_weights(folder / name, epoch, state["network"], state["head"])
                    del left[name]
        return sorted(left)

    def _epoch_of(self, name: str) -> list[int]:
        """Return the epoch of a file of one epoch."""
        stem = Path(name).stem
        if name.startswith(("weights/", "vis/")) and stem.isdecimal():
            return [int(stem)]
        if name == "weights/best.pth" and self.epochs:
            best = max(self.epochs, key=lambda row: row.get("verification", 0.0))
            return [int(best["epoch"])]
        return []

    def _remove(self, checkpoint: Path) -> None:
        """Remove a checkpoint of this trainer or of its run folder; leave any other file."""
        written = self._written.get(checkpoint)
        if written is not None and _same_file(checkpoint.stat(), written):
            checkpoint.unlink()
        else:
            remove_own(checkpoint)

    def export(self, path: Path) -> None:
        """Write the weights with the names of the authors' data-parallel training; all call it.

        Their loader and :func:`~facezoo.models.magface.network.load_official` read the file.
        """
        head = self._whole(self.head.weight.detach())
        epoch = self.step // self.batches.per_epoch
        if self.processes.rank == 0:
            self._write_weights(path, epoch, self.network.state_dict(), head)

    def _write_weights(
        self, path: Path, epoch: int, network: Mapping[str, Tensor], head: Tensor
    ) -> None:
        weights = {f"module.{name}": value for name, value in network.items()}
        weights["module.fc.weight"] = head
        _write(path, {"epoch": epoch, "arch": self.settings.arch, "state_dict": weights})


def builder(arch: str, pretrained: Path | None = None) -> Callable[[], nn.Module]:
    """Return a constructor of the network, with random weights or those of a checkpoint."""

    def build_network() -> nn.Module:
        network = build(arch)
        if pretrained is not None:
            load_official(network, pretrained)
        return network

    return build_network


def seeded(build_network: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network with the initial weights of a seed."""
    torch.manual_seed(seed)
    return build_network()


def embed(network: nn.Module, paths: Iterable[Path], device: torch.device | str) -> np.ndarray:
    """Compute the embeddings of faces in evaluation mode.

    Parameters
    ----------
    network
        Network on the device; left in evaluation mode.
    paths
        Aligned faces.
    device
        Device of the network.

    Returns
    -------
    numpy.ndarray
        Shape (N, D), float64, not normalised.
    """
    network.eval()
    names, rows = list(paths), []
    with torch.no_grad():
        for start in range(0, len(names), EVAL_BATCH):
            faces = np.stack([read_face(path) for path in names[start : start + EVAL_BATCH]])
            inputs = torch.from_numpy(faces).to(device).float() / 255.0
            rows.append(network(inputs.contiguous(memory_format=torch.channels_last)).cpu())
    return np.asarray(torch.cat(rows).double().numpy())


def verify(
    network: nn.Module, pairs: ValidationPairs, folds: int, device: torch.device | str
) -> FoldAccuracy:
    """Evaluate a network on pairs with the authors' protocol.

    Parameters
    ----------
    network
        Network on the device; left in evaluation mode.
    pairs
        Faces it was not trained on.
    folds
        Number of folds; each uses the best threshold of the others.
    device
        Device of the network.
    """
    return _accuracy(embed(network, pairs.paths, device), pairs, folds)


def _accuracy(embeddings: np.ndarray, pairs: ValidationPairs, folds: int) -> FoldAccuracy:
    first, second = (embeddings[pairs.pairs[:, side]] for side in (0, 1))
    return k_fold_accuracy(first, second, pairs.is_same, folds=folds)


def lengths_of(network: nn.Module, faces: TrainingFaces, count: int, seed: int) -> np.ndarray:
    """Measure the norms of embeddings, in float64, to choose l_a and u_a."""
    chosen = np.random.default_rng(seed).choice(len(faces), min(count, len(faces)), replace=False)
    embeddings = embed(network, map(faces.path, chosen), torch.device("cpu"))
    return np.asarray(np.linalg.norm(embeddings, axis=1))


def saved(folder: Path) -> list[Path]:
    """List the checkpoints of a run, the newest last."""
    return sorted(Path(folder, "checkpoints").glob("*.pth"))


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _ignore_signals(worker: int) -> None:
    """Make workers ignore a signal to all processes until the training has saved its state."""
    torch.set_num_threads(1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _tell_dropouts(network: nn.Module) -> list[SampleDropout]:
    """Replace the dropouts of a network by ones with given chances."""
    replaced = []
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                replaced.append(SampleDropout(layer.p))
                setattr(parent, name, replaced[-1])
    return replaced


def _change_first(optimizer: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Change the state of an optimiser for its first parameter, that of the head."""
    state = dict(optimizer["state"])
    if 0 in state:
        state[0] = {name: change(value) for name, value in state[0].items()}
    return {**optimizer, "state": state}


def _same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Tell whether a file is still as it was when it was written."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_file(path) as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of pickle, zip and others for bad files.
        raise WeightsError(
            f"{str(path)!r} is not a saved training ({type(error).__name__}); remove it to resume "
            "from the previous one"
        ) from error
    return state if isinstance(state, dict) else {}


def _csv(rows: Sequence[dict[str, float]]) -> str:
    lines = [",".join(rows[0]), *(",".join(map(repr, row.values())) for row in rows)]
    return "\n".join(lines) + "\n"
