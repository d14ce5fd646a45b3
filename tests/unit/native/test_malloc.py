"""glibc keeps freed memory, and returns it when asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from geoseg.native.malloc import glibc

pytestmark = pytest.mark.skipif(glibc() is None, reason="needs glibc")

SCRIPT = """
import resource, sys, threading
import numpy as np
from geoseg.native.malloc import keep_free_memory, return_free_memory

MB = 2**20

def faults_of_a_second_array(found):
    np.ones(100 * MB, np.uint8)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    np.ones(100 * MB, np.uint8)
    found.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / MB

found = []
if sys.argv[1] == "keep":
    keep_free_memory()
thread = threading.Thread(target=faults_of_a_second_array, args=(found,))
thread.start()
thread.join()
kept = [np.ones(10 * MB, np.uint8) for _ in range(60)]
held = kept[-1]
del kept
full = resident()
return_free_memory()
print(*found, full - resident())
"""
LIMIT = """
from geoseg.native import malloc

trimmed = []
malloc.glibc = lambda: True
malloc.return_free_memory = lambda: trimmed.append(size)
for size in [300, 300, 360, 370, 310, 360, 380, 300, 370]:  # MB after each block
    malloc.resident_bytes = lambda: size * 2**20
    malloc.limit_free_memory()
print(*trimmed)
"""


def run(how: str) -> tuple[float, float]:
    command = [sys.executable, "-c", SCRIPT, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    faults, returned = map(float, done.stdout.split())
    return faults, returned


def test_free_memory_is_returned_when_it_has_grown():
    """By 64 MB over 300, then over 310: the first block after a return shows what is needed."""
    done = subprocess.run([sys.executable, "-c", LIMIT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["370", "380"]


def test_freed_arrays_are_reused_and_piles_returned():
    before, _ = run("leave")
    after, returned = run("keep")
    assert after < before / 10
    assert returned > 400
