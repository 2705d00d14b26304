"""Render the vdsp JSONs and build YAMLs from the cards.

facezoo render            write what differs
facezoo render --check    write nothing, exit 3 if a file differs from its card
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Mapping

import yaml

from ..card import ModelCard, Preprocess
from ..contract import Contract
from ..errors import GateError, InputError
from ..files import write_bytes, write_json
from ..models import CARDS, VENDOR_FILES, find_card
from ..vacc.vdsp import render_vdsp
from . import flags

__all__ = [
    "configure",
    "render_build",
    "render_own_build",
    "render_recipes",
    "run",
    "write_trained_recipe",
]

_HEADER = """\
# Rendered from the card {card} by "make recipes"; edit the card, not this file.
# For another precision set backend.dtype AND the ending of name.
"""

_log = logging.getLogger(__name__)


def render_build(card: ModelCard, name: str) -> str:
    """Write the vendor's build YAML for a card.

    Parameters
    ----------
    card
        Input name, shape and pre-processing are taken from it.
    name
        The artifact's name without its precision.

    Returns
    -------
    str
        YAML in the vendor's schema; fp16, ready to be switched to int8.

    Raises
    ------
    InputError
        If the YAML cannot express the pre-processing of the calibration images.
    """
    return _document(card, name, _calibration(card.preprocess))


def render_own_build(contract: Contract, name: str) -> str:
    """Write the build YAML of a graph whose pre-processing and input may not be those of its card.

    Parameters
    ----------
    contract
        The graph's.
    name
        The artifact's name without its precision.

    Returns
    -------
    str
        As from :func:`render_build`. Without calibration images, which a warning says, if the YAML
        cannot express their pre-processing, such as a letterbox that is not square.
    """
    card = dataclasses.replace(
        find_card(contract.card_id),
        input_name=contract.input_name,
        preprocess=contract.preprocess,
    )
    try:
        calibration = _calibration(card.preprocess)
    except InputError as error:
        _log.warning("%s, so that of %s names no calibration images for int8", error, name)
        calibration = {}
    return _document(card, name, calibration)


def _calibration(preprocess: Preprocess) -> Dict[str, Any]:
    dataset = {
        "type": "tvm",
        "path": "calibration/",
        "sampler": {"suffix": "jpg", "get_data_num": 50},
        "process_ops": process_ops(preprocess),
    }
    return {"dataset": dataset}


def _document(card: ModelCard, name: str, calibration: Mapping[str, Any]) -> str:
    height, width = card.preprocess.input_hw
    config = {
        "name": f"{name}_fp16",
        "frontend": {
            "type": "onnx",
            "checkpoint": f"onnx/{card.id}.onnx",
            "shape": {card.input_name: [1, 3, height, width]},
            "dtype": "fp32",
        },
        "backend": {
            "type": "tvm_vacc",
            "dtype": "fp16",
            "compile": {"data_transport_mode": 1, "cluster_mode": 0},
            "quantize": {
                "calibrate_mode": "max",
                "quantize_per_channel": True,
                **card.quantize,
            },
        },
        **calibration,
        "workspace": {"path": "./deploy_weights/"},
    }
    text: str = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=100)
    # A line break would end the comment.
    return _HEADER.format(card=json.dumps(card.id)[1:-1]) + text


def write_trained_recipe(folder: Path, contract: Contract) -> None:
    """Write ``build.yaml`` and ``vdsp_params.json`` of a network of one's own into its folder.

    Parameters
    ----------
    folder
        Folder of the network's ``model.onnx``, which ``facezoo compile`` gets as ``--model``.
    contract
        Its contract, whose input size may differ from that of the card.
    """
    card = dataclasses.replace(
        next(card for card in CARDS.values() if card.model == contract.model),
        id="model",
        input_name=contract.input_name,
        preprocess=contract.preprocess,
    )
    write_bytes(folder / "build.yaml", render_build(card, folder.name).encode())
    write_json(folder / "vdsp_params.json", render_vdsp(contract.preprocess), indent=4)


def process_ops(preprocess: Preprocess) -> List[Dict[str, object]]:
    """Return a pre-processing as the build YAML's ``process_ops``, for calibration.

    Raises
    ------
    InputError
        If the YAML cannot express it.
    """
    height, width = preprocess.input_hw
    ops: List[Dict[str, object]] = [{"type": "DecodeImage"}]
    if preprocess.fit == "letterbox" and height == width:
        ops.append({"type": "Resize", "size": [height, -1], "adaptive_side": "long"})
        ops.append({"type": "Pad", "pad_to_square": True})
    elif preprocess.fit == "stretch":
        ops.append({"type": "Resize", "size": [height, width]})
    else:
        raise InputError(f"a build YAML cannot express the pre-processing {preprocess.fit!r}")
    if preprocess.swaps_channels:
        ops.insert(1, {"type": "CvtColor", "code": "COLOR_RGB2BGR"})
    normalize: Dict[str, object] = {"type": "Normalize"}
    normalize["div255"] = preprocess.norm in ("DIV255", "DIV255_MINUSMEAN_DIVSTD")
    if preprocess.norm.endswith("MINUSMEAN_DIVSTD"):
        normalize["mean"], normalize["std"] = list(preprocess.mean), list(preprocess.std)
    else:
        normalize["norm_type"] = None
    return [*ops, normalize, {"type": "ToTensor"}]


def render_recipes() -> Dict[str, str]:
    """Render every file that follows from a card.

    Returns
    -------
    dict
        Path below the repository, with forward slashes, to content.
    """
    files = {}
    for card in CARDS.values():
        folder, vendor = f"{card.task}/{card.model}", VENDOR_FILES[card.model]
        params = json.dumps(render_vdsp(card.preprocess), indent=4, allow_nan=False) + "\n"
        names = [card.id, *([card.model] * (card.id == vendor.default))]
        for name in names if not vendor.build else names[:1]:
            stem = "-".join(filter(None, (vendor.vdsp, name)))
            files[f"{folder}/build_in/vdsp_params/{stem}-vdsp_params.json"] = params
        for name in names:
            stem = "_".join(filter(None, (vendor.build, name)))
            files[f"{folder}/build_in/build/{stem}.yaml"] = render_build(card, stem)
        if vendor.triton:
            name = f"{folder}/source_code/triton/{card.id}/config.pbtxt"
            # Imported here, since it imports a runtime.
            from ..deploy.triton import render_triton

            files[name] = render_triton(card)
        # Empty files: one keeps the folder in git, the other makes it a package.
        files[f"{folder}/workspace/.gitkeep"] = ""
        files[f"common/facezoo/models/{card.model}/__init__.py"] = ""
    return files


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    flags.add(parser, "--check", "write nothing, exit 3 on a difference")
    flags.add(parser, "--root")


def run(args: argparse.Namespace) -> int:
    """Write or compare the files."""
    if not (args.root / "face_detection").is_dir():
        raise InputError(f"{str(args.root)!r} is not the repository's folder; give it as --root")
    stale = []
    for name, text in render_recipes().items():
        path = args.root / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not args.check:
                write_bytes(path, text.encode())
                print(f"wrote {name}")
    if stale and args.check:
        raise GateError(f"{', '.join(stale)} differ from their cards; run: make recipes")
    print(f"{len(render_recipes())} files agree with their cards")
    return 0
