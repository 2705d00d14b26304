"""Time PIPNet's decoder against the same steps in torch, per face.

Two torch versions: the steps on tensors alone (view, max, gather, add, divide, one index_select,
mean), and the authors' way, which picks the neighbours' predictions with two Python lists. All
take turns on the same maps (98 landmarks, 10 neighbours, 8x8), so that what else the machine does
hits all; the best of the rounds counts.

  python tests/benchmarks/bench_pipnet_decode.py --json decode.json
"""

import argparse
import json
import time
from pathlib import Path
from typing import Callable, Dict, Sequence

import numpy as np
import torch
from facezoo.models.pipnet.decode import MeanFace, decode_maps, load_meanface

NAMES = ("cls", "x", "y", "nb_x", "nb_y")
Maps = Dict[str, torch.Tensor]


def random_maps(batch: int) -> Dict[str, np.ndarray]:
    rng = np.random.default_rng(2026)
    channels = (98, 98, 98, 980, 980)
    shapes = [(batch, size, 8, 8) for size in channels]
    return {name: rng.standard_normal(s, np.float32) for name, s in zip(NAMES, shapes)}


def own_and_neighbors(maps: Maps, neighbors: int) -> Sequence[torch.Tensor]:
    """Return x, y (N, 1) and the neighbours' x, y (N, K) of one face, in [0, 1]."""
    batch, count, height, width = maps["cls"].shape
    best = torch.max(maps["cls"].view(batch * count, -1), 1)[1].view(-1, 1)
    repeated = best.repeat(1, neighbors).view(-1, 1)
    column, row = (best % width).float(), torch.div(best, width, rounding_mode="floor").float()
    found = []
    for name, corner, side in (("x", column, width), ("y", row, height)):
        offset = torch.gather(maps[name].view(batch * count, -1), 1, best)
        found.append((offset + corner) / side)
    for name, corner, side in (("nb_x", column, width), ("nb_y", row, height)):
        flat = maps[name].view(batch * count * neighbors, -1)
        offset = torch.gather(flat, 1, repeated).view(-1, neighbors)
        found.append((offset + corner) / side)
    return found


def decode_tensors(maps: Maps, table: torch.Tensor, longest: int) -> torch.Tensor:
    x, y, near_x, near_y = own_and_neighbors(maps, 10)
    near_x = near_x.view(-1).index_select(0, table).view(-1, longest)
    near_y = near_y.view(-1).index_select(0, table).view(-1, longest)
    merged = [torch.cat(pair, 1).mean(1) for pair in ((x, near_x), (y, near_y))]
    return torch.stack(merged, 1)


def decode_lists(maps: Maps, first: list, second: list, longest: int) -> torch.Tensor:
    x, y, near_x, near_y = own_and_neighbors(maps, 10)
    near_x = near_x[first, second].view(-1, longest)
    near_y = near_y[first, second].view(-1, longest)
    merged = [torch.cat(pair, 1).mean(1) for pair in ((x, near_x), (y, near_y))]
    return torch.stack(merged, 1)


def best_of(functions: Dict[str, Callable[[], object]], rounds: int) -> Dict[str, float]:
    """Return each function's best time in us; they take turns."""
    best = dict.fromkeys(functions, np.inf)
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(20):
                function()
            best[name] = min(best[name], (time.perf_counter() - start) / 20 * 1e6)
    return best


def measure(threads: int, rounds: int) -> Dict[str, object]:
    torch.set_num_threads(threads)
    face: MeanFace = load_meanface("WFLW", 10)
    longest = len(face.reverse)
    channels = face.reverse.T.ravel()
    table = torch.from_numpy(channels.copy())
    first, second = (channels // 10).tolist(), (channels % 10).tolist()
    one, many = random_maps(1), random_maps(32)
    tensors = {name: torch.from_numpy(maps) for name, maps in one.items()}
    functions = {
        "facezoo_1": lambda: decode_maps(one, face),
        "facezoo_32": lambda: decode_maps(many, face),
        "torch_tensors": lambda: decode_tensors(tensors, table, longest),
        "torch_lists": lambda: decode_lists(tensors, first, second, longest),
    }
    with torch.no_grad():
        expected = functions["torch_lists"]().numpy()
        difference = max(
            np.abs(functions["torch_tensors"]().numpy() - expected).max(),
            np.abs(decode_maps(one, face).points_xy[0] - expected).max(),
        )
        times = best_of(functions, rounds)
    times["facezoo_32"] /= 32
    return {
        "threads": threads,
        "largest_difference": float(difference),
        **{f"{name}_us_per_face": round(value, 1) for name, value in times.items()},
        "torch_tensors_over_facezoo_1": round(times["torch_tensors"] / times["facezoo_1"], 1),
        "torch_lists_over_facezoo_1": round(times["torch_lists"] / times["facezoo_1"], 1),
        "batch_1_over_batch_32": round(times["facezoo_1"] / times["facezoo_32"], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    result = measure(args.threads, args.rounds)
    for key, value in result.items():
        print(f"{key:32} {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
