"""glibc keeps freed memory, and returns it when asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from geoseg.native.malloc import glibc

pytestmark = pytest.mark.skipif(glibc() is None, reason="needs glibc 2.33")

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


def run(how: str) -> tuple[float, float]:
    command = [sys.executable, "-c", SCRIPT, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    faults, returned = map(float, done.stdout.split())
    return faults, returned


def test_freed_arrays_are_reused_and_piles_returned():
    before, _ = run("leave")
    after, returned = run("keep")
    assert after < before / 10
    assert returned > 400
