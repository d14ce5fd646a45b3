"""Outlines as loose edges: cut where others end, taken away, linked into rings again.

Integer arithmetic throughout, so that polygons are united without an overlay and without rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.contours import cycles
from geoseg.geo.vector.polygons import Polygons, concat_ranges, following_corners

Ints = NDArray[np.integer]
NO_POLYGON = -1


@dataclass(frozen=True, slots=True)
class Edges:
    """Directed edges of outlines, along rows or columns; the polygon lies right of travel."""

    start: Ints
    """(n, 2) x, y"""
    end: Ints
    polygon: Ints
    """(n,)"""

    @classmethod
    def of(cls, polygons: Polygons) -> Edges:
        rings = np.repeat(np.arange(len(polygons)), polygons.ring_counts)
        return cls(
            start=polygons.corners,
            end=polygons.corners[following_corners(polygons.ring_sizes)],
            polygon=np.repeat(rings, polygons.ring_sizes),
        )

    @property
    def is_upright(self) -> NDArray[np.bool_]:
        return self.start[:, 0] == self.end[:, 0]

    def __getitem__(self, which: Ints | NDArray[np.bool_]) -> Edges:
        return Edges(self.start[which], self.end[which], self.polygon[which])

    def renamed(self, polygons: Ints) -> Edges:
        """With `polygons[i]` in place of polygon i."""
        return Edges(self.start, self.end, polygons[self.polygon])

    def spans(self, axis: int) -> tuple[Ints, Ints]:
        """(n,) keys of both ends along their line, the lower first; `axis` 0: of upright edges."""
        line = self.start[:, axis].astype(np.int64) << 32
        ends = self.start[:, 1 - axis], self.end[:, 1 - axis]
        return line + np.minimum(*ends), line + np.maximum(*ends)

    def beside(self, others: Edges) -> NDArray[np.bool_]:
        """(n,) those that run along one of the others."""
        result = np.zeros(len(self.polygon), bool)
        for axis in (0, 1):
            mine = np.flatnonzero(self.is_upright == (axis == 0))
            low, high = self[mine].spans(axis)
            lows, highs = others[others.is_upright == (axis == 0)].spans(axis)
            begun = np.searchsorted(np.sort(lows), high)
            result[mine] = begun > np.searchsorted(np.sort(highs), low, "right")
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
    """Pieces of lines with at most one polygon on either side, all along."""

    low: Ints
    """(n, 2) x, y of the end with the smaller coordinates."""
    high: Ints
    sides: Ints
    """(2, n) polygon whose edge runs from low to high, and from high to low; or NO_POLYGON."""

    @classmethod
    def of(cls, edges: Edges) -> SharedEdges:
        """Edges of one direction must not overlap, as those of disjoint polygons do not."""
        upright = edges.is_upright
        (low, high, sides), across = (_cut(axis, edges[upright == (axis == 0)]) for axis in (0, 1))
        return cls(
            np.concatenate([low, across[0]]),
            np.concatenate([high, across[1]]),
            np.concatenate([sides, across[2]], axis=1),
        )

    @property
    def lengths(self) -> Ints:
        return (self.high - self.low).sum(axis=1)

    def edges(self, which: NDArray[np.bool_]) -> Edges:
        """Of both sides, where (n,) `which` and somebody is there."""
        first, second = (which & (side != NO_POLYGON) for side in self.sides)
        return Edges.concatenate(
            Edges(self.low[first], self.high[first], self.sides[0, first]),
            Edges(self.high[second], self.low[second], self.sides[1, second]),
        )


def _cut(axis: int, edges: Edges) -> tuple[Ints, Ints, Ints]:
    """Of one orientation; `axis` 0: upright."""
    along = 1 - axis
    forward = edges.end[:, along] > edges.start[:, along]
    low, high = edges.spans(axis)
    stops = np.sort(np.concatenate([low, high]))
    stops = stops[np.diff(stops, prepend=-1) != 0]
    first, last = np.searchsorted(stops, low), np.searchsorted(stops, high)
    sides = np.full((2, len(stops)), NO_POLYGON)
    for side, mine in enumerate((forward, ~forward)):
        sizes = last[mine] - first[mine]
        sides[side, concat_ranges(first[mine], sizes)] = np.repeat(edges.polygon[mine], sizes)
    used = np.flatnonzero((sides != NO_POLYGON).any(axis=0))
    corners = np.empty((2, len(used), 2), np.int32)
    corners[..., axis] = stops[used] >> 32
    corners[0, :, along] = stops[used] & 0xFFFFFFFF
    corners[1, :, along] = stops[used + 1] & 0xFFFFFFFF
    return corners[0], corners[1], sides[:, used]


def connected(count: int, pairs: Ints) -> Ints:
    """(count,) smallest member of everyone's group, where both of each of (2, n) pairs are one."""
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


def _chain_starts(edges: Edges) -> Ints:
    """Edges that do not begin where the one before them ends, or where their polygon has another
    one that begins."""
    start, end = (
        (points[:, 1].astype(np.int64) << 32) + points[:, 0] for points in (edges.start, edges.end)
    )
    order = np.argsort(start, kind="stable")
    place, polygon = start[order], edges.polygon[order]
    pinched = np.zeros(len(start), bool)
    for apart in (1, 2, 3):  # at most four edges leave a point
        same = (place[apart:] == place[:-apart]) & (polygon[apart:] == polygon[:-apart])
        pinched[order[apart:][same]] = pinched[order[:-apart][same]] = True
    goes_on = (start[1:] == end[:-1]) & (edges.polygon[1:] == edges.polygon[:-1]) & ~pinched[1:]
    return np.flatnonzero(np.append(True, ~goes_on)[: len(start)])


def linked(edges: Edges, parts: Polygons) -> Polygons:
    """Rings from edges, each beginning where another edge of its polygon ends.

    The edges' polygons are places in `parts`, from where their classes and sums come.
    """
    dx, dy = (edges.end - edges.start).T
    direction = np.where(dx != 0, np.where(dx > 0, 0, 2), np.where(dy > 0, 1, 3))
    # Most edges follow upon each other as they were; chains of these are linked as one.
    first = _chain_starts(edges)
    chain_sizes = np.diff(first, append=len(direction))
    last = first + chain_sizes - 1
    # Where a polygon meets itself at a point, two chains arrive and two leave: turn left, around
    # the pixels that are not its own.
    (x0, y0), (x1, y1) = edges.start[first].T, edges.end[last].T
    departures = np.lexsort((direction[first], x0, y0, edges.polygon[first]))
    arrivals = np.lexsort(((direction[last] - 1) % 4, x1, y1, edges.polygon[last]))
    following = np.empty(len(first), np.int64)
    following[arrivals] = departures

    head, rank = cycles(following)
    chains = np.lexsort((rank, head))
    order = concat_ranges(first[chains], chain_sizes[chains])
    ring = np.repeat(head[chains], chain_sizes[chains])
    begins = np.flatnonzero(np.diff(ring, prepend=-1))
    before = np.roll(direction[order], 1)
    before[begins] = direction[order[np.append(begins, len(order))[1:] - 1]]
    turned = direction[order] != before
    corners, owner = edges.start[order[turned]], edges.polygon[order[turned]]
    begins = np.flatnonzero(np.diff(ring[turned], prepend=-1))
    sizes = np.diff(begins, append=len(corners))

    # Every ring begins at its first corner; a polygon's shell has the first of all its corners.
    place = (corners[:, 1].astype(np.int64) << 32) + corners[:, 0]
    least = np.minimum.reduceat(place, begins) if len(begins) else place
    shift = np.flatnonzero(place == np.repeat(least, sizes)) - begins
    within = np.arange(len(corners)) - np.repeat(begins, sizes)
    around = (within + np.repeat(shift, sizes)) % np.repeat(sizes, sizes)
    rings = np.lexsort((least, owner[begins]))
    chosen = (np.repeat(begins, sizes) + around)[concat_ranges(begins[rings], sizes[rings])]
    polygons, ring_counts = np.unique(owner[begins], return_counts=True)
    return Polygons(
        corners=corners[chosen],
        ring_sizes=sizes[rings],
        ring_counts=ring_counts,
        class_id=parts.class_id[polygons],
        pixels=parts.pixels[polygons],
        probability=None if parts.probability is None else parts.probability[polygons],
    )
