"""The commands that read or write files, and the faults that can reach them.

A command is described once: what it is started with, which of the files in its folder it reads,
whether it can do without one of them, and where it writes. A fault is a function that breaks one
of those files. The matrix is every command's every file with every fault.
"""

import contextlib
import ctypes
import importlib.util
import os
import re
import resource
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Tuple

import numpy as np
from facezoo.cli.main import main
from facezoo.contract import read_contract
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.testing import tiny_magface, tiny_pipnet, tiny_scrfd
from facezoo.vacc.vdsp import VdspOperation
from scipy.io import savemat

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = "face_detection/scrfd"

# The matrix as a page shows it; rewritten by running this file.
TABLE = Path(__file__).with_name("matrix.txt")

# What is in the place of a model, a list or a picture after a download through a portal's login.
WEB_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>\n" * 40

SECONDS = re.compile(rb'"seconds": {[^}]*}')


@dataclass(frozen=True)
class Command:
    """A command and its files.

    Attributes
    ----------
    name
        As the table of results calls it.
    arguments
        With paths relative to the folder it is run in.
    needs
        Files and folders without which it can do nothing: it must refuse with exit code 2.
    skips
        Pictures of many: it must name them, do the others, and end with 1.
    writes
        Output files and folders.
    of_a_folder
        Files that count only if they are there: pictures, and predictions, of which a missing one
        says that nothing was found.
    prepare
        Commands, by name, that make its inputs.
    script
        Path of the script in the repository; ``facezoo`` if empty.
    resumes
        Whether it writes a run folder.
    spawns
        Whether it starts new programs, which have root's powers again.
    """

    name: str
    arguments: Tuple[str, ...]
    needs: Tuple[str, ...]
    writes: Tuple[str, ...]
    skips: Tuple[str, ...] = ()
    of_a_folder: Tuple[str, ...] = ()
    prepare: Tuple[str, ...] = ()
    script: str = ""
    resumes: bool = True
    spawns: bool = False
    inputs: Callable[[Path], None] = field(default=lambda folder: None)

    def run(self, *more: str) -> int:
        """Run it in this process, in the folder that is the current one; return its exit code."""
        try:
            return entry_point(self.script)([*self.arguments, *more])
        except SystemExit as error:
            return int(error.code or 0)

    def results(self) -> Dict[str, bytes]:
        """Return what stands under a final name, but for how long it took."""
        files = {}
        for name in self.writes:
            for path in [Path(name), *sorted(Path(name).rglob("*"))]:
                if path.is_file() and path.name != "run.json" and not path.name.startswith("."):
                    files[path.as_posix()] = SECONDS.sub(b"", path.read_bytes())
        return files


def entry_point(script: str) -> Callable[[list], int]:
    """Return a script's main function, or the command's."""
    if not script:
        return main
    name = "faults_" + script.replace("/", "_").replace(".", "_")
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


# Inputs ----------------------------------------------------------------------------------------


def photos(folder: Path, count: int = 5) -> None:
    rng = np.random.default_rng(3)
    for index in range(count):
        image = rng.integers(0, 60, (50 + index, 70, 3), np.uint8)
        left = 10 * index % 58
        image[20:32, left : left + 12] = 250
        write_image_rgb(folder / "photos" / f"{index % 2}--Event" / f"photo_{index}.png", image)


def scrfd(folder: Path) -> None:
    photos(folder)
    tiny_scrfd(folder / "net.onnx")


def pipnet(folder: Path) -> None:
    photos(folder)
    tiny_pipnet(folder / "net.onnx")


def build(folder: Path) -> None:
    tiny_scrfd(folder / "net.onnx")
    (folder / "build.yaml").write_text(
        "name: official_scrfd_fp16\n"
        "frontend: {type: onnx, checkpoint: net.onnx, shape: {input.1: [1, 3, 64, 64]}}\n"
        "backend: {type: tvm_vacc, dtype: fp16}\n"
        "workspace: {path: ./deploy_weights/}\n"
    )


def widerface(folder: Path) -> None:
    """Write the ground truth of the first photos' squares, and predictions for them."""
    (folder / "truth").mkdir()

    def cells(items: list) -> np.ndarray:
        column = np.empty((len(items), 1), object)
        column[:, 0] = items
        return column

    events = {"0--Event": [0, 2, 4], "1--Event": [1, 3]}
    names = cells([cells([f"photo_{index}" for index in photos]) for photos in events.values()])
    boxes = [[np.array([[10.0 * index, 20, 12, 12]]) for index in each] for each in events.values()]
    every = {"event_list": cells(list(events)), "file_list": names}
    content = {"wider_face_val": {"face_bbx_list": cells(list(map(cells, boxes)))}}
    kept = cells([cells([np.array([[1.0]])] * len(each)) for each in events.values()])
    for level in ("easy", "medium", "hard"):
        content[f"wider_{level}_val"] = {"gt_list": kept}
    for name, fields in content.items():
        savemat(folder / "truth" / f"{name}.mat", {**every, **fields})
    for event, photos in events.items():
        (folder / "predictions" / event).mkdir(parents=True)
        for index in photos:
            rows = f"{10 * index} 20 12 12 0.{9 - index}\n1 1 5 5 0.{index}1\n"
            path = folder / "predictions" / event / f"photo_{index}.txt"
            path.write_text(f"photo_{index}\n2\n{rows}")


def predict(folder: Path) -> None:
    scrfd(folder)
    tiny_magface(folder / "embedder.onnx")


def one_photo(folder: Path) -> None:
    scrfd(folder)
    image = read_image_rgb(folder / PHOTO)
    contract = read_contract(folder / "net.onnx")
    tensor, _ = VdspOperation(contract.preprocess)(image)
    np.savez(folder / "mine.npz", x=tensor[None])


PHOTO = "photos/1--Event/photo_3.png"
RUN = ("--model_prefix_path", "net.onnx", "--engine", "ort", "--quiet")

COMMANDS = {
    command.name: command
    for command in (
        Command(
            "vamc compile",
            ("vamc", "compile", "build.yaml"),
            inputs=build,
            needs=("build.yaml", "net.onnx"),
            writes=("deploy_weights",),
            resumes=False,
        ),
        Command(
            "scrfd_vsx.py",
            ("--file_path", "photos", "--save_dir", "out", "--draw", *RUN),
            script=f"{RECIPE}/build_in/vsx/python/scrfd_vsx.py",
            inputs=scrfd,
            needs=("photos", "net.onnx"),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("out",),
        ),
        Command(
            "image2npz.py",
            ("--dataset_path", "photos", "--target_path", "npz", "--text_path", "list.txt"),
            script="common/utils/image2npz.py",
            inputs=scrfd,
            needs=("photos",),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("npz", "list.txt"),
        ),
        Command(
            "vamp",
            ("vamp", "--engine", "ort", "-m", "net.onnx", "-i", "1", "-b", "2", "--datalist")
            + ("list.txt", "--path_output", "output"),
            prepare=("image2npz.py",),
            inputs=scrfd,
            needs=("net.onnx", "list.txt", "npz/1--Event/photo_3.npz"),
            spawns=True,
            writes=("output",),
        ),
        Command(
            "npz_decode.py",
            ("--txt", "decoded", "--vamp_datalist_path", "list.txt")
            + ("--vamp_output_dir", "output", "--quiet"),
            script=f"{RECIPE}/build_in/decode/npz_decode.py",
            prepare=("image2npz.py", "vamp"),
            inputs=scrfd,
            needs=("list.txt", "list.txt.manifest.json", "output/output_000003.npz"),
            writes=("decoded",),
        ),
        Command(
            "vsx_infer.py",
            ("--data_dir", "photos", "--save_dir", "out", "--draw", *RUN),
            script="face_alignment/pipnet/build_in/vsx/python/vsx_infer.py",
            inputs=pipnet,
            needs=("photos", "net.onnx"),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("out",),
        ),
        Command(
            "predict",
            ("predict", "photos", "--save_dir", "out", "--detector", "net.onnx", "--embedder")
            + ("embedder.onnx", "--engine", "ort", "--draw", "--csv", "--quiet"),
            inputs=predict,
            needs=("photos", "net.onnx", "embedder.onnx"),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("out",),
        ),
        Command(
            "doctor",
            ("doctor", "--onnx", "net.onnx", "--image", PHOTO, "--observed", "mine.npz")
            + ("--json", "found.json"),
            inputs=one_photo,
            needs=("net.onnx", PHOTO, "mine.npz"),
            writes=("found.json",),
            resumes=False,
        ),
        Command(
            "eject",
            (
                "eject",
                "scrfd_500m_bnkps",
                "--onnx",
                "net.onnx",
                "--to",
                "product",
                "--image",
                PHOTO,
            ),
            inputs=one_photo,
            needs=("net.onnx", PHOTO),
            writes=("product",),
            resumes=False,
        ),
        Command(
            "evaluate --pred",
            ("evaluate", "scrfd", "-p", "predictions", "-g", "truth", "--json", "ap.json")
            + ("--csv", "ap.csv"),
            inputs=widerface,
            needs=("predictions/1--Event/photo_3.txt", "truth/wider_hard_val.mat"),
            of_a_folder=("predictions/1--Event/photo_3.txt",),
            writes=("ap.json", "ap.csv"),
            resumes=False,
        ),
        Command(
            "evaluate --images",
            ("evaluate", "scrfd", "--images", "photos", "-g", "truth", "--save_dir", "run")
            + ("--model_prefix_path", "net.onnx", "--engine", "ort", "--json", "ap.json"),
            inputs=lambda folder: (scrfd(folder), widerface(folder)),
            needs=("net.onnx", PHOTO, "truth/wider_face_val.mat"),
            of_a_folder=(PHOTO,),
            writes=("ap.json", "run"),
        ),
    )
}


# Faults ----------------------------------------------------------------------------------------


def missing(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path: Path) -> None:
    if path.is_dir():
        missing(path)
        path.mkdir()
    else:
        path.write_bytes(b"")


def truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def web_page(path: Path) -> None:
    missing(path)
    path.write_bytes(WEB_PAGE)


def directory(path: Path) -> None:
    missing(path)
    (path / "x").mkdir(parents=True)


def link_to_itself(path: Path) -> None:
    missing(path)
    path.symlink_to(path.name)


def unreadable(path: Path) -> None:
    path.chmod(0)


FAULTS = {
    "missing": missing,
    "empty": empty,
    "cut short": truncated,
    "a web page": web_page,
    "a folder": directory,
    "a link to itself": link_to_itself,
    "not readable": unreadable,
}

# Only a file can be cut short or be something else; a file in a folder's place is a picture.
FILES_ONLY = ("cut short", "a folder", "a web page")


def broken_inputs():
    """Yield command, path and fault of the matrix."""
    for command in COMMANDS.values():
        for path in (*command.needs, *command.skips):
            for fault in FAULTS:
                of_a_file = fault in FILES_ONLY and not Path(path).suffix
                # Then it is not one of the folder's files.
                gone = path in command.of_a_folder and fault in ("missing", "a folder")
                if not of_a_file and not gone:
                    yield command, path, fault


def render() -> str:
    """Return the matrix as a table: the exit code that the test of a cell holds a command to."""
    code = {
        (command.name, path, fault): "1" if path in command.skips else "2"
        for command, path, fault in broken_inputs()
    }
    rows = [("command", "file", *FAULTS)]
    for name, path in dict.fromkeys((name, path) for name, path, _ in code):
        rows.append((name, path, *(code.get((name, path, fault), "-") for fault in FAULTS)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


NAMES = {
    "spaces": "a photo of  us.png",
    "Chinese": "全家福.png",
    "emoji": "🙂🎉.png",
    "quotes": 'it\'s "me".png',
    "255 bytes": "n" * 251 + ".png",
}


@contextlib.contextmanager
def without_roots_powers():
    """Let file permissions hold for this thread, which root's capabilities overrule otherwise."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # source: capabilities(7): version 3 of the header, two words each of effective, permitted and
    # inheritable; CAP_DAC_OVERRIDE is 1, CAP_DAC_READ_SEARCH is 2.
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before = (ctypes.c_uint32 * 6)()
    if libc.capget(header, before):
        raise OSError(ctypes.get_errno(), "capget")
    lowered = (ctypes.c_uint32 * 6)(*before)
    lowered[0] &= ~0b110
    if libc.capset(header, lowered):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        libc.capset(header, before)


@contextlib.contextmanager
def full_disk(room: int):
    """Let every write beyond so many bytes of a file fail, as on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


if __name__ == "__main__":
    TABLE.write_text(render())
