"""Coordinate reference systems: all calls of PROJ, with its errors in one line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
from numpy.typing import ArrayLike, NDArray
from pyproj.enums import WktVersion
from pyproj.exceptions import CRSError, ProjError
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from geoseg.errors import DataError, GeosegError, OptionError

WGS84 = "EPSG:4326"
_EARTH_RADII = 6.2e6, 6.5e6
"""Meters: a sphere between these stands for the Earth, not for another planet."""


def parse_crs(text: str, flag: str) -> pyproj.CRS:
    """Return the horizontal part of a CRS that a user names.

    Raises OptionError, naming the flag, if PROJ does not know it or it has no map coordinates.
    """
    try:
        crs = horizontal(pyproj.CRS.from_user_input(text))
    except CRSError as error:
        raise OptionError(
            f"{flag} {text}: PROJ knows no such coordinate reference system; give a code such as "
            "EPSG:25832, a PROJ string or WKT"
        ) from error
    if not (crs.is_geographic or crs.is_projected or crs.is_engineering):
        raise OptionError(
            f"{flag} {text} is {crs.name}, a {crs.type_name}, which has no coordinates on a map; "
            "give a projected or geographic one"
        )
    return crs


def to_pyproj(crs: CRS) -> pyproj.CRS:
    """Return the horizontal part of a raster's CRS. Raises DataError."""
    return horizontal(_full_pyproj(crs))


def _full_pyproj(crs: CRS) -> pyproj.CRS:
    try:
        return pyproj.CRS.from_wkt(crs.to_wkt())
    except (CRSError, RasterioError) as error:
        raise DataError(f"PROJ does not understand its CRS ({error})") from error


def horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    """Drop the height, whether part of a compound CRS or a third axis."""
    return (crs.sub_crs_list[0] if crs.is_compound else crs).to_2d()


def without_height(crs: CRS | None) -> CRS | None:
    """Drop the height of a raster's CRS; one without is returned unchanged. Raises DataError."""
    if crs is None:
        return None
    full = _full_pyproj(crs)
    if not full.is_compound and len(full.axis_info) < 3:
        return crs
    part = horizontal(full)
    code = part.to_epsg()
    return CRS.from_wkt(part.to_wkt()) if code is None else CRS.from_epsg(code)


class WritableCRS(pyproj.CRS):
    """A CRS for pyogrio to write: WKT 2 where WKT 1, which pyogrio asks for, cannot express it."""

    def to_wkt(self, *args: Any, **options: Any) -> str:
        try:
            return super().to_wkt(*args, **options)
        except CRSError:
            return super().to_wkt()

    @property
    def has_esri_wkt(self) -> bool:
        """Whether ESRI's WKT, the format of .prj files, can express it."""
        try:
            pyproj.CRS.to_wkt(self, WktVersion.WKT1_ESRI)
        except CRSError:
            return False
        return True


@lru_cache(maxsize=64)
def transformer(source: pyproj.CRS, target: pyproj.CRS) -> pyproj.Transformer:
    """Return a transformer of x and y, longitude before latitude; see `transform_points`.

    Raises DataError if PROJ has no operation between the two.
    """
    try:
        return pyproj.Transformer.from_crs(source, target, always_xy=True)
    except (ProjError, CRSError) as error:
        raise DataError(
            f"PROJ has no transformation from {source.name} to {target.name}"
        ) from error


def transform_points(
    operation: pyproj.Transformer, x: ArrayLike, y: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transform x (N,) and y (N,); NaN or infinite outside the domain of the operation."""
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    try:
        moved = operation.transform(xs, ys)
    except ProjError:
        return np.full(xs.shape, np.inf), np.full(ys.shape, np.inf)
    return np.asarray(moved[0], np.float64), np.asarray(moved[1], np.float64)


def any_transformable(source: pyproj.CRS, target: pyproj.CRS, x: ArrayLike, y: ArrayLike) -> bool:
    """Whether some of the points have coordinates in the target. Raises DataError."""
    return bool(np.isfinite(transform_points(transformer(source, target), x, y)).all(axis=0).any())


def same_crs(one: pyproj.CRS, other: pyproj.CRS) -> bool:
    """Whether coordinates mean the same, however files spell the CRS."""
    if one.is_engineering and other.is_engineering:
        # Formats add axes and identifiers but keep the name; there is no datum to compare.
        return one.name == other.name and axis_unit(one) == axis_unit(other)
    return bool(one.equals(other, ignore_axis_order=True))


def axis_order(crs: CRS) -> str:
    """Return the CRS's axes, from 1, that x and y of a raster follow, as GDAL writes them."""
    first = to_pyproj(crs).axis_info[0].direction
    return "2,1" if first in ("north", "south") else "1,2"


def axis_unit(crs: pyproj.CRS) -> float:
    """Return the unit of the first axis in meters or radians; 1 if unknown."""
    factor = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    return factor if math.isfinite(factor) and factor > 0 else 1.0


def longitude_period(crs: pyproj.CRS) -> float | None:
    """Return 360 degrees in the units of a geographic CRS, such as 400 gon; None for others."""
    return 2 * math.pi / axis_unit(crs) if crs.is_geographic else None


def base_geographic(crs: pyproj.CRS) -> pyproj.CRS | None:
    """Return the geographic CRS on which `crs` is based; None if it has no tie to the Earth."""
    crs = _unbound(crs)
    if not (crs.is_geographic or crs.is_projected):
        return None
    geodetic = crs.geodetic_crs
    while geodetic is not None and geodetic.is_derived and geodetic.source_crs is not None:
        geodetic = geodetic.source_crs  # poles of the Earth, not rotated ones
    return geodetic.to_2d() if geodetic is not None and geodetic.is_geographic else None


def _unbound(crs: pyproj.CRS) -> pyproj.CRS:
    """Return the CRS without the datum transformation that is attached to it."""
    while crs.is_bound and crs.source_crs is not None:
        crs = crs.source_crs
    return crs


@dataclass(frozen=True, slots=True)
class Ground:
    """The coordinates of a CRS on its ellipsoid."""

    ellipsoid: pyproj.Geod
    to_geographic: pyproj.Transformer | None
    """To longitude and latitude; None if coordinates are these already."""
    degrees: float
    """The unit of longitude and latitude, in degrees."""

    @classmethod
    def of(cls, crs: pyproj.CRS) -> Ground | None:
        """Return None if the CRS has no tie to the Earth, such as that of a building site."""
        crs = _unbound(crs)
        geographic = base_geographic(crs)
        ellipsoid = crs.get_geod()
        if geographic is None or ellipsoid is None:
            return None
        if ellipsoid.es == 0 and _EARTH_RADII[0] < ellipsoid.a < _EARTH_RADII[1]:
            # Web maps put latitudes of the ellipsoid on a sphere.
            ellipsoid = pyproj.Geod(ellps="WGS84")
        is_plain = crs.is_geographic and not crs.is_derived
        try:
            operation = None if is_plain else transformer(crs, geographic)
        except GeosegError:
            return None
        return cls(ellipsoid, operation, math.degrees(axis_unit(geographic)))

    def lonlat(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Return (2, N) degrees from the CRS's own prime meridian; infinite off the globe."""
        points = np.asarray((x, y), np.float64)
        if self.to_geographic is not None:
            points = np.asarray(transform_points(self.to_geographic, *points))
        points = points * self.degrees
        return np.where(np.abs(points[1]) <= 90 + 1e-9, points, np.inf)
