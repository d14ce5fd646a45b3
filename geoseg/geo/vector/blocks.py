"""Polygons of a raster that is read block by block."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.cleanup import CleanPolygons, Cleanup
from geoseg.geo.vector.polygonize import BlockPolygons, polygonize_block
from geoseg.geo.vector.rows import RowMerger
from geoseg.tiling.grid import Window

BLOCK = 2048
"""Side of a block, px. Results do not depend on it."""


def polygonize_raster(
    extent: Window,
    read: Callable[[Window], NDArray[np.integer]],
    cleanup: Cleanup,
    *,
    skip: Collection[int] = (),
    read_confidence: Callable[[Window], NDArray[np.floating]] | None = None,
    apply: Callable[..., Iterable[Any]] = map,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[CleanPolygons]:
    """Yield the cleaned polygons of a raster, in no order.

    Args:
        read: returns the class codes (H, W) of a window; called from the threads of `apply`.
        skip: codes that do not become polygons, in addition to IGNORE.
        read_confidence: returns the probability (H, W) of each pixel's class, 0-1.
        apply: `map`, or one with threads, see `geoseg.lookahead`.
        progress: called with the pixels done and the total.
    """

    def polygons_of(window: Window) -> tuple[BlockPolygons, CleanPolygons]:
        block = polygonize_block(
            read(window),
            window,
            skip=skip,
            confidence=None if read_confidence is None else read_confidence(window),
            min_pixels=cleanup.min_pixels,
            fill=cleanup.fill,
        )
        return cleanup.clean_interior(block)

    merger, done = RowMerger(cleanup, apply), 0
    for block, interior in apply(polygons_of, _windows(extent)):
        yield interior
        yield from merger.add(block)
        done += block.window.width * block.window.height
        progress(done, extent.width * extent.height)
    yield from merger.finish()


def _windows(extent: Window) -> Iterator[Window]:
    """Split a window that begins at (0, 0) into blocks, row by row."""
    for top in range(0, extent.height, BLOCK):
        for left in range(0, extent.width, BLOCK):
            width, height = min(BLOCK, extent.width - left), min(BLOCK, extent.height - top)
            yield Window(left, top, width, height)
