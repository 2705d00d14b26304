"""Which faces show the same person."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Callable, Iterable, List, Optional

import numpy as np

from ..errors import InputError
from ..results import Embedding
from .photo import PredictedPhoto, Predictor

__all__ = [
    "Match",
    "match_photos",
    "number_people",
]


def number_people(blocks: Callable[[], Iterable[np.ndarray]], alike: float) -> List[int]:
    """Give a number to each person among faces, in the order they are first seen.

    Parameters
    ----------
    blocks
        Gives the embeddings in their order, as arrays (B, D); called again for each of these.
    alike
        Two faces are of one person if their cosine is above this. A face is assigned to the person
        of the most similar face before it.

    Returns
    -------
    list of int
        One per face, from 0.
    """
    people: List[int] = []
    count = 0
    for number, block in enumerate(blocks()):
        units = _units(block)
        cosines, nearest = np.full(len(units), -np.inf), np.zeros(len(units), int)
        start = 0
        for before in islice(blocks(), number):
            _take_nearer(cosines, nearest, units @ _units(before).T, start)
            start += len(before)
        among = units @ units.T
        for row, found in enumerate(among):
            if row:
                _take_nearer(cosines[row:][:1], nearest[row:][:1], found[None, :row], start)
            known = cosines[row] > alike
            people.append(people[nearest[row]] if known else count)
            count += not known
    return people


def _units(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _take_nearer(cosines: np.ndarray, nearest: np.ndarray, found: np.ndarray, start: int) -> None:
    """Note, in place, where one of the faces from ``start`` on is nearer than those before."""
    best = found.argmax(axis=1)
    values = found[np.arange(len(found)), best]
    nearer = values > cosines
    cosines[nearer], nearest[nearer] = values[nearer], start + best[nearer]


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
