"""Time what a user waits for before a command does its work, as processes, turn by turn.

Beside the median there is the smallest processor time, in which other work has no part.

python tests/benchmarks/bench_start.py predictions.tar.gz ground_truth --json start.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

# Seconds that a start may take; of an evaluation of WIDER FACE, with its work.
STARTS = {
    "python -c 'import facezoo'": (["-c", "import facezoo"], 0.15),
    "facezoo --help": (["-m", "facezoo", "--help"], 0.2),
    "facezoo list": (["-m", "facezoo", "list"], 0.2),
    "facezoo predict --help": (["-m", "facezoo", "predict", "--help"], 0.3),
    "facezoo evaluate --help": (["-m", "facezoo", "evaluate", "--help"], 0.3),
    "facezoo compile --help": (["-m", "facezoo", "compile", "--help"], 0.3),
}
EVALUATION = ("facezoo evaluate scrfd", 1.1)
NOTHING = "python -c ''"


def measure(pred: Path, gt: Path, runs: int) -> Dict[str, object]:
    """Return times in seconds and limits by command; Python alone has no limit."""
    commands = {NOTHING: ["-c", ""], **{name: words for name, (words, _) in STARTS.items()}}
    evaluation = ["-m", "facezoo", *EVALUATION[0].split()[1:], "-p", str(pred), "-g", str(gt)]
    commands[EVALUATION[0]] = evaluation
    limits = {**{name: limit for name, (_, limit) in STARTS.items()}, EVALUATION[0]: EVALUATION[1]}
    # As installed: with the bytecode that the first turn, or pip, has written.
    env = {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    passed: Dict[str, List[float]] = {name: [] for name in commands}
    spent: Dict[str, List[float]] = {name: [] for name in commands}
    for run in range(runs + 1):
        for name, words in commands.items():
            before, started = os.times(), time.perf_counter()
            subprocess.run([sys.executable, *words], env=env, capture_output=True, check=True)
            seconds, after = time.perf_counter() - started, os.times()
            # The first turn reads the files from the disk.
            if run:
                passed[name].append(seconds)
                user = after.children_user - before.children_user
                spent[name].append(user + after.children_system - before.children_system)
    return {
        "pred": pred.name,
        "runs": runs,
        "load": round(os.getloadavg()[0]),
        "median_s": {name: round(statistics.median(one), 3) for name, one in passed.items()},
        "cpu_s": {name: round(min(one), 3) for name, one in spent.items()},
        "limit_s": limits,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pred", type=Path, help="what facezoo evaluate scrfd takes as --pred")
    parser.add_argument("gt", type=Path, help="folder with the four official .mat files")
    parser.add_argument("--runs", type=int, default=9, help="of each command, taken turn by turn")
    parser.add_argument("--text", type=Path, metavar="FILE", help="also write the table here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    result = measure(args.pred, args.gt, args.runs)
    lines = ["processor  at most"]
    for name, seconds in result["cpu_s"].items():
        limit = result["limit_s"].get(name, "")
        lines.append(f"{seconds:9.2f}  {limit:<7}  {name}")
    lines.append(f"processor seconds; {result['load']} processes waited for a core")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.text:
        args.text.write_text(text, encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
