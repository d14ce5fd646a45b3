"""Where pixels lie on the ground: shape, affine transform and CRS in one value."""

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
from geoseg.geo.crs import Ground, flat, system
from geoseg.tiling.grid import Window

Floats = NDArray[np.float64]

_UNPLACED = Affine.scale(1, -1)
_STEP = 100.0
"""Metres over which pixels are measured."""


@dataclass(frozen=True, slots=True)
class GeoBox:
    """A pixel grid on the ground. Rows go down, columns right; (0, 0) is a corner, not a centre."""

    height: int
    """Rows."""
    width: int
    """Columns."""
    transform: Affine
    """(column, row) in pixels to (x, y) in CRS units; may rotate, shear or flip."""
    crs: CRS | None
    """Without heights. None: nothing is known of the ground, coordinates may be pixels."""

    @classmethod
    def of(cls, dataset: DatasetReader) -> GeoBox:
        """The grid of an open raster, in the horizontal part of its CRS.

        Without a place on the ground, y is minus the row: GIS programs hang such pictures below
        the x axis, and so polygons lie on them. Raises SceneError where PROJ refuses the CRS.
        """
        try:
            crs, transform = flat(dataset.crs or None), dataset.transform
        except DataError as error:
            raise SceneError(f"{dataset.name}: {error}; give it another (gdal_edit)") from error
        if crs is None and transform.is_identity:
            transform = _UNPLACED
        return cls(dataset.height, dataset.width, transform, crs)

    @property
    def is_unplaced(self) -> bool:
        """Coordinates are pixels: x = column, y = minus the row."""
        return self.crs is None and self.transform == _UNPLACED

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def extent(self) -> Window:
        """The whole grid as a window on itself."""
        return Window(0, 0, self.width, self.height)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of all four corners, in CRS units."""
        corners = [
            self.transform @ (column, row) for column in (0, self.width) for row in (0, self.height)
        ]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def place(self, columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """x and y of points in pixels, (N,) each."""
        t = self.transform
        return t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f

    def crop(self, window: Window) -> GeoBox:
        """The part of the grid under `window`."""
        origin = Affine.translation(window.col_off, window.row_off)
        return GeoBox(window.height, window.width, self.transform @ origin, self.crs)

    def resized(self, height: int, width: int) -> GeoBox:
        """Another grid of exactly the same extent, with `height` rows and `width` columns."""
        scale = Affine.scale(self.width / width, self.height / height)
        return GeoBox(height, width, self.transform @ scale, self.crs)

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Metres on the ground along a row and along a column, at the centre of the grid.

        Measured on the CRS's ellipsoid, so that degrees and projections that stretch (EPSG:3857
        by 1 / cos(latitude)) come out true. None without a CRS, or where it has neither a tie to
        the Earth nor a unit of length.
        """
        if self.crs is None:
            return None
        crs = system(self.crs)
        if (ground := Ground.of(crs)) is None:
            # An engineering CRS, say a building site: its units are all there is.
            t, metres = self.transform, crs.axis_info[0].unit_conversion_factor
            sizes = np.hypot(t.a, t.d) * metres, np.hypot(t.b, t.e) * metres
        else:
            # A step of many pixels stays above the rounding errors of inverse projections.
            rough = self._on_ellipsoid(ground, (1.0, 1.0))
            steps = [_STEP / size if size > 0 else 1.0 for size in rough]
            sizes = self._on_ellipsoid(ground, steps)
        if not all(math.isfinite(size) and size > 0 for size in sizes):
            return None  # off the globe, or a unit of 0
        return float(sizes[0]), float(sizes[1])

    def _on_ellipsoid(self, ground: Ground, steps: Sequence[float]) -> tuple[float, float]:
        """Metres a pixel along rows and columns, over `steps` pixels about the centre; or NaN."""
        column, row = self.width / 2, self.height / 2
        columns = column + np.array([-0.5, 0.5, 0, 0]) * steps[0]
        rows = row + np.array([0, 0, -0.5, 0.5]) * steps[1]
        lons, lats = ground.lonlat(*self.place(columns, rows))
        if not np.isfinite([lons, lats]).all():
            return math.nan, math.nan
        _, _, metres = ground.ellipsoid.inv(lons[::2], lats[::2], lons[1::2], lats[1::2])
        return metres[0] / steps[0], metres[1] / steps[1]

    @property
    def gsd(self) -> float | None:
        """Ground sample distance in metres: side of a square as large as a pixel; None: unknown."""
        size = self.pixel_size
        return None if size is None else math.sqrt(size[0] * size[1])
