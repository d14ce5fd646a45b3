"""How a scene is cut: tiles that the model sees, blocks that are computed together.

Pure arithmetic on pixel rectangles; nothing here reads a raster or knows a model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

ALIGN = 32
"""Tile offsets and sizes are multiples of this: the model's deepest stride, px."""
CELL = 8
"""Pixels per cell of the logits' grid, the model's output stride."""
TILE_SIZE, OVERLAP = 1472, 128
"""Where nobody says otherwise, px; docs/decisions.md says why."""


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


@dataclass(frozen=True, slots=True)
class Tile:
    """What the model sees at once."""

    window: Window
    """On the scene's pixels; at the right and lower border it may end beyond the scene, by less
    than `ALIGN` pixels where the scene is larger than a tile."""
    core: Window
    """The part that the tile owns. The cores partition the scene."""


@dataclass(frozen=True, slots=True)
class Block:
    """Neighboring tiles that are read, predicted and decoded together: one dask chunk."""

    row: int
    col: int
    tiles: tuple[Tile, ...]

    @property
    def window(self) -> Window:
        """The tiles' common extent, halo included."""
        return hull([tile.window for tile in self.tiles])

    @property
    def core(self) -> Window:
        """What the block owns. The cores partition the scene."""
        return hull([tile.core for tile in self.tiles])


@dataclass(frozen=True, slots=True)
class Grid:
    """Overlapping tiles over a scene of `width` × `height` px, grouped into blocks.

    All tile offsets are multiples of `ALIGN`, so that every tile samples one common grid of
    logits. The last tile of a row or column ends with the scene, where it has real context.
    """

    width: int
    height: int
    tile_size: int
    overlap: int
    tiles_per_block: int = 2
    """Side of a block, in tiles."""

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1:
            raise ValueError(f"a scene of {self.width}×{self.height} px has no pixel")
        for name in ("tile_size", "overlap"):
            if (value := getattr(self, name)) % ALIGN:
                raise ValueError(f"{name} is {value} px; give a multiple of {ALIGN}")
        if not 0 <= self.overlap < self.tile_size:
            raise ValueError(
                f"overlap is {self.overlap} px; give less than the tile size ({self.tile_size})"
            )

    @property
    def extent(self) -> Window:
        """The whole scene."""
        return Window(0, 0, self.width, self.height)

    @property
    def columns(self) -> tuple[Span, ...]:
        return spans(self.width, self.tile_size, self.overlap)

    @property
    def rows(self) -> tuple[Span, ...]:
        return spans(self.height, self.tile_size, self.overlap)

    def blocks(self) -> Iterator[Block]:
        """Row by row, left to right."""
        side = self.tiles_per_block
        columns, rows = self.columns, self.rows
        for i, top in enumerate(range(0, len(rows), side)):
            for j, left in enumerate(range(0, len(columns), side)):
                tiles = tuple(
                    Tile(
                        Window(x.start, y.start, x.size, y.size),
                        Window(
                            x.core_start,
                            y.core_start,
                            x.core_end - x.core_start,
                            y.core_end - y.core_start,
                        ),
                    )
                    for y in rows[top : top + side]
                    for x in columns[left : left + side]
                )
                yield Block(i, j, tiles)

    @property
    def model_pixels(self) -> int:
        """Pixels that the model computes for the whole scene."""
        return sum(x.size for x in self.columns) * sum(y.size for y in self.rows)


@dataclass(frozen=True, slots=True)
class Span:
    """A tile along one axis, px."""

    start: int
    size: int
    core_start: int
    core_end: int


def spans(length: int, tile_size: int, overlap: int) -> tuple[Span, ...]:
    """Cover `length` px by as few tiles as can be, all of one size; neighboring cores meet in the
    middle of their overlap.

    `tile_size` is the most: where tiles of it would reach far beyond the end, smaller ones do, so
    that next to nothing is computed twice but the overlap.
    """
    whole = round_up(length, ALIGN)
    count = max(1, -(-(whole - overlap) // (tile_size - overlap)))
    size = round_up(-(-(whole + (count - 1) * overlap) // count), ALIGN)
    starts = [*(i * (size - overlap) for i in range(count - 1)), whole - size]
    # A core ends on the grid of logits, so that every cell belongs to one tile.
    bounds = [
        (left + size + right) // 2 // CELL * CELL for left, right in itertools.pairwise(starts)
    ]
    return tuple(
        Span(start, size, core_start, core_end)
        for start, core_start, core_end in zip(starts, [0, *bounds], [*bounds, length], strict=True)
    )


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def hull(windows: list[Window]) -> Window:
    """The smallest window that holds all of `windows`."""
    left, top = min(w.col_off for w in windows), min(w.row_off for w in windows)
    right, bottom = max(w.col_end for w in windows), max(w.row_end for w in windows)
    return Window(left, top, right - left, bottom - top)
