"""The commands: one module per verb."""

from __future__ import annotations

import os
from typing import List

from ..machine import THREADS_VARIABLE, granted_cores

__all__: List[str] = []

# NumPy's BLAS starts one thread per core of the machine when it is imported, also where a
# container's quota allows fewer; so this precedes its import.
if granted_cores() < (os.cpu_count() or 1):
    os.environ.setdefault(THREADS_VARIABLE, str(granted_cores()))
