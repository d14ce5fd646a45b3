"""Measure polygons on the ground: area, length, width and direction, in meters and degrees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from geoseg.geo.crs import Ground, axis_unit, to_pyproj
from geoseg.geo.planes import Planes

Floats = NDArray[np.float64]

_MIN_STEP = 100.0
"""Meters over which the scale at an object is measured, at least: inverse projections are accurate
to a millimeter at worst, which would be a percent of a pixel."""
_MAX_BEND = 2e-5
"""Greatest deviation of the map from its tangent, in sizes of an object, at which one linear
transformation is used for all of its corners."""
_EQUAL, _DIGITS = 1e-6, 6
"""Rounding errors of projections: relative, of lengths, and in decimals, of degrees."""
_PARTS = 32
"""Segments per side of a large object, whose sides may be curved on the ground."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of P polygons: meters, or pixels without a CRS."""

    area: Floats
    """(P,)"""
    length: Floats
    """(P,) longer side of the minimum rotated rectangle."""
    width: Floats
    """(P,) its shorter side."""
    angle: Floats
    """(P,) direction of its longer side: degrees clockwise from grid north, which is up the y
    axis, 0 ≤ angle < 180. In geographic and Mercator CRSs grid north is true north."""


def measure(geometry: NDArray[np.object_], crs: CRS | None) -> Sizes:
    """Measure polygons in CRS units (without a CRS: pixels) on the CRS's ellipsoid.

    Each object is measured in an equal-area plane that touches the ellipsoid at the object's
    center. If that is off the globe, or the CRS has no datum, it is measured on the map.
    """
    if crs is None:
        return _planar(geometry, 1.0)
    map_ = to_pyproj(crs)
    ground = Ground.of(map_)
    if ground is None or not len(geometry):
        return _planar(geometry, axis_unit(map_))
    planes, center, half, tangent, bend = _ground_frames(shapely.bounds(geometry), map_, ground)
    finite = np.isfinite(bend)
    points, owner = shapely.get_coordinates(geometry, return_index=True)
    steps = points - center.T[owner]
    in_plane = np.einsum("na,abn->nb", steps, tangent[..., owner])
    flat = shapely.set_coordinates(geometry.copy(), in_plane)

    if len(large := np.flatnonzero(finite & (bend > _MAX_BEND))):
        flat[large] = _projected(geometry[large], planes.take(large), ground, half[:, large])
    up = np.arctan2(tangent[1, 0], tangent[1, 1])  # direction of the y axis, clockwise from north
    return _planar(flat, 1.0, up)


def ground_axes(bounds: Floats, crs: CRS | None) -> Floats:
    """Return (P, 2, 2) matrices from steps in CRS units to meters east and north, or pixels without
    a CRS, at the centers of boxes (P, 4): left, bottom, right, top."""
    unit = np.eye(2)
    if crs is not None:
        map_ = to_pyproj(crs)
        if (ground := Ground.of(map_)) is not None and len(bounds):
            return np.moveaxis(_ground_frames(bounds, map_, ground)[3], -1, 0)
        unit *= axis_unit(map_)
    return np.tile(unit, (len(bounds), 1, 1))


def _ground_frames(
    bounds: Floats, map_: pyproj.CRS, ground: Ground
) -> tuple[Planes, Floats, Floats, Floats, Floats]:
    """Return the planes at the centers of boxes (P, 4), these centers and half the sizes in CRS
    units (2, P), and `_tangents`, which are those of the map off the globe."""
    left, bottom, right, top = bounds.T
    center = np.stack([left + right, bottom + top]) / 2
    planes = Planes.at(ground.lonlat(*center), ground.ellipsoid)
    min_step = _MIN_STEP / (axis_unit(map_) * (ground.ellipsoid.a if map_.is_geographic else 1.0))
    half = np.maximum(np.stack([right - left, top - bottom]) / 2, min_step)

    tangent, bend = _tangents(planes, ground, center, half)
    tangent[..., ~np.isfinite(bend)] = np.eye(2)[..., None] * axis_unit(map_)
    return planes, center, half, tangent, bend


def _tangents(
    planes: Planes, ground: Ground, center: Floats, half: Floats
) -> tuple[Floats, Floats]:
    """Return meters to the east and north per axis_unit of x and y, (2, 2, P), and how far the map
    deviates from that in sizes of the object, (P,), not finite off the globe."""
    directions = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)], np.float64)
    steps = directions.T[:, :, None] * half[:, None, :]  # (2, 9, P)
    count = half.shape[1]
    lonlat = ground.lonlat(*(center[:, None, :] + steps).reshape(2, -1))
    owner = np.tile(np.arange(count), len(directions))
    x, y = planes.project(lonlat, owner).reshape(2, len(directions), count)
    position = np.stack([x, y])
    along_x, along_y = (position[:, 7] - position[:, 1]) / 2, (position[:, 5] - position[:, 3]) / 2
    linear = directions[:, 0, None] * along_x[:, None] + directions[:, 1, None] * along_y[:, None]
    deviation = np.hypot(*(position - position[:, 4:5] - linear)).max(axis=0)
    size = np.maximum(np.hypot(*along_x), np.hypot(*along_y))
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = deviation / size
    return np.stack([along_x / half[0], along_y / half[1]]), bend


def _projected(
    geometry: NDArray[np.object_], planes: Planes, ground: Ground, half: Floats
) -> NDArray[np.object_]:
    """Project large objects to their planes, with sides curved as on the ground."""
    dense = shapely.segmentize(geometry, half.max(axis=0) * 2 / _PARTS)
    points, owner = shapely.get_coordinates(dense, return_index=True)
    projected = planes.project(ground.lonlat(*points.T), owner).T
    return shapely.set_coordinates(dense, projected)


def _planar(geometry: NDArray[np.object_], scale: float, up: Floats | float = 0.0) -> Sizes:
    """Measure polygons in a plane, times `scale`; `up` is the direction of its y axis, radians."""
    # Move objects to the origin, so that eastings of millions of meters cost no digits.
    points, owner = shapely.get_coordinates(geometry, return_index=True)
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    if len(begins) == len(geometry):
        points = points - points[begins][owner]
    geometry = shapely.set_coordinates(geometry.copy(), points * scale)
    rectangle = shapely.oriented_envelope(geometry)
    if (degenerate := shapely.get_num_coordinates(rectangle) != 5).any():
        rectangle[degenerate] = shapely.box(*shapely.bounds(geometry[degenerate]).T)
    corners = shapely.get_coordinates(rectangle).reshape(-1, 5, 2)
    sides = np.diff(corners[:, :3], axis=1)
    lengths = np.hypot(sides[..., 0], sides[..., 1])
    second = lengths[:, 1] > lengths[:, 0] * (1 + _EQUAL)
    longer = sides[np.arange(len(sides)), second.astype(np.intp)]
    angle = np.degrees(np.arctan2(longer[:, 0], longer[:, 1]) - up)
    return Sizes(
        area=shapely.area(geometry),
        length=lengths.max(axis=1),
        width=lengths.min(axis=1),
        angle=angle.round(_DIGITS) % 180,  # so that -1e-15 becomes 0
    )
