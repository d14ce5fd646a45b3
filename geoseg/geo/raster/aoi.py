"""The part of a scene that the user asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from geoseg.errors import DataError, SceneError
from geoseg.geo.crs import longitude_period, to_pyproj
from geoseg.geo.geobox import GeoBox
from geoseg.geo.overlay import overlay
from geoseg.geo.vector_file import read_vector_file
from geoseg.tiling.grid import Window

_TINY = 64.0
"""Square pixels, from which on an area holds the center of a pixel, unless it is a thin line."""
_LOOKED_AT = 10**8
"""Pixels among which such a center is looked for before the work."""
_POLYGONAL = 2
"""Dimensions of what has an area."""
_Drawn = tuple[NDArray[np.object_], pyproj.CRS | None]
"""Shapes and their CRS."""


@dataclass(frozen=True, slots=True)
class Aoi:
    """An area of interest on a scene's grid. A pixel belongs to it if its centre does."""

    shape: shapely.Geometry
    """Polygons in pixels of the scene: x is the column, y the row, (0, 0) the corner."""
    window: Window
    """The smallest that holds all of it."""

    def meets(self, window: Window) -> bool:
        """Whether any of it may lie under `window`."""
        if self.window.intersection(window) is None:
            return False
        box = shapely.box(window.col_off, window.row_off, window.col_end, window.row_end)
        return bool(shapely.intersects(self.shape, box))

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """(H, W) True on the pixels of `window` that belong to it."""
        if not self.meets(window):
            return np.zeros((window.height, window.width), bool)
        inside = rasterize(
            [self.shape],
            out_shape=(window.height, window.width),
            transform=Affine.translation(window.col_off, window.row_off),
            dtype="uint8",
        )
        return inside.astype(bool)


def read_aoi(text: str, geobox: GeoBox) -> Aoi:
    """`text` is "minx,miny,maxx,maxy" in the scene's CRS, or a vector file in any CRS.

    Raises SceneError for what cannot be read, holds no polygon, or no pixel of the scene.
    """
    drawn = _bounds(text, geobox) if "," in text and not Path(text).exists() else _file(text)
    placed = [_on_scene(text, shapes, crs, geobox) for shapes, crs in drawn]
    shape = shapely.union_all(np.concatenate(placed))
    if shapely.area(shape) == 0:
        asked = shapely.total_bounds(np.concatenate([shapes for shapes, _ in drawn]))
        there = ", ".join(f"{value:.10g}" for value in geobox.bounds)
        name = next((f", in {crs.name}" for _, crs in drawn if crs is not None), "")
        raise SceneError(
            f"--aoi {text} lies at {', '.join(f'{value:.10g}' for value in asked)}{name}; it is "
            f"outside the scene ({there}, in the scene's CRS)"
        )
    left, top, right, bottom = shapely.bounds(shape)
    first = int(np.floor(left)), int(np.floor(top))
    window = Window(*first, int(np.ceil(right)) - first[0], int(np.ceil(bottom)) - first[1])
    aoi = Aoi(shape, window)
    tiny = shapely.area(shape) < _TINY and window.width * window.height <= _LOOKED_AT
    if tiny and not aoi.mask(window).any():
        raise SceneError(
            f"--aoi {text} is {shapely.area(shape):.2g} px² of the scene, and holds no center of a "
            "pixel; draw a larger one"
        )
    return aoi


def _on_scene(
    text: str, shapes: NDArray[np.object_], crs: pyproj.CRS | None, geobox: GeoBox
) -> NDArray[np.object_]:
    if crs is not None and geobox.crs is None:
        raise SceneError(
            f"--aoi {text} is in {crs.name}, but the scene has no CRS: give pixels "
            "as minx,miny,maxx,maxy"
        )
    try:
        return overlay(shapes, crs, geobox)
    except DataError as error:
        raise SceneError(f"--aoi {text} {error}") from error


def _bounds(text: str, geobox: GeoBox) -> list[_Drawn]:
    try:
        left, bottom, right, top = map(float, text.split(","))
    except ValueError as error:
        raise SceneError(
            f"--aoi {text}: no such file, and not four numbers minx,miny,maxx,maxy"
        ) from error
    crs = None if geobox.crs is None else to_pyproj(geobox.crs)
    turn = None if crs is None else longitude_period(crs)
    if turn is not None and right < left <= turn / 2 and -turn / 2 <= right:
        right += turn  # across the 180th meridian, as GeoJSON has it
    if not (left < right and bottom < top):
        raise SceneError(f"--aoi {text}: give minx,miny,maxx,maxy, the smaller ones first")
    return [(np.array([shapely.box(left, bottom, right, top)]), crs)]


def _file(text: str) -> list[_Drawn]:
    try:
        layers = list(read_vector_file(text))
    except DataError as error:
        raise SceneError(f"--aoi {error}") from error
    shapes = shapely.get_parts(np.concatenate([layer.geometry for layer in layers]))
    if not (shapely.get_dimensions(shapes) == _POLYGONAL).any():
        kinds = sorted({shape.geom_type for shape in shapes}) or ["nothing"]
        raise SceneError(f"--aoi {text} holds {', '.join(kinds)}; give a file with polygons")
    return [(layer.geometry, layer.crs) for layer in layers]
