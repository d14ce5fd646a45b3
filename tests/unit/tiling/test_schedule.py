"""Jobs come in order, know what they need, and are planned a few rows ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.tiling.decoding import cells_around
from geoseg.tiling.grid import CELL, Block, Grid, Window
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

        def blocks(self, *part: Any) -> Iterator[Block]:
            for block in grid.blocks(*part):
                asked.append(block)
                yield block

    watched = plan(Watched())
    first = list(islice(jobs(watched.grid, watched.output_window), 20))
    assert [job.number for job in first] == list(range(20))
    assert len(asked) <= 10 * 8


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    tiling=st.sampled_from([(64, 32), (96, 0), (128, 64)]),
    tiles_per_block=st.integers(1, 3),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_part_of_a_scene_has_the_jobs_of_the_whole(sides, tiling, tiles_per_block, corners):
    grid = Grid(*sides, *tiling, tiles_per_block)
    left, right = sorted(int(share * (sides[0] - 1)) for share in corners[:2])
    top, bottom = sorted(int(share * (sides[1] - 1)) for share in corners[2:])
    part = Window(left, top, right - left + 1, bottom - top + 1)

    def output_window(block: Block) -> Window | None:
        return block.core.intersection(part)

    assert list(jobs(grid, output_window, part=part)) == list(jobs(grid, output_window))
    blocks = list(grid.blocks())
    assert [grid.number(block) for block in blocks] == list(range(len(blocks)))
    near = [block for block in blocks if output_window(block) is not None]
    assert list(grid.blocks(part)) == near


def test_a_part_of_the_world_is_planned_at_once():
    grid = Grid(2**28, 2**28, 1472, 128, 2)
    part = Window(2**27, 2**26, 5000, 4000)
    begun = time.monotonic()
    found = list(jobs(grid, lambda block: block.core.intersection(part), part=part))
    assert 4 <= len(found) <= 9
    assert time.monotonic() - begun < 5
