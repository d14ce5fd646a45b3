"""Reading a file of which parts are damaged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from geoseg.errors import SceneError
from geoseg.geo.bands import Bands
from geoseg.geo.source import Source
from geoseg.grid import Window

_SEQUENTIAL = {"PNG", "JPEG"}
"""Drivers that decode an image from its top: after the first row that fails, none can be had."""
_LOG = logging.getLogger("geoseg")


def read_around_damage(
    source: Source, bands: Bands, window: Window
) -> tuple[NDArray, NDArray[np.bool_], tuple[Window, ...]]:
    """Colours (3, H, W) and validity (H, W) under `window`, and the blocks that could not be read.

    The file is asked for each of its own blocks, the least that can be lost; those that cannot be
    read are not valid.
    """
    color = np.zeros((3, window.height, window.width), bands.dtype)
    valid = np.zeros((window.height, window.width), bool)
    damaged: list[Window] = []
    with source.dataset() as dataset:
        is_sequential = dataset.driver in _SEQUENTIAL
    for block in _own_blocks(source, window):
        if damaged and is_sequential:
            damaged.append(block)
            continue
        piece = block.intersection(window)
        assert piece is not None
        rows, columns = piece.relative_to(window).slices
        try:
            color[:, rows, columns], valid[rows, columns] = source.read(
                f"read {piece}", partial(bands.read, window=piece)
            )
        except SceneError as error:
            _LOG.info("%s", error)
            damaged.append(block)
    return color, valid, tuple(damaged)


def look_around_damage(
    source: Source, bands: Bands, window: Window, shape: tuple[int, int]
) -> tuple[NDArray, NDArray[np.bool_]]:
    """A decimated picture of `window`, as `Bands.read` gives; what cannot be read is not valid."""
    rows, columns = (
        ((np.arange(count) + 0.5) * length / count).astype(int)
        for count, length in zip(shape, (window.height, window.width), strict=True)
    )
    color = np.zeros((3, *shape), bands.dtype)
    valid = np.zeros(shape, bool)
    with source.dataset() as dataset:
        strip = max(1, min(dataset.block_shapes[0][0], window.height))
        is_sequential = dataset.driver in _SEQUENTIAL
    for top in range(0, window.height, strip):
        height = min(strip, window.height - top)
        part = Window(window.col_off, window.row_off + top, window.width, height)
        here = (rows >= top) & (rows < top + height)
        if here.any():
            colors, validity, damaged = read_around_damage(source, bands, part)
            color[:, here] = colors[:, rows[here] - top][..., columns]
            valid[here] = validity[rows[here] - top][:, columns]
            if damaged and is_sequential:
                break
    return color, valid


def _own_blocks(source: Source, window: Window) -> Iterator[Window]:
    """The file's blocks that meet `window`."""
    with source.dataset() as dataset:
        height, width = dataset.block_shapes[0]
        extent = Window(0, 0, dataset.width, dataset.height)
    for top in range(window.row_off // height * height, window.row_end, height):
        for left in range(window.col_off // width * width, window.col_end, width):
            block = Window(left, top, width, height).intersection(extent)
            assert block is not None
            yield block
