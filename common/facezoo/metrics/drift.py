"""Drift: difference of a network's outputs from a reference, over any number of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

__all__ = ["DriftSum", "TensorDrift"]


@dataclass(frozen=True)
class TensorDrift:
    """The drift of one output.

    Attributes
    ----------
    cosine
        Cosine similarity of all values taken as two vectors; 1 means equal direction.
    snr_db
        Ratio of the energies of reference and difference, in decibels; infinite if equal.
    max_error
        Largest absolute difference of a value.
    lost
        Energy of the difference as a share of a channel's variance, in [0, 1], mean over the
        channels. Unlike cosine and SNR it shows a small channel that is lost beside a large one.
    worst_lost
        The same for the worst channel.
    """

    cosine: float
    snr_db: float
    max_error: float
    lost: float
    worst_lost: float


class DriftSum:
    """Accumulate the drift over pairs of arrays; only sums are kept."""

    def __init__(self) -> None:
        self._values = 0
        self._product = 0.0
        self._max_error = 0.0
        # Per channel: sum and energy of the reference, energy of the other and of the difference.
        self._channels = np.zeros((4, 1))

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Add one pair of arrays.

        Parameters
        ----------
        reference, other
            Equal shapes (B, C, ...); only B may change between calls.

        Raises
        ------
        InputError
            If the shapes differ.
        """
        if reference.shape != other.shape:
            raise InputError(f"shapes differ: {reference.shape} and {other.shape}")
        a, b = (_rows(array.astype(np.float64)) for array in (reference, other))
        difference = b - a
        sums = np.stack([a.sum(axis=1), *(np.einsum("cn,cn->c", x, x) for x in (a, b, difference))])
        self._channels = self._channels + sums
        self._values += a.shape[1]
        self._product += float(np.einsum("cn,cn->", a, b))
        self._max_error = max(self._max_error, float(np.abs(difference).max(initial=0.0)))

    def result(self) -> TensorDrift:
        """Return the drift of all pairs so far."""
        total, energy, energy_other, noise = self._channels
        length = math.sqrt(float(energy.sum()) * float(energy_other.sum()))
        cosine = self._product / length if length > 0 else float(noise.sum() == 0)
        lost = self._lost(total, energy, noise)
        return TensorDrift(
            cosine=min(cosine, 1.0),
            snr_db=_decibels(float(energy.sum()), float(noise.sum())),
            max_error=self._max_error,
            lost=float(lost.mean()) if lost.size else 0.0,
            worst_lost=float(lost.max(initial=0.0)),
        )

    def _lost(self, total: np.ndarray, energy: np.ndarray, noise: np.ndarray) -> np.ndarray:
        variance = energy / max(self._values, 1) - (total / max(self._values, 1)) ** 2
        # A constant channel has no information to lose.
        changing = variance * self._values > 1e-10 * energy
        with np.errstate(invalid="ignore"):
            share = noise[changing] / (variance[changing] * self._values)
        # NaN counts as lost completely.
        return np.where(share < 1.0, share, 1.0)


def _rows(array: np.ndarray) -> np.ndarray:
    if array.ndim < 2:
        return array.reshape(1, -1)
    return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0 else -math.inf
