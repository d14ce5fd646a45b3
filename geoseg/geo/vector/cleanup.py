"""The polygons of blocks become those of the scene: united, sieved, simplified.

Most are whole and far from others in their block already, and are finished there, by whichever
thread has the block. The others wait for the neighbouring blocks. So memory holds one corner for
each that is written, and a few more; and results are those of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.geo.vector.edges import connected
from geoseg.geo.vector.merge import merge
from geoseg.geo.vector.polygonize import BlockPolygons
from geoseg.geo.vector.polygons import Polygons, concat_ranges, following_corners, segment_sum
from geoseg.geo.vector.sieve import sieve
from geoseg.geo.vector.simplify import reach, simplify

TOLERANCE = 0.5
"""Default tolerance of outlines, px."""
_GROUP = 100_000
"""Corners that are worth a turn: enough for arrays to pay, few enough for the processor's cache."""
_PIECE = 64
"""Corners of an outline that share a box."""


def independent(polygons: Polygons, distance: float) -> list[NDArray[np.int64]]:
    """Places of polygons in groups whose outlines are more than `distance` px apart.

    Each group keeps the order of the polygons.
    """
    cluster = clusters(polygons, distance)
    corners = segment_sum(polygons.ring_sizes, polygons.ring_counts)
    before = np.cumsum(np.bincount(cluster, corners, len(polygons)))
    group = (before // _GROUP)[cluster]
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def clusters(polygons: Polygons, distance: float) -> NDArray[np.integer]:
    """(P,) the first of the polygons that reach each other in steps of at most `distance` px, or
    little more."""
    boxes, owner = _boxes(polygons, distance / 2)
    near = shapely.STRtree(boxes).query(boxes)
    return connected(len(polygons), owner[near])


def _boxes(polygons: Polygons, margin: float) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Boxes around pieces of outlines, and the polygons of the pieces."""
    sizes = polygons.ring_sizes
    pieces = -(-sizes // _PIECE)
    first = np.repeat(polygons.ring_starts, pieces) + _PIECE * concat_ranges(0 * pieces, pieces)
    # A piece goes on to the first corner of the next one.
    last = following_corners(sizes)[np.append(first, len(polygons.corners))[1:] - 1]
    low, high = (
        extreme(extreme.reduceat(polygons.corners, first), polygons.corners[last])
        for extreme in (np.minimum, np.maximum)
    )
    boxes = shapely.box(*(low - margin).T, *(high + margin).T)
    ring_owner = np.repeat(np.arange(len(polygons)), polygons.ring_counts)
    return boxes, np.repeat(ring_owner, pieces)


@dataclass(frozen=True, slots=True)
class CleanPolygons:
    """Polygons that are as they will be written."""

    polygons: Polygons
    first: NDArray[np.int32]
    """(P, 2) x and y of the upper left corner of their first pixels, by which they are sorted."""


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What is done to polygons once they are whole."""

    min_pixels: float = 0
    """See `sieve`; so is `fill`."""
    fill: bool = True
    tolerance: float = 0
    """See `simplify`; so is `smooth`."""
    smooth: bool = True

    @property
    def is_nothing(self) -> bool:
        """Polygons stay as they are."""
        return self.min_pixels <= 1 and self.tolerance <= 0

    def __call__(self, polygons: Polygons) -> CleanPolygons:
        """Of polygons with all that are near them."""
        kept = sieve(polygons, self.min_pixels, fill=self.fill)
        return CleanPolygons(simplify(kept, self.tolerance, smooth=self.smooth), kept.first_corners)

    def clean_interior(self, block: BlockPolygons) -> tuple[BlockPolygons, CleanPolygons]:
        """Clean what is near neither the block's border nor polygons that go on beyond it.

        What a sieve fills in other blocks makes no difference: that only takes polygons away which
        hold nothing but specks, and such specks vanish here, too.
        """
        if self.is_nothing:
            done = CleanPolygons(block.closed, block.closed.first_corners)
            return replace(block, closed=Polygons.concatenate([])), done
        every = Polygons.concatenate([block.closed, block.open])
        is_open = np.arange(len(every)) >= len(block.closed)
        distance, window = reach(self.tolerance), block.window
        left, top, right, bottom = every.bounds.T
        waits = is_open | (left - window.col_off <= distance) | (top - window.row_off <= distance)
        waits |= (window.col_end - right <= distance) | (window.row_end - bottom <= distance)
        cluster = clusters(every, distance)
        held = np.zeros(len(every), bool)
        held[cluster[waits]] = True
        waits = held[cluster]
        return (
            BlockPolygons(window, closed=every.select(waits & ~is_open), open=block.open),
            self(every.select(~waits)),
        )

    def merge_blocks(
        self,
        blocks: Iterable[BlockPolygons],
        settled: Iterable[CleanPolygons] = (),
        apply: Callable[..., Iterable[CleanPolygons]] = map,
    ) -> Polygons:
        """Clean the polygons of all blocks, in the order of their first pixels.

        Args:
            blocks, settled: what `clean_interior` returns, or blocks as they are.
            apply: the `map` of a pool of threads.
        """
        polygons = merge(blocks)
        parts = [*settled]
        if self.is_nothing:
            parts.append(CleanPolygons(polygons, polygons.first_corners))
        else:
            groups = independent(polygons, reach(self.tolerance))
            parts += apply(lambda members: self(polygons.take(members)), groups)
        x, y = np.concatenate([part.first for part in parts]).T
        return Polygons.concatenate(part.polygons for part in parts).take(np.lexsort((x, y)))
