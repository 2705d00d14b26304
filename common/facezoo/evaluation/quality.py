"""Evaluation of quality scores: contact sheet, error versus discard, known degradations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ..artifact import read_artifact
from ..backends.base import Infer, naming
from ..datasets.embeddings import Embeddings
from ..datasets.image_list import inside
from ..datasets.scores import RESULTS_SCHEMA, QualityScores
from ..errors import UNREADABLE, DatasetError, InputError
from ..files import read_file
from ..image.align import TEMPLATE_SIZE, align_face
from ..image.appearance import face_sharpness
from ..image.degrade import degrade
from ..image.draw import contact_sheet
from ..image.files import read_image_rgb
from ..machine import usable_cores
from ..metrics.pairs import pair_blocks
from ..metrics.quality import DiscardCurve, error_versus_discard, spearman
from ..models.base import FaceModel
from ..models.magface.model import FaceEmbedder
from ..models.scrfd.model import FaceDetector
from ..models.sdd_fiqa.model import FaceQuality
from ..pipeline.load import resolve
from ..results import Embedding
from ..runs import Progress
from ..workers import map_in_order

__all__ = [
    "CopyRanking",
    "FacePairs",
    "Response",
    "baseline_scores",
    "brightness_change",
    "compare_scores",
    "describe_model",
    "face_pairs",
    "quality_sheet",
    "rank_copies",
    "response_curves",
]


SHEET_COLUMNS, SHEET_FACES = 10, 100


def describe_model(model: FaceModel[Any], source: Path) -> Dict[str, Any]:
    """Return the origin of a file of scores.

    Parameters
    ----------
    model
        Model opened from ``source``.
    source
        The model as given to :func:`facezoo.load`.

    Returns
    -------
    dict
        ``card``, ``build``, ``engine`` and ``model_sha256``; JSON values.
    """
    # A single .onnx has the type of its export; the vendor's files do not record it.
    path, _ = resolve(source)
    build = "fp32" if path.suffix == ".onnx" else read_artifact(path).dtype
    return {
        "card": model.contract.card_id,
        "build": build,
        "engine": f"{model.backend.name} {model.backend.version}",
        "model_sha256": model.settings().get("model_sha256"),
    }


def quality_sheet(results: Path, images: Path) -> np.ndarray:
    """Draw faces sorted by quality, lowest first, each above its score.

    Parameters
    ----------
    results
        The results.json of a runner.
    images
        The folder or image of that run.

    Returns
    -------
    numpy.ndarray
        Shape (H, W, 3), uint8, RGB; of more than 100 faces, 100 evenly spaced ones.

    Raises
    ------
    DatasetError
        If the file has another form or contains no face.
    """
    try:
        content = json.loads(read_file(Path(results)))
        if content["schema"] != RESULTS_SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}")
        faces = sorted(_faces(content["images"]), key=lambda face: face[0])
    except UNREADABLE as error:
        raise DatasetError(
            f"{str(results)!r} is not a file of quality results ({error})"
        ) from error
    if not faces:
        raise DatasetError(f"{str(results)!r} contains no face to show")
    chosen = np.linspace(0, len(faces) - 1, min(len(faces), SHEET_FACES)).round().astype(int)
    shown: List[np.ndarray] = []
    for index in chosen:
        _, name, landmarks = faces[index]
        path = Path(images) if Path(images).is_file() else inside(Path(images), name)
        image = read_image_rgb(path)
        shown.append(image if landmarks is None else align_face(image, np.array(landmarks)))
    captions = [f"{faces[index][0]:.1f}" for index in chosen]
    return contact_sheet(shown, captions, SHEET_COLUMNS, (TEMPLATE_SIZE, TEMPLATE_SIZE))


def _faces(entries: List[Mapping[str, Any]]) -> Iterator[Tuple[float, str, Any]]:
    """Yield score, image and landmarks (None for an aligned face) of every face."""
    for entry in entries:
        if "quality" in entry:
            yield entry["quality"], entry["path"], None
        for face in entry.get("faces", ()):
            yield face["quality"], entry["path"], face["landmarks_xy"]


MOST_IMPOSTORS = 1_000_000


@dataclass(frozen=True)
class FacePairs:
    """Pairs of faces with their distances.

    Attributes
    ----------
    names
        Names of the faces.
        indices
        Shape (P, 2), int64: the two faces of each pair.
    people
        Shape (P, 2), int64: person numbers of both faces.
    distances
        Shape (P,), float64: 1 minus the cosine of the two embeddings.
    """

    names: Tuple[str, ...]
    indices: np.ndarray
    people: np.ndarray
    distances: np.ndarray

    @property
    def is_same(self) -> np.ndarray:
        """Shape (P,), bool: whether both show one person."""
        return np.asarray(self.people[:, 0] == self.people[:, 1])

    def quality(self, scores: QualityScores) -> np.ndarray:
        """Return the quality of each pair, (P,): the lower one of its faces."""
        return np.asarray(scores.of(self.names)[self.indices].min(axis=1))


def face_pairs(
    embeddings: Embeddings,
    *,
    references: Optional[np.ndarray] = None,
    originals: Optional[np.ndarray] = None,
    seed: int = 0,
    most: int = MOST_IMPOSTORS,
) -> FacePairs:
    """Pair faces with references: all genuine pairs, and all or many impostor pairs.

    Parameters
    ----------
    embeddings
        Embeddings of the faces.
    references
        Shape (N,), bool: one face of each pair is a reference; all faces if None.
    originals
        Shape (N,), int: index of the original of each image. Two copies of one image, or a copy
        and its original, are not paired.
    seed, most
        Seed and maximum of the impostor pairs; of more, this number is drawn.

    Raises
    ------
    InputError
        If there is no genuine or no impostor pair.
    """
    vectors = embeddings.vectors.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    people, everything = embeddings.people, np.arange(len(vectors))
    origin = everything if originals is None else np.asarray(originals)
    gallery = everything if references is None else np.flatnonzero(references)
    column = np.full(len(vectors), -1)
    column[gallery] = np.arange(len(gallery))
    genuine: List[np.ndarray] = []
    impostors: List[np.ndarray] = []
    total = _impostors(people, gallery)
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(total, most, replace=False)) if total > most else None
    passed = 0
    for face in everything:
        others = gallery[
            (origin[gallery] != origin[face]) & ((column[face] < 0) | (gallery > face))
        ]
        same = people[others] == people[face]
        strangers = others[~same]
        if drawn is not None:
            first, last = np.searchsorted(drawn, (passed, passed + len(strangers)))
            strangers, passed = strangers[drawn[first:last] - passed], passed + len(strangers)
        for found, kind in ((others[same], genuine), (strangers, impostors)):
            kind.append(np.stack([np.full(len(found), face), found], axis=1))
    indices = np.concatenate([*genuine, *impostors])
    if not sum(map(len, genuine)) or not total:
        raise InputError(
            f"{len(vectors)} faces of {len(set(people.tolist()))} people make "
            f"{sum(map(len, genuine))} genuine and {total} impostor pairs; "
            "expected one folder per person with several images each"
        )
    distances = np.empty(len(indices))
    for block in pair_blocks(len(indices)):
        first, second = indices[block].T
        distances[block] = 1.0 - np.einsum("ij,ij->i", vectors[first], vectors[second])
    return FacePairs(embeddings.face_names, indices, people[indices], distances)


def _impostors(people: np.ndarray, gallery: np.ndarray) -> int:
    """Count the pairs of different people of which one face, or both, is in the gallery."""
    of_person = np.bincount(people[gallery], minlength=int(people.max()) + 1)
    probes = np.delete(people, gallery)
    twice = len(gallery) ** 2 - int((of_person**2).sum())
    return int((len(gallery) - of_person[probes]).sum()) + twice // 2


def baseline_scores(
    paths: Sequence[Path], names: Sequence[str], detector: Optional[FaceDetector] = None
) -> Dict[str, QualityScores]:
    """Score aligned faces by what needs no quality network.

    Parameters
    ----------
    paths, names
        Image files of the faces, and their names in a comparison.
    detector
        SCRFD.

    Returns
    -------
    dict of str to QualityScores
        ``sharpness``, the variance of the Laplacian; with a detector, ``detector``: the score of
        the likeliest face that it finds in the aligned face, 0 without one.

    Raises
    ------
    ImageError
        If an image cannot be read.
    """

    def measure(path: Path) -> Tuple[float, float]:
        image = read_image_rgb(path)
        found = detector(image).scores.max(initial=0.0) if detector is not None else 0.0
        return face_sharpness(image), float(found)

    measured = np.array(list(map_in_order(measure, paths, usable_cores())))
    columns = ("sharpness", "detector")[: 1 if detector is None else 2]
    return {
        name: QualityScores(tuple(names), measured[:, index]) for index, name in enumerate(columns)
    }


def compare_scores(
    pairs: FacePairs,
    scores: Mapping[str, QualityScores],
    rates: Sequence[float],
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress = lambda items, total: items,
) -> Tuple[Dict[str, Dict[float, DiscardCurve]], Dict[float, str]]:
    """Compute the error-versus-discard curves of several scores over the same pairs.

    Parameters
    ----------
    pairs
        Result of :func:`face_pairs`.
    scores
        Name to scores.
    rates
        False match rates that fix thresholds.
    resamples, seed
        Settings of the bootstrap over people.
    progress
        Wraps the loop.

    Returns
    -------
    curves : dict
        Name to a mapping of rate to curve.
    left_out : dict
        Rate to the reason why it has no curve.

    Raises
    ------
    DatasetError
        If a face has no score.
    """
    qualities = {name: pairs.quality(one) for name, one in scores.items()}
    curves: Dict[str, Dict[float, DiscardCurve]] = {name: {} for name in scores}
    left_out: Dict[float, str] = {}
    wanted = [(rate, name) for rate in rates for name in scores]
    for rate, name in progress(wanted, len(wanted)):
        try:
            curves[name][rate] = error_versus_discard(
                pairs.distances,
                pairs.is_same,
                qualities[name],
                rate,
                people=pairs.people,
                resamples=resamples,
                seed=seed,
            )
        except InputError as error:
            left_out[rate] = str(error)
    return curves, left_out


@dataclass(frozen=True)
class CopyRanking:
    """Quality of the ranking of degraded copies by a score.

    Attributes
    ----------
    pictures
        Number of images with copies.
    spearman
        Mean over the images of the rank correlation between the degradation of a copy and its
        score; -1 if every copy scores below the previous one.
    last_below_original
        Share of images whose worst copy scores below the original.
    """

    pictures: int
    spearman: float
    last_below_original: float


def rank_copies(scores: QualityScores, pairs: Iterable[Tuple[str, str]]) -> CopyRanking:
    """Compare the scores of copies with their listed order, best first.

    Parameters
    ----------
    scores
        Scores of originals and copies.
    pairs
        Copy and original; copies of an image from best to worst.

    Raises
    ------
    DatasetError
        If an image has no score, or there is no copy.
    """
    family: Dict[str, List[str]] = {}
    for copy, original in pairs:
        family.setdefault(original, [original]).append(copy)
    if not family:
        raise DatasetError("the list contains no copy")
    found = [scores.of(names) for names in family.values()]
    ranks = [spearman(np.arange(len(values)), values) for values in found]
    # Copies with equal scores have no order.
    ranks = [0.0 if np.isnan(rank) else rank for rank in ranks]
    below = [values[-1] < values[0] for values in found]
    return CopyRanking(len(found), float(np.mean(ranks)), float(np.mean(below)))


@dataclass(frozen=True)
class Response:
    """Scores of faces under one kind of degradation.

    Attributes
    ----------
    levels
        Shape (L,), in the unit of :data:`~facezoo.image.degrade.DEGRADATIONS`.
    scores
        Shape (faces, L), float64.
    """

    levels: np.ndarray
    scores: np.ndarray


def response_curves(
    model: Union[FaceQuality, FaceEmbedder],
    paths: Sequence[Path],
    levels: Mapping[str, Sequence[float]],
    progress: Progress = lambda items, total: items,
) -> Dict[str, Response]:
    """Score aligned faces at increasing degradation.

    Parameters
    ----------
    model
        A quality network, or a recogniser whose embedding norm is the quality.
    paths
        Image files of the faces.
    levels
        Kind of degradation to its levels.
    progress
        Wraps the loop.

    Returns
    -------
    dict of str to Response
        Responses by kind.

    Raises
    ------
    ImageError
        If an image cannot be read.
    InputError
        If a kind is unknown or a level is out of range.
    """

    def score(image: np.ndarray) -> float:
        (found,) = model.batch([image], shared=True)
        return found.norm if isinstance(found, Embedding) else found.value

    def one(_: Infer, path: Path) -> Dict[str, List[float]]:
        image = read_image_rgb(path)
        with naming(path):
            return {
                kind: [score(degrade(image, kind, level)) for level in steps]
                for kind, steps in levels.items()
            }

    rows = list(progress(model.backend.map(one, paths), len(paths)))
    return {
        kind: Response(np.array(steps, np.float64), np.array([row[kind] for row in rows]))
        for kind, steps in levels.items()
    }


def brightness_change(responses: Mapping[str, Response]) -> Tuple[float, float]:
    """Measure what half or twice the pixel values do to a score.

    Parameters
    ----------
    responses
        Result of :func:`response_curves` with ``brightness``, whose levels hold -1, 0 and 1.

    Returns
    -------
    moved : float
        Median over the faces of the larger change, darker or brighter.
    spread : float
        From 5 to 95 % of all scores of all kinds.
    """
    found = responses["brightness"]
    darker, plain, brighter = (
        found.scores[:, found.levels.tolist().index(level)] for level in (-1.0, 0.0, 1.0)
    )
    moved = np.median(np.maximum(np.abs(darker - plain), np.abs(brighter - plain)))
    everything = np.concatenate([one.scores.ravel() for one in responses.values()])
    low, high = np.quantile(everything, (0.05, 0.95))
    return float(moved), float(high - low)
