"""Files that mean harm: refused with their name, in bounded time and memory, nothing run."""

import contextlib
import io
import json
import os
import resource
import signal
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from fault_table import COMMANDS, WEB_PAGE, build, entry_point, scrfd, widerface
from onnx import TensorProto
from PIL import Image

SECONDS = 30  # On a machine that does other things too; each takes less than one otherwise.
MEBIBYTES = 1500


@contextlib.contextmanager
def bounds():
    """End what takes too long, and let allocations beyond the limit fail."""

    def too_long(number, frame):
        raise TimeoutError(f"not refused within {SECONDS} s")

    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (here + (MEBIBYTES << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


class Payload:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))


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


def jpeg(**options) -> bytes:
    text = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(text, "JPEG", **options)
    return text.getvalue()


def bomb_png() -> bytes:
    text = io.BytesIO()
    Image.fromarray(np.zeros((15_000, 15_000), np.uint8)).save(text, "PNG")
    return text.getvalue()


REFUSED_PICTURES = {
    "65,535 x 65,535.png": png_header(65_535, 65_535),
    "0 x 10.png": png_header(0, 10),
    "bomb.png": bomb_png,
    "cut.jpg": jpeg()[:400],
    "page.jpg": WEB_PAGE,
    "script.png": b"#!/bin/sh\nmkdir executed\n",
    "noise.webp": bytes(range(256)) * 8,
}
DONE_PICTURES = {
    "broken profile.jpg": lambda: jpeg(icc_profile=b"no profile" * 30),
    "broken exif.jpg": lambda: jpeg(exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 64),
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
        Path("photos", file).write_bytes(content() if callable(content) else content)
    with bounds():
        assert COMMANDS[name].run() == 1
    said = capfd.readouterr().err + caplog.text
    assert "Traceback" not in said
    for file in REFUSED_PICTURES:
        assert file in said
    for file in DONE_PICTURES:
        assert file not in said
    assert not Path("executed").exists()


# Everything else ---------------------------------------------------------------------------------


def network(folder: Path, change) -> None:
    scrfd(folder)
    model = onnx.load("net.onnx")
    change(model)
    Path("net.onnx").write_bytes(model.SerializeToString())


def external_data(location: str):
    """Let a weight be read from elsewhere."""

    def change(model):
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "100")):
            weight.external_data.add(key=key, value=value)

    return change


def loop(model):
    node = model.graph.node[0]
    node.input[0] = node.output[0]


def too_new(model):
    model.opset_import[0].version = 99


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


def raw_npz(name: str, content: bytes, compression=zipfile.ZIP_STORED):
    def make(folder):
        scrfd(folder)
        with zipfile.ZipFile("a.npz", "w", compression) as archive:
            archive.writestr(name, content)
        Path("list.txt").write_text(f"{folder / 'a.npz'}\n")

    return make


def npy_claiming(shape) -> bytes:
    text = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        text, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return text.getvalue() + b"\0" * 100


def yaml(text: str):
    def make(folder):
        build(folder)
        plain = Path("build.yaml").read_text()
        Path("build.yaml").write_text(text.replace("REST", plain))

    return make


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


def vdsp(**changes):
    def make(folder):
        scrfd(folder)
        source = next((COMMANDS_ROOT / "face_detection/scrfd/build_in/vdsp_params").glob("*.json"))
        content = json.loads(source.read_text())
        content.update(changes)
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


COMMANDS_ROOT = Path(__file__).resolve().parents[2]
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
    "onnx: weights in /etc, compiled": (
        COMPILE,
        "net.onnx",
        lambda f: (build(f), network(f, external_data("/etc/passwd"))),
    ),
    "yaml: a python object": (
        COMPILE,
        "build.yaml",
        yaml("x: !!python/object/apply:os.mkdir [executed]\nREST"),
    ),
    "yaml: aliases of aliases": (COMPILE, "build.yaml", yaml(ALIASES + "REST")),
    "yaml: nested 50,000 deep": (COMPILE, "build.yaml", yaml("[" * 50_000)),
    "yaml: NUL bytes": (COMPILE, "build.yaml", yaml("a: \0\nREST")),
    "npz: a pickled object": (VAMP, "a.npz", npz_of(input_0=np.array([Payload()], object))),
    "npz: floats": (VAMP, "a.npz", npz_of(input_0=np.full((3, 8, 8), np.nan))),
    "npz: two dimensions": (VAMP, "a.npz", npz_of(input_0=np.zeros((8, 8), np.uint8))),
    "npz: no array": (VAMP, "a.npz", raw_npz("input_0.txt", b"x")),
    "npz: claims 10 TB": (VAMP, "a.npz", raw_npz("input_0.npy", npy_claiming((10**13,)))),
    "npz: unpacks to 700 MB": (
        VAMP,
        "a.npz",
        raw_npz("input_0.npy", b"\0" * (700 << 20), zipfile.ZIP_DEFLATED),
    ),
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
for size in ("0", "-1", "1e9", "NaN", '"640"'):
    HOSTILE[f"vdsp: width {size}"] = (
        (*INFER, "--vdsp_params_info", "vdsp.json"),
        "vdsp.json",
        vdsp(WIDTH=json.loads(size)),
    )


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_refused_by_name(here, capfd, caplog, what):
    (script, *arguments), named, make = HOSTILE[what]
    make(here)
    before = {path for path in here.rglob("*") if path.is_file()}
    started = time.perf_counter()
    with bounds():
        code = entry_point(script)(arguments)
    said = capfd.readouterr().err + caplog.text
    print(f"{what}: {time.perf_counter() - started:.2f} s: {said}")
    assert code == 2, said
    assert "Traceback" not in said
    assert named in said
    assert len(max(said.splitlines(), key=len)) < 1000
    assert not Path("executed").exists()
    left = {path for path in here.rglob("*") if path.is_file()} - before
    assert {path.name for path in left} <= {"run.json", ".items.jsonl", ".lock"}
