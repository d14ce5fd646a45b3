"""A pool of threads that compute one tile each, and help with others' loops when idle.

Tiles side by side need no barriers, unlike the parts of one tile. But the last tiles of a scene,
and the few of a small one, would leave cores idle: those take chunks of the running loops.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from geoseg.model.cpu.arena import Arena

CHUNKS_PER_THREAD = 2
"""Chunks of a loop for each thread that works on it, so that all end at about the same time."""

T = TypeVar("T")
Chunk = tuple[int, int]
"""Start and end of a range of a loop."""
_current = threading.local()
"""The `pool` and the `arena` of the job that the thread runs, if it runs one."""


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
        self.idle = cores
        """Cores without work; negative while helpers and jobs outnumber the cores."""
        self.arenas: list[Arena] = []
        """Arenas of finished jobs, for the next ones."""
        self._lock = threading.Lock()
        self._helpers = ThreadPoolExecutor(cores)
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
        """Run ``job(*args)`` in a worker, where `parallel_for` finds this pool's idle threads."""
        return self._workers.submit(self._run, job, *args)

    def _run(self, job: Callable[..., T], *args: object) -> T:
        with self._occupy(self.share), self._lend_arena() as arena:
            _current.pool, _current.arena = self, arena
            try:
                return job(*args)
            finally:  # a thread that references its own pool would keep both alive
                del _current.pool, _current.arena

    @contextmanager
    def _lend_arena(self) -> Iterator[Arena]:
        with self._lock:
            arena = self.arenas.pop() if self.arenas else Arena()
        yield arena
        self.arenas.append(arena)

    @contextmanager
    def _occupy(self, cores: int) -> Iterator[None]:
        with self._lock:
            self.idle -= cores
        try:
            yield
        finally:
            with self._lock:
                self.idle += cores

    def run_chunks(self, chunks: deque[Chunk], work: Callable[[int, int], None]) -> None:
        """Call ``work(*chunk)`` for all chunks, in this thread and in idle ones."""

        def help_out() -> None:
            with self._occupy(1):
                for chunk in _drain(chunks):
                    work(*chunk)
                    if self.idle < 0:  # a job has started and needs its cores
                        break

        helpers = [self._helpers.submit(help_out) for _ in range(self.idle)]
        for chunk in _drain(chunks):
            work(*chunk)
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _set_num_threads(count: int) -> None:
    """Set torch's number of threads for the calling thread."""
    torch.get_num_threads()  # else a thread's first loop sets it to what new threads inherit
    torch.set_num_threads(count)


def _drain(chunks: deque[Chunk]) -> Iterator[Chunk]:
    """Take chunks until none is left; several threads may drain one deque."""
    with suppress(IndexError):
        while True:
            yield chunks.popleft()


def new_empty(like: Tensor, *shape: int) -> Tensor:
    """Return ``like.new_empty(shape)``, in the arena of the job that the thread runs, if any."""
    arena: Arena | None = getattr(_current, "arena", None)
    return like.new_empty(shape) if arena is None else arena.new_empty(like, *shape)


def parallel_for(size: int, min_chunk: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(start, end)`` on ranges that make up 0 to `size`, in idle threads too.

    Args:
        size: iterations of the loop.
        min_chunk: iterations that are worth handing to another thread.
        work: releases the GIL; its results must not depend on how the loop is divided.
    """
    pool: WorkerPool | None = getattr(_current, "pool", None)
    chunks = 1
    if pool and pool.idle > 0:
        chunks = min(CHUNKS_PER_THREAD * (pool.idle + 1), size // max(1, min_chunk))
    if pool is None or chunks < 2:
        work(0, size)
    else:
        pool.run_chunks(deque(pairwise(size * i // chunks for i in range(chunks + 1))), work)
