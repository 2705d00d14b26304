"""Drawing of results on images, and contact sheets."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence, Tuple

import numpy as np

from ..files import printable
from ..results import FaceDetections, Landmarks
from .files import write_image_rgb

__all__ = ["contact_sheet", "draw_faces", "draw_landmarks", "draw_predicted", "write_drawing"]

LONGEST_JPEG = 65_500  # source: libjpeg-turbo@3.0.0 jmorecfg.h, JPEG_MAX_DIMENSION

BOX_COLOR = (64, 220, 96)
REFUSED_COLOR = (255, 160, 64)
LABEL_COLOR = (16, 40, 20)
POINT_COLOR = (64, 255, 96)
# Contours of WFLW's 98 landmarks: first and last point, whether it is closed, colour. Points 96 and
# 97 are the pupils.
# source: WFLW, https://wywu.github.io/projects/LAB/WFLW.html, the figure of the annotation
CONTOURS = (
    (0, 32, False, (64, 255, 96)),  # outline of the face
    (33, 41, True, (255, 200, 64)),  # brows
    (42, 50, True, (255, 200, 64)),
    (51, 54, False, (240, 96, 255)),  # nose
    (55, 59, False, (240, 96, 255)),
    (60, 67, True, (96, 200, 255)),  # eyes
    (68, 75, True, (96, 200, 255)),
    (76, 87, True, (255, 96, 96)),  # lips, outer and inner
    (88, 95, True, (255, 96, 96)),
)
CONTOUR_POINTS = 98
PUPILS = (96, 97)
# Left eye, right eye, nose, left and right mouth corner, as seen in the image.
LANDMARK_COLORS = ((255, 96, 96), (96, 160, 255), (255, 220, 64), (240, 96, 255), (96, 255, 255))


def write_drawing(path: Path, drawn_rgb: np.ndarray) -> None:
    """Write a drawing, shrunk if a side exceeds the maximum of a JPEG.

    Parameters
    ----------
    path
        Target file; its folder is created if needed.
    drawn_rgb
        Shape (H, W, 3), uint8, RGB.
    """
    import cv2

    share = LONGEST_JPEG / max(drawn_rgb.shape[:2])
    if share < 1:
        height, width = (max(1, int(side * share)) for side in drawn_rgb.shape[:2])
        drawn_rgb = cv2.resize(drawn_rgb, (width, height), interpolation=cv2.INTER_AREA)
    write_image_rgb(path, drawn_rgb)


def draw_faces(image_rgb: np.ndarray, faces: FaceDetections) -> np.ndarray:
    """Draw boxes, scores and landmarks.

    Parameters
    ----------
    image_rgb
        Shape (H, W, 3), uint8, RGB; not changed.
    faces
        In pixels of this image.

    Returns
    -------
    numpy.ndarray
        A copy of the image with the drawing, same shape, uint8, RGB.
    """
    return draw_predicted(
        image_rgb,
        faces.boxes_xyxy,
        [f"{score:.2f}" for score in faces.scores],
        [False] * len(faces),
        list(faces.landmarks_xy),
    )


def draw_landmarks(image_rgb: np.ndarray, faces: Sequence[Landmarks]) -> np.ndarray:
    """Draw the landmarks of a crop, or of all faces of a photo.

    Parameters
    ----------
    image_rgb
        Shape (H, W, 3), uint8, RGB; not changed.
    faces
        Landmarks of each face, in pixels of this image.

    Returns
    -------
    numpy.ndarray
        A copy of the image, same shape, uint8, RGB: the contours of brows, eyes, nose, lips and
        face for WFLW's 98 landmarks, else a dot per landmark.
    """
    drawn = image_rgb.copy()
    for landmarks in faces:
        _contours(drawn, landmarks.points_xy)
    return drawn


def _contours(drawn: np.ndarray, points_xy: np.ndarray) -> None:
    """Draw WFLW's landmarks as lines, others as dots, thinner on smaller faces."""
    import cv2

    shift = 4  # OpenCV expects sixteenths of a pixel.
    width, height = np.ptp(points_xy, axis=0)
    radius = max(1.0, float(width + height) / 200)
    scaled = np.round(points_xy * 2**shift).astype(np.int32)
    dots: Sequence[int] = range(len(points_xy))
    if len(points_xy) == CONTOUR_POINTS:
        dots = PUPILS
        for first, last, closed, color in CONTOURS:
            line = scaled[first : last + 1].reshape(-1, 1, 2)
            cv2.polylines(drawn, [line], closed, color, max(1, round(radius)), cv2.LINE_AA, shift)
    for point in dots:
        centre = (int(scaled[point, 0]), int(scaled[point, 1]))
        size = round(radius * 2**shift)
        cv2.circle(drawn, centre, size, POINT_COLOR, -1, cv2.LINE_AA, shift)


def draw_predicted(
    image_rgb: np.ndarray,
    boxes_xyxy: np.ndarray,
    captions: Sequence[str],
    refused: Sequence[bool],
    points_xy: Sequence[np.ndarray],
) -> np.ndarray:
    """Draw points, and boxes with captions; rejected boxes get another colour.

    Lines, points and captions are thinner and smaller on smaller faces. A caption is beside its box
    where it covers no other face and no other caption; without such a place it is left out.

    Parameters
    ----------
    image_rgb
        Shape (H, W, 3), uint8, RGB; not changed.
    boxes_xyxy
        Shape (N, 4), pixels.
    captions, refused
        One per box: its caption, and whether it is rejected.
    points_xy
        One array (M, 2) per box, pixels.

    Returns
    -------
    numpy.ndarray
        A copy of the image with the drawing, same shape, uint8, RGB.
    """
    import cv2

    drawn = image_rgb.copy()
    boxes = np.round(np.asarray(boxes_xyxy, np.float64)).astype(int).reshape(-1, 4)
    colors = [REFUSED_COLOR if one else BOX_COLOR for one in refused]
    thicknesses = [_thickness(box, image_rgb.shape[:2]) for box in boxes]
    for box, color, thickness, points in zip(boxes.tolist(), colors, thicknesses, points_xy):
        cv2.rectangle(drawn, box[:2], box[2:], color, thickness)
        if len(points) == CONTOUR_POINTS:
            _contours(drawn, points)
            continue
        hues = LANDMARK_COLORS if len(points) == len(LANDMARK_COLORS) else [POINT_COLOR]
        radius = max(1, min(4 * thickness, round((box[2] - box[0]) / 24)))
        for index, (x, y) in enumerate(points.tolist()):
            hue = hues[index % len(hues)]
            cv2.circle(drawn, (round(x), round(y)), radius, hue, -1, cv2.LINE_AA)
    labels = np.zeros((0, 4), int)
    # Last, so that no line runs through a caption.
    for index, (caption, color, thickness) in enumerate(zip(captions, colors, thicknesses)):
        taken = np.concatenate([np.delete(boxes, index, axis=0), labels])
        label = _label(drawn, caption, boxes[index], thickness, color, taken)
        labels = np.concatenate([labels, label])
    return drawn


def _thickness(box_xyxy: np.ndarray, image_hw: Tuple[int, int]) -> int:
    """Return the width of a face's lines: a sixtieth of its side, at most that of large photos."""
    side = int(min(box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1]))
    return max(1, min(round(side / 60), round(max(image_hw) / 250)))


def _label(
    drawn: np.ndarray,
    text: str,
    box_xyxy: np.ndarray,
    thickness: int,
    color: Tuple[int, int, int],
    taken_xyxy: np.ndarray,
) -> np.ndarray:
    """Write a caption where nothing is covered; return its place, (1, 4), or (0, 4) if none."""
    import cv2

    text = _drawable(text)
    font, stroke, scale = cv2.FONT_HERSHEY_SIMPLEX, max(1, thickness // 2), 0.4 * thickness
    (width, height), base = cv2.getTextSize(text, font, scale, stroke)
    height += base
    left, top, right, bottom = box_xyxy.tolist()
    # Above, below, and inside at the bottom; each from the left, and up to the right edge.
    places = [
        (x, y)
        for y in (top - height, bottom + 1, bottom - height)
        for x in (left, right - width + 1)
    ]
    room_x, room_y = drawn.shape[1] - width, drawn.shape[0] - height
    for x, y in places:
        x = max(0, min(x, room_x))
        place = np.array([[x, y, x + width, y + height]])
        if 0 <= y <= room_y and not _overlap(place[0], taken_xyxy).any():
            break
    else:
        return np.zeros((0, 4), int)
    cv2.rectangle(drawn, (x, y), (x + width, y + height), color, -1)
    origin = (x, y + height - base // 2)
    cv2.putText(drawn, text, origin, font, scale, LABEL_COLOR, stroke, cv2.LINE_AA)
    return place


def _overlap(one_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """Return which boxes share pixels with one."""
    low = np.maximum(one_xyxy[:2], others_xyxy[:, :2])
    high = np.minimum(one_xyxy[2:], others_xyxy[:, 2:])
    return np.asarray((low <= high).all(axis=1))


def contact_sheet(
    images_rgb: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int = 3,
    cell_wh: Tuple[int, int] = (480, 360),
) -> np.ndarray:
    """Arrange images on one sheet, each shrunk into a cell above its caption.

    Parameters
    ----------
    images_rgb
        Images of any size, each (H, W, 3), uint8, RGB; at least one.
    captions
        One line per image; letters outside ASCII are drawn as question marks.
    columns
        Cells per row.
    cell_wh
        Width and height of the image in a cell, in pixels.

    Returns
    -------
    numpy.ndarray
        The sheet, uint8, RGB.
    """
    import cv2

    width, height = cell_wh
    bar, gap = 24, 8
    columns = min(columns, len(images_rgb))
    rows = -(-len(images_rgb) // columns)
    sheet = np.full(
        (rows * (height + bar + gap) + gap, columns * (width + gap) + gap, 3), 24, np.uint8
    )
    for index, (image, caption) in enumerate(zip(images_rgb, captions)):
        top = gap + (index // columns) * (height + bar + gap)
        left = gap + (index % columns) * (width + gap)
        scale = min(width / image.shape[1], height / image.shape[0])
        size = (max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        y, x = top + (height - size[1]) // 2, left + (width - size[0]) // 2
        sheet[y : y + size[1], x : x + size[0]] = small
        origin = (left + 4, top + height + bar - 7)
        cv2.putText(
            sheet,
            _drawable(caption),
            origin,
            cv2.FONT_HERSHEY_SIMPLEX,
            0.5,
            (230, 230, 230),
            1,
            cv2.LINE_AA,
        )
    return sheet


def _drawable(text: str) -> str:
    """Return text as OpenCV can draw it: its font is ASCII, and invalid text ends the process."""
    return printable(text).encode("ascii", "replace").decode()
