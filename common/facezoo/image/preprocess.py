"""The pre-processing of a model card on the CPU: resize, colour order, normalisation."""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import List, Optional, Sequence, Tuple

import numpy as np

from ..card import NORMS, Preprocess
from ..errors import ConfigError
from ..results import Placement
from .resize import auto_hw, fit_image

__all__ = [
    "VdspOperation",
    "affine_normalisation",
    "as_half",
    "check_picture",
    "describe_differences",
    "normalisation_table",
]


def as_half(values: Sequence[float]) -> np.ndarray:
    """Round to float16 like the device; returned as float64 for the following arithmetic."""
    return np.asarray(values, np.float16).astype(np.float64)


def normalisation_table(preprocess: Preprocess, half_output: bool = False) -> np.ndarray:
    """Return the normalised value of each pixel value, per channel of the network.

    Parameters
    ----------
    preprocess
        NormaType, mean and std are used, the last two rounded to float16 as on the device.
    half_output
        Round the result to float16 too, as the device does for fp16 and int8 networks.

    Returns
    -------
    numpy.ndarray
        Shape (3, 256), float32; row c is channel c of the network.
    """
    pixel = np.arange(256, dtype=np.float64)[None]
    mean, std = as_half(preprocess.mean)[:, None], as_half(preprocess.std)[:, None]
    if preprocess.norm == "EQUAL":
        table = np.repeat(pixel, 3, axis=0)
    elif preprocess.norm == "DIV255":
        table = np.repeat(pixel / 255.0, 3, axis=0)
    elif preprocess.norm == "DIV1275_MINUSONE":
        table = np.repeat(pixel / 127.5 - 1.0, 3, axis=0)
    elif preprocess.norm == "MINUSMEAN_DIVSTD":
        table = (pixel - mean) / std
    elif preprocess.norm == "DIV255_MINUSMEAN_DIVSTD":
        table = (pixel / 255.0 - mean) / std
    else:
        raise ConfigError(f"NormaType {preprocess.norm!r} is not known; expected one of {NORMS}")
    if half_output:
        table = table.astype(np.float16)
    return np.ascontiguousarray(table, dtype=np.float32)


def affine_normalisation(table: np.ndarray) -> Optional[Tuple[float, float]]:
    """Express a table as ``pixel * scale - shift``, if a graph computes it bit-identically.

    Parameters
    ----------
    table
        Result of :func:`normalisation_table`.

    Returns
    -------
    tuple of float or None
        Scale and shift in float32, the same for all channels; None if rounding would differ.
    """
    scale = np.float32((np.float64(table[0, 255]) - table[0, 0]) / 255.0)
    shift = -table[0, 0]
    computed = np.arange(256, dtype=np.float32) * scale - shift
    return (float(scale), float(shift)) if np.array_equal(table, [computed] * 3) else None


def check_picture(image_rgb: np.ndarray) -> None:
    """Raise ConfigError unless the array is an image (H, W, 3), uint8."""
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
        raise ConfigError(
            f"an image must have shape (H, W, 3) and dtype uint8, got {image_rgb.shape} "
            f"{image_rgb.dtype}; read it with facezoo.image.files.read_image_rgb"
        )


class VdspOperation:
    """One vdsp fusion operation on the CPU: from images to network tensors.

    Parameters
    ----------
    preprocess
        The steps to apply.
    half_output
        Round the tensor to float16, as the device does for fp16 and int8 networks.
    multiple
        Let the input follow the image: as much of ``preprocess.input_hw`` as it fills, in multiples
        of this; 0 for one size. See :func:`~facezoo.image.resize.auto_hw`.
    """

    def __init__(
        self, preprocess: Preprocess, half_output: bool = False, multiple: int = 0
    ) -> None:
        self.preprocess = preprocess
        self.multiple = multiple
        self.table = normalisation_table(preprocess, half_output)
        self._local = threading.local()

    def of_image(self, image_hw: Tuple[int, int]) -> Preprocess:
        """Return the pre-processing of an image of a size, with the size of its input."""
        if not self.multiple:
            return self.preprocess
        hw = auto_hw(image_hw, self.preprocess, self.multiple)
        return dataclasses.replace(self.preprocess, input_hw=hw)

    def __call__(
        self, image_rgb: np.ndarray, out: Optional[np.ndarray] = None
    ) -> Tuple[np.ndarray, Placement]:
        """Compute one network input with the complete operation.

        Parameters
        ----------
        image_rgb
            Shape (H, W, 3), uint8, RGB.
        out
            Buffer for the tensor, shape (3, input_h, input_w), float32.

        Returns
        -------
        tensor : numpy.ndarray
            Shape (3, input_h, input_w), float32, in the network's channel order.
        placement : Placement
            Position and scale of the image in it.
        """
        import cv2

        planes, placement = self.planes(image_rgb)
        if out is None:
            out = np.empty(planes.shape, np.float32)
        for channel, plane in enumerate(planes):
            cv2.LUT(plane, self.table[channel], dst=out[channel])
        return out, placement

    def planes(
        self, image_rgb: np.ndarray, out: Optional[np.ndarray] = None
    ) -> Tuple[np.ndarray, Placement]:
        """Compute one network input without the normalisation, which may be part of the graph.

        Parameters
        ----------
        image_rgb
            Shape (H, W, 3), uint8, RGB.
        out
            Buffer for the pixels, shape (3, input_h, input_w), uint8; without one the next call of
            the same thread overwrites them.

        Returns
        -------
        planes : numpy.ndarray
            Shape (3, input_h, input_w), uint8, in the network's channel order.
        placement : Placement
            Position and scale of the image in it.
        """
        import cv2

        check_picture(image_rgb)
        preprocess = self.of_image((image_rgb.shape[0], image_rgb.shape[1]))
        # Each thread reuses its own memory, since new memory costs page faults.
        memory = getattr(self._local, "memory", None)
        if memory is None:
            values = 3 * math.prod(self.preprocess.input_hw)
            memory = self._local.memory = np.empty((2, values), np.uint8)
        height, width = preprocess.input_hw
        canvas, planes = memory[:, : 3 * height * width]
        fitted, placement = fit_image(image_rgb, preprocess, canvas.reshape(height, width, 3))
        if out is None:
            out = planes.reshape(3, height, width)
        cv2.split(fitted, list(out[::-1] if self.preprocess.swaps_channels else out))
        return out, placement


def describe_differences(given: Preprocess, contract: Preprocess) -> List[str]:
    """Describe how a pre-processing differs from a model's contract.

    Parameters
    ----------
    given
        The pre-processing that will be used.
    contract
        The pre-processing that the model expects.

    Returns
    -------
    list of str
        One line per difference that can change a tensor; empty if there is none.
    """
    lines = []
    for name in ("fit", "input_hw", "pad_value", "anchor", "rounding", "axis_scale", "resize"):
        if getattr(given, name) != getattr(contract, name):
            lines.append(
                f"{name} {getattr(given, name)!r}, the model expects {getattr(contract, name)!r}"
            )
    if given.swaps_channels != contract.swaps_channels:
        order = {True: "BGR", False: "RGB"}
        lines.append(
            f"channels in {order[given.swaps_channels]} order, the model expects "
            f"{order[contract.swaps_channels]}"
        )
    here, there = normalisation_table(given), normalisation_table(contract)
    gap = float(np.max(np.abs(here - there)))
    if not math.isclose(gap, 0.0, abs_tol=1e-6):
        lines.append(
            f"normalisation {given.norm} to {_ranges(here)}, the model expects "
            f"{contract.norm} to {_ranges(there)}"
        )
    return lines


def _ranges(table: np.ndarray) -> str:
    return " ".join(f"[{row[0]:.4g}, {row[-1]:.4g}]" for row in np.unique(table, axis=0))
