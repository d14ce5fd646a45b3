"""Threads with a tile each, of which those that have none help the others.

Tiles side by side need no barriers, as the parts of one would. But the last tiles of a scene, and
the few of a small one, would leave cores idle: these take pieces of the loops of others.
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


@contextmanager
def single_threaded() -> Iterator[None]:
    """Compute in this thread alone, so that OpenMP makes no team of threads for it.

    Teams stay until their thread ends. Where the threads of all teams are more than the cores, they
    no longer spin at barriers but sleep, and whatever they compute takes half as long again.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


PIECES = 2
"""Of a loop, for each thread: all are to end at about the same time."""

T = TypeVar("T")
Piece = tuple[int, int]
_here = threading.local()


class WorkerPool:
    """Runs jobs, each in a thread of its own.

    Args:
        jobs: at once; others wait.
        cores: of which each job in progress takes an equal share.
    """

    def __init__(self, jobs: int, cores: int) -> None:
        self.share = cores // jobs
        self.idle = cores
        """Cores that nobody computes on."""
        self.arenas: list[Arena] = []
        """Of jobs that are done, for others."""
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(jobs)
        self._helpers = ThreadPoolExecutor(cores)

    def submit(self, job: Callable[..., T], *args: object) -> Future[T]:
        """What `job(*args)` will return; in it `parallel_for` finds idle threads."""
        return self._workers.submit(self._run, job, *args)

    def _run(self, job: Callable[..., T], *args: object) -> T:
        with self._taking(self.share), self._workspace() as arena:
            _here.pool, _here.arena = self, arena
            try:
                return job(*args)
            finally:  # a thread that held its pool would keep it, and itself, alive
                del _here.pool, _here.arena

    @contextmanager
    def _workspace(self) -> Iterator[Arena]:
        with self._lock:
            arena = self.arenas.pop() if self.arenas else Arena()
        yield arena
        self.arenas.append(arena)

    @contextmanager
    def _taking(self, cores: int) -> Iterator[None]:
        with self._lock:
            self.idle -= cores
        try:
            yield
        finally:
            with self._lock:
                self.idle += cores

    def run_chunks(self, pieces: deque[Piece], work: Callable[[int, int], None]) -> None:
        """Work on all pieces, here and in idle threads."""

        def help_out() -> None:
            with self._taking(1):
                for piece in _drained(pieces):
                    work(*piece)
                    if self.idle < 0:  # a job has begun, and wants its cores
                        break

        helpers = [self._helpers.submit(help_out) for _ in range(self.idle)]
        for piece in _drained(pieces):
            work(*piece)
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _drained(pieces: deque[Piece]) -> Iterator[Piece]:
    """Its elements, while other threads take some, too."""
    with suppress(IndexError):
        while True:
            yield pieces.popleft()


def new_empty(x: Tensor, *shape: int) -> Tensor:
    """``x.new_empty(shape)``; within a job, a large map of float32 is in its arena."""
    arena: Arena | None = getattr(_here, "arena", None)
    return x.new_empty(shape) if arena is None else arena.new_empty(x, *shape)


def parallel_for(size: int, least: int, work: Callable[[int, int], None]) -> None:
    """`work(first, last)` on all of 0 … `size`: at once, or in pieces where threads are idle.

    Args:
        least: size of a piece that is worth handing over.
        work: releases the GIL; what it does must not depend on the pieces.
    """
    pool: WorkerPool | None = getattr(_here, "pool", None)
    pieces = min(PIECES * (pool.idle + 1), size // max(1, least)) if pool and pool.idle > 0 else 1
    if pool is None or pieces < 2:
        work(0, size)
    else:
        pool.run_chunks(deque(pairwise(size * i // pieces for i in range(pieces + 1))), work)
