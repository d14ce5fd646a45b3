"""Laws of tiles and blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.tiling.grid import ALIGN, CELL, FEW, Grid, Window, least_tiles, round_up

sides = st.integers(1, 3000)
tilings = st.tuples(st.integers(1, 16), st.integers(0, 15)).filter(lambda t: t[1] < t[0])


@settings(deadline=None)  # some scenes have thousands of tiles
@given(width=sides, height=sides, tiling=tilings, per_block=st.integers(1, 3))
def test_cores_partition_the_scene(width, height, tiling, per_block):
    grid = Grid(width, height, tiling[0] * ALIGN, tiling[1] * ALIGN, per_block)
    for cores in (
        [block.core for block in grid.blocks()],
        [tile.core for block in grid.blocks() for tile in block.tiles],
    ):
        # Counting at the corners of all cores counts everywhere, whatever the scene's size.
        rows = np.unique([w.row_off for w in cores])
        columns = np.unique([w.col_off for w in cores])
        owners = np.zeros((len(rows), len(columns)), int)
        for w in cores:
            inside_rows = (rows >= w.row_off) & (rows < w.row_end)
            inside_columns = (columns >= w.col_off) & (columns < w.col_end)
            owners += np.outer(inside_rows, inside_columns)
        assert (owners == 1).all()
        assert sum(w.width * w.height for w in cores) == width * height


@settings(deadline=None)
@given(width=sides, height=sides, tiling=tilings)
def test_tiles_share_one_grid_and_stay_with_real_pixels(width, height, tiling):
    size, overlap = tiling[0] * ALIGN, tiling[1] * ALIGN
    grid = Grid(width, height, size, overlap)
    for block in grid.blocks():
        for tile in block.tiles:
            window, core = tile.window, tile.core
            assert window.col_off % ALIGN == window.row_off % ALIGN == 0
            assert max(window.width, window.height) <= size
            assert window.col_end < width + ALIGN
            assert window.row_end < height + ALIGN
            assert window.intersection(core) == core
            assert core.col_off % CELL == core.row_off % CELL == 0


@given(length=st.integers(1, 100_000), tiling=tilings)
def test_neighbors_overlap_at_least_as_asked(length, tiling):
    size, overlap = tiling[0] * ALIGN, tiling[1] * ALIGN
    for left, right in itertools.pairwise(Grid(length, 100, size, overlap).columns):
        assert left.start + left.size - right.start >= overlap
        assert left.core_end == right.core_start


@given(length=st.integers(1, 100_000), tiling=tilings)
def test_little_more_than_the_overlap_is_computed_twice(length, tiling):
    size, overlap = tiling[0] * ALIGN, tiling[1] * ALIGN
    tiles = Grid(length, 1, size, overlap).columns
    assert len({tile.size for tile in tiles}) == 1
    total = sum(tile.size for tile in tiles)
    assert total < length + (len(tiles) - 1) * overlap + (len(tiles) + 1) * ALIGN
    # One tile less would not cover the length.
    fewer, side = len(tiles) - 1, tiles[0].size
    assert fewer == 0 or fewer * side - (fewer - 1) * overlap < round_up(length, ALIGN)


@given(width=sides, height=sides)
def test_few_tiles_are_as_few_as_possible_or_one_row_more_for_an_even_number(width, height):
    size, overlap = 512, 128
    grid = Grid(width, height, size, overlap)
    least = [least_tiles(side, size, overlap) for side in (width, height)]
    found = [len(grid.columns), len(grid.rows)]
    if (number := least[0] * least[1]) % 2 == 0 or number == 1 or number >= FEW:
        assert found == least
    else:
        assert found[0] * found[1] % 2 == 0
        assert sum(found) == sum(least) + 1
        assert grid.model_pixels < 1.25 * (found[0] + 1) / found[0] * number * size**2


def test_an_even_number_of_tiles_costs_little():
    grid = Grid(4096, 4096, 1472, 128)
    assert (len(grid.columns), len(grid.rows)) == (3, 4)
    assert grid.model_pixels / (3 * 1472) ** 2 < 1.02


def test_tiles_too_small_to_become_smaller_may_be_odd_in_number():
    assert len(Grid(3 * ALIGN, ALIGN, ALIGN, 0).columns) == 3


@pytest.mark.parametrize("side", [4096, 5000, 8192, 40_000])
def test_cost_of_the_default_overlap(side):
    assert Grid(side, side, 1024, 128).model_pixels / side**2 < 1.33


def test_a_scene_of_exactly_one_tile_has_one_tile():
    (block,) = Grid(1024, 1024, 1024, 128).blocks()
    assert [t.window for t in block.tiles] == [Window(0, 0, 1024, 1024)]


@pytest.mark.parametrize(
    ("size", "overlap", "word"),
    [(1000, 128, "tile_size"), (1024, 100, "overlap"), (64, 64, "less")],
)
def test_impossible_tilings_are_refused(size, overlap, word):
    with pytest.raises(ValueError, match=word):
        Grid(100, 100, size, overlap)
