"""A folder of JPEGs to faces: ours against PyPI's insightface and uniface, and the machine itself.

Every side is a process of its own, loaded once: the same weights, thresholds, threads and photos.
In each round all sides run in turn, so that what else the machine does hits all of them; a ratio is
the median over the rounds. Right after its folder each of our sides does the same photos stage by
stage on one core: what all cores could do if none ever waited. CPU time that other processes took
meanwhile is recorded; a round in which they took more than a twentieth is run again, and void if
there are not enough others.

    python tests/benchmarks/bench_peers.py --photos photos --weights folder --peers PYTHON --json j

PYTHON is the interpreter of an environment with insightface==2.1 and uniface==4.2.1; without it
only our own rows are measured. The folder of weights holds the released scrfd_500m_bnkps.onnx and
scrfd_2.5g.onnx.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_int8 import Network
from facezoo.machine import describe_machine, has_bf16

HERE = Path(__file__).parent
SMALL, LARGE = "scrfd_500m_bnkps", "scrfd_2.5g"
MOST_OTHERS = 0.05  # of the machine's CPU time, by processes that are not part of the run
INT8 = "ort_int8"

# Side to who runs it, which network, further arguments.
OURS = {
    "ort_500m": (SMALL, []),
    "bf16_500m": (SMALL, ["--engine", "openvino", "--precision", "bf16"]),
    "f32_500m": (SMALL, ["--engine", "openvino"]),
    "auto_500m": (SMALL, ["--auto-size"]),
    "ort_2.5g": (LARGE, []),
    "auto_2.5g": (LARGE, ["--auto-size"]),
    "bf16_2.5g": (LARGE, ["--engine", "openvino", "--precision", "bf16"]),
}
THEIRS = {
    "insightface_500m": ("insightface", SMALL),
    "uniface_500m": ("uniface", SMALL),
    "insightface_2.5g": ("insightface", LARGE),
}
# Table, our side, their side, ratio wanted.
ROWS = (
    ("same", "ort_500m", "insightface_500m", 1.45),
    ("same", "ort_500m", "uniface_500m", 1.45),
    ("same", "ort_2.5g", "insightface_2.5g", None),
    ("backend", INT8, "insightface_2.5g", 2.2),
    ("backend", "f32_500m", "insightface_500m", None),
    ("backend", "auto_500m", "insightface_500m", 1.8),
    ("backend", "auto_500m", "uniface_500m", 1.8),
    ("backend", "auto_2.5g", "insightface_2.5g", 1.45),
    ("backend", "bf16_500m", "insightface_500m", 2.5),
    ("backend", "bf16_2.5g", "insightface_2.5g", 4.2),
)
NAMES = {
    "ort_500m": f"{SMALL}, ONNX Runtime fp32",
    "f32_500m": f"{SMALL}, OpenVINO fp32",
    "bf16_500m": f"{SMALL}, OpenVINO bf16",
    "auto_500m": f"{SMALL}, ONNX Runtime fp32, size auto",
    "ort_2.5g": f"{LARGE}, ONNX Runtime fp32",
    "auto_2.5g": f"{LARGE}, ONNX Runtime fp32, size auto",
    "bf16_2.5g": f"{LARGE}, OpenVINO bf16",
    INT8: f"{LARGE}, ONNX Runtime int8",
    "insightface_500m": "insightface fp32",
    "uniface_500m": "uniface fp32",
    "insightface_2.5g": "insightface fp32",
}


class Side:
    """A process that does what it is told."""

    def __init__(self, python, words, log):
        command = [python, str(HERE / "peer.py"), *map(str, words)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} has ended; its messages are above")
        return json.loads(line)

    def ask(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def cpu_seconds(processes):
    """Return the CPU seconds of the whole machine (None where it does not say) and of ours."""
    if not Path("/proc/stat").exists():
        return None
    tick = os.sysconf("SC_CLK_TCK")
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    # Stolen is what the host of a virtual machine gave to others.
    user, nice, system, _, _, irq, softirq, stolen = fields
    ours = 0
    for pid in processes:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ours += int(words[11]) + int(words[12])
    return (user + nice + system + irq + softirq + stolen) / tick, ours / tick


class Watch:
    """What share of the machine other processes took while something ran."""

    def __init__(self, sides):
        self.pids = [os.getpid(), *(side.process.pid for side in sides)]

    def __enter__(self):
        self.before, self.started = cpu_seconds(self.pids), time.perf_counter()
        return self

    def __exit__(self, *error):
        after, seconds = cpu_seconds(self.pids), time.perf_counter() - self.started
        self.others = None
        if after is not None and not any(error):
            both = [end - start for start, end in zip(self.before, after)]
            self.others = max(0.0, (both[0] - both[1]) / (seconds * os.cpu_count()))


def open_sides(args, folder, log):
    from facezoo.models.scrfd.graph import export_released

    shared = ["--threads", args.threads, "--score", args.score, "--nms", args.nms]
    sides = {}
    for name, (network, words) in OURS.items():
        if "bf16" in words and not has_bf16():
            continue  # It would compute in float32.
        raw = folder / f"{network}.onnx"
        if not raw.exists():
            export_released(args.weights / f"{network}.onnx", raw)
        sides[name] = Side(sys.executable, ["facezoo", "--model", raw, *shared, *words], log)
    # Its speed does not depend on the photos that it is calibrated on.
    network = Network(LARGE, folder, args.weights / f"{LARGE}.onnx")
    built = network.build("int8", args.photos)
    sides[INT8] = Side(sys.executable, ["facezoo", "--model", built.prefix, *shared], log)
    for name, (package, network) in THEIRS.items() if args.peers else ():
        released = args.weights / f"{network}.onnx"
        sides[name] = Side(args.peers, [package, "--model", released, *shared], log)
    for side in sides.values():
        side.answer()
    return sides


def measure(args, sides, paths):
    """Return seconds and stages by side and round, and the share of other processes in each."""
    faces = {name: side.ask(folder=paths)["faces"] for name, side in sides.items()}
    ours = [name for name in sides if name in OURS or name == INT8]
    photos = sorted(set(paths))
    rounds, others, repeated = [], [], 0
    while len(rounds) < args.rounds:
        # The order turns, so that no side always comes after the same other one.
        names = list(sides)
        turn = len(rounds) % len(names)
        seconds, stages = {}, {}
        with Watch(sides.values()) as watch:
            for name in names[turn:] + names[:turn]:
                seconds[name] = sides[name].ask(folder=paths)["seconds"]
                if name in ours:
                    stages[name] = sides[name].ask(stages=photos)["stages"]
        too_busy = watch.others is not None and watch.others > args.most_others
        if too_busy and repeated < args.rounds:
            repeated += 1
            continue
        rounds.append({"seconds": seconds, "stages": stages})
        others.append(watch.others)
    return faces, rounds, others, repeated


def rooflines(args, paths, rounds):
    """Return what all cores could do if none ever waited, and the share of it that was done."""
    found = {}
    photos = len(set(paths))
    for name in rounds[0]["stages"]:
        limits = [args.threads * photos / sum(one["stages"][name].values()) for one in rounds]
        rates = [len(paths) / one["seconds"][name] for one in rounds]
        per_image = {
            stage: 1e3 * statistics.median(one["stages"][name][stage] for one in rounds) / photos
            for stage in rounds[0]["stages"][name]
        }
        found[name] = {
            "images_per_second": statistics.median(limits),
            "share": statistics.median(rate / limit for rate, limit in zip(rates, limits)),
            "ms": per_image,
        }
    return found


def session_check(args, sides):
    """Time session.run on the same file in our process and in the peers', by turns."""
    users = [name for name in ("ort_500m", "insightface_500m", "uniface_500m") if name in sides]
    file = str(args.weights / f"{SMALL}.onnx")
    times = {name: [] for name in users}
    for turn in range(args.rounds):
        turn %= len(users)
        for name in users[turn:] + users[:turn]:
            times[name].append(sides[name].ask(session=file, runs=20)["ms"])
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = medians["ort_500m"]
    ratios = {
        name: statistics.median(theirs / own for own, theirs in zip(times["ort_500m"], values))
        for name, values in times.items()
    }
    return {"ms": medians, "ratio": ratios, "ours_ms": ours}


def peer_versions(python):
    code = (
        "from importlib.metadata import version as v;import json;"
        "print(json.dumps({n: v(n) for n in ('insightface', 'uniface', 'onnxruntime')}))"
    )
    return json.loads(subprocess.check_output([python, "-c", code], text=True)) if python else {}


def summarise(args, names, faces, rounds, others, repeated):
    roofs = rooflines(args, names, rounds)
    rounds = [one["seconds"] for one in rounds]
    rate = {name: statistics.median(len(names) / one[name] for one in rounds) for name in faces}
    rows = []
    for table, ours, theirs, wanted in ROWS:
        if ours in rate and theirs in rate:
            ratio = statistics.median(one[theirs] / one[ours] for one in rounds)
            row = {"table": table, "ours": NAMES[ours], "theirs": NAMES[theirs], "wanted": wanted}
            rows.append({**row, "rates": [rate[ours], rate[theirs]], "ratio": ratio})
    shares = {NAMES[name]: roof["share"] for name, roof in roofs.items()}
    return {
        "rows": rows,
        "images_per_second": {name: round(value, 2) for name, value in rate.items()},
        "faces": faces,
        "roofline": roofs,
        "share_of_roofline": shares,
        "others": others,
        "void": any(one is not None and one > args.most_others for one in others),
        "rounds_repeated": repeated,
        "seconds": rounds,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder; its JPEGs are taken")
    parser.add_argument("--weights", type=Path, required=True, help="folder of released files")
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter that has both packages")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--nms", type=float, default=0.4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeat", type=int, default=3, help="times each photo is in the folder")
    parser.add_argument("--most-others", type=float, default=MOST_OTHERS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    photos = sorted(p for p in args.photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    paths = [str(path) for path in photos] * args.repeat
    with tempfile.TemporaryDirectory() as name, Path(name, "log").open("w+") as log:
        sides = {}
        try:
            sides = open_sides(args, Path(name), log)
            faces, rounds, others, repeated = measure(args, sides, paths)
            check = session_check(args, sides)
        except Exception:
            log.seek(0)
            print(log.read()[-4000:], file=sys.stderr)
            raise
        finally:
            for side in sides.values():
                side.close()
    result = {
        "machine": describe_machine(),
        "photos": [path.name for path in photos],
        "images": len(paths),
        "threads": args.threads,
        "score": args.score,
        "nms": args.nms,
        "rounds": args.rounds,
        "peers": peer_versions(args.peers),
        **summarise(args, paths, faces, rounds, others, repeated),
        "session": check,
    }
    for row in result["rows"]:
        ours, theirs = row["rates"]
        names = f"{row['ours']} against {row['theirs']}"
        print(f"{names}: {ours:.1f} and {theirs:.1f} images/s, {row['ratio']:.2f} times")
    busiest = max((one for one in others if one is not None), default=0.0)
    print(f"other processes: {busiest:.1%} at most{', void' if result['void'] else ''}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
