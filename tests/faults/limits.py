"""What hostile files are tried within, what they cost, and what shows that one was run."""

import contextlib
import csv
import os
import re
import resource
import signal
import time
from pathlib import Path

SECONDS = 30  # On a machine that does other things too; each takes less than one otherwise.
MEBIBYTES = 1500

# What each case costs, and the dearest as a page shows them; rewritten by a long test.
COSTS = Path(__file__).with_name("hostile.csv")
DEAREST = COSTS.with_suffix(".txt")
SHOWN = 8

# The file that a run of the tests notes costs in, if there is one.
NOTES = os.environ.get("FACEZOO_NOTE_COSTS")


@contextlib.contextmanager
def bounds(seconds=SECONDS, what=""):
    """End what takes too long, and let allocations beyond the limit fail; note what it costs."""

    def too_long(number, frame):
        raise TimeoutError(f"not refused within {seconds} s")

    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (here + (MEBIBYTES << 20), before[1]))
    try:
        with noted(what) if what and NOTES else contextlib.nullcontext():
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def noted(what):
    """Note a case's seconds of processor time, and the most memory beyond what was there before."""
    Path("/proc/self/clear_refs").write_text("5")  # The highest memory is counted from here.
    started, held = time.process_time(), memory("VmRSS")
    try:
        yield
    finally:
        seconds, mebibytes = time.process_time() - started, (memory("VmHWM") - held) / 1024
        with Path(NOTES).open("a", newline="") as file:
            csv.writer(file).writerow([what, f"{seconds:.2f}", f"{max(mebibytes, 0):.0f}"])


def memory(kind):
    """Return a line of the process's status, in KiB."""
    return int(re.search(rf"{kind}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def record_costs(notes):
    """Write the tables of costs from what was noted; return the cases."""
    cases = {}
    for what, *numbers in csv.reader(notes.read_text().splitlines()):
        cost = tuple(map(float, numbers))
        cases[what] = tuple(map(max, cost, cases.get(what, cost)))
    with COSTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "processor seconds", "MiB"])
        writer.writerows([what, f"{s:.2f}", f"{m:.0f}"] for what, (s, m) in sorted(cases.items()))
    dearest = {
        what
        for number in range(2)
        for what in sorted(cases, key=lambda what: -cases[what][number])[:SHOWN]
    }
    rows = [(what, *cases[what]) for what in sorted(dearest, key=lambda what: cases[what])][::-1]
    others = [cost for what, cost in cases.items() if what not in dearest]
    rows.append((f"{len(others)} others, at most", *map(max, zip(*others))))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'':{width}}  processor seconds   MiB"]
    lines += [f"{what:{width}}{seconds:19.2f}{mebibytes:6.0f}" for what, seconds, mebibytes in rows]
    DEAREST.write_text("\n".join(lines) + "\n")
    return cases


class Payload:
    """Unpickled, it leaves a folder."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))
