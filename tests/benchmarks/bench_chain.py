"""JPEGs to embeddings of all faces: ours against PyPI's insightface and uniface, by turns.

The same released weights, thresholds, threads and photos for all; each side is a process of its
own, loaded once, as in bench_peers.py. The photos are those with one face, 4 to 9, and more.

    python tests/benchmarks/bench_chain.py --photos photos --weights folder \\
        --embedder w600k_mbf.onnx --peers PYTHON --json chain.json

PYTHON is the interpreter of an environment with insightface==2.1 and uniface==4.2.1.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench_peers import MOST_OTHERS, SMALL, Side, Watch, peer_versions
from facezoo.machine import describe_machine
from facezoo.models.scrfd.graph import export_released
from facezoo.pipeline.load import load

SIDES = {
    "facezoo": ["facezoo"],
    "facezoo, size auto": ["facezoo", "--auto-size"],
    "insightface": ["insightface"],
    "uniface": ["uniface"],
}
OURS = tuple(name for name in SIDES if name.startswith("facezoo"))
WANTED = 1.8
# Name to the fewest and the most faces of a photo, and how often its photos are in the folder.
CROWDS = {"1 face": (1, 1, 2), "4 to 9 faces": (4, 9, 6), "10 faces and more": (10, 10**6, 4)}


def crowds_of(raw, paths):
    """Return the photos of each crowd."""
    with load(raw) as detector:
        counts = [len(found) for found in detector.stream(paths)]
    return {
        name: [path for path, count in zip(paths, counts) if low <= count <= high] * often
        for name, (low, high, often) in CROWDS.items()
    }


def measure(sides, paths, rounds, most_others):
    """Return the median rates, our ratios to the peers, and what others took at most."""
    faces = {name: side.ask(folder=paths)["faces"] for name, side in sides.items()}
    seconds, others = [], []
    for number in range(rounds):
        names = list(sides)
        turn = number % len(names)
        with Watch(sides.values()) as watch:
            found = {n: sides[n].ask(folder=paths)["seconds"] for n in names[turn:] + names[:turn]}
        seconds.append(found)
        others.append(watch.others)
    rates = {n: statistics.median(len(paths) / one[n] for one in seconds) for n in sides}
    ratios = {}
    for ours in OURS:
        for theirs in [one for one in sides if one not in OURS]:
            found = sorted(one[theirs] / one[ours] for one in seconds)
            ratios.setdefault(ours, {})[theirs] = {
                "times": round(statistics.median(found), 3),
                "range": [round(found[0], 3), round(found[-1], 3)],
            }
    busiest = max((one for one in others if one is not None), default=0.0)
    return {
        "photos": len(paths),
        "faces": faces,
        "photos/s": {name: round(rate, 2) for name, rate in rates.items()},
        "times the rate of": ratios,
        "others": round(busiest, 4),
        "void": busiest > most_others,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder; its JPEGs are taken")
    parser.add_argument("--weights", type=Path, required=True, help="folder of released detectors")
    parser.add_argument("--embedder", type=Path, required=True, help="released w600k_mbf.onnx")
    parser.add_argument("--peers", required=True, metavar="PYTHON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--most-others", type=float, default=MOST_OTHERS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    photos = sorted(p for p in args.photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    released = args.weights / f"{SMALL}.onnx"
    with tempfile.TemporaryDirectory() as name, Path(name, "log").open("w+") as log:
        raw = Path(name, f"{SMALL}.onnx")
        export_released(released, raw)
        crowds = crowds_of(raw, list(map(str, photos)))
        sides = {}
        try:
            for label, words in SIDES.items():
                python, model = args.peers, released
                if label in OURS:
                    python, model = sys.executable, raw
                given = ["--model", model, "--embedder", args.embedder, "--threads", args.threads]
                sides[label] = Side(python, [*words, *given], log)
                sides[label].answer()
            found = {
                crowd: measure(sides, paths, args.rounds, args.most_others)
                for crowd, paths in crowds.items()
            }
        except Exception:
            log.seek(0)
            print(log.read()[-4000:], file=sys.stderr)
            raise
        finally:
            for side in sides.values():
                side.close()
    result = {
        "machine": describe_machine(),
        "threads": args.threads,
        "rounds": args.rounds,
        "wanted": WANTED,
        "peers": peer_versions(args.peers),
        "void": any(one["void"] for one in found.values()),
        "crowds": found,
    }
    for crowd, one in found.items():
        for ours, ratios in one["times the rate of"].items():
            for theirs, ratio in ratios.items():
                print(f"{crowd}: {ours}: {ratio['times']:.2f} times {theirs} ({ratio['range']})")
        print(f"  other processes: {one['others']:.1%} at most")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
