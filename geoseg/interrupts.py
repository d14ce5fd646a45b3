"""Ending soon, though a thread hangs in C: GDAL waits for a stalled server for minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

GRACE = 2.0
"""Seconds that threads get to end after an error or Ctrl-C."""
T = TypeVar("T")


def interruptible(work: Callable[[], T]) -> T:
    """What `work` returns, computed on a thread: Ctrl-C reaches a main thread that waits, but not
    one that is in C."""
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # for whoever waits
            future.set_exception(error)

    threading.Thread(target=run, name="geoseg-work", daemon=True).start()
    return future.result()


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that is waited for; but not for longer than `GRACE` where an error leaves it."""
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
