"""Polygons of neighbouring blocks become those of the whole raster.

Outlines that run along a seam are cut into stretches. Where the class is the same on both sides
the stretch goes and the two polygons are one; elsewhere it stays. What is left is linked into rings
again. All of it is integer arithmetic on edges, so it is exact, needs no overlay of polygons, and
costs as much as the polygons at seams have corners, however many blocks a region spans.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.polygons import BlockPolygons, Polygons, following_corners, spread
from geoseg.geo.rings import cycles

Ints = NDArray[np.integer]


def merge(blocks: Iterable[BlockPolygons]) -> Polygons:
    """The polygons of all blocks, united across seams; equal to those of the uncut raster.

    Blocks must not overlap; their order is of no importance.
    """
    blocks = sorted(blocks, key=lambda block: (block.window.row_off, block.window.col_off))
    joined = _join(blocks)
    polygons = Polygons.concatenate([*(block.closed for block in blocks), joined])
    return _in_order(polygons)


def _in_order(polygons: Polygons) -> Polygons:
    """Sorted by first pixel."""
    first = polygons.corners[polygons.ring_starts[polygons.shells]]
    return polygons.take(np.lexsort((first[:, 0], first[:, 1])))


def _join(blocks: list[BlockPolygons]) -> Polygons:
    parts = Polygons.concatenate(block.open for block in blocks)
    if len(parts) == 0:
        return parts
    polygon_of_ring = np.repeat(np.arange(len(parts)), parts.ring_counts)
    polygon = np.repeat(polygon_of_ring, parts.ring_sizes)
    start = parts.corners
    end = start[following_corners(parts.ring_sizes)]

    windows = np.repeat(
        [(b.window.col_off, b.window.row_off, b.window.col_end, b.window.row_end) for b in blocks],
        [len(block.open) for block in blocks],
        axis=0,
    )[polygon]
    upright = start[:, 0] == end[:, 0]
    line = np.where(upright, start[:, 0], start[:, 1])
    low = np.where(upright, windows[:, 0], windows[:, 1])
    high = np.where(upright, windows[:, 2], windows[:, 3])
    on_seam = (line == low) | (line == high)

    pieces, pairs = [(start[~on_seam], end[~on_seam], polygon[~on_seam])], []
    for axis in (0, 1):
        chosen = on_seam & (upright if axis == 0 else ~upright)
        remaining, touching = _cancel(
            axis, start[chosen], end[chosen], polygon[chosen], parts.class_id
        )
        pieces += remaining
        pairs.append(touching)
    start, end, polygon = (np.concatenate(column) for column in zip(*pieces, strict=True))
    root = connected(len(parts), *np.concatenate(pairs, axis=1))
    return _relink(start, end, root[polygon], parts, root)


def _cancel(
    axis: int, start: Ints, end: Ints, polygon: Ints, class_id: Ints
) -> tuple[list[tuple[Ints, Ints, Ints]], Ints]:
    """Edges on seams: those that remain (start, end, polygon), and (2, n) polygons that touch.

    `axis` 0: upright seams. Edges of one direction have their polygon on the same side, and edges
    of one direction on one line do not overlap.
    """
    along = 1 - axis
    forward = end[:, along] > start[:, along]
    low = np.minimum(start[:, along], end[:, along]).astype(np.int64)
    high = np.maximum(start[:, along], end[:, along]).astype(np.int64)
    line = start[:, axis].astype(np.int64) << 32
    stops = np.unique(np.concatenate([line + low, line + high]))
    first, last = np.searchsorted(stops, line + low), np.searchsorted(stops, line + high)
    sides = np.full((2, len(stops)), -1)
    for side, mine in enumerate((forward, ~forward)):
        sizes = last[mine] - first[mine]
        sides[side, spread(first[mine], sizes)] = np.repeat(polygon[mine], sizes)
    both = (sides >= 0).all(axis=0)
    same = both & (class_id[sides[0]] == class_id[sides[1]])

    remaining = []
    for side in (0, 1):
        cells = np.flatnonzero((sides[side] >= 0) & ~same)
        ends = np.empty((2, len(cells), 2), np.int32)
        ends[:, :, axis] = stops[cells] >> 32
        ends[side - 1, :, along] = stops[cells + 1] & 0xFFFFFFFF
        ends[side, :, along] = stops[cells] & 0xFFFFFFFF
        remaining.append((ends[0], ends[1], sides[side, cells]))
    return remaining, sides[:, same]


def connected(count: int, first: Ints, second: Ints) -> Ints:
    """(count,) smallest member of every element's group, where `first[i]` goes with `second[i]`."""
    root = np.arange(count)
    while True:
        one, other = root[first], root[second]
        if np.array_equal(one, other):
            return root
        lowest = np.minimum(one, other)
        np.minimum.at(root, one, lowest)
        np.minimum.at(root, other, lowest)
        while not np.array_equal(root, root[root]):
            root = root[root]


def _relink(start: Ints, end: Ints, root: Ints, parts: Polygons, roots: Ints) -> Polygons:
    """Rings from directed edges, each beginning where another edge of its polygon ends."""
    dx, dy = (end - start).T
    direction = np.where(dx != 0, np.where(dx > 0, 0, 2), np.where(dy > 0, 1, 3))
    # Where a polygon meets itself at a point, two edges arrive and two leave: turn left, around
    # the pixels that are not its own.
    departures = np.lexsort((direction, start[:, 0], start[:, 1], root))
    arrivals = np.lexsort(((direction - 1) % 4, end[:, 0], end[:, 1], root))
    following = np.empty(len(start), np.int64)
    following[arrivals] = departures
    turned = np.empty(len(start), bool)
    turned[following] = direction != direction[following]

    head, rank = cycles(following)
    ring_order = np.lexsort((rank, head))
    ring_order = ring_order[turned[ring_order]]
    corners, owner = start[ring_order], root[ring_order]
    begins = np.flatnonzero(np.diff(head[ring_order], prepend=-1))
    sizes = np.diff(begins, append=len(corners))

    # Begin every ring at its first corner, then put rings in order: by polygon, by first corner.
    place = (corners[:, 1].astype(np.int64) << 32) + corners[:, 0]
    least = np.minimum.reduceat(place, begins)
    shift = np.flatnonzero(place == np.repeat(least, sizes)) - begins
    within = np.arange(len(corners)) - np.repeat(begins, sizes)
    rotated = np.repeat(begins, sizes) + (within + np.repeat(shift, sizes)) % np.repeat(
        sizes, sizes
    )
    rings = np.lexsort((least, owner[begins]))
    chosen = rotated[spread(begins[rings], sizes[rings])]

    members, ring_counts = np.unique(owner[begins], return_counts=True)
    return Polygons(
        corners=corners[chosen],
        ring_sizes=sizes[rings],
        ring_counts=ring_counts,
        class_id=parts.class_id[members],
        pixels=_sum_by(roots, parts.pixels)[members],
        probability=None
        if parts.probability is None
        else _sum_by(roots, parts.probability)[members],
    )


def _sum_by(group: Ints, values: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.zeros_like(values)
    np.add.at(sums, group, values)
    return sums
