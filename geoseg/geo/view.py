"""A scene at the ground sample distance that the model was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from geoseg.errors import SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.scene import Pixels, Scene
from geoseg.grid import Window

_UNIT = 1024
"""Steps are whole multiples of 1 / 1024 scene pixel. Then every position on the view's grid is
exact in the float32 that Pillow computes with, and pixels do not depend on how windows are cut."""
_CLOSE = 0.02
"""Steps this close to 1 are not worth a resampling."""
_PIECE = 4096
"""Scene pixels a side that are resampled at once."""
_GREY = 128
_COARSEST = 32
"""Scene pixels a side that become one unasked, at most."""


@dataclass(frozen=True, slots=True)
class View:
    """A scene on a grid of larger or smaller pixels: what the model works on.

    Outputs stay on the scene's own grid. Its pixel (x, y) lies at x / step[0], y / step[1] of the
    view, both counted from the same upper left corner.
    """

    scene: Scene
    units: tuple[int, int]
    """Scene pixels per pixel of the view, across and down, in 1/1024."""

    @classmethod
    def of(cls, scene: Scene, *, gsd: float | None = None, scale: float = 1.0) -> View:
        """The scene as the model wants it.

        gsd: metres a pixel, made square on the ground; None keeps the scene's own pixels.
        scale: factor by which pixels are enlarged after that.
        Raises SceneError where the scene's GSD is not known or is out of all proportion.
        """
        across, down = 1.0, 1.0
        if gsd is not None:
            size = scene.geobox.pixel_size
            if size is None:
                raise SceneError(
                    f"{scene.path}: the size of its pixels on the ground is not known (no CRS); "
                    f"a GSD of {gsd:g} m cannot be reached: leave --gsd out"
                )
            across, down = gsd / size[0], gsd / size[1]
        across, down = across / scale, down / scale
        if not all(1 / 32 <= step <= 64 for step in (across, down)):
            raise SceneError(
                f"{scene.path}: {across:.3g} × {down:.3g} of its pixels would become one; "
                "1/32 to 64 are possible: give another --gsd"
            )
        if abs(across - 1) <= _CLOSE and abs(down - 1) <= _CLOSE:
            across = down = 1.0
        return cls(scene, (round(across * _UNIT), round(down * _UNIT)))

    @property
    def step(self) -> tuple[float, float]:
        """Scene pixels per pixel of the view, across and down; exact."""
        return self.units[0] / _UNIT, self.units[1] / _UNIT

    @property
    def geobox(self) -> GeoBox:
        """The view's own grid. Its last row and column may reach beyond the scene."""
        scene, (across, down) = self.scene.geobox, self.step
        width = -(-scene.width * _UNIT // self.units[0])
        height = -(-scene.height * _UNIT // self.units[1])
        scale = scene.transform.scale(across, down)
        return GeoBox(height, width, scene.transform @ scale, scene.crs)

    def read(self, window: Window) -> Pixels:
        """The pixels under `window` of the view. Raises SceneError where the file is damaged."""
        if self.units == (_UNIT, _UNIT):
            return self.scene.read(window)
        image = np.empty((3, window.height, window.width), np.uint8)
        valid = np.empty((window.height, window.width), bool)
        damaged: tuple[Window, ...] = ()
        for piece in self._pieces(window):
            rows, columns = piece.relative_to(window).slices
            pixels = self._resample(piece)
            image[:, rows, columns], valid[rows, columns] = pixels.image, pixels.valid
            damaged += pixels.damaged
        return Pixels(image, valid, damaged)

    def on_scene(self, window: Window) -> Window | None:
        """The scene's pixels whose centres lie in `window` of the view.

        Windows that partition the view partition the scene. None where there is no such pixel.
        """
        columns = [self._first(edge, 0) for edge in (window.col_off, window.col_end)]
        rows = [self._first(edge, 1) for edge in (window.row_off, window.row_end)]
        found = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        if min(found.width, found.height) < 1:
            return None
        return found.intersection(self.scene.geobox.extent)

    def _first(self, edge: int, axis: int) -> int:
        """The first scene pixel whose centre is not before `edge` of the view."""
        return -(-(2 * edge * self.units[axis] - _UNIT) // (2 * _UNIT))

    def _pieces(self, window: Window) -> list[Window]:
        width, height = (max(1, _PIECE * _UNIT // units) for units in self.units)
        return [
            Window(left, top, min(width, window.col_end - left), min(height, window.row_end - top))
            for top in range(window.row_off, window.row_end, height)
            for left in range(window.col_off, window.col_end, width)
        ]

    def _resample(self, window: Window) -> Pixels:
        left, right, beyond_right = self._support(window.col_off, window.col_end, 0)
        top, bottom, beyond_bottom = self._support(window.row_off, window.row_end, 1)
        pixels = self.scene.read(Window(left, top, right - left, bottom - top))
        beyond = ((0, beyond_bottom), (0, beyond_right))
        # The model sees its mean where nothing is valid; grey leaves no edge towards it.
        image = np.where(pixels.valid, pixels.image, np.uint8(_GREY))
        image = np.pad(image, ((0, 0), *beyond), mode="edge")
        valid = np.pad(pixels.valid, beyond, mode="edge")
        across, down = self.step
        columns = window.width, window.col_off * across - left, window.col_end * across - left
        rows = window.height, window.row_off * down - top, window.row_end * down - top
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        picture = _resize(picture, columns, rows, Image.Resampling.BICUBIC)
        planes = np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
        if valid.all():
            return Pixels(planes, np.ones(planes.shape[1:], bool), pixels.damaged)
        share = Image.fromarray(np.where(valid, np.uint8(255), np.uint8(0)))
        share = _resize(share, columns, rows, Image.Resampling.BILINEAR)
        return Pixels(planes, np.asarray(share) >= 128, pixels.damaged)

    def _support(self, start: int, stop: int, axis: int) -> tuple[int, int, int]:
        """What the cubic kernel reaches from [start, stop) of the view: first scene pixel, end,
        and how many pixels beyond the scene's last, where the view's last pixel overhangs."""
        units = self.units[axis]
        length = (self.scene.geobox.width, self.scene.geobox.height)[axis]
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


def suitable_gsd(own: float | None, known: tuple[float, float] | None) -> float | None:
    """Metres a pixel at which a model should see a scene; None = as it is.

    Coarser than the scene's `own` where that is finer than all that the model was trained on:
    what it knows would be too large for it, and each square metre would cost more. Never finer:
    pixels that are not there cannot be made.

    Args:
        known: finest and coarsest of its training.
    """
    if own is None or known is None or own >= 0.9 * known[0]:
        return None
    return min(known[0], _COARSEST * own)
