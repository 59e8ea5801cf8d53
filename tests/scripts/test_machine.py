"""What a training asks of the C library, seen in a process of its own, which it changes for good."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from scripts.training.machine import keep_memory
kept = sys.argv[1] == "keep" and keep_memory()
for _ in range(3):
    np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    own = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}  # large pages would hide what each page costs
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60, env=own).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_memory_that_tensors_free_is_used_again_without_the_kernel() -> None:
    assert page_faults("keep") < 500 < page_faults("return")
