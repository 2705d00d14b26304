"""Recognition over many faces: embeddings into files, and folders of people into an accuracy."""

from __future__ import annotations

import csv
import io
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Any,
    Callable,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

from .backends.base import call_naming, map_in_order, naming, usable_cores
from .datasets.face_sets import read_set
from .datasets.image_list import read_lines
from .datasets.pairs import (
    FeatureList,
    feature_line,
    people_pairs,
    read_bin,
    read_feature_pairs,
)
from .errors import DatasetError, ImageError, InputError, RunFolderError
from .image.files import (
    decode_image_rgb,
    find_images,
    read_image_rgb,
    relative_names,
    write_bytes,
)
from .metrics.quality import ofiq_score
from .metrics.verification import best_threshold, cosine_similarity
from .metrics.verification_report import VerificationReport, verify_pairs
from .pipeline import FaceEmbedder, PhotoEmbedder
from .results import Embedding, FaceEmbeddings
from .runs import RunFolder, fingerprint_files

__all__ = [
    "ARRAYS_FILE",
    "FEATURES_FILE",
    "RESULTS_FILE",
    "Extraction",
    "Match",
    "PeopleReport",
    "Similarities",
    "check_some_exist",
    "compare_listed",
    "evaluate_encoded",
    "evaluate_people",
    "evaluate_set",
    "extract_features",
    "finish_embeddings",
    "largest_face",
    "match_photos",
    "rank_by_magnitude",
    "resolve_names",
    "stream_batches",
    "write_features",
]

RESULTS_FILE, FEATURES_FILE, ARRAYS_FILE = "results.json", "feat.list", "embeddings.npz"
RESULTS_SCHEMA = "facezoo.embeddings/1"
Progress = Callable[[Iterable[Any], int], Iterable[Any]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What one start of an extraction did.

    Attributes
    ----------
    total, kept, refused
        Pictures in all, of them done by an earlier start, and that could not be read.
    seconds
        Time for those not kept.
    """

    total: int
    kept: int
    refused: int
    seconds: float


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

    first: FaceEmbeddings
    second: FaceEmbeddings
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
    with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
        row_of = {name: row for row, name in enumerate(arrays["names"].tolist())}
        vectors = arrays["vectors"].astype(np.float64)
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


def resolve_names(names: Sequence[str], listed_in: Path) -> List[Path]:
    """Find the pictures of a list whose paths start from no one says where.

    Parameters
    ----------
    names
        As the list has them.
    listed_in
        The list. Relative paths are tried from the working folder, as the authors do, then from the
        list's folder and the two above; where the first picture is found, all are taken from.

    Returns
    -------
    list of Path
        One a name, existing or not.

    Raises
    ------
    DatasetError
        If there is none of them.
    """
    folder = Path(listed_in).parent
    bases = [Path(), folder, folder / "..", folder / ".." / ".."]
    base = next((base for base in bases if _is_there(base / names[0])), bases[0])
    paths = [base / name for name in names]
    check_some_exist(paths, listed_in)
    return paths


def check_some_exist(paths: Sequence[Path], listed_in: Path) -> None:
    """Refuse a list of which no picture is there: it is another file, or starts elsewhere.

    Parameters
    ----------
    paths
        Of the list.
    listed_in
        The list.

    Raises
    ------
    DatasetError
        If none exists.
    """
    if not any(map(_is_there, paths)):
        raise DatasetError(
            f"{str(listed_in)!r}: not one of its {len(paths)} pictures exists, such as "
            f"{str(paths[0])[:200]!r}; correct the list or the folder it starts from"
        )


def _is_there(path: Path) -> bool:
    """Tell whether a file is there; a line of a text that is no list may be no name at all."""
    try:
        return path.is_file()
    except OSError:
        return False


def stream_batches(
    model: FaceEmbedder, paths: Sequence[Path], size: int
) -> Iterator[Tuple[Path, Union[Embedding, ImageError]]]:
    """Embed many aligned faces, several in one run of the network.

    Parameters
    ----------
    model
        The network.
    paths
        Picture files.
    size
        Pictures a run; 1 lets every core run its own, which a CPU does faster.

    Yields
    ------
    path : Path
        In the order given.
    result : Embedding or ImageError
        The error if the file cannot be read.
    """
    if size < 1:
        raise InputError(f"a batch must hold at least one picture, got {size}")
    if size == 1:
        yield from model.stream(paths)
        return

    def read(path: Path) -> Union[np.ndarray, ImageError]:
        try:
            return read_image_rgb(path)
        except ImageError as error:
            return error

    for start in range(0, len(paths), size):
        chunk = paths[start : start + size]
        images = list(map_in_order(read, chunk, usable_cores()))
        readable = [pair for pair in zip(images, chunk) if isinstance(pair[0], np.ndarray)]
        found = iter(call_naming(model.batch, *zip(*readable)) if readable else [])
        for path, image in zip(chunk, images):
            yield path, image if isinstance(image, ImageError) else next(found)


def largest_face(entry: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """Return the face with the largest box of a photo's entry in a results.json; None without."""

    def area(face: Mapping[str, Any]) -> float:
        left, top, right, bottom = face["box_xyxy"]
        return float((right - left) * (bottom - top))

    return max(entry["faces"], key=area, default=None)


def write_features(
    entries: Iterable[Mapping[str, Any]], feature_list: Path, arrays: Path
) -> Tuple[int, List[str]]:
    """Write recorded embeddings as the authors' feature list and as arrays.

    Parameters
    ----------
    entries
        Of a run: aligned faces, or photos, of which the largest face is taken.
    feature_list
        The text file to write: ``path v0 v1 …``.
    arrays
        The .npz to write: ``names``, ``vectors`` (N, D) float32, ``norms``.

    Returns
    -------
    written : int
        Pictures with an embedding.
    without : list of str
        Pictures without: no face, or not readable.
    """
    names: List[str] = []
    vectors: List[np.ndarray] = []
    without: List[str] = []
    for entry in entries:
        face = largest_face(entry) if "faces" in entry else entry
        if face is None or "embedding" not in face:
            without.append(entry["path"])
            continue
        names.append(entry["path"])
        vectors.append(np.array(face["embedding"], np.float32))
    stacked = np.array(vectors, np.float32)
    lines = (feature_line(name, vector).encode() for name, vector in zip(names, vectors))
    write_bytes(feature_list, *lines)
    buffer = io.BytesIO()
    norms = np.array([Embedding(vector).norm for vector in vectors])
    np.savez(buffer, names=np.array(names, dtype=np.str_), vectors=stacked, norms=norms)
    write_bytes(arrays, buffer.getvalue())
    return len(names), without


def finish_embeddings(folder: RunFolder) -> None:
    """Write what a runner or a decoder leaves: results.json, feat.list and embeddings.npz."""
    _, without = write_features(
        folder.entries(), folder.folder / FEATURES_FILE, folder.folder / ARRAYS_FILE
    )
    if without:
        _log.warning("%d pictures have no embedding, the first is %s", len(without), without[0])
    folder.write_items(RESULTS_FILE, schema=RESULTS_SCHEMA, key="images")
    folder.finish()


def extract_features(
    model: FaceEmbedder,
    paths: Sequence[Path],
    names: Sequence[str],
    feature_list: Path,
    *,
    batch: int = 1,
    missing: str = "skip",
    overwrite: bool = False,
    progress: Progress = lambda items, total: items,
) -> Extraction:
    """Embed the pictures of a list into a feature list and an .npz beside it; resumable.

    Parameters
    ----------
    model
        The network.
    paths, names
        Aligned faces, and what they are called in the feature list.
    feature_list
        The file to write; what an interrupted start has done is kept in the folder
        ``<feature_list>.run``.
    batch
        Pictures a run of the network.
    missing
        ``skip`` names and leaves out pictures that cannot be read, ``fatal`` stops at the first.
    overwrite
        Start anew.
    progress
        Wraps the loop.

    Returns
    -------
    Extraction

    Raises
    ------
    ImageError
        With ``fatal``, if a picture cannot be read.
    RunFolderError
        If the file exists and is not this run's.
    """
    run = feature_list.with_name(f"{feature_list.name}.run")
    if feature_list.exists() and not run.exists() and not overwrite:
        raise RunFolderError(
            f"{str(feature_list)!r} exists and whose it is cannot be told; name another file or "
            "use --overwrite to start anew"
        )
    with RunFolder(
        run,
        command="gen_feat",
        settings={**model.settings(), "batch": batch},
        inputs_sha256=fingerprint_files(list(paths), list(names)),
        owned=(),
        overwrite=overwrite,
    ) as folder:
        if folder.finished and not feature_list.exists():
            raise RunFolderError(
                f"{str(run)!r} is finished, but its {feature_list.name} is gone; use --overwrite"
            )
        done = folder.completed(list(names))
        started = time.perf_counter()
        found = progress(stream_batches(model, paths[done:], batch), len(paths) - done)
        for name, (_, result) in zip(names[done:], found):
            if isinstance(result, ImageError) and missing == "fatal":
                raise result
            folder.record(name, result)
        seconds = time.perf_counter() - started
        if not folder.finished:
            write_features(folder.entries(), feature_list, feature_list.with_suffix(".npz"))
            folder.finish()
        return Extraction(len(paths), done, folder.refused, seconds)


def evaluate_people(
    model: Union[FaceEmbedder, PhotoEmbedder],
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


def _main_vector(result: Union[Embedding, FaceEmbeddings]) -> Optional[np.ndarray]:
    if isinstance(result, Embedding):
        return result.vector
    return result.embeddings[result.faces.largest()].vector if len(result) else None


def match_photos(model: PhotoEmbedder, first: np.ndarray, second: np.ndarray) -> Match:
    """Look for the person of one photo in another.

    Parameters
    ----------
    model
        Detector and recogniser.
    first, second
        Photos, shape (H, W, 3), uint8, RGB; of the first the largest face is meant.

    Raises
    ------
    InputError
        If there is no face in one of them.
    """
    a, b = model(first), model(second)
    for found, which in ((a, "first"), (b, "second")):
        if not len(found):
            raise InputError(f"no face was found in the {which} photo; expected at least one")
    index = a.faces.largest()
    units = np.stack([embedding.unit for embedding in b.embeddings]).astype(np.float64)
    return Match(a, b, index, units @ a.embeddings[index].unit)


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

    def one(infer: Any, index: int) -> np.ndarray:
        name = f"{Path(path).name}: picture {index}"
        image = decode_image_rgb(encoded.images[index], name)
        with naming(name):
            return model.embed(infer, image).vector

    found = model.backend.map(one, range(len(encoded.images)))
    vectors = np.array(list(progress(found, len(encoded.images))), np.float64)
    return verify_pairs(
        Path(path).stem, vectors[0::2], vectors[1::2], encoded.is_same, protocol=protocol
    )


def rank_by_magnitude(features: FeatureList, scale: str = "magnitude") -> List[Tuple[str, float]]:
    """Rank pictures by the lengths of their embeddings, which MagFace makes their quality.

    Parameters
    ----------
    features
        As the network gives them.
    scale
        ``magnitude``, rounded to two digits as the authors print it, or ``ofiq``: 0 to 100, see
        :func:`~facezoo.metrics.quality.ofiq_score`.

    Returns
    -------
    list of tuple
        Name and value, worst first.
    """
    lengths = np.linalg.norm(features.vectors, axis=1)
    order = np.argsort(lengths, kind="stable")
    shown = ofiq_score(lengths) if scale == "ofiq" else [round(one, 2) for one in lengths.tolist()]
    return [(features.names[index], float(shown[index])) for index in order]
