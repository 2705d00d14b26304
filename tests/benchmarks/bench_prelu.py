"""Time a network as released against the same with PRelu rewritten as convolutions.

Runs the two graphs turn by turn in ONNX Runtime on the same tensor and compares medians, so that
what else the machine does hits both.

  python tests/benchmarks/bench_prelu.py w600k_mbf.onnx --size 112 112 --json prelu.json
"""

import argparse
import json
import time
from pathlib import Path
from typing import Dict

import numpy as np
import onnx
from facezoo.backends.ort import open_session
from facezoo.compiler.rewrite import rewrite_prelu


def measure(model: Path, *, batch: int, size: tuple, threads: int, runs: int) -> Dict[str, object]:
    """Return medians in ms, their ratio and the largest relative difference of the outputs."""
    released = onnx.load(str(model))
    rewritten = onnx.load(str(model))
    replaced = rewrite_prelu(rewritten)
    sessions = {
        name: open_session(graph.SerializeToString(), threads)
        for name, graph in (("released", released), ("rewritten", rewritten))
    }
    name = sessions["released"].get_inputs()[0].name
    tensor = np.random.default_rng(2026).standard_normal((batch, 3, *size), np.float32)
    outputs = {key: session.run(None, {name: tensor})[0] for key, session in sessions.items()}
    times: Dict[str, list] = {key: [] for key in sessions}
    for _ in range(runs):
        for key, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {name: tensor})
            times[key].append((time.perf_counter() - start) * 1e3)
    medians = {key: float(np.median(values)) for key, values in times.items()}
    difference = np.abs(outputs["rewritten"] - outputs["released"]).max()
    return {
        "model": model.name,
        "batch": batch,
        "threads": threads,
        "runs": runs,
        "prelu_rewritten": replaced,
        "released_ms": round(medians["released"], 3),
        "rewritten_ms": round(medians["rewritten"], 3),
        "ratio": round(medians["released"] / medians["rewritten"], 3),
        "difference_over_std": float(difference / outputs["released"].std()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="an .onnx file with one image input")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(112, 112), metavar=("H", "W"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=31, help="of each graph, taken turn by turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    result = measure(
        args.model,
        batch=args.batch,
        size=tuple(args.size),
        threads=args.threads,
        runs=args.runs,
    )
    for key, value in result.items():
        print(f"{key:20} {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
