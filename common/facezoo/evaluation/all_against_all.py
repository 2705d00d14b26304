"""All photos of a folder of people against each other: error rates, and whose errors they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

import numpy as np

from ..datasets.image_list import people_of
from ..errors import DatasetError
from ..metrics.all_pairs import PeoplePoint, compare_all, people_points
from .measured import MeasuredList
from .protocol import PhotoEmbeddings

__all__ = ["FMRS", "SCHEMA", "AllAgainstAllReport", "evaluate_all"]

SCHEMA = "facezoo.all_pairs/1"
FMRS = (1e-3, 1e-4, 1e-5, 1e-6)
PEOPLE_SHOWN = 5


@dataclass(frozen=True)
class AllAgainstAllReport:
    """Error rates over all pairs of photos.

    Attributes
    ----------
    name
        Name of the data set.
    photos
        What was compared; photos without a face are in no pair and are counted.
    people
        Name of each person.
    images
        Shape (people,), int64: photos with a face of each person.
    genuine, impostors
        Numbers of pairs.
    points
        One per rate of ``FMRS``.
    measured
        The photos with a face.
    """

    name: str
    photos: PhotoEmbeddings
    people: Tuple[str, ...]
    images: np.ndarray
    genuine: int
    impostors: int
    points: Tuple[PeoplePoint, ...]
    measured: MeasuredList

    def lines(self) -> List[str]:
        """Return the printed lines."""
        total, with_face = len(self.photos.found), int(np.count_nonzero(self.photos.found))
        face = "" if self.photos.choice == "aligned" else f", the {self.photos.choice} one"
        people = f"{len(self.people)} people{face}"
        lines = [
            f"{self.name}: a face in {with_face} of {total} photos of {people}",
            f"{self.genuine} genuine and {self.impostors} impostor pairs; 95 % intervals by people",
        ]
        for point in self.points:
            if point.threshold is None or point.misses is None:
                lines.append(f"    FNMR at FMR {point.fmr:g}: not measured, {point.refusal}")
                continue
            lines.append(
                f"    FNMR at FMR {point.fmr:g}: {point.fnmr:.5f} [{point.low:.5f}, "
                f"{point.high:.5f}] at cosine {point.threshold.cosine:.4f}; {point.misses.sum()} "
                f"misses of {np.count_nonzero(point.misses)} people"
            )
        measured = [(p.fmr, p.misses) for p in self.points if p.misses is not None]
        for fmr, misses in measured[-1:]:
            lines.append(f"    most misses at FMR {fmr:g}: {self._worst(misses)}")
        return [*lines, f"    {self.measured.line()}"]

    def _worst(self, misses: np.ndarray) -> str:
        order = np.argsort(-misses, kind="stable")[:PEOPLE_SHOWN]
        shown = [
            f"{self.people[row]} {misses[row]} of {self._pairs_of(row)}"
            for row in order
            if misses[row]
        ]
        return ", ".join(shown) or "nobody"

    def _pairs_of(self, person: int) -> int:
        return int(self.images[person] * (self.images[person] - 1) // 2)

    def to_dict(self) -> Dict[str, Any]:
        """Return everything as JSON values; of the people, those with an error."""
        people = []
        for row, name in enumerate(self.people):
            errors = {
                f"{point.fmr:g}": {
                    "misses": int(point.misses[row]),
                    "false_matches": int(point.false_matches[row]),
                }
                for point in self.points
                if point.misses is not None and point.false_matches is not None
            }
            if any(count for one in errors.values() for count in one.values()):
                pairs = {"images": int(self.images[row]), "genuine": self._pairs_of(row)}
                people.append({"person": name, **pairs, "at_fmr": errors})
        return {
            "name": self.name,
            "measured": self.measured.to_dict(),
            "face": self.photos.choice,
            "photos": {
                "total": len(self.photos.found),
                "with_face": int(np.count_nonzero(self.photos.found)),
                "unreadable": self.photos.unreadable,
            },
            "people": len(self.people),
            "pairs": {"genuine": self.genuine, "impostor": self.impostors},
            "operating_points": [_entry(point) for point in self.points],
            "people_with_errors": people,
        }


def _entry(point: PeoplePoint) -> Dict[str, Any]:
    if point.threshold is None:
        return {"fmr": point.fmr, "refused": point.refusal}
    return {
        "fmr": point.fmr,
        "fnmr": point.fnmr,
        "interval_95": [point.low, point.high],
        "cosine": point.threshold.cosine,
    }


def evaluate_all(photos: PhotoEmbeddings, name: str, *, seed: int = 0) -> AllAgainstAllReport:
    """Compare all photos with each other.

    Parameters
    ----------
    photos
        Embeddings; the first folder of a photo's name is its person.
    name
        Name in the report.
    seed
        Seed of the draws of people.

    Raises
    ------
    DatasetError
        If no person has two photos with a face.
    InputError
        If an embedding is zero or not finite, or all photos are of one person.
    """
    folders = np.array(people_of(photos.names, name))[photos.found]
    people, numbers, images = np.unique(folders, return_inverse=True, return_counts=True)
    if not (images > 1).any():
        raise DatasetError(
            f"none of the {len(people)} people of {name!r} has two photos with a face; expected "
            "one folder per person with several photos each"
        )
    pairs = compare_all(photos.vectors[photos.found], numbers.ravel(), max(FMRS))
    return AllAgainstAllReport(
        name=name,
        photos=photos,
        people=tuple(people.tolist()),
        images=images,
        genuine=len(pairs.genuine),
        impostors=pairs.impostors,
        points=tuple(people_points(pairs, FMRS, seed=seed)),
        measured=MeasuredList.of(
            name,
            "photos",
            (one for one, found in zip(photos.names, photos.found) if found),
            len(photos.names),
        ),
    )
