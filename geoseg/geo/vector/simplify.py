"""Outlines with fewer corners and without steps; neighbours still share their boundary.

Corners are cut off first, so that steps of one pixel become slopes; then those that are hardly
any are removed. Both happens on a grid of half pixels, without rounding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geoseg.geo.vector.outlines import Outlines
from geoseg.geo.vector.polygons import Polygons, concat_ranges, following_corners, segment_sum


def simplify(polygons: Polygons, tolerance: float, *, smooth: bool = True) -> Polygons:
    """Outlines that follow the original ones with fewer corners.

    Corners where three outlines meet stay. No outline is moved across a corner of another one, so
    polygons that do not overlap still do not, and there are no gaps where there were none.

    Args:
        tolerance: how far a corner may lie from the outline that it no longer is part of, px;
            0 leaves the outlines as they are.
        smooth: cut corners first, by half of their edges and at most a pixel.
    """
    if tolerance <= 0 or len(polygons) == 0:
        return polygons
    polygons = noded(polygons)
    outlines = Outlines.of(polygons)
    if smooth:
        polygons = _cut_corners(polygons, outlines)
        outlines = Outlines.of(polygons)
    outlines.thin(tolerance * polygons.steps)
    kept = outlines.alive
    return replace(
        polygons,
        corners=polygons.corners[kept],
        ring_sizes=segment_sum(kept.astype(np.int64), polygons.ring_sizes),
    )


def reach(tolerance: float) -> float:
    """Pixels between outlines beyond which they do not see each other in `simplify`.

    Smoothing moves an outline by at most a pixel. What lies between a corner that goes and the
    new edge is within the tolerance of that edge, and this within it of the outline.
    """
    return 2 * tolerance + 2


def _cut_corners(polygons: Polygons, outlines: Outlines) -> Polygons:
    """Corners give way to two points on their edges: at a pixel from them, or halfway.

    The triangles that are cut off cover half a pixel each at most, and hold no other corner.
    """
    corners = polygons.corners.astype(np.int64)
    cut = np.zeros((len(corners), 2, 2), np.int64)
    for point, neighbour in enumerate((outlines.before, outlines.after)):
        edge = corners[neighbour] - corners
        leg = np.sign(edge) * np.minimum(abs(edge), 2)
        cut[:, point] = 2 * corners + np.where(outlines.fixed[:, None], 0, leg)
    points = cut.reshape(-1, 2).astype(np.int32)
    # Two cuts that meet halfway are one corner, and so are the two of a corner that stays.
    sizes = 2 * polygons.ring_sizes
    ahead = points[following_corners(sizes)]
    kept = (points[:, 0] != ahead[:, 0]) | (points[:, 1] != ahead[:, 1])
    points, fixed = points[kept], np.repeat(outlines.fixed, 2)[kept]
    sizes = segment_sum(kept.astype(np.int64), sizes)
    # Cuts along one slope are none.
    onward = points[following_corners(sizes)] - points
    arriving = np.empty_like(onward)
    arriving[following_corners(sizes)] = onward
    kept = fixed | (arriving[:, 0] * onward[:, 1] != arriving[:, 1] * onward[:, 0])
    return replace(
        polygons,
        corners=points[kept],
        ring_sizes=segment_sum(kept.astype(np.int64), sizes),
        steps=2 * polygons.steps,
    )


def noded(polygons: Polygons) -> Polygons:
    """With a corner wherever another polygon's corner lies on an edge, as coverages need it."""
    start = polygons.corners.astype(np.int64)
    onward = following_corners(polygons.ring_sizes)
    upright = start[:, 0] == start[onward, 0]
    sizes = np.empty(len(start), np.int64)
    # Keys sort corners along rows, or along columns; an edge passes those between its two ends.
    passed = []
    for edges, across, along in ((~upright, 1, 0), (upright, 0, 1)):
        keys, _, place = np.unique((start[:, across] << 32) + start[:, along], True, True)
        first, last = place[edges], place[onward[edges]]
        sizes[edges] = steps = abs(last - first)
        ahead = np.repeat(np.sign(last - first), steps)
        found = keys[np.repeat(first, steps) + ahead * concat_ranges(np.zeros_like(first), steps)]
        places = np.empty((len(found), 2), np.int32)
        places[:, across], places[:, along] = found >> 32, found & 0xFFFFFFFF
        passed.append(places)
    corners = np.empty((sizes.sum(), 2), np.int32)
    of_upright = np.repeat(upright, sizes)
    corners[~of_upright], corners[of_upright] = passed
    return replace(polygons, corners=corners, ring_sizes=segment_sum(sizes, polygons.ring_sizes))
