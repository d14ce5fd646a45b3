"""Polygons in longitude and latitude across the 180th meridian and around the poles."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_GRID = 1e-12
"""Of a turn: rounding errors of longitudes, 0.04 mm."""


def unrolled(shapes: NDArray[np.object_], turn: float) -> NDArray[np.object_]:
    """Polygons whose longitudes go on across the 180th meridian instead of jumping to the other.

    What surrounds a pole reaches up to it, over a whole turn. Sides are shorter than half a turn.

    Args:
        turn: of longitude, in the units of the shapes: 360 degrees.
    """
    bounds = shapely.bounds(shapes)
    result = shapes.copy()
    for place in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > turn / 2):
        parts = [_unrolled_polygon(part, turn) for part in shapely.get_parts(shapes[place])]
        result[place] = shapely.union_all(parts)
    return result


def cut_at_antimeridian(shape: shapely.Geometry, turn: float, gap: float = 0.0) -> shapely.Geometry:
    """A polygon, of any longitudes, as parts between -180 and 180 degrees.

    Those that are cut end `gap` before.
    """
    half = turn / 2
    west, south, east, north = shapely.bounds(shape)
    if not (west < -half or east > half):
        return shape
    first, last = int(np.floor((west + half) / turn)), int(np.floor((east + half) / turn))
    parts = []
    for number in range(first, last + 1):
        shift = number * turn
        world = shapely.box(shift - half + gap, south - 1, shift + half - gap, north + 1)
        part = shapely.intersection(shape, world)
        parts += [
            shifted(one, -shift)
            for one in shapely.get_parts(part)
            if one.geom_type == "Polygon" and one.area > 0
        ]
    # Around a pole, two parts meet again.
    return shapely.orient_polygons(shapely.union_all(parts))


def shifted(shapes: Any, by: float) -> Any:
    """A shape, or an array of shapes, farther east."""
    return shapely.transform(shapes, lambda x, y: (x + by, y), interleaved=False)


def _unrolled_polygon(polygon: shapely.Polygon, turn: float) -> shapely.Geometry:
    shell, *holes = (
        _unrolled_ring(shapely.get_coordinates(ring), turn)
        for ring in (polygon.exterior, *polygon.interiors)
    )
    if not holes:
        return shell
    # The ring of a hole may begin elsewhere; one around a pole then leaves no seam.
    copies = [shifted(hole, number * turn) for hole in holes for number in range(-2, 3)]
    grid = _GRID * turn
    return shapely.difference(shell, shapely.union_all(copies, grid_size=grid), grid_size=grid)


def _unrolled_ring(points: Floats, turn: float) -> shapely.Geometry:
    """The area within a ring; one around a pole is taken to hold it."""
    steps = np.diff(points[:, 0])
    steps -= np.round(steps / turn) * turn
    x = points[0, 0] + np.concatenate([[0.0], np.cumsum(steps)])
    ring = np.column_stack([x, points[:, 1]])
    if abs(x[-1] - x[0]) > turn / 2:
        pole = np.copysign(turn / 4, points[:, 1].mean())
        ring = np.vstack([ring, [(x[-1], pole), (x[0], pole)]])
    polygon = shapely.Polygon(ring)
    if polygon.is_valid:
        return polygon
    return shapely.make_valid(polygon, method="structure", keep_collapsed=False)
