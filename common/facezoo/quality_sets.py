"""Folders of people for quality work: degraded copies, embeddings, lists of labels."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import cv2
import numpy as np

from .backends.base import Backend, Infer, naming
from .backends.ort import OrtBackend
from .contract import Contract, read_contract
from .datasets.image_list import read_lines, read_paths, write_image_list
from .errors import DatasetError, GraphError, ImageError, InputError
from .image.align import TEMPLATE_SIZE
from .image.degrade import degrade
from .image.files import read_image_rgb, write_bytes
from .models import CARDS
from .models.magface.decode import decode
from .models.sdd_fiqa.pseudo_labels import PseudoLabels, pseudo_labels
from .results import Embedding
from .vacc.npz import read_arrays
from .weights import find

__all__ = [
    "LISTS",
    "DegradedFaces",
    "Embeddings",
    "PackedEmbedding",
    "choose_people",
    "degraded_faces",
    "embed_pictures",
    "label_pictures",
    "open_recognizer",
    "person_of",
    "read_copies",
    "read_embeddings",
    "read_labels",
    "unpack_embeddings",
    "write_embeddings",
    "write_labels",
    "write_lists",
]

LISTS = ("faces.txt", "references.txt", "copies.txt")


def person_of(name: str) -> str:
    """Return the person of a picture: the folder it lies in, as the authors have it."""
    return name.rpartition("/")[0]


def choose_people(names: Iterable[str], first: int = 1, last: Optional[int] = None) -> List[str]:
    """List the people of some pictures, s2 before s10, and take some of them.

    Parameters
    ----------
    names
        Pictures such as ``s2/1.png``.
    first, last
        Of the people to take, counted from 1; up to the end if None.

    Raises
    ------
    InputError
        If there are not as many.
    """

    def in_order(person: str) -> List[Tuple[int, str]]:
        parts = re.split(r"(\d+)", person)
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    people = sorted(set(map(person_of, names)), key=in_order)
    last = len(people) if last is None else last
    if not 1 <= first <= last <= len(people):
        raise InputError(f"people {first} to {last} were asked for, there are 1 to {len(people)}")
    return people[first - 1 : last]


# Degraded copies ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class DegradedFaces:
    """A face and its copies.

    Attributes
    ----------
    person
        Number of the person.
    images
        File name to picture, (112, 112, 3), uint8, RGB; the face itself first.
    """

    person: int
    images: Mapping[str, np.ndarray]

    def to_dict(self) -> Dict[str, Any]:
        """Return what a run notes of it."""
        return {"person": self.person, "files": list(self.images)}


def degraded_faces(
    path: Path, stem: str, person: int, kind: str, levels: Sequence[float]
) -> DegradedFaces:
    """Read a face that is roughly in the middle, and make copies of it.

    Parameters
    ----------
    path
        The picture; its middle square is resized to 112x112.
    stem
        Of the copies' names, with the folder.
    person
        Number of the person.
    kind, levels
        As for :func:`~facezoo.image.degrade.degrade`.

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    image = read_image_rgb(path)
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    middle = image[top : top + side, left : left + side]
    face = np.asarray(cv2.resize(middle, (TEMPLATE_SIZE, TEMPLATE_SIZE)))
    images = {f"{stem}.png": face}
    for level in levels:
        images[f"{stem}_{kind}{level:g}.png"] = degrade(face, kind, level)
    return DegradedFaces(person, images)


def write_lists(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write faces.txt (path and person), references.txt and copies.txt (copy and original).

    Parameters
    ----------
    folder
        Where to.
    entries
        What :meth:`DegradedFaces.to_dict` gave; entries of pictures that were refused are left out.
    """
    made = [(entry["person"], entry["files"]) for entry in entries if "files" in entry]
    rows = [(name, person) for person, files in made for name in files]
    names, people = zip(*rows) if rows else ((), ())
    write_image_list(folder / LISTS[0], names, people, "path label")
    write_bytes(folder / LISTS[1], "".join(f"{files[0]}\n" for _, files in made).encode())
    copies = (f"{name} {files[0]}\n" for _, files in made for name in files[1:])
    write_bytes(folder / LISTS[2], "".join(copies).encode())


def read_copies(path: Path, names: Sequence[str]) -> np.ndarray:
    """Read which pictures are copies of which.

    Parameters
    ----------
    path
        ``copy original`` a line, as :func:`write_lists` writes copies.txt.
    names
        The pictures.

    Returns
    -------
    numpy.ndarray
        Shape (N,), int64: index of each picture's original, its own if it is no copy.

    Raises
    ------
    DatasetError
        If a line is not two of the pictures; names the line.
    """
    index_of = {name: index for index, name in enumerate(names)}
    originals = np.arange(len(names))
    for number, line in read_lines(path):
        pair = line.split()
        if len(pair) != 2 or not set(pair) <= set(index_of):
            raise DatasetError(
                f"{str(path)!r}: line {number} is no copy and its original: {line[:80]!r}; "
                f"expected two pictures such as {names[0]!r}"
            )
        originals[index_of[pair[0]]] = index_of[pair[1]]
    return originals


def label_pictures(
    embeddings: Embeddings,
    people: Optional[Mapping[str, int]] = None,
    *,
    pairs: Optional[int],
    rounds: int,
    seed: int,
    references: Optional[Path] = None,
    copies: Optional[Path] = None,
) -> PseudoLabels:
    """Label pictures by their embeddings.

    Parameters
    ----------
    embeddings
        Of the pictures.
    people
        Picture to the number of its person; by the folders if None.
    pairs, rounds, seed
        As for :func:`~facezoo.models.sdd_fiqa.pseudo_labels.pseudo_labels`.
    references
        List of the pictures that may be partners; all if None.
    copies
        List of copies with their originals, as :func:`read_copies` reads it.

    Returns
    -------
    PseudoLabels
        In the order of the embeddings.

    Raises
    ------
    DatasetError
        If a list does not name the pictures.
    InputError
        If the pictures cannot be labelled.
    """
    names, numbers = embeddings.names, embeddings.people
    if people is not None:
        numbers = np.array([people[name] for name in names])
    allowed = None
    if references is not None:
        allowed = np.isin(names, read_paths(references))
        if not allowed.any():
            raise DatasetError(
                f"{str(references)!r} names none of the pictures, such as {names[0]!r}"
            )
    return pseudo_labels(
        embeddings.vectors,
        numbers,
        pairs=pairs,
        rounds=rounds,
        seed=seed,
        references=allowed,
        originals=None if copies is None else read_copies(copies, names),
        names=names,
    )


def write_labels(path: Path, names: Sequence[str], labels: np.ndarray) -> None:
    """Write ``path label`` a line, as the authors do."""
    lines = (f"{name} {label:.6f}\n" for name, label in zip(names, labels.tolist()))
    write_bytes(path, "".join(lines).encode())


def read_labels(path: Path) -> Tuple[Tuple[str, ...], np.ndarray]:
    """Read pseudo-labels: ``path label`` a line, as the authors write them.

    Returns
    -------
    names : tuple of str
        As the list has them.
    labels : numpy.ndarray
        Shape (N,), float64.

    Raises
    ------
    DatasetError
        If a line has no finite number at its end; names the line.
    """
    names, labels = [], []
    for number, line in read_lines(path):
        name, _, label = line.rpartition(" ")
        try:
            labels.append(float(label))
        except ValueError:
            labels.append(np.nan)
        if not name or not np.isfinite(labels[-1]):
            raise DatasetError(
                f"{str(path)!r}: line {number} is no path and number: {line[:80]!r}; "
                "make the list with make_pseudo_labels.py"
            )
        names.append(name.strip())
    return tuple(names), np.array(labels)


# Embeddings --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of pictures.

    Attributes
    ----------
    names
        Of the pictures.
    vectors
        Shape (N, D), float32, not normalised.
    """

    names: Tuple[str, ...]
    vectors: np.ndarray

    @property
    def people(self) -> np.ndarray:
        """Shape (N,), int64: number of each picture's person, the folder it lies in."""
        people = [person_of(name) for name in self.names]
        return np.asarray(np.unique(people, return_inverse=True)[1].ravel())


@dataclass(frozen=True)
class PackedEmbedding:
    """An embedding as a short text, since JSON numbers cost more time than inference."""

    vector: np.ndarray

    def to_dict(self) -> Dict[str, Any]:
        """Return the vector as text."""
        return {"vector": base64.b64encode(self.vector.astype("<f4").tobytes()).decode("ascii")}


def unpack_embeddings(entries: Iterable[Mapping[str, Any]]) -> Embeddings:
    """Gather what :class:`PackedEmbedding` packed; pictures that were refused are left out.

    Raises
    ------
    DatasetError
        If there is none.
    """
    names, vectors = [], []
    for entry in entries:
        if "vector" in entry:
            names.append(entry["path"])
            vectors.append(np.frombuffer(base64.b64decode(entry["vector"]), "<f4"))
    if not names:
        raise DatasetError("there is no embedding: every picture was refused")
    return Embeddings(tuple(names), np.stack(vectors))


def open_recognizer(
    source: str, card_id: str = "w600k_mbf", threads: Optional[int] = None
) -> OrtBackend:
    """Open any recognition network of one picture in and one embedding out.

    Parameters
    ----------
    source
        An .onnx file, or the name ``facezoo download`` fetched it under.
    card_id
        Whose pre-processing a file gets that carries no contract of its own.
    threads
        Cores to use; all if None.

    Raises
    ------
    InputError
        If there is no such card.
    GraphError
        If the file is no graph of one input and one output.
    """
    import onnx

    path = Path(source) if source.endswith(".onnx") else find(source)
    if card_id not in CARDS or CARDS[card_id].task != "face_recognition":
        raise InputError(f"{card_id!r} is no card of a recognition network; see facezoo list")
    try:
        contract = read_contract(path)
    except GraphError as error:
        if "carries no contract" not in str(error):
            raise
        graph = onnx.load(str(path), load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [entry.name for entry in graph.input if entry.name not in weights]
        outputs = tuple(entry.name for entry in graph.output)
        if len(inputs) != 1 or len(outputs) != 1:
            raise GraphError(
                f"{str(path)!r} has inputs {inputs} and outputs {list(outputs)}; expected one "
                "picture and one embedding"
            ) from error
        card = CARDS[card_id]
        contract = Contract(card.id, card.model, inputs[0], card.preprocess, outputs)
    return OrtBackend(path, contract, threads=threads)


def embed_pictures(
    backend: Backend, paths: Iterable[Path]
) -> Iterator[Tuple[Path, Union[Embedding, ImageError]]]:
    """Embed aligned faces.

    Parameters
    ----------
    backend
        From :func:`open_recognizer`.
    paths
        The pictures.

    Yields
    ------
    path : Path
        In the order given.
    result : Embedding or ImageError
        The error if the file cannot be read.
    """

    def one(infer: Infer, path: Path) -> Tuple[Path, Union[Embedding, ImageError]]:
        try:
            image = read_image_rgb(path)
        except ImageError as error:
            return path, error
        with naming(path):
            return path, decode(infer(image))[0]

    return backend.map(one, paths)


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write an embeddings.npz: ``names``, ``vectors`` and ``norms``."""
    buffer = io.BytesIO()
    norms = np.linalg.norm(embeddings.vectors.astype(np.float64), axis=1)
    names = np.array(embeddings.names, dtype=np.str_)
    np.savez(buffer, names=names, vectors=embeddings.vectors, norms=norms)
    write_bytes(path, buffer.getvalue())


def read_embeddings(path: Path) -> Embeddings:
    """Read an embeddings.npz: ``names`` and ``vectors``.

    Raises
    ------
    DatasetError
        If it is no such file.
    """
    try:
        arrays = read_arrays(path)
        names, vectors = tuple(arrays["names"].tolist()), arrays["vectors"].astype(np.float32)
        if vectors.ndim != 2 or len(names) != len(vectors):
            raise ValueError(f"{len(names)} names, vectors of shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector is not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{str(path)!r} holds no embeddings ({error}); expected an .npz with names and vectors"
        ) from error
    return Embeddings(names, vectors)
