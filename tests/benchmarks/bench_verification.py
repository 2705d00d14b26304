"""Time the 10-fold accuracy of 6,000 pairs of 512 values against its definition.

The definition subtracts each fold's mean from all embeddings, computes all distances anew and
compares them with 400 thresholds, one at a time, as the authors' program does. Both must give the
same accuracies; the best of the rounds counts.

  python tests/benchmarks/bench_verification.py --json verification.json
"""

import argparse
import json
import time
from pathlib import Path
from typing import Callable, Dict, Tuple

import numpy as np
from facezoo.metrics.verification import angular_distance, k_fold_accuracy

PAIRS, SIZE, FOLDS = 6000, 512, 10


def random_pairs() -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs in runs of 300 genuine and 300 others, as LFW's list has them."""
    rng = np.random.default_rng(2026)
    is_same = np.arange(PAIRS) // 300 % 2 == 0
    first = rng.standard_normal((PAIRS, SIZE)) + 0.2
    noise = rng.standard_normal((PAIRS, SIZE)) + 0.2
    strength = rng.uniform(0.02, 0.5, (PAIRS, 1))
    return first, np.where(is_same[:, None], strength * first + noise, noise), is_same


def by_definition(first: np.ndarray, second: np.ndarray, is_same: np.ndarray) -> np.ndarray:
    thresholds = np.arange(0, 4, 0.01)
    everyone = np.arange(len(is_same))

    def counts(distance: np.ndarray, part: np.ndarray, threshold: float) -> Tuple[int, ...]:
        below, same = distance[part] < threshold, is_same[part]
        return (
            int(np.sum(np.logical_and(below, same))),
            int(np.sum(np.logical_and(below, ~same))),
            int(np.sum(np.logical_and(~below, ~same))),
            int(np.sum(np.logical_and(~below, same))),
        )

    accuracies = []
    for test in np.array_split(everyone, FOLDS):
        train = np.setdiff1d(everyone, test)
        mean = np.mean(np.concatenate([first[train], second[train]]), axis=0)
        distance = angular_distance(first - mean, second - mean)
        trained = [counts(distance, train, threshold) for threshold in thresholds]
        best = int(np.argmax([true + false for true, _, false, _ in trained]))
        tested = [counts(distance, test, threshold) for threshold in thresholds]
        accuracies.append((tested[best][0] + tested[best][2]) / len(test))
    return np.array(accuracies)


def best_of(function: Callable[[], object], rounds: int) -> float:
    """Return the best time in ms."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def measure(rounds: int) -> Dict[str, object]:
    pairs = random_pairs()
    found = k_fold_accuracy(*pairs)
    expected = by_definition(*pairs)
    ours = best_of(lambda: k_fold_accuracy(*pairs), rounds)
    literal = best_of(lambda: by_definition(*pairs), max(1, rounds // 30))
    # How long this machine needs to read both arrays once, for comparison between machines.
    one_pass = best_of(lambda: np.einsum("ij,ij->i", pairs[0], pairs[1]), rounds)
    return {
        "accuracy": str(found),
        "same_accuracies": bool(np.array_equal(found.accuracies, expected)),
        "facezoo_ms": round(ours, 2),
        "definition_ms": round(literal, 1),
        "definition_over_facezoo": round(literal / ours, 1),
        "facezoo_over_one_pass": round(ours / one_pass, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    result = measure(args.rounds)
    for key, value in result.items():
        print(f"{key:26} {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if result["same_accuracies"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
