"""Landmark evaluation: of a runner's results, or of a model on annotated photos.

The errors of results are computed as by PIPNet's authors: distances in [0, 1] of the annotated
crop, divided by the distance of two landmarks. :func:`measure_faces` computes them in pixels of the
photo, so that its numbers depend on the crop only through what the network sees.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import (
    Any,
    Collection,
    Dict,
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

from ..datasets import wflw
from ..errors import UNREADABLE, DatasetError, ImageError, InputError
from ..files import LARGEST_READ, read_text, walk, write_json
from ..image.boxes import match_boxes
from ..image.crop import SquareCrop
from ..image.files import find_images, read_image_rgb, relative_names
from ..metrics.landmarks import (
    LandmarkMetrics,
    Normalizer,
    check_normalizer,
    evaluate_subsets,
    normalized_mean_error,
)
from ..models.base import FaceCrop, LandmarkModel
from ..models.scrfd.model import FaceDetector
from ..results import FaceDetections, Landmarks
from ..runs import Progress
from .measured import MeasuredList

__all__ = [
    "CROPS",
    "MEASURED_CROPS",
    "REPORT_FILE",
    "RESULTS_FILE",
    "RESULTS_SCHEMA",
    "TEST_CROPS",
    "TEST_LIST",
    "LandmarkReport",
    "evaluate_results",
    "evaluate_run",
    "find_pictures",
    "measure_faces",
    "stack_units",
]


_log = logging.getLogger(__name__)

# The annotated rectangle enlarged 1.2 times, as in the training data; and a detector's box, 1.2
# times as wide with its top cut off, as in the authors' demo.
CROPS = ("annotation", "detector")
# Also, of a model on annotated photos: a square 1.2 times as long as the longer side of the
# annotated points, black outside the photo.
MEASURED_CROPS = ("annotation", "points", "detector")
# source: PFLD_GhostOne@7061b56 data/SetPreparation.py load_data; there the corner is truncated
POINTS_SCALE = 1.2

RESULTS_FILE, RESULTS_SCHEMA = "results.json", "facezoo.landmarks/1"
# Results of the runner for all models: those of images that are crops already.
ANY_MODEL_SCHEMA = "facezoo.results/1"
REPORT_FILE, REPORT_SCHEMA = "metrics.json", "facezoo.nme/1"

# source: PIPNet@b9eab58 lib/preprocess.py gen_data, lib/test.py
TEST_LIST, TEST_CROPS = "test.txt", "images_test"


@dataclass(frozen=True)
class LandmarkReport:
    """Landmark metrics of a set of faces.

    Attributes
    ----------
    crop
        One of ``MEASURED_CROPS``.
    normalizer
        Data set that defines the two normalising landmarks, or their indices.
    errors
        Shape (M,), float64, one per face in the order of the test list.
    table
        ``full``, then each available subset.
    missed
        Lines of the test list whose face the detector did not find; they are not counted.
    unit
        Unit of the distances: ``shares of the crop`` or ``pixels``.
    measured
        The faces of the test list; those in ``missed`` are among them.
    """

    crop: str
    normalizer: str
    errors: np.ndarray
    table: Mapping[str, LandmarkMetrics]
    measured: MeasuredList
    missed: Tuple[str, ...] = ()
    unit: str = "shares of the crop"

    def lines(self) -> Iterator[str]:
        """Format as text: the three numbers of the authors' output, then a row per subset."""
        full = self.table["full"]
        yield f"crop: {self.crop}"
        if self.unit == "pixels":
            yield "distances in pixels of the photo"
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
        yield self.measured.line()

    def to_dict(self) -> Dict[str, Any]:
        """Return all fields as JSON values."""
        return {
            "schema": REPORT_SCHEMA,
            "crop": self.crop,
            "normalizer": self.normalizer,
            "unit": self.unit,
            "measured": self.measured.to_dict(),
            "table": {name: dataclasses.asdict(row) for name, row in self.table.items()},
            "missed": list(self.missed),
            "errors": self.errors.tolist(),
        }


def find_pictures(data_dir: Path, crop: str) -> Tuple[Path, Tuple[str, ...], bool]:
    """Find the input images of a runner.

    Parameters
    ----------
    data_dir
        Crops written by ``preprocess_wflw.py`` (``test.txt``, ``images_test``), WFLW as published
        (the lists, ``WFLW_images``), any folder of images, or one image.
    crop
        One of ``CROPS``.

    Returns
    -------
    root : Path
        Folder of the images.
    names : tuple of str
        Images relative to it, with forward slashes: those of the test set, or all.
    annotated : bool
        Whether annotations for :func:`evaluate_results` exist.

    Raises
    ------
    InputError
        If there is no image, or the crop is not possible with this data.
    """
    crops = Path(data_dir, TEST_LIST)
    files = walk(data_dir)[0] if data_dir.is_dir() else []
    published = sorted(path for path in files if path.name == wflw.LISTS["test"])
    if crop == "annotation" and crops.is_file():
        return data_dir / TEST_CROPS, wflw.read_normalised_list(crops).names, True
    if crop == "detector" and published:
        faces = wflw.read_annotations(published[0])
        return data_dir / wflw.PHOTOS, tuple(dict.fromkeys(face.image for face in faces)), True
    if crop == "annotation" and published:
        raise InputError(
            f"{str(data_dir)!r} contains full photos; create the annotated crops with "
            "source_code/preprocess_wflw.py first, or use --crop detector"
        )
    if crop == "detector" and crops.is_file():
        raise InputError(
            f"{str(data_dir)!r} contains crops; for --crop detector give the folder with WFLW's "
            f"lists and {wflw.PHOTOS}"
        )
    paths = find_images(data_dir)
    root = data_dir.parent if data_dir.is_file() else data_dir
    return root, relative_names(paths, data_dir), False


def evaluate_results(
    results: Path, data_dir: Path, normalizer: Normalizer = "WFLW"
) -> LandmarkReport:
    """Evaluate the result file of a runner against the annotations.

    Parameters
    ----------
    results
        ``results.json`` of the runner or of ``npz_decode.py``.
    data_dir
        As for :func:`find_pictures`.
    normalizer
        Data set, one of ``facezoo.metrics.landmarks.NORMALIZERS``, or the indices of two
        landmarks.

    Raises
    ------
    InputError
        If the file is not such a result file, or has another number of landmarks.
    DatasetError
        If a face of the test set is missing in it.
    """
    crop, found = _read_results(Path(results))
    evaluate = _on_photos if crop == "detector" else _on_crops
    return evaluate(found, Path(data_dir), normalizer)


def _read_results(path: Path) -> Tuple[str, Dict[str, Any]]:
    """Return the crop, and for each image its landmarks or the reason why it has none."""
    try:
        text = read_text(path, LARGEST_READ)
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error.strerror}; create it with vsx_infer.py"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{str(path)!r} is not a {RESULTS_SCHEMA} file; create it with vsx_infer.py"
        ) from error
    try:
        content = json.loads(text)
        if content["schema"] == ANY_MODEL_SCHEMA:
            content = {**content, "schema": RESULTS_SCHEMA, "crop": "annotation"}
        if content["schema"] != RESULTS_SCHEMA or content["crop"] not in CROPS:
            raise ValueError(f"schema {content['schema']!r}, crop {content.get('crop')!r}")
        parse = _read_photo if content["crop"] == "detector" else Landmarks.from_dict
        return content["crop"], {
            entry["path"]: str(entry["error"]) if "error" in entry else parse(entry)
            for entry in content["images"]
        }
    except UNREADABLE as error:
        raise InputError(
            f"{str(path)!r} is not a {RESULTS_SCHEMA} file ({error!r}); create it with vsx_infer.py"
        ) from error


def _read_photo(entry: Mapping[str, Any]) -> Tuple[FaceDetections, Tuple[Landmarks, ...]]:
    size = {"height": entry["height"], "width": entry["width"]}
    landmarks = (Landmarks.from_dict({**face, **size}) for face in entry["faces"])
    return FaceDetections.from_dict(entry), tuple(landmarks)


def evaluate_run(folder: Path, data_dir: Path, normalizer: Normalizer) -> LandmarkReport:
    """Evaluate the results of a run folder and write the report beside them.

    Parameters
    ----------
    folder
        Folder with ``results.json``; ``metrics.json`` is written there.
    data_dir, normalizer
        As for :func:`evaluate_results`.
    """
    report = evaluate_results(folder / RESULTS_FILE, data_dir, normalizer)
    write_json(folder / REPORT_FILE, report.to_dict())
    return report


def stack_units(results: Iterable[Union[Landmarks, ImageError]]) -> np.ndarray:
    """Collect the landmarks of crops, in [0, 1] of each crop.

    Parameters
    ----------
    results
        Results of ``LandmarkDetector.stream``.

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
    for landmarks in results:
        if isinstance(landmarks, ImageError):
            raise landmarks
        units.append(_unit_points(landmarks))
    return np.stack(units)


def _unit_points(landmarks: Landmarks) -> np.ndarray:
    return np.asarray(landmarks.points_xy / np.array(landmarks.image_hw[::-1], np.float64))


def _on_crops(found: Mapping[str, Any], data_dir: Path, normalizer: Normalizer) -> LandmarkReport:
    truth = wflw.read_normalised_list(data_dir / TEST_LIST)
    # In the npz route the root may be a folder above the crops.
    paths = {PurePosixPath(path).name: path for path in found}
    if len(paths) < len(found):
        twice = next(path for path in found if paths[PurePosixPath(path).name] != path)
        raise DatasetError(
            f"the results have {len(found)} images of {len(paths)} names, such as {twice!r} and "
            f"{paths[PurePosixPath(twice).name]!r}; expected each crop of the test list once"
        )
    found = {name: found[path] for name, path in paths.items()}
    _warn_of_others(found, truth.names)
    predicted = [_unit_points(_pick(found, name)) for name in truth.names]
    errors = normalized_mean_error(np.stack(predicted), truth.points_xy, normalizer, truth.names)
    table = evaluate_subsets(errors, wflw.read_subsets(data_dir, truth))
    measured = _measured(truth.names, truth.points_xy, data_dir / TEST_LIST)
    return LandmarkReport("annotation", _named(normalizer), errors, table, measured)


def _measured(images: Sequence[str], points_xy: np.ndarray, listed_in: Path) -> MeasuredList:
    """Name the test list: WFLW's if it is known to be, or has as many faces and landmarks."""
    name = f"{listed_in.name} in {listed_in.resolve().parent.name}"
    found = MeasuredList.of(name, "faces", images)
    is_wflw = found.sha256 == wflw.FACES_ON_WIDER_SHA256 or (
        points_xy.shape[:2] == (wflw.TEST_FACES, wflw.LANDMARKS)
    )
    if not is_wflw:
        return found
    return dataclasses.replace(found, name="WFLW test", total=wflw.TEST_FACES)


def _named(normalizer: Normalizer) -> str:
    return normalizer if isinstance(normalizer, str) else ",".join(map(str, normalizer))


def _on_photos(found: Mapping[str, Any], data_dir: Path, normalizer: Normalizer) -> LandmarkReport:
    lists = wflw.find_lists(data_dir)
    faces = wflw.read_annotations(lists["test"])
    of_photo = defaultdict(list)
    for index, face in enumerate(faces):
        of_photo[face.image].append(index)
    predicted: Dict[int, np.ndarray] = {}
    crops: Dict[int, wflw.WflwCrop] = {}
    _warn_of_others(found, of_photo)
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
        raise DatasetError(
            "the detector found none of the annotated faces; expected the photos that the list "
            "was made on"
        )
    truth = np.stack([crops[index].normalised_points() for index in counted])
    errors = normalized_mean_error(
        np.stack([predicted[index] for index in counted]),
        truth,
        normalizer,
        [faces[index].source for index in counted],
    )
    table = evaluate_subsets(errors, _subsets(lists, faces, counted))
    missed = tuple(face.source for i, face in enumerate(faces) if i not in predicted)
    measured = _measured_faces(faces, lists["test"])
    return LandmarkReport("detector", _named(normalizer), errors, table, measured, missed)


def _measured_faces(faces: Sequence[wflw.WflwFace], listed_in: Path) -> MeasuredList:
    points_xy = np.stack([face.points_xy for face in faces])
    return _measured([face.image for face in faces], points_xy, listed_in)


def measure_faces(
    model: LandmarkModel,
    data_dir: Path,
    crop: str,
    *,
    detector: Optional[FaceDetector] = None,
    normalizer: Normalizer = "WFLW",
    progress: Progress = lambda items, total: iter(items),
) -> LandmarkReport:
    """Find the landmarks of every annotated face and compare them with the annotation, in pixels.

    Parameters
    ----------
    model
        The network.
    data_dir
        WFLW as published or as ``facezoo prepare wflw-wider`` writes it.
    crop
        What the network sees, one of ``MEASURED_CROPS``: the annotated rectangle as PIPNet's
        authors cut it, a square around the annotated points, or the model's own crop of the
        detector's box.
    detector
        Finds the faces; only for the crop ``detector``.
    normalizer
        As for :func:`evaluate_results`.
    progress
        Shows the progress over the photos.

    Raises
    ------
    InputError
        If detector and crop do not go together, or the normaliser does not suit the annotations.
    DatasetError
        If a list cannot be read, or no face is found.
    ImageError
        If a photo cannot be read.
    """
    if (crop == "detector") != (detector is not None):
        raise InputError("the crop detector needs a detector, and the others none")
    lists = wflw.find_lists(data_dir)
    if "test" not in lists:
        raise DatasetError(f"{str(data_dir)!r} has no {wflw.LISTS['test']}")
    faces = wflw.read_annotations(lists["test"])
    truth = np.stack([face.points_xy for face in faces])
    check_normalizer(truth, normalizer, [face.source for face in faces])
    of_photo = defaultdict(list)
    for index, face in enumerate(faces):
        of_photo[face.image].append(index)

    def one(_: Any, image: str) -> Dict[int, np.ndarray]:
        photo = read_image_rgb(data_dir / wflw.PHOTOS / image)
        crops = _crops_of([faces[index] for index in of_photo[image]], photo, crop, model, detector)
        # One by one, so that the last bits do not depend on which faces share a photo.
        found = [model.batch([cut.cut(photo)], shared=True)[0] for cut in crops.values()]
        return {
            of_photo[image][row]: cut.to_photo(points).points_xy
            for (row, cut), points in zip(crops.items(), found)
        }

    predicted: Dict[int, np.ndarray] = {}
    for found in progress(model.backend.map(one, of_photo), len(of_photo)):
        predicted.update(found)
    counted = sorted(predicted)
    if not counted:
        raise DatasetError(
            "the detector found none of the annotated faces; expected the photos that the list "
            "was made on"
        )
    errors = normalized_mean_error(
        np.stack([predicted[index] for index in counted]), truth[counted], normalizer
    )
    return LandmarkReport(
        crop,
        _named(normalizer),
        errors,
        evaluate_subsets(errors, _subsets(lists, faces, counted)),
        _measured_faces(faces, lists["test"]),
        tuple(face.source for i, face in enumerate(faces) if i not in predicted),
        unit="pixels",
    )


def _crops_of(
    faces: Sequence[wflw.WflwFace],
    photo: np.ndarray,
    crop: str,
    model: LandmarkModel,
    detector: Optional[FaceDetector],
) -> Dict[int, FaceCrop]:
    """Return the crop of each face of a photo; a face that the detector does not find has none."""
    image_hw = (photo.shape[0], photo.shape[1])
    if detector is not None:
        (detected,) = detector.batch([photo], shared=True)
        annotated = np.array([face.rect_xyxy for face in faces])
        return {
            int(row): model.crop_of(detected.boxes_xyxy[column].tolist(), image_hw)
            for row, column in match_boxes(annotated, detected.boxes_xyxy)
        }
    if crop == "annotation":
        return dict(enumerate(wflw.WflwCrop.of(face, image_hw) for face in faces))
    return {
        row: SquareCrop.around(_extent(face.points_xy), image_hw, POINTS_SCALE)
        for row, face in enumerate(faces)
    }


def _extent(points_xy: np.ndarray) -> Sequence[float]:
    """Return the whole pixels that landmarks lie in, as left, top, right, bottom."""
    first, last = np.trunc(points_xy.min(axis=0)), np.trunc(points_xy.max(axis=0)) + 1
    return [*first.tolist(), *last.tolist()]


def _warn_of_others(found: Mapping[str, Any], listed: Collection[str]) -> None:
    others = sorted(set(found) - set(listed))
    if others:
        _log.warning(
            "%d of %d images of the results are not in the test list, such as %r; they are not "
            "counted",
            len(others),
            len(found),
            others[0],
        )


def _pick(found: Mapping[str, Any], name: str) -> Any:
    picked = found.get(name, "is not in the file")
    if isinstance(picked, str):
        raise DatasetError(
            f"the results have no landmarks of {name!r}, which {picked}; an evaluation needs every "
            "face of the test list"
        )
    return picked


def _subsets(
    lists: Mapping[str, Path], faces: Sequence[wflw.WflwFace], counted: Sequence[int]
) -> Dict[str, List[int]]:
    """Return the indices of each subset among the counted faces."""
    position = {index: number for number, index in enumerate(counted)}
    subsets = {}
    for name in wflw.SUBSETS:
        if name in lists:
            members = wflw.match_faces(wflw.read_annotations(lists[name]), faces)
            subsets[name] = [position[index] for index in members if index in position]
    return {name: members for name, members in subsets.items() if members}
