"""Reading around the damaged parts of a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from geoseg.errors import SceneError
from geoseg.geo.raster.bands import Bands
from geoseg.geo.raster.files import Rectangle, vrt_sources
from geoseg.geo.raster.source import Source
from geoseg.tiling.grid import Window

_SEQUENTIAL = {"PNG", "JPEG"}
"""Drivers that decode an image from its top: after the first bad row, no other can be read."""
_MAX_EXAMINED = 64
"""Damaged windows of a VRT whose files are tried."""
_LOG = logging.getLogger("geoseg")


def read_around_damage(
    source: Source, bands: Bands, window: Window
) -> tuple[NDArray, NDArray[np.bool_], tuple[Window, ...]]:
    """Return colors (3, H, W), validity (H, W) and the unreadable parts of `window`.

    The file is read block by block, as a block is the least that can be lost; unreadable ones are
    not valid. The blocks of a VRT are split where its files meet, so that a damaged file takes
    nothing from its neighbors.
    """
    color = np.zeros((3, window.height, window.width), bands.dtype)
    valid = np.zeros((window.height, window.width), bool)

    def is_read(area: Window) -> bool:
        if (part := area.intersection(window)) is None:
            return True
        rows, columns = part.relative_to(window).slices
        try:
            color[:, rows, columns], valid[rows, columns] = source.read(
                f"read {part}", partial(bands.read, window=part)
            )
        except SceneError as error:
            _LOG.info("%s", error)
            return False
        return True

    damaged: list[Window] = []
    borders = [item.target for item in vrt_sources(source)]
    with source.dataset() as dataset:
        is_sequential = dataset.driver in _SEQUENTIAL
    for block in _blocks(source, window):
        if damaged and is_sequential:
            damaged.append(block)
        elif not is_read(block):
            parts = _split(block, borders)
            damaged += parts if len(parts) == 1 else [part for part in parts if not is_read(part)]
    return color, valid, tuple(damaged)


def read_decimated_around_damage(
    source: Source, bands: Bands, window: Window, shape: tuple[int, int]
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Return `window` decimated to `shape`, as `Bands.read` does; unreadable parts are invalid."""
    rows, columns = (
        ((np.arange(count) + 0.5) * length / count).astype(int)
        for count, length in zip(shape, (window.height, window.width), strict=True)
    )
    color = np.zeros((3, *shape), bands.dtype)
    valid = np.zeros(shape, bool)
    with source.dataset() as dataset:
        step = max(1, min(dataset.block_shapes[0][0], window.height))
        is_sequential = dataset.driver in _SEQUENTIAL
    for top in range(0, window.height, step):
        height = min(step, window.height - top)
        part = Window(window.col_off, window.row_off + top, window.width, height)
        here = (rows >= top) & (rows < top + height)
        if here.any():
            colors, validity, damaged = read_around_damage(source, bands, part)
            color[:, here] = colors[:, rows[here] - top][..., columns]
            valid[here] = validity[rows[here] - top][:, columns]
            if damaged and is_sequential:
                break
    return color, valid


def unreadable_files(source: Source, damaged: Sequence[Window]) -> dict[str, str]:
    """Return the unreadable files of a VRT under its `damaged` windows, each with the reason.

    Empty for other formats, and for a VRT that does not place files side by side.
    """
    found: dict[str, str] = {}
    for item in vrt_sources(source):
        windows = [item.file_window(window) for window in damaged[:_MAX_EXAMINED]]
        if shown := [window for window in windows if window is not None]:
            with closing(Source(item.path)) as file:
                if (reason := _failure(file, shown)) is not None:
                    found |= unreadable_files(file, shown) or {item.path: reason}
    return found


def _failure(file: Source, windows: Sequence[Window]) -> str | None:
    for window in windows:
        try:
            with file.dataset(f"read {window}") as dataset:
                dataset.read(window=RasterioWindow.from_slices(*window.slices))
        except SceneError as error:
            return str(error)
    return None


def _blocks(source: Source, window: Window) -> Iterator[Window]:
    """Yield the file's blocks that meet `window`."""
    with source.dataset() as dataset:
        height, width = dataset.block_shapes[0]
        extent = Window(0, 0, dataset.width, dataset.height)
    for top in range(window.row_off // height * height, window.row_end, height):
        for left in range(window.col_off // width * width, window.col_end, width):
            block = Window(left, top, width, height).intersection(extent)
            assert block is not None
            yield block


def _split(block: Window, borders: Sequence[Rectangle]) -> list[Window]:
    """Cut the block along the borders that cross it."""
    columns, rows = {block.col_off, block.col_end}, {block.row_off, block.row_end}
    for left, top, width, height in borders:
        right, bottom = left + width, top + height
        is_beside = left >= block.col_end or right <= block.col_off
        if is_beside or top >= block.row_end or bottom <= block.row_off:
            continue
        # A border inside a pixel gives that pixel a window of its own.
        columns |= {side(x) for x in (left, right) for side in (floor, ceil)}
        rows |= {side(y) for y in (top, bottom) for side in (floor, ceil)}
    xs = sorted(x for x in columns if block.col_off <= x <= block.col_end)
    ys = sorted(y for y in rows if block.row_off <= y <= block.row_end)
    return [
        Window(left, top, right - left, bottom - top)
        for top, bottom in pairwise(ys)
        for left, right in pairwise(xs)
    ]
