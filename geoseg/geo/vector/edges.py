"""Outlines as loose edges, which are split, removed and linked to rings again.

All arithmetic is on integers, so polygons are merged without an overlay and without rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.contours import rank_cycles
from geoseg.geo.vector.polygons import Polygons, concat_ranges, following_corners

Ints = NDArray[np.integer]
NO_POLYGON = -1


@dataclass(frozen=True, slots=True)
class Edges:
    """Directed horizontal and vertical edges; the polygon lies on the right of travel."""

    start: Ints
    """(n, 2) x, y"""
    end: Ints
    """(n, 2) x, y"""
    polygon: Ints
    """(n,)"""

    @classmethod
    def from_polygons(cls, polygons: Polygons) -> Edges:
        """Return the edges of all rings, in the order of their corners."""
        owner = np.repeat(np.arange(len(polygons)), polygons.ring_counts)
        return cls(
            start=polygons.corners,
            end=polygons.corners[following_corners(polygons.ring_sizes)],
            polygon=np.repeat(owner, polygons.ring_sizes),
        )

    @property
    def is_vertical(self) -> NDArray[np.bool_]:
        return self.start[:, 0] == self.end[:, 0]

    def __getitem__(self, which: Ints | NDArray[np.bool_]) -> Edges:
        return Edges(self.start[which], self.end[which], self.polygon[which])

    def relabel(self, polygon_ids: Ints) -> Edges:
        """Replace polygon i by `polygon_ids[i]`."""
        return Edges(self.start, self.end, polygon_ids[self.polygon])

    def spans(self, axis: int) -> tuple[Ints, Ints]:
        """Return (n,) sort keys of the lower and the upper end of each edge along its line.

        All edges must have the same `axis`: 0 = vertical, 1 = horizontal.
        """
        line = self.start[:, axis].astype(np.int64) << 32
        ends = self.start[:, 1 - axis], self.end[:, 1 - axis]
        return line + np.minimum(*ends), line + np.maximum(*ends)

    def overlaps(self, others: Edges) -> NDArray[np.bool_]:
        """Return (n,) whether each edge shares some of its length with one of the others."""
        result = np.zeros(len(self.polygon), bool)
        for axis in (0, 1):
            own = np.flatnonzero(self.is_vertical == (axis == 0))
            low, high = self[own].spans(axis)
            lows, highs = others[others.is_vertical == (axis == 0)].spans(axis)
            begun = np.searchsorted(np.sort(lows), high)
            result[own] = begun > np.searchsorted(np.sort(highs), low, "right")
        return result

    @classmethod
    def concatenate(cls, *parts: Edges) -> Edges:
        return cls(
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.end for part in parts]),
            np.concatenate([part.polygon for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class SharedEdges:
    """Edges split so that each has at most one polygon on either side (arcs in TopoJSON)."""

    low: Ints
    """(n, 2) x, y of the end with the smaller coordinates."""
    high: Ints
    """(n, 2) x, y of the other end."""
    sides: Ints
    """(2, n) polygon whose edge runs from low to high, and from high to low; or NO_POLYGON."""

    @classmethod
    def from_edges(cls, edges: Edges) -> SharedEdges:
        """Split edges, of which those of one direction must not overlap.

        Edges of disjoint polygons do not.
        """
        vertical = edges.is_vertical
        parts = (_split(axis, edges[vertical == (axis == 0)]) for axis in (0, 1))
        low, high, sides = zip(*parts, strict=True)
        return cls(np.concatenate(low), np.concatenate(high), np.concatenate(sides, axis=1))

    @property
    def lengths(self) -> Ints:
        return (self.high - self.low).sum(axis=1)

    def edges(self, which: NDArray[np.bool_]) -> Edges:
        """Return the edges of the polygons on both sides, where (n,) `which` is true."""
        forward, backward = (which & (side != NO_POLYGON) for side in self.sides)
        return Edges.concatenate(
            Edges(self.low[forward], self.high[forward], self.sides[0, forward]),
            Edges(self.high[backward], self.low[backward], self.sides[1, backward]),
        )


def _split(axis: int, edges: Edges) -> tuple[Ints, Ints, Ints]:
    """Return low, high and sides of `SharedEdges`; `axis` as in `Edges.spans`."""
    along = 1 - axis
    forward = edges.end[:, along] > edges.start[:, along]
    low, high = edges.spans(axis)
    nodes = np.sort(np.concatenate([low, high]))
    nodes = nodes[np.diff(nodes, prepend=-1) != 0]
    first, last = np.searchsorted(nodes, low), np.searchsorted(nodes, high)
    sides = np.full((2, len(nodes)), NO_POLYGON)
    for side, own in enumerate((forward, ~forward)):
        sizes = last[own] - first[own]
        sides[side, concat_ranges(first[own], sizes)] = np.repeat(edges.polygon[own], sizes)
    used = np.flatnonzero((sides != NO_POLYGON).any(axis=0))
    ends = np.empty((2, len(used), 2), np.int32)
    ends[..., axis] = nodes[used] >> 32
    ends[0, :, along] = nodes[used] & 0xFFFFFFFF
    ends[1, :, along] = nodes[used + 1] & 0xFFFFFFFF
    return ends[0], ends[1], sides[:, used]


def connected_components(count: int, pairs: Ints) -> Ints:
    """Return (count,) the smallest member of each element's component; (2, n) `pairs` connect."""
    root = np.arange(count)
    while True:
        one, other = root[pairs[0]], root[pairs[1]]
        if np.array_equal(one, other):
            return root
        lowest = np.minimum(one, other)
        np.minimum.at(root, one, lowest)
        np.minimum.at(root, other, lowest)
        while not np.array_equal(root, root[root]):
            root = root[root]


def link_edges(edges: Edges, sources: Polygons) -> Polygons:
    """Link edges to rings; each edge must begin where another one of its polygon ends.

    The edges' polygons are indices into `sources`, which provide classes and sums.
    """
    dx, dy = (edges.end - edges.start).T
    direction = np.where(dx != 0, np.where(dx > 0, 0, 2), np.where(dy > 0, 1, 3))
    # Most edges still follow each other; chains of these are linked as one.
    first = _chain_starts(edges)
    chain_sizes = np.diff(first, append=len(direction))
    last = first + chain_sizes - 1
    # Where a polygon meets itself at a point, two chains arrive and two leave: turn left, around
    # the pixels of other polygons.
    (x0, y0), (x1, y1) = edges.start[first].T, edges.end[last].T
    departures = np.lexsort((direction[first], x0, y0, edges.polygon[first]))
    arrivals = np.lexsort(((direction[last] - 1) % 4, x1, y1, edges.polygon[last]))
    following = np.empty(len(first), np.int64)
    following[arrivals] = departures

    head, rank = rank_cycles(following)
    chains = np.lexsort((rank, head))
    order = concat_ranges(first[chains], chain_sizes[chains])
    ring = np.repeat(head[chains], chain_sizes[chains])
    begins = np.flatnonzero(np.diff(ring, prepend=-1))
    arriving = np.roll(direction[order], 1)
    arriving[begins] = direction[order[np.append(begins, len(order))[1:] - 1]]
    is_corner = direction[order] != arriving
    corners, owner = edges.start[order[is_corner]], edges.polygon[order[is_corner]]
    begins = np.flatnonzero(np.diff(ring[is_corner], prepend=-1))
    sizes = np.diff(begins, append=len(corners))

    # Every ring begins at its first corner; a polygon's shell has the first of all its corners.
    position = (corners[:, 1].astype(np.int64) << 32) + corners[:, 0]
    lowest = np.minimum.reduceat(position, begins) if len(begins) else position
    shift = np.flatnonzero(position == np.repeat(lowest, sizes)) - begins
    within = np.arange(len(corners)) - np.repeat(begins, sizes)
    rotated = (within + np.repeat(shift, sizes)) % np.repeat(sizes, sizes)
    rings = np.lexsort((lowest, owner[begins]))
    chosen = (np.repeat(begins, sizes) + rotated)[concat_ranges(begins[rings], sizes[rings])]
    polygons, ring_counts = np.unique(owner[begins], return_counts=True)
    return Polygons(
        corners=corners[chosen],
        ring_sizes=sizes[rings],
        ring_counts=ring_counts,
        class_id=sources.class_id[polygons],
        pixels=sources.pixels[polygons],
        probability=None if sources.probability is None else sources.probability[polygons],
    )


def _chain_starts(edges: Edges) -> Ints:
    """Return the edges that do not continue the one before them.

    An edge never does at a point where its polygon has several edges that begin.
    """
    start, end = (
        (points[:, 1].astype(np.int64) << 32) + points[:, 0] for points in (edges.start, edges.end)
    )
    order = np.argsort(start, kind="stable")
    position, polygon = start[order], edges.polygon[order]
    pinched = np.zeros(len(start), bool)
    for apart in (1, 2, 3):  # at most four edges leave a point
        same = (position[apart:] == position[:-apart]) & (polygon[apart:] == polygon[:-apart])
        pinched[order[apart:][same]] = pinched[order[:-apart][same]] = True
    continues = (start[1:] == end[:-1]) & (edges.polygon[1:] == edges.polygon[:-1]) & ~pinched[1:]
    return np.flatnonzero(np.append(True, ~continues)[: len(start)])
