"""Maps in an arena are apart while they are referenced, and their memory is reused afterwards."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from geoseg.classes import ISAID
from geoseg.model.cpu.arena import BUFFER_SIZE, MIN_SIZE, Arena, Buffer
from geoseg.model.cpu.parallel import WorkerPool, new_empty
from geoseg.model.metadata import Metadata
from geoseg.model.segnext import SegNeXt
from geoseg.model.tile_model import TileModel
from geoseg.timing import StageTimer

LIKE = torch.empty(0)


def begin(part: Tensor) -> int:
    return part.data_ptr()


def test_parts_lie_side_by_side_and_are_used_again() -> None:
    buffer = Buffer(96)
    first, second, third = buffer.allocate(32), buffer.allocate(20), buffer.allocate(32)
    assert first is not None
    assert second is not None
    assert third is not None
    assert buffer.allocate(1) is None
    hole = begin(second)
    assert hole - begin(first) == 4 * 32
    view = second[3:5]
    del second
    assert buffer.allocate(1) is None, "a view holds its part"
    del view
    fourth = buffer.allocate(32)
    assert fourth is not None
    assert begin(fourth) == hole


def test_parts_never_overlap() -> None:
    """Each part that is alive keeps its own number, whatever is allocated and freed."""
    rng = np.random.default_rng(0)
    buffer, alive = Buffer(10_000), dict[int, Tensor]()
    for number in range(2000):
        if alive and (rng.random() < 0.45 or len(alive) > 12):
            del alive[list(alive)[rng.integers(len(alive))]]
        elif (part := buffer.allocate(int(rng.integers(1, 1500)))) is not None:
            alive[number] = part.fill_(number)
        assert all((part == each).all() for each, part in alive.items())


def test_large_maps_of_float32_are_in_the_arena() -> None:
    arena = Arena()
    small = arena.new_empty(LIKE, MIN_SIZE - 1)
    half = arena.new_empty(LIKE.half(), MIN_SIZE, 2)
    assert not arena.buffers
    large = arena.new_empty(LIKE, 2, MIN_SIZE)
    assert len(arena.buffers) == 1
    assert (small.shape, half.dtype, large.shape) == ((MIN_SIZE - 1,), torch.float16, (2, MIN_SIZE))
    assert large.is_contiguous()


def test_a_map_too_large_for_a_buffer_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoseg.model.cpu.arena.BUFFER_SIZE", 2 * MIN_SIZE)
    arena = Arena()
    held = [arena.new_empty(LIKE, count * MIN_SIZE).fill_(count) for count in (1, 3, 1)]
    assert len(arena.buffers) == 2
    assert [part[-1].item() for part in held] == [1, 3, 1]


def test_jobs_one_after_the_other_use_the_same_memory() -> None:
    pool = WorkerPool(jobs=1, cores=1)

    def job() -> int:
        return begin(new_empty(LIKE, MIN_SIZE))

    places = {pool.submit(job).result() for _ in range(3)}
    assert len(places) == 1
    held = pool.submit(new_empty, LIKE, MIN_SIZE).result().fill_(7)
    assert pool.submit(job).result() not in {begin(held)}
    pool.arenas.clear()
    assert held.eq(7).all(), "a reference keeps its memory"


def test_jobs_at_once_use_memory_of_their_own() -> None:
    pool, together = WorkerPool(jobs=2, cores=2), threading.Barrier(2)

    def job() -> int:
        part = new_empty(LIKE, MIN_SIZE)
        together.wait(20)
        return begin(part)

    first, second = (pool.submit(job) for _ in range(2))
    assert first.result() != second.result()


def test_logits_that_are_kept_keep_no_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoseg.model.cpu.arena.MIN_SIZE", 2**10)
    network = SegNeXt("T", 16)
    network.metadata = Metadata("T", ISAID)
    model = TileModel(network, device="cpu", precision="float32")
    tile, valid = np.zeros((3, 128, 128), np.uint8), np.ones((128, 128), bool)
    (logits,) = model([tile], [valid], StageTimer())
    assert logits.size >= 2**10
    buffers = [buffer for arena in model.pool.arenas for buffer in arena.buffers]
    assert buffers
    assert all(buffer.allocate(BUFFER_SIZE) is not None for buffer in buffers)


def test_a_pool_without_references_ends() -> None:
    others = set(threading.enumerate())
    pool = WorkerPool(jobs=2, cores=2)
    pool.submit(new_empty, LIKE, MIN_SIZE).result()
    arena = weakref.ref(pool.arenas[0])
    started = set(threading.enumerate()) - others
    assert started
    del pool
    gc.collect()
    assert arena() is None
    for thread in started:
        thread.join(20)
        assert not thread.is_alive()
