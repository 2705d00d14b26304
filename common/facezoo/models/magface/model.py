"""MagFace and other recognisers: from an aligned face to an embedding."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence

import numpy as np

from ...backends.base import Backend, Infer
from ...contract import Contract
from ...errors import DecodeError, InputError
from ...image.align import align_face
from ...results import Embedding, FaceDetections, FaceEmbeddings, RawOutputs
from .. import CARDS
from ..base import FaceModel
from . import decode as magface

__all__ = [
    "FLIPS",
    "FaceEmbedder",
]


FLIPS = ("none", "sum")


class FaceEmbedder(FaceModel[Embedding]):
    """MagFace or another recogniser on any runtime: ``embedding = model(face_rgb)``.

    The image is one face, aligned to 112x112 (:func:`~facezoo.image.align.align_face`); of a
    photo and a detector's faces see :meth:`on_faces`.

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

    def batch(self, faces_rgb: Sequence[np.ndarray]) -> List[Embedding]:
        """Embed several aligned faces in one run of the network.

        Parameters
        ----------
        faces_rgb
            Each (H, W, 3), uint8, RGB.
        """
        return self._embed(self.backend.infer_batch, faces_rgb)

    def on_faces(self, image_rgb: np.ndarray, faces: FaceDetections) -> FaceEmbeddings:
        """Align and embed the faces that a detector with landmarks found in a photo.

        Parameters
        ----------
        image_rgb
            The photo, shape (H, W, 3), uint8, RGB.
        faces
            Its faces.
        """
        return self._on_faces(self.backend.infer, image_rgb, faces)

    def settings(self) -> Dict[str, Any]:
        """Return what determines the results, as JSON values for the fingerprint of a run."""
        return {**super().settings(), "flip": self.flip}

    def embed(self, infer: Infer, image_rgb: np.ndarray) -> Embedding:
        """Embed one aligned face with the backend's single or its threaded ``infer``."""
        return self._apply(infer, image_rgb)

    def _apply(self, infer: Infer, image_rgb: np.ndarray) -> Embedding:
        return self._embed(lambda images: infer(images[0]), [image_rgb])[0]

    def _embed(
        self, infer: Callable[[Sequence[np.ndarray]], RawOutputs], faces_rgb: Sequence[np.ndarray]
    ) -> List[Embedding]:
        found = self._decode(infer(faces_rgb))
        if self.flip == "none":
            return found
        mirrored = [np.ascontiguousarray(face[:, ::-1]) for face in faces_rgb]
        others = self._decode(infer(mirrored))
        return [Embedding(one.vector + other.vector) for one, other in zip(found, others)]

    def _decode(self, raw: RawOutputs) -> List[Embedding]:
        found = magface.decode(raw)
        card = CARDS.get(self.contract.card_id)
        for embedding in found:
            if card and embedding.vector.size != card.outputs[0].channels:
                raise DecodeError(
                    f"an embedding has {embedding.vector.size} numbers, those of {card.id} have "
                    f"{card.outputs[0].channels}; export the model again"
                )
        return found

    def _on_faces(
        self, infer: Infer, image_rgb: np.ndarray, faces: FaceDetections
    ) -> FaceEmbeddings:
        crops = (align_face(image_rgb, points) for points in faces.landmarks_xy)
        return FaceEmbeddings(faces, tuple(self._apply(infer, crop) for crop in crops))
