"""Compare ways to group the faces of a data set whose people are known, such as LFW.

One face of each photo is used, the central one. Single, complete and average linkage are SciPy's,
over all pairs; HDBSCAN is scikit-learn's, and is left out where that is not installed.

  python tests/benchmarks/bench_clusters.py run --text tests/benchmarks/results/clusters.txt
"""

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
from facezoo.datasets.image_list import people_of
from facezoo.files import write_bytes
from facezoo.metrics.clusters import score_clusters
from facezoo.people.faces import read_faces
from facezoo.pipeline.clusters import find_people
from scipy.cluster.hierarchy import fcluster, linkage

BUILT_IN = 0.3383
COSINES = {
    "single": (0.45, 0.5, 0.55),
    "complete": (0.1, 0.15, 0.2, 0.25),
    "average": (BUILT_IN, 0.36, 0.38),
}


def distances(units):
    """Return one minus the cosine of all pairs, in SciPy's order."""
    count, place = len(units), 0
    found = np.empty(count * (count - 1) // 2)
    for start in range(0, count, 512):
        block = 1 - units[start : start + 512] @ units[start:].T
        for row, values in enumerate(block):
            found[place : place + len(values) - row - 1] = values[row + 1 :]
            place += len(values) - row - 1
    return found


def linkages(units):
    for method, cosines in COSINES.items():
        started = time.perf_counter()
        tree = linkage(distances(units), method)
        seconds = time.perf_counter() - started
        for cosine in cosines:
            yield f"{method} linkage", cosine, seconds, fcluster(tree, 1 - cosine, "distance")


def hdbscan(units):
    from sklearn.cluster import HDBSCAN

    started = time.perf_counter()
    labels = HDBSCAN(min_cluster_size=2, min_samples=1, n_jobs=-1, copy=True).fit_predict(units)
    alone = labels < 0
    labels[alone] = labels.max() + 1 + np.arange(np.count_nonzero(alone))
    yield "HDBSCAN", None, time.perf_counter() - started, labels


def ours(faces):
    for cosine in (0.3, BUILT_IN, 0.36, 0.38, 0.4):
        started = time.perf_counter()
        found = find_people(faces.vectors, np.arange(len(faces)), cosine, faces.weights)
        yield "facezoo cluster", cosine, time.perf_counter() - started, found.numbers


def rows(faces, people):
    units = faces.units
    ways = [ours(faces), linkages(units)]
    ways += [hdbscan(units)] if importlib.util.find_spec("sklearn") else []
    for way in ways:
        for name, cosine, seconds, groups in way:
            found = score_clusters(people, groups)
            at = "" if cosine is None else f"{cosine:.4g}"
            shares = [
                f"{100 * share:9.2f}"
                for one in (found.b_cubed, found.pairwise)
                for share in (one.precision, one.recall, one.f)
            ]
            line = f"{name:17} {at:>6} {found.groups:7} {found.mixed:6} {''.join(shares)}"
            yield f"{line} {seconds:8.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="results of facezoo score")
    parser.add_argument("--text", type=Path, required=True)
    args = parser.parse_args()
    faces = read_faces(args.run).one_per_photo("central")
    people = people_of(faces.photos, str(args.run))
    what = f"{len(faces)} faces of {len(set(people))} people, {faces.space.model}; P and R in %"
    head = "                  cosine  groups  mixed B-cubed P        R        F"
    lines = [what, f"{head}  pairs P        R        F  seconds"]
    for line in rows(faces, people):
        print(line, flush=True)
        lines.append(line)
    write_bytes(args.text, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
