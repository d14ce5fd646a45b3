"""Freed memory: kept from one tile to the next, but not for ever.

Left alone, glibc unmaps every large array when it is freed, so that each forward pass faults its
activations in anew. But what it keeps it reuses badly, because torch asks for aligned pieces:
predicting 300 Mpx ended with 0.1 GB in use and 1.7 GB free but not returned. So it is told to
keep everything (`keep_free_memory`), and after every block to return what has piled up
(`return_free_memory`). Without glibc both do nothing.
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
"""Bytes that may lie idle: returning and faulting in a page again takes time, too."""
ARRAY_LIMIT, KEPT_LIMIT = 2**27, 2**30
"""Bytes of the largest array that is kept, and of idle heap between two blocks."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of `mallopt`, from glibc's malloc.h."""


_REFUSED = re.compile(
    r"(can't|cannot|not able to) allocate memory|not enough memory|out of memory", re.I
)
"""What torch says in a RuntimeError when the memory of a processor or an accelerator is used up."""


@contextmanager
def refused_memory() -> Iterator[None]:
    """Raises MachineError where the system refuses memory or a thread."""
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
        told = MachineError(
            f"the machine refuses more {what}; give a smaller --tile-size or --batch-size or fewer "
            f"--workers, or raise the limit ({limits})"
        )
        for note in getattr(error, "__notes__", ()):
            told.add_note(note)
        raise told from error


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
    """Hand idle heap back to the system where it is a lot; `spare` bytes more may stay."""
    if (libc := glibc()) and libc.mallinfo2().fordblks > FREE_LIMIT + spare:
        libc.malloc_trim(0)


def idle_bytes() -> int:
    """Of the heap, what was freed and not returned."""
    return int(libc.mallinfo2().fordblks) if (libc := glibc()) else 0


def keep_free_memory() -> None:
    """Reuse freed arrays instead of unmapping them; for threads that start after this call.

    Threads then share one arena: the others' are made of small pieces that are unmapped, too.
    """
    if libc := glibc():
        libc.mallopt(M_MMAP_THRESHOLD, ARRAY_LIMIT)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_LIMIT)
        libc.mallopt(M_ARENA_MAX, 1)


def glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype = HeapState
    return libc
