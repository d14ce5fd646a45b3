"""Split objects of one class that touch: parked cars, the tanks of a farm.

On the way from one object to the next, the score of their class dips. So each cell of the logits
follows the steepest ascent to a peak, as in a watershed (Vincent & Soille, PAMI 1991), and a line
of background goes where neighboring pixels belong to peaks with a deep saddle between them.

Paths are `REACH` cells long at most; objects that extend farther stay whole. What a pixel becomes
thus depends on the `margin` around it, and not on blocks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from geoseg.tiling.grid import CELL, Grid

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

REACH = 4
"""Cells from an end of the longest object that is split to its peak."""
DIP, RELATIVE_DIP = 0.5, 0.2
"""How much lower than both the saddle between two objects is: in logits, and as a share of the
lower peak."""
NEIGHBORS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


@dataclass(frozen=True, slots=True)
class Splitting:
    """Which objects are split."""

    classes: tuple[int, ...] = ()
    """Ids of their classes."""
    reach: int = 0
    """Cells from a peak; 0 = nothing is split."""

    @classmethod
    def on(cls, grid: Grid, classes: tuple[int, ...]) -> Splitting:
        """Return the splitting of a scene: where tiles are tiny, paths are shorter than `REACH`."""
        sides = [
            span.core_end - span.core_start
            for axis in (grid.rows, grid.columns)
            if len(axis) > 1
            for span in axis
        ]
        # The schedule gives a block the logits of the two blocks next to it on each side.
        near = (2 * min(sides) - grid.overlap) // CELL if sides else cls((), REACH).margin
        return cls(classes, max(0, min(REACH, (near - 3) // 3)) if classes else 0)

    @property
    def margin(self) -> int:
        """Cells around those of a window on which its pixels depend."""
        # From a pixel to its peak, to all that end there, to the peaks beside them; and the cells
        # that show that a path is too long, that a neighbor is higher, and the next pixel.
        return 3 * self.reach + 3 if self.reach else 1

    def lines(
        self,
        class_ids: NDArray[np.uint8],
        logits: Floats,
        cell_ids: NDArray[np.uint8],
        rows: tuple[Indices, Floats],
        columns: tuple[Indices, Floats],
    ) -> tuple[Indices, Indices]:
        """Return rows and columns of the pixels that separate touching objects.

        Args:
            class_ids: (H,W); pixels of the last row and column are never separators.
            logits: (h,w,C).
            cell_ids: (h,w) classes of the logits.
            rows, columns: the cell before each pixel, and the weight of the next one.
        """
        found, channels = [np.empty((2, 0), np.intp)], np.moveaxis(logits, 2, 0)
        for class_id in self.classes if self.reach else ():
            cells = cell_ids == class_id
            if not cells.any():
                continue
            # Channel by channel: NumPy's maximum over a short last axis takes many times as long.
            others = reduce(np.maximum, (each for i, each in enumerate(channels) if i != class_id))
            score = np.where(cells, logits[..., class_id] - others, np.float32(-np.inf))
            peaks = find_peaks(score, self.reach)
            apart = dips(score, peaks)
            if not apart.size:
                continue
            near = meetings(peaks, apart)[:, columns[0][:-1]][rows[0][:-1]]
            y, x = np.nonzero(near & (class_ids[:-1, :-1] == class_id))
            here, cut = interpolated_labels(peaks, rows, columns, y, x), np.zeros(len(y), bool)
            for below, right in ((0, 1), (1, 0)):
                there = interpolated_labels(peaks, rows, columns, y + below, x + right)
                same_class = class_ids[y + below, x + right] == class_id
                cut |= same_class & np.isin(pair_keys(here, there), apart)
            found.append(np.stack([y[cut], x[cut]]))
        y, x = np.concatenate(found, axis=1)
        return y, x


WHOLE = Splitting()
"""Nothing is split."""


def find_peaks(score: Floats, reach: int) -> Indices:
    """Return the peak (h,w) of each cell: its flat index plus 1, or 0.

    Cells have none whose score is -inf, whose path is longer than `reach`, or whose peak ends such
    a path.
    """
    height, width = score.shape
    indices = np.arange(score.size).reshape(score.shape)
    best, target = score.copy(), indices.copy()
    padded = np.pad(score, 1, constant_values=-np.inf)
    for y, x in NEIGHBORS:
        other = padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]
        index = indices + (y * width + x)
        # Of equal scores the later cell is higher, so that no path is a circle.
        higher = (other > best) | ((other == best) & (index > target) & (other > -np.inf))
        best, target = np.where(higher, other, best), np.where(higher, index, target)
    uphill, at = target.reshape(-1), indices.reshape(-1)
    for _ in range(reach):
        at = uphill[at]
    ended = uphill[at] == at
    ends_long_path = np.zeros(score.size, bool)
    ends_long_path[uphill[at[~ended]]] = True
    labeled = ended & ~ends_long_path[at] & (score.reshape(-1) > -np.inf)
    return np.where(labeled, at + 1, 0).reshape(score.shape)


def interpolated_labels(
    labels: Indices,
    rows: tuple[Indices, Floats],
    columns: tuple[Indices, Floats],
    y: Indices,
    x: Indices,
) -> Indices:
    """Return for pixels (n,) the label with the most weight in a bilinear interpolation, or 0.

    Args:
        labels: (h,w).
        rows, columns: the cell before each pixel, and the weight of the next one.
        y, x: (n,) rows and columns of the pixels.
    """
    height, width = labels.shape
    top, left, down, across = rows[0][y], columns[0][x], rows[1][y], columns[1][x]
    corners = [
        (
            labels[np.minimum(top + below, height - 1), np.minimum(left + right, width - 1)],
            (down if below else 1 - down) * (across if right else 1 - across),
        )
        for below, right in itertools.product((0, 1), repeat=2)
    ]
    best, most = corners[0][0], np.zeros(len(y), np.float32)
    for label, _ in corners:
        total = sum(np.where(other == label, weight, 0) for other, weight in corners)
        better = (label > 0) & (total > most)
        best, most = np.where(better, label, best), np.where(better, total, most)
    return best


def meetings(peaks: Indices, apart: Indices) -> NDArray[np.bool_]:
    """Return (h,w) whether the four cells from each one on, or a cell beside them, have two labels.

    Only labels of pairs `apart` count. Elsewhere no pixel can separate them from its neighbors.
    """
    counted = np.isin(peaks, np.divmod(apart, SCALE))
    beyond = np.iinfo(peaks.dtype).max
    sides = ((1, 2), (1, 2))
    least = np.pad(np.where(counted, peaks, beyond), sides, constant_values=beyond)
    most = np.pad(np.where(counted, peaks, 0), sides)
    least, most = (sliding_window_view(each, (4, 4)) for each in (least, most))
    highest = most.max(axis=(2, 3))
    return (highest > 0) & (least.min(axis=(2, 3)) < highest)


def dips(score: Floats, peaks: Indices) -> Indices:
    """Return the `pair_keys` of adjacent peaks with a saddle of `DIP` and `RELATIVE_DIP`."""
    found_keys, found_saddles = [], []
    for here, there in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):
        keys = pair_keys(peaks[here], peaks[there])
        adjacent = keys > 0
        found_keys.append(keys[adjacent])
        found_saddles.append(np.minimum(score[here], score[there])[adjacent])
    keys, number = np.unique(np.concatenate(found_keys), return_inverse=True)
    saddles = np.full(len(keys), -np.inf, np.float32)
    np.maximum.at(saddles, number, np.concatenate(found_saddles))
    heights = score.reshape(-1)
    lower = np.minimum(*(heights[each - 1] for each in np.divmod(keys, SCALE)))
    apart: Indices = keys[saddles <= lower - np.maximum(DIP, RELATIVE_DIP * lower)]
    return apart


SCALE = 1 << 31
"""Above all labels."""


def pair_keys(a: Indices, b: Indices) -> Indices:
    """Return a number for each unordered pair of different labels, and 0 for other pairs."""
    differ = (a != b) & (a > 0) & (b > 0)
    return np.where(differ, np.minimum(a, b) * SCALE + np.maximum(a, b), 0)
