"""Time the pseudo-labels of 5,000 pictures of 250 people against pair-by-pair Python.

Pair by pair is how the authors' program draws partners and computes similarities: one cosine a
pair, one call of SciPy's Wasserstein distance a picture. It runs on some of the pictures and one
round, and its time is scaled to all and to the twelve rounds.

  python tests/benchmarks/bench_pseudo_labels.py --json pseudo_labels.json
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Dict, Tuple

import numpy as np
from facezoo.models.sdd_fiqa.pseudo_labels import PAIRS, ROUNDS, pseudo_labels
from scipy.stats import wasserstein_distance

SAMPLE = 250  # pictures that are labelled pair by pair


def random_faces(pictures: int, people: int) -> Tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2026)
    identities = np.arange(pictures) % people
    centres = rng.standard_normal((people, 512))
    noise = rng.uniform(0.3, 2.0, (pictures, 1)) * rng.standard_normal((pictures, 512))
    return (centres[identities] + noise).astype(np.float32), identities


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return np.dot(first, second) / (np.linalg.norm(first) * np.linalg.norm(second))


def pair_by_pair(embeddings: np.ndarray, identities: np.ndarray, rows: range) -> np.ndarray:
    distances = []
    for row in rows:
        partners = [k for k in np.flatnonzero(identities == identities[row]) if k != row]
        random.shuffle(partners)
        same = [cosine(embeddings[row], embeddings[k]) for k in partners[:PAIRS]]
        other, taken = [], set()
        while len(other) < PAIRS:
            k = random.randint(0, len(embeddings) - 1)
            if k not in taken and identities[k] != identities[row]:
                taken.add(k)
                other.append(cosine(embeddings[row], embeddings[k]))
        distances.append(wasserstein_distance(same, other))
    return np.array(distances)


def measure(pictures: int, people: int) -> Dict[str, object]:
    embeddings, identities = random_faces(pictures, people)
    start = time.perf_counter()
    labels = pseudo_labels(embeddings, identities)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    some = pair_by_pair(embeddings, identities, range(SAMPLE))
    literal = (time.perf_counter() - start) * pictures / SAMPLE * ROUNDS
    return {
        "pictures": pictures,
        "people": people,
        "correlation": round(float(np.corrcoef(some, labels.distances[:SAMPLE])[0, 1]), 4),
        "facezoo_s": round(ours, 2),
        "pair_by_pair_s": round(literal, 1),
        "pair_by_pair_over_facezoo": round(literal / ours, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--people", type=int, default=250)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    result = measure(args.pictures, args.people)
    for key, value in result.items():
        print(f"{key:26} {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
