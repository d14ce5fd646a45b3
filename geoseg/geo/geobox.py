"""Where pixels lie on the ground: shape, affine transform and CRS in one value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyproj
from affine import Affine
from rasterio.crs import CRS

from geoseg.grid import Window


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
    """None: nothing is known of the ground, coordinates are pixels or arbitrary."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def extent(self) -> Window:
        """The whole grid as a window on itself."""
        return Window(0, 0, self.width, self.height)

    @property
    def is_geographic(self) -> bool:
        """Coordinates are longitude and latitude in degrees."""
        return self.crs is not None and bool(self.crs.is_geographic)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of all four corners, in CRS units."""
        corners = [
            self.transform @ (column, row) for column in (0, self.width) for row in (0, self.height)
        ]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

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
        # A step of several pixels stays above the rounding errors of inverse projections.
        steps = max(1, min(self.width, self.height, 64))
        column, row = self.width / 2, self.height / 2
        points = ((column, row), (column + steps, row), (column, row + steps))
        xs, ys = zip(*(self.transform @ point for point in points), strict=True)
        crs = pyproj.CRS.from_wkt(self.crs.to_wkt())
        ellipsoid = crs.get_geod()
        if crs.geodetic_crs is None or ellipsoid is None:
            # An engineering CRS, say a building site: its units are all there is.
            unit = crs.axis_info[0].unit_conversion_factor
            metres = tuple(math.hypot(xs[i] - xs[0], ys[i] - ys[0]) * unit for i in (1, 2))
        else:
            to_ground = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
            lons, lats = to_ground.transform(xs, ys)
            _, _, metres = ellipsoid.inv([lons[0]] * 2, [lats[0]] * 2, lons[1:3], lats[1:3])
        if not all(math.isfinite(m) and m > 0 for m in metres):
            return None  # off the globe, or a unit of 0
        return metres[0] / steps, metres[1] / steps

    @property
    def gsd(self) -> float | None:
        """Ground sample distance in metres: side of a square as large as a pixel; None: unknown."""
        size = self.pixel_size
        return None if size is None else math.sqrt(size[0] * size[1])
