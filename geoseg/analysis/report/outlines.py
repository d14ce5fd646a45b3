"""Outlines of objects for a map in a browser, as few bytes as they take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

STEPS = 8
"""Coordinates are multiples of 1/8 pixel of the overview."""
TOLERANCE = 0.2
"""Pixels of the overview: nobody sees less."""
MAX_BYTES, MAX_OBJECTS = 2_000_000, 15_000
"""Outlines that a report holds, at most; browsers draw so many without a pause."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """Some of N objects with their outlines."""

    chosen: NDArray[np.intp]
    """Indices of the objects, largest first, so that small ones are drawn over them."""
    rings: list[str]
    """JSON of each: polygons, of rings, of x, y and then differences."""


def choose_outlines(shapes: NDArray[np.object_], wanted: Iterable[int]) -> Outlines:
    """Return the outlines of the largest objects that a report has room for.

    Args:
        shapes: (N,) polygons in pixels of the overview.
        wanted: indices of objects that are among them in any case.
    """
    first = np.unique(np.fromiter(wanted, np.intp))
    order = np.argsort(-shapely.area(shapes), kind="stable")
    order = np.concatenate([first, order[~np.isin(order, first)]])[:MAX_OBJECTS]
    kept: dict[int, str] = {}
    size = 0
    for i in order.tolist():
        text = _encoded(shapely.simplify(shapes[i], TOLERANCE))
        size += len(text)
        if size > MAX_BYTES and i not in first:
            break
        kept[i] = text
    chosen = np.array([*kept], np.intp)
    chosen = chosen[np.argsort(-shapely.area(shapes[chosen]), kind="stable")]
    return Outlines(chosen, [kept[i] for i in chosen.tolist()])


def _encoded(shape: shapely.Geometry) -> str:
    polygons = [
        [_differences(ring) for ring in (part.exterior, *part.interiors)]
        for part in shapely.get_parts(shape)
    ]
    return json.dumps(polygons, separators=(",", ":"))


def _differences(ring: shapely.LinearRing) -> list[int]:
    points = np.rint(shapely.get_coordinates(ring)[:-1] * STEPS).astype(np.int64)
    steps: list[int] = np.diff(points, axis=0, prepend=0).ravel().tolist()
    return steps
