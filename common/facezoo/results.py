"""Result types: raw outputs of backends and decoded results; empty results are valid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Mapping, Tuple

import numpy as np

__all__ = [
    "Embedding",
    "FaceDetections",
    "Landmarks",
    "Placement",
    "QualityScore",
    "RawOutputs",
]


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


@dataclass(frozen=True)
class FaceDetections:
    """The faces of one image, highest score first.

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
        return f"FaceDetections({len(self)} faces in {self.image_hw[1]}x{self.image_hw[0]}{best})"


@dataclass(frozen=True)
class Embedding:
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
class QualityScore:
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


@dataclass(frozen=True)
class Landmarks:
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
