"""Trace the outlines of a class raster as rings of integer corners, with array operations only.

Directions are numbered 0: +x, 1: +y, 2: -x, 3: -y, with y down the rows. A ring keeps its own
pixels on the right of travel, so that the shoelace sum of a shell in (x, y) is positive and equals
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
    """The corners of all outlines, in row-major order."""

    x: Ints
    """(N,)"""
    y: Ints
    """(N,)"""
    direction: Ints
    """(N,) direction of the edge that ends here."""
    head: Ints
    """(N,) first corner of the same ring."""
    rank: Ints
    """(N,) steps along the ring from its head."""
    component: Ints
    """(N,) first corner of the same 4-connected component of pixels."""
    following: Ints
    """(N,) next corner on the ring."""
    edges: VerticalEdges
    padded: NDArray[np.integer]
    """(H + 2, W + 2) classes with a border of one pixel; IGNORE where there is none."""

    def has_class(self, y: Ints, x: Ints) -> Bools:
        """Return whether pixels have a class; they may lie next to the raster."""
        return self.padded[y + 1, x + 1] != IGNORE

    def component_at(self, y: Ints, x: Ints) -> Ints:
        """Return (n,) the components of pixels, all of which must have a class."""
        return self.component[self.edges.left_side(y, x)]

    @property
    def sign(self) -> Ints:
        """(N,) +1 or -1: sum(sign · S) over a ring is the sum of v over the pixels inside.

        S(x, y) is the sum of v over all pixels above and to the left; S = x · y counts pixels.
        (Green's theorem: only vertical edges count, and every corner ends or begins one.)
        """
        return _sign(self.direction)


@dataclass(frozen=True, slots=True)
class VerticalEdges:
    """Index of the vertical edges by the pixels whose sides they are."""

    breaks: Ints
    """Flat indices at which neighbors in a row differ, in an array of `stride` columns; sorted."""
    stride: int
    tops: Ints
    """Corners that end left sides of pixels, by column and row."""
    top_keys: Ints
    """column · HEIGHT + row of the tops."""
    bottoms: Ints
    """Corners that end right sides of pixels, by column and row."""
    bottom_keys: Ints
    """column · HEIGHT + row of the bottoms."""

    HEIGHT: ClassVar[int] = 2**20
    """More than the rows of any block."""

    @classmethod
    def from_corners(
        cls, x: Ints, y: Ints, direction: Ints, by_column: Ints, across: Bools, stride: int
    ) -> VerticalEdges:
        """Build the index from (N,) corners; `by_column` sorts them by column and row."""
        keys = x * np.int64(cls.HEIGHT) + y
        tops, bottoms = (by_column[direction[by_column] == upward] for upward in (3, 1))
        return cls(np.flatnonzero(across), stride, tops, keys[tops], bottoms, keys[bottoms])

    def left_side(self, y: Ints, x: Ints) -> Ints:
        """Return the corner that ends the left side of each pixel's run of equal pixels."""
        position = (y + 1) * np.int64(self.stride) + x
        column = self.breaks[np.searchsorted(self.breaks, position, "right") - 1] % self.stride
        key = column * self.HEIGHT + y
        return self.tops[np.searchsorted(self.top_keys, key, "right") - 1]

    def right_side(self, y: Ints, x: Ints) -> Ints:
        """Return the corner that ends the right side of each pixel; the next one must differ."""
        key = (x + 1) * np.int64(self.HEIGHT) + y
        return self.bottoms[np.searchsorted(self.bottom_keys, key, "right")]


def _sign(direction: Ints) -> Ints:
    return (direction.astype(np.int64) % 2) * 2 - 1


def trace(class_ids: NDArray[np.integer], skip: Collection[int] = ()) -> Corners:
    """Trace the 4-connected regions of equal class, but for `skip` and IGNORE.

    Rings are simple: where pixels of one region meet at a corner only, its outline is split into
    rings that touch there, as valid polygons require.

    Args:
        class_ids: (H, W), at most 65 534 pixels a side.
    """
    padded = np.pad(class_ids, 1, constant_values=IGNORE)
    for value in skip:
        np.copyto(padded, IGNORE, where=padded == value)
    # Flat arrays are quicker; from the end of a row to the next one the class does not change.
    flat, stride = padded.ravel(), padded.shape[1]
    across = flat[1:] != flat[:-1]  # edges between columns
    along = flat[stride:] != flat[:-stride]  # edges between rows
    is_corner = across[:-stride] | across[stride:]
    is_corner &= along[:-1] | along[1:]
    points = np.flatnonzero(is_corner)
    y, x = np.divmod(points, stride)
    nw, ne, sw, se = (flat[points + step] for step in (0, 1, stride, stride + 1))

    # Edges that leave the point in each direction, and the pixel whose outline arrives that way.
    edges = np.stack([ne != se, sw != se, nw != sw, nw != ne])
    has_class = np.stack([sw, nw, ne, se]) != IGNORE
    rightward = np.roll(edges, -1, axis=0)
    arrives = np.roll(edges, -2, axis=0) & (rightward | ~edges) & has_class
    nodes = np.flatnonzero(arrives.T)
    arriving = (nodes % 4).astype(np.int8)
    # Turning right wherever possible stays with the same pixel: 4-connected.
    leaving = (arriving + np.where(rightward.T.ravel()[nodes], 1, 3)) % 4
    x, y = x[nodes // 4], y[nodes // 4]

    # Edges on one line never overlap, so the n-th departure leads to the n-th arrival.
    following = np.empty(len(nodes), np.intp)
    by_column = np.argsort(x.astype(np.uint16), kind="stable")
    for direction in (0, 2):
        following[leaving == direction] = np.flatnonzero(arriving == direction)
    for direction in (1, 3):
        starts = by_column[leaving[by_column] == direction]
        following[starts] = by_column[arriving[by_column] == direction]

    head, rank = _rank_rings(following, arriving)
    vertical = VerticalEdges.from_corners(x, y, arriving, by_column, across, stride)
    component = _components(x, y, arriving, head, vertical)
    pinched = _split_pinches(nodes, edges, component, following)
    if len(pinched):
        is_changed = np.zeros(len(head), bool)
        is_changed[head[pinched]] = True
        changed = np.flatnonzero(is_changed[head])
        number = np.empty_like(head)
        number[changed] = np.arange(len(changed))
        local, rank[changed] = _rank_rings(number[following[changed]], arriving[changed])
        head[changed] = changed[local]
    return Corners(x, y, arriving, head, rank, component, following, vertical, padded)


def _components(x: Ints, y: Ints, direction: Ints, head: Ints, edges: VerticalEdges) -> Ints:
    """Return (N,) the first corner of each component: holes join the shell around them."""
    area = np.bincount(head, _sign(direction) * x * y, len(head))
    owner = np.arange(len(head))
    holes = np.flatnonzero(area < 0)
    # The pixel left of a hole's first corner belongs to the same region. The ring at the left side
    # of that pixel's run extends further left than the hole, so the chain ends at a shell.
    owner[holes] = head[edges.left_side(y[holes], x[holes] - 1)]
    while not np.array_equal(owner, owner[owner]):
        owner = owner[owner]
    return owner[head]


def _split_pinches(nodes: Ints, edges: Ints, component: Ints, following: Ints) -> Ints:
    """Where a region meets itself at a point, lead `following` around the other pixels, in place.

    Returns the corners that changed.
    """
    points, changed = np.flatnonzero(edges.all(axis=0)), []
    last = len(nodes) - 1
    for one, other in ((0, 2), (1, 3)):
        first, second = points * 4 + one, points * 4 + other
        i, j = (np.minimum(np.searchsorted(nodes, node), last) for node in (first, second))
        same = (nodes[i] == first) & (nodes[j] == second) & (component[i] == component[j])
        i, j = i[same], j[same]
        following[i], following[j] = following[j], following[i]
        changed += [i, j]
    return np.concatenate(changed)


def _rank_rings(following: Ints, direction: Ints) -> tuple[Ints, Ints]:
    """Return the result of `rank_cycles` at half the cost.

    Every second corner of a ring ends a vertical edge; only these are ranked.
    """
    vertical = np.flatnonzero(direction % 2)
    horizontal = following[vertical]
    number = np.empty_like(following)
    number[vertical] = np.arange(len(vertical))
    first, steps = rank_cycles(number[following[horizontal]])
    # The ring's head is the first of the ranked corners, or the one that follows it.
    is_ahead = horizontal[first] < vertical[first]
    head, rank = np.empty_like(following), np.empty_like(following)
    head[vertical] = head[horizontal] = np.where(is_ahead, horizontal, vertical)[first]
    rank[horizontal] = 2 * steps + ~is_ahead
    rank[vertical] = 2 * steps - is_ahead
    is_last = is_ahead & (steps == 0)
    rank[vertical[is_last]] = 2 * np.bincount(first, minlength=len(first))[is_last] - 1
    return head, rank


def rank_cycles(following: Ints) -> tuple[Ints, Ints]:
    """Return the head (smallest member) of each element's cycle, and its steps from the head.

    List ranking by pointer jumping (Wyllie, 1979): after k rounds an element knows the smallest of
    the 2^k that follow it. Two such stretches with the same smallest element overlap, so together
    they are the whole cycle.
    """
    jump = following.copy()
    head = np.arange(len(jump))
    ahead = np.zeros_like(head)  # steps from the element to its head
    length = np.ones_like(head)  # steps of `jump`
    active = head.copy()
    while len(active):
        target = jump[active]
        found, known = head[target], head[active]
        smaller = found < known
        undecided = found != known
        distance = np.where(smaller, length[active] + ahead[target], ahead[active])
        new_jump, new_length = jump[target], length[active] + length[target]
        head[active], ahead[active] = np.where(smaller, found, known), distance
        jump[active], length[active] = new_jump, new_length
        active = active[undecided]
    size = np.bincount(head, minlength=len(head))[head]
    return head, (-ahead) % size
