"""Files that mean harm: refused with their name, in bounded time and memory, nothing run."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from facezoo.errors import ImageError
from facezoo.image.files import read_image_rgb
from fault_table import (
    COMMANDS,
    HERE,
    PHOTO,
    REPOSITORY,
    WEB_PAGE,
    build,
    entry_point,
    one_photo,
    scrfd,
    widerface,
)
from limits import Payload, bounds, record_costs
from onnx import TensorProto, helper
from PIL import Image

# Pictures --------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds one row's worth of nothing."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )


def jpeg(shape=(40, 40, 3), **options) -> bytes:
    text = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(text, "JPEG", **options)
    return text.getvalue()


@lru_cache(maxsize=None)
def bomb_png() -> bytes:
    text = io.BytesIO()
    Image.fromarray(np.zeros((13_400, 13_400), np.uint8)).save(text, "PNG", compress_level=1)
    return text.getvalue()


def encoded(mode: str, kind: str) -> bytes:
    text = io.BytesIO()
    grey = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40)
    (grey if mode == "I;16" else Image.new(mode, (40, 40))).save(text, kind)
    return text.getvalue()


def animated(kind: str) -> bytes:
    text = io.BytesIO()
    frames = [Image.new("RGB", (40, 40), (shade, 0, 0)) for shade in (0, 90, 180)]
    frames[0].save(text, kind, save_all=True, append_images=frames[1:])
    return text.getvalue()


def png_with_a_text_bomb() -> bytes:
    """Return a PNG whose note unpacks to 8 MB, in front of its pixels."""
    note = b"note\0\0" + zlib.compress(b"\0" * (8 << 20))
    chunk = struct.pack(">I", len(note)) + b"zTXt" + note
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + note))
    plain = picture(8, 8)
    return plain[:33] + chunk + plain[33:]


def bmp_header(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + head + b"\0" * 100


def many_scans(count: int, between: bytes = b"") -> bytes:
    """Return a progressive JPEG of 800 x 800, with its last scan so many times."""
    text = io.BytesIO()
    Image.new("L", (800, 800)).save(text, "JPEG", progressive=True)
    data = text.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + (between + last) * count + data[-2:]


def scans_elsewhere() -> bytes:
    """Return a JPEG with scans in a note and behind its end, as in a thumbnail and in a video."""
    data, scans = jpeg(), b"\xff\xda\0\2" * 300
    note = b"\xff\xfe" + struct.pack(">H", len(scans) + 2) + scans
    return data[:2] + note + data[2:] + scans


# A marker without a length, in front of what could be one; and a note that looks like the end.
NO_LENGTH, NOTE_OF_END = b"\xff\x01", b"\xff\xfe\0\4\xff\xd9"

REFUSED_PICTURES = {
    "2,000 scans.jpg": lambda: many_scans(2000),
    "2,000 hidden scans.jpg": lambda: many_scans(2000, NO_LENGTH + NOTE_OF_END),
    "65,535 x 3,000.bmp": bmp_header(65_535, 3_000),
    "65,535 x 3,000.ppm": b"P6 65535 3000 255\n" + b"\0" * 100,
    "note of 8 MB.png": png_with_a_text_bomb,
    "animated and cut.webp": lambda: animated("WEBP")[:-20],
    "a GIF.png": lambda: animated("GIF")[:60],
    "65,535 x 65,535.png": png_header(65_535, 65_535),
    "0 x 10.png": png_header(0, 10),
    "bomb.png": bomb_png,
    "cut.jpg": jpeg()[:400],
    "page.jpg": WEB_PAGE,
    "script.png": b"#!/bin/sh\nmkdir executed\n",
    "noise.webp": bytes(range(256)) * 8,
}
DONE_PICTURES = {
    "60 scans.jpg": lambda: many_scans(60),
    "scans elsewhere.jpg": scans_elsewhere,
    "broken profile.jpg": lambda: jpeg(icc_profile=b"no profile" * 30),
    "broken exif.jpg": lambda: jpeg(exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 64),
    "cmyk.jpg": lambda: encoded("CMYK", "JPEG"),
    "16 bit.png": lambda: encoded("I;16", "PNG"),
    "palette.png": lambda: encoded("P", "PNG"),
    "black and white.png": lambda: encoded("1", "PNG"),
    "transparent.webp": lambda: encoded("RGBA", "WEBP"),
    "animated.webp": lambda: animated("WEBP"),
    "animated.png": lambda: animated("PNG"),
    "1 x 65535.png": lambda: picture(1, 65_535),
    "65500 x 1.jpg": lambda: jpeg(shape=(65_500, 1, 3)),
    "1x1.png": lambda: picture(1, 1),
    "1 x 3000.png": lambda: picture(1, 3000),
    "3000 x 1.png": lambda: picture(3000, 1),
}


def picture(height: int, width: int) -> bytes:
    text = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(text, "PNG")
    return text.getvalue()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["scrfd_vsx.py", "image2npz.py"])
def test_hostile_pictures_are_named_and_the_others_done(here, capfd, caplog, name):
    scrfd(here)
    for file, content in {**REFUSED_PICTURES, **DONE_PICTURES}.items():
        path = Path("photos", file)
        path.write_bytes(content() if callable(content) else content)
        refused = pytest.raises(ImageError) if file in REFUSED_PICTURES else nullcontext()
        with bounds(what=f"picture: {file}"), refused:
            read_image_rgb(path)
    with bounds():
        assert COMMANDS[name].run() == 1
    said = capfd.readouterr().err + caplog.text
    assert "Traceback" not in said
    for file in REFUSED_PICTURES:
        assert file in said
    # Of an animated one it is said that only the first image is read.
    refused = [line for line in said.splitlines() if "refused: " in line]
    for file in DONE_PICTURES:
        assert not any(file in line for line in refused)
    assert not Path("executed").exists()


# Everything else ---------------------------------------------------------------------------------


def network(folder: Path, change) -> None:
    scrfd(folder)
    broken(change)


def broken(change) -> None:
    model = onnx.load("net.onnx")
    change(model)
    Path("net.onnx").write_bytes(model.SerializeToString())


def compared(folder: Path) -> None:
    scrfd(folder)
    Path("other.onnx").write_bytes(Path("net.onnx").read_bytes())


def external_data(location: str):
    """Let a weight be read from elsewhere."""

    def change(model):
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "100")):
            weight.external_data.add(key=key, value=value)

    return change


def constant_elsewhere(model):
    """Let a node's own value be read from elsewhere, which no list of weights shows."""
    value = TensorProto(name="k", data_type=TensorProto.UINT8, dims=[100])
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=value))
    model.graph.output.append(helper.make_tensor_value_info("k", TensorProto.UINT8, [100]))


def branch(model):
    """Let a node hold a graph, where those who look at the nodes see no constant."""
    value = TensorProto(name="k", data_type=TensorProto.UINT8, dims=[100])
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="/etc/passwd")
    inside = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value=value)],
        "inside",
        [],
        [helper.make_tensor_value_info("k", TensorProto.UINT8, [100])],
    )
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(yes)
    node = helper.make_node("If", ["yes"], ["k"], then_branch=inside, else_branch=inside)
    model.graph.node.append(node)


def second_input(model):
    entry = model.graph.input.add()
    entry.CopyFrom(model.graph.input[0])
    entry.name = "second"


def code_for_a_colour(model):
    """Let the padding's colour be Python, as a file that is written from it would run it."""
    entry = next(entry for entry in model.metadata_props if "input_hw" in entry.value)
    content = json.loads(entry.value)
    content["preprocess"]["pad_value"] = CODE_FOR_A_COLOUR
    entry.value = json.dumps(content)


# Three zeros, since a colour of one number is looked for with count().
CODE_FOR_A_COLOUR = "0, np.uint8)\n    __import__('os').mkdir('executed')  # 00"


def pipe(folder: Path) -> None:
    scrfd(folder)
    build(folder)
    Path("net.onnx").unlink()
    os.mkfifo("net.onnx")


def loop(model):
    node = model.graph.node[0]
    node.input[0] = node.output[0]


def too_new(model):
    model.opset_import[0].version = 99


def huge_input(model):
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 100_000


def huge_contract(model):
    """Let the file say of itself that it takes pictures of a petabyte."""
    entry = next(entry for entry in model.metadata_props if "input_hw" in entry.value)
    content = json.loads(entry.value)
    content["preprocess"]["input_hw"] = [20_000_000, 20_000_000]
    entry.value = json.dumps(content)


def deep_contract(model):
    entry = next(entry for entry in model.metadata_props if "input_hw" in entry.value)
    entry.value = '{"schema":' + "[" * 100_000


def huge_weight(model):
    model.graph.initializer[0].dims[:] = [3_000_000_000, 1, 1, 1]


def datalist(content: bytes):
    def make(folder):
        scrfd(folder)
        Path("list.txt").write_bytes(content)

    return make


def npz_of(**arrays):
    def make(folder):
        scrfd(folder)
        np.savez("a.npz", **arrays)
        Path("list.txt").write_text(f"{folder / 'a.npz'}\n")

    return make


def yaml(text: str):
    def make(folder):
        build(folder)
        plain = Path("build.yaml").read_text()
        Path("build.yaml").write_text(text.replace("REST", plain))

    return make


def custom_func(folder: Path) -> None:
    photos = "dataset: {type: tvm, path: photos, sampler: {suffix: png, get_data_num: 1}, "
    photos += "process_ops: [{type: CustomFunc, module_path: mine.py, func_name: f}]}\n"
    scrfd(folder)
    build(folder)
    plain = Path("build.yaml").read_text().replace("dtype: fp16", "dtype: int8")
    Path("build.yaml").write_text(plain + photos)
    Path("mine.py").write_text("import os\nos.mkdir('executed')\n")


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


def vdsp(**changes):
    def make(folder):
        scrfd(folder)
        source = next((REPOSITORY / "face_detection/scrfd/build_in/vdsp_params").glob("*.json"))
        content = json.loads(source.read_text())
        content["OpConfig"].update(changes)
        Path("vdsp.json").write_text(json.dumps(content))

    return make


def predictions_archive(member: str, link: str = "", device: bool = False):
    def make(folder):
        widerface(folder)
        with tarfile.open("predictions.tar.gz", "w:gz") as archive:
            info = tarfile.TarInfo(member)
            data = b"photo_0\n0\n"
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            elif device:
                info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 5
            else:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

    return make


def prediction(content: bytes):
    def make(folder):
        widerface(folder)
        Path("predictions/1--Event/photo_3.txt").write_bytes(content)

    return make


def truth(content: bytes):
    def make(folder):
        widerface(folder)
        Path("truth/wider_easy_val.mat").write_bytes(content)

    return make


RUNNER = "face_detection/scrfd/build_in/vsx/python/scrfd_vsx.py"
INFER = (RUNNER, "--file_path", "photos", "--save_dir", "out", "--engine", "ort", "--quiet")
INFER += ("--model_prefix_path", "net.onnx")
VAMP = ("", "vamp", "--engine", "ort", "-m", "net.onnx", "-i", "1", "-b", "1")
VAMP += ("--datalist", "list.txt", "--path_output", "out")
COMPILE = ("", "vamc", "compile", "build.yaml")
EVALUATE = ("", "evaluate", "scrfd", "-g", "truth", "--json", "out.json", "-p")

# What it is -> the command, the file it must name, what makes it.
HOSTILE = {
    "onnx: weights in /etc": (
        INFER,
        "net.onnx",
        lambda f: network(f, external_data("/etc/passwd")),
    ),
    "onnx: weights in ..": (INFER, "net.onnx", lambda f: network(f, external_data("../../x"))),
    "onnx: a loop": (INFER, "net.onnx", lambda f: network(f, loop)),
    "onnx: opset 99": (INFER, "net.onnx", lambda f: network(f, too_new)),
    "onnx: a weight of 3 GB": (INFER, "net.onnx", lambda f: network(f, huge_weight)),
    "onnx: an input of 100,000 px": (INFER, "net.onnx", lambda f: network(f, huge_input)),
    "onnx: says 20,000,000 px": (INFER, "net.onnx", lambda f: network(f, huge_contract)),
    "onnx: a deep contract": (INFER, "net.onnx", lambda f: network(f, deep_contract)),
    "onnx: weights in /etc, compiled": (
        COMPILE,
        "net.onnx",
        lambda f: (build(f), network(f, external_data("/etc/passwd"))),
    ),
    "onnx: a branch": (INFER, "net.onnx", lambda f: network(f, branch)),
    "onnx: a second input": (INFER, "net.onnx", lambda f: network(f, second_input)),
    "onnx: code for a colour": (INFER, "net.onnx", lambda f: network(f, code_for_a_colour)),
    "onnx: a branch, compiled": (
        COMPILE,
        "net.onnx",
        lambda f: (build(f), network(f, branch)),
    ),
    "onnx: code for a colour, compiled": (
        COMPILE,
        "net.onnx",
        lambda f: (build(f), network(f, code_for_a_colour)),
    ),
    "onnx: a pipe, compiled": (COMPILE, "net.onnx", pipe),
    "yaml: a python object": (
        COMPILE,
        "build.yaml",
        yaml("x: !!python/object/apply:os.mkdir [executed]\nREST"),
    ),
    "yaml: code of its own": (COMPILE, "mine.py", custom_func),
    "yaml: aliases of aliases": (COMPILE, "build.yaml", yaml(ALIASES + "REST")),
    "yaml: nested 50,000 deep": (COMPILE, "build.yaml", yaml("[" * 50_000)),
    "yaml: NUL bytes": (COMPILE, "build.yaml", yaml("a: \0\nREST")),
    "npz: a pickled object": (VAMP, "a.npz", npz_of(input_0=np.array([Payload()], object))),
    "list: NUL bytes": (VAMP, "list.txt", datalist(b"/tmp/a\0b.npz\n")),
    "list: latin-1": (VAMP, "caf", datalist(b"/tmp/caf\xe9.npz\n")),
    "list: one line of 20 MB": (VAMP, "list.txt", datalist(b"x" * (20 << 20))),
    "predictions: an absolute path": (
        (*EVALUATE, "predictions.tar.gz"),
        "predictions.tar.gz",
        predictions_archive("/tmp/executed.txt"),
    ),
    "predictions: a path with ..": (
        (*EVALUATE, "predictions.tar.gz"),
        "predictions.tar.gz",
        predictions_archive("../../executed.txt"),
    ),
    "predictions: a link": (
        (*EVALUATE, "predictions.tar.gz"),
        "predictions.tar.gz",
        predictions_archive("0--Event/photo_0.txt", link="/etc/passwd"),
    ),
    "predictions: a device": (
        (*EVALUATE, "predictions.tar.gz"),
        "predictions.tar.gz",
        predictions_archive("0--Event/photo_0.txt", device=True),
    ),
    "predictions: NUL bytes": (
        (*EVALUATE, "predictions"),
        "photo_3.txt",
        prediction(b"photo_3\n1\n1 2 3\0 4 0.5\n"),
    ),
    "predictions: latin-1": (
        (*EVALUATE, "predictions"),
        "photo_3.txt",
        prediction(b"photo_3\n1\n1 2 3 caf\xe9 0.5\n"),
    ),
    "predictions: claims 1e9 boxes": (
        (*EVALUATE, "predictions"),
        "photo_3.txt",
        prediction(b"photo_3\n1000000000\n1 2 3 4 0.5\n"),
    ),
    "ground truth: a web page": (
        (*EVALUATE, "predictions"),
        "wider_easy_val.mat",
        truth(WEB_PAGE),
    ),
}
for key in ("OimageWidth", "OimageHeight"):
    for size in ("0", "-1", "1e9", "1000000000", "NaN", "Infinity", '"640"', "null", "true"):
        HOSTILE[f"vdsp: {key} {size}"] = (
            (*INFER, "--vdsp_params_info", "vdsp.json"),
            "vdsp.json",
            vdsp(**{key: json.loads(size)}),
        )
for key in ("Mean", "Std"):
    for number in ("NaN", "Infinity", "1e999", "1e9", "null"):
        HOSTILE[f"vdsp: {key} {number}"] = (
            (*INFER, "--vdsp_params_info", "vdsp.json"),
            "vdsp.json",
            vdsp(**{key: [json.loads(number)] * 3}),
        )
# The same broken graphs for every verb that opens one.
for verb, arguments, inputs in (
    ("info", ("net.onnx",), scrfd),
    ("doctor", ("--onnx", "net.onnx", "--image", PHOTO, "--observed", "mine.npz"), one_photo),
    ("eject", ("net.onnx", "--image", PHOTO, "--to", "product"), one_photo),
    ("compare", ("net.onnx", "other.onnx", "--images", "photos"), compared),
):
    for fault, change in (
        ("weights in /etc", external_data("/etc/passwd")),
        ("weights in ..", external_data("../../x")),
        ("a constant in /etc", constant_elsewhere),
        ("a branch", branch),
        ("a second input", second_input),
        ("code for a colour", code_for_a_colour),
        ("a loop", loop),
        ("opset 99", too_new),
        ("a weight of 3 GB", huge_weight),
        ("an input of 100,000 px", huge_input),
        ("says 20,000,000 px", huge_contract),
        ("a deep contract", deep_contract),
    ):
        HOSTILE[f"onnx: {fault}, {verb}"] = (
            ("", verb, *arguments),
            "net.onnx",
            lambda folder, inputs=inputs, change=change: (inputs(folder), broken(change)),
        )


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused_by_name(here, capfd, caplog, what):
    (script, *arguments), named, make = HOSTILE[what]
    make(here)
    before = {path for path in here.rglob("*") if path.is_file()}
    with bounds(what=what):
        code = entry_point(script)(arguments)
    said = capfd.readouterr().err + caplog.text
    assert code == 2, said
    assert "Traceback" not in said
    assert named in said
    assert len(max(said.splitlines(), key=len)) < 1000
    assert not Path("executed").exists()
    left = {path for path in here.rglob("*") if path.is_file()} - before
    assert {path.name for path in left} <= {"run.json", ".items.jsonl", ".lock", ".files.jsonl"}


@pytest.mark.long
@pytest.mark.torch
def test_what_each_costs_is_recorded(tmp_path):
    notes = tmp_path / "costs.csv"
    files = [HERE / f"test_{name}.py" for name in ("hostile", "readers", "checkpoints")]
    command = [sys.executable, "-m", "pytest", "-q", "-k", "not recorded", *map(str, files)]
    env = {**os.environ, "FACEZOO_NOTE_COSTS": str(notes)}
    subprocess.run(command, cwd=REPOSITORY, env=env, check=True)
    assert {*HOSTILE} < record_costs(notes).keys()
