"""Artifacts: the compiled builds below ``deploy_weights/``, addressed by their prefix.

``deploy_weights/<name>/mod`` is a prefix. The vendor's compiler writes ``mod.so``, ``mod.json`` and
``mod.params`` there; ours writes ``mod.onnx`` and ``mod.build.json``, which can lie beside them
and cannot be confused with them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from .errors import UNREADABLE, ConfigError, InputError
from .fields import (
    CARD_ID,
    NULL,
    OBJECT,
    SHA256,
    Kind,
    check,
    either,
    mapping,
    matching,
    number,
    one_of,
    record,
    sequence,
    text,
    whole,
)
from .files import read_text, sha256_of, write_bytes

__all__ = [
    "FULL",
    "PORTABLE",
    "Artifact",
    "BuildInfo",
    "build_of",
    "files_of",
    "read_artifact",
    "write_artifact",
]


SCHEMA = "facezoo.build/1"
# Ranges of int8 weights: 7 bits are right on every CPU.
PORTABLE, FULL = "portable", "full"
VENDOR_SUFFIXES = (".so", ".json", ".params")
LARGEST_RECORD = 1 << 26  # bytes; a calibration list of 100,000 files has 15 MB

_NAME = text(200)
_FILE = matching(r"(?s).{1,4096}", "a file's name of 1 to 4096 characters")
_COUNT = whole(0, 2**63 - 1)
_AXIS = either(whole(1, 2**31 - 1), _NAME)
# Kind of each field, as write_artifact writes it.
_BUILD: Dict[str, Kind] = {
    "schema": one_of(SCHEMA),
    "name": matching(r"[^/\\]{1,255}", "a folder's name of 1 to 255 characters"),
    "dtype": one_of("fp32", "fp16", "int8"),
    "arithmetic": either(one_of(""), text(400)),
    "source": _FILE,
    "source_sha256": either(one_of(""), SHA256),
    "card": either(NULL, CARD_ID),
    "inputs": mapping(sequence(_AXIS, 0, 8), 1, 64),
    "outputs": sequence(_NAME, 1, 64, distinct=True),
    "onnx_sha256": SHA256,
}
_OPTIONAL: Dict[str, Kind] = {
    "graph": mapping(either(_COUNT, mapping(_COUNT, 0, 10_000)), 0, 100),
    "deviation": mapping(number(0, 1e30), 0, 64),
    "tools": mapping(text(100), 0, 64),
    "calibration": sequence(record({"file": _FILE, "sha256": SHA256}), 0, 1_000_000),
    "gate": either(NULL, OBJECT),
    "int8_weights": either(NULL, one_of(PORTABLE, FULL)),
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildInfo:
    """The content of ``mod.build.json``, which describes the ``mod.onnx`` beside it.

    Attributes
    ----------
    name
        Name given in the build YAML.
    dtype
        ``fp32``, ``fp16`` or ``int8``: type of the inputs, the outputs and the weights.
    arithmetic
        Arithmetic that is really used, in words; without a device it may differ from the dtype.
    source, source_sha256
        File name and hash of the ONNX it was compiled from.
    card
        Id of the contract's card; None if the source carried no contract.
    inputs
        Input name to shape; the batch axis, and others left free, are named.
    outputs
        Output names in the graph's order.
    graph
        Changes made to the graph: name to count.
    deviation
        Output name to the largest difference from the source on random inputs, as a share of the
        output's root mean square.
    tools
        Tool to version.
    calibration
        Files used for calibration, each with ``file`` and ``sha256``.
    gate
        What the accuracy gate measured; None if no gate was requested.
    int8_weights
        ``portable`` (7 bits, right on every CPU) or ``full`` (8 bits, wrong on a CPU that adds
        their products in 16 bits); None for other dtypes, and in records older than this field.
    onnx_sha256
        Hash of ``mod.onnx``; filled in when written.
    """

    name: str
    dtype: str
    arithmetic: str
    source: str
    source_sha256: str
    card: Optional[str]
    inputs: Mapping[str, Tuple[Any, ...]]
    outputs: Tuple[str, ...]
    graph: Mapping[str, Any] = field(default_factory=dict)
    deviation: Mapping[str, float] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    calibration: Tuple[Mapping[str, str], ...] = ()
    gate: Optional[Mapping[str, Any]] = None
    int8_weights: Optional[str] = None
    onnx_sha256: str = ""


@dataclass(frozen=True)
class Artifact:
    """The files under one prefix.

    Attributes
    ----------
    prefix
        Path without an extension, ending in ``mod``.
    build
        Record of our compiler; None if only the vendor's files exist.
    has_vendor_files
        Whether ``.so``, ``.json`` and ``.params`` all exist, so that a device can run it.
    """

    prefix: Path
    build: Optional[BuildInfo]
    has_vendor_files: bool

    @property
    def model(self) -> Optional[Path]:
        """The .onnx file; None if only the vendor's files exist."""
        return _onnx_file(self.prefix) if self.build else None

    @property
    def name(self) -> str:
        """The artifact's folder name."""
        return self.prefix.parent.name

    @property
    def dtype(self) -> Optional[str]:
        """Type of our build; None if only the vendor's files exist, which do not record it."""
        return self.build.dtype if self.build else None


def read_artifact(prefix: Path) -> Artifact:
    """Find an artifact and check that its files belong together.

    Parameters
    ----------
    prefix
        ``deploy_weights/<name>/mod``. A name ``<x>_run_stream_<dtype>`` of the original recipes
        also finds ``<x>_<dtype>`` if only that exists.

    Returns
    -------
    Artifact

    Raises
    ------
    InputError
        If there is no artifact, one of its files is missing, or the two do not belong together.
    """
    prefix = _resolve_seed_name(Path(prefix))
    model, described = _onnx_file(prefix), _build_file(prefix)
    has_vendor_files = all(_beside(prefix, suffix).is_file() for suffix in VENDOR_SUFFIXES)
    if not model.exists() and not described.exists():
        if not has_vendor_files:
            raise _nothing_there(prefix)
        return Artifact(prefix, None, True)
    for file, other in ((model, described), (described, model)):
        if not file.exists():
            raise InputError(
                f"{str(other)!r} has no {file.name} beside it; copy both files together, "
                "or compile again"
            )
    build = _read_build(described)
    try:
        sha256 = sha256_of(model)
    except OSError as error:
        raise InputError(f"{str(model)!r} cannot be read: {error.strerror}") from error
    if sha256 != build.onnx_sha256:
        raise InputError(
            f"{str(model)!r} is not the file that {described.name} describes (its sha256 differs), "
            "so one of them was changed or copied without the other; compile again"
        )
    return Artifact(prefix, build, has_vendor_files)


def build_of(model: Path) -> Optional[BuildInfo]:
    """Return the record of a compiled .onnx that is named itself; None if it has none beside it."""
    record = model.with_suffix(".build.json")
    return _read_build(record) if record.is_file() else None


def files_of(prefix: Path) -> Tuple[Path, Path]:
    """Return the files that :func:`write_artifact` writes."""
    return _onnx_file(Path(prefix)), _build_file(Path(prefix))


def write_artifact(prefix: Path, onnx_model: bytes, build: BuildInfo) -> Artifact:
    """Write ``mod.onnx`` and then ``mod.build.json``, each under a temporary name first.

    Parameters
    ----------
    prefix
        ``deploy_weights/<name>/mod``; folders are created, an older build is replaced.
    onnx_model
        A serialised graph.
    build
        Its record; the hash of the graph is filled in here.

    Returns
    -------
    Artifact

    Raises
    ------
    ConfigError
        If the folder cannot be written.
    """
    prefix = Path(prefix)
    build = dataclasses.replace(build, onnx_sha256=hashlib.sha256(onnx_model).hexdigest())
    entry = {"schema": SCHEMA, **dataclasses.asdict(build)}
    text = json.dumps(entry, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        write_bytes(_onnx_file(prefix), onnx_model)
        write_bytes(_build_file(prefix), text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ConfigError(
            f"{str(prefix)!r} cannot be written ({error.strerror}); change workspace.path or name "
            "in the build YAML, or remove what is in its place"
        ) from error
    has_vendor_files = all(_beside(prefix, suffix).is_file() for suffix in VENDOR_SUFFIXES)
    return Artifact(prefix, build, has_vendor_files)


def _beside(prefix: Path, suffix: str) -> Path:
    """Append to the name; ``with_suffix`` would cut off what follows a dot in the name."""
    return prefix.with_name(prefix.name + suffix)


def _onnx_file(prefix: Path) -> Path:
    return _beside(prefix, ".onnx")


def _build_file(prefix: Path) -> Path:
    return _beside(prefix, ".build.json")


def _read_build(file: Path) -> BuildInfo:
    try:
        entry = json.loads(read_text(file, LARGEST_RECORD))
        check(entry, record(_BUILD, _OPTIONAL), "build")
        del entry["schema"]
        for key in ("outputs", "calibration"):
            entry[key] = tuple(entry.get(key, ()))
        entry["inputs"] = {name: tuple(shape) for name, shape in entry["inputs"].items()}
        return BuildInfo(**entry)
    except UNREADABLE as error:
        raise InputError(
            f"{str(file)!r} cannot be read ({error}); compile the artifact again"
        ) from error


def _resolve_seed_name(prefix: Path) -> Path:
    """Follow the vendor's renaming of ``<x>_run_stream_<dtype>`` to ``<x>_<dtype>``."""
    match = re.fullmatch(r"(.+)_run_stream_(fp32|fp16|int8)", prefix.parent.name)
    if match is None or prefix.parent.exists():
        return prefix
    renamed = prefix.parent.with_name(f"{match[1]}_{match[2]}")
    if not renamed.is_dir():
        return prefix
    _log.warning("%s does not exist; its newer name %s is used instead", prefix.parent, renamed)
    return renamed / prefix.name


def _nothing_there(prefix: Path) -> InputError:
    if prefix.is_dir():
        inside = [str(prefix / "mod")] if any(prefix.glob("mod.*")) else _prefixes_below(prefix)
        inside = inside or sorted(map(str, prefix.glob("*.onnx")))
        give = f"give {' or '.join(map(repr, inside))}" if inside else "there is none in it"
        return InputError(f"{str(prefix)!r} is a folder; expected a prefix or a file: {give}")
    others = _prefixes_below(prefix.parent.parent)
    found = f"; there are {', '.join(others)}" if others else ", nor any other beside it"
    return InputError(
        f"no artifact at {str(prefix)!r}{found}; create it with: facezoo vamc compile YAML"
    )


def _prefixes_below(workspace: Path) -> List[str]:
    """List the prefixes of all artifacts in a workspace, ours and the vendor's."""
    prefixes = {
        str(file)[: -len(suffix)]
        for suffix in (".onnx", ".so")
        for file in workspace.glob(f"*/mod{suffix}")
    }
    return sorted(prefixes)
