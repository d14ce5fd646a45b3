"""Tune glibc's heap: keep freed memory from one tile to the next, and return it after a block.

By default, glibc unmaps each large array when it is freed, and every forward pass faults its
activations in again. `keep_free_memory` makes it keep them, for the whole process. But glibc reuses
them badly, because torch asks for aligned memory: predicting 300 Mpx ended with 0.1 GB in use and
1.7 GB free but not returned. `return_free_memory` after each block returns it. Without glibc both
do nothing.
"""

from __future__ import annotations

import ctypes
import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from geoseg.errors import MachineError

FREE_LIMIT = 128 * 2**20
"""Bytes that may stay free: returning a page and faulting it in again takes time, too."""
ARRAY_LIMIT, KEPT_LIMIT = 2**27, 2**30
"""Bytes of the largest array that is kept, and of free heap between two blocks."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt`, from glibc's malloc.h."""


_REFUSED = re.compile(
    r"(can't|cannot|not able to) allocate memory|not enough memory|out of memory", re.I
)
"""Messages of torch's RuntimeErrors when the memory of a CPU or an accelerator is exhausted."""


@contextmanager
def refused_memory() -> Iterator[None]:
    """Raise MachineError in place of errors that mean that there is no memory or thread left."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        no_memory = isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM
        if no_memory or _REFUSED.search(str(error)):
            what, limits = "memory", "ulimit -v, cgroup"
        elif "can't start new thread" in str(error):
            what, limits = "threads", "ulimit -u, ulimit -v, cgroup"
        else:
            raise
        refusal = MachineError(
            f"the machine refuses more {what}; give a smaller --tile-size or --batch-size or fewer "
            f"--workers, or raise the limit ({limits})"
        )
        for note in getattr(error, "__notes__", ()):
            refusal.add_note(note)
        raise refusal from error


class HeapState(ctypes.Structure):
    """`struct mallinfo2` of glibc, since 2.33."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def return_free_memory(spare: int = 0) -> None:
    """Return free heap to the system if it exceeds `FREE_LIMIT` by more than `spare` bytes."""
    if (libc := glibc()) and libc.mallinfo2().fordblks > FREE_LIMIT + spare:
        libc.malloc_trim(0)


def idle_bytes() -> int:
    """Return the bytes of the heap that are free but not returned to the system."""
    return int(libc.mallinfo2().fordblks) if (libc := glibc()) else 0


def keep_free_memory() -> None:
    """Reuse freed arrays instead of unmapping them, in threads that start after this call.

    It holds for the process, which therefore decides itself: commands and workers call it. Threads
    then share one heap, since glibc unmaps parts of the heaps of further threads.
    """
    if libc := glibc():
        libc.mallopt(M_MMAP_THRESHOLD, ARRAY_LIMIT)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_LIMIT)
        libc.mallopt(M_ARENA_MAX, 1)


def glibc() -> ctypes.CDLL | None:
    """Return the C library if it is a glibc with `mallinfo2`."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype = HeapState
    return libc
