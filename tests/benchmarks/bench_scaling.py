"""A folder of JPEGs to faces, by number of photos, of workers and of megapixels; and its memory.

Every measurement is a process of its own, so that its peak memory is its own; the smaller ones are
repeated and the median counts.

    python tests/benchmarks/bench_scaling.py --onnx scrfd_500m_bnkps.onnx --photos photos --json j
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from facezoo.machine import describe_machine, usable_cores

IMAGES = (1, 10, 100, 1000)
WORKERS = (1, 2, 4, 8)
MEGAPIXELS = (0.3, 1.0, 4.0, 12.0, 24.0)
PHOTOS_OF_A_SIZE = 8


def run_folder(args):
    """Load, run once over the folder, report."""
    import facezoo

    photos = sorted(args.photos.iterdir())
    paths = [photos[index % len(photos)] for index in range(args.images)]
    runtime = facezoo.RuntimeOptions(threads=args.workers)
    with facezoo.load(args.onnx, runtime=runtime, fast_decode=args.fast_decode) as detector:
        list(detector.stream(photos[:2]))
        started = time.perf_counter()
        faces = sum(len(found) for found in detector.stream(paths))
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images_per_second": len(paths) / seconds, "faces": faces, "mib": peak}))


def measure(onnx, photos, images, workers, repeats, fast=False):
    words = ["--onnx", onnx, "--photos", photos, "--images", images, "--workers", workers]
    command = [sys.executable, __file__, *map(str, words), "--one"]
    command += ["--fast-decode"] * fast
    runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(repeats)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def enlarge(photos, folder, megapixels):
    """Write the first photos at a number of megapixels."""
    import cv2
    from facezoo.image.files import read_image_rgb, write_image_rgb

    for photo in sorted(photos.iterdir())[:PHOTOS_OF_A_SIZE]:
        image = read_image_rgb(photo)
        scale = (megapixels * 1e6 / image[..., 0].size) ** 0.5
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=method)
        write_image_rgb(folder / f"{photo.stem}.jpg", resized)
    return folder


def measure_all(args, onnx, photos, folder):
    cores = usable_cores()
    small = [count for count in IMAGES if count <= args.most_images]
    by_images = {
        count: measure(onnx, photos, count, cores, 3 if count <= 100 else 1) for count in small
    }
    by_workers = {w: measure(onnx, photos, min(60, small[-1]), w, 3) for w in WORKERS}
    by_size = {}
    for megapixels in MEGAPIXELS:
        sized = enlarge(photos, folder / str(megapixels), megapixels)
        by_size[megapixels] = {
            name: measure(onnx, sized, 2 * PHOTOS_OF_A_SIZE, cores, args.repeats, fast)
            for name, fast in (("full", False), ("fast_decode", True))
        }
    memory = by_images[small[-1]]["mib"] / by_images[small[-2]]["mib"]
    return {
        "machine": describe_machine(),
        "workers": cores,
        "by_images": by_images,
        "by_workers": by_workers,
        "by_megapixels": by_size,
        "memory_of_the_last_over_the_one_before": memory,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--onnx", type=Path, required=True, help="a released SCRFD file")
    parser.add_argument("--photos", type=Path, required=True, help="folder; its JPEGs are taken")
    parser.add_argument("--most-images", type=int, default=IMAGES[-1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fast-decode", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_folder(args)
        return 0
    from facezoo.models.scrfd.graph import export_released

    with tempfile.TemporaryDirectory() as name:
        photos = Path(name, "photos")
        photos.mkdir()
        for photo in sorted(args.photos.iterdir()):
            if photo.suffix.lower() in (".jpg", ".jpeg"):
                (photos / photo.name).symlink_to(photo.resolve())
        raw = Path(name, "raw.onnx")
        export_released(args.onnx, raw)
        result = measure_all(args, raw, photos, Path(name))
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
