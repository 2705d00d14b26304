"""Result types: raw outputs of backends and decoded results; empty results are valid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    Sequence,
    Tuple,
    Union,
    overload,
)

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    import os

    from PIL.Image import Image

__all__ = [
    "Compared",
    "Embedding",
    "Face",
    "FaceDetections",
    "Landmarks",
    "Placement",
    "QualityScore",
    "RawOutputs",
    "Result",
    "Shown",
]

# Rows of a table in a notebook.
MOST_ROWS = 20
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class Compared:
    """A dataclass whose equality compares arrays by their values."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        names = self.__dataclass_fields__  # type: ignore[attr-defined]
        return all(_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]


class Result:
    """What a model returns for one image.

    Attributes
    ----------
    source
        The image as it was given to ``stream``, such as its path; None elsewhere. Results that
        differ only in this are equal.
    """

    source: Any = None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    return bool(type(one) is type(other) and one == other)


class Shown:
    """The faces of an image in forms of other packages, which are imported only here."""

    def draw(
        self, image: Union[str, os.PathLike[str], np.ndarray, Image], *, bgr: bool = False
    ) -> Image:
        """Draw the result on its image.

        Parameters
        ----------
        image
            The image that the model was given: a path, a PIL image, or an array of shape
            (H, W, 3), uint8, RGB.
        bgr
            An array is in OpenCV's order, BGR.

        Returns
        -------
        PIL.Image.Image
            A drawing of the same size, to ``save`` or ``show``.

        Raises
        ------
        ImageError
            If the image cannot be read, or its size is another one.
        """
        # Images are above results; the package hands the drawing out, as it does load().
        from . import draw_result

        return draw_result(self, image, bgr)

    def _rows(self) -> List[Dict[str, Any]]:
        """Return one row per face, for tables."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with one row per face; needs pandas.

        Its columns are ``left``, ``top``, ``right``, ``bottom`` and ``score``, then x and y of each
        landmark, in pixels, then those of other stages, if there are any.
        """
        return _needed("pandas").DataFrame(self._rows())

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        rows = self._rows()
        names = ("left", "top", "right", "bottom", "score")
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{row[name]:.{2 if name == 'score' else 0}f}</td>" for name in names)
            + "</tr>"
            for row in rows[:MOST_ROWS]
        )
        more = f"<p>and {len(rows) - MOST_ROWS} more</p>" if len(rows) > MOST_ROWS else ""
        return f"<p>{self!r}</p><table><tr>{head}</tr>{body}</table>{more}"


def _needed(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise InputError(
            f"this needs {package}, which cannot be imported ({error}): pip install {package}"
        ) from error


@dataclass(frozen=True)
class Placement:
    """Position and scale of an image inside the network's input, used to map results back.

    ``x_input = x_image * scale_xy[0] + pad_left`` and likewise for y.

    Attributes
    ----------
    scale_xy
        Input pixels per image pixel, separately for x and y.
    pad_left, pad_top
        Input pixels left of and above the image.
    input_hw
        Height and width of the network's input, in pixels.
    image_hw
        Height and width of the image, in pixels.
    """

    scale_xy: Tuple[float, float]
    pad_left: float
    pad_top: float
    input_hw: Tuple[int, int]
    image_hw: Tuple[int, int]

    def undo(self, points_xy: np.ndarray) -> np.ndarray:
        """Map points from input pixels to image pixels.

        Parameters
        ----------
        points_xy
            Shape (..., 2), float; x and y in input pixels.

        Returns
        -------
        numpy.ndarray
            Same shape, float32, x and y in image pixels; not clipped.
        """
        offset = np.array([self.pad_left, self.pad_top], np.float32)
        scale = np.array(self.scale_xy, np.float32)
        return np.asarray((points_xy - offset) / scale, dtype=np.float32)


@dataclass(frozen=True)
class RawOutputs:
    """Outputs of a network for a batch of images, before decoding.

    Attributes
    ----------
    arrays
        Output name of the contract to float32 array (B, ...); the first axis is the image.
    placements
        One per image, in the order of the first axis.
    """

    arrays: Mapping[str, np.ndarray]
    placements: Tuple[Placement, ...]


@dataclass(frozen=True, eq=False)
class Face(Compared):
    """One face of :class:`FaceDetections`.

    Attributes
    ----------
    box_xyxy
        Left, top, right, bottom in original image pixels.
    score
        From 0 to 1; higher means more confident.
    landmarks_xy
        Shape (5, 2), float32, or (0, 2), as in :class:`FaceDetections`.
    """

    box_xyxy: Tuple[float, float, float, float]
    score: float
    landmarks_xy: np.ndarray

    def to_dict(self) -> Dict[str, Any]:
        """Return the face as JSON values; float32 values are exact."""
        face: Dict[str, Any] = {"box_xyxy": list(self.box_xyxy), "score": self.score}
        return (
            {**face, "landmarks_xy": self.landmarks_xy.tolist()} if len(self.landmarks_xy) else face
        )

    def __repr__(self) -> str:
        left, top, right, bottom = self.box_xyxy
        return f"Face(box {left:.0f},{top:.0f},{right:.0f},{bottom:.0f}, score {self.score:.3f})"


@dataclass(frozen=True, eq=False)
class FaceDetections(Shown, Compared, Result):
    """The faces of one image, highest score first; ``faces[0]`` is a :class:`Face`.

    Attributes
    ----------
    boxes_xyxy
        Shape (N, 4), float32: left, top, right, bottom in original image pixels.
    scores
        Shape (N,), float32 in [0, 1]; higher means more confident.
    landmarks_xy
        Shape (N, 5, 2), float32, original image pixels: left eye, right eye, nose, left and right
        mouth corner as seen in the image; shape (N, 0, 2) for networks without landmarks.
    image_hw
        Height and width of the image in pixels.
    border
        Border added before these faces were found, as a share of the image's sides; usually 0.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    landmarks_xy: np.ndarray
    image_hw: Tuple[int, int]
    border: float = 0.0

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> Face: ...

    @overload
    def __getitem__(self, index: Union[slice, Sequence[int], np.ndarray]) -> FaceDetections: ...

    def __getitem__(
        self, index: Union[int, slice, Sequence[int], np.ndarray]
    ) -> Union[Face, FaceDetections]:
        """Return one face; for a slice, a list of indices or a mask, these faces."""
        if isinstance(index, (int, np.integer)):
            left, top, right, bottom = self.boxes_xyxy[index].tolist()
            box = (left, top, right, bottom)
            return Face(box, float(self.scores[index]), self.landmarks_xy[index])
        chosen = index if isinstance(index, (slice, np.ndarray)) else np.array(index, np.intp)
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[chosen],
            scores=self.scores[chosen],
            landmarks_xy=self.landmarks_xy[chosen],
        )

    def __iter__(self) -> Iterator[Face]:
        return (self[index] for index in range(len(self)))

    def _rows(self) -> List[Dict[str, Any]]:
        rows = []
        for face in self:
            row: Dict[str, Any] = dict(zip(("left", "top", "right", "bottom"), face.box_xyxy))
            row["score"] = face.score
            for name, (x, y) in zip(LANDMARKS, face.landmarks_xy.tolist()):
                row.update({f"{name}_x": x, f"{name}_y": y})
            rows.append(row)
        return rows

    def to_supervision(self) -> Any:
        """Return boxes and scores as ``supervision.Detections`` of class 0; needs supervision."""
        made = _needed("supervision").Detections
        classes = np.zeros(len(self), int)
        return made(xyxy=self.boxes_xyxy, confidence=self.scores, class_id=classes)

    def largest(self) -> int:
        """Return the index of the face with the largest box; there must be at least one face."""
        sides = self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]
        return int(np.argmax(sides.prod(axis=1)))

    def central(self) -> int:
        """Return the index of the face whose box is nearest to the middle of the image.

        There must be at least one face; distances are between centres.
        """
        middle = np.array(self.image_hw[::-1], np.float32) / 2.0
        centres = (self.boxes_xyxy[:, :2] + self.boxes_xyxy[:, 2:]) / 2.0
        return int(np.argmin(np.square(centres - middle).sum(axis=1)))

    def resized(self, image_hw: Tuple[int, int]) -> FaceDetections:
        """Return the faces scaled to another size of the same image, in pixels."""
        height, width = self.image_hw
        scale = np.array([image_hw[1] / width, image_hw[0] / height], np.float32)
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy * np.tile(scale, 2),
            landmarks_xy=self.landmarks_xy * scale,
            image_hw=image_hw,
        )

    def to_dict(self) -> Dict[str, Any]:
        """Return the faces as JSON values; float32 values are exact."""
        faces = []
        rows = zip(self.boxes_xyxy.tolist(), self.scores.tolist(), self.landmarks_xy.tolist())
        for box, score, landmarks in rows:
            face: Dict[str, Any] = {"box_xyxy": box, "score": score}
            if landmarks:
                face["landmarks_xy"] = landmarks
            faces.append(face)
        entry = {"width": self.image_hw[1], "height": self.image_hw[0], "faces": faces}
        return {**entry, "border": self.border} if self.border else entry

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> FaceDetections:
        """Restore the result from the values of :meth:`to_dict`."""
        faces = entry["faces"]
        marks = [face.get("landmarks_xy", []) for face in faces]
        points = len(marks[0]) if marks else 0
        return cls(
            boxes_xyxy=np.array([f["box_xyxy"] for f in faces], np.float32).reshape(-1, 4),
            scores=np.array([f["score"] for f in faces], np.float32),
            landmarks_xy=np.array(marks, np.float32).reshape(len(faces), points, 2),
            image_hw=(entry["height"], entry["width"]),
            border=entry.get("border", 0.0),
        )

    def __repr__(self) -> str:
        best = f", best score {self.scores[0]:.3f}" if len(self) else ""
        height, width = self.image_hw
        faces = "1 face" if len(self) == 1 else f"{len(self)} faces"
        return f"FaceDetections({faces} in {width}x{height}{best})"


@dataclass(frozen=True, eq=False)
class Embedding(Compared, Result):
    """The embedding of one aligned face.

    Attributes
    ----------
    vector
        Shape (D,), float32, as returned by the network: not normalised, never all zero.
    """

    vector: np.ndarray

    @property
    def norm(self) -> float:
        """Length of the vector; for MagFace the quality of the face, higher is better."""
        return float(np.linalg.norm(self.vector.astype(np.float64)))

    @property
    def unit(self) -> np.ndarray:
        """Direction of the vector, shape (D,), float32, length 1; it identifies the person."""
        return np.asarray(self.vector / self.norm, dtype=np.float32)

    def cosine(self, other: Embedding) -> float:
        """Return the similarity of two faces, from -1 to 1; higher for the same person."""
        if self.vector.shape != other.vector.shape:
            raise InputError(
                f"an embedding of {len(self.vector)} values cannot be compared with one of "
                f"{len(other.vector)}; expected two of the same network"
            )
        return float(self.unit @ other.unit)

    def to_dict(self) -> Dict[str, Any]:
        """Return the embedding as JSON values; float32 values are exact."""
        return {"norm": self.norm, "embedding": self.vector.tolist()}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Embedding:
        """Restore the result from the values of :meth:`to_dict`."""
        return cls(np.array(entry["embedding"], np.float32))

    def __repr__(self) -> str:
        return f"Embedding({len(self.vector)} values, norm {self.norm:.2f})"


@dataclass(frozen=True)
class QualityScore(Result):
    """How useful one aligned face is for recognition.

    Attributes
    ----------
    value
        Higher is better. Unbounded, on a scale of its own for each network: about 10 to 70 for
        the authors' SDD-FIQA weights.
    """

    value: float

    def to_dict(self) -> Dict[str, Any]:
        """Return the score as JSON values."""
        return {"quality": self.value}


@dataclass(frozen=True, eq=False)
class Landmarks(Compared, Result):
    """The landmarks of one face, in the order of the network's data set.

    Attributes
    ----------
    points_xy
        Shape (N, 2), float32: x and y in original image pixels; may lie outside the image.
    scores
        Shape (N,), float32: the network's confidence in each point, higher means more
        confident; trained towards 1, not limited to [0, 1]. Shape (0,) if the network has none.
    image_hw
        Height and width of the image in pixels.
    """

    points_xy: np.ndarray
    scores: np.ndarray
    image_hw: Tuple[int, int]

    def __len__(self) -> int:
        return len(self.points_xy)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.points_xy)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return x and y of one landmark, or of those that a slice or a mask chooses."""
        return np.asarray(self.points_xy[index])

    def draw(
        self, image: Union[str, os.PathLike[str], np.ndarray, Image], *, bgr: bool = False
    ) -> Image:
        """Draw the landmarks on their image; see :meth:`Shown.draw`."""
        from . import draw_result

        return draw_result(self, image, bgr)

    def to_dict(self) -> Dict[str, Any]:
        """Return the landmarks as JSON values; float32 values are exact."""
        height, width = self.image_hw
        points = {"points_xy": self.points_xy.tolist(), "point_scores": self.scores.tolist()}
        return {"width": width, "height": height, **points}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Landmarks:
        """Restore the result from the values of :meth:`to_dict`."""
        return cls(
            points_xy=np.array(entry["points_xy"], np.float32).reshape(-1, 2),
            scores=np.array(entry["point_scores"], np.float32),
            image_hw=(entry["height"], entry["width"]),
        )

    def __repr__(self) -> str:
        height, width = self.image_hw
        mean = f", mean score {self.scores.mean():.3f}" if len(self.scores) else ""
        return f"Landmarks({len(self)} points in {width}x{height}{mean})"
