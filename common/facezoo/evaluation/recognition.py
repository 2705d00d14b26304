"""Recognition evaluation: pairs of a list, folders of people, and packed verification sets."""

from __future__ import annotations

import csv
import hashlib
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
from ..datasets.image_list import people_of, read_lines
from ..datasets.pairs import people_pairs, read_bin, read_feature_pairs
from ..errors import DatasetError, ImageError
from ..files import csv_cell
from ..image.decode import decode_image_rgb
from ..image.files import find_images, relative_names
from ..metrics.pairs import pair_cosines
from ..metrics.verification import FOLDS, best_threshold, check_folds
from ..models.magface.model import FaceEmbedder
from ..pipeline.photo import PredictedPhoto, Predictor
from ..results import Embedding
from ..runs import Progress
from .features import ARRAYS_FILE, FEATURES_FILE, extract_features
from .measured import MeasuredList
from .verification_report import VerificationReport, verify_images, verify_pairs

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
        Number of images, and of images with a face; equal without a detector.
    people
        Number of people.
    verification
        Result over all genuine pairs and as many impostor pairs.
    images_per_second
        Throughput from file to embedding.
    """

    pictures: int
    with_face: int
    people: int
    verification: VerificationReport
    images_per_second: float


@dataclass(frozen=True)
class Similarities:
    """Cosine similarities of listed pairs.

    Attributes
    ----------
    pairs
        Names of the two images.
    cosines
        Shape (N,).
    is_same
        Shape (N,), bool; None without labels in the list.
    """

    pairs: Tuple[Tuple[str, str], ...]
    cosines: np.ndarray
    is_same: Optional[np.ndarray] = None

    def lines(self) -> List[str]:
        """Return one line per pair, and with labels the accuracy of the best threshold."""
        found = [f"{a} {b} {cosine:.4f}" for (a, b), cosine in zip(self.pairs, self.cosines)]
        if self.is_same is not None and 0 < np.count_nonzero(self.is_same) < len(self.is_same):
            threshold, accuracy = best_threshold(self.cosines, self.is_same)
            found.append(
                f"best threshold: cosine {threshold.cosine:.4f}, accuracy {accuracy:.5f} on these "
                f"{len(self.pairs)} pairs"
            )
        return found

    def to_csv(self) -> str:
        """Return a table with first, second, cosine and, with labels, same."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        known = self.is_same is not None
        writer.writerow(["first", "second", "cosine", *["same"] * known])
        labels = self.is_same.tolist() if self.is_same is not None else [None] * len(self.pairs)
        for (a, b), cosine, same in zip(self.pairs, self.cosines.tolist(), labels):
            writer.writerow([csv_cell(a), csv_cell(b), f"{cosine:.6f}", *[int(bool(same))] * known])
        return text.getvalue()


def compare_listed(folder: Path, pair_list: Path) -> Similarities:
    """Compare the pairs of a list with the embeddings of a runner or decoder.

    Parameters
    ----------
    folder
        Folder of the results.
    pair_list
        One pair per line: two names as in the results, and optionally 1 for one person, 0 for
        two.

    Raises
    ------
    DatasetError
        If a line has another form, or names an image without an embedding; names the line.
    """
    embeddings = read_embeddings(folder / ARRAYS_FILE)
    row_of = {name: row for row, name in enumerate(embeddings.names)}
    pairs, labels = [], []
    for number, line in read_lines(pair_list):
        words = line.split()
        unknown = [name for name in words[:2] if name not in row_of]
        if len(words) not in (2, 3) or words[2:] not in ([], ["0"], ["1"]) or unknown:
            problem = f"{unknown[0]!r} has no embedding" if unknown else f"got {line[:80]!r}"
            raise DatasetError(
                f"{str(pair_list)!r}: line {number}: {problem}; expected two names as in "
                f"{FEATURES_FILE}, and optionally 1 or 0"
            )
        pairs.append((words[0], words[1]))
        labels.append(words[2:])
    cosines = pair_cosines(embeddings.vectors, np.array([[row_of[a], row_of[b]] for a, b in pairs]))
    is_same = np.array([label == ["1"] for label in labels]) if all(labels) else None
    return Similarities(tuple(pairs), cosines, is_same)


def evaluate_people(
    model: Union[FaceEmbedder, Predictor],
    images: Path,
    name: str,
    *,
    seed: int = 0,
    everything: bool = False,
    folds: int = FOLDS,
    progress: Progress = lambda items, total: items,
) -> PeopleReport:
    """Measure the verification accuracy over a folder with one folder per person.

    Parameters
    ----------
    model
        Embedder of aligned faces, or of photos, whose largest face is used.
    images
        The image folder; the first folder of an image's name below it is the person.
    name
        Name in the report.
    seed, everything
        Seed of the impostor pairs, and whether to use all of them instead of as many as genuine
        pairs.
    folds
        Number of folds of the accuracy.
    progress
        Wraps the loop.

    Returns
    -------
    PeopleReport
        Unreadable images are an error; those without a face are counted and left out.

    Raises
    ------
    ImageError
        If an image cannot be read.
    DatasetError
        If there are not enough images with a face.
    """
    paths = find_images(images)
    listed = relative_names(paths, images)
    people_of_all = people_of(listed, str(images))
    # What the pairs cannot give is said before the images are embedded.
    check_folds(len(people_pairs(people_of_all, seed, everything=everything)[1]), folds)
    people, vectors = [], []
    names: List[str] = []
    started = time.perf_counter()
    found = progress(model.stream(paths), len(paths))
    for name_here, person, result in zip(listed, people_of_all, found):
        if isinstance(result, ImageError):
            raise result
        vector = _main_vector(result)
        if vector is None:
            _log.warning("no face in %s", result.source)
            continue
        names.append(name_here)
        people.append(person)
        vectors.append(vector)
    seconds = time.perf_counter() - started
    if not vectors:
        raise DatasetError(f"no face was found in any of {len(paths)} images of {str(images)!r}")
    pairs, is_same = people_pairs(people, seed, everything=everything)
    measured = MeasuredList.of(name, "images", names, len(paths))
    report = verify_images(measured, np.stack(vectors), pairs, is_same, folds)
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
    folds: int = FOLDS,
    batch: int = 1,
    overwrite: bool = False,
    progress: Progress = lambda items, total: items,
) -> VerificationReport:
    """Extract the features of one of the authors' sets and evaluate its pairs.

    Parameters
    ----------
    model
        The network.
    folder
        The set: ``img.list``, ``pair.list`` and the images.
    feature_list
        Target file of the features; those of an earlier run are kept.
    protocol, folds
        Protocol of the accuracy, and number of its folds.
    batch, overwrite, progress
        As for :func:`extract_features`.

    Raises
    ------
    DatasetError
        If the set is incomplete.
    ImageError
        If an image cannot be read, since a pair needs both images.
    """
    faces = read_set(folder)
    check_folds(len(faces.is_same), folds)
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
        Path(folder).name,
        pairs.first,
        pairs.second,
        pairs.is_same,
        pairs.names,
        protocol=protocol,
        folds=folds,
    )


def evaluate_encoded(
    model: FaceEmbedder,
    path: Path,
    *,
    protocol: str = "authors",
    folds: int = FOLDS,
    progress: Progress = lambda items, total: items,
) -> VerificationReport:
    """Evaluate one of insightface's ``.bin`` sets, read without executing its pickle.

    Parameters
    ----------
    model
        The network.
    path
        File such as ``lfw.bin``.
    protocol, folds
        Protocol of the accuracy, and number of its folds.
    progress
        Wraps the loop.

    Raises
    ------
    DatasetError
        If the file is not such a set.
    ImageError
        If an image in it cannot be decoded.
    """
    encoded = read_bin(path)
    check_folds(len(encoded.is_same), folds)

    def one(_: Infer, index: int) -> np.ndarray:
        name = f"{Path(path).name}: image {index}"
        image = decode_image_rgb(encoded.images[index], name)
        with naming(name):
            return model.batch([image], shared=True)[0].vector

    found = model.backend.map(one, range(len(encoded.images)))
    vectors = np.array(list(progress(found, len(encoded.images))), np.float64)
    # The images have no names; their content says which ones they are.
    names = [hashlib.sha256(image).hexdigest() for image in encoded.images]
    return verify_pairs(
        Path(path).stem,
        vectors[0::2],
        vectors[1::2],
        encoded.is_same,
        names,
        protocol=protocol,
        folds=folds,
    )
