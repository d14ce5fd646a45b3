"""Polygons of class rasters, exact in integer pixel coordinates.

    block = polygonize(class_ids, window, confidence=probs)    # in workers, any thread
    polygons = merge(blocks)                                   # geoseg.geo.seams
    polygons = sieve(polygons, min_pixels)                     # geoseg.geo.sieve
    geometry = simplify(polygons, tolerance)                   # geoseg.geo.simplify
    frame = features(polygons, geometry, geobox, classes)      # geoseg.geo.features
    write_layers(path, frame, classes)                         # geoseg.geo.layers

Shells run so that their shoelace sum in (x = column, y = row) is positive; a ring starts at its
first corner in row-major order, a polygon with its shell, and polygons are in the row-major order
of their first pixels. So equal rasters give equal arrays, however they were cut into blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from geoseg.classes import IGNORE
from geoseg.geo.rings import trace
from geoseg.grid import Window

PROBABILITY_UNIT = 2**16
"""Probabilities are added as integers, so that no order of adding changes the sum."""


@dataclass(frozen=True, slots=True)
class Polygons:
    """Polygons as flat arrays: compact, quick to pickle, and exact."""

    corners: NDArray[np.int32]
    """(N, 2) x and y of all rings, one ring after the other, not closed."""
    ring_sizes: NDArray[np.int64]
    """(R,) corners of each ring."""
    ring_counts: NDArray[np.int64]
    """(P,) rings of each polygon, the shell first."""
    class_id: NDArray[np.integer]
    """(P,)"""
    pixels: NDArray[np.int64]
    """(P,) pixels of the class; specks that were filled do not count."""
    probability: NDArray[np.int64] | None
    """(P,) sum of the probability over those pixels, in units of 1 / PROBABILITY_UNIT."""

    def __len__(self) -> int:
        return len(self.class_id)

    @property
    def confidence(self) -> NDArray[np.float64] | None:
        """(P,) mean probability."""
        if self.probability is None:
            return None
        return self.probability / (self.pixels * PROBABILITY_UNIT)

    @property
    def ring_starts(self) -> NDArray[np.int64]:
        """(R,) first corner of each ring."""
        return np.cumsum(self.ring_sizes) - self.ring_sizes

    @property
    def shells(self) -> NDArray[np.int64]:
        """(P,) the ring that is each polygon's shell."""
        return np.cumsum(self.ring_counts) - self.ring_counts

    @property
    def ring_areas(self) -> NDArray[np.int64]:
        """(R,) pixels inside each ring, those of holes negative."""
        x, y = self.corners.astype(np.int64).T
        onward = following_corners(self.ring_sizes)
        return sum_runs(x * (y[onward] - y), self.ring_sizes)

    @property
    def geometry(self) -> NDArray[np.object_]:
        """(P,) shapely polygons in pixel coordinates."""
        ends = np.cumsum(self.ring_sizes)
        closed = np.insert(self.corners, ends, self.corners[self.ring_starts], axis=0)
        rings = np.concatenate([[0], np.cumsum(self.ring_sizes + 1)])
        polygons = np.concatenate([[0], np.cumsum(self.ring_counts)])
        return shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, closed.astype(np.float64), (rings, polygons)
        )

    @property
    def boxes(self) -> NDArray[np.object_]:
        """(P,) shapely boxes around them."""
        (left, top), (right, bottom) = (
            reach.reduceat(self.corners, self.ring_starts)[self.shells].T
            for reach in (np.minimum, np.maximum)
        )
        return shapely.box(left, top, right, bottom)

    def select(self, which: NDArray[np.bool_], rings: NDArray[np.bool_] | None = None) -> Polygons:
        """The polygons of a (P,) mask, of their rings only those of an (R,) mask."""
        kept = np.repeat(which, self.ring_counts)
        if rings is not None:
            kept &= rings
        return Polygons(
            corners=self.corners[np.repeat(kept, self.ring_sizes)],
            ring_sizes=self.ring_sizes[kept],
            ring_counts=sum_runs(kept.astype(np.int64), self.ring_counts)[which],
            class_id=self.class_id[which],
            pixels=self.pixels[which],
            probability=None if self.probability is None else self.probability[which],
        )

    def take(self, order: NDArray[np.integer]) -> Polygons:
        """The polygons at the places of `order`, in that order."""
        rings = spread(self.shells[order], self.ring_counts[order])
        return Polygons(
            corners=self.corners[spread(self.ring_starts[rings], self.ring_sizes[rings])],
            ring_sizes=self.ring_sizes[rings],
            ring_counts=self.ring_counts[order],
            class_id=self.class_id[order],
            pixels=self.pixels[order],
            probability=None if self.probability is None else self.probability[order],
        )

    def without_specks(self, min_pixels: float) -> Polygons:
        """Without polygons of fewer pixels, and with holes of fewer pixels filled."""
        return self.select(self.pixels >= min_pixels, abs(self.ring_areas) >= min_pixels)

    def in_order(self) -> Polygons:
        """Sorted by their first pixels."""
        first = self.corners[self.ring_starts[self.shells]]
        return self.take(np.lexsort((first[:, 0], first[:, 1])))

    def added_up(self, group: NDArray[np.integer]) -> Polygons:
        """With the sums over all polygons of a group at the place that is its number."""

        def added(values: NDArray[np.int64]) -> NDArray[np.int64]:
            sums = np.zeros_like(values)
            np.add.at(sums, group, values)
            return sums

        probability = None if self.probability is None else added(self.probability)
        return replace(self, pixels=added(self.pixels), probability=probability)

    @classmethod
    def concatenate(cls, parts: Iterable[Polygons]) -> Polygons:
        """One after the other."""
        parts = [part for part in parts if len(part)] or [_NONE]
        sums = [part.probability for part in parts if part.probability is not None]
        if sums and len(sums) < len(parts):
            raise ValueError("some of the polygons have a confidence, others have none")
        return cls(
            corners=np.concatenate([part.corners for part in parts]),
            ring_sizes=np.concatenate([part.ring_sizes for part in parts]),
            ring_counts=np.concatenate([part.ring_counts for part in parts]),
            class_id=np.concatenate([part.class_id for part in parts]),
            pixels=np.concatenate([part.pixels for part in parts]),
            probability=np.concatenate(sums) if sums else None,
        )


_NONE = Polygons(
    corners=np.zeros((0, 2), np.int32),
    ring_sizes=np.zeros(0, np.int64),
    ring_counts=np.zeros(0, np.int64),
    class_id=np.zeros(0, np.uint8),
    pixels=np.zeros(0, np.int64),
    probability=None,
)


@dataclass(frozen=True, slots=True)
class BlockPolygons:
    """The polygons of one block, in pixels of the scene."""

    window: Window
    """The block."""
    closed: Polygons
    """Those that touch no border of the block: nothing can be added to them."""
    open: Polygons
    """Those that may go on in another block."""


def polygonize(
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
        min_pixels, fill: as they will be given to `geoseg.geo.sieve.sieve`. What that would do
            away with for certain is left out at once; its result is the same.
    """
    lone = np.zeros((2, 0), np.int64)
    if fill and min_pixels > 1:
        class_ids, lone = _without_lone_pixels(class_ids)
    found = trace(class_ids, skip)
    x, y, sign = found.x, found.y, found.sign

    # Rings and components by their first corners, which is also their order.
    heads, ring = _numbered(found.head, found.head)
    shells, owner = _numbered(found.component, found.component[heads])
    # Sums over what is inside; pixels that were filled do not count.
    lone = lone[:, ~np.isin(class_ids[lone[0], lone[1]], [*skip, IGNORE])]
    filled = _numbered(found.component, found.component_at(*lone))[1]
    area = np.bincount(ring, sign * x * y, len(heads)).astype(np.int64)
    pixels = np.bincount(owner, area, len(shells)).astype(np.int64)
    pixels -= np.bincount(filled, minlength=len(shells))
    probability = None
    if confidence is not None:
        units = _accumulate(confidence)
        inside = np.bincount(owner[ring], sign * units[y, x], len(shells))
        taken = np.bincount(filled, _units(confidence[lone[0], lone[1]]), len(shells))
        probability = (inside - taken).astype(np.int64)

    border = (x == 0) | (y == 0) | (x == class_ids.shape[1]) | (y == class_ids.shape[0])
    is_open = np.bincount(owner[ring], border, len(shells)) > 0
    speck = ~is_open & (pixels < min_pixels)
    shell, small = area > 0, abs(area) < min_pixels
    if fill:
        # Specks that are all there is in a hole which will be filled: both begin at one place.
        place = y[heads] * np.int64(found.edges.stride) + x[heads]
        alike = (place[1:] == place[:-1]) & (area[1:] == -area[:-1])
        within = (np.append(alike, False) | np.append(False, alike)) & small & shell
        speck[owner[~within & shell]] = False
    kept = ~speck[owner] & (shell | ~(small & fill))

    # Rings of one polygon go next to each other, its shell first.
    order = np.lexsort((~shell, owner))
    order = order[kept[order]]
    sizes = np.bincount(ring, minlength=len(heads))
    start = np.full(len(heads), -1)
    start[order] = np.cumsum(sizes[order]) - sizes[order]
    mine = start[ring] >= 0
    place = start[ring[mine]] + found.rank[mine]
    corners = np.empty((len(place), 2), np.int32)
    corners[place, 0] = x[mine] + window.col_off
    corners[place, 1] = y[mine] + window.row_off

    every = Polygons(
        corners=corners,
        ring_sizes=sizes[order],
        ring_counts=np.bincount(owner[order], minlength=len(shells))[~speck],
        class_id=class_ids[y[shells], x[shells]][~speck],
        pixels=pixels[~speck],
        probability=None if probability is None else probability[~speck],
    )
    is_open = is_open[~speck]
    return BlockPolygons(window, closed=every.select(~is_open), open=every.select(is_open))


def _without_lone_pixels(
    class_ids: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels whose eight neighbours are all of one other class take that class.

    Returns the result and (2, n) their rows and columns.
    """
    inner, left, above = class_ids[1:-1, 1:-1], class_ids[1:-1, :-2], class_ids[:-2, 1:-1]
    y, x = np.nonzero((inner != left) & (inner != above))
    around = class_ids[y, x]
    alike = np.ones(len(y), bool)
    for down in range(3):
        for right in range(3):
            if (down, right) != (1, 1):
                alike &= class_ids[y + down, x + right] == around
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


def _units(confidence: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.rint(confidence * np.float32(PROBABILITY_UNIT))


def _accumulate(confidence: NDArray[np.floating]) -> NDArray[np.int64]:
    """(H + 1, W + 1) sums of all pixels above and to the left, in units of probability."""
    height, width = confidence.shape
    sums = np.zeros((height + 1, width + 1), np.int64)
    sums[1:, 1:] = _units(confidence)
    np.cumsum(sums, axis=0, out=sums)
    return np.cumsum(sums, axis=1, out=sums)


def following_corners(ring_sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) index of the corner after each one, around its ring."""
    ends = np.cumsum(ring_sizes)
    onward = np.arange(1, (ends[-1] if len(ends) else 0) + 1)
    onward[ends - 1] = ends - ring_sizes
    return onward


def sum_runs(values: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of each of consecutive runs, none of which is empty."""
    return np.add.reduceat(values, np.cumsum(sizes) - sizes) if len(sizes) else values[:0]


def spread(starts: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.integer]:
    """start, start + 1, … for `size` numbers, of every pair."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - sizes), sizes)
