"""Coordinate reference systems: the one module that asks PROJ, and says its errors in a line."""

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
_EARTH = 6.2e6, 6.5e6
"""Radii, in metres, of spheres that stand for the Earth."""


def parse(text: str, flag: str) -> pyproj.CRS:
    """The horizontal part of a CRS that a user names.

    Raises OptionError, naming the flag, where PROJ does not know it or it says nothing of places.
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


def system(crs: CRS) -> pyproj.CRS:
    """A file's CRS as PROJ sees it, without heights. Raises DataError."""
    return horizontal(_as_proj_has_it(crs))


def _as_proj_has_it(crs: CRS) -> pyproj.CRS:
    try:
        return pyproj.CRS.from_wkt(crs.to_wkt())
    except (CRSError, RasterioError) as error:
        raise DataError(f"PROJ does not understand its CRS ({error})") from error


def horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    """The part that says where on the map: without a height, be it compound or a third axis."""
    return (crs.sub_crs_list[0] if crs.is_compound else crs).to_2d()


def flat(crs: CRS | None) -> CRS | None:
    """As `horizontal`; what has no height stays as it is, to the letter. Raises DataError."""
    if crs is None:
        return None
    whole = _as_proj_has_it(crs)
    if not whole.is_compound and len(whole.axis_info) < 3:
        return crs
    part = system(crs)
    code = part.to_epsg()
    return CRS.from_wkt(part.to_wkt()) if code is None else CRS.from_epsg(code)


class Spelled(pyproj.CRS):
    """A CRS that spells itself in new WKT where the old one, which pyogrio asks for, cannot."""

    def to_wkt(self, *args: Any, **options: Any) -> str:
        try:
            return super().to_wkt(*args, **options)
        except CRSError:
            return super().to_wkt()

    @property
    def is_old(self) -> bool:
        """ESRI's old WKT has words for it."""
        try:
            pyproj.CRS.to_wkt(self, WktVersion.WKT1_ESRI)
        except CRSError:
            return False
        return True


def spelled_out(crs: pyproj.CRS) -> Spelled:
    """For features that are to be written."""
    return Spelled(crs)


@lru_cache(maxsize=64)
def transformer(source: pyproj.CRS, target: pyproj.CRS) -> pyproj.Transformer:
    """From x and y to x and y (longitude before latitude), NaN or infinite where there is no way.

    Raises DataError where nothing leads from one to the other.
    """
    try:
        return pyproj.Transformer.from_crs(source, target, always_xy=True)
    except (ProjError, CRSError) as error:
        raise DataError(f"no way leads from {source.name} to {target.name}") from error


def move(
    way: pyproj.Transformer, x: ArrayLike, y: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (N,), (N,) on their way; infinite where it does not lead."""
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    try:
        there = way.transform(xs, ys)
    except ProjError:
        return np.full(xs.shape, np.inf), np.full(ys.shape, np.inf)
    return np.asarray(there[0], np.float64), np.asarray(there[1], np.float64)


def same(one: pyproj.CRS, other: pyproj.CRS) -> bool:
    """Coordinates mean the same, though files may spell the CRS in different ways."""
    if one.is_engineering and other.is_engineering:
        # Formats add axes and identifiers, but keep the name; there is no datum to compare.
        return one.name == other.name and unit(one) == unit(other)
    return bool(one.equals(other, ignore_axis_order=True))


def axis_order(crs: CRS) -> str:
    """Which axes of the CRS, from 1, are the first and the second of coordinates in rasters."""
    first = system(crs).axis_info[0].direction
    return "2,1" if first in ("north", "south") else "1,2"


def unit(crs: pyproj.CRS) -> float:
    """Metres, or radians, of a step of 1 along the first axis; 1 where it is not known."""
    factor = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    return factor if math.isfinite(factor) and factor > 0 else 1.0


def circle(crs: pyproj.CRS) -> float | None:
    """A turn in units of a geographic CRS: 360 degrees, or 400 grads. None: x is no longitude."""
    return 2 * math.pi / unit(crs) if crs.is_geographic else None


def base(crs: pyproj.CRS) -> pyproj.CRS | None:
    """The geographic CRS in which a CRS lies on its ellipsoid; None without ties to the Earth."""
    while crs.is_bound and crs.source_crs is not None:
        crs = crs.source_crs
    if not (crs.is_geographic or crs.is_projected):
        return None
    geodetic = crs.geodetic_crs
    while geodetic is not None and geodetic.is_derived and geodetic.source_crs is not None:
        geodetic = geodetic.source_crs  # the poles of the Earth, not turned ones
    return geodetic.to_2d() if geodetic is not None and geodetic.is_geographic else None


def reaches(source: pyproj.CRS, target: pyproj.CRS, x: ArrayLike, y: ArrayLike) -> bool:
    """At least one of the points has coordinates in another CRS. Raises DataError: see above."""
    return bool(np.isfinite(move(transformer(source, target), x, y)).all(axis=0).any())


@dataclass(frozen=True, slots=True)
class Ground:
    """How the coordinates of a CRS lie on its ellipsoid."""

    ellipsoid: pyproj.Geod
    way: pyproj.Transformer | None
    """To longitude and latitude; None: they are that already."""
    degrees: float
    """Of a unit of them."""

    @classmethod
    def of(cls, crs: pyproj.CRS) -> Ground | None:
        """None where the CRS has no tie to the Earth, as that of a building site."""
        while crs.is_bound and crs.source_crs is not None:
            crs = crs.source_crs
        geographic = base(crs)
        ellipsoid = crs.get_geod()
        if geographic is None or ellipsoid is None:
            return None
        if ellipsoid.es == 0 and _EARTH[0] < ellipsoid.a < _EARTH[1]:
            # Latitudes in spherical CRSs are those of the ellipsoid, as web maps have them.
            ellipsoid = pyproj.Geod(ellps="WGS84")
        plain = crs.is_geographic and not crs.is_derived
        try:
            way = None if plain else transformer(crs, geographic)
        except GeosegError:
            return None
        return cls(ellipsoid, way, math.degrees(unit(geographic)))

    def lonlat(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """(2, N) degrees from the CRS's own prime meridian; infinite off the globe."""
        there = np.asarray((x, y), np.float64)
        if self.way is not None:
            there = np.asarray(move(self.way, *there))
        there = there * self.degrees
        return np.where(np.abs(there[1]) <= 90 + 1e-9, there, np.inf)
