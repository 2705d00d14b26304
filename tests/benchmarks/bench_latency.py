"""One decoded picture through SCRFD, against session.run of the released file on a ready tensor.

Each side runs in a process of its own, two threads, in turns; the ratio of the medians counts.

    python tests/benchmarks/bench_latency.py --onnx scrfd_500m.onnx --image t1.jpg --json out.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS, RUNS, THREADS = 9, 40, 2


def measure_raw(onnx: Path, image: Path) -> float:
    import numpy as np
    from facezoo.backends.ort import open_session

    session = open_session(onnx, THREADS)
    name = session.get_inputs()[0].name
    tensor = np.random.default_rng(0).uniform(-1, 1, (1, 3, 640, 640)).astype(np.float32)
    return median_ms(lambda: session.run(None, {name: tensor}))


def measure_ours(onnx: Path, image: Path) -> float:
    import cv2
    import facezoo
    from facezoo.image.files import read_image_rgb
    from facezoo.models.scrfd.graph import export_released

    cv2.setNumThreads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw.onnx")
        export_released(onnx, raw)
        picture = read_image_rgb(image)
        with facezoo.load("scrfd", raw, threads=THREADS) as detector:
            return median_ms(lambda: detector(picture))


SIDES = {"session.run": measure_raw, "facezoo": measure_ours}


def median_ms(call) -> float:
    for _ in range(5):
        call()
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True, help="a released SCRFD file")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(SIDES[args.side](args.onnx, args.image))
        return 0
    times = {side: [] for side in SIDES}
    for _ in range(ROUNDS):
        for side in SIDES:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            times[side].append(float(subprocess.check_output(command, text=True)))
    medians = {side: statistics.median(values) for side, values in times.items()}
    ratio = statistics.median(b / a for a, b in zip(times["session.run"], times["facezoo"]))
    result = {"milliseconds": medians, "ratio": ratio, "rounds": ROUNDS, "threads": THREADS}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
