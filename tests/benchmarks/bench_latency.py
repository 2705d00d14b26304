"""Decoded pictures through SCRFD one by one, against session.run of the released file alone.

Each side is a process of its own with two threads, loaded once; they take turns of some runs each,
and what counts is the median over the turns of the ratio of their medians.

    python tests/benchmarks/bench_latency.py --onnx scrfd_500m.onnx --images t1.jpg --json out.json
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STARTS, TURNS, RUNS, THREADS = 10, 6, 12, 2
RAW = "session.run"


def raw_call(onnx: Path):
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(onnx), options, providers=providers)
    name = session.get_inputs()[0].name
    tensor = np.random.default_rng(0).uniform(-1, 1, (1, 3, 640, 640)).astype(np.float32)
    return lambda: session.run(None, {name: tensor})


def our_call(onnx: Path, image: Path):
    import cv2
    import facezoo
    from facezoo.image.files import read_image_rgb
    from facezoo.models.scrfd.graph import export_released

    cv2.setNumThreads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw.onnx")
        export_released(onnx, raw)
        detector = facezoo.load(raw, runtime=facezoo.RuntimeOptions(threads=THREADS))
    picture = read_image_rgb(image)
    return lambda: detector(picture)


def take_turns(call) -> None:
    """Answer each line with the median of some runs in ms."""
    for _ in sys.stdin:
        call(), call()
        times = []
        for _ in range(RUNS):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        print(statistics.median(times) * 1e3, flush=True)


def measure(onnx: Path, images) -> dict:
    """Return the times of each side by turn, in ms."""
    sides = {RAW: ["--raw"], **{image.name: ["--images", str(image)] for image in images}}
    times = {side: [] for side in sides}
    for _ in range(STARTS):
        for side, values in take_times(onnx, sides).items():
            times[side] += values
    return times


def take_times(onnx: Path, sides) -> dict:
    times = {side: [] for side in sides}
    with contextlib.ExitStack() as stack:
        processes = {}
        for side, words in sides.items():
            command = [sys.executable, __file__, "--onnx", str(onnx), *words, "--side"]
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            processes[side] = stack.enter_context(process)
            stack.callback(process.stdin.close)
        for _ in range(TURNS):
            for side, process in processes.items():
                print(file=process.stdin, flush=True)
                times[side].append(float(process.stdout.readline()))
    return times


def describe(onnx: Path, image: Path) -> str:
    from facezoo.image.files import read_image_rgb

    height, width = read_image_rgb(image).shape[:2]
    faces = len(our_call(onnx, image)())
    return f"{width}x{height}, {faces} face{'s' * (faces != 1)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True, help="a released SCRFD file")
    parser.add_argument("--images", type=Path, nargs="+", default=[])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--raw", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        take_turns(raw_call(args.onnx) if args.raw else our_call(args.onnx, args.images[0]))
        return 0
    times = measure(args.onnx, args.images)
    pictures = []
    for image in args.images:
        pairs = list(zip(times[RAW], times[image.name]))
        picture = {
            "name": image.name,
            "holds": describe(args.onnx, image),
            "ms": statistics.median(times[image.name]),
            "ratio": statistics.median(ours / raw for raw, ours in pairs),
        }
        pictures.append(picture)
    raw = statistics.median(times[RAW])
    result = {"session_ms": raw, "pictures": pictures, "turns": STARTS * TURNS, "threads": THREADS}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
