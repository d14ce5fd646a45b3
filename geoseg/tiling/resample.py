"""A picture on a grid of larger or smaller pixels: what a model sees of it. NumPy and Pillow only.

`geoseg.geo.raster.resampled` shows it scenes in this way, window by window, and evaluation images
in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoseg.tiling.grid import Window

_UNIT = 1024
"""Steps are whole multiples of 1 / 1024 pixel. Then every position on the new grid is exact in the
float32 that Pillow computes with, and pixels do not depend on how windows are cut."""
_CLOSE = 0.02
"""Steps this close to 1 are not worth a resampling."""
_PIECE = 4096
"""Pixels a side that are resampled at once."""
_GREY = 128

Picture = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""(3, H, W) colors, and validity (H, W)."""


@dataclass(frozen=True, slots=True)
class Resampler:
    """Two grids with one upper left corner: the pixels of a picture, and those it is shown in.

    The picture's (x, y) lies at x / step[0], y / step[1] of the new grid.
    """

    width: int
    """Of the picture, px."""
    height: int
    """Of the picture, px."""
    units: tuple[int, int]
    """Pixels of the picture per new pixel, across and down, in 1/1024."""

    @classmethod
    def of(cls, width: int, height: int, across: float, down: float) -> Resampler:
        """Args:
        across, down: pixels of the picture per new pixel; 1 where they are close to it.
        """
        if abs(across - 1) <= _CLOSE and abs(down - 1) <= _CLOSE:
            across = down = 1.0
        return cls(width, height, (round(across * _UNIT), round(down * _UNIT)))

    @property
    def step(self) -> tuple[float, float]:
        """Pixels of the picture per new pixel, across and down; exact."""
        return self.units[0] / _UNIT, self.units[1] / _UNIT

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the new grid. The last ones may reach beyond the picture."""
        return -(-self.width * _UNIT // self.units[0]), -(-self.height * _UNIT // self.units[1])

    def read(self, window: Window, picture: Callable[[Window], Picture]) -> Picture:
        """The pixels under `window` of the new grid.

        Args:
            picture: reads a window of the picture.
        """
        if self.units == (_UNIT, _UNIT):
            return picture(window)
        image = np.empty((3, window.height, window.width), np.uint8)
        valid = np.empty((window.height, window.width), bool)
        for piece in self._pieces(window):
            rows, columns = piece.relative_to(window).slices
            image[:, rows, columns], valid[rows, columns] = self._resample(piece, picture)
        return image, valid

    def source_window(self, window: Window) -> Window | None:
        """The picture's pixels whose centers lie in `window` of the new grid.

        Windows that partition the new grid partition the picture. None where there is no such
        pixel.
        """
        columns = [self._first(edge, 0) for edge in (window.col_off, window.col_end)]
        rows = [self._first(edge, 1) for edge in (window.row_off, window.row_end)]
        found = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        if min(found.width, found.height) < 1:
            return None
        return found.intersection(Window(0, 0, self.width, self.height))

    def _first(self, edge: int, axis: int) -> int:
        """The picture's first pixel whose center is not before `edge` of the new grid."""
        return -(-(2 * edge * self.units[axis] - _UNIT) // (2 * _UNIT))

    def _pieces(self, window: Window) -> list[Window]:
        width, height = (max(1, _PIECE * _UNIT // units) for units in self.units)
        return [
            Window(left, top, min(width, window.col_end - left), min(height, window.row_end - top))
            for top in range(window.row_off, window.row_end, height)
            for left in range(window.col_off, window.col_end, width)
        ]

    def _resample(self, window: Window, picture: Callable[[Window], Picture]) -> Picture:
        left, right, beyond_right = self._support(window.col_off, window.col_end, 0)
        top, bottom, beyond_bottom = self._support(window.row_off, window.row_end, 1)
        image, valid = picture(Window(left, top, right - left, bottom - top))
        beyond = ((0, beyond_bottom), (0, beyond_right))
        # The model sees its mean where nothing is valid; grey leaves no edge towards it.
        image = np.where(valid, image, np.uint8(_GREY))
        image = np.pad(image, ((0, 0), *beyond), mode="edge")
        valid = np.pad(valid, beyond, mode="edge")
        across, down = self.step
        columns = window.width, window.col_off * across - left, window.col_end * across - left
        rows = window.height, window.row_off * down - top, window.row_end * down - top
        shown = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        shown = _resize(shown, columns, rows, Image.Resampling.BICUBIC)
        planes = np.ascontiguousarray(np.asarray(shown).transpose(2, 0, 1))
        if valid.all():
            return planes, np.ones(planes.shape[1:], bool)
        share = Image.fromarray(np.where(valid, np.uint8(255), np.uint8(0)))
        share = _resize(share, columns, rows, Image.Resampling.BILINEAR)
        return planes, np.asarray(share) >= 128

    def _support(self, start: int, stop: int, axis: int) -> tuple[int, int, int]:
        """What the cubic kernel reaches from [start, stop) of the new grid: the picture's first
        pixel, its end, and how many pixels beyond the last, where the last new pixel overhangs."""
        units = self.units[axis]
        length = (self.width, self.height)[axis]
        steps = -(-length * _UNIT // units)
        reach = 2 * max(1, -(-units // _UNIT)) + 1
        first = max(0, start * units // _UNIT - reach)
        end = min(-(-steps * units // _UNIT), -(-stop * units // _UNIT) + reach)
        return first, min(end, length), max(0, end - length)


def _resize(
    picture: Image.Image,
    columns: tuple[int, float, float],
    rows: tuple[int, float, float],
    filter_: Image.Resampling,
) -> Image.Image:
    """Resample to a number of columns and rows, given with their start and end in `picture`.

    Along rows first, always: left to itself, Pillow orders the passes by a picture's shape, and
    they round in between.
    """
    width, left, right = columns
    picture = picture.resize((width, picture.height), filter_, (left, 0, right, picture.height))
    height, top, bottom = rows
    return picture.resize((width, height), filter_, (0, top, width, bottom))
