"""Rings as linked lists of corners on a grid, from which corners are removed.

The least prominent corners go first, as long as no corner of the original strays too far
(decimation as in Visvalingam and Whyatt, The Cartographic Journal 30, 1993, with the bound of
Douglas and Peucker). Rounds remove all corners at once that are less prominent than their two
neighbours. Comparisons are exact, so both sides of a boundary decide alike. Of equals one goes
first by a number that is mixed from its place: along the even steps of a slope, where all are
equal, about a third are first among their neighbours, whereas by place alone it would be one.
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
    """Rings as linked lists of corners, from which corners are removed."""

    x: Ints
    y: Ints
    before: Ints
    """(N,) the corner before each one on its ring."""
    after: Ints
    twin: Ints
    """(N,) the same corner on the ring of the neighbour; itself where there is no neighbour."""
    fixed: NDArray[np.bool_]
    """(N,) outlines part here."""
    ring: Ints
    start: Ints
    """(R,) first corner of each ring."""
    original: Ints
    """(R,) corners of each ring to begin with."""
    ring_sizes: Ints
    """(R,) corners left on each ring."""
    keys: Ints
    """(K,) places of corners, sorted."""
    place: Ints
    """(N,) of each corner among the places."""
    turns: NDArray[np.uint64]
    """(K,) order of places whose corners are equally prominent."""
    taken: NDArray[np.bool_]
    """(K,) a corner is there."""
    alive: NDArray[np.bool_]
    """(N,)"""

    @classmethod
    def of(cls, polygons: Polygons) -> Outlines:
        x, y = polygons.corners.astype(np.int64).T
        after = following_corners(polygons.ring_sizes)
        before = np.empty_like(after)
        before[after] = np.arange(len(after))
        # With the indices numpy sorts in another, here faster way.
        keys, one, place, count = np.unique((y << 32) + x, True, True, True)
        other = np.empty_like(one)
        other[place] = np.arange(len(x))  # the last one stays
        # Two rings run through a place in common where they come from and go to the same places.
        ends = place[before], place[after]
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
            fixed=~(common | (count == 1))[place],
            ring=np.repeat(np.arange(len(polygons.ring_sizes)), polygons.ring_sizes),
            start=polygons.ring_starts,
            original=polygons.ring_sizes,
            ring_sizes=polygons.ring_sizes.copy(),
            keys=keys,
            place=place,
            turns=_mixed(keys),
            taken=np.ones(len(count), bool),
            alive=np.ones(len(x), bool),
        )

    def thin(self, tolerance: float) -> None:
        """Remove corners as long as none that was there lies further from its outline."""
        limit = tolerance**2 * (1 + 1e-9)
        everyone = np.arange(len(self.x))
        height: NDArray[np.float64] = self._distances(everyone, self.before, self.after)
        height[self.fixed] = _NEVER
        waiting = height <= limit
        while True:
            chosen = np.flatnonzero(waiting)
            chosen = chosen[self._is_least(chosen, height)]
            free = self._strays(chosen) <= limit
            free[free] = self._is_free(chosen[free])
            height[chosen[~free]] = _NEVER  # until a neighbour goes
            waiting[chosen[~free]] = False
            removed = self._sparing_small_rings(chosen[free], height)
            if len(removed) == 0 and free.all():
                return
            self._remove(removed)
            waiting[removed] = False
            touched = np.concatenate([self.before[removed], self.after[removed]])
            touched = touched[self.alive[touched] & ~self.fixed[touched]]
            height[touched] = self._distances(touched, self.before[touched], self.after[touched])
            waiting[touched] = height[touched] <= limit
            small = np.flatnonzero(waiting)
            rings = self.ring[small], self.ring[self.twin[small]]
            done = small[np.minimum(*(self.ring_sizes[ring] for ring in rings)) <= 3]
            height[done] = _NEVER
            waiting[done] = False

    def _distances(self, corner: Ints, first: Ints, last: Ints) -> NDArray[np.float64]:
        """Squares of the distances from corners to the segments between two others.

        The same, to the last bit, whichever way the segment runs.
        """
        x, y = self.x[corner] - self.x[first], self.y[corner] - self.y[first]
        dx, dy = self.x[last] - self.x[first], self.y[last] - self.y[first]
        along, length = x * dx + y * dy, dx * dx + dy * dy
        from_line = (x * dy - y * dx).astype(np.float64) ** 2 / length
        from_last = (x - dx) ** 2 + (y - dy) ** 2
        outside = np.where(along < 0, x * x + y * y, from_last)
        return np.where((along < 0) | (along > length), outside, from_line)

    def _strays(self, corner: Ints) -> NDArray[np.float64]:
        """How far, squared, the outline between the neighbours of corners would come to lie from
        the original one, if these went: the largest distance of its original corners."""
        first, last = self.before[corner], self.after[corner]
        start, size = self.start[self.ring[corner]], self.original[self.ring[corner]]
        between = (last - first - 1) % size
        which = np.repeat(np.arange(len(corner)), between)
        step = first[which] - start[which] + 1 + concat_ranges(np.zeros_like(between), between)
        member = start[which] + step % size[which]
        distance = self._distances(member, first[which], last[which])
        if len(corner) == 0:
            return distance
        return np.maximum.reduceat(distance, np.cumsum(between) - between)

    def _areas(self, corner: Ints) -> Ints:
        """Twice the areas of the triangles that corners span with their neighbours."""
        p, q = self.before[corner], self.after[corner]
        x, y = self.x[corner], self.y[corner]
        return abs((self.x[p] - x) * (self.y[q] - y) - (self.x[q] - x) * (self.y[p] - y))

    def _is_least(self, corner: Ints, height: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Before its neighbours in order: by height, by turn."""
        least = np.ones(len(corner), bool)
        for neighbour in (self.before[corner], self.after[corner]):
            less = height[corner] < height[neighbour]
            equal = height[corner] == height[neighbour]
            earlier = self.turns[self.place[corner]] < self.turns[self.place[neighbour]]
            least &= less | (equal & earlier)
        return least

    def _remove(self, corner: Ints) -> None:
        self.alive[corner] = False
        self.taken[self.place[corner]] = False
        p, q = self.before[corner], self.after[corner]
        self.after[p], self.before[q] = q, p
        np.subtract.at(self.ring_sizes, self.ring[corner], 1)

    def _sparing_small_rings(self, corner: Ints, height: NDArray[np.float64]) -> Ints:
        """Those that can go together with every ring keeping three corners."""
        losses = np.bincount(self.ring[corner], minlength=len(self.ring_sizes))
        short = self.ring_sizes - losses < 3
        allowed = ~short[self.ring[corner]]
        if allowed.all():
            return corner
        # One at a time from each of these rings, the first in order.
        order = np.lexsort((self.turns[self.place[corner]], height[corner]))
        best = np.full(len(self.ring_sizes), len(corner))
        turn = np.empty(len(corner), np.int64)
        turn[order] = np.arange(len(corner))
        np.minimum.at(best, self.ring[corner], turn)
        allowed |= (best[self.ring[corner]] == turn) & (self.ring_sizes[self.ring[corner]] > 3)
        granted = np.zeros(len(self.x), bool)
        granted[corner[allowed]] = True
        return corner[granted[corner] & granted[self.twin[corner]]]

    def _is_free(self, corner: Ints) -> NDArray[np.bool_]:
        """No other corner lies in the triangle or on its sides.

        Those of half a cell hold no other place on the grid (Pick's theorem).
        """
        free = np.ones(len(corner), bool)
        large = np.flatnonzero(self._areas(corner) > 1)
        if len(large) == 0:
            return free
        v = corner[large]
        triangle = np.stack([self.before[v], v, self.after[v]])
        triangle = np.take_along_axis(triangle, self.y[triangle].argsort(axis=0), axis=0)
        # Of every row: from the long side, top to bottom, to one of the two others.
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
        taken = np.append(0, np.cumsum(self.taken))
        inside = np.add.reduceat(taken[past] - taken[first], np.cumsum(rows) - rows)
        free[large] = inside == triangle.shape[0]  # its own
        return free


def _mixed(keys: Ints) -> NDArray[np.uint64]:
    """Different numbers for different places, in no order along any line (Fibonacci hashing)."""
    bits = keys.astype(np.uint64)
    return (bits ^ (bits >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)


def _crossing(x0: Ints, y0: Ints, x1: Ints, y1: Ints, row: Ints) -> tuple[Ints, Ints]:
    """Where sides from (x0, y0) down to (x1, y1) cross rows: rounded down, and up.

    Of a level side it is the first end.
    """
    run, rise = (x1 - x0) * (row - y0), np.maximum(y1 - y0, 1)
    whole = run // rise
    return x0 + whole, x0 + whole + (whole * rise != run)
