"""End soon after an error or Ctrl-C, even if a thread hangs in C.

GDAL, for example, waits for minutes for a stalled server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

GRACE = 2.0
"""Seconds to wait for threads after an error or Ctrl-C."""
T = TypeVar("T")


def interruptible(work: Callable[[], T]) -> T:
    """Return ``work()``, run in a thread: Ctrl-C interrupts a main thread that waits for it, but
    not one that runs C code."""
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised in the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, name="geoseg-work", daemon=True).start()
    return future.result()


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool; leaving it waits for its threads, after an error for `GRACE` at most."""
    name = f"geoseg-{time.monotonic_ns()}"
    pool = ThreadPoolExecutor(count, name)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + GRACE
        for thread in threading.enumerate():
            if thread.name.startswith(name):
                thread.join(max(0.0, deadline - time.monotonic()))
        raise
    pool.shutdown()
