"""The vendor's vdsp_params JSON: read, rendered, compared, and executed on the CPU.

A vdsp operation resizes 8-bit pixels, swaps channels, normalises and makes a planar tensor of
float16. After the resizing a pixel has one of 256 values, so the normalisation here is a table:
exact, whatever the formula, and the same for every route.
"""

from __future__ import annotations

import difflib
import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np

from ..card import NORMS, RESIZES, Preprocess
from ..errors import ConfigError
from ..image.resize import fit_image
from ..results import Placement

__all__ = [
    "VdspOperation",
    "affine_normalisation",
    "check_picture",
    "describe_differences",
    "normalisation_table",
    "read_vdsp",
    "render_vdsp",
]

# source: spec of the vendor's corpus, 825 JSON files; name of the fusion op to the order it names
FIT_OF_OP = {
    "FUSION_OP_RGB_LETTERBOX_CVTCOLOR_NORM_TENSOR": "letterbox",
    "FUSION_OP_RGB_LETTERBOX_CVTCOLOR_NORM_TENSOR_EXT": "letterbox_pads",
    "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR": "stretch",
    "FUSION_OP_RGB_RESIZE_CVTCOLOR_CROP_NORM_TENSOR": "stretch_crop",
    "FUSION_OP_RGB_CROP_RESIZE_CVTCOLOR_NORM_TENSOR": "crop_stretch",
    "FUSION_OP_RGB_CVTCOLOR_NORM_TENSOR": "none",
}
OP_OF_FIT = {fit: op for op, fit in FIT_OF_OP.items()}
IMAGE_FORMATS = ("RGB_PLANAR", "BGR_PLANAR", "RGB888", "BGR888")
COLOR_CONVERSIONS = ("NO_CHANGE", "BGR2RGB", "RGB2BGR")
_KNOWN_KEYS = (
    "IimageFormat IimageWidth IimageHeight IimageWidthPitch IimageHeightPitch OimageWidth "
    "OimageHeight OimageWidthPitch OimageHeightPitch OimageFormat OimageCnt ResizeWidth "
    "ResizeHeight CropX CropY CropWidth CropHeight CropNum Mean Std NormaType ColorCvtCode "
    "ColorSpace ResizeType Padding EdgePaddingType PaddingTop PaddingBottom PaddingLeft "
    "PaddingRight Scale TensorType0"
).split()
_LARGEST_SIDE = 16384
_LARGEST_FILE = 1 << 20


def _half(values: Sequence[float]) -> np.ndarray:
    """Round to float16 as the device does, in float64 for the arithmetic that follows."""
    return np.asarray(values, np.float16).astype(np.float64)


def normalisation_table(preprocess: Preprocess, half_output: bool = False) -> np.ndarray:
    """Return what each pixel value becomes, per channel of the network.

    Parameters
    ----------
    preprocess
        Its NormaType, mean and std are used, the last two rounded to float16 as on the device.
    half_output
        Round the result to float16 too, as the device hands it to fp16 and int8 networks.

    Returns
    -------
    numpy.ndarray
        Shape (3, 256), float32; row c is the network's channel c.
    """
    pixel = np.arange(256, dtype=np.float64)[None]
    mean, std = _half(preprocess.mean)[:, None], _half(preprocess.std)[:, None]
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
    """Write a table as ``pixel * scale - shift`` for a graph to compute, if that changes no bit.

    Parameters
    ----------
    table
        From :func:`normalisation_table`.

    Returns
    -------
    tuple of float or None
        Scale and shift in float32, the same for all channels; None if rounding would show.
    """
    scale = np.float32((np.float64(table[0, 255]) - table[0, 0]) / 255.0)
    shift = -table[0, 0]
    computed = np.arange(256, dtype=np.float32) * scale - shift
    return (float(scale), float(shift)) if np.array_equal(table, [computed] * 3) else None


def check_picture(image_rgb: np.ndarray) -> None:
    """Refuse what is no picture (H, W, 3), uint8; ConfigError says what it is instead."""
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
        raise ConfigError(
            f"a picture must have shape (H, W, 3) and dtype uint8, got {image_rgb.shape} "
            f"{image_rgb.dtype}; read it with facezoo.image.files.read_image_rgb"
        )


class VdspOperation:
    """One fusion op, ready to run: pictures in, network tensors out.

    Parameters
    ----------
    preprocess
        What to do.
    half_output
        Round the tensor to float16, as the device does for fp16 and int8 networks.
    """

    def __init__(self, preprocess: Preprocess, half_output: bool = False) -> None:
        self.preprocess = preprocess
        self.table = normalisation_table(preprocess, half_output)
        self._local = threading.local()

    def __call__(
        self, image_rgb: np.ndarray, out: Optional[np.ndarray] = None
    ) -> Tuple[np.ndarray, Placement]:
        """Make one network input: all of the operation.

        Parameters
        ----------
        image_rgb
            Shape (H, W, 3), uint8, RGB.
        out
            Shape (3, input_h, input_w), float32: where to put the tensor.

        Returns
        -------
        tensor : numpy.ndarray
            Shape (3, input_h, input_w), float32, in the network's channel order.
        placement : Placement
            Where the picture lies in it.
        """
        planes, placement = self.planes(image_rgb)
        if out is None:
            out = np.empty(planes.shape, np.float32)
        for channel, plane in enumerate(planes):
            cv2.LUT(plane, self.table[channel], dst=out[channel])
        return out, placement

    def planes(
        self, image_rgb: np.ndarray, out: Optional[np.ndarray] = None
    ) -> Tuple[np.ndarray, Placement]:
        """Make one network input but for the normalisation, which may be part of the graph.

        Parameters
        ----------
        image_rgb
            Shape (H, W, 3), uint8, RGB.
        out
            Shape (3, input_h, input_w), uint8: where to put the pixels; else the calling thread's
            next call overwrites them.

        Returns
        -------
        planes : numpy.ndarray
            Shape (3, input_h, input_w), uint8, in the network's channel order.
        placement : Placement
            Where the picture lies in it.
        """
        check_picture(image_rgb)
        # Each thread fits its pictures into a canvas of its own: new memory costs page faults.
        canvas = getattr(self._local, "canvas", None)
        if canvas is None:
            hw = self.preprocess.input_hw
            canvas = self._local.canvas = np.empty((*hw, 3), np.uint8)
            self._local.planes = np.empty((3, *hw), np.uint8)
        fitted, placement = fit_image(image_rgb, self.preprocess, canvas)
        if out is None:
            out = self._local.planes
        cv2.split(fitted, list(out[::-1] if self.preprocess.swaps_channels else out))
        return out, placement


def read_vdsp(path: Path, base: Preprocess) -> Preprocess:
    """Read a vdsp_params JSON.

    Parameters
    ----------
    path
        The vendor's file: one object with OpType and OpConfig.
    base
        Supplies what the format cannot say (anchor and rounding of a letterbox) and what the file
        leaves out (sizes, pad colour).

    Returns
    -------
    Preprocess
        What a card would do with this file.

    Raises
    ------
    ConfigError
        If the file is not JSON, names an operation that is not for RGB or BGR pictures, or holds
        a value no card would take; the message names file and key.
    """
    entry = _load_json(path)
    if "vdsp_op_type" in entry or "config" in entry:
        raise ConfigError(
            f"{str(path)!r} has the vdsp format of before vamp 2.1.0; expected one object with "
            "OpType and OpConfig: write it anew with 'make recipes'"
        )
    op_type = entry.get("OpType")
    if not isinstance(op_type, str) or op_type not in FIT_OF_OP:
        raise ConfigError(
            f"{str(path)!r}: OpType {op_type!r} does not prepare an RGB or BGR picture; expected "
            f"one of {', '.join(FIT_OF_OP)}"
        )
    config = entry.get("OpConfig")
    if not isinstance(config, dict):
        raise ConfigError(f"{str(path)!r}: OpConfig must be an object, got {config!r}")
    try:
        return _preprocess_from(FIT_OF_OP[op_type], config, base)
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r}: {error}") from error


def _load_json(path: Path) -> Dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"{str(path)!r} is over 1 MiB; expected a vdsp_params JSON")
        entry = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise ConfigError(f"{str(path)!r} must hold one object, got a {type(entry).__name__}")
    return entry


def _preprocess_from(fit: str, config: Mapping[str, Any], base: Preprocess) -> Preprocess:
    for key in config:
        if key not in _KNOWN_KEYS:
            near = difflib.get_close_matches(key, _KNOWN_KEYS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"key {key!r} is not known{hint}")
    image_format = config.get("IimageFormat")
    if image_format is None:
        raise ConfigError(
            "IimageFormat is absent, which the vendor takes as YUV_NV12; pictures are RGB here: "
            'set "IimageFormat": "RGB_PLANAR"'
        )
    _choice("EdgePaddingType", config.get("EdgePaddingType", "CONSTANT"), ("CONSTANT",))
    input_hw = _size(config, "Oimage", base.input_hw)
    read = replace(
        base,
        fit=fit,
        input_hw=input_hw,
        image_format=_choice("IimageFormat", image_format, IMAGE_FORMATS),
        color_conversion=_choice(
            "ColorCvtCode", config.get("ColorCvtCode", "NO_CHANGE"), COLOR_CONVERSIONS
        ),
        resize=_choice("ResizeType", config.get("ResizeType", "BILINEAR_CV"), RESIZES),
        norm=_choice("NormaType", config.get("NormaType", "EQUAL"), NORMS),
        mean=_three(config, "Mean", (0.0, 0.0, 0.0)),
        std=_three(config, "Std", (1.0, 1.0, 1.0)),
        pad_value=_color(config, base.pad_value),
    )
    if read.norm.endswith("DIVSTD") and any(_half(read.std) == 0.0):
        raise ConfigError(f"Std {list(read.std)} has a zero, and {read.norm} divides by it")
    if fit in ("letterbox_pads", "stretch_crop"):
        read = replace(read, resize_hw=_size(config, "Resize", input_hw))
    if fit == "stretch_crop" or fit == "crop_stretch":
        read = replace(read, crop_xy=(_offset(config, "CropX"), _offset(config, "CropY")))
    if fit == "crop_stretch":
        read = replace(read, crop_hw=_size(config, "Crop", None))
    if fit == "letterbox_pads":
        sides = ("Top", "Bottom", "Left", "Right")
        pads = tuple(_offset(config, f"Padding{side}") for side in sides)
        read = replace(read, pads=(pads[0], pads[1], pads[2], pads[3]))
    return read


def _choice(key: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigError(f"{key} {value!r} is not known; expected one of {', '.join(known)}")
    return str(value)


def _whole(key: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _LARGEST_SIDE:
        raise ConfigError(f"{key} must be a whole number from {low} to {_LARGEST_SIDE}: {value!r}")
    return value


def _size(
    config: Mapping[str, Any], prefix: str, default: Optional[Tuple[int, int]]
) -> Tuple[int, int]:
    width, height = f"{prefix}Width", f"{prefix}Height"
    if width not in config and height not in config and default is not None:
        return default
    return _whole(height, config.get(height), 1), _whole(width, config.get(width), 1)


def _offset(config: Mapping[str, Any], key: str) -> int:
    return _whole(key, config.get(key, 0), 0)


def _three(
    config: Mapping[str, Any], key: str, default: Tuple[float, float, float]
) -> Tuple[float, float, float]:
    values = config.get(key, list(default))
    numbers = isinstance(values, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in values
    )
    if not numbers or len(values) != 3 or not all(abs(float(v)) <= 65504.0 for v in values):
        raise ConfigError(f"{key} must be three numbers that float16 can hold, got {values!r}")
    return float(values[0]), float(values[1]), float(values[2])


def _color(config: Mapping[str, Any], default: Tuple[int, int, int]) -> Tuple[int, int, int]:
    values = config.get("Padding", list(default))
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(type(v) is int and 0 <= v <= 255 for v in values)
    ):
        raise ConfigError(f"Padding must be three whole numbers from 0 to 255, got {values!r}")
    return values[0], values[1], values[2]


def render_vdsp(preprocess: Preprocess) -> Dict[str, Any]:
    """Write a pre-processing as the vendor's JSON object.

    Mean and std are written as the float16 numbers the device uses. The pad colour is written,
    since the vendor documents no default. Anchor and rounding have no key in the format.

    Parameters
    ----------
    preprocess
        What the network needs.

    Returns
    -------
    dict
        OpType and OpConfig, keys in the vendor's order.
    """
    height, width = preprocess.input_hw
    config: Dict[str, Any] = {
        "IimageFormat": preprocess.image_format,
        "IimageWidth": width,
        "IimageHeight": height,
        "IimageWidthPitch": width,
        "IimageHeightPitch": height,
        "OimageWidth": width,
        "OimageHeight": height,
    }
    if preprocess.resize_hw is not None:
        config["ResizeWidth"] = preprocess.resize_hw[1]
        config["ResizeHeight"] = preprocess.resize_hw[0]
    if preprocess.fit in ("stretch_crop", "crop_stretch"):
        config["CropX"], config["CropY"] = preprocess.crop_xy
    if preprocess.crop_hw is not None:
        config["CropWidth"], config["CropHeight"] = preprocess.crop_hw[1], preprocess.crop_hw[0]
    config["Mean"] = [float(v) for v in _half(preprocess.mean)]
    config["Std"] = [float(v) for v in _half(preprocess.std)]
    config["NormaType"] = preprocess.norm
    config["ColorCvtCode"] = preprocess.color_conversion
    config["ResizeType"] = preprocess.resize
    if preprocess.fit.startswith("letterbox"):
        config["Padding"] = list(preprocess.pad_value)
        config["EdgePaddingType"] = "CONSTANT"
    if preprocess.fit == "letterbox_pads":
        for side, pad in zip(("Top", "Bottom", "Left", "Right"), preprocess.pads):
            config[f"Padding{side}"] = pad
    return {"OpType": OP_OF_FIT[preprocess.fit], "OpConfig": config}


def describe_differences(given: Preprocess, contract: Preprocess) -> List[str]:
    """Say in words where a pre-processing departs from a model's contract.

    Parameters
    ----------
    given
        What will be done.
    contract
        What the model was made for.

    Returns
    -------
    list of str
        One line a difference that can change a tensor; empty if there is none.
    """
    lines = []
    for name in ("fit", "input_hw", "pad_value", "anchor", "rounding", "axis_scale", "resize"):
        if getattr(given, name) != getattr(contract, name):
            lines.append(
                f"{name} {getattr(given, name)!r}, the model has {getattr(contract, name)!r}"
            )
    if given.swaps_channels != contract.swaps_channels:
        order = {True: "BGR", False: "RGB"}
        lines.append(
            f"channels in {order[given.swaps_channels]} order, the model was made for "
            f"{order[contract.swaps_channels]}"
        )
    here, there = normalisation_table(given), normalisation_table(contract)
    gap = float(np.max(np.abs(here - there)))
    if not math.isclose(gap, 0.0, abs_tol=1e-6):
        lines.append(
            f"normalisation {given.norm} to {_ranges(here)}, the model was made for "
            f"{contract.norm} to {_ranges(there)}"
        )
    return lines


def _ranges(table: np.ndarray) -> str:
    return " ".join(f"[{row[0]:.4g}, {row[-1]:.4g}]" for row in np.unique(table, axis=0))
