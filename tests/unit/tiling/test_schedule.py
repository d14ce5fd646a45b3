"""Jobs come in order, know what they need, and are planned a few rows ahead."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.tiling.decoding import cells_around
from geoseg.tiling.grid import CELL, Block, Grid
from geoseg.tiling.schedule import jobs


def plan(grid: Grid, unwanted: frozenset[int] = frozenset()) -> Any:
    def output_window(block: Block) -> object:
        return None if (block.row + 2 * block.col) % 7 in unwanted else block.core

    return SimpleNamespace(grid=grid, output_window=output_window)


@settings(max_examples=30, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    tiling=st.sampled_from([(64, 32), (96, 0), (128, 64)]),
    tiles_per_block=st.integers(1, 3),
    unwanted=st.frozensets(st.integers(0, 6)),
    kept=st.sampled_from([(), (0, 3), range(0, 99, 2)]),
)
def test_jobs_know_what_they_need(sides, tiling, tiles_per_block, unwanted, kept):
    shown = plan(Grid(*sides, *tiling, tiles_per_block), unwanted)
    blocks = dict(enumerate(shown.grid.blocks()))
    found = list(jobs(shown.grid, shown.output_window, lambda number: number in kept))
    assert [job.number for job in found] == [
        i for i, b in blocks.items() if shown.output_window(b) is not None
    ]
    cells = {i: block.window.scaled(CELL) for i, block in blocks.items()}
    users: dict[int, int] = {}
    for job in found:
        needed = cells_around(job.block.core, shown.grid.extent)
        near = {i: blocks[i] for i, window in cells.items() if window.intersection(needed)}
        assert job.sources == ({} if job.number in kept else near)
        users |= dict.fromkeys(job.sources, job.number)
    for job in found:
        assert set(job.last) == {source for source, user in users.items() if user == job.number}


@pytest.mark.parametrize("rows", [100, 10_000])
def test_a_scene_is_planned_a_few_rows_ahead(rows):
    grid = Grid(8 * 96, rows * 96, 128, 32, 1)
    asked: list[Block] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(grid, name)

        def blocks(self) -> Iterator[Block]:
            for block in grid.blocks():
                asked.append(block)
                yield block

    watched = plan(Watched())
    first = list(islice(jobs(watched.grid, watched.output_window), 20))
    assert [job.number for job in first] == list(range(20))
    assert len(asked) <= 10 * 8
