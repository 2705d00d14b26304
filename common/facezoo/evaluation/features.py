"""Feature extraction: embeddings of many faces, as a feature list and as arrays."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ..backends.base import call_naming
from ..datasets.embeddings import ALIGNED, EmbeddingFile
from ..datasets.image_list import resolve_names
from ..datasets.pairs import FeatureList, feature_line
from ..errors import ImageError, InputError
from ..files import counted, csv_cell
from ..image.align import TEMPLATE_SIZE
from ..image.draw import contact_sheet
from ..image.files import read_image_rgb
from ..machine import usable_cores
from ..metrics.quality import ofiq_score
from ..models.magface.model import FaceEmbedder
from ..results import Embedding
from ..runs import Inputs, ItemCounts, Outcome, Progress, RunFolder
from ..workers import map_in_order
from ..written import writing

__all__ = [
    "ARRAYS_FILE",
    "FEATURES_FILE",
    "RESULTS_FILE",
    "extract_features",
    "finish_embeddings",
    "largest_face",
    "rank_by_magnitude",
    "ranking_csv",
    "ranking_sheet",
    "stream_batches",
    "write_features",
]


_log = logging.getLogger(__name__)

RESULTS_FILE, FEATURES_FILE, ARRAYS_FILE = "results.json", "feat.list", "embeddings.npz"
RESULTS_SCHEMA = "facezoo.embeddings/1"
SHEET_COLUMNS, SHEET_FACES = 10, 400


def stream_batches(
    model: FaceEmbedder, paths: Sequence[Path], size: int
) -> Iterator[Union[Embedding, ImageError]]:
    """Embed many aligned faces in batches.

    Parameters
    ----------
    model
        The network.
    paths
        Image files.
    size
        Batch size; with 1 every core runs its own image, which is faster on a CPU.

    Yields
    ------
    Embedding or ImageError
        In the order given; the error if the file cannot be read.
    """
    if size < 1:
        raise InputError(f"the batch size must be at least 1, got {size}")
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
        for image in images:
            yield image if isinstance(image, ImageError) else next(found)


def largest_face(entry: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """Return the face with the largest box of a photo's results.json entry; None without faces."""

    def area(face: Mapping[str, Any]) -> float:
        left, top, right, bottom = face["box_xyxy"]
        return float((right - left) * (bottom - top))

    return max(entry["faces"], key=area, default=None)


def write_features(
    entries: Iterable[Mapping[str, Any]], feature_list: Path, arrays: Path
) -> Tuple[int, List[str]]:
    """Write recorded embeddings in the authors' feature list format and as arrays.

    Parameters
    ----------
    entries
        Entries of a run: aligned faces, or photos, whose largest face is used.
    feature_list
        Target text file: ``path v0 v1 …``.
    arrays
        Target .npz, see :mod:`facezoo.datasets.embeddings`.

    Returns
    -------
    written : int
        Number of images with an embedding.
    without : list of str
        Images without an embedding: no face, or unreadable.
    """
    without: List[str] = []
    with EmbeddingFile(arrays.parent) as found, writing(feature_list) as lines:
        for entry in entries:
            face = largest_face(entry) if "faces" in entry else entry
            if face is None or "embedding" not in face:
                without.append(entry["path"])
                continue
            index = entry["faces"].index(face) if "faces" in entry else ALIGNED
            vector = np.array(face["embedding"], np.float32)
            found.add(entry["path"], vector, index)
            lines.write(feature_line(entry["path"], vector).encode())
        found.write(arrays)
        return len(found), without


def finish_embeddings(folder: RunFolder) -> None:
    """Write the results of a runner or decoder: results.json, feat.list and embeddings.npz."""
    _, without = write_features(
        folder.entries(), folder.folder / FEATURES_FILE, folder.folder / ARRAYS_FILE
    )
    if without:
        count = counted(len(without), "image")
        _log.warning("without an embedding: %s, the first is %s", count, without[0])
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
    sources: Sequence[Optional[Path]] = (),
    progress: Progress = lambda items, total: items,
) -> ItemCounts:
    """Embed the images of a list and write a feature list and an .npz beside it; resumable.

    Parameters
    ----------
    model
        The network.
    paths, names
        Aligned faces, and their names in the feature list.
    feature_list
        Target file; the progress of an interrupted run is kept in ``<feature_list>.run``.
    batch
        Batch size of the network.
    missing
        ``skip`` reports and leaves out unreadable images, ``fatal`` stops at the first.
    overwrite
        Remove what an earlier run wrote, and start again.
    sources
        Other files that are read, such as the list of images: they are never overwritten.
    progress
        Wraps the loop.

    Returns
    -------
    ItemCounts
        Counts of this run.

    Raises
    ------
    ImageError
        With ``fatal``, if an image cannot be read.
    RunFolderError
        If the file exists and does not belong to this run.
    """
    run = feature_list.with_name(f"{feature_list.name}.run")
    arrays = feature_list.with_suffix(".npz")

    def embed(left: Sequence[Path]) -> Iterator[Outcome]:
        for result in stream_batches(model, left, batch):
            if isinstance(result, ImageError) and missing == "fatal":
                raise result
            yield result

    with RunFolder(
        run,
        command="gen_feat",
        settings={**model.settings(), "batch": batch},
        inputs=Inputs(list(paths), list(names), *sources),
        overwrite=overwrite,
        beside=(feature_list, arrays),
    ) as folder:
        return folder.process(
            names,
            paths,
            embed,
            finish=lambda run: write_features(run.entries(), feature_list, arrays),
            progress=progress,
        )


def rank_by_magnitude(features: FeatureList, scale: str = "magnitude") -> List[Tuple[str, float]]:
    """Rank images by the norms of their MagFace embeddings, which are their quality.

    Parameters
    ----------
    features
        Embeddings as returned by the network.
    scale
        ``magnitude``, rounded to two decimals as in the authors' output, or ``ofiq``: 0 to 100, see
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


def ranking_csv(ranked: Sequence[Tuple[str, float]], scale: str) -> str:
    """Return a ranking of :func:`rank_by_magnitude` as a table, one row per face."""
    text = io.StringIO()
    rows = ((csv_cell(name), value) for name, value in ranked)
    csv.writer(text, lineterminator="\n").writerows([("path", scale), *rows])
    return text.getvalue()


def ranking_sheet(ranked: Sequence[Tuple[str, float]], feature_list: Path) -> np.ndarray:
    """Show ranked faces in their order, each above its value.

    Parameters
    ----------
    ranked
        Result of :func:`rank_by_magnitude`.
    feature_list
        The file that was ranked; its paths may be relative to its folder.

    Returns
    -------
    numpy.ndarray
        Shape (H, W, 3), uint8, RGB; of more than 400 faces, 400 evenly spaced in the order.
    """
    shown = np.unique(np.linspace(0, len(ranked) - 1, SHEET_FACES).round().astype(int))
    names, values = zip(*(ranked[index] for index in shown))
    images = [read_image_rgb(path) for path in resolve_names(names, feature_list)]
    size = (TEMPLATE_SIZE, TEMPLATE_SIZE)
    return contact_sheet(images, [f"{value:g}" for value in values], SHEET_COLUMNS, size)
