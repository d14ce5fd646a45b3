"""Sizes on the ground: areas, lengths, widths and directions of polygons, in metres and degrees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from geoseg.geo.crs import Ground, axis_unit, to_pyproj
from geoseg.geo.planes import Planes

Floats = NDArray[np.float64]

_FLOOR = 100.0
"""Metres. The scale of a smaller object is that of its surroundings: inverse projections are
true to a millimetre at worst, which would be a per cent of a pixel."""
_BENT = 2e-5
"""Where a map is this far, in sizes of an object, from its tangent, the object is projected corner
by corner; else one scale does for all of it."""
_EQUAL, _DIGITS = 1e-6, 6
"""Rounding errors of projections, in sides of squares, and of degrees."""
_PARTS = 32
"""Of the sides of a large object, which may be bent on the ground."""


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
    """Sizes of polygons in CRS units (without a CRS: pixels), on the CRS's ellipsoid.

    Every object lies in a plane of its own, which keeps areas and touches the ellipsoid at the
    object's centre. Where that is off the globe, or the CRS has no tie to the Earth, the plane is
    the map, times its unit.
    """
    if crs is None:
        return _planar(geometry, 1.0)
    map_ = to_pyproj(crs)
    ground = Ground.of(map_)
    if ground is None or not len(geometry):
        return _planar(geometry, axis_unit(map_))
    left, bottom, right, top = shapely.bounds(geometry).T
    centre = np.stack([left + right, bottom + top]) / 2
    planes = Planes.at(ground.lonlat(*centre), ground.ellipsoid)
    floor = _FLOOR / (axis_unit(map_) * (ground.ellipsoid.a if map_.is_geographic else 1.0))
    half = np.maximum(np.stack([right - left, top - bottom]) / 2, floor)

    tangent, bend = _tangents(planes, ground, centre, half)
    finite = np.isfinite(bend)
    tangent[..., ~finite] = np.eye(2)[..., None] * axis_unit(map_)
    points, owner = shapely.get_coordinates(geometry, return_index=True)
    steps = points - centre.T[owner]
    placed = np.einsum("na,abn->nb", steps, tangent[..., owner])
    flat = shapely.set_coordinates(geometry.copy(), placed)

    if len(large := np.flatnonzero(finite & (bend > _BENT))):
        flat[large] = _projected(geometry[large], planes.take(large), ground, half[:, large])
    up = np.arctan2(tangent[1, 0], tangent[1, 1])  # where y grows, clockwise from north
    return _planar(flat, 1.0, up)


def _tangents(
    planes: Planes, ground: Ground, centre: Floats, half: Floats
) -> tuple[Floats, Floats]:
    """Metres (2, 2, P) that a step of 1 in x or y leads to the east or north; and how far the map
    bends from that (P,), not finite where it leaves the globe."""
    directions = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)], np.float64)
    steps = directions.T[:, :, None] * half[:, None, :]  # (2, 9, P)
    count = half.shape[1]
    there = ground.lonlat(*(centre[:, None, :] + steps).reshape(2, -1))
    owner = np.tile(np.arange(count), len(directions))
    x, y = planes.project(there, owner).reshape(2, len(directions), count)
    place = np.stack([x, y])
    along_x, along_y = (place[:, 7] - place[:, 1]) / 2, (place[:, 5] - place[:, 3]) / 2
    ideal = directions[:, 0, None] * along_x[:, None] + directions[:, 1, None] * along_y[:, None]
    off = np.hypot(*(place - place[:, 4:5] - ideal)).max(axis=0)
    size = np.maximum(np.hypot(*along_x), np.hypot(*along_y))
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = off / size
    return np.stack([along_x / half[0], along_y / half[1]]), bend


def _projected(
    geometry: NDArray[np.object_], planes: Planes, ground: Ground, half: Floats
) -> NDArray[np.object_]:
    """Large objects in their planes, sides bent as on the ground."""
    dense = shapely.segmentize(geometry, half.max(axis=0) * 2 / _PARTS)
    points, owner = shapely.get_coordinates(dense, return_index=True)
    there = planes.project(ground.lonlat(*points.T), owner).T
    return shapely.set_coordinates(dense, there)


def _planar(geometry: NDArray[np.object_], scale: float, up: Floats | float = 0.0) -> Sizes:
    """Sizes of polygons in a plane, times `scale`; `up` is the direction of y in it, radians."""
    # Near the origin, so that eastings of millions of metres cost no digits.
    points, owner = shapely.get_coordinates(geometry, return_index=True)
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    if len(begins) == len(geometry):
        points = points - points[begins][owner]
    geometry = shapely.set_coordinates(geometry.copy(), points * scale)
    rectangle = shapely.oriented_envelope(geometry)
    if (thin := shapely.get_num_coordinates(rectangle) != 5).any():
        rectangle[thin] = shapely.box(*shapely.bounds(geometry[thin]).T)  # of no area
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
