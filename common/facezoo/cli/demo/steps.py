"""The steps of the demo."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from ... import weights
from ...artifact import Artifact
from ...compiler.calibration import open_calibration
from ...deploy.recipes import recipe_of, recipes_folder
from ...errors import BackendRunError, InputError
from ...evaluation.drift import compare_detections
from ...files import write_bytes
from ...image.draw import contact_sheet, draw_faces
from ...image.files import read_image_rgb, write_image_rgb
from ...models import find_card
from ...models.magface.card import MATCH_THRESHOLDS
from ...models.magface.model import FaceEmbedder
from ...models.scrfd.model import FaceDetector
from ...pipeline.load import load
from ...pipeline.people import match_photos
from ...pipeline.photo import Predictor
from ...results import FaceDetections
from ...vacc.build_config import parse_build_config
from ..compile import override
from ..match import DETECTOR, EMBEDDER
from ..render import render_build

__all__ = ["run"]

CARD = "scrfd_500m_bnkps"
PHOTOS = ("astronaut", "players", "gdp", "yaoming")
PERSON, GROUP = "yaoming", "players"
HELD_OUT = "astronaut"  # photo for the accuracy gate; int8 is calibrated on the others
DTYPES = ("fp32", "fp16", "int8")
ROUNDS = 7
MARK = ".facezoo-demo"  # a file in a folder that an earlier demo made


def run(args: argparse.Namespace) -> int:
    """Run the steps and print each."""
    from ...models.scrfd.graph import export_released

    folder: Path = args.to
    begin(folder)
    print(f"1 fetch {CARD}, {EMBEDDER} and {len(PHOTOS)} photos")
    files = fetch(CARD, EMBEDDER, *PHOTOS)
    print("2 cut the released graph back to raw heads, compare both in ONNX Runtime")
    onnx = folder / "onnx" / f"{CARD}.onnx"
    card, worst = export_released(files[CARD], onnx)
    print(f"  {onnx}: recognised as {card.id}, largest difference {worst:.1e}")
    print(f"3 compile {', '.join(DTYPES)}; int8 on {len(PHOTOS) - 1} photos, judged by the other")
    copy_photos(files, folder)
    artifacts = [compile_demo(folder, onnx, dtype) for dtype in DTYPES]
    print(f"4 find faces in {len(PHOTOS)} photos")
    images = [read_image_rgb(files[name]) for name in PHOTOS]
    found = [measure(artifact, images, [files[name] for name in PHOTOS]) for artifact in artifacts]
    print(f"  {'build':6}{'faces':>7}{'ms/photo':>10}{'photos/s':>10}{'MB':>7}")
    for artifact, (faces, latency, rate) in zip(artifacts, found):
        size = artifact.model.stat().st_size / 1e6 if artifact.model else 0.0
        total = sum(len(one) for one in faces)
        print(f"  {artifact.dtype:6}{total:>7}{latency:>10.1f}{rate:>10.1f}{size:>7.1f}")
    print("5 against fp32")
    for artifact, (faces, _, _) in zip(artifacts[1:], found[1:]):
        drift = compare_detections(zip(found[0][0], faces))
        print(
            f"  {artifact.dtype}: {drift.missed} missed, {drift.extra} extra, mean IoU "
            f"{drift.mean_iou:.4f}, corners within {drift.worst_corner:.2f} px, scores within "
            f"{drift.worst_score:.4f}"
        )
    print("6 the npz route: image2npz, vamp, npz_decode, against the runner")
    npz_route(folder, artifacts[0], [files[name] for name in PHOTOS])
    print(f"7 match: the face of {PERSON} among those of {GROUP}")
    detector = load(DETECTOR, kind=FaceDetector)
    with Predictor(detector, embedder=load(EMBEDDER, kind=FaceEmbedder)) as model:
        match = match_photos(model, *(read_image_rgb(files[name]) for name in (PERSON, GROUP)))
    print(
        f"  face {match.best} of {len(match.second)}, counted from 0: cosine "
        f"{match.cosines.max():.2f}, the next one {match.next_cosine:.2f}; one person from "
        f"{MATCH_THRESHOLDS[EMBEDDER].cosine:.2f} on"
    )
    sheet = folder / "faces.png"
    drawn = [draw_faces(image, faces) for image, faces in zip(images, found[0][0])]
    captions = [
        f"{name}: {len(faces)} face{'s' * (len(faces) != 1)}"
        for name, faces in zip(PHOTOS, found[0][0])
    ]
    write_image_rgb(sheet, contact_sheet(drawn, captions, columns=2))
    print(f"look at {sheet}; the artifacts are in {folder / 'deploy_weights'}")
    return 0


def begin(folder: Path) -> None:
    """Mark a new folder as the demo's; InputError if someone else's files could be replaced."""
    if not (folder / MARK).is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{str(folder)!r} is not empty; name a new folder")
        write_bytes(folder / MARK, b"facezoo demo replaces files in this folder.\n")


def fetch(*names: str) -> Dict[str, Path]:
    """Download files by name; the first failure ends the demo."""
    files = {}
    for name, result in weights.fetch_many(names):
        if isinstance(result, Exception):
            raise result
        files[name] = result
    return files


def copy_photos(files: Dict[str, Path], folder: Path) -> None:
    """Create the folders of the calibration images and of the held-out image."""
    for name in PHOTOS:
        target = folder / ("held_out" if name == HELD_OUT else "calibration") / files[name].name
        write_bytes(target, files[name].read_bytes())


def compile_demo(folder: Path, onnx: Path, dtype: str) -> Artifact:
    """Compile the recipe's YAML to the demo's folder; the gate checks int8."""
    from ...compiler.build import compile_model
    from ...compiler.gate import GateSettings, open_gate

    recipe = folder / "official_scrfd.yaml"
    text = render_build(find_card(CARD), "official_scrfd")
    text = text.replace("./deploy_weights/", f"{folder.as_posix()}/deploy_weights/")
    text = text.replace("path: calibration/", f"path: {folder.as_posix()}/calibration/")
    text = text.replace("suffix: jpg, get_data_num: 50", f"get_data_num: {len(PHOTOS) - 1}")
    write_bytes(recipe, text.encode())
    config = override(parse_build_config(text.encode(), recipe), dtype=dtype, model=str(onnx))
    calibration = gate = None
    if dtype == "int8":
        calibration = open_calibration(config, find_card(CARD).preprocess)
        gate = open_gate(config, GateSettings(images=folder / "held_out"), calibration)
    artifact = compile_model(config, gate=gate, calibration=calibration)
    print(f"  {artifact.prefix}")
    for check in gate.checks if gate else ():
        print(f"    {check}")
    return artifact


def npz_route(folder: Path, artifact: Artifact, photos: List[Path]) -> None:
    """Detect the faces on both routes, in separate processes, and compare the files."""
    recipes = recipes_folder()
    common, recipe = recipes / "common", recipes / recipe_of(CARD) / "build_in"
    work = folder / "npz"
    for photo in photos:
        write_bytes(work / "photos" / photo.name, photo.read_bytes())
    pictures, model = str(work / "photos"), str(artifact.prefix)
    listed, outputs = str(work / "list.txt"), str(work / "outputs")
    runner, decoded = work / "runner", work / "decoded"
    vamp = ["-m", "facezoo.cli.main", "vamp", "-m", model, "-i", "2", "-b", "2"]
    anew = "--overwrite"  # The photos are written again, too.
    commands = [
        [str(common / "utils" / "image2npz.py"), "--dataset_path", pictures]
        + ["--target_path", str(work / "inputs"), "--text_path", listed, anew],
        [*vamp, "--datalist", listed, "--path_output", outputs, anew],
        [str(recipe / "decode" / "npz_decode.py"), "--txt", str(decoded)]
        + ["--vamp_datalist_path", listed, "--vamp_output_dir", outputs, anew],
        [str(recipe / "vsx" / "python" / "scrfd_vsx.py"), "--file_path", pictures]
        + ["--model_prefix_path", model, "--save_dir", str(runner), "--retry_border", "0", anew],
        [*vamp, "-t", "3"],
    ]
    for command in commands:
        shown = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        if shown.returncode:
            raise BackendRunError(f"{' '.join(command)} failed: {shown.stderr.strip()}")
        for line in shown.stdout.splitlines():
            print(f"  {line}")
    same = (runner / "results.json").read_bytes() == (decoded / "results.json").read_bytes()
    print(f"  results.json of both routes: {'the same bytes' if same else 'THEY DIFFER'}")


def measure(
    artifact: Artifact, images: List[np.ndarray], paths: List[Path]
) -> Tuple[List[FaceDetections], float, float]:
    """Detect the faces; time one decoded photo, and the folder from file to faces.

    Returns
    -------
    faces : list of FaceDetections
    latency : float
        Milliseconds per photo, median.
    rate : float
        Photos per second over a folder, median.
    """
    with load(artifact.prefix, kind=FaceDetector) as detector:
        faces = [detector(image) for image in images]
        latency = statistics.median(timed(lambda: detector(images[0])) for _ in range(ROUNDS))
        folder = paths * 6
        seconds = statistics.median(timed(lambda: drain(detector, folder)) for _ in range(3))
    return faces, latency * 1e3, len(folder) / seconds


def timed(function) -> float:  # type: ignore[no-untyped-def]
    """Return the seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def drain(detector: FaceDetector, paths: List[Path]) -> None:
    """Run a folder and discard the results."""
    for result in detector.stream(paths):
        if isinstance(result, Exception):
            raise InputError(f"{str(result.source)!r}: {result}")
