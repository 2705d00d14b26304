"""Twenty thousand photos through the runner, and as many inputs through vamp: what grows?

Both are the commands a user types, watched from outside four times a second: resident memory, open
files and threads of all their processes, and how many items their journal holds. What counts is the
last fifth of a run against its second fifth, since the first one still fills caches.

    python tests/benchmarks/bench_long_run.py --photos photos --text t.txt --plot p.png
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from facezoo import weights
from facezoo.machine import describe_machine

ROOT = Path(__file__).parents[2]
SCRFD = ROOT / "face_detection" / "scrfd"
SIDE = 320  # of the detector's input, so that the run takes minutes
FACE = 112
EVERY = 0.25


def family(pid):
    """List a process and all it has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(word) for task in tasks for word in task.read_text().split()]
    return [pid, *(one for child in children for one in family(child))]


def look_at(pid):
    """Return MiB, open files and threads of a process and all it has started."""
    mib = files = threads = 0
    for one in family(pid):
        words = Path(f"/proc/{one}/status").read_text().split()
        mib += int(words[words.index("VmRSS:") + 1]) / 1024
        threads += int(words[words.index("Threads:") + 1])
        files += len(list(Path(f"/proc/{one}/fd").iterdir()))
    return mib, files, threads


def watch(command, journal):
    """Run a command; return rows of seconds, items, MiB, open files and threads."""
    rows, items, read = [], 0, 0
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(EVERY)
            try:
                if journal.exists():
                    with journal.open("rb") as lines:
                        lines.seek(read)
                        new = lines.read()
                    items, read = items + new.count(b"\n"), read + len(new)
                seen = look_at(process.pid)
            except (OSError, ValueError):  # It ended, or one of its processes did, meanwhile.
                continue
            if items:
                rows.append((time.monotonic() - began, items, *seen))
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return rows


def summarise(rows, count):
    """Compare the last fifth of a run with the second."""

    def part(fifth):
        chosen = [row for row in rows if fifth * count / 5 <= row[1] < (fifth + 1) * count / 5]
        (first, low), (last, high) = chosen[0][:2], chosen[-1][:2]
        return (high - low) / (last - first), *(
            statistics.median(row[column] for row in chosen) for column in (2, 3, 4)
        )

    early, late = part(1), part(4)
    names = ("per_second", "mib", "open_files", "threads")
    return {
        "items": count,
        "minutes": round(rows[-1][0] / 60, 1),
        **{name: [round(a, 1), round(b, 1)] for name, a, b in zip(names, early, late)},
    }


def photo_run(photos, folder, count):
    """Return the runner's command, and its output folder."""
    from facezoo.models.scrfd.graph import export_released

    model = folder / "scrfd.onnx"
    export_released(weights.fetch("scrfd_500m_bnkps"), model, size=(SIDE, SIDE))
    originals = sorted(p for p in photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    (folder / "photos").mkdir()
    for number in range(count):
        original = originals[number % len(originals)]
        (folder / "photos" / f"{number:05}.jpg").symlink_to(original.resolve())
    script = SCRFD / "build_in" / "vsx" / "python" / "scrfd_vsx.py"
    words = [script, "--file_path", folder / "photos", "--model_prefix_path", model]
    return [sys.executable, *words, "--quiet", "--save_dir"], folder / "faces"


def vamp_run(photos, folder, count):
    """Return vamp's command, and its output folder."""
    import numpy as np
    from facezoo.arrays import write_npz
    from facezoo.models.magface.graph import export_released
    from facezoo.vacc.npz import INPUT_KEY

    model = folder / "w600k_mbf.onnx"
    export_released(weights.fetch("w600k_mbf"), model)
    rng = np.random.default_rng(2026)
    paths = [folder / "npz" / f"{number:03}.npz" for number in range(200)]
    for path in paths:
        write_npz(path, {INPUT_KEY: rng.integers(0, 256, (3, FACE, FACE), np.uint8)})
    lines = [str(paths[number % len(paths)]) for number in range(count)]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    words = [
        "-m",
        "facezoo.cli.main",
        "vamp",
        "-m",
        model,
        "--datalist",
        folder / "list.txt",
        "-i",
        "2",
    ]
    return [sys.executable, *words, "--path_output"], folder / "outputs"


RUNS = {"photos through scrfd_vsx.py": photo_run, "inputs through vamp": vamp_run}


def text_of(result):
    """Write the two fifths as a page shows them."""
    names = {"per_second": "a second", "mib": "MiB", "open_files": "open files"}
    columns = ["per_second", "mib", "open_files", "threads"]
    heads = "".join(f"  {names.get(name, name):>16}" for name in columns)
    lines = [f"{'second fifth, last fifth':28}  {'items':>6}  {'minutes':>7}{heads}"]
    for name, run in result["runs"].items():
        pairs = "".join(f"  {'{:.1f}, {:.1f}'.format(*run[column]):>16}" for column in columns)
        lines.append(f"{name:28}  {run['items']:6}  {run['minutes']:7}{pairs}")
    return "\n".join(lines) + "\n"


def draw(curves, path):
    from matplotlib.figure import Figure

    figure = Figure((8.0, 6.0), layout="constrained")
    panels = figure.subplots(2, len(curves), sharex="col", squeeze=False)
    for column, (name, rows) in zip(panels.T, curves.items()):
        seconds, items, mib, files, threads = zip(*rows)
        column[0].set_title(name)
        column[0].plot(seconds, items)
        column[1].plot(seconds, mib, label="MiB")
        column[1].plot(seconds, files, label="open files")
        column[1].plot(seconds, threads, label="threads")
        column[1].set(ylim=(0, None), xlabel="s")
    panels[0, 0].set_ylabel("done")
    panels[1, 0].legend()
    figure.savefig(path, dpi=100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder; its JPEGs are taken")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--text", type=Path, metavar="FILE", help="as a page shows it")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    result, curves = {"machine": describe_machine(), "runs": {}}, {}
    for name, prepare in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            command, output = prepare(args.photos, Path(folder), args.count)
            curves[name] = watch([*command, output], output / ".items.jsonl")
        result["runs"][name] = summarise(curves[name], args.count)
    print(text_of(result), end="")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    if args.text:
        args.text.write_text(text_of(result), encoding="utf-8")
    if args.plot:
        draw(curves, args.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
