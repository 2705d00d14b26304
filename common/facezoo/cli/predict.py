r"""The whole chain on photos: detect, landmarks, align, quality, embed; and why a face is refused.

A stage is given by a card's id, whose published weights are used, by an artifact prefix or by an
.onnx file, followed by @ort, @openvino or @vsx to choose its engine. Only the detector is needed.

  facezoo predict photos --save_dir out --draw
  facezoo predict photos --save_dir out --embedder w600k_mbf --html out.html --csv
  facezoo predict photo.jpg --save_dir out --landmarks onnx/pip_resnet18.onnx \
      --quality deploy_weights/sdd_fiqa/mod@openvino --profile quality.json

It writes faces.jsonl (one line per photo, see facezoo/schemas/predict.schema.json), run.json, and
on request faces.csv, pictures/, embeddings.npz, and faces.parquet with photos.parquet. Resumable:
run the same command again.
"""

from __future__ import annotations

import argparse
import base64
import csv
import dataclasses
import io
import json
from collections import Counter
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..datasets.embeddings import EmbeddingFile
from ..errors import UNREADABLE, InputError
from ..fields import RATE
from ..files import csv_cell, open_file
from ..image.draw import draw_predicted, write_drawing
from ..image.files import find_images, names_with_suffix, read_image_rgb, relative_names
from ..models.base import FaceModel, LandmarkModel
from ..models.magface.model import FaceEmbedder
from ..models.scrfd.model import FaceDetector
from ..models.sdd_fiqa.model import FaceQuality
from ..pipeline.acceptance import REASONS, Acceptance, read_score_limit
from ..pipeline.load import load
from ..pipeline.people import number_people
from ..pipeline.photo import PredictedPhoto, Predictor
from ..profiles.appearance import MEASURES, AppearanceLimits, default_limits, read_appearance
from ..profiles.similarity import read_similarity
from ..reports.html import (
    LONGEST_SIDE,
    Curves,
    Facts,
    Pictures,
    Section,
    Table,
    versions,
    write_html_report,
)
from ..runs import Inputs, RunFolder
from ..written import writing
from .options import (
    add_flag,
    add_old_spelling,
    add_output,
    add_run_options,
    add_runtime_options,
    run_items,
    runtime_of,
)

__all__ = ["add_stage_options", "configure", "open_predictor", "read_photos", "run"]

SCHEMA, FIRST_SCHEMA = "facezoo.predict/2", "facezoo.predict/1"
# Names of two measures in the first schema.
FIRST_NAMES = {"turn": "yaw", "cut_off": "truncation"}
FACES_FILE, CSV_FILE, ARRAYS_FILE = "faces.jsonl", "faces.csv", "embeddings.npz"
PARQUET_FILES = "faces.parquet", "photos.parquet"
PICTURES_SHOWN = 48
SCORES = ("score", "quality", "magnitude")  # shown as curves
COLUMNS = (
    "photo face reasons score left top right bottom size sharpness yaw truncation quality "
    "magnitude embedding person"
).split()


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("path", type=Path, metavar="PHOTOS", help="a photo or a folder of them")
    add_flag(parser, "--save_dir", type=Path, required=True, metavar="DIR", help="result folder")
    add_stage_options(parser)
    people = parser.add_argument_group("people")
    people.add_argument(
        "--similarity",
        type=Path,
        metavar="FILE",
        help="profile of facezoo calibrate similarity: number the people among the embedded faces",
    )
    people.add_argument(
        "--fmr", type=RATE, default=1e-3, help="false match rate, one of those in that profile"
    )
    add_old_spelling(people, "--far", type=RATE, dest="fmr")
    output = parser.add_argument_group("output")
    output.add_argument("--draw", action="store_true", help="write annotated images")
    add_output(
        output,
        "--html",
        metavar="FILE",
        help="write an HTML report",
    )
    output.add_argument("--csv", action="store_true", help="write one row per face")
    output.add_argument(
        "--parquet", action="store_true", help="write the tables of faces and photos as Parquet"
    )
    add_run_options(parser)


def add_stage_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the stages and of the limits; :func:`open_predictor` reads them."""
    stages = parser.add_argument_group("stages")
    stages.add_argument("--detector", default="scrfd_500m_bnkps", metavar="M", help="SCRFD")
    stages.add_argument("--landmarks", metavar="M", help="PIPNet or PFLD")
    stages.add_argument("--quality", metavar="M", help="SDD-FIQA")
    stages.add_argument("--embedder", metavar="M", help="MagFace or another recogniser")
    add_runtime_options(stages)
    limits = parser.add_argument_group("acceptance limits of a face")
    limits.add_argument(
        "--profile",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="profile of facezoo calibrate quality, to refuse low_quality faces; repeatable",
    )
    limits.add_argument(
        "--threshold", default="drop 5 %", help="name of a threshold in the profile"
    )
    limits.add_argument(
        "--appearance",
        type=Path,
        metavar="FILE",
        help="profile of facezoo calibrate appearance, for the other reasons (default: that of the "
        "package); the next flags replace single limits of it",
    )
    add_old_spelling(limits, "--looks", type=Path, dest="appearance")
    for field, kind, _ in MEASURES.values():
        add_flag(limits, f"--{field}", type=kind, help=_LIMIT_HELP[field])
    add_old_spelling(limits, "--max_turn", type=MEASURES["yaw"].range, dest="max_yaw")
    kind = MEASURES["truncation"].range
    add_old_spelling(limits, "--max_cut_off", type=kind, dest="max_truncation")
    add_flag(limits, "--embed_refused", action="store_true", help="embed refused faces, too")


_LIMIT_HELP = {
    "min_size": "too_small: shorter side of the box in pixels",
    "min_sharpness": "blurred: variance of the Laplacian of the aligned face",
    "max_yaw": "turned: offset of the nose from the eyes' middle, in distances of the eyes",
    "max_truncation": "cut_off: share of the aligned face outside the photo",
}


def run(args: argparse.Namespace) -> int:
    """Run the chain over the photos."""
    if args.parquet:
        # Without pyarrow it says so here, not after hours of work.
        import_module("facezoo.scale.tables")
    paths = find_images(args.path)
    names = relative_names(paths, args.path)
    with open_predictor(args) as model:
        return _run(args, model, paths, names)


def _run(
    args: argparse.Namespace, model: Predictor, paths: Sequence[Path], names: Sequence[str]
) -> int:
    name_of, picture_of = dict(zip(paths, names)), names_with_suffix(names, ".jpg")
    alike = _similarity(args, model)

    def files_of(name: str) -> Iterator[Path]:
        if args.draw:
            yield args.save_dir / "pictures" / picture_of[name]

    def draw(path: Path, image: np.ndarray, photo: PredictedPhoto) -> None:
        for picture in files_of(name_of[path]):
            write_drawing(picture, _drawn_entry(image, photo.to_dict()))

    def finish(run: RunFolder) -> None:
        write_results(args, run, alike)
        if args.parquet:
            _write_parquet(args, model, run, dict(zip(names, paths)))

    def show() -> None:
        if args.html:
            _write_html(args, model.settings(), dict(zip(names, paths)))
        if not args.quiet:
            print(_summary(args.save_dir / FACES_FILE))

    stages = (args.detector, args.landmarks, args.quality, args.embedder)
    limits = (*args.profile, args.appearance, args.similarity)
    return run_items(
        args,
        Inputs(paths, names, args.path, *stages, *limits),
        lambda left: (photo for _, photo in model.stream(left, visit=draw)),
        command="predict",
        settings={
            **model.settings(),
            **{"draw": args.draw, "csv": args.csv, "parquet": args.parquet, "similarity": alike},
        },
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


def open_predictor(args: argparse.Namespace, threads: Optional[int] = None) -> Predictor:
    """Open the stages that the arguments name, on all usable cores or on fewer."""
    runtime = dataclasses.replace(runtime_of(args), threads=threads)
    scores = tuple(read_score_limit(path, args.threshold) for path in args.profile)
    embedder = args.embedder and load(args.embedder, kind=FaceEmbedder, runtime=runtime)
    limits = _limits_of(args, embedder)
    return Predictor(
        load(args.detector, kind=FaceDetector, runtime=runtime),
        args.landmarks and load(args.landmarks, kind=LandmarkModel, runtime=runtime),
        args.quality and load(args.quality, kind=FaceQuality, runtime=runtime),
        embedder,
        acceptance=Acceptance(limits, scores, embed_refused=args.embed_refused),
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
    args: argparse.Namespace, settings: Dict[str, Any], path_of: Dict[str, Path]
) -> None:
    """Write the HTML report of a finished run: images, a row per face, scores, settings."""
    count = 0
    shown: List[Dict[str, Any]] = []
    rows: List[List[Any]] = []
    scores: Dict[str, List[float]] = {name: [] for name in SCORES}
    for entry in read_photos(args.save_dir / FACES_FILE):
        count += 1
        if "faces" in entry and len(shown) < PICTURES_SHOWN:
            shown.append(entry)
        for _, index, face in _faces_of([entry]):
            row = _row(entry["path"], index, face)
            rows.append([None if cell == "" else cell for cell in row])
            for name in SCORES:
                if face.get(name) is not None:
                    scores[name].append(face[name])
    images = [_small(read_image_rgb(path_of[entry["path"]]), entry) for entry in shown]
    captions = [f"{entry['path']}, faces: {len(entry['faces'])}" for entry in shown]
    note = f"The first {len(shown)} of {count} photos." if len(shown) < count else ""
    used = [i for i in range(len(COLUMNS)) if any(row[i] is not None for row in rows)]
    write_html_report(
        args.html,
        f"Faces in {args.path.name}",
        [
            Section("Result", _summary(args.save_dir / FACES_FILE)),
            Pictures("Photos", images, captions, note),
            Table("Faces", [COLUMNS[i] for i in used], [[row[i] for i in used] for row in rows]),
            *_score_curves(scores),
            Facts("Settings", settings),
            Facts("Versions", versions()),
        ],
    )


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
        [", ".join(face["reasons"]) or f"{face['score']:.2f}" for face in faces],
        [bool(face["reasons"]) for face in faces],
        [scale * np.array(face.get("points_xy", face["landmarks_xy"])) for face in faces],
    )


# Files --------------------------------------------------------------------------------------------


def write_results(args: argparse.Namespace, run: RunFolder, alike: Optional[float]) -> None:
    """Write the lines, the table and the embeddings of a run, none of which is held in memory."""
    folder: Path = args.save_dir
    with ExitStack() as stack:
        embedded = stack.enter_context(EmbeddingFile(folder))
        for photo, index, face in _faces_of(run.entries()) if args.embedder else ():
            if "vector" in face:
                vector = np.frombuffer(base64.b64decode(face["vector"]), "<f4")
                embedded.add(photo["path"], vector, index)
        people = None if alike is None else number_people(embedded.vectors.blocks, alike)
        lines = stack.enter_context(writing(folder / FACES_FILE))
        table = stack.enter_context(writing(folder / CSV_FILE)) if args.csv else None
        if table is not None:
            table.write(_csv_line(COLUMNS))
        row = 0
        for photo in run.entries():
            for _, index, face in _faces_of([photo]):
                has_vector = face.pop("vector", None) is not None
                face["embedding"] = row if has_vector else None
                if people is not None and has_vector:
                    face["person"] = people[row]
                row += has_vector
                if table is not None:
                    table.write(_csv_line(_row(csv_cell(photo["path"]), index, face)))
            lines.write((json.dumps({"schema": SCHEMA, **photo}, allow_nan=False) + "\n").encode())
        if args.embedder is not None:
            embedded.write(folder / ARRAYS_FILE)


def _write_parquet(
    args: argparse.Namespace, model: Predictor, run: RunFolder, path_of: Mapping[str, Path]
) -> None:
    # Imported here, since few runs need pyarrow.
    from ..scale.tables import TableWriter, columns_of

    faces, photos = (args.save_dir / name for name in PARQUET_FILES)
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
    return f"{count} faces, {refused} refused" + (f": {why}" if why else "")
