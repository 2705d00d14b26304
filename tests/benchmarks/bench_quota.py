"""Time and memory of a process that is told of 64 cores while its quota gives 2.

Three processes run the same command on the same two cores, in turns: one sees 2 cores; one is told
of 64 by the system (a library loaded before it answers affinity and core counts) and of a quota of
2 by a made-up cgroup tree; one is told of 64 and of no quota, as before quotas were read. It fails
if the second takes more than 1.1 times the seconds or the memory of the first. Where other programs
take the cores, compare the seconds of CPU, not of the clock. Needs Linux and a C compiler.

  python tests/benchmarks/bench_quota.py photos/ --json quota.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from facezoo.machine import describe_machine

CORES, TOLD = 2, 64
LIMITED = "told of 64, quota 2"
LIMIT = 1.1  # times the seconds and the memory of a process that sees 2
ANSWERS = f"""
#define _GNU_SOURCE
#include <sched.h>
#include <string.h>
#include <unistd.h>
#include <dlfcn.h>
int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {{
  memset(set, 0, size);
  memset(set, 255, {TOLD // 8});
  return 0;
}}
int get_nprocs(void) {{ return {TOLD}; }}
int get_nprocs_conf(void) {{ return {TOLD}; }}
long sysconf(int name) {{
  if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF) return {TOLD};
  return ((long (*)(int))dlsym(RTLD_NEXT, "sysconf"))(name);
}}
"""
# As the installed command does it, with another tree of cgroups.
START = """
import sys
from pathlib import Path
from facezoo import machine
machine.PROC_SELF = Path(sys.argv.pop(1))
from facezoo.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def make_tree(folder, quota):
    """Write the files by which the kernel tells a process its cgroup and its quota."""
    for name in ("proc", "fs"):
        (folder / name).mkdir(parents=True)
    (folder / "proc/cgroup").write_text("0::/\n")
    (folder / "proc/mountinfo").write_text(f"30 23 0:26 / {folder}/fs rw - cgroup2 cgroup2 rw\n")
    (folder / "fs/cpu.max").write_text(f"{quota} 100000\n")
    return folder / "proc"


def count_threads(process, most):
    """Keep the largest number of threads of a running process."""
    status = Path(f"/proc/{process.pid}/status")
    while process.returncode is None:
        try:
            words = status.read_text().split()
            most[0] = max(most[0], int(words[words.index("Threads:") + 1]))
        except (OSError, ValueError):
            return
        time.sleep(0.02)


def run(command, environment):
    """Run a command; return seconds, seconds of CPU, MiB and threads."""
    began, most = time.perf_counter(), [0]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    watcher = threading.Thread(target=count_threads, args=(process, most))
    watcher.start()
    said = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {said}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, most[0]


def measure(photos, rounds, folder):
    source, library = folder / "answers.c", folder / "answers.so"
    source.write_text(ANSWERS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    plain = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    told = {**plain, "LD_PRELOAD": str(library)}
    limited, free = make_tree(folder / "2", CORES * 100000), make_tree(folder / "max", "max")
    sides = {
        "sees 2": (plain, free),
        LIMITED: (told, limited),
        "told of 64, no quota": (told, free),
    }
    found = {}
    for engine in ("ort", "openvino"):
        rows = {side: [] for side in sides}
        for index in range(rounds):
            for side, (environment, tree) in sides.items():
                out = folder / f"{engine}-{index}-{side[-7:]}-{tree.parent.name}"
                command = [sys.executable, "-c", START, str(tree), "predict", *photos]
                command += ["--save_dir", str(out), "--engine", engine, "--quiet"]
                rows[side].append(run(command, environment))
        names = ("seconds", "cpu_seconds", "mib", "threads")
        found[engine] = {
            side: dict(zip(names, (round(statistics.median(c), 2) for c in zip(*values))))
            for side, values in rows.items()
        }
        for side in list(sides)[1:]:
            ratios = found[engine][side]
            for name in ("seconds", "cpu_seconds", "mib"):
                ratios[f"{name}_ratio"] = round(ratios[name] / found[engine]["sees 2"][name], 3)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", help="a photo or a folder of them")
    parser.add_argument("--detector", help="a model; the published weights by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    args = parser.parse_args()
    photos = [args.photos, *(["--detector", args.detector] if args.detector else [])]
    if len(os.sched_getaffinity(0)) != CORES:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as name:
        found = measure(photos, args.rounds, Path(name))
    result = {"machine": describe_machine(), "rounds": args.rounds, "predict": found}
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if args.json:
        args.json.write_text(text, encoding="utf-8")
    above = [
        f"{engine}: {name} {sides[LIMITED][name]} > {LIMIT}"
        for engine, sides in found.items()
        for name in ("seconds_ratio", "mib_ratio")
        if sides[LIMITED][name] > LIMIT
    ]
    print("; ".join(above) or f"at most {LIMIT} times the seconds and the memory")
    return 1 if above else 0


if __name__ == "__main__":
    raise SystemExit(main())
