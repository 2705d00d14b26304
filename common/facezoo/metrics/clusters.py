"""How well groups of faces agree with people: B-cubed and pairwise precision and recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError

__all__ = ["Agreement", "ClusterScores", "score_clusters"]


@dataclass(frozen=True)
class Agreement:
    """One way of counting.

    Attributes
    ----------
    precision, recall
        From 0 to 1.
    """

    precision: float
    recall: float

    @property
    def f(self) -> float:
        """Harmonic mean of both; 0 if both are 0."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class ClusterScores:
    """Groups against people.

    Attributes
    ----------
    faces, people, groups
        Numbers of each.
    mixed
        Groups with faces of several people.
    b_cubed
        Averages over the faces: which share of a face's group is of its person, and which share of
        its person is in its group.
    pairwise
        Over the pairs of faces: which share of those in one group are of one person, and the
        reverse; 1 where there is no pair.
    """

    faces: int
    people: int
    groups: int
    mixed: int
    b_cubed: Agreement
    pairwise: Agreement


def score_clusters(people: ArrayLike, groups: ArrayLike) -> ClusterScores:
    """Compare groups of faces with the people they show.

    Parameters
    ----------
    people, groups
        Person and group of each face; as many.

    Raises
    ------
    InputError
        If there is no face.
    """
    truth, found = (np.unique(np.asarray(one), return_inverse=True)[1] for one in (people, groups))
    if not len(truth):
        raise InputError("no face has both a person and a group; expected at least one")
    counts = np.unique(np.stack([truth.ravel(), found.ravel()]), axis=1, return_counts=True)
    cells, sizes = counts[0], counts[1].astype(float)
    of_person, of_group = (np.bincount(one.ravel()).astype(float) for one in (truth, found))
    squares = sizes**2
    b_cubed = Agreement(
        float((squares / of_group[cells[1]]).sum() / len(truth)),
        float((squares / of_person[cells[0]]).sum() / len(truth)),
    )
    together = float((sizes * (sizes - 1)).sum())
    pairs = [float((one * (one - 1)).sum()) for one in (of_group, of_person)]
    pairwise = Agreement(*(together / one if one else 1.0 for one in pairs))
    mixed = int((np.bincount(cells[1]) > 1).sum())
    return ClusterScores(len(truth), len(of_person), len(of_group), mixed, b_cubed, pairwise)
