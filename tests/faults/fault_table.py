"""The commands that read or write files, and the faults that can reach them.

A command is described once: what it is started with, which of the files in its folder it reads,
whether it can do without one of them, and where it writes. A fault is a function that breaks one
of those files. The matrix is every command's every file with every fault.
"""

import contextlib
import ctypes
import hashlib
import importlib
import importlib.util
import io
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Tuple
from unittest import mock

import numpy as np
import onnx
from facezoo import models, weights
from facezoo.card import WeightFile
from facezoo.cli.main import main
from facezoo.contract import METADATA_KEY, read_contract
from facezoo.datasets import face_sets
from facezoo.datasets.embeddings import Embeddings, write_embeddings
from facezoo.files import sha256_of, write_bytes
from facezoo.image.files import read_image_rgb, write_image_rgb
from facezoo.image.preprocess import VdspOperation
from facezoo.profiles.similarity import SimilarityPoint, SimilarityProfile, write_similarity
from facezoo.results import Landmarks
from facezoo.testing import tiny_magface, tiny_pipnet, tiny_scrfd, tiny_sdd_fiqa
from onnx import TensorProto, helper, numpy_helper
from scipy.io import savemat

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = "face_detection/scrfd"
MAGFACE = "face_recognition/magface"
SDD_FIQA = "face_quality/sdd_fiqa"

HERE = Path(__file__).parent
# The matrix as a page shows it; rewritten by running this file.
TABLE = HERE / "matrix.txt"
# What was killed twenty times, and resumed; rewritten by those tests.
KILLS = HERE / "kills.txt"

# What is in the place of a model, a list or a picture after a download through a portal's login.
WEB_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>\n" * 40

SECONDS = re.compile(rb'"(milli)?seconds": {[^}]*}')


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
    lists
        Texts among its inputs that do not say where they end: cut short, they are shorter lists.
    spawns
        Whether it starts new programs, which have root's powers again.
    torch
        Whether it needs PyTorch.
    grows
        Patterns of output files that change while it runs, such as a training's state.
    small
        Whether no file that it writes has more than 4 KB.
    rare
        Whether only make test-long tries it, since the code that reads and writes for it is that
        of another command, or it takes seconds.
    around
        What is set up while it runs, such as a small network in a large one's place.
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
    lists: Tuple[str, ...] = ()
    spawns: bool = False
    torch: bool = False
    grows: Tuple[str, ...] = ()
    small: bool = False
    rare: bool = False
    around: Callable[[], Any] = contextlib.nullcontext
    inputs: Callable[[Path], None] = field(default=lambda folder: None)

    def run(self, *more: str) -> int:
        """Run it in this process, in the folder that is the current one; return its exit code."""
        with self.around():
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


def known_people(folder: Path) -> None:
    """Write photos of two people, each with a face."""
    predict(folder)
    (folder / "photos/0--Event/photo_2.png").unlink()


def one_photo(folder: Path) -> None:
    scrfd(folder)
    image = read_image_rgb(folder / PHOTO)
    contract = read_contract(folder / "net.onnx")
    tensor, _ = VdspOperation(contract.preprocess)(image)
    np.savez(folder / "mine.npz", x=tensor[None])


def photos_and(make: Callable[[Path], Path], count: int = 5) -> Callable[[Path], None]:
    """Return what writes photos, a network, and lists of the photos and of pairs of them."""

    def inputs(folder: Path) -> None:
        photos(folder, count)
        make(folder / "net.onnx")
        write_lists(folder)

    return inputs


def write_lists(folder: Path) -> None:
    """List the photos with a number of the person, with a label, and two pairs of them."""
    names = sorted(path.relative_to(folder / "photos").as_posix() for path in folder.rglob("*.png"))
    (folder / "img.list").write_text("".join(f"{name} {name[0]}\n" for name in names))
    (folder / "labels.txt").write_text("".join(f"{n} {i}.5\n" for i, n in enumerate(names)))
    (folder / "pairs.list").write_text(f"{names[0]} {names[1]} 1\n{names[0]} {names[3]} 0\n")


def pair_of_photos(folder: Path) -> None:
    """Write two photos, the networks of a comparison, and its profile."""
    predict(folder)
    point = SimilarityPoint(1e-3, 0.5, 0.4, 0.6, 0.9)
    profile = SimilarityProfile("w600k_mbf", sha256_of(folder / "embedder.onnx"), 9, 9, (point,))
    write_similarity(folder / "profile.json", profile)


def released_scrfd(folder: Path) -> None:
    """Write a graph that ends as the authors' do: a convolution a head, then rows and scores."""
    weights, nodes, outputs = [], [], []

    def conv(source: str, name: str, shape: Tuple[int, ...], **how: Any) -> str:
        values = np.random.default_rng(len(weights)).normal(0.0, 0.1, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"{name}.weight"))
        nodes.append(helper.make_node("Conv", [source, f"{name}.weight"], [name], **how))
        return name

    for stride in (8, 16, 32):
        level = conv("image", f"level_{stride}", (64, 3, 1, 1), strides=[stride] * 2)
        level = conv(level, f"depthwise_{stride}", (64, 1, 1, 1), group=64)
        for head, size in (("score", 1), ("bbox", 4), ("kps", 10)):
            maps = conv(level, f"{head}_maps_{stride}", (2 * size, 64, 1, 1))
            shape, name = f"{head}_shape_{stride}", f"{head}_rows_{stride}"
            weights.append(numpy_helper.from_array(np.array([-1, size], np.int64), shape))
            nodes.append(helper.make_node("Transpose", [maps], [f"{maps}_t"], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Reshape", [f"{maps}_t", shape], [name]))
            if head == "score":
                nodes.append(helper.make_node("Sigmoid", [name], [f"{name}_s"]))
                name += "_s"
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph(nodes, "released", [image], outputs, weights)
    opset = [helper.make_opsetid("", 11)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "released.onnx")


def released_pipnet(folder: Path) -> None:
    """Write a graph with the maps of a PIPNet and as many convolutions as its backbone has."""
    model = onnx.load(tiny_pipnet(folder / "released.onnx"))
    first = model.graph.node[0]
    for index in range(25 - len(model.graph.node)):
        node = helper.make_node("Conv", [*first.input], [f"unused_{index}"])
        node.attribute.extend(first.attribute)
        model.graph.node.append(node)
    onnx.save(model, folder / "released.onnx")


def quality_checkpoint(folder: Path) -> None:
    import torch
    from facezoo.models.sdd_fiqa.network import build as build_network

    torch.manual_seed(1)
    torch.save(build_network("mobilefacenet").state_dict(), folder / "net.pth")


def people(folder: Path) -> None:
    """Write bright squares of a texture per person, which the tiny detector takes for faces."""
    tiny_scrfd(folder / "net.onnx")
    tiny_magface(folder / "embedder.onnx")
    rng = np.random.default_rng(3)
    for person in range(7):
        face = np.kron(rng.integers(190, 256, (4, 4, 3)), np.ones((12, 12, 1))).astype(np.uint8)
        for index in range(3):
            image = np.full((120, 120, 3), 20, np.uint8)
            image[30:78, 30 + 4 * index : 78 + 4 * index] = face
            write_image_rgb(folder / "photos" / f"p{person}" / f"{index}.png", image)


def calibrated_build(folder: Path) -> None:
    scrfd(folder)
    (folder / "build.yaml").write_text(
        "name: official_scrfd_int8\n"
        "frontend: {type: onnx, checkpoint: net.onnx, shape: {input.1: [1, 3, 64, 64]}}\n"
        "backend: {type: tvm_vacc, dtype: int8, quantize: {calibrate_mode: max}}\n"
        "dataset:\n"
        "  type: tvm\n"
        "  path: photos/\n"
        "  sampler: {suffix: png, get_data_num: 5}\n"
        "  process_ops:\n"
        "  - {type: DecodeImage}\n"
        "  - {type: Resize, size: [64, -1], adaptive_side: long}\n"
        "  - {type: Pad, pad_to_square: true}\n"
        "  - {type: Normalize, div255: false, mean: [127.5, 127.5, 127.5], std: [128, 128, 128]}\n"
        "  - {type: ToTensor}\n"
        "workspace: {path: ./deploy_weights/}\n"
    )


def widerface_archives(folder: Path) -> None:
    widerface(folder)
    with zipfile.ZipFile(folder / "photos.zip", "w") as photos:
        for path in sorted((folder / "predictions").rglob("*.txt")):
            name = path.relative_to(folder / "predictions").with_suffix(".jpg").as_posix()
            photos.writestr(f"WIDER_val/images/{name}", bytes(range(1, 251)) * 40)
    with zipfile.ZipFile(folder / "truth.zip", "w") as truth:
        for path in sorted((folder / "truth").iterdir()):
            truth.write(path, f"eval_tools/ground_truth/{path.name}")


@contextlib.contextmanager
def equal_times() -> Iterator[None]:
    """Let two runs of ``sensitivity`` write the same: the times that it measures differ."""
    module = importlib.import_module("facezoo.cli.sensitivity")
    with mock.patch.object(module, "_times", lambda graphs, _: dict.fromkeys(graphs, 1.0)):
        yield


@contextlib.contextmanager
def small_sets() -> Iterator[None]:
    """Let the data sets have as many images as those of these tests."""
    module = importlib.import_module("facezoo.datasets.widerface")
    counts = {"EVENTS": 2, "PHOTOS": 5, "FACES": 5}
    pairs = {name: 1 for name in face_sets.SETS}
    with mock.patch.multiple(module, **counts), mock.patch.dict(face_sets.SETS, pairs):
        yield


def verification_sets(folder: Path) -> None:
    with tarfile.open(folder / "sets.tar", "w") as archive:
        for name in face_sets.SETS:
            files = {"img.list": b"a.jpg\nb.jpg\n", "pair.list": b"a.jpg b.jpg 1\n"}
            for file in ("a.jpg", "b.jpg"):
                files[file] = bytes(range(1, 251)) * 40
            for file, content in files.items():
                info = tarfile.TarInfo(f"{name}/{file}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def wflw_on_wider(folder: Path) -> None:
    """Write photos, their ground truth, and lists of faces that cover its boxes."""
    widerface(folder)
    (folder / "lists").mkdir()
    (folder / "wider" / "eval_tools").mkdir(parents=True)
    (folder / "truth").rename(folder / "wider" / "eval_tools" / "ground_truth")
    rng, lines = np.random.default_rng(5), []
    for index, path in enumerate(sorted((folder / "predictions").rglob("*.txt"))):
        name = path.relative_to(folder / "predictions").with_suffix(".jpg").as_posix()
        photo = folder / "wider" / "WIDER_val" / "images" / name
        write_image_rgb(photo, rng.integers(0, 60, (50, 70, 3), np.uint8))
        left = 10 * int(path.stem[-1])
        points = rng.uniform((left, 20), (left + 12, 32), (98, 2))
        points[:2] = (left, 20), (left + 12, 32)
        lines.append(" ".join([*map(str, points.ravel().tolist()), name]) + "\n")
        (folder / "lists" / f"list_98pt_test_{'blur' if index % 2 else 'makeup'}.txt").touch()
    (folder / "lists" / "list_98pt_test_blur.txt").write_text("".join(lines[:3]))
    (folder / "lists" / "list_98pt_test_makeup.txt").write_text("".join(lines[2:]))


def landmark_crops(folder: Path) -> None:
    """Write what PIPNet is trained on: crops, and five points of each."""
    rng = np.random.default_rng(4)
    face = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    for split, count in (("train", 4), ("test", 2)):
        lines = []
        for index in range(count):
            crop = rng.integers(0, 256, (64, 64, 3), np.uint8)
            write_image_rgb(folder / "data" / f"images_{split}" / f"{index}.png", crop)
            points = (face + rng.normal(0.0, 0.02, face.shape)).ravel()
            lines.append(" ".join([f"{index}.png", *map(repr, points.tolist())]) + "\n")
        (folder / "data" / f"{split}.txt").write_text("".join(lines))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch to one core, where a test of this size is quicker; save every second batch."""
    import torch

    training = importlib.import_module("facezoo.models.resumable")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.object(training, "SAVE_EVERY", 2):
            yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def any_released_weights() -> Iterator[None]:
    """Take random weights for those of a released graph, which no test makes."""
    import torch

    checkpoint = importlib.import_module("facezoo.models.scrfd.checkpoint")
    none = {"load_onnx": lambda *_: None, "run_network": lambda *_: None}
    with one_thread(), mock.patch.multiple(checkpoint, compare_with_graph=lambda *_: 0.0, **none):
        torch.manual_seed(1)
        yield


@contextlib.contextmanager
def small_recogniser() -> Iterator[None]:
    """Let MagFace's training have a network of two layers in place of eighteen."""
    import torch

    def build_network() -> torch.nn.Module:
        layers = (torch.nn.Conv2d(3, 4, 16, stride=16), torch.nn.Flatten())
        return torch.nn.Sequential(*layers, torch.nn.Linear(196, 512), torch.nn.BatchNorm1d(512))

    training = importlib.import_module("facezoo.models.magface.train")
    with one_thread(), mock.patch.object(training, "builder", lambda *which: build_network):
        yield


def build_of_both(folder: Path) -> None:
    """Write an artifact of our compiler, and beside it stand-ins of the vendor's files."""
    build(folder)
    assert main(["vamc", "compile", "build.yaml"]) == 0
    for suffix in (".json", ".params"):
        (folder / f"{ARTIFACT}{suffix}").touch()
    shutil.copy(folder / "net.onnx", folder / f"{ARTIFACT}.so")


@contextlib.contextmanager
def stand_in_device() -> Iterator[None]:
    """Let the self-test find a stand-in for a device, and ask it no questions that take seconds."""
    spec = importlib.util.spec_from_file_location(
        "vaststreamx", REPOSITORY / "tests" / "unit" / "fake_vaststreamx.py"
    )
    device = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(device)
    selftest = importlib.import_module("facezoo.doctor.device_selftest")

    def here(function: Callable, *arguments: Any, seconds: float) -> Any:
        return function(*arguments)

    run = partial(selftest.run_selftest, isolate=here)
    nothing = {"DEVICE_PROBES": {}, "_ask_tools": lambda setup: ()}
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.multiple(selftest, run_selftest=run, **nothing))
        patches.enter_context(mock.patch.dict(sys.modules, vaststreamx=device))
        yield
    device.release()


@contextlib.contextmanager
def equal_speeds() -> Iterator[None]:
    """Let two runs of ``bench`` write the same, of one scenario: the times it measures differ."""
    module = importlib.import_module("facezoo.cli.bench")
    row, first = module._row, module.scenarios()[:1]

    def fixed(scenario: Any, rate: float, latency: dict, stages: dict, **more: Any) -> dict:
        return row(scenario, 1.0, dict.fromkeys(latency, 1.0), dict.fromkeys(stages, 1.0))

    with mock.patch.multiple(module, _row=fixed, scenarios=lambda: first):
        yield


@lru_cache(maxsize=None)
def demo_files() -> Dict[str, Tuple[WeightFile, bytes]]:
    """Return what the demo downloads, by name: small networks and photos in place of its own."""
    steps = importlib.import_module("facezoo.cli.demo.steps")
    files, rng = {}, np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as here:
        for name in (steps.CARD, steps.EMBEDDER, *steps.PHOTOS):
            path = Path(here, models.WEIGHTS[name].file)
            if name == steps.CARD:
                tiny_scrfd(path, input_hw=(640, 640))
            elif name == steps.EMBEDDER:
                tiny_magface(path)
            else:
                image = rng.integers(0, 60, (64, 64, 3), np.uint8)
                image[20:36, 20:36] = 250
                write_image_rgb(path, image)
            data = path.read_bytes()
            facts = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            files[name] = replace(models.WEIGHTS[name], **facts), data
    return files


def downloaded(folder: Path) -> None:
    for file, data in demo_files().values():
        (folder / "home").mkdir(exist_ok=True)
        (folder / "home" / file.file).write_bytes(data)


def in_this_process(command: list, **how: Any) -> subprocess.CompletedProcess:
    """Run a script, or a verb, as a program of its own would."""
    name, *words = command[1:]
    script = "" if name == "-m" else str(Path(name).relative_to(REPOSITORY))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = entry_point(script)(words if script else words[1:])
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def small_demo() -> Iterator[None]:
    """Let the demo run small networks, in one precision and one process."""
    steps = importlib.import_module("facezoo.cli.demo.steps")
    graph = importlib.import_module("facezoo.models.scrfd.graph")
    files = {name: file for name, (file, _) in demo_files().items()}
    catalogue = {**models._catalogue(), "WEIGHTS": {**models.WEIGHTS, **files}}

    def keep(source: Path, target: Path, **more: Any) -> Tuple[Any, float]:
        write_bytes(target, source.read_bytes())
        return models.find_card(steps.CARD), 0.0

    with contextlib.ExitStack() as patches:
        for owner, values in (
            (models, {"_catalogue": lambda: catalogue}),
            (graph, {"export_released": keep}),
            (steps, {"DTYPES": ("fp32",), "ROUNDS": 1}),
            (subprocess, {"run": in_this_process}),
        ):
            patches.enter_context(mock.patch.multiple(owner, **values))
        home = {"FACEZOO_HOME": "home", "FACEZOO_OFFLINE": "1"}
        patches.enter_context(mock.patch.dict(os.environ, home))
        yield


def wflw(folder: Path) -> None:
    """Write WFLW's layout with four faces on the photos, two of them for the test."""
    photos(folder)
    (folder / "wflw").mkdir()
    pictures = (folder / "photos").rename(folder / "wflw" / "WFLW_images")
    names = sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    rng, lists = np.random.default_rng(5), {"train": [], "test": []}
    for index, name in enumerate(names[:4]):
        points = rng.uniform(5, 45, (98, 2)).round(3).ravel().tolist()
        line = [*map(str, [*points, 5, 5, 45, 45, *[0] * 6]), name.as_posix()]
        lists["test" if index % 2 else "train"].append(" ".join(line) + "\n")
    (folder / "wflw" / "WFLW_annotations").mkdir()
    for split, lines in lists.items():
        path = folder / "wflw" / "WFLW_annotations" / f"list_98pt_rect_attr_{split}.txt"
        path.write_text("".join(lines))


def features(folder: Path, count: int = 80) -> None:
    """Write features, two rows a pair, and the list of pairs, of which every second is genuine."""
    rng, rows, pairs = np.random.default_rng(6), [], []
    for index in range(count):
        first = rng.normal(0, 1, 512)
        second = first + rng.normal(0, 20, 512) if index % 2 else rng.normal(0, 1, 512)
        for side, vector in (("a", first), ("b", second)):
            rows.append(" ".join([f"{index}{side}.png", *(f"{v:.4f}" for v in vector)]) + "\n")
        pairs.append(f"{index}a.png {index}b.png {index % 2}\n")
    (folder / "feat.list").write_text("".join(rows))
    (folder / "pair.list").write_text("".join(pairs))


def templates(folder: Path) -> None:
    """Write the features of IJB's layout: a template a picture."""
    features(folder, 4)
    (folder / "meta").mkdir()
    names = [line.split()[0] for line in (folder / "feat.list").read_text().splitlines()]
    lines = [f"{name} {index} {index}\n" for index, name in enumerate(names)]
    (folder / "meta" / "ijbc_face_tid_mid.txt").write_text("".join(lines))
    pairs = "2 3 1\n6 7 1\n0 1 0\n4 5 0\n"
    (folder / "meta" / "ijbc_template_pair_label.txt").write_text(pairs)


def record_file(folder: Path) -> None:
    """Write insightface's layout: pictures of two people from record 1, then one record each."""
    pictures = [(0, 1), (0, 2), (1, 3)]
    bodies = [struct.pack("<IfQQ2f", 2, 0, 0, 0, 4, 6)]
    for label, key in pictures:
        rng = np.random.default_rng(key)
        write_image_rgb(folder / "one.png", rng.integers(0, 256, (60, 60, 3), np.uint8))
        bodies.append(struct.pack("<IfQQ", 0, label, key, 0) + (folder / "one.png").read_bytes())
    bodies += [struct.pack("<IfQQ2f", 2, 0, 0, 0, *ends) for ends in ((1, 3), (3, 4))]
    (folder / "one.png").unlink()
    with (folder / "train.rec").open("wb") as file:
        for body in bodies:
            file.write(struct.pack("<II", 0xCED7230A, len(body)) + body + bytes(-len(body) % 4))


def landmark_results(folder: Path) -> None:
    """Write the list of a test set, and results for it that are not far off."""
    landmark_crops(folder)
    images = []
    for line in (folder / "data" / "test.txt").read_text().splitlines():
        name, *values = line.split()
        points = 64 * np.array(values, float).reshape(-1, 2) + 1
        mark = Landmarks(np.float32(points), np.ones(len(points), np.float32), (64, 64))
        images.append({"path": f"images_test/{name}", **mark.to_dict()})
    content = {"schema": "facezoo.landmarks/1", "crop": "annotation", "images": images}
    (folder / "results.json").write_text(json.dumps(content))


def scored_people(folder: Path) -> None:
    """Write vectors of forty faces of ten people, and a score of each."""
    rng = np.random.default_rng(9)
    names = tuple(f"p{index // 4}/{index}.png" for index in range(40))
    vectors = np.repeat(rng.normal(0, 1, (10, 64)), 4, axis=0) + rng.normal(0, 2, (40, 64))
    write_embeddings(folder / "vectors.npz", Embeddings(names, vectors.astype(np.float32)))
    scores = zip(names, rng.uniform(0, 1, 40))
    (folder / "scores.txt").write_text("".join(f"{name} {score:.4f}\n" for name, score in scores))


PUBLISHED = bytes(range(256)) * 400


def origin(folder: Path) -> None:
    (folder / "origin").mkdir()
    (folder / "origin" / "net.onnx").write_bytes(PUBLISHED)


def fetched(folder: Path) -> None:
    (folder / "home").mkdir()
    (folder / "home" / "net.onnx").write_bytes(PUBLISHED)


class Answer(io.FileIO):
    """A file as a server's answer, which does not announce its length."""

    length = None


@contextlib.contextmanager
def zoo_of_one() -> Iterator[None]:
    """Let the catalogue hold one file, whose server is the current folder."""
    file = WeightFile(
        name="net",
        model="scrfd",
        file="net.onnx",
        size=len(PUBLISHED),
        sha256=hashlib.sha256(PUBLISHED).hexdigest(),
        licence="MIT",
        commercial="yes",
        holds="a network",
        url="https://origin/net.onnx",
    )

    def urlopen(request: Any, timeout: float) -> Answer:
        return Answer(request.full_url.split("//")[1])

    catalogue = {"CARDS": {}, "WEIGHTS": {"net": file}}
    with contextlib.ExitStack() as patches:
        for owner, name, value in (
            (models, "_catalogue", lambda: catalogue),
            (weights, "PAUSES_SECONDS", ()),
            (urllib.request, "urlopen", urlopen),
        ):
            patches.enter_context(mock.patch.object(owner, name, value))
        home = {"FACEZOO_HOME": "home", "FACEZOO_OFFLINE": "0"}
        patches.enter_context(mock.patch.dict(os.environ, home))
        yield


PHOTO = "photos/1--Event/photo_3.png"
ARTIFACT = "deploy_weights/official_scrfd_fp16/mod"
SHARDS = "run/manifest/00000.parquet"
# Of steps of a gallery.
EMBEDDING = ("--detector", "net.onnx", "--embedder", "embedder.onnx", "--engine", "ort")
EMBEDDING += ("--threads", "1", "--embed-refused")
RUN = ("--model_prefix_path", "net.onnx", "--engine", "ort")

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
            small=True,
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
            + ("--vamp_output_dir", "output"),
            script=f"{RECIPE}/build_in/decode/npz_decode.py",
            prepare=("image2npz.py", "vamp"),
            inputs=scrfd,
            needs=("list.txt", "list.txt.manifest.json", "output/output_000003.npz"),
            writes=("decoded",),
            small=True,
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
            "download",
            ("download", "net"),
            inputs=origin,
            around=zoo_of_one,
            needs=("origin/net.onnx",),
            writes=("home",),
            resumes=False,
        ),
        Command(
            "download --check",
            ("download", "--check", "net"),
            inputs=fetched,
            around=zoo_of_one,
            needs=("home/net.onnx",),
            writes=(),
            resumes=False,
        ),
        Command(
            "export_onnx.py, SCRFD",
            ("--onnx", "released.onnx", "--output", "raw.onnx"),
            script=f"{RECIPE}/source_code/export_onnx.py",
            inputs=released_scrfd,
            needs=("released.onnx",),
            writes=("raw.onnx",),
            resumes=False,
        ),
        Command(
            "export_onnx.py, PIPNet",
            ("--onnx", "released.onnx", "--output", "raw.onnx"),
            script="face_alignment/pipnet/source_code/export_onnx.py",
            inputs=released_pipnet,
            needs=("released.onnx",),
            writes=("raw.onnx",),
            resumes=False,
        ),
        Command(
            "export_onnx.py, MagFace",
            ("--onnx", "released.onnx", "--card", "w600k_mbf", "--output", "raw.onnx"),
            script=f"{MAGFACE}/source_code/export_onnx.py",
            inputs=lambda folder: tiny_magface(folder / "released.onnx"),
            needs=("released.onnx",),
            writes=("raw.onnx",),
            resumes=False,
        ),
        Command(
            "export_onnx.py, SDD-FIQA",
            ("--checkpoint", "net.pth", "--variant", "mobilefacenet", "--output", "raw.onnx"),
            script=f"{SDD_FIQA}/source_code/export_onnx.py",
            inputs=quality_checkpoint,
            around=one_thread,
            torch=True,
            needs=("net.pth",),
            writes=("raw.onnx",),
            resumes=False,
        ),
        Command(
            "magface_vsx.py",
            ("--file_path", "photos", "--save_dir", "out", "--pairs", "pairs.list", *RUN),
            script=f"{MAGFACE}/build_in/vsx/python/magface_vsx.py",
            inputs=photos_and(tiny_magface),
            needs=("photos", "net.onnx", "pairs.list"),
            lists=("pairs.list",),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("out",),
        ),
        Command(
            "gen_feat.py",
            ("--inf_list", "img.list", "--root", "photos", "--feat_list", "feat/feat.list")
            + ("--onnx", "net.onnx", "--engine", "ort"),
            script=f"{MAGFACE}/source_code/gen_feat.py",
            inputs=photos_and(tiny_magface),
            needs=("img.list", "net.onnx"),
            lists=("img.list",),
            skips=(PHOTO,),
            writes=("feat",),
        ),
        Command(
            "match",
            ("match", PHOTO, PHOTO, "--detector", "net.onnx", "--recogniser", "embedder.onnx")
            + ("--engine", "ort", "--profile", "profile.json", "--draw", "out/match.jpg")
            + ("--json", "out/match.json"),
            inputs=pair_of_photos,
            needs=(PHOTO, "net.onnx", "embedder.onnx", "profile.json"),
            writes=("out",),
            resumes=False,
        ),
        Command(
            "calibrate similarity",
            ("calibrate", "similarity", "--identities", "photos", "--model", "net.onnx")
            + ("--engine", "ort", "--output", "similarity.json"),
            inputs=photos_and(tiny_magface),
            needs=("photos", "net.onnx"),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("similarity.json",),
            small=True,
            resumes=False,
        ),
        Command(
            "calibrate quality",
            ("calibrate", "quality", "--images", "photos", "--model_prefix_path", "net.onnx")
            + ("--engine", "ort", "--output", "quality.json"),
            inputs=photos_and(tiny_sdd_fiqa),
            needs=("photos", "net.onnx"),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("quality.json",),
            small=True,
            resumes=False,
        ),
        Command(
            "calibrate appearance",
            ("calibrate", "appearance", "--identities", "photos", "--model", "embedder.onnx")
            + ("--detector", "net.onnx", "--engine", "ort", "--fmr", "0.5", "--fnmr", "1")
            + ("--output", "appearance.json"),
            inputs=people,
            needs=("photos", "net.onnx", "embedder.onnx"),
            skips=("photos/p3/1.png",),
            of_a_folder=("photos/p3/1.png",),
            writes=("appearance.json",),
            resumes=False,
        ),
        Command(
            "train.py, MagFace",
            ("--train_list", "img.list", "--image_root", "photos", "--pth-save-fold", "run")
            + ("--epochs", "2", "--batch-size", "2", "--save-every", "1", "--workers", "0")
            + ("--device", "cpu", "--vis_mag", "0"),
            script=f"{MAGFACE}/source_code/train.py",
            inputs=photos_and(tiny_magface),
            around=small_recogniser,
            torch=True,
            needs=("img.list", PHOTO),
            lists=("img.list",),
            writes=("run",),
            grows=("run/checkpoints/*", "run/*.csv"),
        ),
        Command(
            "sdd_fiqa_vsx.py",
            ("--image_dir", "photos", "--save_dir", "out", "--contact_sheet", *RUN),
            script=f"{SDD_FIQA}/build_in/vsx/python/sdd_fiqa_vsx.py",
            inputs=photos_and(tiny_sdd_fiqa),
            needs=("photos", "net.onnx"),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("out",),
        ),
        Command(
            "make_pseudo_labels.py",
            ("--image_dir", "photos", "--references", "img.list", "--recognizer", "net.onnx")
            + ("--save_dir", "labels", "--pairs", "0"),
            script=f"{SDD_FIQA}/source_code/make_pseudo_labels.py",
            inputs=photos_and(tiny_magface, 8),
            needs=("photos", "img.list", "net.onnx"),
            lists=("img.list",),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("labels",),
        ),
        Command(
            "train.py, SDD-FIQA",
            ("--image_dir", "photos", "--labels", "labels.txt", "--save_dir", "trained")
            + ("--epochs", "2", "--batch_size", "2", "--precision", "fp32"),
            script=f"{SDD_FIQA}/source_code/train.py",
            inputs=photos_and(tiny_sdd_fiqa),
            around=one_thread,
            torch=True,
            needs=("labels.txt", PHOTO),
            lists=("labels.txt",),
            writes=("trained",),
            grows=("trained/state.pth",),
        ),
        Command(
            "fit.py",
            ("--data_dir", "data", "--save_dir", "fitted", "--backbone", "mobilenet_v3")
            + ("--num_neighbors", "3", "--input_size", "64", "--epochs", "2", "--batch_size", "2")
            + ("--normalizer", "AFLW"),
            script="face_alignment/pipnet/source_code/fit.py",
            inputs=landmark_crops,
            around=one_thread,
            torch=True,
            needs=("data/train.txt", "data/images_train/2.png"),
            lists=("data/train.txt",),
            writes=("fitted",),
            grows=("fitted/state.pth",),
        ),
        Command(
            "predict",
            ("predict", "photos", "--save_dir", "out", "--detector", "net.onnx", "--embedder")
            + ("embedder.onnx", "--engine", "ort", "--draw", "--csv"),
            inputs=predict,
            needs=("photos", "net.onnx", "embedder.onnx"),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("out",),
            small=True,
        ),
        Command(
            "cluster",
            ("cluster", "photos", "--output", "out", "--detector", "net.onnx", "--embedder")
            + ("embedder.onnx", "--engine", "ort", "--threshold", "0.5"),
            inputs=predict,
            needs=("photos", "net.onnx", "embedder.onnx"),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("out",),
        ),
        Command(
            "prepare widerface",
            ("prepare", "widerface", "--to", "unpacked", "--images-zip", "photos.zip")
            + ("--ground-truth-zip", "truth.zip"),
            inputs=widerface_archives,
            around=small_sets,
            needs=("photos.zip", "truth.zip"),
            writes=("unpacked",),
            resumes=False,
        ),
        Command(
            "prepare lfw_cfp_agedb",
            ("prepare", "lfw_cfp_agedb", "--to", "unpacked", "--tar", "sets.tar"),
            inputs=verification_sets,
            around=small_sets,
            needs=("sets.tar",),
            writes=("unpacked",),
            resumes=False,
        ),
        Command(
            "prepare wflw-wider",
            ("prepare", "wflw-wider", "--wider", "wider", "--lists", "lists", "--to", "linked"),
            inputs=wflw_on_wider,
            needs=(
                "lists/list_98pt_test_blur.txt",
                "wider/eval_tools/ground_truth/wider_face_val.mat",
            ),
            of_a_folder=("lists/list_98pt_test_blur.txt",),
            writes=("linked",),
            resumes=False,
        ),
        Command(
            "export",
            ("export", "w600k_mbf", "released.onnx", "--output", "raw.onnx"),
            inputs=lambda folder: tiny_magface(folder / "released.onnx"),
            needs=("released.onnx",),
            writes=("raw.onnx",),
            resumes=False,
        ),
        Command(
            "compile",
            ("compile", "build.yaml", "--dtype", "int8", "--images", "photos"),
            inputs=calibrated_build,
            needs=("build.yaml", "net.onnx", "photos"),
            writes=("deploy_weights",),
            resumes=False,
        ),
        Command(
            "sensitivity",
            ("sensitivity", "build.yaml", "--json", "layers.json"),
            inputs=calibrated_build,
            needs=("build.yaml", "net.onnx"),
            writes=("layers.json",),
            around=equal_times,
            resumes=False,
        ),
        Command(
            "compare",
            ("compare", "net.onnx", "net.onnx", "--images", "photos", "--json", "drift.json"),
            inputs=scrfd,
            needs=("photos", "net.onnx"),
            writes=("drift.json",),
            resumes=False,
        ),
        Command(
            "info",
            ("info", "net.onnx"),
            inputs=scrfd,
            needs=("net.onnx",),
            writes=(),
            resumes=False,
        ),
        Command(
            "decode",
            ("decode", "--vamp_datalist_path", "list.txt", "--vamp_output_dir", "output")
            + ("--save_dir", "decoded"),
            prepare=("image2npz.py", "vamp"),
            inputs=scrfd,
            needs=("list.txt", "list.txt.manifest.json", "output/output_000003.npz"),
            writes=("decoded",),
            small=True,
        ),
        Command(
            "score manifest",
            ("score", "manifest", "photos", "--to", "run"),
            inputs=photos,
            needs=("photos",),
            writes=("run",),
            small=True,
            resumes=False,
        ),
        Command(
            "score run",
            ("score", "run", "run", "--detector", "net.onnx", "--engine", "ort", "--threads", "1")
            + ("--retry-failed",),
            inputs=scrfd,
            prepare=("score manifest",),
            needs=("net.onnx", "run/manifest.json", "run/shards.parquet", SHARDS),
            skips=(PHOTO,),
            writes=(),
            resumes=False,
            spawns=True,
        ),
        Command(
            "score merge",
            ("score", "merge", "run", "--output", "merged"),
            inputs=scrfd,
            prepare=("score manifest", "score run"),
            needs=("run/manifest.json", "run/shards.parquet"),
            writes=("merged",),
            resumes=False,
            rare=True,
        ),
        Command(
            "score check",
            ("score", "check", "run"),
            inputs=scrfd,
            prepare=("score manifest", "score run"),
            needs=("run/manifest.json", "run/shards.parquet"),
            writes=(),
            resumes=False,
            rare=True,
        ),
        Command(
            "score status",
            ("score", "status", "run"),
            inputs=scrfd,
            prepare=("score manifest", "score run"),
            needs=("run/manifest.json",),
            writes=(),
            resumes=False,
            rare=True,
        ),
        Command(
            "gallery create",
            ("gallery", "create", "g", *EMBEDDING),
            inputs=known_people,
            needs=("net.onnx", "embedder.onnx"),
            writes=(),
            resumes=False,
            rare=True,
        ),
        Command(
            "gallery add",
            ("gallery", "add", "g", "photos", *EMBEDDING),
            inputs=known_people,
            prepare=("gallery create",),
            needs=("net.onnx", "embedder.onnx", "photos", "g/gallery.json"),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=(),
            resumes=False,
        ),
        *(
            Command(
                f"gallery {step}",
                ("gallery", step, "g", *words),
                inputs=known_people,
                prepare=("gallery create", "gallery add"),
                needs=("g/gallery.json",),
                writes=(),
                resumes=False,
                rare=step != "info",
            )
            for step, words in {
                "search": (PHOTO, "--min-similarity", "0.5", *EMBEDDING),
                "list": (),
                "info": (),
                "remove": ("0--Event",),
                "merge": ("g",),
                "index": ("--kind", "hnsw"),
                "rebuild": EMBEDDING,
            }.items()
        ),
        Command(
            "doctor",
            ("doctor", "--onnx", "net.onnx", "--image", PHOTO, "--observed", "mine.npz")
            + ("--json", "found.json"),
            inputs=one_photo,
            needs=("net.onnx", PHOTO, "mine.npz"),
            writes=("found.json",),
            small=True,
            resumes=False,
        ),
        Command(
            "recipe",
            ("recipe", "sdd_fiqa", "--to", "laid_out"),
            needs=(),
            writes=("laid_out",),
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
            small=True,
            resumes=False,
        ),
        Command(
            "evaluate --images",
            ("evaluate", "scrfd", "--images", "photos", "-g", "truth", "--save_dir", "run")
            + ("--model_prefix_path", "net.onnx", "--engine", "ort", "--json", "ap.json"),
            inputs=lambda folder: (scrfd(folder), widerface(folder)),
            needs=("net.onnx", PHOTO, "truth/wider_face_val.mat"),
            of_a_folder=(PHOTO,),
            writes=("run", "ap.json"),
            small=True,
        ),
        Command(
            "import_onnx.py",
            ("--onnx", "released.onnx", "--output", "net.pth"),
            script=f"{RECIPE}/source_code/import_onnx.py",
            inputs=released_scrfd,
            around=any_released_weights,
            torch=True,
            needs=("released.onnx",),
            writes=("net.pth",),
            resumes=False,
            rare=True,
        ),
        Command(
            "list",
            ("list", "--json", "list.json"),
            needs=(),
            writes=("list.json",),
            resumes=False,
            rare=True,
        ),
        Command(
            "licences",
            ("licences", "--json", "licences.json"),
            needs=(),
            writes=("licences.json",),
            resumes=False,
            rare=True,
        ),
        Command(
            "bench",
            ("bench", "--model", "net.onnx", "--engine", "ort", "--seconds", "0.1")
            + ("--json", "bench.json"),
            inputs=scrfd,
            around=equal_speeds,
            needs=("net.onnx",),
            writes=("bench.json",),
            resumes=False,
            spawns=True,
            small=True,
        ),
        Command(
            "demo",
            ("demo", "--to", "shown"),
            inputs=downloaded,
            around=small_demo,
            needs=("home/scrfd_500m_bnkps.onnx", "home/yaoming.jpg"),
            writes=("shown",),
            resumes=False,
            spawns=True,
            rare=True,
        ),
        Command(
            "vacc selftest",
            ("vacc", "selftest", ARTIFACT, "--output", "found.json"),
            inputs=build_of_both,
            around=stand_in_device,
            needs=(f"{ARTIFACT}.onnx", f"{ARTIFACT}.build.json"),
            of_a_folder=(f"{ARTIFACT}.onnx",),
            writes=("found.json",),
            resumes=False,
        ),
        Command(
            "evaluate landmarks",
            ("evaluate", "landmarks", "--pred", "results.json", "--gt", "data", "--json")
            + ("nme.json", "--normalizer", "0,1"),
            inputs=landmark_results,
            needs=("results.json", "data/test.txt"),
            lists=("data/test.txt",),
            writes=("nme.json",),
            small=True,
            resumes=False,
            rare=True,
        ),
        Command(
            "evaluate verification",
            ("evaluate", "verification", "--images", "photos", "--detector", "net.onnx")
            + ("--embedder", "embedder.onnx", "--engine", "ort", "--json", "people.json"),
            inputs=people,
            needs=("net.onnx", "embedder.onnx", "photos/p3/1.png"),
            of_a_folder=("photos/p3/1.png",),
            writes=("people.json",),
            small=True,
            resumes=False,
            rare=True,
        ),
        Command(
            "evaluate quality",
            ("evaluate", "quality", "--scores", "mine=scores.txt", "--embeddings", "vectors.npz")
            + ("--fmr", "0.05", "--resamples", "10", "--json", "discard.json"),
            inputs=scored_people,
            needs=("scores.txt", "vectors.npz"),
            lists=("scores.txt",),
            writes=("discard.json",),
            resumes=False,
            rare=True,
        ),
        Command(
            "evaluate quality-response",
            ("evaluate", "quality-response", "--images", "photos", "--quality", "net.onnx")
            + ("--engine", "ort", "--kinds", "blur", "--json", "response.json"),
            inputs=photos_and(tiny_sdd_fiqa),
            needs=("net.onnx", PHOTO),
            of_a_folder=(PHOTO,),
            writes=("response.json",),
            small=True,
            resumes=False,
            rare=True,
        ),
        Command(
            "infer.py",
            ("--file_path", "photos", "--save_dir", "out", *RUN),
            script="common/utils/infer.py",
            inputs=photos_and(tiny_magface),
            needs=("photos", "net.onnx"),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("out",),
            rare=True,
        ),
        Command(
            "make_toy_set.py",
            ("--photos", "photos", "--detector", "net.onnx", "--save_dir", "toy"),
            script="face_alignment/pipnet/source_code/make_toy_set.py",
            inputs=people,
            needs=("photos", "net.onnx"),
            skips=("photos/p3/1.png",),
            of_a_folder=("photos/p3/1.png",),
            writes=("toy",),
            rare=True,
        ),
        Command(
            "preprocess_wflw.py",
            ("--data_dir", "wflw", "--save_dir", "crops"),
            script="face_alignment/pipnet/source_code/preprocess_wflw.py",
            inputs=wflw,
            needs=("wflw/WFLW_annotations/list_98pt_rect_attr_test.txt",),
            lists=("wflw/WFLW_annotations/list_98pt_rect_attr_test.txt",),
            of_a_folder=("wflw/WFLW_annotations/list_98pt_rect_attr_test.txt",),
            skips=("wflw/WFLW_images/0--Event/photo_0.png",),
            writes=("crops",),
            rare=True,
        ),
        Command(
            "npz_decode.py, PIPNet",
            ("--input_npz_path", "list.txt", "--out_npz_dir", "output") + ("--save_dir", "decoded"),
            script="face_alignment/pipnet/build_in/decode/npz_decode.py",
            prepare=("image2npz.py", "vamp"),
            inputs=pipnet,
            needs=("list.txt", "list.txt.manifest.json", "output/output_000003.npz"),
            writes=("decoded",),
            rare=True,
        ),
        Command(
            "decode_vamp.py, SDD-FIQA",
            ("list.txt", "output", "--save_dir", "decoded"),
            script=f"{SDD_FIQA}/build_in/decode/decode_vamp.py",
            prepare=("image2npz.py", "vamp"),
            inputs=photos_and(tiny_sdd_fiqa),
            needs=("list.txt", "list.txt.manifest.json", "output/output_000003.npz"),
            writes=("decoded",),
            small=True,
            rare=True,
        ),
        Command(
            "decode_vamp.py, MagFace",
            ("--vamp_datalist_path", "list.txt", "--vamp_output_dir", "output")
            + ("--save_dir", "decoded"),
            script=f"{MAGFACE}/build_in/decode/decode_vamp.py",
            prepare=("image2npz.py", "vamp"),
            inputs=photos_and(tiny_magface),
            needs=("list.txt", "list.txt.manifest.json", "output/output_000003.npz"),
            writes=("decoded",),
            rare=True,
        ),
        Command(
            "make_degraded_set.py",
            ("--image_dir", "photos", "--save_dir", "worse", "--levels", "1"),
            script=f"{SDD_FIQA}/source_code/make_degraded_set.py",
            inputs=photos_and(tiny_sdd_fiqa),
            needs=("photos",),
            skips=(PHOTO,),
            of_a_folder=(PHOTO,),
            writes=("worse",),
            rare=True,
        ),
        Command(
            "align_faces.py",
            ("--photos", "photos", "--detector", "net.onnx", "--save_dir", "cut"),
            script="common/utils/align_faces.py",
            inputs=people,
            needs=("photos", "net.onnx"),
            skips=("photos/p3/1.png",),
            of_a_folder=("photos/p3/1.png",),
            writes=("cut",),
            rare=True,
        ),
        Command(
            "rec2images.py",
            ("--rec", "train.rec", "--save_dir", "unpacked"),
            script=f"{MAGFACE}/source_code/rec2images.py",
            inputs=record_file,
            needs=("train.rec",),
            writes=("unpacked",),
            rare=True,
        ),
        Command(
            "make_list.py",
            ("--list", "img.list", "--root", "photos", "--output", "new.list"),
            script=f"{MAGFACE}/source_code/make_list.py",
            inputs=photos_and(tiny_magface, 50),
            needs=("img.list",),
            lists=("img.list",),
            writes=("new.list",),
            small=True,
            resumes=False,
            rare=True,
        ),
        Command(
            "quality_assessment.py",
            ("--feat_list", "feat.list", "--csv", "ranked.csv"),
            script=f"{MAGFACE}/source_code/quality_assessment.py",
            inputs=features,
            needs=("feat.list",),
            lists=("feat.list",),
            writes=("ranked.csv",),
            small=True,
            resumes=False,
            rare=True,
        ),
        Command(
            "eval_quality.py",
            ("--feat_list", "feat.list", "--pair_list", "pair.list", "--fmr", "0.3")
            + ("--json", "reject.json"),
            script=f"{MAGFACE}/source_code/eval_quality.py",
            inputs=features,
            needs=("feat.list", "pair.list"),
            writes=("reject.json",),
            resumes=False,
            rare=True,
        ),
        Command(
            "eval_recognition.py",
            ("--feat_list", "feat.list", "--pair_list", "pair.list", "--json", "sets.json"),
            script=f"{MAGFACE}/source_code/eval_recognition.py",
            inputs=features,
            needs=("feat.list", "pair.list"),
            writes=("sets.json",),
            small=True,
            resumes=False,
            rare=True,
        ),
        Command(
            "eval_ijb.py",
            ("--feat_list", "feat.list", "--base_dir", ".", "--json", "rates.json"),
            script=f"{MAGFACE}/source_code/eval_ijb.py",
            inputs=templates,
            needs=("feat.list", "meta/ijbc_face_tid_mid.txt", "meta/ijbc_template_pair_label.txt"),
            lists=("meta/ijbc_face_tid_mid.txt", "meta/ijbc_template_pair_label.txt"),
            writes=("rates.json",),
            small=True,
            resumes=False,
            rare=True,
        ),
        Command(
            "export_tensorrt.py",
            ("--onnx", "net.onnx", "--repository", "served"),
            script=f"{MAGFACE}/source_code/export_tensorrt.py",
            inputs=scrfd,
            needs=("net.onnx",),
            writes=("served",),
            resumes=False,
            rare=True,
        ),
    )
}


# Writes a list for programs that split its lines at white space, so it refuses such names.
WITHOUT_SPACES = ("make_degraded_set.py",)
# Runners that name their results after pictures.
OF_EQUAL_NAMES = ("scrfd_vsx.py", "image2npz.py", "vsx_infer.py", "magface_vsx.py")
OF_EQUAL_NAMES += ("sdd_fiqa_vsx.py", "predict")


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


def pipe(path: Path) -> None:
    missing(path)
    os.mkfifo(path)


def endless(path: Path) -> None:
    missing(path)
    path.symlink_to("/dev/zero")


def of_40_gb(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(40 << 30)  # takes no place on the disk


def wrong_types(path: Path) -> None:
    """Let every value of a document, or of a network's contract, have a type that none has."""
    if path.suffix == ".yaml":
        path.write_text("".join(f"{key}: [[1]]\n" for key in ("name", "frontend", "backend")))
        return
    model = onnx.load(path) if path.suffix == ".onnx" else None
    (held,) = [e for e in model.metadata_props if e.key == METADATA_KEY] if model else (None,)
    entry = json.loads(held.value if held else path.read_text())
    text = json.dumps({k: v if k == "schema" else [[1]] for k, v in entry.items()})
    if held:
        held.value = text
        onnx.save(model, path)
    else:
        path.write_text(text)


FAULTS = {
    "missing": missing,
    "empty": empty,
    "cut short": truncated,
    "a web page": web_page,
    "a folder": directory,
    "a link to itself": link_to_itself,
    "not readable": unreadable,
    "a pipe": pipe,
    "endless": endless,
    "40 GB": of_40_gb,
    "wrong types": wrong_types,
}

# Only a file can be cut short or be something else; a file in a folder's place is a picture.
FILES_ONLY = ("cut short", "a folder", "a web page", "a pipe", "endless", "40 GB")


NETWORKS = ("net.onnx", "embedder.onnx")  # with a contract


def broken_inputs():
    """Yield command, path and fault of the matrix."""
    for command in COMMANDS.values():
        for path in (*command.needs, *command.skips):
            for fault in FAULTS:
                of_a_file = fault in FILES_ONLY and not Path(path).suffix
                # Then it is not one of the folder's files.
                gone = path in command.of_a_folder and fault in ("missing", "a folder")
                shorter = path in command.lists and fault == "cut short"
                # A server sends something, or closes the connection.
                waiting = command.name == "download" and fault == "a pipe"
                typed = Path(path).suffix in (".json", ".yaml") or path in NETWORKS
                untyped = fault == "wrong types" and (not typed or "download" in command.name)
                if not (of_a_file or gone or shorter or waiting or untyped):
                    yield command, path, fault


# Folders below that of the photos, which are named and not listed.
LEFT_OUT = ("closed sub-folder", "linked sub-folder", "too long a path")


def walks(command: Command) -> bool:
    """Return whether a command reads whatever photos are in a folder."""
    return PHOTO in command.skips and "photos" in command.needs


def render() -> str:
    """Return the matrix as tables: the exit code that the test of a cell holds a command to."""
    inputs: Dict[Tuple[str, ...], Dict[str, int]] = {}
    for command, path, fault in broken_inputs():
        code = 1 if path in command.skips else 2
        inputs.setdefault((command.name, path), {})[fault] = code
    for command in COMMANDS.values():
        if walks(command):
            inputs[command.name, "photos"].update(dict.fromkeys(LEFT_OUT, 1))
    outputs = {
        (command.name, command.writes[0]): answers(command)
        for command in COMMANDS.values()
        if command.writes
    }
    return f"{table('file read', inputs)}\n{table('file written', outputs)}"


def table(title: str, codes: Dict[Tuple[str, ...], Dict[str, int]]) -> str:
    """Return a row a command and file, and a column a fault."""
    faults = list(dict.fromkeys(fault for row in codes.values() for fault in row))
    rows = [("command", title, *faults)]
    rows += [(*key, *(str(row.get(fault, "-")) for fault in faults)) for key, row in codes.items()]
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


# Faults of outputs -------------------------------------------------------------------------------


def leave(path: Path, is_file: bool) -> Path:
    """Make a file, or a folder with one in it; return the file."""
    file = path if is_file else path / "mine"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    return file


@contextlib.contextmanager
def strangers(path: Path) -> Iterator[None]:
    """Something that someone else has made is there: a file is replaced, a folder is not."""
    mine = leave(path, bool(path.suffix))
    yield
    if mine != path:
        assert mine.read_text() == "mine"
        mine.unlink()


@contextlib.contextmanager
def another_kind(path: Path) -> Iterator[None]:
    """A folder is in a file's place, a file in a folder's: it is left alone."""
    mine = leave(path, not path.suffix)
    yield
    assert mine.read_text() == "mine"
    missing(path)


@contextlib.contextmanager
def closed_folder(path: Path) -> Iterator[None]:
    """The folder that it would be made in may not be written."""
    path.parent.chmod(0o555)
    try:
        with without_roots_powers():
            yield
    finally:
        path.parent.chmod(0o755)


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """It is there, and may not be written; a file may be replaced."""
    path.touch() if path.suffix else path.mkdir()
    path.chmod(0o555)
    try:
        with without_roots_powers():
            yield
    finally:
        path.chmod(0o755)


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let every write beyond so many bytes of a file fail, as on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        # A test's standard output is a file too.
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


OUTPUT_FAULTS = {
    "someone else's": strangers,
    "another kind": another_kind,
    "closed folder": closed_folder,
    "read-only": read_only,
    "full at 700 B": lambda path: full_disk(700),
    "full at 4 KB": lambda path: full_disk(4096),
}
# Command, flag of a file that it writes, and one of its inputs in that place.
OVER_INPUTS = [
    ("predict", "--html", PHOTO),
    ("predict", "--html", "embedder.onnx"),
    ("match", "--draw", PHOTO),
    ("match", "--json", "profile.json"),
    ("calibrate similarity", "--output", PHOTO),
    ("calibrate quality", "--output", "net.onnx"),
    ("calibrate appearance", "--output", "photos/p3/1.png"),
    ("export", "--output", "released.onnx"),
    ("sensitivity", "--json", PHOTO),
    ("sensitivity", "--plot", "build.yaml"),
    ("compare", "--json", PHOTO),
    ("compare", "--html", "net.onnx"),
    ("doctor", "--json", "mine.npz"),
    ("evaluate --pred", "--csv", "predictions/1--Event/photo_3.txt"),
    ("evaluate --pred", "--json", "truth/wider_hard_val.mat"),
    ("evaluate --images", "--json", PHOTO),
    ("image2npz.py", "--text_path", PHOTO),
    ("gen_feat.py", "--feat_list", "img.list"),
    ("gen_feat.py", "--feat_list", PHOTO),
    ("export_onnx.py, SCRFD", "--output", "released.onnx"),
    ("export_onnx.py, PIPNet", "--output", "released.onnx"),
    ("export_onnx.py, MagFace", "--output", "released.onnx"),
    ("bench", "--json", "net.onnx"),
    ("evaluate landmarks", "--json", "results.json"),
    ("evaluate landmarks", "--html", "data/test.txt"),
    ("evaluate verification", "--json", "photos/p3/1.png"),
    ("evaluate quality", "--json", "vectors.npz"),
    ("evaluate quality-response", "--json", "net.onnx"),
    ("make_list.py", "--output", "img.list"),
    ("quality_assessment.py", "--csv", "feat.list"),
    ("eval_quality.py", "--json", "pair.list"),
    ("eval_recognition.py", "--csv", "feat.list"),
    ("eval_ijb.py", "--json", "meta/ijbc_face_tid_mid.txt"),
]

# Of the output folders, some take files beside others, and one must be empty.
TAKEN = {"gen_feat.py": 0, "recipe": 0, "eject": 2, "score manifest": 4, "demo": 2}
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": 128 + 9}


def answers(command: Command) -> Dict[str, int]:
    """Return a command's exit code for each fault of its output or of its folder of pictures."""
    is_file = bool(Path(command.writes[0]).suffix)
    codes = {
        "someone else's": TAKEN.get(command.name, 4 if command.resumes else 0),
        "another kind": 2,
        "closed folder": 2,
        "read-only": 0 if is_file else 2,
        "full at 700 B": 2,
        "full at 4 KB": 0 if command.small else 2,
    }
    if PHOTO in command.skips and "img.list" not in command.needs:
        codes.update({"odd names": 0, "line break in a name": 2})
        if command.name in WITHOUT_SPACES:
            del codes["odd names"]
    if command.name in OF_EQUAL_NAMES:
        codes["equal names"] = 0
    if PHOTO in command.of_a_folder:
        codes["50,000 files"] = 0
    if command.name in {name for name, _, _ in OVER_INPUTS}:
        codes["is an input"] = 2
    if command.resumes:
        codes.update({"a file put beside": 4, "holds the input": 2, "run.json of wrong types": 4})
        codes["someone else's, --overwrite"] = 0 if command.name in TAKEN else 4
        if PHOTO in (*command.needs, *command.skips):
            codes["another photo"] = 4
        codes["emptied results"] = 0
        # MagFace's training keeps all weights; only its last checkpoint is necessary.
        if command.name != "train.py, MagFace":
            codes["a changed result"] = 4
    return {**codes, **SIGNALS}


if __name__ == "__main__":
    TABLE.write_text(render())
