"""Write a stand-alone folder of one model, to copy into a product: no facezoo needed there.

One NumPy file with pre-processing and decode, runners for ONNX Runtime and the device, the ONNX,
the vendor's YAML and JSON, an image and its expected result.

  facezoo eject scrfd_500m_bnkps --to product/detector
  facezoo eject scrfd_500m_bnkps --model onnx/scrfd_500m_bnkps.onnx --to product/other
  facezoo eject w600k_mbf --to product/recogniser --image aligned_face.png
"""

from __future__ import annotations

import argparse

import numpy as np

from .. import weights
from ..contract import Contract, read_contract
from ..errors import InputError
from ..image.align import align_face
from ..image.files import read_image_rgb
from ..models import find_card
from ..pipeline.load import resolve, warn_of_differences
from . import flags
from .render import render_own_build

__all__ = ["configure", "run"]

SAMPLE = "astronaut"
# As scrfd_500m_bnkps finds them, rounded.
SAMPLE_POINTS = ((204, 101), (247, 104), (224, 129), (202, 140), (246, 142))


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("card", metavar="CARD", help="a variant that facezoo list shows")
    flags.add(
        parser,
        "--model",
        "graph that facezoo export wrote (default: made from the downloaded weights)",
        old=("--onnx",),
    )
    flags.add(parser, "--to", "new or empty folder", required=True)
    flags.add(parser, "--threads")
    flags.add(parser, "--image", "image of the expected result (default: the downloaded astronaut)")


def run(args: argparse.Namespace) -> int:
    """Write the folder and list it."""
    from ..deploy.eject import EJECTED_FILES, TAKE_FACES, eject

    card = find_card(args.card)
    graph, _ = resolve(args.model or card.id, card=card.id)
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
    card_id = contract.card_id
    lines = render_own_build(contract, card_id).splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    return text.replace(f"checkpoint: onnx/{card_id}.onnx", "checkpoint: model.onnx")
