"""Logits that wait for the next row of blocks: few of them in memory, all on disk."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import numpy as np
import pytest

from geoseg.errors import OutputError
from geoseg.pipeline.execution.block_store import BlockStore, RecentLogits
from geoseg.pipeline.execution.tasks import BlockLogits
from geoseg.tiling.blending import WeightedLogits
from geoseg.tiling.grid import Window
from geoseg.timing import StageTimer


@pytest.fixture
def store(tmp_path):
    with BlockStore(tmp_path, {}) as store:
        yield store


def logits_of(number: int) -> BlockLogits:
    rng = np.random.default_rng(number)
    sums = rng.random((4, 5, 3), np.float32)
    logits = WeightedLogits(Window(number, 2, 5, 4), sums, rng.random((4, 5), np.float32))
    bits = rng.integers(0, 256, 10, np.uint8)
    damaged = (Window(number, 0, 1, 1),) if number % 2 else ()
    return BlockLogits(logits, bits, damaged, StageTimer(Counter(model=float(number))))


def add(recent: RecentLogits, store: BlockStore, number: int) -> weakref.ref:
    """Keep logits as a run does; return a reference that ends with them."""
    logits = logits_of(number)
    store.keep_inferred(number, logits)
    recent.add(number, logits)
    return weakref.ref(logits.logits.sums)


def assert_equal(found: BlockLogits, expected: BlockLogits) -> None:
    np.testing.assert_array_equal(found.logits.sums, expected.logits.sums)
    np.testing.assert_array_equal(found.logits.weights, expected.logits.weights)
    np.testing.assert_array_equal(found.valid, expected.valid)
    assert found.logits.window == expected.logits.window
    assert (found.damaged, found.timer) == (expected.damaged, expected.timer)


def test_few_are_in_memory_and_all_are_found(store):
    recent = RecentLogits(store, 3)
    held = [add(recent, store, number) for number in range(12)]
    for number in (*range(12), 0, 5, 5, 11):
        assert_equal(recent.get(number), logits_of(number))
        gc.collect()
        assert sum(each() is not None for each in held) <= 3


def test_those_used_last_stay(store):
    recent = RecentLogits(store, 2)
    held = [add(recent, store, number) for number in range(2)]
    recent.get(0)
    add(recent, store, 2)
    gc.collect()
    assert [each() is not None for each in held] == [True, False]


def test_dropped_ones_are_gone_from_memory_and_disk(store, tmp_path):
    recent = RecentLogits(store, 1)
    for number in range(3):
        add(recent, store, number)
    for number in range(3):
        assert number in recent
        recent.drop(number)
        assert number not in recent
    assert not list(tmp_path.glob("*.npz"))


def test_logits_that_someone_removed_are_named(store, tmp_path):
    recent = RecentLogits(store, 1)
    add(recent, store, 0)
    add(recent, store, 1)
    (tmp_path / "0.inferred.npz").unlink()
    with pytest.raises(OutputError, match="block 0 have gone"):
        recent.get(0)
