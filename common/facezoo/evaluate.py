"""From a folder of photos to the numbers, and what each departure from the protocol costs."""

from __future__ import annotations

import base64
import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Tuple

import cv2
import numpy as np

from .backends import open_backend
from .backends.base import Infer
from .datasets.widerface import photo_name
from .errors import DatasetError, RunFolderError
from .image.files import find_images, relative_names
from .image.resize import fit_image
from .metrics.detection import DetectionReport, GroundTruth, Predictions, evaluate_detections
from .models.scrfd.decode import PROFILES, decode
from .pipeline import FaceDetector
from .results import FaceDetections, RawOutputs
from .runs import RunFolder, fingerprint_files

__all__ = ["Deviation", "Ledger", "LedgerRow", "detect_folder", "ledger_of"]

PREDICTIONS_FILE = "predictions.npz"

# Wraps a stream of results to show how far it is; called with it and with its length.
Progress = Callable[[Iterable[Any], int], Iterator[Any]]


@dataclass(frozen=True)
class _Packed:
    """The boxes of one photo as a short text, since JSON numbers cost more time than inference."""

    rows: np.ndarray

    def to_dict(self) -> Dict[str, Any]:
        """Return the rows as text."""
        return {"rows": base64.b64encode(self.rows.astype("<f4").tobytes()).decode("ascii")}

    @staticmethod
    def unpack(entry: Mapping[str, Any]) -> np.ndarray:
        """Read the rows back, (N, 5), float32; RunFolderError if the entry was changed."""
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
    progress: Progress = lambda items, total: iter(items),
) -> Predictions:
    """Find the faces of all photos below a folder; a stopped run goes on where it was.

    Parameters
    ----------
    detector
        The network with its profile.
    images
        Folder of photos, one sub-folder an event.
    folder
        Run folder; keeps what is done, and in the end ``predictions.npz``.
    overwrite
        Start anew whatever the folder holds.
    progress
        Wraps the stream of results; called with it and with the number of photos to come.

    Returns
    -------
    Predictions
        By photo name ``event/photo``.

    Raises
    ------
    DatasetError
        If a photo cannot be read: an evaluation on part of the data would not be one.
    RunFolderError
        If the folder belongs to another run.
    """
    paths = find_images(images)
    names = relative_names(paths, images)
    with RunFolder(
        folder,
        command="evaluate scrfd",
        settings=detector.settings(),
        inputs_sha256=fingerprint_files(paths, names),
        owned=(PREDICTIONS_FILE,),
        overwrite=overwrite,
    ) as run:
        if not run.finished:
            done = run.completed(names)
            results = detector.stream(paths[done:])
            for name, (path, faces) in zip(names[done:], progress(results, len(paths) - done)):
                if isinstance(faces, Exception):
                    raise DatasetError(f"{faces}; an evaluation needs every photo: {str(path)!r}")
                run.record(name, _Packed(_rows(faces)))
            rows = {photo_name(entry["path"]): _Packed.unpack(entry) for entry in run.entries()}
            _save(folder / PREDICTIONS_FILE, rows)
            run.finish(PREDICTIONS_FILE)
    return _load(folder / PREDICTIONS_FILE)


def _save(path: Path, rows: Mapping[str, np.ndarray]) -> None:
    counts = np.array([len(one) for one in rows.values()], np.int64)
    joined = np.concatenate([*rows.values(), np.zeros((0, 5), np.float32)])
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, photos=np.array(list(rows)), counts=counts, rows=joined)
    temporary.replace(path)


def _load(path: Path) -> Predictions:
    with np.load(path, allow_pickle=False) as file:
        starts = np.concatenate([[0], np.cumsum(file["counts"])])
        rows = file["rows"].astype(np.float64)
        return Predictions(tuple(file["photos"].tolist()), starts, rows[:, :4], rows[:, 4])


@dataclass(frozen=True)
class Deviation:
    """One way to depart from the evaluation protocol.

    Attributes
    ----------
    label
        What it is, for the table.
    preprocess, profile
        Fields to change.
    even_sizes
        Shrink odd sides by a pixel first, and map back as if that had not happened, as the
        vendor's runner does.
    lowest_score
        Drop detections below it.
    score_decimals
        Round scores to as many.
    build
        Another artifact prefix or .onnx.
    """

    label: str
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    even_sizes: bool = False
    lowest_score: float = 0.0
    score_decimals: Optional[int] = None
    build: Optional[Path] = None

    def joined(self, other: Deviation) -> Deviation:
        """Return both at once."""
        return Deviation(
            label=f"+ {other.label}",
            preprocess={**self.preprocess, **other.preprocess},
            profile={**self.profile, **other.profile},
            even_sizes=self.even_sizes or other.even_sizes,
            lowest_score=max(self.lowest_score, other.lowest_score),
            score_decimals=self.score_decimals or other.score_decimals,
            build=other.build or self.build,
        )

    @property
    def slug(self) -> str:
        """A folder name for the detections, the same for deviations that do not change them."""
        parts = [f"{name}-{value}" for name, value in {**self.preprocess, **self.profile}.items()]
        parts += ["even"] * self.even_sizes
        parts += [self.build.parent.name or self.build.stem] if self.build else []
        return re.sub(r"[^A-Za-z0-9_]+", "-", " ".join(parts)).strip("-") or "protocol"


# The vendor's runner and its numbers differ from the protocol in these, in this order.
# source: VastModelZOO@43aff36 cv/face_detection/scrfd/build_in/vsx/python/scrfd_vsx.py
VENDOR_CHAIN = (
    Deviation("scores cut at 0.5", lowest_score=0.5),
    Deviation("boxes rounded to pixels", profile={"rounded": True}),
    Deviation("odd sizes made even", even_sizes=True),
    Deviation("scores written with 3 decimals", score_decimals=3),
)

ALONE = (
    Deviation("scores cut at 0.1", lowest_score=0.1),
    Deviation("scores cut at 0.3", lowest_score=0.3),
    Deviation("scores cut at 0.5", lowest_score=0.5),
    Deviation("boxes rounded to pixels", profile={"rounded": True}),
    Deviation("scores written with 3 decimals", score_decimals=3),
    Deviation("odd sizes made even", even_sizes=True),
    Deviation("one scale for both axes", preprocess={"axis_scale": "height"}),
    Deviation("picture at the top left", preprocess={"anchor": "top_left"}),
    Deviation("padded with 114", preprocess={"pad_value": (114, 114, 114)}),
    Deviation("padded with 127", preprocess={"pad_value": (127, 127, 127)}),
    Deviation("input 480x480", preprocess={"input_hw": (480, 480)}),
    Deviation("input 320x320", preprocess={"input_hw": (320, 320)}),
)


@dataclass(frozen=True)
class LedgerRow:
    """What one deviation costs.

    Attributes
    ----------
    label
        The deviation.
    ap
        Level to AP in points, 0 to 100.
    cost
        Level to the difference from the row it is compared with, in points; negative is a loss.
    """

    label: str
    ap: Mapping[str, float]
    cost: Mapping[str, float]


@dataclass(frozen=True)
class Ledger:
    """Where the points go.

    Attributes
    ----------
    protocol
        The evaluation protocol itself; its cost is zero.
    chain
        From the protocol to the vendor's runner, each row compared with the one before, so that
        the costs add up to the whole.
    alone
        Each deviation by itself, compared with the protocol.
    """

    protocol: LedgerRow
    chain: Tuple[LedgerRow, ...]
    alone: Tuple[LedgerRow, ...]

    def to_dict(self) -> Dict[str, Any]:
        """Return the ledger as JSON values."""
        return dataclasses.asdict(self)


def ledger_of(
    source: Path,
    images: Path,
    truth: GroundTruth,
    folder: Path,
    *,
    builds: Mapping[str, Path],
    progress: Progress,
    say: Callable[[str], None],
    alone: Iterable[Deviation] = ALONE,
) -> Ledger:
    """Measure what each deviation from the protocol costs.

    Parameters
    ----------
    source
        The network, fp32, with free height and width.
    images, truth
        The photos and their faces.
    folder
        Below it each run that needs inference keeps a run folder, so that all can be stopped.
    builds
        Label to another build of the network, such as fp16 and int8.
    progress, say
        As for :func:`detect_folder`; ``say`` takes a line on each deviation that is begun.
    alone
        What to measure by itself.

    Returns
    -------
    Ledger
    """

    def measure(deviation: Deviation) -> Dict[str, float]:
        say(deviation.label)
        predictions = _detect(source, images, folder, deviation, progress)
        return _points(evaluate_detections(_cut(predictions, deviation), truth))

    protocol = measure(Deviation("protocol"))
    chain, total, before = [], Deviation("protocol"), protocol
    for deviation in VENDOR_CHAIN:
        total = total.joined(deviation)
        ap = measure(total)
        chain.append(LedgerRow(total.label, ap, _minus(ap, before)))
        before = ap
    alone = [*alone, *(Deviation(label, build=build) for label, build in builds.items())]
    rows = [(deviation.label, measure(deviation)) for deviation in alone]
    return Ledger(
        LedgerRow("protocol", protocol, dict.fromkeys(protocol, 0.0)),
        tuple(chain),
        tuple(LedgerRow(label, ap, _minus(ap, protocol)) for label, ap in rows),
    )


def _points(report: DetectionReport) -> Dict[str, float]:
    return {level: 100.0 * result.ap for level, result in report.levels.items()}


def _minus(one: Mapping[str, float], other: Mapping[str, float]) -> Dict[str, float]:
    return {level: one[level] - other[level] for level in one}


def _cut(predictions: Predictions, deviation: Deviation) -> Predictions:
    """Apply what happens after the detection; dropping low scores commutes with the NMS."""
    keep = predictions.scores >= deviation.lowest_score
    counts = np.add.reduceat(np.append(keep, False), predictions.starts[:-1])
    counts[np.diff(predictions.starts) == 0] = 0
    scores = predictions.scores[keep]
    if deviation.score_decimals is not None:
        scores = np.round(scores, deviation.score_decimals)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Predictions(predictions.images, starts, predictions.boxes_xywh[keep], scores)


def _detect(
    source: Path,
    images: Path,
    folder: Path,
    deviation: Deviation,
    progress: Progress,
) -> Predictions:
    source = deviation.build or source
    with open_backend(source) as backend:
        preprocess = dataclasses.replace(backend.preprocess, **deviation.preprocess)
    profile = dataclasses.replace(PROFILES["eval"], **deviation.profile)
    kind = _EvenSizes if deviation.even_sizes else FaceDetector
    backend = open_backend(source, preprocess=preprocess)
    with kind(backend, backend.contract, profile) as detector:
        return detect_folder(detector, images, folder / deviation.slug, progress=progress)


class _EvenSizes(FaceDetector):
    """Shrinks odd sides by a pixel and maps back as if it had not, as the vendor's runner does."""

    def settings(self) -> Dict[str, Any]:
        return {**super().settings(), "even_sizes": True}

    def _detect(self, infer: Infer, image_rgb: np.ndarray) -> FaceDetections:
        height, width = image_rgb.shape[:2]
        even = cv2.resize(image_rgb, (max(2, width // 2 * 2), max(2, height // 2 * 2)))
        _, placement = fit_image(image_rgb, self.backend.preprocess)
        raw = RawOutputs(infer(even).arrays, (placement,))
        return decode(raw, profile=self.profile, **self.contract.decode)[0]
