"""Polygons of class rasters, from blocks to layers.

    block = polygonize_block(class_ids, window, confidence=probs)     # in workers, any thread
    cleanup = Cleanup(min_pixels, tolerance=0.5)                # geoseg.geo.vector.cleanup
    polygons = cleanup.merge_blocks(blocks)                     #   by:
        merge(blocks)                                           #   geoseg.geo.vector.merge
        sieve(polygons, min_pixels)                             #   geoseg.geo.vector.sieve
        simplify(polygons, tolerance)                           #   geoseg.geo.vector.simplify
    for table in tables(polygons, geobox, classes):             # geoseg.geo.layers.features
        layers.append(table)                                    # geoseg.geo.layers.geopackage

All but the last two is integer arithmetic on pixel corners, so the result does not depend on how
the raster was cut into blocks, nor on the order in which these arrive.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoseg.geo.vector.contours import Corners, trace
from geoseg.geo.vector.edges import connected
from geoseg.geo.vector.polygons import PROBABILITY_UNIT, Polygons, concat_ranges
from geoseg.native.library import library
from geoseg.tiling.grid import Window

Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BlockPolygons:
    """The polygons of one block, in pixels of the scene."""

    window: Window
    """The block."""
    closed: Polygons
    """Those that touch no border of the block: nothing can be added to them."""
    open: Polygons
    """Those that may go on in another block."""


def polygonize_block(
    class_ids: NDArray[np.uint8],
    window: Window,
    *,
    skip: Collection[int] = (0,),
    confidence: NDArray[np.floating] | None = None,
    min_pixels: float = 0,
    fill: bool = True,
) -> BlockPolygons:
    """The 4-connected regions of equal class in one block.

    Args:
        class_ids: (H, W) under `window`; IGNORE never becomes a polygon.
        skip: classes that do not become polygons either.
        confidence: (H, W) probability of the class, 0-1.
        min_pixels, fill: as they will be given to `geoseg.geo.vector.sieve.sieve`. What that
            would do away with for certain is left out at once; its result is the same.
    """
    lone = np.zeros((2, 0), np.int64)
    if fill and min_pixels > 1:
        class_ids, lone = _without_lone_pixels(class_ids)
    found = trace(class_ids, skip)
    lone = lone[:, found.has_class(*lone)]
    rings = _Rings.of(found)
    x, y = found.x, found.y

    # What is inside each polygon, but for pixels that were filled.
    host = rings.polygon_at(*lone)
    pixels = _sums(rings.polygon, rings.area, len(rings.shells))
    pixels -= np.bincount(host, minlength=len(pixels))
    probability = None
    if confidence is not None:
        accumulated = found.sign * _accumulate(confidence)[y, x]
        probability = _sums(rings.polygon[rings.ring], accumulated, len(pixels))
        np.subtract.at(probability, host, _units(confidence[lone[0], lone[1]]))

    border = (x == 0) | (y == 0) | (x == class_ids.shape[1]) | (y == class_ids.shape[0])
    is_open = np.bincount(rings.polygon[rings.ring], border, len(pixels)) > 0
    alive = is_open | (pixels >= min_pixels)
    kept = np.ones(len(rings.heads), bool)
    if fill:
        filled = rings.inside_filled(min_pixels)
        alive |= ~(filled | rings.isolated_specks(~alive & ~filled))
        kept = (rings.area > 0) | (rings.area <= -min_pixels)
    corners, ring_sizes, ring_counts = rings.to_arrays(kept & alive[rings.polygon])
    every = Polygons(
        corners=corners + np.array([window.col_off, window.row_off], np.int32),
        ring_sizes=ring_sizes,
        ring_counts=ring_counts[alive],
        class_id=class_ids[y[rings.shells], x[rings.shells]][alive],
        pixels=pixels[alive],
        probability=None if probability is None else probability[alive],
    )
    is_open = is_open[alive]
    return BlockPolygons(window, closed=every.select(~is_open), open=every.select(is_open))


@dataclass(frozen=True, slots=True)
class _Rings:
    """The corners of a block by ring (R of them) and polygon (P)."""

    found: Corners
    heads: Ints
    """(R,) first corner of each ring, ascending."""
    ring: Ints
    """(N,) ring of each corner."""
    shells: Ints
    """(P,) first corner of each polygon, ascending."""
    polygon: Ints
    """(R,) polygon of each ring."""
    area: Ints
    """(R,) pixels inside; those of holes negative."""

    @classmethod
    def of(cls, found: Corners) -> _Rings:
        heads, ring = _numbered(found.head, found.head)
        shells, polygon = _numbered(found.component, found.component[heads])
        area = _sums(ring, found.sign * found.x * found.y, len(heads))
        return cls(found, heads, ring, shells, polygon, area)

    def polygon_at(self, y: Ints, x: Ints) -> Ints:
        """(n,) polygons of pixels that have one."""
        return _numbered(self.found.component, self.found.component_at(y, x))[1]

    def inside_filled(self, min_pixels: float) -> Bools:
        """(P,) those in holes which a sieve fills, whatever else is there."""
        y, x = self.found.y[self.shells], self.found.x[self.shells] - 1
        inner = np.flatnonzero(self.found.has_class(y, x))
        ring = self.ring[self.found.edges.ending(y[inner], x[inner])]
        # Left of the first pixel is the rim of the hole, or a neighbour in it whose first pixel
        # came earlier; so following these comes to an end.
        owner, filled = np.arange(len(self.shells)), np.zeros(len(self.shells), bool)
        owner[inner] = np.where(self.area[ring] > 0, self.polygon[ring], inner)
        filled[inner] = (self.area[ring] < 0) & (self.area[ring] > -min_pixels)
        while not np.array_equal(owner, owner[owner]):
            owner = owner[owner]
        return filled[owner]

    def isolated_specks(self, asked: Bools) -> Bools:
        """(P,) those of (P,) polygons asked for that touch no others, even through each other."""
        p, y, x = self.neighbours(asked)
        touched = self.found.has_class(y, x)
        p, q = p[touched], self.polygon_at(y[touched], x[touched])
        group = connected(len(asked), np.stack([p, q])[:, asked[q]])
        saved = np.zeros(len(asked), bool)
        saved[group[p[~asked[q]]]] = True
        return asked & ~saved[group]

    def neighbours(self, asked: Bools) -> tuple[Ints, Ints, Ints]:
        """Polygon, row and column for every pixel that borders on one of the polygons asked for."""
        found = self.found
        start = np.flatnonzero(asked[self.polygon[self.ring]])
        end = found.following[start]
        (x0, y0), (x1, y1) = ((found.x[corner], found.y[corner]) for corner in (start, end))
        # The polygon is on the right: below an edge to the right, and right of an edge upwards.
        top, left = np.minimum(y0, y1) - (x1 > x0), np.minimum(x0, x1) - (y1 < y0)
        length = abs(x1 - x0) + abs(y1 - y0)
        edge, step = (
            np.repeat(np.arange(len(start)), length),
            concat_ranges(np.zeros_like(length), length),
        )
        upright = (x0 == x1)[edge]
        polygon = self.polygon[self.ring[start]][edge]
        return polygon, top[edge] + step * upright, left[edge] + step * ~upright

    def to_arrays(
        self, kept: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Corners, ring_sizes and (P,) ring_counts as in `Polygons`, of (R,) `kept` rings."""
        # Rings of one polygon go next to each other, its shell first.
        order = np.lexsort((self.area < 0, self.polygon))
        order = order[kept[order]]
        sizes = np.bincount(self.ring, minlength=len(self.heads))
        start = np.full(len(self.heads), -1)
        start[order] = np.cumsum(sizes[order]) - sizes[order]
        mine = start[self.ring] >= 0
        place = start[self.ring[mine]] + self.found.rank[mine]
        corners = np.empty((len(place), 2), np.int32)
        corners[place, 0], corners[place, 1] = self.found.x[mine], self.found.y[mine]
        return corners, sizes[order], np.bincount(self.polygon[order], minlength=len(self.shells))


def _without_lone_pixels(
    class_ids: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels in the midst of one other region take its class.

    Their four sides have one class, and so have three corners at least, which connect the sides.
    Returns the result and (2, n) the pixels' rows and columns.
    """
    inner, left, above = class_ids[1:-1, 1:-1], class_ids[1:-1, :-2], class_ids[:-2, 1:-1]
    places = np.flatnonzero((inner != left) & (inner != above))
    y, x = np.divmod(places, max(inner.shape[1], 1))
    around = class_ids[y, x + 1]
    sides = [class_ids[y + down, x + right] == around for down, right in ((1, 0), (1, 2), (2, 1))]
    corners = [class_ids[y + down, x + right] == around for down in (0, 2) for right in (0, 2)]
    alike = np.all(sides, axis=0) & (np.sum(corners, axis=0) >= 3)
    if not alike.any():
        return class_ids, np.zeros((2, 0), np.int64)
    y, x = y[alike] + 1, x[alike] + 1
    filled = class_ids.copy()
    filled[y, x] = around[alike]
    return filled, np.stack([y, x])


def _numbered(
    first: NDArray[np.integer], members: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Elements that are their own `first`, and for each member the place of its first in them."""
    own = first == np.arange(len(first))
    return np.flatnonzero(own), (np.cumsum(own) - 1)[members]


def _sums(index: Ints, values: Ints, count: int) -> NDArray[np.int64]:
    """(count,) sums of the values of each index; exact, as those of bincount are not."""
    sums = np.zeros(count, np.int64)
    np.add.at(sums, index, values)
    return sums


def _units(confidence: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.rint(confidence * np.float32(PROBABILITY_UNIT)).astype(np.int64)


def _accumulate(confidence: NDArray[np.floating]) -> NDArray[np.int64]:
    """(H + 1, W + 1) sums of all pixels above and to the left, in units of probability."""
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
