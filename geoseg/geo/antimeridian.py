"""Polygons in longitude and latitude that cross the 180th meridian or surround a pole."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_GRID = 1e-12
"""Rounding errors of longitudes as a share of the period: 0.04 mm."""


def unwrap(shapes: NDArray[np.object_], period: float) -> NDArray[np.object_]:
    """Make longitudes continuous where they jump at the 180th meridian.

    A polygon around a pole is extended to the pole, over a full period. Sides must be shorter than
    half a period.

    Args:
        shapes: polygons (N,) in longitude and latitude.
        period: 360 degrees, in the units of the shapes.
    """
    bounds = shapely.bounds(shapes)
    result = shapes.copy()
    for index in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > period / 2):
        parts = [_unwrap_polygon(part, period) for part in shapely.get_parts(shapes[index])]
        result[index] = shapely.union_all(parts)
    return result


def cut_at_antimeridian(
    shape: shapely.Geometry, period: float, gap: float = 0.0
) -> shapely.Geometry:
    """Cut a polygon with continuous longitudes into parts between -180 and 180 degrees.

    The parts end `gap` before the cut.
    """
    half = period / 2
    west, south, east, north = shapely.bounds(shape)
    if not (west < -half or east > half):
        return shape
    first, last = int(np.floor((west + half) / period)), int(np.floor((east + half) / period))
    parts = []
    for number in range(first, last + 1):
        shift = number * period
        world = shapely.box(shift - half + gap, south - 1, shift + half - gap, north + 1)
        inside = shapely.get_parts(shapely.intersection(shape, world))
        parts += [
            shift_east(part, -shift)
            for part in inside
            if part.geom_type == "Polygon" and part.area > 0
        ]
    # The ends of a polygon around a pole meet again.
    return shapely.orient_polygons(shapely.union_all(parts))


def shift_east(shapes: Any, distance: float) -> Any:
    """Move a shape or an array of shapes to the east."""
    return shapely.transform(shapes, lambda x, y: (x + distance, y), interleaved=False)


def _unwrap_polygon(polygon: shapely.Polygon, period: float) -> shapely.Geometry:
    shell, *holes = (
        _unwrap_ring(shapely.get_coordinates(ring), period)
        for ring in (polygon.exterior, *polygon.interiors)
    )
    if not holes:
        return shell
    # A hole may start in another period than the shell. Around a pole, copies leave no seam.
    copies = [shift_east(hole, number * period) for hole in holes for number in range(-2, 3)]
    grid = _GRID * period
    return shapely.difference(shell, shapely.union_all(copies, grid_size=grid), grid_size=grid)


def _unwrap_ring(points: Floats, period: float) -> shapely.Geometry:
    """Return the area inside a ring (N, 2), with the pole if it goes around one."""
    steps = np.diff(points[:, 0])
    steps -= np.round(steps / period) * period
    x = points[0, 0] + np.concatenate([[0.0], np.cumsum(steps)])
    ring = np.column_stack([x, points[:, 1]])
    if abs(x[-1] - x[0]) > period / 2:
        pole = np.copysign(period / 4, points[:, 1].mean())
        ring = np.vstack([ring, [(x[-1], pole), (x[0], pole)]])
    polygon = shapely.Polygon(ring)
    if polygon.is_valid:
        return polygon
    return shapely.make_valid(polygon, method="structure", keep_collapsed=False)
