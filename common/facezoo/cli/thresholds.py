"""The threshold of a command that compares faces: the user's, a profile's, or the built-in one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Optional, Tuple

from ..errors import InputError
from . import flags

# The rest is imported where it is used, since the help needs none of it.
if TYPE_CHECKING:
    from ..contract import Contract
    from ..models.magface.model import FaceEmbedder

__all__ = ["add_threshold", "threshold_for", "threshold_of"]


def add_threshold(parser: Any, *, built_in: str = "the built-in one") -> None:
    """Add ``--threshold``, ``--similarity`` and ``--fmr``, which :func:`threshold_of` reads."""
    threshold = parser.add_mutually_exclusive_group()
    flags.add(
        threshold,
        "--threshold",
        f"{flags.SHARED['--threshold'].meaning} (default: {built_in})",
    )
    flags.add(
        threshold,
        "--similarity",
        f"profile of facezoo calibrate similarity, whose threshold to use (default: {built_in})",
        old=("--profile",),
    )
    flags.add(parser, "--fmr", "false match rate, one of those in the profile", old=("--far",))


def threshold_of(args: argparse.Namespace, contract: Contract, sha256: Any) -> Tuple[float, str]:
    """Return the smallest cosine of two faces of one person, and where it comes from.

    Parameters
    ----------
    args
        Parsed, with the flags of :func:`add_threshold`.
    contract, sha256
        Contract of the recogniser, and hash of its file.

    Raises
    ------
    InputError
        If the profile is of another file, or no threshold is given and none is built in.
    """
    return _given(args, sha256) or _built_in(contract)


def threshold_for(
    args: argparse.Namespace, card_id: str, sha256: Any, embedder: Optional[FaceEmbedder] = None
) -> Tuple[float, str]:
    """Return the threshold for embeddings, as :func:`threshold_of`.

    Parameters
    ----------
    args
        Parsed, with the flags of :func:`add_threshold`, ``--embedder`` and those of the runtime.
    card_id, sha256
        Card and hash of the file that made the embeddings.
    embedder
        The recogniser; None if it is not open, since tables hold the embeddings.

    Raises
    ------
    InputError
        As :func:`threshold_of`, or if ``--embedder`` is another file.
    """
    from ..models.magface.model import FaceEmbedder as Embedder
    from ..pipeline.load import load
    from .options import runtime_of

    given = _given(args, sha256)
    if given:
        return given
    if embedder is not None:
        return _built_in(embedder.contract)
    # Tables say which file made the embeddings, not where it is.
    with load(args.embedder, kind=Embedder, runtime=runtime_of(args)) as found:
        if found.settings().get("model_sha256") != sha256:
            raise InputError(
                f"no threshold is known for the file of {card_id} that made the embeddings: it is "
                f"not --embedder {args.embedder}; name that file, or give a --threshold or a "
                "profile as --similarity"
            )
        return _built_in(found.contract)


def _given(args: argparse.Namespace, sha256: Any) -> Optional[Tuple[float, str]]:
    from ..metrics.verification import Threshold
    from ..profiles.similarity import read_similarity

    if args.threshold is not None:
        return Threshold.from_cosine(args.threshold).cosine, "yours"
    if args.similarity is not None:
        cosine = read_similarity(args.similarity, sha256).cosine_at(args.fmr)
        return cosine, f"that of {args.similarity} at FMR {args.fmr:g}"
    return None


def _built_in(contract: Contract) -> Tuple[float, str]:
    from ..models import WEIGHTS
    from ..models.magface.card import MATCH_THRESHOLDS

    card_id = contract.card_id
    # A network of others can be exported under a card; its embeddings have another scale.
    is_other = card_id in WEIGHTS and contract.source_sha256 != WEIGHTS[card_id].sha256
    if card_id not in MATCH_THRESHOLDS or is_other:
        network = f"this network under the name of {card_id}" if is_other else card_id
        raise InputError(
            f"no threshold was measured for {network}; give a profile as --similarity, which "
            "facezoo calibrate similarity measures on your images, or a --threshold"
        )
    found = MATCH_THRESHOLDS[card_id]
    return found.cosine, found.origin
