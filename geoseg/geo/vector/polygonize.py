"""Polygons of one block of a class raster.

From blocks to layers:

    block = polygonize_block(class_ids, window)       # in any thread or worker
    block, interior = cleanup.clean_interior(block)   # geoseg.geo.vector.cleanup
    clean = RowMerger(cleanup).add(block)             # geoseg.geo.vector.rows
        merge(blocks)                                 #   geoseg.geo.vector.merge
        sieve(polygons, min_pixels)                   #   geoseg.geo.vector.sieve
        simplify(polygons, tolerance)                 #   geoseg.geo.vector.simplify
    spool.append(clean)                               # geoseg.geo.vector.spool
    for table in tables(spool, geobox, classes):      # geoseg.geo.layers.features
        writer.append(table)                          # geoseg.geo.layers.geopackage

Up to the tables all is integer arithmetic on pixel corners, so the result depends neither on how
the raster was cut into blocks nor on the order in which they arrive.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.contours import Corners, trace
from geoseg.geo.vector.edges import connected_components
from geoseg.geo.vector.polygons import PROBABILITY_UNIT, Polygons, concat_ranges
from geoseg.native.library import library
from geoseg.tiling.grid import Window

Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]

_BAND = 64
"""Rows whose probabilities are summed at a time."""


@dataclass(frozen=True, slots=True)
class BlockPolygons:
    """The polygons of one block, in pixels of the scene."""

    window: Window
    """The block."""
    closed: Polygons
    """Those that do not touch the border of the block, so they are complete."""
    open: Polygons
    """Those that touch the border, so they may continue in another block."""


def polygonize_block(
    class_ids: NDArray[np.integer],
    window: Window,
    *,
    skip: Collection[int] = (0,),
    confidence: NDArray[np.floating] | None = None,
    min_pixels: float = 0,
    fill: bool = True,
) -> BlockPolygons:
    """Return the 4-connected regions of equal class in one block.

    Args:
        class_ids: (H, W) classes of `window`, 0 or more, usually of dtype uint8; IGNORE never
            becomes a polygon.
        skip: classes that do not become polygons, either.
        confidence: (H, W) probability of the class, 0-1.
        min_pixels, fill: arguments of the `sieve` to come. What it would certainly remove is left
            out here, which does not change its result.
    """
    lone = np.zeros((2, 0), np.int64)
    if fill and min_pixels > 1:
        class_ids, lone = _without_lone_pixels(class_ids)
    corners = trace(class_ids, skip)
    lone = lone[:, corners.has_class(*lone)]
    rings = _Rings.from_corners(corners)
    x, y = corners.x, corners.y

    # Sums over the pixels of each polygon, without those that were filled.
    host = rings.polygon_at(*lone)
    pixels = _sum_by_index(rings.polygon, rings.area, len(rings.shells))
    pixels -= np.bincount(host, minlength=len(pixels))
    probability = None
    if confidence is not None:
        integral = corners.sign * _sums_above(confidence, y, x)
        probability = _sum_by_index(rings.polygon[rings.ring], integral, len(pixels))
        np.subtract.at(probability, host, _units(confidence[lone[0], lone[1]]))

    border = (x == 0) | (y == 0) | (x == class_ids.shape[1]) | (y == class_ids.shape[0])
    is_open = np.bincount(rings.polygon[rings.ring], border, len(pixels)) > 0
    kept = is_open | (pixels >= min_pixels)
    kept_rings = np.ones(len(rings.heads), bool)
    if fill:
        filled = rings.inside_filled_holes(min_pixels)
        kept |= ~(filled | rings.isolated_specks(~kept & ~filled))
        kept_rings = (rings.area > 0) | (rings.area <= -min_pixels)
    coordinates, ring_sizes, ring_counts = rings.to_arrays(kept_rings & kept[rings.polygon])
    polygons = Polygons(
        corners=coordinates + np.array([window.col_off, window.row_off], np.int32),
        ring_sizes=ring_sizes,
        ring_counts=ring_counts[kept],
        class_id=class_ids[y[rings.shells], x[rings.shells]][kept],
        pixels=pixels[kept],
        probability=None if probability is None else probability[kept],
    )
    is_open = is_open[kept]
    return BlockPolygons(window, closed=polygons.select(~is_open), open=polygons.select(is_open))


@dataclass(frozen=True, slots=True)
class _Rings:
    """The N corners of a block, by ring (R of them) and polygon (P)."""

    corners: Corners
    heads: Ints
    """(R,) first corner of each ring, ascending."""
    ring: Ints
    """(N,) ring of each corner."""
    shells: Ints
    """(P,) first corner of each polygon, ascending."""
    polygon: Ints
    """(R,) polygon of each ring."""
    area: Ints
    """(R,) pixels inside; negative for holes."""

    @classmethod
    def from_corners(cls, corners: Corners) -> _Rings:
        heads, ring = _number(corners.head, corners.head)
        shells, polygon = _number(corners.component, corners.component[heads])
        area = _sum_by_index(ring, corners.sign * corners.x * corners.y, len(heads))
        return cls(corners, heads, ring, shells, polygon, area)

    def polygon_at(self, y: Ints, x: Ints) -> Ints:
        """Return (n,) the polygons of pixels, all of which must have a class."""
        return _number(self.corners.component, self.corners.component_at(y, x))[1]

    def inside_filled_holes(self, min_pixels: float) -> Bools:
        """Return (P,) whether each polygon lies in a hole that a sieve fills in any case."""
        y, x = self.corners.y[self.shells], self.corners.x[self.shells] - 1
        inner = np.flatnonzero(self.corners.has_class(y, x))
        ring = self.ring[self.corners.edges.right_side(y[inner], x[inner])]
        # Left of the first pixel is the rim of the hole, or a neighbor in it whose first pixel
        # comes earlier; so the chain ends at the rim.
        owner, filled = np.arange(len(self.shells)), np.zeros(len(self.shells), bool)
        owner[inner] = np.where(self.area[ring] > 0, self.polygon[ring], inner)
        filled[inner] = (self.area[ring] < 0) & (self.area[ring] > -min_pixels)
        while not np.array_equal(owner, owner[owner]):
            owner = owner[owner]
        return filled[owner]

    def isolated_specks(self, specks: Bools) -> Bools:
        """Return (P,) the specks whose connected groups touch no other polygon."""
        p, y, x = self.neighboring_pixels(specks)
        has_class = self.corners.has_class(y, x)
        p, q = p[has_class], self.polygon_at(y[has_class], x[has_class])
        group = connected_components(len(specks), np.stack([p, q])[:, specks[q]])
        touches_others = np.zeros(len(specks), bool)
        touches_others[group[p[~specks[q]]]] = True
        return specks & ~touches_others[group]

    def neighboring_pixels(self, which: Bools) -> tuple[Ints, Ints, Ints]:
        """Return polygon, row and column of every pixel beside the outlines of (P,) polygons."""
        corners = self.corners
        start = np.flatnonzero(which[self.polygon[self.ring]])
        end = corners.following[start]
        (x0, y0), (x1, y1) = ((corners.x[corner], corners.y[corner]) for corner in (start, end))
        # The polygon is on the right: below an edge to the right, and right of an edge upwards.
        top, left = np.minimum(y0, y1) - (x1 > x0), np.minimum(x0, x1) - (y1 < y0)
        length = abs(x1 - x0) + abs(y1 - y0)
        edge = np.repeat(np.arange(len(start)), length)
        step = concat_ranges(np.zeros_like(length), length)
        vertical = (x0 == x1)[edge]
        polygon = self.polygon[self.ring[start]][edge]
        return polygon, top[edge] + step * vertical, left[edge] + step * ~vertical

    def to_arrays(
        self, kept: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Return corners, ring_sizes and (P,) ring_counts as in `Polygons`, of (R,) kept rings."""
        # The rings of a polygon are consecutive, its shell first.
        order = np.lexsort((self.area < 0, self.polygon))
        order = order[kept[order]]
        sizes = np.bincount(self.ring, minlength=len(self.heads))
        start = np.full(len(self.heads), -1)
        start[order] = np.cumsum(sizes[order]) - sizes[order]
        used = start[self.ring] >= 0
        index = start[self.ring[used]] + self.corners.rank[used]
        coordinates = np.empty((len(index), 2), np.int32)
        coordinates[index, 0] = self.corners.x[used]
        coordinates[index, 1] = self.corners.y[used]
        return (
            coordinates,
            sizes[order],
            np.bincount(self.polygon[order], minlength=len(self.shells)),
        )


def _without_lone_pixels(
    class_ids: NDArray[np.integer],
) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Give single pixels in the midst of another region its class.

    The pixels on their four sides have one class, and so have at least three of those at their
    corners, which connect the four. Returns the result, and (2, n) rows and columns of the pixels.
    """
    inner, left, above = class_ids[1:-1, 1:-1], class_ids[1:-1, :-2], class_ids[:-2, 1:-1]
    candidates = np.flatnonzero((inner != left) & (inner != above))
    y, x = np.divmod(candidates, max(inner.shape[1], 1))
    around = class_ids[y, x + 1]
    sides = [class_ids[y + down, x + right] == around for down, right in ((1, 0), (1, 2), (2, 1))]
    corners = [class_ids[y + down, x + right] == around for down in (0, 2) for right in (0, 2)]
    lone = np.all(sides, axis=0) & (np.sum(corners, axis=0) >= 3)
    if not lone.any():
        return class_ids, np.zeros((2, 0), np.int64)
    y, x = y[lone] + 1, x[lone] + 1
    filled = class_ids.copy()
    filled[y, x] = around[lone]
    return filled, np.stack([y, x])


def _number(first: Ints, members: Ints) -> tuple[Ints, Ints]:
    """Return the elements that are their own `first`, and the index among them of each member."""
    is_first = first == np.arange(len(first))
    return np.flatnonzero(is_first), (np.cumsum(is_first) - 1)[members]


def _sum_by_index(index: Ints, values: Ints, count: int) -> NDArray[np.int64]:
    """Return (count,) the sum of the values of each index; exact, unlike those of bincount."""
    sums = np.zeros(count, np.int64)
    np.add.at(sums, index, values)
    return sums


def _units(confidence: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return probabilities in units of 1 / PROBABILITY_UNIT."""
    return np.rint(confidence * np.float32(PROBABILITY_UNIT)).astype(np.int64)


def _sums_above(confidence: NDArray[np.floating], y: Ints, x: Ints) -> NDArray[np.int64]:
    """Return (N,) the sums of all pixels above and to the left of corners, as `_units`.

    The corners come row by row. A band of rows at a time stays in the CPU's cache.
    """
    height, width = confidence.shape
    result, above, first = np.zeros(len(y), np.int64), np.zeros(width + 1, np.int64), 0
    for top in range(0, height, _BAND):
        sums = _integrate(confidence[top : top + _BAND])
        last = int(np.searchsorted(y, top + _BAND, "right"))
        part = slice(first, last)
        result[part] = sums[y[part] - top, x[part]] + above[x[part]]
        above += sums[-1]
        first = last
    return result


def _integrate(confidence: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return (H + 1, W + 1) the sums of all pixels above and to the left, as `_units`."""
    height, width = confidence.shape
    if lib := library():
        sums = np.empty((height + 1, width + 1), np.int64)
        values = np.ascontiguousarray(confidence, np.float32)
        lib.geoseg_accumulate(
            *(ctypes.c_void_p(array.ctypes.data) for array in (sums, values)),
            ctypes.c_float(PROBABILITY_UNIT),
            *map(ctypes.c_long, (height, width)),
        )
        return sums
    sums = np.zeros((height + 1, width + 1), np.int64)
    sums[1:, 1:] = _units(confidence)
    np.cumsum(sums, axis=0, out=sums)
    return np.cumsum(sums, axis=1, out=sums)
