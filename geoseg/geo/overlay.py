"""Polygons of any CRS on the pixels of a scene: the areas, labels and truths that users draw."""

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
"""Points a side of the scene that are sought in the other CRS."""
_MARGIN = 0.05
"""Of the scene's size in the other CRS: outlines bend by less between two samples."""
_PARTS = 1024
"""Of the scene's size: longer sides get corners between, for they bend on their way."""
_TURNS = (0, -1, 1, -2, 2)
"""Longitudes from -180, from 0, or on across the 180th meridian mean the same places."""
_POLYGONAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
_SNAP = 1e-6
"""Pixels. Parts of a polygon closer than this are one."""


def overlay(shapes: Shapes, crs: pyproj.CRS | None, geobox: GeoBox) -> Shapes:
    """The parts of polygons (N,) that lie on a scene, in its pixels: (N,), empty where none does.

    They are cut to the scene's surroundings in their own CRS first, so that it does not matter
    how far beyond the scene's CRS they reach. Sides bend as they do on the ground. Outlines that
    cross themselves are repaired; shapes that are beyond repair, or no polygons, come out empty.

    Args:
        shapes: geometries of any kind; of collections, the polygons count. None is allowed.
        crs: None = coordinates as in outputs of a scene without CRS, or, where no y is negative,
            columns and rows.

    Raises:
        DataError: one of the two has no CRS, nothing leads from one to the other, or the
            coordinates cannot be of the CRS that the file declares.
    """
    polygons = _repaired(shapes)
    own = None if geobox.crs is None else to_pyproj(geobox.crs)
    if crs is None or own is None:
        if crs is not None or own is not None:
            which = "the scene has one" if crs is None else "the scene has none"
            state = "no coordinate reference system" if crs is None else f"CRS {crs.name}"
            raise DataError(f"has {state} but {which}; assign one to both, or to neither")
        if geobox.has_pixel_coordinates and not (shapely.bounds(polygons)[:, 1] < 0).any():
            polygons = shapely.transform(polygons, lambda xy: xy * (1, -1))  # counted downwards
        return _cut(_to_pixels(polygons, geobox), 0, 0, geobox.width, geobox.height)
    _must_be_possible(polygons, crs)
    direct = same_crs(crs, own)
    if not direct and (base_geographic(crs) is None or base_geographic(own) is None):
        raise DataError(
            f"is in {crs.name}, and no way leads to {own.name}, the scene's CRS; give one of them "
            "the CRS of the other"
        )
    way = None if direct else transformer(crs, own)
    pieces: list[Shapes] = []
    for box, turn in _surroundings(geobox, own, crs, direct):
        left, bottom, right, top = box
        near = _cut(polygons, left + turn, bottom, right + turn, top)
        if not (there := ~shapely.is_empty(near)).any():
            continue
        piece = np.full(len(near), shapely.Polygon(), object)
        moved = near[there]
        if way is not None:
            longest = max(right - left, top - bottom) / _PARTS
            moved = _moved(shapely.segmentize(moved, longest), way, longitude_period(own))
        piece[there] = moved
        pieces += _on_scene(piece, geobox, own)
    return _united(pieces, len(polygons))


def _repaired(shapes: Shapes) -> Shapes:
    """Valid polygons in two dimensions, empty where there is none."""
    flat = shapely.force_2d(shapes)
    usable = ~shapely.is_missing(flat) & (shapely.get_dimensions(flat) == 2)
    usable &= np.isfinite(shapely.bounds(flat)).all(axis=1)
    sound = usable & np.isin(shapely.get_type_id(flat), _POLYGONAL) & shapely.is_valid(flat)
    polygons = np.full(len(flat), shapely.Polygon(), object)
    polygons[sound] = flat[sound]
    for place in np.flatnonzero(usable & ~sound):
        polygons[place] = _polygonal(flat[place])
    return polygons


def _polygonal(shape: shapely.Geometry) -> shapely.Geometry:
    """The polygons of a shape, valid; empty where GEOS gives up."""
    try:
        if shape.geom_type == "GeometryCollection":
            parts = [part for part in shapely.get_parts(shape) if shapely.get_dimensions(part) == 2]
            shape = shapely.union_all([_polygonal(part) for part in parts])
        return shapely.make_valid(shape, method="structure", keep_collapsed=False)
    except GEOSException:
        return shapely.Polygon()


def _must_be_possible(polygons: Shapes, crs: pyproj.CRS) -> None:
    """Metres in a file that says degrees are the commonest of mistakes."""
    turn = longitude_period(crs)
    there = ~shapely.is_empty(polygons)
    if turn is None or not there.any():
        return
    left, bottom, right, top = shapely.bounds(polygons[there]).T
    beyond = (bottom > turn / 4) | (top < -turn / 4) | (left > 1.5 * turn) | (right < -1.5 * turn)
    if beyond.all():
        x, y = (left[0] + right[0]) / 2, (bottom[0] + top[0]) / 2
        raise DataError(
            f"has coordinates such as {x:.10g}, {y:.10g}, which are no longitude and latitude, "
            f"but says that they are {crs.name}; give it the CRS that they are in"
        )


def _surroundings(
    geobox: GeoBox, own: pyproj.CRS, crs: pyproj.CRS, direct: bool
) -> Iterator[tuple[Box, float]]:
    """Boxes in another CRS that hold the scene, and shifts by which they occur again."""
    columns, rows = np.meshgrid(
        np.linspace(0, geobox.width, _SAMPLES), np.linspace(0, geobox.height, _SAMPLES)
    )
    x, y = geobox.to_xy(columns.ravel(), rows.ravel())
    turn = longitude_period(crs)
    if not direct:
        out, back = transformer(own, crs), transformer(crs, own)
        start = np.stack([x, y])
        x, y = transform_points(out, x, y)
        again = np.stack(transform_points(back, x, y)) - start
        if period := longitude_period(own):
            again[0] -= np.round(again[0] / period) * period
        across = math.hypot(*np.ptp(start, axis=1))
        known = np.hypot(*again) <= 0.01 * across  # not so beyond the reach of a projection
        x, y = x[known], y[known]
        if not len(x):
            return
        if turn is not None:
            yield from (_around_poles(geobox, own, crs, turn, x, y))
            return
    for clump in [np.arange(len(x))] if turn else _clumps(x, y):
        for shift in _TURNS if turn else (0,):
            yield _grown(x[clump], y[clump]), shift * (turn or 0)


def _around_poles(
    geobox: GeoBox, own: pyproj.CRS, crs: pyproj.CRS, turn: float, x: Floats, y: Floats
) -> Iterator[tuple[Box, float]]:
    """Of geographic coordinates, in which the 180th meridian and the poles are no borders."""
    middle = x[len(x) // 2]
    x = middle + (x - middle + turn / 2) % turn - turn / 2
    left, bottom, right, top = _grown(x, y)
    inverse = ~geobox.transform
    for pole in (-turn / 4, turn / 4):
        column, row = transform_points(transformer(crs, own), [0.0], [pole])
        if not np.isfinite([column, row]).all():
            continue  # the map does not reach so far
        column, row = inverse @ (column, row)
        if 0 <= column[0] <= geobox.width and 0 <= row[0] <= geobox.height:
            left, right = -turn / 2, turn / 2
            bottom, top = min(bottom, pole), max(top, pole)
    box = (left, max(bottom, -turn / 4), min(right, left + turn), min(top, turn / 4))
    yield from ((box, shift * turn) for shift in _TURNS)


def _clumps(x: Floats, y: Floats) -> list[NDArray[np.intp]]:
    """Numbers of the points on either side of a seam of a map, where a scene lies across it."""
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
    """(left, bottom, right, top) around points and a little more."""
    margin = _MARGIN * max(np.ptp(x), np.ptp(y), 1e-12 * max(np.abs(x).max(), np.abs(y).max()))
    return x.min() - margin, y.min() - margin, x.max() + margin, y.max() + margin


def _cut(polygons: Shapes, left: float, bottom: float, right: float, top: float) -> Shapes:
    """The polygonal parts within a rectangle."""
    cut = np.full(len(polygons), shapely.Polygon(), object)
    bounds = shapely.bounds(polygons)
    with np.errstate(invalid="ignore"):
        inside = (bounds[:, :2] >= (left, bottom)) & (bounds[:, 2:] <= (right, top))
        meets = (bounds[:, :2] < (right, top)) & (bounds[:, 2:] > (left, bottom))
    whole, part = inside.all(axis=1), meets.all(axis=1) & ~inside.all(axis=1)
    cut[whole] = polygons[whole]
    cut[part] = _repaired(
        shapely.intersection(polygons[part], shapely.box(left, bottom, right, top))
    )
    return cut


def _moved(shapes: Shapes, way: pyproj.Transformer, turn: float | None) -> Shapes:
    """In the other CRS; what has corners that do not exist there comes out empty.

    turn: where that has longitudes, which jump at the 180th meridian.
    """
    points, owner = shapely.get_coordinates(shapes, return_index=True)
    there = np.column_stack(transform_points(way, *points.T))
    lost = np.unique(owner[~np.isfinite(there).all(axis=1)])
    moved = shapely.set_coordinates(shapes.copy(), np.nan_to_num(there, posinf=0, neginf=0))
    moved[lost] = shapely.Polygon()
    return moved if turn is None else unwrap(moved, turn)


def _on_scene(shapes: Shapes, geobox: GeoBox, own: pyproj.CRS) -> Iterator[Shapes]:
    """From the scene's CRS to its pixels; in degrees, at every turn of the Earth."""
    turn = longitude_period(own)
    left, _, right, _ = geobox.bounds
    west, _, east, _ = shapely.total_bounds(shapes)
    for shift in (number * turn for number in _TURNS) if turn else (0.0,):
        if west + shift < right and east + shift > left:
            pixels = _to_pixels(shift_east(shapes, shift), geobox)
            yield _cut(pixels, 0, 0, geobox.width, geobox.height)


def _to_pixels(shapes: Shapes, geobox: GeoBox) -> Shapes:
    inverse = ~geobox.transform
    moved = shapely.transform(shapes, lambda x, y: inverse @ (x, y), interleaved=False)
    return _repaired(moved)


def _united(pieces: list[Shapes], count: int) -> Shapes:
    """Of each polygon, its pieces together."""
    result = np.full(count, shapely.Polygon(), object)
    for piece in pieces:
        new = ~shapely.is_empty(piece)
        both = new & ~shapely.is_empty(result)
        result[new & ~both] = piece[new & ~both]
        result[both] = shapely.union(result[both], piece[both], grid_size=_SNAP)
    return _repaired(result)
