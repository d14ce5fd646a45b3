"""Objects that touch become several, wherever blocks end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geoseg.tiling.decoding import Axis, cells_around, decode
from geoseg.tiling.grid import CELL, Grid, Window
from geoseg.tiling.schedule import jobs
from geoseg.tiling.splitting import (
    REACH,
    WHOLE,
    Splitting,
    dips,
    find_peaks,
    interpolated_labels,
    pair_keys,
)

SPLIT = Splitting((1,), REACH)


def hills(*peaks: tuple[int, int, float, float], size: tuple[int, int] = (24, 40)) -> np.ndarray:
    """Logits (h,w,2) of class 1: the highest of cones with row, column, height and slope."""
    y, x = np.indices(size)
    cones = [top - slope * np.hypot(y - row, x - column) for row, column, top, slope in peaks]
    margin = np.max(cones, axis=0)
    return np.stack([-margin / 2, margin / 2], axis=2).astype(np.float32)


def objects(logits: np.ndarray, splitting: Splitting = SPLIT) -> int:
    """Count the regions of class 1 in all pixels of a map."""
    height, width, _ = logits.shape
    scene = Window(0, 0, width * CELL, height * CELL)
    decoded = decode(logits, cells_around(scene, scene), scene, splitting=splitting)
    assert decoded.class_ids.shape == (scene.height, scene.width)
    return ndimage.label(decoded.class_ids == 1)[1]


def test_two_that_touch_become_two():
    pair = hills((12, 10, 3.6, 1), (12, 15, 3.9, 1))
    assert (objects(pair, WHOLE), objects(pair)) == (1, 2)
    # neither in another class, nor where the saddle is as high as an end
    assert objects(pair, Splitting((0,), REACH)) == 1
    assert objects(hills((12, 10, 3, 1), (12, 11, 3, 1))) == 1


def test_four_around_a_point_become_four():
    corners = [(row, column, 4, 1) for row in (9, 14) for column in (10, 15)]
    assert (objects(hills(*corners), WHOLE), objects(hills(*corners))) == (1, 4)


def test_what_extends_farther_than_the_reach_stays_whole():
    assert objects(hills((12, 10, 9, 1), (12, 24, 9, 1))) == 1


def test_the_line_is_one_pixel_of_background():
    pair = hills((12, 10, 4, 1), (12, 15, 4, 1))
    scene = Window(0, 0, 320, 192)
    whole = decode(pair, cells_around(scene, scene), scene, confidence="all")
    split = decode(pair, cells_around(scene, scene), scene, confidence="all", splitting=SPLIT)
    changed = whole.class_ids != split.class_ids
    assert changed.any()
    assert set(split.class_ids[changed]) == {0}
    assert changed.sum(axis=1).max() == 1
    np.testing.assert_allclose(split.confidence[changed], 1 - whole.confidence[changed])
    assert np.array_equal(split.confidence[~changed], whole.confidence[~changed])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    corner=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    step=st.sampled_from([1.0, 1.7, 0.6]),
    reach=st.integers(1, REACH),
)
def test_a_window_has_the_pixels_of_the_whole(seed, corner, size, step, reach):
    cells = Window(0, 0, 70, 66)
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(cells.height, cells.width, 3))
    logits = (4 * ndimage.gaussian_filter(noise, (1.2, 1.2, 0))).astype(np.float32)
    logits = np.round(logits, 1)  # with ties
    scene = Window(0, 0, int(cells.width * CELL * step), int(cells.height * CELL * step))
    splitting = Splitting((1, 2), reach)
    whole = decode(logits, cells, scene, step=(step, step), splitting=splitting)
    left, top = min(corner[1], scene.width - 1), min(corner[0], scene.height - 1)
    width, height = min(size[1], scene.width - left), min(size[0], scene.height - top)
    window = Window(left, top, width, height)
    seen = Window(int(left / step), int(top / step), int(width / step) + 2, int(height / step) + 2)
    needed = cells_around(seen, Window(0, 0, 70 * CELL, 66 * CELL), splitting.margin)
    part = decode(logits[needed.slices], needed, window, step=(step, step), splitting=splitting)
    assert np.array_equal(part.class_ids, whole.class_ids[window.slices])
    assert np.array_equal(part.confidence, whole.confidence[window.slices])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    step=st.sampled_from([1.0, 1.7, 0.2]),
)
def test_lines_are_those_of_a_look_at_all_pixels(seed, size, step):
    noise = np.random.default_rng(seed).normal(size=(*size, 3))
    logits = np.round(6 * ndimage.gaussian_filter(noise, (1.2, 1.2, 0)), 1).astype(np.float32)
    height, width = (max(1, int(side * CELL * step)) for side in size)
    axes = [
        Axis.between(0, length, 0, cells, step)
        for length, cells in zip((height, width), size, strict=True)
    ]
    rows, columns = ((axis.index, axis.weight) for axis in axes)
    cells, scene = Window(0, 0, *size[::-1]), Window(0, 0, width, height)
    class_ids = decode(logits, cells, scene, step=(step, step)).class_ids
    cell_ids = logits.argmax(axis=2).astype(np.uint8)
    others = logits[..., [0, 2]].max(axis=2)
    score = np.where(cell_ids == 1, logits[..., 1] - others, np.float32(-np.inf))
    peaks = find_peaks(score, REACH)
    y, x = (each.ravel() for each in np.indices((height, width)))
    labels = interpolated_labels(peaks, rows, columns, y, x).reshape(height, width)
    labels[class_ids != 1] = 0
    expected = np.zeros((height, width), bool)
    for below, right in ((0, 1), (1, 0)):
        here, there = labels[:-1, :-1], labels[below:, right:][: height - 1, : width - 1]
        expected[:-1, :-1] |= np.isin(pair_keys(here, there), dips(score, peaks))
    found = np.zeros_like(expected)
    found[SPLIT.lines(class_ids, logits, cell_ids, rows, columns)] = True
    assert np.array_equal(found, expected)


def test_peaks_are_local_maxima_and_ties_have_one():
    score = np.full((5, 9), 2, np.float32)
    assert set(find_peaks(score, 8).flat) == {score.size}
    assert not find_peaks(score, 3).any()
    score[2, 2], score[2, 6] = 5, 4
    score[:, 4] = -np.inf
    found = find_peaks(score, 4)
    assert found[2, 1] == 2 * 9 + 2 + 1
    assert found[2, 7] == 2 * 9 + 6 + 1
    assert not found[:, 4].any()


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    tiling=st.sampled_from([(64, 32), (96, 0), (128, 64), (256, 32)]),
    side=st.integers(1, 3),
)
def test_blocks_get_all_logits_that_they_depend_on(sides, tiling, side):
    grid = Grid(*sides, *tiling, side)
    splitting = Splitting.on(grid, (1,))
    blocks = dict(enumerate(grid.blocks()))

    def cells(block):
        return cells_around(block.core, grid.extent, splitting.margin)

    for job in jobs(grid, lambda block: block.core, cells=cells):
        wanted = cells(job.block)
        near = {i for i, b in blocks.items() if b.window.scaled(CELL).intersection(wanted)}
        assert job.sources.keys() == near


@pytest.mark.parametrize(("tiling", "reach"), [((1472, 128), REACH), ((64, 32), 0)])
def test_tiny_tiles_shorten_the_reach(tiling, reach):
    assert Splitting.on(Grid(4000, 3000, *tiling), (1,)).reach == reach
    assert Splitting.on(Grid(60, 60, *tiling), (1,)).reach == REACH
    assert Splitting.on(Grid(4000, 3000, *tiling), ()).reach == 0
