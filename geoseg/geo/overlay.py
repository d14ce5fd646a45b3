"""Polygons of any CRS on the pixels of a scene: areas of interest and labels that users draw."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from shapely.errors import GEOSException

from geoseg.errors import DataError
from geoseg.geo.antimeridian import shift_east, unwrap
from geoseg.geo.crs import (
    base_geographic,
    longitude_period,
    same_crs,
    to_pyproj,
    transform_points,
    transformer,
)
from geoseg.geo.geobox import GeoBox

Floats = NDArray[np.float64]
Shapes = NDArray[np.object_]
Box = tuple[float, float, float, float]

_SAMPLES = 33
"""Points a side of the scene that locate it in another CRS."""
_MARGIN = 0.05
"""Share of the scene's size in another CRS: its outline bends less between two samples."""
_PARTS = 1024
"""Sides longer than this fraction of the scene get vertices in between, as they bend."""
_PERIODS = (0, -1, 1, -2, 2)
"""Longitudes may run from -180, from 0, or continue across the 180th meridian."""
_POLYGONAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
_SNAP = 1e-6
"""Pixels: parts of a polygon closer than this are joined."""


def overlay(shapes: Shapes, crs: pyproj.CRS | None, geobox: GeoBox) -> Shapes:
    """Return the parts of polygons (N,) on a scene, in its pixels: (N,), empty if there are none.

    Polygons are first cut to the scene's surroundings in their own CRS, because they may extend
    beyond the domain of the scene's. Sides bend as they do on the ground. Outlines that cross
    themselves are repaired; shapes without area, or beyond repair, come out empty.

    Args:
        shapes: geometries of any kind, or None; only the polygons of collections count.
        crs: None: coordinates as in outputs of a scene without CRS or, if no y is negative,
            columns and rows.

    Raises:
        DataError: only one of the two has a CRS, PROJ cannot transform between them, or the
            coordinates contradict the declared CRS.
    """
    polygons = _repaired(shapes)
    own = None if geobox.crs is None else to_pyproj(geobox.crs)
    if crs is None or own is None:
        if crs is not None or own is not None:
            which = "the scene has one" if crs is None else "the scene has none"
            state = "no coordinate reference system" if crs is None else f"CRS {crs.name}"
            raise DataError(f"has {state} but {which}; assign one to both, or to neither")
        if geobox.has_pixel_coordinates and not (shapely.bounds(polygons)[:, 1] < 0).any():
            polygons = shapely.transform(polygons, lambda xy: xy * (1, -1))  # rows count downwards
        return _cut(_to_pixels(polygons, geobox), 0, 0, geobox.width, geobox.height)
    _check_degrees(polygons, crs)
    direct = same_crs(crs, own)
    if not direct and (base_geographic(crs) is None or base_geographic(own) is None):
        raise DataError(
            f"is in {crs.name}, and PROJ has no transformation to {own.name}, the scene's CRS; "
            "give one of them the CRS of the other"
        )
    operation = None if direct else transformer(crs, own)
    pieces: list[Shapes] = []
    for box, shift in _surroundings(geobox, own, crs, direct):
        left, bottom, right, top = box
        near = _cut(polygons, left + shift, bottom, right + shift, top)
        if not (exists := ~shapely.is_empty(near)).any():
            continue
        piece = np.full(len(near), shapely.Polygon(), object)
        moved = near[exists]
        if operation is not None:
            longest = max(right - left, top - bottom) / _PARTS
            moved = _transformed(shapely.segmentize(moved, longest), operation, own)
        piece[exists] = moved
        pieces += _on_scene(piece, geobox, own)
    return _union(pieces, len(polygons))


def _repaired(shapes: Shapes) -> Shapes:
    """Return valid 2D polygons, empty where there is none."""
    flat = shapely.force_2d(shapes)
    usable = ~shapely.is_missing(flat) & (shapely.get_dimensions(flat) == 2)
    usable &= np.isfinite(shapely.bounds(flat)).all(axis=1)
    valid = usable & np.isin(shapely.get_type_id(flat), _POLYGONAL) & shapely.is_valid(flat)
    polygons = np.full(len(flat), shapely.Polygon(), object)
    polygons[valid] = flat[valid]
    for index in np.flatnonzero(usable & ~valid):
        polygons[index] = _polygonal(flat[index])
    return polygons


def _polygonal(shape: shapely.Geometry) -> shapely.Geometry:
    """Return the polygons of a shape, made valid; empty if GEOS fails."""
    try:
        if shape.geom_type == "GeometryCollection":
            parts = [part for part in shapely.get_parts(shape) if shapely.get_dimensions(part) == 2]
            shape = shapely.union_all([_polygonal(part) for part in parts])
        return shapely.make_valid(shape, method="structure", keep_collapsed=False)
    except GEOSException:
        return shapely.Polygon()


def _check_degrees(polygons: Shapes, crs: pyproj.CRS) -> None:
    """Raise DataError for the most common mistake: meters in a file that declares degrees."""
    period = longitude_period(crs)
    exists = ~shapely.is_empty(polygons)
    if period is None or not exists.any():
        return
    left, bottom, right, top = shapely.bounds(polygons[exists]).T
    beyond = (bottom > period / 4) | (top < -period / 4)
    beyond |= (left > 1.5 * period) | (right < -1.5 * period)
    if beyond.all():
        x, y = (left[0] + right[0]) / 2, (bottom[0] + top[0]) / 2
        raise DataError(
            f"has coordinates such as {x:.10g}, {y:.10g}, which are no longitude and latitude, "
            f"but says that they are {crs.name}; give it the CRS that they are in"
        )


def _surroundings(
    geobox: GeoBox, own: pyproj.CRS, crs: pyproj.CRS, direct: bool
) -> Iterator[tuple[Box, float]]:
    """Yield boxes in another CRS that contain the scene, and shifts at which they recur."""
    columns, rows = np.meshgrid(
        np.linspace(0, geobox.width, _SAMPLES), np.linspace(0, geobox.height, _SAMPLES)
    )
    x, y = geobox.to_xy(columns.ravel(), rows.ravel())
    period = longitude_period(crs)
    if not direct:
        start = np.stack([x, y])
        x, y = transform_points(transformer(own, crs), x, y)
        error = np.stack(transform_points(transformer(crs, own), x, y)) - start
        if own_period := longitude_period(own):
            error[0] -= np.round(error[0] / own_period) * own_period
        # Outside their domain, projections do not come back to where they started.
        known = np.hypot(*error) <= 0.01 * math.hypot(*np.ptp(start, axis=1))
        x, y = x[known], y[known]
        if not len(x):
            return
        if period is not None:
            box = _geographic_box(geobox, own, crs, period, x, y)
            yield from ((box, number * period) for number in _PERIODS)
            return
    if period is not None:
        yield from ((_grown(x, y), number * period) for number in _PERIODS)
    else:
        yield from ((_grown(x[part], y[part]), 0.0) for part in _split_at_seam(x, y))


def _geographic_box(
    geobox: GeoBox, own: pyproj.CRS, crs: pyproj.CRS, period: float, x: Floats, y: Floats
) -> Box:
    """Return the box around longitudes and latitudes, with the pole if the scene shows one."""
    middle = x[len(x) // 2]
    x = middle + (x - middle + period / 2) % period - period / 2
    left, bottom, right, top = _grown(x, y)
    inverse = ~geobox.transform
    for pole in (-period / 4, period / 4):
        pole_x, pole_y = transform_points(transformer(crs, own), [0.0], [pole])
        if not np.isfinite([pole_x, pole_y]).all():
            continue  # the projection does not extend to the pole
        column, row = inverse @ (pole_x[0], pole_y[0])
        if 0 <= column <= geobox.width and 0 <= row <= geobox.height:
            left, right = -period / 2, period / 2
            bottom, top = min(bottom, pole), max(top, pole)
    return left, max(bottom, -period / 4), min(right, left + period), min(top, period / 4)


def _split_at_seam(x: Floats, y: Floats) -> list[NDArray[np.intp]]:
    """Return indices of the points on either side of a projection's seam, in x and in y."""
    parts = [np.arange(len(x))]
    for values in (x, y):
        halves = []
        for part in parts:
            order = part[np.argsort(values[part])]
            gaps = np.diff(values[order])
            if len(gaps) and gaps.max() > np.ptp(values[part]) / 2 and len(part) > _SAMPLES:
                halves += np.split(order, [int(gaps.argmax()) + 1])
            else:
                halves.append(part)
        parts = halves
    return parts


def _grown(x: Floats, y: Floats) -> Box:
    """Return (left, bottom, right, top) around points, with a margin."""
    margin = _MARGIN * max(np.ptp(x), np.ptp(y), 1e-12 * max(np.abs(x).max(), np.abs(y).max()))
    return x.min() - margin, y.min() - margin, x.max() + margin, y.max() + margin


def _cut(polygons: Shapes, left: float, bottom: float, right: float, top: float) -> Shapes:
    """Return the polygonal parts inside a rectangle."""
    cut = np.full(len(polygons), shapely.Polygon(), object)
    bounds = shapely.bounds(polygons)
    with np.errstate(invalid="ignore"):
        lower, upper = bounds[:, :2], bounds[:, 2:]
        inside = ((lower >= (left, bottom)) & (upper <= (right, top))).all(axis=1)
        crossing = ((lower < (right, top)) & (upper > (left, bottom))).all(axis=1) & ~inside
    cut[inside] = polygons[inside]
    box = shapely.box(left, bottom, right, top)
    cut[crossing] = _repaired(shapely.intersection(polygons[crossing], box))
    return cut


def _transformed(shapes: Shapes, operation: pyproj.Transformer, target: pyproj.CRS) -> Shapes:
    """Return shapes in another CRS; empty if a vertex does not exist there."""
    points, owner = shapely.get_coordinates(shapes, return_index=True)
    moved = np.column_stack(transform_points(operation, *points.T))
    lost = np.unique(owner[~np.isfinite(moved).all(axis=1)])
    result = shapely.set_coordinates(shapes.copy(), np.nan_to_num(moved, posinf=0, neginf=0))
    result[lost] = shapely.Polygon()
    period = longitude_period(target)
    return result if period is None else unwrap(result, period)


def _on_scene(shapes: Shapes, geobox: GeoBox, own: pyproj.CRS) -> Iterator[Shapes]:
    """Yield shapes (N,) in pixels, in every period of longitude that meets the scene."""
    period = longitude_period(own)
    left, _, right, _ = geobox.bounds
    west, _, east, _ = shapely.total_bounds(shapes)
    for shift in (number * period for number in _PERIODS) if period else (0.0,):
        if west + shift < right and east + shift > left:
            pixels = _to_pixels(shift_east(shapes, shift), geobox)
            yield _cut(pixels, 0, 0, geobox.width, geobox.height)


def _to_pixels(shapes: Shapes, geobox: GeoBox) -> Shapes:
    inverse = ~geobox.transform
    moved = shapely.transform(shapes, lambda x, y: inverse @ (x, y), interleaved=False)
    return _repaired(moved)


def _union(pieces: list[Shapes], count: int) -> Shapes:
    """Join the pieces of each of `count` polygons."""
    result = np.full(count, shapely.Polygon(), object)
    for piece in pieces:
        new = ~shapely.is_empty(piece)
        both = new & ~shapely.is_empty(result)
        result[new & ~both] = piece[new & ~both]
        result[both] = shapely.union(result[both], piece[both], grid_size=_SNAP)
    return _repaired(result)
