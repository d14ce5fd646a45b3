"""Remove corners from rings, which are linked lists of corners on a grid.

The least prominent corners are removed first, as long as no original corner is too far from the
new outline (decimation as in Visvalingam and Whyatt, The Cartographic Journal 30, 1993, with the
bound of Douglas and Peucker). Each round removes all corners that are less prominent than their
two neighbors. Comparisons are exact, so both sides of a boundary decide alike. Ties are broken by
a hash of the position: along the even steps of a slope, where all corners tie, about a third are
first among their neighbors, whereas the position itself would remove one a round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.polygons import Polygons, concat_ranges, following_corners

Ints = NDArray[np.signedinteger]

_NEVER = np.inf


@dataclass(slots=True)
class Outlines:
    """N corners of R rings at K positions."""

    x: Ints
    """(N,)"""
    y: Ints
    """(N,)"""
    before: Ints
    """(N,) previous corner on the ring."""
    after: Ints
    """(N,) next corner on the ring."""
    twin: Ints
    """(N,) the same corner on the ring of the neighbor; itself where there is no neighbor."""
    fixed: NDArray[np.bool_]
    """(N,) outlines part here, so the corner stays."""
    ring: Ints
    """(N,)"""
    start: Ints
    """(R,) first corner of each ring."""
    original_sizes: Ints
    """(R,) corners of each ring at the beginning."""
    ring_sizes: Ints
    """(R,) corners left on each ring."""
    keys: Ints
    """(K,) sort keys of the positions, ascending by row and column."""
    position: Ints
    """(N,) position of each corner, an index into `keys`."""
    tie_breaks: NDArray[np.uint64]
    """(K,) order of positions whose corners are equally prominent."""
    occupied: NDArray[np.bool_]
    """(K,) a corner is left here."""
    alive: NDArray[np.bool_]
    """(N,) the corner is left."""

    @classmethod
    def from_polygons(cls, polygons: Polygons) -> Outlines:
        """Link the corners of polygons, which must have nodes as `insert_nodes` adds them."""
        x, y = polygons.corners.astype(np.int64).T
        after = following_corners(polygons.ring_sizes)
        before = np.empty_like(after)
        before[after] = np.arange(len(after))
        keys, one, position, count = np.unique((y << 32) + x, True, True, True)
        other = np.empty_like(one)
        other[position] = np.arange(len(x))  # the last assignment wins
        # Two rings share a boundary here if the corners before and after are the same, too.
        ends = position[before], position[after]
        low, high = np.minimum(*ends), np.maximum(*ends)
        common = (count == 2) & (low[one] == low[other]) & (high[one] == high[other])
        twin = np.arange(len(x))
        twin[one[common]], twin[other[common]] = other[common], one[common]
        return cls(
            x=x,
            y=y,
            before=before,
            after=after,
            twin=twin,
            fixed=~(common | (count == 1))[position],
            ring=np.repeat(np.arange(len(polygons.ring_sizes)), polygons.ring_sizes),
            start=polygons.ring_starts,
            original_sizes=polygons.ring_sizes,
            ring_sizes=polygons.ring_sizes.copy(),
            keys=keys,
            position=position,
            tie_breaks=_hash(keys),
            occupied=np.ones(len(count), bool),
            alive=np.ones(len(x), bool),
        )

    def simplify(self, tolerance: float) -> None:
        """Remove corners as long as every original corner is within `tolerance` of its outline."""
        limit = tolerance**2 * (1 + 1e-9)
        corners = np.arange(len(self.x))
        height: NDArray[np.float64] = self._distances(corners, self.before, self.after)
        height[self.fixed] = _NEVER
        pending = height <= limit
        while True:
            chosen = np.flatnonzero(pending)
            chosen = chosen[self._is_least(chosen, height)]
            removable = self._deviations(chosen) <= limit
            removable[removable] = self._has_empty_triangle(chosen[removable])
            height[chosen[~removable]] = _NEVER  # until a neighbor is removed
            pending[chosen[~removable]] = False
            removed = self._spare_small_rings(chosen[removable], height)
            if len(removed) == 0 and removable.all():
                return
            self._remove(removed)
            pending[removed] = False
            affected = np.concatenate([self.before[removed], self.after[removed]])
            affected = affected[self.alive[affected] & ~self.fixed[affected]]
            ends = self.before[affected], self.after[affected]
            height[affected] = self._distances(affected, *ends)
            pending[affected] = height[affected] <= limit
            rest = np.flatnonzero(pending)
            rings = self.ring[rest], self.ring[self.twin[rest]]
            triangles = rest[np.minimum(*(self.ring_sizes[ring] for ring in rings)) <= 3]
            height[triangles] = _NEVER
            pending[triangles] = False

    def _distances(self, corner: Ints, first: Ints, last: Ints) -> NDArray[np.float64]:
        """Return the squared distances of corners from the segments between two others.

        They are the same, to the last bit, in whichever direction the segment runs.
        """
        x, y = self.x[corner] - self.x[first], self.y[corner] - self.y[first]
        dx, dy = self.x[last] - self.x[first], self.y[last] - self.y[first]
        along, length = x * dx + y * dy, dx * dx + dy * dy
        from_line = (x * dy - y * dx).astype(np.float64) ** 2 / length
        from_last = (x - dx) ** 2 + (y - dy) ** 2
        outside = np.where(along < 0, x * x + y * y, from_last)
        return np.where((along < 0) | (along > length), outside, from_line)

    def _deviations(self, corner: Ints) -> NDArray[np.float64]:
        """Return the squared distance of the original outline from the edge that would replace
        each corner: the largest one of the original corners between its neighbors."""
        first, last = self.before[corner], self.after[corner]
        start, size = self.start[self.ring[corner]], self.original_sizes[self.ring[corner]]
        between = (last - first - 1) % size
        which = np.repeat(np.arange(len(corner)), between)
        step = first[which] - start[which] + 1 + concat_ranges(np.zeros_like(between), between)
        member = start[which] + step % size[which]
        distance = self._distances(member, first[which], last[which])
        if len(corner) == 0:
            return distance
        return np.maximum.reduceat(distance, np.cumsum(between) - between)

    def _areas(self, corner: Ints) -> Ints:
        """Return twice the areas of the triangles that corners form with their neighbors."""
        p, q = self.before[corner], self.after[corner]
        x, y = self.x[corner], self.y[corner]
        return abs((self.x[p] - x) * (self.y[q] - y) - (self.x[q] - x) * (self.y[p] - y))

    def _is_least(self, corner: Ints, height: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each corner precedes its two neighbors, by height and tie break."""
        order = self.tie_breaks
        least = np.ones(len(corner), bool)
        for neighbor in (self.before[corner], self.after[corner]):
            less = height[corner] < height[neighbor]
            equal = height[corner] == height[neighbor]
            earlier = order[self.position[corner]] < order[self.position[neighbor]]
            least &= less | (equal & earlier)
        return least

    def _remove(self, corner: Ints) -> None:
        self.alive[corner] = False
        self.occupied[self.position[corner]] = False
        p, q = self.before[corner], self.after[corner]
        self.after[p], self.before[q] = q, p
        np.subtract.at(self.ring_sizes, self.ring[corner], 1)

    def _spare_small_rings(self, corner: Ints, height: NDArray[np.float64]) -> Ints:
        """Return the corners that can be removed together so that every ring keeps three."""
        losses = np.bincount(self.ring[corner], minlength=len(self.ring_sizes))
        short = self.ring_sizes - losses < 3
        allowed = ~short[self.ring[corner]]
        if allowed.all():
            return corner
        # From each short ring only the first one in order is removed.
        order = np.lexsort((self.tie_breaks[self.position[corner]], height[corner]))
        rank = np.empty(len(corner), np.int64)
        rank[order] = np.arange(len(corner))
        lowest = np.full(len(self.ring_sizes), len(corner))
        np.minimum.at(lowest, self.ring[corner], rank)
        allowed |= (lowest[self.ring[corner]] == rank) & (self.ring_sizes[self.ring[corner]] > 3)
        is_allowed = np.zeros(len(self.x), bool)
        is_allowed[corner[allowed]] = True
        return corner[is_allowed[corner] & is_allowed[self.twin[corner]]]

    def _has_empty_triangle(self, corner: Ints) -> NDArray[np.bool_]:
        """Return whether no other corner lies in the triangle with the neighbors or on its sides.

        A triangle of half a grid square contains no other grid point (Pick's theorem).
        """
        empty = np.ones(len(corner), bool)
        large = np.flatnonzero(self._areas(corner) > 1)
        if len(large) == 0:
            return empty
        v = corner[large]
        triangle = np.stack([self.before[v], v, self.after[v]])
        triangle = np.take_along_axis(triangle, self.y[triangle].argsort(axis=0), axis=0)
        # Each row extends from the long side, top to bottom, to one of the two others.
        (top, middle, bottom), (x0, x1, x2) = self.y[triangle], self.x[triangle]
        rows = bottom - top + 1
        which, row = np.repeat(np.arange(len(v)), rows), concat_ranges(top, rows)
        above = row < middle[which]
        one = _crossing(x0[which], top[which], x2[which], bottom[which], row)
        other = _crossing(
            np.where(above, x0[which], x1[which]),
            np.where(above, top[which], middle[which]),
            np.where(above, x1[which], x2[which]),
            np.where(above, middle[which], bottom[which]),
            row,
        )
        left, right = np.minimum(one[1], other[1]), np.maximum(one[0], other[0])
        first = np.searchsorted(self.keys, (row << 32) + left)
        past = np.searchsorted(self.keys, (row << 32) + right, "right")
        occupied = np.append(0, np.cumsum(self.occupied))
        inside = np.add.reduceat(occupied[past] - occupied[first], np.cumsum(rows) - rows)
        empty[large] = inside == len(triangle)  # its own corners
        return empty


def _hash(keys: Ints) -> NDArray[np.uint64]:
    """Return distinct numbers for distinct positions, in no order (Fibonacci hashing)."""
    bits = keys.astype(np.uint64)
    return (bits ^ (bits >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)


def _crossing(x0: Ints, y0: Ints, x1: Ints, y1: Ints, row: Ints) -> tuple[Ints, Ints]:
    """Return x where sides from (x0, y0) down to (x1, y1) cross rows, rounded down and up.

    The crossing of a horizontal side is its first end.
    """
    run, rise = (x1 - x0) * (row - y0), np.maximum(y1 - y0, 1)
    steps = run // rise
    return x0 + steps, x0 + steps + (steps * rise != run)
