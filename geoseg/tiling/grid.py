"""Cut a scene into tiles, which the model sees, and blocks, which are computed together.

Arithmetic on pixel rectangles, without rasters or models.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

ALIGN = 32
"""Tile offsets and sizes are multiples of the model's deepest stride, px."""
CELL = 8
"""Pixels per cell of the logits' grid, the model's output stride."""
TILE_SIZE, OVERLAP = 1472, 128
"""Defaults, px; docs/decisions.md gives the reasons."""
FEW = 32
"""From so many tiles on, it does not matter that a core has none at the end."""


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
        """Return the same rectangle in the coordinates of `other`."""
        return Window(
            self.col_off - other.col_off, self.row_off - other.row_off, self.width, self.height
        )

    def scaled(self, factor: int) -> Window:
        """Return the same rectangle on a grid `factor` times coarser, whose cells it must fill."""
        parts = (self.col_off, self.row_off, self.width, self.height)
        if any(part % factor for part in parts):
            raise ValueError(f"{self} does not lie on a grid of {factor} px")
        return Window(*(part // factor for part in parts))

    def intersection(self, other: Window) -> Window | None:
        """Return the common rectangle, or None if there is none."""
        left, top = max(self.col_off, other.col_off), max(self.row_off, other.row_off)
        right, bottom = min(self.col_end, other.col_end), min(self.row_end, other.row_end)
        if left >= right or top >= bottom:
            return None
        return Window(left, top, right - left, bottom - top)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an array (..., H, W)."""
        return slice(self.row_off, self.row_end), slice(self.col_off, self.col_end)


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle that the model sees at once."""

    window: Window
    """Extent, px. At the right and lower border it may exceed the scene, by less than `ALIGN` where
    the scene is larger than a tile."""
    core: Window
    """The tile's own part; the cores partition the scene."""


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
        """The block's own part; the cores partition the scene."""
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
    def counts(self) -> tuple[int, int]:
        """Tiles in a row and in a column.

        Fewer than `FEW` are an even number, with one more along the longer side, so that two cores
        end at about the same time. More pixels are computed twice, but only by the overlap.
        """
        lengths = self.width, self.height
        across, down = (least_tiles(each, self.tile_size, self.overlap) for each in lengths)
        if across * down == 1 or across * down % 2 == 0 or across * down >= FEW:
            return across, down
        if across > down:
            return one_more(self.width, across, self.overlap), down
        return across, one_more(self.height, down, self.overlap)

    @property
    def columns(self) -> tuple[Span, ...]:
        return spans(self.width, self.counts[0], self.overlap)

    @property
    def rows(self) -> tuple[Span, ...]:
        return spans(self.height, self.counts[1], self.overlap)

    def blocks(self, part: Window | None = None, margin: int = 0) -> Iterator[Block]:
        """Yield the blocks row by row, left to right.

        Args:
            part: only the rows and columns of blocks that meet this window, of a huge scene.
            margin: so many more on each side.
        """
        side, part = self.tiles_per_block, part or self.extent
        columns, rows = self.columns, self.rows
        for i in _meeting(rows, side, part.row_off, part.row_end, margin):
            for j in _meeting(columns, side, part.col_off, part.col_end, margin):
                top, left = i * side, j * side
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

    def number(self, block: Block) -> int:
        """Return the index of a block among all."""
        return block.row * -(-len(self.columns) // self.tiles_per_block) + block.col

    @property
    def model_pixels(self) -> int:
        """Pixels of all tiles of the scene."""
        return sum(x.size for x in self.columns) * sum(y.size for y in self.rows)


@dataclass(frozen=True, slots=True)
class Span:
    """A tile along one axis, px."""

    start: int
    size: int
    core_start: int
    core_end: int


def least_tiles(length: int, tile_size: int, overlap: int) -> int:
    """Return how many tiles of at most `tile_size` px cover `length` px."""
    return max(1, -(-(round_up(length, ALIGN) - overlap) // (tile_size - overlap)))


def tile_side(length: int, count: int, overlap: int) -> int:
    """Return the least side of `count` tiles that cover `length` px."""
    return round_up(-(-(round_up(length, ALIGN) + (count - 1) * overlap) // count), ALIGN)


def one_more(length: int, count: int, overlap: int) -> int:
    """Return `count` + 1, or `count` if so many tiles of the side of that still cover `length`."""
    side = tile_side(length, count + 1, overlap)
    return count if side + (count - 1) * (side - overlap) >= length else count + 1


@lru_cache(maxsize=16)
def spans(length: int, count: int, overlap: int) -> tuple[Span, ...]:
    """Cover `length` px with tiles of one size, as small as possible.

    Neighboring cores meet in the middle of their overlap, of which little more is computed twice.
    """
    total, size = round_up(length, ALIGN), tile_side(length, count, overlap)
    starts = [*(i * (size - overlap) for i in range(count - 1)), total - size]
    # A core ends on the grid of logits, so that every cell belongs to one tile.
    bounds = [
        (left + size + right) // 2 // CELL * CELL for left, right in itertools.pairwise(starts)
    ]
    return tuple(
        Span(start, size, core_start, core_end)
        for start, core_start, core_end in zip(starts, [0, *bounds], [*bounds, length], strict=True)
    )


def _meeting(axis: tuple[Span, ...], side: int, start: int, end: int, margin: int) -> range:
    """Return the indices of blocks of `side` tiles that meet [start, end) px, and a margin."""
    first = bisect_right(axis, start, key=attrgetter("core_end")) // side
    last = (bisect_left(axis, end, key=attrgetter("core_start")) - 1) // side
    return range(max(0, first - margin), min(last + margin + 1, -(-len(axis) // side)))


def round_up(value: int, multiple: int) -> int:
    """Return the least multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def hull(windows: list[Window]) -> Window:
    """Return the smallest window that contains all of `windows`."""
    left, top = min(w.col_off for w in windows), min(w.row_off for w in windows)
    right, bottom = max(w.col_end for w in windows), max(w.row_end for w in windows)
    return Window(left, top, right - left, bottom - top)
