"""Images: files, resizing, alignment, boxes, drawing, pre-processing, appearance."""

from __future__ import annotations

from typing import List

import cv2

from ..machine import usable_cores

__all__: List[str] = []

# OpenCV counts the machine's cores where a container's quota allows fewer.
if cv2.getNumThreads() > usable_cores():
    cv2.setNumThreads(usable_cores())
