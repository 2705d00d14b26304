"""MagFace and other recognisers: from an aligned face to an embedding."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from ...backends.base import Backend
from ...contract import Contract
from ...errors import DecodeError, InputError
from ...results import Embedding, RawOutputs
from .. import CARDS, WEIGHTS
from ..base import FaceModel
from . import decode as magface

__all__ = [
    "FLIPS",
    "MODEL",
    "FaceEmbedder",
]


FLIPS = ("none", "sum")


class FaceEmbedder(FaceModel[Embedding]):
    """MagFace or another recogniser on any runtime: ``embedding = model(face_rgb)``.

    The image is one face, aligned to 112x112 (:func:`~facezoo.image.align.align_face`).

    Parameters
    ----------
    backend, contract
        See :class:`FaceModel`.
    flip
        ``none``, as in the authors' evaluation, or ``sum``: add the embedding of the mirrored
        face. A sum is about twice as long, so its norm is no longer a quality.

    Raises
    ------
    InputError
        If ``flip`` has another value.
    """

    def __init__(self, backend: Backend, contract: Contract, flip: str = "none") -> None:
        super().__init__(backend, contract)
        if flip not in FLIPS:
            raise InputError(f"flip must be one of {', '.join(FLIPS)}, got {flip!r}")
        self.flip = flip

    def batch(self, images_rgb: Sequence[np.ndarray], *, shared: bool = False) -> List[Embedding]:
        """Embed aligned faces, mirrored ones in a second run; see :meth:`FaceModel.batch`."""
        found = self._decode(self._infer(images_rgb, shared))
        if self.flip == "none":
            return found
        mirrored = [np.ascontiguousarray(face[:, ::-1]) for face in images_rgb]
        others = self._decode(self._infer(mirrored, shared))
        return [Embedding(one.vector + other.vector) for one, other in zip(found, others)]

    def settings(self) -> Dict[str, Any]:
        """Return what determines the results, as JSON values for the fingerprint of a run."""
        return {**super().settings(), "flip": self.flip}

    def _decode(self, raw: RawOutputs) -> List[Embedding]:
        found = magface.decode(raw)
        card = CARDS.get(self.contract.card_id)
        # Another network that was exported under the card has embeddings of its own length.
        published = WEIGHTS[card.weights].sha256 if card and card.weights else ""
        is_own = self.contract.source_sha256 in ("", published)
        for embedding in found:
            if card and is_own and embedding.vector.size != card.outputs[0].channels:
                raise DecodeError(
                    f"an embedding has {embedding.vector.size} numbers, those of {card.id} have "
                    f"{card.outputs[0].channels}; export the model again"
                )
        return found


MODEL = FaceEmbedder
