"""The shift between two layers of the same objects, such as those of two flights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_LIKE = 0.5
"""Least ratio of the areas of two objects that may be one."""
_NEAR = 0.1
"""Displacements that agree differ by less than this share of the maximum."""
_MAX_PAIRS = 50_000
MIN_OBJECTS = 5
"""Objects that must agree on a shift."""


@dataclass(frozen=True, slots=True)
class Shift:
    """How far the new layer lies from the old one."""

    x: float
    y: float
    """To be subtracted from coordinates of the new layer; units of the coordinates."""
    objects: int
    """Pairs of objects that agree on it; 0 = no shift was found."""
    residual: float
    """Distance that 95 % of these pairs are apart after the shift, at most."""


NONE = Shift(0.0, 0.0, 0, 0.0)


def estimate_shift(
    old: NDArray[np.object_],
    new: NDArray[np.object_],
    old_kinds: NDArray[np.integer],
    new_kinds: NDArray[np.integer],
    most: float,
) -> Shift:
    """Estimate the shift from the displacements of like objects.

    Every pair of the same class, of similar area and less than `most` apart votes for its
    displacement. Pairs of one object agree, others do not. Among equals the smaller shift wins, as
    objects in rows also match their neighbors.

    Args:
        old, new: (N,) and (M,) polygons.
        old_kinds, new_kinds: their classes.
        most: greatest shift.
    """
    centers = shapely.centroid(old), shapely.centroid(new)
    i, j = shapely.STRtree(centers[0]).query(centers[1], "dwithin", distance=most)[::-1]
    areas = shapely.area(old)[i], shapely.area(new)[j]
    like = (old_kinds[i] == new_kinds[j]) & (np.minimum(*areas) >= _LIKE * np.maximum(*areas))
    i, j = i[like], j[like]
    if len(i) > _MAX_PAIRS:
        some = np.random.default_rng(0).choice(len(i), _MAX_PAIRS, replace=False)
        i, j = i[some], j[some]
    if len(i) < MIN_OBJECTS:
        return NONE
    moved = shapely.get_coordinates(centers[1][j]) - shapely.get_coordinates(centers[0][i])
    near = _NEAR * most
    votes = _neighbors(moved, near) * (1 - 0.1 * np.hypot(*moved.T) / most)
    center = moved[votes.argmax()]
    for _ in range(3):
        agree = np.hypot(*(moved - center).T) <= near
        center = np.median(moved[agree], axis=0)
    distance = np.hypot(*(moved[agree] - center).T)
    count = min(len(np.unique(i[agree])), len(np.unique(j[agree])))
    if count < MIN_OBJECTS:
        return NONE
    return Shift(float(center[0]), float(center[1]), count, float(np.quantile(distance, 0.95)))


def _neighbors(points: Floats, distance: float) -> NDArray[np.intp]:
    """Count the points within a distance of each, approximately: in cells and those around."""
    cells = np.floor(points / distance).astype(np.int64)
    cells -= cells.min(axis=0) - 1
    table = np.zeros(cells.max(axis=0) + 2, np.intp)
    np.add.at(table, tuple(cells.T), 1)
    column, row = cells.T
    counts = np.zeros(len(points), np.intp)
    for x in (-1, 0, 1):
        for y in (-1, 0, 1):
            counts += table[column + x, row + y]
    return counts
