"""Features in another CRS, whole on its map: what lies across the edge of it is cut there."""

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
"""Of the size of what is wide or jumps: its sides get corners between."""
_SEAM = 1e-9
"""Of a turn, 0.04 m: what is cut at the edge of a map ends this far from it, on its own side."""


def check_format_crs(geobox: GeoBox, kind: str, scene: str, *, wgs84: bool, prj: bool) -> None:
    """Raises OptionError where results of a scene cannot be in the CRS that a format wants.

    Args:
        wgs84, prj: of the format, see `to_output_crs`.
    """
    if prj and geobox.crs is not None:
        _check_prj(to_pyproj(geobox.crs), kind)
    if not wgs84:
        return
    if geobox.crs is None:
        raise OptionError(f"--format {kind} is in WGS 84, but {scene} has no CRS; choose another")
    columns, rows = np.meshgrid(np.linspace(0, geobox.width, 5), np.linspace(0, geobox.height, 5))
    x, y = geobox.to_xy(columns.ravel(), rows.ravel())
    _must_reach(to_pyproj(geobox.crs), parse_crs(WGS84, ""), x, y, f"--format {kind}")


def check_target_crs(kind: str, target: str | None, *, wgs84: bool) -> None:
    """Raises OptionError for a CRS that is none, or that the format cannot have."""
    if target is None:
        return
    if not same_crs(parse_crs(target, "--t-srs"), parse_crs(WGS84, "")) and wgs84:
        raise OptionError(f"--format {kind} is in WGS 84 by its standard; leave out --t-srs")


def to_output_crs(
    frame: GeoDataFrame, kind: str, target: str | None, *, wgs84: bool, prj: bool = False
) -> GeoDataFrame:
    """Features in the CRS called `target`, or that of their format.

    Args:
        wgs84: the format is in WGS 84 by its standard.
        prj: the format has ESRI's old WKT for a CRS.

    Raises:
        OptionError: no such CRS, nothing leads there, or the format cannot have it.
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
            f"--format {kind} has no words for {crs.name}; choose another, or another CRS "
            "(geoseg export --t-srs)"
        )


def reproject(frame: GeoDataFrame, target: pyproj.CRS, flag: str) -> GeoDataFrame:
    """Features in another CRS; of those across the edge of its map, the parts on either side.

    Raises OptionError, beginning with `flag`, where nothing leads there.
    """
    shapes = np.asarray(frame.geometry.values, dtype=object)
    if not len(shapes):
        return frame.set_crs(target, allow_override=True)
    own = horizontal(frame.crs)
    left, bottom, right, top = shapely.total_bounds(shapes)
    x, y = np.meshgrid([left, (left + right) / 2, right], [bottom, (bottom + top) / 2, top])
    _must_reach(own, target, x.ravel(), y.ravel(), flag)
    moved = _moved(shapes, own, target)
    lost = ~np.isfinite(shapely.bounds(moved)).all(axis=1) & ~shapely.is_empty(shapes)
    if lost.any():
        raise OptionError(
            f"{flag}: {lost.sum()} of {len(frame)} features lie beyond the map of {target.name}; "
            "choose a CRS that holds all of them"
        )
    return frame.set_geometry(list(moved), crs=target)


def _must_reach(own: pyproj.CRS, target: pyproj.CRS, x: ArrayLike, y: ArrayLike, flag: str) -> None:
    if same_crs(own, target):
        return
    try:
        possible = base_geographic(own) is not None and base_geographic(target) is not None
        possible = possible and any_transformable(own, target, x, y)
    except DataError:
        possible = False
    if not possible:
        raise OptionError(
            f"{flag}: no way leads from {own.name}, the CRS of the features, to {target.name}; "
            "choose another"
        )


def _moved(shapes: Shapes, own: pyproj.CRS, target: pyproj.CRS) -> Shapes:
    if (turn := longitude_period(target)) is not None:
        if not same_crs(own, target):
            shapes = _unjumped(shapes, transformer(own, target), 0, turn)
        return np.array([cut_at_antimeridian(shape, turn) for shape in shapes], object)
    moved = shapes if same_crs(own, target) else _transformed(shapes, transformer(own, target))
    geographic, middle = base_geographic(target), _central_meridian(target)
    if geographic is None or middle is None:
        return moved
    turn = 2 * np.pi / axis_unit(geographic)
    there = transformer(geographic, target)
    lonlat = _unjumped(shapes, transformer(own, geographic), middle, turn)
    bounds = shapely.bounds(lonlat)
    for place in np.flatnonzero((bounds[:, 2] > turn / 2) | (bounds[:, 0] < -turn / 2)):
        if _is_edge(there, middle, turn, bounds[place]):
            cut = cut_at_antimeridian(lonlat[place], turn, _SEAM * turn)
            moved[place] = _transformed(shift_east(np.array([cut], object), middle), there)[0]
    return moved


def _central_meridian(crs: pyproj.CRS) -> float | None:
    """From which the map reaches as far to the west as to the east; in its geographic units."""
    geographic, conversion = base_geographic(crs), crs.coordinate_operation
    if conversion is None or geographic is None:
        return None
    for parameter in conversion.params:
        if parameter.name.startswith("Longitude of"):
            return float(parameter.value) * parameter.unit_conversion_factor / axis_unit(geographic)
    return None


def _is_edge(
    there: pyproj.Transformer, middle: float, turn: float, bounds: NDArray[np.float64]
) -> bool:
    """The map ends where it is farthest from its central meridian, at this latitude."""
    east, nearer = turn / 2 * (1 - 1e-9), turn / 2 * (1 - 2e-9)
    latitude = (bounds[1] + bounds[3]) / 2
    longitude = middle + np.array([east, nearer, -east])
    x, y = transform_points(there, longitude, np.full(3, latitude))
    step, across = np.hypot(x[1:] - x[0], y[1:] - y[0])
    return bool(across > 100 * max(step, 1e-3 / 100))


def _unjumped(shapes: Shapes, way: pyproj.Transformer, middle: float, turn: float) -> Shapes:
    """In longitudes from a meridian, that go on where they would jump."""

    def there(part: Shapes) -> Shapes:
        lonlat = _transformed(part, way)
        points = shapely.get_coordinates(lonlat)
        off = points[:, 0] - middle
        points[:, 0] = off - np.round(off / turn) * turn
        return shapely.set_coordinates(lonlat, points)

    moved = there(shapes)
    bounds = shapely.bounds(moved)
    wide = np.flatnonzero(bounds[:, 2] - bounds[:, 0] > turn / 2)
    if len(wide):
        own = shapely.bounds(shapes[wide])
        longest = np.maximum(own[:, 2] - own[:, 0], own[:, 3] - own[:, 1]) / _PARTS
        moved[wide] = unwrap(there(shapely.segmentize(shapes[wide], longest)), turn)
    return moved


def _transformed(shapes: Shapes, way: pyproj.Transformer) -> Shapes:
    points = shapely.get_coordinates(shapes)
    return shapely.set_coordinates(shapes.copy(), np.column_stack(transform_points(way, *points.T)))
