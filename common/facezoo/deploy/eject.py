"""Export of a model as a stand-alone folder that does not need facezoo.

Its decoder is the source code of this package, collected by name, so that it cannot differ from the
tested one; the pre-processing is generated for the model.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Set, Tuple

import numpy as np

from .. import __version__
from ..arrays import MAX_PIXELS
from ..backends.ort import OrtBackend
from ..contract import Contract, load_graph
from ..errors import InputError
from ..files import read_file, sha256_of, write_bytes
from ..image.files import write_image_rgb
from ..models import CARDS, WEIGHTS, import_part
from ..vacc.vdsp import render_vdsp
from ..written import is_temporary

__all__ = [
    "EJECTED_FILES",
    "TAKE_FACES",
    "bundle",
    "eject",
    "to_json",
]


EJECTED_FILES = (
    "README.md",
    "build.yaml",
    "expected.json",
    "facemodel.py",
    "model.onnx",
    "run_ort.py",
    "run_vsx.py",
    "sample.png",
    "vdsp_params.json",
)
SCRATCH = ".facezoo."  # begins the name of the folder in which they are written

# Definitions of a model's package needed beside its decoder.
_ALIGN = (("image.align", "align_face"),)
_PARTS: Dict[str, Tuple[Tuple[str, str], ...]] = {
    "scrfd": (),
    "pipnet": (("models.pipnet.crop", "DetectorCrop"),),
    "pfld": (("image.crop", "SquareCrop"),),
    "sdd_fiqa": _ALIGN,
    "magface": _ALIGN,
}
# Their networks answer to any image, and only to an aligned face with a meaning.
TAKE_FACES = ("magface", "sdd_fiqa")
# What refuses images and outputs, in every model's folder.
_GUARDS = (
    ("errors", "ImageError"),
    ("errors", "DecodeError"),
    ("arrays", "MAX_PIXELS"),
    ("image.decode", "_is_cut_short"),
    ("image.decode", "_has_many_scans"),
    ("image.decode", "_lacks_scans"),
    ("image.decode", "_orientation_of_webp"),
    ("image.decode", "_shorter_webp"),
    ("image.decode", "_upright"),
)
_FORMULAS = {
    "EQUAL": "PIXEL",
    "DIV255": "PIXEL / 255.0",
    "DIV1275_MINUSONE": "PIXEL / 127.5 - 1.0",
    "MINUSMEAN_DIVSTD": "(PIXEL - MEAN) / STD",
    "DIV255_MINUSMEAN_DIVSTD": "(PIXEL / 255.0 - MEAN) / STD",
}


def eject(model: Path, contract: Contract, build_yaml: str, sample: np.ndarray, to: Path) -> None:
    """Write the stand-alone folder; nothing in it imports facezoo.

    Parameters
    ----------
    model
        The .onnx file.
    contract
        Contract of the file, or that of the card if the file has none.
    build_yaml
        Build YAML for the vendor's compiler; refers to ``model.onnx``.
    sample
        An image (H, W, 3), uint8, RGB, whose result is recorded in ``expected.json``; an aligned
        face where the network takes one.
    to
        Target folder, new or empty.

    Raises
    ------
    InputError
        If the folder is not empty, the pre-processing cannot be generated, or the image is not an
        aligned face where the network takes one.
    GraphError
        If the file cannot be used, or the contract has a value that no contract may have.
    """
    # Parts of it become code, so it is checked like a contract that is read from a file.
    contract = Contract.from_metadata(contract.to_metadata()) or contract
    to = Path(to)
    left = list(to.iterdir()) if to.is_dir() else []
    if not all(map(_is_unfinished, left)):
        raise InputError(f"{str(to)!r} is not empty; choose a new folder")
    takes_faces = contract.model in TAKE_FACES
    height, width = contract.preprocess.input_hw
    if takes_faces and sample.shape[:2] != (height, width):
        raise InputError(
            f"{contract.card_id} takes an aligned face of {width}x{height} pixels, and the image "
            f"of the expected result has {sample.shape[1]}x{sample.shape[0]}: cut the face out "
            "with facezoo.align_face"
        )
    load_graph(Path(model), check=True)
    room = import_part(contract.model, "decode")
    source = _write_module(contract, model)
    with OrtBackend(Path(model), contract, threads=1) as backend:
        result = room.decode(backend.infer(sample), **contract.decode)[0]
    files = {
        "facemodel.py": source,
        "run_ort.py": _run_script(_RUN_ORT, takes_faces),
        "run_vsx.py": _run_script(_RUN_VSX, takes_faces),
        "build.yaml": build_yaml,
        "vdsp_params.json": _document(render_vdsp(contract.preprocess), 4),
        "expected.json": _document({"sample.png": to_json(result)}, 1),
        "README.md": _README.format(
            card=contract.card_id,
            licence=_licence(contract),
            faces=_README_FACES.format(side=width) if takes_faces else "",
        ),
    }
    is_new = not to.exists()
    to.mkdir(parents=True, exist_ok=True)
    for folder in left:
        shutil.rmtree(folder)
    try:
        # All of it before the first file has its name: a full disk leaves nothing.
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=to) as scratch:
            here = Path(scratch)
            for name, text in files.items():
                write_bytes(here / name, text.encode())
            write_bytes(here / "model.onnx", read_file(Path(model)))
            write_image_rgb(here / "sample.png", sample)
            for path in sorted(here.iterdir()):
                path.rename(to / path.name)
    except BaseException:
        if is_new:
            with suppress(OSError):
                to.rmdir()
        raise


def _is_unfinished(path: Path) -> bool:
    """Return whether it is what a killed :func:`eject` was writing."""
    if path.is_symlink() or not path.is_dir() or not path.name.startswith(SCRATCH):
        return False
    return all(one.name in EJECTED_FILES or is_temporary(one) for one in path.iterdir())


def _document(entry: Any, indent: int) -> str:
    return json.dumps(entry, indent=indent, allow_nan=False) + "\n"


def to_json(result: Any) -> Any:
    """Return a result as JSON values; this function is also copied to the folder."""
    if hasattr(result, "to_dict"):
        return result.to_dict()
    if hasattr(result, "vector"):
        return {"norm": result.norm, "vector": result.vector.tolist()}
    return {"quality": result.value}


def _licence(contract: Contract) -> str:
    card = CARDS.get(contract.card_id)
    file = WEIGHTS.get(card.weights) if card else None
    return f"{file.licence}; commercial use: {file.commercial}" if file else "see their authors"


def _write_module(contract: Contract, model: Path) -> str:
    preprocess = contract.preprocess
    if preprocess.fit not in ("letterbox", "stretch") or preprocess.resize != "BILINEAR_CV":
        raise InputError(
            f"the pre-processing {preprocess.fit} with {preprocess.resize} cannot be ejected; "
            "expected letterbox or stretch with BILINEAR_CV"
        )
    parts = (*_PARTS.get(contract.model, ()), ("deploy.eject", "to_json"), *_GUARDS)
    letterbox = (("image.resize", "letterbox_size"),) * (preprocess.fit == "letterbox")
    decode = f"models.{contract.model}.decode"
    imports, body = bundle(
        [*letterbox, *parts, (decode, "decode")], also=[("results", "Placement")]
    )
    imports |= {("", "cv2"), ("", "numpy as np"), ("", "os")}
    names = ("Any", "Dict", "List", "Optional", "Sequence", "Tuple")
    imports |= {("typing", name) for name in names}
    constants = [
        f"MODEL = {contract.card_id!r}",
        f"INPUT_NAME = {contract.input_name!r}",
        f"INPUT_HW = {preprocess.input_hw!r}",
        *("OUTPUT_NAMES = [", *(f"    {name!r}," for name in contract.output_names), "]"),
        f"DECODE: Dict[str, Any] = {_plain(contract)!r}",
        f"SWAP_CHANNELS = {preprocess.swaps_channels!r}  # images here are RGB",
        "# Normalised value of each pixel value, per channel; mean and std rounded to float16.",
        "PIXEL = np.arange(256, dtype=np.float64)",
        f"MEAN = np.array({_half(preprocess.mean)!r})[:, None]",
        f"STD = np.array({_half(preprocess.std)!r})[:, None]",
        f"TABLE = np.broadcast_to({_FORMULAS[preprocess.norm]}, (3, 256)).astype(np.float32)",
    ]
    place = _PLACE_LETTERBOX if preprocess.fit == "letterbox" else _PLACE_STRETCH
    place = place.format(
        rounding=repr(preprocess.rounding),
        top="(INPUT_HW[0] - size[0]) // 2" if preprocess.anchor == "center" else "0",
        left="(INPUT_HW[1] - size[1]) // 2" if preprocess.anchor == "center" else "0",
        scale_x="size[1] / image_hw[1]"
        if preprocess.axis_scale == "per_axis"
        else "size[0] / image_hw[0]",
        pad=repr(preprocess.pad_value),
    )
    head = [
        f'"""{contract.card_id}: an image to the network\'s input, its outputs to results.\n',
        f"Written by facezoo {__version__} (Apache-2.0) for the file with sha256",
        f'{sha256_of(model)}.\nNeeds NumPy and OpenCV.\n"""\n',
        f"from __future__ import annotations\n\n{_import_lines(imports)}",
        _SIMPLEJPEG,
        *constants,
    ]
    takes_faces = contract.model in TAKE_FACES
    glue = _GLUE_FACES + _GLUE if takes_faces else _GLUE_IMAGES + _GLUE
    return _spaced(["\n".join(head), body, place.strip("\n"), glue.strip("\n")]) + "\n"


def _run_script(text: str, takes_faces: bool) -> str:
    """Return a script that also takes the five points of a face, where the network takes faces."""
    read = "facemodel.read_face(image, args.points, args.aligned)"
    text = text.replace("READ", read if takes_faces else "facemodel.read_rgb(image)")
    kept, skip = [], False
    for line in text.splitlines(keepends=True):
        if line.strip() == "# FACES":
            skip = not skip
        elif takes_faces or not skip:
            kept.append(line)
    return "".join(kept)


def _plain(contract: Contract) -> Dict[str, Any]:
    """Return the decode constants, with the content of packaged files in place of their names."""
    decode = dict(contract.decode)
    if isinstance(decode.get("meanface"), str):
        module = import_part("pipnet", "decode")
        table = module.load_meanface(decode["meanface"], decode["num_neighbors"])
        decode["meanface"] = table.points_xy.tolist()
    return decode


def _half(values: Sequence[float]) -> List[float]:
    return np.asarray(values, np.float16).astype(np.float64).tolist()  # type: ignore[no-any-return]


def _import_lines(names: Set[Tuple[str, str]]) -> str:
    """Format imports in the order of linters: plain ones and the standard library first."""
    plain = sorted(f"import {name}" for module, name in names if not module)
    foreign = [line for line in plain if line.startswith(("import cv2", "import numpy"))]
    own = [line for line in plain if line not in foreign]
    for module in sorted({module for module, _ in names if module}):
        of_module = sorted(name for one, name in names if one == module)
        own.append(f"from {module} import {', '.join(of_module)}")
    return "\n".join([*own, "", _LIMIT, *foreign]) + "\n"


def bundle(
    roots: Sequence[Tuple[str, str]], also: Sequence[Tuple[str, str]] = ()
) -> Tuple[Set[Tuple[str, str]], str]:
    """Collect definitions of this package and all their dependencies into one source text.

    Parameters
    ----------
    roots, also
        Module below facezoo and name of a top-level function, class or constant.

    Returns
    -------
    imports : set of tuple
        Module and name of imports from other packages; "" for whole modules.
    body : str
        The definitions, each after those it uses, with their comments.

    Raises
    ------
    InputError
        If a name does not exist, or two modules define the same name differently.
    """
    found: Dict[str, Tuple[str, str]] = {}
    imports: Set[Tuple[str, str]] = set()
    for module, name in [*also, *roots]:
        _gather(f"facezoo.{module}", name, found, imports)
    return imports, _spaced([text for _, text in found.values()])


def _spaced(pieces: Sequence[str]) -> str:
    """Join definitions in the style of formatters: two empty lines around functions and classes."""
    text = pieces[0]
    for before, piece in zip(pieces, pieces[1:]):
        text += ("\n\n\n" if "\n    " in before + piece else "\n") + piece
    return text


def _gather(
    module: str,
    name: str,
    found: Dict[str, Tuple[str, str]],
    imports: Set[Tuple[str, str]],
) -> None:
    source = _Source.of(importlib.import_module(module))
    if name in source.foreign:
        imports.add(source.foreign[name])
        return
    if name in source.own:
        _gather(*source.own[name], found, imports)
        return
    if name in found:
        if found[name][0] != module:
            raise InputError(f"{name} is defined in {found[name][0]} and in {module}")
        return
    if name not in source.nodes:
        raise InputError(f"{module} has no {name}")
    found[name] = (module, "")  # Recursion ends here.
    for used in _names_in(source.nodes[name]):
        if used in source.foreign or used in source.own or used in source.nodes:
            _gather(module, used, found, imports)
    del found[name]
    found[name] = (module, source.text_of(name))


def _names_in(node: ast.AST) -> Iterator[str]:
    """Yield the names that a definition uses, in their order."""
    seen = dict.fromkeys(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
    return iter(seen)


# Methods that need the package's drawing.
LEFT_OUT = ("draw",)


def _lines_of(node: ast.stmt) -> range:
    """Return the indices of a method's lines, and of the empty one below it."""
    return range(node.lineno - 1, (node.end_lineno or node.lineno) + 1)


@dataclasses.dataclass(frozen=True)
class _Source:
    """Definitions and imports of a module, by name."""

    lines: Sequence[str]
    nodes: Mapping[str, ast.stmt]
    own: Mapping[str, Tuple[str, str]]
    foreign: Mapping[str, Tuple[str, str]]
    cut: Set[int]

    @classmethod
    def of(cls, module: ModuleType) -> _Source:
        text = inspect.getsource(module)
        nodes: Dict[str, ast.stmt] = {}
        own: Dict[str, Tuple[str, str]] = {}
        foreign: Dict[str, Tuple[str, str]] = {}
        cut: Set[int] = set()
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                methods = {id(one) for one in node.body if getattr(one, "name", "") in LEFT_OUT}
                left_out = [one for one in node.body if id(one) in methods]
                node.body = [one for one in node.body if id(one) not in methods]
                cut |= {line for one in left_out for line in _lines_of(one)}
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                nodes[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                nodes[node.targets[0].id] = node
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                nodes[node.target.id] = node
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    renamed = f" as {alias.asname}" if alias.asname else ""
                    foreign[alias.asname or alias.name] = ("", f"{alias.name}{renamed}")
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(module.__name__.split(".")[: -node.level or None])
                target = f"{base}.{node.module}" if node.level else str(node.module)
                for alias in node.names:
                    if node.level:
                        own[alias.name] = (target, alias.name)
                    elif target != "__future__":
                        foreign[alias.name] = (target, alias.name)
        return cls(text.splitlines(), nodes, own, foreign, cut)

    def text_of(self, name: str) -> str:
        """Return the text of a definition with its decorators and the comments above it."""
        node = self.nodes[name]
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(one.lineno for one in decorators)]) - 1
        while first and self.lines[first - 1].startswith("#"):
            first -= 1
        kept = (i for i in range(first, node.end_lineno or first) if i not in self.cut)
        return "\n".join(self.lines[i] for i in kept)


# OpenCV reads it when it is imported.
_LIMIT = f'os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "{MAX_PIXELS}")'

_SIMPLEJPEG = """\
try:
    import simplejpeg  # recognises damaged JPEGs
except ImportError:
    simplejpeg = None
"""

_PLACE_LETTERBOX = '''

def place(image_hw: Tuple[int, int]) -> Tuple[Tuple[int, int], Placement]:
    """Return the size an image is resized to, and its placement in the network's input."""
    size = letterbox_size(image_hw, INPUT_HW, {rounding})
    scale = ({scale_x}, size[0] / image_hw[0])
    left, top = {left}, {top}
    return size, Placement(scale, left, top, INPUT_HW, image_hw)


def fit(image_rgb: np.ndarray) -> np.ndarray:
    """Resize an image, keep its aspect, pad: (H, W, 3) uint8 to INPUT_HW."""
    size, placement = place(image_rgb.shape[:2])
    fitted = np.full((*INPUT_HW, 3), {pad}, np.uint8)
    top, left = int(placement.pad_top), int(placement.pad_left)
    resized = cv2.resize(image_rgb, size[::-1], interpolation=cv2.INTER_LINEAR)
    fitted[top : top + size[0], left : left + size[1]] = resized
    return fitted
'''

_PLACE_STRETCH = '''

def place(image_hw: Tuple[int, int]) -> Tuple[Tuple[int, int], Placement]:
    """Return the size an image is resized to, and its placement in the network's input."""
    scale = (INPUT_HW[1] / image_hw[1], INPUT_HW[0] / image_hw[0])
    return INPUT_HW, Placement(scale, 0, 0, INPUT_HW, image_hw)


def fit(image_rgb: np.ndarray) -> np.ndarray:
    """Stretch an image (H, W, 3), uint8, to INPUT_HW."""
    return cv2.resize(image_rgb, INPUT_HW[::-1], interpolation=cv2.INTER_LINEAR)
'''

_GLUE_IMAGES = '''

def check_input(image_rgb: np.ndarray) -> None:
    """Raise ImageError unless an array is what the network takes: an image of any size."""
    check_image(image_rgb)
'''

_GLUE_FACES = '''

def check_input(image_rgb: np.ndarray) -> None:
    """Raise ImageError unless an array is what the network takes: an aligned face."""
    check_image(image_rgb)
    if image_rgb.shape[:2] != INPUT_HW:
        height, width = image_rgb.shape[:2]
        raise ImageError(
            f"the network takes an aligned face of {INPUT_HW[1]}x{INPUT_HW[0]} pixels, and this "
            f"image has {width}x{height}: cut the face out with align_face (--points), or, if it "
            "is an aligned face of another size, resize it with fit (--aligned)"
        )


def read_face(
    path: str, points: Optional[Sequence[float]] = None, aligned: bool = False
) -> np.ndarray:
    """Read an image as the network takes it: INPUT_HW, uint8, RGB.

    points: x and y of left eye, right eye, nose, left and right corner of the mouth, as seen in
    the photo, which are aligned. aligned: the image is an aligned face, of whatever size.
    """
    image_rgb = read_rgb(path)
    if points is not None:
        return align_face(image_rgb, np.reshape(points, (5, 2)))
    if aligned:
        return fit(image_rgb)
    try:
        check_input(image_rgb)
    except ImageError as error:
        raise ImageError(f"{path!r}: {error}") from error
    return image_rgb
'''

_GLUE = '''

def preprocess(image_rgb: np.ndarray) -> Tuple[np.ndarray, Placement]:
    """Convert an image (H, W, 3), uint8, RGB, to the network's input (1, 3, H, W), float32."""
    check_input(image_rgb)
    fitted = fit(image_rgb)
    channels = fitted[:, :, ::-1] if SWAP_CHANNELS else fitted
    planes = [TABLE[index][channels[:, :, index]] for index in range(3)]
    return np.stack(planes)[None], place(image_rgb.shape[:2])[1]


def postprocess(outputs: Sequence[np.ndarray], placement: Placement) -> Any:
    """Decode the network's outputs, in the order of OUTPUT_NAMES, to the result of the image."""
    if len(outputs) != len(OUTPUT_NAMES):
        raise DecodeError(
            f"the network has {len(outputs)} outputs; expected {len(OUTPUT_NAMES)}: {OUTPUT_NAMES}"
        )
    arrays = {name: np.asarray(output) for name, output in zip(OUTPUT_NAMES, outputs)}
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise DecodeError(f"output {name!r} is {array.dtype}; expected floating-point numbers")
    raw = RawOutputs({n: a.astype(np.float32) for n, a in arrays.items()}, (placement,))
    return decode(raw, **DECODE)[0]


def check_image(image_rgb: np.ndarray, grey: bool = False) -> None:
    """Raise ImageError unless an array is an image (H, W, 3), or a grey one (H, W), uint8."""
    shape, dtype = np.shape(image_rgb), getattr(image_rgb, "dtype", type(image_rgb).__name__)
    is_image = shape[2:] == (3,) or (grey and len(shape) == 2)
    if not is_image or 0 in shape or dtype != np.uint8:
        raise ImageError(f"an image must have shape (H, W, 3) and dtype uint8, got {shape} {dtype}")


# The first two bytes of formats whose decoders fill a missing end with grey.
KINDS = {b"\\xff\\xd8": "JPEG", b"\\x89P": "PNG", b"P5": "PPM", b"P6": "PPM"}
LARGEST_FILE = 4 * MAX_PIXELS


def is_damaged(data: bytes, kind: str) -> bool:
    """Return whether an image has damage that OpenCV completes in silence."""
    if kind == "JPEG":
        if _lacks_scans(data):
            return True
        try:
            # As small as possible, in a fraction of the time.
            simplejpeg and simplejpeg.decode_jpeg(data, "GRAY", min_factor=8)
        except ValueError as error:
            # Of four colours there is no grey, and a scan may be there twice.
            return "olor" not in str(error) and "progression" not in str(error)
        return False
    shorter = _shorter_webp(data) if data[:4] == b"RIFF" else b""
    try:
        return bool(shorter) and cv2.imdecode(np.frombuffer(shorter, np.uint8), 1) is not None
    except cv2.error:
        return False


def read_rgb(path: str) -> np.ndarray:
    """Read an image as (H, W, 3), uint8, RGB; ImageError if it cannot be used."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise ImageError(f"{path!r} is not a file; expected an image")
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ImageError(f"{path!r} cannot be read: {error.strerror}") from error
    too_large = f"{path!r} has more than {MAX_PIXELS // 10**6} megapixels; reduce it"
    kind = KINDS.get(data[:2], "")
    if not data:
        raise ImageError(f"{path!r} is empty (0 bytes); expected an image")
    if len(data) > LARGEST_FILE:
        raise ImageError(too_large)
    if _is_cut_short(data, kind, 0, 0):
        raise ImageError(f"{path!r} is truncated: the end of the image is missing")
    if kind == "JPEG" and _has_many_scans(data):
        raise ImageError(f"{path!r} has more than {MOST_SCANS} scans, which take minutes to decode")
    if is_damaged(data, kind):
        raise ImageError(f"{path!r} is damaged; replace it by an intact copy")
    # OpenCV before 4.13 does not turn a WebP image; the flag stops newer ones.
    is_webp = data[:4] + data[8:12] == b"RIFFWEBP"
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if is_webp else 0)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        # OpenCV reads the limit from the environment, above.
        known = "MAX_IMAGE" in str(error)
        raise ImageError(too_large if known else f"{path!r} cannot be decoded") from error
    if image is None:
        raise ImageError(f"{path!r} is not an image that can be read")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ImageError(too_large)
    if _is_cut_short(data, kind, image.shape[1], image.shape[0]):
        raise ImageError(f"{path!r} is truncated: the end of the image is missing")
    if is_webp:
        image = _upright(image, _orientation_of_webp(data))
    return np.ascontiguousarray(image[:, :, ::-1])


def differences(expected: Any, got: Any, where: str = "") -> List[str]:
    """Compare JSON values; numbers may differ by a thousandth."""
    if isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        keys = [(expected[key], got[key], f"{where}.{key}") for key in expected]
        return [problem for key in keys for problem in differences(*key)]
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        rows = [(*pair, f"{where}[{index}]") for index, pair in enumerate(zip(expected, got))]
        return [problem for row in rows for problem in differences(*row)]
    numbers = isinstance(expected, (int, float)) and isinstance(got, (int, float))
    if numbers and abs(expected - got) <= 1e-3 * max(1.0, abs(expected)):
        return []
    return [] if expected == got else [f"{where}: expected {expected}, got {got}"]
'''

_RUN_ORT = '''\
"""Run the model on an image with ONNX Runtime; without an image, check sample.png.

python run_ort.py photo.jpg
python run_ort.py
"""

import argparse
import json
import os
import sys
from pathlib import Path

import facemodel
import onnxruntime

HERE = Path(__file__).resolve().parent


def run(session, image_rgb):
    tensor, placement = facemodel.preprocess(image_rgb)
    outputs = session.run(list(facemodel.OUTPUT_NAMES), {facemodel.INPUT_NAME: tensor})
    return facemodel.to_json(facemodel.postprocess(outputs, placement))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", nargs="?", help="by default sample.png, to check its result")
    # FACES
    parser.add_argument(
        "--points",
        type=float,
        nargs=10,
        metavar="XY",
        help="eyes, nose and corners of the mouth of a face in a photo: align it",
    )
    parser.add_argument(
        "--aligned", action="store_true", help="the image is an aligned face, of whatever size"
    )
    # FACES
    try:
        return run_or_check(parser.parse_args())
    except facemodel.FaceZooError as error:
        print(f"run_ort.py: {error}", file=sys.stderr)
        return 2


def run_or_check(args):
    options = onnxruntime.SessionOptions()
    # 0 is one thread per core of the machine, too many where a container's quota allows fewer.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0
    session = onnxruntime.InferenceSession(
        str(HERE / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    image = args.image or str(HERE / "sample.png")
    result = run(session, READ)
    if args.image:
        print(json.dumps(result, allow_nan=False))
        return 0
    expected = json.loads((HERE / "expected.json").read_text())["sample.png"]
    problems = facemodel.differences(expected, result)
    print("\\n".join(problems[:10]) or "sample.png: as expected")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
'''

_RUN_VSX = '''\
"""Run the compiled model on an image on the device; without an image, check sample.png.

Compile first: vamc compile build.yaml
python run_vsx.py deploy_weights/NAME/mod photo.jpg
python run_vsx.py deploy_weights/NAME/mod
"""

import argparse
import json
import sys
from pathlib import Path

import facemodel
import numpy as np
import vaststreamx as vsx

HERE = Path(__file__).resolve().parent


class DeviceModel:
    """The pre-processing and the network on one device."""

    def __init__(self, prefix, device_id=0):
        if vsx.set_device(device_id) != 0:
            raise SystemExit(f"device {device_id} does not answer")
        self.device_id = device_id
        model = vsx.Model(prefix, 1)
        vdsp = vsx.Operator.load_ops_from_json_file(str(HERE / "vdsp_params.json"))[0]
        self.network = vsx.ModelOperator(model)
        graph = vsx.Graph()
        graph.add_operators(vdsp, self.network)
        self.stream = vsx.Stream(graph, vsx.StreamBalanceMode.ONCE)
        self.stream.register_operator_output(self.network)
        self.stream.build()

    def __call__(self, image_rgb):
        facemodel.check_input(image_rgb)
        height, width = image_rgb.shape[:2]
        planar = np.ascontiguousarray(image_rgb.transpose(2, 0, 1))
        image = vsx.create_image(
            planar, vsx.ImageFormat.RGB_PLANAR, width, height, self.device_id
        )
        self.stream.run_async([image])
        (outputs,) = self.stream.get_operator_output(self.network)
        arrays = [vsx.as_numpy(output) for output in outputs]
        return facemodel.postprocess(arrays, facemodel.place((height, width))[1])

    def close(self):
        self.stream.close_input()
        self.stream.wait_until_done()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prefix", help="the compiled model, without .so, .json and .params")
    parser.add_argument("image", nargs="?", help="by default sample.png, to compare its result")
    # FACES
    parser.add_argument(
        "--points",
        type=float,
        nargs=10,
        metavar="XY",
        help="eyes, nose and corners of the mouth of a face in a photo: align it",
    )
    parser.add_argument(
        "--aligned", action="store_true", help="the image is an aligned face, of whatever size"
    )
    # FACES
    args = parser.parse_args()
    image = args.image or str(HERE / "sample.png")
    try:
        image_rgb = READ
        model = DeviceModel(args.prefix)
        result = facemodel.to_json(model(image_rgb))
    except facemodel.FaceZooError as error:
        print(f"run_vsx.py: {error}", file=sys.stderr)
        return 2
    model.close()
    print(json.dumps(result, allow_nan=False))
    if not args.image:
        expected = json.loads((HERE / "expected.json").read_text())["sample.png"]
        # The device computes in float16 or int8, so differences are not a failure.
        print("\\n".join(facemodel.differences(expected, result)[:10]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
'''

_README_FACES = """\
The network takes an aligned face of {side}x{side} pixels, and its answer to anything else has no
meaning, so another size is refused. `facemodel.align_face` cuts a face out of a photo at five
points, which a detector finds (`facezoo eject scrfd_500m_bnkps` writes such a folder):

```bash
python run_ort.py photo.jpg --points 204 101 247 104 224 129 202 140 246 142
python run_ort.py face_224.png --aligned
```

"""

_README = """\
# {card}

A stand-alone folder; it needs only NumPy, OpenCV and a runtime. With simplejpeg it also refuses
JPEGs with damaged pixels.

| File | What it is |
| --- | --- |
| `facemodel.py` | image to network input, outputs to result |
| `run_ort.py` | on any machine: `pip install numpy opencv-python-headless onnxruntime simplejpeg` |
| `run_vsx.py` | on the device, after `vamc compile build.yaml`; not yet run on one |
| `model.onnx` | the network |
| `build.yaml`, `vdsp_params.json` | for the vendor's compiler and pre-processing |
| `sample.png`, `expected.json` | an image and its result |

```bash
python run_ort.py
python run_ort.py photo.jpg
```

{faces}An image or an output that cannot be used raises a `FaceZooError` of one sentence, such as
`ImageError` for a truncated photo; the scripts print it and exit with 2.

In a container whose quota allows fewer cores than the machine has, set OMP_NUM_THREADS to them.

The code is under the Apache License 2.0. The weights are not: {licence}.
"""
