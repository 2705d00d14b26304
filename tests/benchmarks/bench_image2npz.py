"""Time image2npz.py against a plain loop, both as processes a user starts, turn by turn.

The loop is what is written without a second thought: cv2.imread, cvtColor, transpose, numpy.savez.
Photos are generated if none are given. The arrays are compared after the first round.

  python tests/benchmarks/bench_image2npz.py --photos WIDER_val/images --json image2npz.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from facezoo.machine import usable_cores

SCRIPT = Path(__file__).resolve().parents[2] / "common/utils/image2npz.py"

PLAIN_LOOP = """
import sys
from pathlib import Path
import cv2, numpy as np
photos, target, text = map(Path, sys.argv[1:])
with text.open("w") as file:
    for path in sorted(photos.rglob("*.jpg")):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        npz = target / path.relative_to(photos).with_suffix(".npz")
        npz.parent.mkdir(parents=True, exist_ok=True)
        np.savez(npz, input_0=image.transpose(2, 0, 1))
        file.write(f"{npz}\\n")
"""


def make_photos(folder: Path, count: int) -> None:
    """Write JPEGs of 1024 x 683, the usual size of WIDER FACE, as hard to decode as photos."""
    rng = np.random.default_rng(2026)
    for index in range(count):
        coarse = rng.integers(0, 256, (43, 64, 3), np.uint8)
        image = cv2.resize(coarse, (1024, 683), interpolation=cv2.INTER_CUBIC)
        noise = rng.normal(0.0, 8.0, image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
        path = folder / f"{index % 4}--Event" / f"photo_{index:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 90])


def run_loop(photos: Path, out: Path) -> float:
    return timed("-c", PLAIN_LOOP, photos, out / "npz", out / "list.txt", folder=out)


def run_ours(photos: Path, out: Path) -> float:
    flags = ("--dataset_path", photos, "--target_path", out / "npz", "--text_path")
    return timed(SCRIPT, *flags, out / "list.txt", "--quiet", folder=out)


def timed(*command: object, folder: Path) -> float:
    folder.mkdir(parents=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def check_same(first: Path, second: Path) -> int:
    """Compare every array; return how many there were."""
    names = sorted(path.relative_to(first) for path in first.rglob("*.npz"))
    for name in names:
        with np.load(first / name) as a, np.load(second / name) as b:
            if list(a) != list(b) or not np.array_equal(a["input_0"], b["input_0"]):
                raise SystemExit(f"{name} differs")
    return len(names)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="folder of .jpg")
    parser.add_argument("--count", type=int, default=960, help="how many to generate otherwise")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seconds = {"loop": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        photos = args.photos or Path(folder, "photos")
        if args.photos is None:
            make_photos(photos, args.count)
        for index in range(args.rounds):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                seconds["loop"].append(run_loop(photos, Path(out, "loop")))
                seconds["ours"].append(run_ours(photos, Path(out, "ours")))
                if index == 0:
                    count = check_same(Path(out, "loop/npz"), Path(out, "ours/npz"))
    pairs = zip(seconds["loop"], seconds["ours"])
    result = {
        "pictures": count,
        "cores": usable_cores(),
        "loop_per_s": round(count / statistics.median(seconds["loop"]), 1),
        "ours_per_s": round(count / statistics.median(seconds["ours"]), 1),
        "ratio": round(statistics.median(loop / ours for loop, ours in pairs), 2),
    }
    print(json.dumps(result))
    if args.json:
        args.json.write_text(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
