"""Polygons of class rasters, exact in integer pixel coordinates.

    block = polygonize(class_ids, window, confidence=probs)    # in workers, any thread
    polygons = merge(blocks)                                   # geoseg.geo.seams
    polygons = polygons.without_specks(min_pixels)
    geometry = simplify(polygons, tolerance)                   # geoseg.geo.simplify
    frame = features(polygons, geometry, geobox, classes)      # geoseg.geo.features
    write_layers(path, frame, classes)                         # geoseg.geo.layers

Shells run so that their shoelace sum in (x = column, y = row) is positive; a ring starts at its
first corner in row-major order, a polygon with its shell, and polygons are in the row-major order
of their first pixels. So equal rasters give equal arrays, however they were cut into blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

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
    """(P,) pixels of the class; holes that were filled do not count."""
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
        """Without polygons of fewer pixels, and with holes of fewer pixels filled.

        A speck inside another polygon so takes the class around it.
        """
        return self.select(self.pixels >= min_pixels, abs(self.ring_areas) >= min_pixels)

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
) -> BlockPolygons:
    """The 4-connected regions of equal class in one block.

    Args:
        class_ids: (H, W) under `window`; IGNORE never becomes a polygon.
        skip: classes that do not become polygons either.
        confidence: (H, W) probability of the class, 0-1.
        min_pixels: see `Polygons.without_specks`, which it equals for what touches no border.
    """
    found = trace(class_ids, skip)
    x, y, sign, rank = found.x, found.y, found.sign, found.rank

    # Rings by number of their first corner, which is also their order; sums over their insides.
    heads, ring = _numbered(found.head, found.head)
    area = np.bincount(ring, sign * x * y).astype(np.int64)
    owner = _numbered(found.component, found.component[heads])[1]
    pixels = np.bincount(owner, area).astype(np.int64)
    probability = None
    if confidence is not None:
        probability = np.bincount(
            owner[ring], sign * _accumulate(confidence)[y, x], len(pixels)
        ).astype(np.int64)

    shell = np.flatnonzero(area > 0)
    border = (x == 0) | (y == 0) | (x == class_ids.shape[1]) | (y == class_ids.shape[0])
    is_open = np.bincount(owner[ring], border, len(pixels)) > 0
    kept = (abs(area) >= min_pixels) & (is_open | (pixels >= min_pixels))[owner]
    kept[shell] |= is_open[owner[shell]]

    # Rings of one polygon next to each other; a shell's first corner comes before its holes'.
    order = np.lexsort((np.arange(len(heads)), owner))
    order = order[kept[order]]
    sizes = np.bincount(ring, minlength=len(heads))
    start = np.full(len(heads), -1)
    start[order] = np.cumsum(sizes[order]) - sizes[order]
    mine = start[ring] >= 0
    place = start[ring[mine]] + rank[mine]
    corners = np.empty((len(place), 2), np.int32)
    corners[place, 0] = x[mine] + window.col_off
    corners[place, 1] = y[mine] + window.row_off

    counts = np.bincount(owner[order], minlength=len(pixels))
    alive = counts > 0
    first = shell[np.argsort(owner[shell])]
    inside = np.minimum(y[heads[first]], class_ids.shape[0] - 1), x[heads[first]]
    every = Polygons(
        corners=corners,
        ring_sizes=sizes[order],
        ring_counts=counts[alive],
        class_id=class_ids[inside][alive],
        pixels=pixels[alive],
        probability=None if probability is None else probability[alive],
    )
    is_open = is_open[alive]
    return BlockPolygons(window, closed=every.select(~is_open), open=every.select(is_open))


def _numbered(
    first: NDArray[np.integer], members: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Elements that are their own `first`, and for each member the place of its first in them."""
    own = first == np.arange(len(first))
    return np.flatnonzero(own), (np.cumsum(own) - 1)[members]


def _accumulate(confidence: NDArray[np.floating]) -> NDArray[np.int64]:
    """(H + 1, W + 1) sums of all pixels above and to the left, in units of probability."""
    height, width = confidence.shape
    sums = np.zeros((height + 1, width + 1), np.int64)
    np.rint(confidence * np.float32(PROBABILITY_UNIT), out=sums[1:, 1:], casting="unsafe")
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
