"""Find the person of one photo in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from ..errors import InputError
from ..results import Embedding
from .photo import PredictedPhoto, Predictor

__all__ = [
    "Match",
    "match_photos",
]


@dataclass(frozen=True)
class Match:
    """The largest face of one photo against every face of another.

    Attributes
    ----------
    first, second
        The faces of the two photos.
    index
        Of the largest face of the first.
    cosines
        Shape (M,): to each face of the second.
    """

    first: PredictedPhoto
    second: PredictedPhoto
    index: int
    cosines: np.ndarray

    @property
    def best(self) -> int:
        """Index of the nearest face of the second photo."""
        return int(np.argmax(self.cosines))

    @property
    def next_cosine(self) -> Optional[float]:
        """Cosine of the second nearest face; None if there is only one."""
        return float(np.sort(self.cosines)[-2]) if len(self.cosines) > 1 else None


def match_photos(model: Predictor, first: np.ndarray, second: np.ndarray) -> Match:
    """Look for the person of one photo in another.

    Parameters
    ----------
    model
        Detector and recogniser, which embeds every face.
    first, second
        Photos, shape (H, W, 3), uint8, RGB; the largest face of the first is used.

    Raises
    ------
    InputError
        If there is no face in one of them, or the model refuses one.
    """
    a, b = model(first), model(second)
    units = []
    for found, which in ((a, "first"), (b, "second")):
        if not len(found):
            raise InputError(f"no face was found in the {which} photo; expected at least one")
        vectors = [face.vector for face in found.faces if face.vector is not None]
        if len(vectors) < len(found):
            raise InputError(
                f"{len(found) - len(vectors)} of {len(found)} faces in the {which} photo have no "
                "embedding; compare with a Predictor that has an embedder and no acceptance"
            )
        units.append(np.stack([Embedding(vector).unit for vector in vectors]))
    index = a.detections.largest()
    return Match(a, b, index, units[1].astype(np.float64) @ units[0][index])
