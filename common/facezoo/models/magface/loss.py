"""Losses of MagFace, Mag-CosFace and ArcFace, over all classes or a slice per process."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import InputError
from .distributed import Processes, sum_over_processes
from .settings import LossSettings

__all__ = ["HeadOutput", "MagHead"]

# Embeddings shorter than this have no meaningful direction: they are divided by it, so that the
# gradient stays bounded down to norm zero.
SHORTEST = 1e-3


class HeadOutput(NamedTuple):
    """Output of the head for a batch: two losses and, without gradient, values per face.

    Attributes
    ----------
    loss
        Scalar: ``identity + lambda_g * magnitude``.
    identity, magnitude
        Scalars: mean cross entropy; mean of ``a / u_a**2 + 1 / a`` of the clamped lengths.
    lengths
        Norms of the embeddings, not clamped.
    margins
        Margins for these norms.
    cosines
        Cosine to the face's own class, before the margin.
    is_right
        Whether no other class is closer.
    """

    loss: Tensor
    identity: Tensor
    magnitude: Tensor
    lengths: Tensor
    margins: Tensor
    cosines: Tensor
    is_right: Tensor


class MagHead(nn.Module):  # type: ignore[misc]
    """Class centres, and the loss of embeddings against them.

    Computes in float32 (float64 for float64 embeddings) regardless of autocast. The sine of the
    angle is computed from (1 - cos)(1 + cos), bounded away from zero by one rounding step: finite
    in value and gradient at cos = 1 and -1, exact elsewhere.

    Parameters
    ----------
    embedding_size, classes
        Size of the embeddings, and number of classes of the training.
    settings
        Settings of the loss.
    processes
        If given, the classes are sliced: each process holds a part, all faces are gathered, and
        the softmax is over all classes. Otherwise this head holds all classes and sees the faces
        of this process.

    Attributes
    ----------
    weight
        Shape (embedding_size, classes held): one column per class, starting with class ``first``.

    References
    ----------
    .. [1] MagFace@99bae61, ``models/magface.py`` and ``models/parallel_maglinear.py``.
    """

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        settings: LossSettings,
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        self._processes = processes or Processes()
        rank, world = self._processes.rank, self._processes.world
        if classes < world:
            raise InputError(f"{classes} classes cannot be sliced for {world} processes")
        self.first, end = (classes * number // world for number in (rank, rank + 1))
        whole = functional.normalize(torch.empty(embedding_size, classes).uniform_(-1, 1), dim=0)
        self.weight = nn.Parameter(whole[:, self.first : end].clone())
        if world > 1:
            # The losses of all processes affect this slice; the training minimises their mean.
            self.weight.register_hook(lambda gradient: gradient / world)

    def forward(self, embeddings: Tensor, labels: Tensor) -> HeadOutput:
        """Compute the loss of embeddings (B, D) of any float type with labels (B,), int64."""
        with torch.autocast(embeddings.device.type, enabled=False):
            wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            return self._output(
                self._processes.gather(wide), self._processes.gather(labels), self.settings
            )

    def _output(self, embeddings: Tensor, labels: Tensor, settings: LossSettings) -> HeadOutput:
        lengths = embeddings.norm(dim=1)
        clamped = lengths.clamp(settings.l_a, settings.u_a)
        margins = settings.margins[0] + settings.slope * (clamped - settings.l_a)
        directions = functional.normalize(embeddings, dim=1, eps=SHORTEST)
        cosines = (directions @ functional.normalize(self.weight, dim=0)).clamp(-1, 1)
        # Faces of a class in another process contribute nothing here.
        is_here = (labels >= self.first) & (labels < self.first + self.weight.shape[1])
        column = torch.where(is_here, labels - self.first, 0)[:, None]
        own = cosines.gather(1, column)[:, 0]
        target = torch.where(is_here, settings.scale * self._with_margin(own, margins), 0.0)
        logits = settings.scale * cosines
        logits = logits.scatter(
            1, column, torch.where(is_here, target, logits.gather(1, column)[:, 0])[:, None]
        )
        identity = (self._log_sum_exp(logits) - self._sum(target)).mean()
        magnitude = (clamped / settings.u_a**2 + 1.0 / clamped).mean()
        with torch.no_grad():
            own = self._sum(torch.where(is_here, own, 0.0))
            nearest = self._processes.highest(cosines.amax(dim=1))
        loss = identity + settings.weight * magnitude
        seen = (lengths.detach(), margins.detach(), own, own >= nearest)
        return HeadOutput(loss, identity, magnitude, *seen)

    def _with_margin(self, cosines: Tensor, margins: Tensor) -> Tensor:
        if self.settings.name == "mag-cosface":
            return cosines - margins
        smallest = torch.finfo(cosines.dtype).eps
        sines = ((1.0 - cosines) * (1.0 + cosines)).clamp(min=smallest).sqrt()
        moved = cosines * margins.cos() - sines * margins.sin()
        if self.settings.easy_margin:
            return torch.where(cosines > 0, moved, cosines)
        # Above pi - margin the angle cannot grow by the margin; a linear continuation is used.
        line = cosines - margins * (math.pi - margins).sin()
        return torch.where(cosines > (math.pi - margins).cos(), moved, line)

    def _sum(self, values: Tensor) -> Tensor:
        return sum_over_processes(values) if self._processes.world > 1 else values

    def _log_sum_exp(self, logits: Tensor) -> Tensor:
        highest = self._processes.highest(logits.detach().amax(dim=1))
        return highest + self._sum((logits - highest[:, None]).exp().sum(dim=1)).log()

    def whole(self, slice_: Tensor) -> Tensor:
        """Concatenate the slices of all processes.

        Parameters
        ----------
        slice_
            Tensor in the shape of ``weight``, such as itself or the optimiser's momentum.

        Returns
        -------
        torch.Tensor
            Shape (embedding_size, classes), the same on every process.
        """
        place = slice_.new_zeros(slice_.shape[0], self.classes)
        place[:, self.first : self.first + slice_.shape[1]] = slice_
        return self._processes.total(place)

    def part(self, whole: Tensor) -> Tensor:
        """Return the slice of this process of the result of :meth:`whole`."""
        return whole[:, self.first : self.first + self.weight.shape[1]]
