"""The public interface: a name or a parameter that goes away breaks the programs of users."""

import inspect

import facezoo
import pytest

CALL = ("image", "bgr")
STREAM = ("images", "visit", "bgr")
MODEL = {"__call__": CALL, "stream": STREAM, "batch": ("images_rgb", "shared"), "close": ()}
OTHERS = {"draw": ("image", "bgr"), "to_dict": (), "to_pandas": (), "to_supervision": ()}

# Name to parameters, or to methods with theirs. An addition goes here too; what is here stays.
API = {
    "Embedding": {"cosine": ("other",), "to_dict": (), "from_dict": ("entry",)},
    "Face": {"to_dict": ()},
    "FaceDetections": {**OTHERS, "from_dict": ("entry",), "largest": (), "central": ()},
    "FaceDetector": MODEL,
    "FaceEmbedder": MODEL,
    "FaceQuality": MODEL,
    "FaceZooError": {},
    "ImageError": {},
    "LandmarkDetector": MODEL,
    "Landmarks": {"draw": ("image", "bgr"), "to_dict": (), "from_dict": ("entry",)},
    "PredictedFace": {"to_dict": ()},
    "PredictedPhoto": OTHERS,
    "Predictor": MODEL,
    "QualityScore": {"to_dict": ()},
    "RuntimeOptions": (
        "engine",
        "device_id",
        "threads",
        "provider",
        "precision",
        "allow_saturation",
    ),
    "align_face": ("image", "landmarks_xy", "size"),
    "load": (
        "spec",
        "source",
        "kind",
        "engine",
        "threads",
        "size",
        "runtime",
        "vdsp",
        "preprocess",
        "card",
        "options",
    ),
}
OPTIONS = {
    "FaceDetector": ("profile", "fast_decode", "score", "nms"),
    "FaceEmbedder": ("flip",),
    "LandmarkDetector": ("meanface",),
    "Predictor": ("detector", "landmarks", "quality", "embedder", "acceptance", "try_rotations"),
}


def parameters(function):
    # A class has the parameters of Generic.__new__ on Python 3.8.
    made = function.__init__ if inspect.isclass(function) else function
    return tuple(name for name in inspect.signature(made).parameters if name != "self")


def test_the_names_are_these():
    assert sorted([*API, "__version__"]) == facezoo.__all__ == dir(facezoo)


@pytest.mark.parametrize("name", API)
def test_the_parameters_are_these(name):
    found, expected = getattr(facezoo, name), API[name]
    assert found.__doc__
    if isinstance(expected, tuple):
        assert parameters(found) == expected
        return
    for method, words in expected.items():
        assert parameters(getattr(found, method)) == words, method
    if name in OPTIONS:
        words = parameters(found)
        assert tuple(word for word in words if word not in ("backend", "contract")) == OPTIONS[name]
