"""Simplify outlines; neighbors still share their boundary.

First corners are cut off, so that steps of one pixel become slopes; then those within the
tolerance are removed. Both happen on a grid of half pixels, without rounding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geoseg.geo.vector.outlines import Outlines
from geoseg.geo.vector.polygons import Polygons, concat_ranges, following_corners, segment_sum


def simplify(polygons: Polygons, tolerance: float, *, smooth: bool = True) -> Polygons:
    """Return outlines that follow the original ones with fewer corners.

    Corners where three outlines meet stay. No outline moves across a corner of another one, so
    polygons that did not overlap still do not, and no gaps appear between them.

    Args:
        tolerance: greatest distance of a removed corner from the new outline, px; 0 = leave the
            outlines as they are.
        smooth: cut corners first, by half of their edges and at most a pixel.
    """
    if tolerance <= 0 or len(polygons) == 0:
        return polygons
    polygons = insert_nodes(polygons)
    outlines = Outlines.from_polygons(polygons)
    if smooth:
        polygons = _cut_corners(polygons, outlines)
        outlines = Outlines.from_polygons(polygons)
    outlines.simplify(tolerance * polygons.steps)
    kept = outlines.alive
    return replace(
        polygons,
        corners=polygons.corners[kept],
        ring_sizes=segment_sum(kept.astype(np.int64), polygons.ring_sizes),
    )


def interaction_distance(tolerance: float) -> float:
    """Return the distance, px, beyond which outlines do not affect each other in `simplify`.

    Smoothing moves an outline by at most a pixel. All points between a removed corner and the new
    edge are within the tolerance of that edge, which is within the tolerance of the outline.
    """
    return 2 * tolerance + 2


def _cut_corners(polygons: Polygons, outlines: Outlines) -> Polygons:
    """Replace each corner by two points on its edges: a pixel away from it, or halfway.

    The triangles that are cut off cover half a pixel each at most, and contain no other corner.
    """
    corners = polygons.corners.astype(np.int64)
    cut = np.zeros((len(corners), 2, 2), np.int64)
    for point, neighbor in enumerate((outlines.before, outlines.after)):
        edge = corners[neighbor] - corners
        leg = np.sign(edge) * np.minimum(abs(edge), 2)
        cut[:, point] = 2 * corners + np.where(outlines.fixed[:, None], 0, leg)
    points = cut.reshape(-1, 2).astype(np.int32)
    # Two cuts that meet halfway are one corner, and so are the two of a corner that stays.
    sizes = 2 * polygons.ring_sizes
    following = points[following_corners(sizes)]
    kept = (points[:, 0] != following[:, 0]) | (points[:, 1] != following[:, 1])
    points, fixed = points[kept], np.repeat(outlines.fixed, 2)[kept]
    sizes = segment_sum(kept.astype(np.int64), sizes)
    # Points between two edges of one direction are no corners.
    leaving = points[following_corners(sizes)] - points
    arriving = np.empty_like(leaving)
    arriving[following_corners(sizes)] = leaving
    kept = fixed | (arriving[:, 0] * leaving[:, 1] != arriving[:, 1] * leaving[:, 0])
    return replace(
        polygons,
        corners=points[kept],
        ring_sizes=segment_sum(kept.astype(np.int64), sizes),
        steps=2 * polygons.steps,
    )


def insert_nodes(polygons: Polygons) -> Polygons:
    """Insert a corner wherever a corner of another polygon lies on an edge, as in a coverage."""
    start = polygons.corners.astype(np.int64)
    following = following_corners(polygons.ring_sizes)
    vertical = start[:, 0] == start[following, 0]
    sizes = np.empty(len(start), np.int64)
    # Keys sort corners along rows, or along columns; an edge passes those between its two ends.
    passed = []
    for edges, across, along in ((~vertical, 1, 0), (vertical, 0, 1)):
        keys, _, index = np.unique((start[:, across] << 32) + start[:, along], True, True)
        first, last = index[edges], index[following[edges]]
        sizes[edges] = steps = abs(last - first)
        forward = np.repeat(np.sign(last - first), steps)
        found = keys[np.repeat(first, steps) + forward * concat_ranges(np.zeros_like(first), steps)]
        nodes = np.empty((len(found), 2), np.int32)
        nodes[:, across], nodes[:, along] = found >> 32, found & 0xFFFFFFFF
        passed.append(nodes)
    corners = np.empty((sizes.sum(), 2), np.int32)
    is_vertical = np.repeat(vertical, sizes)
    corners[~is_vertical], corners[is_vertical] = passed
    return replace(polygons, corners=corners, ring_sizes=segment_sum(sizes, polygons.ring_sizes))
