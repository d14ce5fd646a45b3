"""Fewer corners, with neighbours still sharing their boundary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.geo.polygons import Polygons, following_corners, spread, sum_runs


def simplify(polygons: Polygons, tolerance: float) -> NDArray[np.object_]:
    """(P,) shapely polygons in pixel coordinates, without overlaps and without gaps between them.

    Visvalingam and Whyatt's method on the coverage: corners go in the order of the triangle that
    they span with their neighbours, up to an area of `tolerance`² pixels; those where three
    polygons meet stay. 0 leaves the exact outlines.
    """
    if tolerance == 0:
        return polygons.geometry
    return shapely.coverage_simplify(noded(polygons).geometry, tolerance)


def noded(polygons: Polygons) -> Polygons:
    """With a corner wherever another polygon's corner lies on an edge, as coverages need it."""
    start = polygons.corners.astype(np.int64)
    end = start[following_corners(polygons.ring_sizes)]
    upright = start[:, 0] == end[:, 0]
    sizes = np.empty(len(start), np.int64)
    # Keys sort corners along rows, or along columns; an edge passes those between its two ends.
    passed = []
    for edges, across, along in ((~upright, 1, 0), (upright, 0, 1)):
        keys = np.unique((start[:, across] << 32) + start[:, along])
        first = np.searchsorted(keys, (start[edges, across] << 32) + start[edges, along])
        last = np.searchsorted(keys, (end[edges, across] << 32) + end[edges, along])
        sizes[edges] = abs(last - first)
        step = np.repeat(np.sign(last - first), sizes[edges])
        found = keys[
            np.repeat(first, sizes[edges]) + step * spread(np.zeros_like(first), sizes[edges])
        ]
        places = np.empty((len(found), 2), np.int32)
        places[:, across], places[:, along] = found >> 32, found & 0xFFFFFFFF
        passed.append(places)
    corners = np.empty((sizes.sum(), 2), np.int32)
    of_upright = np.repeat(upright, sizes)
    corners[~of_upright], corners[of_upright] = passed
    return replace(polygons, corners=corners, ring_sizes=sum_runs(sizes, polygons.ring_sizes))
