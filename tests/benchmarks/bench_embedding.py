"""Aligned faces a second of a recognition network: each file's best batch and layout, by turns.

A layout is how two cores are shared: one session on all of them, or one session a core. The
released file in ONNX Runtime is what the others are held against; the same with PRelu rewritten is
the same arithmetic, OpenVINO's bf16 is another runtime and precision.

    python tests/benchmarks/bench_embedding.py w600k_mbf.onnx --json embedding.json
"""

import argparse
import json
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from facezoo.backends.ort import open_session
from facezoo.compiler.rewrite import rewrite_prelu
from facezoo.machine import describe_machine, has_bf16, usable_cores

BATCHES = (1, 4, 8, 16, 32)
SECONDS = 0.25  # of one measurement


def ort_run(graph, cores, shared, batch):
    """Return a function that embeds ``cores`` times ``batch`` faces."""
    threads = cores if shared else 1
    session = open_session(graph.SerializeToString(), threads)
    name = session.get_inputs()[0].name
    faces = np.random.default_rng(0).uniform(-1, 1, (batch, 3, 112, 112)).astype(np.float32)
    return lambda: session.run(None, {name: faces})


def openvino_run(graph, cores, shared, batch, precision):
    import openvino

    core = openvino.Core()
    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": cores,
        "NUM_STREAMS": 1 if shared else cores,
    }
    compiled = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", config)
    faces = np.random.default_rng(0).uniform(-1, 1, (batch, 3, 112, 112)).astype(np.float32)
    local = threading.local()

    def run():
        # A request serves one thread at a time.
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        local.request.infer({0: faces}, share_inputs=True)

    return run


def rate(run, pool, shared, cores, batch):
    """Return faces a second over a short while."""

    def loop():
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            run()
            done += batch
        return done

    started = time.perf_counter()
    loops = [pool.submit(loop) for _ in range(1 if shared else cores)]
    done = sum(one.result() for one in loops)
    return done / (time.perf_counter() - started)


def measure(path, rounds, batches, with_openvino):
    released, rewritten = onnx.load(str(path)), onnx.load(str(path))
    rewrite_prelu(rewritten)
    cores = usable_cores()
    makers = {
        "released, ONNX Runtime fp32": lambda s, b: ort_run(released, cores, s, b),
        "rewritten, ONNX Runtime fp32": lambda s, b: ort_run(rewritten, cores, s, b),
    }
    if with_openvino:
        makers["released, OpenVINO fp32"] = lambda s, b: openvino_run(released, cores, s, b, "f32")
    if with_openvino and has_bf16():
        makers["released, OpenVINO bf16"] = lambda s, b: openvino_run(released, cores, s, b, "bf16")
    runs = {
        (name, shared, batch): make(shared, batch)
        for name, make in makers.items()
        for shared in (True, False)
        for batch in batches
    }
    rates = {key: [] for key in runs}
    with ThreadPoolExecutor(cores) as pool:
        for run in runs.values():
            run()
        for _ in range(rounds):
            for (name, shared, batch), run in runs.items():
                rates[name, shared, batch].append(rate(run, pool, shared, cores, batch))
    medians = {key: statistics.median(values) for key, values in rates.items()}
    best = {name: max((k for k in medians if k[0] == name), key=medians.get) for name in makers}
    base = rates[best["released, ONNX Runtime fp32"]]
    rows = {
        name: {
            "faces_per_second": medians[key],
            "batch": key[2],
            "sessions": 1 if key[1] else cores,
            "ratio": statistics.median(own / other for own, other in zip(rates[key], base)),
        }
        for name, key in best.items()
    }
    table = [
        {
            "file": name,
            "sessions": 1 if shared else cores,
            "batch": batch,
            "faces_per_second": value,
        }
        for (name, shared, batch), value in medians.items()
    ]
    return {
        "machine": describe_machine(),
        "model": path.name,
        "rounds": rounds,
        "best": rows,
        "all": table,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a released recognition network, 112x112")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--no-openvino", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = measure(args.model, args.rounds, args.batches, not args.no_openvino)
    print(json.dumps(result["best"], indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
