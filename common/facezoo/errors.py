"""Every error facezoo raises on purpose.

::

    FaceZooError
    ├── InputError (also a ValueError)   a value, flag or file content that cannot be used
    │   └── ImageError                   one picture that cannot be read
    ├── CardError                        a model, variant or fact that no card holds
    ├── WeightsError
    │   ├── WeightsMissing               nothing here, and nowhere allowed to fetch it from
    │   └── ChecksumMismatch             a file is there, but it is not the published one
    ├── GraphError                       an ONNX graph that is not what its contract says
    ├── ConfigError                      a build YAML or vdsp JSON the toolchain would not take
    ├── BackendError
    │   ├── BackendUnavailable           the runtime or the device is not there
    │   └── BackendRunError              it is there, and it failed
    ├── DecodeError                      raw outputs that do not fit the decoder
    ├── DatasetError                     a data set with missing or malformed parts
    ├── GateError                        a gate or ``--strict`` said no
    └── RunFolderError                   an output folder that belongs to another run

Messages say what was wrong with the value, what was expected, and what to do. The command line
prints them on one line and ends with the class's ``exit_code``.
"""

from __future__ import annotations

from typing import Tuple, Type

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


# A name out of a hostile file can be as long as the file.
_LONGEST = 1600

# What reading a foreign JSON and taking it apart may raise: it is none or nested too deeply, keys
# are missing, values are of another kind, numbers are infinite.
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
    """Base of all errors of this package; ``exit_code`` is what a command ends with."""

    exit_code = 2

    def __str__(self) -> str:
        text = super().__str__()
        half = _LONGEST // 2
        return text if len(text) <= _LONGEST else f"{text[:half]} […] {text[-half:]}"


class InputError(FaceZooError, ValueError):
    """A value, flag or file content that cannot be used."""


class ImageError(InputError):
    """One picture that cannot be read; a folder run names it and goes on."""


class CardError(FaceZooError):
    """A model, variant or fact that no card holds."""


class WeightsError(FaceZooError):
    """Weights that cannot be had or trusted."""


class WeightsMissing(WeightsError):
    """Weights that are not on this machine and may not or cannot be fetched."""


class ChecksumMismatch(WeightsError):
    """A weight file whose size or sha256 differs from the published one."""


class GraphError(FaceZooError):
    """An ONNX graph that is not what its contract says."""


class ConfigError(FaceZooError):
    """A build YAML or vdsp JSON that the toolchain would not take."""


class BackendError(FaceZooError):
    """An inference runtime that is absent or failed."""


class BackendUnavailable(BackendError):
    """The runtime or the device is not there."""


class BackendRunError(BackendError):
    """The runtime is there, and it failed."""


class DecodeError(FaceZooError):
    """Raw outputs that do not fit the decoder."""


class DatasetError(FaceZooError):
    """A data set with missing or malformed parts."""


class GateError(FaceZooError):
    """A gate or ``--strict`` said no."""

    exit_code = 3


class RunFolderError(FaceZooError):
    """An output folder that belongs to another run, or is in use by one."""

    exit_code = 4
