"""Parsers of files from elsewhere: they return, or raise an error of the package, whatever comes.

``python tests/faults/fuzz_targets.py NAME --seconds 600`` searches with atheris (pip install
atheris), guided by coverage, and keeps what breaks a parser in tests/faults/corpus; the tests
replay that and go on from it without a guide.
"""

import argparse
import inspect
import io
import json
import os
import random
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from facezoo.arrays import read_npz
from facezoo.artifact import BuildInfo, read_artifact, write_artifact
from facezoo.contract import METADATA_KEY, Contract
from facezoo.datasets.image_list import read_image_list, read_paths
from facezoo.datasets.pairs import read_bin, read_feature_list, read_pair_labels
from facezoo.datasets.wflw import read_annotations
from facezoo.datasets.widerface import read_predictions
from facezoo.errors import FaceZooError, ImageError
from facezoo.files import write_bytes
from facezoo.models import find_card
from facezoo.profiles.appearance import DEFAULT, read_appearance
from facezoo.profiles.measures import MEASURES
from facezoo.profiles.quality import make_quality_profile, read_quality, write_quality
from facezoo.profiles.similarity import (
    SimilarityPoint,
    SimilarityProfile,
    read_similarity,
    write_similarity,
)
from facezoo.runs import JOURNAL_FILE, RUN_FILE, Inputs, RunFolder
from facezoo.vacc.build_config import parse_build_config
from facezoo.vacc.npz import read_datalist, read_pictures
from facezoo.vacc.vdsp import read_vdsp, render_vdsp
from facezoo.written import LIST_FILE

SLOWEST = 5  # seconds of processor time for one file of 4 KB
CORPUS = Path(__file__).with_name("corpus")
PREPROCESS = find_card("scrfd_500m_bnkps").preprocess


def archive_of(name: str, content: bytes) -> bytes:
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return text.getvalue()


def npz_of(**arrays: np.ndarray) -> bytes:
    text = io.BytesIO()
    np.savez(text, **arrays)
    return text.getvalue()


def read_manifest(path: Path) -> None:
    """Read a list whose manifest is the file."""
    datalist = path.with_name("list.txt")
    datalist.write_text("/in/0--Event/a.npz\n")
    path.replace(path.with_name("list.txt.manifest.json"))
    read_pictures(datalist)


def read_metadata(path: Path) -> None:
    """Read a graph's contract whose text is the file, and write the same one again."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    contract = Contract.from_metadata({METADATA_KEY: text})
    assert Contract.from_metadata(contract.to_metadata()) == contract


SHA256 = "0a" * 32


def read_quality_scores(path: Path) -> None:
    """Read a profile whose thresholds must be scores that the model gives."""
    profile = read_quality(path)
    low, *_, high = profile.percentiles
    assert all(low <= threshold <= high for threshold in profile.thresholds.values())


def read_cosines(path: Path) -> None:
    """Read a profile whose thresholds must be cosines."""
    for point in read_similarity(path, SHA256).points:
        assert 0 < point.fmr < 1
        assert point.refusal or (-1 <= point.low <= point.high <= 1 and 0 <= point.fnmr <= 1)


def read_limits(path: Path) -> None:
    """Read a profile whose limits must be in the ranges of their measures."""
    limits = read_appearance(path).limits
    assert all(kind.accepts(getattr(limits, limit)) for limit, kind, _ in MEASURES.values())


def read_build(path: Path) -> None:
    """Read an artifact whose record is the file."""
    path.with_name("mod.onnx").write_bytes(b"graph")
    build = read_artifact(path.with_name("mod")).build
    assert build.dtype in ("fp32", "fp16", "int8") and build.outputs


def written(write) -> bytes:
    """Return what a writer writes."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "mod"))
        (path,) = (path for path in Path(folder).iterdir() if path.suffix != ".onnx")
        return path.read_bytes()


def short_limits() -> bytes:
    """Return the package's limits with one group of faces each."""
    entry = json.loads(DEFAULT.read_text("utf-8"))
    for found in entry["found"].values():
        del found["groups"][1:]
    return json.dumps(entry).encode()


POINTS = (SimilarityPoint(1e-2, 0.3, 0.2, 0.4, 0.1), SimilarityPoint(1e-3, refusal="too few"))
SIMILARITY = SimilarityProfile("w600k_mbf", SHA256, 10, 2000, POINTS, {"detector": None})
QUALITY = make_quality_profile(np.arange(9.0), "sdd_fiqa_r50", SHA256, {"mine": 7.5})
BUILD = BuildInfo(
    name="toy_fp16",
    dtype="fp16",
    arithmetic="float32",
    source="toy.onnx",
    source_sha256=SHA256,
    card="toy",
    inputs={"input": ("batch", 3, 8, 8)},
    outputs=("score",),
    graph={"folded": {"Identity": 1}, "prelu_rewritten": 2},
    deviation={"score": 1e-6},
    tools={"onnx": "1"},
    calibration=({"file": "a.jpg", "sha256": SHA256},),
    gate={"faces": 3},
)


def start_run(path: Path) -> None:
    """Go on with the run of a folder in which one of its own files is the file."""
    for name, content in RUN_OF_TWO.items():
        if name != path.name:
            path.with_name(name).write_bytes(content)
    path.with_name("a.jpg.txt").write_bytes(b"1")
    with RunFolder(path.parent, "test", {"scale": 1}, Inputs([], [])) as run:
        names = ["a.jpg", "b.jpg"]
        for name in names[run.completed(names, lambda name: [path.with_name(f"{name}.txt")]) :]:
            run.record(name, ImageError("'b.jpg' is empty"))
        run.write_items("results.json", "test/1", "items")
        run.finish()


def files_of_a_run() -> dict:
    """Return the bookkeeping of a run that was stopped after the first of two items."""
    with tempfile.TemporaryDirectory() as here, RunFolder(
        Path(here), "test", {"scale": 1}, Inputs([], [])
    ) as run:
        write_bytes(Path(here, "a.jpg.txt"), b"1")
        run.record("a.jpg", Number(1))
        names = (RUN_FILE, JOURNAL_FILE, LIST_FILE)
        return {name: Path(here, name).read_bytes() for name in names}


class Number:
    """A result of one item."""

    def __init__(self, value: float) -> None:
        self.value = value

    def to_dict(self) -> dict:
        return {"value": self.value}


RUN_OF_TWO = files_of_a_run()
TEXT = b"0--Event/a.jpg\n2\n1 2 30 40 0.9\n5 6 7.5 8 0.125\n"
MANIFEST = {
    "schema": "facezoo.npz/1",
    "facezoo": "0.1.0",
    "root": "/photos",
    "npz_folder": "/in",
    "items": [
        {
            "path": "0--Event/a.jpg",
            "width": 70,
            "height": 50,
            "npz": "0--Event/a.npz",
            "sha256": "0" * 64,
        },
        {"path": "b.jpg", "error": "cannot be read"},
    ],
}
YAML = b"""name: official_scrfd_fp16
frontend: {type: onnx, checkpoint: net.onnx, shape: {input.1: [1, 3, 64, 64]}, dtype: fp32}
backend: {type: tvm_vacc, dtype: int8, quantize: {calibrate_mode: max}}
dataset:
  type: tvm
  path: photos/
  sampler: {suffix: jpg, get_data_num: 5}
  process_ops:
  - {type: DecodeImage}
  - {type: Resize, size: [64, -1], adaptive_side: long}
  - {type: ToTensor}
workspace: {path: ./deploy_weights/}
"""

# Name -> the file's name, what reads it, valid content to begin with.
TARGETS = {
    "predictions": ("a.txt", lambda path: read_predictions(path.parent.parent), [TEXT]),
    "archive": (
        "predictions.tar.gz",
        read_predictions,
        [archive_of("0--Event/a.txt", TEXT), archive_of("0--Event/b.txt", b"b\n0\n")],
    ),
    "vdsp": (
        "vdsp.json",
        lambda path: read_vdsp(path, PREPROCESS),
        [json.dumps(render_vdsp(PREPROCESS), indent=4).encode()],
    ),
    "yaml": ("build.yaml", lambda path: parse_build_config(path.read_bytes(), path), [YAML]),
    "manifest": ("manifest.json", read_manifest, [json.dumps(MANIFEST).encode()]),
    "contract": (
        "contract.json",
        read_metadata,
        [
            Contract.from_card(find_card(name)).to_metadata()[METADATA_KEY].encode()
            for name in ("scrfd_500m_bnkps", "pip_resnet18", "w600k_mbf")
        ],
    ),
    "run": (RUN_FILE, start_run, [RUN_OF_TWO[RUN_FILE]]),
    "journal": (JOURNAL_FILE, start_run, [RUN_OF_TWO[JOURNAL_FILE]]),
    "files of a run": (LIST_FILE, start_run, [RUN_OF_TWO[LIST_FILE]]),
    "quality profile": (
        "quality.json",
        read_quality_scores,
        [written(lambda path: write_quality(path, QUALITY))],
    ),
    "similarity profile": (
        "similarity.json",
        read_cosines,
        [written(lambda path: write_similarity(path, SIMILARITY))],
    ),
    "appearance profile": ("appearance.json", read_limits, [short_limits()]),
    "build info": (
        "mod.build.json",
        read_build,
        [written(lambda path: write_artifact(path, b"graph", BUILD))],
    ),
    "datalist": ("list.txt", read_datalist, [b"/in/a.npz\n/in/b c.npz\r\n", b"a.npz"]),
    "npz": ("a.npz", read_npz, [npz_of(input_0=np.zeros((3, 2, 2), np.uint8))]),
    "image list": (
        "img.list",
        lambda path: (read_image_list(path), read_paths(path)),
        [b"a.jpg 0\nb c.jpg 1\n", b"0 a.jpg 0 1\n", b"a.jpg;0\nb.jpg;1\n"],
    ),
    "features": (
        "feat.list",
        lambda path: read_feature_list(path, 4),
        [b"a.jpg 0.5 1 -2e-3 4\nb.jpg 1 2 3 4\n"],
    ),
    "pairs": ("pair.list", read_pair_labels, [b"a.jpg b.jpg 1\na.jpg c.jpg 0\n"]),
    "bin": ("lfw.bin", read_bin, [b"\x80\x03]q\x00(C\x01aC\x01be]q\x01\x88a\x86q\x02."]),
    "WFLW": (
        "list_98pt_rect_attr_test.txt",
        read_annotations,
        [(" ".join(["1.5"] * 196 + ["1", "2", "30", "40"] + ["0"] * 6) + " a/b.jpg\n").encode()],
    ),
}


def try_content(name: str, data: bytes) -> None:
    """Let a parser read a file of this content; only an error of the package is an answer."""
    file, read, _ = TARGETS[name]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as here:
        path = Path(here, "0--Event", file)
        path.parent.mkdir()
        path.write_bytes(data)
        try:
            read(path)
        except FaceZooError as error:
            text = str(error)
            if len(text) > 2000 or "\n" in text:
                raise AssertionError(f"not one line of a screen: {text[:200]!r}") from error


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a few places: bytes, pieces cut, doubled or moved, and what parsers trip over."""
    tokens = [b"\0", b"\xff", b"-1", b"0", b"1e999", b"NaN", b"null", b"\n", b" ", b"[", b"{"]
    tokens += [b"99999999999999999999", b"..", b"/", b"\xe9", b"\xe5\x85\xa8", b"true", b'"', b"&a"]
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(out))
        end = min(len(out), start + rng.choice([0, 1, 1, 2, 8, 60]))
        kind = rng.randrange(4)
        if kind == 0:
            out[start:end] = rng.choice(tokens)
        elif kind == 1:
            out[start:end] = b""
        elif kind == 2:
            out[start:start] = out[start:end] * rng.choice([1, 2, 50])
        else:
            out[start:end] = bytes(rng.choices(range(256), k=end - start))
    return bytes(out)


def instrument() -> None:
    """Let the package's functions and methods report which of their branches are taken."""
    import atheris

    for module in [each for name, each in sys.modules.items() if name.startswith("facezoo.")]:
        own = [each for each in vars(module).values() if inspect.getmodule(each) is module]
        methods = [vars(each).values() for each in own if inspect.isclass(each)]
        for function in filter(inspect.isfunction, [*own, *(m for each in methods for m in each)]):
            atheris.instrument_func(function)


def too_slow(number, frame):
    raise TimeoutError(f"not answered within {SLOWEST} s of processor time")


def try_and_keep(name: str, data: bytes, found: Path) -> None:
    """Try content; keep the first that breaks a parser in one place, and go on."""
    signal.setitimer(signal.ITIMER_PROF, SLOWEST)
    try:
        try_content(name, data)
    except Exception as error:
        last = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
        path = found / f"{type(error).__name__}_{Path(last.filename).stem}_{last.lineno}"
        if not path.exists():
            path.write_bytes(data)
            print(f"FOUND {path}: {error!r}"[:2000], file=sys.stderr, flush=True)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600, help="of processor time")
    args = parser.parse_args()
    import atheris

    found = CORPUS / args.name.replace(" ", "_")
    found.mkdir(parents=True, exist_ok=True)
    corpus = Path(tempfile.gettempdir(), "facezoo_fuzz", args.name)
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(TARGETS[args.name][2]):
        (corpus / f"seed_{index}").write_bytes(seed)
    instrument()
    signal.signal(signal.SIGPROF, too_slow)
    end = time.process_time() + args.seconds

    def one(data: bytes) -> None:
        if time.process_time() > end:
            os.kill(os.getpid(), signal.SIGINT)
        try_and_keep(args.name, data, found)

    def change(data: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            data = mutate(data, rng)[:longest]
        return data if data and rng.random() < 0.5 else atheris.Mutate(data, longest)

    # SLOWEST says what one file may take; by the clock a busy machine would be a finding.
    flags = ["-max_len=4096", "-timeout=1000000", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(corpus), str(found), *flags], one, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
