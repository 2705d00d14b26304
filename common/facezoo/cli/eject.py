"""Write a stand-alone folder of one model, to copy into a product: no facezoo needed there.

One NumPy file with pre-processing and decode, runners for ONNX Runtime and the device, the ONNX,
the vendor's YAML and JSON, an image and its expected result.

  facezoo eject scrfd_500m_bnkps --onnx onnx/scrfd_500m_bnkps.onnx --to product/detector
  facezoo eject w600k_mbf --to product/recogniser --image aligned_face.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .. import weights
from ..contract import Contract, read_contract
from ..errors import InputError
from ..image.align import align_face
from ..image.files import read_image_rgb
from ..models import find_card
from ..pipeline.load import resolve, warn_of_differences
from .options import add_threads_option
from .render import render_build

__all__ = ["configure", "run"]

SAMPLE = "astronaut"
# As scrfd_500m_bnkps finds them, rounded.
SAMPLE_POINTS = ((204, 101), (247, 104), (224, 129), (202, 140), (246, 142))


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("model", metavar="MODEL", help="a card's id, as facezoo list prints it")
    parser.add_argument(
        "--onnx",
        type=Path,
        metavar="F",
        help="graph written by export_onnx.py; by default made from the downloaded weights",
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="new or empty folder")
    add_threads_option(parser)
    parser.add_argument(
        "--image",
        type=Path,
        metavar="I",
        help="image of the expected result; by default the downloaded astronaut",
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder and list it."""
    from ..deploy.eject import EJECTED_FILES, TAKE_FACES, eject

    card = find_card(args.model)
    graph, _ = resolve(args.onnx or card.id, card=card.id)
    contract = read_contract(graph)
    if contract.card_id != card.id:
        raise InputError(f"{str(graph)!r} says it is {contract.card_id}, not {card.id}")
    warn_of_differences(contract, str(graph))
    sample = read_image_rgb(args.image or weights.find(SAMPLE))
    if args.image is None and contract.model in TAKE_FACES:
        sample = align_face(sample, np.array(SAMPLE_POINTS, np.float32))
    eject(graph, contract, _build_yaml(contract), sample, args.to)
    for name in EJECTED_FILES:
        print(args.to / name)
    print(f"try it: python {args.to / 'run_ort.py'}")
    return 0


def _build_yaml(contract: Contract) -> str:
    card = find_card(contract.card_id)
    lines = render_build(card, card.id).splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    return text.replace(f"checkpoint: onnx/{card.id}.onnx", "checkpoint: model.onnx")
