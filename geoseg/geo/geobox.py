"""The pixel grid of a raster: shape, affine transform and CRS in one value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetReader

from geoseg.errors import DataError, SceneError
from geoseg.geo.crs import Ground, to_pyproj, without_height
from geoseg.tiling.grid import Window

Floats = NDArray[np.float64]

_PIXEL_COORDINATES = Affine.scale(1, -1)
_BASELINE = 100.0
"""Meters over which pixels are measured, so that rounding errors of projections do not matter."""


@dataclass(frozen=True, slots=True)
class GeoBox:
    """A pixel grid. Rows go down, columns right; (0, 0) is the upper left corner of a pixel."""

    height: int
    """Rows."""
    width: int
    """Columns."""
    transform: Affine
    """(column, row) in pixels to (x, y) in CRS units; may rotate, shear or flip."""
    crs: CRS | None
    """Horizontal. None: unknown, and coordinates may be pixels."""

    @classmethod
    def of(cls, dataset: DatasetReader) -> GeoBox:
        """Return the grid of an open raster, in the horizontal part of its CRS.

        Without georeference, y is minus the row: GIS programs draw such pictures below the x axis,
        so that polygons lie on them. Raises SceneError if PROJ refuses the CRS.
        """
        try:
            crs, transform = without_height(dataset.crs or None), dataset.transform
        except DataError as error:
            raise SceneError(f"{dataset.name}: {error}; give it another (gdal_edit)") from error
        if crs is None and transform.is_identity:
            transform = _PIXEL_COORDINATES
        return cls(dataset.height, dataset.width, transform, crs)

    @property
    def has_pixel_coordinates(self) -> bool:
        """Whether x is the column and y minus the row."""
        return self.crs is None and self.transform == _PIXEL_COORDINATES

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def extent(self) -> Window:
        """The window of all pixels."""
        return Window(0, 0, self.width, self.height)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top), in CRS units."""
        corners = [
            self.transform @ (column, row) for column in (0, self.width) for row in (0, self.height)
        ]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def to_xy(self, columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """Return x (N,) and y (N,) of points in pixels."""
        t = self.transform
        return t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f

    def crop(self, window: Window) -> GeoBox:
        """Return the part of the grid under `window`."""
        origin = Affine.translation(window.col_off, window.row_off)
        return GeoBox(window.height, window.width, self.transform @ origin, self.crs)

    def resized(self, height: int, width: int) -> GeoBox:
        """Return a grid of the same extent with `height` rows and `width` columns."""
        scale = Affine.scale(self.width / width, self.height / height)
        return GeoBox(height, width, self.transform @ scale, self.crs)

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Meters on the ground along a row and along a column, at the center of the grid.

        Measured on the ellipsoid, because degrees are no lengths and projections stretch (EPSG:3857
        by 1 / cos(latitude)). None if it is unknown: no CRS, or one that has neither a tie to the
        Earth nor a unit of length.
        """
        if self.crs is None:
            return None
        crs = to_pyproj(self.crs)
        if (ground := Ground.of(crs)) is None:
            # An engineering CRS, say of a building site, has units only.
            t, meters = self.transform, crs.axis_info[0].unit_conversion_factor
            sizes = np.hypot(t.a, t.d) * meters, np.hypot(t.b, t.e) * meters
        else:
            rough = self._size_on_ellipsoid(ground, (1.0, 1.0))
            steps = [_BASELINE / size if size > 0 else 1.0 for size in rough]
            sizes = self._size_on_ellipsoid(ground, steps)
        if not all(math.isfinite(size) and size > 0 for size in sizes):
            return None  # off the globe, or a unit of 0
        return float(sizes[0]), float(sizes[1])

    def _size_on_ellipsoid(self, ground: Ground, steps: Sequence[float]) -> tuple[float, float]:
        """Return meters a pixel along rows and columns, over `steps` pixels about the center.

        Not a number off the globe.
        """
        column, row = self.width / 2, self.height / 2
        columns = column + np.array([-0.5, 0.5, 0, 0]) * steps[0]
        rows = row + np.array([0, 0, -0.5, 0.5]) * steps[1]
        lons, lats = ground.lonlat(*self.to_xy(columns, rows))
        if not np.isfinite([lons, lats]).all():
            return math.nan, math.nan
        _, _, meters = ground.ellipsoid.inv(lons[::2], lats[::2], lons[1::2], lats[1::2])
        return meters[0] / steps[0], meters[1] / steps[1]

    @property
    def gsd(self) -> float | None:
        """Ground sample distance in meters: side of a square of a pixel's area; None: unknown."""
        size = self.pixel_size
        return None if size is None else math.sqrt(size[0] * size[1])
