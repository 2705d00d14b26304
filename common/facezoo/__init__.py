"""Face models from the authors' checkpoint to a measured deployment."""

__version__ = "0.1.0"
