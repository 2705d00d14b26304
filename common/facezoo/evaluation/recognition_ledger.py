"""Cost of each choice between a photo and its embedding, in points of a protocol's accuracy."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..backends import RuntimeOptions
from ..datasets.protocols import PairProtocol
from ..errors import GraphError, InputError
from ..machine import cpu_flags
from ..models.magface.model import FaceEmbedder
from ..models.scrfd.model import FaceDetector
from ..pipeline.load import load
from ..results import FaceDetections
from ..runs import Progress
from .protocol import (
    ChosenFace,
    PhotoEmbeddings,
    ProtocolReport,
    choose_faces,
    embed_photos,
    evaluate_protocol,
    find_faces,
)

__all__ = [
    "Choice",
    "RecognitionLedger",
    "RecognitionRow",
    "recognition_ledger",
]

BF16_FEATURES = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Choice:
    """Everything that can differ between a photo and its embedding.

    Attributes
    ----------
    label
        Description for the table.
    detector
        SCRFD that finds the faces.
    preprocess
        Changed fields of its pre-processing.
    retry
        Whether a photo without a face is tried again with a border.
    face
        Which face of a photo is used, see :func:`~facezoo.evaluation.protocol.choose_faces`.
    flip
        See :class:`FaceEmbedder`.
    embedder
        Build of the recogniser.
    precision
        Arithmetic; ``bf16`` runs in OpenVINO.
    """

    label: str
    detector: Path
    embedder: Path
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    retry: bool = True
    face: str = "central"
    flip: str = "none"
    precision: str = "f32"

    @property
    def faces_slug(self) -> str:
        """Folder name of the faces; equal for choices that do not change them."""
        changes = (f"{name}-{value}" for name, value in self.preprocess.items())
        return _slug([_stem(self.detector), *changes])

    @property
    def slug(self) -> str:
        """Folder name of the embeddings."""
        parts = [self.faces_slug, self.face, self.flip, _stem(self.embedder), self.precision]
        return _slug([*parts, *["no-retry"] * (not self.retry)])

    @property
    def usual(self) -> Choice:
        """The same with the usual face of every photo."""
        return dataclasses.replace(self, face="central", retry=True)


def _stem(prefix: Path) -> str:
    return prefix.parent.name if prefix.name == "mod" else prefix.stem


def _slug(parts: Sequence[str]) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", " ".join(parts)).strip("-")


@dataclass(frozen=True)
class RecognitionRow:
    """Accuracy with one choice.

    Attributes
    ----------
    label
        The choice.
    accuracy
        Points, 0 to 100, mean over all folds; None if it was not measured.
    chosen_on, reported_on
        The same over the first and over the second half of the folds.
    wrong
        Number of wrong decisions.
    cost
        Difference from the default, in points; negative is a loss.
    note
        Why there is no result.
    """

    label: str
    accuracy: Optional[float]
    chosen_on: Optional[float] = None
    reported_on: Optional[float] = None
    wrong: Optional[int] = None
    cost: Optional[float] = None
    note: str = ""


@dataclass(frozen=True)
class RecognitionLedger:
    """Costs of all choices.

    Attributes
    ----------
    default
        The default choice; its cost is zero.
    alone
        Each choice alone, compared with the default.
    best
        The alignment with the highest accuracy on the first half of the folds.
    candidates
        The alignments it was chosen from: each alone, and the best of them with the mirrored face.
    limiting
        Pairs that the best alignment decides wrongly, see
        :meth:`~facezoo.evaluation.protocol.ProtocolReport.to_dict`.
    """

    default: RecognitionRow
    alone: Tuple[RecognitionRow, ...]
    best: RecognitionRow
    candidates: Tuple[RecognitionRow, ...]
    limiting: Tuple[Mapping[str, Any], ...]

    def to_dict(self) -> Dict[str, Any]:
        """Return the ledger as JSON values."""
        return dataclasses.asdict(self)


def recognition_ledger(
    protocol: PairProtocol,
    paths: Sequence[Path],
    folder: Path,
    *,
    detectors: Sequence[Path],
    embedder: Path,
    builds: Mapping[str, Path],
    how: str,
    progress: Progress,
    say: Callable[[str], None],
) -> RecognitionLedger:
    """Measure what each choice costs.

    Parameters
    ----------
    protocol, paths
        The pairs, and the files of its photos.
    folder
        Parent of the run folders; each detection and each embedding has its own, is resumed, and
        serves all choices that do not change it.
    detectors
        SCRFDs, the default first.
    embedder
        The recogniser, fp32.
    builds
        Label to another build of it, such as fp16 and int8.
    how
        How the accuracy is computed, see
        :func:`~facezoo.evaluation.verification_report.verify_pairs`.
    progress, say
        ``progress`` wraps each loop; ``say`` is called with a line at the start of each choice.

    Raises
    ------
    InputError
        If there is no detector, or a photo cannot be read.
    """
    if not detectors:
        raise InputError("a ledger needs a detector; give --detector")
    default = Choice("default", detectors[0], embedder)
    half = (len(protocol.edges) - 1) // 2
    found: Dict[str, RecognitionRow] = {}
    limiting: Dict[str, Tuple[Mapping[str, Any], ...]] = {}

    def measure(choice: Choice) -> RecognitionRow:
        if choice.slug not in found:
            say(choice.label)
            try:
                report = _report(protocol, paths, folder, choice, how, progress)
            except GraphError as error:
                # Such as a graph whose input has a fixed size.
                if choice.usual == default:
                    raise
                found[choice.slug] = RecognitionRow(choice.label, None, note=str(error))
                return found[choice.slug]
            shares = 100.0 * report.verification.accuracies
            found[choice.slug] = RecognitionRow(
                choice.label,
                accuracy=float(np.mean(shares)),
                chosen_on=float(np.mean(shares[:half])),
                reported_on=float(np.mean(shares[half:])),
                wrong=int(report.verification.wrong.sum()),
            )
            limiting[choice.slug] = tuple(report.to_dict()["wrong"])
        return dataclasses.replace(found[choice.slug], label=choice.label)

    base = measure(default)
    alignments = _alignments(default, detectors)
    others = [
        dataclasses.replace(default, label="no second try with a border", retry=False),
        dataclasses.replace(default, label="largest face", face="largest"),
        dataclasses.replace(default, label="mirrored face added", flip="sum"),
        *(dataclasses.replace(default, label=label, embedder=one) for label, one in builds.items()),
    ]
    alone = [_against(measure(choice), base) for choice in (*alignments, *others)]
    alone.append(_bf16(default, measure, base))
    # The first of equals: the simplest.
    plain = [one for one in (default, *alignments) if measure(one).accuracy is not None]
    best = max(plain, key=lambda one: measure(one).chosen_on or 0.0)
    choices = [
        *plain,
        dataclasses.replace(best, label=f"{best.label}, mirrored face added", flip="sum"),
    ]
    candidates = [_against(measure(choice), base) for choice in choices]
    index = int(np.argmax([one.chosen_on or 0.0 for one in candidates]))
    return RecognitionLedger(
        default=_against(base, base),
        alone=tuple(alone),
        best=candidates[index],
        candidates=tuple(candidates),
        limiting=limiting[choices[index].slug],
    )


def _alignments(default: Choice, detectors: Sequence[Path]) -> List[Choice]:
    small = {"input_hw": (320, 320)}
    pillow = {"resize": "BILINEAR_PILLOW"}
    found = [
        dataclasses.replace(default, label="input 320x320", preprocess=small),
        dataclasses.replace(default, label="Pillow's resize", preprocess=pillow),
    ]
    for other in detectors[1:]:
        name = _stem(other)
        found += [
            dataclasses.replace(default, label=name, detector=other),
            dataclasses.replace(
                default, label=f"{name}, input 320x320", detector=other, preprocess=small
            ),
        ]
    return found


def _bf16(
    default: Choice, measure: Callable[[Choice], RecognitionRow], base: RecognitionRow
) -> RecognitionRow:
    choice = dataclasses.replace(default, label="OpenVINO in bf16", precision="bf16")
    if not set(BF16_FEATURES) & cpu_flags():
        return RecognitionRow(choice.label, None, note="this processor has no bf16 arithmetic")
    return _against(measure(choice), base)


def _against(row: RecognitionRow, base: RecognitionRow) -> RecognitionRow:
    if row.accuracy is None:
        return row
    return dataclasses.replace(row, cost=row.accuracy - (base.accuracy or 0.0))


def _report(
    protocol: PairProtocol,
    paths: Sequence[Path],
    folder: Path,
    choice: Choice,
    how: str,
    progress: Progress,
) -> ProtocolReport:
    names = protocol.photos
    faces, settings = _faces(names, paths, folder, choice, progress)

    def embed(one: Choice, rows: Sequence[int]) -> PhotoEmbeddings:
        chosen = _chosen(faces, one)
        with _embedder(one) as embedder:
            return embed_photos(
                embedder,
                [paths[row] for row in rows],
                [names[row] for row in rows],
                folder / "embeddings" / one.slug,
                chosen=[chosen[row] for row in rows],
                choice=one.face,
                detector={**settings, **({} if one.retry else {"retry": False})},
                sources=[one.embedder],
                progress=progress,
            )

    photos = embed(choice.usual, range(len(names)))
    if photos.unreadable:
        raise InputError(
            f"{photos.unreadable} photos cannot be read; a ledger needs every photo, get them again"
        )
    # Other faces of the same photos: only those that differ are embedded.
    usual, chosen = _chosen(faces, choice.usual), _chosen(faces, choice)
    differ = [row for row in range(len(names)) if _index(usual[row]) != _index(chosen[row])]
    if differ:
        photos.found[differ] = False
        rows = [row for row in differ if chosen[row] is not None]
        if rows:
            others = embed(choice, rows)
            photos.vectors[rows], photos.found[rows] = others.vectors, others.found
    photos = dataclasses.replace(photos, choice=choice.face)
    return evaluate_protocol(protocol, photos, choice.label, how=how)


def _index(face: Optional[ChosenFace]) -> Optional[int]:
    return None if face is None else face.index


def _chosen(
    faces: Sequence[Optional[FaceDetections]], choice: Choice
) -> List[Optional[ChosenFace]]:
    if not choice.retry:
        faces = [None if one is None or one.border else one for one in faces]
    return choose_faces(faces, choice.face)


def _faces(
    names: Sequence[str], paths: Sequence[Path], folder: Path, choice: Choice, progress: Progress
) -> Tuple[List[Optional[FaceDetections]], Dict[str, Any]]:
    """Return the faces of all photos, and the settings of the detector."""
    with load(choice.detector, kind=FaceDetector) as plain:
        preprocess = dataclasses.replace(plain.backend.preprocess, **choice.preprocess)
    with load(choice.detector, kind=FaceDetector, preprocess=preprocess) as detector:
        faces = find_faces(
            detector,
            paths,
            names,
            folder / "faces" / choice.faces_slug,
            sources=[choice.detector],
            progress=progress,
        )
        return faces, detector.settings()


def _embedder(choice: Choice) -> FaceEmbedder:
    bf16 = RuntimeOptions(engine="openvino", precision="bf16")
    runtime = bf16 if choice.precision == "bf16" else RuntimeOptions()
    embedder: FaceEmbedder = load(
        choice.embedder, kind=FaceEmbedder, flip=choice.flip, runtime=runtime
    )
    return embedder
