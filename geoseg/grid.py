"""How a scene is cut: tiles that the model sees, blocks that are computed together.

Pure arithmetic on pixel rectangles; nothing here reads a raster or knows a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """A pixel rectangle, in rasterio's terms and order."""

    col_off: int
    row_off: int
    width: int
    height: int

    @property
    def col_end(self) -> int:
        return self.col_off + self.width

    @property
    def row_end(self) -> int:
        return self.row_off + self.height

    def relative_to(self, other: Window) -> Window:
        """The same rectangle in the coordinates of `other`."""
        return Window(
            self.col_off - other.col_off, self.row_off - other.row_off, self.width, self.height
        )

    def scaled(self, factor: int) -> Window:
        """The same rectangle on a grid `factor` times coarser; sides must divide."""
        parts = (self.col_off, self.row_off, self.width, self.height)
        if any(part % factor for part in parts):
            raise ValueError(f"{self} does not lie on a grid of {factor} px")
        return Window(*(part // factor for part in parts))

    def intersection(self, other: Window) -> Window | None:
        """The common rectangle, or None where there is none."""
        left, top = max(self.col_off, other.col_off), max(self.row_off, other.row_off)
        right, bottom = min(self.col_end, other.col_end), min(self.row_end, other.row_end)
        if left >= right or top >= bottom:
            return None
        return Window(left, top, right - left, bottom - top)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index a (..., H, W) array."""
        return slice(self.row_off, self.row_end), slice(self.col_off, self.col_end)
