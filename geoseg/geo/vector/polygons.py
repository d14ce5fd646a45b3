"""Polygons as ragged arrays of integer corners: compact, quick to pickle, and exact.

The layout is that of GeoArrow: coordinates, and the sizes of rings and polygons. Shells run so
that their shoelace sum in (x = column, y = row) is positive. A ring begins at its first corner in
row-major order, a polygon with its shell. So equal polygons are equal arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

PROBABILITY_UNIT = 2**16
"""Probabilities are summed as integers, so that the order of summands does not matter."""


@dataclass(frozen=True, slots=True)
class Polygons:
    """Polygons of a raster, in pixels of the scene."""

    corners: NDArray[np.int32]
    """(N, 2) x and y of all rings, one ring after the other, not closed."""
    ring_sizes: NDArray[np.int64]
    """(R,) corners of each ring."""
    ring_counts: NDArray[np.int64]
    """(P,) rings of each polygon, the shell first."""
    class_id: NDArray[np.integer]
    """(P,)"""
    pixels: NDArray[np.int64]
    """(P,) pixels of the class, without specks that were filled."""
    probability: NDArray[np.int64] | None
    """(P,) sum of the class's probability over these pixels, in units of 1 / PROBABILITY_UNIT."""
    steps: int = 1
    """Grid steps per pixel in which corners are counted: 2 once outlines are smooth."""

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
    def first_corners(self) -> NDArray[np.int32]:
        """(P, 2) x and y of the upper left corner of each polygon's first pixel."""
        return self.corners[self.ring_starts[self.shells]]

    @property
    def ring_areas(self) -> NDArray[np.int64]:
        """(R,) pixels inside each ring, those of holes negative."""
        x, y = self.corners.astype(np.int64).T
        following = following_corners(self.ring_sizes)
        return segment_sum(x * (y[following] - y), self.ring_sizes)

    @property
    def geometry(self) -> NDArray[np.object_]:
        """(P,) shapely polygons in pixel coordinates."""
        ends = np.cumsum(self.ring_sizes)
        closed = np.insert(self.corners, ends, self.corners[self.ring_starts], axis=0)
        rings = np.concatenate([[0], np.cumsum(self.ring_sizes + 1)])
        polygons = np.concatenate([[0], np.cumsum(self.ring_counts)])
        return shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, closed / self.steps, (rings, polygons)
        )

    @property
    def bounds(self) -> NDArray[np.int32]:
        """(P, 4) left, top, right and bottom, in grid steps."""
        low, high = (
            extreme.reduceat(self.corners, self.ring_starts)[self.shells]
            for extreme in (np.minimum, np.maximum)
        )
        return np.concatenate([low, high], axis=1)

    def select(self, which: NDArray[np.bool_], rings: NDArray[np.bool_] | None = None) -> Polygons:
        """Return the polygons of a (P,) mask, with their rings of an (R,) mask."""
        kept = np.repeat(which, self.ring_counts)
        if rings is not None:
            kept &= rings
        return replace(
            self,
            corners=self.corners[np.repeat(kept, self.ring_sizes)],
            ring_sizes=self.ring_sizes[kept],
            ring_counts=segment_sum(kept.astype(np.int64), self.ring_counts)[which],
            class_id=self.class_id[which],
            pixels=self.pixels[which],
            probability=None if self.probability is None else self.probability[which],
        )

    def take(self, order: NDArray[np.integer]) -> Polygons:
        """Return the polygons of these indices, in their order."""
        rings = concat_ranges(self.shells[order], self.ring_counts[order])
        return replace(
            self,
            corners=self.corners[concat_ranges(self.ring_starts[rings], self.ring_sizes[rings])],
            ring_sizes=self.ring_sizes[rings],
            ring_counts=self.ring_counts[order],
            class_id=self.class_id[order],
            pixels=self.pixels[order],
            probability=None if self.probability is None else self.probability[order],
        )

    def confident(self, limits: Mapping[int, float]) -> NDArray[np.bool_]:
        """Return (P,) whether the mean probability is at least the limit of the class id."""
        if not any(limits.values()) or self.confidence is None:
            return np.ones(len(self), bool)
        table = np.zeros(max(limits) + 1)
        table[list(limits)] = list(limits.values())
        return self.confidence >= table[self.class_id]

    def sort(self) -> Polygons:
        """Return the polygons in the order of their first pixels."""
        x, y = self.first_corners.T
        return self.take(np.lexsort((x, y)))

    def sum_by_group(self, group: NDArray[np.integer]) -> Polygons:
        """Replace pixels and probability by the sums of (P,) groups, at the index of each group."""

        def group_sum(values: NDArray[np.int64]) -> NDArray[np.int64]:
            sums = np.zeros_like(values)
            np.add.at(sums, group, values)
            return sums

        probability = None if self.probability is None else group_sum(self.probability)
        return replace(self, pixels=group_sum(self.pixels), probability=probability)

    @classmethod
    def concatenate(cls, parts: Iterable[Polygons]) -> Polygons:
        """Join polygons. Raises ValueError unless all have the same grid, and all or none a
        probability."""
        parts = [part for part in parts if len(part)] or [_NONE]
        probabilities = [part.probability for part in parts if part.probability is not None]
        if probabilities and len(probabilities) < len(parts):
            raise ValueError("some of the polygons have a probability, others have none")
        if len({part.steps for part in parts}) > 1:
            raise ValueError("the polygons lie on different grids")
        return cls(
            corners=np.concatenate([part.corners for part in parts]),
            ring_sizes=np.concatenate([part.ring_sizes for part in parts]),
            ring_counts=np.concatenate([part.ring_counts for part in parts]),
            class_id=np.concatenate([part.class_id for part in parts]),
            pixels=np.concatenate([part.pixels for part in parts]),
            probability=np.concatenate(probabilities) if probabilities else None,
            steps=parts[0].steps,
        )


_NONE = Polygons(
    corners=np.zeros((0, 2), np.int32),
    ring_sizes=np.zeros(0, np.int64),
    ring_counts=np.zeros(0, np.int64),
    class_id=np.zeros(0, np.uint8),
    pixels=np.zeros(0, np.int64),
    probability=None,
)


def following_corners(ring_sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N,) the index of the next corner around the ring."""
    ends = np.cumsum(ring_sizes)
    following = np.arange(1, (ends[-1] if len(ends) else 0) + 1)
    following[ends - 1] = ends - ring_sizes
    return following


def segment_sum(values: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of each of consecutive segments, none of which is empty."""
    return np.add.reduceat(values, np.cumsum(sizes) - sizes) if len(sizes) else values[:0]


def concat_ranges(starts: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return start, start + 1, …, start + size - 1 of every pair, joined."""
    ends = np.cumsum(sizes)
    first = np.repeat(starts - (ends - sizes), sizes)
    return np.arange(ends[-1] if len(ends) else 0, dtype=np.int64) + first
