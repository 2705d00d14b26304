"""Facts about the processor: name, instruction sets, cores that this process may use."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any, Dict, FrozenSet

from .workers import usable_cores

__all__ = [
    "VNNI",
    "cpu_flags",
    "describe_machine",
]

# Linux names the processor and its instruction sets here; other systems have no such file.
CPUINFO = Path("/proc/cpuinfo")
# The flags of x86's instructions for int8, of which either will do.
VNNI = ("avx512_vnni", "avx_vnni")


def describe_machine() -> Dict[str, Any]:
    """Name the processor and count the cores this process may use, for reports."""
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    return {"cpu": name, "cores": usable_cores()}


def cpu_flags() -> FrozenSet[str]:
    """Return the instruction sets as Linux names them; none where the system does not tell."""
    return frozenset(_cpuinfo("flags|Features").split())


def _cpuinfo(key: str) -> str:
    """Return what stands behind a key for the first core; "" where nothing does."""
    if not CPUINFO.exists():
        return ""
    match = re.search(rf"^(?:{key})\s*:(.*)$", CPUINFO.read_text(errors="replace"), re.M)
    return match[1].strip() if match else ""
