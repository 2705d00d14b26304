"""Reader of the vendor's build YAML, the input of ``vamc compile``, into frozen dataclasses.

The schema covers the vendor's own 231 recipes. An unknown key is an error that names the nearest
known one, except under ``backend.compile`` and ``backend.quantize``, where private keys are
common: there it is passed through with a warning. Paths are relative to the working directory.
"""

from __future__ import annotations

import difflib
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import yaml

from ..errors import ConfigError
from ..files import open_file

__all__ = [
    "DTYPES",
    "BuildConfig",
    "BuildTarget",
    "Dataset",
    "ExtraOps",
    "Frontend",
    "ProcessOp",
    "Quantize",
    "Sampler",
    "Workspace",
    "load_yaml",
    "parse_build_config",
    "read_build_config",
]

DTYPES = ("fp32", "fp16", "int8")
CALIBRATE_MODES = ("max", "percentile", "kl_divergence", "mse")
COLOR_CODES = ("COLOR_RGB2BGR", "COLOR_BGR2RGB", "COLOR_RGB2YCrCb")

LARGEST_FILE = 1 << 16  # bytes; the largest of the vendor's recipes has 1,910
DEEPEST_NESTING = 12  # levels; the vendor's recipes have at most five
LARGEST_NUMBER = 1e9
LARGEST_INPUT = 1 << 28  # values, 1 GiB as float32

# Keys under backend.compile and backend.quantize in the vendor's recipes. They configure the
# vendor's compiler and are passed on unchanged.
COMPILE_KEYS = (
    "cluster_mode data_transport_mode data_type dense_special_config enable_float_to_half "
    "enable_graph_partition enable_groundingdino_axis_change enable_groundingdino_cut_layernorm "
    "enable_inputs_align enable_transform_vision_language_pan mem_inplace nearest_interpol_on_dsp "
    "opt_level output_ddr output_layout partition_convergence_dsp_enable real_output_shape "
    "split_convergence_points stream_mode switch_lhs_rhs"
).split()
QUANTIZE_OPTIONS = (
    "dense_special_config nearest_interpol_on_dsp ops_usingfp output_ddr overflow_adaptive "
    "quantize_dsp_ops quantize_mode quantize_operators requant_suppress stream_mode weight_scale"
).split()

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frontend:
    """The model to compile.

    Attributes
    ----------
    checkpoint
        The model file.
    shape
        Input name to its shapes, usually (N, C, H, W): one, or the ends of a range.
    type
        ``onnx``, ``pytorch``, ``keras``, ``darknet`` and so on; None if the file does not say.
    dtype
        Type of the input: ``fp32``.
    model_kwargs, quantize
        For language models; passed on unchanged.
    """

    checkpoint: Path
    shape: Mapping[str, Tuple[Tuple[int, ...], ...]]
    type: Optional[str] = None
    dtype: str = "fp32"
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    quantize: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExtraOps:
    """Post-processing that the vendor's compiler appends to the graph; None for no such step."""

    type: Optional[str] = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantize:
    """Settings of int8: calibration method and layers that stay unquantised.

    Attributes
    ----------
    calibrate_mode
        One of ``max``, ``percentile``, ``kl_divergence``, ``mse``; None if the file has none.
    calibrate_range
        Share of the values that ``percentile`` keeps, in (0, 1].
    calibrate_chunk_by
        Samples calibrated at once; -1 means all.
    quantize_per_channel
        One weight scale per output channel.
    skip_conv_layers, skip_matmul_layers, exclude_layers
        Indices of layers that stay unquantised, from 0 in graph order.
    options
        All other keys, unchanged.
    """

    calibrate_mode: Optional[str] = None
    calibrate_range: Optional[float] = None
    calibrate_chunk_by: Optional[int] = None
    quantize_per_channel: bool = True
    skip_conv_layers: Tuple[int, ...] = ()
    skip_matmul_layers: Tuple[int, ...] = ()
    exclude_layers: Tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildTarget:
    """Type of the build: ``dtype`` is ``fp32`` (our compiler only), ``fp16`` or ``int8``."""

    dtype: str
    type: str = "tvm_vacc"
    compile: Mapping[str, Any] = field(default_factory=dict)
    quantize: Quantize = Quantize()
    dynamic_params: Mapping[str, Any] = field(default_factory=dict)
    merge_params: Optional[bool] = None
    remove_params: Optional[bool] = None


@dataclass(frozen=True)
class Sampler:
    """Selection of the calibration files in the folder.

    Attributes
    ----------
    suffix
        File name ending without the dot, case-sensitive; None accepts any file.
    get_data_num
        Number of files.
    """

    suffix: Optional[str]
    get_data_num: int


@dataclass(frozen=True)
class ProcessOp:
    """One pre-processing step from a calibration file to a tensor.

    Attributes
    ----------
    type
        ``DecodeImage``, ``Resize``, ``Pad``, ``CenterCrop``, ``CvtColor``, ``ChannelSplit``,
        ``Normalize``, ``ToTensor`` or ``CustomFunc``.
    arguments
        Arguments in the file, by name. Absent and null differ: ``Normalize`` divides by 255 if
        ``div255`` is absent, and does not if it is null.
    """

    type: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Calibration data; parts missing in the file are None or empty."""

    path: Optional[Path] = None
    type: Optional[str] = None
    sampler: Optional[Sampler] = None
    process_ops: Tuple[ProcessOp, ...] = ()


@dataclass(frozen=True)
class Workspace:
    """Output folder of artifacts; ``options`` holds the vendor's switches unchanged."""

    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildConfig:
    """A build YAML.

    Attributes
    ----------
    file
        Its source, for messages.
    name
        Name of the artifact's folder below the workspace. It is only a string: a dtype at its end
        need not equal ``backend.dtype``.
    """

    file: Path
    name: str
    frontend: Frontend
    backend: BuildTarget
    workspace: Workspace
    extra_ops: ExtraOps = ExtraOps()
    dataset: Optional[Dataset] = None

    def __post_init__(self) -> None:
        if self.name in (".", "..") or "/" in self.name or "\\" in self.name:
            raise ConfigError(
                f"{self.file}: name is {self.name!r}; expected a folder name without "
                "separators; workspace.path is the folder above it"
            )

    @property
    def prefix(self) -> Path:
        """Prefix of the artifact, ``<workspace.path>/<name>/mod``."""
        return self.workspace.path / self.name / "mod"


def read_build_config(path: Path) -> BuildConfig:
    """Read a build YAML.

    Parameters
    ----------
    path
        The file, UTF-8, at most 64 KiB.

    Returns
    -------
    BuildConfig

    Raises
    ------
    ConfigError
        If it cannot be read or contains something that the vendor's compiler would reject.
    """
    path = Path(path)
    try:
        with open_file(path) as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        there = sorted(one.name for one in path.parent.glob("*.yaml"))
        known = f"; its folder has {', '.join(there)}" if there else ""
        raise ConfigError(
            f"{str(path)!r} cannot be read ({error.strerror}); give the path of a build YAML, one "
            f"of the recipe's build_in/build{known}"
        ) from error
    return parse_build_config(data, path)


def parse_build_config(data: bytes, file: Path) -> BuildConfig:
    """Parse the text of a build YAML; see :func:`read_build_config`."""
    root = _Node(str(file), "", load_yaml(data, str(file)))
    if isinstance(root.value, dict) and ("model" in root.value or "engine" in root.value):
        raise ConfigError(
            f"{file}: this is the superseded schema of vamc 1 (top level model, engine); expected "
            "name, frontend, backend, workspace; rewrite the file like a current recipe"
        )
    top = root.mapping(
        "name frontend backend graph dataset workspace",
        required="name frontend backend workspace",
    )
    return BuildConfig(
        file=Path(file),
        name=top["name"].text(),
        frontend=_frontend(top["frontend"]),
        backend=_backend(top["backend"]),
        workspace=_workspace(top["workspace"]),
        extra_ops=_optional(top, "graph", _graph) or ExtraOps(),
        dataset=_optional(top, "dataset", _dataset),
    )


def load_yaml(data: bytes, file: str) -> Any:
    """Read a small YAML of plain values; ``file`` is its name in errors.

    Raises
    ------
    ConfigError
        If it is too large or too deeply nested, uses aliases or tags, or has a duplicate key.
    """
    if len(data) > LARGEST_FILE:
        raise ConfigError(
            f"{file}: larger than {LARGEST_FILE} bytes; expected a build YAML of a few dozen lines"
        )
    try:
        _check_events(yaml.parse(data, Loader=yaml.SafeLoader), file)
        return yaml.load(data, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: not valid YAML ({reason})") from error


def _check_events(events: Any, file: str) -> None:
    """Reject constructs that make a small file large in memory, before values are built."""
    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(
                f"{file}: uses the alias *{event.anchor}; aliases are not supported, since they "
                "can expand without bound; write out the value"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST_NESTING:
            raise ConfigError(
                f"{file}: nested deeper than {DEEPEST_NESTING} levels; expected a build YAML"
            )


class _Loader(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys, of which YAML would keep only the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class _Node:
    """A value of the file with its key path, so that every error names its place."""

    file: str
    path: str
    value: Any

    def error(self, expected: str) -> ConfigError:
        shown = repr(self.value)
        shown = shown if len(shown) <= 100 else shown[:100] + "..."
        return ConfigError(f"{self.file}: {self.path} is {shown}; expected {expected}")

    def child(self, key: str, value: Any) -> _Node:
        return _Node(self.file, f"{self.path}.{key}" if self.path else key, value)

    def mapping(
        self, known: str, required: str = "", pass_through: bool = False
    ) -> Dict[str, _Node]:
        """Return the entries by key, each as a node; unknown keys give an error or a warning."""
        entries = self.free_mapping()
        known_keys = known.split()
        for key in entries:
            if key not in known_keys:
                self._report_unknown(key, known_keys, pass_through)
        for key in required.split():
            if key not in entries:
                raise ConfigError(
                    f"{self.file}: {self.child(key, None).path} is missing; "
                    f"expected the keys {required.replace(' ', ', ')}"
                )
        return {key: self.child(key, value) for key, value in entries.items()}

    def _report_unknown(self, key: str, known: Sequence[str], pass_through: bool) -> None:
        path = self.child(key, None).path
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        if not pass_through:
            raise ConfigError(
                f"{self.file}: unknown key {path!r}; the nearest known one is {nearest!r}; "
                "correct or remove it"
            )
        _log.warning(
            "%s: unknown key %r is passed on and has no effect here; the nearest known one is %r",
            self.file,
            path,
            nearest,
        )

    def free_mapping(self) -> Dict[str, Any]:
        """Return the entries of a mapping with user-defined keys; input names may be numbers."""
        if not isinstance(self.value, dict):
            where = self if self.path else self.child("the file", self.value)
            raise where.error("a mapping of keys to values")
        return {str(key): value for key, value in self.value.items()}

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value or "\0" in self.value:
            raise self.error("a string, in quotes if it looks like a number or a date")
        return self.value

    def one_of(self, choices: Sequence[str]) -> str:
        if not isinstance(self.value, str) or self.value not in choices:
            raise self.error("one of " + ", ".join(choices))
        return self.value

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.error("true or false")
        return self.value

    def integer(self, least: int = 0) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < least:
            raise self.error(f"an integer of at least {least}")
        return self.value

    def number(self) -> float:
        if not isinstance(self.value, (int, float)) or isinstance(self.value, bool):
            raise self.error("a number")
        if not -LARGEST_NUMBER <= self.value <= LARGEST_NUMBER:
            raise self.error("a finite number")
        return float(self.value)

    def items(self) -> List[_Node]:
        if not isinstance(self.value, list):
            raise self.error("a list")
        return [
            _Node(self.file, f"{self.path}[{index}]", value)
            for index, value in enumerate(self.value)
        ]

    def integers(self, least: int = 0) -> Tuple[int, ...]:
        return tuple(item.integer(least) for item in self.items())


def _frontend(node: _Node) -> Frontend:
    entries = node.mapping(
        "type checkpoint shape dtype model_kwargs quantize", required="checkpoint shape"
    )
    return Frontend(
        checkpoint=Path(entries["checkpoint"].text()),
        shape=_shapes(entries["shape"]),
        type=_optional(entries, "type", _Node.text),
        dtype=_optional(entries, "dtype", _Node.text) or "fp32",
        model_kwargs=_optional(entries, "model_kwargs", _Node.free_mapping) or {},
        quantize=_optional(entries, "quantize", _Node.free_mapping) or {},
    )


def _shapes(node: _Node) -> Dict[str, Tuple[Tuple[int, ...], ...]]:
    inputs = {name: node.child(name, value) for name, value in node.free_mapping().items()}
    if not inputs:
        raise node.error("the graph's input name and its shape, such as input.1: [1, 3, 640, 640]")
    return {name: _input_shapes(value) for name, value in inputs.items()}


def _input_shapes(node: _Node) -> Tuple[Tuple[int, ...], ...]:
    items = node.items()
    ranged = bool(items) and all(isinstance(item.value, list) for item in items)
    shapes = tuple(item.integers(1) for item in items) if ranged else (node.integers(1),)
    if not all(shapes) or len({len(shape) for shape in shapes}) != 1:
        raise node.error("a shape such as [1, 3, 640, 640], or a list of such shapes")
    if max(math.prod(shape) for shape in shapes) > LARGEST_INPUT:
        raise node.error(f"a shape of at most {LARGEST_INPUT} values")
    return shapes


def _backend(node: _Node) -> BuildTarget:
    entries = node.mapping(
        "type dtype compile quantize dynamic_params merge_params remove_params",
        required="type dtype",
    )
    return BuildTarget(
        dtype=entries["dtype"].one_of(DTYPES),
        type=entries["type"].one_of(("tvm_vacc",)),
        compile=_optional(entries, "compile", _compile) or {},
        quantize=_optional(entries, "quantize", _quantize) or Quantize(),
        dynamic_params=_optional(entries, "dynamic_params", _Node.free_mapping) or {},
        merge_params=_optional(entries, "merge_params", _Node.boolean),
        remove_params=_optional(entries, "remove_params", _Node.boolean),
    )


def _compile(node: _Node) -> Dict[str, Any]:
    entries = node.mapping(" ".join(COMPILE_KEYS), pass_through=True)
    return {key: entry.value for key, entry in entries.items()}


_QUANTIZE: Dict[str, Callable[[_Node], Any]] = {
    "calibrate_mode": lambda node: node.one_of(CALIBRATE_MODES),
    "calibrate_range": lambda node: _share(node),
    "calibrate_chunk_by": lambda node: node.integer(-1),
    "quantize_per_channel": _Node.boolean,
    "skip_conv_layers": _Node.integers,
    "skip_matmul_layers": _Node.integers,
    "exclude_layers": _Node.integers,
}


def _share(node: _Node) -> float:
    if not 0 < node.number() <= 1:
        raise node.error("a number above 0, at most 1")
    return node.number()


def _quantize(node: _Node) -> Quantize:
    entries = node.mapping(" ".join([*_QUANTIZE, *QUANTIZE_OPTIONS]), pass_through=True)
    read = {key: parse(entries[key]) for key, parse in _QUANTIZE.items() if key in entries}
    options = {key: entry.value for key, entry in entries.items() if key not in _QUANTIZE}
    return Quantize(**read, options=options)


def _graph(node: _Node) -> ExtraOps:
    return _optional(node.mapping("extra_ops"), "extra_ops", _extra_ops) or ExtraOps()


def _extra_ops(node: _Node) -> ExtraOps:
    extra = node.mapping("type params extra_ops")
    if "extra_ops" in extra:
        # One of the vendor's recipes repeats the key, with an empty value, one level down.
        if extra.pop("extra_ops").value is not None:
            raise node.error("type and params, without a second extra_ops")
        _log.warning("%s: graph.extra_ops.extra_ops is empty and ignored; remove it", node.file)
    return ExtraOps(
        type=_optional(extra, "type", _Node.text),
        params=_optional(extra, "params", _Node.free_mapping) or {},
    )


def _dataset(node: _Node) -> Dataset:
    entries = node.mapping("type path sampler process_ops")
    ops = _optional(entries, "process_ops", _Node.items) or []
    path = _optional(entries, "path", _Node.text)
    return Dataset(
        path=None if path is None else Path(path),
        type=_optional(entries, "type", lambda entry: entry.one_of(("tvm",))),
        sampler=_optional(entries, "sampler", _sampler),
        process_ops=tuple(_process_op(op) for op in ops),
    )


def _sampler(node: _Node) -> Sampler:
    entries = node.mapping("suffix get_data_num", required="get_data_num")
    return Sampler(
        suffix=_optional(entries, "suffix", _Node.text),
        get_data_num=entries["get_data_num"].integer(1),
    )


def _workspace(node: _Node) -> Workspace:
    entries = node.mapping("path work_dir enable_ir save_log env_recheck workers pyenv")
    paths = [entries.pop(key) for key in ("path", "work_dir") if key in entries]
    if len(paths) != 1:
        raise ConfigError(
            f"{node.file}: workspace needs one path (work_dir is its older spelling), "
            f"got {len(paths)}"
        )
    options = {key: entry.value for key, entry in entries.items()}
    return Workspace(path=Path(paths[0].text()), options=options)


def _optional(entries: Mapping[str, _Node], key: str, parse: Callable[[_Node], Any]) -> Any:
    """Parse an optional entry, which may also be null."""
    entry = entries.get(key)
    return None if entry is None or entry.value is None else parse(entry)


def _size(node: _Node) -> Tuple[int, ...]:
    sides = node.integers(1)
    if len(sides) != 2:
        raise node.error("[height, width]")
    return sides


def _resize_size(node: _Node) -> Tuple[int, ...]:
    """Height and width; a width of -1 follows from the aspect ratio of the image."""
    if isinstance(node.value, list) and len(node.value) == 2 and node.value[1] == -1:
        return (node.items()[0].integer(1), -1)
    return _size(node)


def _per_channel(node: _Node) -> Tuple[float, ...]:
    values = tuple(item.number() for item in node.items())
    if len(values) not in (1, 3):
        raise node.error("one number per channel: three, or one for a greyscale network")
    return values


def _divisors(node: _Node) -> Tuple[float, ...]:
    values = _per_channel(node)
    if 0 in values:
        raise node.error("numbers other than 0, since pixels are divided by them")
    return values


def _null_or(parse: Callable[[_Node], Any]) -> Callable[[_Node], Any]:
    return lambda node: None if node.value is None else parse(node)


def _pillow(node: _Node) -> str:
    return node.one_of(("pillow",))


# Operation to its arguments and their parsers; required arguments carry an asterisk.
_PROCESS_OPS: Dict[str, Dict[str, Callable[[_Node], Any]]] = {
    "DecodeImage": {"cv2_flags": _Node.integer, "backend": _pillow},
    "Resize": {
        "size*": _resize_size,
        "adaptive_side": lambda node: node.one_of(("long",)),
        "interpolation": lambda node: node.one_of(("bilinear", "bicubic")),
        "backend": _pillow,
    },
    "Pad": {"pad_to_square*": _Node.boolean},
    "CenterCrop": {"crop_size*": _size, "backend": _pillow},
    "CvtColor": {"code*": lambda node: node.one_of(COLOR_CODES)},
    "ChannelSplit": {"index*": _Node.integer},
    "Normalize": {
        "mean": _per_channel,
        "std": _divisors,
        "div255": _null_or(_Node.boolean),
        "norm_type": _null_or(lambda node: node.one_of(("None",))),
    },
    "ToTensor": {},
    "CustomFunc": {
        "module_path*": _Node.text,
        "func_name*": _Node.text,
        "input_shape": _Node.integers,
        "img_shape": _Node.integers,
    },
}


def _process_op(node: _Node) -> ProcessOp:
    values = node.free_mapping()
    name = values.get("type")
    if not isinstance(name, str) or name not in _PROCESS_OPS:
        raise node.child("type", name).error(f"one of {', '.join(_PROCESS_OPS)}")
    readers = {key.rstrip("*"): read for key, read in _PROCESS_OPS[name].items()}
    required = [key.rstrip("*") for key in _PROCESS_OPS[name] if key.endswith("*")]
    entries = node.mapping(" ".join(["type", *readers]), required=" ".join(["type", *required]))
    del entries["type"]
    operation = ProcessOp(name, {key: readers[key](entry) for key, entry in entries.items()})
    _check_together(node, operation)
    return operation


def _check_together(node: _Node, operation: ProcessOp) -> None:
    arguments = operation.arguments
    if ("mean" in arguments) != ("std" in arguments):
        raise node.error("mean and std together, or neither")
    if arguments.get("size", ())[1:] == (-1,) and "adaptive_side" not in arguments:
        raise node.error("adaptive_side: long beside a width of -1")
