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
    "has_bf16",
]

# Linux lists the processor and its instruction sets here; other systems have no such file.
CPUINFO = Path("/proc/cpuinfo")
# Flags of the int8 instructions of x86; one of them is enough.
VNNI = ("avx512_vnni", "avx_vnni")
# Flags of bfloat16 instructions of x86 and ARM; without them it is computed in software, slowly.
BF16 = ("avx512_bf16", "amx_bf16", "bf16")


def describe_machine() -> Dict[str, Any]:
    """Name the processor and count the cores this process may use, for reports."""
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    return {"cpu": name, "cores": usable_cores()}


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
