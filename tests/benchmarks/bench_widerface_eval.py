"""Time the evaluation of a set of WIDER FACE predictions, from files to average precision.

Reads and evaluates with each kernel, turn by turn, so that what else the machine does hits both.
The first run of a process also loads scipy's .mat reader and is given apart.

  python tests/benchmarks/bench_widerface_eval.py predictions.tar.gz ground_truth --json eval.json
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Dict, List

import numpy as np
from facezoo.datasets.widerface import read_ground_truth, read_predictions
from facezoo.metrics.detection import KERNELS, evaluate_detections

STAGES = ("predictions", "ground_truth", "evaluation", "total")


def run_once(pred: Path, gt: Path, kernel: str) -> tuple:
    """Return seconds by stage, and the report."""
    times = [time.perf_counter()]
    predictions = read_predictions(pred)
    times.append(time.perf_counter())
    truth = read_ground_truth(gt)
    times.append(time.perf_counter())
    report = evaluate_detections(predictions, truth, kernel=kernel)
    times.append(time.perf_counter())
    return dict(zip(STAGES, [*np.diff(times), times[-1] - times[0]])), report


def measure(pred: Path, gt: Path, runs: int) -> Dict[str, object]:
    """Return medians in seconds by kernel and stage, and what was evaluated."""
    first, report = run_once(pred, gt, next(iter(KERNELS)))
    seconds: Dict[str, List[Dict[str, float]]] = {kernel: [] for kernel in KERNELS}
    aps: Dict[str, Dict[str, float]] = {}
    for _ in range(runs):
        for kernel in KERNELS:
            stages, report = run_once(pred, gt, kernel)
            seconds[kernel].append(stages)
            aps[kernel] = {level: result.ap for level, result in report.levels.items()}
    return {
        "pred": pred.name,
        "photos": report.images,
        "boxes": report.detections,
        "runs": runs,
        "first_run_s": round(first["total"], 3),
        "median_s": {
            kernel: {
                stage: round(float(np.median([run[stage] for run in all_runs])), 3)
                for stage in STAGES
            }
            for kernel, all_runs in seconds.items()
        },
        "ap": aps,
        "kernels_agree": len({tuple(ap.values()) for ap in aps.values()}) == 1,
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pred", type=Path, help="what facezoo evaluate scrfd takes as --pred")
    parser.add_argument("gt", type=Path, help="folder with the four official .mat files")
    parser.add_argument("--runs", type=int, default=9, help="of each kernel, taken turn by turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    result = measure(args.pred, args.gt, args.runs)
    for key, value in result.items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for kernel, row in rows:
            print(f"{key:16} {kernel:7} {row}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
