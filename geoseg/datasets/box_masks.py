"""Masks from boxes: the class where geometry is sure of it, undecided in the rest of the box.

A box says that its object touches its sides and lies nowhere outside. What it says of a pixel
inside depends on the object: a tank fills the ellipse, a turned car its rectangle, of a plane
only the middle is sure. The rest is IGNORE, for a teacher or the network itself to decide.
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
    """Only the middle of the box is sure to belong to it, as of a plane."""


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
"""By class name; MIDDLE for all others."""

RING = 1.06
"""Boxes are drawn by hand: a little more than the box is undecided."""
NEAR = 1.0
"""Neighbors whose rims are closer than twice this, px, are kept apart by background."""
ELONGATED = 1.7
"""An upright box whose sides differ by more holds an object along its longer side."""
SLENDER, PLUMP = 3.0, 2.2
"""The same for hulls, which are longer: almost along the side, and roughly along it."""
CORNERS = 32
"""Of the polygon that stands for an ellipse."""


def paint_boxes(
    boxes: Sequence[Box],
    ids: Mapping[str, int],
    shape: tuple[int, int],
    shapes: Mapping[str, Shape] = SHAPES,
) -> NDArray[np.uint8]:
    """(H,W) class ids: 0 outside of all boxes, IGNORE where it cannot be known.

    Smaller objects lie on larger ones. Between two neighbors whose shape is known, where their
    undecided rims meet, is background: parked cars stay apart.

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
    """All that may belong to the object."""
    if box.exact:
        return polygon(box.outline)
    if form is Shape.ELLIPSE:
        return ellipse(box.outline, RING + RING - 1)
    return polygon(scaled(box.outline, RING))


def core(box: Box, form: Shape) -> shapely.Geometry:
    """All that surely belongs to it."""
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
    """The outline, shrunk towards its center."""
    center = outline.mean(axis=0)
    return center + (outline - center) * share


def ellipse(outline: NDArray[np.float64], share: float) -> shapely.Geometry:
    """The one that touches the sides of a box of four corners, shrunk."""
    center = outline.mean(axis=0)
    half_width, half_height = (outline[[1, 3]] - outline[0]) * (share / 2)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)[:, None]
    return polygon(center + np.cos(angles) * half_width + np.sin(angles) * half_height)


def polygon(outline: NDArray[np.float64]) -> shapely.Geometry:
    """A valid polygon; outlines that cross themselves are repaired."""
    drawn = shapely.polygons(outline)
    return drawn if drawn.is_valid else shapely.buffer(drawn, 0)
