"""A verification protocol from photos to accuracy: find faces, choose, align, embed, compare."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..backends.base import Infer, naming
from ..datasets.embeddings import ALIGNED, EmbeddingFile, read_embeddings
from ..datasets.protocols import PairProtocol
from ..errors import DatasetError, ImageError
from ..image.align import align_face
from ..image.files import read_image_rgb
from ..metrics.verification import cosine_similarity
from ..models.magface.model import FaceEmbedder
from ..models.scrfd.model import FaceDetector
from ..results import FaceDetections
from ..runs import Inputs, Outcome, Progress, RunFolder
from .embeddings import PackedEmbedding, unpack_vector
from .features import ARRAYS_FILE
from .verification_report import VerificationReport, verify_pairs

__all__ = [
    "CHOICES",
    "ChosenFace",
    "PhotoEmbeddings",
    "ProtocolReport",
    "choose_faces",
    "embed_photos",
    "evaluate_protocol",
    "find_faces",
]

# Which face of a photo is compared.
CHOICES = ("central", "largest")
FACES_FILE, FACES_SCHEMA = "faces.json", "facezoo.faces/1"
PAIRS_SHOWN = 10


@dataclass(frozen=True)
class PhotoEmbeddings:
    """One embedding per photo.

    Attributes
    ----------
    names
        Names of the photos.
    vectors
        Shape (N, D), float32, as the network gives them; zero for photos without a face.
    found
        Shape (N,), bool: whether there is a face.
    several
        Number of photos with more than one face.
    unreadable
        Number of photos that cannot be read; they have no face.
    choice
        ``central``, ``largest``, or ``aligned`` if the photos are aligned faces.
    """

    names: Tuple[str, ...]
    vectors: np.ndarray
    found: np.ndarray
    several: int
    unreadable: int
    choice: str


@dataclass(frozen=True)
class ChosenFace:
    """The face of a photo that is compared.

    Attributes
    ----------
    index
        Of the detector's faces.
    landmarks_xy
        Shape (5, 2), float32, pixels of the photo.
    count
        Number of faces in the photo.
    """

    index: int
    landmarks_xy: np.ndarray
    count: int


class _NoFace:
    """Entry of a photo without a face."""

    def to_dict(self) -> Dict[str, Any]:
        return {}


def find_faces(
    detector: FaceDetector,
    paths: Sequence[Path],
    names: Sequence[str],
    folder: Path,
    *,
    overwrite: bool = False,
    sources: Sequence[Path] = (),
    progress: Progress = lambda items, total: items,
) -> List[Optional[FaceDetections]]:
    """Find all faces of photos; an interrupted run is resumed, a finished one is read.

    Parameters
    ----------
    detector
        Detector with its profile.
    paths, names
        The photos, and their names in the run.
    folder
        Run folder.
    overwrite
        Remove what an earlier run wrote there, and start again.
    sources
        Other files that are read: none of them may be in the folder.
    progress
        Wraps the loop.

    Returns
    -------
    list of FaceDetections or None
        One per photo; None if it cannot be read.

    Raises
    ------
    RunFolderError
        If the folder belongs to another run.
    """

    def detect(left: Sequence[Path]) -> Iterator[Outcome]:
        return detector.stream(left)

    with RunFolder(
        folder,
        command="evaluate verification, faces",
        settings=detector.settings(),
        inputs=Inputs(paths, names, *sources),
        overwrite=overwrite,
    ) as run:
        run.process(
            names,
            paths,
            detect,
            finish=lambda run: run.write_items(FACES_FILE, FACES_SCHEMA, "photos"),
            progress=progress,
        )
    entries = json.loads((folder / FACES_FILE).read_text(encoding="utf-8"))["photos"]
    return [FaceDetections.from_dict(one) if "faces" in one else None for one in entries]


def choose_faces(
    faces: Sequence[Optional[FaceDetections]], choice: str
) -> List[Optional[ChosenFace]]:
    """Choose one face of each photo.

    Parameters
    ----------
    faces
        Result of :func:`find_faces`.
    choice
        One of ``CHOICES``: the face nearest to the middle of the photo, or the one with the largest
        box.

    Returns
    -------
    list of ChosenFace or None
        One per photo; None if it has no face or cannot be read.
    """
    return [None if one is None or not len(one) else _chosen(one, choice) for one in faces]


def _chosen(faces: FaceDetections, choice: str) -> ChosenFace:
    index = faces.central() if choice == "central" else faces.largest()
    return ChosenFace(index, faces.landmarks_xy[index], len(faces))


def embed_photos(
    embedder: FaceEmbedder,
    paths: Sequence[Path],
    names: Sequence[str],
    folder: Path,
    *,
    chosen: Optional[Sequence[Optional[ChosenFace]]] = None,
    choice: str = "aligned",
    detector: Optional[Mapping[str, Any]] = None,
    overwrite: bool = False,
    sources: Sequence[Path] = (),
    progress: Progress = lambda items, total: items,
) -> PhotoEmbeddings:
    """Embed one face of each photo; resumable.

    Parameters
    ----------
    embedder
        The network.
    paths, names
        The photos, and their names in the run.
    folder
        Run folder; the result is its ``embeddings.npz``.
    chosen
        Result of :func:`choose_faces`; None if the photos are aligned faces.
    choice
        How they were chosen; ``aligned`` if the photos are aligned faces.
    detector
        Settings of the detector that found the faces.
    overwrite, sources, progress
        As for :func:`find_faces`.

    Raises
    ------
    DatasetError
        If there is no face in any photo.
    RunFolderError
        If the folder belongs to another run.
    """
    if chosen is not None and all(one is None for one in chosen):
        raise DatasetError(
            f"no face was found in any of {len(paths)} photos, such as {str(paths[0])!r}; expected "
            "photos of faces"
        )

    def one(_: Infer, row: int) -> Outcome:
        try:
            face = read_image_rgb(paths[row])
        except ImageError as error:
            return error
        if chosen is not None:
            found = chosen[row]
            if found is None:
                return _NoFace()
            face = align_face(face, found.landmarks_xy)
        with naming(paths[row]):
            return PackedEmbedding(embedder.batch([face], shared=True)[0].vector)

    def finish(run: RunFolder) -> None:
        _write(run, chosen)
        run.finish(ARRAYS_FILE)

    with RunFolder(
        folder,
        command="evaluate verification, embeddings",
        settings={**embedder.settings(), "face": choice, "detector": detector},
        inputs=Inputs(paths, names, *sources),
        overwrite=overwrite,
    ) as run:
        run.process(
            names,
            range(len(paths)),
            lambda left: embedder.backend.map(one, left),
            finish=finish,
            progress=progress,
        )
        unreadable = run.refused
    vectors, found = _read(folder / ARRAYS_FILE, names)
    several = sum(one is not None and one.count > 1 for one in chosen or ())
    return PhotoEmbeddings(tuple(names), vectors, found, several, unreadable, choice)


def _write(run: RunFolder, chosen: Optional[Sequence[Optional[ChosenFace]]]) -> None:
    with EmbeddingFile(run.folder) as embedded:
        for row, entry in enumerate(run.entries()):
            if "vector" in entry:
                face = chosen[row] if chosen is not None else None
                index = ALIGNED if face is None else face.index
                embedded.add(entry["path"], unpack_vector(entry), index)
        if not len(embedded):
            raise DatasetError("none of the photos can be read; fix those named above")
        embedded.write(run.folder / ARRAYS_FILE)


def _read(path: Path, names: Sequence[str]) -> Tuple[np.ndarray, np.ndarray]:
    """Return the vectors in the order of the names, and which names have one."""
    embeddings = read_embeddings(path)
    row_of = {name: row for row, name in enumerate(names)}
    rows = np.array([row_of[name] for name in embeddings.names])
    vectors = np.zeros((len(names), embeddings.vectors.shape[1]), np.float32)
    vectors[rows] = embeddings.vectors
    found = np.zeros(len(names), bool)
    found[rows] = True
    return vectors, found


@dataclass(frozen=True)
class ProtocolReport:
    """Accuracy of a protocol on photos.

    Attributes
    ----------
    protocol, photos
        What was compared.
    cosines
        Shape (N,): similarity of each pair, -1 without a face.
    unknown
        Shape (N,), bool: pairs with a photo without a face, which count as not matching.
    verification
        Accuracy, operating points, wrong decisions.
    """

    protocol: PairProtocol
    photos: PhotoEmbeddings
    cosines: np.ndarray
    unknown: np.ndarray
    verification: VerificationReport

    def lines(self) -> List[str]:
        """Return the printed lines."""
        photos, wrong = self.photos, self._wrong()
        face = {
            "aligned": "aligned faces, used as they are",
            "central": f"the central one of a photo is used, {photos.several} photos have several",
            "largest": f"the largest one of a photo is used, {photos.several} photos have several",
        }[photos.choice]
        lines = [
            str(self.protocol),
            f"a face in {np.count_nonzero(photos.found)} of {len(photos.found)} photos; {face}",
            f"{np.count_nonzero(self.unknown)} pairs lack a face and count as not matching",
            *self.verification.lines(),
            f"    wrong decisions: {len(wrong)} of {len(self.protocol)}",
        ]
        for pair in wrong[:PAIRS_SHOWN]:
            kind = "one person" if pair["same"] else "two people"
            lines.append(f"      {pair['first']} {pair['second']}: {kind}, {pair['cosine']:.4f}")
        if len(wrong) > PAIRS_SHOWN:
            lines.append(f"      and {len(wrong) - PAIRS_SHOWN} more (--json lists all)")
        return lines

    def _wrong(self) -> List[Dict[str, Any]]:
        """List the pairs with a wrong decision: genuine ones first, the most surprising first."""
        rows = np.flatnonzero(self.verification.wrong)
        protocol = self.protocol
        fold = np.searchsorted(protocol.edges, rows, side="right")
        found = [
            {
                "first": protocol.first[row],
                "second": protocol.second[row],
                "same": bool(protocol.is_same[row]),
                "cosine": float(self.cosines[row]),
                "fold": int(number),
            }
            for row, number in zip(rows, fold)
        ]
        return sorted(
            found,
            key=lambda one: (not one["same"], one["cosine"] if one["same"] else -one["cosine"]),
        )

    def to_dict(self) -> Dict[str, Any]:
        """Return everything but the curve as JSON values."""
        photos = self.photos
        return {
            **self.verification.to_dict(),
            "layout": self.protocol.layout,
            "face": photos.choice,
            "photos": {
                "total": len(photos.found),
                "with_face": int(np.count_nonzero(photos.found)),
                "with_several_faces": photos.several,
                "unreadable": photos.unreadable,
            },
            "pairs_without_face": int(np.count_nonzero(self.unknown)),
            "wrong": self._wrong(),
        }


def evaluate_protocol(
    protocol: PairProtocol, photos: PhotoEmbeddings, name: str, *, how: str = "authors"
) -> ProtocolReport:
    """Compare the pairs of a protocol in its own folds.

    Parameters
    ----------
    protocol
        The pairs.
    photos
        Embeddings of its photos, in their order.
    name
        Name in the report.
    how
        How the accuracy is computed, see :func:`verify_pairs`.

    Raises
    ------
    InputError
        If the pairs cannot be evaluated.
    """
    rows = protocol.rows()
    first, second = (photos.vectors[side].astype(np.float64) for side in rows.T)
    known = photos.found[rows].all(axis=1)
    cosines = np.full(len(rows), -1.0)
    cosines[known] = cosine_similarity(first[known], second[known])
    report = verify_pairs(
        name,
        first,
        second,
        protocol.is_same,
        protocol.sides,
        protocol=how,
        folds=protocol.edges,
        found=known,
    )
    return ProtocolReport(protocol, photos, cosines, ~known, report)
