"""Distributed training: differentiable sums and gathers, synchronised batch norms.

Every process has its own loss and the training minimises their mean, so the gradient of a sum over
processes is again a sum over processes. In a single process every operation is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from ...errors import InputError

__all__ = ["Processes", "sum_over_processes", "synchronise_batch_norms"]


@dataclass(frozen=True)
class Processes:
    """The process group of a training, and the rank of this process.

    Attributes
    ----------
    rank, world
        Index of this process, and number of processes.
    device
        Its torch device.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    @contextmanager
    def started(cls, device: str = "auto", precision: str = "fp32") -> Iterator[Processes]:
        """Join the processes started by ``torchrun``, or run as the only one.

        Parameters
        ----------
        device
            ``cpu``, ``cuda`` (each process uses the one of its local rank; NCCL), or ``auto``.
        precision
            Precision of the computation.

        Raises
        ------
        InputError
            If the device is a CPU and the precision ``fp16``.
        """
        name = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        if (name, precision) == ("cpu", "fp16"):
            raise InputError("fp16 needs a GPU; on a CPU choose --precision bf16 or fp32")
        place = torch.device(name)
        if name == "cuda":
            place = torch.device(name, int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(place)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield cls(device=place)
            return
        torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo")
        try:
            yield cls(torch.distributed.get_rank(), torch.distributed.get_world_size(), place)
        finally:
            torch.distributed.destroy_process_group()

    def wait(self) -> None:
        """Wait until all processes have arrived."""
        self.total(torch.zeros(1, device=self.device))

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place; no gradient."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values

    def highest(self, values: Tensor) -> Tensor:
        """Take the maximum over all processes, in place; no gradient."""
        if self.world > 1:
            torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """Concatenate the rows of all processes; differentiable."""
        if self.world == 1:
            return rows
        # A sum in which all other rows are zero: every process gets the exact values of all.
        place = rows.new_zeros(self.world, *rows.shape)
        place[self.rank] = rows
        return sum_over_processes(place).flatten(0, 1)


class _Sum(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        torch.distributed.all_reduce(gradient)
        return gradient


@torch.compiler.disable  # type: ignore[untyped-decorator]
def sum_over_processes(values: Tensor) -> Tensor:
    """Sum over all processes of a group; the gradient is summed too."""
    return _Sum.apply(values)


class _SyncBatchNorm(nn.modules.batchnorm._BatchNorm):  # type: ignore[misc]
    """A batch norm over the faces of all processes, for devices that torch's own does not support.

    The variance is computed around the mean of all, in two passes, as in a single process.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        wide = x.to(self.weight.dtype)
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        mean = sum_over_processes(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = sum_over_processes(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        factor = self.weight * (variance + self.eps).rsqrt()
        return (centred * factor.view(shape) + self.bias.view(shape)).to(x.dtype)


def synchronise_batch_norms(network: nn.Module, processes: Processes) -> None:
    """Make the batch norms of a network compute their statistics over all processes.

    Parameters
    ----------
    network
        Changed in place; parameters and buffers keep their names.
    processes
        With one process nothing is changed.
    """
    if processes.world == 1:
        return
    for parent in network.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, _synchronised(layer, processes.device.type))


def _synchronised(layer: nn.Module, device: str) -> nn.Module:
    if device == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    twin = _SyncBatchNorm(layer.num_features, layer.eps, layer.momentum)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(twin, name, getattr(layer, name))
    return twin
