"""Cost of each deviation from the evaluation protocol of WIDER FACE, in points of AP."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Literal, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..image.resize import fit_image
from ..metrics.detection import DetectionReport, GroundTruth, Predictions, evaluate_detections
from ..models.scrfd.decode import PROFILES, decode
from ..models.scrfd.model import FaceDetector
from ..pipeline.load import load
from ..results import FaceDetections, RawOutputs
from ..runs import Progress
from .detection import detect_folder

__all__ = [
    "Deviation",
    "Ledger",
    "LedgerRow",
    "ledger_of",
]


@dataclass(frozen=True)
class Deviation:
    """One deviation from the evaluation protocol.

    Attributes
    ----------
    label
        Description for the table.
    preprocess, profile
        Fields to change.
    even_sizes
        Shrink odd sides by a pixel first and ignore that when mapping back, as the vendor's
        runner does.
    lowest_score
        Drop detections with a lower score.
    score_decimals
        Round scores to this number of decimals.
    build
        Another artifact prefix or .onnx.
    auto_size
        Let the input follow the photo, as ``--size auto`` does.
    """

    label: str
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    even_sizes: bool = False
    lowest_score: float = 0.0
    score_decimals: Optional[int] = None
    build: Optional[Path] = None
    auto_size: bool = False

    def joined(self, other: Deviation) -> Deviation:
        """Return the combination of both deviations."""
        return Deviation(
            label=f"+ {other.label}",
            preprocess={**self.preprocess, **other.preprocess},
            profile={**self.profile, **other.profile},
            even_sizes=self.even_sizes or other.even_sizes,
            lowest_score=max(self.lowest_score, other.lowest_score),
            score_decimals=self.score_decimals or other.score_decimals,
            build=other.build or self.build,
            auto_size=self.auto_size or other.auto_size,
        )

    @property
    def slug(self) -> str:
        """Folder name of the detections; equal for deviations that do not change them."""
        parts = [f"{name}-{value}" for name, value in {**self.preprocess, **self.profile}.items()]
        parts += ["even"] * self.even_sizes + ["auto"] * self.auto_size
        parts += [self.build.parent.name or self.build.stem] if self.build else []
        return re.sub(r"[^A-Za-z0-9_]+", "-", " ".join(parts)).strip("-") or "protocol"


# Deviations of the vendor's runner and its numbers from the protocol, in this order.
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
    Deviation("image at the top left", preprocess={"anchor": "top_left"}),
    Deviation("padded with 114", preprocess={"pad_value": (114, 114, 114)}),
    Deviation("padded with 127", preprocess={"pad_value": (127, 127, 127)}),
    Deviation("input 480x480", preprocess={"input_hw": (480, 480)}),
    Deviation("input 320x320", preprocess={"input_hw": (320, 320)}),
    Deviation("input that follows the photo (auto)", auto_size=True),
)


@dataclass(frozen=True)
class LedgerRow:
    """Cost of one deviation.

    Attributes
    ----------
    label
        The deviation.
    ap
        Level to AP in points, 0 to 100.
    cost
        Level to the difference from the compared row, in points; negative is a loss.
    """

    label: str
    ap: Mapping[str, float]
    cost: Mapping[str, float]


@dataclass(frozen=True)
class Ledger:
    """Costs of all deviations.

    Attributes
    ----------
    protocol
        The evaluation protocol itself; its cost is zero.
    chain
        From the protocol to the vendor's runner, each row compared with the previous one, so that
        the costs add up to the total.
    alone
        Each deviation alone, compared with the protocol.
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
    """Measure the cost of each deviation from the protocol.

    Parameters
    ----------
    source
        The network, fp32, with free height and width.
    images, truth
        The photos and their ground truth.
    folder
        Parent of the run folders; each run with inference has its own and can be resumed.
    builds
        Label to another build of the network, such as fp16 and int8.
    progress, say
        As for :func:`detect_folder`; ``say`` is called with a line at the start of each deviation.
    alone
        Deviations to measure alone.

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
    """Apply the steps after the detection; dropping low scores commutes with the NMS."""
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
    with load(source, kind=FaceDetector) as plain:
        preprocess = dataclasses.replace(plain.backend.preprocess, **deviation.preprocess)
    profile = dataclasses.replace(PROFILES["eval"], **deviation.profile)
    kind = _EvenSizes if deviation.even_sizes else FaceDetector
    size: Optional[Literal["auto"]] = "auto" if deviation.auto_size else None
    with load(source, kind=kind, size=size, preprocess=preprocess, profile=profile) as detector:
        return detect_folder(
            detector, images, folder / deviation.slug, sources=[source], progress=progress
        )


class _EvenSizes(FaceDetector):
    """A detector that shrinks odd sides by a pixel and ignores that, like the vendor's runner."""

    def settings(self) -> Dict[str, Any]:
        return {**super().settings(), "even_sizes": True}

    def _detect(self, images_rgb: Sequence[np.ndarray], shared: bool) -> List[FaceDetections]:
        import cv2

        sides = [image.shape[:2] for image in images_rgb]
        even = [
            cv2.resize(image, (max(2, width // 2 * 2), max(2, height // 2 * 2)))
            for image, (height, width) in zip(images_rgb, sides)
        ]
        placements = (fit_image(image, self.backend.preprocess)[1] for image in images_rgb)
        raw = RawOutputs(self._infer(even, shared).arrays, tuple(placements))
        return decode(raw, profile=self.profile, **self.contract.decode)
