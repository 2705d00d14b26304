"""Error classes of facezoo and their exit codes.

::

    FaceZooError
    ├── InputError (also a ValueError)   a value, flag or file content that cannot be used
    │   └── ImageError                   one image that cannot be read, or its result written
    ├── CardError                        a model, variant or fact that is in no card
    ├── WeightsError
    │   ├── WeightsMissing               not on this machine, and cannot or may not be fetched
    │   └── ChecksumMismatch             a file differs from the published one
    ├── GraphError                       an ONNX graph that is not what its contract says
    ├── ConfigError                      a build YAML or vdsp JSON that the toolchain would reject
    ├── BackendError
    │   ├── BackendUnavailable           the runtime or the device is missing
    │   └── BackendRunError              the runtime failed
    ├── DecodeError                      raw outputs that the decoder does not expect
    ├── DatasetError                     a data set with missing or malformed parts
    ├── GateError                        an accuracy gate or ``--strict`` failed
    └── RunFolderError                   an output folder that belongs to another run

Messages say what is wrong with the value, what was expected, and what to do. The command line
prints them on one line and exits with the ``exit_code`` of the class.
"""

from __future__ import annotations

from typing import Any, Tuple, Type

__all__ = [
    "UNREADABLE",
    "BackendError",
    "BackendRunError",
    "BackendUnavailable",
    "CardError",
    "ChecksumMismatch",
    "ConfigError",
    "DatasetError",
    "DecodeError",
    "FaceZooError",
    "GateError",
    "GraphError",
    "ImageError",
    "InputError",
    "RunFolderError",
    "WeightsError",
    "WeightsMissing",
]


# A name from a malformed file can be as long as the file.
_LONGEST = 1600

# Exceptions from reading and unpacking an untrusted JSON: invalid or too deeply nested text,
# missing keys, values of another type, infinite numbers.
UNREADABLE: Tuple[Type[Exception], ...] = (
    OSError,
    ValueError,
    OverflowError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)


class FaceZooError(Exception):
    """Base of all errors of this package; a command exits with ``exit_code``."""

    exit_code = 2

    def __str__(self) -> str:
        text = super().__str__()
        half = _LONGEST // 2
        return text if len(text) <= _LONGEST else f"{text[:half]} […] {text[-half:]}"


class InputError(FaceZooError, ValueError):
    """A value, flag or file content that cannot be used."""


class ImageError(InputError):
    """One image that cannot be read, or its result written; a folder run goes on without it.

    Attributes
    ----------
    source
        The image as it was given to ``stream``; None elsewhere.
    """

    source: Any = None


class CardError(FaceZooError):
    """A model, variant or fact that is in no card."""


class WeightsError(FaceZooError):
    """Weights that cannot be obtained or verified."""


class WeightsMissing(WeightsError):
    """Weights that are not on this machine and cannot or may not be fetched."""


class ChecksumMismatch(WeightsError):
    """A weight file whose size or sha256 differs from the published one."""


class GraphError(FaceZooError):
    """An ONNX graph that is not what its contract says."""


class ConfigError(FaceZooError):
    """A build YAML or vdsp JSON that the toolchain would reject."""


class BackendError(FaceZooError):
    """An inference runtime that is missing or failed."""


class BackendUnavailable(BackendError):
    """The runtime or the device is missing."""


class BackendRunError(BackendError):
    """The runtime failed."""


class DecodeError(FaceZooError):
    """Raw outputs that the decoder does not expect."""


class DatasetError(FaceZooError):
    """A data set with missing or malformed parts."""


class GateError(FaceZooError):
    """An accuracy gate or ``--strict`` failed."""

    exit_code = 3


class RunFolderError(FaceZooError):
    """An output folder that belongs to another run, or is in use by one."""

    exit_code = 4
