"""What hostile files are tried within, and how it shows that one of them was run."""

import contextlib
import os
import resource
import signal
from pathlib import Path

SECONDS = 30  # On a machine that does other things too; each takes less than one otherwise.
MEBIBYTES = 1500


@contextlib.contextmanager
def bounds(seconds=SECONDS):
    """End what takes too long, and let allocations beyond the limit fail."""

    def too_long(number, frame):
        raise TimeoutError(f"not refused within {seconds} s")

    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (here + (MEBIBYTES << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


class Payload:
    """Unpickled, it leaves a folder."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))
