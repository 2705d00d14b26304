"""Measure the limits of quality, similarity and appearance on your own images.

Images that cannot be used are logged and counted in the profile's ``settings["refused"]``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ..datasets.image_list import one_name_each, people_of, resolve_names
from ..datasets.protocols import locate_photos, read_protocol
from ..datasets.scores import QualityScores
from ..errors import ImageError, InputError
from ..image.align import align_face
from ..image.appearance import degraded_versions
from ..image.files import find_images, read_image_rgb, relative_names
from ..metrics.pairs import PairSimilarities, pair_cosines, refuse_alike
from ..metrics.verification import check_impostors
from ..models.magface.model import FaceEmbedder
from ..models.scrfd.model import FaceDetector
from ..models.sdd_fiqa.model import FaceQuality
from ..profiles.appearance import (
    AppearanceProfile,
    find_limit,
    make_appearance_profile,
    shares_missed,
)
from ..profiles.measures import MEASURES
from ..profiles.quality import QualityProfile, RateThreshold, make_quality_profile
from ..profiles.similarity import (
    FMRS,
    SimilarityPoint,
    SimilarityProfile,
    impostor_count,
    people_points,
    person_numbers,
    similarity_points,
)
from ..results import Embedding, FaceDetections
from ..runs import fingerprint_files
from .photo import PredictedPhoto, Predictor

__all__ = [
    "ImagePairs",
    "calibrate_appearance",
    "calibrate_quality",
    "calibrate_similarity",
    "pairs_of_folders",
    "read_pairs",
]


_log = logging.getLogger(__name__)

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


def calibrate_quality(
    model: Union[FaceQuality, FaceEmbedder],
    images: Path,
    *,
    rates: Optional[Tuple[float, float]] = None,
    place: Optional[Callable[[QualityScores], RateThreshold]] = None,
    progress: Progress = lambda items, total: items,
) -> Tuple[QualityProfile, QualityScores]:
    """Score aligned faces and summarise the scores.

    Parameters
    ----------
    model
        A quality model, or a recogniser: the norm of its embeddings is the quality.
    images
        A folder of aligned faces.
    rates, place
        False match and false non-match rate that a further threshold is to reach, and what finds
        it, such as :func:`~facezoo.profiles.quality.quality_at_fnmr`; this needs every image, so an
        unreadable one is an error.
    progress
        Wraps the loop.

    Returns
    -------
    profile : QualityProfile
        The summary.
    scores : QualityScores
        The score of every image.

    Raises
    ------
    InputError
        If no image can be read, or one cannot and ``place`` is given.
    """
    paths = find_images(images)
    names = relative_names(paths, images)
    scored: List[str] = []
    values: List[float] = []
    for name, found in zip(names, progress(model.stream(paths), len(paths))):
        if isinstance(found, ImageError):
            _log.warning("refused: %s", found)
        else:
            scored.append(name)
            values.append(found.norm if isinstance(found, Embedding) else found.value)
    refused = len(paths) - len(scored)
    if not scored:
        raise InputError(f"no image in {str(images)!r} can be read; see the lines above")
    if refused and place is not None:
        raise InputError(
            f"{refused} images in {str(images)!r} cannot be read, and a threshold at a false "
            "non-match rate needs every one; fix or remove those named above"
        )
    scores = QualityScores(tuple(scored), np.array(values))
    thresholds: Dict[str, float] = {}
    settings: Dict[str, Any] = {"fmr": None, "fnmr": None}
    if rates is not None and place is not None:
        fmr, fnmr = rates
        found = place(scores)
        thresholds[f"FNMR {fnmr:g} at FMR {fmr:g}"] = found.quality
        settings.update(fmr=fmr, fnmr=fnmr, interval=[found.low, found.high])
        settings["held_out_fnmr"] = found.held_out
    profile = make_quality_profile(
        scores.values,
        model.contract.card_id,
        model.settings().get("model_sha256"),
        thresholds,
        {"images_sha256": fingerprint_files(paths, names), "refused": refused, **settings},
    )
    return profile, scores


# Similarity ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImagePairs:
    """Images, and which of them to compare.

    Attributes
    ----------
    paths, names
        The images.
    listed
        The two images of each pair, (P, 2), int, and whether both show one person, (P,), bool.
        None: every image is compared with every other.
    people
        Person in each image, if ``listed`` is None.
    """

    paths: Sequence[Path]
    names: Sequence[str]
    listed: Optional[Tuple[np.ndarray, np.ndarray]] = None
    people: Sequence[str] = ()


def pairs_of_folders(folder: Path) -> ImagePairs:
    """Pair every image with every other; the first folder of an image's name is its person.

    Raises
    ------
    DatasetError
        If an image is in no person's folder.
    InputError
        If there is one person only, or no person has two images.
    """
    paths = find_images(folder)
    names = relative_names(paths, folder)
    people = people_of(names, str(folder))
    person_numbers(people)
    return ImagePairs(paths, names, people=people)


def read_pairs(path: Path, photos: Optional[Path] = None) -> ImagePairs:
    """Read a list of pairs: LFW's pairs.txt, a table, or two images and a label per line.

    Parameters
    ----------
    path
        In any layout of :mod:`facezoo.datasets.protocols`.
    photos
        Folder of the images. By default it is found from the place of the list.

    Raises
    ------
    DatasetError
        If a line is not such a pair, which is named, or no image is found.
    """
    protocol = read_protocol(path)
    listed, indices = protocol.photos, protocol.rows()
    if photos is not None:
        paths: Sequence[Path] = locate_photos(protocol, photos)
        return ImagePairs(paths, listed, (indices, protocol.is_same))
    # A list may name an image in several ways.
    name_of = one_name_each(listed, resolve_names(listed, path), path)
    names = tuple(dict.fromkeys(name_of))
    index = {name: number for number, name in enumerate(names)}
    indices = np.array([index[name] for name in name_of])[indices]
    return ImagePairs(resolve_names(names, path), names, (indices, protocol.is_same))


def calibrate_similarity(
    embedder: FaceEmbedder,
    pairs: ImagePairs,
    *,
    detector: Optional[FaceDetector] = None,
    seed: int = 0,
    settings: Optional[Mapping[str, Any]] = None,
    progress: Progress = lambda items, total: items,
) -> SimilarityProfile:
    """Find similarity thresholds at false match rates.

    Parameters
    ----------
    embedder
        The recogniser.
    pairs
        Pairs to compare.
    detector
        Finds and aligns the largest face of each image; without it they are aligned faces.
    seed
        Random seed of the intervals.
    settings
        Additional settings to save in the profile.
    progress
        Wraps the loop.

    Raises
    ------
    InputError
        If no pair is left whose two images have a face, or all embeddings are alike.
    """
    _warn_of_few(pairs)
    paths = pairs.paths
    model: Union[FaceEmbedder, Predictor] = embedder
    if detector is not None:
        model = Predictor(detector, embedder=embedder)
    vectors: Dict[int, np.ndarray] = {}
    for index, result in enumerate(progress(model.stream(paths), len(paths))):
        vector = _largest(result)
        if isinstance(result, ImageError):
            _log.warning("refused: %s", result)
        elif vector is None:
            _log.warning("refused: no face was found in %r", str(paths[index]))
        else:
            vectors[index] = vector
    found, points = _similarities(pairs, vectors, seed)
    return SimilarityProfile(
        embedder.contract.card_id,
        embedder.settings().get("model_sha256"),
        len(found.genuine),
        found.impostor_count,
        points,
        {
            "pictures": len(paths),
            "people": len({pairs.people[index] for index in vectors}) if pairs.people else None,
            "refused": len(paths) - len(vectors),
            "pictures_sha256": fingerprint_files(list(paths), list(pairs.names)),
            "interval": "pairs taken as independent" if pairs.listed else "people resampled",
            **(settings or {}),
        },
    )


def _warn_of_few(pairs: ImagePairs) -> None:
    """Say before the images are embedded which rates they are too few for."""
    if pairs.listed is None:
        count = impostor_count(person_numbers(pairs.people))
    else:
        count = int(np.count_nonzero(~pairs.listed[1]))
    for fmr in FMRS:
        try:
            check_impostors(fmr, count)
        except InputError as error:
            _log.warning("no threshold: %s", error)


def _similarities(
    pairs: ImagePairs, vectors: Mapping[int, np.ndarray], seed: int
) -> Tuple[PairSimilarities, Tuple[SimilarityPoint, ...]]:
    """Compare the images that have an embedding."""
    used = list(vectors)
    row = np.full(len(pairs.paths), -1)
    row[used] = np.arange(len(used))
    indices, is_same = pairs.listed or (np.empty((0, 2), int), np.empty(0, bool))
    usable = (row[indices] >= 0).all(axis=1)
    if not (len(used) > 1 if pairs.listed is None else usable.any()):
        raise InputError("no pair is left whose two images have a face; see the lines above")
    stacked = np.stack([vectors[index] for index in used])
    refuse_alike(stacked)
    if pairs.listed is None:
        people = person_numbers([pairs.people[index] for index in used])
        return people_points(stacked, people, seed=seed)
    cosines = pair_cosines(stacked, row[indices[usable]])
    found = PairSimilarities.of_list(cosines, is_same[usable])
    return found, similarity_points(found, seed=seed)


def _largest(found: Union[Embedding, PredictedPhoto, ImageError]) -> Optional[np.ndarray]:
    if isinstance(found, Embedding):
        return found.vector
    if isinstance(found, ImageError) or not len(found):
        return None
    return found.faces[found.detections.largest()].vector


# Appearance ---------------------------------------------------------------------------------------


def calibrate_appearance(
    detector: FaceDetector,
    embedder: FaceEmbedder,
    identities: Path,
    *,
    fmr: float,
    fnmr: float,
    progress: Progress = lambda items, total: items,
) -> AppearanceProfile:
    """Measure how small, blurred, turned or truncated a face may be before it is missed.

    Each face is degraded step by step and compared with the person's other images as they are. Its
    yaw cannot be changed; if no face was missed, the limit is the worst value in the images.

    Parameters
    ----------
    detector, embedder
        The two models.
    identities
        A folder with one folder of photos per person.
    fmr
        False match rate of the unchanged images; it sets the similarity threshold.
    fnmr
        Share of the genuine pairs that may be missed.
    progress
        Wraps the loop.

    Raises
    ------
    InputError
        If no image has a face, or there are too few people or images for the rates.
    """
    paths = find_images(identities)
    names = relative_names(paths, identities)
    who = people_of(names, str(identities))
    # What the photos cannot give is said before they are embedded.
    check_impostors(fmr, impostor_count(person_numbers(who)))
    people: List[str] = []
    vectors: List[np.ndarray] = []
    trials: List[Tuple[int, str, float, np.ndarray]] = []
    for person, faces in zip(who, progress(detector.stream(paths), len(paths))):
        if isinstance(faces, ImageError):
            _log.warning("refused: %s", faces)
            continue
        if not len(faces):
            _log.warning("refused: no face was found in %r", str(faces.source))
            continue
        image = read_image_rgb(faces.source)
        vector, degraded = _degraded_embeddings(embedder, image, faces)
        trials += [(len(vectors), *one) for one in degraded]
        vectors.append(vector)
        people.append(person)
    if not trials:
        raise InputError(f"no face was found in any image of {str(identities)!r}")
    numbers = np.unique(people, return_inverse=True)[1].ravel()
    of, changed, values, embedded = zip(*trials)
    cosine, missed = shares_missed(
        np.stack(vectors), numbers, np.stack(embedded), np.array(of), fmr
    )
    limits = {}
    for measure, how in MEASURES.items():
        rows = (np.array(changed) == measure) & np.isfinite(missed)
        limits[measure] = find_limit(
            np.array(values)[rows], missed[rows], fnmr, more_is_better=how.more_is_better
        )
    settings = {
        "identities": identities.name,
        "people": len(set(people)),
        "pictures": len(vectors),
        "refused": len(paths) - len(vectors),
        "pictures_sha256": fingerprint_files(paths, names),
        "detector": detector.contract.card_id,
        "fmr": fmr,
        "fnmr": fnmr,
        "cosine": round(cosine, 4),
    }
    card, sha256 = embedder.contract.card_id, embedder.settings().get("model_sha256")
    return make_appearance_profile(card, sha256, limits, settings)


def _degraded_embeddings(
    embedder: FaceEmbedder, image: np.ndarray, faces: FaceDetections
) -> Tuple[np.ndarray, List[Tuple[str, float, np.ndarray]]]:
    """Embed a photo's largest face as it is, and after each step of each degradation."""
    best = faces.largest()
    box, points = faces.boxes_xyxy[best].tolist(), faces.landmarks_xy[best]
    crop = align_face(image, points)
    vector = embedder(crop).vector
    # The first step of each is the face as it is, which need not be embedded again.
    known = {crop.tobytes(): vector}
    found = []
    for measure, value, worse in degraded_versions(image, box, points):
        again = known.get(worse.tobytes())
        found.append((measure, value, embedder(worse).vector if again is None else again))
    return vector, found
