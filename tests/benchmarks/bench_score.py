"""Time bulk scoring, on one machine and on Ray, against `facezoo predict` on the same photos.

The three take turns. The rate of predict is the one that it prints, without the time to open the
models; that of a bulk run is from the start of its first part to the end of its last, without the
start of Ray. Merged, the tables of all must be the same bytes. Rounds are on some photos of each
folder; ``--whole`` adds one of predict and Ray on all.

  python tests/benchmarks/bench_score.py --photos lfw widerface --json score.json --text score.txt
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from facezoo.image.files import find_images
from facezoo.machine import describe_machine, usable_cores

TABLES = ("faces", "photos")
PAPER = (10**6, 10**8, 10**9)
# Of an hour of one core on rented machines that may be taken away at any time; an assumption.
DOLLARS_PER_CORE_HOUR = 0.02
SECONDS_PER_SHARD = 300


def facezoo(*words):
    command = [sys.executable, "-m", "facezoo", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command}: {done.stderr}")
    return done.stdout


def predict(photos, folder, stages):
    said = facezoo("predict", photos, "--output", folder, "--parquet", *stages)
    return float(re.search(r"([\d.]+) images/s", said)[1]), folder


def score(photos, folder, stages, on, shard):
    facezoo("score", "manifest", photos, "--to", folder, "--shard-count", shard)
    facezoo("score", "run", folder, "--on", on, "--quiet", *stages)
    facezoo("score", "check", folder)
    facezoo("score", "merge", folder, "--output", folder / "merged")
    receipts = [json.loads(path.read_text()) for path in folder.glob("receipts/*/*.json")]
    times = [one["seconds"] for one in receipts]
    seconds = max(t["ended"] for t in times) - min(t["ended"] - t["spent"] for t in times)
    return sum(one["stop"] - one["start"] for one in receipts) / seconds, folder / "merged"


def one_round(photos, folder, stages, rates, shard):
    """Let each way have its turn; append its rate, and return the tables, the same of all."""
    made = {}
    for way, found in rates.items():
        if way == "predict":
            rate, out = predict(photos, folder / way, stages)
        else:
            rate, out = score(photos, folder / way, stages, way, shard)
        found.append(rate)
        made[way] = [(out / f"{name}.parquet").read_bytes() for name in TABLES]
        print(f"{way}: {rate:.2f} photos/s", flush=True)
    assert all(one == made["predict"] for one in made.values()), "the tables differ"
    return made


def collect(photos, folder, count):
    """Copy some photos of each data set into one folder."""
    for number, place in enumerate(photos):
        paths = find_images(place)
        for path in paths[:: max(1, len(paths) // count)][:count] if count else paths:
            target = folder / f"{number}" / path.relative_to(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def on_paper(rate, bytes_per_photo):
    """Return a table of what large numbers of photos take at a rate per core."""
    rows = [("photos", "core days", "cores for a day", "tables", "photos a shard", "dollars")]
    for photos in PAPER:
        days = photos / rate / 86400
        size = photos * bytes_per_photo
        unit = next(u for u in ("GB", "TB") if size < 10**12 or u == "TB")
        said = f"{size / (10**9 if unit == 'GB' else 10**12):,.1f} {unit}"
        dollars = f"{days * 24 * DOLLARS_PER_CORE_HOUR:,.0f}"
        shard = f"{rate * SECONDS_PER_SHARD:,.0f}"
        rows.append(
            (f"{photos:,}", f"{days:,.1f}", f"{max(1, round(days)):,}", said, shard, dollars)
        )
    return rows


def text_of(result):
    lines = [
        f"{result['photos']} photos, {result['faces']} faces, {result['cores']} cores; stages: "
        + " ".join(result["stages"])
    ]
    for way, found in result["ways"].items():
        ratio = found.get("over predict")
        times = f", {ratio['median']} of predict's ({ratio['range']})" if ratio else ""
        lines.append(f"{way:8} {found['photos/s per core']:6.2f} photos/s per core{times}")
    if "whole" in result:
        whole = result["whole"]
        lines.append(f"once on all {whole['photos']:,} photos, ray: {whole['ray over predict']}")
    lines.append("")
    rows = on_paper(result["ways"]["ray"]["photos/s per core"], result["bytes per photo"])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    lines.append(
        f"at {DOLLARS_PER_CORE_HOUR} dollars per core and hour, and five minutes per shard"
    )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=0, help="photos of each folder; 0: all")
    parser.add_argument("--whole", action="store_true", help="once more on all photos")
    parser.add_argument("--shard", type=int, default=25, help="photos per shard")
    parser.add_argument("--embedder", default="w600k_mbf")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--text", type=Path, metavar="FILE", help="as a page shows it")
    args = parser.parse_args()
    stages = ("--embedder", args.embedder)
    rates = {"predict": [], "local": [], "ray": []}
    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary) / "photos"
        collect(args.photos, photos, args.count)
        for number in range(args.rounds):
            made = one_round(photos, Path(temporary) / f"{number}", stages, rates, args.shard)
        size = sum(map(len, made["ray"]))
        count = len(find_images(photos))
        lines = (Path(temporary) / "0" / "predict" / "faces.jsonl").read_text().splitlines()
        faces = sum(len(json.loads(line).get("faces", ())) for line in lines)
        whole = {"predict": [], "ray": []} if args.whole else {}
        if args.whole:
            collect(args.photos, Path(temporary) / "all", 0)
            one_round(Path(temporary) / "all", Path(temporary) / "w", stages, whole, args.shard)
            whole["photos"] = len(find_images(Path(temporary) / "all"))
    result = {
        "machine": describe_machine(),
        "cores": usable_cores(),
        "photos": count,
        "faces": faces,
        "rounds": args.rounds,
        "stages": list(stages),
        "tables are the same bytes": True,
        "bytes per photo": round(size / count, 1),
        "ways": {},
    }
    for way, found in rates.items():
        ratios = [one / other for one, other in zip(found, rates["predict"])]
        row = {"photos/s per core": round(statistics.median(found) / usable_cores(), 2)}
        if way != "predict":
            spread = [round(min(ratios), 3), round(max(ratios), 3)]
            row["over predict"] = {"median": round(statistics.median(ratios), 3), "range": spread}
        result["ways"][way] = row
    if whole:
        times = whole["ray"][0] / whole["predict"][0]
        result["whole"] = {"photos": whole["photos"], "ray over predict": round(times, 3)}
    print(text_of(result), end="")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if args.text:
        args.text.write_text(text_of(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
