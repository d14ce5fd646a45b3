"""Fewer corners, with neighbours still sharing their boundary.

Visvalingam and Whyatt's method (The Cartographic Journal 30, 1993) on a coverage: a corner goes
when the triangle that it spans with its neighbours is small, the smallest first. It is done in
rounds, each of which removes all corners that are smaller than both neighbours at once. As every
corner lies on the pixel grid, areas are exact and both sides of a boundary decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.geo.edges import connected
from geoseg.geo.flat import Polygons, following_corners, spread, sum_runs

Ints = NDArray[np.int64]

_NEVER = np.iinfo(np.int64).max
_GROUP = 100_000
"""Corners that are worth a turn: enough for arrays to pay, few enough for the processor's cache."""


def simplify(polygons: Polygons, tolerance: float) -> NDArray[np.object_]:
    """(P,) shapely polygons in pixel coordinates; see `thinned`."""
    return thinned(polygons, tolerance).geometry


def thinned(
    polygons: Polygons, tolerance: float, apply: Callable[..., Iterable[Polygons]] = map
) -> Polygons:
    """Without corners that span triangles of up to `tolerance`² pixels.

    Corners where three outlines meet stay. No outline is moved across a corner of another one, so
    polygons that do not overlap still do not, and there are no gaps where there were none.

    Args:
        apply: the `map` of a pool of threads, to share the work.
    """
    if tolerance <= 0 or len(polygons) == 0:
        return polygons
    groups = _independent(polygons)
    parts = apply(lambda members: _thinned(polygons.take(members), tolerance), groups)
    return Polygons.concatenate(parts).take(np.argsort(np.concatenate(groups)))


def _independent(polygons: Polygons) -> list[Ints]:
    """Polygons in groups whose boxes do not meet, so that none can stand in another's way."""
    boxes = polygons.boxes
    cluster = connected(len(polygons), shapely.STRtree(boxes).query(boxes))
    corners = sum_runs(polygons.ring_sizes, polygons.ring_counts)
    before = np.cumsum(np.bincount(cluster, corners, len(polygons)))
    group = (before // _GROUP)[cluster]
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _thinned(polygons: Polygons, tolerance: float) -> Polygons:
    polygons = noded(polygons)
    outlines = _Outlines.of(polygons)
    outlines.thin(2 * tolerance**2 * (1 + 1e-9))
    kept = outlines.alive
    return replace(
        polygons,
        corners=polygons.corners[kept],
        ring_sizes=sum_runs(kept.astype(np.int64), polygons.ring_sizes),
    )


def noded(polygons: Polygons) -> Polygons:
    """With a corner wherever another polygon's corner lies on an edge, as coverages need it."""
    start = polygons.corners.astype(np.int64)
    end = start[following_corners(polygons.ring_sizes)]
    upright = start[:, 0] == end[:, 0]
    sizes = np.empty(len(start), np.int64)
    # Keys sort corners along rows, or along columns; an edge passes those between its two ends.
    passed = []
    for edges, across, along in ((~upright, 1, 0), (upright, 0, 1)):
        keys = np.sort((start[:, across] << 32) + start[:, along])
        keys = keys[np.diff(keys, prepend=-1) != 0]
        first = np.searchsorted(keys, (start[edges, across] << 32) + start[edges, along])
        last = np.searchsorted(keys, (end[edges, across] << 32) + end[edges, along])
        sizes[edges] = steps = abs(last - first)
        onward = np.repeat(np.sign(last - first), steps)
        found = keys[np.repeat(first, steps) + onward * spread(np.zeros_like(first), steps)]
        places = np.empty((len(found), 2), np.int32)
        places[:, across], places[:, along] = found >> 32, found & 0xFFFFFFFF
        passed.append(places)
    corners = np.empty((sizes.sum(), 2), np.int32)
    of_upright = np.repeat(upright, sizes)
    corners[~of_upright], corners[of_upright] = passed
    return replace(polygons, corners=corners, ring_sizes=sum_runs(sizes, polygons.ring_sizes))


@dataclass(slots=True)
class _Outlines:
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
    ring_sizes: Ints
    """(R,) corners left on each ring."""
    keys: Ints
    """(K,) places of corners, sorted."""
    place: Ints
    """(N,) of each corner among the places."""
    taken: NDArray[np.bool_]
    """(K,) a corner is there."""
    alive: NDArray[np.bool_]
    """(N,)"""

    @classmethod
    def of(cls, polygons: Polygons) -> _Outlines:
        x, y = polygons.corners.astype(np.int64).T
        after = following_corners(polygons.ring_sizes)
        before = np.empty_like(after)
        before[after] = np.arange(len(after))
        key = (y << 32) + x
        order = np.argsort(key, kind="stable")
        first = np.diff(key[order], prepend=-1) != 0
        place = np.empty_like(order)
        place[order] = np.cumsum(first) - 1
        # Two rings run through a place in common where they come from and go to the same places.
        count = np.bincount(place)
        one = order[first]
        other = order[np.cumsum(count) - 1]
        ends = np.sort(np.stack([key[before], key[after]]), axis=0)
        common = (count == 2) & (ends[:, one] == ends[:, other]).all(axis=0)
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
            ring_sizes=polygons.ring_sizes.copy(),
            keys=key[one],
            place=place,
            taken=np.ones(len(count), bool),
            alive=np.ones(len(x), bool),
        )

    def thin(self, limit: float) -> None:
        """Remove corners whose triangle is at most `limit` half pixels large."""
        area = np.where(self.fixed, _NEVER, self._areas(np.arange(len(self.x))))
        waiting = area <= limit
        while True:
            small = np.flatnonzero(waiting)
            chosen = small[self._is_least(small, area)]
            free = self._is_free(chosen, area[chosen])
            area[chosen[~free]] = _NEVER  # until a neighbour goes
            waiting[chosen[~free]] = False
            removed = self._sparing_small_rings(chosen[free], area)
            if len(removed) == 0 and free.all():
                return
            self._remove(removed)
            waiting[removed] = False
            touched = np.concatenate([self.before[removed], self.after[removed]])
            touched = touched[self.alive[touched] & ~self.fixed[touched]]
            area[touched] = self._areas(touched)
            waiting[touched] = area[touched] <= limit
            small = np.flatnonzero(waiting)
            rings = self.ring[small], self.ring[self.twin[small]]
            done = small[np.minimum(*(self.ring_sizes[ring] for ring in rings)) <= 3]
            area[done] = _NEVER
            waiting[done] = False

    def _areas(self, corner: Ints) -> Ints:
        """Twice the areas of the triangles at corners."""
        p, q = self.before[corner], self.after[corner]
        x, y = self.x[corner], self.y[corner]
        return abs((self.x[p] - x) * (self.y[q] - y) - (self.x[q] - x) * (self.y[p] - y))

    def _is_least(self, corner: Ints, area: Ints) -> NDArray[np.bool_]:
        """Before its neighbours in order: by area, by place."""
        least = np.ones(len(corner), bool)
        for neighbour in (self.before[corner], self.after[corner]):
            less = area[corner] < area[neighbour]
            equal = area[corner] == area[neighbour]
            least &= less | (equal & (self.place[corner] < self.place[neighbour]))
        return least

    def _remove(self, corner: Ints) -> None:
        self.alive[corner] = False
        self.taken[self.place[corner]] = False
        p, q = self.before[corner], self.after[corner]
        self.after[p], self.before[q] = q, p
        np.subtract.at(self.ring_sizes, self.ring[corner], 1)

    def _sparing_small_rings(self, corner: Ints, area: Ints) -> Ints:
        """Those that can go together with every ring keeping three corners."""
        losses = np.bincount(self.ring[corner], minlength=len(self.ring_sizes))
        short = self.ring_sizes - losses < 3
        allowed = ~short[self.ring[corner]]
        if allowed.all():
            return corner
        # One at a time from each of these rings, the first in order.
        order = np.lexsort((self.place[corner], area[corner]))
        best = np.full(len(self.ring_sizes), len(corner))
        turn = np.empty(len(corner), np.int64)
        turn[order] = np.arange(len(corner))
        np.minimum.at(best, self.ring[corner], turn)
        allowed |= (best[self.ring[corner]] == turn) & (self.ring_sizes[self.ring[corner]] > 3)
        granted = np.zeros(len(self.x), bool)
        granted[corner[allowed]] = True
        return corner[granted[corner] & granted[self.twin[corner]]]

    def _is_free(self, corner: Ints, area: Ints) -> NDArray[np.bool_]:
        """No other corner lies in the triangle or on its sides.

        Of all triangles on a grid, those of half a cell hold no other grid point, and those of a
        whole cell only one: the middle of a side (Pick's theorem).
        """
        free = np.ones(len(corner), bool)
        whole = np.flatnonzero(area == 2)
        v = corner[whole]
        ends = np.stack([self.before[v], v, self.after[v]])
        x, y = self.x[ends], self.y[ends]
        wide, tall = x + x[[1, 2, 0]], y + y[[1, 2, 0]]
        halved = (wide % 2 == 0) & (tall % 2 == 0)
        middle = ((tall // 2 << 32) + wide // 2)[halved]
        free[whole[halved.nonzero()[1]]] = ~self._is_taken(middle)[0]

        large = np.flatnonzero(area > 2)
        if len(large) == 0:
            return free
        v = corner[large]
        triangle = np.stack([self.before[v], v, self.after[v]])
        x, y = self.x[triangle], self.y[triangle]
        tops = y.min(axis=0)
        heights = y.max(axis=0) - tops + 1
        which = np.repeat(np.arange(len(v)), heights)
        row = spread(tops, heights)
        left, right = np.full(len(row), _NEVER), np.full(len(row), -_NEVER)
        for i, j in ((0, 1), (1, 2), (2, 0)):
            upper = np.where(y[i] <= y[j], i, j)
            lower = np.where(y[i] <= y[j], j, i)
            columns = np.arange(len(v))
            x0, y0 = x[upper, columns][which], y[upper, columns][which]
            x1, y1 = x[lower, columns][which], y[lower, columns][which]
            inside = (y0 <= row) & (row <= y1)
            flat = y0 == y1
            run, rise = (x1 - x0) * (row - y0), np.where(flat, 1, y1 - y0)
            low = np.where(flat, np.minimum(x0, x1), x0 - (-run) // rise)
            high = np.where(flat, np.maximum(x0, x1), x0 + run // rise)
            left = np.where(inside, np.minimum(left, low), left)
            right = np.where(inside, np.maximum(right, high), right)
        widths = np.maximum(right - left + 1, 0)
        which, row = np.repeat(which, widths), np.repeat(row, widths)
        key = (row << 32) + spread(left, widths)
        taken, place = self._is_taken(key)
        hit = taken & (self.place[triangle][:, which] != place).all(axis=0)
        free[large[which[hit]]] = False
        return free

    def _is_taken(self, key: Ints) -> tuple[NDArray[np.bool_], Ints]:
        """Whether a corner is at each place on the grid, and which of the places it would be."""
        place = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        return (self.keys[place] == key) & self.taken[place], place
