"""Images: files, resizing, alignment, boxes, drawing, pre-processing, appearance."""

import cv2

from ..machine import usable_cores

# OpenCV counts the machine's cores where a container's quota allows fewer.
if cv2.getNumThreads() > usable_cores():
    cv2.setNumThreads(usable_cores())
