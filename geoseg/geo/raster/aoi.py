"""The user's area of interest in a scene."""

from __future__ import annotations

from collections.abc import Iterable
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
from geoseg.geo.gdal_errors import without_georeference
from geoseg.geo.geobox import GeoBox
from geoseg.geo.overlay import overlay
from geoseg.geo.vector_file import read_vector_file
from geoseg.tiling.grid import Window

_TINY = 64.0
"""Square pixels below which an area is checked for the center of a pixel."""
_MAX_CHECKED = 10**8
"""Pixels of a window for which that check is affordable."""
_POLYGONAL = 2
"""Dimension of geometries with an area."""
_Drawn = tuple[NDArray[np.object_], pyproj.CRS | None]
"""Shapes and their CRS."""


@dataclass(frozen=True, slots=True)
class Aoi:
    """An area of interest on a scene's grid. A pixel belongs to it if its center does."""

    shape: shapely.Geometry
    """Polygons in pixels of the scene: x is the column, y the row."""
    window: Window
    """The smallest window that contains it."""

    def meets(self, window: Window) -> bool:
        """Whether the area intersects `window`."""
        if self.window.intersection(window) is None:
            return False
        box = shapely.box(window.col_off, window.row_off, window.col_end, window.row_end)
        return bool(shapely.intersects(self.shape, box))

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Return (H, W), True on the pixels of `window` that belong to the area."""
        if not self.meets(window):
            return np.zeros((window.height, window.width), bool)
        with without_georeference():
            inside = rasterize(
                [self.shape],
                out_shape=(window.height, window.width),
                transform=Affine.translation(window.col_off, window.row_off),
                dtype="uint8",
            )
        return inside.astype(bool)


def read_aoi(text: str, geobox: GeoBox) -> Aoi:
    """Return the area of `text`: "minx,miny,maxx,maxy" in the scene's CRS, or a vector file.

    Raises SceneError if it cannot be read, has no polygon, or contains no pixel of the scene.
    """
    drawn = _bounds(text, geobox) if "," in text and not Path(text).exists() else _file(text)
    shape = shapely.union_all(
        np.concatenate([_on_scene(text, shapes, crs, geobox) for shapes, crs in drawn])
    )
    if shapely.area(shape) == 0:
        bounds = shapely.total_bounds(np.concatenate([shapes for shapes, _ in drawn]))
        crs_name = next((f", in {crs.name}" for _, crs in drawn if crs is not None), "")
        raise SceneError(
            f"--aoi {text} lies at {_listed(bounds)}{crs_name}; it is "
            f"outside the scene ({_listed(geobox.bounds)}, in the scene's CRS)"
        )
    left, top, right, bottom = shapely.bounds(shape)
    column, row = int(np.floor(left)), int(np.floor(top))
    window = Window(column, row, int(np.ceil(right)) - column, int(np.ceil(bottom)) - row)
    aoi = Aoi(shape, window)
    is_tiny = shapely.area(shape) < _TINY and window.width * window.height <= _MAX_CHECKED
    if is_tiny and not aoi.mask(window).any():
        raise SceneError(
            f"--aoi {text} is {shapely.area(shape):.2g} px² of the scene, and holds no center of a "
            "pixel; draw a larger one"
        )
    return aoi


def _listed(bounds: Iterable[float]) -> str:
    return ", ".join(f"{value:.10g}" for value in bounds)


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
    period = None if crs is None else longitude_period(crs)
    if period is not None and right < left <= period / 2 and -period / 2 <= right:
        right += period  # across the 180th meridian, as in GeoJSON
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
