"""Find the common mistake that explains the numbers of a program that runs a network.

A mistaken set-up raises no error but changes the numbers. With the network and the image, the
numbers of every common mistake can be computed; the one that matches the observation is reported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..card import Preprocess
from ..errors import InputError
from ..image.preprocess import VdspOperation
from ..image.resize import placement_of
from ..models.pipnet import decode as pipnet
from ..results import Placement

__all__ = [
    "DecodedFaces",
    "Diagnosis",
    "Hypothesis",
    "ReferenceSetup",
    "diagnose_faces",
    "diagnose_outputs",
    "diagnose_points",
    "diagnose_tensor",
    "hypotheses_of",
    "rows_of",
    "unaligned_crops",
]


# A set-up explains an observation that is no further from it than this, as a share of the spread
# of the right numbers. On a photo of five faces SCRFD's outputs move by 0.001 in half precision
# and by 0.05 where Pillow resizes in place of OpenCV, by 0.13 for swapped channels.
TOLERANCE = 0.06
# The nearer of two explanations is reported alone if it is this many times nearer; else both are.
CLEARLY = 3.0
# Differences up to this come from arithmetic alone: it is the same set-up.
EXACT = 1e-5
# A crop that is a pixel wider moves an embedding by 0.2, swapped channels by 0.4 and more.
CROP_SLACK = 5.0
FACES_COMPARED = 20
ROWS_COMPARED = 1000
SHARE_OF_SIDE = 0.01  # landmarks this near, of the crop's longer side, are the same
SHARE_OF_FACES = 0.8
# source: torchvision's and ImageNet's usual mean and std, as copied into many programs
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Points = pipnet.Points
Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class ReferenceSetup:
    """A network and an image, and the right way to run one on the other.

    Attributes
    ----------
    run
        Takes (1, 3, H, W), float32, returns the raw outputs by name.
    preprocess
        The right pre-processing.
    strides, anchors
        Strides and anchors of a detector; empty and 0 for other networks.
    image
        Shape (H, W, 3), uint8, RGB: the input, such as an aligned face.
    unaligned
        Name to other crops of the same face, as programs without alignment cut them.
    """

    run: Run
    preprocess: Preprocess
    image: np.ndarray
    strides: Tuple[int, ...] = ()
    anchors: int = 0
    unaligned: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class DecodedFaces:
    """Decoded faces as a program gives them, in any order.

    Attributes
    ----------
    boxes_xyxy, scores
        Shapes (N, 4) and (N,), in the image's pixels.
    landmarks_xy
        Shape (N, 5, 2); None if the program gives none.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    landmarks_xy: Optional[np.ndarray] = None


@dataclass(frozen=True)
class Hypothesis:
    """One way to run a network and read its outputs; the right one has no mistakes.

    Attributes
    ----------
    mistakes
        Short names, such as ``BGR``; empty for the right set-up, two for a pair.
    says
        Description of what is done.
    preprocess, image
        How the image becomes a tensor.
    undo
        The pre-processing that boxes are mapped back by; None for the same.
    read
        What is done to outputs or rows; see ``_READINGS``.
    slack
        Factor of its tolerance, since programs cut their crops in many ways.
    """

    mistakes: Tuple[str, ...]
    says: str
    preprocess: Preprocess
    image: np.ndarray
    undo: Optional[Preprocess] = None
    read: str = ""
    slack: float = 1.0

    def tensor(self) -> np.ndarray:
        """Make the network's input, (1, 3, H, W), float32."""
        return VdspOperation(self.preprocess)(self.image)[0][None]

    def placement(self) -> Placement:
        """Return the placement that boxes are mapped back with."""
        height, width = self.image.shape[:2]
        return placement_of((height, width), self.undo or self.preprocess)


@dataclass(frozen=True)
class Diagnosis:
    """What explains an observation.

    Attributes
    ----------
    verdict
        ``consistent``, ``explained`` or ``not explained``.
    causes
        The hypotheses that explain it, the nearest first; several if they cannot be told apart. One
        of two mistakes only if no single mistake explains it.
    distances
        Mistakes joined by `` + ``, ``right`` for none, to distance; below 1 means near enough.
    unseen
        Mistakes that would change nothing on this image.
    hint
        The nearest hypothesis, if none explains it.
    """

    verdict: str
    causes: Tuple[Hypothesis, ...]
    distances: Mapping[str, float]
    unseen: Tuple[str, ...] = ()
    hint: str = ""

    def to_dict(self) -> Dict[str, Any]:
        """Return it as JSON values."""
        return {
            "verdict": self.verdict,
            "causes": [
                {"mistakes": list(cause.mistakes), "says": cause.says} for cause in self.causes
            ],
            "distances": {name: round(value, 6) for name, value in self.distances.items()},
            "unseen": list(self.unseen),
            "hint": self.hint,
        }


def hypotheses_of(setup: ReferenceSetup, pairs: bool = False) -> List[Hypothesis]:
    """List the set-ups to try.

    Parameters
    ----------
    setup
        Its pre-processing decides what can go wrong.
    pairs
        Two mistakes at a time of those that change the input, in place of one.

    Returns
    -------
    list of Hypothesis
        The right one first, unless pairs are asked for.
    """
    right = Hypothesis((), "the right set-up", setup.preprocess, setup.image)
    singles = list(_wrong_inputs(right, setup))
    if not pairs:
        return [right, *singles]
    return [
        second
        for first in singles
        for second in _wrong_inputs(first, setup)
        if _kind(first.mistakes[0]) < _kind(second.mistakes[-1])
    ]


def _kind(mistake: str) -> int:
    """Return the kind of a mistake: order, range or place; two of one kind exclude each other."""
    ranges = ("0..255", "0..1", "/255 to ±1", "mean-std")
    return 0 if mistake in ("RGB", "BGR") else 1 if mistake in ranges else 2


def _wrong_inputs(base: Hypothesis, setup: ReferenceSetup) -> Iterator[Hypothesis]:
    """Yield set-ups that differ from another in one more thing done to the image."""
    preprocess = base.preprocess

    def wrong(name: str, says: str, **change: Any) -> Hypothesis:
        changed = dataclasses.replace(preprocess, **change)
        return Hypothesis((*base.mistakes, name), says, changed, base.image)

    expected = "BGR" if setup.preprocess.swaps_channels else "RGB"
    other = "RGB" if expected == "BGR" else "BGR"
    swap = "NO_CHANGE" if preprocess.color_conversion != "NO_CHANGE" else "RGB2BGR"
    says = f"the image is fed in {other} order, the network expects {expected}"
    yield wrong(other, says, color_conversion=swap)
    mean, std = IMAGENET
    ranges = (
        ("0..255", "the pixels are not scaled, 0 to 255", {"norm": "EQUAL"}),
        ("0..1", "the pixels are only divided by 255, so 0 to 1", {"norm": "DIV255"}),
        (
            "/255 to ±1",
            "the pixels are divided by 255, minus 0.5, divided by 0.5, so -1 to 1",
            {"norm": "DIV255_MINUSMEAN_DIVSTD", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        ),
        (
            "mean-std",
            "the pixels are normalised with ImageNet's mean and std",
            {"norm": "DIV255_MINUSMEAN_DIVSTD", "mean": mean, "std": std},
        ),
    )
    right = VdspOperation(setup.preprocess).table
    for name, says, change in ranges:
        candidate = wrong(name, says, **change)
        if not np.allclose(VdspOperation(candidate.preprocess).table, right, atol=1e-3):
            yield candidate
    if preprocess.fit == "letterbox":
        yield from _wrong_letterboxes(base, wrong)
    for name, crop in setup.unaligned.items():
        says = f"the face is not aligned: {name} is the input"
        yield dataclasses.replace(
            base,
            mistakes=(*base.mistakes, "not aligned"),
            says=says,
            image=crop,
            slack=CROP_SLACK,
        )


def _wrong_letterboxes(base: Hypothesis, wrong: Callable[..., Hypothesis]) -> Iterator[Hypothesis]:
    centred = base.preprocess.anchor == "center"
    other = "top_left" if centred else "center"
    names = {"top_left": "at the top left", "center": "in the centre"}
    is_at, belongs = names[other], names[base.preprocess.anchor]
    name = "letterbox anchor"
    moved = wrong(name, f"the image lies {is_at} of the input, not {belongs}", anchor=other)
    yield moved
    says = f"boxes are mapped back as if the image lay {is_at}; it lies {belongs}"
    yield dataclasses.replace(moved, says=says, preprocess=base.preprocess, undo=moved.preprocess)
    says = f"the image lies {is_at}, and boxes are mapped back as if it lay {belongs}"
    yield dataclasses.replace(moved, says=says, undo=base.preprocess)
    if base.preprocess.pad_value != (114, 114, 114):
        says = "the border is grey (114), as other detectors expect; this one expects another"
        yield wrong("pad colour", says, pad_value=(114, 114, 114))
    yield wrong("stretched", "the image is stretched; it must keep its aspect ratio", fit="stretch")


def _wrong_readings(right: Hypothesis) -> Iterator[Hypothesis]:
    """Yield mistakes in decoding a detector's maps to faces."""
    for read, (mistake, says) in _READINGS.items():
        yield dataclasses.replace(right, mistakes=(*right.mistakes, mistake), says=says, read=read)


_READINGS = {
    "twice": ("sigmoid twice", "the sigmoid is applied twice: scores already were probabilities"),
    "never": ("sigmoid never", "scores are logits: apply a sigmoid"),
    "cells": ("stride missing", "distances are in strides: multiply them by 8, 16, 32"),
    "all cells": ("stride missing", "cells and distances are in strides: multiply by 8, 16, 32"),
    "swapped": ("x/y swapped", "x and y are swapped: boxes are left, top, right, bottom"),
}


def diagnose_tensor(setup: ReferenceSetup, observed: np.ndarray) -> Diagnosis:
    """Explain the tensor that a program gives to the network for the set-up's image.

    Parameters
    ----------
    setup
        Network and image.
    observed
        Shape (1, 3, H, W) or (3, H, W), any float.

    Raises
    ------
    InputError
        If its shape is not the network's.
    """
    right = hypotheses_of(setup)[0].tensor()
    observed = np.asarray(observed, np.float32).reshape((-1, *observed.shape[-3:]))
    if observed.shape != right.shape:
        raise InputError(
            f"the observed tensor has shape {observed.shape}, the network expects {right.shape}; "
            "give what your program feeds to the network for one image"
        )
    scale = float(right.std()) or 1.0

    def distance(hypothesis: Hypothesis) -> float:
        return _rms(hypothesis.tensor() - observed) / scale / hypothesis.slack

    def from_right(hypothesis: Hypothesis) -> float:
        return _rms(hypothesis.tensor() - right) / scale

    pairs = hypotheses_of(setup, pairs=True)
    return _judge(hypotheses_of(setup), pairs, distance, from_right)


def diagnose_outputs(setup: ReferenceSetup, observed: Mapping[str, np.ndarray]) -> Diagnosis:
    """Explain the raw outputs that a program has for the set-up's image.

    Parameters
    ----------
    setup
        Network and image.
    observed
        Output name to array; a detector's scores may be logits or probabilities, and maps
        (1, C, H, W) or rows (N, C / anchors).

    Raises
    ------
    InputError
        If an output is missing or has another size than the network's.
    """
    right = hypotheses_of(setup)[0]
    outputs = _Outputs(setup, observed, dict(setup.run(right.tensor())))
    hypotheses = [*hypotheses_of(setup), *outputs.wrong_readings(right)]
    pairs = hypotheses_of(setup, pairs=True)
    for one in hypotheses_of(setup)[1:]:
        pairs += outputs.wrong_readings(one)
    return _judge(hypotheses, pairs, outputs.distance, outputs.from_right)


class _Outputs:
    """Compares outputs; caches the network's outputs for each tensor."""

    def __init__(
        self,
        setup: ReferenceSetup,
        observed: Mapping[str, np.ndarray],
        right: Mapping[str, np.ndarray],
    ) -> None:
        self.setup = setup
        self.right = {name: self._flat(name, array) for name, array in right.items()}
        missing = [name for name in right if name not in observed]
        if missing and len(right) == len(observed) == 1:
            observed = dict(zip(right, observed.values()))
            missing = []
        if missing:
            raise InputError(
                f"the observation has no output {missing[0]!r}; it has {sorted(observed)}, "
                f"expected {list(right)}"
            )
        self.observed = {name: self._flat(name, np.asarray(observed[name])) for name in right}
        for name, array in self.observed.items():
            if array.shape != self.right[name].shape:
                raise InputError(
                    f"output {name!r} has {array.size} values, the network gives "
                    f"{self.right[name].size} for one image; give its output for the same image"
                )
        # Released detectors give probabilities, in rows; raw heads give logits, in maps.
        self.in_rows = any(np.asarray(observed[name]).ndim < 4 for name in right)
        self._known: Dict[Tuple[Any, ...], Mapping[str, np.ndarray]] = {}

    def _flat(self, name: str, array: np.ndarray) -> np.ndarray:
        """Bring maps and rows of a detector into one order, location first, anchor second."""
        array = np.asarray(array, np.float32)
        if self.setup.strides and array.ndim == 4:
            array = array[0].transpose(1, 2, 0)
        return array.reshape(-1)

    def wrong_readings(self, base: Hypothesis) -> Iterator[Hypothesis]:
        """Yield mistakes that outputs show besides a wrong input."""
        for read, mistake, says in self._readings():
            mistakes = (*base.mistakes, mistake)
            yield dataclasses.replace(base, mistakes=mistakes, says=says, read=read)

    def _readings(self) -> Iterator[Tuple[str, str, str]]:
        if not self.setup.strides:
            sizes = [array.size for array in self.right.values()]
            if len(sizes) == 1 and sizes[0] > 1:
                says = "the vector has length 1: the norm, a MagFace network's quality, is lost"
                yield "unit", "normalised before the norm", says
            return
        if self.in_rows:
            for read in ("twice", "never"):
                yield (read, *_READINGS[read])
        else:
            says = "scores are probabilities already; the decoder applies the sigmoid again"
            yield "once", "sigmoid twice", says
            yield "twice", "sigmoid twice", says
        says = "distances are in pixels already; the decoder multiplies them by the stride again"
        yield "pixels", "stride twice", says

    def _predicted(self, hypothesis: Hypothesis) -> Mapping[str, np.ndarray]:
        key = (hypothesis.preprocess, id(hypothesis.image))
        if key not in self._known:
            arrays = self.setup.run(hypothesis.tensor())
            self._known[key] = {name: self._flat(name, array) for name, array in arrays.items()}
        arrays = self._known[key]
        if hypothesis.read == "unit":
            length = np.sqrt(sum(float(np.sum(array**2)) for array in arrays.values()))
            return {name: array / length for name, array in arrays.items()}
        read = hypothesis.read or ("once" if self.in_rows else "never")
        return {name: _read_output(name, array, read) for name, array in arrays.items()}

    def _distance(
        self, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], read: str = ""
    ) -> float:
        shares = []
        spread = self._predicted(dataclasses.replace(self._right(), read=read))
        for name, array in spread.items():
            # A single number has no spread.
            scale = float(array.std()) if array.size > 1 else abs(float(array[0]))
            shares.append(_rms(one[name] - other[name]) / (scale or 1.0))
        return float(np.sqrt(np.mean(np.square(shares))))

    def _right(self) -> Hypothesis:
        return hypotheses_of(self.setup)[0]

    def distance(self, hypothesis: Hypothesis) -> float:
        """Return the distance of the observation from the result of a set-up."""
        apart = self._distance(self._predicted(hypothesis), self.observed, hypothesis.read)
        return apart / hypothesis.slack

    def from_right(self, hypothesis: Hypothesis) -> float:
        """Return the distance of a set-up's result from that of the right one."""
        return self._distance(self._predicted(hypothesis), self._predicted(self._right()))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _read_output(name: str, array: np.ndarray, read: str) -> np.ndarray:
    kind, _, stride = name.partition("_")
    if kind == "score":
        times = {"once": 1, "twice": 2}.get(read, 0)
        for _ in range(times):
            array = _sigmoid(array)
    elif read == "pixels" and stride.isdigit():
        array = array * np.float32(stride)
    return array


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-values)))


def diagnose_faces(setup: ReferenceSetup, observed: DecodedFaces) -> Diagnosis:
    """Explain the faces that a program finds in the set-up's image.

    Thresholds and the suppression of overlapping boxes have no influence: each face is compared
    with all candidates of the network.

    Parameters
    ----------
    setup
        A detector and an image.
    observed
        Faces that the program finds; those with the highest scores are used.

    Raises
    ------
    InputError
        If there is no face, or the network is not a detector.
    """
    if not setup.strides:
        raise InputError("only a detector finds faces; pass the network's input or its raw outputs")
    if not len(observed.scores):
        raise InputError(
            "the observation has no face, so there is nothing to compare; pass the network's input "
            "or its raw outputs"
        )
    observed = _best(observed, FACES_COMPARED)
    right = hypotheses_of(setup)[0]
    known: Dict[Any, Mapping[str, np.ndarray]] = {}

    def rows(hypothesis: Hypothesis) -> DecodedFaces:
        key = hypothesis.preprocess
        if key not in known:
            known[key] = setup.run(hypothesis.tensor())
        return rows_of(setup, known[key], hypothesis.placement(), hypothesis.read)

    right_faces = _best(rows(right), FACES_COMPARED)
    pairs = hypotheses_of(setup, pairs=True)
    for one in hypotheses_of(setup)[1:]:
        pairs += _wrong_readings(one)
    return _judge(
        [*hypotheses_of(setup), *_wrong_readings(right)],
        pairs,
        lambda hypothesis: _faces_apart(observed, rows(hypothesis)) * TOLERANCE,
        lambda hypothesis: _faces_apart(right_faces, rows(hypothesis)) * TOLERANCE,
    )


def _best(faces: DecodedFaces, count: int) -> DecodedFaces:
    best = np.argsort(-faces.scores, kind="stable")[:count]
    marks = None if faces.landmarks_xy is None else faces.landmarks_xy[best]
    return DecodedFaces(faces.boxes_xyxy[best], faces.scores[best], marks)


def _faces_apart(faces: DecodedFaces, rows: DecodedFaces) -> float:
    """Return the distance of most faces from their nearest rows; 1 is the tolerance."""
    apart = []
    for index, (box, score) in enumerate(zip(faces.boxes_xyxy, faces.scores)):
        size = float(np.sqrt(abs((box[2] - box[0]) * (box[3] - box[1]))))
        pixels = max(1.0, 0.02 * size)
        off = np.abs(rows.boxes_xyxy - box).max(axis=1) / pixels
        off = np.maximum(off, np.abs(rows.scores - score) / (0.02 * max(1.0, abs(float(score)))))
        if faces.landmarks_xy is not None and rows.landmarks_xy is not None:
            gap = np.abs(rows.landmarks_xy - faces.landmarks_xy[index]).max(axis=(1, 2))
            off = np.maximum(off, gap / pixels)
        apart.append(float(off.min()))
    return float(np.quantile(apart, SHARE_OF_FACES))


def rows_of(
    setup: ReferenceSetup, arrays: Mapping[str, np.ndarray], placement: Placement, read: str = ""
) -> DecodedFaces:
    """Decode a detector's highest scores, right or with a mistake, without suppression.

    Parameters
    ----------
    setup
        Gives strides and anchors.
    arrays
        ``score_8`` (1, A, h, w), ``bbox_8`` (1, 4 A, h, w), ``kps_8`` (1, 10 A, h, w) …
    placement
        Placement that boxes are mapped back with.
    read
        ``twice`` or ``never`` for the sigmoid, ``cells`` or ``all cells`` for a missing stride,
        ``swapped`` for x and y; empty for none.
    """
    logits = [_by_cell(arrays[f"score_{stride}"], 1)[:, 0] for stride in setup.strides]
    # No reading changes the order of the scores, and faces are among the highest.
    level = np.sort(np.concatenate(logits))[-ROWS_COMPARED:][0]
    scores, boxes, marks = [], [], []
    for stride, all_of_stride in zip(setup.strides, logits):
        rows = np.flatnonzero(all_of_stride >= level)
        width = arrays[f"score_{stride}"].shape[3]
        row, column = np.divmod(rows // setup.anchors, width)
        step = 1 if read in ("cells", "all cells") else stride
        centre = np.stack([column, row], axis=1).astype(np.float32)
        centre *= 1 if read == "all cells" else stride
        distance = _by_cell(arrays[f"bbox_{stride}"], 4)[rows] * step
        boxes.append(np.concatenate([centre - distance[:, :2], centre + distance[:, 2:]], axis=1))
        if f"kps_{stride}" in arrays:
            offset = _by_cell(arrays[f"kps_{stride}"], 10)[rows].reshape(-1, 5, 2) * step
            marks.append(centre[:, None] + offset)
        scores.append(all_of_stride[rows])
    squashed = np.concatenate(scores)
    for _ in range({"never": 0, "twice": 2}.get(read, 1)):
        squashed = _sigmoid(squashed)
    limit = np.array(placement.image_hw[::-1] * 2, np.float32)
    corners = placement.undo(np.concatenate(boxes).reshape(-1, 2, 2)).reshape(-1, 4)
    corners = np.clip(corners, 0.0, limit)
    points = placement.undo(np.concatenate(marks)) if marks else None
    if read == "swapped":
        corners = corners[:, [1, 0, 3, 2]]
        points = None if points is None else points[:, :, ::-1]
    return DecodedFaces(corners, squashed, points)


def _by_cell(maps: np.ndarray, size: int) -> np.ndarray:
    """Turn (1, A * size, H, W) into (H * W * A, size)."""
    return np.asarray(maps[0].transpose(1, 2, 0).reshape(-1, size))


def diagnose_points(
    setup: ReferenceSetup,
    observed_xy: np.ndarray,
    *,
    meanface: Optional[Points] = None,
    num_neighbors: int = 0,
    given: Optional[np.ndarray] = None,
) -> Diagnosis:
    """Explain the landmarks that a program finds in the set-up's image, a crop.

    Parameters
    ----------
    setup
        A landmark network and its input crop.
    observed_xy
        Shape (N, 2), in the crop's pixels.
    meanface, num_neighbors
        From the contract of a PIPNet; without them the network's only output holds x and y of each
        landmark as shares of the crop, as PFLD's does.
    given
        The mean face the program uses, (N, 2), if it is known.

    Raises
    ------
    InputError
        If there are not as many points as the network has.
    """
    tables = {} if meanface is None else {"": pipnet.load_meanface(meanface, num_neighbors)}
    if given is not None:
        tables["given"] = pipnet.load_meanface(given, num_neighbors)
    readings = _POINT_READINGS if tables else _SHARE_READINGS
    observed = np.asarray(observed_xy, np.float32)
    known: Dict[Any, Mapping[str, np.ndarray]] = {}
    near = SHARE_OF_SIDE * max(setup.image.shape[:2])

    def points(hypothesis: Hypothesis) -> np.ndarray:
        key, read, placement = hypothesis.preprocess, hypothesis.read, hypothesis.placement()
        if key not in known:
            known[key] = setup.run(hypothesis.tensor())
        if not tables:
            return _points_of_shares(known[key], placement, read)
        return _points_of(known[key], tables.get(read, tables[""]), placement, read)

    right = hypotheses_of(setup)[0]
    reference = points(right)
    if observed.shape != reference.shape:
        raise InputError(
            f"landmarks must have shape {reference.shape}, got {observed.shape}; give those of one "
            "face in pixels"
        )

    def wrong_readings(base: Hypothesis) -> Iterator[Hypothesis]:
        for read, (mistake, says) in readings.items():
            if read != "given" or given is not None:
                mistakes = (*base.mistakes, mistake)
                yield dataclasses.replace(base, mistakes=mistakes, says=says, read=read)

    pairs = hypotheses_of(setup, pairs=True)
    for one in hypotheses_of(setup)[1:]:
        pairs += wrong_readings(one)
    return _judge(
        [*hypotheses_of(setup), *wrong_readings(right)],
        pairs,
        lambda hypothesis: _rms(points(hypothesis) - observed) / near * TOLERANCE,
        lambda hypothesis: _rms(points(hypothesis) - reference) / near * TOLERANCE,
    )


_SWAPPED = ("x/y swapped", "x and y are swapped")
_POINT_READINGS = {
    "given": ("wrong mean face", "the mean face is not the one of the network's data set"),
    "own": ("neighbours left out", "neighbour predictions are not used; average them in"),
    "division": (
        "true division",
        "the best cell's row is index / width; it is index // width",
    ),
    "swapped": _SWAPPED,
}
_SHARE_READINGS = {
    "shares": ("shares", "the points are shares of the crop; multiply by its width and height"),
    "apart": ("x apart from y", "the output is read as all x, then all y; x and y alternate"),
    "swapped": _SWAPPED,
}


def _points_of(
    arrays: Mapping[str, np.ndarray], table: pipnet.MeanFace, placement: Placement, read: str
) -> np.ndarray:
    arrays = dict(arrays)
    if read == "division":
        width = arrays["cls"].shape[3]
        # index / width is the row and the column's share of a row.
        share = np.arange(width, dtype=np.float32) / width
        arrays["y"], arrays["nb_y"] = arrays["y"] + share, arrays["nb_y"] + share
    found = pipnet.decode_maps(arrays, table)
    points = (found.own_xy if read == "own" else found.points_xy)[0]
    points = placement.undo(points * np.array(placement.input_hw[::-1], np.float32))
    return points[:, ::-1] if read == "swapped" else points


def _points_of_shares(
    arrays: Mapping[str, np.ndarray], placement: Placement, read: str
) -> np.ndarray:
    (values,) = next(iter(arrays.values()))
    shares: np.ndarray = values.reshape(2, -1).T if read == "apart" else values.reshape(-1, 2)
    if read == "shares":
        return shares
    points = placement.undo(shares * np.array(placement.input_hw[::-1], np.float32))
    return points[:, ::-1] if read == "swapped" else points


def _judge(
    hypotheses: Sequence[Hypothesis],
    pairs: Sequence[Hypothesis],
    distance: Callable[[Hypothesis], float],
    from_right: Callable[[Hypothesis], float],
) -> Diagnosis:
    apart = [(distance(one), one) for one in hypotheses]
    right = apart[0][0]
    wrong = [one for one in apart[1:] if from_right(one[1]) > EXACT]
    unseen = {one.mistakes[0] for _, one in apart[1:]} - {one.mistakes[0] for _, one in wrong}
    wrong.sort(key=lambda one: one[0])
    distances: Dict[str, float] = {"right": right / TOLERANCE}
    for value, one in wrong:
        distances.setdefault(one.mistakes[0], value / TOLERANCE)
    nearest = wrong[0][0] if wrong else np.inf

    def verdict(kind: str, causes: Sequence[Hypothesis] = (), hint: str = "") -> Diagnosis:
        return Diagnosis(kind, tuple(causes), distances, tuple(sorted(unseen)), hint)

    best = min(right, nearest)
    # The points of a face are spread so widely that a wrong input moves them by less than the
    # tolerance; two mistakes are then found by explaining the numbers far better than none.
    if best > EXACT:
        both = [(distance(one), one) for one in pairs]
        pair = min(both, key=lambda one: one[0], default=(np.inf, hypotheses[0]))
        if pair[0] <= TOLERANCE and best > CLEARLY * max(pair[0], EXACT):
            return verdict("explained", [pair[1]])
    if right <= TOLERANCE and right <= CLEARLY * max(nearest, EXACT):
        return verdict("consistent", [hypotheses[0]])
    causes = _nearest_causes(wrong)
    if causes:
        return verdict("explained", causes)
    name = min(distances, key=lambda key: distances[key])
    hint = f"{name} is nearest, at {distances[name]:.1f} times the tolerated distance"
    return verdict("not explained", hint=hint)


def _nearest_causes(wrong: Sequence[Tuple[float, Hypothesis]]) -> Tuple[Hypothesis, ...]:
    """Return the nearest mistake, and others that are as near; one per name."""
    if not wrong or wrong[0][0] > TOLERANCE:
        return ()
    limit = min(TOLERANCE, CLEARLY * max(wrong[0][0], EXACT))
    causes: Dict[str, Hypothesis] = {}
    for value, one in wrong:
        if value <= limit:
            causes.setdefault(one.mistakes[0], one)
    return tuple(causes.values())


def unaligned_crops(
    image_rgb: np.ndarray, box_xyxy: Sequence[float], input_hw: Tuple[int, int]
) -> Dict[str, np.ndarray]:
    """Cut a face out of a photo as programs without alignment do.

    Parameters
    ----------
    image_rgb
        The photo, (H, W, 3), uint8.
    box_xyxy
        The detector's box.
    input_hw
        Size of the crops, as the network takes them.

    Returns
    -------
    dict
        Description to crop (h, w, 3).
    """
    import cv2

    height, width = image_rgb.shape[:2]
    cut = [int(side) for side in box_xyxy]
    rounded = [round(side) for side in box_xyxy]
    half = max(cut[2] - cut[0], cut[3] - cut[1]) // 2
    x, y = (cut[0] + cut[2]) // 2, (cut[1] + cut[3]) // 2
    sides = {
        "the detector's box": cut,
        "the detector's box, rounded,": rounded,
        "a square around the detector's box": [x - half, y - half, x + half + 1, y + half + 1],
        "the whole photo": [0, 0, width, height],
    }
    crops = {}
    for name, (left, top, right, bottom) in sides.items():
        crop = image_rgb[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]
        crops[name] = cv2.resize(np.ascontiguousarray(crop), input_hw[::-1])
    return crops
