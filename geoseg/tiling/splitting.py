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

import numpy as np
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
        rows: tuple[Indices, Floats],
        columns: tuple[Indices, Floats],
    ) -> NDArray[np.bool_]:
        """Return which pixels (H,W) separate touching objects.

        Args:
            class_ids: (H,W).
            logits: (h,w,C).
            rows, columns: the cell before each pixel, and the weight of the next one.
        """
        cut = np.zeros(class_ids.shape, bool)
        cell_ids = logits.argmax(axis=2)
        for class_id in self.classes if self.reach else ():
            pixels, cells = class_ids == class_id, cell_ids == class_id
            if not pixels.any() or not cells.any():
                continue
            others = np.delete(logits, class_id, axis=2).max(axis=2)
            score = np.where(cells, logits[..., class_id] - others, np.float32(-np.inf))
            peaks = find_peaks(score, self.reach)
            labels = interpolated_labels(peaks, rows, columns)
            labels[~pixels] = 0
            apart = dips(score, peaks)
            for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
                cut[here] |= np.isin(pair_keys(labels[here], labels[there]), apart)
        return cut


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
    labels: Indices, rows: tuple[Indices, Floats], columns: tuple[Indices, Floats]
) -> Indices:
    """Return for each pixel the label with the most weight in a bilinear interpolation; 0 without.

    Args:
        labels: (h,w).
        rows, columns: the cell before each pixel, and the weight of the next one.
    """
    height, width = labels.shape
    corners = []
    for y, x in itertools.product((0, 1), repeat=2):
        cell = np.minimum(rows[0] + y, height - 1), np.minimum(columns[0] + x, width - 1)
        across = columns[1] if x else 1 - columns[1]
        weight = np.multiply.outer(rows[1] if y else 1 - rows[1], across)
        corners.append((labels[np.ix_(*cell)], weight))
    best, most = corners[0][0], np.zeros(corners[0][1].shape, np.float32)
    for label, _ in corners:
        total = sum(np.where(other == label, weight, 0) for other, weight in corners)
        better = (label > 0) & (total > most)
        best, most = np.where(better, label, best), np.where(better, total, most)
    return best


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
