"""A runner's results against annotations, for either of the two crops.

Errors are the authors' in both cases: distances in [0, 1] of the annotated crop, over the distance
of two landmarks. What differs is what the network saw.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Sequence, Tuple, Union

import numpy as np

from ..datasets import wflw
from ..errors import UNREADABLE, DatasetError, ImageError, InputError
from ..files import write_bytes
from ..image.boxes import match_boxes
from ..image.files import find_images, relative_names
from ..metrics.landmarks import LandmarkMetrics, evaluate_subsets, normalized_mean_error
from ..results import FaceDetections, Landmarks

__all__ = [
    "CROPS",
    "REPORT_FILE",
    "RESULTS_FILE",
    "RESULTS_SCHEMA",
    "TEST_CROPS",
    "TEST_LIST",
    "LandmarkReport",
    "evaluate_results",
    "evaluate_run",
    "find_pictures",
    "stack_units",
]


# The annotated rectangle 1.2 times as large, which the training data were cut by; and a detector's
# box, 1.2 times as wide with its top cut off, as in the authors' demonstration.
CROPS = ("annotation", "detector")

RESULTS_FILE, RESULTS_SCHEMA = "results.json", "facezoo.landmarks/1"
REPORT_FILE, REPORT_SCHEMA = "metrics.json", "facezoo.nme/1"

# source: PIPNet@b9eab58 lib/preprocess.py gen_data, lib/test.py
TEST_LIST, TEST_CROPS = "test.txt", "images_test"
PHOTOS = "WFLW_images"  # as WFLW's archive has it


@dataclass(frozen=True)
class LandmarkReport:
    """What a set of faces comes to.

    Attributes
    ----------
    crop
        One of ``CROPS``.
    normalizer
        Data set whose two landmarks normalise.
    errors
        Shape (M,), float64, one a face in the order of the test list.
    table
        ``full``, then each subset that was there.
    missed
        Lines of the test list whose face the detector did not find; they count nowhere.
    """

    crop: str
    normalizer: str
    errors: np.ndarray
    table: Mapping[str, LandmarkMetrics]
    missed: Tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Say it in text: the three numbers the authors print, then a row a subset."""
        full = self.table["full"]
        yield f"crop: {self.crop}"
        yield f"Image num: {full.faces}"
        if self.missed:
            yield f"not found by the detector, not counted: {len(self.missed)}"
        yield f"nme: {full.nme}"
        yield f"fr: {full.failure_rate}"
        yield f"auc: {full.auc}"
        yield f"{'in %, with 95 % intervals':26}{'faces':>6}" + "".join(
            f"{name:>23}" for name in ("NME", f"FR at {100 * full.threshold:g}", "AUC")
        )
        for name, row in self.table.items():
            cells = (
                (row.nme, row.nme_interval),
                (row.failure_rate, row.failure_rate_interval),
                (row.auc, row.auc_interval),
            )
            yield f"{name:26}{row.faces:>6}" + "".join(
                f"{100 * value:>8.2f} [{100 * low:5.2f},{100 * high:6.2f}]"
                for value, (low, high) in cells
            )

    def to_dict(self) -> Dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "schema": REPORT_SCHEMA,
            "crop": self.crop,
            "normalizer": self.normalizer,
            "table": {name: dataclasses.asdict(row) for name, row in self.table.items()},
            "missed": list(self.missed),
            "errors": self.errors.tolist(),
        }


def find_pictures(data_dir: Path, crop: str) -> Tuple[Path, Tuple[str, ...], bool]:
    """Say what a runner is to work on.

    Parameters
    ----------
    data_dir
        Crops as ``preprocess_wflw.py`` leaves them (``test.txt``, ``images_test``), WFLW as it is
        published (the lists, ``WFLW_images``), any folder of pictures, or one picture.
    crop
        One of ``CROPS``.

    Returns
    -------
    root : Path
        Folder of the pictures.
    names : tuple of str
        Pictures below it, with forward slashes: the test set's, or all.
    annotated : bool
        Whether there are annotations for :func:`evaluate_results`.

    Raises
    ------
    InputError
        If there is no picture, or it cannot be cut that way.
    """
    crops, published = Path(data_dir, TEST_LIST), sorted(data_dir.rglob(wflw.LISTS["test"]))
    if crop == "annotation" and crops.is_file():
        return data_dir / TEST_CROPS, wflw.read_normalised_list(crops).names, True
    if crop == "detector" and published:
        faces = wflw.read_annotations(published[0])
        return data_dir / PHOTOS, tuple(dict.fromkeys(face.image for face in faces)), True
    if crop == "annotation" and published:
        raise InputError(
            f"{str(data_dir)!r} holds whole photos; cut the annotated crops with "
            "source_code/preprocess_wflw.py first, or take --crop detector"
        )
    if crop == "detector" and crops.is_file():
        raise InputError(
            f"{str(data_dir)!r} holds crops; for --crop detector give the folder with WFLW's "
            f"lists and {PHOTOS}"
        )
    paths = find_images(data_dir)
    root = data_dir.parent if data_dir.is_file() else data_dir
    return root, relative_names(paths, data_dir), False


def evaluate_results(results: Path, data_dir: Path, normalizer: str = "WFLW") -> LandmarkReport:
    """Compare a runner's result file with the annotations.

    Parameters
    ----------
    results
        ``results.json`` of the runner or of ``npz_decode.py``.
    data_dir
        As of :func:`find_pictures`.
    normalizer
        Data set, one of ``facezoo.metrics.landmarks.NORMALIZERS``.

    Raises
    ------
    InputError
        If the file is no such results, or has another number of landmarks.
    DatasetError
        If a face of the test set is not in it.
    """
    crop, found = _read_results(Path(results))
    evaluate = _on_photos if crop == "detector" else _on_crops
    return evaluate(found, Path(data_dir), normalizer)


def _read_results(path: Path) -> Tuple[str, Dict[str, Any]]:
    """Return the crop, and each picture's landmarks or, as text, why it has none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error.strerror}; make it with vsx_infer.py"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{str(path)!r} is no {RESULTS_SCHEMA}; make it with vsx_infer.py"
        ) from error
    try:
        content = json.loads(text)
        if content["schema"] != RESULTS_SCHEMA or content["crop"] not in CROPS:
            raise ValueError(f"schema {content['schema']!r}, crop {content.get('crop')!r}")
        parse = _read_photo if content["crop"] == "detector" else Landmarks.from_dict
        return content["crop"], {
            entry["path"]: str(entry["error"]) if "error" in entry else parse(entry)
            for entry in content["images"]
        }
    except UNREADABLE as error:
        raise InputError(
            f"{str(path)!r} is no {RESULTS_SCHEMA} ({error!r}); make it with vsx_infer.py"
        ) from error


def _read_photo(entry: Mapping[str, Any]) -> Tuple[FaceDetections, Tuple[Landmarks, ...]]:
    size = {"height": entry["height"], "width": entry["width"]}
    landmarks = (Landmarks.from_dict({**face, **size}) for face in entry["faces"])
    return FaceDetections.from_dict(entry), tuple(landmarks)


def evaluate_run(folder: Path, data_dir: Path, normalizer: str) -> LandmarkReport:
    """Evaluate the results of a run folder, and write the report beside them.

    Parameters
    ----------
    folder
        Holds ``results.json``; gets ``metrics.json``.
    data_dir, normalizer
        As of :func:`evaluate_results`.
    """
    report = evaluate_results(folder / RESULTS_FILE, data_dir, normalizer)
    text = json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"
    write_bytes(folder / REPORT_FILE, text.encode())
    return report


def stack_units(results: Iterable[Tuple[Path, Union[Landmarks, ImageError]]]) -> np.ndarray:
    """Gather what a model said about crops, in [0, 1] of each.

    Parameters
    ----------
    results
        From ``LandmarkDetector.stream``.

    Returns
    -------
    numpy.ndarray
        Shape (M, N, 2), float64.

    Raises
    ------
    ImageError
        If a crop could not be read.
    """
    units = []
    for _, landmarks in results:
        if isinstance(landmarks, ImageError):
            raise landmarks
        units.append(_unit_points(landmarks))
    return np.stack(units)


def _unit_points(landmarks: Landmarks) -> np.ndarray:
    return np.asarray(landmarks.points_xy / np.array(landmarks.image_hw[::-1], np.float64))


def _on_crops(found: Mapping[str, Any], data_dir: Path, normalizer: str) -> LandmarkReport:
    truth = wflw.read_normalised_list(data_dir / TEST_LIST)
    # The npz route may have been given a folder above the crops.
    found = {PurePosixPath(path).name: one for path, one in found.items()}
    predicted = [_unit_points(_pick(found, name)) for name in truth.names]
    errors = normalized_mean_error(np.stack(predicted), truth.points_xy, normalizer)
    table = evaluate_subsets(errors, wflw.read_subsets(data_dir, truth))
    return LandmarkReport("annotation", normalizer, errors, table)


def _on_photos(found: Mapping[str, Any], data_dir: Path, normalizer: str) -> LandmarkReport:
    lists = wflw.find_lists(data_dir)
    faces = wflw.read_annotations(lists["test"])
    of_photo = defaultdict(list)
    for index, face in enumerate(faces):
        of_photo[face.image].append(index)
    predicted: Dict[int, np.ndarray] = {}
    crops: Dict[int, wflw.WflwCrop] = {}
    for image, indices in of_photo.items():
        detected, landmarks = _pick(found, image)
        for index in indices:
            crops[index] = wflw.WflwCrop.of(faces[index], detected.image_hw)
        annotated = np.array([faces[index].rect_xyxy for index in indices])
        for row, column in match_boxes(annotated, detected.boxes_xyxy):
            points = landmarks[column].points_xy.astype(np.float64)
            predicted[indices[row]] = crops[indices[row]].to_unit(points)
    counted = sorted(predicted)
    if not counted:
        raise DatasetError("the detector found none of the annotated faces")
    truth = np.stack([crops[index].normalised_points() for index in counted])
    errors = normalized_mean_error(
        np.stack([predicted[index] for index in counted]), truth, normalizer
    )
    table = evaluate_subsets(errors, _subsets(lists, faces, counted))
    missed = tuple(face.source for i, face in enumerate(faces) if i not in predicted)
    return LandmarkReport("detector", normalizer, errors, table, missed)


def _pick(found: Mapping[str, Any], name: str) -> Any:
    picked = found.get(name, "is not among them")
    if isinstance(picked, str):
        raise DatasetError(
            f"the results have no landmarks of {name!r}, which {picked}; an evaluation needs every "
            "face of the test list"
        )
    return picked


def _subsets(
    lists: Mapping[str, Path], faces: Sequence[wflw.WflwFace], counted: Sequence[int]
) -> Dict[str, List[int]]:
    """Find the subsets' faces among those that are counted."""
    position = {index: number for number, index in enumerate(counted)}
    subsets = {}
    for name in wflw.SUBSETS:
        if name in lists:
            members = wflw.match_faces(wflw.read_annotations(lists[name]), faces)
            subsets[name] = [position[index] for index in members if index in position]
    return {name: members for name, members in subsets.items() if members}
