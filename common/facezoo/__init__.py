"""Face models from the authors' checkpoint to a measured deployment.

>>> import facezoo
>>> detector = facezoo.load("scrfd_500m_bnkps")  # doctest: +SKIP
>>> faces = detector("photo.jpg")  # doctest: +SKIP
>>> faces.draw("photo.jpg").save("boxes.jpg")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, List

if TYPE_CHECKING:
    from .backends import RuntimeOptions
    from .errors import FaceZooError, ImageError
    from .image.align import align_face
    from .image.show import draw_result as draw_result
    from .models.magface.model import FaceEmbedder
    from .models.pipnet.model import LandmarkDetector
    from .models.scrfd.model import FaceDetector
    from .models.sdd_fiqa.model import FaceQuality
    from .pipeline.load import load
    from .pipeline.photo import PredictedFace, PredictedPhoto, Predictor
    from .results import Embedding, Face, FaceDetections, Landmarks, QualityScore

__version__ = "0.2.0"

__all__ = [
    "Embedding",
    "Face",
    "FaceDetections",
    "FaceDetector",
    "FaceEmbedder",
    "FaceQuality",
    "FaceZooError",
    "ImageError",
    "LandmarkDetector",
    "Landmarks",
    "PredictedFace",
    "PredictedPhoto",
    "Predictor",
    "QualityScore",
    "RuntimeOptions",
    "__version__",
    "align_face",
    "load",
]

_HOMES = {
    "Embedding": "results",
    "Face": "results",
    "FaceDetections": "results",
    "FaceDetector": "models.scrfd.model",
    "FaceEmbedder": "models.magface.model",
    "FaceQuality": "models.sdd_fiqa.model",
    "FaceZooError": "errors",
    "ImageError": "errors",
    "LandmarkDetector": "models.pipnet.model",
    "Landmarks": "results",
    "PredictedFace": "pipeline.photo",
    "PredictedPhoto": "pipeline.photo",
    "Predictor": "pipeline.photo",
    "QualityScore": "results",
    "RuntimeOptions": "backends",
    "align_face": "image.align",
    "load": "pipeline.load",
    # For the results, which are below images; their own method is the public one.
    "draw_result": "image.show",
}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # Importing the package stays light: OpenCV and the runtimes load with the first model.
        if name in _HOMES:
            return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    # Public names alone, for completion; modules are found by their import.
    return sorted(__all__)
