"""What the trainings share beside saving and resuming, which each model's tests try."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.torch

CODE = """
import platform, resource, sys
import numpy as np
from facezoo.models.resumable import keep_freed_memory
if platform.libc_ver()[0] != "glibc":
    sys.exit("another C library")
def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(8_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fresh = new_pages()
keep_freed_memory()
new_pages()
print(fresh, new_pages())
"""


def test_memory_that_was_freed_is_used_again_without_the_system():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    if "another C library" in done.stderr:
        pytest.skip("only glibc can be told to")
    fresh, kept = map(int, done.stdout.split())
    assert kept < 100 < fresh
