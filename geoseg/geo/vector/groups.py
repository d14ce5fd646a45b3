"""Polygons in groups that have nothing to do with each other."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.geo.vector.edges import connected
from geoseg.geo.vector.polygons import Polygons, following_corners, spread, sum_runs

_GROUP = 100_000
"""Corners that are worth a turn: enough for arrays to pay, few enough for the processor's cache."""
_PIECE = 64
"""Corners of an outline that share a box."""


def independent(polygons: Polygons, distance: float) -> list[NDArray[np.int64]]:
    """Places of polygons in groups whose outlines are more than `distance` px apart.

    Each group keeps the order of the polygons.
    """
    cluster = clusters(polygons, distance)
    corners = sum_runs(polygons.ring_sizes, polygons.ring_counts)
    before = np.cumsum(np.bincount(cluster, corners, len(polygons)))
    group = (before // _GROUP)[cluster]
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def clusters(polygons: Polygons, distance: float) -> NDArray[np.integer]:
    """(P,) the first of the polygons that reach each other in steps of at most `distance` px, or
    little more."""
    boxes, owner = _boxes(polygons, distance / 2)
    near = shapely.STRtree(boxes).query(boxes)
    return connected(len(polygons), owner[near])


def _boxes(polygons: Polygons, margin: float) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Boxes around pieces of outlines, and the polygons of the pieces."""
    sizes = polygons.ring_sizes
    pieces = -(-sizes // _PIECE)
    first = np.repeat(polygons.ring_starts, pieces) + _PIECE * spread(0 * pieces, pieces)
    # A piece goes on to the first corner of the next one.
    last = following_corners(sizes)[np.append(first, len(polygons.corners))[1:] - 1]
    low, high = (
        extreme(extreme.reduceat(polygons.corners, first), polygons.corners[last])
        for extreme in (np.minimum, np.maximum)
    )
    boxes = shapely.box(*(low - margin).T, *(high + margin).T)
    ring_owner = np.repeat(np.arange(len(polygons)), polygons.ring_counts)
    return boxes, np.repeat(ring_owner, pieces)
