"""Tune glibc's heap: keep freed memory from one tile to the next, and return it after a block.

By default, glibc unmaps each large array when it is freed, and every forward pass faults its
activations in again. `keep_free_memory` makes it keep them, for the whole process. But glibc reuses
them badly, because torch asks for aligned memory: predicting 300 Mpx ended with 0.1 GB in use and
1.7 GB free but not returned. `limit_free_memory` after each block returns it. Without glibc both
do nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geoseg.errors import MachineError

GROWTH = 64 * 2**20
"""Bytes by which memory may grow: returning a page and faulting it in again takes time, too."""
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


class _Resident:
    """How much resident memory the process may have before free heap is returned."""

    limit = 0
    is_settling = True
    """The heap was returned, and what is used again has not been counted yet."""


def return_free_memory() -> None:
    """Return free heap to the system."""
    if libc := glibc():
        libc.malloc_trim(0)


def limit_free_memory() -> None:
    """Return free heap to the system if resident memory has grown by `GROWTH`.

    That is, since blocks were computed after the heap was last returned: what they use again and
    again stays, since faulting it in took a quarter of a pipeline's time.
    """
    if not glibc():
        return
    resident = resident_bytes()
    if _Resident.is_settling:
        _Resident.limit = max(_Resident.limit, resident + GROWTH)
        _Resident.is_settling = False
    elif resident > _Resident.limit:
        return_free_memory()
        _Resident.is_settling = True


def resident_bytes() -> int:
    """Return the bytes of this process in memory, on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
    """Return the C library if it is a glibc."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
