"""Clean up polygons that were traced in blocks: merge, sieve and simplify them.

Most polygons lie within one block, far from its border. They are cleaned by the thread that
has the block; the others when their neighbors are known, see `geoseg.geo.vector.rows`. The result
equals that of the uncut raster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.geo.vector.edges import connected_components
from geoseg.geo.vector.merge import merge
from geoseg.geo.vector.polygonize import BlockPolygons
from geoseg.geo.vector.polygons import Polygons, concat_ranges, following_corners, segment_sum
from geoseg.geo.vector.sieve import sieve
from geoseg.geo.vector.simplify import interaction_distance, simplify
from geoseg.tiling.grid import hull

TOLERANCE = 0.5
"""Default tolerance of outlines, px."""
_GROUP_SIZE = 100_000
"""Corners cleaned at a time: enough for array operations to pay, few enough for the CPU cache."""
_PIECE_SIZE = 64
"""Corners of an outline that share a bounding box."""


@dataclass(frozen=True, slots=True)
class CleanPolygons:
    """Polygons in their final form."""

    polygons: Polygons
    first_corners: NDArray[np.int32]
    """(P, 2) x and y of the upper left corner of the first pixel before simplification: the
    order of polygons."""

    def select(self, which: NDArray[np.bool_]) -> CleanPolygons:
        """Return the polygons of a (P,) mask."""
        return CleanPolygons(self.polygons.select(which), self.first_corners[which])

    @classmethod
    def concatenate(cls, parts: Iterable[CleanPolygons]) -> CleanPolygons:
        """Join polygons, and sort them by their first pixels."""
        parts = list(parts)
        corners = np.concatenate([np.zeros((0, 2), np.int32), *(p.first_corners for p in parts)])
        order = np.lexsort((corners[:, 0], corners[:, 1]))
        polygons = Polygons.concatenate(part.polygons for part in parts)
        return cls(polygons.take(order), corners[order])


@dataclass(frozen=True, slots=True)
class Cleanup:
    """Settings of the cleanup, which is a function of polygons."""

    min_pixels: float = 0
    """See `sieve`."""
    fill: bool = True
    """See `sieve`."""
    tolerance: float = 0
    """See `simplify`."""
    smooth: bool = True
    """See `simplify`."""

    @classmethod
    def from_ground_units(
        cls,
        gsd: float | None,
        *,
        simplify: float | None,
        min_area: float | None,
        default_min_pixels: float,
        fill: bool = True,
        smooth: bool = True,
    ) -> Cleanup:
        """Convert sizes on the ground to pixels.

        Args:
            gsd: meters per pixel; None = the sizes are pixels already.
            simplify: tolerance of the outlines, m; None = `TOLERANCE` pixels.
            min_area: area of the smallest polygon, m²; None = `default_min_pixels` pixels.
        """
        pixel = gsd or 1.0
        return cls(
            min_pixels=default_min_pixels if min_area is None else min_area / pixel**2,
            fill=fill,
            tolerance=TOLERANCE if simplify is None else simplify / pixel,
            smooth=smooth,
        )

    @property
    def is_identity(self) -> bool:
        """Polygons stay as they are."""
        return self.min_pixels <= 1 and self.tolerance <= 0

    def __call__(self, polygons: Polygons) -> CleanPolygons:
        """Clean polygons that come with all of their neighbors."""
        if self.is_identity:
            return CleanPolygons(polygons, polygons.first_corners)
        sieved = sieve(polygons, self.min_pixels, fill=self.fill)
        simple = simplify(sieved, self.tolerance, smooth=self.smooth)
        return CleanPolygons(simple, sieved.first_corners)

    def clean_interior(self, block: BlockPolygons) -> tuple[BlockPolygons, CleanPolygons]:
        """Clean the polygons near neither the block's border nor polygons that may cross it.

        Returns the other polygons, and the clean ones. What a sieve fills in other blocks does not
        matter here: it only removes polygons that hold nothing but specks, and such specks are
        removed here, too.
        """
        if self.is_identity:
            return replace(block, closed=Polygons.concatenate([])), self(block.closed)
        polygons = Polygons.concatenate([block.closed, block.open])
        is_open = np.arange(len(polygons)) >= len(block.closed)
        distance, window = interaction_distance(self.tolerance), block.window
        left, top, right, bottom = polygons.bounds.T
        deferred = is_open | (left - window.col_off <= distance)
        deferred |= top - window.row_off <= distance
        deferred |= window.col_end - right <= distance
        deferred |= window.row_end - bottom <= distance
        deferred = with_clusters(deferred, polygons, distance)
        remaining = replace(block, closed=polygons.select(deferred & ~is_open))
        return remaining, self(polygons.select(~deferred))

    def merge_above(
        self,
        blocks: Iterable[BlockPolygons],
        front: float = math.inf,
        apply: Callable[..., Iterable[CleanPolygons]] = map,
    ) -> tuple[BlockPolygons, list[CleanPolygons]]:
        """Merge all blocks above a row of pixels, and clean what no block below it can change.

        Returns the other polygons, as of one block, and the clean ones.

        Args:
            blocks: as `clean_interior` or this function returned them, or as they were traced.
            front: the row of pixels; infinite = there is nothing below.
            apply: `map`, or one with threads, see `geoseg.lookahead`.
        """
        blocks = list(blocks)
        polygons = merge(blocks)
        bottom = polygons.bounds[:, 3]
        is_open = bottom == front
        distance = 0.0 if self.is_identity else interaction_distance(self.tolerance)
        deferred = front - bottom <= distance
        if deferred.any() and not self.is_identity:
            deferred = with_clusters(deferred, polygons, distance)
        remaining = BlockPolygons(
            hull([block.window for block in blocks]),
            closed=polygons.select(deferred & ~is_open),
            open=polygons.select(deferred & is_open),
        )
        settled = polygons.select(~deferred)
        if self.is_identity:
            return remaining, [self(settled)]
        groups = independent_groups(settled, distance)
        return remaining, list(apply(lambda group: self(settled.take(group)), groups))


def with_clusters(
    chosen: NDArray[np.bool_], polygons: Polygons, distance: float
) -> NDArray[np.bool_]:
    """Return (P,) the chosen polygons, and all others of their clusters; see `clusters`."""
    cluster = clusters(polygons, distance)
    chosen_clusters = np.zeros(len(polygons), bool)
    chosen_clusters[cluster[chosen]] = True
    return chosen_clusters[cluster]


def independent_groups(polygons: Polygons, distance: float) -> list[NDArray[np.int64]]:
    """Group polygons so that outlines of different groups are more than `distance` px apart.

    Returns indices of polygons, ascending within each group.
    """
    cluster = clusters(polygons, distance)
    corners = segment_sum(polygons.ring_sizes, polygons.ring_counts)
    corners_before = np.cumsum(np.bincount(cluster, corners, len(polygons)))
    group = (corners_before // _GROUP_SIZE)[cluster]
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def clusters(polygons: Polygons, distance: float) -> NDArray[np.integer]:
    """Return (P,) the lowest index of each polygon's cluster.

    A chain of polygons with gaps of at most `distance` px is one cluster. Gaps are those between
    bounding boxes of pieces of outlines, so somewhat wider ones may count, too.
    """
    boxes, owner = _piece_boxes(polygons, distance / 2)
    near = shapely.STRtree(boxes).query(boxes)
    return connected_components(len(polygons), owner[near])


def _piece_boxes(
    polygons: Polygons, margin: float
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Return the boxes around pieces of outlines, and the polygon of each piece."""
    sizes = polygons.ring_sizes
    pieces = -(-sizes // _PIECE_SIZE)
    offsets = _PIECE_SIZE * concat_ranges(np.zeros_like(pieces), pieces)
    first = np.repeat(polygons.ring_starts, pieces) + offsets
    # A piece ends at the first corner of the next one.
    last = following_corners(sizes)[np.append(first, len(polygons.corners))[1:] - 1]
    low, high = (
        extreme(extreme.reduceat(polygons.corners, first), polygons.corners[last])
        for extreme in (np.minimum, np.maximum)
    )
    boxes = shapely.box(*(low - margin).T, *(high + margin).T)
    ring_owner = np.repeat(np.arange(len(polygons)), polygons.ring_counts)
    return boxes, np.repeat(ring_owner, pieces)
