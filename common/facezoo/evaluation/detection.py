"""Run a detector over the photos of a data set and store the predictions; resumable."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Sequence

import numpy as np

from ..datasets.widerface import photo_name
from ..errors import DatasetError, RunFolderError
from ..files import write_bytes
from ..image.files import find_images, relative_names
from ..metrics.detection import Predictions
from ..models.scrfd.model import FaceDetector
from ..results import FaceDetections
from ..runs import Inputs, Progress, RunFolder

__all__ = [
    "detect_folder",
]


PREDICTIONS_FILE = "predictions.npz"


@dataclass(frozen=True)
class _Packed:
    """The boxes of one photo as compact text, since JSON numbers take longer than inference."""

    rows: np.ndarray

    def to_dict(self) -> Dict[str, Any]:
        """Encode the rows as text."""
        return {"rows": base64.b64encode(self.rows.astype("<f4").tobytes()).decode("ascii")}

    @staticmethod
    def unpack(entry: Mapping[str, Any]) -> np.ndarray:
        """Decode the rows, (N, 5), float32; RunFolderError if the entry was changed."""
        try:
            return np.frombuffer(base64.b64decode(entry["rows"], validate=True), "<f4").reshape(
                -1, 5
            )
        except (KeyError, ValueError) as error:
            raise RunFolderError(
                f"the entry of {entry.get('path')!r} was changed ({error}); use --overwrite"
            ) from error


def _rows(faces: FaceDetections) -> np.ndarray:
    """Return (N, 5) rows left, top, width, height, score, float32."""
    boxes = faces.boxes_xyxy
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return np.concatenate([boxes[:, :2], size, faces.scores[:, None]], axis=1)


def detect_folder(
    detector: FaceDetector,
    images: Path,
    folder: Path,
    *,
    overwrite: bool = False,
    sources: Sequence[Path] = (),
    progress: Progress = lambda items, total: items,
) -> Predictions:
    """Detect the faces in all photos below a folder; an interrupted run is resumed.

    Parameters
    ----------
    detector
        Detector with its profile.
    images
        Folder of photos, one sub-folder per event.
    folder
        Run folder; stores finished photos, and at the end ``predictions.npz``.
    overwrite
        Remove what an earlier run wrote there, and start again.
    sources
        Other files that are read, such as the model: none of them may be in the folder.
    progress
        Wraps the stream of results; called with it and with the number of remaining photos.

    Returns
    -------
    Predictions
        Predictions by photo name ``event/photo``.

    Raises
    ------
    DatasetError
        If a photo cannot be read, since a partial evaluation would be meaningless.
    RunFolderError
        If the folder belongs to another run.
    """
    paths = find_images(images)
    names = relative_names(paths, images)

    def detect(left: Sequence[Path]) -> Iterator[_Packed]:
        for faces in detector.stream(left):
            if isinstance(faces, Exception):
                path = str(faces.source)
                raise DatasetError(f"{faces}; an evaluation needs every photo: {path!r}")
            yield _Packed(_rows(faces))

    def finish(run: RunFolder) -> None:
        rows = {photo_name(entry["path"]): _Packed.unpack(entry) for entry in run.entries()}
        _save(folder / PREDICTIONS_FILE, rows)
        run.finish(PREDICTIONS_FILE)

    with RunFolder(
        folder,
        command="evaluate scrfd",
        settings=detector.settings(),
        inputs=Inputs(paths, names, images, *sources),
        overwrite=overwrite,
    ) as run:
        run.process(names, paths, detect, finish=finish, progress=progress)
    return _load(folder / PREDICTIONS_FILE)


def _save(path: Path, rows: Mapping[str, np.ndarray]) -> None:
    counts = np.array([len(one) for one in rows.values()], np.int64)
    joined = np.concatenate([*rows.values(), np.zeros((0, 5), np.float32)])
    buffer = io.BytesIO()
    np.savez(buffer, photos=np.array(list(rows)), counts=counts, rows=joined)
    write_bytes(path, buffer.getbuffer())


def _load(path: Path) -> Predictions:
    with np.load(path, allow_pickle=False) as file:
        starts = np.concatenate([[0], np.cumsum(file["counts"])])
        rows = file["rows"].astype(np.float64)
        return Predictions(tuple(file["photos"].tolist()), starts, rows[:, :4], rows[:, 4])
