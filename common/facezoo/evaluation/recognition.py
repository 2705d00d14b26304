"""Recognition over many faces: embeddings into files, and folders of people into an accuracy."""

from __future__ import annotations

import csv
import io
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple, Union

import numpy as np

from ..backends.base import Infer, naming
from ..datasets.embeddings import read_embeddings
from ..datasets.face_sets import read_set
from ..datasets.image_list import read_lines
from ..datasets.pairs import people_pairs, read_bin, read_feature_pairs
from ..errors import DatasetError, ImageError
from ..image.files import decode_image_rgb, find_images, relative_names
from ..metrics.verification import best_threshold, cosine_similarity
from ..models.magface.model import FaceEmbedder
from ..pipeline.photo import PredictedPhoto, Predictor
from ..results import Embedding
from ..runs import Progress
from .features import ARRAYS_FILE, FEATURES_FILE, extract_features
from .verification_report import VerificationReport, verify_pairs

__all__ = [
    "PeopleReport",
    "Similarities",
    "compare_listed",
    "evaluate_encoded",
    "evaluate_people",
    "evaluate_set",
]


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PeopleReport:
    """Accuracy over a folder of people.

    Attributes
    ----------
    pictures, with_face
        Pictures, and those in which a face was found; all of them if none was looked for.
    people
        Number of people.
    verification
        Over all pairs of one person and as many of two.
    images_per_second
        From file to embedding.
    """

    pictures: int
    with_face: int
    people: int
    verification: VerificationReport
    images_per_second: float


@dataclass(frozen=True)
class Similarities:
    """Cosines of listed pairs.

    Attributes
    ----------
    pairs
        The two names of each.
    cosines
        Shape (N,).
    is_same
        Shape (N,), bool; None if the list does not say.
    """

    pairs: Tuple[Tuple[str, str], ...]
    cosines: np.ndarray
    is_same: Optional[np.ndarray] = None

    def lines(self) -> List[str]:
        """Return one line a pair, and how well one threshold separates them if that is known."""
        found = [f"{a} {b} {cosine:.4f}" for (a, b), cosine in zip(self.pairs, self.cosines)]
        if self.is_same is not None and 0 < np.count_nonzero(self.is_same) < len(self.is_same):
            threshold, accuracy = best_threshold(self.cosines, self.is_same)
            found.append(
                f"best threshold: cosine {threshold.cosine:.4f}, accuracy {accuracy:.5f} on these "
                f"{len(self.pairs)} pairs"
            )
        return found

    def to_csv(self) -> str:
        """Return a table: first, second, cosine and, if it is known, same."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        known = self.is_same is not None
        writer.writerow(["first", "second", "cosine", *["same"] * known])
        labels = self.is_same.tolist() if self.is_same is not None else [None] * len(self.pairs)
        for (a, b), cosine, same in zip(self.pairs, self.cosines.tolist(), labels):
            writer.writerow([a, b, f"{cosine:.6f}", *[int(bool(same))] * known])
        return text.getvalue()


def compare_listed(folder: Path, pair_list: Path) -> Similarities:
    """Compare the pairs of a list by the embeddings that a runner or decoder has written.

    Parameters
    ----------
    folder
        Its results.
    pair_list
        Two names a line as the results have them, and perhaps 1 for one person, 0 for two.

    Raises
    ------
    DatasetError
        If a line has other parts, or names a picture without an embedding; names the line.
    """
    embeddings = read_embeddings(folder / ARRAYS_FILE)
    row_of = {name: row for row, name in enumerate(embeddings.names)}
    vectors = embeddings.vectors.astype(np.float64)
    pairs, labels = [], []
    for number, line in read_lines(pair_list):
        words = line.split()
        unknown = [name for name in words[:2] if name not in row_of]
        if len(words) not in (2, 3) or words[2:] not in ([], ["0"], ["1"]) or unknown:
            problem = f"{unknown[0]!r} has no embedding" if unknown else f"got {line[:80]!r}"
            raise DatasetError(
                f"{str(pair_list)!r}: line {number}: {problem}; expected two names as in "
                f"{FEATURES_FILE}, and perhaps 1 or 0"
            )
        pairs.append((words[0], words[1]))
        labels.append(words[2:])
    rows = np.array([[row_of[a], row_of[b]] for a, b in pairs])
    cosines = cosine_similarity(vectors[rows[:, 0]], vectors[rows[:, 1]])
    is_same = np.array([label == ["1"] for label in labels]) if all(labels) else None
    return Similarities(tuple(pairs), cosines, is_same)


def evaluate_people(
    model: Union[FaceEmbedder, Predictor],
    images: Path,
    name: str,
    *,
    seed: int = 0,
    everything: bool = False,
    progress: Progress = lambda items, total: items,
) -> PeopleReport:
    """Measure how well a folder of people, one folder each, is told apart.

    Parameters
    ----------
    model
        Of aligned faces, or of photos, of which the largest face is taken.
    images
        The folder.
    name
        What the report calls it.
    seed, everything
        Of the pairs of two people: as many as there are of one, or all.
    progress
        Wraps the loop.

    Returns
    -------
    PeopleReport
        Pictures that cannot be read end it; those without a face are counted and left out.

    Raises
    ------
    ImageError
        If a picture cannot be read.
    DatasetError
        If there are not enough pictures with a face.
    """
    paths = find_images(images)
    people, vectors = [], []
    started = time.perf_counter()
    for path, result in progress(model.stream(paths), len(paths)):
        if isinstance(result, ImageError):
            raise result
        vector = _main_vector(result)
        if vector is None:
            _log.warning("no face in %s", path)
            continue
        people.append(relative_names([path], images)[0].rpartition("/")[0])
        vectors.append(vector)
    seconds = time.perf_counter() - started
    if not vectors:
        raise DatasetError(f"no face was found in any of {len(paths)} pictures of {str(images)!r}")
    pairs, is_same = people_pairs(people, seed, everything=everything)
    stacked = np.array(vectors, np.float64)
    report = verify_pairs(name, stacked[pairs[:, 0]], stacked[pairs[:, 1]], is_same)
    return PeopleReport(len(paths), len(vectors), len(set(people)), report, len(paths) / seconds)


def _main_vector(result: Union[Embedding, PredictedPhoto]) -> Optional[np.ndarray]:
    if isinstance(result, Embedding):
        return result.vector
    return result.faces[result.detections.largest()].vector if len(result) else None


def evaluate_set(
    model: FaceEmbedder,
    folder: Path,
    feature_list: Path,
    *,
    protocol: str = "authors",
    batch: int = 1,
    overwrite: bool = False,
    progress: Progress = lambda items, total: items,
) -> VerificationReport:
    """Extract the features of one of the authors' sets, and evaluate its pairs.

    Parameters
    ----------
    model
        The network.
    folder
        The set: ``img.list``, ``pair.list`` and the pictures.
    feature_list
        Where the features go; an earlier start's are kept.
    protocol
        Of the accuracy.
    batch, overwrite, progress
        As for :func:`extract_features`.

    Raises
    ------
    DatasetError
        If the set is not whole.
    ImageError
        If a picture cannot be read, since a pair needs both.
    """
    faces = read_set(folder)
    extract_features(
        model,
        faces.paths,
        faces.names,
        feature_list,
        batch=batch,
        missing="fatal",
        overwrite=overwrite,
        sources=[Path(folder)],
        progress=progress,
    )
    pairs = read_feature_pairs(feature_list, Path(folder) / "pair.list")
    return verify_pairs(
        Path(folder).name, pairs.first, pairs.second, pairs.is_same, protocol=protocol
    )


def evaluate_encoded(
    model: FaceEmbedder,
    path: Path,
    *,
    protocol: str = "authors",
    progress: Progress = lambda items, total: items,
) -> VerificationReport:
    """Evaluate one of insightface's ``.bin`` sets, which is read without running anything in it.

    Parameters
    ----------
    model
        The network.
    path
        Such as ``lfw.bin``.
    protocol
        Of the accuracy.
    progress
        Wraps the loop.

    Raises
    ------
    DatasetError
        If the file is no such set.
    ImageError
        If a picture of it cannot be decoded.
    """
    encoded = read_bin(path)

    def one(_: Infer, index: int) -> np.ndarray:
        name = f"{Path(path).name}: picture {index}"
        image = decode_image_rgb(encoded.images[index], name)
        with naming(name):
            return model.batch([image], shared=True)[0].vector

    found = model.backend.map(one, range(len(encoded.images)))
    vectors = np.array(list(progress(found, len(encoded.images))), np.float64)
    return verify_pairs(
        Path(path).stem, vectors[0::2], vectors[1::2], encoded.is_same, protocol=protocol
    )
