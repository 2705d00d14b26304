"""Facts about the processor: name, instruction sets, cores that this process may use."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any, Dict, List

from .workers import usable_cores

__all__ = [
    "cpu_features",
    "describe_machine",
]


def describe_machine() -> Dict[str, Any]:
    """Name the processor and count the cores this process may use, for reports."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(errors="replace"))
        name = match[1].strip() if match else name
    return {"cpu": name, "cores": usable_cores()}


CPU_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")


def cpu_features() -> List[str]:
    """Return which of ``CPU_FEATURES`` this processor has."""
    path = Path("/proc/cpuinfo")
    match = re.search(r"^flags\s*:(.*)$", path.read_text(), re.M) if path.exists() else None
    flags = set(match[1].split()) if match else set()
    return [name for name in CPU_FEATURES if name in flags]
