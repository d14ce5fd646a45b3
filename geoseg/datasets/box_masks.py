"""Masks from boxes: the class where geometry is certain, IGNORE in the rest of the box.

An object touches the sides of its box and lies inside. Which pixels inside belong to it depends
on the class: a tank fills the ellipse, a car its oriented box, a plane only the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.enums import MergeAlg
from rasterio.features import rasterize

from geoseg.classes import IGNORE
from geoseg.datasets.boxes import Box


class Shape(Enum):
    """How an object fills its box."""

    RECTANGLE = "rectangle"
    ELLIPSE = "ellipse"
    HULL = "hull"
    """Pointed at one end, like a ship."""
    MIDDLE = "middle"
    """Only the middle of the box certainly belongs to it, as for a plane."""


SHAPES: dict[str, Shape] = {
    "ship": Shape.HULL,
    "storage_tank": Shape.ELLIPSE,
    "roundabout": Shape.ELLIPSE,
    "ground_track_field": Shape.ELLIPSE,
    "tennis_court": Shape.RECTANGLE,
    "basketball_court": Shape.RECTANGLE,
    "soccer_ball_field": Shape.RECTANGLE,
    "large_vehicle": Shape.RECTANGLE,
    "small_vehicle": Shape.RECTANGLE,
}
"""Shapes by class name; MIDDLE for all others."""

RING = 1.06
"""Enlargement of the undecided zone: boxes drawn by hand miss the rim of the object."""
NEAR = 1.0
"""Neighbors whose rims are closer than twice this, px, are separated by background."""
ELONGATED = 1.7
"""Ratio of sides from which an axis-aligned box holds an object parallel to its longer side."""
SLENDER, PLUMP = 3.0, 2.2
"""The same for hulls, which are longer: nearly parallel, and roughly parallel."""
CORNERS = 32
"""Corners of the polygon that approximates an ellipse."""


def paint_boxes(
    boxes: Sequence[Box],
    ids: Mapping[str, int],
    shape: tuple[int, int],
    shapes: Mapping[str, Shape] = SHAPES,
) -> NDArray[np.uint8]:
    """Return class ids (H,W): 0 outside of all boxes, IGNORE where the class is uncertain.

    Smaller objects cover larger ones. Where the rims of two neighbors of known shape meet is
    background, which separates parked cars.

    Args:
        boxes: in pixels of the mask.
        ids: class id of each box's name.
        shape: rows and columns.
        shapes: how objects fill their boxes, by class name.
    """
    order = sorted(boxes, key=lambda box: -shapely.area(polygon(box.outline)))
    if not order:
        return np.zeros(shape, np.uint8)
    known = [shapes.get(box.name, Shape.MIDDLE) for box in order]
    rims = [rim(box, form) for box, form in zip(order, known, strict=True)]
    mask = rasterize([(each, IGNORE) for each in rims], shape, dtype="uint8")
    apart = [
        each
        for each, box, form in zip(rims, order, known, strict=True)
        if form is not Shape.MIDDLE and not box.ignored
    ]
    if apart:
        grown = shapely.buffer(apart, NEAR, join_style="mitre")
        times = rasterize(
            [(each, 1) for each in grown], shape, merge_alg=MergeAlg.add, dtype="int32"
        )
        mask[times > 1] = 0
    parts = [
        (polygon(box.outline), IGNORE) if box.ignored else (core(box, form), ids[box.name])
        for box, form in zip(order, known, strict=True)
    ]
    inside = [(part, value) for part, value in parts if not shapely.is_empty(part)]
    return rasterize(inside, shape, out=mask) if inside else mask


def rim(box: Box, form: Shape) -> shapely.Geometry:
    """Return the outline of all that may belong to the object."""
    if box.exact:
        return polygon(box.outline)
    if form is Shape.ELLIPSE:
        return ellipse(box.outline, RING + RING - 1)
    return polygon(scaled(box.outline, RING))


def core(box: Box, form: Shape) -> shapely.Geometry:
    """Return the outline of what certainly belongs to the object."""
    if box.exact:
        return polygon(box.outline)
    sides = np.hypot(*(box.outline[[1, 3]] - box.outline[0]).T)
    ratio = sides.max() / max(sides.min(), 1e-6)
    along = box.oriented or ratio >= ELONGATED
    if form is Shape.ELLIPSE:
        return ellipse(box.outline, 0.97)
    if form is Shape.RECTANGLE:
        return polygon(scaled(box.outline, 0.86)) if along else ellipse(box.outline, 0.6)
    if form is Shape.HULL:
        share = 0.85 if box.oriented or ratio >= SLENDER else 0.65 if ratio >= PLUMP else 0.35
        return ellipse(box.outline, share)
    return ellipse(box.outline, 0.3)


def scaled(outline: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Scale an outline about its center."""
    center = outline.mean(axis=0)
    return center + (outline - center) * share


def ellipse(outline: NDArray[np.float64], share: float) -> shapely.Geometry:
    """Return the inscribed ellipse of a box of four corners, scaled by `share`."""
    center = outline.mean(axis=0)
    half_width, half_height = (outline[[1, 3]] - outline[0]) * (share / 2)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)[:, None]
    return polygon(center + np.cos(angles) * half_width + np.sin(angles) * half_height)


def polygon(outline: NDArray[np.float64]) -> shapely.Geometry:
    """Return a valid polygon; self-intersections are repaired."""
    drawn = shapely.polygons(outline)
    return drawn if drawn.is_valid else shapely.buffer(drawn, 0)
