"""The photos of WIDER FACE val to its three APs, as processes, against insightface detecting alone.

Ours is ``facezoo evaluate scrfd`` from the start of the process to its end, on each runtime and
with the input that follows the photo. insightface reads and detects the same photos with the same
weights and thresholds; it computes no AP. They take turns.

    python tests/benchmarks/bench_widerface_val.py --photos WIDER_val/images --gt ground_truth \\
        --weights folder --peers PYTHON --json widerface_val.json
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_peers import SMALL, Side, peer_versions
from facezoo.image.files import find_images
from facezoo.machine import describe_machine, has_bf16
from facezoo.models.scrfd.decode import PROFILES
from facezoo.models.scrfd.graph import export_released

WAYS = {
    "ONNX Runtime fp32": [],
    "ONNX Runtime fp32, size auto": ["--size", "auto"],
    "OpenVINO bf16": ["--engine", "openvino", "--precision", "bf16"],
    "OpenVINO bf16, size auto": "--engine openvino --precision bf16 --size auto".split(),
}
THEIRS = "insightface fp32"
LEVELS = ("Easy", "Medium", "Hard")


def ours(args, raw, folder, words):
    """Evaluate in a process; return its seconds and the three APs."""
    where = ["--images", args.photos, "--gt", args.gt, "--detector", raw, "--output", folder]
    command = ["evaluate", "scrfd", *where, "--threads", args.threads, *words]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "facezoo", *map(str, command)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    found = [float(re.search(rf"{level} +Val AP: ([\d.]+)", done.stdout)[1]) for level in LEVELS]
    return seconds, found


def theirs(args, paths, released, log):
    """Detect in a process; return its seconds."""
    profile = PROFILES["eval"]
    words = ["--threads", args.threads, "--score", profile.score_threshold]
    words += ["--nms", profile.nms_iou, "--model", released]
    started = time.perf_counter()
    side = Side(args.peers, ["insightface", *words], log)
    side.answer()
    side.ask(folder=paths)
    side.close()
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="WIDER_val/images")
    parser.add_argument("--gt", type=Path, required=True, help="folder of the four .mat files")
    parser.add_argument("--weights", type=Path, required=True, help="folder of released files")
    parser.add_argument("--peers", metavar="PYTHON", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    paths = list(map(str, find_images(args.photos)))
    ways = {name: words for name, words in WAYS.items() if "bf16" not in words or has_bf16()}
    seconds, aps = {name: [] for name in [*ways, THEIRS]}, {}
    load = round(os.getloadavg()[0])
    with tempfile.TemporaryDirectory() as name, Path(name, "log").open("w") as log:
        released = args.weights / f"{SMALL}.onnx"
        raw = Path(name, f"{SMALL}.onnx")
        export_released(released, raw)
        for number in range(args.rounds):
            for way, words in ways.items():
                folder = Path(name, f"{number} {way}".replace(" ", "-"))
                spent, aps[way] = ours(args, raw, folder, words)
                seconds[way].append(spent)
                print(f"{way}: {spent:.1f} s", flush=True)
            seconds[THEIRS].append(theirs(args, paths, released, log))
            print(f"{THEIRS}: {seconds[THEIRS][-1]:.1f} s", flush=True)
    result = {
        "machine": describe_machine(),
        "photos": len(paths),
        "threads": args.threads,
        "rounds": args.rounds,
        "peers": peer_versions(args.peers),
        "load": load,
        "seconds": {way: round(statistics.median(found), 1) for way, found in seconds.items()},
        "ap": {way: [round(100 * one, 2) for one in found] for way, found in aps.items()},
        "times the rate of insightface": {
            way: round(statistics.median(t / o for o, t in zip(seconds[way], seconds[THEIRS])), 3)
            for way in ways
        },
    }
    for way, ratio in result["times the rate of insightface"].items():
        print(
            f"{way}: {result['seconds'][way]} s, {ratio:.2f} times {THEIRS}, AP {result['ap'][way]}"
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
