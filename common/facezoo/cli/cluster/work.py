"""The work of ``facezoo cluster``: find the faces, group them, write who is where."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ...errors import ImageError
from ...files import counted, csv_cell, open_file, printable
from ...people.clustered import (
    PEOPLE_FILE,
    Clustered,
    add_entry,
    entries_of,
    read_people,
    together,
    write_people,
)
from ...people.faces import ARRAYS, EmbeddedFaces, FacesBuilder, Space, find_tables, read_faces
from ...people.gallery import GALLERY_FILE, Gallery
from ...pipeline.clusters import People, find_people
from ...pipeline.photo import PredictedPhoto, Predictor
from ...runs import Inputs, Outcome, RunFolder
from ...written import writing
from ..inputs import find_inputs, named
from ..options import EXIT_SOME_REFUSED, progress
from ..predict.work import open_predictor
from ..thresholds import threshold_for
from .pages import PAGE, ShownPeople, write_pages

__all__ = ["cluster_faces"]

CSV_FILE = "people.csv"
COLUMNS = "photo face person similarity weight score left top right bottom left_out".split()
PHOTOS_HERE = "the photos"

Entries = List[Dict[str, Any]]


@dataclass
class _Inputs:
    """Results and tables that hold embeddings, by their names, and the words that name photos."""

    clustered: Dict[str, Clustered] = field(default_factory=dict)
    tables: Dict[str, EmbeddedFaces] = field(default_factory=dict)
    photos: List[str] = field(default_factory=list)

    @classmethod
    def of(cls, words: Sequence[str]) -> _Inputs:
        """Read what the words name, except photos."""
        found = cls()
        for word in words:
            path = Path(word)
            people = path / PEOPLE_FILE if path.is_dir() else path
            if people.name == PEOPLE_FILE and people.is_file():
                found.clustered[word] = read_people(people)
            elif (path / GALLERY_FILE).is_file():
                found.tables[word] = _enrolled(path)
            elif path.exists() and find_tables(path):
                found.tables[word] = read_faces(path)
            else:
                found.photos.append(word)
        return found

    def without(self, photos: Sequence[str]) -> Dict[str, EmbeddedFaces]:
        """Return the faces by source; of results, without those of some photos."""
        left_out = frozenset(photos)
        results = {word: one.without(left_out) for word, one in self.clustered.items()}
        return {**self.tables, **results}

    def known(self, settings: Optional[Mapping[str, Any]]) -> Dict[str, Tuple[str, Entries]]:
        """Return hash and faces of each photo of the results that was scored alike."""
        found: Dict[str, Tuple[str, Entries]] = {}
        for one in self.clustered.values():
            if one.chain == settings:
                entries = entries_of(one.faces)
                found.update((name, (of, entries[name])) for name, of in one.contents.items())
        return found


def _enrolled(folder: Path) -> EmbeddedFaces:
    """Return the faces of a gallery, whoever they are enrolled as."""
    gallery = Gallery(folder)
    builder = FacesBuilder(gallery.space)
    if gallery.faces:
        rows = gallery.enrolled()
        lengths = np.linalg.norm(rows.vectors, axis=1)
        # A gallery keeps the weights: lengths, unless there was a quality network.
        is_quality = not np.allclose(rows.weights, lengths, rtol=1e-3)
        arrays = {
            "index": rows.face,
            "vectors": rows.vectors,
            "boxes": rows.boxes,
            "scores": np.full(len(lengths), np.nan),
            "magnitude": lengths,
            "quality": rows.weights if is_quality else np.full(len(lengths), np.nan),
            "sides": np.zeros((len(lengths), 2)),
        }
        builder.add(rows.photos, arrays)
    return builder.faces()


class _Journalled:
    """The faces of a photo, for the journal of the run."""

    def __init__(self, faces: Entries, content: str) -> None:
        self._entry = {"faces": faces, "content": content}

    def to_dict(self) -> Dict[str, Any]:
        return self._entry


@dataclass
class _Scoring:
    """Scores the photos that no earlier result knows."""

    model: Predictor
    inputs: Inputs
    known: Mapping[str, Tuple[str, Entries]]

    def outcomes(self, left: Sequence[Path]) -> Iterator[Outcome]:
        """Yield the faces of photos, in their order."""
        index_of = {path: index for index, path in enumerate(self.inputs.paths)}
        contents = [self.inputs.contents.digest(index_of[path]) for path in left]
        names = [self.inputs.names[index_of[path]] for path in left]
        is_known = [
            name in self.known and self.known[name][0] == content
            for name, content in zip(names, contents)
        ]
        new = iter(self.model.stream([path for path, old in zip(left, is_known) if not old]))
        for name, content, old in zip(names, contents, is_known):
            if old:
                yield _Journalled(self.known[name][1], content)
                continue
            found = next(new)
            yield found if isinstance(found, ImageError) else self._faces(name, found, content)

    def _faces(self, name: str, found: PredictedPhoto, content: str) -> _Journalled:
        builder = FacesBuilder(Space.of(self.model.settings()))
        builder.photo(name, found)
        return _Journalled(entries_of(builder.faces())[name], content)


def cluster_faces(args: argparse.Namespace) -> int:
    """Run ``facezoo cluster``."""
    sources = _Inputs.of(args.inputs)
    paths, names = find_inputs(sources.photos) if sources.photos else ([], ())
    held = [*sources.tables, *sources.clustered]
    inputs = Inputs(paths, names, *filter(_is_path, [*sources.photos, *held]), *_models(args))
    parts = sources.without(names)
    with ExitStack() as stack:
        model = stack.enter_context(open_predictor(args)) if paths else None
        settings = json.loads(json.dumps(model.settings())) if model else None
        space = Space.of(settings) if settings else next(iter(parts.values())).space
        embedder = model.embedder if model else None
        cosine, origin = threshold_for(args, space.model, space.model_sha256, embedder)
        known = sources.known(settings)
        wanted = {"chain": settings, "threshold": cosine, "faces": _fingerprint(parts)}
        with RunFolder(args.output, "cluster", wanted, inputs, args.overwrite) as run:

            def finish(run: RunFolder) -> None:
                here = FacesBuilder(space)
                contents = {name: content for name, (content, _) in known.items()}
                for entry in run.entries() if names else ():
                    if "error" in entry:
                        here.leave_out(entry["path"], None, entry["error"])
                    else:
                        add_entry(here, entry["path"], entry["faces"])
                        contents[entry["path"]] = entry["content"]
                faces = together({**parts, PHOTOS_HERE: here.faces()}, space)
                path_of = _paths_of(faces, dict(zip(names, paths)), args.photos)
                _write(args, Clustered(faces, contents, settings), cosine, path_of)

            counts = run.process(
                names,
                paths,
                _Scoring(model, inputs, known).outcomes if model else lambda left: (),
                finish=finish,
                progress=progress,
            )
            print(_summary(args.output / CSV_FILE))
    print(f"the threshold {cosine:.4f} is {origin}")
    print(printable(f"look at {args.output / PAGE}"))
    return EXIT_SOME_REFUSED if counts.refused else 0


def _is_path(word: str) -> bool:
    return word != "-"


def _models(args: argparse.Namespace) -> Iterator[Any]:
    yield from (args.detector, args.landmarks, args.quality, args.embedder)
    yield from (*args.profile, args.appearance, args.similarity)


def _fingerprint(parts: Mapping[str, EmbeddedFaces]) -> str:
    """Hash the faces that are not scored here, whatever their sources are called."""
    hashes = []
    for faces in parts.values():
        digest = hashlib.sha256(repr((faces.photos, faces.left_out)).encode("utf-8", "replace"))
        for name in ARRAYS:
            digest.update(getattr(faces, name).tobytes())
        hashes.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def _paths_of(
    faces: EmbeddedFaces, here: Mapping[str, Path], photos: Optional[Path]
) -> Dict[str, Path]:
    """Return where the photos are, as far as it is known; a gallery names their paths."""
    names = set(faces.photos)
    found = {name: Path(name) for name in names if Path(name).is_absolute()}
    if photos:
        found.update((name, photos / name) for name in names - set(found))
    return {**found, **here}


def _write(
    args: argparse.Namespace,
    clustered: Clustered,
    cosine: float,
    path_of: Mapping[str, Path],
) -> None:
    faces, folder = clustered.faces, args.output
    photos = np.unique(np.array(faces.photos, object), return_inverse=True)[1].ravel()

    def shown(items: Iterable[Any], total: int) -> Iterable[Any]:
        return progress(items, total, "comparing")

    people = find_people(faces.vectors, photos, cosine, faces.weights, progress=shown)
    write_people(folder / PEOPLE_FILE, clustered, people)
    with writing(folder / CSV_FILE) as table:
        for cells in chain([COLUMNS], _rows(faces, people)):
            table.write(_csv_line(cells))
    title = f"People in {named(args.inputs)}"
    summary = _summary(folder / CSV_FILE)
    settings = {"threshold": cosine, "chain": clustered.chain, "space": faces.space.to_dict()}
    write_pages(folder, ShownPeople(title, summary, faces, people, path_of, settings), progress)


def _rows(faces: EmbeddedFaces, people: People) -> Iterator[List[Any]]:
    """Yield the rows of the table, by photo and face."""
    rows: List[Tuple[str, int, List[Any]]] = []
    for photo, face, why in faces.left_out:
        if face is not None:
            rows.append((photo, face, [*[""] * 8, why]))
    weights = faces.weights
    for row, photo in enumerate(faces.photos):
        box = [round(float(value), 2) for value in faces.boxes[row]]
        # A gallery does not keep the detector's score.
        score = "" if np.isnan(faces.scores[row]) else round(float(faces.scores[row]), 4)
        numbers = (people.similarity[row], weights[row])
        rounded = [round(float(value), 4) for value in numbers]
        cells = [int(people.numbers[row]), *rounded, score, *box, ""]
        rows.append((photo, int(faces.index[row]), cells))
    for photo, face, cells in sorted(rows, key=lambda row: row[:2]):
        yield [csv_cell(photo), face, *cells]


def _csv_line(cells: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _summary(path: Path) -> str:
    """Say what a table of people holds."""
    faces = left_out = 0
    sizes: Dict[str, int] = {}
    with open_file(path) as file:
        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")):
            faces += 1
            left_out += not row["person"]
            if row["person"]:
                sizes[row["person"]] = sizes.get(row["person"], 0) + 1
    alone = sum(1 for size in sizes.values() if size == 1)
    return (
        f"{counted(faces, 'face')}, {left_out} left out; people: {len(sizes)}, {alone} of them "
        "with one face"
    )
