"""Images: files, resizing, alignment, boxes, drawing, pre-processing, appearance."""

from __future__ import annotations

import os
import sys
from typing import List

from ..machine import OPENCV_VARIABLE, usable_cores

__all__: List[str] = []

# OpenCV counts the machine's cores where a container's quota allows fewer. It is imported where it
# is needed, since that takes longer than many a command, and reads the variable then.
if "cv2" in sys.modules:
    _cv2 = sys.modules["cv2"]
    _cv2.setNumThreads(min(_cv2.getNumThreads(), usable_cores()))
else:
    # It prints why it cannot decode an image, without its name; we refuse it by name.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    if usable_cores() < (os.cpu_count() or 1):
        os.environ.setdefault(OPENCV_VARIABLE, str(usable_cores()))
