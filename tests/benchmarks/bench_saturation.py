"""What int8 weights of 7 and of 8 bits lose, by the sums of this CPU and by exact ones.

A detector is built twice, portable (7 bits) and full (8 bits), on each half of the photos, and
compared with fp32 on the other half; a recogniser on one half of the faces cut from them, measured
on the other. "exact" computes the same quantised values in float32, as a CPU does that adds 8-bit
products in 32 bits (VNNI, an ARM's dot product).

  python tests/benchmarks/bench_saturation.py photos/ --json saturation.json
"""

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from bench_int8 import (
    DETECTORS,
    EMBEDDER,
    EMBEDDER_QUANTIZE,
    Network,
    cut_crops,
    lay_out,
)
from facezoo.artifact import FULL, PORTABLE
from facezoo.backends.int8 import saturates
from facezoo.backends.ort import OrtBackend
from facezoo.evaluation.drift import compare_backends
from facezoo.image.files import find_images
from facezoo.machine import describe_machine

DETECTOR = DETECTORS[0]
SUMS = {"this CPU": False, "exact": True}


def measure_fold(network, held, pictures):
    """Yield weights, sums and the measures of a task, on photos that were not calibrated on."""
    for weights in (PORTABLE, FULL):
        built = network.build("int8", pictures, weights).model
        for sums, exact in SUMS.items():
            reference = OrtBackend(network.onnx, network.contract)
            other = OrtBackend(built, network.contract, half_input=True, exact=exact)
            with reference, other:
                yield weights, sums, compare_backends(reference, other, held).task


def measure_detector(network, photos, folder):
    rows = defaultdict(list)
    for half in (0, 1):
        held = photos[half::2]
        pictures = lay_out(folder / f"half{half}", photos[1 - half :: 2])
        for weights, sums, task in measure_fold(network, held, pictures):
            rows[weights, sums].append(task)
    found = []
    for (weights, sums), tasks in rows.items():
        faces = np.array([task["faces"] for task in tasks])
        counts = {name: int(sum(task[name] for task in tasks)) for name in ("missed", "extra")}
        means = {
            name: round(float(np.average([task[name] for task in tasks], weights=faces)), 4)
            for name in ("mean_iou", "mean_score")
        }
        found.append(
            {"weights": weights, "sums": sums, "faces": int(faces.sum()), **counts, **means}
        )
    return found


def measure_embedder(network, crops, folder):
    pictures = lay_out(folder / "crops_calibration", crops[::2])
    names = ("cosine_mean", "cosine_min", "norm_rank")
    return [
        {"weights": weights, "sums": sums, **{name: round(task[name], 4) for name in names}}
        for weights, sums, task in measure_fold(network, crops[1::2], pictures)
    ]


def measure(photos, large):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector = Network(DETECTOR, folder, large)
        embedder = Network(EMBEDDER, folder, quantize=EMBEDDER_QUANTIZE)
        crops = cut_crops(detector, photos, folder / "crops")
        return {
            "machine": describe_machine(),
            "saturates": saturates(OrtBackend),
            "photos": len(photos),
            "detector": {DETECTOR: measure_detector(detector, photos, folder)},
            "crops": len(crops[1::2]),
            "embedder": {EMBEDDER: measure_embedder(embedder, crops, folder)},
        }


def render(result):
    """Write what was measured as text."""
    sums = "saturate" if result["saturates"] else "are exact"
    lines = [f"{result['machine']['cpu']}, whose 8-bit sums {sums}; against fp32"]
    lines.append(f"detector on {result['photos']} photos in two halves, each held out;")
    lines.append(f"embeddings of {result['crops']} aligned crops that were not calibrated on")
    for name, rows in {**result["detector"], **result["embedder"]}.items():
        keys = list(rows[0])
        lines += ["", name, "  " + "".join(f"{key:>12}" for key in keys)]
        lines += ["  " + "".join(f"{row[key]:>12}" for key in keys) for row in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="a folder of photos with faces")
    parser.add_argument(
        "--large", type=Path, metavar="ONNX", help=f"released {DETECTOR}; fetched by default"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    result = measure(find_images(args.photos), args.large)
    print(render(result), end="")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        args.json.with_suffix(".txt").write_text(render(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
