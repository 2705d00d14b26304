"""Calibration data: selection of the files of a build YAML and their pre-processing.

The ``process_ops`` of the YAML work as in the vendor's recipes. What they leave open (position of a
padded image, pad colour, rounding of sizes) is taken from the network's contract, so that
calibration and inference use the same inputs.
"""

from __future__ import annotations

import importlib.util
import logging
import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..arrays import read_npz
from ..card import Preprocess
from ..datasets.image_list import read_paths
from ..errors import ConfigError, DatasetError, InputError
from ..files import sha256_of, walk
from ..image.files import find_images, read_image_rgb
from ..image.resize import letterbox_size, resize_image
from ..runs import Progress
from ..vacc.build_config import BuildConfig, ProcessOp
from ..vacc.npz import read_input

__all__ = [
    "CalibrationSet",
    "FileLoader",
    "open_calibration",
]


SEED = 2026  # of the choice if there are more files than requested
Value = Any  # a path before the first operation, then an array

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationSet:
    """Calibration files and their loader; iterating reads them one at a time, each time again.

    Attributes
    ----------
    folder
        Root folder of ``names``.
    names
        Relative paths with forward slashes, sorted.
    sha256
        Hash of each file.
    load
        Converts a file to the feeds of the network.
    progress
        Wraps each iteration.
    """

    folder: Path
    names: Tuple[str, ...]
    sha256: Tuple[str, ...]
    load: Callable[[Path], Dict[str, np.ndarray]]
    progress: Progress = lambda items, total: items

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Dict[str, np.ndarray]]:
        return iter(self.progress(map(self.load, self.paths), len(self)))

    @property
    def paths(self) -> List[Path]:
        """The files, in the order of ``names``."""
        return [self.folder / name for name in self.names]

    def first(self, count: int) -> CalibrationSet:
        """Return the first ``count`` files as a set, which is iterated without progress."""
        return CalibrationSet(self.folder, self.names[:count], self.sha256[:count], self.load)

    def record(self) -> Tuple[Mapping[str, str], ...]:
        """Return names and hashes in the form of ``mod.build.json``."""
        return tuple({"file": n, "sha256": h} for n, h in zip(self.names, self.sha256))


def open_calibration(
    config: BuildConfig,
    base: Optional[Preprocess] = None,
    *,
    allow_code: bool = False,
    eval_list: Optional[Path] = None,
    allow_leak: bool = False,
    progress: Progress = lambda items, total: items,
) -> CalibrationSet:
    """Choose the calibration files of a YAML and load each once to check it.

    Parameters
    ----------
    config
        Its ``dataset`` gives the folder, the number of files, and their pre-processing.
    base
        The network's pre-processing, for settings that ``process_ops`` cannot express.
    allow_code
        Allow running the Python file of a ``CustomFunc``.
    eval_list
        Images that will be evaluated: a folder, or a text file with one path per line, relative to
        the folder of the list. None of them may be a calibration file, under any name.
    allow_leak
        Only warn if one is.
    progress
        Wraps the first reading, and each iteration over the result.

    Returns
    -------
    CalibrationSet
        ``get_data_num`` files, always the same ones for the same folder; fewer, with a warning, if
        there are not enough. A file that cannot be read is reported in a warning and replaced.

    Raises
    ------
    ConfigError
        If the folder does not exist or contains no readable file, or the operations do not
        produce the network's input.
    DatasetError
        If a calibration file is also evaluated.
    """
    dataset = config.dataset
    if dataset is None or dataset.path is None:
        raise ConfigError(
            f"{config.file}: int8 needs calibration data; expected dataset.path, dataset.sampler "
            "and dataset.process_ops"
        )
    load = FileLoader(config, base, allow_code)
    found = _list_files(config, dataset.path, dataset.sampler.suffix if dataset.sampler else None)
    wanted = dataset.sampler.get_data_num if dataset.sampler else len(found)
    chosen = _choose(config, dataset.path, found, wanted, load, progress)
    calibration = CalibrationSet(
        dataset.path, tuple(chosen), tuple(chosen.values()), load, progress
    )
    if eval_list is not None:
        _check_leak(calibration, eval_list, allow_leak)
    return calibration


def _list_files(config: BuildConfig, folder: Path, suffix: Optional[str]) -> List[str]:
    where = f"{config.file}: dataset.path {str(folder)!r}"
    if not folder.is_dir():
        raise ConfigError(f"{where} is not a folder; put calibration images there")
    try:
        files, left_out = walk(folder)
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from error
    for left in left_out:
        reason = f"{left.filename!r} cannot be read: {left.strerror}"
        _log.warning("%s: not used for calibration: %s", config.file, reason)
    names = [path.relative_to(folder).as_posix() for path in files]
    found = sorted(name for name in names if suffix is None or name.endswith(suffix))
    if not found:
        endings = sorted({Path(name).suffix for name in names})
        others = f"there are {len(names)} files ending in {', '.join(endings)}" if names else ""
        raise ConfigError(
            f"{where} contains no file{f' ending in {suffix!r}' if suffix else ''}"
            f"{f'; {others}' if others else ', it is empty'}; put calibration images there, or "
            "correct dataset.sampler.suffix (case-sensitive)"
        )
    return found


def _choose(
    config: BuildConfig,
    folder: Path,
    found: Sequence[str],
    wanted: int,
    load: Callable[[Path], Dict[str, np.ndarray]],
    progress: Progress,
) -> Dict[str, str]:
    """Return name to hash of the chosen files; all of them are readable."""
    shuffled = list(found)
    random.Random(SEED).shuffle(shuffled)

    def readable() -> Iterator[str]:
        for name in shuffled:
            try:
                load(folder / name)
            except InputError as error:
                _log.warning("%s: not used for calibration: %s", config.file, error)
            else:
                yield name

    some = islice(readable(), wanted)
    used = list(progress(some, min(wanted, len(found))))
    chosen = {name: sha256_of(folder / name) for name in used}
    if not chosen:
        raise ConfigError(
            f"{config.file}: none of the {len(found)} files in {str(folder)!r} can be read; see "
            "the warnings above"
        )
    if len(chosen) < wanted:
        _log.warning(
            "%s: %s has %d usable files, get_data_num is %d; all of them are used",
            config.file,
            folder,
            len(chosen),
            wanted,
        )
    return dict(sorted(chosen.items()))


def _check_leak(calibration: CalibrationSet, eval_list: Path, allow_leak: bool) -> None:
    used = dict(zip(calibration.sha256, calibration.names))
    try:
        evaluated = {sha256_of(path): path for path in _read_eval_list(eval_list)}
    except OSError as error:
        raise DatasetError(
            f"{str(eval_list)!r} lists {error.filename!r}, which cannot be read "
            f"({error.strerror}); paths are relative to the list's folder"
        ) from error
    both = sorted(used.keys() & evaluated.keys(), key=used.__getitem__)
    if not both:
        return
    message = (
        f"calibration file {used[both[0]]!r} has the same content as {str(evaluated[both[0]])!r}, "
        f"which is evaluated ({len(both)} such files), so the result would be too optimistic"
    )
    if not allow_leak:
        raise DatasetError(
            f"{message}; remove them from the calibration folder, or use --allow-leak"
        )
    _log.warning("%s", message)


def _read_eval_list(eval_list: Path) -> Iterable[Path]:
    if eval_list.is_dir():
        return find_images(eval_list)
    return [eval_list.parent / line for line in read_paths(eval_list)]


class FileLoader:
    """Convert a calibration file to the network's feeds with the ``process_ops`` of a YAML.

    An npz without operations contains the feeds themselves, under the input names or as
    ``input_0``, ``input_1`` and so on; with operations it contains an image, as ``image2npz``
    writes it.

    Parameters
    ----------
    config
        Build YAML with a dataset; the result must have its ``frontend.shape``.
    base
        The network's pre-processing; the defaults of ``Preprocess`` if None.
    allow_code
        Allow running the Python file of a ``CustomFunc``.

    Raises
    ------
    ConfigError
        If the operations are invalid: they do not start with decoding, or run code that is not
        allowed.
    """

    def __init__(
        self, config: BuildConfig, base: Optional[Preprocess] = None, allow_code: bool = False
    ) -> None:
        self.file = config.file
        self.shapes = config.frontend.shape
        self.ops = config.dataset.process_ops if config.dataset else ()
        self.base = base or Preprocess(input_hw=(0, 0))
        first = [op.type for op in self.ops[:1]]
        if self.ops and (first[0] not in ("DecodeImage", "CustomFunc") or len(self.shapes) > 1):
            raise ConfigError(
                f"{self.file}: dataset.process_ops start with {first[0]} and the network has "
                f"{len(self.shapes)} inputs; expected DecodeImage or CustomFunc, and one input"
            )
        self._custom = {
            index: _load_function(op, self.file, allow_code)
            for index, op in enumerate(self.ops)
            if op.type == "CustomFunc"
        }

    def __call__(self, path: Path) -> Dict[str, np.ndarray]:
        """Return the feeds of a file.

        Parameters
        ----------
        path
            An image, or an npz.

        Returns
        -------
        dict
            Input name to float32 array (1, ...).

        Raises
        ------
        InputError
            If the file cannot be read.
        ConfigError
            If the operations do not convert it to the network's input.
        """
        if not self.ops:
            return self._feeds_from_npz(path)
        (name, shapes), *_ = self.shapes.items()
        value: Value = path
        for index, op in enumerate(self.ops):
            if op.type == "CustomFunc":
                value = self._run_custom(index, path, shapes[0])
            else:
                value = self._run_operation(op, value, path)
        return {name: self._checked(name, np.asarray(value), path)}

    def _feeds_from_npz(self, path: Path) -> Dict[str, np.ndarray]:
        if path.suffix != ".npz":
            raise ConfigError(
                f"{self.file}: dataset.process_ops is empty, so {str(path)!r} must be an npz "
                "with the network's inputs; expected DecodeImage and so on for images"
            )
        arrays = read_npz(path)
        feeds = {}
        for index, name in enumerate(self.shapes):
            array = arrays.get(name, arrays.get(f"input_{index}"))
            if array is None:
                raise InputError(
                    f"{str(path)!r} contains {list(arrays)}; expected {name!r} or 'input_{index}'"
                )
            rank = len(self.shapes[name][0])
            feeds[name] = self._checked(name, array[None] if array.ndim < rank else array, path)
        return feeds

    def _run_operation(self, op: ProcessOp, value: Value, path: Path) -> np.ndarray:
        try:
            return _OPERATIONS[op.type](value, op.arguments, self.base)
        except InputError:
            raise
        except Exception as error:  # Operations in a wrong order can fail anywhere.
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{self.file}: {op.type} of dataset.process_ops failed on {str(path)!r} "
                f"({reason}); correct its arguments or the order"
            ) from error

    def _run_custom(self, index: int, path: Path, shape: Sequence[int]) -> np.ndarray:
        arguments = self.ops[index].arguments
        wanted = arguments.get("input_shape", arguments.get("img_shape", shape))
        try:
            return np.asarray(self._custom[index](str(path), wanted))
        except Exception as error:  # The user's function may raise anything.
            raise ConfigError(
                f"{self.file}: CustomFunc {arguments['func_name']} failed on {str(path)!r}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _checked(self, name: str, array: np.ndarray, path: Path) -> np.ndarray:
        if not any(array.shape == (1, *shape[1:]) for shape in self.shapes[name]):
            raise ConfigError(
                f"{self.file}: {str(path)!r} becomes {array.dtype} {array.shape}, frontend.shape "
                f"says {[list(shape) for shape in self.shapes[name]]}; correct dataset.process_ops"
            )
        return np.ascontiguousarray(array, np.float32)


def _load_function(op: ProcessOp, file: Path, allow_code: bool) -> Callable[..., Any]:
    path, name = Path(op.arguments["module_path"]), op.arguments["func_name"]
    if not allow_code:
        raise ConfigError(
            f"{file}: CustomFunc runs the Python code in {str(path)!r}, which is not allowed; "
            "read it, and if you trust it use: facezoo compile --allow-custom-code"
        )
    try:
        spec = importlib.util.spec_from_file_location("facezoo_custom_func", path)
        if spec is None or spec.loader is None:
            raise ImportError("its name does not end in .py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, name)  # type: ignore[no-any-return]
    except Exception as error:  # The user's module may raise anything.
        raise ConfigError(
            f"{file}: CustomFunc {name!r} of {str(path)!r} cannot be loaded "
            f"({type(error).__name__}: {error}); expected a function (image_file, input_shape)"
        ) from error


def _decode(path: Path, arguments: Mapping[str, Any], base: Preprocess) -> np.ndarray:
    import cv2

    image = read_input(path) if path.suffix == ".npz" else read_image_rgb(path)
    if arguments.get("cv2_flags") == cv2.IMREAD_GRAYSCALE:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[..., None]
    # Pillow decodes to the same pixels except for the last bit of its JPEG library.
    return image


def _resize(image: np.ndarray, arguments: Mapping[str, Any], base: Preprocess) -> np.ndarray:
    import cv2

    height, width = arguments["size"]
    hw = (height, width if width > 0 else height)
    if arguments.get("adaptive_side") == "long":
        hw = letterbox_size((image.shape[0], image.shape[1]), hw, base.rounding)
    cubic = arguments.get("interpolation") == "bicubic"
    if arguments.get("backend") == "pillow":
        kind = "BICUBIC_PILLOW" if cubic else "BILINEAR_PILLOW"
        planes = image if image.shape[2] == 3 else image[..., 0]
        return resize_image(planes, hw, kind).reshape(*hw, -1)
    if cubic:
        resized = cv2.resize(image, hw[::-1], interpolation=cv2.INTER_CUBIC)
        return np.asarray(resized).reshape(*hw, -1)
    return resize_image(image, hw, "BILINEAR_CV").reshape(*hw, -1)


def _pad(image: np.ndarray, arguments: Mapping[str, Any], base: Preprocess) -> np.ndarray:
    if not arguments["pad_to_square"]:
        return image
    height, width, channels = image.shape
    side = max(height, width)
    centred = base.anchor == "center"
    top, left = ((side - height) // 2, (side - width) // 2) if centred else (0, 0)
    padded = np.empty((side, side, channels), image.dtype)
    padded[:] = base.pad_value[:channels]
    padded[top : top + height, left : left + width] = image
    return padded


def _center_crop(image: np.ndarray, arguments: Mapping[str, Any], base: Preprocess) -> np.ndarray:
    height, width = arguments["crop_size"]
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    if top < 0 or left < 0:
        raise ConfigError(
            f"CenterCrop of {width}x{height} does not fit into an image of "
            f"{image.shape[1]}x{image.shape[0]}; put a Resize before it"
        )
    return image[top : top + height, left : left + width]


def _convert(image: np.ndarray, arguments: Mapping[str, Any], base: Preprocess) -> np.ndarray:
    import cv2

    code = getattr(cv2, arguments["code"])
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), code))


def _split(image: np.ndarray, arguments: Mapping[str, Any], base: Preprocess) -> np.ndarray:
    index = arguments["index"]
    if index >= image.shape[2]:
        raise ConfigError(f"ChannelSplit index {index}: the image has {image.shape[2]} channels")
    return image[..., index : index + 1]


def _normalize(image: np.ndarray, arguments: Mapping[str, Any], base: Preprocess) -> np.ndarray:
    """Divide by 255 unless disabled, then subtract the mean and divide by the deviation.

    An absent ``div255`` is true and a null one false, as the vendor's recipes use them.
    """
    values = image.astype(np.float32)
    if arguments.get("div255", True):
        values /= np.float32(255)
    if "mean" in arguments:
        mean, std = (np.asarray(arguments[key], np.float32) for key in ("mean", "std"))
        values = (values - mean) / std
    return values


def _to_tensor(image: np.ndarray, arguments: Mapping[str, Any], base: Preprocess) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)


_OPERATIONS: Dict[str, Callable[[Value, Mapping[str, Any], Preprocess], np.ndarray]] = {
    "DecodeImage": _decode,
    "Resize": _resize,
    "Pad": _pad,
    "CenterCrop": _center_crop,
    "CvtColor": _convert,
    "ChannelSplit": _split,
    "Normalize": _normalize,
    "ToTensor": _to_tensor,
}
