"""Time the search in a gallery of a million drawn people, and show that a bad index is refused.

Templates are drawn on the sphere. An index that was made from other people's templates stands for
one that loses people: its recall gate must refuse it.

  python tests/benchmarks/bench_gallery.py --json gallery.json
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from facezoo.errors import GateError
from facezoo.machine import describe_machine
from facezoo.people.index import ExactIndex, build_approximate, check_recall
from facezoo.system import peak_memory

DIMENSIONS, BLOCK = 512, 8_000


def drawn(count, seed):
    found = np.random.default_rng(seed).standard_normal((count, DIMENSIONS), np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def measure(people, queries):
    before = peak_memory()
    blocks = (drawn(BLOCK, seed) for seed in range(people // BLOCK))
    index = ExactIndex(blocks, DIMENSIONS, stand_in)
    used = peak_memory() - before
    units = drawn(queries, 10**6)
    times = []
    for unit in units:
        start = time.perf_counter()
        index.search(unit[None], 5)
        times.append(1e3 * (time.perf_counter() - start))
    return {
        "people": people,
        "queries": queries,
        "ms_median": round(float(np.median(times)), 1),
        "ms_worst": round(max(times), 1),
        "index_gb": round(people * DIMENSIONS * 2 / 1e9, 3),
        "peak_gb": round(used / 1e9, 3),
    }


def stand_in(rows):
    """Return templates for re-ranking, of the cost of reading them, without their 2 GB."""
    return drawn(len(rows), 0)


def gate(people):
    """Return the recall of a good index, and what is said about a bad one."""
    templates, queries = drawn(people, 1), drawn(500, 2)
    exact = ExactIndex([templates], DIMENSIONS, lambda rows: templates[rows])
    # Like other photos of the first people.
    queries = 0.6 * templates[:500] + 0.8 * queries
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    good = check_recall(build_approximate(templates, "hnsw"), exact, queries)
    try:
        check_recall(build_approximate(np.roll(templates, 1, axis=0), "hnsw"), exact, queries)
    except GateError as error:
        return {"good": good.share, "bad": str(error)}
    raise SystemExit("a bad index passed the recall gate")


def text_of(result):
    search, gates = result["search"], result["gate"]
    return (
        f"people                    {search['people']:,}\n"
        f"one query, exact, median  {search['ms_median']} ms\n"
        f"one query, exact, worst   {search['ms_worst']} ms of {search['queries']}\n"
        f"templates in float16      {search['index_gb']} GB\n"
        f"peak memory               {search['peak_gb']} GB\n"
        f"HNSW, 20,000 people       recall@1 {gates['good']:.4f}\n"
        f"with wrong templates      {gates['bad']}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--text", type=Path, metavar="FILE", help="as a page shows it")
    args = parser.parse_args()
    result = {
        "machine": describe_machine(),
        "search": measure(args.people, args.queries),
        "gate": gate(20_000),
    }
    print(text_of(result), end="")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    if args.text:
        args.text.write_text(text_of(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
