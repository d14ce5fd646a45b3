"""A bounded look at a whole raster, however large: for statistics, never for pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from geoseg.tiling.grid import Window

_SIDE = 1024
_PIECES = 8


def sample(dataset: DatasetReader, read: Callable[[Window, tuple[int, int]], NDArray]) -> NDArray:
    """`read(window, shape)` of a few places, joined along the last axis.

    A raster with overviews, or of at most 1024 px a side, is looked at as a whole, decimated.
    Of another the blocks of an 8 by 8 lattice are read, for decimating would read every block.
    """
    height, width = dataset.shape
    whole = Window(0, 0, width, height)
    side = max(height, width)
    if side <= _SIDE or dataset.overviews(1):
        factor = max(1.0, side / _SIDE)
        return read(whole, (max(1, round(height / factor)), max(1, round(width / factor))))
    block_height, block_width = (min(size, 256) for size in dataset.block_shapes[0])
    pieces = [
        Window(left, top, min(block_width, width - left), min(block_height, height - top))
        for top in _lattice(height, block_height)
        for left in _lattice(width, block_width)
    ]
    return np.concatenate([read(piece, (piece.height, piece.width)) for piece in pieces], axis=-1)


def _lattice(length: int, block: int) -> list[int]:
    """Up to 8 block starts, spread evenly over `length` pixels, first and last included."""
    last = (length - 1) // block
    return sorted({round(i * last / (_PIECES - 1)) * block for i in range(_PIECES)})
