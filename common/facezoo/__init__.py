"""Face models from the authors' checkpoint to a measured deployment.

>>> import facezoo
>>> detector = facezoo.load("scrfd_500m_bnkps")  # doctest: +SKIP
>>> faces = detector(image_rgb)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, List

if TYPE_CHECKING:
    from .backends import RuntimeOptions
    from .models.magface.model import FaceEmbedder
    from .models.pipnet.model import LandmarkDetector
    from .models.scrfd.model import FaceDetector
    from .models.sdd_fiqa.model import FaceQuality
    from .pipeline.load import load

__version__ = "0.2.0"

__all__ = [
    "FaceDetector",
    "FaceEmbedder",
    "FaceQuality",
    "LandmarkDetector",
    "RuntimeOptions",
    "__version__",
    "load",
]

_HOMES = {
    "FaceDetector": "models.scrfd.model",
    "FaceEmbedder": "models.magface.model",
    "FaceQuality": "models.sdd_fiqa.model",
    "LandmarkDetector": "models.pipnet.model",
    "RuntimeOptions": "backends",
    "load": "pipeline.load",
}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # Importing the package stays light: OpenCV and the runtimes load with the first model.
        if name in _HOMES:
            return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})
