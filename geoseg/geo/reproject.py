"""Features in another CRS, cut where they cross the edge of its map."""

from __future__ import annotations

import numpy as np
import pyproj
import shapely
from geopandas import GeoDataFrame
from numpy.typing import ArrayLike, NDArray

from geoseg.errors import DataError, OptionError
from geoseg.geo.antimeridian import cut_at_antimeridian, shift_east, unwrap
from geoseg.geo.crs import (
    WGS84,
    WritableCRS,
    any_transformable,
    axis_unit,
    base_geographic,
    horizontal,
    longitude_period,
    parse_crs,
    same_crs,
    to_pyproj,
    transform_points,
    transformer,
)
from geoseg.geo.geobox import GeoBox

Shapes = NDArray[np.object_]

_PARTS = 64
"""Sides of a shape around the globe get vertices this fraction of its size apart."""
_SEAM = 1e-9
"""Share of the period of longitude, 0.04 m: parts end this far from the edge of the map, so that
rounding does not throw them to the other side."""


def check_format_crs(geobox: GeoBox, kind: str, scene: str, *, wgs84: bool, prj: bool) -> None:
    """Raise OptionError if results of a scene cannot be in the CRS that a format requires.

    Args:
        wgs84, prj: see `to_output_crs`.
    """
    if prj and geobox.crs is not None:
        _check_prj(to_pyproj(geobox.crs), kind)
    if not wgs84:
        return
    if geobox.crs is None:
        raise OptionError(f"--format {kind} is in WGS 84, but {scene} has no CRS; choose another")
    columns, rows = np.meshgrid(np.linspace(0, geobox.width, 5), np.linspace(0, geobox.height, 5))
    x, y = geobox.to_xy(columns.ravel(), rows.ravel())
    _check_transformable(to_pyproj(geobox.crs), parse_crs(WGS84, ""), x, y, f"--format {kind}")


def check_target_crs(kind: str, target: str | None, *, wgs84: bool) -> None:
    """Raise OptionError for an unknown CRS, or one that the format forbids."""
    if target is None:
        return
    if not same_crs(parse_crs(target, "--t-srs"), parse_crs(WGS84, "")) and wgs84:
        raise OptionError(f"--format {kind} is in WGS 84 by its standard; leave out --t-srs")


def to_output_crs(
    frame: GeoDataFrame, kind: str, target: str | None, *, wgs84: bool, prj: bool = False
) -> GeoDataFrame:
    """Return features in the CRS `target`, or in that of their format.

    Args:
        wgs84: the format's standard requires WGS 84.
        prj: the format stores the CRS as ESRI's WKT.

    Raises:
        OptionError: unknown CRS, no transformation to it, or one that the format cannot store.
    """
    check_target_crs(kind, target, wgs84=wgs84)
    wanted = (WGS84 if wgs84 else None) if target is None else target
    if wanted is not None:
        if frame.crs is None:
            raise OptionError(
                f"the layers have no CRS, so they cannot go to {wanted}; choose another --format "
                "than geojson and kml, without --t-srs"
            )
        flag = f"--t-srs {target}" if target else f"--format {kind}"
        frame = reproject(frame, parse_crs(wanted, "--t-srs"), flag)
    if frame.crs is None:
        return frame
    if prj:
        _check_prj(frame.crs, kind)
    return frame.set_crs(WritableCRS(frame.crs), allow_override=True)


def _check_prj(crs: pyproj.CRS, kind: str) -> None:
    if not WritableCRS(crs).has_esri_wkt:
        raise OptionError(
            f"--format {kind} cannot store the CRS {crs.name}; choose another format, or another "
            "CRS (geoseg export --t-srs)"
        )


def reproject(frame: GeoDataFrame, target: pyproj.CRS, flag: str) -> GeoDataFrame:
    """Return features in another CRS, in parts where they cross the edge of its map.

    Raises OptionError, beginning with `flag`, if they have no coordinates there.
    """
    shapes = np.asarray(frame.geometry.values, dtype=object)
    if not len(shapes):
        return frame.set_crs(target, allow_override=True)
    own = horizontal(frame.crs)
    left, bottom, right, top = shapely.total_bounds(shapes)
    x, y = np.meshgrid([left, (left + right) / 2, right], [bottom, (bottom + top) / 2, top])
    _check_transformable(own, target, x.ravel(), y.ravel(), flag)
    moved = _moved(shapes, own, target)
    lost = ~np.isfinite(shapely.bounds(moved)).all(axis=1) & ~shapely.is_empty(shapes)
    if lost.any():
        raise OptionError(
            f"{flag}: {lost.sum()} of {len(frame)} features lie beyond the map of {target.name}; "
            "choose a CRS that holds all of them"
        )
    return frame.set_geometry(list(moved), crs=target)


def _check_transformable(
    own: pyproj.CRS, target: pyproj.CRS, x: ArrayLike, y: ArrayLike, flag: str
) -> None:
    if same_crs(own, target):
        return
    try:
        possible = base_geographic(own) is not None and base_geographic(target) is not None
        possible = possible and any_transformable(own, target, x, y)
    except DataError:
        possible = False
    if not possible:
        raise OptionError(
            f"{flag}: PROJ has no transformation from {own.name}, the CRS of the features, to "
            f"{target.name}; choose another"
        )


def _moved(shapes: Shapes, own: pyproj.CRS, target: pyproj.CRS) -> Shapes:
    if (period := longitude_period(target)) is not None:
        if not same_crs(own, target):
            shapes = _unwrapped(shapes, transformer(own, target), 0, period)
        return np.array([cut_at_antimeridian(shape, period) for shape in shapes], object)
    moved = shapes if same_crs(own, target) else _transformed(shapes, transformer(own, target))
    geographic, meridian = base_geographic(target), _central_meridian(target)
    if geographic is None or meridian is None:
        return moved
    period = 2 * np.pi / axis_unit(geographic)
    projection = transformer(geographic, target)
    lonlat = _unwrapped(shapes, transformer(own, geographic), meridian, period)
    bounds = shapely.bounds(lonlat)
    for index in np.flatnonzero((bounds[:, 2] > period / 2) | (bounds[:, 0] < -period / 2)):
        if _has_edge(projection, meridian, period, bounds[index]):
            cut = cut_at_antimeridian(lonlat[index], period, _SEAM * period)
            cut = shift_east(np.array([cut], object), meridian)
            moved[index] = _transformed(cut, projection)[0]
    return moved


def _central_meridian(crs: pyproj.CRS) -> float | None:
    """Return the longitude in the middle of a projection's map, in units of its geographic CRS."""
    geographic, conversion = base_geographic(crs), crs.coordinate_operation
    if conversion is None or geographic is None:
        return None
    for parameter in conversion.params:
        if parameter.name.startswith("Longitude of"):
            return float(parameter.value) * parameter.unit_conversion_factor / axis_unit(geographic)
    return None


def _has_edge(
    projection: pyproj.Transformer, meridian: float, period: float, bounds: NDArray[np.float64]
) -> bool:
    """Whether the map ends half a period from its central meridian, at the latitude of `bounds`.

    There, points just west and just east of the edge lie far apart.
    """
    east, nearer = period / 2 * (1 - 1e-9), period / 2 * (1 - 2e-9)
    latitude = (bounds[1] + bounds[3]) / 2
    longitude = meridian + np.array([east, nearer, -east])
    x, y = transform_points(projection, longitude, np.full(3, latitude))
    step, across = np.hypot(x[1:] - x[0], y[1:] - y[0])
    return bool(across > 100 * max(step, 1e-3 / 100))


def _unwrapped(
    shapes: Shapes, operation: pyproj.Transformer, meridian: float, period: float
) -> Shapes:
    """Return shapes in continuous longitudes, counted from a meridian."""

    def to_lonlat(part: Shapes) -> Shapes:
        lonlat = _transformed(part, operation)
        points = shapely.get_coordinates(lonlat)
        longitude = points[:, 0] - meridian
        points[:, 0] = longitude - np.round(longitude / period) * period
        return shapely.set_coordinates(lonlat, points)

    moved = to_lonlat(shapes)
    bounds = shapely.bounds(moved)
    wide = np.flatnonzero(bounds[:, 2] - bounds[:, 0] > period / 2)
    if len(wide):
        own = shapely.bounds(shapes[wide])
        longest = np.maximum(own[:, 2] - own[:, 0], own[:, 3] - own[:, 1]) / _PARTS
        moved[wide] = unwrap(to_lonlat(shapely.segmentize(shapes[wide], longest)), period)
    return moved


def _transformed(shapes: Shapes, operation: pyproj.Transformer) -> Shapes:
    points = shapely.get_coordinates(shapes)
    moved = np.column_stack(transform_points(operation, *points.T))
    return shapely.set_coordinates(shapes.copy(), moved)
