"""Face models from the authors' checkpoint to a measured deployment.

>>> import facezoo
>>> detector = facezoo.load("scrfd", "deploy_weights/official_scrfd_fp16/mod")  # doctest: +SKIP
>>> faces = detector(image_rgb)  # doctest: +SKIP
"""

__version__ = "0.1.0"

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    # Importing the package stays light: OpenCV and the runtimes load with the first model.
    if name == "load":
        from .pipeline.load import load

        return load
    raise AttributeError(f"module 'facezoo' has no attribute {name!r}")
