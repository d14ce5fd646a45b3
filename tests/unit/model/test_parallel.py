"""A pool gives each job its threads and an arena, and leaves those of others as they are."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from geoseg.model.cpu.arena import MIN_SIZE
from geoseg.model.cpu.parallel import WorkerPool, new_empty

PATIENCE = 20
"""Seconds that a test waits for another thread."""


def test_jobs_run_side_by_side() -> None:
    pool, together = WorkerPool(jobs=2, cores=2), threading.Barrier(2)
    jobs = [pool.submit(together.wait, PATIENCE) for _ in range(2)]
    assert sorted(each.result() for each in jobs) == [0, 1]


def test_a_job_has_its_share_of_threads_and_others_keep_theirs() -> None:
    assert WorkerPool(jobs=2, cores=5).share == 2
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        pool = WorkerPool(jobs=2, cores=4)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 4
        assert torch.get_num_threads() == 4
        for _ in range(4):
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_jobs_in_turn_use_one_arena() -> None:
    pool, like = WorkerPool(jobs=1, cores=1), torch.empty(0)

    def job() -> int:
        return new_empty(like, MIN_SIZE).data_ptr()

    assert pool.submit(job).result() == pool.submit(job).result()
    assert len(pool.arenas) == 1
    outside = new_empty(like, MIN_SIZE)
    assert outside.untyped_storage().nbytes() == 4 * MIN_SIZE  # of its own


def test_a_job_that_fails_returns_its_arena() -> None:
    pool = WorkerPool(jobs=1, cores=1)

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        pool.submit(fail).result()
    assert len(pool.arenas) == 1


def test_a_refused_thread_is_an_error_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def refuse_the_third(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_the_third)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="new thread"):
        WorkerPool(jobs=3, cores=6)
    assert torch.get_num_threads() == before
