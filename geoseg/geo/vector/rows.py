"""Merge blocks that arrive row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from geoseg.geo.vector.cleanup import CleanPolygons, Cleanup
from geoseg.geo.vector.polygonize import BlockPolygons

_ENOUGH = 100_000
"""Corners for which a merge pays."""


class RowMerger:
    """Merges blocks and cleans their polygons, which it returns as soon as they are final.

    It holds the polygons of the last rows, and those that touch or nearly touch them, directly or
    through others. A merge waits until it has twice as many corners as the last one left over. So
    each corner is merged a few times at most, however many rows a polygon spans.

    Args:
        apply: `map`, or one with threads, see `geoseg.lookahead`.
    """

    def __init__(
        self, cleanup: Cleanup, apply: Callable[..., Iterable[CleanPolygons]] = map
    ) -> None:
        self._cleanup, self._apply = cleanup, apply
        self._blocks: list[BlockPolygons] = []
        self._row = 0
        """First row of pixels of the latest blocks."""
        self._left = 0
        """Corners that the last merge left over."""

    @property
    def corners(self) -> int:
        """Number of corners that are held."""
        return sum(_corners(block) for block in self._blocks)

    def add(self, block: BlockPolygons) -> list[CleanPolygons]:
        """Add a block; return polygons that are final, in no order.

        Blocks come from top to bottom, and those side by side begin in the same row of pixels.
        """
        front, clean = block.window.row_off, list[CleanPolygons]()
        if front > self._row:
            if self.corners > max(_ENOUGH, 2 * self._left):
                remaining, clean = self._cleanup.merge_above(self._blocks, front, self._apply)
                self._blocks, self._left = [remaining], _corners(remaining)
            self._row = front
        self._blocks.append(block)
        return clean

    def finish(
        self, apply: Callable[..., Iterable[CleanPolygons]] | None = None
    ) -> list[CleanPolygons]:
        """Return all other polygons, after the last block.

        Args:
            apply: instead of that of the merger.
        """
        blocks, self._blocks = self._blocks, []
        if not blocks:
            return []
        return self._cleanup.merge_above(blocks, apply=apply or self._apply)[1]


def _corners(block: BlockPolygons) -> int:
    return len(block.closed.corners) + len(block.open.corners)
