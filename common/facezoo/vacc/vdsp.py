"""Reader and writer of the vendor's vdsp_params JSON, the pre-processing on the device.

A vdsp operation resizes 8-bit pixels, swaps channels, normalises and returns a planar tensor of
float16. After resizing a pixel has one of 256 values, so the normalisation here is a table: exact
for any formula, and the same on every route.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from ..card import COLOR_CONVERSIONS, IMAGE_FORMATS, NORMS, RESIZES, Preprocess
from ..errors import ConfigError
from ..files import read_text
from ..image.preprocess import as_half

__all__ = [
    "read_vdsp",
    "render_vdsp",
]


# source: spec of the vendor's corpus, 825 JSON files; name of the fusion op to the channel order in
# it
FIT_OF_OP = {
    "FUSION_OP_RGB_LETTERBOX_CVTCOLOR_NORM_TENSOR": "letterbox",
    "FUSION_OP_RGB_LETTERBOX_CVTCOLOR_NORM_TENSOR_EXT": "letterbox_pads",
    "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR": "stretch",
    "FUSION_OP_RGB_RESIZE_CVTCOLOR_CROP_NORM_TENSOR": "stretch_crop",
    "FUSION_OP_RGB_CROP_RESIZE_CVTCOLOR_NORM_TENSOR": "crop_stretch",
    "FUSION_OP_RGB_CVTCOLOR_NORM_TENSOR": "none",
}
OP_OF_FIT = {fit: op for op, fit in FIT_OF_OP.items()}
_KNOWN_KEYS = (
    "IimageFormat IimageWidth IimageHeight IimageWidthPitch IimageHeightPitch OimageWidth "
    "OimageHeight OimageWidthPitch OimageHeightPitch OimageFormat OimageCnt ResizeWidth "
    "ResizeHeight CropX CropY CropWidth CropHeight CropNum Mean Std NormaType ColorCvtCode "
    "ColorSpace ResizeType Padding EdgePaddingType PaddingTop PaddingBottom PaddingLeft "
    "PaddingRight Scale TensorType0"
).split()
_LARGEST_SIDE = 16384
_LARGEST_FILE = 1 << 20


def read_vdsp(path: Path, base: Preprocess) -> Preprocess:
    """Read a vdsp_params JSON.

    Parameters
    ----------
    path
        The vendor's file: one object with OpType and OpConfig.
    base
        Values that the format cannot express (anchor and rounding of a letterbox) and that the
        file leaves out (sizes, pad colour).

    Returns
    -------
    Preprocess
        The pre-processing of a device with this file.

    Raises
    ------
    ConfigError
        If the file is not JSON, names an operation that is not for RGB or BGR images, or has
        a value that no device accepts; the message names file and key.
    """
    entry = _load_json(path)
    if "vdsp_op_type" in entry or "config" in entry:
        raise ConfigError(
            f"{str(path)!r} has the vdsp format of before vamp 2.1.0; expected one object with "
            "OpType and OpConfig: render it again with 'make recipes'"
        )
    op_type = entry.get("OpType")
    if not isinstance(op_type, str) or op_type not in FIT_OF_OP:
        raise ConfigError(
            f"{str(path)!r}: OpType {op_type!r} does not prepare an RGB or BGR image; expected "
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
        entry = json.loads(read_text(path, _LARGEST_FILE))
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise ConfigError(f"{str(path)!r} must contain one object, got a {type(entry).__name__}")
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
            "IimageFormat is absent, which means YUV_NV12 to the runtime; images are RGB here: "
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
    if read.norm.endswith("DIVSTD") and any(as_half(read.std) == 0.0):
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
        raise ConfigError(f"{key} must be an integer from {low} to {_LARGEST_SIDE}: {value!r}")
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
        raise ConfigError(f"{key} must be three numbers in the range of float16, got {values!r}")
    return float(values[0]), float(values[1]), float(values[2])


def _color(config: Mapping[str, Any], default: Tuple[int, int, int]) -> Tuple[int, int, int]:
    values = config.get("Padding", list(default))
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(type(v) is int and 0 <= v <= 255 for v in values)
    ):
        raise ConfigError(f"Padding must be three integers from 0 to 255, got {values!r}")
    return values[0], values[1], values[2]


def render_vdsp(preprocess: Preprocess) -> Dict[str, Any]:
    """Convert a pre-processing to the vendor's JSON object.

    Mean and std are written as the float16 numbers the device uses. The pad colour is written,
    since the vendor documents no default. Anchor and rounding have no key in the format.

    Parameters
    ----------
    preprocess
        Pre-processing of the network.

    Returns
    -------
    dict
        Object with OpType and OpConfig, keys in the vendor's order.
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
    config["Mean"] = [float(v) for v in as_half(preprocess.mean)]
    config["Std"] = [float(v) for v in as_half(preprocess.std)]
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
