"""Who is in photos, by a gallery: names for faces, each at most once per photo."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..datasets.image_list import people_of
from ..errors import ImageError, InputError
from ..image.boxes import match_boxes
from ..image.files import find_images, relative_names
from ..metrics.identification import StrangerScores, threshold_at_fpir
from ..pipeline.photo import Predictor
from ..runs import reason_of
from .faces import (
    EmbeddedFaces,
    FacesBuilder,
    Space,
    faces_of_photos,
    find_tables,
    read_faces,
)
from .gallery import Enrolled, Gallery

__all__ = [
    "NamedFace",
    "Namer",
    "assign_names",
    "embed_again",
    "name_faces",
    "read_strangers",
    "threshold_for",
]

# Candidates per face that names are assigned from; a photo with more faces gets as many more.
CANDIDATES = 8


@dataclass(frozen=True)
class NamedFace:
    """A face, who it is, and whom it is most similar to.

    Attributes
    ----------
    photo, face
        Name of the photo, index of the face in it.
    name
        The person; empty for a stranger.
    candidates
        The most similar people with their cosines, descending.
    """

    photo: str
    face: int
    name: str
    candidates: Tuple[Tuple[str, float], ...]

    def to_dict(self) -> Dict[str, Any]:
        """Return the face as JSON values."""
        candidates = [{"person": name, "cosine": cosine} for name, cosine in self.candidates]
        return {
            "photo": self.photo,
            "face": self.face,
            "name": self.name or None,
            "candidates": candidates,
        }


def read_strangers(gallery: Gallery, path: Path, model: Predictor) -> StrangerScores:
    """Compare people who are not enrolled with a gallery.

    Parameters
    ----------
    gallery
        The gallery.
    path
        A folder with one folder per person, or results of bulk scoring; the largest face of a photo
        is used.
    model
        The chain that embeds photos.

    Raises
    ------
    InputError
        If they were made by another model, or one of them is enrolled.
    """
    if find_tables(path):
        faces = read_faces(path)
    else:
        paths = find_images(path)
        faces = faces_of_photos(model, paths, relative_names(paths, path))
    gallery.space.refuse_other(faces.space, repr(str(gallery.folder)), repr(str(path)))
    faces = faces.one_per_photo("largest")
    people = people_of(faces.photos, str(path))
    enrolled = sorted(set(people) & set(gallery.names))
    if enrolled:
        raise InputError(
            f"{enrolled[0]!r} is among the strangers of {str(path)!r}, and enrolled in "
            f"{str(gallery.folder)!r}; take people who are not"
        )
    cosines, _ = gallery.search(faces.vectors, 1, exact=True)
    best = cosines[:, 0] if cosines.shape[1] else np.zeros(0)
    numbers = np.unique(np.asarray(people), return_inverse=True)[1].ravel()[: len(best)]
    return StrangerScores(best.astype(np.float64), numbers, len(gallery))


def threshold_for(
    gallery: Gallery,
    fpir: float,
    cosine: Optional[float] = None,
    strangers: Optional[StrangerScores] = None,
) -> Tuple[float, str]:
    """Return the cosine from which on a face is known in a gallery, and where it comes from.

    Parameters
    ----------
    gallery
        The gallery.
    fpir
        Share of strangers' faces that may be given a name.
    cosine
        The user's own threshold, in place of that.
    strangers
        Scores of people who are not enrolled; by default those of the enrolled among each other.

    Raises
    ------
    InputError
        If there are too few people to tell.
    """
    if cosine is not None:
        return cosine, f"cosine {cosine:.4f}, yours"
    found = threshold_at_fpir(strangers or gallery.strangers, fpir, len(gallery))
    try:
        return found.used, found.line()
    except InputError as error:
        raise InputError(
            f"{error}; enrol more people, name photos of others as --strangers, allow a higher "
            "--fpir, or give a cosine: --min-similarity X"
        ) from error


class Namer:
    """Names the faces of one photo after the other.

    Parameters
    ----------
    gallery
        The known people.
    space
        Of the embeddings to come.
    threshold
        Cosine from which on a face is known.

    Attributes
    ----------
    threshold
        The same.
    """

    def __init__(self, gallery: Gallery, space: Space, threshold: float) -> None:
        gallery.space.refuse_other(space, repr(str(gallery.folder)), "this run")
        self._gallery, self.threshold = gallery, threshold

    def names(self, vectors: np.ndarray) -> List[Tuple[Optional[str], float]]:
        """Return name (None for a stranger) and cosine to the most similar person, per face.

        Parameters
        ----------
        vectors
            Shape (F, D): embeddings of the faces of one photo.
        """
        wanted = max(CANDIDATES, len(vectors))
        cosines, people = self._gallery.search(vectors, wanted)
        if not cosines.shape[1]:
            return [(None, -1.0)] * len(vectors)
        found = []
        for row, person in enumerate(assign_names(cosines, people, self.threshold)):
            place = 0 if person < 0 else int(np.argmax(people[row] == person))
            name = None if person < 0 else self._gallery.names[person]
            found.append((name, round(float(cosines[row, place]), 6)))
        return found


def assign_names(cosines: np.ndarray, people: np.ndarray, threshold: float) -> np.ndarray:
    """Give the faces of one photo the names of known people, each name at most once.

    Of all ways to do so, the one with the largest sum of similarities above the threshold is
    taken, rather than the most similar name for each face by itself.

    Parameters
    ----------
    cosines, people
        Shape (F, C): of each face's most similar people, and who they are.
    threshold
        A face is known only if its cosine is above this.

    Returns
    -------
    numpy.ndarray
        Shape (F,), int: the person of each face; -1 for a stranger.
    """
    named = np.full(len(cosines), -1)
    every, column = np.unique(people, return_inverse=True)
    gains = np.zeros((len(cosines), len(every)))
    rows = np.repeat(np.arange(len(cosines)), people.shape[1] if people.ndim == 2 else 0)
    gains[rows, column.ravel()] = np.maximum(0.0, cosines.ravel().astype(np.float64) - threshold)
    for face, person in zip(*linear_sum_assignment(gains, maximize=True)):
        if gains[face, person] > 0:
            named[face] = every[person]
    return named


def name_faces(
    gallery: Gallery, faces: EmbeddedFaces, threshold: float, top: int
) -> List[NamedFace]:
    """Name the faces of photos.

    Parameters
    ----------
    gallery
        The known people.
    faces
        Of the gallery's space.
    threshold
        Cosine from which on a face is known.
    top
        Number of candidates to return per face.
    """
    found: List[NamedFace] = []
    for rows in _by_photo(faces.photos):
        wanted = max(top, CANDIDATES, len(rows))
        cosines, people = gallery.search(faces.vectors[rows], wanted)
        names = assign_names(cosines, people, threshold)
        for place, row in enumerate(rows):
            candidates = tuple(
                (gallery.names[person], float(cosine))
                for person, cosine in zip(people[place, :top], cosines[place, :top])
            )
            name = gallery.names[names[place]] if names[place] >= 0 else ""
            found.append(NamedFace(faces.photos[row], int(faces.index[row]), name, candidates))
    return found


def _by_photo(photos: Sequence[str]) -> Iterable[np.ndarray]:
    rows: Dict[str, List[int]] = {}
    for row, photo in enumerate(photos):
        rows.setdefault(photo, []).append(row)
    return [np.array(one) for one in rows.values()]


def embed_again(
    gallery: Gallery, model: Predictor, root: Optional[Path] = None
) -> Tuple[Optional[Enrolled], List[Tuple[str, str]]]:
    """Embed the faces of a gallery with another model, from the photos it lists.

    Parameters
    ----------
    gallery
        The gallery.
    model
        The chain; its faces are the gallery's where their boxes overlap most, by half or more.
    root
        Folder of photos that are listed without one.

    Returns
    -------
    enrolled : Enrolled or None
        The faces that were embedded; None if the gallery is empty.
    lost : list of tuple
        Photo and reason of each that was not.
    """
    if not gallery.faces:
        return None, []
    old = gallery.enrolled()
    rows_of: Dict[str, List[int]] = {}
    for row, photo in enumerate(old.photos):
        rows_of.setdefault(photo, []).append(row)
    paths = [Path(os.path.join(root or "", photo)) for photo in rows_of]  # noqa: PTH118
    builder = FacesBuilder(Space.of(model.settings()))
    rows: List[int] = []
    lost: List[Tuple[str, str]] = []
    for (photo, wanted), found in zip(rows_of.items(), model.stream(paths)):
        if isinstance(found, ImageError):
            lost += [(photo, reason_of(found)) for _ in wanted]
            continue
        pairs = match_boxes(old.boxes[wanted], found.detections.boxes_xyxy)
        faces = {wanted[place]: int(face) for place, face in pairs}
        for row in wanted:
            face = faces.get(row)
            if face is None or found[face].vector is None:
                reasons = "" if face is None else ", ".join(found[face].reasons)
                lost.append((photo, reasons or "the face is not found in it"))
            else:
                builder.face(photo, face, found)
                rows.append(row)
    faces_again = builder.faces()
    again = Enrolled.of(faces_again, [old.people[row] for row in rows])
    return again, lost
