"""The work of ``facezoo predict``: open the stages, run them over the photos, write the results."""

from __future__ import annotations

import argparse
import base64
import csv
import dataclasses
import io
import json
import os
import tempfile
from array import array
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import numpy as np

from ...datasets.embeddings import EmbeddingFile
from ...errors import UNREADABLE, InputError
from ...files import counted, csv_cell, open_file, printable, sha256_of
from ...image.draw import draw_predicted, write_drawing
from ...image.files import names_with_suffix, read_image_rgb
from ...models.base import FaceModel, LandmarkModel
from ...models.magface.model import FaceEmbedder
from ...models.scrfd.model import FaceDetector
from ...models.sdd_fiqa.model import FaceQuality
from ...pipeline.acceptance import REASONS, Acceptance, read_score_limit
from ...pipeline.clusters import face_weights, find_people
from ...pipeline.load import load
from ...pipeline.photo import PredictedPhoto, Predictor
from ...profiles.appearance import AppearanceLimits, default_limits, read_appearance
from ...profiles.measures import MEASURES
from ...profiles.similarity import read_similarity
from ...reports.html import (
    LONGEST_SIDE,
    Curves,
    Facts,
    Pictures,
    Section,
    Table,
    versions,
    write_html_report,
)
from ...runs import Inputs, RunFolder
from ...written import writing
from .. import flags
from ..inputs import find_inputs, named
from ..options import run_items, runtime_of
from ..outputs import result_stream

if TYPE_CHECKING:
    from ...people.search import Namer

__all__ = ["open_predictor", "predict_photos", "read_photos"]

SCHEMA, FIRST_SCHEMA = "facezoo.predict/2", "facezoo.predict/1"
# Names of two measures in the first schema.
FIRST_NAMES = {"turn": "yaw", "cut_off": "truncation"}
FACES_FILE, ARRAYS_FILE = "faces.jsonl", "embeddings.npz"
PARQUET_FILES = "faces.parquet", "photos.parquet"

PICTURES_SHOWN = 48
SCORES = ("score", "quality", "magnitude")  # shown as curves
COLUMNS = (
    "photo face reasons score left top right bottom size sharpness yaw truncation quality "
    "magnitude embedding person name similarity"
).split()


def predict_photos(args: argparse.Namespace) -> int:
    """Run the chain over the photos, and print or write the results."""
    paths, names = find_inputs(args.inputs)
    with open_predictor(args) as model, _result_folder(args.output) as folder:
        return _run(args, model, paths, names, folder)


@contextmanager
def _result_folder(output: Optional[Path]) -> Iterator[Path]:
    """Yield the folder of results; one that is removed again if none was asked for."""
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="facezoo-") as folder:
        yield Path(folder)


def _run(
    args: argparse.Namespace,
    model: Predictor,
    paths: Sequence[Path],
    names: Sequence[str],
    folder: Path,
) -> int:
    name_of, picture_of = dict(zip(paths, names)), names_with_suffix(names, ".jpg")
    alike, namer = _similarity(args, model), _namer(args, model)

    def files_of(name: str) -> Iterator[Path]:
        if args.draw:
            yield folder / "pictures" / picture_of[name]

    def draw(path: Path, image: np.ndarray, photo: PredictedPhoto) -> None:
        for picture in files_of(name_of[path]):
            entry = photo.to_dict()
            _name(entry, namer)
            write_drawing(picture, _drawn_entry(image, entry))

    def finish(run: RunFolder) -> None:
        write_results(folder, run, alike, with_embeddings=args.embedder is not None, namer=namer)
        if args.parquet:
            _write_parquet(folder, model, run, dict(zip(names, paths)))

    def show() -> None:
        if args.html:
            _write_html(args, folder, model.settings(), dict(zip(names, paths)))
        if args.csv:
            _write_csv(args.csv, folder)
        if args.json:
            _write_json(args.json, folder)
        if args.output is None and not (args.html or args.csv or args.json):
            print("\n".join(_face_lines(folder / FACES_FILE)))
        print(_summary(folder / FACES_FILE))

    stages = (args.detector, args.landmarks, args.quality, args.embedder)
    limits = (*args.profile, args.appearance, args.similarity)
    inputs = Inputs(paths, names, *filter(os.path.isdir, args.inputs), *stages, *limits)
    # The flags name neither the photos of a pattern nor those of a list.
    inputs.refuse_file(args.html, args.csv, args.json)
    return run_items(
        args,
        inputs,
        lambda left: model.stream(left, visit=draw),
        command="predict",
        settings={
            **model.settings(),
            **{"draw": args.draw, "similarity": alike},
            # Only with it, so that folders of earlier versions go on.
            **({"parquet": True} if args.parquet else {}),
            **({} if namer is None else {"gallery": _gallery_settings(args, namer)}),
        },
        folder=folder,
        where="" if args.output is None else f"results in {folder}",
        files_of=files_of,
        finish=finish,
        afterwards=show,
    )


def _similarity(args: argparse.Namespace, model: Predictor) -> Optional[float]:
    if args.similarity is None:
        return None
    if model.embedder is None:
        raise InputError("--similarity compares embeddings; name an --embedder")
    sha256 = model.embedder.settings().get("model_sha256")
    return read_similarity(args.similarity, sha256).cosine_at(args.fmr)


def _namer(args: argparse.Namespace, model: Predictor) -> Optional[Namer]:
    if args.gallery is None:
        for name in ("min_similarity", "strangers"):
            if getattr(args, name) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} is about a gallery; name it: --gallery GALLERY"
                )
        return None
    # Imported here, since few runs need the extra gallery.
    from ...people.faces import Space
    from ...people.gallery import Gallery
    from ...people.search import Namer, read_strangers, threshold_for

    gallery = Gallery(args.gallery)
    if model.embedder is None:
        raise InputError(
            f"a gallery needs embeddings; name the one that it was made with: --embedder "
            f"{gallery.embedder}"
        )
    strangers = args.strangers and read_strangers(gallery, args.strangers, model)
    threshold, _ = threshold_for(gallery, args.fpir, args.min_similarity, strangers)
    return Namer(gallery, Space.of(model.settings()), threshold)


def _gallery_settings(args: argparse.Namespace, namer: Namer) -> Dict[str, Any]:
    """Return what the names depend on, besides the faces."""
    sha256 = sha256_of(args.gallery / "gallery.json")
    return {"sha256": sha256, "threshold": namer.threshold}


def _name(entry: Dict[str, Any], namer: Optional[Namer]) -> None:
    """Name the embedded faces of a photo's entry, in place."""
    faces = [face for face in entry.get("faces", ()) if "vector" in face]
    if namer is None or not faces:
        return
    vectors = np.stack([np.frombuffer(base64.b64decode(face["vector"]), "<f4") for face in faces])
    for face, (name, cosine) in zip(faces, namer.names(vectors)):
        face["name"], face["similarity"] = name, cosine


def open_predictor(args: argparse.Namespace, threads: Optional[int] = None) -> Predictor:
    """Open the stages that the arguments name, on all usable cores or on fewer."""
    runtime = dataclasses.replace(runtime_of(args), threads=threads)
    scores = tuple(read_score_limit(path, args.min_quality) for path in args.profile)
    embedder = args.embedder and load(args.embedder, kind=FaceEmbedder, runtime=runtime)
    limits = _limits_of(args, embedder)
    return Predictor(
        load(args.detector, kind=FaceDetector, runtime=runtime, **flags.detector_options(args)),
        args.landmarks and load(args.landmarks, kind=LandmarkModel, runtime=runtime),
        args.quality and load(args.quality, kind=FaceQuality, runtime=runtime),
        embedder,
        acceptance=Acceptance(limits, scores, embed_refused=args.embed_refused),
        try_rotations=args.try_rotations,
    )


def _limits_of(args: argparse.Namespace, embedder: Optional[FaceModel[Any]]) -> AppearanceLimits:
    limits = default_limits()
    if args.appearance:
        sha256 = None if embedder is None else embedder.settings().get("model_sha256")
        limits = read_appearance(args.appearance, sha256).limits
    given = {one.limit: getattr(args, one.limit) for one in MEASURES.values()}
    given = {field: value for field, value in given.items() if value is not None}
    return dataclasses.replace(limits, **given)


def _write_html(
    args: argparse.Namespace, folder: Path, settings: Dict[str, Any], path_of: Dict[str, Path]
) -> None:
    """Write the HTML report of a finished run: images, a row per face, scores, settings."""
    count = 0
    shown: List[Dict[str, Any]] = []
    filled: Set[int] = set()
    # 8 bytes a face; its row of the table has a hundred times as many.
    scores = {name: array("d") for name in SCORES}
    for entry in read_photos(folder / FACES_FILE):
        count += 1
        if "faces" in entry and len(shown) < PICTURES_SHOWN:
            shown.append(entry)
        for row, face in _rows_of([entry]):
            filled.update(index for index, cell in enumerate(row) if cell is not None)
            for name in SCORES:
                if face.get(name) is not None:
                    scores[name].append(face[name])
    images = [_small(read_image_rgb(path_of[entry["path"]]), entry) for entry in shown]
    captions = [f"{entry['path']}, faces: {len(entry['faces'])}" for entry in shown]
    note = f"The first {len(shown)} of {count} photos." if len(shown) < count else ""
    used = sorted(filled)
    rows = ([row[i] for i in used] for row, _ in _rows_of(read_photos(folder / FACES_FILE)))
    write_html_report(
        args.html,
        f"Faces in {named(args.inputs)}",
        [
            Section("Result", _summary(folder / FACES_FILE)),
            Pictures("Photos", images, captions, note),
            Table("Faces", [COLUMNS[i] for i in used], rows),
            *_score_curves(scores),
            Facts("Settings", settings),
            Facts("Versions", versions()),
        ],
    )


def _rows_of(photos: Iterable[Dict[str, Any]]) -> Iterator[Tuple[List[Any], Dict[str, Any]]]:
    """Yield each face's row of the report, with None in empty cells, and the face."""
    for photo, index, face in _faces_of(photos):
        row = _row(photo["path"], index, face)
        yield [None if cell == "" else cell for cell in row], face


def _score_curves(scores: Mapping[str, Sequence[float]]) -> Iterator[Curves]:
    for name, found in scores.items():
        if found:
            values = np.sort(found)[::-1]
            line = {name: (np.arange(1, len(values) + 1), values)}
            yield Curves(f"Faces by {name}", "faces, highest first", name, line)


def _small(image: np.ndarray, entry: Dict[str, Any]) -> np.ndarray:
    """Shrink a photo to its size in the report, then draw, so that the labels are readable."""
    import cv2

    scale = min(1.0, LONGEST_SIDE / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    shrunk = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return _drawn_entry(shrunk, entry, scale)


def _drawn_entry(image: np.ndarray, entry: Dict[str, Any], scale: float = 1.0) -> np.ndarray:
    faces = entry["faces"]
    return draw_predicted(
        image,
        scale * np.array([face["box_xyxy"] for face in faces], np.float32).reshape(-1, 4),
        [_label(face) for face in faces],
        [bool(face["reasons"]) for face in faces],
        [scale * np.array(face.get("points_xy", face["landmarks_xy"])) for face in faces],
    )


def _label(face: Mapping[str, Any]) -> str:
    """Return what is written beside a face: its name, why it is refused, or its score."""
    known = printable(face["name"] or "unknown") if "name" in face else f"{face['score']:.2f}"
    return ", ".join(face["reasons"]) or known


# Files --------------------------------------------------------------------------------------------


def write_results(
    folder: Path,
    run: RunFolder,
    alike: Optional[float],
    with_embeddings: bool,
    namer: Optional[Namer] = None,
) -> None:
    """Write the lines and the embeddings of a run, which are held in memory only to be grouped."""
    with ExitStack() as stack:
        embedded = stack.enter_context(EmbeddingFile(folder))
        photos: Dict[str, int] = {}
        found: List[Tuple[int, float, float]] = []
        for photo, index, face in _faces_of(run.entries()) if with_embeddings else ():
            if "vector" in face:
                vector = np.frombuffer(base64.b64decode(face["vector"]), "<f4")
                embedded.add(photo["path"], vector, index)
                if alike is not None:
                    number = photos.setdefault(photo["path"], len(photos))
                    found.append((number, face.get("quality", np.nan), face["magnitude"]))
        people = None
        if alike is not None and found:
            vectors = embedded.vectors.whole()
            of_photo, quality, magnitude = np.array(found).T
            weights = face_weights(quality, magnitude)
            people = find_people(vectors, of_photo.astype(int), alike, weights).numbers.tolist()
        lines = stack.enter_context(writing(folder / FACES_FILE))
        row = 0
        for photo in run.entries():
            _name(photo, namer)
            for _, _, face in _faces_of([photo]):
                has_vector = face.pop("vector", None) is not None
                face["embedding"] = row if has_vector else None
                if people is not None and has_vector:
                    face["person"] = people[row]
                row += has_vector
            lines.write((json.dumps({"schema": SCHEMA, **photo}, allow_nan=False) + "\n").encode())
        if with_embeddings:
            embedded.write(folder / ARRAYS_FILE)


def _write_csv(path: Path, folder: Path) -> None:
    with writing(path) as table:
        table.write(_csv_line(COLUMNS))
        for photo, index, face in _faces_of(read_photos(folder / FACES_FILE)):
            table.write(_csv_line(_row(csv_cell(photo["path"]), index, face)))


def _write_json(path: Path, folder: Path) -> None:
    """Write an array of the lines, of which each is checked but only one held in memory."""
    with result_stream(path) as stream:
        before = b"["
        for entry in read_photos(folder / FACES_FILE):
            stream.write(before + b"\n" + json.dumps(entry, allow_nan=False).encode())
            before = b","
        stream.write(b"\n]\n")


def _face_lines(path: Path) -> Iterator[str]:
    for entry in read_photos(path):
        found = entry.get("faces")
        what = entry.get("error", "") if found is None else counted(len(found), "face")
        yield f"{printable(entry['path'])}: {what}"
        for face in found or ():
            box = " ".join(f"{value:.1f}" for value in face["box_xyxy"])
            name = [printable(face["name"] or "unknown")] if "name" in face else []
            yield "  ".join([f"  {face['score']:.3f}", box, *face["reasons"], *name])


def _write_parquet(
    folder: Path, model: Predictor, run: RunFolder, path_of: Mapping[str, Path]
) -> None:
    # Imported here, since few runs need pyarrow.
    from ...scale.tables import TableWriter, columns_of

    faces, photos = (folder / name for name in PARQUET_FILES)
    with TableWriter(faces, photos, columns_of(model), model.settings()) as tables:
        for entry in run.entries():
            path = path_of[entry["path"]]
            tables.add(entry, path.stat().st_size if path.is_file() else None)


def _faces_of(
    photos: Iterable[Dict[str, Any]],
) -> Iterator[Tuple[Dict[str, Any], int, Dict[str, Any]]]:
    """Yield each face with its photo and its index in it."""
    for photo in photos:
        for index, face in enumerate(photo.get("faces", ())):
            yield photo, index, face


def _csv_line(cells: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _row(photo: str, index: int, face: Dict[str, Any]) -> List[Any]:
    known = {**face, "photo": photo, "face": index, "reasons": " ".join(face["reasons"])}
    if known.get("name"):
        known["name"] = csv_cell(known["name"])
    known.update(zip(("left", "top", "right", "bottom"), face["box_xyxy"]))
    return ["" if known.get(column) is None else known[column] for column in COLUMNS]


def read_photos(path: Path) -> Iterator[Dict[str, Any]]:
    """Read a faces.jsonl of the current or the first schema, as entries of the current one.

    Parameters
    ----------
    path
        The file.

    Yields
    ------
    dict
        One per photo.

    Raises
    ------
    InputError
        If a line has another schema; the message names the line.
    """
    advice = "run facezoo predict again with --overwrite"
    try:
        file = open_file(path)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); {advice}") from error
    with file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
                if entry["schema"] not in (SCHEMA, FIRST_SCHEMA):
                    raise ValueError(f"its schema is {entry['schema']!r}")
                faces = [
                    {FIRST_NAMES.get(name, name): value for name, value in face.items()}
                    for face in entry.get("faces", ())
                ]
            except UNREADABLE as error:
                raise InputError(
                    f"{str(path)!r}: line {number} is not a photo of facezoo predict ({error}); "
                    f"{advice}"
                ) from error
            yield {**entry, "schema": SCHEMA, **({"faces": faces} if "faces" in entry else {})}


def _summary(path: Path) -> str:
    count = refused = 0
    reasons: Counter[str] = Counter()
    for _, _, face in _faces_of(read_photos(path)):
        count += 1
        refused += bool(face["reasons"])
        reasons.update(set(face["reasons"]))
    why = ", ".join(f"{reasons[name]} {name}" for name in REASONS if reasons[name])
    return f"{counted(count, 'face')}, {refused} below the limits" + (f": {why}" if why else "")
