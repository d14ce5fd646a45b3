"""The part of a scene that the user asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError
from rasterio.features import rasterize

from geoseg.errors import SceneError
from geoseg.geo.geobox import GeoBox
from geoseg.geo.paths import vector_path
from geoseg.grid import Window

_DENSE = 200
"""Straight outlines get a corner every 1/200 of their extent, for they bend when reprojected."""


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

    Raises SceneError for what cannot be read, holds no polygon, or does not meet the scene.
    """
    ground = _bounds(text) if "," in text and not Path(text).exists() else _file(text, geobox)
    to_pixels = ~geobox.transform
    shape = shapely.transform(ground, lambda x, y: to_pixels @ (x, y), interleaved=False)
    shape = shapely.intersection(shape, shapely.box(0, 0, geobox.width, geobox.height))
    if shapely.area(shape) == 0:
        asked = ", ".join(f"{value:.10g}" for value in shapely.bounds(ground))
        there = ", ".join(f"{value:.10g}" for value in geobox.bounds)
        raise SceneError(
            f"--aoi {text} lies at {asked}, outside the scene ({there}, in the scene's CRS)"
        )
    left, top, right, bottom = shapely.bounds(shape)
    first = int(np.floor(left)), int(np.floor(top))
    window = Window(*first, int(np.ceil(right)) - first[0], int(np.ceil(bottom)) - first[1])
    return Aoi(shape, window)


def _bounds(text: str) -> shapely.Geometry:
    try:
        left, bottom, right, top = map(float, text.split(","))
    except ValueError as error:
        raise SceneError(
            f"--aoi {text}: no such file, and not four numbers minx,miny,maxx,maxy"
        ) from error
    if not (left < right and bottom < top):
        raise SceneError(f"--aoi {text}: give minx,miny,maxx,maxy, the smaller ones first")
    return shapely.box(left, bottom, right, top)


def _file(text: str, geobox: GeoBox) -> shapely.Geometry:
    try:
        frame = geopandas.read_file(vector_path(text), columns=[])
    except (DataSourceError, OSError) as error:
        raise SceneError(f"--aoi {text} cannot be read: {error}") from error
    polygons = frame.geometry[frame.geom_type.isin(["Polygon", "MultiPolygon"])]
    if polygons.empty:
        kinds = ", ".join(sorted(set(frame.geom_type.dropna()))) or "nothing"
        raise SceneError(f"--aoi {text} holds {kinds}; give a file with polygons")
    if polygons.crs is not None and geobox.crs is None:
        raise SceneError(
            f"--aoi {text} is in {polygons.crs.name}, but the scene has no CRS: give pixels "
            "as minx,miny,maxx,maxy"
        )
    if polygons.crs is not None and geobox.crs is not None:
        left, bottom, right, top = polygons.total_bounds
        polygons = polygons.segmentize(max(right - left, top - bottom) / _DENSE)
        polygons = polygons.to_crs(geobox.crs.to_wkt())
    return polygons.make_valid().union_all()
