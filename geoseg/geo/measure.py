"""Sizes on the ground: areas, lengths, widths and directions of polygons, in metres and degrees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of P polygons. Metres; pixels where nothing is known of the ground."""

    area: Floats
    """(P,)"""
    length: Floats
    """(P,) longer side of the smallest rectangle around each."""
    width: Floats
    """(P,) its shorter side."""
    angle: Floats
    """(P,) direction of its longer side: degrees clockwise from north (without a CRS, from the
    top of the picture), 0 ≤ angle < 180. North is the grid's, up the y axis, which in geographic
    and Mercator CRSs is true north."""


def measure(geometry: NDArray[np.object_], crs: CRS | None) -> Sizes:
    """Sizes of polygons in CRS units (without a CRS: pixels, rows downwards).

    On the ellipsoid where coordinates are degrees or stretch with latitude (Mercator, EPSG:3857);
    elsewhere in the plane of the projection, times its unit.
    """
    if crs is None:
        return _planar(shapely.transform(geometry, lambda xy: xy * (1, -1)))
    system = pyproj.CRS.from_wkt(crs.to_wkt())
    ellipsoid = system.get_geod()
    if ellipsoid is None or not stretches(system):
        unit = system.axis_info[0].unit_conversion_factor
        return _planar(shapely.transform(geometry, lambda xy: xy * unit))
    return _ellipsoidal(geometry, system, ellipsoid)


def stretches(crs: pyproj.CRS) -> bool:
    """A unit of its coordinates is not the same length on the ground everywhere."""
    projection = crs.coordinate_operation
    method = projection.method_name if projection else ""
    return crs.is_geographic or ("Mercator" in method and "Transverse" not in method)


def _planar(geometry: NDArray[np.object_], area: Floats | None = None) -> Sizes:
    # Near the origin, so that eastings of millions of metres cost no digits.
    points, owner = shapely.get_coordinates(geometry, return_index=True)
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    geometry = shapely.set_coordinates(geometry.copy(), points - points[begins][owner])
    rectangle = shapely.get_coordinates(shapely.oriented_envelope(geometry)).reshape(-1, 5, 2)
    sides = np.diff(rectangle[:, :3], axis=1)
    lengths = np.hypot(sides[..., 0], sides[..., 1])
    longer = sides[np.arange(len(sides)), lengths.argmax(axis=1)]
    angle = np.degrees(np.arctan2(longer[:, 0], longer[:, 1])) % 180
    return Sizes(
        area=shapely.area(geometry) if area is None else area,
        length=lengths.max(axis=1),
        width=lengths.min(axis=1),
        angle=np.where(angle < 180, angle, 0.0),  # -1e-15 % 180 is 180
    )


def _ellipsoidal(geometry: NDArray[np.object_], crs: pyproj.CRS, ellipsoid: pyproj.Geod) -> Sizes:
    points, owner = shapely.get_coordinates(geometry, return_index=True)
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    longitude, latitude = to_degrees.transform(*points.T)
    a, b = ellipsoid.a, ellipsoid.b

    # Lambert's cylinder keeps areas on the whole ellipsoid.
    middle = longitude.mean() if len(longitude) else 0.0
    cylinder = pyproj.Proj(proj="cea", a=a, b=b, lon_0=middle)
    equal_area = np.column_stack(cylinder(longitude, latitude))
    area = shapely.area(shapely.set_coordinates(geometry.copy(), equal_area))

    # For lengths each object gets its own tangent plane: metres a degree around its centre.
    centre = np.bincount(owner, latitude) / np.bincount(owner)
    sine = np.sin(np.radians(centre))
    curve = np.sqrt(1 - (1 - (b / a) ** 2) * sine**2)
    east = np.radians(a / curve * np.cos(np.radians(centre)))
    north = np.radians(b**2 / a / curve**3)
    plane = np.column_stack([(longitude - middle) * east[owner], latitude * north[owner]])
    return _planar(shapely.set_coordinates(geometry.copy(), plane), area)
