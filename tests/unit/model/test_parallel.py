"""Idle threads help those that have a tile, and the result shows nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from geoseg.model import fused
from geoseg.model.cpu import kernels, matmul, parallel
from geoseg.model.cpu.parallel import WorkerPool, parallel_for
from geoseg.model.segnext import SegNeXt
from geoseg.native.library import library

PATIENCE = 20
"""Seconds that a test waits for another thread."""


def pieces_of(size: int, least: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    parallel_for(size, least, lambda first, last: found.append((first, last)))
    return sorted(found)


def test_outside_a_pool_nothing_is_divided() -> None:
    assert pieces_of(10, 1) == [(0, 10)]


def test_pieces_cover_everything_once() -> None:
    pool = WorkerPool(jobs=4, cores=4)
    for size in (8, 9, 100, 1001):
        found = pool.submit(pieces_of, size, 1).result()
        assert len(found) == parallel.CHUNKS_PER_THREAD * 4
        assert [0, *(last for _, last in found)] == [*(first for first, _ in found), size]


def test_small_loops_are_not_divided() -> None:
    pool = WorkerPool(jobs=4, cores=4)
    assert pool.submit(pieces_of, 10, 6).result() == [(0, 10)]
    assert pool.submit(pieces_of, 10, 5).result() == [(0, 5), (5, 10)]


def test_an_idle_thread_takes_a_piece() -> None:
    together = threading.Barrier(2)

    def work(first: int, last: int) -> None:
        if first < 3:  # the first two pieces wait for each other
            together.wait(PATIENCE)

    WorkerPool(jobs=2, cores=2).submit(parallel_for, 8, 1, work).result()


def test_threads_with_jobs_do_not_help() -> None:
    pool, together = WorkerPool(jobs=2, cores=2), threading.Barrier(2)

    def job() -> list[tuple[int, int]]:
        together.wait(PATIENCE)
        found = pieces_of(8, 1)
        together.wait(PATIENCE)
        return found

    jobs = [pool.submit(job) for _ in range(2)]
    assert [each.result() for each in jobs] == [[(0, 8)]] * 2
    assert pool.idle == 2


def test_cores_beyond_the_jobs_help() -> None:
    assert (
        len(WorkerPool(jobs=2, cores=3).submit(pieces_of, 100, 1).result())
        == 2 * parallel.CHUNKS_PER_THREAD + 2
    )
    assert WorkerPool(jobs=2, cores=4).share == 2


def test_a_job_has_its_share_of_threads_and_others_keep_theirs() -> None:
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


@pytest.mark.parametrize("guilty", range(4))
def test_an_error_in_any_piece_is_raised(guilty: int) -> None:
    pool = WorkerPool(jobs=2, cores=2)

    def work(first: int, last: int) -> None:
        if first == 2 * guilty:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        pool.submit(parallel_for, 8, 1, work).result()
    assert pool.submit(pieces_of, 1, 1).result() == [(0, 1)]
    assert pool.idle == 2


@pytest.mark.skipif(not library(), reason="no compiler was at hand")
@pytest.mark.parametrize("bands", [False, True])
def test_help_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, bands: bool) -> None:
    """Every kernel that is divided, in pieces as small as they get."""
    torch.manual_seed(0)
    monkeypatch.setattr(matmul, "is_plain_avx2", lambda: True)
    if bands:
        monkeypatch.setattr(fused, "use_fused_mlp", lambda x, hidden: False)
    model = fused.fuse(SegNeXt("T", 16))
    x = torch.randn(1, 3, 224, 160).contiguous(memory_format=torch.channels_last)
    divided = set[str]()

    def noting(size: int, least: int, work: Callable[[int, int], None]) -> None:
        calls: list[None] = []

        def noted(first: int, last: int) -> None:
            calls.append(None)
            work(first, last)

        parallel_for(size, least, noted)
        if len(calls) > 1:
            divided.add(work.__qualname__.partition(".")[0])

    for module in (kernels, matmul):
        monkeypatch.setattr(module, "MIN_WORK", 1)
        monkeypatch.setattr(module, "parallel_for", noting)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = model(x)
        return found

    alone = WorkerPool(jobs=1, cores=1).submit(run).result()
    assert not divided
    helped = WorkerPool(jobs=3, cores=3).submit(run).result()
    expected = {"native_gemm", "multiscale_conv", "bias_gelu", "depthwise_gelu"}
    assert divided == (expected if bands else {*expected, "fused_mlp"})
    assert torch.equal(alone, helped)
