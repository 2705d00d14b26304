"""Make the ONNX that the compiler takes, from published weights or a checkpoint.

The pre-processing and everything else that a runtime must know is written into the file. Nothing
is written before the new graph has been compared with its source.

  facezoo export scrfd_500m_bnkps --output onnx/scrfd_500m_bnkps.onnx
  facezoo export magface_iresnet50 magface_epoch_00025.pth --output onnx/magface_iresnet50.onnx
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Optional

from ..errors import InputError
from . import flags, options
from .outputs import OutputFile

__all__ = ["configure", "export", "run"]

_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("card", metavar="CARD", help="a variant that facezoo list shows")
    parser.add_argument(
        "source",
        nargs="?",
        metavar="FILE",
        help="published .onnx, or checkpoint, which needs torch (default: the downloaded weights)",
    )
    flags.add(
        parser,
        "--output",
        "the .onnx to write",
        action=OutputFile,
        suffix=".onnx",
        required=True,
        metavar="FILE",
    )
    options.add_batch_option(parser)
    options.add_threads_option(parser)


def run(args: argparse.Namespace) -> int:
    """Export and name the outputs."""
    return export(args.card, args.source, args.output, args.batch)


def export(card_id: str, source: Optional[str], output: Path, batch: Optional[int] = None) -> int:
    """Export a card's network, and print what was written.

    Parameters
    ----------
    card_id
        The variant.
    source
        A file, or the name it was downloaded under; None for the card's published weights.
    output
        The .onnx to write.
    batch
        Fixed batch size; None for a free one.

    Raises
    ------
    InputError
        If there is no source, or the card has no network to load a checkpoint into.
    GraphError
        If the file is the network of another card; nothing is written then.
    """
    # Imported here, since the help needs none of it.
    from .. import weights
    from ..contract import read_contract
    from ..models import find_card, has_part
    from ..pipeline.load import checkpoint_name, export_graph

    card = find_card(card_id)
    published = card.weights or checkpoint_name(card)
    if not source and not published:
        raise InputError(f"no weights of {card.id} are published; give the file")
    file = weights.locate(source or published)
    _log.info("exporting %s from %s, and comparing both", card.id, file)
    if file.suffix == ".onnx":
        if not has_part(card.model, "graph"):
            raise InputError(f"{card.id} is made from a checkpoint (.pth), not from {str(file)!r}")
        export_graph(card, file, output, batch)
    else:
        if not has_part(card.model, "checkpoint"):
            raise InputError(f"{card.id} is made from an .onnx file, not from {str(file)!r}")
        part = options.import_torch_part(f"facezoo.models.{card.model}.checkpoint")
        part.export_checkpoint(file, part.NETWORKS[card.id], output, batch=batch)
    found = read_contract(output)
    print(f"{output}: {found.card_id}, outputs {' '.join(found.output_names)}")
    return 0
