"""Laws of tiles and blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.tiling.grid import ALIGN, CELL, Grid, Window, round_up

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
    # One tile less, of the size that was asked for, would not cover the length.
    fewer = len(tiles) - 1
    assert fewer == 0 or fewer * size - (fewer - 1) * overlap < round_up(length, ALIGN)


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
