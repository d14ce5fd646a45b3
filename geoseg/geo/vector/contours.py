"""Outlines of a class raster as rings of integer corners, traced with array operations only.

Directions are numbered 0: +x, 1: +y, 2: -x, 3: -y, with y down the rows. A ring keeps its own
pixels on the right of travel, so that the shoelace sum of a shell is positive in (x, y) and equals
its area in pixels; that of a hole is negative.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from geoseg.classes import IGNORE

Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Corners:
    """Every place where an outline turns, in row-major order."""

    x: Ints
    y: Ints
    direction: Ints
    """(N,) of arrival."""
    head: Ints
    """(N,) number of the first corner of the same ring."""
    rank: Ints
    """(N,) steps along the ring from its head."""
    component: Ints
    """(N,) number of the first corner around the same 4-connected pixels."""
    following: Ints
    """(N,) number of the next corner on the ring."""
    edges: VerticalEdges
    padded: NDArray[np.uint8]
    """(H + 2, W + 2) classes in a frame; IGNORE where there is none."""

    def has_class(self, y: Ints, x: Ints) -> Bools:
        """Of pixels, which may lie next to the raster."""
        return self.padded[y + 1, x + 1] != IGNORE

    def component_at(self, y: Ints, x: Ints) -> Ints:
        """(n,) component of pixels, none of which is IGNORE."""
        return self.component[self.edges.beginning(y, x)]

    @property
    def sign(self) -> Ints:
        """+1 or -1, so that sum(sign · S) over a ring is the sum over its inside of the pixels
        that S accumulates from the top left; S = x · y counts them. (Green's theorem: only
        vertical edges count, and every corner ends or begins one.)"""
        return _sign(self.direction)


@dataclass(frozen=True, slots=True)
class VerticalEdges:
    """Edges along columns, by the pixels that they are sides of."""

    breaks: Ints
    """Where neighbours in a row differ: places in an array of `stride` columns, sorted."""
    stride: int
    tops: Ints
    """Corners where edges that are left sides end, by column and row."""
    top_keys: Ints
    """column · HEIGHT + row of the tops."""
    bottoms: Ints
    """Corners where edges that are right sides end, by column and row."""
    bottom_keys: Ints

    HEIGHT: ClassVar[int] = 2**20

    @classmethod
    def of(
        cls, x: Ints, y: Ints, arriving: Ints, by_column: Ints, across: Bools, stride: int
    ) -> VerticalEdges:
        keys = x * np.int64(cls.HEIGHT) + y
        tops, bottoms = (by_column[arriving[by_column] == direction] for direction in (3, 1))
        return cls(np.flatnonzero(across), stride, tops, keys[tops], bottoms, keys[bottoms])

    def beginning(self, y: Ints, x: Ints) -> Ints:
        """The corner at the end of the left side of each pixel's run of equal pixels."""
        place = (y + 1) * np.int64(self.stride) + x
        column = self.breaks[np.searchsorted(self.breaks, place, "right") - 1] % self.stride
        key = column * self.HEIGHT + y
        return self.tops[np.searchsorted(self.top_keys, key, "right") - 1]

    def ending(self, y: Ints, x: Ints) -> Ints:
        """The corner at the end of the right side of each pixel, which differs from the next."""
        key = (x + 1) * np.int64(self.HEIGHT) + y
        return self.bottoms[np.searchsorted(self.bottom_keys, key, "right")]


def _sign(direction: Ints) -> Ints:
    return (direction.astype(np.int64) % 2) * 2 - 1


def trace(class_ids: NDArray[np.uint8], skip: Collection[int] = ()) -> Corners:
    """The outlines of all 4-connected regions of equal class, but for `skip` and IGNORE.

    Rings are simple: where pixels of one region meet at a corner only, its outline is split into
    rings that touch there, as the validity of polygons demands.

    Args:
        class_ids: (H, W), at most 65 534 a side.
    """
    padded = np.pad(class_ids, 1, constant_values=IGNORE)
    for value in skip:
        np.copyto(padded, IGNORE, where=padded == value)
    # In one line, which is quicker: from the end of a row to the next one nothing changes.
    flat, stride = padded.ravel(), padded.shape[1]
    across = flat[1:] != flat[:-1]  # edges between columns
    along = flat[stride:] != flat[:-stride]  # edges between rows
    turns = across[:-stride] | across[stride:]
    turns &= along[:-1] | along[1:]
    points = np.flatnonzero(turns)
    y, x = np.divmod(points, stride)
    nw, ne, sw, se = (flat[points + step] for step in (0, 1, stride, stride + 1))

    # Edges that leave the point in each direction, and the pixel whose outline arrives that way.
    edges = np.stack([ne != se, sw != se, nw != sw, nw != ne])
    wanted = np.stack([sw, nw, ne, se]) != IGNORE
    rightward = np.roll(edges, -1, axis=0)
    arrives = np.roll(edges, -2, axis=0) & (rightward | ~edges) & wanted
    nodes = np.flatnonzero(arrives.T)
    arriving = (nodes % 4).astype(np.int8)
    # Turning right wherever possible stays with the same pixel: 4-connected.
    leaving = (arriving + np.where(rightward.T.ravel()[nodes], 1, 3)) % 4
    x, y = x[nodes // 4], y[nodes // 4]

    # Edges on one line never overlap, so the n-th departure leads to the n-th arrival.
    following = np.empty(len(nodes), np.intp)
    by_column = np.argsort(x.astype(np.uint16), kind="stable")
    for direction, line in ((0, None), (1, by_column), (2, None), (3, by_column)):
        if line is None:
            following[leaving == direction] = np.flatnonzero(arriving == direction)
        else:
            starts = line[leaving[line] == direction]
            following[starts] = line[arriving[line] == direction]

    head, rank = _turning_cycles(following, arriving)
    uprights = VerticalEdges.of(x, y, arriving, by_column, across, stride)
    component = _components(x, y, arriving, head, uprights)
    pinched = _split_pinches(nodes, edges, component, following)
    if len(pinched):
        hit = np.zeros(len(head), bool)
        hit[head[pinched]] = True
        again = np.flatnonzero(hit[head])
        number = np.empty_like(head)
        number[again] = np.arange(len(again))
        local, rank[again] = _turning_cycles(number[following[again]], arriving[again])
        head[again] = again[local]
    return Corners(x, y, arriving, head, rank, component, following, uprights, padded)


def _components(x: Ints, y: Ints, arriving: Ints, head: Ints, edges: VerticalEdges) -> Ints:
    """Holes join the ring that lies left of them, until that is a shell."""
    area = np.bincount(head, _sign(arriving) * x * y, len(head))
    owner = np.arange(len(head))
    holes = np.flatnonzero(area < 0)
    # The pixel left of a hole's first corner is its region's. The ring of the edge where that
    # pixel's run begins reaches further left than the hole, so following it comes to an end.
    owner[holes] = head[edges.beginning(y[holes], x[holes] - 1)]
    while not np.array_equal(owner, owner[owner]):
        owner = owner[owner]
    return owner[head]


def _split_pinches(nodes: Ints, edges: Ints, component: Ints, following: Ints) -> Ints:
    """Where a region meets itself at a point, go around the other pixels instead, in place.

    Returns the corners concerned.
    """
    points, changed = np.flatnonzero(edges.all(axis=0)), []
    last = len(nodes) - 1
    for one, other in ((0, 2), (1, 3)):
        first, second = points * 4 + one, points * 4 + other
        i, j = (np.minimum(np.searchsorted(nodes, place), last) for place in (first, second))
        same = (nodes[i] == first) & (nodes[j] == second) & (component[i] == component[j])
        i, j = i[same], j[same]
        following[i], following[j] = following[j], following[i]
        changed += [i, j]
    return np.concatenate(changed)


def _turning_cycles(following: Ints, arriving: Ints) -> tuple[Ints, Ints]:
    """`cycles`, at half the price: every second corner of a ring ends an upright edge."""
    upright = np.flatnonzero(arriving % 2)
    level = following[upright]
    number = np.empty_like(following)
    number[upright] = np.arange(len(upright))
    first, steps = cycles(number[following[level]])
    # The ring's first corner is the first of one kind, or the one that follows it.
    ahead = level[first] < upright[first]
    head, rank = np.empty_like(following), np.empty_like(following)
    head[upright] = head[level] = np.where(ahead, level, upright)[first]
    rank[level] = 2 * steps + ~ahead
    rank[upright] = 2 * steps - ahead
    before = ahead & (steps == 0)
    rank[upright[before]] = 2 * np.bincount(first, minlength=len(first))[before] - 1
    return head, rank


def cycles(following: Ints) -> tuple[Ints, Ints]:
    """Head (smallest member) of every element's cycle, and the steps from the head to it.

    By pointer doubling: after k rounds an element knows the smallest of the 2^k that follow it.
    Two stretches with the same smallest element overlap, so together they are the whole cycle.
    """
    jump = following.copy()
    head = np.arange(len(jump))
    ahead = np.zeros_like(head)  # steps from the element to its head
    reach = np.ones_like(head)  # steps of `jump`
    active = head.copy()
    while len(active):
        there = jump[active]
        found, known = head[there], head[active]
        smaller = found < known
        unsettled = found != known
        distance = np.where(smaller, reach[active] + ahead[there], ahead[active])
        onward, further = jump[there], reach[active] + reach[there]
        head[active], ahead[active] = np.where(smaller, found, known), distance
        jump[active], reach[active] = onward, further
        active = active[unsettled]
    size = np.bincount(head, minlength=len(head))[head]
    return head, (-ahead) % size
