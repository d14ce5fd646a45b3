"""A pool of threads that compute one tile each.

Tiles side by side need no barriers, unlike the parts of one tile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from geoseg.model.cpu.arena import Arena

T = TypeVar("T")
_current = threading.local()
"""The `arena` of the job that the thread runs, if it runs one."""


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch compute in the calling thread alone, so that OpenMP starts no team for it.

    A team lives as long as the thread that it was started for. Where the threads of all teams
    outnumber the cores, they sleep at barriers instead of spinning, and everything that they
    compute takes half as long again.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class WorkerPool:
    """Threads that run one job each, with an equal share of the cores.

    Args:
        jobs: that run at once; further ones wait.
        cores: of which each job takes ``cores // jobs``, also as torch's number of threads.
    """

    def __init__(self, jobs: int, cores: int) -> None:
        self.share = cores // jobs
        self.arenas: list[Arena] = []
        """Arenas of finished jobs, for the next ones."""
        self._lock = threading.Lock()
        self._workers = self._start_workers(jobs)

    def _start_workers(self, jobs: int) -> ThreadPoolExecutor:
        """Start all threads at once and give each its number of OpenMP threads.

        That number decides the last bits of sums. Setting it also changes what threads started
        later inherit, which is therefore set back to the number of the calling thread.
        """
        inherited = torch.get_num_threads()
        workers = ThreadPoolExecutor(jobs, initializer=_set_num_threads, initargs=(self.share,))
        together = threading.Barrier(jobs)  # a thread that is free would take two of the calls
        try:
            started = [workers.submit(together.wait) for _ in range(jobs)]
            for each in started:
                each.result()
        except RuntimeError:  # the system refuses another thread
            together.abort()
            raise
        finally:
            torch.set_num_threads(inherited)
        return workers

    def submit(self, job: Callable[..., T], *args: object) -> Future[T]:
        """Run ``job(*args)`` in a worker, where `new_empty` finds an arena."""
        return self._workers.submit(self._run, job, *args)

    def _run(self, job: Callable[..., T], *args: object) -> T:
        with self._lock:
            arena = self.arenas.pop() if self.arenas else Arena()
        _current.arena = arena
        try:
            return job(*args)
        finally:
            del _current.arena
            self.arenas.append(arena)


def _set_num_threads(count: int) -> None:
    """Set torch's number of threads for the calling thread."""
    torch.get_num_threads()  # else a thread's first loop sets it to what new threads inherit
    torch.set_num_threads(count)


def new_empty(like: Tensor, *shape: int) -> Tensor:
    """Return ``like.new_empty(shape)``, in the arena of the job that the thread runs, if any."""
    arena: Arena | None = getattr(_current, "arena", None)
    return like.new_empty(shape) if arena is None else arena.new_empty(like, *shape)
