"""Facts about the processor: name, instruction sets, cores that this process may use."""

from __future__ import annotations

import logging
import math
import os
import platform
import re
import sys
import threading
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Generic,
    Iterator,
    List,
    Optional,
    Tuple,
    TypeVar,
)

from .system import affine_cores

__all__ = [
    "OPENCV_VARIABLE",
    "THREADS_VARIABLE",
    "VNNI",
    "SharedSetting",
    "cpu_flags",
    "describe_machine",
    "granted_cores",
    "has_bf16",
    "instruction_sets",
    "limited_cores",
    "opencv_threads",
    "usable_cores",
]

# Linux lists the processor and its instruction sets here; other systems have no such file.
CPUINFO = Path("/proc/cpuinfo")
# Of this process: its cgroups, and where their file systems are mounted.
PROC_SELF = Path("/proc/self")
# Read by OpenMP, and by the libraries that NumPy and torch compute with; the user's own limit.
THREADS_VARIABLE = "OMP_NUM_THREADS"
# Read by OpenCV when it is imported.  source: opencv@4.7.0 modules/core/src/parallel.cpp
OPENCV_VARIABLE = "OPENCV_FOR_THREADS_NUM"
# Flags of the int8 instructions of x86; one of them is enough.
VNNI = ("avx512_vnni", "avx_vnni")
# Flags of bfloat16 instructions of x86 and ARM; without them it is computed in software, slowly.
BF16 = ("avx512_bf16", "amx_bf16", "bf16")
# What decides the speed of a network, from narrow to wide: name to flags, any of which is enough.
INSTRUCTION_SETS = {
    "AVX2": ("avx2",),
    "dot product": ("asimddp",),
    "AVX-512": ("avx512f",),
    "VNNI": VNNI,
    "BF16": BF16,
    "AMX": ("amx_tile",),
}

_log = logging.getLogger(__name__)

Value = TypeVar("Value")


@lru_cache(maxsize=None)
def usable_cores() -> int:
    """Return the number of cores to use; read once.

    Returns
    -------
    int
        That of :func:`granted_cores`, or ``OMP_NUM_THREADS`` if that is fewer.
    """
    granted = granted_cores()
    # OpenMP allows one number per nested level.
    given = os.environ.get(THREADS_VARIABLE, "").split(",")[0].strip()
    if not given:
        return granted
    if not given.isdecimal() or int(given) < 1:
        _log.warning("%s=%s is not a number above 0 and is ignored", THREADS_VARIABLE, given)
        return granted
    return min(granted, int(given))


def granted_cores() -> int:
    """Return the number of cores that the system grants this process.

    Returns
    -------
    int
        The smaller of the CPU affinity and the CPU quota of its cgroups (version 1 or 2, the
        smallest of nested ones), which is rounded up; at least 1.
    """
    cores = affine_cores()
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


class SharedSetting(Generic[Value]):
    """A setting of the whole program that several threads change for a while.

    Whatever order they end in, the latest of those that are left applies, and the value from
    before all of them when none is.

    Parameters
    ----------
    read, write
        Return the current value, and set another one.
    """

    def __init__(self, read: Callable[[], Value], write: Callable[[Value], object]) -> None:
        self._read, self._write = read, write
        # Reentrant: a stream that nobody holds any more ends where its generator is collected.
        self._lock = threading.RLock()
        self._values: List[List[Value]] = []

    @contextmanager
    def changed(self, value: Value) -> Iterator[None]:
        """Apply a value for a while."""
        mine = [value]
        with self._lock:
            if not self._values:
                self._before = self._read()
            self._values.append(mine)
            self._write(value)
        try:
            yield
        finally:
            with self._lock:
                self._values = [one for one in self._values if one is not mine]
                self._write(self._values[-1][0] if self._values else self._before)


def _environment(variable: str) -> SharedSetting[Optional[str]]:
    def write(value: Optional[str]) -> None:
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value
        usable_cores.cache_clear()

    return SharedSetting(lambda: os.environ.get(variable), write)


def _read_opencv_threads() -> int:
    import cv2

    return cv2.getNumThreads()


def _write_opencv_threads(count: int) -> None:
    import cv2

    cv2.setNumThreads(count)


_cores = _environment(THREADS_VARIABLE)
_opencv_variable = _environment(OPENCV_VARIABLE)
_opencv_threads = SharedSetting(_read_opencv_threads, _write_opencv_threads)


@contextmanager
def limited_cores(count: Optional[int]) -> Iterator[None]:
    """Let this process, and those it starts, use fewer cores for a while.

    Parameters
    ----------
    count
        Their number; no change if None.
    """
    if count is None:
        yield
        return
    with _cores.changed(str(count)):
        yield


@contextmanager
def opencv_threads(count: int) -> Iterator[None]:
    """Let OpenCV use that many threads for a while, also if it is imported only then."""
    if "cv2" in sys.modules:
        with _opencv_threads.changed(count):
            yield
    else:
        with _opencv_variable.changed(str(count)):
            yield


def _quota() -> Optional[float]:
    """Return the CPU time that the cgroups of this process may use, in cores; None if unlimited."""
    quotas = []
    for folder, top in _cpu_groups():
        for group in (folder, *folder.parents):
            if group == top or top in group.parents:
                quotas.append(_quota_of(group))
    return min((quota for quota in quotas if quota is not None), default=None)


def _cpu_groups() -> Iterator[Tuple[Path, Path]]:
    """Yield the folder of each cgroup of this process that may have a CPU quota, and its mount."""
    try:
        mounts = (PROC_SELF / "mountinfo").read_text(errors="replace").splitlines()
        groups = (PROC_SELF / "cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return  # Not Linux, or /proc is not mounted.
    # Lines such as 0::/path (version 2) and 3:cpu,cpuacct:/path (version 1).
    paths = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in mounts:
        # source: Linux Documentation/filesystems/proc.rst, section 3.5
        front, _, back = line.partition(" - ")
        kind, options = back.split(" ")[0], back.split(" ")[-1].split(",")
        controller = "" if kind == "cgroup2" else "cpu"
        if kind in ("cgroup", "cgroup2") and controller in ("", *options) and controller in paths:
            root, point = (word.replace("\\040", " ") for word in front.split(" ")[3:5])
            # A container may see its own group as the root of the mount.
            inside = os.path.relpath(paths[controller], root)
            yield Path(point, "" if inside.startswith("..") else inside), Path(point)


def _quota_of(group: Path) -> Optional[float]:
    """Return the quota of one cgroup in cores; None if it has none."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # No such files, or "max".
    return cores if cores > 0 else None  # -1: no quota


def describe_machine() -> Dict[str, Any]:
    """Name the processor and count the cores this process may use, for reports."""
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    return {"cpu": name, "instruction_sets": list(instruction_sets()), "cores": usable_cores()}


def instruction_sets() -> Tuple[str, ...]:
    """Return the instruction sets that decide the speed of a network; none if unknown."""
    flags = cpu_flags()
    return tuple(name for name, any_of in INSTRUCTION_SETS.items() if not flags.isdisjoint(any_of))


def cpu_flags() -> FrozenSet[str]:
    """Return the instruction sets under their Linux names; none if unknown."""
    return frozenset(_cpuinfo("flags|Features").split())


def has_bf16() -> bool:
    """Return whether the processor has instructions for bfloat16."""
    return not cpu_flags().isdisjoint(BF16)


def _cpuinfo(key: str) -> str:
    """Return the value of a key for the first core; "" if there is none."""
    if not CPUINFO.exists():
        return ""
    match = re.search(rf"^(?:{key})\s*:(.*)$", CPUINFO.read_text(errors="replace"), re.M)
    return match[1].strip() if match else ""
