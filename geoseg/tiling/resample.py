"""Resample images to the pixel size of a model, with NumPy and Pillow only.

`geoseg.geo.raster.resampled` resamples scenes window by window, evaluation images in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoseg.tiling.grid import Window

_UNIT = 1024
"""Steps are multiples of 1/1024 px, so that positions on the new grid are exact in Pillow's float32
and pixels do not depend on the windows that they are computed in."""
_CLOSE = 0.02
"""Steps this close to 1 are taken as 1, without resampling."""
_PIECE = 4096
"""Side of the part of an image that is resampled at once, px."""
_GRAY = 128

Pixels = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""Colors (3,H,W) and validity (H,W)."""


@dataclass(frozen=True, slots=True)
class Resampler:
    """Two grids with one upper left corner: the pixels of a source image, and new ones.

    The source's (x, y) lies at x / step[0], y / step[1] of the new grid.
    """

    width: int
    """Columns of the source."""
    height: int
    """Rows of the source."""
    units: tuple[int, int]
    """Source pixels per new pixel in x and y, in 1/1024."""

    @classmethod
    def of(cls, width: int, height: int, step_x: float, step_y: float) -> Resampler:
        """Return the resampler of a source of `width` × `height` px.

        Args:
            step_x, step_y: source pixels per new pixel; taken as 1 if both are close to it.
        """
        if abs(step_x - 1) <= _CLOSE and abs(step_y - 1) <= _CLOSE:
            step_x = step_y = 1.0
        return cls(width, height, (round(step_x * _UNIT), round(step_y * _UNIT)))

    @property
    def step(self) -> tuple[float, float]:
        """Source pixels per new pixel in x and y; exact."""
        return self.units[0] / _UNIT, self.units[1] / _UNIT

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the new grid; the last ones may exceed the source."""
        return -(-self.width * _UNIT // self.units[0]), -(-self.height * _UNIT // self.units[1])

    def read(self, window: Window, source: Callable[[Window], Pixels]) -> Pixels:
        """Return the resampled pixels in `window` of the new grid.

        Args:
            source: reads a window of the source.
        """
        if self.units == (_UNIT, _UNIT):
            return source(window)
        image = np.empty((3, window.height, window.width), np.uint8)
        valid = np.empty((window.height, window.width), bool)
        for piece in self._pieces(window):
            rows, columns = piece.relative_to(window).slices
            image[:, rows, columns], valid[rows, columns] = self._resample(piece, source)
        return image, valid

    def source_window(self, window: Window) -> Window | None:
        """Return the source pixels whose centers lie in `window` of the new grid, or None.

        Windows that partition the new grid partition the source.
        """
        columns = [self._first(edge, 0) for edge in (window.col_off, window.col_end)]
        rows = [self._first(edge, 1) for edge in (window.row_off, window.row_end)]
        found = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        if min(found.width, found.height) < 1:
            return None
        return found.intersection(Window(0, 0, self.width, self.height))

    def _first(self, edge: int, axis: int) -> int:
        """Return the first source pixel whose center is not before `edge` of the new grid."""
        return -(-(2 * edge * self.units[axis] - _UNIT) // (2 * _UNIT))

    def _pieces(self, window: Window) -> list[Window]:
        width, height = (max(1, _PIECE * _UNIT // units) for units in self.units)
        return [
            Window(left, top, min(width, window.col_end - left), min(height, window.row_end - top))
            for top in range(window.row_off, window.row_end, height)
            for left in range(window.col_off, window.col_end, width)
        ]

    def _resample(self, window: Window, source: Callable[[Window], Pixels]) -> Pixels:
        left, right, beyond_right = self._support(window.col_off, window.col_end, 0)
        top, bottom, beyond_bottom = self._support(window.row_off, window.row_end, 1)
        image, valid = source(Window(left, top, right - left, bottom - top))
        all_valid = valid.all()
        if not all_valid:
            # Invalid pixels become the model's mean; gray leaves no edge at their border.
            image = np.where(valid, image, np.uint8(_GRAY))
        if beyond_bottom or beyond_right:
            beyond = ((0, beyond_bottom), (0, beyond_right))
            image = np.pad(image, ((0, 0), *beyond), mode="edge")
            valid = np.pad(valid, beyond, mode="edge")
        step_x, step_y = self.step
        columns = window.width, window.col_off * step_x - left, window.col_end * step_x - left
        rows = window.height, window.row_off * step_y - top, window.row_end * step_y - top
        resized = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        resized = _resize(resized, columns, rows, Image.Resampling.BICUBIC)
        planes = np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
        if all_valid:
            return planes, np.ones(planes.shape[1:], bool)
        share = Image.fromarray(np.where(valid, np.uint8(255), np.uint8(0)))
        share = _resize(share, columns, rows, Image.Resampling.BILINEAR)
        return planes, np.asarray(share) >= 128

    def _support(self, start: int, stop: int, axis: int) -> tuple[int, int, int]:
        """Return the source range that the cubic kernel reads for [start, stop) of the new grid.

        First pixel, end, and the number of pixels to pad where the last new pixel exceeds the
        source.
        """
        units = self.units[axis]
        length = (self.width, self.height)[axis]
        steps = -(-length * _UNIT // units)
        radius = 2 * max(1, -(-units // _UNIT)) + 1
        first = max(0, start * units // _UNIT - radius)
        end = min(-(-steps * units // _UNIT), -(-stop * units // _UNIT) + radius)
        return first, min(end, length), max(0, end - length)


def _resize(
    image: Image.Image,
    columns: tuple[int, float, float],
    rows: tuple[int, float, float],
    filter_: Image.Resampling,
) -> Image.Image:
    """Resample to a number of columns and rows, given with their start and end in `image`.

    Rows always come first: Pillow would choose the order by the shape, and rounds in between.
    """
    width, left, right = columns
    image = image.resize((width, image.height), filter_, (left, 0, right, image.height))
    height, top, bottom = rows
    return image.resize((width, height), filter_, (0, top, width, bottom))
