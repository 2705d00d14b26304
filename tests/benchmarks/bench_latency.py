"""One decoded picture through SCRFD, against session.run of the released file on a ready tensor.

Each side is a process of its own with two threads, loaded once; they take turns of some runs each,
and what counts is the median over the turns of the ratio of their medians.

    python tests/benchmarks/bench_latency.py --onnx scrfd_500m.onnx --image t1.jpg --json out.json
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

TURNS, RUNS, THREADS = 120, 4, 2


def raw_call(onnx: Path, image: Path):
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
        detector = facezoo.load("scrfd", raw, threads=THREADS)
    picture = read_image_rgb(image)
    return lambda: detector(picture)


SIDES = {"session.run": raw_call, "facezoo": our_call}


def take_turns(call) -> None:
    """Answer each line with the median of some runs, in ms."""
    for _ in sys.stdin:
        call(), call()
        times = []
        for _ in range(RUNS):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        print(statistics.median(times) * 1e3, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True, help="a released SCRFD file")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        take_turns(SIDES[args.side](args.onnx, args.image))
        return 0
    with contextlib.ExitStack() as stack:
        processes = {}
        for side in SIDES:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            processes[side] = stack.enter_context(process)
            stack.callback(process.stdin.close)
        times = {side: [] for side in SIDES}
        for _ in range(TURNS):
            for side, process in processes.items():
                print(file=process.stdin, flush=True)
                times[side].append(float(process.stdout.readline()))
    medians = {side: statistics.median(values) for side, values in times.items()}
    ratio = statistics.median(b / a for a, b in zip(times["session.run"], times["facezoo"]))
    result = {"milliseconds": medians, "ratio": ratio, "turns": TURNS, "threads": THREADS}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
