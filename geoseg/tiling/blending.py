"""Overlap-add: blend the logits of overlapping tiles to one map, at 1/8 of the resolution.

Windows are in cells of the logits' grid. The blended map is the sum of all tiles' logits times a
positive taper, divided by the sum of the tapers. Where one tile covers a cell alone, the result is
that tile's logits. Borders of the scene need no special treatment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.tiling.grid import CELL, Window

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WeightedLogits:
    """Sums over some of the tiles that cover `window`, not yet divided."""

    window: Window
    """In cells."""
    sums: Floats
    """(h,w,C): taper times logits."""
    weights: Floats
    """(h,w): tapers."""

    def crop(self, window: Window) -> WeightedLogits:
        """Return a copy of the part inside `window`."""
        common = self.window.intersection(window)
        if common is None:
            raise ValueError(f"{window} does not meet {self.window}")
        rows, columns = common.relative_to(self.window).slices
        return WeightedLogits(
            common, self.sums[rows, columns].copy(), self.weights[rows, columns].copy()
        )


def taper(height: int, width: int, ramp: int) -> Floats:
    """Return the weights (h,w) of a tile: 1, falling linearly over `ramp` cells to each side."""

    def profile(size: int) -> Floats:
        distance = np.minimum(np.arange(size), np.arange(size)[::-1]).astype(np.float32)
        return np.minimum((distance + 1) / np.float32(ramp + 1), np.float32(1))

    return np.multiply.outer(profile(height), profile(width))


def accumulate(
    window: Window, tiles: Sequence[Window], logits: Iterable[Floats], classes: int, overlap: int
) -> WeightedLogits:
    """Sum one block's tiles.

    Args:
        window: extent of the block, px.
        tiles: windows of the tiles with a valid pixel, px.
        logits: (C,h,w) for each of `tiles`, in order.
        classes: C.
        overlap: of neighboring tiles, px; the length of the taper.
    """
    cells = window.scaled(CELL)
    sums = np.zeros((cells.height, cells.width, classes), np.float32)
    weights = np.zeros((cells.height, cells.width), np.float32)
    for tile, values in zip(tiles, logits, strict=True):
        part = tile.scaled(CELL)
        rows, columns = part.relative_to(cells).slices
        weight = taper(part.height, part.width, overlap // CELL)
        sums[rows, columns] += weight[..., None] * values.transpose(1, 2, 0)
        weights[rows, columns] += weight
    return WeightedLogits(cells, sums, weights)


def blend(window: Window, pieces: Iterable[WeightedLogits]) -> Floats:
    """Return the blended logits (h,w,C) of `window`; 0 where no tile was predicted.

    Args:
        window: in cells.
        pieces: sums that include every tile that intersects the window. They are added in the
            order of their windows, whatever the order in which they were computed.
    """
    ordered = sorted(pieces, key=lambda p: (p.window.row_off, p.window.col_off))
    classes = ordered[0].sums.shape[2]
    sums = np.zeros((window.height, window.width, classes), np.float32)
    weights = np.zeros((window.height, window.width), np.float32)
    for piece in ordered:
        common = piece.window.intersection(window)
        if common is None:
            continue
        source, target = common.relative_to(piece.window).slices, common.relative_to(window).slices
        sums[target] += piece.sums[source]
        weights[target] += piece.weights[source]
    np.divide(sums, weights[..., None], out=sums, where=weights[..., None] > 0)
    return sums
